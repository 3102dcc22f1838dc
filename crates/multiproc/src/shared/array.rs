//! [`Array`]: any number of values of one type, for several processes.
//!
//! A region of one file, or the whole of a [`SharedMemory`](crate::SharedMemory), as values of a type. `PROTOCOL.md`, "The lock of a region".

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::MemoryError;
use super::guard::{self, Locked, Read, Tried, TriedRead};
use super::memory::Name;
use super::part::ArrayPart;
use super::travel;
use crate::error::{Error, Result};
use crate::shm::cell::{Plain, kind_of};
use crate::shm::parts::{MOST_PARTS, Plan};
use crate::shm::readers::Denial;
use crate::shm::region::{Kind, Region};
use crate::shm::robust_word::Patience;
use crate::sync::Misuse;
use crate::sync::error::not_made;

/// Any number of values of one type in shared memory, with a lock: Python's `multiprocessing.Array`.
///
/// [`lock`](Array::lock) gives a `&mut [T]`, [`read`](Array::read) a `&[T]`, to several at a time; [`split`](Array::split) and [`chunks`](Array::chunks) give parts for
/// workers, each with a lock of its own. The values are plain old data ([`Plain`]): numbers, arrays of numbers, structs of such that are [`bytemuck::Pod`]. To do
/// without a lock, see [`RawArray`](crate::RawArray); for one value, [`Value`](crate::Value); for bytes, for memory that grows, has a name or huge pages,
/// [`SharedMemory`](crate::SharedMemory), which [can be taken](crate::SharedMemory::as_array) for an array; for what nobody changes any more, [`SharedBytes`](crate::SharedBytes).
///
/// A clone is another handle of the same array, and so is what arrives where one was sent to: as an argument or a result of a process, a field of a
/// [`Run`](crate::Run) value, or inside a message. It costs one descriptor. All of its memory is there from the beginning: if there isn't enough, that is an error of making it.
///
/// Whoever dies while holding it, at whatever instruction, gives it up; the next one has it, and is told ([`LockError::Poisoned`](crate::sync::LockError::Poisoned)), until
/// [`clear_poison`](Array::clear_poison). The values may be half written then; any bytes are values.
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
/// Each worker has a part:
///
/// ```
/// use multiproc::{Array, ArrayPart, Process};
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
/// A thread that waits to have the whole lets nobody else in, neither readers nor workers with parts; those that are in finish. All processes that use it must be of the same
/// PID namespace.
pub struct Array<T: Plain> {
    inner: Arc<Region>,
    /// If it is shared memory that has one: it is there as long as any of this process's handles.
    name: Option<Arc<Name>>,
    of: PhantomData<fn() -> T>,
}

impl<T: Plain> Array<T> {
    /// A new one of `len` values, whose bytes are all zero.
    ///
    /// # Errors
    /// [`Error::Make`]: no descriptor or no memory is left.
    pub fn new(len: usize) -> Result<Array<T>> {
        let bytes = len.checked_mul(size_of::<T>()).map_or(u64::MAX, |bytes| bytes as u64);
        let region = Region::create(bytes, kind_of::<T>()).map_err(not_made("array"))?;
        Ok(Array::of(Arc::new(region), None))
    }

    /// A new one, with these values.
    ///
    /// # Errors
    /// As [`new`](Array::new).
    pub fn from_slice(values: &[T]) -> Result<Array<T>> {
        let array = Array::new(values.len())?;
        array.lock()?.copy_from_slice(values);
        Ok(array)
    }

    /// A new one of `len` values, each made of its place.
    ///
    /// ```
    /// use multiproc::Array;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let evens = Array::from_fn(10, |place| 2 * place as u32)?;
    /// assert_eq!(evens.get(9)?, Some(18));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`new`](Array::new).
    pub fn from_fn(len: usize, mut value: impl FnMut(usize) -> T) -> Result<Array<T>> {
        let array = Array::new(len)?;
        for (place, slot) in array.lock()?.iter_mut().enumerate() {
            *slot = value(place);
        }
        Ok(array)
    }

    pub(super) fn of(inner: Arc<Region>, name: Option<Arc<Name>>) -> Array<T> {
        const { assert!(size_of::<T>() > 0, "values without bytes need no memory to share") };
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

    /// Whether a region of this kind may be taken for such values.
    pub(super) fn fits(kind: Kind) -> Result<(), MemoryError> {
        match kind == [0; 3] || kind == kind_of::<T>() {
            true => Ok(()),
            false => Err(MemoryError::Type { asked: type_name::<T>() }),
        }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.inner.len() / size_of::<T>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until nobody reads it or has a part of it, and has it until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`](crate::sync::LockError::Poisoned), with the guard, if somebody has died or panicked while holding it or a part of it;
    /// [`LockError::Misuse`](crate::sync::LockError::Misuse) if the calling thread reads it or has it or a part of it already, or holds 1024 locks; or if it is shared memory that is used as atomics.
    #[inline]
    pub fn lock(&self) -> Locked<'_, T> {
        guard::lock(&self.inner, Patience::Endless).map(|guard| guard.expect("nobody waits for ever in vain"))
    }

    /// Has it if nobody reads it, or has it or a part of it; `None` if somebody does, or is about to, or is looking whether somebody does.
    ///
    /// # Errors
    /// As [`lock`](Array::lock).
    pub fn try_lock(&self) -> Tried<'_, T> {
        guard::lock(&self.inner, Patience::None)
    }

    /// As [`lock`](Array::lock), waiting for at most `timeout`; `None` when that is over.
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
    /// As [`lock`](Array::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> Tried<'_, T> {
        guard::lock(&self.inner, Patience::lasting(timeout))
    }

    /// Waits until nobody has it or a part of it, and reads until the guard is dropped. Others may read at the same time; 4096 at most.
    ///
    /// # Errors
    /// As [`lock`](Array::lock); but reading in a thread that reads, through the same handle or a clone of that, is none.
    #[inline]
    pub fn read(&self) -> Read<'_, T> {
        guard::read(&self.inner, Patience::Endless).map(|guard| guard.expect("nobody waits for ever in vain"))
    }

    /// Reads if nobody has it or a part of it; `None` if somebody has, or is about to, or is looking whether somebody has.
    ///
    /// # Errors
    /// As [`read`](Array::read).
    pub fn try_read(&self) -> TriedRead<'_, T> {
        guard::read(&self.inner, Patience::None)
    }

    /// As [`read`](Array::read), waiting for at most `timeout`; `None` when that is over.
    ///
    /// # Errors
    /// As [`read`](Array::read).
    pub fn read_timeout(&self, timeout: Duration) -> TriedRead<'_, T> {
        guard::read(&self.inner, Patience::lasting(timeout))
    }

    /// A copy of the value at `place`; `None` if there is no such place.
    ///
    /// # Errors
    /// As [`read`](Array::read).
    pub fn get(&self, place: usize) -> Result<Option<T>> {
        Ok(self.read()?.get(place).copied())
    }

    /// Puts `value` at `place`, and gives what was there; `None`, and nothing is changed, if there is no such place.
    ///
    /// # Errors
    /// As [`lock`](Array::lock). Then nothing is changed.
    pub fn set(&self, place: usize, value: T) -> Result<Option<T>> {
        Ok(self.lock()?.get_mut(place).map(|slot| std::mem::replace(slot, value)))
    }

    /// A copy of all values.
    ///
    /// # Errors
    /// As [`read`](Array::read).
    pub fn to_vec(&self) -> Result<Vec<T>> {
        Ok(self.read()?.to_vec())
    }

    /// Maps all of its pages now, and not when they are touched: more than twice as quick if all of it is about to be written. If it is about to be read that takes no
    /// less, and much more if only some of it is.
    pub fn prefault(&self) {
        self.inner.populate(0..self.inner.len());
    }

    /// Divides it into so many parts, which differ in length by one value at most; each can be held by another process at the same time.
    ///
    /// It stays divided so, for all who have it. Dividing it in the same way again gives the same parts. Dividing it otherwise waits until nobody reads it or has a
    /// part of it, and whoever has handles of the old parts can't lock these any more ([`Misuse::Divided`]).
    ///
    /// # Errors
    /// [`MemoryError::Parts`] unless there are 1 to 4096; [`MemoryError::Lock`] as for [`lock`](Array::lock); `ENOSPC`, `ENOMEM`.
    pub fn split(&self, parts: usize) -> Result<Vec<ArrayPart<T>>, MemoryError> {
        self.divide(parts, 0)
    }

    /// Divides it into parts of `len` values, the last of which may be shorter: the rows of an image, say. Otherwise as [`split`](Array::split).
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
    /// As [`split`](Array::split). An array without values has no parts.
    pub fn chunks(&self, len: usize) -> Result<Vec<ArrayPart<T>>, MemoryError> {
        let values = self.len();
        if values == 0 {
            return Ok(Vec::new());
        }
        let count = values.checked_div(len).map_or(0, |_| values.div_ceil(len));
        self.divide(count, len.min(values) * size_of::<T>())
    }

    fn divide(&self, count: usize, each: usize) -> Result<Vec<ArrayPart<T>>, MemoryError> {
        if !(1..=MOST_PARTS).contains(&count) {
            return Err(MemoryError::Parts { asked: count });
        }
        let (unit, all) = (size_of::<T>() as u64, self.len() * size_of::<T>());
        let plan = Plan { count: count as u32, each: each as u64, all: all as u64, unit };
        let version = self.inner.divide(&plan).map_err(|denial| match denial {
            Denial::NoSlot => {
                MemoryError::Io { what: "divide the memory", source: std::io::ErrorKind::OutOfMemory.into() }
            }
            denial => Misuse::of_denial(denial, self.inner.name()).expect("nobody waits for ever in vain").into(),
        })?;
        Ok((0..count as u32).map(|index| ArrayPart::of(self.clone(), index, version, &plan)).collect())
    }

    /// Whether somebody has it to itself at this moment, or waits to.
    pub fn is_locked(&self) -> bool {
        self.inner.lock().is_written()
    }

    /// How many read it at this moment, or are looking whether they can.
    pub fn readers(&self) -> usize {
        self.inner.lock().readers()
    }

    /// Whether somebody has died or panicked while holding it or a part of it. That a holder has died is known to those who have locked it since.
    pub fn is_poisoned(&self) -> bool {
        self.inner.lock().poison_of(None).is_some()
    }

    /// Says that all of it is in order again: who locks it or a part of it from now on gets no error.
    pub fn clear_poison(&self) {
        self.inner.lock().clear_poison(None);
    }
}

impl<T: Plain> Clone for Array<T> {
    fn clone(&self) -> Array<T> {
        Array::of(self.inner.clone(), self.name.clone())
    }
}

/// Its length and whether somebody has it; not its values, of which there may be many.
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

impl From<MemoryError> for Error {
    fn from(error: MemoryError) -> Error {
        Error::Memory(error)
    }
}
