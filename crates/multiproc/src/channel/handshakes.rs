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
use super::auth::{self, GO_ON, HELLO, Key, MAC, NAME, PROOF, Role, SECOND, Said, Transcript};
use super::connection::{Ends, Link, Receiver, Sender};
use super::link_error::{Refusal, RefusalReason};
use crate::Handle;

/// How many clients may be active in the handshake in one process before the next one is accepted.
/// The others wait in the kernel's backlog, where they cost nothing. Clients that are silent, or
/// have their second connection possibly still in that backlog, don't count.
const AT_WORK: usize = 128;

/// A client that has sent nothing for this long doesn't count as active, and may be disconnected to
/// make room for others.
const IDLE: Duration = Duration::from_millis(50);

/// Bounds for the number of descriptors that the pending clients may take up. Within them, it is
/// half of what this process may have open.
const LEAST_FDS: u64 = 256;
const MOST_FDS: u64 = 8192;

/// How many refusals are kept until [`Handshakes::take_refusals`].
const REFUSALS: usize = 64;

/// How many events are handled at a time, before other threads get the lock and the caller looks at
/// the clock.
const AT_A_TIME: usize = 64;

/// How many datagrams are read from one rendezvous socket at a time, before other clients are
/// served: any process of the machine may send to it.
const BROUGHT: usize = 16;

/// How many refusals are logged within this time; of the others, only their number is logged.
const LINES: u64 = 16;
const LINES_TIME: Duration = Duration::from_secs(10);

/// Keys in the epoll set.
const LISTENING: u64 = 0;
const BACKLOG: u64 = 1;
const TIMER: u64 = 2;
const FIRST_PENDING: u64 = 3;

/// A listener, as far as all processes that have it share it.
#[derive(Debug)]
pub(super) struct ListenerShared {
    pub(super) listening: OwnedFd,
    pub(super) key: Option<Key>,
    /// Over TCP, a connection consists of two TCP connections.
    pub(super) tcp: bool,
    /// Clients of other users than this one and root are refused: the name is abstract, and there
    /// is no key.
    pub(super) same_user: bool,
    pub(super) to_backlog: Sender<Waiting>,
    pub(super) backlog: Receiver<Waiting>,
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

/// A pending client in the shared backlog, on its way from one process to another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Waiting {
    socket: Handle<OwnedFd>,
    place: Option<Handle<OwnedFd>>,
    peer: Peer,
    stage: Stage,
    said: Vec<u8>,
    /// The time it still has. No process serves it while it is in the shared backlog, so its time
    /// stands still there.
    left: Duration,
    /// How long it had been idle.
    idle: Duration,
}

/// A pending client: one that has not completed the handshake.
#[derive(Debug)]
struct Pending {
    socket: OwnedFd,
    /// The rendezvous socket, to which its second connection is sent.
    place: Option<OwnedFd>,
    peer: Peer,
    stage: Stage,
    /// What has been received of the message of this stage.
    said: Vec<u8>,
    deadline: Instant,
    /// When it was accepted, or has last sent something.
    since: Instant,
}

/// The result of serving a client.
enum Heard {
    /// It has more to send.
    More(Pending),
    /// The handshake is complete.
    Accepted(Link),
    /// It is no longer this process's: it was a second connection, which has been handed over, or
    /// it has closed the connection without having sent anything.
    Nothing,
    /// It was refused, and has been told so if the protocol has a message for the reason.
    Refused(Peer, RefusalReason),
    /// There are no descriptors for it. When there are some, it can be served again.
    NoRoom(Pending),
}

/// How many refusals have been logged lately.
#[derive(Debug, Default)]
struct Log {
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
    most_fds: usize,
    /// Since when there are pending clients here while no thread accepts: those for which the
    /// shared backlog had no room, or all, if no other process has the listener. Their time stands
    /// still.
    left: Option<Instant>,
    /// Is in the set while the process keeps pending clients and no thread of it accepts.
    timer: Option<Timer>,
    /// Connections with a completed handshake that have not been returned by an accept.
    through: VecDeque<Link>,
    refusals: VecDeque<Refusal>,
    /// The number of all refusals so far.
    refused: u64,
    /// How many of them have been logged, or only counted in the log.
    logged: u64,
    log: Log,
    /// The process that has these clients. A fork copy of it has none.
    process: i32,
}

impl Handshakes {
    /// Starts with no clients. Adds the sockets of `shared` to `set`, which is empty.
    pub(super) fn open(shared: &ListenerShared, set: &Epoll) -> io::Result<Handshakes> {
        watch(shared, set)?;
        let process = threads::getpid();
        let (pending, through, refusals) = (BTreeMap::new(), VecDeque::new(), VecDeque::new());
        let open = limits::get(Resource::OpenFiles).map_or(LEAST_FDS, |(soft, _)| soft);
        Ok(Handshakes {
            pending,
            next: FIRST_PENDING,
            is_paused: false,
            most_fds: (open / 2).clamp(LEAST_FDS, MOST_FDS) as usize,
            left: None,
            timer: None,
            through,
            refusals,
            refused: 0,
            logged: 0,
            log: Log::default(),
            process,
        })
    }

    /// Serves clients that have sent something, and accepts new ones, until a handshake is
    /// complete, or there is nothing to do, or [`AT_A_TIME`] events have been handled. Clients that
    /// have not completed the handshake within `patience` are refused.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, when there is no pending client to be disconnected to make room;
    /// `ENOMEM`.
    pub(super) fn attend(
        &mut self,
        shared: &ListenerShared,
        set: &Epoll,
        patience: Duration,
    ) -> io::Result<Option<Link>> {
        if self.process != threads::getpid() {
            // A copy made by fork(2). The set is still that of the original process.
            set.reset()?;
            *self = Handshakes::open(shared, set)?;
        }
        self.stop_timer(set);
        self.come_back();
        let mut heard = 0;
        while self.through.is_empty() && heard < AT_A_TIME {
            self.send_away_the_late(shared, set);
            if self.is_paused && self.takes_in(Instant::now()) {
                watch(shared, set)?;
                self.is_paused = false;
            }
            let ready = set.ready()?;
            if ready.is_empty() {
                return Ok(None);
            }
            // Clients in the shared backlog have been accepted before those in the kernel's.
            let has_left_some = ready.contains(&BACKLOG);
            for key in ready {
                heard += 1;
                match key {
                    LISTENING | BACKLOG if self.is_paused => {}
                    LISTENING | BACKLOG if !self.takes_in(Instant::now()) => self.pause(shared, set),
                    LISTENING if has_left_some => {}
                    LISTENING => self.take_next(shared, set, patience)?,
                    BACKLOG => {
                        while self.through.is_empty() && heard < AT_A_TIME && self.take_back(shared, set)? {
                            heard += 1;
                        }
                    }
                    TIMER => {}
                    client => self.hear(shared, set, client)?,
                }
                // The next call serves the other clients.
                if !self.through.is_empty() {
                    break;
                }
            }
        }
        Ok(self.through.pop_front())
    }

    /// Like [`attend`](Handshakes::attend), but keeps the completed connection for a later accept,
    /// and returns whether there is one.
    pub(super) fn look(&mut self, shared: &ListenerShared, set: &Epoll, patience: Duration) -> io::Result<bool> {
        let link = self.attend(shared, set, patience)?;
        self.through.extend(link);
        Ok(!self.through.is_empty())
    }

    /// When the first pending client is out of time, or, if paused, when one becomes idle, so that
    /// new ones can be accepted.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let late = self.pending.values().map(|client| client.deadline).min();
        let now = Instant::now();
        let idle =
            self.pending.values().map(|client| client.since + IDLE).filter(|idle| self.is_paused && *idle > now).min();
        late.into_iter().chain(idle).min()
    }

    /// Whether there is room for another client.
    fn takes_in(&self, now: Instant) -> bool {
        let at_work = self.pending.values().filter(|client| client.is_at_work(now)).count();
        let fds: usize = self.pending.values().map(Pending::fds).sum();
        at_work < AT_WORK && (fds < self.most_fds || self.pending.values().any(|client| client.is_idle(now)))
    }

    /// Leaves new clients in the backlogs until [`takes_in`](Handshakes::takes_in) returns true.
    fn pause(&mut self, shared: &ListenerShared, set: &Epoll) {
        if !self.is_paused {
            let _ = set.remove(&shared.listening);
            let _ = set.remove(&shared.backlog);
            self.is_paused = true;
        }
    }

    /// Ends the time in which no thread accepted: it doesn't count for the clients.
    fn come_back(&mut self) {
        if let Some(left) = self.left.take() {
            let away = left.elapsed();
            for client in self.pending.values_mut() {
                client.deadline += away;
                client.since += away;
            }
        }
    }

    /// Keeps the pending clients until this process accepts again: no other process could serve
    /// them.
    pub(super) fn stop(&mut self) {
        if self.process == threads::getpid() {
            self.come_back();
            self.left = Some(Instant::now());
        }
    }

    /// Leaves the pending clients to the next process that accepts, in the shared backlog.
    pub(super) fn leave(&mut self, shared: &ListenerShared, set: &Epoll) {
        if self.process != threads::getpid() {
            return;
        }
        self.come_back();
        let now = Instant::now();
        let mut is_full = false;
        for (number, client) in std::mem::take(&mut self.pending) {
            if is_full {
                self.pending.insert(number, client);
                continue;
            }
            client.remove_from(set);
            let Pending { socket, place, peer, stage, said, deadline, since } = client;
            let (left, idle) = (deadline.saturating_duration_since(now), now.saturating_duration_since(since));
            let waiting =
                Waiting { socket: socket.into(), place: place.map(Handle::new), peer, stage, said, left, idle };
            if let Err(error) = shared.to_backlog.try_send(waiting) {
                // There is no room in the backlog, or there are no descriptors. The client stays
                // here until this process accepts again.
                is_full = true;
                let client = Pending::coming_back(error.into_inner(), now);
                if client.add_to(set, number).is_ok() {
                    self.pending.insert(number, client);
                }
            }
        }
        self.left = (!self.pending.is_empty()).then_some(now);
        if self.is_paused && watch(shared, set).is_ok() {
            self.is_paused = false;
        }
    }

    /// Like [`leave`](Handshakes::leave), but when this process gives up the listener: the clients
    /// that don't fit into the shared backlog are refused.
    pub(super) fn close(&mut self, shared: &ListenerShared, set: &Epoll) {
        self.leave(shared, set);
        if self.process == threads::getpid() {
            for (_, client) in std::mem::take(&mut self.pending) {
                let refused = client.refuse(shared, RefusalReason::Crowded);
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
        // Without a descriptor for the timer, late clients are refused at the next accept.
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
        if self.log.since.is_none_or(|since| now.duration_since(since) >= LINES_TIME) {
            (self.log.since, self.log.lines) = (Some(now), 0);
        }
        let known = (self.refusals.len() as u64).min(new);
        let lines = known.min(LINES - self.log.lines);
        let mut said = Vec::new();
        if lines > 0 && self.log.omitted > 0 {
            said.push(format!("{} others were refused", std::mem::take(&mut self.log.omitted)));
        }
        self.log.lines += lines;
        self.log.omitted += new - lines;
        let first = self.refusals.len() - known as usize;
        said.extend(self.refusals.iter().skip(first).take(lines as usize).map(Refusal::to_string));
        said
    }

    fn refuse(&mut self, peer: Peer, reason: RefusalReason) {
        self.refused += 1;
        if self.refusals.len() == REFUSALS {
            self.refusals.pop_front();
        }
        self.refusals.push_back(Refusal { peer, reason });
    }

    fn note(&mut self, heard: Heard) {
        if let Heard::Refused(peer, reason) = heard {
            self.refuse(peer, reason);
        }
    }

    /// Disconnects one client that has been idle for at least `idle`, to make room: the longest
    /// idle one at the earliest stage. It is told to try again. Returns false if there is none.
    fn make_room(&mut self, shared: &ListenerShared, set: &Epoll, idle: Duration) -> bool {
        let now = Instant::now();
        let candidates = self.pending.iter().filter(|(_, client)| now.saturating_duration_since(client.since) >= idle);
        let first = candidates.min_by_key(|(_, client)| (client.stage.rank(), client.since)).map(|(number, _)| *number);
        let Some(client) = first.and_then(|number| self.pending.remove(&number)) else { return false };
        client.remove_from(set);
        let refused = client.refuse(shared, RefusalReason::Crowded);
        self.note(refused);
        true
    }

    fn send_away_the_late(&mut self, shared: &ListenerShared, set: &Epoll) {
        let now = Instant::now();
        let late: Vec<u64> =
            self.pending.iter().filter(|(_, client)| client.deadline <= now).map(|(number, _)| *number).collect();
        for number in late {
            if let Some(client) = self.pending.remove(&number) {
                client.remove_from(set);
                let refused = client.refuse(shared, RefusalReason::Timeout);
                self.note(refused);
            }
        }
    }

    /// Accepts the next client in the kernel's backlog, if there is one.
    fn take_next(&mut self, shared: &ListenerShared, set: &Epoll, patience: Duration) -> io::Result<()> {
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
        let deadline = now.checked_add(patience).unwrap_or(now + Duration::from_secs(1 << 30));
        let stage = Stage::Hello;
        let Ok((peer, stranger)) = shared.who_is(&socket, address) else { return Ok(()) };
        if let Some(user) = stranger {
            say(&socket, &auth::verdict(auth::REFUSED_USER, shared.key.is_some()));
            self.refuse(peer, RefusalReason::OtherUser(user));
            return Ok(());
        }
        self.settle(shared, set, Pending { socket, place: None, peer, stage, said: Vec::new(), deadline, since: now })
    }

    /// Takes a client out of the shared backlog. Returns false if there is none, or no room.
    fn take_back(&mut self, shared: &ListenerShared, set: &Epoll) -> io::Result<bool> {
        let waiting = loop {
            match shared.backlog.try_recv() {
                Ok(waiting) => break waiting,
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
        self.settle(shared, set, Pending::coming_back(waiting, Instant::now()))?;
        Ok(true)
    }

    /// Serves a new client, and adds it to the pending ones if it has more to send.
    fn settle(&mut self, shared: &ListenerShared, set: &Epoll, client: Pending) -> io::Result<()> {
        let fds: usize = self.pending.values().map(Pending::fds).sum();
        if fds >= self.most_fds {
            self.make_room(shared, set, IDLE);
        }
        let number = self.next;
        self.next += 1;
        // It may have sent all of the handshake's messages already.
        if let Some(client) = self.come_to_terms(shared, set, client) {
            client.add_to(set, number)?;
            self.pending.insert(number, client);
        }
        Ok(())
    }

    fn hear(&mut self, shared: &ListenerShared, set: &Epoll, number: u64) -> io::Result<()> {
        // It may have been removed since the event.
        let Some(client) = self.pending.remove(&number) else { return Ok(()) };
        // Serving the client may close its sockets, and a socket must be taken out of the set
        // before that.
        client.remove_from(set);
        if let Some(client) = self.come_to_terms(shared, set, client) {
            client.add_to(set, number)?;
            self.pending.insert(number, client);
        }
        Ok(())
    }

    /// Serves a client that is neither in the set nor in the list. Returns it if it has more to
    /// send.
    fn come_to_terms(&mut self, shared: &ListenerShared, set: &Epoll, client: Pending) -> Option<Pending> {
        let mut heard = client.hear(shared);
        loop {
            heard = match heard {
                Heard::More(client) => return Some(client),
                // It has proved that it knows the key, so pending clients make room for it even if
                // they aren't idle.
                Heard::NoRoom(client) if self.make_room(shared, set, Duration::ZERO) => client.hear(shared),
                Heard::NoRoom(client) => client.refuse(shared, RefusalReason::NoDescriptors),
                Heard::Accepted(link) => {
                    self.through.push_back(link);
                    return None;
                }
                Heard::Nothing => return None,
                Heard::Refused(peer, reason) => {
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
fn say<const N: usize>(socket: &OwnedFd, bytes: &[u8; N]) -> bool {
    socket::try_write(socket, [&bytes[..]]).is_ok_and(|written| written == N)
}

impl ListenerShared {
    /// Returns the peer, and its user id if clients of that user must be refused.
    fn who_is(&self, socket: &OwnedFd, address: Option<SocketAddr>) -> io::Result<(Peer, Option<u32>)> {
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
    /// The further a client has come, the more work has been done for it.
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
    fn coming_back(waiting: Waiting, now: Instant) -> Pending {
        let Waiting { socket, place, peer, stage, said, left, idle } = waiting;
        let deadline = now.checked_add(left).unwrap_or(now + Duration::from_secs(1 << 30));
        let since = now.checked_sub(idle).unwrap_or(now);
        let (socket, place) = (socket.into_inner(), place.map(Handle::into_inner));
        Pending { socket, place, peer, stage, said, deadline, since }
    }

    fn fds(&self) -> usize {
        1 + usize::from(self.place.is_some())
    }

    fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= IDLE
    }

    /// Whether it has begun the handshake, and is likely to continue soon.
    fn is_at_work(&self, now: Instant) -> bool {
        let has_begun = match self.stage {
            Stage::Hello => !self.said.is_empty(),
            Stage::Proof(_) => true,
            // Its second connection may be at the end of the kernel's backlog.
            Stage::Second { .. } => false,
        };
        has_begun && !self.is_idle(now)
    }

    fn add_to(&self, set: &Epoll, number: u64) -> io::Result<()> {
        set.add(&self.socket, number, Trigger::Level)?;
        match &self.place {
            Some(place) => set.add(place, number, Trigger::Level).inspect_err(|_| drop(set.remove(&self.socket))),
            None => Ok(()),
        }
    }

    fn remove_from(&self, set: &Epoll) {
        let _ = set.remove(&self.socket);
        if let Some(place) = &self.place {
            let _ = set.remove(place);
        }
    }

    /// Reads what the client has sent, and answers.
    fn hear(mut self, shared: &ListenerShared) -> Heard {
        loop {
            let step = match &self.stage {
                Stage::Hello => self.hear_hello(shared),
                Stage::Proof(transcript) => {
                    let transcript = transcript.clone();
                    match self.read(PROOF) {
                        Ok(true) => return self.hear_proof(shared, transcript),
                        Ok(false) => Ok(Step::Wait),
                        Err(reason) => Err(reason),
                    }
                }
                Stage::Second { transcript, name } => {
                    let (transcript, name) = (transcript.clone(), *name);
                    match self.look_for_second(shared, &transcript, &name) {
                        Ok(Some(second)) => {
                            say(&second, &auth::verdict(GO_ON, shared.key.is_some()));
                            let ends = Ends::Tcp { to: second, from: self.socket };
                            return Heard::Accepted(Link { peer: self.peer, ends });
                        }
                        Ok(None) => Ok(Step::Wait),
                        Err(reason) => Err(reason),
                    }
                }
            };
            match step {
                Ok(Step::GoOn) => {}
                Ok(Step::Wait) => return Heard::More(self),
                Ok(Step::HandedOver) => return Heard::Nothing,
                Ok(Step::NoRoom) => return Heard::NoRoom(self),
                // For example, a client that only checks whether the listener exists.
                Err(RefusalReason::Disconnected) if self.stage == Stage::Hello && self.said.is_empty() => {
                    return Heard::Nothing;
                }
                Err(reason) => return self.refuse(shared, reason),
            }
        }
    }

    fn refuse(self, shared: &ListenerShared, reason: RefusalReason) -> Heard {
        let word = match reason {
            RefusalReason::OtherVersion(_) => Some(auth::REFUSED_VERSION),
            RefusalReason::NoKey => Some(auth::REFUSED_NO_KEY),
            RefusalReason::UnknownKey => Some(auth::REFUSED_KEY),
            RefusalReason::WrongKey => Some(auth::REFUSED_WRONG_KEY),
            RefusalReason::NoDescriptors => Some(auth::REFUSED_NO_ROOM),
            // A peer that has not sent anything yet may not be a client of multiproc; it gets the
            // message all the same. A peer that has sent something else has been refused as
            // `OtherProtocol`, without a message.
            RefusalReason::Crowded => Some(auth::REFUSED_CROWDED),
            _ => None,
        };
        if let Some(word) = word {
            say(&self.socket, &auth::verdict(word, shared.key.is_some()));
            // Closing a socket with unread data would discard the message that was just sent.
            let _ = socket::try_read(&self.socket, &mut [0; 256]);
        }
        Heard::Refused(self.peer, reason)
    }

    /// Reads until `said` has `len` bytes, and never more. Returns whether it has.
    fn read(&mut self, len: usize) -> Result<bool, RefusalReason> {
        let mut buffer = [0; SECOND];
        while self.said.len() < len {
            match socket::try_read(&self.socket, &mut buffer[..len - self.said.len()]) {
                Ok(0) => return Err(RefusalReason::Disconnected),
                Ok(read) => {
                    self.said.extend_from_slice(&buffer[..read]);
                    self.since = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Err(RefusalReason::Disconnected),
            }
        }
        Ok(true)
    }

    fn hear_hello(&mut self, shared: &ListenerShared) -> Result<Step, RefusalReason> {
        let keyed = shared.key.is_some();
        match auth::read_said(&self.said, keyed)? {
            Said::More(len) => {
                let whole = self.read(len)?;
                // The first bytes already tell whether it is a client.
                auth::read_said(&self.said, keyed)?;
                Ok(if whole { Step::GoOn } else { Step::Wait })
            }
            Said::Hello(client) => {
                let listener = auth::random().map_err(|_| RefusalReason::NoDescriptors)?;
                if !say(&self.socket, &auth::answer(keyed, &listener)) {
                    return Err(RefusalReason::Disconnected);
                }
                self.said.clear();
                self.stage = Stage::Proof(Transcript { client, listener });
                Ok(Step::GoOn)
            }
            Said::Second(name) if shared.tcp => match rendezvous::send(&place(&name), &self.said, &self.socket) {
                Ok(()) => Ok(Step::HandedOver),
                Err(error) if is_full(&error) => Ok(Step::NoRoom),
                // The process that waited for it has closed the first connection, most likely to
                // make room.
                Err(_) => {
                    say(&self.socket, &auth::verdict(auth::REFUSED_CROWDED, keyed));
                    Err(RefusalReason::Disconnected)
                }
            },
            Said::Second(_) => Err(RefusalReason::OtherProtocol),
        }
    }

    /// Completes the handshake, or refuses the client.
    fn hear_proof(mut self, shared: &ListenerShared, transcript: Transcript) -> Heard {
        let key = shared.key.as_ref();
        if !transcript.is_proof(key, Role::Client, &[0; NAME], &self.said) {
            return self.refuse(shared, RefusalReason::WrongKey);
        }
        let welcome = |name: &[u8; NAME]| {
            let proof: [u8; MAC] = transcript.prove(key, Role::Listener, name);
            auth::welcome(key.is_some(), name, &proof)
        };
        if shared.tcp {
            let made = auth::random::<NAME>().and_then(|name| Ok((name, rendezvous::open(&place(&name))?)));
            let Ok((name, place)) = made else { return Heard::NoRoom(self) };
            self.said.clear();
            if !say(&self.socket, &welcome(&name)) {
                return Heard::Refused(self.peer, RefusalReason::Disconnected);
            }
            self.place = Some(place);
            self.stage = Stage::Second { transcript, name };
            return self.hear(shared);
        }
        // Two directions, as `pipe` makes them.
        let pairs = fd_passing::pair().and_then(|there| Ok((there, fd_passing::pair()?)));
        let Ok(((to, theirs_from), (theirs_to, from))) = pairs else { return Heard::NoRoom(self) };
        use std::os::fd::AsFd;
        let fds = [theirs_to.as_fd(), theirs_from.as_fd()];
        match fd_passing::try_send_with_fds(&self.socket, &[&welcome(&[0; NAME])], &fds) {
            Ok(()) => Heard::Accepted(Link { peer: self.peer, ends: Ends::Local { to, from } }),
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                self.refuse(shared, RefusalReason::NoDescriptors)
            }
            Err(_) => Heard::Refused(self.peer, RefusalReason::Disconnected),
        }
    }

    /// Returns the second connection, if it has arrived at the rendezvous socket.
    fn look_for_second(
        &mut self,
        shared: &ListenerShared,
        transcript: &Transcript,
        name: &[u8; NAME],
    ) -> Result<Option<OwnedFd>, RefusalReason> {
        let key = shared.key.as_ref();
        let place = self.place.as_ref().ok_or(RefusalReason::Disconnected)?;
        for _ in 0..BROUGHT {
            let (mut said, mut fds) = ([0; SECOND], Vec::new());
            match socket::try_read_some_with_fds(place, &mut said, &mut fds) {
                Ok((len, all)) => {
                    // Any process on this machine may send something here.
                    let proof = auth::read_second(&said[..len], key.is_some(), name);
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

/// What comes next in a handshake.
enum Step {
    GoOn,
    Wait,
    HandedOver,
    NoRoom,
}

/// The abstract name of the rendezvous socket of the second connection with this `name`.
fn place(name: &[u8; NAME]) -> Vec<u8> {
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
        place: None,
        peer: Peer::Pipe,
        stage: Stage::Hello,
        said: Vec::new(),
        deadline: Instant::now(),
        since: Instant::now(),
    };
    let mut heard = client.hear(&shared);
    if let Heard::More(client) = heard {
        assert!(client.said.len() < SECOND, "no more is kept than the longest message");
        if let Stage::Proof(transcript) = &client.stage
            && proves
        {
            write(&transcript.prove(key.as_ref(), Role::Client, &[0; NAME])).expect("there is room");
        }
        // This fails if the client has been refused already.
        let _ = write(rest);
        heard = client.hear(&shared);
    }
    match heard {
        Heard::Accepted(link) => {
            assert!(proves, "no client is accepted without a proof");
            assert!(matches!(link.ends, Ends::Local { .. }));
            true
        }
        Heard::More(_) | Heard::Nothing | Heard::Refused(..) | Heard::NoRoom(_) => false,
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
        assert_eq!(handshakes.take_unlogged().len() as u64, LINES);
        handshakes.refuse(Peer::Pipe, RefusalReason::Disconnected);
        assert!(handshakes.take_unlogged().is_empty());
        // After the period in which lines are counted.
        handshakes.log.since = Instant::now().checked_sub(LINES_TIME);
        handshakes.refuse(Peer::Pipe, RefusalReason::Disconnected);
        let said = handshakes.take_unlogged();
        assert_eq!((said.len(), said[0].as_str()), (2, "85 others were refused"));
        assert!(handshakes.take_unlogged().is_empty());
    }
}
