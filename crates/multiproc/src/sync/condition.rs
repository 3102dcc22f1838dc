//! [`Condition`]: wait, with a lock given up meanwhile, until somebody says that something has changed.
//!
//! A [`Lock`] and, in memory of its own, who waits and how many may go on. `PROTOCOL.md`, "Condition".

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{LockError, Misuse, Poisoned};
use super::lock::{Lock, LockGuard};
use super::travel;
use super::wait_error::WaitError;
use crate::error::{Error, Result};
use crate::shm::object::Object;
use crate::shm::spin_lock::{Limit, Stalled};
use crate::shm::tickets::Tickets;
use crate::shm::wait_queue::WaitFailure;

/// A lock with which to wait for what others do: Python's `multiprocessing.Condition`.
///
/// Who holds the lock looks whether what it wants is the case, and [waits](ConditionGuard::wait) if it isn't, with the lock given up meanwhile. Who makes it the case
/// does so with the lock held, and [notifies](ConditionGuard::notify). Neither is possible without the lock.
///
/// ```
/// use multiproc::Process;
/// use multiproc::sync::{Condition, Event};
///
/// fn work(condition: Condition, ready: Event) -> multiproc::Result<()> {
///     let mut guard = condition.lock()?;
///     guard.wait_for(|| ready.is_set())?;
///     Ok(())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let (condition, ready) = (Condition::new()?, Event::new()?);
/// let child = Process::new(work, (condition.clone(), ready.clone())).start()?;
/// let guard = condition.lock()?;
/// ready.set(); // or whatever the lock guards
/// guard.notify_all();
/// drop(guard);
/// child.join()??;
/// # Ok(())
/// # }
/// ```
///
/// To notify never waits for the waiters, be they stopped or dead. A notice is for those that
/// waited when it was given. A waiter that it wakes and that is killed before it has the lock again
/// leaves it to another; if it is killed after that, the lock is poisoned, and then *all* waiters
/// are told: what they wait for may never come. A waiter is also told when no process is left that
/// could notify.
///
/// It takes three descriptors. All processes that use it must be of the same PID namespace.
///
/// There is no method for `async` code: the guard belongs to a thread, and would have to be kept
/// while the task waits. Use an [`Event`](super::Event) or a [`Semaphore`](super::Semaphore) there.
///
/// # Implementation notes
/// A [`Lock`] and a second memfd. A waiter tries for some microseconds, sleeps on a futex for some
/// milliseconds, and then in poll(2), on a pipe and the pidfds of the processes that have taken the
/// lock. With a lock that can be taken without the condition ([`with_lock`](Condition::with_lock)),
/// it sleeps on an inotify instance too, by which other processes tell that they take the lock for
/// the first time; where none is to be had, it looks up ten times a second.
#[derive(Clone)]
pub struct Condition {
    lock: Lock,
    tickets: Object<Tickets>,
}

/// What locking gives if it is waited for as long as it takes.
type Locked<'a> = Result<ConditionGuard<'a>, LockError<ConditionGuard<'a>>>;

impl Condition {
    /// A new condition, with a lock of its own.
    ///
    /// # Errors
    /// [`Error::Make`]: no descriptor or no memory is left.
    pub fn new() -> Result<Condition> {
        Condition::of(Lock::new()?)
    }

    /// A new condition that uses this lock, which several conditions may do. The lock can still be
    /// taken without them: a waiter learns all the same that a process has died with it.
    ///
    /// ```
    /// use multiproc::sync::{Condition, Lock};
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let lock = Lock::new()?;
    /// let not_empty = Condition::with_lock(lock.clone())?;
    /// let not_full = Condition::with_lock(lock)?;
    /// assert_eq!(not_empty.lock()?.notify_one(), 0, "no process waits");
    /// assert_eq!(not_full.lock()?.notify_one(), 0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`new`](Condition::new).
    pub fn with_lock(lock: Lock) -> Result<Condition> {
        let condition = Condition::of(lock)?;
        condition.share_lock();
        Ok(condition)
    }

    fn of(lock: Lock) -> Result<Condition> {
        let tickets = Tickets::create().map_err(|source| Error::Make { what: "condition", source })?;
        Ok(Condition { lock, tickets })
    }

    /// Waits until nobody holds the lock, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// As [`Lock::lock`].
    pub fn lock(&self) -> Locked<'_> {
        self.tickets.enlist(Limit::Endless);
        let lock = self.lock.lock();
        lock.map(|guard| self.guard(guard)).map_err(|error| self.guarded(error))
    }

    /// Holds the lock if nobody else does; `None` if somebody does.
    ///
    /// # Errors
    /// As [`Lock::lock`].
    pub fn try_lock(&self) -> Result<Option<ConditionGuard<'_>>, LockError<ConditionGuard<'_>>> {
        self.tickets.enlist(Limit::Moment);
        let lock = self.lock.try_lock();
        lock.map(|guard| Some(self.guard(guard?))).map_err(|error| self.guarded(error))
    }

    /// As [`lock`](Condition::lock), for at most `timeout`; `None` when that is over.
    ///
    /// # Errors
    /// As [`Lock::lock`].
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Option<ConditionGuard<'_>>, LockError<ConditionGuard<'_>>> {
        let begun = Instant::now();
        self.tickets.enlist(deadline(timeout).into());
        let lock = self.lock.lock_timeout(timeout.saturating_sub(begun.elapsed()));
        lock.map(|guard| Some(self.guard(guard?))).map_err(|error| self.guarded(error))
    }

    /// Its lock, which can be taken without the condition.
    pub fn as_lock(&self) -> &Lock {
        self.share_lock();
        &self.lock
    }

    /// The lock may be taken without this condition.
    fn share_lock(&self) {
        self.lock.share();
        self.tickets.expect_others();
    }

    fn guard<'a>(&'a self, guard: LockGuard<'a>) -> ConditionGuard<'a> {
        ConditionGuard { condition: self, guard }
    }

    fn guarded<'a>(&'a self, error: LockError<LockGuard<'a>>) -> LockError<ConditionGuard<'a>> {
        error.map(|guard| self.guard(guard))
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition").field("lock", &self.lock).field("waiting", &self.tickets.waiting()).finish()
    }
}

#[derive(Serialize)]
#[serde(rename = "Condition")]
struct Outgoing<'a> {
    lock: &'a Lock,
    #[serde(serialize_with = "serialize_notices")]
    tickets: &'a Object<Tickets>,
}

fn serialize_notices<S: Serializer>(tickets: &&Object<Tickets>, serializer: S) -> Result<S::Ok, S::Error> {
    travel::serialize(tickets, serializer)
}

#[derive(Deserialize)]
#[serde(rename = "Condition")]
struct Incoming {
    lock: Lock,
    #[serde(deserialize_with = "travel::deserialize")]
    tickets: Object<Tickets>,
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Outgoing { lock: &self.lock, tickets: &self.tickets }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Condition, D::Error> {
        let Incoming { lock, tickets } = Incoming::deserialize(deserializer)?;
        Ok(Condition { lock, tickets })
    }
}

/// A [`Condition`] whose lock is held. Dropping it gives the lock up.
#[must_use = "the lock is given up when this is dropped"]
pub struct ConditionGuard<'a> {
    condition: &'a Condition,
    guard: LockGuard<'a>,
}

impl ConditionGuard<'_> {
    /// Gives the lock up, waits for a notice, and has the lock again. As there may be reasons to wake up without a notice (somebody has died in the middle of giving
    /// one), what is waited for is to be looked at again: [`wait_for`](ConditionGuard::wait_for) does.
    ///
    /// # Errors
    /// [`ConditionError`]. The lock is held all the same, unless it is for misuse.
    pub fn wait(&mut self) -> Result<(), ConditionError> {
        self.wait_until(None).map(drop)
    }

    /// As [`wait`](ConditionGuard::wait), for at most `timeout`, without the time that it takes to have the lock again. False if there was no notice.
    ///
    /// # Errors
    /// As [`wait`](ConditionGuard::wait); [`ConditionError::Stopped`], without the lock, when the
    /// time is up and the process that holds the lock is stopped.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<bool, ConditionError> {
        self.wait_until(deadline(timeout))
    }

    /// Waits until `is_so`, which is called with the lock held: now, and after each notice.
    ///
    /// # Errors
    /// As [`wait`](ConditionGuard::wait).
    pub fn wait_for(&mut self, mut is_so: impl FnMut() -> bool) -> Result<(), ConditionError> {
        while !is_so() {
            self.wait()?;
        }
        Ok(())
    }

    /// As [`wait_for`](ConditionGuard::wait_for), for at most `timeout`. Whether it is so.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::sync::Condition;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let condition = Condition::new()?;
    /// let mut guard = condition.lock()?;
    /// assert!(!guard.wait_for_timeout(|| false, Duration::from_millis(1))?);
    /// assert!(guard.wait_for_timeout(|| true, Duration::from_millis(1))?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`wait`](ConditionGuard::wait).
    pub fn wait_for_timeout(
        &mut self,
        mut is_so: impl FnMut() -> bool,
        timeout: Duration,
    ) -> Result<bool, ConditionError> {
        let deadline = deadline(timeout);
        loop {
            if is_so() {
                return Ok(true);
            }
            if !self.wait_until(deadline)? {
                return Ok(is_so());
            }
        }
    }

    /// Has one of those who wait go on; how many there were to do so: 0 or 1. They have to have the lock for it, so it is when this guard has been dropped.
    pub fn notify_one(&self) -> usize {
        self.notify(1)
    }

    /// Has all who wait go on.
    pub fn notify_all(&self) -> usize {
        self.notify(usize::MAX)
    }

    /// Has up to `count` of those who wait go on, and says how many there were to do so (at most: one may have been killed, which is not known yet).
    pub fn notify(&self, count: usize) -> usize {
        // A copy of the process, made by fork, doesn't hold the lock.
        if !self.guard.is_mine() {
            return 0;
        }
        self.condition.tickets.give(count.try_into().unwrap_or(u32::MAX)) as usize
    }

    /// As [`Lock::clear_poison`].
    pub fn clear_poison(&self) {
        self.guard.clear_poison();
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<bool, ConditionError> {
        let Condition { lock, tickets } = self.condition;
        if !self.guard.is_mine() {
            return Err(ConditionError::Misuse(Misuse::NotHeld("condition")));
        }
        // Not whether it is poisoned: others may have put that right by the time one looks.
        let poison_count = lock.poison_count();
        let alarm = || lock.is_orphaned() || lock.poison_count() != poison_count;
        let stalled = |stalled: Stalled| {
            let waited = Err::<(), _>(WaitFailure::System(stalled.into()));
            ConditionError::Wait(WaitError::of(waited, "wait for a condition", "notify").expect_err("it is an error"))
        };
        // The process may be a copy that has never taken the lock.
        tickets.enlist(deadline.into());
        let number = tickets.enter(deadline).map_err(stalled)?;
        let outcome = loop {
            let outcome =
                match self.guard.while_given_up(deadline, || tickets.wait(number, deadline, lock.users(), alarm)) {
                    Ok(outcome) => outcome?,
                    Err(pid) => {
                        tickets.give_up(deadline);
                        return Err(ConditionError::Stopped { pid });
                    }
                };
            // Taken with the lock held: who dies with it leaves a poisoned lock, which others see.
            if tickets.take(number, deadline).map_err(stalled)? {
                break Ok(true);
            }
            if outcome.is_err() || lock.poison_count() != poison_count {
                tickets.give_up(deadline);
                break outcome.map(|()| true);
            }
        };
        if let Some(poison) = lock.poison() {
            return Err(ConditionError::Poisoned(Poisoned::new((), "condition", poison)));
        }
        match outcome {
            Err(WaitFailure::Late) => Ok(false),
            outcome => {
                WaitError::of(outcome, "wait for a condition", "notify").map_err(ConditionError::Wait)?;
                Ok(true)
            }
        }
    }
}

/// A moment, or none: a timeout beyond what the clock can tell is none.
fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

impl Drop for ConditionGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // The lock is poisoned then, which all that wait are told.
        if std::thread::panicking() && self.guard.set_poisoned() {
            self.condition.tickets.alarm();
        }
    }
}

impl fmt::Debug for ConditionGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionGuard").field("condition", &self.condition).finish()
    }
}

/// Why somebody has waited for a [`Condition`] in vain.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConditionError {
    /// Somebody has died or panicked while holding the lock. The caller holds it now. It stays so for all until it is [cleared](ConditionGuard::clear_poison).
    #[error(transparent)]
    Poisoned(Poisoned<()>),
    /// Nobody is left who could notify, or the system has refused to wait. The caller holds the lock again.
    #[error(transparent)]
    Wait(WaitError),
    /// The time is up, and process `pid`, which holds the lock, is stopped (`SIGSTOP`, a debugger).
    /// The caller does **not** hold the lock any more, and has to take it anew: the guard that it
    /// has does nothing.
    #[error("cannot wait for a condition: process {pid}, which holds the lock, is stopped")]
    Stopped {
        /// The process.
        pid: i32,
    },
    /// The caller doesn't hold the lock: it is a copy, made by fork, of the process that does.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

impl ConditionError {
    /// Whether somebody has come to grief while holding the lock.
    pub fn is_poisoned(&self) -> bool {
        matches!(self, ConditionError::Poisoned(_))
    }

    /// Whether nobody is left who could notify.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, ConditionError::Wait(error) if error.is_disconnected())
    }
}

impl From<ConditionError> for Error {
    fn from(error: ConditionError) -> Error {
        match error {
            ConditionError::Poisoned(poisoned) => LockError::Poisoned(poisoned).into(),
            ConditionError::Wait(error) => error.into(),
            ConditionError::Stopped { pid } => {
                let source = std::io::Error::from(Stalled { pid, is_stopped: true });
                WaitError::System { what: "wait for a condition", source }.into()
            }
            ConditionError::Misuse(misuse) => misuse.into(),
        }
    }
}
