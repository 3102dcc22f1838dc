//! A poller for many descriptors that other threads can wake: epoll(7) and eventfd(2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};

use crate::epoll::{Epoll, Often};

/// The token of the descriptor behind [`Poller::wake`].
const WAKE: u64 = u64::MAX;

/// A set of descriptors that one thread waits for, each with a token that the caller chooses.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    wake: OwnedFd,
}

impl Poller {
    /// Makes a poller that waits only for [`wake`](Poller::wake) so far.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> io::Result<Poller> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = crate::fd_passing::above_stdio(eventfd(0, flags)?)?;
        let poller = Poller { epoll: Epoll::new()?, wake };
        poller.add(&poller.wake, WAKE)?;
        Ok(poller)
    }

    /// Adds `fd` to the set, where it stays while it is open, until [`remove`](Poller::remove).
    /// `token` must not be `u64::MAX`.
    ///
    /// # Errors
    /// `ENOSPC` at the limit of `/proc/sys/fs/epoll/max_user_watches`, `ENOMEM`.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        self.epoll.add(fd, token, Often::Always)
    }

    /// Removes `fd` from the set.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = self.epoll.remove(fd);
    }

    /// Makes the current wait return, or the next one if no thread is waiting.
    pub fn wake(&self) {
        // The write fails only after 2⁶⁴ pending wake-ups.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Waits until a descriptor is readable or closed, or [`wake`](Poller::wake) is called. Returns
    /// the tokens of the ready descriptors; none if only `wake` was called.
    ///
    /// # Errors
    /// None is expected; interruptions by signals are not reported.
    pub fn wait(&self) -> io::Result<Vec<u64>> {
        let mut tokens = self.epoll.wait()?;
        if tokens.contains(&WAKE) {
            let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
            tokens.retain(|token| *token != WAKE);
        }
        Ok(tokens)
    }

    /// As [`wait`](Poller::wait), but at most until `deadline`; returns no tokens then.
    ///
    /// # Errors
    /// As [`wait`](Poller::wait).
    pub fn wait_until(&self, deadline: Option<Instant>) -> io::Result<Vec<u64>> {
        match crate::poll::wait_for_input(&self.epoll, deadline)? {
            true => self.wait(),
            false => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_and_closed() {
        let poller = Poller::new().unwrap();
        let (quiet, _other) = crate::pipe::pair().unwrap();
        let (full, writer) = crate::pipe::pair().unwrap();
        let (closed, end) = crate::pipe::pair().unwrap();
        poller.add(&quiet, 1).unwrap();
        poller.add(&full, 2).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        assert_eq!(poller.wait().unwrap(), [2]);
        assert_eq!(poller.wait_until(Some(Instant::now())).unwrap(), [2]);
        poller.remove(&full);
        poller.add(&closed, 3).unwrap();
        drop(end);
        assert_eq!(poller.wait().unwrap(), [3]);
    }

    #[test]
    fn wake_before_wait() {
        let poller = Poller::new().unwrap();
        poller.wake();
        poller.wake();
        assert_eq!(poller.wait().unwrap(), []);
        assert_eq!(poller.wait_until(Some(Instant::now())).unwrap(), [], "the time is up");
        let (reader, writer) = crate::pipe::pair().unwrap();
        poller.add(&reader, 7).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        assert_eq!(poller.wait().unwrap(), [7]);
    }
}
