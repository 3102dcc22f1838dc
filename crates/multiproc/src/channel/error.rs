//! What can go wrong when something is sent or received: with whom, and how.

use std::error::Error;
use std::fmt;
use std::io;

use super::address::Peer;
use crate::transfer::codec::CodecError;
use crate::units::Size;

/// A message that has not been sent. The value is still here: [`into_inner`](SendError::into_inner).
pub struct SendError<T> {
    pub(crate) value: T,
    pub(crate) kind: SendErrorKind,
    pub(crate) peer: Peer,
}

/// Why a message has not been sent.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// Nobody has the other end any more.
    #[error("the other end is closed")]
    Disconnected,
    /// There is no room now: the other end must receive something first; or too many descriptors of the user's are on their way, in whatever pipe
    /// (see [`Sender::send`](crate::Sender::send)). Of `try_send` alone.
    #[error("there is no room for it now")]
    Full,
    /// There was no room in time.
    #[error("there was no room for it in time")]
    Timeout,
    /// Over TCP only: time was up when a part of the message had gone. The rest of it goes ahead of whatever is sent next, so this message
    /// arrives then: don't send it again.
    #[error("the time was up when a part of it had gone; the rest goes with the next message")]
    Unfinished,
    /// The value can't be sent at all: its `Serialize` says no, or it could not be read at the other end, or it has a handle in it and goes
    /// over TCP.
    #[error(transparent)]
    Unsendable(CodecError),
    /// The system refused: `EMFILE` when there is no descriptor for a large message or a handle, `ENOSPC` or `ENOMEM` when there is no memory;
    /// `ResourceBusy` when another process uses this end of a TCP connection.
    #[error(transparent)]
    Io(io::Error),
}

impl<T> SendError<T> {
    /// What went wrong.
    pub fn kind(&self) -> &SendErrorKind {
        &self.kind
    }

    /// The value that was to be sent.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// The value and the reason.
    pub fn into_parts(self) -> (T, SendErrorKind) {
        (self.value, self.kind)
    }

    pub(crate) fn without_value(self) -> SendError<()> {
        SendError { value: (), kind: self.kind, peer: self.peer }
    }

    /// Whether nobody has the other end any more.
    pub fn is_disconnected(&self) -> bool {
        matches!(self.kind, SendErrorKind::Disconnected)
    }

    /// Whether it is a matter of time: there was no room, and nothing has gone.
    pub fn is_full(&self) -> bool {
        matches!(self.kind, SendErrorKind::Full | SendErrorKind::Timeout)
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot send a message to {}: {}", self.peer, self.kind)
    }
}

impl<T> Error for SendError<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.kind.source()
    }
}

/// There is no message, or none that can be read.
pub struct RecvError {
    pub(crate) kind: RecvErrorKind,
    pub(crate) peer: Peer,
    pub(crate) undecodable: Option<Box<CodecError>>,
}

/// Why there is no message.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum RecvErrorKind {
    /// The end: all that was sent has been received, and nobody has the other end any more.
    #[error("the other end is closed")]
    Disconnected,
    /// There is no message now. Of `try_recv` alone.
    #[error("there is no message yet")]
    Empty,
    /// There was no message in time.
    #[error("there was no message in time")]
    Timeout,
    /// What has come is no value of this type, or no message at all. It is gone, and the next one can be received. (Over TCP, what is no
    /// message at all ends the connection: nobody knows where the next one begins.)
    #[error("{0}")]
    Garbage(String),
    /// A message is longer than this end takes. It is gone, and the next one can be received.
    #[error("a message of {} is longer than the limit of {}", Size(*len), Size(*limit))]
    TooLong {
        /// How long it was, in bytes.
        len: u64,
        /// How long it may be.
        limit: u64,
    },
    /// A message with handles was lost: there are more of them than this process may have open files at all (`RLIMIT_NOFILE`), so waiting
    /// would be in vain; or it has come to that limit at the moment when another took the message that there would have been room for. The
    /// next one can be received.
    #[error(
        "a message was lost: there was no room for the handles in it within this process's limit of open files (RLIMIT_NOFILE)"
    )]
    Lost,
    /// The system refused: `EMFILE` when there is no room for the handles in a message until others are closed; it stays where it is; `ENOMEM`; `ResourceBusy` when
    /// another process uses this end of a TCP connection.
    #[error(transparent)]
    Io(io::Error),
}

impl RecvError {
    /// What went wrong.
    pub fn kind(&self) -> &RecvErrorKind {
        &self.kind
    }

    /// The value that has come and could not be read: [`CodecError::decode_as`] reads it as another
    /// type.
    pub fn undecodable(&self) -> Option<&CodecError> {
        self.undecodable.as_deref()
    }

    /// Whether this is the end: nobody has the other end any more.
    pub fn is_disconnected(&self) -> bool {
        matches!(self.kind, RecvErrorKind::Disconnected)
    }

    /// Whether it is a matter of time: there is no message yet.
    pub fn is_empty(&self) -> bool {
        matches!(self.kind, RecvErrorKind::Empty | RecvErrorKind::Timeout)
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot receive a message from {}: {}", self.peer, self.kind)
    }
}

impl Error for RecvError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.kind.source()
    }
}
