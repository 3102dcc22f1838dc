//! Wake pipes: a pipe through which only wake-up *tokens* go, and which hangs up when no process is
//! left that could change the state that others wait for.
//!
//! Each process that could change that state holds the pipe open for writing. A waiter holds it
//! open for reading only, and polls it: it is readable while it holds a token, which says that the
//! state may have changed; it hangs up when no writer is left, not even a copy of the descriptor in
//! a message under way. The kernel closes the descriptors of a killed process, so there is nothing
//! to register and nothing to clean up. See pipe(7); a descriptor is reopened with another access
//! mode through `/proc/self/fd`.
//!
//! A waiter sees a token only if it polls while the token is in the pipe. A waiter that must not
//! miss a token removed by another, or must not remove one that others have not seen, uses a
//! [`Subscription`] instead.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};

use crate::epoll::{Epoll, Trigger};
use crate::fd_passing::close_on_exec;
use crate::poll::{PollFd, PollFlags, poll_until, wait_hung_up};

/// A descriptor of a wake pipe, for reading and writing or for reading only.
#[derive(Debug)]
pub struct WakePipe {
    fd: OwnedFd,
}

/// Reports each token written from now on, even if others are still in the pipe, and a hang-up.
/// Tokens must not be [removed](WakePipe::clear) from a pipe that has subscriptions; they cost
/// nothing.
///
/// A subscription is an edge-triggered member of an epoll(7) set. The kernel reports it when
/// something was written *and* the pipe is readable, which it always is after the first token.
/// (Linux 5.5 to 5.13 lacked the first half of that for pipes; 5.14 has it again, as do the stable
/// releases of that summer.)
#[derive(Debug)]
pub struct Subscription {
    set: Epoll,
}

impl Subscription {
    const WAKE_PIPE: u64 = 0;
    const OTHER: u64 = 1;

    /// Subscribes to the pipe behind `reader`, which must stay open for as long as the subscription
    /// exists.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `ENOSPC` when the user has too many descriptors in such sets.
    pub fn new(reader: impl AsFd) -> io::Result<Subscription> {
        let set = Epoll::new()?;
        set.add(reader, Subscription::WAKE_PIPE, Trigger::Edge)?;
        let subscription = Subscription { set };
        // Tokens written before don't count.
        subscription.has_new_token()?;
        Ok(subscription)
    }

    /// Whether a token was written since the last call.
    ///
    /// # Errors
    /// None is expected.
    pub fn has_new_token(&self) -> io::Result<bool> {
        Ok(self.set.ready()?.contains(&Subscription::WAKE_PIPE))
    }

    /// Makes the subscription's descriptor readable also while `other` is readable, until `other`
    /// is closed.
    ///
    /// # Errors
    /// `ENOSPC` when the user has too many descriptors in such sets; `EINVAL` when `other` is in
    /// hundreds of them.
    pub fn add(&self, other: impl AsFd) -> io::Result<()> {
        self.set.add(other, Subscription::OTHER, Trigger::Level)
    }
}

/// Readable when a token was written since the last call of
/// [`has_new_token`](Subscription::has_new_token).
impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

/// Which tokens end a wait.
#[derive(Debug, Clone, Copy)]
pub enum Tokens<'a> {
    /// Those in the pipe.
    InPipe,
    /// Those that the [subscription](Subscription) has not reported yet.
    Unreported(&'a Subscription),
    /// None.
    Ignored,
}

/// The reason why [`WakePipe::wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// There is a token: one of the [`Tokens`] that end the wait.
    Token,
    /// Another descriptor is readable or closed.
    Other,
    /// No process has the pipe open for writing.
    HungUp,
    /// The deadline has passed.
    Timeout,
}

impl WakePipe {
    /// Makes a wake pipe, open for reading and writing.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; an error when `/proc` is not mounted.
    pub fn new() -> io::Result<WakePipe> {
        let (reader, _writer) = crate::pipe::pair()?;
        Ok(WakePipe { fd: reopen(&reader, OFlags::RDWR)? })
    }

    /// Wraps a descriptor received from another process.
    ///
    /// # Errors
    /// `InvalidData` when it is not a pipe that is open for reading and writing.
    pub fn from_fd(fd: OwnedFd) -> io::Result<WakePipe> {
        let is_accepted = |mode| mode == OFlags::RDWR;
        WakePipe::received(fd, is_accepted, "not a pipe open for reading and writing").map(|(pipe, _)| pipe)
    }

    /// Wraps a descriptor received from another process, which may be open for reading only; the
    /// second value is true if it is.
    ///
    /// # Errors
    /// `InvalidData` when it is not a pipe that can be read.
    pub fn from_any_fd(fd: OwnedFd) -> io::Result<(WakePipe, bool)> {
        let is_accepted = |mode| mode != OFlags::WRONLY;
        let (pipe, mode) = WakePipe::received(fd, is_accepted, "not a pipe that can be read")?;
        Ok((pipe, mode == OFlags::RDONLY))
    }

    /// Wraps a descriptor if it is that of a pipe, doesn't block, and has an accepted access mode.
    /// Returns the mode too.
    fn received(
        fd: OwnedFd,
        is_accepted: impl FnOnce(OFlags) -> bool,
        otherwise: &'static str,
    ) -> io::Result<(WakePipe, OFlags)> {
        let is_pipe =
            rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == rustix::fs::FileType::Fifo;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        let mode = flags & OFlags::RWMODE;
        if !is_pipe || !flags.contains(OFlags::NONBLOCK) || !is_accepted(mode) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, otherwise));
        }
        // It may have been inherited.
        close_on_exec(fd.as_fd())?;
        Ok((WakePipe { fd }, mode))
    }

    /// Writes a token. Waiters are woken, and keep finding the pipe readable until the token is
    /// [removed](WakePipe::clear); each [`Subscription`] reports it. Calls for the same pipe must
    /// not overlap.
    ///
    /// # Errors
    /// `EBADF` if the pipe is open for reading only.
    pub fn notify(&self) -> io::Result<()> {
        loop {
            return match rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, &[1])) {
                Ok(_) => Ok(()),
                // It is full of tokens that no waiter has removed.
                Err(rustix::io::Errno::AGAIN) => {
                    self.clear();
                    continue;
                }
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Removes all tokens.
    pub fn clear(&self) {
        let mut tokens = [0_u8; 4096];
        while matches!(rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut tokens)), Ok(4096)) {}
    }

    /// Closes the writing side, while the descriptor keeps its number. A call of poll(2) in
    /// progress on the descriptor goes on holding both sides.
    ///
    /// # Errors
    /// `EMFILE`; the pipe is unchanged then.
    pub fn read_only(&mut self) -> io::Result<()> {
        self.change(OFlags::RDONLY)
    }

    /// Opens the writing side again.
    ///
    /// # Errors
    /// `EMFILE`; the pipe is unchanged then.
    pub fn read_write(&mut self) -> io::Result<()> {
        self.change(OFlags::RDWR)
    }

    fn change(&mut self, flags: OFlags) -> io::Result<()> {
        let other = reopen(&self.fd, flags)?;
        Ok(rustix::io::retry_on_intr(|| rustix::io::dup3(&other, &mut self.fd, rustix::io::DupFlags::CLOEXEC))?)
    }

    /// Whether this descriptor is open for reading only.
    ///
    /// # Errors
    /// None is expected.
    pub fn is_read_only(&self) -> io::Result<bool> {
        Ok(rustix::fs::fcntl_getfl(&self.fd)? & OFlags::RWMODE == OFlags::RDONLY)
    }

    /// Opens the pipe for reading only: polling the new descriptor doesn't hold the writing side
    /// open.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        reopen(&self.fd, OFlags::RDONLY)
    }

    /// Opens the pipe for reading and writing, whatever the mode of this descriptor: to be sent to
    /// another process.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn open_read_write(&self) -> io::Result<OwnedFd> {
        reopen(&self.fd, OFlags::RDWR)
    }

    /// Whether no process has the pipe open for writing. `reader` must be a descriptor of it for
    /// reading only. There may be tokens nevertheless.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn is_hung_up(reader: BorrowedFd<'_>) -> io::Result<bool> {
        wait_hung_up(reader, Some(Instant::now()))
    }

    /// Waits for a token, a hang-up, one of `others` to be readable or closed, or `deadline`.
    ///
    /// # Errors
    /// Those of poll(2), except interruptions by signals.
    pub fn wait(&self, others: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<WakeReason> {
        WakePipe::wait_at(self.as_fd(), Tokens::InPipe, others, deadline)
    }

    /// As [`wait`](WakePipe::wait), with a descriptor of the pipe and a choice of tokens.
    ///
    /// # Errors
    /// Those of poll(2), except interruptions by signals.
    pub fn wait_at(
        wake_pipe: BorrowedFd<'_>,
        tokens: Tokens<'_>,
        others: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<WakeReason> {
        // poll(2) always reports a hang-up.
        let (flags, subscription) = match tokens {
            Tokens::InPipe => (PollFlags::IN, None),
            Tokens::Unreported(subscription) => (PollFlags::empty(), Some(subscription)),
            Tokens::Ignored => (PollFlags::empty(), None),
        };
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(2 + others.len());
        polled.push(PollFd::from_borrowed_fd(wake_pipe, flags));
        polled.extend(others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        polled.extend(subscription.map(|subscription| PollFd::new(subscription, PollFlags::IN)));
        loop {
            poll_until(&mut polled, deadline)?;
            let wake_pipe = polled[0].revents();
            let (others, heard) = polled[1..].split_at(others.len());
            return Ok(match () {
                () if others.iter().any(|fd| !fd.revents().is_empty()) => WakeReason::Other,
                () if wake_pipe.contains(PollFlags::IN) => WakeReason::Token,
                () if wake_pipe.contains(PollFlags::HUP) => WakeReason::HungUp,
                () => match subscription {
                    Some(subscription) if !heard[0].revents().is_empty() => match subscription.has_new_token()? {
                        true => WakeReason::Token,
                        // At this moment the notifier has removed tokens from a full pipe to make
                        // room.
                        false => continue,
                    },
                    _ => WakeReason::Timeout,
                },
            });
        }
    }
}

impl AsFd for WakePipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens the pipe behind `fd` again with another access mode.
fn reopen(fd: &OwnedFd, flags: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::io::retry_on_intr(|| rustix::fs::open(path.as_str(), flags, Mode::empty()))?;
    crate::fd_passing::above_stdio(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Option<Instant> {
        Some(Instant::now())
    }

    #[test]
    fn token_stays_until_taken() {
        let wake_pipe = WakePipe::new().unwrap();
        assert_eq!(wake_pipe.wait(&[], now()).unwrap(), WakeReason::Timeout);
        for _ in 0..100_000 {
            wake_pipe.notify().unwrap();
        }
        assert_eq!(wake_pipe.wait(&[], None).unwrap(), WakeReason::Token);
        wake_pipe.clear();
        assert_eq!(wake_pipe.wait(&[], now()).unwrap(), WakeReason::Timeout);
    }

    #[test]
    fn hangup() {
        let mut one = WakePipe::new().unwrap();
        let mut two = WakePipe::from_fd(one.open_read_write().unwrap()).unwrap();
        one.read_only().unwrap();
        assert_eq!(one.wait(&[], now()).unwrap(), WakeReason::Timeout);
        assert!(one.notify().is_err());
        let on_its_way = two.open_read_write().unwrap();
        two.read_only().unwrap();
        assert_eq!(one.wait(&[], now()).unwrap(), WakeReason::Timeout);
        assert!(!WakePipe::is_hung_up(one.as_fd()).unwrap());
        drop(on_its_way);
        assert_eq!(one.wait(&[], None).unwrap(), WakeReason::HungUp);
        assert!(WakePipe::is_hung_up(one.as_fd()).unwrap());
        two.read_write().unwrap();
        assert_eq!(one.wait(&[], now()).unwrap(), WakeReason::Timeout);
        two.notify().unwrap();
        assert_eq!(one.wait(&[], None).unwrap(), WakeReason::Token);
        drop(two);
        one.clear();
        assert_eq!(one.wait(&[], None).unwrap(), WakeReason::HungUp);
    }

    #[test]
    fn each_listener_is_woken() {
        let mut wake_pipe = WakePipe::new().unwrap();
        let reader = wake_pipe.reader().unwrap();
        let first = Subscription::new(&reader).unwrap();
        let at = |subscription, deadline| {
            WakePipe::wait_at(reader.as_fd(), Tokens::Unreported(subscription), &[], deadline).unwrap()
        };
        assert_eq!(at(&first, now()), WakeReason::Timeout);
        wake_pipe.notify().unwrap();
        let second = Subscription::new(&reader).unwrap();
        assert_eq!(
            (at(&second, now()), at(&first, None), at(&first, now())),
            (WakeReason::Timeout, WakeReason::Token, WakeReason::Timeout)
        );
        // Also when the pipe is full.
        for _ in 0..70_000 {
            wake_pipe.notify().unwrap();
            assert!(second.has_new_token().unwrap() && !second.has_new_token().unwrap());
        }
        assert_eq!((at(&first, None), at(&first, now())), (WakeReason::Token, WakeReason::Timeout));
        wake_pipe.read_only().unwrap();
        assert_eq!(at(&first, None), WakeReason::HungUp);
        assert_eq!(at(&first, None), WakeReason::HungUp, "that lasts");
        wake_pipe.read_write().unwrap();
        wake_pipe.notify().unwrap();
        assert_eq!((at(&first, None), at(&first, now())), (WakeReason::Token, WakeReason::Timeout));
    }

    #[test]
    fn other_fd_wakes() {
        let wake_pipe = WakePipe::new().unwrap();
        let (reader, writer) = crate::pipe::pair().unwrap();
        drop(writer);
        assert_eq!(wake_pipe.wait(&[reader.as_fd()], None).unwrap(), WakeReason::Other);
        assert!(WakePipe::from_fd(reader).is_err());
    }
}
