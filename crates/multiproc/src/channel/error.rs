//! Errors of sending and receiving messages: [`SendError`] and [`RecvError`]. They name the peer
//! and the reason.

use std::error::Error;
use std::fmt;
use std::io;

use multiproc_shm::units::Size;

use super::address::Peer;
use crate::transfer::codec::CodecError;

/// A message was not sent. The error holds the value: [`into_inner`](SendError::into_inner).
pub struct SendError<T> {
    pub(crate) value: T,
    pub(crate) kind: SendErrorKind,
    pub(crate) peer: Peer,
}

/// Why a message was not sent.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// No process has the other end any more.
    #[error("the other end is closed")]
    Disconnected,
    /// There is no room now: the other end must receive a message first, or too many of the user's
    /// descriptors are in flight, in any pipes (see
    /// [`Sender::send`](crate::connection::Sender::send)). Only from the `try_send` methods.
    #[error("no room for the message now")]
    Full,
    /// There was still no room when the timeout expired.
    #[error("timed out waiting for room for the message")]
    Timeout,
    /// Over TCP only: the timeout expired when a part of the message had been sent. The rest is
    /// sent before the next message, so this message will arrive then: don't send it again.
    #[error("timed out after a part of the message was sent; the rest is sent before the next message")]
    Unfinished,
    /// The value can't be sent at all: its `Serialize` returns an error, the other end could not
    /// decode it, or it contains a handle and the connection goes over TCP.
    #[error(transparent)]
    Encode(CodecError),
    /// The system's error: `EMFILE` when there is no descriptor for a large message or a handle,
    /// `ENOSPC` or `ENOMEM` when there is no memory; `ResourceBusy` when another process uses this
    /// end of a TCP connection.
    #[error(transparent)]
    Io(io::Error),
}

impl<T> SendError<T> {
    /// Returns the reason.
    pub fn kind(&self) -> &SendErrorKind {
        &self.kind
    }

    /// Returns the value that was not sent.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// Returns the value and the reason.
    pub fn into_parts(self) -> (T, SendErrorKind) {
        (self.value, self.kind)
    }

    pub(crate) fn without_value(self) -> SendError<()> {
        SendError { value: (), kind: self.kind, peer: self.peer }
    }

    /// Returns whether no process has the other end any more.
    pub fn is_disconnected(&self) -> bool {
        matches!(self.kind, SendErrorKind::Disconnected)
    }

    /// Returns whether there was no room, and nothing has been sent: it makes sense to try again.
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

/// No message was received, or none that can be read.
pub struct RecvError {
    pub(crate) kind: RecvErrorKind,
    pub(crate) peer: Peer,
}

/// Why no message was received.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum RecvErrorKind {
    /// The end of the stream: all messages that were sent have been received, and no process has
    /// the other end any more.
    #[error("the other end is closed")]
    Disconnected,
    /// There is no message now. Only from the `try_recv` methods.
    #[error("there is no message yet")]
    Empty,
    /// There was still no message when the timeout expired.
    #[error("timed out waiting for a message")]
    Timeout,
    /// What was received is not a value of this type. The next message can be received.
    #[error(transparent)]
    Decode(Box<CodecError>),
    /// What was received is not a message. It is discarded, and the next message can be received;
    /// over TCP, it ends the connection, because the start of the next message is unknown.
    #[error("{0}")]
    Corrupt(String),
    /// The message is longer than this end accepts. It is discarded, and the next message can be
    /// received.
    #[error("a message of {} is longer than the limit of {}", Size(*len), Size(*limit))]
    TooLong {
        /// The message's length in bytes.
        len: u64,
        /// The greatest length this end accepts, in bytes.
        limit: u64,
    },
    /// A message with handles was lost. Either it contained more handles than this process may have
    /// open files at all (`RLIMIT_NOFILE`), so that waiting would not help; or the process reached
    /// that limit while another receiver took the message that there would have been room for. The
    /// next message can be received.
    #[error(
        "a message was lost: this process had no descriptors left for the handles in it. Raise its limit of open files (RLIMIT_NOFILE)"
    )]
    Lost,
    /// The system's error: `EMFILE` when this process must close files first, to make room for the
    /// handles in the message, which stays where it is; `ENOMEM`; `ResourceBusy` when another
    /// process uses this end of a TCP connection.
    #[error(transparent)]
    Io(io::Error),
}

impl RecvError {
    /// Returns the reason.
    pub fn kind(&self) -> &RecvErrorKind {
        &self.kind
    }

    /// Returns the received value that could not be decoded: [`CodecError::decode_as`] reads it as
    /// another type.
    pub fn undecodable(&self) -> Option<&CodecError> {
        match &self.kind {
            RecvErrorKind::Decode(error) => Some(error),
            _ => None,
        }
    }

    /// Returns whether this is the end of the stream: no process has the other end any more.
    pub fn is_disconnected(&self) -> bool {
        matches!(self.kind, RecvErrorKind::Disconnected)
    }

    /// Returns whether there was no message yet: it makes sense to try again.
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
