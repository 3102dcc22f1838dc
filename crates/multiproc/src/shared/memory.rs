//! [`SharedMemory`]: bytes for several processes.
//!
//! A region whose memory has a file of its own. `PROTOCOL.md` tells how it is used, grows, and is found by its name.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use multiproc_os::shared_memory::SharedFile;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::array::Array;
use super::error::{FreezeError, MemoryError};
use super::guard;
use super::names::{self, NameError, Offer, Published};
use super::raw::Atomic;
use super::read_only::ReadOnlyMemory;
use super::shared_bytes::SharedBytes;
use super::travel;
use crate::error::Result;
use crate::shm::cell::Plain;
use crate::shm::region::{Access, FROZEN, Pages, Region, Usage, Wanted};
use crate::shm::robust_word::Patience;
use crate::sync::LockError;
use crate::sync::error::not_made;

/// Bytes that several processes read and write: Python's `multiprocessing.shared_memory.SharedMemory`.
///
/// It has no name unless it is given one, so nothing is left of it when the last process that has it ends. A clone is another handle of the same memory, and so is what
/// arrives where one was sent to: as an argument or a result of a process, a field of a [`Run`](crate::Run) value, or inside a message. It costs two descriptors.
/// All of it has memory from the beginning: a lack of memory is an error of making it, and never a `SIGBUS` later.
///
/// It is used in one of these ways:
///
/// - Under its lock: it derefs to [`Array<u8>`], with [`lock`](Array::lock), [`read`](Array::read), and parts for workers, [`split`](Array::split) and
///   [`chunks`](Array::chunks). [`as_array`](SharedMemory::as_array) makes an `Array<f64>` or the like of it.
/// - [As atomics](SharedMemory::as_atomics), without a lock.
/// - By [pointer](SharedMemory::as_ptr), or [as a slice](SharedMemory::as_mut_slice), which is `unsafe`.
///
/// Who begins with one of the first two decides for all: the other way is an error from then on, since Rust allows no mixture.
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
/// [`read_only`](SharedMemory::read_only) is a handle for those who are only to read, [`freeze`](SharedMemory::freeze) makes bytes of it that nobody can change any more.
///
/// Programs that are no relatives find it by a name, if it is [created](SharedMemory::create) with one:
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

/// A name that memory is known by.
pub(super) struct Name {
    text: String,
    /// If it is this process's: the name itself, as long as it is there, and what is handed out.
    published: Mutex<Option<Published>>,
    offering: Option<Arc<Offering>>,
}

/// What is handed out to those who come by the name.
struct Offering {
    control: OwnedFd,
    memory: SharedFile,
}

/// What can be wished of it.
const TO_WRITE: u8 = 0;
const TO_READ: u8 = 1;

impl Offer for Offering {
    fn offer(&self, wish: u8) -> io::Result<Vec<OwnedFd>> {
        let memory = match wish {
            TO_WRITE => self.memory.as_fd().try_clone_to_owned()?,
            TO_READ => self.memory.open_read_only()?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        Ok(vec![self.control.try_clone()?, memory])
    }
}

/// How long the owner of a name is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

impl SharedMemory {
    /// New memory of `len` bytes, all of them zero.
    ///
    /// # Errors
    /// [`Error::Make`](crate::Error::Make): no descriptor or no memory is left.
    pub fn new(len: usize) -> Result<SharedMemory> {
        SharedMemory::options().create(len)
    }

    /// New memory that isn't the plainest: which grows, say.
    pub fn options() -> SharedMemoryOptions {
        SharedMemoryOptions { most: 0, pages: Pages::Small, name: None }
    }

    /// New memory with a name, by which programs that are no relatives can [open](SharedMemory::open) it: any text of 1 to 79 bytes.
    ///
    /// The name is this process's, as long as it has this handle, a clone of it, or what was made of it: an [array](SharedMemory::as_array), a part. It goes when it is
    /// [unlinked](SharedMemory::unlink), when the last of these is dropped, and when the process
    /// ends, by whatever means: there is nothing in a file system, and nothing to clean up. Whoever has opened the memory by then keeps it. Handles that other processes have been sent don't
    /// keep the name.
    ///
    /// Processes of the same user find it, and those of root with the same name for root; in the same network namespace and PID namespace. The names are this library's: they have nothing to do with those
    /// of shm_open(3), under `/dev/shm`.
    ///
    /// It costs five descriptors, and the first name three more.
    ///
    /// As long as this process has a name, it has a thread that answers those who come, and so can't [`Fork`](crate::StartMethod::Fork).
    ///
    /// # Errors
    /// [`NameError::Taken`] if somebody has the name, and others that are in [`MemoryError::Name`]; [`Error::Make`](crate::Error::Make) as for [`new`](SharedMemory::new).
    ///
    /// # Implementation notes
    /// An abstract Unix socket (see unix(7)) at which the thread listens, and hands out the descriptors.
    pub fn create(name: &str, len: usize) -> Result<SharedMemory> {
        SharedMemory::options().name(name).create(len)
    }

    /// The memory of this name, which another process has [created](SharedMemory::create), or this one. Waits for its owner, for ten seconds at most.
    ///
    /// # Errors
    /// [`MemoryError::Name`]: [`NameError::NotFound`] if there is none, [`NameError::TimedOut`] if its owner is stopped; `EMFILE`, `ENOMEM`.
    pub fn open(name: &str) -> Result<SharedMemory, MemoryError> {
        let region = find(name, Access::Write)?;
        let name = Name { text: name.into(), published: Mutex::new(None), offering: None };
        Ok(SharedMemory { bytes: Array::of(Arc::new(region), Some(Arc::new(name))) })
    }

    /// The same, to be read only.
    ///
    /// # Errors
    /// As [`open`](SharedMemory::open).
    pub fn open_read_only(name: &str) -> Result<ReadOnlyMemory, MemoryError> {
        Ok(ReadOnlyMemory::of(Arc::new(find(name, Access::ReadOnly)?)))
    }

    /// The name by which it was created or opened. A handle that has come from another process in a message knows none.
    pub fn name(&self) -> Option<&str> {
        self.bytes.name().map(|name| &*name.text)
    }

    /// Takes its name away, so that nobody finds it any more, and the name is free for others. Those who have it keep it.
    ///
    /// It may be the owner who does so or anybody who has opened it by the name. If the name is somebody else's memory by now, it is gone all the same, unless this process had
    /// created it.
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
    /// [`MemoryError::Nameless`] if this handle knows of no name; [`NameError::NotFound`] if it is gone already.
    pub fn unlink(&self) -> Result<(), MemoryError> {
        let name = self.bytes.name().ok_or(MemoryError::Nameless)?;
        if name.offering.is_none() {
            return Ok(names::withdraw(&name.text, Instant::now() + PATIENCE)?);
        }
        let published = name.published.lock().unwrap_or_else(PoisonError::into_inner).take();
        match published.is_some_and(|published| published.is_live()) {
            true => Ok(()),
            false => Err(NameError::NotFound { name: name.text.clone() }.into()),
        }
    }

    pub(super) fn of(region: Arc<Region>) -> SharedMemory {
        SharedMemory { bytes: Array::of(region, None) }
    }

    fn region(&self) -> &Arc<Region> {
        self.bytes.region()
    }

    /// How many bytes there can be: as many as there are, unless it was made [growable](SharedMemoryOptions::growable).
    pub fn max_len(&self) -> usize {
        self.region().most()
    }

    /// Has `len` bytes from now on, for all who have it; unless there are more already. Those that are new are zero. Whoever holds it keeps the slice that they have, and
    /// sees the rest when they lock it the next time. It doesn't move.
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
    /// [`MemoryError::Limit`] beyond [`max_len`](SharedMemory::max_len); `ENOSPC`, `ENOMEM`. Then nothing has changed.
    pub fn grow(&self, len: usize) -> Result<(), MemoryError> {
        if len > self.max_len() {
            return Err(MemoryError::Limit { asked: len, most: self.max_len() });
        }
        self.region().grow(len as u64).map_err(MemoryError::io("grow shared memory"))
    }

    /// All of it as atomics: `AtomicU8` to `AtomicU64`, `AtomicI8` to `AtomicI64`, `AtomicUsize` and `AtomicIsize`; as many as there are at this moment. If some bytes
    /// at the end are too few for one more, they are left out.
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
    /// [`MemoryError::Locked`] if it has been used under its lock, [`MemoryError::Atomics`] if it has been used as atomics of another size, by whomever.
    pub fn as_atomics<A: Atomic>(&self) -> Result<&[A], MemoryError> {
        let size = size_of::<A>();
        self.region().use_as(Usage::Atomics(size)).map_err(|usage| MemoryError::used_as(usage, size))?;
        // SAFETY: so many bytes are mapped, from a page on, for as long as this handle is there; any bytes are an atomic, and all who touch them do so as such:
        // it has just been seen that the memory is used so.
        Ok(unsafe { std::slice::from_raw_parts(self.as_ptr().cast_const().cast(), self.len() / size) })
    }

    /// The same memory, as an array of values of this type: with the same lock, and as many as there are at this moment and later.
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
    /// [`MemoryError::Length`] if that is no whole number of values.
    pub fn as_array<T: Plain>(&self) -> Result<Array<T>, MemoryError> {
        let (len, size) = (self.len(), size_of::<T>());
        match len.checked_rem(size) {
            Some(0) => Ok(Array::of(self.region().clone(), self.bytes.name().cloned())),
            _ => Err(MemoryError::Length { len, size }),
        }
    }

    /// A handle by which it can only be read: memory is mapped so that a write to it is a `SIGSEGV` of the process that tries. It travels as this does.
    ///
    /// It keeps from mistakes, not from malice: who has it and is of the same user can come by the whole.
    ///
    /// ```
    /// use multiproc::{Process, ReadOnlyMemory, SharedMemory};
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

    /// Makes bytes of it that nobody can change any more: without a copy. It must have been let go of by all others who could write to it. Who finds it later in a message, to be written, gets an
    /// error.
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
    /// [`FreezeError`], with the memory, if it is mapped elsewhere still: in another process, or by another handle in this one; and if it is poisoned:
    /// [`clear_poison`](Array::clear_poison) when it is in order.
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
            Ok((control, memory)) => (control, memory.expect("it has a file of its own")),
            Err(error) => {
                return Err(FreezeError { memory: Some(with_name(Arc::new(region), name)), error: io(error) });
            }
        };
        // Of this handle's, no mapping is left in which it could be written.
        let (file, len) = region.into_file().expect("it has a file of its own");
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

    /// Where it begins in this process's memory: with a page. It stays there as long as this handle, or a clone of it, does.
    pub fn as_ptr(&self) -> *mut u8 {
        self.region().start().as_ptr()
    }

    /// The memory file (see memfd_create(2)), for those who know nothing of this library: a library in C, a device. It begins with the first byte, and has as many as there
    /// [can be](SharedMemory::max_len), in whole pages.
    ///
    /// # Safety
    /// Whoever reads or writes it, or maps it, must do so as if by [`as_slice`](SharedMemory::as_slice) or [`as_mut_slice`](SharedMemory::as_mut_slice): while others have slices of it, nobody may write.
    pub unsafe fn memory_fd(&self) -> BorrowedFd<'_> {
        self.region().memory().expect("it has a file of its own")
    }

    /// All of it, without asking anybody.
    ///
    /// # Safety
    /// Nobody, in whatever process, may write to it for as long as the slice is there.
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped as long as this handle is there, and nobody changes them, as the caller says.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }

    /// All of it, to be changed, without asking anybody.
    ///
    /// What is written there may be read by others in any order, and torn. For writes that race, go by [`as_ptr`](SharedMemory::as_ptr) and write with
    /// [`write_volatile`](std::ptr::write_volatile), or use [atomics](SharedMemory::as_atomics).
    ///
    /// # Safety
    /// Nobody else, in whatever process, may read it or write to it for as long as the slice is there.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn as_mut_slice(&self) -> &mut [u8] {
        // SAFETY: so many bytes are mapped as long as this handle is there, and nobody else touches them, as the caller says.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len()) }
    }
}

/// As an array of bytes.
impl Deref for SharedMemory {
    type Target = Array<u8>;

    #[inline]
    fn deref(&self) -> &Array<u8> {
        &self.bytes
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
            None => Err(serde::de::Error::custom("this is no shared memory but an array")),
        }
    }
}

/// The pages that [`SharedMemory`] is made of, if not of the usual 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HugePages {
    /// Those that the kernel makes by itself, if it does so for memory files: see `/sys/kernel/mm/transparent_hugepage/shmem_enabled`, which has to be `advise` or more. If not, they are of the usual
    /// size.
    Transparent,
    /// Of those that the administrator has put in reserve, of the system's default size: see `/proc/sys/vm/nr_hugepages`. If there are too few, that is an error.
    Reserved,
}

/// How shared memory is to be made: of [`SharedMemory::options`].
#[derive(Debug, Clone)]
#[must_use = "nothing is made before `create`"]
pub struct SharedMemoryOptions {
    most: usize,
    pages: Pages,
    name: Option<String>,
}

impl SharedMemoryOptions {
    /// It can [grow](SharedMemory::grow) to `max_len` bytes. So much address space is taken at once, by everybody who has it, and no memory.
    pub fn growable(mut self, max_len: usize) -> SharedMemoryOptions {
        self.most = max_len;
        self
    }

    /// It is made of huge pages, which spares faults and TLB misses where there is much.
    ///
    /// ```
    /// use multiproc::{HugePages, SharedMemory};
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

    /// Others find it by this name: see [`SharedMemory::create`].
    pub fn name(mut self, name: &str) -> SharedMemoryOptions {
        self.name = Some(name.into());
        self
    }

    /// New memory of `len` bytes, all of them zero.
    ///
    /// # Errors
    /// [`Error::Make`](crate::Error::Make): no descriptor, no memory, no address space or no huge pages are left. With a name, those of [`SharedMemory::create`].
    pub fn create(&self, len: usize) -> Result<SharedMemory> {
        let most = self.most.max(len) as u64;
        let wanted = Wanted { len: len as u64, most, pages: self.pages, name: "multiproc-shared memory".into() };
        let region = Region::create_apart(&wanted).map_err(not_made("shared memory"))?;
        let name = self.name.as_ref().map(|name| published(name, &region)).transpose()?;
        Ok(SharedMemory { bytes: Array::of(Arc::new(region), name.map(Arc::new)) })
    }
}

/// Whether nobody holds it, or has come to grief with it; of memory that is used under its lock.
fn in_order(region: &Region) -> Result<(), MemoryError> {
    if region.usage() != Some(Usage::Locked) {
        return Ok(());
    }
    match guard::lock::<u8>(region, Patience::None) {
        Ok(Some(_guard)) => Ok(()),
        Ok(None) => Err(MemoryError::InUse),
        Err(LockError::Misuse(misuse)) => Err(misuse.into()),
        Err(LockError::Poisoned(poisoned)) => Err(MemoryError::Poisoned(poisoned.to_string())),
    }
}

/// Has others find it by this name.
fn published(name: &str, region: &Region) -> Result<Name, MemoryError> {
    let fail = |source| NameError::Io { name: name.into(), source };
    let (control, memory) = region.descriptors(Access::Write).map_err(fail)?;
    let memory = SharedFile::from_fd(memory.expect("it has a file of its own")).map_err(fail)?;
    let offering = Arc::new(Offering { control, memory });
    let offer: Weak<Offering> = Arc::downgrade(&offering);
    let published = Mutex::new(Some(names::publish(name, offer)?));
    Ok(Name { text: name.into(), published, offering: Some(offering) })
}

/// What has this name, with this access.
fn find(name: &str, access: Access) -> Result<Region, MemoryError> {
    let wish = match access {
        Access::Write => TO_WRITE,
        Access::ReadOnly => TO_READ,
    };
    let found = names::find(name, wish, Instant::now() + PATIENCE)?;
    let garbage = || NameError::Garbage { name: name.into(), owner: found.owner }.into();
    let mut fds = found.fds.into_iter();
    let (Some(control), Some(memory), None) = (fds.next(), fds.next(), fds.next()) else { return Err(garbage()) };
    match Region::open(control, Some(memory)) {
        Ok(region) if region.access() == access => Ok(region),
        Ok(_) => Err(garbage()),
        // Its owner is about to take the name away.
        Err(error) if error.kind() == FROZEN => Err(NameError::NotFound { name: name.into() }.into()),
        Err(source) => Err(NameError::Io { name: name.into(), source }.into()),
    }
}
