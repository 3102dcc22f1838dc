//! [`RawLock`]: the front that all locks have in common, as in the crate `lock_api`. A lock
//! implements how it is acquired, and what has poisoned it; locking with and without a time limit,
//! and the error that carries the guard of a poisoned lock, are written here once.

use std::time::Duration;

use multiproc_shm::lock::robust_word::{Holder, Poison};
use multiproc_shm::wait::deadline::Deadline;

use super::error::{LockError, Misuse, Poisoned};

/// The result of locking with a time limit: `None` if the deadline has passed.
pub(crate) type Tried<G> = Result<Option<G>, LockError<G>>;

/// A lock without its guard: a type, or one way of locking it (for reading, for writing, a part).
///
/// The guards are made by the closures that callers pass; a guard releases the lock when it is
/// dropped. What each lock adds to acquiring a word is inlined for certain: passing a guard on as a
/// result of a function takes half as long again as locking.
pub(crate) trait RawLock {
    /// What the guard needs to release the lock.
    type Hold;

    /// The name of the lock in errors.
    fn name(&self) -> &'static str;

    /// Acquires the lock for the calling thread; `None` if `deadline` passes before.
    ///
    /// # Errors
    /// The lock can't be acquired, however long the caller waits.
    fn acquire(&self, deadline: Deadline) -> Result<Option<Self::Hold>, Misuse>;

    /// The cause of the lock's poison, and the thread that poisoned it if that is known.
    fn poison(&self) -> Option<(Poison, Option<Holder>)>;

    /// Whether the lock is poisoned.
    #[inline]
    fn has_poison(&self) -> bool {
        self.poison().is_some()
    }

    /// The guard of the lock that was just acquired, inside an error if the lock is poisoned.
    #[inline(always)]
    fn guarded<G>(&self, guard: G) -> Result<G, LockError<G>> {
        match self.poison() {
            None => Ok(guard),
            Some(poison) => Err(LockError::Poisoned(Poisoned::new(guard, self.name(), poison))),
        }
    }

    /// Acquires the lock, waiting for as long as it takes.
    #[inline(always)]
    fn lock_with<G>(&self, guard: impl FnOnce(Self::Hold) -> G) -> Result<G, LockError<G>> {
        loop {
            // `None` only if a signal has interrupted the wait: see `multiproc_os::poll`.
            if let Some(hold) = self.acquire(Deadline::Never)? {
                return self.guarded(guard(hold));
            }
        }
    }

    /// Acquires the lock, waiting until `deadline`.
    #[inline(always)]
    fn lock_until<G>(&self, deadline: Deadline, guard: impl FnOnce(Self::Hold) -> G) -> Tried<G> {
        match self.acquire(deadline)? {
            Some(hold) => self.guarded(guard(hold)).map(Some),
            None => Ok(None),
        }
    }

    /// Acquires the lock without waiting.
    #[inline]
    fn try_lock_with<G>(&self, guard: impl FnOnce(Self::Hold) -> G) -> Tried<G> {
        self.lock_until(Deadline::Now, guard)
    }

    /// Acquires the lock, waiting for at most `timeout`.
    #[inline]
    fn lock_timeout_with<G>(&self, timeout: Duration, guard: impl FnOnce(Self::Hold) -> G) -> Tried<G> {
        self.lock_until(Deadline::after(timeout), guard)
    }
}
