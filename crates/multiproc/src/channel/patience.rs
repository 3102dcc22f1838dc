//! [`Patience`]: how long a call waits: not at all, until a point in time, or for as long as it
//! takes.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use multiproc_os::poll;

use super::error::{RecvErrorKind, SendErrorKind};

/// How long a call waits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    None,
    Until(Instant),
    Endless,
}

impl Patience {
    /// No timeout, or one that the clock can't represent, is endless.
    pub(crate) fn of(timeout: Option<Duration>) -> Patience {
        timeout.and_then(|timeout| Instant::now().checked_add(timeout)).map_or(Patience::Endless, Patience::Until)
    }

    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Patience::None => Some(Instant::now()),
            Patience::Until(deadline) => Some(deadline),
            Patience::Endless => None,
        }
    }

    /// Whether the time is up.
    pub(crate) fn is_over(self) -> bool {
        match self {
            Patience::None => true,
            Patience::Until(deadline) => deadline <= Instant::now(),
            Patience::Endless => false,
        }
    }

    /// Waits until `fd` is readable or closed. Returns false when the time is up, also if it was up
    /// before and `fd` is readable: otherwise the caller, which has just tried in vain, could go on
    /// for ever while other receivers are faster.
    pub(crate) fn wait_for_input(self, fd: impl AsFd) -> io::Result<bool> {
        Ok(!self.is_over() && poll::wait_for_input(fd, self.deadline())?)
    }

    /// Waits until `fd` has room, or is closed. Returns false when the time is up, also if it was
    /// up before and `fd` has room, as [`wait_for_input`](Patience::wait_for_input) does: otherwise
    /// a sender could go on for ever as long as there is always a little room.
    pub(crate) fn wait_for_room(self, fd: impl AsFd) -> io::Result<bool> {
        Ok(!self.is_over() && poll::wait_for_room(fd, self.deadline())?)
    }

    /// The error of a sender when the time is up.
    pub(crate) fn too_late_to_send(self) -> SendErrorKind {
        match self {
            Patience::None => SendErrorKind::Full,
            Patience::Until(_) | Patience::Endless => SendErrorKind::Timeout,
        }
    }

    /// The error of a receiver when the time is up.
    pub(crate) fn too_late_to_receive(self) -> RecvErrorKind {
        match self {
            Patience::None => RecvErrorKind::Empty,
            Patience::Until(_) | Patience::Endless => RecvErrorKind::Timeout,
        }
    }
}
