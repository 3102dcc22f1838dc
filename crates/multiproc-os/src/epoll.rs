//! A set of descriptors that is kept from one wait to the next, each with a token, and changed by
//! any thread during a wait: epoll(7). A [`Waker`] ends a wait from another thread.
//!
//! For a single wait for a few descriptors, see [`poll`](crate::poll).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

/// A set of descriptors to wait for.
///
/// The kernel keeps a descriptor in the set while *any* duplicate of it is open, in any process. So
/// remove a descriptor from the set before you close it.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

/// When [`Epoll::wait`] reports a descriptor that is readable or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Once, the first time that it is ready (`EPOLLONESHOT`).
    Once,
    /// On each call while it is ready (level-triggered).
    Level,
    /// The first time that it is ready, and again when new input has arrived since the last report
    /// (edge-triggered, `EPOLLET`).
    Edge,
}

impl Epoll {
    /// Creates an empty set, close-on-exec.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn new() -> io::Result<Epoll> {
        Ok(Epoll { fd: crate::fd_passing::above_stdio(epoll::create(epoll::CreateFlags::CLOEXEC)?)? })
    }

    /// Adds `fd`: [`wait`](Epoll::wait) returns `token` when `fd` is readable or closed, also if it
    /// is so already. `trigger` says whether it is reported again.
    ///
    /// # Errors
    /// `EEXIST` when it is in the set; `ENOSPC` when the user has too many descriptors in such sets
    /// (`/proc/sys/fs/epoll/max_user_watches`); `ENOMEM`; `EPERM` for a descriptor that can't be
    /// waited for, such as a file.
    pub fn add(&self, fd: impl AsFd, token: u64, trigger: Trigger) -> io::Result<()> {
        let flags = match trigger {
            Trigger::Once => epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
            Trigger::Level => epoll::EventFlags::IN,
            Trigger::Edge => epoll::EventFlags::IN | epoll::EventFlags::ET,
        };
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(token), flags)?)
    }

    /// Adds `fd` for writing: [`wait`](Epoll::wait) returns `token` on each call while `fd` is
    /// writable or closed.
    ///
    /// # Errors
    /// As [`add`](Epoll::add).
    pub fn add_writable(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(token), epoll::EventFlags::OUT)?)
    }

    /// Removes `fd` from the set.
    ///
    /// # Errors
    /// `ENOENT` when it is not in the set.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.fd, fd)?)
    }

    /// Waits until at least one descriptor is ready, and returns the tokens of those that are. A
    /// descriptor that another thread removes at the same moment may still be among them.
    ///
    /// # Errors
    /// None is expected; the wait is restarted after a signal.
    pub fn wait(&self) -> io::Result<Vec<u64>> {
        self.events(None)
    }

    /// As [`wait`](Epoll::wait), but at most until `deadline`. Returns no tokens then, or if all
    /// descriptors that were ready have been removed meanwhile.
    ///
    /// # Errors
    /// As [`wait`](Epoll::wait), and `Interrupted` in
    /// [`interruptible`](crate::poll::interruptible).
    pub fn wait_until(&self, deadline: Option<Instant>) -> io::Result<Vec<u64>> {
        match crate::poll::wait_readable(self, deadline)? {
            true => self.ready(),
            false => Ok(Vec::new()),
        }
    }

    /// Returns the tokens of the descriptors that are ready now, without waiting.
    ///
    /// # Errors
    /// None is expected.
    pub fn ready(&self) -> io::Result<Vec<u64>> {
        self.events(Some(&Timespec::default()))
    }

    fn events(&self, timeout: Option<&Timespec>) -> io::Result<Vec<u64>> {
        /// The number of events per call. The kernel reports the remaining ones on the next calls.
        const AT_ONCE: usize = 64;
        let mut events = Vec::with_capacity(AT_ONCE);
        rustix::io::retry_on_intr(|| epoll::wait(&self.fd, spare_capacity(&mut events), timeout))?;
        Ok(events.iter().map(|event: &epoll::Event| event.data.u64()).collect())
    }

    /// Replaces the set by an empty one, under the same descriptor number. In a process made by
    /// fork(2), the descriptor refers to the parent's set until this is called.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn reset(&self) -> io::Result<()> {
        let new = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // SAFETY: the number belongs to this object, and refers to an epoll instance before and
        // after.
        crate::cvt(unsafe { libc::dup3(new.as_raw_fd(), self.fd.as_raw_fd(), libc::O_CLOEXEC) })?;
        Ok(())
    }
}

/// Readable when at least one descriptor of the set is ready.
impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Ends a wait for an [`Epoll`] from any thread: an eventfd(2) that is a member of the set.
///
/// Dropping it removes it from the set, so a wake-up that no wait has returned yet is lost: keep it
/// until the waiting thread has seen it.
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
}

impl Waker {
    /// Adds a waker to `epoll`. [`wake`](Waker::wake) makes [`Epoll::wait`] return `token`.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; those of [`Epoll::add`].
    pub fn new(epoll: &Epoll, token: u64) -> io::Result<Waker> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fd = crate::fd_passing::above_stdio(eventfd(0, flags)?)?;
        // Edge-triggered, so nothing has to be read: each write to an eventfd is an event.
        epoll.add(&fd, token, Trigger::Edge)?;
        Ok(Waker { fd })
    }

    /// Makes the current wait return, or the next one if no thread is waiting. Calls before the
    /// wait returns count as one.
    pub fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        if let Err(rustix::io::Errno::AGAIN) = rustix::io::write(&self.fd, &one) {
            // The counter is full, after 2⁶⁴ calls.
            let _ = rustix::io::read(&self.fd, &mut [0_u8; 8]);
            let _ = rustix::io::write(&self.fd, &one);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;

    #[test]
    fn edge_triggered() {
        let epoll = Epoll::new().unwrap();
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        let (other, _keeps_it_quiet) = crate::fd_passing::pair().unwrap();
        epoll.add(&other, 1, Trigger::Once).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| epoll.wait().unwrap());
            epoll.add(&ours, 2, Trigger::Once).unwrap();
            drop(theirs);
            assert_eq!(waiter.join().unwrap(), [2]);
        });
        assert_eq!(epoll.add(&ours, 3, Trigger::Once).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        epoll.remove(&ours).unwrap();
        epoll.add(&ours, 4, Trigger::Once).unwrap();
        assert_eq!(epoll.wait().unwrap(), [4], "what is already readable is reported too");
    }

    #[test]
    fn poll_set_and_clear() {
        let epoll = Epoll::new().unwrap();
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        epoll.add(&ours, 5, Trigger::Level).unwrap();
        assert_eq!(epoll.ready().unwrap(), []);
        crate::fd_passing::send(&theirs, &[b"x"], &[]).unwrap();
        assert!(crate::poll::wait_readable(&epoll, None).unwrap());
        assert_eq!((epoll.ready().unwrap(), epoll.ready().unwrap()), (vec![5], vec![5]));
        let number = epoll.as_fd().as_raw_fd();
        epoll.reset().unwrap();
        assert_eq!((epoll.ready().unwrap(), epoll.as_fd().as_raw_fd()), (vec![], number));
        epoll.add(&ours, 6, Trigger::Level).unwrap();
        assert_eq!(epoll.ready().unwrap(), [6]);
    }

    #[test]
    fn readable_and_closed() {
        let epoll = Epoll::new().unwrap();
        let (quiet, _other) = crate::pipe::pair().unwrap();
        let (full, writer) = crate::pipe::pair().unwrap();
        let (closed, end) = crate::pipe::pair().unwrap();
        epoll.add(&quiet, 1, Trigger::Level).unwrap();
        epoll.add(&full, 2, Trigger::Level).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        assert_eq!(epoll.wait().unwrap(), [2]);
        assert_eq!(epoll.wait_until(Some(Instant::now())).unwrap(), [2]);
        epoll.remove(&full).unwrap();
        epoll.add(&closed, 3, Trigger::Level).unwrap();
        drop(end);
        assert_eq!(epoll.wait().unwrap(), [3]);
    }

    #[test]
    fn wake_before_wait() {
        let epoll = Epoll::new().unwrap();
        let waker = Waker::new(&epoll, u64::MAX).unwrap();
        for _ in 0..2 {
            waker.wake();
            waker.wake();
            assert_eq!(epoll.wait().unwrap(), [u64::MAX]);
            assert_eq!(epoll.wait_until(Some(Instant::now())).unwrap(), [], "the time is up");
        }
        let (reader, writer) = crate::pipe::pair().unwrap();
        epoll.add(&reader, 7, Trigger::Level).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        assert_eq!(epoll.wait().unwrap(), [7]);
    }

    #[test]
    fn wake_during_wait() {
        let epoll = Epoll::new().unwrap();
        let waker = Waker::new(&epoll, 1).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| epoll.wait().unwrap());
            waker.wake();
            assert_eq!(waiter.join().unwrap(), [1]);
        });
        assert_eq!(epoll.ready().unwrap(), [], "it is reported once");
    }

    /// A descriptor that is removed between poll(2) and epoll_wait(2) must not turn the wait into
    /// one without a deadline.
    #[test]
    fn removal_during_wait() {
        const ROUNDS: u32 = 3000;
        let epoll = Epoll::new().unwrap();
        let (reader, writer) = crate::pipe::pair().unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        let round = AtomicU32::new(0);
        let wait_for_round = |number| {
            while round.load(SeqCst) != number {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..ROUNDS {
                    epoll.add(&reader, 1, Trigger::Level).unwrap();
                    round.store(2 * number + 1, SeqCst);
                    // At a different moment of the wait in each round.
                    (0..number % 300 * 20).for_each(|_| std::hint::spin_loop());
                    epoll.remove(&reader).unwrap();
                    wait_for_round(2 * number + 2);
                }
            });
            for number in 0..ROUNDS {
                wait_for_round(2 * number + 1);
                let soon = Instant::now() + Duration::from_micros(100);
                let tokens = epoll.wait_until(Some(soon)).unwrap();
                assert!(tokens.is_empty() || tokens == [1], "{tokens:?}");
                round.store(2 * number + 2, SeqCst);
            }
        });
    }
}
