//! [`ArrayPart`]: a part of an array or of shared memory, with a lock of its own.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use multiproc_shm::lock::parts::Plan;
use multiproc_shm::lock::readers::Readers;
use multiproc_shm::lock::robust_word::PoisonableWord;
use multiproc_shm::memory::cell::Plain;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::array::Array;
use super::guard::{self, ArrayGuard, Locked, Tried, WritingPart};
use crate::sync::raw_lock::RawLock;

/// A part of an [`Array`] or of [`SharedMemory`](crate::SharedMemory) that one process can hold
/// while others hold other parts: [`slice::chunks_mut`] across processes.
///
/// [`Array::split`] and [`Array::chunks`] create parts, which can be sent to other processes as the
/// array can. If a part is sent to several processes, one of them can hold it at a time. A thread
/// that dies while it holds a part poisons this part and the whole array, but no other part.
///
/// A thread may hold several parts, provided that all threads take them in the same order. Reading
/// or locking the whole array waits until no thread holds a part. Bytes by which the memory has
/// grown since it was divided are in no part.
///
/// ```
/// use multiproc::shared_memory::ArrayPart;
/// use multiproc::{Array, Process};
///
/// /// A target that is handed its share of the work.
/// fn double(part: ArrayPart<u32>) -> multiproc::Result<()> {
///     part.lock()?.iter_mut().for_each(|value| *value *= 2);
///     Ok(())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let array = Array::from_slice(&[1, 2, 3, 4, 5])?;
/// let [first, second] = &array.split(2)?[..] else { unreachable!("as many as were asked for") };
/// assert_eq!((first.range(), second.range(), second.index()), (0..2, 2..5, 1));
/// Process::new(double, (second.clone(),)).start()?.join()??;
/// assert_eq!(array.to_vec()?, [1, 2, 6, 8, 10]);
/// # Ok(())
/// # }
/// ```
pub struct ArrayPart<T: Plain> {
    array: Array<T>,
    index: u32,
    /// The version of the division to which this part belongs.
    version: u32,
    bytes: Range<usize>,
}

impl<T: Plain> ArrayPart<T> {
    pub(super) fn of(array: Array<T>, index: u32, version: u32, plan: &Plan) -> ArrayPart<T> {
        ArrayPart { array, index, version, bytes: plan.range(index) }
    }

    /// Returns the index of the part, from 0.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// Returns the range of the part's values in the array.
    pub fn range(&self) -> Range<usize> {
        guard::whole_values::<T>(&self.bytes)
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.range().len()
    }

    /// Returns whether the part has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the array that this is a part of.
    pub fn array(&self) -> &Array<T> {
        &self.array
    }

    /// Locks the part, waiting until no other thread holds it, and none reads or holds the whole
    /// array; holds it until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`](crate::sync::LockError::Poisoned), with the guard, if a thread has
    /// died or panicked while holding the part or the whole array;
    /// [`LockError::Misuse`](crate::sync::LockError::Misuse) if the calling thread holds the part
    /// already, reads or holds the whole array, or holds 1024 locks; or if the array has been
    /// divided differently since.
    #[inline]
    pub fn lock(&self) -> Locked<'_, T> {
        self.raw().lock_with(|()| self.guard())
    }

    /// Locks the part if no other thread holds it, and none reads or holds the whole array, or is
    /// about to; returns `None` otherwise.
    ///
    /// # Errors
    /// As for [`lock`](ArrayPart::lock).
    pub fn try_lock(&self) -> Tried<'_, T> {
        self.raw().try_lock_with(|()| self.guard())
    }

    /// Locks the part, waiting for at most `timeout`; returns `None` if it isn't acquired in that
    /// time.
    ///
    /// # Errors
    /// As for [`lock`](ArrayPart::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> Tried<'_, T> {
        self.raw().lock_timeout_with(timeout, |()| self.guard())
    }

    /// Returns whether a thread holds the part at this moment, or is just checking whether it can.
    pub fn is_locked(&self) -> bool {
        self.word().is_some_and(|word| word.word().owner().is_some())
    }

    /// Returns whether a thread has died or panicked while holding the part or the whole array. A
    /// holder's death is noticed by the next thread that locks the same.
    pub fn is_poisoned(&self) -> bool {
        self.is_current() && self.raw().has_poison()
    }

    /// Clears the poison of this part, once its values have been put right: locking it no longer
    /// gives an error. The poison of the whole array is cleared by [`Array::clear_poison`].
    pub fn clear_poison(&self) {
        if self.is_current() {
            self.array.region().lock().clear_poison(Some(self.index()));
        }
    }

    /// Whether the division is still this part's. In another division its word may belong to
    /// another part.
    fn is_current(&self) -> bool {
        self.array.region().lock().division().is_some_and(|division| division.is(self.version))
    }

    fn word(&self) -> Option<&PoisonableWord> {
        self.array.region().lock().part(self.index()).filter(|_| self.is_current())
    }

    #[inline]
    fn raw(&self) -> WritingPart<'_> {
        WritingPart { region: self.array.region(), index: self.index(), version: self.version }
    }

    #[inline]
    fn guard(&self) -> ArrayGuard<'_, T> {
        ArrayGuard::of_part(self.array.region(), self.index(), self.bytes.clone())
    }
}

impl<T: Plain> Clone for ArrayPart<T> {
    fn clone(&self) -> ArrayPart<T> {
        ArrayPart { array: self.array.clone(), index: self.index, version: self.version, bytes: self.bytes.clone() }
    }
}

impl<T: Plain> fmt::Debug for ArrayPart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrayPart")
            .field("index", &self.index)
            .field("range", &self.range())
            .field("poisoned", &self.is_poisoned())
            .finish_non_exhaustive()
    }
}

impl<T: Plain> Serialize for ArrayPart<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.array, self.index, self.version).serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for ArrayPart<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ArrayPart<T>, D::Error> {
        let (array, index, version) = <(Array<T>, u32, u32)>::deserialize(deserializer)?;
        // If the array has been divided differently meanwhile, the part is empty, and locking it
        // reports that.
        let bytes = match array.region().plan() {
            Some((current, plan)) if current == version => plan.range(index),
            _ => 0..0,
        };
        Ok(ArrayPart { array, index, version, bytes })
    }
}
