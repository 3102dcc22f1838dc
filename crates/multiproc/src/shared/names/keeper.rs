//! The keeper: a thread that answers for all names of this process. The first name launches it, with the last one it ends.
//!
//! It never waits for a guest, one who has connected: all are in one set of epoll(7), beside the sockets that listen. There may be so many of them for
//! so long, and then the oldest has to go; so those who say nothing cost others nothing. What others have to do with a name happens under a
//! lock that is held for a few system calls; what is the user's (an offer) is called and dropped outside it.

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
use multiproc_os::epoll::Epoll;
use multiproc_os::errno::{EACCES, EINVAL, EIO, EMFILE, ENFILE, ETOOMANYREFS};
use multiproc_os::fork_local::ForkLocal;
use multiproc_os::poller::Poller;
use multiproc_os::robust::copy_number;
use multiproc_os::{fd_passing, signal, socket};

use super::wire::{self, Answer, Request, Unfit};
use super::{Offer, is_trusted};

/// How many guests there may be at a time; with one more, the oldest has to go.
const MOST: usize = 128;

/// How long a guest may be silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many are accepted at one name before others have their turn.
const AT_A_TIME: usize = 16;

/// How long nobody is accepted at a name when there is no descriptor for anybody.
const PAUSE: Duration = Duration::from_millis(100);

/// Set in the key of a guest, and not in that of a name.
const CLIENT: u64 = 1 << 62;

/// The names of this process, and their keeper. A copy of the process has none.
static NAMES: ForkLocal<Mutex<Names>> = ForkLocal::new();

#[derive(Default)]
struct Names {
    /// There is one as long as there are names.
    keeper: Option<Keeper>,
    /// Those that have been dismissed, and are about to end: of those who drop something, the first waits for that.
    dismissed: Vec<JoinHandle<()>>,
    next_key: u64,
}

/// The thread, as those see it who want something from it.
struct Keeper {
    /// What it waits at. One that finds another one here, or none, has been dismissed.
    poller: Arc<Poller>,
    thread: JoinHandle<()>,
    names: HashMap<u64, Name>,
}

struct Name {
    /// Listens. It is in the poller's set, but for a while if there are no descriptors.
    socket: CloseOnFork,
    offer: Weak<dyn Offer>,
    is_live: Arc<AtomicBool>,
}

/// A name that this process has; dropping it takes the name away. In a copy of the process it stands for nothing.
pub(crate) struct Published {
    key: u64,
    is_live: Arc<AtomicBool>,
    /// The copy of the process whose name it is.
    copy: u32,
}

impl Published {
    /// Whether others find it: nobody has withdrawn it. Not in a copy of the process that has it.
    pub(crate) fn is_live(&self) -> bool {
        self.copy == copy_number() && self.is_live.load(Relaxed)
    }
}

/// Nobody finds the name any more, and it can be published again. With the last of them the thread has ended, too.
impl Drop for Published {
    fn drop(&mut self) {
        if self.copy != copy_number() {
            return;
        }
        let dismissed = {
            let mut names = lock();
            names.give_up(self.key);
            // A thread that drops what it has offered can't wait for itself.
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

/// Answers those who come to `socket`, which listens.
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
    let added = keeper.poller.add(&socket, key);
    if added.is_ok() {
        keeper.names.insert(key, Name { socket, offer, is_live: is_live.clone() });
    }
    names.dismiss_if_idle();
    added.map(|()| Published { key, is_live, copy: copy_number() })
}

impl Keeper {
    fn launch() -> io::Result<Keeper> {
        let poller = Arc::new(Poller::new()?);
        let its = poller.clone();
        let thread = thread::Builder::new().name("multiproc-names".into()).stack_size(256 << 10);
        let thread = signal::with_signals_blocked(|| thread.spawn(move || serve(&its)))?;
        Ok(Keeper { poller, thread, names: HashMap::new() })
    }
}

impl Names {
    /// Takes a name away, if it is still there.
    fn give_up(&mut self, key: u64) {
        let Some(keeper) = &mut self.keeper else { return };
        if let Some(name) = keeper.names.remove(&key) {
            name.is_live.store(false, Relaxed);
            // A copy of the process that wasn't told of the socket would keep it in the set.
            keeper.poller.remove(&name.socket);
        }
        self.dismiss_if_idle();
    }

    fn dismiss_if_idle(&mut self) {
        if let Some(Keeper { poller, thread, .. }) = self.keeper.take_if(|keeper| keeper.names.is_empty()) {
            poller.wake();
            self.dismissed.retain(|thread| !thread.is_finished());
            self.dismissed.push(thread);
        }
    }

    /// The keeper, if this is its poller.
    fn of(&mut self, poller: &Arc<Poller>) -> Option<&mut Keeper> {
        self.keeper.as_mut().filter(|keeper| Arc::ptr_eq(&keeper.poller, poller))
    }
}

/// The thread's life.
fn serve(poller: &Arc<Poller>) {
    IS_KEEPER.set(true);
    let mut reception =
        Requests { poller, clients: BTreeMap::new(), next_key: CLIENT, spare: spare(), paused: Vec::new() };
    while let Some(deadline) = reception.deadline() {
        let Ok(keys) = poller.wait_until(deadline) else {
            // Somebody has closed its descriptor. Rather than that nobody is ever answered, there is nobody.
            let mut names = lock();
            if let Some(keeper) = names.of(poller) {
                for name in std::mem::take(&mut keeper.names).into_values() {
                    name.is_live.store(false, Relaxed);
                }
                names.dismiss_if_idle();
            }
            return;
        };
        for key in keys {
            match key & CLIENT {
                0 => reception.take_in(key),
                _ => reception.hear_again(key),
            }
        }
        reception.send_away_the_late();
        reception.end_pauses();
    }
}

/// One who has connected.
struct Client {
    socket: CloseOnFork,
    /// Which name it has come to.
    name: u64,
    deadline: Instant,
}

/// The thread's own: those who have connected.
struct Requests<'a> {
    poller: &'a Arc<Poller>,
    /// Those who have not said anything yet, the oldest first.
    clients: BTreeMap<u64, Client>,
    next_key: u64,
    /// A descriptor that is given up to tell somebody that there is none.
    spare: Option<Epoll>,
    /// Names that nobody is accepted at, until then.
    paused: Vec<(u64, Instant)>,
}

/// Any descriptor would do.
fn spare() -> Option<Epoll> {
    Epoll::new().ok()
}

impl Requests<'_> {
    /// Until when there is nothing to do, if nobody says anything. None when the thread has been dismissed.
    fn deadline(&self) -> Option<Option<Instant>> {
        lock().of(self.poller)?;
        let silent = self.clients.values().next().map(|client| client.deadline);
        Some(silent.into_iter().chain(self.paused.iter().map(|(_, until)| *until)).min())
    }

    /// Does something with a name, if it is still there.
    fn with_name<T>(&self, key: u64, act: impl FnOnce(&Name) -> T) -> Option<T> {
        let mut names = lock();
        let name = names.of(self.poller)?.names.get(&key)?;
        Some(act(name))
    }

    /// Accepts those who have come to a name.
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

    /// With one who has been accepted.
    fn receive(&mut self, name: u64, socket: OwnedFd) {
        if !socket::peer_process(&socket).is_ok_and(|(_, user)| is_trusted(user)) {
            say(&socket, Answer::NotServed);
            return;
        }
        let Ok(socket) = CloseOnFork::new(socket) else { return };
        let client = Client { socket, name, deadline: Instant::now() + PATIENCE };
        // Nearly always it has said already what it wants.
        let Some(client) = self.hear(client) else { return };
        if self.clients.len() == MOST {
            self.send_away_the_oldest();
        }
        let key = self.next_key;
        self.next_key += 1;
        match self.poller.add(&client.socket, key) {
            Ok(()) => drop(self.clients.insert(key, client)),
            Err(error) => say(&client.socket, Answer::Failed(error.raw_os_error().unwrap_or(EIO))),
        }
    }

    /// One who was silent has said something.
    fn hear_again(&mut self, key: u64) {
        if let Some(client) = self.take_out(key)
            && let Some(client) = self.hear(client)
            && self.poller.add(&client.socket, key).is_ok()
        {
            self.clients.insert(key, client);
        }
    }

    fn take_out(&mut self, key: u64) -> Option<Client> {
        let client = self.clients.remove(&key)?;
        self.poller.remove(&client.socket);
        Some(client)
    }

    /// Does what a guest says. Gives it back if it has said nothing yet.
    fn hear(&mut self, client: Client) -> Option<Client> {
        // One byte more, to see whether there is more. Descriptors that come with it are dropped by the kernel.
        let mut bytes = [0; Request::BYTES + 1];
        let len = match socket::try_read(&client.socket, &mut bytes) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(client),
            Err(_) => return None,
        };
        match Request::from_bytes(&bytes[..len]) {
            Ok(Request::Find(wish)) => self.hand_over(&client, wish),
            Ok(Request::Withdraw) => {
                // Another name is not given up in its place.
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

    /// Gives a guest what it wishes. Without a word if there is no such name any more.
    fn hand_over(&mut self, client: &Client, wish: u8) {
        let Some(offer) = self.with_name(client.name, |name| name.offer.clone()) else { return };
        let offered = catch_unwind(AssertUnwindSafe(|| {
            // It may be dropped right here, if others have done so meanwhile.
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
            // If it has gone, there is nobody to hear it.
            say(&client.socket, Answer::Failed(number_of(&error)));
        }
    }

    /// False if there is nobody.
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

    /// Tells one in line that there are no descriptors for it. False if there is not even one to tell.
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

    /// It would be said again and again that there is somebody.
    fn pause(&mut self, key: u64) {
        self.with_name(key, |name| self.poller.remove(&name.socket));
        self.paused.push((key, Instant::now() + PAUSE));
    }

    fn end_pauses(&mut self) {
        let now = Instant::now();
        let (over, paused) = std::mem::take(&mut self.paused).into_iter().partition(|(_, until)| *until <= now);
        self.paused = paused;
        for (key, _) in over {
            if let Some(Err(_)) = self.with_name(key, |name| self.poller.add(&name.socket, key)) {
                self.paused.push((key, now + PAUSE));
            }
        }
    }
}

/// There is room for one answer in a socket that nothing has been sent to.
fn say(socket: impl AsFd, answer: Answer) {
    let _ = fd_passing::try_send(socket, &answer.to_bytes());
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// An error's number, for another process.
fn number_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(match error.kind() {
        io::ErrorKind::PermissionDenied => EACCES,
        io::ErrorKind::InvalidInput => EINVAL,
        // As `fd_passing` says it.
        io::ErrorKind::QuotaExceeded => ETOOMANYREFS,
        _ => EIO,
    })
}
