//! [`ArrayPart`]: a part of an array or of shared memory, with a lock of its own.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::array::Array;
use super::guard::{self, Locked, Tried};
use crate::error::Result;
use crate::shm::cell::Plain;
use crate::shm::parts::Plan;
use crate::shm::readers::Readers;
use crate::shm::robust_word::{Patience, PoisonableWord};

/// A part of an [`Array`], or of [`SharedMemory`](crate::SharedMemory), that a process can have to itself while others have other parts:
/// [`slice::chunks_mut`] over processes.
///
/// It comes of [`Array::split`] or [`Array::chunks`], and travels as the array does. If it is sent to several processes, one of them has it at a time. Somebody
/// who dies with it poisons this part, and the whole, but no other part.
///
/// A thread may hold several parts, if all take them in the same order. Who wants to read or lock the whole waits until nobody has a part. What the memory has grown by since it was divided is in no part.
///
/// ```
/// use multiproc::{Array, ArrayPart, Process};
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
    /// The number of the division that it is a part of.
    version: u32,
    bytes: Range<usize>,
}

impl<T: Plain> ArrayPart<T> {
    pub(super) fn of(array: Array<T>, index: u32, version: u32, plan: &Plan) -> ArrayPart<T> {
        ArrayPart { array, index, version, bytes: plan.range(index) }
    }

    /// Which part it is, beginning with 0.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// Where in the array its values are.
    pub fn range(&self) -> Range<usize> {
        guard::whole_values::<T>(&self.bytes)
    }

    /// How many values it has.
    pub fn len(&self) -> usize {
        self.range().len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it is a part of.
    pub fn array(&self) -> &Array<T> {
        &self.array
    }

    /// Waits until nobody else has it, and nobody reads or has the whole; and has it until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`](crate::sync::LockError::Poisoned), with the guard, if somebody has died or panicked while holding it or the whole;
    /// [`LockError::Misuse`](crate::sync::LockError::Misuse) if the calling thread has it already, or reads or has the whole, or holds 1024 locks; or if
    /// the array has been divided otherwise since.
    #[inline]
    pub fn lock(&self) -> Locked<'_, T> {
        self.within(Patience::Endless).map(|guard| guard.expect("nobody waits for ever in vain"))
    }

    /// Has it if nobody else does, and nobody reads or has the whole, or is about to; `None` if somebody does.
    ///
    /// # Errors
    /// As [`lock`](ArrayPart::lock).
    pub fn try_lock(&self) -> Tried<'_, T> {
        self.within(Patience::None)
    }

    /// As [`lock`](ArrayPart::lock), waiting for at most `timeout`; `None` when that is over.
    ///
    /// # Errors
    /// As [`lock`](ArrayPart::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> Tried<'_, T> {
        self.within(Patience::lasting(timeout))
    }

    /// Whether somebody has it at this moment, or is looking whether they can.
    pub fn is_locked(&self) -> bool {
        self.word().is_some_and(|word| word.word().owner().is_some())
    }

    /// Whether somebody has died or panicked while holding it or the whole. That a holder has died is known to those who have locked it since.
    pub fn is_poisoned(&self) -> bool {
        self.is_current() && self.array.region().lock().poison_of(Some(self.index())).is_some()
    }

    /// Says that it is in order again: who locks it from now on gets no error. What befell the whole is put right by [`Array::clear_poison`].
    pub fn clear_poison(&self) {
        if self.is_current() {
            self.array.region().lock().clear_poison(Some(self.index()));
        }
    }

    /// Whether it is a part still. Others may have its word otherwise.
    fn is_current(&self) -> bool {
        self.array.region().lock().division().is_some_and(|division| division.is(self.version))
    }

    fn word(&self) -> Option<&PoisonableWord> {
        self.array.region().lock().part(self.index()).filter(|_| self.is_current())
    }

    #[inline]
    fn within(&self, patience: Patience) -> Tried<'_, T> {
        guard::lock_part(self.array.region(), self.index(), self.version, self.bytes.clone(), patience)
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
        // If it has been divided otherwise meanwhile, it is a part of nothing, which locking it tells.
        let bytes = match array.region().plan() {
            Some((current, plan)) if current == version => plan.range(index),
            _ => 0..0,
        };
        Ok(ArrayPart { array, index, version, bytes })
    }
}
