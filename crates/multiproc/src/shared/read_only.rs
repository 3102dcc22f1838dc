//! [`ReadOnlyMemory`]: a handle of shared memory that can only read.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use multiproc_shm::memory::region::{Access, Region};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::guard::{ArrayReadGuard, Read, Reading, TriedRead};
use super::travel;
use crate::sync::raw_lock::RawLock;

/// A handle of [`SharedMemory`](crate::SharedMemory) that can only read: the result of
/// [`SharedMemory::read_only`](crate::SharedMemory::read_only).
///
/// The pages are mapped read-only in the process that has it, so nothing there can write to them,
/// not even a library in C.
///
/// It can be sent to other processes as shared memory can, and its readers use the same lock. (The
/// lock itself lies in another file, which this handle maps writable.) It takes two descriptors.
/// Memory that others use as atomics has no lock, and can only be read [by
/// pointer](ReadOnlyMemory::as_ptr).
///
/// The memory begins with a page, so that numbers in it are aligned:
///
/// ```
/// use multiproc::shared_memory::ReadOnlyMemory;
/// use multiproc::SharedMemory;
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

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Locks the memory for reading, waiting until no thread holds it or a part of it, and reads
    /// until the guard is dropped.
    ///
    /// # Errors
    /// As for [`Array::read`](crate::Array::read).
    pub fn read(&self) -> Read<'_, u8> {
        Reading(&self.inner).lock_with(|slot| ArrayReadGuard::new(&self.inner, slot))
    }

    /// Locks the memory for reading if no thread holds it or a part of it; returns `None` if a
    /// thread does, is about to, or is just checking whether it can.
    ///
    /// # Errors
    /// As for [`read`](ReadOnlyMemory::read).
    pub fn try_read(&self) -> TriedRead<'_, u8> {
        Reading(&self.inner).try_lock_with(|slot| ArrayReadGuard::new(&self.inner, slot))
    }

    /// Locks the memory for reading, waiting for at most `timeout`; returns `None` if it isn't
    /// acquired in that time.
    ///
    /// # Errors
    /// As for [`read`](ReadOnlyMemory::read).
    pub fn read_timeout(&self, timeout: Duration) -> TriedRead<'_, u8> {
        Reading(&self.inner).lock_timeout_with(timeout, |slot| ArrayReadGuard::new(&self.inner, slot))
    }

    /// Maps all pages now, instead of each at its first access, as
    /// [`SharedBytes::prefault`](crate::SharedBytes::prefault) does.
    pub fn prefault(&self) {
        self.inner.populate(0..self.len());
    }

    /// Returns the address of the memory in this process, which is that of a page. Writing there is
    /// a `SIGSEGV`. The memory stays there as long as this handle or a clone of it exists.
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
