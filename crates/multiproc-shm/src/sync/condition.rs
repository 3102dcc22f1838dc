//! [`Condition`]: the waiters of a condition variable, without its lock. Each draws a *ticket* (a
//! number), and each notification is recorded as a *grant*, which says how many of the tickets
//! below a bound may pass. See `PROTOCOL.md` in this folder, "Condition".

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use multiproc_os::identity::Identity;
use multiproc_os::poll::interruptible_if;
use multiproc_os::{inotify, threads};

use crate::lock::robust_word::{AcquireError, Holder, Poison};
use crate::lock::spin_lock::{Limit, RobustSpinGuard, RobustSpinLock, Stalled, within};
use crate::lock::users::{LockUsers, Users};
use crate::memory::object::Object;
use crate::memory::segment::layout;
use crate::memory::slab::{Slab, Slot};
use crate::sync::error::WaitError;
use crate::sync::ledger::{self, Ledger, LedgerView, me};
use crate::sync::lock::Lock;
use crate::wait::deadline::Deadline;
use crate::wait::notifier::ViaHandle;
use crate::wait::wait_queue::{WaitFailure, WaitOp, WaitQueue, Watched};

/// The maximum number of grants with different bounds.
const MAX_GRANTS: usize = 8;

/// How often a sleeper checks whether the lock has been poisoned, when some process that may take
/// it is unknown.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How often, when all processes that may take it are known. Two cases remain: a process that was
/// about to take the lock when it became shared, and is killed at once; and a holder that executes
/// another program.
const SLOW_CHECK_INTERVAL: Duration = Duration::from_secs(20);

/// How long a sleeper checks at [`CHECK_INTERVAL`] before it watches the lock's file, which doesn't
/// pay for short sleeps.
const FAST_CHECK_TIME: Duration = Duration::from_millis(300);

/// How long after the deadline a waiter first checks whether the holder of the lock is stopped.
const STOPPED_CHECK_DELAY: Duration = Duration::from_millis(2);

/// How long a sleeper checks at [`CHECK_INTERVAL`] after a death.
const FAST_CHECK_TIME_AFTER_DEATH: Duration = Duration::from_secs(1);

layout! {
    /// The state in shared memory. All zero: no caller waits.
    pub struct Tickets: "condition", 0x31, ledger::TRAILING_WORDS {
        /// The next ticket.
        next: AtomicU64,
        /// The number of waiters, including those that have died.
        waiting: AtomicU32,
        spin_lock: RobustSpinLock,
        /// The grants, the oldest first: how many tickets (`counts`) of those below a bound
        /// (`below`) may pass.
        below: [AtomicU64; MAX_GRANTS],
        counts: [AtomicU32; MAX_GRANTS],
        wait_queue: WaitQueue,
        /// Whether the lock may be taken by processes that are not on the ledger.
        has_others_beside: AtomicU32,
        /// The processes that take the lock by way of this condition.
        ledger: Ledger,
    }
}

impl Tickets {
    /// The index of the oldest grant that includes this ticket.
    fn grant_for(&self, number: u64) -> Option<usize> {
        (0..MAX_GRANTS).find(|index| self.counts[*index].load(SeqCst) > 0 && self.below[*index].load(SeqCst) > number)
    }

    /// How many waiters may pass, in all.
    fn given(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(count.load(Relaxed))).sum()
    }

    /// Removes grants that no waiter is left to use, and closes the gaps.
    fn remove_unusable_grants(&self) {
        let mut too_many = self.given().saturating_sub(self.waiting.load(Relaxed).into());
        let mut to = 0;
        for from in 0..MAX_GRANTS {
            let (below, count) = (self.below[from].load(Relaxed), self.counts[from].load(Relaxed));
            let less = too_many.min(count.into()) as u32;
            too_many -= u64::from(less);
            if count > less {
                self.below[to].store(below, SeqCst);
                self.counts[to].store(count - less, SeqCst);
                to += 1;
            }
        }
        self.counts[to..].iter().for_each(|count| count.store(0, SeqCst));
    }

    fn leave(&self) {
        self.waiting.store(self.waiting.load(Relaxed).saturating_sub(1), Relaxed);
        self.remove_unusable_grants();
    }
}

/// A condition variable, without its lock: the layer under `multiproc::sync::Condition`.
///
/// Its waiters hold a [`Lock`], which all calls take as an argument; it must always be the same.
/// When a holder of the lock dies, all waits end with [`ConditionError::Poisoned`], so that no
/// thread waits for a dead notifier.
///
/// It takes two descriptors, or none of its own [in a slab](Condition::create_in). A clone is
/// another handle of the same condition; each thread that waits needs its own.
///
/// ```
/// use multiproc_shm::sync::{Condition, Lock};
/// use multiproc_shm::wait::deadline::Deadline;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (lock, condition) = (Lock::create()?, Condition::create()?);
/// let same = Condition::from_fds(condition.to_fds()?)?; // in another process, perhaps
/// let same_lock = Lock::from_fds([lock.to_fd()?])?;
/// let _ = lock.acquire(Deadline::Never)?;
/// std::thread::scope(|scope| {
///     scope.spawn(move || {
///         let _ = same_lock.acquire(Deadline::Never).unwrap();
///         assert_eq!(same.notify(&same_lock, 1), 1);
///         same_lock.release().unwrap();
///     });
///     condition.wait(&lock, Deadline::Never)
/// })?;
/// lock.release()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Condition {
    object: Object<Tickets>,
    is_interruptible: bool,
}

/// Why a wait for a [`Condition`] has failed. The caller holds the lock again, except with
/// [`Stopped`](ConditionError::Stopped) and [`Lost`](ConditionError::Lost).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConditionError {
    /// The lock is poisoned: how its holder has ended, and which thread it was, if that is known.
    #[error("a thread has died or panicked while holding the condition's lock")]
    Poisoned(Poison, Option<Holder>),
    /// The wait has ended without a notification.
    #[error(transparent)]
    Wait(WaitError),
    /// The deadline has passed, and the process that holds the lock is stopped. The caller doesn't
    /// hold the lock.
    #[error("process {pid}, which holds the condition's lock, is stopped")]
    Stopped {
        /// That process.
        pid: i32,
    },
    /// The lock can't be acquired again. The caller doesn't hold it.
    #[error("the condition's lock can't be acquired again: {}", WaitError::from(*.0))]
    Lost(AcquireError),
    /// The caller doesn't hold the lock.
    #[error("this thread doesn't hold the condition's lock")]
    NotHeld,
}

impl Condition {
    /// Creates a condition without waiters.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create() -> io::Result<Condition> {
        Object::create().map(Condition::from_object)
    }

    /// Creates a condition in a slab.
    ///
    /// # Errors
    /// `StorageFull` when the slab has no slot left; `ENOSPC`, `ENOMEM`.
    pub fn create_in(slab: &Slab) -> io::Result<Condition> {
        Object::create_in(slab).map(Condition::from_object)
    }

    /// Opens a condition with the descriptors that [`to_fds`](Condition::to_fds) has returned,
    /// perhaps in another process.
    ///
    /// # Errors
    /// `InvalidData` when they are something else; `Unsupported` when it was created in another PID
    /// namespace; `ENOMEM`.
    pub fn from_fds([memory, wake_pipe]: [OwnedFd; 2]) -> io::Result<Condition> {
        Object::open(memory, wake_pipe).map(Condition::from_object)
    }

    /// Opens the condition in a slot of a slab.
    ///
    /// # Errors
    /// As [`from_fds`](Condition::from_fds).
    pub fn open_in(slab: &Slab, index: u32) -> io::Result<Condition> {
        Object::open_in(slab, index).map(Condition::from_object)
    }

    /// Returns descriptors of the memory file and of the wake pipe, to be sent to another process.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `InvalidInput` if the condition lies in a slab.
    pub fn to_fds(&self) -> io::Result<[OwnedFd; 2]> {
        self.object.to_fds()
    }

    /// Returns the slot of a condition that lies in a slab.
    pub fn slot(&self) -> Option<&Slot> {
        self.object.slot()
    }

    /// Makes this handle interruptible, as
    /// [`Semaphore::interruptible`](super::Semaphore::interruptible) does. A wait that is
    /// interrupted acquires the lock again, for as long as that takes.
    #[must_use]
    pub fn interruptible(mut self) -> Condition {
        self.is_interruptible = true;
        self
    }

    /// Returns the object behind the condition.
    pub fn object(&self) -> &Object<Tickets> {
        &self.object
    }

    /// Makes a condition of its object.
    pub fn from_object(object: Object<Tickets>) -> Condition {
        Condition { object, is_interruptible: false }
    }

    /// Releases the lock, waits for a notification until `deadline`, and acquires the lock again.
    /// May return without a notification: check the condition again.
    ///
    /// # Errors
    /// [`ConditionError`]; at the deadline [`ConditionError::Wait`] with [`WaitError::Timeout`].
    pub fn wait(&self, lock: &Lock, deadline: Deadline) -> Result<(), ConditionError> {
        // Not in the slab's entry alone: the lock may be taken without this condition.
        lock.share();
        self.expect_others();
        self.wait_until(lock, deadline.instant())
    }

    /// Lets at most `count` of the threads that wait pass. Returns how many will, at most; 0 if the
    /// calling thread doesn't hold the lock.
    pub fn notify(&self, lock: &Lock, count: usize) -> usize {
        // A fork copy of the process doesn't hold the lock.
        if !lock.is_mine() {
            return 0;
        }
        self.give(count.try_into().unwrap_or(u32::MAX)) as usize
    }

    /// As [`wait`](Condition::wait), for a lock that is [shared](Lock::share) already, or that all
    /// processes take by way of this condition ([`enlist`](Condition::enlist)).
    ///
    /// # Errors
    /// As [`wait`](Condition::wait).
    pub fn wait_until(&self, lock: &Lock, deadline: Option<Instant>) -> Result<(), ConditionError> {
        if !lock.is_mine() {
            return Err(ConditionError::NotHeld);
        }
        // Compares the count, not the poison: another thread may have cleared it before this one
        // looks.
        let poison_count = lock.poisonable().poison_count();
        let alarm = || lock.poisonable().word().is_orphaned() || lock.poisonable().poison_count() != poison_count;
        let stalled = |stalled: Stalled| ConditionError::Wait(stalled.into());
        // The process may be a fork copy that has never taken the lock.
        self.enlist(deadline.into(), lock.users().users);
        let number = self.enter(deadline).map_err(stalled)?;
        let outcome = loop {
            lock.give_up();
            let wait = || self.wait_for_grant(number, deadline, lock.users(), alarm);
            let outcome = interruptible_if(self.is_interruptible, wait);
            if let Err(error) = acquire_again(lock, deadline) {
                self.give_up(deadline);
                return Err(error);
            }
            // Taken with the lock held: a waiter that dies here leaves a poisoned lock, which the
            // others see.
            if self.take(number, deadline).map_err(stalled)? {
                break Ok(());
            }
            if outcome.is_err() || lock.poisonable().poison_count() != poison_count {
                self.give_up(deadline);
                break outcome;
            }
        };
        match lock.poisonable().poison() {
            Some((cause, holder)) => Err(ConditionError::Poisoned(cause, holder)),
            None => outcome.map_err(|failure| ConditionError::Wait(failure.into())),
        }
    }

    fn ledger(&self) -> LedgerView<'_, Tickets> {
        LedgerView { ledger: &self.object.ledger, segment: self.object.segment() }
    }

    /// Records that the lock may be taken by processes that are not on the ledger.
    pub fn expect_others(&self) {
        if self.object.has_others_beside.load(SeqCst) == 0 {
            let _guard = self.lock_endlessly();
            self.object.wait_queue.before_change(self.object.notifier());
            self.object.has_others_beside.store(1, SeqCst);
        }
    }

    /// Puts this process on the ledger, so that all waiters watch it. Must be called before it
    /// takes the lock for the first time.
    #[inline]
    pub fn enlist(&self, limit: Limit, users: &Users) {
        let Ok(me) = me() else {
            users.start_recording();
            return self.expect_others();
        };
        let index = self.object.ledger_index().load(Relaxed) as usize;
        if self.ledger().entry(index).is_none_or(|entry| entry.owner() != me) {
            self.enlist_slowly(me, limit, users);
        }
    }

    #[cold]
    fn enlist_slowly(&self, me: u64, limit: Limit, users: &Users) {
        if within(limit, || self.try_enlist(me)).is_ok() {
            return;
        }
        // A process that can't get on the ledger counts as one beside it, and is recorded in the
        // lock.
        users.start_recording();
        if self.object.has_others_beside.swap(1, SeqCst) == 0 {
            // Without the spin lock, which may be what could not be acquired. That is safe as no
            // process removes tokens from this wake pipe.
            self.object.notifier().notify();
        }
    }

    fn try_enlist(&self, me: u64) -> io::Result<()> {
        let ledger = self.ledger();
        loop {
            let guard = self.guard()?;
            let known = ledger.entries().find(|(_, entry)| entry.owner() == me).map(|(index, _)| index);
            let index = known.or_else(|| ledger.find(0, |entry| entry.owner() == 0));
            if let Some(index) = index
                && let Some(entry) = ledger.entry(index)
            {
                if known.is_none() {
                    // Sleepers watch the processes that were on the ledger. They must watch this
                    // one, too.
                    self.object.wait_queue.before_change(self.object.notifier());
                    entry.owner.store(me, SeqCst);
                }
                self.object.ledger_index().store(index as u32, Relaxed);
                return Ok(());
            }
            drop(guard);
            let room = ledger.make_room()?;
            let _guard = self.guard()?;
            ledger.add_room(room);
        }
    }

    /// Removes processes that have ended from the ledger.
    fn remove_ended(&self, dead: &[Identity]) {
        if let Ok(_guard) = self.guard() {
            let ledger = self.ledger();
            for (_, entry) in ledger.entries() {
                if Identity::from_bits(entry.owner()).is_some_and(|owner| dead.contains(&owner)) {
                    entry.owner.store(0, SeqCst);
                }
            }
            ledger.shorten(|entry| entry.owner() == 0);
        }
    }

    /// Makes all waiters check whether the lock has been poisoned.
    #[cold]
    pub fn alarm(&self) {
        {
            let _guard = self.lock_endlessly();
            self.object.wait_queue.before_change(self.object.notifier());
        }
        self.object.wait_queue.after_change(u32::MAX);
    }

    /// Takes the spin lock. If its previous owner has died, it isn't known which waiters could
    /// pass: then all may.
    fn guard(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        self.object.spin_lock.lock().map(|guard| self.inherit(guard))
    }

    fn lock_endlessly(&self) -> RobustSpinGuard<'_> {
        self.inherit(self.object.spin_lock.lock_endlessly())
    }

    fn inherit<'a>(&'a self, guard: RobustSpinGuard<'a>) -> RobustSpinGuard<'a> {
        if guard.inherited {
            self.object.wait_queue.before_change(self.object.notifier());
            let all = self.object.waiting.load(Relaxed).saturating_add(1);
            self.object.waiting.store(all, Relaxed);
            self.object.counts.iter().for_each(|count| count.store(0, SeqCst));
            self.object.below[0].store(self.object.next.load(Relaxed), SeqCst);
            self.object.counts[0].store(all, SeqCst);
        }
        guard
    }

    /// Makes the caller a waiter. Returns its ticket.
    ///
    /// # Errors
    /// The spin lock could not be acquired in time.
    fn enter(&self, deadline: Option<Instant>) -> Result<u64, Stalled> {
        let _guard = within(deadline.into(), || self.guard())?;
        let number = self.object.next.load(Relaxed);
        self.object.waiting.store(self.object.waiting.load(Relaxed).saturating_add(1), Relaxed);
        self.object.next.store(number.wrapping_add(1), Relaxed);
        Ok(number)
    }

    /// Lets up to `count` waiters pass. Returns how many will, at most.
    fn give(&self, count: u32) -> u32 {
        // With the condition's lock held, so no thread is about to enter.
        if self.object.waiting.load(SeqCst) == 0 {
            return 0;
        }
        let guard = self.lock_endlessly();
        let more =
            u64::from(self.object.waiting.load(Relaxed)).saturating_sub(self.object.given()).min(count.into()) as u32;
        if more == 0 {
            return 0;
        }
        let next = self.object.next.load(Relaxed);
        let used = self.object.counts.iter().take_while(|count| count.load(Relaxed) > 0).count();
        self.object.wait_queue.before_change(self.object.notifier());
        match used {
            _ if used > 0 && self.object.below[used - 1].load(Relaxed) == next => {
                let count = &self.object.counts[used - 1];
                count.store(count.load(Relaxed).saturating_add(more), SeqCst);
            }
            MAX_GRANTS => {
                // The two oldest grants become one, for all tickets of the later one.
                let both = self.object.counts[0].load(Relaxed).saturating_add(self.object.counts[1].load(Relaxed));
                self.object.counts[1].store(both, SeqCst);
                for index in 1..MAX_GRANTS {
                    self.object.below[index - 1].store(self.object.below[index].load(Relaxed), SeqCst);
                    self.object.counts[index - 1].store(self.object.counts[index].load(Relaxed), SeqCst);
                }
                self.object.below[MAX_GRANTS - 1].store(next, SeqCst);
                self.object.counts[MAX_GRANTS - 1].store(more, SeqCst);
            }
            _ => {
                self.object.below[used].store(next, SeqCst);
                self.object.counts[used].store(more, SeqCst);
            }
        }
        drop(guard);
        self.object.wait_queue.after_change(more);
        more
    }

    /// Waits until there is a grant for this ticket, without using it, or until `alarm` says that
    /// waiting is pointless. `lock` is the condition's lock, which other conditions may
    /// share.
    ///
    /// # Errors
    /// [`WaitFailure`].
    fn wait_for_grant(
        &self,
        number: u64,
        deadline: Option<Instant>,
        lock: LockUsers<'_>,
        alarm: impl Fn() -> bool,
    ) -> Result<(), WaitFailure> {
        let mut notice =
            TicketWait { condition: self, number, lock, alarm, look_often_until: None, has_seen_death: false };
        within(deadline.into(), || self.object.wait_queue.wait(self.object.notifier(), deadline, &mut notice))
    }

    /// Uses a grant for this ticket, and ends the wait. Returns false if other waiters were
    /// quicker.
    ///
    /// # Errors
    /// The spin lock could not be acquired in time.
    fn take(&self, number: u64, deadline: Option<Instant>) -> Result<bool, Stalled> {
        let _guard = within(deadline.into(), || self.guard())?;
        let Some(index) = self.object.grant_for(number) else { return Ok(false) };
        self.object.counts[index].store(self.object.counts[index].load(Relaxed).saturating_sub(1), SeqCst);
        self.object.leave();
        Ok(true)
    }

    /// Ends the wait without a grant.
    fn give_up(&self, deadline: Option<Instant>) {
        // A waiter that can't get the spin lock stays counted, like one that was killed.
        if let Ok(_guard) = within(deadline.into(), || self.guard()) {
            self.object.leave();
        }
    }

    /// Returns the number of waiters, including those that have died.
    pub fn waiting(&self) -> u32 {
        self.object.waiting.load(SeqCst)
    }
}

/// Acquires the lock after a wait, without a time limit, except that after `deadline` the call
/// gives up if the holder is stopped.
fn acquire_again(lock: &Lock, deadline: Option<Instant>) -> Result<(), ConditionError> {
    let mut grace = STOPPED_CHECK_DELAY;
    loop {
        let until = deadline.map_or(Deadline::Never, |deadline| Deadline::At(deadline.max(Instant::now()) + grace));
        match lock.take(until) {
            Ok(()) => return Ok(()),
            Err(AcquireError::Timeout) => {}
            Err(error) => return Err(ConditionError::Lost(error)),
        }
        let holder = lock.poisonable().word().owner().and_then(|owner| threads::seen(owner as i32));
        if let Some(holder) = holder.filter(|holder| holder.is_stopped()) {
            return Err(ConditionError::Stopped { pid: holder.process });
        }
        grace = (2 * grace).min(Duration::from_secs(1));
    }
}

struct TicketWait<'a, A> {
    condition: &'a Condition,
    number: u64,
    lock: LockUsers<'a>,
    alarm: A,
    /// Until then it checks at [`CHECK_INTERVAL`].
    look_often_until: Option<Instant>,
    has_seen_death: bool,
}

impl<A: Fn() -> bool> WaitOp for TicketWait<'_, A> {
    type Outcome = ();

    fn attempt(&mut self) -> Option<()> {
        (self.condition.object.grant_for(self.number).is_some() || (self.alarm)()).then_some(())
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _guard = self.condition.guard()?;
        if self.attempt().is_some() {
            return Ok(true);
        }
        arm();
        Ok(false)
    }

    fn watch(&mut self) -> io::Result<Watched> {
        let now = Instant::now();
        let look_often_until = *self.look_often_until.get_or_insert(now + FAST_CHECK_TIME);
        let mut owners = self.condition.ledger().others(|entry| entry.owner() != 0)?;
        let (mut touched, mut look_again) = (None, (now < look_often_until).then_some(CHECK_INTERVAL));
        if self.condition.object.has_others_beside.load(SeqCst) == 0 {
            // All that may own the lock are on the ledger: unless one has just died, there is
            // nothing to look for.
            look_again = look_again.filter(|_| self.has_seen_death);
        } else {
            if look_again.is_none() {
                touched = inotify::Watch::new(self.lock.file).ok();
            }
            let me = me()?;
            owners.extend(self.lock.users.recorded().filter(|process| process.to_bits() != me));
            owners.sort_unstable();
            owners.dedup();
            look_again = Some(match (self.alarm)() {
                // The alarm came before the subscription.
                true => Duration::ZERO,
                false if touched.is_none() || self.lock.users.are_incomplete() => CHECK_INTERVAL,
                false => SLOW_CHECK_INTERVAL,
            });
        }
        let (mut watched, dead) = ledger::watch(owners)?;
        watched.touched = touched;
        watched.look_again = watched.look_again.into_iter().chain(look_again).min();
        if !dead.is_empty() {
            self.condition.remove_ended(&dead);
            self.lock.users.remove_ended(&dead);
            // One of them may have owned the lock. A process that has inherited the lock may be
            // about to say so.
            self.has_seen_death = true;
            self.look_often_until = Some(now + FAST_CHECK_TIME_AFTER_DEATH);
            watched.look_again = Some(Duration::ZERO);
        }
        Ok(watched)
    }

    fn through(&self) -> ViaHandle<'_> {
        self.condition.object.through()
    }

    fn more(&mut self) -> bool {
        self.condition.object.given() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn notify_reaches_earlier_waiters() {
        let tickets = Condition::create().unwrap();
        assert_eq!(tickets.give(1), 0);
        let (first, second) = (tickets.enter(None).unwrap(), tickets.enter(None).unwrap());
        assert_eq!(tickets.give(1), 1);
        let late = tickets.enter(None).unwrap();
        assert!(!tickets.take(late, None).unwrap());
        assert!(tickets.take(second, None).unwrap() && !tickets.take(first, None).unwrap());
        assert_eq!(tickets.give(u32::MAX), 2);
        assert!(tickets.take(late, None).unwrap() && tickets.take(first, None).unwrap());
        assert_eq!((tickets.waiting(), tickets.object.given()), (0, 0));
    }

    #[test]
    fn unused_notify_is_not_kept() {
        let tickets = Condition::create().unwrap();
        let (one, other) = (tickets.enter(None).unwrap(), tickets.enter(None).unwrap());
        tickets.give(2);
        tickets.give_up(None);
        assert!(tickets.take(other, None).unwrap() && !tickets.take(one, None).unwrap());
        assert!(!tickets.take(tickets.enter(None).unwrap(), None).unwrap());
    }

    #[test]
    fn death_in_the_middle() {
        let tickets = Condition::create().unwrap();
        let numbers: Vec<u64> = (0..5).map(|_| tickets.enter(None).unwrap()).collect();
        tickets.give(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::mem::forget(tickets.object.spin_lock.lock().unwrap());
                tickets.object.counts.iter().for_each(|count| count.store(0, SeqCst));
            });
        });
        for number in numbers {
            assert!(tickets.take(number, None).unwrap());
        }
        assert!(!tickets.take(tickets.enter(None).unwrap(), None).unwrap());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter,
        Give(u32),
        Take(prop::sample::Index),
        GiveUp(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Enter),
            (0..4_u32).prop_map(Step::Give),
            any::<prop::sample::Index>().prop_map(Step::Take),
            any::<prop::sample::Index>().prop_map(Step::GiveUp),
        ]
    }

    proptest! {
        /// A waiter passes only if it waited when the grant was given, as long as there is room to
        /// tell grants apart; and no grant is lost while a waiter is left that it is for.
        #[test]
        fn matches_the_model(steps in prop::collection::vec(step(), 0..200)) {
            let tickets = Condition::create().unwrap();
            let mut waiting: Vec<u64> = Vec::new();
            let mut given: Vec<(u64, u32)> = Vec::new();
            for step in steps {
                match step {
                    Step::Enter => waiting.push(tickets.enter(None).unwrap()),
                    Step::Give(count) => {
                        let more = tickets.give(count);
                        let pending: u32 = given.iter().map(|(_, count)| count).sum();
                        prop_assert_eq!(more, count.min(waiting.len() as u32 - pending));
                        given.push((tickets.object.next.load(SeqCst), more));
                    }
                    Step::Take(index) if !waiting.is_empty() => {
                        let index = index.index(waiting.len());
                        let found = given.iter_mut().find(|(below, count)| *count > 0 && *below > waiting[index]);
                        let taken = tickets.take(waiting[index], None).unwrap();
                        match found {
                            Some((_, count)) => {
                                prop_assert!(taken);
                                *count -= 1;
                                waiting.remove(index);
                            }
                            // Grants beyond the room are not told apart.
                            None if taken => return Ok(()),
                            None => {}
                        }
                    }
                    Step::GiveUp(index) if !waiting.is_empty() => {
                        waiting.remove(index.index(waiting.len()));
                        tickets.give_up(None);
                        let mut more: u32 = given.iter().map(|(_, count)| *count).sum::<u32>().saturating_sub(waiting.len() as u32);
                        for (_, count) in &mut given {
                            let less = more.min(*count);
                            (*count, more) = (*count - less, more - less);
                        }
                    }
                    Step::Take(_) | Step::GiveUp(_) => {}
                }
                given.retain(|(_, count)| *count > 0);
                prop_assert_eq!(tickets.waiting() as usize, waiting.len());
                prop_assert_eq!(tickets.object.given(), given.iter().map(|(_, count)| u64::from(*count)).sum::<u64>());
            }
        }
    }
}
