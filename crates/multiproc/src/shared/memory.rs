//! [`SharedMemory`]: bytes that several processes read and write.
//!
//! A region with a file of its own for its memory. `PROTOCOL.md` describes how it is used, grows,
//! and is found by its name.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use multiproc_shm::memory::cell::Plain;
use multiproc_shm::memory::region::{Access, Pages, Region, RegionConfig, Usage};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::array::Array;
use super::error::{FreezeError, MemoryError};
use super::guard::{ArrayGuard, Locked, Read, Tried, TriedRead, Writing};
use super::name::{self, Name};
use super::part::ArrayPart;
use super::raw::Atomic;
use super::read_only::ReadOnlyMemory;
use super::shared_bytes::SharedBytes;
use super::travel;
use crate::create_error::CreateError;
use crate::sync::LockError;
use crate::sync::raw_lock::RawLock;

/// Bytes that several processes read and write: Python's
/// `multiprocessing.shared_memory.SharedMemory`.
///
/// It has no name unless it is given one, so nothing is left of it when the last process that has
/// it ends. A clone is another handle of the same memory, and so is what arrives in another process
/// when it is sent there: as an argument or a result of a process, a field of a [`Run`](crate::Run)
/// value, or inside a message. It takes two descriptors. All of its memory is allocated at
/// creation: a lack of memory is an error of creating it, and never a `SIGBUS` later.
///
/// It is used in one of these ways:
///
/// - Under its lock: with [`lock`](SharedMemory::lock), [`read`](SharedMemory::read), and parts for
///   workers, [`split`](SharedMemory::split) and [`chunks`](SharedMemory::chunks).
///   [`as_array`](SharedMemory::as_array) gives a view as an `Array<f64>`, for example.
/// - [As atomics](SharedMemory::as_atomics), without a lock.
/// - By [pointer](SharedMemory::as_ptr), or [as a slice](SharedMemory::as_mut_slice), which is
///   `unsafe`.
///
/// The first use in one of the first two ways decides for all processes: the other way is an error
/// from then on, since Rust's memory model doesn't allow a mixture.
///
/// ```
/// use multiproc::{Process, SharedMemory};
///
/// fn fill(memory: SharedMemory) -> multiproc::Result<()> {
///     memory.lock()?[..5].copy_from_slice(b"hello");
///     Ok(())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = SharedMemory::new(1 << 20)?;
/// Process::new(fill, (memory.clone(),)).start()?.join()??;
/// assert_eq!(memory.to_vec()?[..6], *b"hello\0");
/// # Ok(())
/// # }
/// ```
///
/// [`read_only`](SharedMemory::read_only) gives a handle that can only read, and
/// [`freeze`](SharedMemory::freeze) turns the memory into bytes that can't be changed any more.
///
/// Unrelated programs can find it by a name, if it is [created](SharedMemory::create) with one:
///
/// ```
/// use multiproc::SharedMemory;
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// # let name = &format!("weather-{}", std::process::id());
/// // In one program:
/// let memory = SharedMemory::create(name, 1000)?;
/// memory.lock()?[0] = 7;
///
/// // In another:
/// let found = SharedMemory::open(name)?;
/// assert_eq!(found.read()?[0], 7);
/// # Ok(())
/// # }
/// ```
pub struct SharedMemory {
    bytes: Array<u8>,
}

impl SharedMemory {
    /// Creates memory of `len` bytes, all of them zero.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn new(len: usize) -> Result<SharedMemory, CreateError> {
        Ok(SharedMemory { bytes: Array::of(Arc::new(SharedMemory::options().region(len)?), None) })
    }

    /// Returns a builder for memory with options: that can grow, of huge pages, with a name.
    pub fn options() -> SharedMemoryOptions {
        SharedMemoryOptions { most: 0, pages: Pages::Small, name: None }
    }

    /// Creates memory with a name, by which unrelated programs can [open](SharedMemory::open) it. A
    /// name is any text of 1 to 79 bytes, without a zero byte.
    ///
    /// This process owns the name as long as it has this handle, a clone of it, or anything made
    /// from it: an [array](SharedMemory::as_array), a part. The name ends when it is
    /// [unlinked](SharedMemory::unlink), when the last of these is dropped, and when the process
    /// ends, by any means: there is nothing in a file system, and nothing to clean up. A
    /// process that has opened the memory by then keeps it. Handles that were sent to other
    /// processes don't keep the name.
    ///
    /// A name is found by processes of the same user, and root's by root; in the same network
    /// namespace and PID namespace. The names belong to this library: they have nothing to do with
    /// those of shm_open(3), under `/dev/shm`.
    ///
    /// It takes five descriptors, and the first name of a process three more.
    ///
    /// As long as this process owns a name, it has a thread that answers the processes that open
    /// it, so it can't start children by [`Fork`](crate::StartMethod::Fork).
    ///
    /// # Errors
    /// [`NameError::Taken`](crate::shared_memory::NameError::Taken) if the name is taken, and
    /// others that are wrapped in [`MemoryError::Name`]; [`CreateError`](crate::CreateError) as for
    /// [`new`](SharedMemory::new).
    ///
    /// # Implementation notes
    /// An abstract Unix socket (see unix(7)) at which the thread listens, and hands out the
    /// descriptors.
    pub fn create(name: &str, len: usize) -> Result<SharedMemory, MemoryError> {
        SharedMemory::options().name(name).create(len)
    }

    /// Opens the memory with this name, which another process or this one has
    /// [created](SharedMemory::create). Waits for the owner of the name for at most ten seconds.
    ///
    /// # Errors
    /// [`MemoryError::Name`]: [`NameError::NotFound`](crate::shared_memory::NameError::NotFound) if
    /// there is none, [`NameError::Timeout`](crate::shared_memory::NameError::Timeout) if its owner
    /// is stopped; `EMFILE`, `ENOMEM`.
    pub fn open(name: &str) -> Result<SharedMemory, MemoryError> {
        let region = name::find(name, Access::Write)?;
        let name = Name::of_another_process(name);
        Ok(SharedMemory { bytes: Array::of(Arc::new(region), Some(Arc::new(name))) })
    }

    /// Opens the memory with this name for reading only.
    ///
    /// # Errors
    /// As for [`open`](SharedMemory::open).
    pub fn open_read_only(name: &str) -> Result<ReadOnlyMemory, MemoryError> {
        Ok(ReadOnlyMemory::of(Arc::new(name::find(name, Access::ReadOnly)?)))
    }

    /// Returns the name by which the memory was created or opened. A handle that was received from
    /// another process in a message has none.
    pub fn name(&self) -> Option<&str> {
        self.bytes.name().map(|name| name.text())
    }

    /// Removes the name, so that the memory isn't found any more and the name is free. Processes
    /// that have the memory keep it.
    ///
    /// The owner may do this, and any process that has opened the memory by its name. If the name
    /// has been given to other memory since, it is removed from that, unless this process is the
    /// owner of this handle's name.
    ///
    /// ```
    /// use multiproc::SharedMemory;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// # let name = &format!("weather-once-{}", std::process::id());
    /// let memory = SharedMemory::create(name, 1000)?;
    /// let other = SharedMemory::open(name)?;
    /// memory.unlink()?;
    /// assert!(SharedMemory::open(name).is_err());
    /// other.lock()?[0] = 7;
    /// assert_eq!(memory.read()?[0], 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`MemoryError::Nameless`] if this handle has no name;
    /// [`NameError::NotFound`](crate::shared_memory::NameError::NotFound) if the name is gone
    /// already.
    pub fn unlink(&self) -> Result<(), MemoryError> {
        let name = self.bytes.name().ok_or(MemoryError::Nameless)?;
        Ok(name.unlink()?)
    }

    pub(super) fn of(region: Arc<Region>) -> SharedMemory {
        SharedMemory { bytes: Array::of(region, None) }
    }

    fn region(&self) -> &Arc<Region> {
        self.bytes.region()
    }

    /// Returns the present number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Locks the memory for writing, waiting until no thread holds, reads or has a part of it, and
    /// holds it until the guard is dropped. The guard is a `&mut [u8]`.
    ///
    /// # Errors
    /// As for [`Array::lock`].
    #[inline]
    pub fn lock(&self) -> Locked<'_, u8> {
        self.bytes.lock()
    }

    /// Locks the memory for writing if no thread holds, reads or has a part of it; otherwise
    /// returns `None`.
    ///
    /// # Errors
    /// As for [`Array::lock`].
    pub fn try_lock(&self) -> Tried<'_, u8> {
        self.bytes.try_lock()
    }

    /// Locks the memory for writing, waiting for at most `timeout`; returns `None` if it isn't
    /// acquired in that time.
    ///
    /// # Errors
    /// As for [`Array::lock`].
    pub fn lock_timeout(&self, timeout: Duration) -> Tried<'_, u8> {
        self.bytes.lock_timeout(timeout)
    }

    /// Locks the memory for reading, as any number of threads may at a time, waiting until no
    /// thread holds it or a part of it. The guard is a `&[u8]`.
    ///
    /// # Errors
    /// As for [`Array::read`].
    #[inline]
    pub fn read(&self) -> Read<'_, u8> {
        self.bytes.read()
    }

    /// Locks the memory for reading if no thread holds it or a part of it; otherwise returns
    /// `None`.
    ///
    /// # Errors
    /// As for [`Array::read`].
    pub fn try_read(&self) -> TriedRead<'_, u8> {
        self.bytes.try_read()
    }

    /// Locks the memory for reading, waiting for at most `timeout`; returns `None` if it isn't
    /// acquired in that time.
    ///
    /// # Errors
    /// As for [`Array::read`].
    pub fn read_timeout(&self, timeout: Duration) -> TriedRead<'_, u8> {
        self.bytes.read_timeout(timeout)
    }

    /// Returns a copy of all bytes.
    ///
    /// # Errors
    /// As for [`Array::read`].
    pub fn to_vec(&self) -> Result<Vec<u8>, LockError<()>> {
        self.bytes.to_vec()
    }

    /// Divides the memory into this number of parts, each of which another process can hold at the
    /// same time. See [`Array::split`].
    ///
    /// # Errors
    /// As for [`Array::split`].
    pub fn split(&self, parts: usize) -> Result<Vec<ArrayPart<u8>>, MemoryError> {
        self.bytes.split(parts)
    }

    /// Divides the memory into parts of `len` bytes, the last of which may be shorter. See
    /// [`Array::chunks`].
    ///
    /// # Errors
    /// As for [`Array::split`].
    pub fn chunks(&self, len: usize) -> Result<Vec<ArrayPart<u8>>, MemoryError> {
        self.bytes.chunks(len)
    }

    /// Maps all pages now, instead of each at its first access. See [`Array::prefault`].
    pub fn prefault(&self) {
        self.bytes.prefault();
    }

    /// Returns whether a thread holds the whole memory for writing at this moment, or waits for
    /// that.
    pub fn is_locked(&self) -> bool {
        self.bytes.is_locked()
    }

    /// Returns how many threads read the memory at this moment, including those that are just
    /// checking whether they can.
    pub fn readers(&self) -> usize {
        self.bytes.readers()
    }

    /// Returns whether a thread has died or panicked while holding the memory or a part of it. A
    /// holder's death is noticed by the next thread that locks the same.
    pub fn is_poisoned(&self) -> bool {
        self.bytes.is_poisoned()
    }

    /// Clears the poison of the memory and all its parts, once the bytes have been put right:
    /// locking no longer gives an error.
    pub fn clear_poison(&self) {
        self.bytes.clear_poison();
    }

    /// Returns the number of bytes to which the memory can grow: the present length, unless it was
    /// created [growable](SharedMemoryOptions::growable).
    pub fn max_len(&self) -> usize {
        self.region().most()
    }

    /// Grows the memory to `len` bytes for all processes that have it; does nothing if it is that
    /// long already. The new bytes are zero. A thread that holds the lock keeps the slice that it
    /// has, and gets the longer one when it locks the memory the next time. The memory doesn't
    /// move.
    ///
    /// ```
    /// use multiproc::SharedMemory;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let memory = SharedMemory::options().growable(1 << 30).create(4096)?; // only 4096 bytes take memory
    /// let other = memory.clone();
    /// memory.grow(1 << 20)?;
    /// assert_eq!(other.lock()?.len(), 1 << 20);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`MemoryError::Limit`] beyond [`max_len`](SharedMemory::max_len); `ENOSPC`, `ENOMEM`.
    /// Nothing has changed then.
    pub fn grow(&self, len: usize) -> Result<(), MemoryError> {
        if len > self.max_len() {
            return Err(MemoryError::Limit { asked: len, most: self.max_len() });
        }
        self.region().grow(len as u64).map_err(MemoryError::io("grow shared memory"))
    }

    /// Returns the memory as a slice of atomics: `AtomicU8` to `AtomicU64`, `AtomicI8` to
    /// `AtomicI64`, `AtomicUsize` and `AtomicIsize`; as many as fit into the present length. Bytes
    /// at the end that are too few for another atomic are left out.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use multiproc::{Process, SharedMemory};
    ///
    /// fn count(memory: SharedMemory) -> multiproc::Result<()> {
    ///     let counters = memory.as_atomics::<AtomicU64>()?;
    ///     for _ in 0..1000 {
    ///         counters[3].fetch_add(1, Ordering::Relaxed);
    ///     }
    ///     Ok(())
    /// }
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let memory = SharedMemory::new(4096)?;
    /// let children = (0..2).map(|_| Process::new(count, (memory.clone(),)).start());
    /// for child in children.collect::<Result<Vec<_>, _>>()? {
    ///     child.join()??;
    /// }
    /// assert_eq!(memory.as_atomics::<AtomicU64>()?[3].load(Ordering::Relaxed), 2000);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`MemoryError::Locked`] if the memory has been used under its lock, [`MemoryError::Atomics`]
    /// if it has been used as atomics of another size, by any process.
    pub fn as_atomics<A: Atomic>(&self) -> Result<&[A], MemoryError> {
        let size = size_of::<A>();
        self.region().use_as(Usage::Atomics(size)).map_err(|usage| MemoryError::used_as(usage, size))?;
        // SAFETY: this number of bytes is mapped as long as this handle exists, and begins with a
        // page; any bytes are valid atomics; and `use_as` has just checked that all processes
        // access them as atomics of this size.
        Ok(unsafe { std::slice::from_raw_parts(self.as_ptr().cast_const().cast(), self.len() / size) })
    }

    /// Returns the same memory as an array of values of this type: with the same lock, and as long
    /// as the memory is at this moment and later.
    ///
    /// ```
    /// use multiproc::SharedMemory;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let memory = SharedMemory::new(800)?;
    /// let numbers = memory.as_array::<f64>()?;
    /// numbers.lock()?[99] = 1.5;
    /// assert_eq!(memory.read()?[792..], 1.5_f64.to_ne_bytes());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`MemoryError::Length`] if the length is not a whole number of values.
    pub fn as_array<T: Plain>(&self) -> Result<Array<T>, MemoryError> {
        let (len, size) = (self.len(), size_of::<T>());
        match len.checked_rem(size) {
            Some(0) => Ok(Array::of(self.region().clone(), self.bytes.name().cloned())),
            _ => Err(MemoryError::Length { len, size }),
        }
    }

    /// Returns a handle that can only read the memory. It is mapped so that a write is a `SIGSEGV`
    /// in the process that tries. It can be sent to other processes as this handle can.
    ///
    /// It protects from mistakes, not from malice: a process of the same user that has it can get
    /// write access.
    ///
    /// ```
    /// use multiproc::shared_memory::ReadOnlyMemory;
    /// use multiproc::{Process, SharedMemory};
    ///
    /// fn sum(memory: ReadOnlyMemory) -> multiproc::Result<u32> {
    ///     Ok(memory.read()?.iter().map(|byte| u32::from(*byte)).sum())
    /// }
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let memory = SharedMemory::new(1000)?;
    /// memory.lock()?.fill(2);
    /// let child = Process::new(sum, (memory.read_only()?,)).start()?;
    /// assert_eq!(child.join()??, 2000);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `EMFILE`; `ENOENT` without `/proc`; `ENOMEM` for one more mapping.
    pub fn read_only(&self) -> Result<ReadOnlyMemory, MemoryError> {
        let io = MemoryError::io("open shared memory to be read only");
        let (control, memory) = self.region().descriptors(Access::ReadOnly).map_err(&io)?;
        Ok(ReadOnlyMemory::of(Arc::new(Region::open(control, memory).map_err(&io)?)))
    }

    /// Turns the memory into bytes that can't be changed any more, without a copy. All other
    /// handles that could write to it, in any process, must have been dropped. A process that later
    /// finds this memory in a message, for writing, gets an error.
    ///
    /// ```
    /// use multiproc::{Process, SharedBytes, SharedMemory};
    ///
    /// fn fill(memory: SharedMemory) -> multiproc::Result<()> {
    ///     memory.lock()?.fill(7);
    ///     Ok(())
    /// }
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let memory = SharedMemory::new(1000)?;
    /// Process::new(fill, (memory.clone(),)).start()?.join()??;
    /// let bytes: SharedBytes = memory.freeze()?;
    /// assert_eq!(bytes[..], [7; 1000]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`FreezeError`], with the memory, if it is still mapped elsewhere, in another process or by
    /// another handle in this one; or if it is poisoned: call
    /// [`clear_poison`](SharedMemory::clear_poison) once its content is right.
    pub fn freeze(self) -> Result<SharedBytes, FreezeError> {
        let (region, name) = self.bytes.into_parts();
        let with_name = |region, name| SharedMemory { bytes: Array::of(region, name) };
        let io = |source| MemoryError::Io { what: "freeze shared memory", source };
        let region = match Arc::try_unwrap(region) {
            Ok(region) => region,
            Err(region) => {
                return Err(FreezeError { memory: Some(with_name(region, name)), error: MemoryError::InUse });
            }
        };
        if let Err(error) = in_order(&region) {
            return Err(FreezeError { memory: Some(with_name(Arc::new(region), name)), error });
        }
        let (control, memory) = match region.descriptors(Access::Write) {
            Ok((control, memory)) => (control, memory.expect("shared memory has a file of its own")),
            Err(error) => {
                return Err(FreezeError { memory: Some(with_name(Arc::new(region), name)), error: io(error) });
            }
        };
        // This removes the handle's own mapping, so that none is left through which the memory
        // could be written.
        let (file, len) = region.into_file().expect("shared memory has a file of its own");
        match file.freeze() {
            Ok(()) => {
                let map = SharedBytes::open(memory, 0, len as u64);
                map.map_err(|source| FreezeError { memory: None, error: io(source) })
            }
            Err(error) => {
                let region = Region::open(control, Some(memory));
                let error = match error.kind() {
                    io::ErrorKind::ResourceBusy => MemoryError::InUse,
                    _ => io(error),
                };
                Err(FreezeError { memory: region.ok().map(|region| with_name(Arc::new(region), name)), error })
            }
        }
    }

    /// Returns the address of the memory in this process, which is that of a page. The memory stays
    /// there as long as this handle or a clone of it exists.
    pub fn as_ptr(&self) -> *mut u8 {
        self.region().start().as_ptr()
    }

    /// Returns the memory file (see memfd_create(2)), for code that doesn't use this library: a
    /// library in C, a device. Its first byte is that of the memory, and it is
    /// [`max_len`](SharedMemory::max_len) bytes long, rounded up to whole pages.
    ///
    /// # Safety
    /// Code that reads, writes or maps the file must obey the rules of
    /// [`as_slice`](SharedMemory::as_slice) and [`as_mut_slice`](SharedMemory::as_mut_slice):
    /// nothing may be written while slices of the memory exist elsewhere.
    pub unsafe fn memory_fd(&self) -> BorrowedFd<'_> {
        self.region().memory().expect("shared memory has a file of its own")
    }

    /// Returns the whole memory as a slice, without locking it.
    ///
    /// # Safety
    /// No process may write to the memory as long as the slice exists.
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: this number of bytes is mapped as long as this handle exists, and the caller
        // guarantees that they don't change.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }

    /// Returns the whole memory as a mutable slice, without locking it.
    ///
    /// Other processes may see what is written in any order, and torn. For writes that race, use
    /// [`as_ptr`](SharedMemory::as_ptr) and [`write_volatile`](std::ptr::write_volatile), or
    /// [atomics](SharedMemory::as_atomics).
    ///
    /// # Safety
    /// No other code, in any process, may read or write the memory as long as the slice exists.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn as_mut_slice(&self) -> &mut [u8] {
        // SAFETY: this number of bytes is mapped as long as this handle exists, and the caller
        // guarantees that nothing else accesses them.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len()) }
    }
}

impl Clone for SharedMemory {
    fn clone(&self) -> SharedMemory {
        SharedMemory { bytes: self.bytes.clone() }
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory")
            .field("len", &self.len())
            .field("max_len", &self.max_len())
            .field("locked", &self.is_locked())
            .field("poisoned", &self.is_poisoned())
            .finish()
    }
}

impl Serialize for SharedMemory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        travel::serialize(self.region(), serializer)
    }
}

impl<'de> Deserialize<'de> for SharedMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SharedMemory, D::Error> {
        let region = travel::deserialize_to_write(deserializer)?;
        match region.memory() {
            Some(_) => Ok(SharedMemory::of(Arc::new(region))),
            None => Err(serde::de::Error::custom("this is an array, not shared memory")),
        }
    }
}

/// The huge pages that [`SharedMemory`] can be made of, in place of the usual ones of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HugePages {
    /// Huge pages that the kernel provides by itself, if it does so for memory files:
    /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` must be `advise` or a stronger setting.
    /// Otherwise the pages are of the usual size.
    Transparent,
    /// Huge pages that the administrator has reserved, of the system's default size: see
    /// `/proc/sys/vm/nr_hugepages`. If there are too few, creating the memory is an error.
    Reserved,
}

/// Options for creating [`SharedMemory`]: the result of [`SharedMemory::options`].
#[derive(Debug, Clone)]
#[must_use = "nothing is made before `create`"]
pub struct SharedMemoryOptions {
    most: usize,
    pages: Pages,
    name: Option<String>,
}

impl SharedMemoryOptions {
    /// Lets the memory [grow](SharedMemory::grow) to `max_len` bytes. Every process that has it
    /// reserves address space of this size at once, but no memory.
    pub fn growable(mut self, max_len: usize) -> SharedMemoryOptions {
        self.most = max_len;
        self
    }

    /// Uses huge pages, which saves page faults and TLB misses in large memory.
    ///
    /// ```
    /// use multiproc::shared_memory::HugePages;
    /// use multiproc::SharedMemory;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let memory = SharedMemory::options().huge_pages(HugePages::Transparent).create(16 << 20)?;
    /// memory.lock()?.fill(1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn huge_pages(mut self, pages: HugePages) -> SharedMemoryOptions {
        self.pages = match pages {
            HugePages::Transparent => Pages::Transparent,
            HugePages::Reserved => Pages::Reserved,
        };
        self
    }

    /// Gives the memory a name by which other programs find it: see [`SharedMemory::create`].
    pub fn name(mut self, name: &str) -> SharedMemoryOptions {
        self.name = Some(name.into());
        self
    }

    /// Creates memory of `len` bytes, all of them zero.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor, no memory, no address space or no huge
    /// pages are left. With a name, also those of [`SharedMemory::create`].
    pub fn create(&self, len: usize) -> Result<SharedMemory, MemoryError> {
        let region = self.region(len)?;
        let name = self.name.as_ref().map(|name| Name::publish(name, &region)).transpose()?;
        Ok(SharedMemory { bytes: Array::of(Arc::new(region), name.map(Arc::new)) })
    }

    fn region(&self, len: usize) -> Result<Region, CreateError> {
        let most = self.most.max(len) as u64;
        let wanted = RegionConfig { len: len as u64, most, pages: self.pages, name: "multiproc-shared memory".into() };
        Region::create_apart(&wanted).map_err(CreateError::of("shared memory"))
    }
}

/// Checks that no thread holds the memory and that it isn't poisoned, if it is used under its lock.
fn in_order(region: &Region) -> Result<(), MemoryError> {
    if region.usage() != Some(Usage::Locked) {
        return Ok(());
    }
    match Writing(region).try_lock_with(|()| ArrayGuard::<u8>::new(region)) {
        Ok(Some(_guard)) => Ok(()),
        Ok(None) => Err(MemoryError::InUse),
        Err(LockError::Misuse(misuse)) => Err(misuse.into()),
        Err(LockError::Poisoned(poisoned)) => Err(MemoryError::Poisoned(poisoned.without_guard())),
    }
}
