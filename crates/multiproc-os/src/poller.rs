//! Waiting for any of many descriptors to become readable, and being woken: epoll(7) and eventfd(2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};

use crate::epoll::{Epoll, Often};

/// The token of the wake-up.
const WAKE: u64 = u64::MAX;

/// Descriptors that one thread waits for, each with a token of the caller's choice.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    wake: OwnedFd,
}

impl Poller {
    /// One that waits for nothing yet but [`wake`](Poller::wake).
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

    /// Waits for `fd` too. It stays in as long as it is open and [`remove`](Poller::remove) has not been called. `u64::MAX` is no token.
    ///
    /// # Errors
    /// `ENOSPC` at the limit of `/proc/sys/fs/epoll/max_user_watches`, `ENOMEM`.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        self.epoll.add(fd, token, Often::Always)
    }

    /// Waits for `fd` no more.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = self.epoll.remove(fd);
    }

    /// Has the thread that waits return, or not wait when it comes to it.
    pub fn wake(&self) {
        // It fails only when it has been woken 2⁶⁴ times.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Waits until something is readable, closed, or it is woken. Gives the tokens of what is; none if it was woken alone.
    ///
    /// # Errors
    /// None is expected; interruptions by signals are not among them.
    pub fn wait(&self) -> io::Result<Vec<u64>> {
        let mut tokens = self.epoll.wait()?;
        if tokens.contains(&WAKE) {
            let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
            tokens.retain(|token| *token != WAKE);
        }
        Ok(tokens)
    }

    /// As [`wait`](Poller::wait), until `deadline`. None is then what there is.
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
    fn what_is_readable_or_closed_is_told_by_its_token() {
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
    fn a_wake_up_counts_even_before_the_wait_and_only_once() {
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
