//! [`SocketDeadline`]: waiting for a socket until a [`Deadline`].

use std::io;
use std::os::fd::AsFd;

use multiproc_os::poll;
use multiproc_shm::wait::deadline::Deadline;

use super::error::{RecvErrorKind, SendErrorKind};

/// Waits for sockets until a deadline, and makes the errors for a deadline that has passed.
pub(crate) trait SocketDeadline {
    /// Waits until `fd` is readable or closed. Returns false when the deadline has passed, also if
    /// it had passed before and `fd` is readable: otherwise the caller, which has just tried in
    /// vain, could go on forever while other receivers are faster.
    fn wait_readable(self, fd: impl AsFd) -> io::Result<bool>;

    /// Waits until `fd` has room, or is closed. Returns false when the deadline has passed, also if
    /// it had passed before and `fd` has room, as
    /// [`wait_readable`](SocketDeadline::wait_readable) does: otherwise a sender could go on for
    /// ever as long as there is always a little room.
    fn wait_writable(self, fd: impl AsFd) -> io::Result<bool>;

    /// The error of a sender when the deadline has passed.
    fn too_late_to_send(self) -> SendErrorKind;

    /// The error of a receiver when the deadline has passed.
    fn too_late_to_receive(self) -> RecvErrorKind;
}

impl SocketDeadline for Deadline {
    fn wait_readable(self, fd: impl AsFd) -> io::Result<bool> {
        Ok(!self.has_passed() && poll::wait_readable(fd, self.instant())?)
    }

    fn wait_writable(self, fd: impl AsFd) -> io::Result<bool> {
        Ok(!self.has_passed() && poll::wait_writable(fd, self.instant())?)
    }

    fn too_late_to_send(self) -> SendErrorKind {
        match self {
            Deadline::Now => SendErrorKind::Full,
            Deadline::At(_) | Deadline::Never => SendErrorKind::Timeout,
        }
    }

    fn too_late_to_receive(self) -> RecvErrorKind {
        match self {
            Deadline::Now => RecvErrorKind::Empty,
            Deadline::At(_) | Deadline::Never => RecvErrorKind::Timeout,
        }
    }
}
