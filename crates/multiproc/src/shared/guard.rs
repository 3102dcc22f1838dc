//! What a thread holds that reads or writes a region under its lock: [`ArrayReadGuard`] and [`ArrayGuard`].

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use crate::shm::cell::Plain;
use crate::shm::readers::Denial;
use crate::shm::region::{Region, Usage};
use crate::shm::robust_word::Patience;
use crate::sync::guard_state::GuardState;
use crate::sync::{LockError, Misuse, Poisoned};

/// What reading gives if it is waited for as long as it takes.
pub(super) type Read<'a, T> = Result<ArrayReadGuard<'a, T>, LockError<ArrayReadGuard<'a, T>>>;

/// What it gives otherwise.
pub(super) type TriedRead<'a, T> = Result<Option<ArrayReadGuard<'a, T>>, LockError<ArrayReadGuard<'a, T>>>;

/// What locking gives if it is waited for as long as it takes.
pub(super) type Locked<'a, T> = Result<ArrayGuard<'a, T>, LockError<ArrayGuard<'a, T>>>;

/// What it gives otherwise.
pub(super) type Tried<'a, T> = Result<Option<ArrayGuard<'a, T>>, LockError<ArrayGuard<'a, T>>>;

/// Values in a region: where they begin, and how many they are.
#[derive(Debug)]
struct Values<T> {
    first: *const T,
    count: usize,
}

// SAFETY: an address; who reads or writes there sees to what that needs.
unsafe impl<T: Plain> Send for Values<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Values<T> {}

impl<T: Plain> Values<T> {
    const SIZE: usize = {
        assert!(size_of::<T>() > 0, "values without bytes need no memory to share");
        assert!(align_of::<T>() <= 4096, "memory is aligned to pages, and no more");
        size_of::<T>()
    };

    /// Those whose bytes are there, as far as the region goes.
    #[inline]
    fn of(region: &Region, bytes: Range<usize>) -> Values<T> {
        let places = whole_values::<T>(&(bytes.start..bytes.end.min(region.len())));
        // SAFETY: within the region's mapping, which is as long at least, and aligned: it begins with a page.
        let first = unsafe { region.start().as_ptr().cast::<T>().add(places.start) };
        Values { first, count: places.len() }
    }
}

/// The places of the values of which all bytes are among these: a part may have been made as one of values of another type.
#[inline]
pub(super) fn whole_values<T: Plain>(bytes: &Range<usize>) -> Range<usize> {
    let end = bytes.end / Values::<T>::SIZE;
    bytes.start.div_ceil(Values::<T>::SIZE).min(end)..end
}

/// Begins to read all of it; none if the patience has come to its end.
#[inline]
pub(super) fn read<T: Plain>(region: &Region, patience: Patience) -> TriedRead<'_, T> {
    let Some(slot) = allowed(region, || region.lock().read(patience))? else { return Ok(None) };
    let guard = ArrayReadGuard { region, slot, values: Values::of(region, 0..usize::MAX), state: GuardState::new() };
    told(region, None, guard).map(Some)
}

/// Has all of it to oneself.
#[inline]
pub(super) fn lock<T: Plain>(region: &Region, patience: Patience) -> Tried<'_, T> {
    let Some(()) = allowed(region, || region.lock().write(patience))? else { return Ok(None) };
    told(region, None, guard(region, None, 0..usize::MAX)).map(Some)
}

/// Has a part of it to oneself: that of this index, in the division of this number, which is there.
#[inline]
pub(super) fn lock_part<T: Plain>(
    region: &Region,
    index: usize,
    version: u32,
    bytes: Range<usize>,
    patience: Patience,
) -> Tried<'_, T> {
    let Some(()) = allowed(region, || region.lock().lock_part(index, version, patience))? else { return Ok(None) };
    told(region, Some(index), guard(region, Some(index), bytes)).map(Some)
}

#[inline]
fn guard<T: Plain>(region: &Region, part: Option<usize>, bytes: Range<usize>) -> ArrayGuard<'_, T> {
    let values = Values::of(region, bytes);
    ArrayGuard { region, part, values, state: GuardState::new(), unique: PhantomData }
}

/// What the lock says to this, if it is used; none if that is only that others hold it.
#[inline]
fn allowed<R>(region: &Region, take: impl FnOnce() -> Result<R, Denial>) -> Result<Option<R>, Misuse> {
    if region.use_as(Usage::Locked).is_err() {
        return Err(Misuse::Atomics(region.name()));
    }
    Misuse::unless_busy(take(), region.name())
}

/// The guard of what has just been taken; in an error, if somebody has come to grief with it.
#[inline]
fn told<G>(region: &Region, part: Option<usize>, guard: G) -> Result<G, LockError<G>> {
    match region.lock().poison_of(part).and_then(|poisonable| poisonable.poison()) {
        None => Ok(guard),
        Some(poison) => Err(LockError::Poisoned(Poisoned::new(guard, region.name(), poison))),
    }
}

/// One who reads an [`Array`](crate::Array), or [`SharedMemory`](crate::SharedMemory), until this is dropped: a slice of its values.
///
/// In a copy of this process, made by fork, it is not the copy that reads: using its copy of the guard is a panic, and dropping that does nothing.
#[must_use = "the lock is given up when this is dropped"]
pub struct ArrayReadGuard<'a, T: Plain> {
    region: &'a Region,
    slot: usize,
    values: Values<T>,
    state: GuardState,
}

impl<T: Plain> Deref for ArrayReadGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.state.mark_borrowed();
        // SAFETY: as long as this guard's slot is taken nobody writes, and this guard is borrowed; the values are in the region's mapping, and any bytes
        // are such.
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

/// The one who has an [`Array`](crate::Array), [`SharedMemory`](crate::SharedMemory) or [a part](crate::ArrayPart) of it to itself, until this is dropped: a slice of its values,
/// to be changed.
///
/// In a copy of this process, made by fork, it is not the copy's: using its copy of the guard is a panic, and dropping that does nothing. A slice that it has
/// given can't be taken along: [`Process::fork`](crate::Process::fork) is refused then. Don't let a guard be forgotten whose slice is still used: it ends with its thread.
#[must_use = "the lock is given up when this is dropped"]
pub struct ArrayGuard<'a, T: Plain> {
    region: &'a Region,
    part: Option<usize>,
    values: Values<T>,
    state: GuardState,
    unique: PhantomData<&'a mut [T]>,
}

impl<T: Plain> ArrayGuard<'_, T> {
    /// Says that what is held is in order again: who locks it from now on gets no error. The guard of a part says so of that part, and not of what befell the whole.
    pub fn clear_poison(&self) {
        self.region.lock().clear_poison(self.part);
    }
}

impl<T: Plain> Deref for ArrayGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.state.mark_borrowed();
        // SAFETY: nobody else has these values as long as this guard is there, and it is borrowed; they are in the region's mapping, and any bytes are such.
        unsafe { std::slice::from_raw_parts(self.values.first, self.values.count) }
    }
}

impl<T: Plain> DerefMut for ArrayGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        self.state.mark_borrowed();
        // SAFETY: as above, and it is borrowed to be changed; there is no such guard of what can only be read.
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
