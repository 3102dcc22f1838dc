//! The keeper: a thread that answers the clients of all names of this process. The first name
//! launches it, and it ends with the last one.
//!
//! It never waits for a single client: all connections are in one epoll(7) set, beside the sockets
//! that listen. Their number and the time that each may take are limited, and beyond that the
//! oldest is dismissed; so silent clients don't delay others. Other threads access the names under
//! a lock that is held for a few system calls; user code (an offer) is called and dropped outside
//! of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use multiproc_os::close_on_fork::CloseOnFork;
use multiproc_os::epoll::{Epoll, Trigger, Waker};
use multiproc_os::errno::{EACCES, EINVAL, EIO, EMFILE, ENFILE, ETOOMANYREFS};
use multiproc_os::fork_local::ForkLocal;
use multiproc_os::robust::copy_number;
use multiproc_os::{fd_passing, signal, socket};

use super::wire::{self, Answer, Request, Unfit};
use super::{Offer, is_trusted};

/// The maximum number of clients at a time; one more dismisses the oldest.
const MOST: usize = 128;

/// How long a client may stay silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many connections are accepted at one name before the others have their turn.
const AT_A_TIME: usize = 16;

/// How long no connection is accepted at a name after the descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// Set in the key of a client, and not in that of a name.
const CLIENT: u64 = 1 << 62;

/// The key of the waker.
const WAKE: u64 = u64::MAX;

/// The names of this process, and their keeper. A fork copy of the process has none.
static NAMES: ForkLocal<Mutex<Names>> = ForkLocal::new();

#[derive(Default)]
struct Names {
    /// Present as long as there are names.
    keeper: Option<Keeper>,
    /// Threads that have no names any more and are about to end. The first drop of a name that can
    /// join them does.
    dismissed: Vec<JoinHandle<()>>,
    next_key: u64,
}

/// The thread, as seen by the others.
struct Keeper {
    /// The set that the thread waits for. A thread that finds another set here, or none, has been
    /// dismissed.
    epoll: Arc<Epoll>,
    /// Wakes the thread when it is dismissed. The thread shares it, so that it exists until then.
    waker: Arc<Waker>,
    thread: JoinHandle<()>,
    names: HashMap<u64, Name>,
}

struct Name {
    /// Listens. It is in the epoll set, except during a pause for lack of descriptors.
    socket: CloseOnFork,
    offer: Weak<dyn Offer>,
    is_live: Arc<AtomicBool>,
}

/// A name that this process owns; dropping it removes the name. In a fork copy of the process it
/// has no effect.
pub(crate) struct Published {
    key: u64,
    is_live: Arc<AtomicBool>,
    /// The number of the fork copy that owns the name.
    copy: u32,
}

impl Published {
    /// Returns whether the name can be found: it hasn't been withdrawn, and this is the process
    /// that owns it, not a fork copy.
    pub(crate) fn is_live(&self) -> bool {
        self.copy == copy_number() && self.is_live.load(Relaxed)
    }
}

/// Removes the name, so that it can be published again. Dropping the last name also ends the
/// thread, and waits for that.
impl Drop for Published {
    fn drop(&mut self) {
        if self.copy != copy_number() {
            return;
        }
        let dismissed = {
            let mut names = lock();
            names.give_up(self.key);
            // The thread may drop a name together with an offer; it can't join itself.
            match IS_KEEPER.get() || names.keeper.is_some() {
                true => Vec::new(),
                false => std::mem::take(&mut names.dismissed),
            }
        };
        for thread in dismissed {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Published(live: {})", self.is_live())
    }
}

thread_local! {
    static IS_KEEPER: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn lock() -> MutexGuard<'static, Names> {
    NAMES.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the clients that connect to `socket`, which listens.
///
/// # Errors
/// `EMFILE`, `EAGAIN` at the limit of threads, `ENOSPC` at that of watches.
pub(super) fn keep(socket: CloseOnFork, offer: Weak<dyn Offer>) -> io::Result<Published> {
    let mut names = lock();
    let key = names.next_key;
    names.next_key += 1;
    let keeper = match &mut names.keeper {
        Some(keeper) => keeper,
        none => none.insert(Keeper::launch()?),
    };
    let is_live = Arc::new(AtomicBool::new(true));
    let added = keeper.epoll.add(&socket, key, Trigger::Level);
    if added.is_ok() {
        keeper.names.insert(key, Name { socket, offer, is_live: is_live.clone() });
    }
    names.dismiss_if_idle();
    added.map(|()| Published { key, is_live, copy: copy_number() })
}

impl Keeper {
    fn launch() -> io::Result<Keeper> {
        let epoll = Arc::new(Epoll::new()?);
        let waker = Arc::new(Waker::new(&epoll, WAKE)?);
        let (its_epoll, its_waker) = (epoll.clone(), waker.clone());
        let thread = thread::Builder::new().name("multiproc-names".into()).stack_size(256 << 10);
        let thread = signal::with_signals_blocked(|| {
            thread.spawn(move || {
                serve(&its_epoll);
                drop(its_waker);
            })
        })?;
        Ok(Keeper { epoll, waker, thread, names: HashMap::new() })
    }
}

impl Names {
    /// Removes a name, if it still exists.
    fn give_up(&mut self, key: u64) {
        let Some(keeper) = &mut self.keeper else { return };
        if let Some(name) = keeper.names.remove(&key) {
            name.is_live.store(false, Relaxed);
            // Closing alone isn't enough: a fork copy that hasn't closed the socket would keep it
            // in the epoll set.
            let _ = keeper.epoll.remove(&name.socket);
        }
        self.dismiss_if_idle();
    }

    fn dismiss_if_idle(&mut self) {
        if let Some(Keeper { waker, thread, .. }) = self.keeper.take_if(|keeper| keeper.names.is_empty()) {
            waker.wake();
            self.dismissed.retain(|thread| !thread.is_finished());
            self.dismissed.push(thread);
        }
    }

    /// Returns the keeper, if this is its epoll set.
    fn of(&mut self, epoll: &Arc<Epoll>) -> Option<&mut Keeper> {
        self.keeper.as_mut().filter(|keeper| Arc::ptr_eq(&keeper.epoll, epoll))
    }
}

/// The main loop of the thread.
fn serve(epoll: &Arc<Epoll>) {
    IS_KEEPER.set(true);
    let mut reception =
        Requests { epoll, clients: BTreeMap::new(), next_key: CLIENT, spare: spare(), paused: Vec::new() };
    while let Some(deadline) = reception.deadline() {
        let Ok(keys) = epoll.wait_until(deadline) else {
            // Other code has closed the set's descriptor. No client could be answered any more,
            // so the names are given up.
            let mut names = lock();
            if let Some(keeper) = names.of(epoll) {
                for name in std::mem::take(&mut keeper.names).into_values() {
                    name.is_live.store(false, Relaxed);
                }
                names.dismiss_if_idle();
            }
            return;
        };
        for key in keys {
            match key {
                WAKE => {}
                _ if key & CLIENT == 0 => reception.take_in(key),
                _ => reception.hear_again(key),
            }
        }
        reception.send_away_the_late();
        reception.end_pauses();
    }
}

/// A connected client.
struct Client {
    socket: CloseOnFork,
    /// The key of the name to which it has connected.
    name: u64,
    deadline: Instant,
}

/// The connected clients, which only the thread uses.
struct Requests<'a> {
    epoll: &'a Arc<Epoll>,
    /// Clients that haven't sent a request yet, the oldest first.
    clients: BTreeMap<u64, Client>,
    next_key: u64,
    /// A descriptor that is closed when none is left, so that a client can be accepted and told so.
    spare: Option<Epoll>,
    /// Names at which no connection is accepted until the given time.
    paused: Vec<(u64, Instant)>,
}

/// Any kind of descriptor serves the purpose.
fn spare() -> Option<Epoll> {
    Epoll::new().ok()
}

impl Requests<'_> {
    /// The time at which there is something to do if no client sends anything. `None` if the thread
    /// has been dismissed.
    fn deadline(&self) -> Option<Option<Instant>> {
        lock().of(self.epoll)?;
        let silent = self.clients.values().next().map(|client| client.deadline);
        Some(silent.into_iter().chain(self.paused.iter().map(|(_, until)| *until)).min())
    }

    /// Calls `act` with a name, if it still exists.
    fn with_name<T>(&self, key: u64, act: impl FnOnce(&Name) -> T) -> Option<T> {
        let mut names = lock();
        let name = names.of(self.epoll)?.names.get(&key)?;
        Some(act(name))
    }

    /// Accepts the clients that have connected to a name.
    fn take_in(&mut self, key: u64) {
        for _ in 0..AT_A_TIME {
            match self.with_name(key, |name| socket::try_accept(&name.socket)) {
                None | Some(Ok(None)) => return,
                Some(Ok(Some((socket, _)))) => self.receive(key, socket),
                Some(Err(error)) if is_full(&error) && self.send_away_the_oldest() => {}
                Some(Err(error)) => {
                    let errno = error.raw_os_error().unwrap_or(EIO);
                    if !self.turn_away(key, errno) {
                        self.pause(key);
                        return;
                    }
                }
            }
        }
    }

    /// Serves a client that was just accepted.
    fn receive(&mut self, name: u64, socket: OwnedFd) {
        if !socket::peer_process(&socket).is_ok_and(|(_, user)| is_trusted(user)) {
            say(&socket, Answer::NotServed);
            return;
        }
        let Ok(socket) = CloseOnFork::new(socket) else { return };
        let client = Client { socket, name, deadline: Instant::now() + PATIENCE };
        // Nearly always the request has arrived already.
        let Some(client) = self.hear(client) else { return };
        if self.clients.len() == MOST {
            self.send_away_the_oldest();
        }
        let key = self.next_key;
        self.next_key += 1;
        match self.epoll.add(&client.socket, key, Trigger::Level) {
            Ok(()) => drop(self.clients.insert(key, client)),
            Err(error) => say(&client.socket, Answer::Failed(error.raw_os_error().unwrap_or(EIO))),
        }
    }

    /// Reads from a client that has been silent so far.
    fn hear_again(&mut self, key: u64) {
        if let Some(client) = self.take_out(key)
            && let Some(client) = self.hear(client)
            && self.epoll.add(&client.socket, key, Trigger::Level).is_ok()
        {
            self.clients.insert(key, client);
        }
    }

    fn take_out(&mut self, key: u64) -> Option<Client> {
        let client = self.clients.remove(&key)?;
        let _ = self.epoll.remove(&client.socket);
        Some(client)
    }

    /// Reads and serves a client's request. Returns the client if it hasn't sent one yet.
    fn hear(&mut self, client: Client) -> Option<Client> {
        // One byte more than a request has, to detect a longer message. Descriptors that come with
        // it are dropped by the kernel.
        let mut bytes = [0; Request::BYTES + 1];
        let len = match socket::try_read(&client.socket, &mut bytes) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(client),
            Err(_) => return None,
        };
        match Request::from_bytes(&bytes[..len]) {
            Ok(Request::Find(wish)) => self.hand_over(&client, wish),
            Ok(Request::Withdraw) => {
                // Only the name that the client connected to: it may be gone, and published anew
                // since.
                if self.with_name(client.name, |_| ()).is_some() {
                    lock().give_up(client.name);
                    say(&client.socket, Answer::Withdrawn);
                }
            }
            Ok(Request::Greet) => {
                if self.with_name(client.name, |_| ()).is_some() {
                    say(&client.socket, Answer::Here { count: 0 });
                }
            }
            Err(Unfit::Version(_)) => say(&client.socket, Answer::OtherVersion(wire::VERSION)),
            Err(Unfit::Garbage) => {}
        }
        None
    }

    /// Sends the client the descriptors that it wishes. Sends nothing if the name no longer exists.
    fn hand_over(&mut self, client: &Client, wish: u8) {
        let Some(offer) = self.with_name(client.name, |name| name.offer.clone()) else { return };
        let offered = catch_unwind(AssertUnwindSafe(|| {
            // This may drop the offer, if it was dropped elsewhere meanwhile.
            Some(offer.upgrade()?.offer(wish))
        }));
        let sent = match offered {
            Ok(None) => return,
            Ok(Some(offered)) => offered.and_then(|fds| {
                let count = u8::try_from(fds.len()).map_err(|_| io::ErrorKind::InvalidData)?;
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                fd_passing::try_send_with_fds(&client.socket, &[&Answer::Here { count }.to_bytes()], &fds)
            }),
            Err(_panic) => Err(io::ErrorKind::Other.into()),
        };
        if let Err(error) = sent {
            // If the client is gone, no process reads this.
            say(&client.socket, Answer::Failed(number_of(&error)));
        }
    }

    /// Dismisses the client that has waited longest. Returns false if there is none.
    fn send_away_the_oldest(&mut self) -> bool {
        let Some(key) = self.clients.keys().next().copied() else { return false };
        if let Some(client) = self.take_out(key) {
            say(&client.socket, Answer::Again);
        }
        true
    }

    fn send_away_the_late(&mut self) {
        let now = Instant::now();
        while self.clients.values().next().is_some_and(|client| client.deadline <= now) {
            self.send_away_the_oldest();
        }
    }

    /// Tells the next client in the backlog that no descriptors are left. Returns false if it can't
    /// be accepted even for that.
    fn turn_away(&mut self, key: u64, errno: i32) -> bool {
        if self.spare.take().is_none() {
            self.spare = spare();
            return false;
        }
        let accepted = self.with_name(key, |name| socket::try_accept(&name.socket));
        let is_told = match accepted {
            Some(Ok(Some((socket, _)))) => {
                say(&socket, Answer::Failed(errno));
                true
            }
            Some(Ok(None)) | None => true,
            Some(Err(_)) => false,
        };
        self.spare = spare();
        is_told
    }

    /// Stops accepting at a name for a while: epoll(7) would report its backlog again and again.
    fn pause(&mut self, key: u64) {
        self.with_name(key, |name| self.epoll.remove(&name.socket));
        self.paused.push((key, Instant::now() + PAUSE));
    }

    fn end_pauses(&mut self) {
        let now = Instant::now();
        let (over, paused) = std::mem::take(&mut self.paused).into_iter().partition(|(_, until)| *until <= now);
        self.paused = paused;
        for (key, _) in over {
            if let Some(Err(_)) = self.with_name(key, |name| self.epoll.add(&name.socket, key, Trigger::Level)) {
                self.paused.push((key, now + PAUSE));
            }
        }
    }
}

/// Sends an answer. A socket to which nothing was sent before has room for one.
fn say(socket: impl AsFd, answer: Answer) {
    let _ = fd_passing::try_send(socket, &answer.to_bytes());
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// The number of an error, for another process.
fn number_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(match error.kind() {
        io::ErrorKind::PermissionDenied => EACCES,
        io::ErrorKind::InvalidInput => EINVAL,
        // The kind that `fd_passing` uses for this error.
        io::ErrorKind::QuotaExceeded => ETOOMANYREFS,
        _ => EIO,
    })
}
