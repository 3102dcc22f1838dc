//! [`Array`]: any number of values of one type, shared by several processes.
//!
//! A region in one file, or the whole of a [`SharedMemory`](crate::SharedMemory), as values of a
//! type. See `PROTOCOL.md`, "The lock of a region".

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use multiproc_shm::lock::parts::{MAX_PARTS, Plan};
use multiproc_shm::lock::readers::RwAcquireError;
use multiproc_shm::memory::cell::{Plain, kind_of};
use multiproc_shm::memory::region::{Kind, Region};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::MemoryError;
use super::guard::{ArrayGuard, ArrayReadGuard, Locked, Read, Reading, Tried, TriedRead, Writing};
use super::name::Name;
use super::part::ArrayPart;
use super::travel;
use crate::create_error::CreateError;
use crate::sync::raw_lock::RawLock;
use crate::sync::{LockError, Misuse};

/// Any number of values of one type in shared memory, with a lock: Python's
/// `multiprocessing.Array`.
///
/// [`lock`](Array::lock) gives one thread a `&mut [T]`, [`read`](Array::read) gives several threads
/// a `&[T]` at a time; [`split`](Array::split) and [`chunks`](Array::chunks) give parts for
/// workers, each with a lock of its own. The values are plain old data ([`Plain`]): numbers, arrays
/// of numbers, and structs of these that are [`bytemuck::Pod`]. For values without a lock, see
/// [`RawArray`](crate::shared_memory::RawArray); for one value, [`Value`](crate::Value); for bytes,
/// and memory that grows, has a name or huge pages, [`SharedMemory`](crate::SharedMemory), which
/// can be [viewed as an array](crate::SharedMemory::as_array); for data that doesn't change any
/// more, [`SharedBytes`](crate::SharedBytes).
///
/// A clone is another handle of the same array, and so is what arrives in another process when an
/// array is sent there: as an argument or a result of a process, a field of a [`Run`](crate::Run)
/// value, or inside a message. It takes one descriptor. All of its memory is allocated at creation:
/// a lack of memory is an error of creating it.
///
/// If a holder dies, at any instruction, the lock is released; the next thread acquires it with
/// [`LockError::Poisoned`](crate::sync::LockError::Poisoned), and so do later ones until
/// [`clear_poison`](Array::clear_poison). The values may be half written then; they are still
/// valid, as any bytes are.
///
/// ```
/// use multiproc::{Array, Process};
///
/// fn square(numbers: Array<f64>) -> multiproc::Result<()> {
///     for number in numbers.lock()?.iter_mut() {
///         *number *= *number;
///     }
///     Ok(())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let numbers = Array::from_slice(&[1.0, 2.0, 3.0])?;
/// Process::new(square, (numbers.clone(),)).start()?.join()??;
/// assert_eq!(*numbers.read()?, [1.0, 4.0, 9.0]);
/// # Ok(())
/// # }
/// ```
///
/// With a part for each worker:
///
/// ```
/// use multiproc::shared_memory::ArrayPart;
/// use multiproc::{Array, Process};
///
/// fn fill(part: ArrayPart<u64>) -> multiproc::Result<()> {
///     let first = part.range().start as u64;
///     for (number, value) in (first..).zip(part.lock()?.iter_mut()) {
///         *value = number * number;
///     }
///     Ok(())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let squares = Array::<u64>::new(1000)?;
/// let parts = squares.split(4)?;
/// let children = parts.into_iter().map(|part| Process::new(fill, (part,)).start());
/// for child in children.collect::<Result<Vec<_>, _>>()? {
///     child.join()??;
/// }
/// assert_eq!(squares.get(999)?, Some(998_001));
/// # Ok(())
/// # }
/// ```
///
/// While a thread waits for the whole array, no other gets in, neither readers nor workers with
/// parts; those that are in finish. All processes that use an array must be in the same PID
/// namespace.
pub struct Array<T: Plain> {
    inner: Arc<Region>,
    /// The name, if this is shared memory that has one: it exists as long as any of this process's
    /// handles.
    name: Option<Arc<Name>>,
    of: PhantomData<fn() -> T>,
}

impl<T: Plain> Array<T> {
    /// Creates an array of `len` values with all their bytes zero.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn new(len: usize) -> Result<Array<T>, CreateError> {
        let bytes = len.checked_mul(size_of::<T>()).map_or(u64::MAX, |bytes| bytes as u64);
        let region = Region::create(bytes, kind_of::<T>()).map_err(CreateError::of("array"))?;
        Ok(Array::of(Arc::new(region), None))
    }

    /// Creates an array with these values.
    ///
    /// # Errors
    /// As for [`new`](Array::new).
    pub fn from_slice(values: &[T]) -> Result<Array<T>, MemoryError> {
        let array = Array::new(values.len())?;
        array.lock().or_else(LockError::into_guard)?.copy_from_slice(values);
        Ok(array)
    }

    /// Creates an array of `len` values, each computed from its index.
    ///
    /// ```
    /// use multiproc::Array;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let evens = Array::from_fn(10, |index| 2 * index as u32)?;
    /// assert_eq!(evens.get(9)?, Some(18));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`new`](Array::new).
    pub fn from_fn(len: usize, mut value: impl FnMut(usize) -> T) -> Result<Array<T>, MemoryError> {
        let array = Array::new(len)?;
        for (index, slot) in array.lock().or_else(LockError::into_guard)?.iter_mut().enumerate() {
            *slot = value(index);
        }
        Ok(array)
    }

    pub(super) fn of(inner: Arc<Region>, name: Option<Arc<Name>>) -> Array<T> {
        const { assert!(size_of::<T>() > 0, "zero-sized values cannot be shared") };
        Array { inner, name, of: PhantomData }
    }

    pub(super) fn name(&self) -> Option<&Arc<Name>> {
        self.name.as_ref()
    }

    pub(super) fn region(&self) -> &Arc<Region> {
        &self.inner
    }

    pub(super) fn into_parts(self) -> (Arc<Region>, Option<Arc<Name>>) {
        (self.inner, self.name)
    }

    /// Checks that a region of this kind may be used as values of this type.
    pub(super) fn fits(kind: Kind) -> Result<(), MemoryError> {
        match kind == [0; 3] || kind == kind_of::<T>() {
            true => Ok(()),
            false => Err(MemoryError::Type { asked: type_name::<T>() }),
        }
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.inner.len() / size_of::<T>()
    }

    /// Returns whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Locks the whole array, waiting until no thread holds, reads or has a part of it, and holds
    /// it until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`](crate::sync::LockError::Poisoned), with the guard, if a thread has
    /// died or panicked while holding the array or a part of it;
    /// [`LockError::Misuse`](crate::sync::LockError::Misuse) if the calling thread reads or holds
    /// the array or a part of it already, or holds 1024 locks; or if this is shared memory that is
    /// used as atomics.
    #[inline]
    pub fn lock(&self) -> Locked<'_, T> {
        Writing(&self.inner).lock_with(|()| ArrayGuard::new(&self.inner))
    }

    /// Locks the whole array if no thread holds, reads or has a part of it; returns `None` if a
    /// thread does, is about to, or is just checking whether it can.
    ///
    /// # Errors
    /// As for [`lock`](Array::lock).
    pub fn try_lock(&self) -> Tried<'_, T> {
        Writing(&self.inner).try_lock_with(|()| ArrayGuard::new(&self.inner))
    }

    /// Locks the whole array, waiting for at most `timeout`; returns `None` if it isn't acquired in
    /// that time.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::Array;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let array = Array::from_slice(&[1, 2, 3])?;
    /// if let Some(mut numbers) = array.lock_timeout(Duration::from_millis(10))? {
    ///     numbers.reverse();
    /// }
    /// assert_eq!(array.to_vec()?, [3, 2, 1]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`lock`](Array::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> Tried<'_, T> {
        Writing(&self.inner).lock_timeout_with(timeout, |()| ArrayGuard::new(&self.inner))
    }

    /// Locks the array for reading, waiting until no thread holds it or a part of it, and reads
    /// until the guard is dropped. At most 4096 threads can read at the same time.
    ///
    /// # Errors
    /// As for [`lock`](Array::lock); but a thread that reads already may read again, through the
    /// same handle or a clone of it.
    #[inline]
    pub fn read(&self) -> Read<'_, T> {
        Reading(&self.inner).lock_with(|slot| ArrayReadGuard::new(&self.inner, slot))
    }

    /// Locks the array for reading if no thread holds it or a part of it; returns `None` if a
    /// thread does, is about to, or is just checking whether it can.
    ///
    /// # Errors
    /// As for [`read`](Array::read).
    pub fn try_read(&self) -> TriedRead<'_, T> {
        Reading(&self.inner).try_lock_with(|slot| ArrayReadGuard::new(&self.inner, slot))
    }

    /// Locks the array for reading, waiting for at most `timeout`; returns `None` if it isn't
    /// acquired in that time.
    ///
    /// # Errors
    /// As for [`read`](Array::read).
    pub fn read_timeout(&self, timeout: Duration) -> TriedRead<'_, T> {
        Reading(&self.inner).lock_timeout_with(timeout, |slot| ArrayReadGuard::new(&self.inner, slot))
    }

    /// Returns a copy of the value at `index`; `None` if that is out of bounds.
    ///
    /// # Errors
    /// As for [`read`](Array::read).
    pub fn get(&self, index: usize) -> Result<Option<T>, LockError<()>> {
        self.read().map(|guard| guard.get(index).copied()).map_err(LockError::without_guard)
    }

    /// Replaces the value at `index`, and returns the previous one; `None`, with nothing
    /// changed, if the index is out of bounds.
    ///
    /// # Errors
    /// As for [`lock`](Array::lock). Nothing is changed then.
    pub fn set(&self, index: usize, value: T) -> Result<Option<T>, LockError<()>> {
        let put = |mut guard: ArrayGuard<'_, T>| guard.get_mut(index).map(|slot| std::mem::replace(slot, value));
        self.lock().map(put).map_err(LockError::without_guard)
    }

    /// Returns a copy of all values.
    ///
    /// # Errors
    /// As for [`read`](Array::read).
    pub fn to_vec(&self) -> Result<Vec<T>, LockError<()>> {
        self.read().map(|guard| guard.to_vec()).map_err(LockError::without_guard)
    }

    /// Maps all pages now, instead of each at its first access. That is more than twice as fast if
    /// the whole array is about to be written. If it is about to be read, it saves no time, and it
    /// costs much more if only some of it is read.
    pub fn prefault(&self) {
        self.inner.populate(0..self.inner.len());
    }

    /// Divides the array into this number of parts, which differ in length by at most one value;
    /// each can be held by another process at the same time.
    ///
    /// The division stays, for all processes that have the array. Dividing it in the same way again
    /// gives the same parts. Dividing it differently waits until no thread holds, reads or has a
    /// part of it; handles of the old parts can't be locked any more ([`Misuse::Divided`]).
    ///
    /// # Errors
    /// [`MemoryError::Parts`] unless `parts` is 1 to 4096; [`MemoryError::Lock`] as for
    /// [`lock`](Array::lock); `ENOSPC`, `ENOMEM`.
    pub fn split(&self, parts: usize) -> Result<Vec<ArrayPart<T>>, MemoryError> {
        self.divide(parts, 0)
    }

    /// Divides the array into parts of `len` values, the last of which may be shorter: the rows of
    /// an image, for example. Otherwise as [`split`](Array::split).
    ///
    /// ```
    /// use multiproc::Array;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let image = Array::<[u8; 3]>::new(640 * 480)?;
    /// let rows = image.chunks(640)?;
    /// assert_eq!((rows.len(), rows[1].range()), (480, 640..1280));
    /// rows[1].lock()?.fill([255, 0, 0]);
    /// assert_eq!(image.get(640)?, Some([255, 0, 0]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`split`](Array::split). An array without values has no parts.
    pub fn chunks(&self, len: usize) -> Result<Vec<ArrayPart<T>>, MemoryError> {
        let values = self.len();
        if values == 0 {
            return Ok(Vec::new());
        }
        let count = values.checked_div(len).map_or(0, |_| values.div_ceil(len));
        self.divide(count, len.min(values) * size_of::<T>())
    }

    fn divide(&self, count: usize, each: usize) -> Result<Vec<ArrayPart<T>>, MemoryError> {
        if !(1..=MAX_PARTS).contains(&count) {
            return Err(MemoryError::Parts { asked: count });
        }
        let (unit, all) = (size_of::<T>() as u64, self.len() * size_of::<T>());
        let plan = Plan { count: count as u32, each: each as u64, all: all as u64, unit };
        let version = self.inner.divide(&plan).map_err(|error| match error {
            RwAcquireError::TooManyReaders => {
                MemoryError::Io { what: "divide the memory", source: std::io::ErrorKind::OutOfMemory.into() }
            }
            error => Misuse::of(error, self.inner.name()).expect("endless waits don't time out").into(),
        })?;
        Ok((0..count as u32).map(|index| ArrayPart::of(self.clone(), index, version, &plan)).collect())
    }

    /// Returns whether a thread holds the whole array for writing at this moment, or waits for
    /// that.
    pub fn is_locked(&self) -> bool {
        self.inner.lock().is_written()
    }

    /// Returns how many threads read the array at this moment, including those that are just
    /// checking whether they can.
    pub fn readers(&self) -> usize {
        self.inner.lock().readers()
    }

    /// Returns whether a thread has died or panicked while holding the array or a part of it. A
    /// holder's death is noticed by the next thread that locks the same.
    pub fn is_poisoned(&self) -> bool {
        Writing(&self.inner).has_poison()
    }

    /// Clears the poison of the array and all its parts, once the values have been put right:
    /// locking no longer gives an error.
    pub fn clear_poison(&self) {
        self.inner.lock().clear_poison(None);
    }
}

impl<T: Plain> Clone for Array<T> {
    fn clone(&self) -> Array<T> {
        Array::of(self.inner.clone(), self.name.clone())
    }
}

/// Shows the length and the state of the lock; not the values, of which there may be many.
impl<T: Plain> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array")
            .field("of", &type_name::<T>())
            .field("len", &self.len())
            .field("locked", &self.is_locked())
            .field("poisoned", &self.is_poisoned())
            .finish()
    }
}

impl<T: Plain> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        travel::serialize(&self.inner, serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Array<T>, D::Error> {
        let region = travel::deserialize_to_write(deserializer)?;
        Array::<T>::fits(region.kind()).map_err(serde::de::Error::custom)?;
        Ok(Array::of(Arc::new(region), None))
    }
}
