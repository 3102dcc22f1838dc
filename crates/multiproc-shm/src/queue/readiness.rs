//! The descriptor for callers that wait for items by means of their own: poll(2), epoll(7), a
//! runtime. See `QUEUE.md`, "The pollable descriptor".

use std::os::fd::BorrowedFd;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};

use crate::lock::spin_lock::{Limit, Stalled, within};
use crate::memory::scratch::Scratch;
use crate::queue::block::QUIET;
use crate::queue::store::Store;
use crate::queue::take::Take;
use crate::wait::notifier::ViaHandle;
use crate::wait::ready_fd::ReadyFd;
use crate::wait::wait_queue::WaitOp;

impl Store {
    /// The descriptor that is readable when there may be something to take, armed by this call.
    pub fn fd_to_poll(&self) -> BorrowedFd<'_> {
        let fd = self.fd_to_sleep_on();
        self.polled.store(true, SeqCst);
        if !self.arm().unwrap_or(false) {
            self.items.show();
        }
        fd
    }

    /// The same descriptor, for a caller that [arms](Store::arm) it itself.
    pub fn fd_to_sleep_on(&self) -> BorrowedFd<'_> {
        let wake_pipe = self.items.fd_to_poll();
        if self.ready_fd.get().is_none()
            && let Ok(ready_fd) = ReadyFd::new(wake_pipe)
        {
            // Another thread may have set it meanwhile.
            self.ready_fd.set(ready_fd);
        }
        // At the limit of open files it is the wake pipe itself.
        self.ready_fd.get().map_or(wake_pipe, ReadyFd::fd)
    }

    /// Makes the pollable descriptor readable when the next item comes, if
    /// [`fd_to_poll`](Store::fd_to_poll) has been called. Returns false if there may be something
    /// to take already.
    ///
    /// # Errors
    /// When that can't be done now, as a process holds the lock for longer than the caller waits.
    #[inline]
    pub fn arm_if_polled(&self) -> Result<bool, Stalled> {
        self.give_back_when_quiet();
        if self.polled.load(Relaxed) { self.arm() } else { Ok(true) }
    }

    /// Arms the wake pipe of the items: the next put makes it readable. Returns false if there may
    /// be something to take already.
    ///
    /// # Errors
    /// When that can't be checked now: there may be something then.
    pub fn arm(&self) -> Result<bool, Stalled> {
        let mut take = Take { store: self, scratch: &mut Scratch::new(), through: ViaHandle::Other };
        let is_empty = !within(Limit::GracePeriod, || take.look(&mut || self.shared.items.0.arm(&self.items)))?;
        Ok(is_empty && self.ready_fd.get().is_none_or(|ready_fd| self.set(ready_fd)))
    }

    /// Updates the workers and the timer that the pollable descriptor watches. Returns false if
    /// there is something to take by now.
    pub(super) fn set(&self, ready_fd: &ReadyFd) -> bool {
        if self.is_joinable() {
            // A worker that comes later notifies the wake pipe.
            let looked = within(Limit::GracePeriod, || self.look_after_workers(true));
            self.with_workers(|workers| ready_fd.watch(workers.iter()));
            if looked.is_err() || self.has_returned() {
                return false;
            }
        }
        self.give_back_when_quiet();
        ready_fd.remind(self.blocks().has_kept_more().then_some(QUIET));
        true
    }
}
