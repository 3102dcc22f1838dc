//! [`Lock`]: mutual exclusion between threads of all processes that have a handle.
//!
//! A word that the holder's thread owns, and beside it the holder's identity and the poison.
//! Locking and unlocking a free lock makes no system call. See `sync/PROTOCOL.md` of
//! `multiproc-shm`, "Lock".

use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use multiproc_shm::lock::robust_word::{Holder, Poison};
use multiproc_shm::memory::segment::Layout;
use multiproc_shm::sync as shm;
use multiproc_shm::sync::lock::LockState;
use multiproc_shm::wait::deadline::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{LockError, Misuse};
use super::guard_state::GuardState;
use super::raw_lock::RawLock;
use crate::create_error::CreateError;
use crate::handle;

/// A mutual exclusion lock for threads of any processes: Python's `multiprocessing.Lock`, with a
/// guard.
///
/// A clone is another handle of the same lock, and so is what arrives in another process when a
/// lock is sent there: as an argument or a result of a process, a field of a [`Run`](crate::Run)
/// value, or inside a message. A lock takes one descriptor and 4 KiB.
///
/// If a holder dies, at any instruction, the lock is released: the next thread acquires it with
/// [`LockError::Poisoned`], and no thread waits for a dead holder. A panic while
/// holding the lock poisons it too, as with [`std::sync::Mutex`]. The lock stays poisoned until
/// [`clear_poison`](Lock::clear_poison).
///
/// Unlike Python's, a lock is released by the thread that has acquired it: drop the guard.
///
/// ```
/// use multiproc::Process;
/// use multiproc::sync::Lock;
///
/// fn work(lock: Lock, number: u32) -> multiproc::Result<()> {
///     let _guard = lock.lock()?;
///     println!("{number}: no other process prints now");
///     Ok(())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lock = Lock::new()?;
/// let children = (0..3).map(|number| Process::new(work, (lock.clone(), number)).start());
/// for child in children.collect::<Result<Vec<_>, _>>()? {
///     child.join()??;
/// }
/// # Ok(())
/// # }
/// ```
///
/// The lock isn't fair: it goes to the thread that tries first while it is free, even if another
/// has waited longer. All processes that use it must be in the same PID namespace.
///
/// # Implementation notes
/// A robust futex (get_robust_list(2)) in a memfd. A waiter spins for some microseconds, and then
/// sleeps.
#[derive(Clone)]
pub struct Lock {
    pub(super) inner: shm::Lock,
}

/// The result of locking without a time limit.
pub(super) type Locked<'a> = Result<LockGuard<'a>, LockError<LockGuard<'a>>>;

impl Lock {
    /// Creates a lock, which is free.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn new() -> Result<Lock, CreateError> {
        Ok(Lock { inner: shm::Lock::create().map_err(CreateError::of(LockState::NAME))? })
    }

    /// Acquires the lock, waiting until it is free, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard, if a thread has died or panicked while holding the
    /// lock; [`LockError::Misuse`] if the calling thread holds the lock already, or holds 1024
    /// others.
    #[inline]
    pub fn lock(&self) -> Locked<'_> {
        self.lock_with(|()| LockGuard::new(self))
    }

    /// Acquires the lock if it is free; returns `None` if it is held.
    ///
    /// # Errors
    /// As for [`lock`](Lock::lock).
    #[inline]
    pub fn try_lock(&self) -> Result<Option<LockGuard<'_>>, LockError<LockGuard<'_>>> {
        self.try_lock_with(|()| LockGuard::new(self))
    }

    /// Acquires the lock, waiting for at most `timeout`; returns `None` if the lock isn't acquired
    /// in that time.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::sync::Lock;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let lock = Lock::new()?;
    /// let guard = lock.lock()?;
    /// std::thread::scope(|scope| {
    ///     let other = scope.spawn(|| lock.lock_timeout(Duration::from_millis(10)).unwrap().is_some());
    ///     assert!(!other.join().unwrap());
    /// });
    /// drop(guard);
    /// assert!(lock.lock_timeout(Duration::from_millis(10))?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`lock`](Lock::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Option<LockGuard<'_>>, LockError<LockGuard<'_>>> {
        self.lock_timeout_with(timeout, |()| LockGuard::new(self))
    }

    /// Returns whether the lock is held at this moment.
    pub fn is_locked(&self) -> bool {
        self.inner.is_locked()
    }

    /// Returns whether a thread has died or panicked while holding the lock. A holder's death is
    /// noticed by the next thread that locks it.
    pub fn is_poisoned(&self) -> bool {
        self.has_poison()
    }

    /// Clears the poison, once what the lock guards has been put right: locking it no longer gives
    /// an error.
    pub fn clear_poison(&self) {
        self.inner.clear_poison();
    }
}

impl RawLock for Lock {
    type Hold = ();

    #[inline]
    fn name(&self) -> &'static str {
        LockState::NAME
    }

    #[inline]
    fn acquire(&self, deadline: Deadline) -> Result<Option<()>, Misuse> {
        Misuse::unless_busy(self.inner.take(deadline), LockState::NAME)
    }

    #[inline]
    fn poison(&self) -> Option<(Poison, Option<Holder>)> {
        self.inner.poisonable().poison()
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("locked", &self.is_locked()).field("poisoned", &self.is_poisoned()).finish()
    }
}

impl Serialize for Lock {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        handle::serialize(&self.inner.memory(), serializer)
    }
}

impl<'de> Deserialize<'de> for Lock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Lock, D::Error> {
        let memory: OwnedFd = handle::deserialize(deserializer)?;
        let inner = shm::Lock::from_fds([memory]).map_err(serde::de::Error::custom)?;
        Ok(Lock { inner })
    }
}

/// The guard of a [`Lock`] that is held. Dropping it releases the lock.
///
/// In a fork copy of this process, the lock is still held by the original: the copy's guard does
/// nothing.
#[must_use = "the lock is given up when this is dropped"]
pub struct LockGuard<'a> {
    lock: &'a Lock,
    state: GuardState,
}

impl<'a> LockGuard<'a> {
    /// The guard of the lock that the calling thread has just acquired.
    #[inline]
    pub(super) fn new(lock: &'a Lock) -> LockGuard<'a> {
        LockGuard { lock, state: GuardState::new() }
    }

    /// Clears the poison, as [`Lock::clear_poison`] does.
    pub fn clear_poison(&self) {
        self.lock.clear_poison();
    }

    /// Returns whether the calling thread holds the lock; false in a fork copy of the holder.
    pub(crate) fn is_mine(&self) -> bool {
        self.lock.inner.is_mine()
    }

    /// Poisons the lock if the calling thread holds it and is panicking. Returns whether the caller
    /// holds the lock and it is poisoned.
    #[cold]
    pub(crate) fn set_poisoned(&self) -> bool {
        self.state.end(self.lock.inner.poisonable());
        self.is_mine() && self.lock.is_poisoned()
    }

    #[cold]
    fn end_in_panic(&self) {
        self.state.end(self.lock.inner.poisonable());
        self.lock.inner.announce_poison();
    }

    #[inline]
    fn give_up(&self) {
        self.lock.inner.give_up();
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").field("poisoned", &self.lock.is_poisoned()).finish()
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.end_in_panic();
        }
        self.give_up();
    }
}
