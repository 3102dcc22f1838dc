//! [`RLock`]: as `Lock`, but its holder may take it again.
//!
//! A word that the holder's thread owns; how many times over it does is known to the handle alone, since nobody else needs to. `PROTOCOL.md`, "RLock".

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::error::{LockError, Misuse, not_made};
use super::guard_state::{GuardState, held};
use super::travel::travels;
use crate::error::Result;
use crate::shm::robust_word::{LockMapping, Patience, PoisonableWord, Refusal};
use crate::shm::segment::{Layout, Segment, layout};

layout! {
    /// What lies in shared memory.
    struct Shared: "reentrant lock", 0x11 {
        poisonable: PoisonableWord,
    }
}

/// A lock that the thread that holds it may take again, any number of times: Python's `multiprocessing.RLock`. It is free when all of that thread's guards
/// are dropped, in whatever order.
///
/// In everything else it is as [`Lock`](super::Lock): it travels, it outlives those who die holding it, and then says so.
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
/// A thread that holds it can take it again through the same handle, or a clone of that. If the process has been sent the same lock twice, these are two handles, and
/// taking it through the other one is an error.
///
/// There is no `lock_async`: the holder is a thread, and tasks that the same thread polls would all
/// hold the lock at once. Use a [`Lock`](super::Lock) in `async` code.
#[derive(Clone)]
pub struct RLock {
    inner: Arc<Inner>,
}

struct Inner {
    mapping: LockMapping<Shared>,
    /// How many guards the thread has that has taken the lock through this handle. Nobody else touches this meanwhile.
    levels: AtomicU32,
}

impl AsFd for Inner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mapping.as_fd()
    }
}

/// What locking gives if it is waited for as long as it takes.
type Locked<'a> = Result<RLockGuard<'a>, LockError<RLockGuard<'a>>>;

/// What it gives otherwise.
type Tried<'a> = Result<Option<RLockGuard<'a>>, LockError<RLockGuard<'a>>>;

impl RLock {
    /// A new lock, which nobody holds.
    ///
    /// # Errors
    /// [`Error::Make`](crate::Error::Make): no descriptor or no memory is left.
    pub fn new() -> Result<RLock> {
        Ok(RLock::of(LockMapping::new(Segment::create().map_err(not_made(Shared::NAME))?)))
    }

    fn of(mapping: LockMapping<Shared>) -> RLock {
        RLock { inner: Arc::new(Inner { mapping, levels: AtomicU32::new(0) }) }
    }

    /// Waits until no other thread holds it, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard, if somebody has died or panicked while holding it; [`LockError::Misuse`] if the calling thread holds it
    /// through another handle, holds it 2^32 - 1 times, or holds 1024 other locks.
    #[inline]
    pub fn lock(&self) -> Locked<'_> {
        match self.take(Patience::Endless)? {
            true => self.guard(),
            false => unreachable!("nobody waits for ever in vain"),
        }
    }

    /// Holds it if no other thread does; `None` if one does.
    ///
    /// # Errors
    /// As [`lock`](RLock::lock).
    #[inline]
    pub fn try_lock(&self) -> Tried<'_> {
        self.lock_within(Patience::None)
    }

    /// As [`lock`](RLock::lock), for at most `timeout`; `None` when that is over.
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
    /// As [`lock`](RLock::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> Tried<'_> {
        self.lock_within(Patience::lasting(timeout))
    }

    #[inline]
    fn lock_within(&self, patience: Patience) -> Tried<'_> {
        match self.take(patience)? {
            true => self.guard().map(Some),
            false => Ok(None),
        }
    }

    /// False if the patience has come to its end.
    #[inline]
    fn take(&self, patience: Patience) -> Result<bool, Misuse> {
        let Inner { mapping, levels } = &*self.inner;
        if mapping.poisonable.is_mine() {
            return self.take_again().map(|()| true);
        }
        match mapping.poisonable.take(mapping, 0, patience, || true) {
            Ok(()) => {
                levels.store(1, Relaxed);
                Ok(true)
            }
            Err(Refusal::Busy) => Ok(false),
            Err(refusal) => Err(Misuse::of(refusal, Shared::NAME).expect("it isn't that somebody has it")),
        }
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

    /// Of what has just been taken.
    #[inline]
    fn guard(&self) -> Locked<'_> {
        held(&self.inner.mapping.poisonable, Shared::NAME, RLockGuard { lock: self, state: GuardState::new() })
    }

    /// Whether somebody holds it at this moment.
    pub fn is_locked(&self) -> bool {
        self.inner.mapping.poisonable.word().owner().is_some()
    }

    /// Whether somebody has died or panicked while holding it. That a holder has died is known to those who have locked it since.
    pub fn is_poisoned(&self) -> bool {
        self.inner.mapping.poisonable.poison().is_some()
    }

    /// Says that what it guards is in order again: who locks it from now on gets no error.
    pub fn clear_poison(&self) {
        self.inner.mapping.poisonable.clear_poison();
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RLock").field("locked", &self.is_locked()).field("poisoned", &self.is_poisoned()).finish()
    }
}

travels!(RLock, |mapping| Ok(RLock::of(mapping)));

/// An [`RLock`] that is held, one time of perhaps many. When the last guard of its thread is dropped, the lock is given up.
///
/// In a copy of this process, made by fork, the lock is not the copy's: its copy of the guard does nothing.
#[must_use = "the lock is given up when this is dropped"]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
    state: GuardState,
}

impl RLockGuard<'_> {
    /// As [`RLock::clear_poison`].
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
