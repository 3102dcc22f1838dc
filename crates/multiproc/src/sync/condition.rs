//! [`Condition`]: a condition variable. It releases a lock, waits for a notification, and acquires
//! the lock again.
//!
//! A [`Lock`] and, in memory of its own, the tickets of its waiters and how many of these may pass.
//! See `sync/PROTOCOL.md` of `multiproc-shm`, "Condition".

use std::fmt;
use std::time::{Duration, Instant};

use multiproc_shm::lock::spin_lock::Limit;
use multiproc_shm::memory::object::Object;
use multiproc_shm::memory::segment::Layout;
use multiproc_shm::sync as shm;
use multiproc_shm::sync::condition::Tickets;
use multiproc_shm::sync::lock::LockState;
use multiproc_shm::wait::deadline::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{LockError, Misuse, Poisoned};
use super::lock::{Lock, LockGuard};
use super::travel;
use super::wait_error::WaitError;
use crate::create_error::CreateError;

/// A condition variable with its lock: Python's `multiprocessing.Condition`.
///
/// A waiter locks the condition, checks whether what it needs holds, and
/// [waits](ConditionGuard::wait) if it doesn't; the lock is released during the wait. Another
/// process changes the state while it holds the lock, and [notifies](ConditionGuard::notify). Both
/// are possible only with the lock held.
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
/// Notifying never waits for the waiters, even if they are stopped or dead. A notification is for
/// the threads that were waiting when it was given. If a waiter that it wakes is killed before it
/// has the lock again, the notification goes to another waiter. If it is killed after that, the
/// lock is poisoned, and then *all* waits end with an error, as the notification may never come.
/// A wait also ends with an error when no process is left that could notify.
///
/// A condition takes three descriptors. All processes that use it must be in the same PID
/// namespace.
///
/// There is no method for `async` code: the guard belongs to a thread, and would have to be held
/// while the task waits. Use an [`Event`](super::Event) or a [`Semaphore`](super::Semaphore) there.
///
/// # Implementation notes
/// A [`Lock`] and a second memfd. A waiter spins for some microseconds, sleeps on a futex for some
/// milliseconds, and then in poll(2), on a pipe and the pidfds of the processes that have taken the
/// lock. If the lock can be taken without the condition ([`with_lock`](Condition::with_lock)), the
/// waiter also polls an inotify instance, through which other processes announce that they take the
/// lock for the first time; if no instance is available, it checks ten times a second.
#[derive(Clone)]
pub struct Condition {
    lock: Lock,
    inner: shm::Condition,
}

/// The result of locking without a time limit.
type Locked<'a> = Result<ConditionGuard<'a>, LockError<ConditionGuard<'a>>>;

impl Condition {
    /// Creates a condition with a lock of its own.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn new() -> Result<Condition, CreateError> {
        Condition::of(Lock::new()?)
    }

    /// Creates a condition that uses `lock`, which several conditions can share. The lock can still
    /// be taken without the condition: a wait still ends with an error if a process dies while
    /// holding it.
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
    /// As for [`new`](Condition::new).
    pub fn with_lock(lock: Lock) -> Result<Condition, CreateError> {
        let condition = Condition::of(lock)?;
        condition.share_lock();
        Ok(condition)
    }

    fn of(lock: Lock) -> Result<Condition, CreateError> {
        let inner = shm::Condition::create().map_err(CreateError::of("condition"))?;
        Ok(Condition { lock, inner })
    }

    /// Acquires the lock, waiting until it is free, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// As for [`Lock::lock`].
    pub fn lock(&self) -> Locked<'_> {
        self.inner.enlist(Limit::Endless, self.lock.inner.users().users);
        let lock = self.lock.lock();
        lock.map(|guard| self.guard(guard)).map_err(|error| self.guarded(error))
    }

    /// Acquires the lock if it is free; returns `None` if it is held.
    ///
    /// # Errors
    /// As for [`Lock::lock`].
    pub fn try_lock(&self) -> Result<Option<ConditionGuard<'_>>, LockError<ConditionGuard<'_>>> {
        self.inner.enlist(Limit::GracePeriod, self.lock.inner.users().users);
        let lock = self.lock.try_lock();
        lock.map(|guard| Some(self.guard(guard?))).map_err(|error| self.guarded(error))
    }

    /// Acquires the lock, waiting for at most `timeout`; returns `None` if it isn't acquired in
    /// that time.
    ///
    /// # Errors
    /// As for [`Lock::lock`].
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Option<ConditionGuard<'_>>, LockError<ConditionGuard<'_>>> {
        let begun = Instant::now();
        self.inner.enlist(Deadline::from_now(timeout).limit(), self.lock.inner.users().users);
        let lock = self.lock.lock_timeout(timeout.saturating_sub(begun.elapsed()));
        lock.map(|guard| Some(self.guard(guard?))).map_err(|error| self.guarded(error))
    }

    /// Returns the lock, which can be taken without the condition.
    pub fn as_lock(&self) -> &Lock {
        self.share_lock();
        &self.lock
    }

    /// Marks the lock as one that may be taken without this condition.
    fn share_lock(&self) {
        self.lock.inner.share();
        self.inner.expect_others();
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
        f.debug_struct("Condition").field("lock", &self.lock).field("waiting", &self.inner.waiting()).finish()
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
        Outgoing { lock: &self.lock, tickets: self.inner.object() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Condition, D::Error> {
        let Incoming { lock, tickets } = Incoming::deserialize(deserializer)?;
        Ok(Condition { lock, inner: shm::Condition::from_object(tickets) })
    }
}

/// The guard of a [`Condition`] with its lock held. Dropping it releases the lock.
#[must_use = "the lock is given up when this is dropped"]
pub struct ConditionGuard<'a> {
    condition: &'a Condition,
    guard: LockGuard<'a>,
}

impl ConditionGuard<'_> {
    /// Releases the lock, waits for a notification, and acquires the lock again. A wait can end
    /// without a notification (after a process was killed in the middle of notifying, for example),
    /// so check again what you wait for, as [`wait_for`](ConditionGuard::wait_for) does.
    ///
    /// # Errors
    /// [`ConditionError`]. The lock is held all the same, except after a misuse.
    pub fn wait(&mut self) -> Result<(), ConditionError> {
        self.wait_until(None).map(drop)
    }

    /// Waits as [`wait`](ConditionGuard::wait) does, for a notification within `timeout`; the time
    /// for acquiring the lock again is not included. Returns false if there was no notification.
    ///
    /// # Errors
    /// As for [`wait`](ConditionGuard::wait); [`ConditionError::Stopped`], without the lock, when
    /// the time is up and the process that holds the lock is stopped.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<bool, ConditionError> {
        self.wait_until(Deadline::from_now(timeout).instant())
    }

    /// Waits until `is_so` returns true. It is called with the lock held: now, and after each
    /// notification.
    ///
    /// # Errors
    /// As for [`wait`](ConditionGuard::wait).
    pub fn wait_for(&mut self, mut is_so: impl FnMut() -> bool) -> Result<(), ConditionError> {
        while !is_so() {
            self.wait()?;
        }
        Ok(())
    }

    /// Waits as [`wait_for`](ConditionGuard::wait_for) does, for at most `timeout`. Returns the
    /// last result of the closure.
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
    /// As for [`wait`](ConditionGuard::wait).
    pub fn wait_for_timeout(
        &mut self,
        mut is_so: impl FnMut() -> bool,
        timeout: Duration,
    ) -> Result<bool, ConditionError> {
        let deadline = Deadline::from_now(timeout).instant();
        loop {
            if is_so() {
                return Ok(true);
            }
            if !self.wait_until(deadline)? {
                return Ok(is_so());
            }
        }
    }

    /// Wakes one waiter, and returns how many there were to wake: 0 or 1. The waiter needs the lock
    /// to go on, so it does so after this guard has been dropped.
    pub fn notify_one(&self) -> usize {
        self.notify(1)
    }

    /// Wakes all waiters, and returns how many there were.
    pub fn notify_all(&self) -> usize {
        self.notify(usize::MAX)
    }

    /// Wakes up to `count` waiters, and returns how many there were to wake. That is an upper
    /// bound: a waiter may have been killed without this being known yet.
    pub fn notify(&self, count: usize) -> usize {
        self.condition.inner.notify(&self.condition.lock.inner, count)
    }

    /// Clears the poison, as [`Lock::clear_poison`] does.
    pub fn clear_poison(&self) {
        self.guard.clear_poison();
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<bool, ConditionError> {
        let Condition { lock, inner } = self.condition;
        match inner.wait_until(&lock.inner, deadline) {
            Ok(()) => Ok(true),
            Err(shm::ConditionError::Wait(error)) => {
                let waited = WaitError::of(Err::<(), _>(error), "wait for a condition", "notify");
                waited.map(|waited| waited.is_some()).map_err(ConditionError::Wait)
            }
            Err(shm::ConditionError::Poisoned(cause, holder)) => {
                Err(ConditionError::Poisoned(Poisoned::new((), "condition", (cause, holder))))
            }
            Err(shm::ConditionError::Stopped { pid }) => Err(ConditionError::Stopped { pid }),
            Err(shm::ConditionError::Lost(refusal)) => Err(ConditionError::Misuse(
                Misuse::of(refusal, LockState::NAME).expect("the lock is waited for while it is busy"),
            )),
            Err(_) => Err(ConditionError::Misuse(Misuse::NotHeld("condition"))),
        }
    }
}

impl Drop for ConditionGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // The lock is poisoned then, and all waiters are told so.
        if std::thread::panicking() && self.guard.set_poisoned() {
            self.condition.inner.alarm();
        }
    }
}

impl fmt::Debug for ConditionGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionGuard").field("condition", &self.condition).finish()
    }
}

/// Why waiting for a [`Condition`] failed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConditionError {
    /// A thread has died or panicked while holding the lock. The caller holds it now. It stays
    /// poisoned until it is [cleared](ConditionGuard::clear_poison).
    #[error(transparent)]
    Poisoned(Poisoned<()>),
    /// No process is left that could notify, or the system refused to wait. The caller holds the
    /// lock again.
    #[error(transparent)]
    Wait(WaitError),
    /// The time is up, and process `pid`, which holds the lock, is stopped (`SIGSTOP`, a debugger).
    /// The caller does **not** hold the lock any more: its guard does nothing from now on, and the
    /// condition must be locked anew.
    #[error("cannot wait for a condition: process {pid}, which holds the lock, is stopped")]
    Stopped {
        /// The process that holds the lock.
        pid: i32,
    },
    /// The caller doesn't hold the lock: it runs in a fork copy of the process that does.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

impl ConditionError {
    /// Returns whether a thread has died or panicked while holding the lock.
    pub fn is_poisoned(&self) -> bool {
        matches!(self, ConditionError::Poisoned(_))
    }

    /// Returns whether the wait failed because no process is left that could notify.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, ConditionError::Wait(error) if error.is_disconnected())
    }
}
