//! [`Lock`]: one at a time, over all processes that have it.
//!
//! A word that the holder's thread owns, and beside it who that is and whether somebody has come to grief. Taking and giving up a free lock makes
//! no system call. `PROTOCOL.md`, "Lock".

use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use multiproc_os::threads;

use super::error::{LockError, Misuse, not_made};
use super::guard_state::{GuardState, held};
use super::travel::travels;
use crate::error::Result;
use crate::shm::robust_word::{Holder, LockMapping, Patience, Poison, PoisonableWord, Refusal};
use crate::shm::segment::{Layout, Segment, layout};
use crate::shm::users::{self, Users};

/// How long after its time one that waits for a condition looks first whether the holder of the
/// lock is stopped.
const LOOK: Duration = Duration::from_millis(2);

layout! {
    /// What lies in shared memory.
    pub(super) struct Shared: "lock", 0x10 {
        pub(super) poisonable: PoisonableWord,
        users: Users,
    }
}

/// A lock for threads of any processes: Python's `multiprocessing.Lock`, with a guard.
///
/// A clone is another handle of the same lock, and so is what arrives where one was sent to: as an argument or a result of a process, a field of a
/// [`Run`](crate::Run) value, or inside a message. It costs one descriptor, and 4 KiB.
///
/// A holder that dies, at whatever instruction, gives it up: the next one has it, and is told ([`LockError::Poisoned`]). So nobody waits for the dead. A
/// panic while holding it counts as well, as with [`std::sync::Mutex`]. It stays poisoned until [`clear_poison`](Lock::clear_poison).
///
/// Unlike Python's, a lock is given up by the thread that has taken it: drop the guard.
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
/// It goes to the one who comes first while it is free, not to the one who has waited longest. All processes that use it must be of the same PID namespace.
///
/// # Implementation notes
/// A robust futex (get_robust_list(2)) in a memfd. Who waits tries for some microseconds, and then sleeps.
#[derive(Clone)]
pub struct Lock {
    pub(super) inner: Arc<LockMapping<Shared>>,
}

/// What locking gives if it is waited for as long as it takes.
pub(super) type Locked<'a> = Result<LockGuard<'a>, LockError<LockGuard<'a>>>;

impl Lock {
    /// A new lock, which nobody holds.
    ///
    /// # Errors
    /// [`Error::Make`](crate::Error::Make): no descriptor or no memory is left.
    pub fn new() -> Result<Lock> {
        let segment = Segment::create().map_err(not_made(Shared::NAME))?;
        Ok(Lock { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// Waits until nobody holds it, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard, if somebody has died or panicked while holding it; [`LockError::Misuse`] if the calling thread holds it already,
    /// or holds 1024 others.
    #[inline]
    pub fn lock(&self) -> Locked<'_> {
        match self.take(Patience::Endless) {
            Ok(()) => self.guard(),
            Err(refusal) => Err(self.misuse(refusal)),
        }
    }

    /// Holds it if nobody else does; `None` if somebody does.
    ///
    /// # Errors
    /// As [`lock`](Lock::lock).
    #[inline]
    pub fn try_lock(&self) -> Result<Option<LockGuard<'_>>, LockError<LockGuard<'_>>> {
        self.lock_within(Patience::None)
    }

    /// As [`lock`](Lock::lock), for at most `timeout`; `None` when that is over.
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
    /// As [`lock`](Lock::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> Result<Option<LockGuard<'_>>, LockError<LockGuard<'_>>> {
        self.lock_within(Patience::lasting(timeout))
    }

    #[inline]
    fn lock_within(&self, patience: Patience) -> Result<Option<LockGuard<'_>>, LockError<LockGuard<'_>>> {
        match self.take(patience) {
            Ok(()) => self.guard().map(Some),
            Err(Refusal::Busy) => Ok(None),
            Err(refusal) => Err(self.misuse(refusal)),
        }
    }

    #[inline]
    fn take(&self, patience: Patience) -> Result<(), Refusal> {
        let is_entered = self.enter();
        let mut inherited = false;
        self.inner.poisonable.take(&self.inner, 0, patience, || {
            inherited = true;
            true
        })?;
        self.taken(is_entered, inherited);
        Ok(())
    }

    /// Before it is taken: if conditions share it, makes this process known to those that wait for
    /// them. Says whether it has.
    #[inline]
    pub(super) fn enter(&self) -> bool {
        let are_asked_for = self.inner.users.are_asked_for();
        if are_asked_for {
            self.users().enter();
        }
        are_asked_for
    }

    /// After it was taken, and [`enter`](Lock::enter) has said that; `inherited` from a holder that
    /// has died.
    #[inline]
    pub(super) fn taken(&self, is_entered: bool, inherited: bool) {
        // The first condition may have come in between.
        if !is_entered {
            self.enter();
        }
        if inherited {
            self.announce_poison();
        }
    }

    /// Makes those that wait for conditions which share it look whether somebody has come to grief
    /// with it.
    #[cold]
    fn announce_poison(&self) {
        if self.inner.users.are_asked_for() {
            self.users().tell();
        }
    }

    /// The processes that take it, if conditions share it.
    pub(super) fn users(&self) -> users::Shared<'_> {
        users::Shared { users: &self.inner.users, file: self.inner.as_fd() }
    }

    /// A condition shares it: processes that take it from now on make themselves known.
    pub(super) fn share(&self) {
        self.inner.users.ask();
    }

    /// Of what has just been taken.
    #[inline]
    pub(super) fn guard(&self) -> Locked<'_> {
        held(&self.inner.poisonable, Shared::NAME, LockGuard { lock: self, state: GuardState::new() })
    }

    #[cold]
    fn misuse<G>(&self, refusal: Refusal) -> LockError<G> {
        Misuse::of(refusal, Shared::NAME).expect("nobody waits for ever in vain").into()
    }

    /// Whether somebody holds it at this moment.
    pub fn is_locked(&self) -> bool {
        self.inner.poisonable.word().owner().is_some()
    }

    /// Whether somebody has died or panicked while holding it. That a holder has died is known to those who have locked it since.
    pub fn is_poisoned(&self) -> bool {
        self.inner.poisonable.poison().is_some()
    }

    /// Whether a holder has died, and nobody has had it since.
    #[inline]
    pub(crate) fn is_orphaned(&self) -> bool {
        self.inner.poisonable.word().is_orphaned()
    }

    /// Changes whenever somebody has come to grief with it, forgiven or not.
    pub(crate) fn poison_count(&self) -> u32 {
        self.inner.poisonable.poison_count()
    }

    /// How somebody has come to grief with it, if somebody has.
    pub(crate) fn poison(&self) -> Option<(Poison, Option<Holder>)> {
        self.inner.poisonable.poison()
    }

    /// Says that what it guards is in order again: who locks it from now on gets no error.
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

/// A [`Lock`] that is held. Dropping it gives the lock up.
///
/// In a copy of this process, made by fork, the lock is not the copy's: its copy of the guard does nothing.
#[must_use = "the lock is given up when this is dropped"]
pub struct LockGuard<'a> {
    lock: &'a Lock,
    state: GuardState,
}

impl<'a> LockGuard<'a> {
    /// As [`Lock::clear_poison`].
    pub fn clear_poison(&self) {
        self.lock.clear_poison();
    }

    /// Whether the calling thread holds it: not if this is a copy that fork has made.
    pub(crate) fn is_mine(&self) -> bool {
        self.lock.inner.poisonable.is_mine()
    }

    /// Gives it up while `wait` runs, and waits for it again for as long as it takes; after
    /// `deadline`, only as long as the process that holds it isn't stopped. What happens to others
    /// meanwhile poisons it; see [`Lock::is_poisoned`].
    ///
    /// # Errors
    /// The process that holds it, and is stopped. The caller doesn't hold it then.
    pub(crate) fn while_given_up<R>(
        &mut self,
        deadline: Option<Instant>,
        wait: impl FnOnce() -> R,
    ) -> Result<Result<R, Misuse>, i32> {
        self.give_up();
        let result = wait();
        let mut patience = LOOK;
        loop {
            let until =
                deadline.map_or(Patience::Endless, |deadline| Patience::Until(deadline.max(Instant::now()) + patience));
            let refusal = match self.lock.take(until) {
                Ok(()) => return Ok(Ok(result)),
                Err(refusal) => refusal,
            };
            if refusal != Refusal::Busy {
                return Ok(Err(Misuse::of(refusal, Shared::NAME).expect("it is not that another has it")));
            }
            let holder = self.lock.inner.poisonable.word().owner().and_then(|owner| threads::seen(owner as i32));
            if let Some(holder) = holder.filter(|holder| holder.is_stopped()) {
                return Err(holder.process);
            }
            patience = (2 * patience).min(Duration::from_secs(1));
        }
    }

    /// Poisons it, as the calling thread has panicked while it held it; says whether it has.
    #[cold]
    pub(crate) fn set_poisoned(&self) -> bool {
        self.state.end(&self.lock.inner.poisonable);
        self.is_mine() && self.lock.is_poisoned()
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
        self.state.end(&self.lock.inner.poisonable);
        if std::thread::panicking() {
            self.lock.announce_poison();
        }
        self.give_up();
    }
}
