//! BarrierState in which a number of parties wait for each other: what a barrier is made of. `../sync/PROTOCOL.md`, "Barrier".
//!
//! Where a round is, is one number. What else belongs to a change is written first, to where nobody looks before that number says so.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};
use std::time::Instant;

use multiproc_os::identity::Identity;
use multiproc_os::robust::copy_number;

use super::ledger::{self, Book, Entry, Ledger, me};
use super::notifier::ViaHandle;
use super::object::Object;
use super::segment::layout;
use super::spin_lock::{RobustSpinGuard, RobustSpinLock, Stalled, within};
use super::wait_queue::{WaitFailure, WaitOp, WaitQueue, Watched};

/// More parties than that there can't be.
pub(crate) const MOST: usize = u16::MAX as usize;

layout! {
    /// The shared part; all zero but for the parties, it is in round 0, and nobody has arrived.
    pub(crate) struct BarrierState: "barrier", 0x22, ledger::MORE {
        /// A [`Phase`].
        moment: AtomicU64,
        spin_lock: RobustSpinLock,
        wait_queue: WaitQueue,
        parties: AtomicU32,
        /// Why the round was broken that this names.
        cause: AtomicU32,
        pid: AtomicU32,
        broken: AtomicU64,
        /// The process that is at the action of the round.
        actor: AtomicU64,
        /// The round, plus one, that a party wants to be broken which could not have the latch in
        /// time; and its process. For the next one that has it.
        unwanted: AtomicU64,
        unwanted_by: AtomicU32,
        /// What belongs to even rounds, and what belongs to odd ones.
        past: [History; 2],
        /// In which round each process has arrived last, and how many of its threads: a [`Note`].
        ledger: Ledger,
    }
}

layout! {
    /// What a round knows of those before.
    struct History {
        /// A bit for each of the last 64 rounds, the lowest for the last: whether it was broken.
        broken: AtomicU64,
        /// Who has arrived in that round or since is known, and expected to come again.
        known_since: AtomicU64,
    }
}

/// Why a round is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// This process was known to take part, and has died.
    Died(i32),
    /// In this process somebody has waited for too long.
    Late(i32),
    /// This process has broken it off.
    Aborted(i32),
    /// In this process the action has panicked.
    Action(i32),
    /// This process has begun anew. 0: nobody knows any more which.
    Reset(i32),
    /// All who have the object were waiting, and they were too few.
    Alone,
    /// In this process the system has refused to wait.
    System(i32),
}

impl Cause {
    fn to_numbers(self) -> (u32, i32) {
        match self {
            Cause::Died(pid) => (1, pid),
            Cause::Late(pid) => (2, pid),
            Cause::Aborted(pid) => (3, pid),
            Cause::Action(pid) => (4, pid),
            Cause::Reset(pid) => (5, pid),
            Cause::Alone => (6, 0),
            Cause::System(pid) => (7, pid),
        }
    }

    fn from_numbers(cause: u32, pid: i32) -> Cause {
        match cause {
            1 => Cause::Died(pid),
            2 => Cause::Late(pid),
            3 => Cause::Aborted(pid),
            4 => Cause::Action(pid),
            6 => Cause::Alone,
            7 => Cause::System(pid),
            _ => Cause::Reset(pid),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Some have arrived, others haven't.
    Filling,
    /// All have arrived, and one of them is at the action.
    Acting,
    /// Nobody waits any more until it is reset.
    Broken,
}

/// Where things are: the round, its phase, and how many have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Phase(u64);

impl Phase {
    fn new(round: u64, phase: Stage, arrived: usize) -> Phase {
        Phase(round << 18 | (phase as u64) << 16 | arrived as u64)
    }

    fn round(self) -> u64 {
        self.0 >> 18
    }

    fn phase(self) -> Stage {
        match self.0 >> 16 & 3 {
            0 => Stage::Filling,
            1 => Stage::Acting,
            _ => Stage::Broken,
        }
    }

    fn arrived(self) -> usize {
        self.0 as u16 as usize
    }

    fn with(self, phase: Stage) -> Phase {
        Phase::new(self.round(), phase, self.arrived())
    }

    fn next(self) -> Phase {
        // What is shifted out at the end of days is shifted out of the notes too.
        Phase::new((self.round() + 1) & (u64::MAX >> 18), Stage::Filling, 0)
    }
}

/// What the ledger has of a process: a round, and how many have arrived in it.
#[derive(Debug, Clone, Copy)]
struct Note(u64);

impl Note {
    fn new(round: u64, count: usize) -> Note {
        Note(round << 16 | count as u64)
    }

    fn of(entry: Entry<'_>) -> Note {
        Note(entry.note())
    }

    fn round(self) -> u64 {
        self.0 >> 16
    }

    fn count(self) -> usize {
        self.0 as u16 as usize
    }
}

/// What has come of arriving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// As the one of this index, and others are missing in this round.
    Waits(u64, usize),
    /// As the last one, and the round is over.
    Last,
    /// As the last one: the action of this round is the caller's.
    Acts(u64),
    /// Not yet: this round isn't over.
    Early(u64),
    /// It is broken.
    Broken(Cause),
}

impl BarrierState {
    /// A new object.
    ///
    /// # Errors
    /// `InvalidInput` for no party or more than [`MOST`]; `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub(crate) fn create(parties: usize) -> io::Result<Object<BarrierState>> {
        if parties == 0 || parties > MOST {
            let error = format!("{parties} parties, where there can be 1 to {MOST}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        let object = Object::<BarrierState>::create()?;
        object.parties.store(parties as u32, Relaxed);
        object.moment.store(Phase::new(1, Stage::Filling, 0).0, Relaxed);
        Ok(object)
    }

    /// How many wait for each other.
    pub(crate) fn parties(&self) -> usize {
        (self.parties.load(Relaxed) as usize).clamp(1, MOST)
    }

    /// How many have arrived in this round.
    pub(crate) fn arrived(&self) -> usize {
        match self.moment() {
            moment if moment.phase() == Stage::Broken => 0,
            moment => moment.arrived(),
        }
    }

    /// Whether nobody waits until it is reset.
    pub(crate) fn is_broken(&self) -> bool {
        self.moment().phase() == Stage::Broken
    }

    #[inline]
    fn moment(&self) -> Phase {
        Phase(self.moment.load(SeqCst))
    }

    fn past(&self, round: u64) -> &History {
        &self.past[(round & 1) as usize]
    }

    /// Those who have arrived since that round are known.
    fn known_since(&self) -> u64 {
        self.past(self.moment().round()).known_since.load(Relaxed)
    }

    fn is_known(&self, entry: Entry<'_>, since: u64) -> bool {
        entry.owner() != 0 && Note::of(entry).round() >= since
    }

    /// Why that round was broken, as far as that is still known. Under the latch.
    fn cause(&self, round: u64) -> Cause {
        if self.broken.load(Relaxed) != round {
            return Cause::Reset(0);
        }
        Cause::from_numbers(self.cause.load(Relaxed), self.pid.load(Relaxed) as i32)
    }

    /// To be written before the moment in which the round is broken.
    fn write_cause(&self, round: u64, cause: Cause) {
        let (number, pid) = cause.to_numbers();
        // Nobody believes it before it is complete.
        self.broken.store(u64::MAX, Release);
        self.cause.store(number, Release);
        self.pid.store(pid as u32, Release);
        self.broken.store(round, Release);
    }

    /// To be written before the moment in which the round has ended.
    fn write_past(&self, round: u64, was_broken: bool, forget: bool) {
        let (past, next) = (self.past(round), self.past(round + 1));
        next.broken.store(past.broken.load(Relaxed) << 1 | u64::from(was_broken), Release);
        next.known_since.store(if forget { round + 1 } else { past.known_since.load(Relaxed) }, Release);
    }

    fn go_to(&self, moment: Phase) {
        self.moment.store(moment.0, SeqCst);
    }

    /// What has come of a round. None if it isn't over. Under the latch.
    fn outcome(&self, round: u64) -> Option<Result<(), Cause>> {
        let moment = self.moment();
        if moment.round() == round {
            return (moment.phase() == Stage::Broken).then(|| Err(self.cause(round)));
        }
        let ago = moment.round().wrapping_sub(round).wrapping_sub(1);
        let broken = self.past(moment.round()).broken.load(Relaxed);
        // Who was away for longer than anybody remembers is told so.
        let was_broken = ago >= 64 || broken >> ago & 1 != 0;
        Some(if was_broken { Err(self.cause(round)) } else { Ok(()) })
    }
}

impl Object<BarrierState> {
    fn book(&self) -> Book<'_, BarrierState> {
        Book { ledger: &self.ledger, segment: self.segment() }
    }

    fn lock(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        self.spin_lock.lock().map(|guard| self.inherit(guard))
    }

    fn lock_endlessly(&self) -> RobustSpinGuard<'_> {
        self.inherit(self.spin_lock.lock_endlessly())
    }

    fn inherit<'a>(&'a self, guard: RobustSpinGuard<'a>) -> RobustSpinGuard<'a> {
        if guard.inherited {
            self.count_again();
        }
        if self.unwanted.load(SeqCst) != 0 {
            self.break_unwanted();
        }
        guard
    }

    /// Breaks the round that a party has given up without the latch. Under the latch.
    #[cold]
    fn break_unwanted(&self) {
        let moment = self.moment();
        let round = self.unwanted.load(SeqCst);
        if moment.phase() != Stage::Broken && round == moment.round().wrapping_add(1) {
            self.wait_queue.before_change(self.notifier());
            self.write_cause(moment.round(), Cause::Late(self.unwanted_by.load(Relaxed) as i32));
            self.go_to(moment.with(Stage::Broken));
            self.wait_queue.after_change(u32::MAX);
        }
        // Last: if this process dies before, the next one does it.
        let _ = self.unwanted.compare_exchange(round, 0, SeqCst, Relaxed);
    }

    /// Somebody may have died between putting itself on the ledger and counting itself. It is among those who have arrived then, and has died.
    fn count_again(&self) {
        let moment = self.moment();
        if moment.phase() == Stage::Filling {
            let notes = self.book().entries().filter(|(_, entry)| entry.owner() != 0).map(|(_, entry)| Note::of(entry));
            let arrived: usize = notes.filter(|note| note.round() == moment.round()).map(Note::count).sum();
            self.go_to(Phase::new(moment.round(), Stage::Filling, arrived.min(self.parties())));
        }
    }

    /// Waits for the others. The last one calls `action` before anybody goes on, if that is one; gives the number of those who were there before.
    ///
    /// # Errors
    /// The cause if the round is broken; what the system said, if that was why.
    pub(crate) fn wait(
        &self,
        deadline: Option<Instant>,
        action: Option<impl FnOnce()>,
    ) -> Result<usize, (Cause, Option<io::Error>)> {
        within(deadline.into(), || self.wait_until(deadline, action))
    }

    fn wait_until(
        &self,
        deadline: Option<Instant>,
        action: Option<impl FnOnce()>,
    ) -> Result<usize, (Cause, Option<io::Error>)> {
        let broken = |cause| (cause, None);
        loop {
            match self.arrive(action.is_some()).map_err(|error| self.give_up(WaitFailure::System(error)))? {
                Arrival::Waits(round, index) => {
                    return self.wait_for(round, deadline)?.map(|()| index).map_err(broken);
                }
                Arrival::Last => return Ok(self.parties() - 1),
                Arrival::Acts(round) => {
                    if let Some(action) = action {
                        let acting = Acting { object: self, round, copy: copy_number() };
                        action();
                        let is_copy = acting.is_copy();
                        std::mem::forget(acting);
                        if is_copy {
                            // The round is the original's to end.
                            return Ok(self.parties() - 1);
                        }
                    }
                    return match self.end_round(round) {
                        Ok(outcome) => outcome.map(|()| self.parties() - 1).map_err(broken),
                        Err(stalled) => Err(self.give_up_in(Some(round), WaitFailure::System(stalled.into()))),
                    };
                }
                Arrival::Early(round) => self.wait_for(round, deadline)?.map_err(broken)?,
                Arrival::Broken(cause) => return Err(broken(cause)),
            }
        }
    }

    fn arrive(&self, acts: bool) -> io::Result<Arrival> {
        let (me, notifier) = (me()?, self.notifier());
        let mut all_live = None;
        loop {
            let guard = self.lock()?;
            let moment = self.moment();
            match moment.phase() {
                Stage::Broken => return Ok(Arrival::Broken(self.cause(moment.round()))),
                Stage::Acting => return Ok(Arrival::Early(moment.round())),
                // One of them is dead, since they have not gone on: whoever waits finds out.
                Stage::Filling if moment.arrived() >= self.parties() => return Ok(Arrival::Early(moment.round())),
                Stage::Filling => {}
            }
            let is_last = moment.arrived() + 1 == self.parties();
            // Who was here first may be dead, without anybody having noticed.
            if is_last && all_live != Some(moment) {
                drop(guard);
                let arrived =
                    self.book().others(|entry| entry.owner() != 0 && Note::of(entry).round() == moment.round());
                if let Some(dead) = arrived?.into_iter().find(|process| !process.seems_alive()) {
                    self.break_round(Some(moment.round()), Cause::Died(dead.pid()));
                }
                all_live = Some(moment);
                continue;
            }
            let (book, since) = (self.book(), self.known_since());
            let hint = self.place().load(Relaxed) as usize;
            let place = book.find(hint, |entry| entry.owner() == me || !self.is_known(entry, since));
            let Some((place, entry)) = place.and_then(|place| Some((place, book.entry(place)?))) else {
                drop(guard);
                let room = book.make_room()?;
                let _guard = self.lock()?;
                book.add_room(room);
                continue;
            };
            self.place().store(place as u32, Relaxed);
            if entry.owner() != me || !self.is_known(entry, since) {
                // Those who sleep watch the processes that were known. They are to watch this one, too.
                self.wait_queue.before_change(notifier);
            }
            let count = match Note::of(entry) {
                note if entry.owner() == me && note.round() == moment.round() => note.count(),
                _ => 0,
            };
            if entry.owner() != me {
                entry.note.store(0, Release);
                entry.owner.store(me, Release);
            }
            entry.note.store(Note::new(moment.round(), count + 1).0, Release);
            return Ok(match (is_last, acts) {
                (false, _) => {
                    self.go_to(Phase::new(moment.round(), Stage::Filling, moment.arrived() + 1));
                    Arrival::Waits(moment.round(), moment.arrived())
                }
                (true, true) => {
                    self.actor.store(me, Release);
                    self.go_to(Phase::new(moment.round(), Stage::Acting, self.parties()));
                    Arrival::Acts(moment.round())
                }
                (true, false) => {
                    self.wait_queue.before_change(notifier);
                    self.write_past(moment.round(), false, false);
                    self.go_to(moment.next());
                    drop(guard);
                    self.wait_queue.after_change(u32::MAX);
                    Arrival::Last
                }
            });
        }
    }

    /// Ends the round of which the caller has done the action.
    fn end_round(&self, round: u64) -> Result<Result<(), Cause>, Stalled> {
        let notifier = self.notifier();
        let guard = self.lock()?;
        if let Some(outcome) = self.outcome(round) {
            return Ok(outcome);
        }
        self.wait_queue.before_change(notifier);
        self.write_past(round, false, false);
        self.go_to(self.moment().next());
        drop(guard);
        self.wait_queue.after_change(u32::MAX);
        Ok(Ok(()))
    }

    /// Waits until that round is over. The outer error is that of this call, which has broken it.
    fn wait_for(&self, round: u64, deadline: Option<Instant>) -> Result<Result<(), Cause>, (Cause, Option<io::Error>)> {
        let mut wish = Over { object: self, round };
        match self.wait_queue.wait(self.notifier(), deadline, &mut wish) {
            Ok(outcome) => Ok(outcome),
            Err(vain) => {
                // It may be over by now.
                let (cause, error) = self.give_up_in(Some(round), vain);
                let Ok(_guard) = self.lock() else { return Err((cause, error)) };
                match self.outcome(round) {
                    Some(Ok(())) => Ok(Ok(())),
                    Some(Err(known)) if known != cause => Ok(Err(known)),
                    _ => Err((cause, error)),
                }
            }
        }
    }

    fn give_up(&self, vain: WaitFailure) -> (Cause, Option<io::Error>) {
        self.give_up_in(None, vain)
    }

    /// Breaks the round that the caller can't wait for any more.
    fn give_up_in(&self, round: Option<u64>, vain: WaitFailure) -> (Cause, Option<io::Error>) {
        let (cause, error) = match vain {
            WaitFailure::Late => (Cause::Late(pid()), None),
            WaitFailure::Alone => (Cause::Alone, None),
            WaitFailure::System(error) => (Cause::System(pid()), Some(error)),
        };
        self.break_round(round, cause);
        (cause, error)
    }

    /// Breaks that round, if it isn't over; or the one that there is. If the latch can't be had in
    /// time, the next one that has it does so.
    pub(crate) fn break_round(&self, round: Option<u64>, cause: Cause) {
        let notifier = self.notifier();
        let Ok(guard) = self.lock() else {
            self.unwanted_by.store(pid() as u32, Relaxed);
            self.unwanted.store(round.unwrap_or(self.moment().round()).wrapping_add(1), SeqCst);
            return;
        };
        let moment = self.moment();
        if moment.phase() == Stage::Broken || round.is_some_and(|round| round != moment.round()) {
            return;
        }
        self.wait_queue.before_change(notifier);
        self.write_cause(moment.round(), cause);
        self.go_to(moment.with(Stage::Broken));
        drop(guard);
        self.wait_queue.after_change(u32::MAX);
    }

    /// Begins a new round, with parties that are not known yet. Those who wait are told that theirs is broken.
    pub(crate) fn reset(&self) {
        let notifier = self.notifier();
        let guard = self.lock_endlessly();
        let moment = self.moment();
        let was_broken = moment.phase() == Stage::Broken;
        self.wait_queue.before_change(notifier);
        if !was_broken {
            self.write_cause(moment.round(), Cause::Reset(pid()));
        }
        self.write_past(moment.round(), was_broken || moment.arrived() > 0, true);
        self.go_to(moment.next());
        drop(guard);
        self.wait_queue.after_change(u32::MAX);
    }

    /// Takes this process off the ledger: it isn't expected any more. For the last handle.
    pub(crate) fn leave(&self) {
        let Ok(me) = me() else { return };
        let _guard = self.lock_endlessly();
        let book = self.book();
        let round = self.moment().round();
        if let Some(entry) = book.entry(self.place().load(Relaxed) as usize)
            && entry.owner() == me
            && Note::of(entry).round() != round
        {
            entry.owner.store(0, Release);
            book.shorten(|entry| entry.owner() == 0);
        }
    }

    /// Those whose death would break that round, but for this process.
    fn expected(&self, round: u64) -> io::Result<Vec<Identity>> {
        let since = self.known_since();
        match self.moment() {
            moment if moment.round() != round => Ok(Vec::new()),
            moment if moment.phase() == Stage::Acting => {
                let me = me()?;
                Ok(Identity::from_bits(self.actor.load(Relaxed))
                    .into_iter()
                    .filter(|actor| actor.to_bits() != me)
                    .collect())
            }
            _ => self.book().others(|entry| self.is_known(entry, since)),
        }
    }
}

fn pid() -> i32 {
    multiproc_os::threads::getpid()
}

/// Breaks the round if the action panics.
struct Acting<'a> {
    object: &'a Object<BarrierState>,
    round: u64,
    /// The copy of the process whose action it is.
    copy: u32,
}

impl Acting<'_> {
    /// Whether this is a copy, made by fork in the action, of the process whose action it is.
    fn is_copy(&self) -> bool {
        self.copy != copy_number()
    }
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        if !self.is_copy() {
            self.object.break_round(Some(self.round), Cause::Action(pid()));
        }
    }
}

/// The wish that a round be over.
struct Over<'a> {
    object: &'a Object<BarrierState>,
    round: u64,
}

impl Over<'_> {
    /// Whether it seems to be.
    fn seems_over(&self) -> bool {
        let moment = self.object.moment();
        moment.round() != self.round || moment.phase() == Stage::Broken
    }

    fn break_for(&self, dead: &[Identity]) {
        if let Some(dead) = dead.first() {
            self.object.break_round(Some(self.round), Cause::Died(dead.pid()));
        }
    }
}

impl WaitOp for Over<'_> {
    type Outcome = Result<(), Cause>;

    fn attempt(&mut self) -> Option<Result<(), Cause>> {
        if !self.seems_over() {
            return None;
        }
        let _guard = self.object.lock().ok()?;
        self.object.outcome(self.round)
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _guard = self.object.lock()?;
        if self.seems_over() {
            return Ok(true);
        }
        arm();
        Ok(false)
    }

    fn watch(&mut self) -> io::Result<Watched> {
        let (watched, dead) = ledger::watch(self.object.expected(self.round)?)?;
        self.break_for(&dead);
        Ok(watched)
    }

    fn died(&mut self) -> io::Result<()> {
        self.break_for(&ledger::dead_of(self.object.expected(self.round)?));
        Ok(())
    }

    fn through(&self) -> ViaHandle<'_> {
        self.object.through()
    }

    fn depends(&mut self) -> io::Result<bool> {
        let expected = self.object.expected(self.round)?;
        Ok(expected.into_iter().any(|process| process.is_ending().unwrap_or(false)))
    }
}
