//! The guards of a region's lock: [`ArrayReadGuard`] and [`ArrayGuard`].

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use multiproc_shm::lock::readers::RwAcquireError;
use multiproc_shm::lock::robust_word::{Holder, Poison, PoisonableWord};
use multiproc_shm::memory::cell::Plain;
use multiproc_shm::memory::region::{Region, Usage};
use multiproc_shm::wait::deadline::Deadline;

use crate::sync::guard_state::GuardState;
use crate::sync::raw_lock::{self, RawLock};
use crate::sync::{LockError, Misuse};

/// The result of reading without a time limit.
pub(super) type Read<'a, T> = Result<ArrayReadGuard<'a, T>, LockError<ArrayReadGuard<'a, T>>>;

/// The result of trying to read, or of reading with a timeout.
pub(super) type TriedRead<'a, T> = raw_lock::Tried<ArrayReadGuard<'a, T>>;

/// The result of locking without a time limit.
pub(super) type Locked<'a, T> = Result<ArrayGuard<'a, T>, LockError<ArrayGuard<'a, T>>>;

/// The result of trying to lock, or of locking with a timeout.
pub(super) type Tried<'a, T> = raw_lock::Tried<ArrayGuard<'a, T>>;

/// Values in a region: the address of the first, and their number.
#[derive(Debug)]
struct Values<T> {
    first: *const T,
    count: usize,
}

// SAFETY: this is an address only; the code that reads or writes through it takes care of
// synchronization.
unsafe impl<T: Plain> Send for Values<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Values<T> {}

impl<T: Plain> Values<T> {
    const SIZE: usize = {
        assert!(size_of::<T>() > 0, "zero-sized values cannot be shared");
        assert!(align_of::<T>() <= 4096, "values can be aligned to at most 4096 bytes");
        size_of::<T>()
    };

    /// The values in this range of indices, as far as the region has bytes for them.
    #[inline]
    fn of(region: &Region, bytes: Range<usize>) -> Values<T> {
        let places = whole_values::<T>(&(bytes.start..bytes.end.min(region.len())));
        // SAFETY: the address is within the region's mapping, which is at least that long, and
        // aligned, since the mapping begins with a page.
        let first = unsafe { region.start().as_ptr().cast::<T>().add(places.start) };
        Values { first, count: places.len() }
    }
}

/// The indices of the values that lie in this range of bytes as a whole: a part may have been made
/// for values of another type.
#[inline]
pub(super) fn whole_values<T: Plain>(bytes: &Range<usize>) -> Range<usize> {
    let end = bytes.end / Values::<T>::SIZE;
    bytes.start.div_ceil(Values::<T>::SIZE).min(end)..end
}

/// The lock of a region, for reading all of it.
pub(super) struct Reading<'a>(pub(super) &'a Region);

/// The lock of a region, for writing all of it.
pub(super) struct Writing<'a>(pub(super) &'a Region);

/// The lock of a part of a region: the part with this index, in the division with this version.
pub(super) struct WritingPart<'a> {
    pub(super) region: &'a Region,
    pub(super) index: usize,
    pub(super) version: u32,
}

impl RawLock for Reading<'_> {
    /// The reader's slot.
    type Hold = usize;

    #[inline]
    fn name(&self) -> &'static str {
        self.0.name()
    }

    #[inline]
    fn acquire(&self, deadline: Deadline) -> Result<Option<usize>, Misuse> {
        allowed(self.0, || self.0.lock().read(deadline))
    }

    #[inline]
    fn poison(&self) -> Option<(Poison, Option<Holder>)> {
        poison_of(self.0, None)
    }
}

impl RawLock for Writing<'_> {
    type Hold = ();

    #[inline]
    fn name(&self) -> &'static str {
        self.0.name()
    }

    #[inline]
    fn acquire(&self, deadline: Deadline) -> Result<Option<()>, Misuse> {
        allowed(self.0, || self.0.lock().write(deadline))
    }

    #[inline]
    fn poison(&self) -> Option<(Poison, Option<Holder>)> {
        poison_of(self.0, None)
    }
}

impl RawLock for WritingPart<'_> {
    type Hold = ();

    #[inline]
    fn name(&self) -> &'static str {
        self.region.name()
    }

    #[inline]
    fn acquire(&self, deadline: Deadline) -> Result<Option<()>, Misuse> {
        allowed(self.region, || self.region.lock().lock_part(self.index, self.version, deadline))
    }

    #[inline]
    fn poison(&self) -> Option<(Poison, Option<Holder>)> {
        poison_of(self.region, Some(self.index))
    }
}

/// Converts the lock's error; `None` if others hold the lock.
#[inline]
fn allowed<R>(region: &Region, take: impl FnOnce() -> Result<R, RwAcquireError>) -> Result<Option<R>, Misuse> {
    if region.use_as(Usage::Locked).is_err() {
        return Err(Misuse::Atomics(region.name()));
    }
    Misuse::unless_busy(take(), region.name())
}

/// The poison of a part, or of the whole region; that of the whole counts for each part.
#[inline]
fn poison_of(region: &Region, part: Option<usize>) -> Option<(Poison, Option<Holder>)> {
    region.lock().poison_of(part).and_then(PoisonableWord::poison)
}

/// The guard of an [`Array`](crate::Array) or [`SharedMemory`](crate::SharedMemory) that is locked
/// for reading: a slice of its values. Dropping it releases the lock.
///
/// In a fork copy of this process, it is still the original that reads: accessing the values
/// through the copy's guard panics, and dropping that guard does nothing.
#[must_use = "the lock is given up when this is dropped"]
pub struct ArrayReadGuard<'a, T: Plain> {
    region: &'a Region,
    slot: usize,
    values: Values<T>,
    state: GuardState,
}

impl<'a, T: Plain> ArrayReadGuard<'a, T> {
    #[inline]
    pub(super) fn new(region: &'a Region, slot: usize) -> ArrayReadGuard<'a, T> {
        ArrayReadGuard { region, slot, values: Values::of(region, 0..usize::MAX), state: GuardState::new() }
    }
}

impl<T: Plain> Deref for ArrayReadGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.state.mark_borrowed();
        // SAFETY: no thread writes as long as this guard's slot is taken, and the slice borrows
        // this guard; the values lie in the region's mapping, and any bytes are valid values.
        unsafe { std::slice::from_raw_parts(self.values.first, self.values.count) }
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for ArrayReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain> Drop for ArrayReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.region.lock().end_reading(self.slot);
    }
}

/// The guard of an [`Array`](crate::Array), [`SharedMemory`](crate::SharedMemory) or a
/// [part](crate::shared_memory::ArrayPart) of it that is locked for writing: a mutable slice of its
/// values. Dropping it releases the lock.
///
/// In a fork copy of this process, the lock is still held by the original: accessing the values
/// through the copy's guard panics, and dropping that guard does nothing. A slice can't be taken
/// into a copy: [`Process::fork`](crate::Process::fork) is refused while one is borrowed. Don't
/// [forget](std::mem::forget) a guard while its slice is still in use: the guard's hold on the lock
/// ends with the thread.
#[must_use = "the lock is given up when this is dropped"]
pub struct ArrayGuard<'a, T: Plain> {
    region: &'a Region,
    part: Option<usize>,
    values: Values<T>,
    state: GuardState,
    unique: PhantomData<&'a mut [T]>,
}

impl<'a, T: Plain> ArrayGuard<'a, T> {
    /// The guard of the whole region.
    #[inline]
    pub(super) fn new(region: &'a Region) -> ArrayGuard<'a, T> {
        ArrayGuard::of(region, None, 0..usize::MAX)
    }

    /// The guard of the part with this index, which lies in this range of bytes.
    #[inline]
    pub(super) fn of_part(region: &'a Region, index: usize, bytes: Range<usize>) -> ArrayGuard<'a, T> {
        ArrayGuard::of(region, Some(index), bytes)
    }

    #[inline]
    fn of(region: &'a Region, part: Option<usize>, bytes: Range<usize>) -> ArrayGuard<'a, T> {
        let values = Values::of(region, bytes);
        ArrayGuard { region, part, values, state: GuardState::new(), unique: PhantomData }
    }

    /// Clears the poison, once what the guard holds has been put right: locking no longer gives an
    /// error. The guard of a part clears that of the part, not that of the whole.
    pub fn clear_poison(&self) {
        self.region.lock().clear_poison(self.part);
    }
}

impl<T: Plain> Deref for ArrayGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.state.mark_borrowed();
        // SAFETY: no other thread accesses these values as long as this guard exists, and the slice
        // borrows it; they lie in the region's mapping, and any bytes are valid values.
        unsafe { std::slice::from_raw_parts(self.values.first, self.values.count) }
    }
}

impl<T: Plain> DerefMut for ArrayGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.state.mark_borrowed();
        // SAFETY: as above, and the slice borrows the guard mutably; there is no such guard of
        // memory that can only be read.
        unsafe { std::slice::from_raw_parts_mut(self.values.first.cast_mut(), self.values.count) }
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for ArrayGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain> Drop for ArrayGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let lock = self.region.lock();
        match self.part {
            None => {
                self.state.end(lock.turnstile());
                lock.end_writing();
            }
            Some(index) => {
                if let Some(poisonable) = lock.part(index) {
                    self.state.end(poisonable);
                }
                lock.end_part(index);
            }
        }
    }
}
