//! Waiting for any of many descriptors, to which others may be added meanwhile: epoll(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// A set of descriptors that somebody waits for.
///
/// The kernel keeps a descriptor in the set while *any* copy of it is open, in whatever process: take it out before it is closed.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

/// How often something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Often {
    /// The first time that it is so.
    Once,
    /// Each time that somebody asks and it is so.
    Always,
    /// The first time that it is so, and whenever something has happened since it was said last and it is so.
    News,
}

impl Epoll {
    /// An empty set, close-on-exec.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn new() -> io::Result<Epoll> {
        Ok(Epoll { fd: crate::fd_passing::above_stdio(epoll::create(epoll::CreateFlags::CLOEXEC)?)? })
    }

    /// Has [`wait`](Epoll::wait) say `key` when `fd` is readable or closed, also if it is so already; once, or whenever it is so.
    ///
    /// # Errors
    /// `EEXIST` when it is in the set; `ENOSPC` when the user has too many in such sets; `EPERM` for what can't be waited for, as a file.
    pub fn add(&self, fd: impl AsFd, key: u64, often: Often) -> io::Result<()> {
        let flags = match often {
            Often::Once => epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
            Often::Always => epoll::EventFlags::IN,
            Often::News => epoll::EventFlags::IN | epoll::EventFlags::ET,
        };
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(key), flags)?)
    }

    /// As [`add`](Epoll::add), of what has room or is closed, whenever it is so.
    ///
    /// # Errors
    /// As [`add`](Epoll::add).
    pub fn add_for_room(&self, fd: impl AsFd, key: u64) -> io::Result<()> {
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(key), epoll::EventFlags::OUT)?)
    }

    /// Takes `fd` out of the set.
    ///
    /// # Errors
    /// `ENOENT` when it is not in it.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.fd, fd)?)
    }

    /// Waits until there is something to say, and gives the keys. What another thread has taken out at this moment may still be among them.
    ///
    /// # Errors
    /// None is expected; interruptions by signals are none.
    pub fn wait(&self) -> io::Result<Vec<u64>> {
        self.events(None)
    }

    /// As [`wait`](Epoll::wait), of what there is to say now.
    ///
    /// # Errors
    /// None is expected.
    pub fn ready(&self) -> io::Result<Vec<u64>> {
        self.events(Some(&Timespec::default()))
    }

    fn events(&self, timeout: Option<&Timespec>) -> io::Result<Vec<u64>> {
        /// As many as are taken at once; the others' turn comes.
        const AT_ONCE: usize = 64;
        let mut events = Vec::with_capacity(AT_ONCE);
        rustix::io::retry_on_intr(|| epoll::wait(&self.fd, spare_capacity(&mut events), timeout))?;
        Ok(events.iter().map(|event: &epoll::Event| event.data.u64()).collect())
    }

    /// Has the descriptor be an empty set, of the same number. In a copy of a process it is the original's set, until somebody does this.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn renew(&self) -> io::Result<()> {
        let new = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // SAFETY: the number is this object's own, and leads to a set before and after.
        crate::cvt(unsafe { libc::dup3(new.as_raw_fd(), self.fd.as_raw_fd(), libc::O_CLOEXEC) })?;
        Ok(())
    }
}

/// Readable when there is something to say.
impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn said_once() {
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
        assert_eq!(epoll.wait().unwrap(), [4], "what is readable already is said too");
    }

    #[test]
    fn a_set_is_polled_as_its_members_are_and_can_begin_anew() {
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
