//! Errors of connecting and listening: [`ConnectError`], [`ListenError`] and [`Refusal`].

use std::fmt;
use std::io;

use super::address::{Address, Peer};

/// A connection could not be made. See [`connect`](crate::connection::connect).
pub struct ConnectError {
    pub(crate) address: Address,
    pub(crate) kind: ConnectErrorKind,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}: {}", self.address, self.kind)
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.kind)
    }
}

impl ConnectError {
    /// Returns the address of the listener.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the reason.
    pub fn kind(&self) -> &ConnectErrorKind {
        &self.kind
    }

    /// Returns whether no process listens at the address at the moment: there is no such socket, or
    /// its listener is gone.
    pub fn is_absent(&self) -> bool {
        match &self.kind {
            ConnectErrorKind::Io(error) => is_absent(error),
            _ => false,
        }
    }
}

/// Whether the error says that no process listens at the address.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Why a connection could not be made.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// The two sides have different keys.
    #[error("the listener has a different key")]
    WrongKey,
    /// The listener has a key, but this side was given none.
    #[error("the listener requires a key, and none was given")]
    KeyMissing,
    /// This side was given a key, but the listener has none: it may be an impostor.
    #[error("a key was given, but the listener has none")]
    KeyUnknown,
    /// The listener speaks this other version of the protocol.
    #[error("the listener speaks version {0}; this program speaks version {ours}", ours = super::VERSION)]
    OtherVersion(u8),
    /// The peer is not a multiproc listener.
    #[error("the peer is not a multiproc listener: {0}")]
    OtherProtocol(&'static str),
    /// At an abstract name, without a key: the listener's process belongs to another user, other
    /// than root.
    #[error("the listener's process belongs to another user, and no key is used")]
    OtherUser,
    /// The listener closed the connection during the handshake: its process is gone, or found this
    /// side too slow. Connecting may be tried again.
    #[error("the listener has closed the connection during the handshake")]
    Disconnected,
    /// The listener had no room for another client until the timeout expired: it had more clients
    /// in the handshake than it handles at once, or no descriptors left.
    #[error("the listener has too many clients in the handshake; try again later")]
    TooManyClients,
    /// The timeout expired: the listener doesn't accept, or the network is too slow.
    #[error("timed out")]
    Timeout,
    /// The system's error: `ENOENT` or `ECONNREFUSED` when no process listens there, `EACCES` when
    /// this process may not connect to the address, `EMFILE`. `InvalidInput` for an empty key.
    #[error(transparent)]
    Io(io::Error),
}

/// A listener could not be made, or no connection was accepted. See
/// [`Listener`](crate::connection::Listener).
pub struct ListenError {
    pub(crate) address: Address,
    pub(crate) kind: ListenErrorKind,
    /// The last client that was refused.
    pub(crate) last: Option<Refusal>,
}

impl ListenError {
    pub(crate) fn new(address: &Address, kind: ListenErrorKind) -> ListenError {
        ListenError { address: address.clone(), kind, last: None }
    }

    /// Returns the address of the listener, or the one it was meant to have.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the reason.
    pub fn kind(&self) -> &ListenErrorKind {
        &self.kind
    }

    /// Returns whether no client has connected yet: it makes sense to try again.
    pub fn is_empty(&self) -> bool {
        matches!(self.kind, ListenErrorKind::Empty | ListenErrorKind::Timeout)
    }

    /// Returns whether the address is in use: another listener is there, or something else than the
    /// socket of a dead listener.
    pub fn is_in_use(&self) -> bool {
        matches!(&self.kind, ListenErrorKind::Bind(error) if error.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Why a listener could not be made, or no connection was accepted.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ListenErrorKind {
    /// The system refused to listen at the address: `EADDRINUSE`, `EACCES`, `ENOENT` when there is
    /// no such directory, `EADDRNOTAVAIL` when this machine has no such address, `EMFILE`.
    /// `InvalidInput` for an empty key.
    #[error(transparent)]
    Bind(io::Error),
    /// No client has connected yet. Only from `try_accept`.
    #[error("no client has connected yet")]
    Empty,
    /// No client had connected when the timeout expired.
    #[error("timed out waiting for a client")]
    Timeout,
    /// The system's error while accepting: `EMFILE` or `ENFILE` when no descriptors are left, in
    /// which case clients stay in the backlog; `ENOMEM`.
    #[error(transparent)]
    Accept(io::Error),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if matches!(self.kind, ListenErrorKind::Bind(_)) { "listen" } else { "accept a connection" };
        write!(f, "cannot {what} at {}: {}", self.address, self.kind)?;
        match &self.last {
            Some(refusal) => write!(f, " ({refusal})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.kind)
    }
}

/// A client that connected to a listener and was refused. See
/// [`Listener::take_refused`](crate::connection::Listener::take_refused).
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    pub(crate) peer: Peer,
    pub(crate) reason: RefusalReason,
}

impl Refusal {
    /// Returns the process or address of the client, as far as that is known.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Returns the reason.
    pub fn reason(&self) -> RefusalReason {
        self.reason
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was refused: {}", self.peer, self.reason)
    }
}

impl std::error::Error for Refusal {}

/// Why a client was refused.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalReason {
    /// It has a different key.
    #[error("it has a different key")]
    WrongKey,
    /// It has no key.
    #[error("it has no key")]
    NoKey,
    /// It has a key, but the listener has none.
    #[error("it has a key, but this listener has none")]
    UnknownKey,
    /// It speaks this other version of the protocol.
    #[error("it speaks version {0}; this program speaks version {ours}", ours = super::VERSION)]
    OtherVersion(u8),
    /// It is not a multiproc client.
    #[error("it is not a multiproc client")]
    OtherProtocol,
    /// At an abstract name, without a key: it belongs to this user, which is neither that of this
    /// process nor root.
    #[error("it belongs to user {0}, and no key is used")]
    OtherUser(u32),
    /// It closed the connection, or died, during the handshake.
    #[error("it closed the connection during the handshake")]
    Disconnected,
    /// It did not send its part of the handshake in time.
    #[error("it did not complete the handshake in time")]
    Timeout,
    /// It had been idle in the handshake for the longest time, and its slot was needed for other
    /// clients. It may try again.
    #[error("too many clients connected at once")]
    TooManyClients,
    /// No descriptors were left for the connection.
    #[error("the listener's process has no descriptors left (RLIMIT_NOFILE)")]
    NoDescriptors,
}
