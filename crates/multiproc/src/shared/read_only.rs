//! [`ReadOnlyMemory`]: shared memory for those who are only to read it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::guard::{self, Read, TriedRead};
use super::travel;
use crate::shm::region::{Access, Region};
use crate::shm::robust_word::Patience;

/// [`SharedMemory`](crate::SharedMemory) that can only be read by this handle: [`SharedMemory::read_only`](crate::SharedMemory::read_only).
///
/// The pages are mapped read-only in the process that has it, so that nothing there, no library in C either, can write to them.
///
/// It travels as that does, and its readers use the same lock. (That, which lies elsewhere, can be written by it.) It costs two descriptors. What others use as atomics has no lock,
/// and can only be read [by pointer](ReadOnlyMemory::as_ptr).
///
/// It begins with a page, so that numbers in it are aligned:
///
/// ```
/// use multiproc::{ReadOnlyMemory, SharedMemory};
///
/// fn largest(memory: &ReadOnlyMemory) -> multiproc::Result<f64> {
///     let bytes = memory.read()?;
///     Ok(bytemuck::cast_slice::<u8, f64>(&bytes).iter().copied().fold(f64::MIN, f64::max))
/// }
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let memory = SharedMemory::new(800)?;
/// memory.as_array::<f64>()?.set(7, 1.5)?;
/// assert_eq!(largest(&memory.read_only()?)?, 1.5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ReadOnlyMemory {
    inner: Arc<Region>,
}

impl ReadOnlyMemory {
    pub(super) fn of(inner: Arc<Region>) -> ReadOnlyMemory {
        ReadOnlyMemory { inner }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until nobody has it or a part of it, and reads until the guard is dropped.
    ///
    /// # Errors
    /// As [`Array::read`](crate::Array::read).
    pub fn read(&self) -> Read<'_, u8> {
        guard::read(&self.inner, Patience::Endless).map(|guard| guard.expect("nobody waits for ever in vain"))
    }

    /// Reads if nobody has it or a part of it; `None` if somebody has, or is about to, or is looking whether somebody has.
    ///
    /// # Errors
    /// As [`read`](ReadOnlyMemory::read).
    pub fn try_read(&self) -> TriedRead<'_, u8> {
        guard::read(&self.inner, Patience::None)
    }

    /// As [`read`](ReadOnlyMemory::read), waiting for at most `timeout`; `None` when that is over.
    ///
    /// # Errors
    /// As [`read`](ReadOnlyMemory::read).
    pub fn read_timeout(&self, timeout: Duration) -> TriedRead<'_, u8> {
        guard::read(&self.inner, Patience::lasting(timeout))
    }

    /// Maps all of its pages now, and not when they are touched: as [`SharedBytes::prefault`](crate::SharedBytes::prefault).
    pub fn prefault(&self) {
        self.inner.populate(0..self.len());
    }

    /// Where it begins in this process's memory: with a page. Writing there is a `SIGSEGV`. It stays there as long as this handle, or a clone of it, does.
    pub fn as_ptr(&self) -> *const u8 {
        self.inner.start().as_ptr()
    }
}

impl fmt::Debug for ReadOnlyMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyMemory").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Serialize for ReadOnlyMemory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        travel::serialize(&self.inner, serializer)
    }
}

impl<'de> Deserialize<'de> for ReadOnlyMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ReadOnlyMemory, D::Error> {
        let region = travel::deserialize(deserializer)?;
        match region.access() {
            Access::ReadOnly => Ok(ReadOnlyMemory::of(Arc::new(region))),
            Access::Write => Err(serde::de::Error::custom("this memory is not read-only")),
        }
    }
}
