//! [`RLock`]: a reentrant lock.
//!
//! A word that the holder's thread owns. How many times that thread holds it is stored in the
//! handle alone, since no other process needs it. See `sync/PROTOCOL.md` of `multiproc-shm`,
//! "RLock".

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use multiproc_shm::lock::robust_word::{Holder, LockMapping, Poison, PoisonableWord};
use multiproc_shm::memory::segment::{Layout, Segment, layout};
use multiproc_shm::wait::deadline::Deadline;

use super::error::{LockError, Misuse};
use super::guard_state::GuardState;
use super::raw_lock::{self, RawLock};
use super::travel::travels;
use crate::create_error::CreateError;

layout! {
    /// The layout of a reentrant lock in shared memory.
    struct Shared: "reentrant lock", 0x11 {
        poisonable: PoisonableWord,
    }
}

/// A reentrant lock, which its holder may lock again any number of times: Python's
/// `multiprocessing.RLock`. It is released when all guards of the holding thread are dropped, in
/// any order.
///
/// In everything else it is like [`Lock`](super::Lock): it can be sent to other processes, survives
/// the death of its holder, and then reports that as poison.
///
/// ```
/// use multiproc::Process;
/// use multiproc::sync::RLock;
///
/// fn outer(lock: &RLock) -> multiproc::Result<u32> {
///     let _guard = lock.lock()?;
///     Ok(inner(lock)? + 1)
/// }
///
/// fn inner(lock: &RLock) -> multiproc::Result<u32> {
///     let _guard = lock.lock()?;
///     Ok(1)
/// }
///
/// fn work(lock: RLock) -> multiproc::Result<u32> {
///     outer(&lock)
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lock = RLock::new()?;
/// let child = Process::new(work, (lock.clone(),)).start()?;
/// assert_eq!(outer(&lock)?, 2);
/// assert_eq!(child.join()??, 2);
/// # Ok(())
/// # }
/// ```
///
/// A thread that holds the lock can lock it again through the same handle or a clone of it. If the
/// process has received the same lock twice, these are two handles, and locking it again through
/// the other one is an error.
///
/// There is no `lock_async`: the holder is a thread, and all tasks that this thread polls would
/// hold the lock at once. Use a [`Lock`](super::Lock) in `async` code.
#[derive(Clone)]
pub struct RLock {
    inner: Arc<Inner>,
}

struct Inner {
    mapping: LockMapping<Shared>,
    /// How many guards exist of the thread that has taken the lock through this handle. Only that
    /// thread accesses it, while it holds the lock.
    levels: AtomicU32,
}

impl AsFd for Inner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mapping.as_fd()
    }
}

/// The result of locking without a time limit.
type Locked<'a> = Result<RLockGuard<'a>, LockError<RLockGuard<'a>>>;

/// The result of trying to lock, or of locking with a timeout.
type Tried<'a> = raw_lock::Tried<RLockGuard<'a>>;

impl RLock {
    /// Creates a lock, which is free.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn new() -> Result<RLock, CreateError> {
        Ok(RLock::of(LockMapping::new(Segment::create().map_err(CreateError::of(Shared::NAME))?)))
    }

    fn of(mapping: LockMapping<Shared>) -> RLock {
        RLock { inner: Arc::new(Inner { mapping, levels: AtomicU32::new(0) }) }
    }

    /// Acquires the lock, waiting until no other thread holds it, and holds it until the guard is
    /// dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard, if a thread has died or panicked while holding the
    /// lock; [`LockError::Misuse`] if the calling thread holds it through another handle, holds it
    /// 2^32 - 1 times, or holds 1024 other locks.
    #[inline]
    pub fn lock(&self) -> Locked<'_> {
        self.lock_with(|()| RLockGuard::new(self))
    }

    /// Acquires the lock if no other thread holds it; returns `None` otherwise.
    ///
    /// # Errors
    /// As for [`lock`](RLock::lock).
    #[inline]
    pub fn try_lock(&self) -> Tried<'_> {
        self.try_lock_with(|()| RLockGuard::new(self))
    }

    /// Acquires the lock, waiting for at most `timeout`; returns `None` if the lock isn't acquired
    /// in that time.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::sync::RLock;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let lock = RLock::new()?;
    /// let _once = lock.lock_timeout(Duration::from_millis(10))?;
    /// let _twice = lock.lock_timeout(Duration::from_millis(10))?;
    /// std::thread::scope(|scope| {
    ///     let other = scope.spawn(|| lock.lock_timeout(Duration::from_millis(10)).unwrap().is_some());
    ///     assert!(!other.join().unwrap());
    /// });
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`lock`](RLock::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> Tried<'_> {
        self.lock_timeout_with(timeout, |()| RLockGuard::new(self))
    }

    fn take_again(&self) -> Result<(), Misuse> {
        let Inner { mapping, levels } = &*self.inner;
        if !mapping.has(mapping.poisonable.word()) {
            return Err(Misuse::OtherHandle(Shared::NAME));
        }
        let more = levels.load(Relaxed).checked_add(1).ok_or(Misuse::TooDeep(Shared::NAME))?;
        levels.store(more, Relaxed);
        Ok(())
    }

    /// Returns whether the lock is held at this moment, by any thread.
    pub fn is_locked(&self) -> bool {
        self.inner.mapping.poisonable.word().owner().is_some()
    }

    /// Returns whether a thread has died or panicked while holding the lock. A holder's death is
    /// noticed by the next thread that locks it.
    pub fn is_poisoned(&self) -> bool {
        self.has_poison()
    }

    /// Clears the poison, once what the lock guards has been put right: locking it no longer gives
    /// an error.
    pub fn clear_poison(&self) {
        self.inner.mapping.poisonable.clear_poison();
    }
}

impl RawLock for RLock {
    type Hold = ();

    #[inline]
    fn name(&self) -> &'static str {
        Shared::NAME
    }

    #[inline]
    fn acquire(&self, deadline: Deadline) -> Result<Option<()>, Misuse> {
        let Inner { mapping, levels } = &*self.inner;
        if mapping.poisonable.is_mine() {
            return self.take_again().map(Some);
        }
        let taken = Misuse::unless_busy(mapping.poisonable.take(mapping, 0, deadline, || true), Shared::NAME)?;
        if taken.is_some() {
            levels.store(1, Relaxed);
        }
        Ok(taken)
    }

    #[inline]
    fn poison(&self) -> Option<(Poison, Option<Holder>)> {
        self.inner.mapping.poisonable.poison()
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock").field("locked", &self.is_locked()).field("poisoned", &self.is_poisoned()).finish()
    }
}

travels!(RLock, |mapping| Ok(RLock::of(mapping)));

/// The guard of an [`RLock`] that is held; a thread may have several. Dropping the last one
/// releases the lock.
///
/// In a fork copy of this process, the lock is still held by the original: the copy's guard does
/// nothing.
#[must_use = "the lock is given up when this is dropped"]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
    state: GuardState,
}

impl<'a> RLockGuard<'a> {
    #[inline]
    fn new(lock: &'a RLock) -> RLockGuard<'a> {
        RLockGuard { lock, state: GuardState::new() }
    }

    /// Clears the poison, as [`RLock::clear_poison`] does.
    pub fn clear_poison(&self) {
        self.lock.clear_poison();
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLockGuard").field("poisoned", &self.lock.is_poisoned()).finish()
    }
}

impl Drop for RLockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let Inner { mapping, levels } = &*self.lock.inner;
        if !mapping.poisonable.is_mine() {
            return;
        }
        self.state.end(&mapping.poisonable);
        match levels.load(Relaxed) {
            level @ 2.. => levels.store(level - 1, Relaxed),
            _ => {
                mapping.poisonable.give_up(mapping, 0);
            }
        }
    }
}
