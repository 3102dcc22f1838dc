//! [`Listener`]: accepts connections from processes that are not related to this one. Its side of
//! the handshake is in [`handshakes`](super::handshakes); `CONNECTION.md` has the protocol.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{cmp, fmt};

use multiproc_os::epoll::Epoll;
use multiproc_os::{at_fork, poll, socket, socket_file};
use multiproc_shm::wait::deadline::Deadline;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Address;
use super::auth::Key;
use super::connection::{Connection, Link, Receiver, Sender};
use super::handshakes::{BacklogEntry, Handshakes, ListenerShared};
use super::link_error::{ListenError, ListenErrorKind, Refusal};
use super::pipe::one_way;
use super::socket_files::Kept;
use super::wait::Waitable;
use crate::{handle, log};

/// The initial value of [`Listener::max_message`], in bytes.
pub(super) const MAX_MESSAGE: u64 = 1 << 30;

/// The initial value of [`Listener::handshake_timeout`].
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A server socket to which other processes [`connect`](crate::connection::connect): processes of
/// this program or of another, on this machine or, over TCP, on any machine. Python's
/// `multiprocessing.connection.Listener`.
///
/// ```
/// use multiproc::connection::{Address, Key, Listener, connect};
/// use multiproc::Process;
///
/// fn client(address: Address, key: Key) {
///     let connection = connect::<String, usize>(address, key).unwrap();
///     connection.send("hello".into()).unwrap();
///     assert_eq!(connection.recv().unwrap(), 5);
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (address, key) = (Address::unique(), Key::random()?); // or "/run/user/1000/my.socket", or "127.0.0.1:5000".parse::<SocketAddr>()?
/// let listener = Listener::bind(&address, key.clone())?;
/// let child = Process::new(client, (address, key)).start()?;
/// let connection = listener.accept::<usize, String>()?;
/// connection.send(connection.recv()?.len())?;
/// child.join()?;
/// # Ok(())
/// # }
/// ```
///
/// **The key.** Before anything else is read, both sides prove to each other that they know the
/// key. The key itself is not sent, and what is sent can't be used a second time. With `None`, any
/// process that can reach the address may connect: at a path, the mode of the socket's file decides
/// (0600 at first); at an abstract name, only processes of the same user and of root are accepted;
/// over TCP, it is the whole network. Messages are neither encrypted nor signed: an attacker that
/// can change network traffic can take over the connection.
///
/// **Types.** What is received is decoded as the type that the receiver asks for, or is an error.
/// The two programs must use the same types; nothing checks that beyond whether the bytes can be
/// decoded. Over a Unix socket, handles can be sent, as through a [`pipe`](crate::pipe): files,
/// queues, locks, connections. Over TCP, sending them is an error.
///
/// **Slow clients delay no others.** Any number of clients may connect and send nothing, or send
/// slowly: others are accepted meanwhile, and a client that has not completed the handshake after
/// 10 seconds is disconnected. Refused clients get the reason;
/// [`take_refused`](Listener::take_refused) returns them, and they are logged as warnings, or only
/// counted in the log if there are many. A machine that vanishes counts as gone after two minutes.
///
/// **Many clients** are accepted one after the other: they wait in the backlog, up to the system's
/// limit of `net.core.somaxconn`. Where there is no room, at the limit of open descriptors, a
/// client is refused for the moment, and [`connect`](crate::connection::connect) tries again
/// until its timeout expires.
///
/// **Several processes** may accept: a listener can be cloned, sent as an argument or in a message,
/// or copied by a fork, and each connection goes to one of the processes. The listener exists until
/// the last of them has dropped it, but the socket's file is removed when the process that has made
/// it drops its last clone or ends. If that process is killed the file stays, and the next listener
/// at the path replaces it.
///
/// As a descriptor ([`AsFd`]), and for [`wait_any`](crate::wait_any), it is readable when there may
/// be a connection to accept; [`try_accept`](Listener::try_accept) returns it. A process that has
/// asked for the descriptor keeps the clients with which it has begun the handshake, and must call
/// `try_accept` whenever the descriptor is readable: the clients' timeouts keep running.
#[derive(Clone)]
pub struct Listener {
    inner: Arc<Inner>,
    max_message: u64,
    handshake: Duration,
}

#[derive(Debug)]
struct Inner {
    /// The socket's file, in the process that has made it. The first field, so that it is dropped
    /// before the socket: no client finds a file without a listener.
    _file: Option<Kept>,
    address: Address,
    shared: ListenerShared,
    set: Epoll,
    /// This process has asked for the set's descriptor, and will call `try_accept` when a client in
    /// the handshake has sent something.
    is_polled: AtomicBool,
    /// The listener was sent to another process, or has been received from one.
    was_sent: AtomicBool,
    /// How many fork copies this process had made when it got the listener.
    forks: u32,
    handshakes: Mutex<State>,
}

/// The handshakes in this process, and how many of its threads run them.
#[derive(Debug)]
struct State {
    handshakes: Handshakes,
    /// How many threads and futures are accepting.
    attending: usize,
    /// How many of them are futures, which wait for nothing but the set.
    futures: usize,
}

impl Listener {
    /// Listens at `address` for clients that have the same `key`. At a path there must be no file
    /// yet, or the socket of a listener that is gone, which is replaced. For TCP, port 0 lets the
    /// system choose a port.
    ///
    /// # Errors
    /// [`ListenError`]: another listener is there, the file can't be made, this machine has no such
    /// address, the key is empty, or no descriptors are left (`EMFILE`; a listener takes four).
    pub fn bind(address: impl Into<Address>, key: impl Into<Option<Key>>) -> Result<Listener, ListenError> {
        let address = address.into();
        Listener::bind_at(address.clone(), key.into())
            .map_err(|error| ListenError::new(&address, ListenErrorKind::Bind(error)))
    }

    fn bind_at(mut address: Address, key: Option<Key>) -> io::Result<Listener> {
        if key.as_ref().is_some_and(|key| key.as_bytes().is_empty()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the key is empty"));
        }
        address.check()?;
        let mut file = None;
        let listening = match &address {
            Address::Unix(path) => {
                // The path must stay valid when the process changes its directory.
                let (socket, made) = socket_file::listen(&std::path::absolute(path)?)?;
                file = Some(Kept::new(made)?);
                socket
            }
            Address::Abstract(_) | Address::Tcp(_) => socket::listen(address.socket_address())?,
        };
        if let Address::Tcp(chosen) = &mut address {
            *chosen = socket::local_address(&listening)?.unwrap_or(*chosen);
        }
        let (to_backlog, backlog) = one_way().map_err(|error| error.source)?;
        let parts = Parts { address, key, max_message: MAX_MESSAGE, handshake: HANDSHAKE_TIMEOUT };
        Listener::new(parts, listening, (to_backlog, backlog), file)
    }

    fn new(
        parts: Parts,
        listening: OwnedFd,
        (to_backlog, backlog): (Sender<BacklogEntry>, Receiver<BacklogEntry>),
        file: Option<Kept>,
    ) -> io::Result<Listener> {
        let Parts { address, key, max_message, handshake } = parts;
        let tcp = matches!(address, Address::Tcp(_));
        let same_user = matches!(address, Address::Abstract(_)) && key.is_none();
        let shared = ListenerShared { listening, key, tcp, same_user, to_backlog, backlog };
        let set = Epoll::new()?;
        let handshakes = Mutex::new(State { handshakes: Handshakes::open(&shared, &set)?, attending: 0, futures: 0 });
        let inner = Inner {
            address,
            shared,
            set,
            is_polled: AtomicBool::new(false),
            was_sent: AtomicBool::new(false),
            forks: at_fork::count(),
            handshakes,
            _file: file,
        };
        Ok(Listener { inner: Arc::new(inner), max_message, handshake })
    }

    /// Waits for a client that completes the handshake. The types are what this end sends and what
    /// it receives.
    ///
    /// # Errors
    /// `Accept` when no descriptors are left (`EMFILE`), in which case clients stay in the backlog.
    /// Refused clients are not errors.
    pub fn accept<S, R>(&self) -> Result<Connection<S, R>, ListenError> {
        self.accept_with(Deadline::Never)
    }

    /// Like [`accept`](Listener::accept), but doesn't wait.
    ///
    /// # Errors
    /// `Empty` when no client has completed the handshake. Otherwise those of
    /// [`accept`](Listener::accept).
    pub fn try_accept<S, R>(&self) -> Result<Connection<S, R>, ListenError> {
        self.accept_with(Deadline::Now)
    }

    /// Like [`accept`](Listener::accept), but waits for at most `timeout`.
    ///
    /// # Errors
    /// `Timeout` when no client has completed the handshake in time; the error's text names the
    /// last client that was refused. Otherwise those of [`accept`](Listener::accept).
    pub fn accept_timeout<S, R>(&self, timeout: Duration) -> Result<Connection<S, R>, ListenError> {
        self.accept_with(Deadline::from_now(timeout))
    }

    fn accept_with<S, R>(&self, deadline: Deadline) -> Result<Connection<S, R>, ListenError> {
        match self.link(deadline) {
            Ok(link) => Ok(Connection::of(link, self.max_message)),
            Err(kind) => {
                let last = match kind {
                    ListenErrorKind::Timeout => self.lock().handshakes.refusals().back().cloned(),
                    _ => None,
                };
                Err(ListenError { last, ..ListenError::new(&self.inner.address, kind) })
            }
        }
    }

    fn link(&self, deadline: Deadline) -> Result<Link, ListenErrorKind> {
        let Inner { shared, set, .. } = &*self.inner;
        let _attending = AcceptGuard::begin(self);
        loop {
            let mut state = self.lock();
            let link = state.handshakes.attend(shared, set, self.handshake);
            let handshake = state.handshakes.deadline();
            self.log(state);
            if let Some(link) = link.map_err(ListenErrorKind::Accept)? {
                return Ok(link);
            }
            // Checked also while there are always more clients to handle.
            if deadline.has_passed() {
                return Err(match deadline {
                    Deadline::Now => ListenErrorKind::Empty,
                    _ => ListenErrorKind::Timeout,
                });
            }
            let until = match (deadline.instant(), handshake) {
                (Some(ours), Some(theirs)) => Some(cmp::min(ours, theirs)),
                (ours, theirs) => ours.or(theirs),
            };
            poll::wait_readable(set, until).map_err(ListenErrorKind::Accept)?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the address at which this listens: the one it was given, and for TCP with the port
    /// that the system has chosen.
    pub fn local_address(&self) -> &Address {
        &self.inner.address
    }

    /// Returns the greatest length in bytes of a message that accepted connections receive. A
    /// longer message is an error, and is discarded. 1 GiB at first, as for connections made by
    /// [`connect`](crate::connection::connect). See [`Connection::set_max_message`] for a single
    /// connection.
    pub fn max_message(&self) -> u64 {
        self.max_message
    }

    /// Sets [`max_message`](Listener::max_message) for connections accepted through this handle.
    pub fn set_max_message(&mut self, bytes: u64) {
        self.max_message = bytes;
    }

    /// Returns how long a client may take for the handshake. 10 seconds at first. The time counts
    /// while a thread accepts.
    pub fn handshake_timeout(&self) -> Duration {
        self.handshake
    }

    /// Sets [`handshake_timeout`](Listener::handshake_timeout) for clients that begin the handshake
    /// through this handle.
    pub fn set_handshake_timeout(&mut self, timeout: Duration) {
        self.handshake = timeout;
    }

    /// Returns the clients that were refused since the last call, by any clone of this listener in
    /// this process: at most the last 64 of them, the oldest first.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::connection::{Address, Key, Listener, RefusalReason, connect};
    ///
    /// let address = Address::unique();
    /// let listener = Listener::bind(&address, Key::new("right"))?;
    /// let client = std::thread::spawn(move || connect::<u8, u8>(address, Key::new("wrong")));
    /// while listener.take_refused().iter().all(|refusal| refusal.reason() != RefusalReason::WrongKey) {
    ///     let _ = listener.accept_timeout::<u8, u8>(Duration::from_millis(10));
    /// }
    /// assert!(client.join().unwrap().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_refused(&self) -> Vec<Refusal> {
        self.lock().handshakes.take_refusals().into()
    }

    fn look(&self) -> io::Result<bool> {
        let mut state = self.lock();
        let is_there = state.handshakes.look(&self.inner.shared, &self.inner.set, self.handshake);
        // From now on, the waiter waits for nothing but the set.
        state.handshakes.keep(&self.inner.set);
        self.log(state);
        is_there
    }

    /// Logs refused clients. Releases the lock first, because the logger is the user's.
    fn log(&self, mut state: MutexGuard<'_, State>) {
        let lines = state.handshakes.take_unlogged();
        drop(state);
        for line in lines {
            log::event(log::Level::Warn, format_args!("at {}: {line}", self.inner.address));
        }
    }

    /// Leaves the clients in the handshake to the next process that accepts, unless a thread of
    /// this process still accepts.
    fn release_clients(&self, mut state: MutexGuard<'_, State>) {
        let Inner { shared, set, is_polled, .. } = &*self.inner;
        if state.attending > 0 {
            if state.futures > 0 {
                state.handshakes.keep(set);
            }
            return;
        }
        // In the shared backlog, clients would make the descriptor readable at once, although none
        // of them has sent anything.
        if is_polled.load(Ordering::Relaxed) {
            state.handshakes.keep(set);
        } else if self.inner.is_shared() {
            state.handshakes.move_to_backlog(shared, set);
        } else {
            state.handshakes.keep_clients();
        }
        self.log(state);
    }
}

/// A thread that accepts, counted in [`State`].
struct AcceptGuard<'a>(&'a Listener);

impl AcceptGuard<'_> {
    fn begin(listener: &Listener) -> AcceptGuard<'_> {
        listener.lock().attending += 1;
        AcceptGuard(listener)
    }
}

impl Drop for AcceptGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.attending -= 1;
        self.0.release_clients(state);
    }
}

/// A future that accepts, counted in [`State`].
#[cfg(feature = "async")]
pub(super) struct AsyncAccept<'a>(AcceptGuard<'a>);

#[cfg(feature = "async")]
impl Listener {
    /// Starts to accept: handshakes go on as long as the returned value exists.
    pub(super) fn attend(&self) -> AsyncAccept<'_> {
        let attending = AcceptGuard::begin(self);
        self.lock().futures += 1;
        AsyncAccept(attending)
    }

    pub(super) fn not_accepted(&self, error: io::Error) -> ListenError {
        ListenError::new(&self.inner.address, ListenErrorKind::Accept(error))
    }
}

#[cfg(feature = "async")]
impl AsyncAccept<'_> {
    /// Returns a client that has completed the handshake, if there is one now.
    pub(super) fn look(&self) -> io::Result<Option<Link>> {
        let listener = self.0.0;
        let Inner { shared, set, .. } = &*listener.inner;
        let mut state = listener.lock();
        let link = state.handshakes.attend(shared, set, listener.handshake);
        state.handshakes.keep(set);
        listener.log(state);
        link
    }

    /// Returns what becomes readable when [`look`](AsyncAccept::look) should be called again.
    pub(super) fn source(&self) -> &Arc<impl multiproc_shm::wake::Source + use<>> {
        &self.0.0.inner
    }
}

#[cfg(feature = "async")]
impl Drop for AsyncAccept<'_> {
    fn drop(&mut self) {
        self.0.0.lock().futures -= 1;
    }
}

#[cfg(feature = "async")]
impl multiproc_shm::wake::Source for Inner {
    fn fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

impl Inner {
    /// Whether other processes may have this listener.
    fn is_shared(&self) -> bool {
        self.was_sent.load(Ordering::Relaxed) || at_fork::count() != self.forks
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.is_shared() {
            return;
        }
        // Other processes may still accept: the clients in the handshake go to them.
        let state = self.handshakes.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.handshakes.close(&self.shared, &self.set);
    }
}

/// The descriptor of a set of epoll(7). Use it only for polling.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.is_polled.store(true, Ordering::Relaxed);
        self.inner.set.as_fd()
    }
}

/// Ready when [`try_accept`](Listener::try_accept) will return a connection, unless another thread
/// or process takes it first.
impl Waitable for Listener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.inner.set.as_fd()
    }

    fn ready(&self) -> io::Result<bool> {
        self.look()
    }

    fn woken(&self) -> io::Result<bool> {
        self.look()
    }

    fn finished(&self) {
        self.release_clients(self.lock());
    }
}

/// Shows the descriptor's number and the address.
impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener(fd {}, at {})", self.inner.shared.listening.as_raw_fd(), self.inner.address)
    }
}

/// The parts of a listener besides its descriptors.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Parts {
    address: Address,
    key: Option<Key>,
    max_message: u64,
    handshake: Duration,
}

#[derive(Serialize)]
#[serde(rename = "Listener")]
struct Leaving<'a> {
    parts: Parts,
    #[serde(serialize_with = "handle::serialize")]
    listening: BorrowedFd<'a>,
    to_backlog: &'a Sender<BacklogEntry>,
    backlog: &'a Receiver<BacklogEntry>,
}

#[derive(Deserialize)]
#[serde(rename = "Listener")]
struct Arriving {
    parts: Parts,
    #[serde(deserialize_with = "handle::deserialize")]
    listening: OwnedFd,
    to_backlog: Sender<BacklogEntry>,
    backlog: Receiver<BacklogEntry>,
}

/// A listener can be sent only to another process of this program, like a
/// [`Handle`](crate::Handle). The key is sent with it.
impl Serialize for Listener {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Inner { address, shared, was_sent, .. } = &*self.inner;
        if !was_sent.swap(true, Ordering::Relaxed) {
            // From now on another process may accept the clients in the handshake here.
            self.release_clients(self.lock());
        }
        let (address, key) = (address.clone(), shared.key.clone());
        let parts = Parts { address, key, max_message: self.max_message, handshake: self.handshake };
        let (to_backlog, backlog) = (&shared.to_backlog, &shared.backlog);
        Leaving { parts, listening: shared.listening.as_fd(), to_backlog, backlog }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Listener {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Listener, D::Error> {
        let Arriving { parts, listening, to_backlog, backlog } = Arriving::deserialize(deserializer)?;
        if !socket::is_listening(&listening) {
            return Err(D::Error::custom("the descriptor is not a listening socket"));
        }
        let listener = Listener::new(parts, listening, (to_backlog, backlog), None).map_err(D::Error::custom)?;
        listener.inner.was_sent.store(true, Ordering::Relaxed);
        Ok(listener)
    }
}
