//! The descriptor that code polls which waits for items of a queue by means of its own: poll(2),
//! epoll(7), a runtime. It stays the same as long as the queue is open in the process.
//!
//! It is an epoll set, since a set can be polled and be a member of another set. Its members are
//! the read end of the [wake pipe](crate::wait::notifier), which is readable while there may be an
//! item to take; the pidfds of the processes that take items of a joinable queue, since the items
//! of one that dies can be taken again; and a timer, after which cached block memory is returned to
//! the kernel. A consumer attends to all of these when it has found the queue empty and is about to
//! sleep.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use multiproc_os::epoll::{Epoll, Trigger};
use multiproc_os::identity::Identity;
use multiproc_os::robust::copy_number;
use multiproc_os::timer::Timer;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct ReadyFd {
    set: Epoll,
    members: Mutex<Members>,
    /// The number of the process (an original or a fork copy) that has made the set. In another
    /// process it is still the set of that one, and is left alone.
    copy: u32,
}

#[derive(Debug, Default)]
struct Members {
    workers: HashMap<Identity, OwnedFd>,
    timer: Option<Timer>,
}

impl ReadyFd {
    /// Creates the set, with the read end of a wake pipe in it.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `ENOSPC` when the user has too many in such sets.
    pub(crate) fn new(wake_pipe: BorrowedFd<'_>) -> io::Result<ReadyFd> {
        let set = Epoll::new()?;
        set.add(wake_pipe, 0, Trigger::Level)?;
        Ok(ReadyFd { set, members: Mutex::default(), copy: copy_number() })
    }

    /// The descriptor to poll.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_mine(&self) -> bool {
        self.copy == copy_number()
    }

    /// Makes the descriptor readable when one of these processes ends, and no others. At the limit
    /// of open files, processes that can't be watched are left out.
    pub(crate) fn watch<'a>(&self, workers: impl Iterator<Item = (&'a Identity, &'a OwnedFd)>) {
        if !self.is_mine() {
            return;
        }
        let mut members = self.members();
        let mut before = std::mem::take(&mut members.workers);
        for (worker, pidfd) in workers {
            // The kernel drops a member only when all descriptors of its open file are closed, see
            // epoll(7). So those that are gone are removed below.
            let watched = before.remove(worker).map_or_else(|| self.add(pidfd), Ok);
            if let Ok(pidfd) = watched {
                members.workers.insert(*worker, pidfd);
            }
        }
        for gone in before.into_values() {
            let _ = self.set.remove(&gone);
        }
    }

    fn add(&self, pidfd: &OwnedFd) -> io::Result<OwnedFd> {
        let pidfd = pidfd.try_clone()?;
        self.set.add(&pidfd, 0, Trigger::Level)?;
        Ok(pidfd)
    }

    /// Makes the descriptor readable after this time; with `None`, cancels that.
    pub(crate) fn remind(&self, after: Option<Duration>) {
        if !self.is_mine() {
            return;
        }
        let mut members = self.members();
        if after.is_none() && members.timer.is_none() {
            return;
        }
        if let Some(timer) = members.timer.take() {
            let _ = self.set.remove(&timer);
        }
        // At the limit of open files, the memory is kept for longer.
        members.timer = after.and_then(|after| Timer::after(after).ok());
        if let Some(timer) = &members.timer {
            let _ = self.set.add(timer, 0, Trigger::Level);
        }
    }
}
