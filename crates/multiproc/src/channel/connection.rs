//! What users hold of a pipe or of a connection: [`Sender`], [`Receiver`], and [`Connection`], which is one of each.
//!
//! They are typed skins over a transport: messages of one machine ([`local`]) or over TCP ([`stream`]). In a message they travel as a handle
//! does.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use multiproc_os::errno::{EMFILE, ENFILE};
use multiproc_os::{fd_passing, socket};
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Peer;
use super::error::{RecvError, RecvErrorKind, SendError, SendErrorKind};
use super::patience::Patience;
use super::{kind, local, stream};
use crate::handle;
use crate::sendable::Sendable;
use crate::transfer::codec::{self, CodecError, Refused};
use crate::transfer::fd_bundle::FdBundle;
use crate::transfer::payload::Payload;
use crate::transfer::shared::Body;

/// The end of a pipe that sends. See [`one_way`](crate::one_way).
///
/// Any number of threads and processes may send on one end, or on clones of it: messages never mix. It can be sent to other processes, which
/// have an end of their own then. The direction is at its end when the last of them all is dropped, or its process has died; what was sent
/// before is received before that.
///
/// As a descriptor ([`AsFd`]) it is writable when there is room, and readable when nobody receives any more.
///
/// A process that was started with [`StartMethod::Fork`](crate::StartMethod::Fork) is a copy of its parent, and has copies of all ends that the
/// parent had at that moment, whether it uses them or not. So a receiver in it does not come to the end as long as it runs, if the parent had
/// the sender too; the parent's receivers come to theirs when it has ended. Other start methods give a process what is sent to it, and nothing
/// else.
///
/// An end over TCP belongs to one process at a time: the first that uses it, until that drops it, dies, or sends it away between two messages. In
/// another one its methods give `ResourceBusy`. Who drops it or dies in the middle of a message takes the direction with it: for all others it is
/// `Disconnected`.
pub struct Sender<T> {
    pub(super) tx: Tx,
    peer: Peer,
    types: PhantomData<fn(T)>,
}

/// The end of a pipe that receives. See [`one_way`](crate::one_way).
///
/// Several threads and processes may receive on one end, or on clones of it: each message goes to one of them. One that is killed in the middle
/// takes no more with it than the message that it was receiving. It can be sent to other processes, and what was sent and has not been received
/// stays in it. When the last of them all is dropped, what is in it is lost, and sending is an error. See [`Sender`] about TCP and about forked
/// processes.
///
/// As a descriptor ([`AsFd`]) it is readable when a message or the end is there. (Over TCP: or a part of a message. [`poll`](Receiver::poll)
/// and [`wait`](crate::wait()) tell.)
pub struct Receiver<T> {
    pub(super) rx: Rx,
    peer: Peer,
    limit: u64,
    types: PhantomData<fn() -> T>,
}

/// One end of a [`pipe`](crate::pipe), or of a connection that a [`Listener`](crate::Listener) has accepted or [`connect`](crate::connect) has
/// made. It sends `S` and receives `R`.
///
/// It is a [`Sender`] and a [`Receiver`] in one, and everything that is said there holds: clones, threads, processes, the end. As a
/// descriptor it is its receiver. [`split`](Connection::split) takes it apart.
pub struct Connection<S, R> {
    sender: Sender<S>,
    receiver: Receiver<R>,
}

/// A connection before it is known what goes through it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: Peer,
    pub(crate) ends: Ends,
}

/// The sockets: one that sends, and one that receives.
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

    /// Sends `bytes` as one message, for [`recv_bytes`](Receiver::recv_bytes), without serialising anything. Waits as [`send`](Sender::send)
    /// does.
    ///
    /// # Errors
    /// As [`send`](Sender::send).
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.bytes(bytes, Patience::Endless)
    }

    /// As [`send_bytes`](Sender::send_bytes), if there is room now.
    ///
    /// # Errors
    /// As [`try_send`](Sender::try_send).
    pub fn try_send_bytes(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.bytes(bytes, Patience::None)
    }

    /// As [`send_bytes`](Sender::send_bytes), but waits no longer than `timeout`.
    ///
    /// # Errors
    /// As [`send_timeout`](Sender::send_timeout).
    pub fn send_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), SendError<()>> {
        self.bytes(bytes, Patience::of(Some(timeout)))
    }

    fn bytes(&self, bytes: &[u8], patience: Patience) -> Result<(), SendError<()>> {
        let sent = match &self.tx {
            Tx::Local(socket) => local::send_bytes(socket, kind::BYTES, bytes, patience),
            Tx::Tcp(tx) => tx.send_bytes(kind::BYTES, bytes, patience),
        };
        sent.map_err(|kind| self.error((), kind))
    }

    /// Who has made the other end, as far as that is known.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) fn error<V>(&self, value: V, kind: SendErrorKind) -> SendError<V> {
        SendError { value, kind, peer: self.peer }
    }
}

impl<T: Sendable> Sender<T> {
    /// Sends `value`. Waits while there is no room, that is until the other end has received something, or is gone; use
    /// [`send_timeout`](Sender::send_timeout) against one that may have stopped reading. There is room for a few hundred small messages, or about
    /// six that come close to 32 KiB; more where the system's socket buffers are larger (`net.core.wmem_default`). Those above 32 KiB go by memory
    /// file (not over TCP), and take no more room than small ones.
    ///
    /// A memory file is a descriptor, as a handle is. Of a user's descriptors, about as many as one process may have open (`RLIMIT_NOFILE`) can be
    /// on their way at a time, in all pipes of all of the user's processes together; that doesn't bind who has `CAP_SYS_RESOURCE` or
    /// `CAP_SYS_ADMIN`, as root has. While there are more, this waits, too: until any of them has been received.
    ///
    /// When this returns, the message is on its way and needs this process no more.
    ///
    /// # Errors
    /// The value comes back with each of them: [`into_inner`](SendError::into_inner). `Disconnected` when nobody receives any more;
    /// `Unsendable`; `Io`.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.value(value, Patience::Endless)
    }

    /// As [`send`](Sender::send), if there is room now.
    ///
    /// # Errors
    /// `Full` when there is none; over TCP `Unfinished` when there was room for a part of it. Otherwise as [`send`](Sender::send).
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        self.value(value, Patience::None)
    }

    /// As [`send`](Sender::send), but waits no longer than `timeout`.
    ///
    /// # Errors
    /// `Timeout` when there was no room; over TCP `Unfinished` when there was room for a part of it. Otherwise as [`send`](Sender::send).
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendError<T>> {
        self.value(value, Patience::of(Some(timeout)))
    }

    fn value(&self, value: T, patience: Patience) -> Result<(), SendError<T>> {
        match self.encode(&value, patience) {
            Ok(()) => Ok(()),
            Err(kind) => Err(self.error(value, kind)),
        }
    }

    fn encode(&self, value: &T, patience: Patience) -> Result<(), SendErrorKind> {
        let payload = loop {
            match (self.payload(value)?, &self.tx) {
                (Some(payload), _) => break payload,
                (None, Tx::Local(socket)) => local::wait_in_the_crowd(socket, patience)?,
                (None, Tx::Tcp(_)) => return Err(patience.too_late_to_send()),
            }
        };
        match &self.tx {
            Tx::Local(socket) => local::send(socket, kind::VALUE, &payload, patience),
            Tx::Tcp(tx) => tx.send(kind::VALUE, payload, patience),
        }
    }

    /// The value as it travels. None if too many descriptors are on their way for it to be put
    /// together.
    pub(super) fn payload(&self, value: &T) -> Result<Option<Payload>, SendErrorKind> {
        let payload = match (codec::encode(&[], value), &self.tx) {
            (Ok(payload), _) => payload,
            (Err(Refused::ByFormat(error)), _) => return Err(SendErrorKind::Unsendable(error)),
            // Many handles are put into sockets of their own first.
            (Err(Refused::BySystem { source, .. }), Tx::Local(_)) if local::is_crowded(&source) => return Ok(None),
            (Err(Refused::BySystem { what, source }), _) => {
                // With its number, if it has one, by which others know it.
                let text = || io::Error::new(source.kind(), format!("{what}: {source}"));
                return Err(SendErrorKind::Io(source.raw_os_error().map_or_else(text, io::Error::from_raw_os_error)));
            }
        };
        match &self.tx {
            Tx::Tcp(_) if payload.handles.count() > 0 => {
                let reason = "it has handles in it, which can't leave this machine, and this connection goes over TCP";
                Err(SendErrorKind::Unsendable(CodecError::new::<T>("cannot send", reason)))
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

    /// Whether a message or the end is there, so that receiving will not wait: waits for that no longer than `timeout` (`None`: however long it
    /// takes; zero: not at all). Another who receives on the same end may still be quicker.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (sender, receiver) = multiproc::one_way::<u8>()?;
    /// assert!(!receiver.poll(Duration::ZERO)?);
    /// sender.send(1)?;
    /// assert!(receiver.poll(None)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Io`: over TCP `ResourceBusy` when another process uses this end; `ENOMEM`. What is wrong with a message or with the connection is no error
    /// here: receiving will not wait, and says it.
    pub fn poll(&self, timeout: impl Into<Option<Duration>>) -> Result<bool, RecvError> {
        let patience = Patience::of(timeout.into());
        self.poll_with(patience).map_err(|error| self.error(RecvErrorKind::Io(error)))
    }

    /// Whether receiving will not wait, though the descriptor may not say so.
    pub(crate) fn is_ready(&self) -> io::Result<bool> {
        match &self.rx {
            Rx::Local(_) => Ok(false),
            Rx::Tcp(rx) => rx.poll(self.limit, Patience::None),
        }
    }

    pub(crate) fn poll_with(&self, patience: Patience) -> io::Result<bool> {
        match &self.rx {
            Rx::Local(socket) => local::poll(socket, patience),
            Rx::Tcp(rx) => rx.poll(self.limit, patience),
        }
    }

    /// Receives bytes, which [`send_bytes`](Sender::send_bytes) has sent: one whole message. Waits for it.
    ///
    /// # Errors
    /// `Disconnected` at the end; `TooLong` for more than [`max_message`](Receiver::max_message); `Garbage` if what has come is a value and not
    /// bytes; `Io`. The next message can be received afterwards.
    pub fn recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
        self.bytes(self.limit, Patience::Endless)
    }

    /// As [`recv_bytes`](Receiver::recv_bytes), if it has no more than `limit` bytes.
    ///
    /// # Errors
    /// `TooLong` for a longer message, which is gone then; the error says how long it was. Otherwise as [`recv_bytes`](Receiver::recv_bytes).
    pub fn recv_bytes_max(&self, limit: u64) -> Result<Vec<u8>, RecvError> {
        self.bytes(limit.min(self.limit), Patience::Endless)
    }

    /// As [`recv_bytes`](Receiver::recv_bytes), if it is there now.
    ///
    /// # Errors
    /// `Empty` when there is none. Otherwise as [`recv_bytes`](Receiver::recv_bytes).
    pub fn try_recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
        self.bytes(self.limit, Patience::None)
    }

    /// As [`recv_bytes`](Receiver::recv_bytes), but waits no longer than `timeout`.
    ///
    /// # Errors
    /// `Timeout` when there was none. Otherwise as [`recv_bytes`](Receiver::recv_bytes).
    pub fn recv_bytes_timeout(&self, timeout: Duration) -> Result<Vec<u8>, RecvError> {
        self.bytes(self.limit, Patience::of(Some(timeout)))
    }

    /// As [`recv_bytes`](Receiver::recv_bytes), into `buffer`, whose old content is gone and whose memory is used again.
    ///
    /// ```
    /// let (sender, receiver) = multiproc::one_way::<()>()?;
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
    /// As [`recv_bytes`](Receiver::recv_bytes).
    pub fn recv_bytes_into(&self, buffer: &mut Vec<u8>) -> Result<(), RecvError> {
        buffer.clear();
        self.receive(self.limit, Patience::Endless, |kind, body, _| {
            is_bytes(kind)?;
            match body {
                Body::Own(bytes) if bytes.len() > buffer.capacity() => *buffer = bytes,
                body => buffer.extend_from_slice(&body),
            }
            Ok(())
        })
    }

    fn bytes(&self, limit: u64, patience: Patience) -> Result<Vec<u8>, RecvError> {
        self.receive(limit, patience, |kind, body, _| is_bytes(kind).map(|()| body.into_vec()))
    }

    fn receive<V>(
        &self,
        limit: u64,
        patience: Patience,
        consume: impl FnOnce(u8, Body<'_>, FdBundle) -> Result<V, RecvErrorKind>,
    ) -> Result<V, RecvError> {
        let received = match &self.rx {
            Rx::Local(socket) => local::recv(socket, limit, patience, consume),
            Rx::Tcp(rx) => {
                rx.recv(limit, patience).and_then(|(kind, bytes)| consume(kind, Body::Own(bytes), FdBundle::default()))
            }
        };
        received.map_err(|kind| self.error(kind))
    }

    /// How many bytes a message may have, as it travels; a longer one is an error, and gone. There is no limit for the ends of a pipe; for
    /// connections between programs see [`Listener::max_message`](crate::Listener::max_message).
    pub fn max_message(&self) -> u64 {
        self.limit
    }

    /// Sets [`max_message`](Receiver::max_message) of this end, not of its clones. It counts before memory is taken for a message.
    pub fn set_max_message(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    /// Who has made the other end, as far as that is known.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    fn error(&self, kind: RecvErrorKind) -> RecvError {
        RecvError { kind, peer: self.peer, undecodable: None }
    }
}

/// The message is gone by then.
fn not_unpacked(error: io::Error) -> RecvErrorKind {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::InvalidData, _) => RecvErrorKind::Garbage(format!("its handles are not there: {error}")),
        (io::ErrorKind::QuotaExceeded, None) | (_, Some(EMFILE | ENFILE)) => RecvErrorKind::Lost,
        _ => RecvErrorKind::Io(error),
    }
}

fn is_bytes(kind: u8) -> Result<(), RecvErrorKind> {
    match kind {
        kind::BYTES => Ok(()),
        kind::VALUE => Err(RecvErrorKind::Garbage("a value has come, not bytes".into())),
        other => Err(RecvErrorKind::Garbage(format!("a message of the unknown kind {other}"))),
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// Receives a value. Waits for it.
    ///
    /// # Errors
    /// `Disconnected` at the end: nobody can send any more, and all that was sent has been received. `Garbage` if what has come is no `T`,
    /// `TooLong`, `Lost`; the next message can be received afterwards. `Io`.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.value(Patience::Endless)
    }

    /// Receives a value if one is there now.
    ///
    /// # Errors
    /// `Empty` when there is none. Otherwise as [`recv`](Receiver::recv).
    pub fn try_recv(&self) -> Result<T, RecvError> {
        self.value(Patience::None)
    }

    /// Receives a value. Waits for it, but no longer than `timeout`.
    ///
    /// # Errors
    /// `Timeout` when there was none. Otherwise as [`recv`](Receiver::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvError> {
        self.value(Patience::of(Some(timeout)))
    }

    fn value(&self, patience: Patience) -> Result<T, RecvError> {
        let received = self.receive(self.limit, patience, |kind, body, handles| match kind {
            kind::VALUE => {
                let fds = match handles.count() {
                    0 => Vec::new(),
                    _ => handles.unpack().map_err(not_unpacked)?,
                };
                Ok(codec::decode_with(&body, fds))
            }
            kind::BYTES => Err(RecvErrorKind::Garbage("bytes have come, not a value".into())),
            other => Err(RecvErrorKind::Garbage(format!("a message of the unknown kind {other}"))),
        })?;
        received.map_err(|error| {
            let kind = RecvErrorKind::Garbage(error.to_string());
            RecvError { undecodable: Some(Box::new(error)), ..self.error(kind) }
        })
    }

    /// The values, to the end. An error is an item, and those that are not the end don't end it.
    ///
    /// ```
    /// let (sender, receiver) = multiproc::one_way()?;
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
    /// The two halves, each of which goes its own way: the other side comes to the end when all senders are gone, whoever still receives.
    pub fn split(self) -> (Sender<S>, Receiver<R>) {
        (self.sender, self.receiver)
    }

    /// What two have come to who had not been connected.
    pub(crate) fn of(link: Link, max_message: u64) -> Connection<S, R> {
        let Link { peer, ends } = link;
        match ends {
            Ends::Local { to, from } => {
                Connection::join(Sender::local(to, peer), Receiver::local(from, peer, max_message))
            }
            Ends::Tcp { to, from } => Connection::join(Sender::tcp(to, peer), Receiver::tcp(from, peer, max_message)),
        }
    }

    /// A connection made of two halves, which needn't have been together before.
    pub fn join(sender: Sender<S>, receiver: Receiver<R>) -> Connection<S, R> {
        Connection { sender, receiver }
    }

    /// The half that sends.
    pub fn sender(&self) -> &Sender<S> {
        &self.sender
    }

    /// The half that receives.
    pub fn receiver(&self) -> &Receiver<R> {
        &self.receiver
    }

    /// See [`Receiver::poll`].
    ///
    /// # Errors
    /// See there.
    pub fn poll(&self, timeout: impl Into<Option<Duration>>) -> Result<bool, RecvError> {
        self.receiver.poll(timeout)
    }

    /// See [`Sender::send_bytes`].
    ///
    /// # Errors
    /// See there.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.sender.send_bytes(bytes)
    }

    /// See [`Sender::try_send_bytes`].
    ///
    /// # Errors
    /// See there.
    pub fn try_send_bytes(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.sender.try_send_bytes(bytes)
    }

    /// See [`Sender::send_bytes_timeout`].
    ///
    /// # Errors
    /// See there.
    pub fn send_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), SendError<()>> {
        self.sender.send_bytes_timeout(bytes, timeout)
    }

    /// See [`Receiver::recv_bytes`].
    ///
    /// # Errors
    /// See there.
    pub fn recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
        self.receiver.recv_bytes()
    }

    /// See [`Receiver::recv_bytes_max`].
    ///
    /// # Errors
    /// See there.
    pub fn recv_bytes_max(&self, limit: u64) -> Result<Vec<u8>, RecvError> {
        self.receiver.recv_bytes_max(limit)
    }

    /// See [`Receiver::try_recv_bytes`].
    ///
    /// # Errors
    /// See there.
    pub fn try_recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
        self.receiver.try_recv_bytes()
    }

    /// See [`Receiver::recv_bytes_timeout`].
    ///
    /// # Errors
    /// See there.
    pub fn recv_bytes_timeout(&self, timeout: Duration) -> Result<Vec<u8>, RecvError> {
        self.receiver.recv_bytes_timeout(timeout)
    }

    /// See [`Receiver::recv_bytes_into`].
    ///
    /// # Errors
    /// See there.
    pub fn recv_bytes_into(&self, buffer: &mut Vec<u8>) -> Result<(), RecvError> {
        self.receiver.recv_bytes_into(buffer)
    }

    /// See [`Receiver::max_message`].
    pub fn max_message(&self) -> u64 {
        self.receiver.max_message()
    }

    /// See [`Receiver::set_max_message`].
    pub fn set_max_message(&mut self, bytes: u64) {
        self.receiver.set_max_message(bytes);
    }

    /// Who has made the other end, as far as that is known.
    pub fn peer(&self) -> Peer {
        self.receiver.peer()
    }
}

impl<S: Serialize + DeserializeOwned, R> Connection<S, R> {
    /// See [`Sender::send`].
    ///
    /// # Errors
    /// See there.
    pub fn send(&self, value: S) -> Result<(), SendError<S>> {
        self.sender.send(value)
    }

    /// See [`Sender::try_send`].
    ///
    /// # Errors
    /// See there.
    pub fn try_send(&self, value: S) -> Result<(), SendError<S>> {
        self.sender.try_send(value)
    }

    /// See [`Sender::send_timeout`].
    ///
    /// # Errors
    /// See there.
    pub fn send_timeout(&self, value: S, timeout: Duration) -> Result<(), SendError<S>> {
        self.sender.send_timeout(value, timeout)
    }
}

impl<S, R: DeserializeOwned> Connection<S, R> {
    /// See [`Receiver::recv`].
    ///
    /// # Errors
    /// See there.
    pub fn recv(&self) -> Result<R, RecvError> {
        self.receiver.recv()
    }

    /// See [`Receiver::try_recv`].
    ///
    /// # Errors
    /// See there.
    pub fn try_recv(&self) -> Result<R, RecvError> {
        self.receiver.try_recv()
    }

    /// See [`Receiver::recv_timeout`].
    ///
    /// # Errors
    /// See there.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<R, RecvError> {
        self.receiver.recv_timeout(timeout)
    }

    /// See [`Receiver::iter`].
    pub fn iter(&self) -> Iter<'_, R> {
        self.receiver.iter()
    }
}

/// The values that come, to the end. See [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    receiver: &'a Receiver<T>,
}

/// The values that come, to the end. See [`Receiver::iter`].
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

/// The values that its receiver receives.
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

/// That of its receiver.
impl<S, R> AsFd for Connection<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// With the descriptor's number, and with whom.
impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender(fd {}, to {})", self.as_fd().as_raw_fd(), self.peer)
    }
}

/// With the descriptor's number, and with whom.
impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver(fd {}, from {})", self.as_fd().as_raw_fd(), self.peer)
    }
}

/// With the descriptors' numbers, and with whom.
impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sender, receiver) = (self.sender.as_fd().as_raw_fd(), self.receiver.as_fd().as_raw_fd());
        write!(f, "Connection(fds {sender} and {receiver}, with {})", self.peer())
    }
}

/// What an end is, where it travels: nobody takes one for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Role {
    LocalSender,
    LocalReceiver,
    TcpSender,
    TcpReceiver,
}

/// An end that leaves for another process.
#[derive(Serialize)]
#[serde(rename = "End")]
struct Leaving<'a> {
    role: Role,
    #[serde(serialize_with = "handle::serialize")]
    socket: BorrowedFd<'a>,
    peer: Peer,
    limit: u64,
}

/// An end that has come from another process.
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
    /// It, if it is what it says.
    fn checked<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arriving, D::Error> {
        let end = Arriving::deserialize(deserializer)?;
        let fits = match end.role {
            Role::LocalSender | Role::LocalReceiver => fd_passing::is_packet_socket(end.socket.as_fd()),
            Role::TcpSender | Role::TcpReceiver => socket::is_internet_stream(&end.socket),
        };
        if fits { Ok(end) } else { Err(D::Error::custom("this is no end of a pipe")) }
    }
}

const UNFINISHED: &str = "an end of a TCP connection can't be sent away while a message is on its way through it";

/// For another process of this program, as [`Handle`](crate::Handle) is.
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
            Role::LocalReceiver | Role::TcpReceiver => Err(D::Error::custom("this end receives, it does not send")),
        }
    }
}

/// For another process of this program, as [`Handle`](crate::Handle) is.
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
            Role::LocalSender | Role::TcpSender => Err(D::Error::custom("this end sends, it does not receive")),
        }
    }
}

/// For another process of this program, as [`Handle`](crate::Handle) is.
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
