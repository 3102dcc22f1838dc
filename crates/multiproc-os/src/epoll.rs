//! Waiting for any of many descriptors, with additions and removals during the wait: epoll(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// A set of descriptors to wait for.
///
/// The kernel keeps a descriptor in the set while *any* duplicate of it is open, in any process. So
/// remove a descriptor from the set before you close it.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

/// How often [`Epoll::wait`] reports a descriptor that is readable or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Often {
    /// Once, the first time that it is ready (`EPOLLONESHOT`).
    Once,
    /// On each call while it is ready (level-triggered).
    Always,
    /// The first time that it is ready, and again when new input has arrived since the last report
    /// (edge-triggered, `EPOLLET`).
    News,
}

impl Epoll {
    /// Creates an empty set, close-on-exec.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn new() -> io::Result<Epoll> {
        Ok(Epoll { fd: crate::fd_passing::above_stdio(epoll::create(epoll::CreateFlags::CLOEXEC)?)? })
    }

    /// Adds `fd`: [`wait`](Epoll::wait) returns `key` when `fd` is readable or closed, also if it
    /// is so already. `often` says whether it is reported again.
    ///
    /// # Errors
    /// `EEXIST` when it is in the set; `ENOSPC` when the user has too many descriptors in such
    /// sets; `EPERM` for a descriptor that can't be waited for, such as a file.
    pub fn add(&self, fd: impl AsFd, key: u64, often: Often) -> io::Result<()> {
        let flags = match often {
            Often::Once => epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
            Often::Always => epoll::EventFlags::IN,
            Often::News => epoll::EventFlags::IN | epoll::EventFlags::ET,
        };
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(key), flags)?)
    }

    /// Adds `fd` for writing: [`wait`](Epoll::wait) returns `key` on each call while `fd` has room
    /// or is closed.
    ///
    /// # Errors
    /// As [`add`](Epoll::add).
    pub fn add_for_room(&self, fd: impl AsFd, key: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(key), epoll::EventFlags::OUT)?)
    }

    /// Removes `fd` from the set.
    ///
    /// # Errors
    /// `ENOENT` when it is not in the set.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.fd, fd)?)
    }

    /// Waits until at least one descriptor is ready, and returns the keys of those that are. A
    /// descriptor that another thread removes at the same moment may still be among them.
    ///
    /// # Errors
    /// None is expected; the wait is restarted after a signal.
    pub fn wait(&self) -> io::Result<Vec<u64>> {
        self.events(None)
    }

    /// Returns the keys of the descriptors that are ready now, without waiting.
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
    pub fn renew(&self) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_triggered() {
        let epoll = Epoll::new().unwrap();
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        let (other, _keeps_it_quiet) = crate::fd_passing::pair().unwrap();
        epoll.add(&other, 1, Often::Once).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| epoll.wait().unwrap());
            epoll.add(&ours, 2, Often::Once).unwrap();
            drop(theirs);
            assert_eq!(waiter.join().unwrap(), [2]);
        });
        assert_eq!(epoll.add(&ours, 3, Often::Once).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        epoll.remove(&ours).unwrap();
        epoll.add(&ours, 4, Often::Once).unwrap();
        assert_eq!(epoll.wait().unwrap(), [4], "what is already readable is reported too");
    }

    #[test]
    fn poll_set_and_clear() {
        let epoll = Epoll::new().unwrap();
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        epoll.add(&ours, 5, Often::Always).unwrap();
        assert_eq!(epoll.ready().unwrap(), []);
        crate::fd_passing::send(&theirs, &[b"x"], &[]).unwrap();
        assert!(crate::poll::wait_for_input(&epoll, None).unwrap());
        assert_eq!((epoll.ready().unwrap(), epoll.ready().unwrap()), (vec![5], vec![5]));
        let number = epoll.as_fd().as_raw_fd();
        epoll.renew().unwrap();
        assert_eq!((epoll.ready().unwrap(), epoll.as_fd().as_raw_fd()), (vec![], number));
        epoll.add(&ours, 6, Often::Always).unwrap();
        assert_eq!(epoll.ready().unwrap(), [6]);
    }
}
