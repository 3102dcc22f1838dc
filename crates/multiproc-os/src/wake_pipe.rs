//! Where those wait who need somebody else to do something: a pipe through which nothing goes but tokens, and whose other side the kernel counts.
//!
//! Each process that could do it holds the pipe open for writing. Who waits holds it open for reading only, and polls it: readable is a token, which says that something
//! may have happened; a hang-up says that nobody is left who could do it, not even a copy of the descriptor on its way in a message. The kernel closes what a killed process
//! had open. So there is nothing to register, and nothing to clean up. pipe(7), and `/proc/self/fd` to open the same pipe another way.

//!
//! A token is seen by those who get to look while it is there. Who must not miss one that somebody else takes away first, or who can't have it taken away because others have not seen it,
//! [hears](Subscription) it instead.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};

use crate::epoll::{Epoll, Often};

/// A descriptor of such a pipe, for reading and writing or for reading only.
#[derive(Debug)]
pub struct WakePipe {
    fd: OwnedFd,
}

/// Hears what happens at a door from now on: each token, also if it is not the only one that is there, and a hang-up. Nobody may [take tokens away](WakePipe::clear) at a door where somebody
/// listens; they cost nothing.
///
/// It is an edge-triggered member of an epoll(7) set. The kernel then says something when there is news *and* something to be read, which there always is after the first token. (Linux 5.5
/// to 5.13 lacked the first half of that for pipes; 5.14 has it again, and stable releases of that summer do.)
#[derive(Debug)]
pub struct Subscription {
    set: Epoll,
}

impl Subscription {
    const DOOR: u64 = 0;
    const OTHER: u64 = 1;

    /// At the door of which `reader` is a descriptor that is open as long as this is.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `ENOSPC` when the user has too many in such sets.
    pub fn new(reader: impl AsFd) -> io::Result<Subscription> {
        let set = Epoll::new()?;
        set.add(reader, Subscription::DOOR, Often::News)?;
        let subscription = Subscription { set };
        // What was there before is no news.
        subscription.heard()?;
        Ok(subscription)
    }

    /// Whether something has happened since the last call.
    ///
    /// # Errors
    /// None is expected.
    pub fn heard(&self) -> io::Result<bool> {
        Ok(self.set.ready()?.contains(&Subscription::DOOR))
    }

    /// Has its descriptor be readable also as long as `other` is, until that is closed.
    ///
    /// # Errors
    /// `ENOSPC` when the user has too many in such sets; `EINVAL` when `other` is in hundreds of
    /// them.
    pub fn add(&self, other: impl AsFd) -> io::Result<()> {
        self.set.add(other, Subscription::OTHER, Often::Always)
    }
}

/// Readable when something has happened since it was [asked](Subscription::heard) last.
impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

/// Which tokens end a wait.
#[derive(Debug, Clone, Copy)]
pub enum Tokens<'a> {
    /// Those that are there.
    Seen,
    /// What has come and was not [heard](Subscription::heard) yet.
    Heard(&'a Subscription),
    /// None.
    Ignored,
}

/// What ended [`WakePipe::wait`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// There is a token.
    Token,
    /// One of the other descriptors is readable, or closed.
    Other,
    /// Nobody has the door open for writing.
    HungUp,
    /// The deadline has passed.
    Late,
}

impl WakePipe {
    /// A new door, open both ways.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; when `/proc` is not mounted.
    pub fn new() -> io::Result<WakePipe> {
        let (reader, _writer) = crate::pipe::pair()?;
        Ok(WakePipe { fd: reopen(&reader, OFlags::RDWR)? })
    }

    /// One that has come from another process.
    ///
    /// # Errors
    /// `InvalidData` when it is no pipe that can be written to and read.
    pub fn from_fd(fd: OwnedFd) -> io::Result<WakePipe> {
        let is_pipe =
            rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == rustix::fs::FileType::Fifo;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        match is_pipe && flags.contains(OFlags::RDWR | OFlags::NONBLOCK) {
            true => Ok(WakePipe { fd }),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no pipe that is open both ways")),
        }
    }

    /// One that has come from another process, which may be open for reading only; says whether it
    /// is.
    ///
    /// # Errors
    /// `InvalidData` when it is no pipe that can be read.
    pub fn from_any_fd(fd: OwnedFd) -> io::Result<(WakePipe, bool)> {
        let is_pipe =
            rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) == rustix::fs::FileType::Fifo;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        let mode = flags & OFlags::RWMODE;
        match is_pipe && flags.contains(OFlags::NONBLOCK) && mode != OFlags::WRONLY {
            true => Ok((WakePipe { fd }, mode == OFlags::RDONLY)),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "it is no pipe that can be read")),
        }
    }

    /// Puts a token in. Who waits is woken, and goes on being so until it is [taken away](WakePipe::clear); who [listens](Subscription) hears it. Not to be called by two at a time.
    ///
    /// # Errors
    /// `EBADF` if it is open for reading only.
    pub fn notify(&self) -> io::Result<()> {
        loop {
            return match rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, &[1])) {
                Ok(_) => Ok(()),
                // It is full of those that nobody has taken away.
                Err(rustix::io::Errno::AGAIN) => {
                    self.clear();
                    continue;
                }
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Takes all tokens away.
    pub fn clear(&self) {
        let mut tokens = [0_u8; 4096];
        while matches!(rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut tokens)), Ok(4096)) {}
    }

    /// Lets go of the writing side, while the number of the descriptor stays. What waits at it at this moment goes on holding both sides.
    ///
    /// # Errors
    /// `EMFILE`; it is as it was then.
    pub fn read_only(&mut self) -> io::Result<()> {
        self.change(OFlags::RDONLY)
    }

    /// Takes the writing side again.
    ///
    /// # Errors
    /// `EMFILE`; it is as it was then.
    pub fn read_write(&mut self) -> io::Result<()> {
        self.change(OFlags::RDWR)
    }

    fn change(&mut self, flags: OFlags) -> io::Result<()> {
        let other = reopen(&self.fd, flags)?;
        Ok(rustix::io::retry_on_intr(|| rustix::io::dup3(&other, &mut self.fd, rustix::io::DupFlags::CLOEXEC))?)
    }

    /// The same door, open for reading only: what is polled there holds nothing of the other side.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        reopen(&self.fd, OFlags::RDONLY)
    }

    /// The same door, open both ways whatever this one is: to be sent to another process.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn open_both_ways(&self) -> io::Result<OwnedFd> {
        reopen(&self.fd, OFlags::RDWR)
    }

    /// Whether nobody has the door open for writing, of which `reader` is a descriptor for reading only. There may be tokens nevertheless.
    ///
    /// # Errors
    /// As poll(2).
    pub fn is_hung_up(reader: BorrowedFd<'_>) -> io::Result<bool> {
        crate::poll::wait_for_hangup(reader, Some(Instant::now()))
    }

    /// Waits for a token, for the door to be hung up, for one of `others` to be readable or closed, or for the deadline.
    ///
    /// # Errors
    /// As poll(2); interruptions by signals are not among them.
    pub fn wait(&self, others: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<WakeReason> {
        WakePipe::wait_at(self.as_fd(), Tokens::Seen, others, deadline)
    }

    /// As [`wait`](WakePipe::wait), by a door's descriptor.
    ///
    /// # Errors
    /// As poll(2); interruptions by signals are not among them.
    pub fn wait_at(
        wake_pipe: BorrowedFd<'_>,
        tokens: Tokens<'_>,
        others: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<WakeReason> {
        // A hang-up is always told.
        let (flags, subscription) = match tokens {
            Tokens::Seen => (PollFlags::IN, None),
            Tokens::Heard(subscription) => (PollFlags::empty(), Some(subscription)),
            Tokens::Ignored => (PollFlags::empty(), None),
        };
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(2 + others.len());
        polled.push(PollFd::from_borrowed_fd(wake_pipe, flags));
        polled.extend(others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        polled.extend(subscription.map(|subscription| PollFd::new(subscription, PollFlags::IN)));
        loop {
            crate::poll::poll_until(&mut polled, deadline)?;
            let wake_pipe = polled[0].revents();
            let (others, heard) = polled[1..].split_at(others.len());
            return Ok(match () {
                () if others.iter().any(|fd| !fd.revents().is_empty()) => WakeReason::Other,
                () if wake_pipe.contains(PollFlags::IN) => WakeReason::Token,
                () if wake_pipe.contains(PollFlags::HUP) => WakeReason::HungUp,
                () => match subscription {
                    Some(subscription) if !heard[0].revents().is_empty() => match subscription.heard()? {
                        true => WakeReason::Token,
                        // Somebody has made room for more tokens at this moment.
                        false => continue,
                    },
                    _ => WakeReason::Late,
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

/// Opens the pipe behind `fd` another way.
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
    fn a_token_stays_until_it_is_taken_away() {
        let wake_pipe = WakePipe::new().unwrap();
        assert_eq!(wake_pipe.wait(&[], now()).unwrap(), WakeReason::Late);
        for _ in 0..100_000 {
            wake_pipe.notify().unwrap();
        }
        assert_eq!(wake_pipe.wait(&[], None).unwrap(), WakeReason::Token);
        wake_pipe.clear();
        assert_eq!(wake_pipe.wait(&[], now()).unwrap(), WakeReason::Late);
    }

    #[test]
    fn it_is_hung_up_when_nobody_holds_the_other_side() {
        let mut one = WakePipe::new().unwrap();
        let mut two = WakePipe::from_fd(one.open_both_ways().unwrap()).unwrap();
        one.read_only().unwrap();
        assert_eq!(one.wait(&[], now()).unwrap(), WakeReason::Late);
        assert!(one.notify().is_err());
        let on_its_way = two.open_both_ways().unwrap();
        two.read_only().unwrap();
        assert_eq!(one.wait(&[], now()).unwrap(), WakeReason::Late);
        assert!(!WakePipe::is_hung_up(one.as_fd()).unwrap());
        drop(on_its_way);
        assert_eq!(one.wait(&[], None).unwrap(), WakeReason::HungUp);
        assert!(WakePipe::is_hung_up(one.as_fd()).unwrap());
        two.read_write().unwrap();
        assert_eq!(one.wait(&[], now()).unwrap(), WakeReason::Late);
        two.notify().unwrap();
        assert_eq!(one.wait(&[], None).unwrap(), WakeReason::Token);
        drop(two);
        one.clear();
        assert_eq!(one.wait(&[], None).unwrap(), WakeReason::HungUp);
    }

    #[test]
    fn each_who_listens_hears_each_token() {
        let mut wake_pipe = WakePipe::new().unwrap();
        let reader = wake_pipe.reader().unwrap();
        let first = Subscription::new(&reader).unwrap();
        let at = |subscription, deadline| {
            WakePipe::wait_at(reader.as_fd(), Tokens::Heard(subscription), &[], deadline).unwrap()
        };
        assert_eq!(at(&first, now()), WakeReason::Late);
        wake_pipe.notify().unwrap();
        let second = Subscription::new(&reader).unwrap();
        assert_eq!(
            (at(&second, now()), at(&first, None), at(&first, now())),
            (WakeReason::Late, WakeReason::Token, WakeReason::Late)
        );
        // Also when the pipe is full.
        for _ in 0..70_000 {
            wake_pipe.notify().unwrap();
            assert!(second.heard().unwrap() && !second.heard().unwrap());
        }
        assert_eq!((at(&first, None), at(&first, now())), (WakeReason::Token, WakeReason::Late));
        wake_pipe.read_only().unwrap();
        assert_eq!(at(&first, None), WakeReason::HungUp);
        assert_eq!(at(&first, None), WakeReason::HungUp, "that lasts");
        wake_pipe.read_write().unwrap();
        wake_pipe.notify().unwrap();
        assert_eq!((at(&first, None), at(&first, now())), (WakeReason::Token, WakeReason::Late));
    }

    #[test]
    fn another_descriptor_wakes_too() {
        let wake_pipe = WakePipe::new().unwrap();
        let (reader, writer) = crate::pipe::pair().unwrap();
        drop(writer);
        assert_eq!(wake_pipe.wait(&[reader.as_fd()], None).unwrap(), WakeReason::Other);
        assert!(WakePipe::from_fd(reader).is_err());
    }
}
