//! [`Listener`]: where processes that are no relatives come to be connected. [`handshakes`](super::reception) hears them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{cmp, fmt};

use multiproc_os::epoll::Epoll;
use multiproc_os::{at_fork, poll, socket, socket_file};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::address::Address;
use super::auth::Key;
use super::connection::{Connection, Link, Receiver, Sender};
use super::handshakes::{Handshakes, ListenerShared, Waiting};
use super::link_error::{ListenError, ListenErrorKind, Refusal};
use super::patience::Patience;
use super::pipe::one_way;
use super::socket_files::Kept;
use super::wait::Waitable;
use crate::{Error, handle, log};

/// See [`Listener::max_message`].
pub(super) const MAX_MESSAGE: u64 = 1 << 30;

/// See [`Listener::handshake_timeout`].
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where others [`connect`](crate::connect) to: processes of this program or of another, on this machine or, over TCP, anywhere. Python's
/// `multiprocessing.connection.Listener`.
///
/// ```
/// use multiproc::{Address, Key, Listener, Process, connect};
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
/// **The key.** Both sides prove to each other that they know it, before anything else is read; it does not go over the wire, and what does is of no
/// use a second time. `None` is for when whoever can reach the address may connect: over a Unix socket its file's mode decides (0600 at first),
/// with an abstract name only processes of the same user and of root are let in, over TCP it is the whole network. What goes through a connection
/// is neither encrypted nor signed: who can change what is on its way in the network can take the connection over.
///
/// **What comes through it** is read as the type that was asked for, or is an error. The two programs must mean the same types; nothing checks that
/// but that the bytes fit. Over a Unix socket, handles can be sent, as through a [`pipe`](crate::pipe): files, queues, locks, connections. Over TCP
/// they are errors at `send`.
///
/// **Nobody is delayed.** Any number may connect and say nothing, or slowly: others are accepted meanwhile, and who has not said in 10 seconds what
/// there is to say has to go. Those who are not let in are told why, and passed over; [`take_refused`](Listener::take_refused) knows of them, and
/// they are logged as warnings, or counted there if they are many. A machine that vanishes counts as gone after two minutes.
///
/// **A crowd** is let in one after the other: clients wait in line, up to the system's limit of
/// `net.core.somaxconn`, and where there is no room (at the limit of open descriptors) one is told
/// to come again, which [`connect`](crate::connect) does until its time is up.
///
/// **Several processes** may accept: a listener is cloned, sent as an argument or in a message, or copied by a fork, and each connection goes to
/// one of them. It is there until the last of them has dropped it; only the socket's file is gone when the process that has made it drops its last
/// clone or ends. If that process is killed the file stays, and the next one who listens there replaces it.
///
/// As a descriptor ([`AsFd`]), and for [`wait`](crate::wait()), it is readable when somebody may be there to be accepted;
/// [`try_accept`](Listener::try_accept) says. A process that has asked for the descriptor keeps those whom it has begun to hear, and must call that
/// whenever the descriptor is readable: their time runs on meanwhile.
#[derive(Clone)]
pub struct Listener {
    inner: Arc<Inner>,
    max_message: u64,
    handshake: Duration,
}

#[derive(Debug)]
struct Inner {
    /// The socket's file, in the process that has made it. First, so that it goes before the socket is dead: nobody finds a dead one.
    _file: Option<Kept>,
    address: Address,
    shared: ListenerShared,
    set: Epoll,
    /// Somebody has the set's descriptor, and will come back when one of those who are in the middle of it has said something.
    is_polled: AtomicBool,
    /// It was sent to another process, or has come from one.
    was_sent: AtomicBool,
    /// How many copies this process had made when it came to be here.
    forks: u32,
    handshakes: Mutex<State>,
}

/// Where the guests of this process are heard.
#[derive(Debug)]
struct State {
    handshakes: Handshakes,
    /// How many threads and futures are accepting.
    attending: usize,
    /// How many of them are futures, which wait for the set alone.
    futures: usize,
}

impl Listener {
    /// Listens at `address`, for those who have the same `key`. The socket's file must not be there yet, or be one that nobody listens at any more:
    /// that is replaced. For TCP, port 0 is one that the system chooses.
    ///
    /// # Errors
    /// [`ListenError`]: somebody else listens there, the file can't be made, this machine has no such address, the key is empty, there are no
    /// descriptors left (`EMFILE`; it takes four).
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
                // The file has to be found again from another directory.
                let (socket, made) = socket_file::listen(&std::path::absolute(path)?)?;
                file = Some(Kept::new(made)?);
                socket
            }
            Address::Abstract(_) | Address::Tcp(_) => socket::listen(address.place())?,
        };
        if let Address::Tcp(chosen) = &mut address {
            *chosen = socket::local_address(&listening)?.unwrap_or(*chosen);
        }
        let (to_backlog, backlog) = one_way().map_err(|error| match error {
            Error::Setup { source, .. } => source,
            other => io::Error::other(other),
        })?;
        let parts = Parts { address, key, max_message: MAX_MESSAGE, handshake: HANDSHAKE };
        Listener::new(parts, listening, (to_backlog, backlog), file)
    }

    fn new(
        parts: Parts,
        listening: OwnedFd,
        (to_backlog, backlog): (Sender<Waiting>, Receiver<Waiting>),
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

    /// Waits for somebody who connects, and knows the key. The types are what this end sends and what it receives.
    ///
    /// # Errors
    /// `Accept` when there are no descriptors left (`EMFILE`): who has connected stays in line. Those who are not let in are no errors.
    pub fn accept<S, R>(&self) -> Result<Connection<S, R>, ListenError> {
        self.accept_with(Patience::Endless)
    }

    /// As [`accept`](Listener::accept), if somebody is there now.
    ///
    /// # Errors
    /// `Empty` when nobody is, or nobody who has said all there is to say. Otherwise as [`accept`](Listener::accept).
    pub fn try_accept<S, R>(&self) -> Result<Connection<S, R>, ListenError> {
        self.accept_with(Patience::None)
    }

    /// As [`accept`](Listener::accept), but waits no longer than `timeout`.
    ///
    /// # Errors
    /// `Timeout` when nobody has come in time; its text tells of the last one who was not let in. Otherwise as [`accept`](Listener::accept).
    pub fn accept_timeout<S, R>(&self, timeout: Duration) -> Result<Connection<S, R>, ListenError> {
        self.accept_with(Patience::of(Some(timeout)))
    }

    fn accept_with<S, R>(&self, patience: Patience) -> Result<Connection<S, R>, ListenError> {
        match self.link(patience) {
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

    fn link(&self, patience: Patience) -> Result<Link, ListenErrorKind> {
        let Inner { shared, set, .. } = &*self.inner;
        let _attending = Attending::begin(self);
        loop {
            let mut state = self.lock();
            let link = state.handshakes.attend(shared, set, self.handshake);
            let deadline = state.handshakes.deadline();
            self.log(state);
            if let Some(link) = link.map_err(ListenErrorKind::Accept)? {
                return Ok(link);
            }
            // Also when there is always somebody else to be heard.
            if patience.is_over() {
                return Err(match patience {
                    Patience::None => ListenErrorKind::Empty,
                    _ => ListenErrorKind::Timeout,
                });
            }
            let until = match (patience.deadline(), deadline) {
                (Some(ours), Some(theirs)) => Some(cmp::min(ours, theirs)),
                (ours, theirs) => ours.or(theirs),
            };
            poll::wait_for_input(set, until).map_err(ListenErrorKind::Accept)?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it listens: as it was told, and for TCP with the port that the system has chosen.
    pub fn local_address(&self) -> &Address {
        &self.inner.address
    }

    /// How many bytes a message may have that comes through a connection that is accepted here; a longer one is an error, and gone. 1 GiB at first, as
    /// it is for those that [`connect`](crate::connect) makes. See [`Connection::set_max_message`] for one connection.
    pub fn max_message(&self) -> u64 {
        self.max_message
    }

    /// Sets [`max_message`](Listener::max_message) for what is accepted by this handle.
    pub fn set_max_message(&mut self, bytes: u64) {
        self.max_message = bytes;
    }

    /// How long one may take who has connected, until it has said all there is to say. 10 seconds at first. The time counts while somebody accepts.
    pub fn handshake_timeout(&self) -> Duration {
        self.handshake
    }

    /// Sets [`handshake_timeout`](Listener::handshake_timeout) for those who are taken in by this handle.
    pub fn set_handshake_timeout(&mut self, timeout: Duration) {
        self.handshake = timeout;
    }

    /// Those who were not let in, by whatever clone of this listener in this process, since this was called last; the last 64 of them, the oldest
    /// first.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::{Address, Key, Listener, RefusalReason, connect};
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
        // From now on a waiter waits for the set alone.
        state.handshakes.keep(&self.inner.set);
        self.log(state);
        is_there
    }

    /// Logs who has been refused. Not under the lock: the logger is the user's.
    fn log(&self, mut state: MutexGuard<'_, State>) {
        let said = state.handshakes.take_unlogged();
        drop(state);
        for line in said {
            log::event(log::Level::Warn, format_args!("at {}: {line}", self.inner.address));
        }
    }

    /// Leaves those who are not through to whoever accepts next, unless somebody here does.
    fn leave(&self, mut state: MutexGuard<'_, State>) {
        let Inner { shared, set, is_polled, .. } = &*self.inner;
        if state.attending > 0 {
            if state.futures > 0 {
                state.handshakes.keep(set);
            }
            return;
        }
        // In the anteroom they would make the descriptor readable at once, though none of them has said a word.
        if is_polled.load(Ordering::Relaxed) {
            state.handshakes.keep(set);
        } else if self.inner.is_shared() {
            state.handshakes.leave(shared, set);
        } else {
            state.handshakes.stop();
        }
        self.log(state);
    }
}

/// A thread that accepts.
struct Attending<'a>(&'a Listener);

impl Attending<'_> {
    fn begin(listener: &Listener) -> Attending<'_> {
        listener.lock().attending += 1;
        Attending(listener)
    }
}

impl Drop for Attending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.attending -= 1;
        self.0.leave(state);
    }
}

/// A future that accepts.
#[cfg(feature = "async")]
pub(super) struct Awaiting<'a>(Attending<'a>);

#[cfg(feature = "async")]
impl Listener {
    /// Clients are heard as long as this is there.
    pub(super) fn attend(&self) -> Awaiting<'_> {
        let attending = Attending::begin(self);
        self.lock().futures += 1;
        Awaiting(attending)
    }

    pub(super) fn not_accepted(&self, error: io::Error) -> ListenError {
        ListenError::new(&self.inner.address, ListenErrorKind::Accept(error))
    }
}

#[cfg(feature = "async")]
impl Awaiting<'_> {
    /// A client that is through, if there is one now.
    pub(super) fn look(&self) -> io::Result<Option<Link>> {
        let listener = self.0.0;
        let Inner { shared, set, .. } = &*listener.inner;
        let mut state = listener.lock();
        let link = state.handshakes.attend(shared, set, listener.handshake);
        state.handshakes.keep(set);
        listener.log(state);
        link
    }

    /// Readable when it is worth another look.
    pub(super) fn source(&self) -> &Arc<impl crate::wake::Source + use<>> {
        &self.0.0.inner
    }
}

#[cfg(feature = "async")]
impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.0.lock().futures -= 1;
    }
}

#[cfg(feature = "async")]
impl crate::wake::Source for Inner {
    fn fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

impl Inner {
    /// Whether other processes may have it.
    fn is_shared(&self) -> bool {
        self.was_sent.load(Ordering::Relaxed) || at_fork::count() != self.forks
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.is_shared() {
            return;
        }
        // Others may still accept here.
        let state = self.handshakes.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.handshakes.close(&self.shared, &self.set);
    }
}

/// That of a set of epoll(7), to be polled and not to be used otherwise.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.is_polled.store(true, Ordering::Relaxed);
        self.inner.set.as_fd()
    }
}

/// Ready when [`try_accept`](Listener::try_accept) will give a connection, unless another thread or process is quicker.
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
        self.leave(self.lock());
    }
}

/// With the descriptor's number.
impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener(fd {}, at {})", self.inner.shared.listening.as_raw_fd(), self.inner.address)
    }
}

/// What a listener is besides its descriptors.
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
    to_backlog: &'a Sender<Waiting>,
    backlog: &'a Receiver<Waiting>,
}

#[derive(Deserialize)]
#[serde(rename = "Listener")]
struct Arriving {
    parts: Parts,
    #[serde(deserialize_with = "handle::deserialize")]
    listening: OwnedFd,
    to_backlog: Sender<Waiting>,
    backlog: Receiver<Waiting>,
}

/// For another process of this program, as [`Handle`](crate::Handle) is. The key goes with it.
impl Serialize for Listener {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Inner { address, shared, was_sent, .. } = &*self.inner;
        if !was_sent.swap(true, Ordering::Relaxed) {
            // From now on another process may accept the clients that are being heard here.
            self.leave(self.lock());
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
            return Err(D::Error::custom("this is no listener"));
        }
        let listener = Listener::new(parts, listening, (to_backlog, backlog), None).map_err(D::Error::custom)?;
        listener.inner.was_sent.store(true, Ordering::Relaxed);
        Ok(listener)
    }
}
