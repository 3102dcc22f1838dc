//! Pipes, connections and listeners in `async` code, on any executor. Needs the feature `async`.
//!
//! Each future first tries, like the `try_` method, and then waits for a descriptor
//! ([`wake`](crate::wake)). It registers nothing with the object itself, so a future that is
//! dropped leaves nothing behind, except where its documentation says so.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use multiproc_os::epoll::{Epoll, Trigger};
use multiproc_os::poll;
use multiproc_os::timer::Timer;
use multiproc_shm::message::fd_bundle::FdBundle;
use multiproc_shm::message::packet::INLINE;
use multiproc_shm::message::payload::{Payload, Sink};
use multiproc_shm::wait::deadline::Deadline;
use multiproc_shm::wake::{Source, Wakeup, take_turns};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::connection::{Connection, Receiver, Rx, Sender, Tx};
use super::error::{RecvError, RecvErrorKind, SendError, SendErrorKind};
use super::link_error::ListenError;
use super::listener::Listener;
use super::{kind, local};

/// Waits until a source may be readable. Returns also when the task was polled for another reason,
/// so the caller must look again.
async fn readable<S: Source>(wakeup: &mut Wakeup, source: &Arc<S>) -> io::Result<()> {
    let mut has_waited = false;
    poll_fn(|context| {
        if has_waited {
            return Poll::Ready(Ok(()));
        }
        has_waited = true;
        wakeup.poll(source, context)
    })
    .await
}

impl Source for Rx {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Rx::Local(socket) => socket.as_fd(),
            Rx::Tcp(rx) => rx.socket().as_fd(),
        }
    }
}

/// A source that is readable when there is room in a socket, or a time has passed.
struct Room(Epoll);

impl Source for Room {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until another try to send may succeed.
async fn room(socket: &OwnedFd) -> io::Result<()> {
    let set = Epoll::new()?;
    // If there is room, the send has failed because too many of the user's descriptors are in
    // flight, and no event tells when that changes.
    let timer = match poll::wait_writable(socket, Some(Instant::now()))? {
        true => Some(Timer::after(local::CHECK_INTERVAL)?),
        false => None,
    };
    match &timer {
        Some(timer) => set.add(timer, 0, Trigger::Level)?,
        None => set.add_writable(socket, 0)?,
    }
    let set = Arc::new(Room(set));
    let mut wakeup = Wakeup::default();
    loop {
        readable(&mut wakeup, &set).await?;
        if !set.0.ready()?.is_empty() {
            return Ok(());
        }
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// Like [`recv`](Receiver::recv), in `async` code on any executor.
    ///
    /// ```
    /// use multiproc::connection::{Sender, one_way};
    /// use multiproc::Process;
    ///
    /// fn worker(results: Sender<u32>) {
    ///     results.send(42).unwrap();
    /// }
    ///
    /// # #[multiproc::main]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, receiver) = one_way()?;
    /// let _child = Process::new(worker, (sender,)).start()?;
    /// assert_eq!(receiver.recv_async().await?, 42);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The message is taken by the poll that completes the future: a future that is dropped before
    /// that, in a `select!` or at a timeout, has taken nothing. See
    /// [`JoinFuture`](crate::process::JoinFuture) for what wakes it.
    ///
    /// # Errors
    /// The errors of [`recv`](Receiver::recv); `Io` also when there is no descriptor or thread to
    /// wait with.
    pub async fn recv_async(&self) -> Result<T, RecvError> {
        self.receive_async(|| self.try_recv()).await
    }
}

impl<T> Receiver<T> {
    /// Like [`recv_bytes`](Receiver::recv_bytes), in `async` code on any executor.
    ///
    /// ```
    /// use multiproc::connection::{Sender, one_way};
    /// use multiproc::Process;
    ///
    /// fn worker(results: Sender<()>) {
    ///     results.send_bytes(b"done").unwrap();
    /// }
    ///
    /// # #[multiproc::main]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, receiver) = one_way()?;
    /// let _child = Process::new(worker, (sender,)).start()?;
    /// assert_eq!(receiver.recv_bytes_async().await?, b"done");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A future that is dropped before it completes has taken nothing, as with
    /// [`recv_async`](Receiver::recv_async).
    ///
    /// # Errors
    /// The errors of [`recv_bytes`](Receiver::recv_bytes); `Io` also when there is no descriptor or
    /// thread to wait with.
    pub async fn recv_bytes_async(&self) -> Result<Vec<u8>, RecvError> {
        self.receive_async(|| self.try_recv_bytes()).await
    }

    async fn receive_async<M>(&self, try_receive: impl Fn() -> Result<M, RecvError>) -> Result<M, RecvError> {
        take_turns().await;
        let mut waiting: Option<(Wakeup, Arc<Rx>)> = None;
        loop {
            match try_receive() {
                Err(error) if matches!(error.kind, RecvErrorKind::Empty) => {}
                received => return received,
            }
            let (wakeup, source) = waiting.get_or_insert_with(|| (Wakeup::default(), Arc::new(self.rx.clone())));
            let woken = readable(wakeup, source).await;
            woken.map_err(|error| RecvError { kind: RecvErrorKind::Io(error), peer: self.peer() })?;
        }
    }
}

impl<T: Serialize + DeserializeOwned> Sender<T> {
    /// Like [`send`](Sender::send), in `async` code on any executor.
    ///
    /// ```
    /// # #[multiproc::main]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, receiver) = multiproc::connection::one_way()?;
    /// let both = tokio::join!(
    ///     async { for _ in 0..100 { sender.send_async(vec![7_u8; 30_000]).await.unwrap() } },
    ///     async { for _ in 0..100 { assert_eq!(receiver.recv_async().await.unwrap().len(), 30_000) } },
    /// );
    /// # let ((), ()) = both;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// If the future is dropped before it completes, the message is not sent, and is dropped with
    /// it. Over TCP, a part of the message may have been sent by then; the rest is sent before the
    /// next message, and the message arrives then, as after
    /// [`Unfinished`](crate::connection::SendErrorKind::Unfinished). The future takes two
    /// descriptors while it waits.
    ///
    /// # Errors
    /// The errors of [`send`](Sender::send); `Io` also when there is no descriptor or thread to
    /// wait with.
    pub async fn send_async(&self, value: T) -> Result<(), SendError<T>> {
        take_turns().await;
        match self.send_value(&value).await {
            Ok(()) => Ok(()),
            Err(kind) => Err(self.error(value, kind)),
        }
    }

    async fn send_value(&self, value: &T) -> Result<(), SendErrorKind> {
        let payload = loop {
            match self.payload(value)? {
                Some(payload) => break payload,
                None => room(self.socket()).await.map_err(SendErrorKind::Io)?,
            }
        };
        self.send_payload(kind::VALUE, payload).await
    }
}

impl<T> Sender<T> {
    /// Like [`send_bytes`](Sender::send_bytes), in `async` code on any executor.
    ///
    /// ```
    /// use multiproc::connection::Receiver;
    /// use multiproc::Process;
    ///
    /// fn worker(receiver: Receiver<()>) -> usize {
    ///     receiver.recv_bytes().unwrap().len()
    /// }
    ///
    /// # #[multiproc::main]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, receiver) = multiproc::connection::one_way::<()>()?;
    /// let child = Process::new(worker, (receiver,)).start()?;
    /// sender.send_bytes_async(&vec![7; 1_000_000]).await?;
    /// assert_eq!(child.await?, 1_000_000);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// If the future is dropped before it completes, the message is not sent; over TCP, a part of
    /// it may have been, see [`send_async`](Sender::send_async).
    ///
    /// # Errors
    /// The errors of [`send_bytes`](Sender::send_bytes); `Io` also when there is no descriptor or
    /// thread to wait with.
    pub async fn send_bytes_async(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        take_turns().await;
        self.send_bytes_as_a_whole(bytes).await.map_err(|kind| self.error((), kind))
    }

    async fn send_bytes_as_a_whole(&self, bytes: &[u8]) -> Result<(), SendErrorKind> {
        if let Tx::Local(socket) = &self.tx
            && bytes.len() <= INLINE
        {
            loop {
                match local::send_bytes(socket, kind::BYTES, bytes, Deadline::Now) {
                    Err(SendErrorKind::Full) => room(socket).await.map_err(SendErrorKind::Io)?,
                    sent => return sent,
                }
            }
        }
        let mut sink = Sink::new();
        let bytes = sink.extend(bytes).and_then(|()| sink.finish()).map_err(SendErrorKind::Io)?;
        self.send_payload(kind::BYTES, Payload { bytes, handles: FdBundle::default() }).await
    }

    fn socket(&self) -> &OwnedFd {
        match &self.tx {
            Tx::Local(socket) => socket,
            Tx::Tcp(tx) => tx.socket(),
        }
    }

    async fn send_payload(&self, kind: u8, payload: Payload) -> Result<(), SendErrorKind> {
        match &self.tx {
            Tx::Local(socket) => loop {
                match local::send(socket, kind, &payload, Deadline::Now) {
                    Err(SendErrorKind::Full) => room(socket).await.map_err(SendErrorKind::Io)?,
                    sent => return sent,
                }
            },
            Tx::Tcp(tx) => {
                let mut sending = tx.sending(kind, payload)?;
                loop {
                    match sending.go_on(Deadline::Now) {
                        Err(SendErrorKind::Full | SendErrorKind::Unfinished) => {
                            // Yield: the peer may receive as fast as this sends, and then this loop
                            // would not end.
                            take_turns().await;
                            room(tx.socket()).await.map_err(SendErrorKind::Io)?;
                        }
                        sent => return sent,
                    }
                }
            }
        }
    }
}

impl<S: Serialize + DeserializeOwned, R> Connection<S, R> {
    /// Sends `value`. See [`Sender::send_async`].
    ///
    /// # Errors
    /// The errors of [`Sender::send_async`].
    pub async fn send_async(&self, value: S) -> Result<(), SendError<S>> {
        self.sender().send_async(value).await
    }
}

impl<S, R> Connection<S, R> {
    /// Sends `bytes` as one message. See [`Sender::send_bytes_async`].
    ///
    /// # Errors
    /// The errors of [`Sender::send_bytes_async`].
    pub async fn send_bytes_async(&self, bytes: &[u8]) -> Result<(), SendError<()>> {
        self.sender().send_bytes_async(bytes).await
    }

    /// Receives one message as bytes. See [`Receiver::recv_bytes_async`].
    ///
    /// # Errors
    /// The errors of [`Receiver::recv_bytes_async`].
    pub async fn recv_bytes_async(&self) -> Result<Vec<u8>, RecvError> {
        self.receiver().recv_bytes_async().await
    }
}

impl<S, R: DeserializeOwned> Connection<S, R> {
    /// Receives a value. See [`Receiver::recv_async`].
    ///
    /// # Errors
    /// The errors of [`Receiver::recv_async`].
    pub async fn recv_async(&self) -> Result<R, RecvError> {
        self.receiver().recv_async().await
    }
}

impl Listener {
    /// Like [`accept`](Listener::accept), in `async` code on any executor.
    ///
    /// ```
    /// use multiproc::connection::{Address, Key, Listener, connect};
    /// use multiproc::Process;
    ///
    /// fn client(address: Address, key: Key) {
    ///     connect::<u32, u32>(address, key).unwrap().send(7).unwrap();
    /// }
    ///
    /// # #[multiproc::main]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (address, key) = (Address::unique(), Key::random()?);
    /// let listener = Listener::bind(&address, key.clone())?;
    /// let _child = Process::new(client, (address, key)).start()?;
    /// let connection = listener.accept_async::<u32, u32>().await?;
    /// assert_eq!(connection.recv_async().await?, 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The connection is taken by the poll that completes the future: a future that is dropped
    /// before that has taken none, and the handshakes that it has begun go on with the next accept.
    ///
    /// # Errors
    /// The errors of [`accept`](Listener::accept); `Accept` also when there is no descriptor or
    /// thread to wait with.
    pub async fn accept_async<S, R>(&self) -> Result<Connection<S, R>, ListenError> {
        take_turns().await;
        let attending = self.attend();
        let mut wakeup = Wakeup::default();
        loop {
            match attending.look() {
                Ok(Some(link)) => return Ok(Connection::of(link, self.max_message())),
                Ok(None) => {}
                Err(error) => return Err(self.not_accepted(error)),
            }
            let woken = readable(&mut wakeup, attending.source()).await;
            woken.map_err(|error| self.not_accepted(error))?;
        }
    }
}
