//! Waiting for any of many descriptors, to which others may be added meanwhile: epoll(7).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

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
        };
        Ok(epoll::add(&self.fd, fd, epoll::EventData::new_u64(key), flags)?)
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
        /// As many as are taken at once; the others' turn comes.
        const AT_ONCE: usize = 64;
        let mut events = Vec::with_capacity(AT_ONCE);
        rustix::io::retry_on_intr(|| epoll::wait(&self.fd, spare_capacity(&mut events), None))?;
        Ok(events.iter().map(|event: &epoll::Event| event.data.u64()).collect())
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
}
