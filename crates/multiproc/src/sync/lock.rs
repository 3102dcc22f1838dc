//! [`Lock`]: mutual exclusion between threads of all processes that have a handle.
//!
//! A word that the holder's thread owns, and beside it the holder's identity and the poison.
//! Locking and unlocking a free lock makes no system call. See `sync/PROTOCOL.md` of
//! `multiproc-shm`, "Lock".

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use multiproc_os::threads;
use multiproc_shm::wait::deadline::Deadline;

use super::error::{LockError, Misuse, not_made};
use super::guard_state::{GuardState, held};
use super::travel::travels;
use crate::error::Result;
use crate::shm::robust_word::{Holder, LockMapping, Poison, PoisonableWord, Refusal};
use crate::shm::segment::{Layout, Segment, layout};
use crate::shm::users::{self, Users};

/// How long after the deadline a waiter of a condition first checks whether the holder of the lock
/// is stopped.
const LOOK: Duration = Duration::from_millis(2);

layout! {
    /// The layout of a lock in shared memory.
    pub(super) struct Shared: "lock", 0x10 {
        pub(super) poisonable: PoisonableWord,
        users: Users,
    }
}

/// A mutual exclusion lock for threads of any processes: Python's `multiprocessing.Lock`, with a
/// guard.
///
/// A clone is another handle of the same lock, and so is what arrives in another process when a
/// lock is sent there: as an argument or a result of a process, a field of a [`Run`](crate::Run)
/// value, or inside a message. A lock takes one descriptor and 4 KiB.
///
/// If a holder dies, at whatever instruction, the lock is released: the next thread acquires it and
/// is told so ([`LockError::Poisoned`]), and no thread waits for a dead holder. A panic while
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
///     println!("{number}: nobody else prints now");
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
    pub(super) inner: Arc<LockMapping<Shared>>,
}

/// The result of locking without a time limit.
pub(super) type Locked<'a> = Result<LockGuard<'a>, LockError<LockGuard<'a>>>;

impl Lock {
    /// Creates a lock, which is free.
    ///
    /// # Errors
    /// [`Error::Make`](crate::Error::Make): no descriptor or no memory is left.
    pub fn new() -> Result<Lock> {
        let segment = Segment::create().map_err(not_made(Shared::NAME))?;
        Ok(Lock { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// Acquires the lock, waiting until it is free, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard, if a thread has died or panicked while holding the
    /// lock; [`LockError::Misuse`] if the calling thread holds the lock already, or holds 1024
    /// others.
    #[inline]
    pub fn lock(&self) -> Locked<'_> {
        match self.take(Deadline::Never) {
            Ok(()) => self.guard(),
            Err(refusal) => Err(self.misuse(refusal)),
        }
    }

    /// Acquires the lock if it is free; returns `None` if it is held.
    ///
    /// # Errors
    /// As for [`lock`](Lock::lock).
    #[inline]
    pub fn try_lock(&self) -> Result<Option<LockGuard<'_>>, LockError<LockGuard<'_>>> {
        self.lock_within(Deadline::Now)
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
        self.lock_within(Deadline::after(timeout))
    }

    #[inline]
    fn lock_within(&self, deadline: Deadline) -> Result<Option<LockGuard<'_>>, LockError<LockGuard<'_>>> {
        match self.take(deadline) {
            Ok(()) => self.guard().map(Some),
            Err(Refusal::Busy) => Ok(None),
            Err(refusal) => Err(self.misuse(refusal)),
        }
    }

    #[inline]
    fn take(&self, deadline: Deadline) -> Result<(), Refusal> {
        let is_entered = self.enter();
        let mut inherited = false;
        self.inner.poisonable.take(&self.inner, 0, deadline, || {
            inherited = true;
            true
        })?;
        self.taken(is_entered, inherited);
        Ok(())
    }

    /// Called before the lock is taken: if conditions share it, enters this process among its
    /// users, so that waiters of the conditions watch it. Returns whether conditions share the
    /// lock.
    #[inline]
    pub(super) fn enter(&self) -> bool {
        let are_asked_for = self.inner.users.are_asked_for();
        if are_asked_for && !self.inner.is_recorded() {
            self.users().enter();
            self.inner.note_recorded();
        }
        are_asked_for
    }

    /// Called after the lock was taken: `is_entered` is the result of [`enter`](Lock::enter), and
    /// `inherited` is set if the previous owner has died.
    #[inline]
    pub(super) fn taken(&self, is_entered: bool, inherited: bool) {
        // The first condition may have begun to share the lock since `enter`.
        if !is_entered {
            self.enter();
        }
        if inherited {
            self.announce_poison();
        }
    }

    /// Wakes the waiters of conditions that share the lock, so that they check its poison.
    #[cold]
    fn announce_poison(&self) {
        if self.inner.users.are_asked_for() {
            self.users().tell();
        }
    }

    /// The processes that take the lock, recorded if conditions share it.
    pub(super) fn users(&self) -> users::Shared<'_> {
        users::Shared { users: &self.inner.users, file: self.inner.as_fd() }
    }

    /// Marks the lock as shared by a condition: from now on processes enter themselves as users
    /// before they take it.
    pub(super) fn share(&self) {
        self.inner.users.ask();
    }

    /// The guard of the lock that was just taken.
    #[inline]
    pub(super) fn guard(&self) -> Locked<'_> {
        held(&self.inner.poisonable, Shared::NAME, LockGuard { lock: self, state: GuardState::new() })
    }

    #[cold]
    fn misuse<G>(&self, refusal: Refusal) -> LockError<G> {
        Misuse::of(refusal, Shared::NAME).expect("endless waits don't time out").into()
    }

    /// Returns whether the lock is held at this moment.
    pub fn is_locked(&self) -> bool {
        self.inner.poisonable.word().owner().is_some()
    }

    /// Returns whether a thread has died or panicked while holding the lock. A holder's death is
    /// noticed by the next thread that locks it.
    pub fn is_poisoned(&self) -> bool {
        self.inner.poisonable.poison().is_some()
    }

    /// Returns whether the holder has died and no thread has taken the lock since.
    #[inline]
    pub(crate) fn is_orphaned(&self) -> bool {
        self.inner.poisonable.word().is_orphaned()
    }

    /// How often the lock has been poisoned in total; clearing the poison doesn't change this.
    pub(crate) fn poison_count(&self) -> u32 {
        self.inner.poisonable.poison_count()
    }

    /// The poison, if there is any: how the holder ended, and which thread it was.
    pub(crate) fn poison(&self) -> Option<(Poison, Option<Holder>)> {
        self.inner.poisonable.poison()
    }

    /// Clears the poison, once what the lock guards has been put right: locking it no longer gives
    /// an error.
    pub fn clear_poison(&self) {
        self.inner.poisonable.clear_poison();
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("locked", &self.is_locked()).field("poisoned", &self.is_poisoned()).finish()
    }
}

travels!(Lock, |mapping| Ok(Lock { inner: Arc::new(mapping) }));

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
    /// Clears the poison, as [`Lock::clear_poison`] does.
    pub fn clear_poison(&self) {
        self.lock.clear_poison();
    }

    /// Returns whether the calling thread holds the lock; false in a fork copy of the holder.
    pub(crate) fn is_mine(&self) -> bool {
        self.lock.inner.poisonable.is_mine()
    }

    /// Releases the lock, runs `wait`, and acquires the lock again. There is no time limit for
    /// that, except that after `deadline` the call gives up if the holder is stopped. If another
    /// holder dies or panics meanwhile, the lock is poisoned; see [`Lock::is_poisoned`].
    ///
    /// # Errors
    /// The id of the process that holds the lock and is stopped. The caller doesn't hold the lock
    /// then.
    pub(crate) fn while_given_up<R>(
        &mut self,
        deadline: Option<Instant>,
        wait: impl FnOnce() -> R,
    ) -> Result<Result<R, Misuse>, i32> {
        self.give_up();
        let result = wait();
        let mut grace = LOOK;
        loop {
            let until = deadline.map_or(Deadline::Never, |deadline| Deadline::At(deadline.max(Instant::now()) + grace));
            let refusal = match self.lock.take(until) {
                Ok(()) => return Ok(Ok(result)),
                Err(refusal) => refusal,
            };
            if refusal != Refusal::Busy {
                return Ok(Err(Misuse::of(refusal, Shared::NAME).expect("a busy lock is handled above")));
            }
            let holder = self.lock.inner.poisonable.word().owner().and_then(|owner| threads::seen(owner as i32));
            if let Some(holder) = holder.filter(|holder| holder.is_stopped()) {
                return Err(holder.process);
            }
            grace = (2 * grace).min(Duration::from_secs(1));
        }
    }

    /// Poisons the lock if the calling thread holds it and is panicking. Returns whether the caller
    /// holds the lock and it is poisoned.
    #[cold]
    pub(crate) fn set_poisoned(&self) -> bool {
        self.state.end(&self.lock.inner.poisonable);
        self.is_mine() && self.lock.is_poisoned()
    }

    #[cold]
    fn end_in_panic(&self) {
        self.state.end(&self.lock.inner.poisonable);
        self.lock.announce_poison();
    }

    #[inline]
    fn give_up(&self) {
        self.lock.inner.poisonable.give_up(&self.lock.inner, 0);
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
