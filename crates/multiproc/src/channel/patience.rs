//! How long somebody waits: not at all, until a point in time, or for as long as it takes.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use multiproc_os::poll;

use super::error::{RecvErrorKind, SendErrorKind};

/// See above.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    None,
    Until(Instant),
    Endless,
}

impl Patience {
    /// None of it is endless, and so is more than the clock can tell.
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

    /// Waits until `fd` is readable or closed; false if the time is up, before that or already:
    /// the caller has just tried, and the next try may be as vain, again and again, if others are
    /// quicker.
    pub(crate) fn wait_for_input(self, fd: impl AsFd) -> io::Result<bool> {
        Ok(!self.is_over() && poll::wait_for_input(fd, self.deadline())?)
    }

    /// Waits until `fd` has room, or is closed; false if the time is up, as for
    /// [`wait_for_input`](Patience::wait_for_input). Without that, a sender would go on as
    /// long as there is always some room.
    pub(crate) fn wait_for_room(self, fd: impl AsFd) -> io::Result<bool> {
        Ok(!self.is_over() && poll::wait_for_room(fd, self.deadline())?)
    }

    /// What is said when the time is up.
    pub(crate) fn too_late_to_send(self) -> SendErrorKind {
        match self {
            Patience::None => SendErrorKind::Full,
            Patience::Until(_) | Patience::Endless => SendErrorKind::Timeout,
        }
    }

    /// What is said when the time is up.
    pub(crate) fn too_late_to_receive(self) -> RecvErrorKind {
        match self {
            Patience::None => RecvErrorKind::Empty,
            Patience::Until(_) | Patience::Endless => RecvErrorKind::Timeout,
        }
    }
}
