//! The ends of pipes and connections: [`Sender`], [`Receiver`], and [`Connection`], which is one of
//! each.
//!
//! They are typed layers over a transport: sockets of one machine ([`local`]) or TCP ([`stream`]).
//! An end can be sent inside a message; like a [`Handle`](crate::Handle), its socket then travels
//! as a descriptor (`SCM_RIGHTS`, unix(7)).

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use multiproc_os::errno::{EMFILE, ENFILE};
use multiproc_os::{fd_passing, socket};
use multiproc_shm::message::fd_bundle::FdBundle;
use multiproc_shm::message::payload::Payload;
use multiproc_shm::message::shared::Body;
use multiproc_shm::wait::deadline::Deadline;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Peer;
use super::error::{RecvError, RecvErrorKind, SendError, SendErrorKind};
use super::socket_deadline::SocketDeadline;
use super::{kind, local, stream};
use crate::handle;
use crate::sendable::Sendable;
use crate::transfer::codec::{self, CodecError, Refused};

/// The sending end of a pipe. See [`one_way`](crate::connection::one_way).
///
/// Any number of threads and processes may send on one end, or on clones of it: messages never mix.
/// An end can be sent to another process, which then has an end of its own. When the last sending
/// end is dropped, or its process dies, the receivers get all messages that were sent before, and
/// then `Disconnected`.
///
/// As a descriptor ([`AsFd`]) it is writable when there is room, and readable when no receiver is
/// left.
///
/// A process that was started with [`StartMethod::Fork`](crate::StartMethod::Fork) is a copy of its
/// parent, and has copies of all ends that the parent had at that moment, whether it uses them or
/// not. So if the parent had the sender too, a receiver in such a child doesn't see the end of the
/// stream as long as the child itself runs; the parent's receivers see it when the child has ended.
/// With the other start methods, a process has only the ends that are sent to it.
///
/// An end over TCP belongs to one process at a time: the first that uses it, until that process
/// drops it, dies, or sends it away between two messages. In any other process its methods return
/// `ResourceBusy`. If the process drops the end or dies in the middle of a message, that direction
/// of the connection is lost: all other holders get `Disconnected`.
pub struct Sender<T> {
    pub(super) tx: Tx,
    peer: Peer,
    types: PhantomData<fn(T)>,
}

/// The receiving end of a pipe. See [`one_way`](crate::connection::one_way).
///
/// Several threads and processes may receive on one end, or on clones of it: each message goes to
/// one of them. A process that is killed while it receives loses at most the message that it was
/// receiving. An end can be sent to other processes; messages that have not been received yet stay
/// available to them. When the last receiving end is dropped, unreceived messages are lost, and
/// sending is an error. See [`Sender`] about TCP and about forked processes.
///
/// As a descriptor ([`AsFd`]) it is readable when there is a message, or when no sender is left.
/// Over TCP it is also readable when only a part of a message has arrived; [`poll`](Receiver::poll)
/// and [`wait_any`](crate::wait_any) tell the difference.
pub struct Receiver<T> {
    pub(super) rx: Rx,
    peer: Peer,
    limit: u64,
    types: PhantomData<fn() -> T>,
}

/// One end of a [`pipe`](crate::pipe), or of a connection that a
/// [`Listener`](crate::connection::Listener) has accepted or
/// [`connect`](crate::connection::connect) has made. It sends `S` and receives `R`.
///
/// A connection is a [`Sender`] and a [`Receiver`] in one, and behaves as they do with regard to
/// clones, threads, processes and disconnection. Its descriptor is that of its receiver.
/// [`split`](Connection::split) separates the two.
pub struct Connection<S, R> {
    sender: Sender<S>,
    receiver: Receiver<R>,
}

/// A connection without the types of its messages.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: Peer,
    pub(crate) ends: Ends,
}

/// The two sockets of a connection: `to` sends, `from` receives.
#[derive(Debug)]
pub(crate) enum Ends {
    Local { to: OwnedFd, from: OwnedFd },
    Tcp { to: OwnedFd, from: OwnedFd },
}

#[derive(Debug, Clone)]
pub(super) enum Tx {
    Local(Arc<OwnedFd>),
    Tcp(Arc<stream::Tx>),
}

#[derive(Debug, Clone)]
pub(super) enum Rx {
    Local(Arc<OwnedFd>),
    Tcp(Arc<stream::Rx>),
}

impl<T> Sender<T> {
    pub(crate) fn local(socket: OwnedFd, peer: Peer) -> Sender<T> {
        Sender { tx: Tx::Local(Arc::new(socket)), peer, types: PhantomData }
    }

    pub(crate) fn tcp(socket: OwnedFd, peer: Peer) -> Sender<T> {
        Sender { tx: Tx::Tcp(Arc::new(stream::Tx::new(socket))), peer, types: PhantomData }
    }

    /// Sends `bytes` as one message, for [`recv_bytes`](Receiver::recv_bytes), without serialising
    /// anything. Waits like [`send`](Sender::send) while there is no room.
    ///
    /// # Errors
    /// The errors of [`send`](Sender::send).
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.bytes(bytes, Deadline::Never)
    }

    /// Like [`send_bytes`](Sender::send_bytes), but doesn't wait for room.
    ///
    /// # Errors
    /// The errors of [`try_send`](Sender::try_send).
    pub fn try_send_bytes(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.bytes(bytes, Deadline::Now)
    }

    /// Like [`send_bytes`](Sender::send_bytes), but waits for at most `timeout`.
    ///
    /// # Errors
    /// The errors of [`send_timeout`](Sender::send_timeout).
    pub fn send_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), SendError<()>> {
        self.bytes(bytes, Deadline::from_now(timeout))
    }

    fn bytes(&self, bytes: &[u8], deadline: Deadline) -> Result<(), SendError<()>> {
        let sent = match &self.tx {
            Tx::Local(socket) => local::send_bytes(socket, kind::BYTES, bytes, deadline),
            Tx::Tcp(tx) => tx.send_bytes(kind::BYTES, bytes, deadline),
        };
        sent.map_err(|kind| self.error((), kind))
    }

    /// Returns which process or address made the other end, as far as that is known.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) fn error<V>(&self, value: V, kind: SendErrorKind) -> SendError<V> {
        SendError { value, kind, peer: self.peer }
    }
}

impl<T: Sendable> Sender<T> {
    /// Sends `value`. Waits while there is no room: until the other end has received something, or
    /// is gone. Use [`send_timeout`](Sender::send_timeout) with a peer that may have stopped
    /// reading. There is room for a few hundred small messages, or about six of nearly 32 KiB; more
    /// where the system's socket buffers are larger (`net.core.wmem_default`). Messages above 32
    /// KiB go through a memory file (not over TCP), and take no more room than small ones.
    ///
    /// A memory file is a descriptor, as a handle is. The kernel limits how many descriptors of a
    /// user may be in flight, that is sent but not yet received: about as many as one process may
    /// have open (`RLIMIT_NOFILE`), in all pipes of all of the user's processes together. Processes
    /// with `CAP_SYS_RESOURCE` or `CAP_SYS_ADMIN`, such as those of root, are exempt. At that
    /// limit, `send` waits as well, until some of them have been received.
    ///
    /// When this returns, the kernel has the message: it arrives even if this process ends.
    ///
    /// # Errors
    /// Each error holds the value: [`into_inner`](SendError::into_inner). `Disconnected` when no
    /// receiver is left; `Encode`; `Io`.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.value(value, Deadline::Never)
    }

    /// Like [`send`](Sender::send), but doesn't wait for room.
    ///
    /// # Errors
    /// `Full` when there is no room; over TCP, `Unfinished` when there was room for a part of it.
    /// Otherwise those of [`send`](Sender::send).
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        self.value(value, Deadline::Now)
    }

    /// Like [`send`](Sender::send), but waits for at most `timeout`.
    ///
    /// # Errors
    /// `Timeout` when there was no room; over TCP, `Unfinished` when there was room for a part of
    /// it. Otherwise those of [`send`](Sender::send).
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendError<T>> {
        self.value(value, Deadline::from_now(timeout))
    }

    fn value(&self, value: T, deadline: Deadline) -> Result<(), SendError<T>> {
        match self.encode(&value, deadline) {
            Ok(()) => Ok(()),
            Err(kind) => Err(self.error(value, kind)),
        }
    }

    fn encode(&self, value: &T, deadline: Deadline) -> Result<(), SendErrorKind> {
        let payload = loop {
            match (self.payload(value)?, &self.tx) {
                (Some(payload), _) => break payload,
                (None, Tx::Local(socket)) => local::wait_for_in_flight(socket, deadline)?,
                (None, Tx::Tcp(_)) => return Err(deadline.too_late_to_send()),
            }
        };
        match &self.tx {
            Tx::Local(socket) => local::send(socket, kind::VALUE, &payload, deadline),
            Tx::Tcp(tx) => tx.send(kind::VALUE, payload, deadline),
        }
    }

    /// Encodes the value. `None` if that takes descriptors in flight, and the user's limit for
    /// those is reached.
    pub(super) fn payload(&self, value: &T) -> Result<Option<Payload>, SendErrorKind> {
        let payload = match (codec::encode(&[], value), &self.tx) {
            (Ok(payload), _) => payload,
            (Err(Refused::ByFormat(error)), _) => return Err(SendErrorKind::Encode(error)),
            // More than a few handles are put into a socket of their own first, which makes them
            // descriptors in flight.
            (Err(Refused::BySystem { source, .. }), Tx::Local(_)) if local::is_in_flight_limit(&source) => {
                return Ok(None);
            }
            (Err(Refused::BySystem { what, source }), _) => {
                // Keep the error number, if there is one, so that callers can match on it.
                let text = || io::Error::new(source.kind(), format!("{what}: {source}"));
                return Err(SendErrorKind::Io(source.raw_os_error().map_or_else(text, io::Error::from_raw_os_error)));
            }
        };
        match &self.tx {
            Tx::Tcp(_) if payload.handles.count() > 0 => {
                let reason = "it contains handles, which can't be sent over TCP";
                Err(SendErrorKind::Encode(CodecError::new::<T>("cannot send", reason)))
            }
            _ => Ok(Some(payload)),
        }
    }
}

impl<T> Receiver<T> {
    pub(crate) fn local(socket: OwnedFd, peer: Peer, limit: u64) -> Receiver<T> {
        Receiver { rx: Rx::Local(Arc::new(socket)), peer, limit, types: PhantomData }
    }

    pub(crate) fn tcp(socket: OwnedFd, peer: Peer, limit: u64) -> Receiver<T> {
        Receiver { rx: Rx::Tcp(Arc::new(stream::Rx::new(socket))), peer, limit, types: PhantomData }
    }

    /// Waits until a message has arrived or no sender is left, so that receiving will not wait, but
    /// for at most `timeout` (`None`: for as long as it takes; zero: not at all). Returns whether
    /// that is so. Another receiver on the same end may still take the message first.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (sender, receiver) = multiproc::connection::one_way::<u8>()?;
    /// assert!(!receiver.poll(Duration::ZERO)?);
    /// sender.send(1)?;
    /// assert!(receiver.poll(None)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Io`: `ResourceBusy` over TCP when another process uses this end; `ENOMEM`. A broken message
    /// or connection is not an error here: this returns true, and the next receive returns the
    /// error.
    pub fn poll(&self, timeout: impl Into<Option<Duration>>) -> Result<bool, RecvError> {
        let deadline = Deadline::from_now(timeout);
        self.poll_with(deadline).map_err(|error| self.error(RecvErrorKind::Io(error)))
    }

    /// Whether receiving will not wait although the descriptor doesn't poll readable. Over TCP, a
    /// message may have been read ahead.
    pub(crate) fn is_ready(&self) -> io::Result<bool> {
        match &self.rx {
            Rx::Local(_) => Ok(false),
            Rx::Tcp(rx) => rx.poll(self.limit, Deadline::Now),
        }
    }

    pub(crate) fn poll_with(&self, deadline: Deadline) -> io::Result<bool> {
        match &self.rx {
            Rx::Local(socket) => local::poll(socket, deadline),
            Rx::Tcp(rx) => rx.poll(self.limit, deadline),
        }
    }

    /// Receives one message that was sent by [`send_bytes`](Sender::send_bytes). Waits for it.
    ///
    /// # Errors
    /// `Disconnected` when no sender is left and all messages have been received; `TooLong` for a
    /// message of more than [`max_message`](Receiver::max_message) bytes; `Decode` if the message
    /// is a value and not bytes; `Corrupt`; `Io`. The next message can be received afterwards.
    pub fn recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
        self.bytes(self.limit, Deadline::Never)
    }

    /// Like [`recv_bytes`](Receiver::recv_bytes), but accepts at most `limit` bytes.
    ///
    /// # Errors
    /// `TooLong` for a longer message, which is discarded; the error holds its length. Otherwise
    /// those of [`recv_bytes`](Receiver::recv_bytes).
    pub fn recv_bytes_max(&self, limit: u64) -> Result<Vec<u8>, RecvError> {
        self.bytes(limit.min(self.limit), Deadline::Never)
    }

    /// Like [`recv_bytes`](Receiver::recv_bytes), but doesn't wait.
    ///
    /// # Errors
    /// `Empty` when there is no message. Otherwise those of [`recv_bytes`](Receiver::recv_bytes).
    pub fn try_recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
        self.bytes(self.limit, Deadline::Now)
    }

    /// Like [`recv_bytes`](Receiver::recv_bytes), but waits for at most `timeout`.
    ///
    /// # Errors
    /// `Timeout` when there was no message. Otherwise those of
    /// [`recv_bytes`](Receiver::recv_bytes).
    pub fn recv_bytes_timeout(&self, timeout: Duration) -> Result<Vec<u8>, RecvError> {
        self.bytes(self.limit, Deadline::from_now(timeout))
    }

    /// Like [`recv_bytes`](Receiver::recv_bytes), but into `buffer`: replaces its content and
    /// reuses its memory.
    ///
    /// ```
    /// let (sender, receiver) = multiproc::connection::one_way::<()>()?;
    /// let mut buffer = Vec::new();
    /// for text in ["one", "two"] {
    ///     sender.send_bytes(text.as_bytes())?;
    ///     receiver.recv_bytes_into(&mut buffer)?;
    ///     assert_eq!(buffer, text.as_bytes());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`recv_bytes`](Receiver::recv_bytes).
    pub fn recv_bytes_into(&self, buffer: &mut Vec<u8>) -> Result<(), RecvError> {
        buffer.clear();
        self.receive(self.limit, Deadline::Never, |kind, body, _| {
            is_bytes(kind)?;
            match body {
                Body::Owned(bytes) if bytes.len() > buffer.capacity() => *buffer = bytes,
                body => buffer.extend_from_slice(&body),
            }
            Ok(())
        })
    }

    fn bytes(&self, limit: u64, deadline: Deadline) -> Result<Vec<u8>, RecvError> {
        self.receive(limit, deadline, |kind, body, _| is_bytes(kind).map(|()| body.into_vec()))
    }

    fn receive<V>(
        &self,
        limit: u64,
        deadline: Deadline,
        consume: impl FnOnce(u8, Body<'_>, FdBundle) -> Result<V, RecvErrorKind>,
    ) -> Result<V, RecvError> {
        let received = match &self.rx {
            Rx::Local(socket) => local::recv(socket, limit, deadline, consume),
            Rx::Tcp(rx) => rx
                .recv(limit, deadline)
                .and_then(|(kind, bytes)| consume(kind, Body::Owned(bytes), FdBundle::default())),
        };
        received.map_err(|kind| self.error(kind))
    }

    /// Returns the greatest length of a message in bytes, in its encoded form. A longer message is
    /// an error, and is discarded. The ends of a pipe have no limit; for connections between
    /// programs see [`Listener::max_message`](crate::connection::Listener::max_message).
    pub fn max_message(&self) -> u64 {
        self.limit
    }

    /// Sets [`max_message`](Receiver::max_message) of this end, but not of its clones. The limit is
    /// checked before memory is allocated for a message.
    pub fn set_max_message(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    /// Returns which process or address made the other end, as far as that is known.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    fn error(&self, kind: RecvErrorKind) -> RecvError {
        RecvError { kind, peer: self.peer }
    }
}

/// Translates an error of unpacking a message's handles. The message has been taken by then.
fn not_unpacked(error: io::Error) -> RecvErrorKind {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::InvalidData, _) => RecvErrorKind::Corrupt(format!("its handles are missing: {error}")),
        (io::ErrorKind::QuotaExceeded, None) | (_, Some(EMFILE | ENFILE)) => RecvErrorKind::Lost,
        _ => RecvErrorKind::Io(error),
    }
}

fn not_decoded<T>(reason: &str) -> RecvErrorKind {
    RecvErrorKind::Decode(Box::new(CodecError::new::<T>("cannot deserialise", reason)))
}

fn is_bytes(kind: u8) -> Result<(), RecvErrorKind> {
    match kind {
        kind::BYTES => Ok(()),
        kind::VALUE => Err(not_decoded::<Vec<u8>>("the message is a value, not bytes")),
        other => Err(RecvErrorKind::Corrupt(format!("a message of unknown kind {other}"))),
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// Receives a value. Waits for it.
    ///
    /// # Errors
    /// `Disconnected` when no sender is left and all messages have been received. `Decode` if the
    /// message is not a `T`, `Corrupt`, `TooLong`, `Lost`; the next message can be received
    /// afterwards. `Io`.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.value(Deadline::Never)
    }

    /// Receives a value if one is there now.
    ///
    /// # Errors
    /// `Empty` when there is no message. Otherwise those of [`recv`](Receiver::recv).
    pub fn try_recv(&self) -> Result<T, RecvError> {
        self.value(Deadline::Now)
    }

    /// Receives a value. Waits for it, but for at most `timeout`.
    ///
    /// # Errors
    /// `Timeout` when there was no message. Otherwise those of [`recv`](Receiver::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvError> {
        self.value(Deadline::from_now(timeout))
    }

    fn value(&self, deadline: Deadline) -> Result<T, RecvError> {
        let received = self.receive(self.limit, deadline, |kind, body, handles| match kind {
            kind::VALUE => {
                let fds = match handles.count() {
                    0 => Vec::new(),
                    _ => handles.unpack().map_err(not_unpacked)?,
                };
                Ok(codec::decode_with(&body, fds))
            }
            kind::BYTES => Err(not_decoded::<T>("the message is bytes, not a value")),
            other => Err(RecvErrorKind::Corrupt(format!("a message of unknown kind {other}"))),
        })?;
        received.map_err(|error| self.error(RecvErrorKind::Decode(Box::new(error))))
    }

    /// Returns an iterator over the values, which waits for each. It ends at `Disconnected`; other
    /// errors are items, and the iteration goes on after them.
    ///
    /// ```
    /// let (sender, receiver) = multiproc::connection::one_way()?;
    /// sender.send("one".to_string())?;
    /// sender.send("two".to_string())?;
    /// drop(sender);
    /// for text in receiver.iter() {
    ///     println!("{}", text?);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { receiver: self }
    }
}

impl<S, R> Connection<S, R> {
    /// Splits the connection into its two halves. They are independent: the peer sees the end of
    /// the stream when all senders here are gone, even if receivers are left.
    pub fn split(self) -> (Sender<S>, Receiver<R>) {
        (self.sender, self.receiver)
    }

    /// Makes a typed connection of what the handshake between a client and a listener has made.
    pub(crate) fn of(link: Link, max_message: u64) -> Connection<S, R> {
        let Link { peer, ends } = link;
        match ends {
            Ends::Local { to, from } => {
                Connection::join(Sender::local(to, peer), Receiver::local(from, peer, max_message))
            }
            Ends::Tcp { to, from } => Connection::join(Sender::tcp(to, peer), Receiver::tcp(from, peer, max_message)),
        }
    }

    /// Joins two halves into a connection. They may come from different connections.
    pub fn join(sender: Sender<S>, receiver: Receiver<R>) -> Connection<S, R> {
        Connection { sender, receiver }
    }

    /// Returns the sending half.
    pub fn sender(&self) -> &Sender<S> {
        &self.sender
    }

    /// Returns the receiving half.
    pub fn receiver(&self) -> &Receiver<R> {
        &self.receiver
    }

    /// Waits until a message has arrived or no sender is left. See [`Receiver::poll`].
    ///
    /// # Errors
    /// The errors of [`Receiver::poll`].
    pub fn poll(&self, timeout: impl Into<Option<Duration>>) -> Result<bool, RecvError> {
        self.receiver.poll(timeout)
    }

    /// Sends `bytes` as one message. See [`Sender::send_bytes`].
    ///
    /// # Errors
    /// The errors of [`Sender::send_bytes`].
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.sender.send_bytes(bytes)
    }

    /// Sends `bytes` if there is room now. See [`Sender::try_send_bytes`].
    ///
    /// # Errors
    /// The errors of [`Sender::try_send_bytes`].
    pub fn try_send_bytes(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.sender.try_send_bytes(bytes)
    }

    /// Sends `bytes`; waits for room for at most `timeout`. See [`Sender::send_bytes_timeout`].
    ///
    /// # Errors
    /// The errors of [`Sender::send_bytes_timeout`].
    pub fn send_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), SendError<()>> {
        self.sender.send_bytes_timeout(bytes, timeout)
    }

    /// Receives one message as bytes. See [`Receiver::recv_bytes`].
    ///
    /// # Errors
    /// The errors of [`Receiver::recv_bytes`].
    pub fn recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
        self.receiver.recv_bytes()
    }

    /// Receives one message of at most `limit` bytes. See [`Receiver::recv_bytes_max`].
    ///
    /// # Errors
    /// The errors of [`Receiver::recv_bytes_max`].
    pub fn recv_bytes_max(&self, limit: u64) -> Result<Vec<u8>, RecvError> {
        self.receiver.recv_bytes_max(limit)
    }

    /// Receives one message as bytes if there is one now. See [`Receiver::try_recv_bytes`].
    ///
    /// # Errors
    /// The errors of [`Receiver::try_recv_bytes`].
    pub fn try_recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
        self.receiver.try_recv_bytes()
    }

    /// Receives one message as bytes; waits for at most `timeout`. See
    /// [`Receiver::recv_bytes_timeout`].
    ///
    /// # Errors
    /// The errors of [`Receiver::recv_bytes_timeout`].
    pub fn recv_bytes_timeout(&self, timeout: Duration) -> Result<Vec<u8>, RecvError> {
        self.receiver.recv_bytes_timeout(timeout)
    }

    /// Receives one message as bytes, into `buffer`. See [`Receiver::recv_bytes_into`].
    ///
    /// # Errors
    /// The errors of [`Receiver::recv_bytes_into`].
    pub fn recv_bytes_into(&self, buffer: &mut Vec<u8>) -> Result<(), RecvError> {
        self.receiver.recv_bytes_into(buffer)
    }

    /// Returns the greatest length of a received message in bytes. See [`Receiver::max_message`].
    pub fn max_message(&self) -> u64 {
        self.receiver.max_message()
    }

    /// Sets the greatest length of a received message in bytes. See [`Receiver::set_max_message`].
    pub fn set_max_message(&mut self, bytes: u64) {
        self.receiver.set_max_message(bytes);
    }

    /// Returns which process or address made the other end, as far as that is known.
    pub fn peer(&self) -> Peer {
        self.receiver.peer()
    }
}

impl<S: Serialize + DeserializeOwned, R> Connection<S, R> {
    /// Sends `value`; waits while there is no room. See [`Sender::send`].
    ///
    /// # Errors
    /// The errors of [`Sender::send`].
    pub fn send(&self, value: S) -> Result<(), SendError<S>> {
        self.sender.send(value)
    }

    /// Sends `value` if there is room now. See [`Sender::try_send`].
    ///
    /// # Errors
    /// The errors of [`Sender::try_send`].
    pub fn try_send(&self, value: S) -> Result<(), SendError<S>> {
        self.sender.try_send(value)
    }

    /// Sends `value`; waits for room for at most `timeout`. See [`Sender::send_timeout`].
    ///
    /// # Errors
    /// The errors of [`Sender::send_timeout`].
    pub fn send_timeout(&self, value: S, timeout: Duration) -> Result<(), SendError<S>> {
        self.sender.send_timeout(value, timeout)
    }
}

impl<S, R: DeserializeOwned> Connection<S, R> {
    /// Receives a value; waits for it. See [`Receiver::recv`].
    ///
    /// # Errors
    /// The errors of [`Receiver::recv`].
    pub fn recv(&self) -> Result<R, RecvError> {
        self.receiver.recv()
    }

    /// Receives a value if there is one now. See [`Receiver::try_recv`].
    ///
    /// # Errors
    /// The errors of [`Receiver::try_recv`].
    pub fn try_recv(&self) -> Result<R, RecvError> {
        self.receiver.try_recv()
    }

    /// Receives a value; waits for at most `timeout`. See [`Receiver::recv_timeout`].
    ///
    /// # Errors
    /// The errors of [`Receiver::recv_timeout`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<R, RecvError> {
        self.receiver.recv_timeout(timeout)
    }

    /// Returns an iterator over the received values. See [`Receiver::iter`].
    pub fn iter(&self) -> Iter<'_, R> {
        self.receiver.iter()
    }
}

/// An iterator over the received values, up to the end of the stream. See [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    receiver: &'a Receiver<T>,
}

/// An iterator that owns its receiver, over the received values. See [`Receiver::iter`].
#[derive(Debug)]
pub struct IntoIter<T> {
    receiver: Receiver<T>,
}

fn next<T: DeserializeOwned>(receiver: &Receiver<T>) -> Option<Result<T, RecvError>> {
    match receiver.recv() {
        Err(error) if error.is_disconnected() => None,
        received => Some(received),
    }
}

impl<T: DeserializeOwned> Iterator for Iter<'_, T> {
    type Item = Result<T, RecvError>;

    fn next(&mut self) -> Option<Result<T, RecvError>> {
        next(self.receiver)
    }
}

impl<T: DeserializeOwned> Iterator for IntoIter<T> {
    type Item = Result<T, RecvError>;

    fn next(&mut self) -> Option<Result<T, RecvError>> {
        next(&self.receiver)
    }
}

impl<'a, T: DeserializeOwned> IntoIterator for &'a Receiver<T> {
    type Item = Result<T, RecvError>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T: DeserializeOwned> IntoIterator for Receiver<T> {
    type Item = Result<T, RecvError>;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter { receiver: self }
    }
}

/// Iterates over the values that the receiver receives.
impl<'a, S, R: DeserializeOwned> IntoIterator for &'a Connection<S, R> {
    type Item = Result<R, RecvError>;
    type IntoIter = Iter<'a, R>;

    fn into_iter(self) -> Iter<'a, R> {
        self.iter()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { tx: self.tx.clone(), ..*self }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver { rx: self.rx.clone(), ..*self }
    }
}

impl<S, R> Clone for Connection<S, R> {
    fn clone(&self) -> Connection<S, R> {
        Connection { sender: self.sender.clone(), receiver: self.receiver.clone() }
    }
}

impl<T> AsFd for Sender<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.tx {
            Tx::Local(socket) => socket.as_fd(),
            Tx::Tcp(tx) => tx.socket().as_fd(),
        }
    }
}

impl<T> AsFd for Receiver<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.rx {
            Rx::Local(socket) => socket.as_fd(),
            Rx::Tcp(rx) => rx.socket().as_fd(),
        }
    }
}

/// The descriptor of its receiver.
impl<S, R> AsFd for Connection<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// Shows the descriptor's number and the peer.
impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender(fd {}, to {})", self.as_fd().as_raw_fd(), self.peer)
    }
}

/// Shows the descriptor's number and the peer.
impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver(fd {}, from {})", self.as_fd().as_raw_fd(), self.peer)
    }
}

/// Shows the descriptors' numbers and the peer.
impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sender, receiver) = (self.sender.as_fd().as_raw_fd(), self.receiver.as_fd().as_raw_fd());
        write!(f, "Connection(fds {sender} and {receiver}, with {})", self.peer())
    }
}

/// Which kind of end is being sent, so that it can't be decoded as another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Role {
    LocalSender,
    LocalReceiver,
    TcpSender,
    TcpReceiver,
}

/// The encoded form of an end, as it leaves for another process.
#[derive(Serialize)]
#[serde(rename = "End")]
struct Leaving<'a> {
    role: Role,
    #[serde(serialize_with = "handle::serialize")]
    socket: BorrowedFd<'a>,
    peer: Peer,
    limit: u64,
}

/// The encoded form of an end, as it arrives from another process.
#[derive(Deserialize)]
#[serde(rename = "End")]
struct Arriving {
    role: Role,
    #[serde(deserialize_with = "handle::deserialize")]
    socket: OwnedFd,
    peer: Peer,
    limit: u64,
}

impl Arriving {
    /// Decodes an end, and checks that its socket is of the kind that its role says.
    fn checked<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arriving, D::Error> {
        let end = Arriving::deserialize(deserializer)?;
        let fits = match end.role {
            Role::LocalSender | Role::LocalReceiver => fd_passing::is_packet_socket(end.socket.as_fd()),
            Role::TcpSender | Role::TcpReceiver => socket::is_internet_stream(&end.socket),
        };
        if fits { Ok(end) } else { Err(D::Error::custom("the descriptor is not an end of a pipe or connection")) }
    }
}

const UNFINISHED: &str = "an end of a TCP connection can't be sent away while a message is on its way through it";

/// An end can be sent only to another process of this program, like a [`Handle`](crate::Handle).
impl<T> Serialize for Sender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let role = match &self.tx {
            Tx::Local(_) => Role::LocalSender,
            Tx::Tcp(tx) if tx.is_between_messages() => Role::TcpSender,
            Tx::Tcp(_) => return Err(S::Error::custom(UNFINISHED)),
        };
        Leaving { role, socket: self.as_fd(), peer: self.peer, limit: u64::MAX }.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sender<T>, D::Error> {
        let Arriving { role, socket, peer, .. } = Arriving::checked(deserializer)?;
        match role {
            Role::LocalSender => Ok(Sender::local(socket, peer)),
            Role::TcpSender => Ok(Sender::tcp(socket, peer)),
            Role::LocalReceiver | Role::TcpReceiver => Err(D::Error::custom("this is not a sending end")),
        }
    }
}

/// An end can be sent only to another process of this program, like a [`Handle`](crate::Handle).
impl<T> Serialize for Receiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let role = match &self.rx {
            Rx::Local(_) => Role::LocalReceiver,
            Rx::Tcp(rx) if rx.is_between_messages() => Role::TcpReceiver,
            Rx::Tcp(_) => return Err(S::Error::custom(UNFINISHED)),
        };
        Leaving { role, socket: self.as_fd(), peer: self.peer, limit: self.limit }.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Receiver<T>, D::Error> {
        let Arriving { role, socket, peer, limit } = Arriving::checked(deserializer)?;
        match role {
            Role::LocalReceiver => Ok(Receiver::local(socket, peer, limit)),
            Role::TcpReceiver => Ok(Receiver::tcp(socket, peer, limit)),
            Role::LocalSender | Role::TcpSender => Err(D::Error::custom("this is not a receiving end")),
        }
    }
}

/// A connection can be sent only to another process of this program, like a
/// [`Handle`](crate::Handle).
impl<S, R> Serialize for Connection<S, R> {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        (&self.sender, &self.receiver).serialize(serializer)
    }
}

impl<'de, S, R> Deserialize<'de> for Connection<S, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Connection<S, R>, D::Error> {
        let (sender, receiver) = Deserialize::deserialize(deserializer)?;
        Ok(Connection { sender, receiver })
    }
}
