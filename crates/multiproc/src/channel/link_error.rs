//! What can go wrong before two processes are connected: with whom, and how.

use std::fmt;
use std::io;

use super::address::{Address, Peer};

/// No connection has come about. See [`connect`](crate::connect).
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
    /// Where somebody was expected to listen.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What went wrong.
    pub fn kind(&self) -> &ConnectErrorKind {
        &self.kind
    }

    /// Whether nobody listens there (now): there is no such socket, or it is a dead one.
    pub fn is_absent(&self) -> bool {
        match &self.kind {
            ConnectErrorKind::Io(error) => is_absent(error),
            _ => false,
        }
    }
}

/// Whether this says that no process listens there.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Why no connection has come about.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConnectErrorKind {
    /// The two have different keys.
    #[error("the listener has another key")]
    WrongKey,
    /// The listener has a key, and this side has none.
    #[error("the listener asks for a key, and there is none here")]
    KeyMissing,
    /// This side has a key, and the listener has none: it may be an impostor.
    #[error("the listener has no key")]
    KeyUnknown,
    /// Who is there speaks another version of the protocol, this one.
    #[error("the listener speaks version {0}; this program speaks version {ours}", ours = super::auth::VERSION)]
    OtherVersion(u8),
    /// Who is there is no listener of multiproc.
    #[error("who is there is no listener of multiproc: {0}")]
    OtherProtocol(&'static str),
    /// An abstract name, without a key: the other process belongs to another user than this one and root.
    #[error("the other process belongs to another user, and there is no key")]
    OtherUser,
    /// The listener has let go of this connection before it was made: it is gone, or has found this
    /// side too slow. It may be tried again.
    #[error("the listener has closed the connection before it was made")]
    Closed,
    /// The listener had no room for another client until the time was up: more clients than it can
    /// hear at once, or no descriptors left.
    #[error("the listener has no room for another client at the moment")]
    Crowded,
    /// The time was up: nobody accepts there, or the way is too long.
    #[error("it was not made in time")]
    Timeout,
    /// The system refused: `ENOENT` or `ECONNREFUSED` when nobody listens there, `EACCES` when this process may not connect to it, `EMFILE`.
    /// `InvalidInput` for an empty key.
    #[error(transparent)]
    Io(io::Error),
}

/// A listener can't be made, or nobody be accepted. See [`Listener`](crate::Listener).
pub struct ListenError {
    pub(crate) address: Address,
    pub(crate) kind: ListenErrorKind,
    /// The last one who was not let in.
    pub(crate) last: Option<Refusal>,
}

impl ListenError {
    pub(crate) fn new(address: &Address, kind: ListenErrorKind) -> ListenError {
        ListenError { address: address.clone(), kind, last: None }
    }

    /// Where the listener is, or was to be.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What went wrong.
    pub fn kind(&self) -> &ListenErrorKind {
        &self.kind
    }

    /// Whether it is a matter of time: nobody has connected yet.
    pub fn is_empty(&self) -> bool {
        matches!(self.kind, ListenErrorKind::Empty | ListenErrorKind::Timeout)
    }

    /// Whether somebody else listens there, or something else than a dead socket is there.
    pub fn is_in_use(&self) -> bool {
        matches!(&self.kind, ListenErrorKind::Bind(error) if error.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Why a listener can't be made, or nobody be accepted.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ListenErrorKind {
    /// The system refused to listen there: `EADDRINUSE`, `EACCES`, `ENOENT` when there is no such directory, `EADDRNOTAVAIL` when this machine
    /// has no such address, `EMFILE`. `InvalidInput` for an empty key.
    #[error(transparent)]
    Bind(io::Error),
    /// Nobody has connected yet. Of `try_accept` alone.
    #[error("nobody has connected yet")]
    Empty,
    /// Nobody has connected in time.
    #[error("nobody has connected in time")]
    Timeout,
    /// The system refused to go on: `EMFILE` or `ENFILE` when there are no descriptors left; who has connected stays in line. `ENOMEM`.
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

/// One who has connected to a listener and was not let in. See [`Listener::take_refused`](crate::Listener::take_refused).
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    pub(crate) peer: Peer,
    pub(crate) reason: RefusalReason,
}

impl Refusal {
    /// Who it was, as far as that is known.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Why.
    pub fn reason(&self) -> RefusalReason {
        self.reason
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was not let in: {}", self.peer, self.reason)
    }
}

impl std::error::Error for Refusal {}

/// Why somebody was not let in.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalReason {
    /// It has another key.
    #[error("it has another key")]
    WrongKey,
    /// It has no key.
    #[error("it has no key")]
    NoKey,
    /// It has a key, and the listener has none.
    #[error("it has a key, and there is none here")]
    UnknownKey,
    /// It speaks another version of the protocol, this one.
    #[error("it speaks version {0}; this program speaks version {ours}", ours = super::auth::VERSION)]
    OtherVersion(u8),
    /// It is no client of multiproc.
    #[error("it is no client of multiproc")]
    OtherProtocol,
    /// An abstract name, without a key: it belongs to this user, who is neither this process's nor root.
    #[error("it belongs to user {0}, and there is no key")]
    OtherUser(u32),
    /// It has gone, or died, before the connection was made.
    #[error("it has gone in the middle of it")]
    Gone,
    /// It has not said in time what there is to say.
    #[error("it was silent for too long")]
    Silent,
    /// It had been idle in the middle of it for the longest time, and its place was needed for
    /// others. It has been told to try again.
    #[error("there were too many at once")]
    Crowded,
    /// There were no descriptors left for the connection.
    #[error("there were no descriptors left")]
    NoDescriptors,
}
