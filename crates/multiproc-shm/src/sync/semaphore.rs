//! [`Semaphore`]: permits, and how many of them each process has. See `PROTOCOL.md` in this folder,
//! "Semaphore".
//!
//! The numbers change all at once: a record of their new values is written first, and a thread that
//! inherits the spin lock writes them once more.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

use multiproc_os::identity::Identity;
use multiproc_os::poll::interruptible_if;

use crate::lock::spin_lock::{Limit, RobustSpinGuard, RobustSpinLock, Stalled, within};
use crate::memory::object::Object;
use crate::memory::segment::layout;
use crate::memory::slab::{Slab, Slot};
use crate::sync::error::{ReleaseError, WaitError};
use crate::sync::ledger::{self, Entry, Ledger, LedgerView, me};
use crate::wait::deadline::Deadline;
use crate::wait::notifier::{Notifier, ViaHandle};
use crate::wait::wait_queue::{WaitFailure, WaitOp, WaitQueue, Watched};

/// The maximum number of permits.
pub const MAX_PERMITS: usize = usize::MAX >> 3;

layout! {
    /// The state in shared memory. All zero: it has no permits.
    pub struct Permits: "semaphore", 0x20, ledger::TRAILING_WORDS {
        spin_lock: RobustSpinLock,
        wait_queue: WaitQueue,
        /// [`SEMAPHORE`] or [`LOCK`].
        kind: AtomicU32,
        _reserved: AtomicU32,
        /// The identity of the process that has died with a lock; 0: none, or cleared.
        poison: AtomicU64,
        /// The maximum number of permits that this semaphore may have, plus one; 0: no bound but
        /// [`MAX_PERMITS`].
        bound: AtomicU64,
        /// Permits that can be taken.
        free: AtomicU64,
        /// Those, and those that processes have.
        total: AtomicU64,
        /// The change that is being made.
        redo: Redo,
        /// How many permits each process has.
        ledger: Ledger,
    }
}

layout! {
    /// The new values of a change.
    struct Redo {
        /// Whether the other fields are valid.
        valid: AtomicU32,
        /// The index of the ledger's entry; [`NO_ENTRY`] if none changes.
        index: AtomicU32,
        owner: AtomicU64,
        note: AtomicU64,
        free: AtomicU64,
        total: AtomicU64,
    }
}

/// The kinds of objects with permits.
const SEMAPHORE: u32 = 0;
pub(super) const LOCK: u32 = 1;

/// The index of no entry in the ledger.
const NO_ENTRY: u32 = u32::MAX;

/// The entry with one permit less: its index, owner and note.
fn less(index: u32, entry: Entry<'_>) -> (u32, u64, u64) {
    match entry.note() {
        0 | 1 => (index, 0, 0),
        note => (index, entry.owner(), note - 1),
    }
}

impl Permits {
    fn bound(&self) -> Option<usize> {
        self.bound.load(Relaxed).checked_sub(1).map(|bound| bound as usize)
    }
}

/// A counting semaphore that processes share, with no guards: the layer under
/// `multiproc::sync::Semaphore` and `BoundedSemaphore`.
///
/// A ledger in the shared memory says which process has acquired how many permits. The permits of a
/// process that dies are released. Any process may release a permit, as Python's semaphores allow:
/// [`release`](Semaphore::release) returns one of the calling process, or else one of another
/// process. For a semaphore used as a signal, where consumers keep what they acquire, producers
/// call [`add`](Semaphore::add), and consumers call [`forget`](Semaphore::forget) after `acquire`.
///
/// It takes two descriptors, or none of its own [in a slab](Semaphore::create_in). A clone is
/// another handle of the same semaphore.
///
/// ```
/// use std::time::Duration;
///
/// use multiproc_shm::sync::{Semaphore, WaitError};
/// use multiproc_shm::wait::deadline::Deadline;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let semaphore = Semaphore::create(1, None)?;
/// semaphore.acquire(Deadline::Never)?;
///
/// // In another process, which has received the descriptors:
/// let same = Semaphore::from_fds(semaphore.to_fds()?)?;
/// assert!(matches!(same.acquire(Deadline::after(Duration::from_millis(5))), Err(WaitError::Timeout)));
///
/// semaphore.release()?;
/// assert!(same.try_acquire()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Semaphore {
    object: Object<Permits>,
    is_interruptible: bool,
}

impl Semaphore {
    /// Creates a semaphore with `permits` permits, and never more than `bound`.
    ///
    /// # Errors
    /// `InvalidInput` for more than [`MAX_PERMITS`]; `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create(permits: usize, bound: Option<usize>) -> io::Result<Semaphore> {
        Semaphore::begin(permits, bound, SEMAPHORE, Object::create)
    }

    /// Creates a semaphore in a slab, otherwise as [`create`](Semaphore::create).
    ///
    /// # Errors
    /// `StorageFull` when the slab has no slot left; and as [`create`](Semaphore::create).
    pub fn create_in(slab: &Slab, permits: usize, bound: Option<usize>) -> io::Result<Semaphore> {
        Semaphore::begin(permits, bound, SEMAPHORE, || Object::create_in(slab))
    }

    pub(super) fn begin(
        permits: usize,
        bound: Option<usize>,
        kind: u32,
        create: impl FnOnce() -> io::Result<Object<Permits>>,
    ) -> io::Result<Semaphore> {
        if permits > MAX_PERMITS {
            let error = format!("cannot create a semaphore with {permits} permits: there can be at most {MAX_PERMITS}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        let object = create()?;
        object.kind.store(kind, Relaxed);
        object.free.store(permits as u64, Relaxed);
        object.total.store(permits as u64, Relaxed);
        object.bound.store(bound.map_or(0, |bound| bound as u64 + 1), Relaxed);
        Ok(Semaphore { object, is_interruptible: false })
    }

    /// Opens a semaphore with the descriptors that [`to_fds`](Semaphore::to_fds) has returned,
    /// perhaps in another process.
    ///
    /// # Errors
    /// `InvalidData` when they are something else; `Unsupported` when it was created in another PID
    /// namespace; `ENOMEM`.
    pub fn from_fds([memory, wake_pipe]: [OwnedFd; 2]) -> io::Result<Semaphore> {
        Semaphore::from_object(Object::open(memory, wake_pipe)?)
    }

    /// Opens the semaphore in a slot of a slab.
    ///
    /// # Errors
    /// `InvalidData` when the slot has something else; otherwise as
    /// [`from_fds`](Semaphore::from_fds).
    pub fn open_in(slab: &Slab, index: u32) -> io::Result<Semaphore> {
        Semaphore::from_object(Object::open_in(slab, index)?)
    }

    /// Returns descriptors of the memory file and of the wake pipe, to be sent to another process.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `InvalidInput` if the semaphore lies in a slab.
    pub fn to_fds(&self) -> io::Result<[OwnedFd; 2]> {
        self.object.to_fds()
    }

    /// Returns the slot of a semaphore that lies in a slab.
    pub fn slot(&self) -> Option<&Slot> {
        self.object.slot()
    }

    /// Makes this handle interruptible: a signal handler that runs in a thread which waits by it
    /// ends the wait, with [`WaitError::Interrupted`]. A handler that runs after the last check and
    /// before the thread sleeps doesn't.
    #[must_use]
    pub fn interruptible(mut self) -> Semaphore {
        self.is_interruptible = true;
        self
    }

    /// Returns the object behind the semaphore.
    pub fn object(&self) -> &Object<Permits> {
        &self.object
    }

    /// Makes a semaphore of its object.
    ///
    /// # Errors
    /// `InvalidData` if it is a [`ProcessLock`](super::ProcessLock).
    pub fn from_object(object: Object<Permits>) -> io::Result<Semaphore> {
        Semaphore::of_kind(object, SEMAPHORE)
    }

    pub(super) fn of_kind(object: Object<Permits>, kind: u32) -> io::Result<Semaphore> {
        match object.kind.load(Relaxed) == kind {
            true => Ok(Semaphore { object, is_interruptible: false }),
            false => {
                let what = if kind == LOCK { "process lock" } else { "semaphore" };
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("invalid {what}: it is an object of another kind"),
                ))
            }
        }
    }

    /// The process that has died with the lock, if poison hasn't been cleared since.
    #[inline]
    pub(super) fn poison(&self) -> Option<Identity> {
        Identity::from_bits(self.object.poison.load(SeqCst))
    }

    pub(super) fn clear_poison(&self) {
        self.object.poison.store(0, SeqCst);
    }

    fn ledger(&self) -> LedgerView<'_, Permits> {
        LedgerView { ledger: &self.object.ledger, segment: self.object.segment() }
    }

    #[inline]
    fn lock(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        self.object.spin_lock.lock().map(|guard| self.inherit(guard))
    }

    #[inline]
    fn lock_endlessly(&self) -> RobustSpinGuard<'_> {
        self.inherit(self.object.spin_lock.lock_endlessly())
    }

    #[inline]
    fn inherit<'a>(&'a self, guard: RobustSpinGuard<'a>) -> RobustSpinGuard<'a> {
        if guard.inherited && self.object.redo.valid.load(Relaxed) != 0 {
            self.make();
        }
        guard
    }

    /// Changes the entry with this index, and the numbers. Must be called with the spin lock
    /// held.
    fn change(&self, index: u32, owner: u64, note: u64, free: u64, total: u64) {
        let redo = &self.object.redo;
        // Each of these stores, and of those in `make`, comes after the one before: a process that
        // dies leaves the first few of them.
        redo.index.store(index, Release);
        redo.owner.store(owner, Release);
        redo.note.store(note, Release);
        redo.free.store(free, Release);
        redo.total.store(total, Release);
        redo.valid.store(1, Release);
        self.make();
    }

    fn make(&self) {
        let redo = &self.object.redo;
        if let Some(entry) = self.ledger().entry(redo.index.load(Relaxed) as usize) {
            entry.owner.store(redo.owner.load(Relaxed), Release);
            entry.note.store(redo.note.load(Relaxed), Release);
        }
        self.object.free.store(redo.free.load(Relaxed), Release);
        self.object.total.store(redo.total.load(Relaxed), Release);
        redo.valid.store(0, Release);
    }

    /// Takes a permit if there is one.
    ///
    /// # Errors
    /// The ledger has no entry for this process: `ENOSPC`, `ENOMEM`, `StorageFull`; no `/proc`.
    #[inline]
    fn take(&self) -> io::Result<bool> {
        let me = me()?;
        loop {
            if self.available() == 0 {
                return Ok(false);
            }
            let guard = self.lock()?;
            let (free, total) = (self.object.free.load(Relaxed), self.object.total.load(Relaxed));
            if free == 0 {
                return Ok(false);
            }
            let ledger = self.ledger();
            let hint = self.object.ledger_index().load(Relaxed);
            if let Some(index) = ledger.find(hint as usize, |entry| entry.owner() == 0 || entry.owner() == me)
                && let Some(entry) = ledger.entry(index)
            {
                let noted = if entry.owner() == me { entry.note() } else { 0 };
                self.change(index as u32, me, noted.saturating_add(1), free - 1, total);
                self.object.ledger_index().store(index as u32, Relaxed);
                return Ok(true);
            }
            drop(guard);
            let room = ledger.make_room()?;
            let _guard = self.lock()?;
            ledger.add_room(room);
        }
    }

    /// Waits for a permit until `deadline` and takes it, for the calling process.
    ///
    /// # Errors
    /// [`WaitError::Timeout`], [`WaitError::Interrupted`]; [`WaitError::Disconnected`] if no
    /// process is left that could release a permit; [`WaitError::Stalled`], [`WaitError::Io`].
    #[inline]
    pub fn acquire(&self, deadline: Deadline) -> Result<(), WaitError> {
        within(deadline.limit(), || match self.take() {
            Ok(true) => Ok(()),
            Ok(false) => self.acquire_slowly(deadline),
            Err(error) => Err(error.into()),
        })
    }

    #[cold]
    fn acquire_slowly(&self, deadline: Deadline) -> Result<(), WaitError> {
        if deadline == Deadline::Now {
            return if self.reclaim()? && self.take()? { Ok(()) } else { Err(WaitError::Timeout) };
        }
        let wait = || {
            let mut op = Acquire { semaphore: self, mine: 0 };
            self.object.wait_queue.wait(self.object.notifier(), deadline.instant(), &mut op)
        };
        match interruptible_if(self.is_interruptible, wait) {
            Ok(result) => Ok(result?),
            Err(WaitFailure::Timeout) if self.acquire_now(Limit::GracePeriod)? => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// As [`acquire`](Semaphore::acquire) without a deadline, as a future.
    ///
    /// # Errors
    /// As [`acquire`](Semaphore::acquire).
    #[cfg(feature = "async")]
    pub async fn acquire_async(&self) -> Result<(), WaitError> {
        let mut op = Acquire { semaphore: self, mine: 0 };
        Ok(self.object.wait_queue.wait_async(self.object.notifier(), &mut op).await??)
    }

    /// Takes a permit if there is one, or if a process that has died had one. Returns false if
    /// there is none. Doesn't wait, not even for an operation of another thread that takes a
    /// moment.
    ///
    /// # Errors
    /// [`WaitError::Busy`] if there is such an operation; [`WaitError::Io`].
    pub fn try_acquire(&self) -> Result<bool, WaitError> {
        Ok(self.acquire_now(Limit::Zero)?)
    }

    fn acquire_now(&self, limit: Limit) -> io::Result<bool> {
        within(limit, || Ok(self.take()? || self.reclaim()? && self.take()?))
    }

    /// Releases a permit: one that this process has, or else one that another process has. Waits
    /// for as long as it takes if another process is stopped in the middle of an operation on the
    /// semaphore.
    ///
    /// # Errors
    /// [`ReleaseError::NotHeld`] if no process has a permit.
    pub fn release(&self) -> Result<(), ReleaseError> {
        let notifier = self.object.notifier();
        let guard = self.lock_endlessly();
        let entry = self.entry_with_one_less().or_else(|| self.any_entry_with_one_less());
        self.free_one(notifier, guard, entry.ok_or(ReleaseError::NotHeld)?);
        Ok(())
    }

    /// Adds a free permit, and changes the entry from which it comes.
    #[inline(always)]
    fn free_one(&self, notifier: &Notifier, guard: RobustSpinGuard<'_>, (index, owner, note): (u32, u64, u64)) {
        let object = &self.object;
        object.wait_queue.before_change(notifier);
        self.change(index, owner, note, object.free.load(Relaxed).saturating_add(1), object.total.load(Relaxed));
        drop(guard);
        object.wait_queue.after_change(1);
    }

    /// As [`entry_with_one_less`](Semaphore::entry_with_one_less), for another entry of this
    /// process, or for another process.
    #[cold]
    fn any_entry_with_one_less(&self) -> Option<(u32, u64, u64)> {
        let me = me().ok();
        let mut any = None;
        for (index, entry) in self.ledger().entries().filter(|(_, entry)| entry.owner() != 0 && entry.note() != 0) {
            any = Some((index, entry));
            if Some(entry.owner()) == me {
                break;
            }
        }
        any.map(|(index, entry)| less(index as u32, entry))
    }

    /// Releases a permit that this process has acquired through this handle or a clone of it. Does
    /// nothing if it has none, as in a fork copy of the process.
    pub fn give_back(&self) {
        let notifier = self.object.notifier();
        let guard = self.lock_endlessly();
        if let Some(entry) = self.entry_with_one_less() {
            self.free_one(notifier, guard, entry);
        }
    }

    /// Removes a permit that this process has acquired, so that the semaphore has one less, and the
    /// permit isn't released when the process dies.
    pub fn forget(&self) {
        let notifier = self.object.notifier();
        let _guard = self.lock_endlessly();
        if let Some((index, owner, note)) = self.entry_with_one_less() {
            // Waiters may have waited for this permit.
            self.object.wait_queue.before_change(notifier);
            self.change(
                index,
                owner,
                note,
                self.object.free.load(Relaxed),
                self.object.total.load(Relaxed).saturating_sub(1),
            );
        }
    }

    /// The entry of this process with one permit less: its index, owner and note. `None` if the
    /// process has no permit, as far as known. Must be called with the spin lock held.
    fn entry_with_one_less(&self) -> Option<(u32, u64, u64)> {
        let index = self.object.ledger_index().load(Relaxed);
        let entry = self.ledger().entry(index as usize)?;
        if entry.owner() != me().ok()? {
            return None;
        }
        (entry.note() != 0).then(|| less(index, entry))
    }

    /// Adds `count` permits, regardless of the permits that processes hold.
    ///
    /// # Errors
    /// [`ReleaseError::TooMany`].
    pub fn add(&self, count: usize) -> Result<(), ReleaseError> {
        let notifier = self.object.notifier();
        let guard = self.lock_endlessly();
        let total = self.object.total.load(Relaxed);
        let sum = total.checked_add(count as u64);
        if let Some(bound) = self.object.bound()
            && sum.is_none_or(|sum| sum > bound as u64)
        {
            return Err(ReleaseError::TooMany(bound));
        }
        let sum = sum.filter(|sum| *sum <= MAX_PERMITS as u64).ok_or(ReleaseError::TooMany(MAX_PERMITS))?;
        if count > 0 {
            self.object.wait_queue.before_change(notifier);
            self.change(NO_ENTRY, 0, 0, self.object.free.load(Relaxed).saturating_add(count as u64), sum);
            drop(guard);
            self.object.wait_queue.after_change(u32::try_from(count).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    /// Returns how many permits can be taken. Those of processes that have died without releasing
    /// them count once they are [reclaimed](Semaphore::reclaim), as `acquire` does when it needs
    /// one.
    #[inline]
    pub fn available(&self) -> usize {
        self.object.free.load(Relaxed) as usize
    }

    /// The other processes on the ledger.
    fn holders(&self) -> io::Result<Vec<Identity>> {
        self.ledger().others(|entry| entry.owner() != 0)
    }

    /// Releases the permits of processes that have died. Returns whether there were any.
    ///
    /// # Errors
    /// No `/proc`.
    pub fn reclaim(&self) -> io::Result<bool> {
        Ok(self.give_back_of(&ledger::dead_of(self.holders()?))?)
    }

    fn give_back_of(&self, dead: &[Identity]) -> Result<bool, Stalled> {
        if dead.is_empty() {
            return Ok(false);
        }
        let notifier = self.object.notifier();
        let guard = self.lock()?;
        let mut count = 0_u64;
        for (index, entry) in self.ledger().entries() {
            if Identity::from_bits(entry.owner()).is_some_and(|owner| dead.contains(&owner)) {
                self.object.wait_queue.before_change(notifier);
                let note = entry.note();
                count = count.saturating_add(note);
                if self.object.kind.load(Relaxed) == LOCK {
                    // Before the entry is removed: if this process dies in between, the next one
                    // finds the entry, and does the same again.
                    self.object.poison.store(entry.owner(), Release);
                }
                let free = self.object.free.load(Relaxed).saturating_add(note);
                self.change(index as u32, 0, 0, free, self.object.total.load(Relaxed));
            }
        }
        self.ledger().shorten(|entry| entry.owner() == 0);
        drop(guard);
        self.object.wait_queue.after_change(u32::try_from(count).unwrap_or(u32::MAX));
        Ok(count > 0)
    }
}

/// Waits for a permit.
struct Acquire<'a> {
    semaphore: &'a Semaphore,
    /// How many permits this process has itself.
    mine: u64,
}

impl WaitOp for Acquire<'_> {
    type Outcome = io::Result<()>;

    fn attempt(&mut self) -> Option<io::Result<()>> {
        self.semaphore.take().map(|taken| taken.then_some(())).transpose()
    }

    fn has_stalled(outcome: &io::Result<()>) -> bool {
        outcome.as_ref().is_err_and(|error| Stalled::of(error).is_some())
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let semaphore = self.semaphore;
        let _guard = semaphore.lock()?;
        if semaphore.available() > 0 {
            return Ok(true);
        }
        self.mine = match semaphore.ledger().entry(semaphore.object.ledger_index().load(Relaxed) as usize) {
            Some(entry) if me().is_ok_and(|me| entry.owner() == me) => entry.note(),
            _ => 0,
        };
        arm();
        Ok(false)
    }

    fn watch(&mut self) -> io::Result<Watched> {
        let (watched, dead) = ledger::watch(self.semaphore.holders()?)?;
        self.semaphore.give_back_of(&dead)?;
        Ok(watched)
    }

    fn died(&mut self) -> io::Result<()> {
        self.semaphore.reclaim().map(drop)
    }

    fn depends(&mut self) -> io::Result<bool> {
        Ok(!self.semaphore.holders()?.is_empty())
    }

    fn through(&self) -> ViaHandle<'_> {
        self.semaphore.object.through()
    }

    fn has_others(&mut self, notifier: &Notifier) -> bool {
        self.mine > 0 && notifier.has_others()
    }

    fn has_other_tasks(&mut self) -> bool {
        self.mine > 0
    }

    fn more(&mut self) -> bool {
        self.semaphore.available() > 0
    }
}
