//! The listener's side of the handshakes with its clients. Each client proceeds at its own pace,
//! and none waits for another. [CONNECTION.md](CONNECTION.md) has the protocol.
//!
//! All pending clients of a process are in one set of epoll(7), together with the listening socket.
//! Nothing here blocks. When the last thread of a process stops accepting, the process puts its
//! pending clients into the shared backlog, a pipe that all processes with the listener have; the
//! next process that accepts continues their handshakes. A process that polls the set keeps its
//! pending clients, and a timer in the set tells when the first of them is out of time.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use multiproc_os::epoll::{Epoll, Trigger};
use multiproc_os::errno::{EMFILE, ENFILE};
use multiproc_os::limits::{self, Resource};
use multiproc_os::timer::Timer;
use multiproc_os::{fd_passing, rendezvous, socket, threads};
use serde::{Deserialize, Serialize};

use super::address::Peer;
use super::auth::{self, ACCEPTED, ClientMessage, HELLO, Key, MAC, NAME, PROOF, Role, SECOND, Transcript};
use super::connection::{Ends, Link, Receiver, Sender};
use super::link_error::{Refusal, RefusalReason};
use crate::Handle;

/// The maximum number of clients that are active in the handshake in one process when the next one
/// is accepted.
/// The others wait in the kernel's backlog, where they cost nothing. Clients that are silent, or
/// have their second connection possibly still in that backlog, don't count.
const MAX_ACTIVE: usize = 128;

/// A client that has sent nothing for this long doesn't count as active, and may be disconnected to
/// make room for others.
const IDLE: Duration = Duration::from_millis(50);

/// Bounds for the number of descriptors that the pending clients may take up. Within them, it is
/// half of what this process may have open.
const MIN_FDS: u64 = 256;
const MAX_FDS: u64 = 8192;

/// How many refusals are kept until [`Handshakes::take_refusals`].
const MAX_REFUSALS: usize = 64;

/// How many events are handled at a time, before other threads get the lock and the caller looks at
/// the clock.
const EVENTS_AT_ONCE: usize = 64;

/// How many datagrams are read from one rendezvous socket at a time, before other clients are
/// served: any process of the machine may send to it.
const DATAGRAMS_AT_ONCE: usize = 16;

/// How many refusals are logged within this time; of the others, only their number is logged.
const MAX_LOG_LINES: u64 = 16;
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Tokens of the epoll set.
const LISTENING: u64 = 0;
const BACKLOG: u64 = 1;
const TIMER: u64 = 2;
const FIRST_PENDING: u64 = 3;

/// The part of a listener that all processes that have it share.
#[derive(Debug)]
pub(super) struct ListenerShared {
    pub(super) listening: OwnedFd,
    pub(super) key: Option<Key>,
    /// Over TCP, a connection consists of two TCP connections.
    pub(super) tcp: bool,
    /// Clients of other users than this one and root are refused: the name is abstract, and there
    /// is no key.
    pub(super) same_user: bool,
    pub(super) to_backlog: Sender<BacklogEntry>,
    pub(super) backlog: Receiver<BacklogEntry>,
}

/// How far a client has come in the handshake: what it has to send next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// Its hello, or the first message of a second connection.
    Hello,
    /// The proof that it knows the key.
    Proof(Transcript),
    /// Its second connection, which the process that accepts it sends to the rendezvous socket of
    /// this name.
    Second { transcript: Transcript, name: [u8; NAME] },
}

/// A pending client in the shared backlog, through which it passes from one process to another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BacklogEntry {
    socket: Handle<OwnedFd>,
    rendezvous: Option<Handle<OwnedFd>>,
    peer: Peer,
    stage: Stage,
    received: Vec<u8>,
    /// The time left until its deadline. The clock stands still in the shared backlog, since no
    /// process serves the client there.
    left: Duration,
    /// How long it had been idle.
    idle: Duration,
}

/// A pending client: one that has not completed the handshake.
#[derive(Debug)]
struct Pending {
    socket: OwnedFd,
    /// The rendezvous socket, to which its second connection is sent.
    rendezvous: Option<OwnedFd>,
    peer: Peer,
    stage: Stage,
    /// What has been received of the message of this stage.
    received: Vec<u8>,
    deadline: Instant,
    /// When it was accepted, or has last sent something.
    since: Instant,
}

/// The result of serving a client.
enum Served {
    /// The client must send more first.
    Incomplete(Pending),
    /// The handshake is complete.
    Accepted(Link),
    /// The connection is no longer this process's: it was a client's second connection, which has
    /// been handed over, or the client closed it before sending anything.
    Gone,
    /// The client was refused, and was sent the reason if the protocol has a message for it.
    Refused(Peer, RefusalReason),
    /// No descriptors are left. The client can be served again once there are.
    NoDescriptors(Pending),
}

/// How many refusals have been logged lately.
#[derive(Debug, Default)]
struct RefusalLog {
    /// When the first of `lines` was logged.
    since: Option<Instant>,
    lines: u64,
    /// How many refusals have not been logged since the last line.
    omitted: u64,
}

/// The pending clients of one process.
#[derive(Debug)]
pub(super) struct Handshakes {
    pending: BTreeMap<u64, Pending>,
    next: u64,
    /// No client is accepted at the moment: neither the listening socket nor the shared backlog is
    /// in the set.
    is_paused: bool,
    /// How many descriptors the pending clients may take up.
    max_fds: usize,
    /// Since when there are pending clients here while no thread accepts: those for which the
    /// shared backlog had no room, or all, if no other process has the listener. Their time stands
    /// still.
    unattended_since: Option<Instant>,
    /// Is in the set while the process keeps pending clients and no thread of it accepts.
    timer: Option<Timer>,
    /// Connections with a completed handshake that have not been returned by an accept.
    accepted: VecDeque<Link>,
    refusals: VecDeque<Refusal>,
    /// The number of all refusals so far.
    refused: u64,
    /// How many of them have been logged, or only counted in the log.
    logged: u64,
    log: RefusalLog,
    /// The process that has these clients. A fork copy of it has none.
    process: i32,
}

impl Handshakes {
    /// Starts with no clients. Adds the sockets of `shared` to `set`, which is empty.
    pub(super) fn open(shared: &ListenerShared, set: &Epoll) -> io::Result<Handshakes> {
        watch(shared, set)?;
        let process = threads::getpid();
        let (pending, accepted, refusals) = (BTreeMap::new(), VecDeque::new(), VecDeque::new());
        let open = limits::get(Resource::OpenFiles).map_or(MIN_FDS, |(soft, _)| soft);
        Ok(Handshakes {
            pending,
            next: FIRST_PENDING,
            is_paused: false,
            max_fds: (open / 2).clamp(MIN_FDS, MAX_FDS) as usize,
            unattended_since: None,
            timer: None,
            accepted,
            refusals,
            refused: 0,
            logged: 0,
            log: RefusalLog::default(),
            process,
        })
    }

    /// Serves clients that have sent something, and accepts new ones, until a handshake is
    /// complete, or there is nothing to do, or [`EVENTS_AT_ONCE`] events have been handled. Clients
    /// that have not completed the handshake within `timeout` are refused.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, when there is no pending client to be disconnected to make room;
    /// `ENOMEM`.
    pub(super) fn attend(
        &mut self,
        shared: &ListenerShared,
        set: &Epoll,
        timeout: Duration,
    ) -> io::Result<Option<Link>> {
        if self.process != threads::getpid() {
            // A copy made by fork(2). The set is still that of the original process.
            set.reset()?;
            *self = Handshakes::open(shared, set)?;
        }
        self.stop_timer(set);
        self.resume_clocks();
        let mut served = 0;
        while self.accepted.is_empty() && served < EVENTS_AT_ONCE {
            self.refuse_expired(shared, set);
            if self.is_paused && self.takes_in(Instant::now()) {
                watch(shared, set)?;
                self.is_paused = false;
            }
            let ready = set.ready()?;
            if ready.is_empty() {
                return Ok(None);
            }
            // Clients in the shared backlog have been accepted before those in the kernel's.
            let has_backlog = ready.contains(&BACKLOG);
            for token in ready {
                served += 1;
                match token {
                    LISTENING | BACKLOG if self.is_paused => {}
                    LISTENING | BACKLOG if !self.takes_in(Instant::now()) => self.pause(shared, set),
                    LISTENING if has_backlog => {}
                    LISTENING => self.take_next(shared, set, timeout)?,
                    BACKLOG => {
                        while self.accepted.is_empty() && served < EVENTS_AT_ONCE && self.take_back(shared, set)? {
                            served += 1;
                        }
                    }
                    TIMER => {}
                    client => self.serve(shared, set, client)?,
                }
                // The next call serves the other clients.
                if !self.accepted.is_empty() {
                    break;
                }
            }
        }
        Ok(self.accepted.pop_front())
    }

    /// Like [`attend`](Handshakes::attend), but keeps the completed connection for a later accept,
    /// and returns whether there is one.
    pub(super) fn look(&mut self, shared: &ListenerShared, set: &Epoll, timeout: Duration) -> io::Result<bool> {
        let link = self.attend(shared, set, timeout)?;
        self.accepted.extend(link);
        Ok(!self.accepted.is_empty())
    }

    /// When the first pending client is out of time, or, if paused, when one becomes idle, so that
    /// new ones can be accepted.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let expired = self.pending.values().map(|client| client.deadline).min();
        let now = Instant::now();
        let idle =
            self.pending.values().map(|client| client.since + IDLE).filter(|idle| self.is_paused && *idle > now).min();
        expired.into_iter().chain(idle).min()
    }

    /// Whether there is room for another client.
    fn takes_in(&self, now: Instant) -> bool {
        let at_work = self.pending.values().filter(|client| client.is_active(now)).count();
        let fds: usize = self.pending.values().map(Pending::fds).sum();
        at_work < MAX_ACTIVE && (fds < self.max_fds || self.pending.values().any(|client| client.is_idle(now)))
    }

    /// Leaves new clients in the backlogs until [`takes_in`](Handshakes::takes_in) returns true.
    fn pause(&mut self, shared: &ListenerShared, set: &Epoll) {
        if !self.is_paused {
            let _ = set.remove(&shared.listening);
            let _ = set.remove(&shared.backlog);
            self.is_paused = true;
        }
    }

    /// Extends the deadlines of the pending clients by the time in which no thread accepted.
    fn resume_clocks(&mut self) {
        if let Some(since) = self.unattended_since.take() {
            let away = since.elapsed();
            for client in self.pending.values_mut() {
                client.deadline += away;
                client.since += away;
            }
        }
    }

    /// Keeps the pending clients until this process accepts again: no other process could serve
    /// them.
    pub(super) fn keep_clients(&mut self) {
        if self.process == threads::getpid() {
            self.resume_clocks();
            self.unattended_since = Some(Instant::now());
        }
    }

    /// Leaves the pending clients to the next process that accepts, in the shared backlog.
    pub(super) fn move_to_backlog(&mut self, shared: &ListenerShared, set: &Epoll) {
        if self.process != threads::getpid() {
            return;
        }
        self.resume_clocks();
        let now = Instant::now();
        let mut is_full = false;
        for (number, client) in std::mem::take(&mut self.pending) {
            if is_full {
                self.pending.insert(number, client);
                continue;
            }
            client.remove_from(set);
            let Pending { socket, rendezvous, peer, stage, received, deadline, since } = client;
            let (left, idle) = (deadline.saturating_duration_since(now), now.saturating_duration_since(since));
            let entry = BacklogEntry {
                socket: socket.into(),
                rendezvous: rendezvous.map(Handle::new),
                peer,
                stage,
                received,
                left,
                idle,
            };
            if let Err(error) = shared.to_backlog.try_send(entry) {
                // There is no room in the backlog, or there are no descriptors. The client stays
                // here until this process accepts again.
                is_full = true;
                let client = Pending::from_backlog(error.into_inner(), now);
                if client.add_to(set, number).is_ok() {
                    self.pending.insert(number, client);
                }
            }
        }
        self.unattended_since = (!self.pending.is_empty()).then_some(now);
        if self.is_paused && watch(shared, set).is_ok() {
            self.is_paused = false;
        }
    }

    /// Like [`move_to_backlog`](Handshakes::move_to_backlog), but when this process gives up the
    /// listener: the clients that don't fit into the shared backlog are refused.
    pub(super) fn close(&mut self, shared: &ListenerShared, set: &Epoll) {
        self.move_to_backlog(shared, set);
        if self.process == threads::getpid() {
            for (_, client) in std::mem::take(&mut self.pending) {
                let refused = client.refuse(shared, RefusalReason::TooManyClients);
                self.note(refused);
            }
        }
    }

    /// Keeps the pending clients. The set becomes readable when one of them sends something, or is
    /// out of time.
    pub(super) fn keep(&mut self, set: &Epoll) {
        if self.process != threads::getpid() {
            return;
        }
        self.stop_timer(set);
        let Some(deadline) = self.deadline() else { return };
        // Without a descriptor for the timer, expired clients are refused at the next accept.
        self.timer = Timer::after(deadline.saturating_duration_since(Instant::now()))
            .and_then(|timer| set.add(&timer, TIMER, Trigger::Level).map(|()| timer))
            .ok();
    }

    fn stop_timer(&mut self, set: &Epoll) {
        if let Some(timer) = self.timer.take() {
            let _ = set.remove(&timer);
        }
    }

    /// Takes the refusals since the last call.
    pub(super) fn take_refusals(&mut self) -> VecDeque<Refusal> {
        std::mem::take(&mut self.refusals)
    }

    pub(super) fn refusals(&self) -> &VecDeque<Refusal> {
        &self.refusals
    }

    /// Takes the lines to log for refusals since the last call.
    pub(super) fn take_unlogged(&mut self) -> Vec<String> {
        let new = self.refused - self.logged;
        if new == 0 {
            return Vec::new();
        }
        self.logged = self.refused;
        let now = Instant::now();
        if self.log.since.is_none_or(|since| now.duration_since(since) >= LOG_PERIOD) {
            (self.log.since, self.log.lines) = (Some(now), 0);
        }
        let known = (self.refusals.len() as u64).min(new);
        let lines = known.min(MAX_LOG_LINES - self.log.lines);
        let mut texts = Vec::new();
        if lines > 0 && self.log.omitted > 0 {
            texts.push(format!("{} others were refused", std::mem::take(&mut self.log.omitted)));
        }
        self.log.lines += lines;
        self.log.omitted += new - lines;
        let first = self.refusals.len() - known as usize;
        texts.extend(self.refusals.iter().skip(first).take(lines as usize).map(Refusal::to_string));
        texts
    }

    fn refuse(&mut self, peer: Peer, reason: RefusalReason) {
        self.refused += 1;
        if self.refusals.len() == MAX_REFUSALS {
            self.refusals.pop_front();
        }
        self.refusals.push_back(Refusal { peer, reason });
    }

    fn note(&mut self, served: Served) {
        if let Served::Refused(peer, reason) = served {
            self.refuse(peer, reason);
        }
    }

    /// Makes room by disconnecting a client that has been idle for at least `idle`: the longest
    /// idle one at the earliest stage, which may try again. Returns false if there is none.
    fn make_room(&mut self, shared: &ListenerShared, set: &Epoll, idle: Duration) -> bool {
        let now = Instant::now();
        let candidates = self.pending.iter().filter(|(_, client)| now.saturating_duration_since(client.since) >= idle);
        let first = candidates.min_by_key(|(_, client)| (client.stage.rank(), client.since)).map(|(number, _)| *number);
        let Some(client) = first.and_then(|number| self.pending.remove(&number)) else { return false };
        client.remove_from(set);
        let refused = client.refuse(shared, RefusalReason::TooManyClients);
        self.note(refused);
        true
    }

    /// Refuses the clients with a deadline that has passed.
    fn refuse_expired(&mut self, shared: &ListenerShared, set: &Epoll) {
        let now = Instant::now();
        let expired: Vec<u64> =
            self.pending.iter().filter(|(_, client)| client.deadline <= now).map(|(number, _)| *number).collect();
        for number in expired {
            if let Some(client) = self.pending.remove(&number) {
                client.remove_from(set);
                let refused = client.refuse(shared, RefusalReason::Timeout);
                self.note(refused);
            }
        }
    }

    /// Accepts the next client in the kernel's backlog, if there is one.
    fn take_next(&mut self, shared: &ListenerShared, set: &Epoll, timeout: Duration) -> io::Result<()> {
        let (socket, address) = loop {
            match socket::try_accept(&shared.listening) {
                Ok(Some(accepted)) => break accepted,
                Ok(None) => return Ok(()),
                Err(error) if is_full(&error) && self.make_room(shared, set, IDLE) => {}
                // Some of the pending clients will soon have completed the handshake, or be idle.
                Err(error) if is_full(&error) && !self.pending.is_empty() => {
                    self.pause(shared, set);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        };
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(1 << 30));
        let stage = Stage::Hello;
        let Ok((peer, stranger)) = shared.identify(&socket, address) else { return Ok(()) };
        if let Some(user) = stranger {
            send_short(&socket, &auth::status(auth::REFUSED_USER, shared.key.is_some()));
            self.refuse(peer, RefusalReason::OtherUser(user));
            return Ok(());
        }
        self.admit(
            shared,
            set,
            Pending { socket, rendezvous: None, peer, stage, received: Vec::new(), deadline, since: now },
        )
    }

    /// Takes a client out of the shared backlog. Returns false if there is none, or no room.
    fn take_back(&mut self, shared: &ListenerShared, set: &Epoll) -> io::Result<bool> {
        let entry = loop {
            match shared.backlog.try_recv() {
                Ok(entry) => break entry,
                Err(error) => match error.kind {
                    super::error::RecvErrorKind::Io(error) if is_full(&error) && self.make_room(shared, set, IDLE) => {}
                    super::error::RecvErrorKind::Io(error) if is_full(&error) && !self.pending.is_empty() => {
                        self.pause(shared, set);
                        return Ok(false);
                    }
                    super::error::RecvErrorKind::Io(error) => return Err(error),
                    // Another process has taken it first, or the message was lost.
                    _ => return Ok(false),
                },
            }
        };
        self.admit(shared, set, Pending::from_backlog(entry, Instant::now()))?;
        Ok(true)
    }

    /// Serves a new client, and adds it to the pending ones if it has more to send.
    fn admit(&mut self, shared: &ListenerShared, set: &Epoll, client: Pending) -> io::Result<()> {
        let fds: usize = self.pending.values().map(Pending::fds).sum();
        if fds >= self.max_fds {
            self.make_room(shared, set, IDLE);
        }
        let number = self.next;
        self.next += 1;
        // It may have sent all of the handshake's messages already.
        if let Some(client) = self.serve_until_blocked(shared, set, client) {
            client.add_to(set, number)?;
            self.pending.insert(number, client);
        }
        Ok(())
    }

    fn serve(&mut self, shared: &ListenerShared, set: &Epoll, number: u64) -> io::Result<()> {
        // It may have been removed since the event.
        let Some(client) = self.pending.remove(&number) else { return Ok(()) };
        // Serving the client may close its sockets, and a socket must be taken out of the set
        // before that.
        client.remove_from(set);
        if let Some(client) = self.serve_until_blocked(shared, set, client) {
            client.add_to(set, number)?;
            self.pending.insert(number, client);
        }
        Ok(())
    }

    /// Serves a client that is neither in the set nor in the list. Returns it if it has more to
    /// send.
    fn serve_until_blocked(&mut self, shared: &ListenerShared, set: &Epoll, client: Pending) -> Option<Pending> {
        let mut served = client.serve(shared);
        loop {
            served = match served {
                Served::Incomplete(client) => return Some(client),
                // It has proved that it knows the key, so pending clients make room for it even if
                // they aren't idle.
                Served::NoDescriptors(client) if self.make_room(shared, set, Duration::ZERO) => client.serve(shared),
                Served::NoDescriptors(client) => client.refuse(shared, RefusalReason::NoDescriptors),
                Served::Accepted(link) => {
                    self.accepted.push_back(link);
                    return None;
                }
                Served::Gone => return None,
                Served::Refused(peer, reason) => {
                    self.refuse(peer, reason);
                    return None;
                }
            }
        }
    }
}

fn watch(shared: &ListenerShared, set: &Epoll) -> io::Result<()> {
    set.add(&shared.listening, LISTENING, Trigger::Level)?;
    set.add(&shared.backlog, BACKLOG, Trigger::Level)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// Sends a short message. If it can't be sent, the client is gone, or has filled its buffer by not
/// reading.
fn send_short<const N: usize>(socket: &OwnedFd, bytes: &[u8; N]) -> bool {
    socket::try_write(socket, [&bytes[..]]).is_ok_and(|written| written == N)
}

impl ListenerShared {
    /// Returns the peer, and its user id if clients of that user must be refused.
    fn identify(&self, socket: &OwnedFd, address: Option<SocketAddr>) -> io::Result<(Peer, Option<u32>)> {
        if let Some(address) = address {
            socket::prepare_tcp(socket)?;
            return Ok((Peer::Address(address), None));
        }
        let (pid, user) = socket::peer_process(socket)?;
        let is_ours = user == socket::own_user() || user == 0;
        Ok((Peer::process(pid), (self.same_user && !is_ours).then_some(user)))
    }
}

impl Stage {
    /// Ranks the stages in their order: a later one has cost more work.
    fn rank(&self) -> u8 {
        match self {
            Stage::Hello => 0,
            Stage::Proof(_) => 1,
            Stage::Second { .. } => 2,
        }
    }
}

impl Pending {
    /// Restores a client that a process has left in the shared backlog.
    fn from_backlog(entry: BacklogEntry, now: Instant) -> Pending {
        let BacklogEntry { socket, rendezvous, peer, stage, received, left, idle } = entry;
        let deadline = now.checked_add(left).unwrap_or(now + Duration::from_secs(1 << 30));
        let since = now.checked_sub(idle).unwrap_or(now);
        let (socket, rendezvous) = (socket.into_inner(), rendezvous.map(Handle::into_inner));
        Pending { socket, rendezvous, peer, stage, received, deadline, since }
    }

    fn fds(&self) -> usize {
        1 + usize::from(self.rendezvous.is_some())
    }

    fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= IDLE
    }

    /// Whether it has begun the handshake, and is likely to continue soon.
    fn is_active(&self, now: Instant) -> bool {
        let has_begun = match self.stage {
            Stage::Hello => !self.received.is_empty(),
            Stage::Proof(_) => true,
            // Its second connection may be at the end of the kernel's backlog.
            Stage::Second { .. } => false,
        };
        has_begun && !self.is_idle(now)
    }

    fn add_to(&self, set: &Epoll, number: u64) -> io::Result<()> {
        set.add(&self.socket, number, Trigger::Level)?;
        match &self.rendezvous {
            Some(rendezvous) => {
                set.add(rendezvous, number, Trigger::Level).inspect_err(|_| drop(set.remove(&self.socket)))
            }
            None => Ok(()),
        }
    }

    fn remove_from(&self, set: &Epoll) {
        let _ = set.remove(&self.socket);
        if let Some(rendezvous) = &self.rendezvous {
            let _ = set.remove(rendezvous);
        }
    }

    /// Reads what the client has sent, and answers.
    fn serve(mut self, shared: &ListenerShared) -> Served {
        loop {
            let step = match &self.stage {
                Stage::Hello => self.serve_hello(shared),
                Stage::Proof(transcript) => {
                    let transcript = transcript.clone();
                    match self.read(PROOF) {
                        Ok(true) => return self.serve_proof(shared, transcript),
                        Ok(false) => Ok(Step::Wait),
                        Err(reason) => Err(reason),
                    }
                }
                Stage::Second { transcript, name } => {
                    let (transcript, name) = (transcript.clone(), *name);
                    match self.take_second(shared, &transcript, &name) {
                        Ok(Some(second)) => {
                            send_short(&second, &auth::status(ACCEPTED, shared.key.is_some()));
                            let ends = Ends::Tcp { to: second, from: self.socket };
                            return Served::Accepted(Link { peer: self.peer, ends });
                        }
                        Ok(None) => Ok(Step::Wait),
                        Err(reason) => Err(reason),
                    }
                }
            };
            match step {
                Ok(Step::Continue) => {}
                Ok(Step::Wait) => return Served::Incomplete(self),
                Ok(Step::HandedOver) => return Served::Gone,
                Ok(Step::NoDescriptors) => return Served::NoDescriptors(self),
                // For example, a client that only checks whether the listener exists.
                Err(RefusalReason::Disconnected) if self.stage == Stage::Hello && self.received.is_empty() => {
                    return Served::Gone;
                }
                Err(reason) => return self.refuse(shared, reason),
            }
        }
    }

    fn refuse(self, shared: &ListenerShared, reason: RefusalReason) -> Served {
        let word = match reason {
            RefusalReason::OtherVersion(_) => Some(auth::REFUSED_VERSION),
            RefusalReason::NoKey => Some(auth::REFUSED_KEY_MISSING),
            RefusalReason::UnknownKey => Some(auth::REFUSED_KEY_UNKNOWN),
            RefusalReason::WrongKey => Some(auth::REFUSED_KEY_WRONG),
            RefusalReason::NoDescriptors => Some(auth::REFUSED_NO_DESCRIPTORS),
            // A peer that has not sent anything yet may not be a client of multiproc; it gets the
            // message all the same. A peer that has sent something else has been refused as
            // `OtherProtocol`, without a message.
            RefusalReason::TooManyClients => Some(auth::REFUSED_TOO_MANY),
            _ => None,
        };
        if let Some(word) = word {
            send_short(&self.socket, &auth::status(word, shared.key.is_some()));
            // Closing a socket with unread data would discard the message that was just sent.
            let _ = socket::try_read(&self.socket, &mut [0; 256]);
        }
        Served::Refused(self.peer, reason)
    }

    /// Reads until `received` has `len` bytes, and never more. Returns whether it has.
    fn read(&mut self, len: usize) -> Result<bool, RefusalReason> {
        let mut buffer = [0; SECOND];
        while self.received.len() < len {
            match socket::try_read(&self.socket, &mut buffer[..len - self.received.len()]) {
                Ok(0) => return Err(RefusalReason::Disconnected),
                Ok(read) => {
                    self.received.extend_from_slice(&buffer[..read]);
                    self.since = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Err(RefusalReason::Disconnected),
            }
        }
        Ok(true)
    }

    fn serve_hello(&mut self, shared: &ListenerShared) -> Result<Step, RefusalReason> {
        let keyed = shared.key.is_some();
        match auth::read_client_message(&self.received, keyed)? {
            ClientMessage::Incomplete(len) => {
                let whole = self.read(len)?;
                // The first bytes already tell whether it is a client.
                auth::read_client_message(&self.received, keyed)?;
                Ok(if whole { Step::Continue } else { Step::Wait })
            }
            ClientMessage::Hello(client) => {
                let listener = auth::random().map_err(|_| RefusalReason::NoDescriptors)?;
                if !send_short(&self.socket, &auth::answer(keyed, &listener)) {
                    return Err(RefusalReason::Disconnected);
                }
                self.received.clear();
                self.stage = Stage::Proof(Transcript { client, listener });
                Ok(Step::Continue)
            }
            ClientMessage::Second(name) if shared.tcp => {
                match rendezvous::send(&rendezvous_address(&name), &self.received, &self.socket) {
                    Ok(()) => Ok(Step::HandedOver),
                    Err(error) if is_full(&error) => Ok(Step::NoDescriptors),
                    // The process that waited for it has closed the first connection, most likely
                    // to make room.
                    Err(_) => {
                        send_short(&self.socket, &auth::status(auth::REFUSED_TOO_MANY, keyed));
                        Err(RefusalReason::Disconnected)
                    }
                }
            }
            ClientMessage::Second(_) => Err(RefusalReason::OtherProtocol),
        }
    }

    /// Completes the handshake, or refuses the client.
    fn serve_proof(mut self, shared: &ListenerShared, transcript: Transcript) -> Served {
        let key = shared.key.as_ref();
        if !transcript.is_proof(key, Role::Client, &[0; NAME], &self.received) {
            return self.refuse(shared, RefusalReason::WrongKey);
        }
        let welcome = |name: &[u8; NAME]| {
            let proof: [u8; MAC] = transcript.prove(key, Role::Listener, name);
            auth::welcome(key.is_some(), name, &proof)
        };
        if shared.tcp {
            let made =
                auth::random::<NAME>().and_then(|name| Ok((name, rendezvous::open(&rendezvous_address(&name))?)));
            let Ok((name, rendezvous)) = made else { return Served::NoDescriptors(self) };
            self.received.clear();
            if !send_short(&self.socket, &welcome(&name)) {
                return Served::Refused(self.peer, RefusalReason::Disconnected);
            }
            self.rendezvous = Some(rendezvous);
            self.stage = Stage::Second { transcript, name };
            return self.serve(shared);
        }
        // Two directions, as `pipe` makes them.
        let pairs = fd_passing::pair().and_then(|there| Ok((there, fd_passing::pair()?)));
        let Ok(((to, theirs_from), (theirs_to, from))) = pairs else { return Served::NoDescriptors(self) };
        use std::os::fd::AsFd;
        let fds = [theirs_to.as_fd(), theirs_from.as_fd()];
        match fd_passing::try_send_with_fds(&self.socket, &[&welcome(&[0; NAME])], &fds) {
            Ok(()) => Served::Accepted(Link { peer: self.peer, ends: Ends::Local { to, from } }),
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                self.refuse(shared, RefusalReason::NoDescriptors)
            }
            Err(_) => Served::Refused(self.peer, RefusalReason::Disconnected),
        }
    }

    /// Returns the second connection, if it has arrived at the rendezvous socket.
    fn take_second(
        &mut self,
        shared: &ListenerShared,
        transcript: &Transcript,
        name: &[u8; NAME],
    ) -> Result<Option<OwnedFd>, RefusalReason> {
        let key = shared.key.as_ref();
        let rendezvous = self.rendezvous.as_ref().ok_or(RefusalReason::Disconnected)?;
        for _ in 0..DATAGRAMS_AT_ONCE {
            let (mut received, mut fds) = ([0; SECOND], Vec::new());
            match socket::try_read_some_with_fds(rendezvous, &mut received, &mut fds) {
                Ok((len, all)) => {
                    // Any process on this machine may send something here.
                    let proof = auth::read_second(&received[..len], key.is_some(), name);
                    let is_proof = proof.is_some_and(|proof| transcript.is_proof(key, Role::SecondHalf, name, &proof));
                    match fds.pop() {
                        Some(second) if is_proof && socket::is_internet_stream(&second) => return Ok(Some(second)),
                        None if is_proof && !all => return Err(RefusalReason::NoDescriptors),
                        _ => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(RefusalReason::Disconnected),
            }
        }
        match socket::has_input(&self.socket) {
            Ok(Some(false)) => Ok(None),
            // A client sends nothing on this connection before the handshake is complete.
            Ok(Some(true)) => Err(RefusalReason::OtherProtocol),
            Ok(None) | Err(_) => Err(RefusalReason::Disconnected),
        }
    }
}

/// The next step of a handshake.
enum Step {
    Continue,
    Wait,
    HandedOver,
    NoDescriptors,
}

/// The abstract name of the rendezvous socket of the second connection with this `name`.
fn rendezvous_address(name: &[u8; NAME]) -> Vec<u8> {
    let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("multiproc/second/{hex}").into_bytes()
}

const _: () = assert!(HELLO <= SECOND && PROOF <= SECOND, "the buffer has room for the longest message");

/// For fuzzers: whether a client that sends these bytes is accepted. With `proves`, the right proof
/// is sent after the first [`HELLO`] bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn hears(bytes: &[u8], keyed: bool, proves: bool) -> bool {
    let key = keyed.then(|| Key::new("key"));
    let (to_backlog, backlog) = crate::channel::pipe::one_way().expect("a pipe");
    let (listening, _) = fd_passing::pair().expect("a socket pair");
    let shared = ListenerShared { listening, key: key.clone(), tcp: false, same_user: false, to_backlog, backlog };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    let (first, rest) = bytes.split_at(if proves { bytes.len().min(HELLO) } else { bytes.len() });
    let write = |bytes: &[u8]| io::Write::write_all(&mut &theirs, bytes);
    write(first).expect("there is room for a few bytes");
    let client = Pending {
        socket: ours.into(),
        rendezvous: None,
        peer: Peer::Pipe,
        stage: Stage::Hello,
        received: Vec::new(),
        deadline: Instant::now(),
        since: Instant::now(),
    };
    let mut served = client.serve(&shared);
    if let Served::Incomplete(client) = served {
        assert!(client.received.len() < SECOND, "no more is kept than the longest message");
        if let Stage::Proof(transcript) = &client.stage
            && proves
        {
            write(&transcript.prove(key.as_ref(), Role::Client, &[0; NAME])).expect("there is room");
        }
        // This fails if the client has been refused already.
        let _ = write(rest);
        served = client.serve(&shared);
    }
    match served {
        Served::Accepted(link) => {
            assert!(proves, "no client is accepted without a proof");
            assert!(matches!(link.ends, Ends::Local { .. }));
            true
        }
        Served::Incomplete(_) | Served::Gone | Served::Refused(..) | Served::NoDescriptors(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_rate_limited() {
        let (to_backlog, backlog) = crate::channel::pipe::one_way().unwrap();
        let (listening, _) = fd_passing::pair().unwrap();
        let shared = ListenerShared { listening, key: None, tcp: false, same_user: false, to_backlog, backlog };
        let mut handshakes = Handshakes::open(&shared, &Epoll::new().unwrap()).unwrap();
        for _ in 0..100 {
            handshakes.refuse(Peer::Pipe, RefusalReason::Disconnected);
        }
        assert_eq!(handshakes.take_unlogged().len() as u64, MAX_LOG_LINES);
        handshakes.refuse(Peer::Pipe, RefusalReason::Disconnected);
        assert!(handshakes.take_unlogged().is_empty());
        // After the period in which lines are counted.
        handshakes.log.since = Instant::now().checked_sub(LOG_PERIOD);
        handshakes.refuse(Peer::Pipe, RefusalReason::Disconnected);
        let texts = handshakes.take_unlogged();
        assert_eq!((texts.len(), texts[0].as_str()), (2, "85 others were refused"));
        assert!(handshakes.take_unlogged().is_empty());
    }
}
