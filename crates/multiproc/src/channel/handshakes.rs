//! Those who have connected to a listener and are not through yet: each says what there is to say at its own pace, and none waits for another.
//! [CONNECTION.md](CONNECTION.md) has the protocol.
//!
//! All of them are in one set of epoll(7), beside the socket that listens. Nothing here waits. Whoever leaves puts those who are not through into
//! a pipe, the anteroom, which all processes that share the listener have; the next who accepts, in whatever process, goes on with them. Who polls
//! the set keeps them, and a timer in it tells when the time of one of them is up.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use multiproc_os::epoll::{Epoll, Often};
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

/// How many may be in the middle of the handshake in one process, and get on with it, before the
/// next is taken in. The others wait in the kernel's line, where they cost nothing. Clients that
/// are silent, or whose second connection is still in that line, don't count.
const AT_WORK: usize = 128;

/// A client that has said nothing for this long doesn't count as getting on with it, and may have
/// to go to make room for others.
const IDLE: Duration = Duration::from_millis(50);

/// How many descriptors the clients may take up that are in the middle of it: half of what this
/// process may have open, within these bounds.
const LEAST_FDS: u64 = 256;
const MOST_FDS: u64 = 8192;

/// How many refusals are kept until somebody asks.
const REFUSALS: usize = 64;

/// How many are heard or taken in at a time, before others get the lock and those who accept look at the clock.
const AT_A_TIME: usize = 64;

/// How many things are looked at that somebody has brought to a place, before others have their turn.
const BROUGHT: usize = 16;

/// How many refusals are logged in so much time; of the others there is only their number.
const LINES: u64 = 16;
const LINES_TIME: Duration = Duration::from_secs(10);

/// In the set.
const LISTENING: u64 = 0;
const BACKLOG: u64 = 1;
const TIMER: u64 = 2;
const FIRST_PENDING: u64 = 3;

/// What a listener is to those who come.
#[derive(Debug)]
pub(super) struct ListenerShared {
    pub(super) listening: OwnedFd,
    pub(super) key: Option<Key>,
    /// It is over TCP, so a connection is made of two.
    pub(super) tcp: bool,
    /// Without a key, others than this user and root are not let in.
    pub(super) same_user: bool,
    pub(super) to_backlog: Sender<Waiting>,
    pub(super) backlog: Receiver<Waiting>,
}

/// How far one has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// It has to say what it wants.
    Hello,
    /// It has to prove that it knows the key.
    Proof(Transcript),
    /// Its second connection is to be brought to the place of this name.
    Second { transcript: Transcript, name: [u8; NAME] },
}

/// One who is not through, on the way from one process to another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Waiting {
    socket: Handle<OwnedFd>,
    place: Option<Handle<OwnedFd>>,
    peer: Peer,
    stage: Stage,
    said: Vec<u8>,
    /// How long it still has. In the anteroom nobody hears it, so there the time stands still.
    left: Duration,
    /// How long it had been idle.
    idle: Duration,
}

/// One who is not through.
#[derive(Debug)]
struct Pending {
    socket: OwnedFd,
    /// Where its second connection is brought to.
    place: Option<OwnedFd>,
    peer: Peer,
    stage: Stage,
    /// What it has said of what it has to say at this stage.
    said: Vec<u8>,
    deadline: Instant,
    /// When it came, or got on with it last.
    since: Instant,
}

/// What has come of hearing somebody.
enum Heard {
    /// It has more to say.
    More(Pending),
    ViaHandle(Link),
    /// It is none of ours any more: it has been handed over, or has left without a word.
    Nothing,
    /// It is not let in, and has been told so, if it is one who understands.
    Refused(Peer, RefusalReason),
    /// There are no descriptors for it. With some it can be heard again.
    NoRoom(Pending),
}

/// What the log has been told of refusals.
#[derive(Debug, Default)]
struct Log {
    /// When the first of `lines` was written.
    since: Option<Instant>,
    lines: u64,
    /// How many have been passed over since a line was written last.
    omitted: u64,
}

/// The guests of one process.
#[derive(Debug)]
pub(super) struct Handshakes {
    pending: BTreeMap<u64, Pending>,
    next: u64,
    /// No client is taken in at the moment: the socket that listens and the anteroom are not in the
    /// set.
    is_paused: bool,
    /// How many descriptors the guests may take up.
    most_fds: usize,
    /// Since when clients that found no room in the anteroom are here while no thread accepts.
    /// Their time stands still.
    left: Option<Instant>,
    /// In the set, while nobody here accepts and guests are kept.
    timer: Option<Timer>,
    /// Those who are through and have not been accepted.
    through: VecDeque<Link>,
    refusals: VecDeque<Refusal>,
    /// How many there were in all.
    refused: u64,
    /// How many of them have been logged, or passed over in the log.
    logged: u64,
    log: Log,
    /// The process whose guests these are. A copy of it has none.
    process: i32,
}

impl Handshakes {
    /// The guests of `shared` that are in `set`, which is empty.
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

    /// Hears those who have said something, and whoever is next in line, until one is through or there is nothing to hear, or enough has been heard
    /// for now. Those who have had `patience` for it and are not through have to go.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, when not even those who wait can be sent away to make room; `ENOMEM`.
    pub(super) fn attend(
        &mut self,
        shared: &ListenerShared,
        set: &Epoll,
        patience: Duration,
    ) -> io::Result<Option<Link>> {
        if self.process != threads::getpid() {
            // A copy made by fork(2). The set is still the other's.
            set.renew()?;
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
            // Clients that were left in the anteroom have come before those in line.
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
                // The others have their turn with the next who accepts.
                if !self.through.is_empty() {
                    break;
                }
            }
        }
        Ok(self.through.pop_front())
    }

    /// As [`attend`](Handshakes::attend), but leaves him who is through, and says whether there is one.
    pub(super) fn look(&mut self, shared: &ListenerShared, set: &Epoll, patience: Duration) -> io::Result<bool> {
        let link = self.attend(shared, set, patience)?;
        self.through.extend(link);
        Ok(!self.through.is_empty())
    }

    /// When the first client that waits has to go, or others can be taken in again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let late = self.pending.values().map(|client| client.deadline).min();
        let now = Instant::now();
        let idle =
            self.pending.values().map(|client| client.since + IDLE).filter(|idle| self.is_paused && *idle > now).min();
        late.into_iter().chain(idle).min()
    }

    /// Whether there is room for another guest.
    fn takes_in(&self, now: Instant) -> bool {
        let at_work = self.pending.values().filter(|client| client.is_at_work(now)).count();
        let fds: usize = self.pending.values().map(Pending::fds).sum();
        at_work < AT_WORK && (fds < self.most_fds || self.pending.values().any(|client| client.is_idle(now)))
    }

    /// Leaves clients that come where they are, until [`takes_in`](Handshakes::takes_in) says so.
    fn pause(&mut self, shared: &ListenerShared, set: &Epoll) {
        if !self.is_paused {
            let _ = set.remove(&shared.listening);
            let _ = set.remove(&shared.backlog);
            self.is_paused = true;
        }
    }

    /// A thread accepts again.
    fn come_back(&mut self) {
        if let Some(left) = self.left.take() {
            let away = left.elapsed();
            for client in self.pending.values_mut() {
                client.deadline += away;
                client.since += away;
            }
        }
    }

    /// Keeps the clients that are not through, until this process accepts again: there is no other
    /// that could.
    pub(super) fn stop(&mut self) {
        if self.process == threads::getpid() {
            self.come_back();
            self.left = Some(Instant::now());
        }
    }

    /// Leaves those who are not through to whoever accepts next.
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
                // There is no room for it, or no descriptors. It stays, until this process accepts
                // again.
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

    /// The same when there will be no set any more.
    pub(super) fn close(&mut self, shared: &ListenerShared, set: &Epoll) {
        self.leave(shared, set);
        if self.process == threads::getpid() {
            for (_, client) in std::mem::take(&mut self.pending) {
                let refused = client.refuse(shared, RefusalReason::Crowded);
                self.note(refused);
            }
        }
    }

    /// Keeps the clients that are not through. The set is readable when one of them says something,
    /// or has to go.
    pub(super) fn keep(&mut self, set: &Epoll) {
        if self.process != threads::getpid() {
            return;
        }
        self.stop_timer(set);
        let Some(deadline) = self.deadline() else { return };
        // Without a descriptor for it they go when somebody comes to accept.
        self.timer = Timer::after(deadline.saturating_duration_since(Instant::now()))
            .and_then(|timer| set.add(&timer, TIMER, Often::Always).map(|()| timer))
            .ok();
    }

    fn stop_timer(&mut self, set: &Epoll) {
        if let Some(timer) = self.timer.take() {
            let _ = set.remove(&timer);
        }
    }

    /// Takes what has been refused since this was asked last.
    pub(super) fn take_refusals(&mut self) -> VecDeque<Refusal> {
        std::mem::take(&mut self.refusals)
    }

    pub(super) fn refusals(&self) -> &VecDeque<Refusal> {
        &self.refusals
    }

    /// What is to be logged of those who have been refused since this was asked last.
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
            said.push(format!("{} others were not let in", std::mem::take(&mut self.log.omitted)));
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

    /// A client that has been idle for this long makes room: of those that have come the least far,
    /// the one that has been idle the longest. It is told to come again. False if there is none.
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
                let refused = client.refuse(shared, RefusalReason::Silent);
                self.note(refused);
            }
        }
    }

    /// Takes whoever is next in line, if there is one.
    fn take_next(&mut self, shared: &ListenerShared, set: &Epoll, patience: Duration) -> io::Result<()> {
        let (socket, address) = loop {
            match socket::try_accept(&shared.listening) {
                Ok(Some(accepted)) => break accepted,
                Ok(None) => return Ok(()),
                Err(error) if is_full(&error) && self.make_room(shared, set, IDLE) => {}
                // Soon some of them are through, or idle.
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

    /// Takes one that another process has left. False if there is none, or no room.
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
                    // Somebody was quicker, or it is lost.
                    _ => return Ok(false),
                },
            }
        };
        self.settle(shared, set, Pending::coming_back(waiting, Instant::now()))?;
        Ok(true)
    }

    /// Makes `client` one of those who are heard, and hears it.
    fn settle(&mut self, shared: &ListenerShared, set: &Epoll, client: Pending) -> io::Result<()> {
        let fds: usize = self.pending.values().map(Pending::fds).sum();
        if fds >= self.most_fds {
            self.make_room(shared, set, IDLE);
        }
        let number = self.next;
        self.next += 1;
        // It may have said all there is to say.
        if let Some(client) = self.come_to_terms(shared, set, client) {
            client.add_to(set, number)?;
            self.pending.insert(number, client);
        }
        Ok(())
    }

    fn hear(&mut self, shared: &ListenerShared, set: &Epoll, number: u64) -> io::Result<()> {
        // It may have gone since.
        let Some(client) = self.pending.remove(&number) else { return Ok(()) };
        // Whoever closes a socket of the set takes it out before.
        client.remove_from(set);
        if let Some(client) = self.come_to_terms(shared, set, client) {
            client.add_to(set, number)?;
            self.pending.insert(number, client);
        }
        Ok(())
    }

    /// Hears one who is in neither the set nor the list. Gives back him who has more to say.
    fn come_to_terms(&mut self, shared: &ListenerShared, set: &Epoll, client: Pending) -> Option<Pending> {
        let mut heard = client.hear(shared);
        loop {
            heard = match heard {
                Heard::More(client) => return Some(client),
                // It has proved that it knows the key.
                Heard::NoRoom(client) if self.make_room(shared, set, Duration::ZERO) => client.hear(shared),
                Heard::NoRoom(client) => client.refuse(shared, RefusalReason::NoDescriptors),
                Heard::ViaHandle(link) => {
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
    set.add(&shared.listening, LISTENING, Often::Always)?;
    set.add(&shared.backlog, BACKLOG, Often::Always)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// Says something short. Who does not hear it is gone, or has let his line run full by not listening.
fn say<const N: usize>(socket: &OwnedFd, bytes: &[u8; N]) -> bool {
    socket::try_write(socket, [&bytes[..]]).is_ok_and(|written| written == N)
}

impl ListenerShared {
    /// Who has connected, and what user that is if it is one who must not.
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
    /// The further one has come, the more has been done for it.
    fn rank(&self) -> u8 {
        match self {
            Stage::Hello => 0,
            Stage::Proof(_) => 1,
            Stage::Second { .. } => 2,
        }
    }
}

impl Pending {
    /// One that a process has left behind.
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

    /// Whether it has said something, and is about to say more.
    fn is_at_work(&self, now: Instant) -> bool {
        let has_begun = match self.stage {
            Stage::Hello => !self.said.is_empty(),
            Stage::Proof(_) => true,
            // Its second connection may be at the end of the line.
            Stage::Second { .. } => false,
        };
        has_begun && !self.is_idle(now)
    }

    fn add_to(&self, set: &Epoll, number: u64) -> io::Result<()> {
        set.add(&self.socket, number, Often::Always)?;
        match &self.place {
            Some(place) => set.add(place, number, Often::Always).inspect_err(|_| drop(set.remove(&self.socket))),
            None => Ok(()),
        }
    }

    fn remove_from(&self, set: &Epoll) {
        let _ = set.remove(&self.socket);
        if let Some(place) = &self.place {
            let _ = set.remove(place);
        }
    }

    /// Hears what it has said, and answers.
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
                            return Heard::ViaHandle(Link { peer: self.peer, ends });
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
                // One who looks whether anybody is here, say.
                Err(RefusalReason::Gone) if self.stage == Stage::Hello && self.said.is_empty() => {
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
            // One that has not said a word yet may not be a client. It wouldn't be told if it had
            // said something that is not.
            RefusalReason::Crowded => Some(auth::REFUSED_CROWDED),
            _ => None,
        };
        if let Some(word) = word {
            say(&self.socket, &auth::verdict(word, shared.key.is_some()));
            // What is closed with something unread in it takes back what was said last.
            let _ = socket::try_read(&self.socket, &mut [0; 256]);
        }
        Heard::Refused(self.peer, reason)
    }

    /// Reads what is missing of so many bytes, and never more; true if they are there.
    fn read(&mut self, len: usize) -> Result<bool, RefusalReason> {
        let mut buffer = [0; SECOND];
        while self.said.len() < len {
            match socket::try_read(&self.socket, &mut buffer[..len - self.said.len()]) {
                Ok(0) => return Err(RefusalReason::Gone),
                Ok(read) => {
                    self.said.extend_from_slice(&buffer[..read]);
                    self.since = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Err(RefusalReason::Gone),
            }
        }
        Ok(true)
    }

    fn hear_hello(&mut self, shared: &ListenerShared) -> Result<Step, RefusalReason> {
        let keyed = shared.key.is_some();
        match auth::read_said(&self.said, keyed)? {
            Said::More(len) => {
                let whole = self.read(len)?;
                // What it is is told by the first bytes already.
                auth::read_said(&self.said, keyed)?;
                Ok(if whole { Step::GoOn } else { Step::Wait })
            }
            Said::Hello(client) => {
                let listener = auth::random().map_err(|_| RefusalReason::NoDescriptors)?;
                if !say(&self.socket, &auth::answer(keyed, &listener)) {
                    return Err(RefusalReason::Gone);
                }
                self.said.clear();
                self.stage = Stage::Proof(Transcript { client, listener });
                Ok(Step::GoOn)
            }
            Said::Second(name) if shared.tcp => match rendezvous::bring(&place(&name), &self.said, &self.socket) {
                Ok(()) => Ok(Step::HandedOver),
                Err(error) if is_full(&error) => Ok(Step::NoRoom),
                // The process that was to have it has let go of the first connection, for want of
                // room most likely.
                Err(_) => {
                    say(&self.socket, &auth::verdict(auth::REFUSED_CROWDED, keyed));
                    Err(RefusalReason::Gone)
                }
            },
            Said::Second(_) => Err(RefusalReason::OtherProtocol),
        }
    }

    /// Lets it in, or sends it away.
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
                return Heard::Refused(self.peer, RefusalReason::Gone);
            }
            self.place = Some(place);
            self.stage = Stage::Second { transcript, name };
            return self.hear(shared);
        }
        // As `pipe` makes them: two directions.
        let pairs = fd_passing::pair().and_then(|there| Ok((there, fd_passing::pair()?)));
        let Ok(((to, theirs_from), (theirs_to, from))) = pairs else { return Heard::NoRoom(self) };
        use std::os::fd::AsFd;
        let fds = [theirs_to.as_fd(), theirs_from.as_fd()];
        match fd_passing::try_send_with_fds(&self.socket, &[&welcome(&[0; NAME])], &fds) {
            Ok(()) => Heard::ViaHandle(Link { peer: self.peer, ends: Ends::Local { to, from } }),
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                self.refuse(shared, RefusalReason::NoDescriptors)
            }
            Err(_) => Heard::Refused(self.peer, RefusalReason::Gone),
        }
    }

    /// The second connection, if it has been brought.
    fn look_for_second(
        &mut self,
        shared: &ListenerShared,
        transcript: &Transcript,
        name: &[u8; NAME],
    ) -> Result<Option<OwnedFd>, RefusalReason> {
        let key = shared.key.as_ref();
        let place = self.place.as_ref().ok_or(RefusalReason::Gone)?;
        for _ in 0..BROUGHT {
            let (mut said, mut fds) = ([0; SECOND], Vec::new());
            match socket::try_read_some_with_fds(place, &mut said, &mut fds) {
                Ok((len, all)) => {
                    // Anybody on this machine may bring something.
                    let proof = auth::read_second(&said[..len], key.is_some(), name);
                    let is_proof = proof.is_some_and(|proof| transcript.is_proof(key, Role::SecondHalf, name, &proof));
                    match fds.pop() {
                        Some(second) if is_proof && socket::is_internet_stream(&second) => return Ok(Some(second)),
                        None if is_proof && !all => return Err(RefusalReason::NoDescriptors),
                        _ => {}
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(RefusalReason::Gone),
            }
        }
        match socket::has_input(&self.socket) {
            Ok(Some(false)) => Ok(None),
            // It has nothing more to say here until it has been told that all is well.
            Ok(Some(true)) => Err(RefusalReason::OtherProtocol),
            Ok(None) | Err(_) => Err(RefusalReason::Gone),
        }
    }
}

/// What comes next for somebody.
enum Step {
    GoOn,
    Wait,
    HandedOver,
    NoRoom,
}

/// The abstract name of the place that goes by `name`.
fn place(name: &[u8; NAME]) -> Vec<u8> {
    let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("multiproc/second/{hex}").into_bytes()
}

const _: () = assert!(HELLO <= SECOND && PROOF <= SECOND, "the buffer has room for the longest of them");

/// For fuzzers: whether one who says these bytes has been let in. After the first [`HELLO`] bytes the right proof is said for it, if it says so.
#[cfg(any(test, fuzzing))]
pub(crate) fn hears(bytes: &[u8], keyed: bool, proves: bool) -> bool {
    let key = keyed.then(|| Key::new("key"));
    let (to_backlog, backlog) = crate::one_way().expect("a pipe");
    let (listening, _) = fd_passing::pair().expect("a socket pair");
    let shared = ListenerShared { listening, key: key.clone(), tcp: false, same_user: false, to_backlog, backlog };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    let (first, rest) = bytes.split_at(if proves { bytes.len().min(HELLO) } else { bytes.len() });
    let write = |bytes: &[u8]| io::Write::write_all(&mut &theirs, bytes);
    write(first).expect("there is room for so few");
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
        assert!(client.said.len() < SECOND, "no more is kept than there is to say");
        if let Stage::Proof(transcript) = &client.stage
            && proves
        {
            write(&transcript.prove(key.as_ref(), Role::Client, &[0; NAME])).expect("there is room");
        }
        // It may be refused already.
        let _ = write(rest);
        heard = client.hear(&shared);
    }
    match heard {
        Heard::ViaHandle(link) => {
            assert!(proves, "nobody is let in without a proof");
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
    fn of_many_refusals_some_are_logged_and_the_others_counted() {
        let (to_backlog, backlog) = crate::one_way().unwrap();
        let (listening, _) = fd_passing::pair().unwrap();
        let shared = ListenerShared { listening, key: None, tcp: false, same_user: false, to_backlog, backlog };
        let mut handshakes = Handshakes::open(&shared, &Epoll::new().unwrap()).unwrap();
        for _ in 0..100 {
            handshakes.refuse(Peer::Pipe, RefusalReason::Gone);
        }
        assert_eq!(handshakes.take_unlogged().len() as u64, LINES);
        handshakes.refuse(Peer::Pipe, RefusalReason::Gone);
        assert!(handshakes.take_unlogged().is_empty());
        // Later.
        handshakes.log.since = Instant::now().checked_sub(LINES_TIME);
        handshakes.refuse(Peer::Pipe, RefusalReason::Gone);
        let said = handshakes.take_unlogged();
        assert_eq!((said.len(), said[0].as_str()), (2, "85 others were not let in"));
        assert!(handshakes.take_unlogged().is_empty());
    }
}
