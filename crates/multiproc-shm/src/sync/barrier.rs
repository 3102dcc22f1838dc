//! [`Barrier`]: rounds in which a number of parties wait for each other. See
//! `PROTOCOL.md` in this folder, "Barrier".
//!
//! One number says which round it is and how far it has come (a [`Phase`]). Whatever else belongs
//! to a change is written before that number, to fields that no thread reads until the number says
//! so.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};
use std::time::Instant;

use multiproc_os::identity::Identity;
use multiproc_os::poll::interruptible_if;
use multiproc_os::robust::copy_number;

use crate::lock::spin_lock::{RobustSpinGuard, RobustSpinLock, Stalled, within};
use crate::memory::object::Object;
use crate::memory::segment::layout;
use crate::memory::slab::{Slab, Slot};
use crate::sync::error::WaitError;
use crate::sync::ledger::{self, Entry, Ledger, LedgerView, me};
use crate::wait::deadline::Deadline;
use crate::wait::notifier::ViaHandle;
use crate::wait::wait_queue::{WaitFailure, WaitOp, WaitQueue, Watched};

/// The maximum number of parties.
pub const MAX_PARTIES: usize = u16::MAX as usize;

layout! {
    /// The shared part; all zero except `parties`, it is in round 0, and no party has arrived.
    pub struct BarrierState: "barrier", 0x22, ledger::TRAILING_WORDS {
        /// The present [`Phase`].
        phase: AtomicU64,
        spin_lock: RobustSpinLock,
        wait_queue: WaitQueue,
        parties: AtomicU32,
        /// Why the round in `broken` was broken, and by which process.
        cause: AtomicU32,
        pid: AtomicU32,
        broken: AtomicU64,
        /// The process that runs the action of the present round.
        actor: AtomicU64,
        /// A round, plus one, that must be broken, as a party has given up and could not get the
        /// spin lock in time; and the party's process. The next owner of the spin lock breaks it.
        unwanted: AtomicU64,
        unwanted_by: AtomicU32,
        /// The history as of even rounds, and as of odd ones.
        past: [History; 2],
        /// The latest round in which each process has arrived, and how many of its threads: a
        /// [`Note`].
        ledger: Ledger,
    }
}

layout! {
    /// The outcomes of the rounds before a round.
    struct History {
        /// Whether each of the last 64 rounds was broken, one bit each; the lowest bit is for the
        /// latest.
        broken: AtomicU64,
        /// Processes that have arrived in this round or later are known, and expected to arrive
        /// again.
        known_since: AtomicU64,
    }
}

/// Why a round was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakCause {
    /// This process was known to take part, and has died.
    Death(i32),
    /// The deadline of a party in this process has passed.
    Timeout(i32),
    /// This process has called `abort`.
    Abort(i32),
    /// The action has panicked in this process.
    Action(i32),
    /// This process has called `reset`. 0: it isn't known any more which process did.
    Reset(i32),
    /// Fewer parties than needed were left: all processes with a handle were waiting.
    Disconnected,
    /// A system call of this process has failed.
    Io(i32),
}

impl BreakCause {
    fn to_numbers(self) -> (u32, i32) {
        match self {
            BreakCause::Death(pid) => (1, pid),
            BreakCause::Timeout(pid) => (2, pid),
            BreakCause::Abort(pid) => (3, pid),
            BreakCause::Action(pid) => (4, pid),
            BreakCause::Reset(pid) => (5, pid),
            BreakCause::Disconnected => (6, 0),
            BreakCause::Io(pid) => (7, pid),
        }
    }

    fn from_numbers(cause: u32, pid: i32) -> BreakCause {
        match cause {
            1 => BreakCause::Death(pid),
            2 => BreakCause::Timeout(pid),
            3 => BreakCause::Abort(pid),
            4 => BreakCause::Action(pid),
            6 => BreakCause::Disconnected,
            7 => BreakCause::Io(pid),
            _ => BreakCause::Reset(pid),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Some parties have arrived, others haven't.
    Filling,
    /// All parties have arrived, and one of them runs the action.
    Acting,
    /// No party waits until the barrier is reset.
    Broken,
}

/// How far the barrier has come: the round, its stage, and how many parties have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Phase(u64);

impl Phase {
    fn new(round: u64, stage: Stage, arrived: usize) -> Phase {
        Phase(round << 18 | (stage as u64) << 16 | arrived as u64)
    }

    fn round(self) -> u64 {
        self.0 >> 18
    }

    fn stage(self) -> Stage {
        match self.0 >> 16 & 3 {
            0 => Stage::Filling,
            1 => Stage::Acting,
            _ => Stage::Broken,
        }
    }

    fn arrived(self) -> usize {
        self.0 as u16 as usize
    }

    fn with(self, stage: Stage) -> Phase {
        Phase::new(self.round(), stage, self.arrived())
    }

    fn next(self) -> Phase {
        // Rounds wrap around at the number of bits that a [`Note`] has for them as well.
        Phase::new((self.round() + 1) & (u64::MAX >> 18), Stage::Filling, 0)
    }
}

/// The ledger's note about a process: a round, and how many of its threads have arrived in it.
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

/// The result of arriving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// The round and the party's index in it: other parties are still missing.
    Waits(u64, usize),
    /// As the last party: the round is over.
    Last,
    /// As the last party: the caller must run the action of this round.
    Acts(u64),
    /// Too early: this round isn't over yet.
    Early(u64),
    /// The barrier is broken.
    Broken(BreakCause),
}

impl BarrierState {
    /// The number of parties.
    fn parties(&self) -> usize {
        (self.parties.load(Relaxed) as usize).clamp(1, MAX_PARTIES)
    }

    /// How many parties have arrived in the present round.
    fn arrived(&self) -> usize {
        match self.phase() {
            phase if phase.stage() == Stage::Broken => 0,
            phase => phase.arrived(),
        }
    }

    /// Whether no party waits until the barrier is reset.
    fn is_broken(&self) -> bool {
        self.phase().stage() == Stage::Broken
    }

    #[inline]
    fn phase(&self) -> Phase {
        Phase(self.phase.load(SeqCst))
    }

    fn past(&self, round: u64) -> &History {
        &self.past[(round & 1) as usize]
    }

    /// Processes that have arrived in this round or later are known.
    fn known_since(&self) -> u64 {
        self.past(self.phase().round()).known_since.load(Relaxed)
    }

    fn is_known(&self, entry: Entry<'_>, since: u64) -> bool {
        entry.owner() != 0 && Note::of(entry).round() >= since
    }

    /// Why the round was broken, as far as that is still recorded. Must be called with the spin
    /// lock held.
    fn cause(&self, round: u64) -> BreakCause {
        if self.broken.load(Relaxed) != round {
            return BreakCause::Reset(0);
        }
        BreakCause::from_numbers(self.cause.load(Relaxed), self.pid.load(Relaxed) as i32)
    }

    /// Must be called before the store to `phase` that breaks the round.
    fn write_cause(&self, round: u64, cause: BreakCause) {
        let (number, pid) = cause.to_numbers();
        // No reader accepts the cause before it is complete.
        self.broken.store(u64::MAX, Release);
        self.cause.store(number, Release);
        self.pid.store(pid as u32, Release);
        self.broken.store(round, Release);
    }

    /// Must be called before the store to `phase` that ends the round.
    fn write_past(&self, round: u64, was_broken: bool, forget: bool) {
        let (past, next) = (self.past(round), self.past(round + 1));
        next.broken.store(past.broken.load(Relaxed) << 1 | u64::from(was_broken), Release);
        next.known_since.store(if forget { round + 1 } else { past.known_since.load(Relaxed) }, Release);
    }

    fn go_to(&self, phase: Phase) {
        self.phase.store(phase.0, SeqCst);
    }

    /// The result of a round; `None` if it isn't over. Must be called with the spin lock held.
    fn outcome(&self, round: u64) -> Option<Result<(), BreakCause>> {
        let phase = self.phase();
        if phase.round() == round {
            return (phase.stage() == Stage::Broken).then(|| Err(self.cause(round)));
        }
        let ago = phase.round().wrapping_sub(round).wrapping_sub(1);
        let broken = self.past(phase.round()).broken.load(Relaxed);
        // A party that was away for longer than the history is told that its round was broken.
        let was_broken = ago >= 64 || broken >> ago & 1 != 0;
        Some(if was_broken { Err(self.cause(round)) } else { Ok(()) })
    }
}

/// A barrier at which a fixed number of parties wait for each other: the layer under
/// `multiproc::sync::Barrier`. When a party dies, reaches its deadline or gives up, the round is
/// broken for all parties.
///
/// It takes two descriptors, or none of its own [in a slab](Barrier::create_in). A clone is another
/// handle of the same barrier; each thread that waits needs its own.
///
/// ```
/// use multiproc_shm::sync::Barrier;
/// use multiproc_shm::wait::deadline::Deadline;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let barrier = Barrier::create(2)?;
/// let same = Barrier::from_fds(barrier.to_fds()?)?; // in another process, perhaps
/// let (one, two) = std::thread::scope(|scope| {
///     let other = scope.spawn(|| same.wait(Deadline::Never));
///     (barrier.wait(Deadline::Never), other.join().unwrap())
/// });
/// assert_eq!(one? + two?, 1, "one arrived first, the other second");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Barrier {
    object: Object<BarrierState>,
    is_interruptible: bool,
}

/// Why a wait at a [`Barrier`] has failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// The round is broken.
    #[error("the barrier is broken: {0:?}")]
    Broken(BreakCause),
    /// This call has ended without the other parties, and so has broken the round.
    #[error(transparent)]
    Wait(WaitError),
}

impl Clone for Barrier {
    fn clone(&self) -> Barrier {
        Barrier { object: self.object.clone(), is_interruptible: self.is_interruptible }
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        if self.object.retire() {
            self.leave();
        }
    }
}

impl Barrier {
    /// Creates a barrier for this number of parties.
    ///
    /// # Errors
    /// `InvalidInput` for no party or more than [`MAX_PARTIES`]; `EMFILE`, `ENFILE`, `ENOSPC`,
    /// `ENOMEM`.
    pub fn create(parties: usize) -> io::Result<Barrier> {
        Barrier::begin(parties, Object::create)
    }

    /// Creates a barrier in a slab.
    ///
    /// # Errors
    /// `StorageFull` when the slab has no slot left; and as [`create`](Barrier::create).
    pub fn create_in(slab: &Slab, parties: usize) -> io::Result<Barrier> {
        Barrier::begin(parties, || Object::create_in(slab))
    }

    fn begin(parties: usize, create: impl FnOnce() -> io::Result<Object<BarrierState>>) -> io::Result<Barrier> {
        if parties == 0 || parties > MAX_PARTIES {
            let error = format!("{parties} parties: there can be 1 to {MAX_PARTIES}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        let object = create()?;
        object.parties.store(parties as u32, Relaxed);
        object.phase.store(Phase::new(1, Stage::Filling, 0).0, Relaxed);
        Ok(Barrier::from_object(object))
    }

    /// Opens a barrier with the descriptors that [`to_fds`](Barrier::to_fds) has returned, perhaps
    /// in another process.
    ///
    /// # Errors
    /// `InvalidData` when they are something else; `Unsupported` when it was created in another PID
    /// namespace; `ENOMEM`.
    pub fn from_fds([memory, wake_pipe]: [OwnedFd; 2]) -> io::Result<Barrier> {
        Object::open(memory, wake_pipe).map(Barrier::from_object)
    }

    /// Opens the barrier in a slot of a slab.
    ///
    /// # Errors
    /// As [`from_fds`](Barrier::from_fds).
    pub fn open_in(slab: &Slab, index: u32) -> io::Result<Barrier> {
        Object::open_in(slab, index).map(Barrier::from_object)
    }

    /// Returns descriptors of the memory file and of the wake pipe, to be sent to another process.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `InvalidInput` if the barrier lies in a slab.
    pub fn to_fds(&self) -> io::Result<[OwnedFd; 2]> {
        self.object.to_fds()
    }

    /// Returns the slot of a barrier that lies in a slab.
    pub fn slot(&self) -> Option<&Slot> {
        self.object.slot()
    }

    /// Makes this handle interruptible, as
    /// [`Semaphore::interruptible`](super::Semaphore::interruptible) does. A wait that is
    /// interrupted breaks the round.
    #[must_use]
    pub fn interruptible(mut self) -> Barrier {
        self.is_interruptible = true;
        self
    }

    /// Returns the object behind the barrier.
    pub fn object(&self) -> &Object<BarrierState> {
        &self.object
    }

    /// Makes a barrier of its object.
    pub fn from_object(object: Object<BarrierState>) -> Barrier {
        Barrier { object, is_interruptible: false }
    }

    /// Returns the number of parties.
    pub fn parties(&self) -> usize {
        self.object.parties()
    }

    /// Returns how many parties have arrived in the present round.
    pub fn arrived(&self) -> usize {
        self.object.arrived()
    }

    /// Returns whether the barrier is broken: no party waits until it is reset.
    pub fn is_broken(&self) -> bool {
        self.object.is_broken()
    }

    fn ledger(&self) -> LedgerView<'_, BarrierState> {
        LedgerView { ledger: &self.object.ledger, segment: self.object.segment() }
    }

    fn lock(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        self.object.spin_lock.lock().map(|guard| self.inherit(guard))
    }

    fn lock_endlessly(&self) -> RobustSpinGuard<'_> {
        self.inherit(self.object.spin_lock.lock_endlessly())
    }

    fn inherit<'a>(&'a self, guard: RobustSpinGuard<'a>) -> RobustSpinGuard<'a> {
        if guard.inherited {
            self.count_again();
        }
        if self.object.unwanted.load(SeqCst) != 0 {
            self.break_unwanted();
        }
        guard
    }

    /// Breaks the round that a party has given up without the spin lock. Must be called with the
    /// spin lock held.
    #[cold]
    fn break_unwanted(&self) {
        let phase = self.object.phase();
        let round = self.object.unwanted.load(SeqCst);
        if phase.stage() != Stage::Broken && round == phase.round().wrapping_add(1) {
            self.object.wait_queue.before_change(self.object.notifier());
            self.object.write_cause(phase.round(), BreakCause::Timeout(self.object.unwanted_by.load(Relaxed) as i32));
            self.object.go_to(phase.with(Stage::Broken));
            self.object.wait_queue.after_change(u32::MAX);
        }
        // Last: if this process dies before, the next owner does the same again.
        let _ = self.object.unwanted.compare_exchange(round, 0, SeqCst, Relaxed);
    }

    /// Recomputes the number of arrived parties from the ledger: a party may have died between
    /// entering the ledger and counting itself. It has arrived then, and is found dead later.
    fn count_again(&self) {
        let phase = self.object.phase();
        if phase.stage() == Stage::Filling {
            let notes =
                self.ledger().entries().filter(|(_, entry)| entry.owner() != 0).map(|(_, entry)| Note::of(entry));
            let arrived: usize = notes.filter(|note| note.round() == phase.round()).map(Note::count).sum();
            self.object.go_to(Phase::new(phase.round(), Stage::Filling, arrived.min(self.object.parties())));
        }
    }

    /// Waits until all parties have arrived. Returns how many had arrived before the caller.
    ///
    /// # Errors
    /// [`BarrierError::Broken`] when the round is broken: a party has died, or has ended its wait;
    /// [`BarrierError::Wait`] when this call can't wait, which breaks the round for all parties, or
    /// at the deadline.
    pub fn wait(&self, deadline: Deadline) -> Result<usize, BarrierError> {
        let wait = || self.wait_with(deadline.instant(), None::<fn()>);
        let waited = interruptible_if(self.is_interruptible, wait);
        waited.map_err(|(cause, error)| match (cause, error) {
            (_, Some(error)) => BarrierError::Wait(error.into()),
            (BreakCause::Timeout(process), None) if process == pid() && deadline.has_passed() => {
                BarrierError::Wait(WaitError::Timeout)
            }
            (cause, None) => BarrierError::Broken(cause),
        })
    }

    /// As [`wait`](Barrier::wait); the last party calls `action`, if there is one, before any party
    /// continues.
    ///
    /// # Errors
    /// Why the round was broken; with the system's error, if that was the reason.
    pub fn wait_with(
        &self,
        deadline: Option<Instant>,
        action: Option<impl FnOnce()>,
    ) -> Result<usize, (BreakCause, Option<io::Error>)> {
        within(deadline.into(), || self.wait_until(deadline, action))
    }

    fn wait_until(
        &self,
        deadline: Option<Instant>,
        action: Option<impl FnOnce()>,
    ) -> Result<usize, (BreakCause, Option<io::Error>)> {
        let broken = |cause| (cause, None);
        loop {
            match self.arrive(action.is_some()).map_err(|error| self.give_up(WaitFailure::Io(error)))? {
                Arrival::Waits(round, index) => {
                    return self.wait_for(round, deadline)?.map(|()| index).map_err(broken);
                }
                Arrival::Last => return Ok(self.object.parties() - 1),
                Arrival::Acts(round) => {
                    if let Some(action) = action {
                        let acting = Acting { barrier: self, round, copy: copy_number() };
                        action();
                        let is_copy = acting.is_copy();
                        std::mem::forget(acting);
                        if is_copy {
                            // The original process must end the round.
                            return Ok(self.object.parties() - 1);
                        }
                    }
                    return match self.end_round(round) {
                        Ok(outcome) => outcome.map(|()| self.object.parties() - 1).map_err(broken),
                        Err(stalled) => Err(self.give_up_in(Some(round), WaitFailure::Io(stalled.into()))),
                    };
                }
                Arrival::Early(round) => self.wait_for(round, deadline)?.map_err(broken)?,
                Arrival::Broken(cause) => return Err(broken(cause)),
            }
        }
    }

    fn arrive(&self, acts: bool) -> io::Result<Arrival> {
        let (me, notifier) = (me()?, self.object.notifier());
        let mut all_live = None;
        loop {
            let guard = self.lock()?;
            let phase = self.object.phase();
            match phase.stage() {
                Stage::Broken => return Ok(Arrival::Broken(self.object.cause(phase.round()))),
                Stage::Acting => return Ok(Arrival::Early(phase.round())),
                // All have arrived, but the round isn't over: one of them is dead, as the waiting
                // parties will find out.
                Stage::Filling if phase.arrived() >= self.object.parties() => return Ok(Arrival::Early(phase.round())),
                Stage::Filling => {}
            }
            let is_last = phase.arrived() + 1 == self.object.parties();
            // A party that arrived earlier may have died unnoticed.
            if is_last && all_live != Some(phase) {
                drop(guard);
                let arrived =
                    self.ledger().others(|entry| entry.owner() != 0 && Note::of(entry).round() == phase.round());
                if let Some(dead) = arrived?.into_iter().find(|process| !process.seems_alive()) {
                    self.break_round(Some(phase.round()), BreakCause::Death(dead.pid()));
                }
                all_live = Some(phase);
                continue;
            }
            let (ledger, since) = (self.ledger(), self.object.known_since());
            let hint = self.object.ledger_index().load(Relaxed) as usize;
            let index = ledger.find(hint, |entry| entry.owner() == me || !self.object.is_known(entry, since));
            let Some((index, entry)) = index.and_then(|index| Some((index, ledger.entry(index)?))) else {
                drop(guard);
                let room = ledger.make_room()?;
                let _guard = self.lock()?;
                ledger.add_room(room);
                continue;
            };
            self.object.ledger_index().store(index as u32, Relaxed);
            if entry.owner() != me || !self.object.is_known(entry, since) {
                // Sleepers watch the processes that were known. They must watch this one, too.
                self.object.wait_queue.before_change(notifier);
            }
            let count = match Note::of(entry) {
                note if entry.owner() == me && note.round() == phase.round() => note.count(),
                _ => 0,
            };
            if entry.owner() != me {
                entry.note.store(0, Release);
                entry.owner.store(me, Release);
            }
            entry.note.store(Note::new(phase.round(), count + 1).0, Release);
            return Ok(match (is_last, acts) {
                (false, _) => {
                    self.object.go_to(Phase::new(phase.round(), Stage::Filling, phase.arrived() + 1));
                    Arrival::Waits(phase.round(), phase.arrived())
                }
                (true, true) => {
                    self.object.actor.store(me, Release);
                    self.object.go_to(Phase::new(phase.round(), Stage::Acting, self.object.parties()));
                    Arrival::Acts(phase.round())
                }
                (true, false) => {
                    self.object.wait_queue.before_change(notifier);
                    self.object.write_past(phase.round(), false, false);
                    self.object.go_to(phase.next());
                    drop(guard);
                    self.object.wait_queue.after_change(u32::MAX);
                    Arrival::Last
                }
            });
        }
    }

    /// Ends a round after the caller has run its action.
    fn end_round(&self, round: u64) -> Result<Result<(), BreakCause>, Stalled> {
        let notifier = self.object.notifier();
        let guard = self.lock()?;
        if let Some(outcome) = self.object.outcome(round) {
            return Ok(outcome);
        }
        self.object.wait_queue.before_change(notifier);
        self.object.write_past(round, false, false);
        self.object.go_to(self.object.phase().next());
        drop(guard);
        self.object.wait_queue.after_change(u32::MAX);
        Ok(Ok(()))
    }

    /// Waits until the round is over. The outer error is that of this call, which has broken the
    /// round.
    fn wait_for(
        &self,
        round: u64,
        deadline: Option<Instant>,
    ) -> Result<Result<(), BreakCause>, (BreakCause, Option<io::Error>)> {
        let mut op = RoundOver { barrier: self, round };
        match self.object.wait_queue.wait(self.object.notifier(), deadline, &mut op) {
            Ok(outcome) => Ok(outcome),
            Err(failure) => {
                // The round may be over by now.
                let (cause, error) = self.give_up_in(Some(round), failure);
                let Ok(_guard) = self.lock() else { return Err((cause, error)) };
                match self.object.outcome(round) {
                    Some(Ok(())) => Ok(Ok(())),
                    Some(Err(known)) if known != cause => Ok(Err(known)),
                    _ => Err((cause, error)),
                }
            }
        }
    }

    fn give_up(&self, failure: WaitFailure) -> (BreakCause, Option<io::Error>) {
        self.give_up_in(None, failure)
    }

    /// Breaks the round that the caller can't wait for any more.
    fn give_up_in(&self, round: Option<u64>, failure: WaitFailure) -> (BreakCause, Option<io::Error>) {
        let (cause, error) = match failure {
            WaitFailure::Timeout => (BreakCause::Timeout(pid()), None),
            WaitFailure::Disconnected => (BreakCause::Disconnected, None),
            WaitFailure::Interrupted => (BreakCause::Abort(pid()), Some(io::ErrorKind::Interrupted.into())),
            WaitFailure::Io(error) => (BreakCause::Io(pid()), Some(error)),
        };
        self.break_round(round, cause);
        (cause, error)
    }

    /// Breaks the present round: all parties that wait, and those that arrive before a
    /// [`reset`](Barrier::reset), get [`BarrierError::Broken`].
    pub fn abort(&self) {
        self.break_round(None, BreakCause::Abort(pid()));
    }

    /// Breaks the given round, if it isn't over, or the present one. If the spin lock can't be
    /// acquired in time, the next owner does it.
    fn break_round(&self, round: Option<u64>, cause: BreakCause) {
        let notifier = self.object.notifier();
        let Ok(guard) = self.lock() else {
            self.object.unwanted_by.store(pid() as u32, Relaxed);
            self.object.unwanted.store(round.unwrap_or(self.object.phase().round()).wrapping_add(1), SeqCst);
            return;
        };
        let phase = self.object.phase();
        if phase.stage() == Stage::Broken || round.is_some_and(|round| round != phase.round()) {
            return;
        }
        self.object.wait_queue.before_change(notifier);
        self.object.write_cause(phase.round(), cause);
        self.object.go_to(phase.with(Stage::Broken));
        drop(guard);
        self.object.wait_queue.after_change(u32::MAX);
    }

    /// Begins a new round, with no known parties. The waits of the present round end as broken.
    pub fn reset(&self) {
        let notifier = self.object.notifier();
        let guard = self.lock_endlessly();
        let phase = self.object.phase();
        let was_broken = phase.stage() == Stage::Broken;
        self.object.wait_queue.before_change(notifier);
        if !was_broken {
            self.object.write_cause(phase.round(), BreakCause::Reset(pid()));
        }
        self.object.write_past(phase.round(), was_broken || phase.arrived() > 0, true);
        self.object.go_to(phase.next());
        drop(guard);
        self.object.wait_queue.after_change(u32::MAX);
    }

    /// Removes this process from the ledger, so that it isn't expected any more. For the last
    /// handle.
    fn leave(&self) {
        let Ok(me) = me() else { return };
        let _guard = self.lock_endlessly();
        let ledger = self.ledger();
        let round = self.object.phase().round();
        if let Some(entry) = ledger.entry(self.object.ledger_index().load(Relaxed) as usize)
            && entry.owner() == me
            && Note::of(entry).round() != round
        {
            entry.owner.store(0, Release);
            ledger.shorten(|entry| entry.owner() == 0);
        }
    }

    /// The other processes with deaths that would break this round.
    fn expected(&self, round: u64) -> io::Result<Vec<Identity>> {
        let since = self.object.known_since();
        match self.object.phase() {
            phase if phase.round() != round => Ok(Vec::new()),
            phase if phase.stage() == Stage::Acting => {
                let me = me()?;
                Ok(Identity::from_bits(self.object.actor.load(Relaxed))
                    .into_iter()
                    .filter(|actor| actor.to_bits() != me)
                    .collect())
            }
            _ => self.ledger().others(|entry| self.object.is_known(entry, since)),
        }
    }
}

fn pid() -> i32 {
    multiproc_os::threads::getpid()
}

/// Breaks the round if the action panics.
struct Acting<'a> {
    barrier: &'a Barrier,
    round: u64,
    /// The number of the process (an original or a fork copy) that runs the action.
    copy: u32,
}

impl Acting<'_> {
    /// Whether this process is a fork copy that was made by the action.
    fn is_copy(&self) -> bool {
        self.copy != copy_number()
    }
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        if !self.is_copy() {
            self.barrier.break_round(Some(self.round), BreakCause::Action(pid()));
        }
    }
}

/// Waits until a round is over.
struct RoundOver<'a> {
    barrier: &'a Barrier,
    round: u64,
}

impl RoundOver<'_> {
    /// Whether the round is likely over: read without the spin lock.
    fn is_likely_over(&self) -> bool {
        let phase = self.barrier.object.phase();
        phase.round() != self.round || phase.stage() == Stage::Broken
    }

    fn break_for(&self, dead: &[Identity]) {
        if let Some(dead) = dead.first() {
            self.barrier.break_round(Some(self.round), BreakCause::Death(dead.pid()));
        }
    }
}

impl WaitOp for RoundOver<'_> {
    type Outcome = Result<(), BreakCause>;

    fn attempt(&mut self) -> Option<Result<(), BreakCause>> {
        if !self.is_likely_over() {
            return None;
        }
        let _guard = self.barrier.lock().ok()?;
        self.barrier.object.outcome(self.round)
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _guard = self.barrier.lock()?;
        if self.is_likely_over() {
            return Ok(true);
        }
        arm();
        Ok(false)
    }

    fn watch(&mut self) -> io::Result<Watched> {
        let (watched, dead) = ledger::watch(self.barrier.expected(self.round)?)?;
        self.break_for(&dead);
        Ok(watched)
    }

    fn died(&mut self) -> io::Result<()> {
        self.break_for(&ledger::dead_of(self.barrier.expected(self.round)?));
        Ok(())
    }

    fn through(&self) -> ViaHandle<'_> {
        self.barrier.object.through()
    }

    fn depends(&mut self) -> io::Result<bool> {
        let expected = self.barrier.expected(self.round)?;
        Ok(expected.into_iter().any(|process| process.is_ending().unwrap_or(false)))
    }
}
