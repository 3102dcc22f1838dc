//! The permits of a semaphore, and how many of them each process has. See `PROTOCOL.md` in this
//! folder, "Semaphore".
//!
//! The numbers change all at once: a record of their new values is written first, and a thread that
//! inherits the spin lock writes them once more.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::Release};
use std::time::{Duration, Instant};

use multiproc_os::identity::Identity;

use crate::lock::spin_lock::{Limit, RobustSpinGuard, RobustSpinLock, Stalled, within};
use crate::memory::object::Object;
use crate::memory::segment::layout;
use crate::sync::ledger::{self, Book, Ledger, me};
use crate::wait::notifier::{Notifier, ViaHandle};
use crate::wait::wait_queue::{WaitFailure, WaitOp, WaitQueue, Watched};

/// The largest number of permits.
pub const MOST: usize = usize::MAX >> 3;

layout! {
    /// The shared part; all zero, it has no permits.
    pub struct Permits: "semaphore", 0x20, ledger::MORE {
        spin_lock: RobustSpinLock,
        wait_queue: WaitQueue,
        /// The largest number of permits that this semaphore may have, plus one; 0: no bound but
        /// [`MOST`].
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
        /// The index of the ledger's entry; [`NOWHERE`] if none changes.
        place: AtomicU32,
        owner: AtomicU64,
        note: AtomicU64,
        free: AtomicU64,
        total: AtomicU64,
    }
}

/// The index of no entry in the ledger.
const NOWHERE: u32 = u32::MAX;

/// Why permits can't be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// There would be more than this bound.
    Bound(usize),
    /// There would be more than [`MOST`].
    Most,
}

impl Permits {
    /// Creates a semaphore with this many permits, and never more than `bound`.
    ///
    /// # Errors
    /// `InvalidInput` for more than [`MOST`]; `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create(permits: usize, bound: Option<usize>) -> io::Result<Object<Permits>> {
        if permits > MOST {
            let error = format!("{permits} permits: there can be at most {MOST}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        let object = Object::<Permits>::create()?;
        object.free.store(permits as u64, Relaxed);
        object.total.store(permits as u64, Relaxed);
        object.bound.store(bound.map_or(0, |bound| bound as u64 + 1), Relaxed);
        Ok(object)
    }

    fn bound(&self) -> Option<usize> {
        self.bound.load(Relaxed).checked_sub(1).map(|bound| bound as usize)
    }
}

impl Object<Permits> {
    fn book(&self) -> Book<'_, Permits> {
        Book { ledger: &self.ledger, segment: self.segment() }
    }

    #[inline]
    fn lock(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        self.spin_lock.lock().map(|guard| self.inherit(guard))
    }

    #[inline]
    fn lock_endlessly(&self) -> RobustSpinGuard<'_> {
        self.inherit(self.spin_lock.lock_endlessly())
    }

    #[inline]
    fn inherit<'a>(&'a self, guard: RobustSpinGuard<'a>) -> RobustSpinGuard<'a> {
        if guard.inherited && self.redo.valid.load(Relaxed) != 0 {
            self.make();
        }
        guard
    }

    /// Changes the entry with index `place`, and the numbers. Must be called with the spin lock
    /// held.
    fn change(&self, place: u32, owner: u64, note: u64, free: u64, total: u64) {
        let redo = &self.redo;
        // Each of these stores, and of those in `make`, comes after the one before: a process that
        // dies leaves the first few of them.
        redo.place.store(place, Release);
        redo.owner.store(owner, Release);
        redo.note.store(note, Release);
        redo.free.store(free, Release);
        redo.total.store(total, Release);
        redo.valid.store(1, Release);
        self.make();
    }

    fn make(&self) {
        let redo = &self.redo;
        if let Some(entry) = self.book().entry(redo.place.load(Relaxed) as usize) {
            entry.owner.store(redo.owner.load(Relaxed), Release);
            entry.note.store(redo.note.load(Relaxed), Release);
        }
        self.free.store(redo.free.load(Relaxed), Release);
        self.total.store(redo.total.load(Relaxed), Release);
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
            if self.free() == 0 {
                return Ok(false);
            }
            let guard = self.lock()?;
            let (free, total) = (self.free.load(Relaxed), self.total.load(Relaxed));
            if free == 0 {
                return Ok(false);
            }
            let book = self.book();
            let hint = self.place().load(Relaxed);
            if let Some(place) = book.find(hint as usize, |entry| entry.owner() == 0 || entry.owner() == me)
                && let Some(entry) = book.entry(place)
            {
                let noted = if entry.owner() == me { entry.note() } else { 0 };
                self.change(place as u32, me, noted.saturating_add(1), free - 1, total);
                self.place().store(place as u32, Relaxed);
                return Ok(true);
            }
            drop(guard);
            let room = book.make_room()?;
            let _guard = self.lock()?;
            book.add_room(room);
        }
    }

    /// Waits for a permit and takes it. Returns false if there was none until the timeout expired.
    ///
    /// # Errors
    /// As [`take`](Object::take); and [`WaitFailure::Alone`].
    pub fn acquire(&self, timeout: Option<Duration>) -> Result<bool, WaitFailure> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        within(deadline.into(), || self.acquire_until(deadline))
    }

    fn acquire_until(&self, deadline: Option<Instant>) -> Result<bool, WaitFailure> {
        if self.take().map_err(WaitFailure::System)? {
            return Ok(true);
        }
        let mut op = Acquire { object: self, mine: 0 };
        match self.wait_queue.wait(self.notifier(), deadline, &mut op) {
            Ok(result) => result.map(|()| true).map_err(WaitFailure::System),
            Err(WaitFailure::Late) => self.try_acquire().map_err(WaitFailure::System),
            Err(vain) => Err(vain),
        }
    }

    /// As [`acquire`](Object::acquire) without a timeout, as a future.
    ///
    /// # Errors
    /// As [`acquire`](Object::acquire).
    #[cfg(feature = "async")]
    pub async fn acquire_async(&self) -> Result<(), WaitFailure> {
        let mut op = Acquire { object: self, mine: 0 };
        self.wait_queue.wait_async(self.notifier(), &mut op).await?.map_err(WaitFailure::System)
    }

    /// Takes a permit if there is one, or if a process that has died had one.
    ///
    /// # Errors
    /// As [`take`](Object::take).
    pub fn try_acquire(&self) -> io::Result<bool> {
        within(Limit::Moment, || Ok(self.take()? || self.count_out()? && self.take()?))
    }

    /// Gives back a permit of this process.
    pub fn give_back(&self) {
        let notifier = self.notifier();
        let guard = self.lock_endlessly();
        let Some((place, owner, note)) = self.one_less() else { return };
        self.wait_queue.before_change(notifier);
        self.change(place, owner, note, self.free.load(Relaxed).saturating_add(1), self.total.load(Relaxed));
        drop(guard);
        self.wait_queue.after_change(1);
    }

    /// Removes a permit of this process from the ledger, so that the semaphore has one less.
    pub fn forget(&self) {
        let notifier = self.notifier();
        let _guard = self.lock_endlessly();
        if let Some((place, owner, note)) = self.one_less() {
            // Waiters may have waited for this permit.
            self.wait_queue.before_change(notifier);
            self.change(place, owner, note, self.free.load(Relaxed), self.total.load(Relaxed).saturating_sub(1));
        }
    }

    /// The entry of this process with one permit less: its index, owner and note. `None` if the
    /// process has no permit, as far as is known. Must be called with the spin lock held.
    fn one_less(&self) -> Option<(u32, u64, u64)> {
        let place = self.place().load(Relaxed);
        let entry = self.book().entry(place as usize)?;
        if entry.owner() != me().ok()? {
            return None;
        }
        match entry.note() {
            0 => None,
            1 => Some((place, 0, 0)),
            note => Some((place, entry.owner(), note - 1)),
        }
    }

    /// Adds permits, without regard to which process had them.
    ///
    /// # Errors
    /// When there would be too many.
    pub fn release(&self, count: usize) -> Result<(), TooMany> {
        let notifier = self.notifier();
        let guard = self.lock_endlessly();
        let total = self.total.load(Relaxed);
        let sum = total.checked_add(count as u64);
        if let Some(bound) = self.bound()
            && sum.is_none_or(|sum| sum > bound as u64)
        {
            return Err(TooMany::Bound(bound));
        }
        let sum = sum.filter(|sum| *sum <= MOST as u64).ok_or(TooMany::Most)?;
        if count > 0 {
            self.wait_queue.before_change(notifier);
            self.change(NOWHERE, 0, 0, self.free.load(Relaxed).saturating_add(count as u64), sum);
            drop(guard);
            self.wait_queue.after_change(u32::try_from(count).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    /// How many permits can be taken.
    #[inline]
    pub fn free(&self) -> usize {
        self.free.load(Relaxed) as usize
    }

    /// The other processes on the ledger.
    fn holders(&self) -> io::Result<Vec<Identity>> {
        self.book().others(|entry| entry.owner() != 0)
    }

    /// Gives back the permits of processes that have died. Returns whether there were any.
    ///
    /// # Errors
    /// No `/proc`.
    pub fn count_out(&self) -> io::Result<bool> {
        Ok(self.give_back_of(&ledger::dead_of(self.holders()?))?)
    }

    fn give_back_of(&self, dead: &[Identity]) -> Result<bool, Stalled> {
        if dead.is_empty() {
            return Ok(false);
        }
        let notifier = self.notifier();
        let guard = self.lock()?;
        let mut count = 0_u64;
        for (place, entry) in self.book().entries() {
            if Identity::from_bits(entry.owner()).is_some_and(|owner| dead.contains(&owner)) {
                self.wait_queue.before_change(notifier);
                let note = entry.note();
                count = count.saturating_add(note);
                let free = self.free.load(Relaxed).saturating_add(note);
                self.change(place as u32, 0, 0, free, self.total.load(Relaxed));
            }
        }
        self.book().shorten(|entry| entry.owner() == 0);
        drop(guard);
        self.wait_queue.after_change(u32::try_from(count).unwrap_or(u32::MAX));
        Ok(count > 0)
    }
}

/// Waits for a permit.
struct Acquire<'a> {
    object: &'a Object<Permits>,
    /// How many permits this process has itself.
    mine: u64,
}

impl WaitOp for Acquire<'_> {
    type Outcome = io::Result<()>;

    fn attempt(&mut self) -> Option<io::Result<()>> {
        self.object.take().map(|taken| taken.then_some(())).transpose()
    }

    fn has_stalled(outcome: &io::Result<()>) -> bool {
        outcome.as_ref().is_err_and(|error| Stalled::of(error).is_some())
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let object = self.object;
        let _guard = object.lock()?;
        if object.free() > 0 {
            return Ok(true);
        }
        self.mine = match object.book().entry(object.place().load(Relaxed) as usize) {
            Some(entry) if me().is_ok_and(|me| entry.owner() == me) => entry.note(),
            _ => 0,
        };
        arm();
        Ok(false)
    }

    fn watch(&mut self) -> io::Result<Watched> {
        let (watched, dead) = ledger::watch(self.object.holders()?)?;
        self.object.give_back_of(&dead)?;
        Ok(watched)
    }

    fn died(&mut self) -> io::Result<()> {
        self.object.count_out().map(drop)
    }

    fn depends(&mut self) -> io::Result<bool> {
        Ok(!self.object.holders()?.is_empty())
    }

    fn through(&self) -> ViaHandle<'_> {
        self.object.through()
    }

    fn has_others(&mut self, notifier: &Notifier) -> bool {
        self.mine > 0 && notifier.has_others()
    }

    fn has_other_tasks(&mut self) -> bool {
        self.mine > 0
    }

    fn more(&mut self) -> bool {
        self.object.free() > 0
    }
}
