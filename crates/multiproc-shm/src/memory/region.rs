//! A region of memory that several processes read and write: under a lock, as a whole or in parts;
//! or as atomics.
//!
//! The memory lies behind the lock in the same file, or in a file of its own. In its own file it
//! can be shared read-only, grow, be frozen, and consist of huge pages. All memory is allocated
//! before it may be touched. The protocol is described in `shared/PROTOCOL.md` of `multiproc`.

use std::io;
use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use multiproc_os::shared_memory::{Mapping, PAGE, SharedFile};

use crate::lock::parts::{Division, MAX_PARTS, Part, Plan};
use crate::lock::readers::{Entrance, MAX_READERS, Readers, RwAcquireError, Slot, WORDS};
use crate::lock::robust_word::LockMapping;
use crate::memory::segment::{Layout, Segment, layout};
use crate::wait::deadline::Deadline;

layout! {
    /// The shared words beside the memory.
    pub struct Control {
        entrance: Entrance,
        division: Division,
        /// How the memory is used: 0 if it hasn't been used yet; [`LOCKED`]; or the size of the
        /// atomics in bytes.
        usage: AtomicU32,
        _reserved: AtomicU32,
        /// Length of the memory in bytes. Never decreases.
        len: AtomicU64,
        /// The maximum length, in bytes.
        most: AtomicU64,
        /// The type of the elements, if it matters: see [`Kind`].
        kind: [AtomicU64; 3],
        slots: [Slot; MAX_READERS],
        parts: [Part; MAX_PARTS],
    }
}

// SAFETY: `#[repr(C)]`, and made of structs of atomics.
unsafe impl Layout for Control {
    const NAME: &'static str = "shared memory";
    const KIND: u32 = 0x50;
    const INITIAL_LEN: usize = offset_of!(Control, slots);
}

impl Readers for Control {
    #[inline]
    fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    #[inline]
    fn slots(&self) -> &[Slot; MAX_READERS] {
        &self.slots
    }

    #[inline]
    fn division(&self) -> Option<&Division> {
        Some(&self.division)
    }

    #[inline]
    fn all_parts(&self) -> &[Part] {
        &self.parts
    }
}

/// The [`Control`] word for memory that is used under its lock.
const LOCKED: u32 = u32::MAX;

/// The kind of the error for an attempt to write memory that has been frozen.
pub const FROZEN: io::ErrorKind = io::ErrorKind::ReadOnlyFilesystem;

/// Identifies an element type; all zeros for bytes, which can be opened as any type.
pub type Kind = [u64; 3];

/// How the memory is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Under its lock.
    Locked,
    /// As atomics of this many bytes each.
    Atomics(usize),
}

impl Usage {
    fn number(self) -> u32 {
        match self {
            Usage::Locked => LOCKED,
            Usage::Atomics(size) => size as u32,
        }
    }

    fn of(number: u32) -> Usage {
        match number {
            LOCKED => Usage::Locked,
            size => Usage::Atomics(size as usize),
        }
    }
}

/// Properties of a region that is created.
#[derive(Debug, Clone)]
pub struct RegionConfig {
    /// Length, in bytes.
    pub len: u64,
    /// Maximum length, in bytes.
    pub most: u64,
    /// The pages that it consists of.
    pub pages: Pages,
    /// Name of the file in `/proc/*/maps`.
    pub name: String,
}

/// The pages that memory consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pages {
    /// Of the usual size.
    #[default]
    Small,
    /// Huge, where the kernel provides huge pages by itself.
    Transparent,
    /// Huge, from those that the administrator has reserved.
    Reserved,
}

/// The access that the descriptors of a region give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading and writing.
    Write,
    /// Reading only.
    ReadOnly,
}

/// A process's view of a region; see the module.
#[derive(Debug)]
pub struct Region {
    control: LockMapping<Control, { WORDS + MAX_PARTS }>,
    /// The memory's own file, unless the memory lies behind the control.
    file: Option<SharedFile>,
    mapping: Mapping,
    access: Access,
}

impl Region {
    /// Offset of memory that lies behind the control.
    const MEMORY_OFFSET: usize = Segment::<Control>::LEN;

    /// Creates a region of `len` bytes, all zero, in one file.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`, `EFBIG`.
    pub fn create(len: u64, kind: Kind) -> io::Result<Region> {
        let segment: Segment<Control> = Segment::create()?;
        let (pages, behind) = (whole_pages(len, PAGE)?, Region::MEMORY_OFFSET as u64);
        segment.file().grow(behind + pages as u64)?;
        segment.file().allocate(behind, len)?;
        segment.file().seal_size()?;
        let mapping = Mapping::new(segment.file(), behind, pages)?;
        let region = Region { control: LockMapping::new(segment), file: None, mapping, access: Access::Write };
        region.begin(len, len, kind);
        Ok(region)
    }

    /// Creates a region with a file of its own for the memory.
    ///
    /// # Errors
    /// As [`create`](Region::create).
    pub fn create_apart(wanted: &RegionConfig) -> io::Result<Region> {
        let most = wanted.most.max(wanted.len);
        let file = match wanted.pages {
            Pages::Reserved => {
                let file = SharedFile::create_of_huge_pages(&wanted.name, 0)?;
                file.grow(whole_pages(most, file.page()?)? as u64)?;
                file
            }
            _ => SharedFile::create(&wanted.name, whole_pages(most, PAGE)? as u64)?,
        };
        file.seal_size()?;
        let mapping = Mapping::new(&file, 0, file.size()? as usize)?;
        let region =
            Region { control: LockMapping::new(Segment::create()?), file: Some(file), mapping, access: Access::Write };
        if wanted.pages == Pages::Transparent {
            region.mapping.prefer_huge_pages();
        }
        region.allocate(0, wanted.len, wanted.pages)?;
        region.begin(wanted.len, most, [0; 3]);
        Ok(region)
    }

    fn begin(&self, len: u64, most: u64, kind: Kind) {
        for (word, number) in self.control.kind.iter().zip(kind) {
            word.store(number, Relaxed);
        }
        self.control.most.store(most, Relaxed);
        self.control.len.store(len, SeqCst);
    }

    /// Opens a region that has come from another process.
    ///
    /// # Errors
    /// `InvalidData` if it is something else, or has been truncated; `ReadOnlyFilesystem` if the
    /// descriptor is writable but the memory has been frozen; `ENOMEM`, `ENOSPC`.
    pub fn open(control: OwnedFd, file: Option<OwnedFd>) -> io::Result<Region> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("invalid shared memory: {what}"));
        let control = LockMapping::new(Segment::<Control>::open(control)?);
        let file = file.map(|file| {
            SharedFile::from_fd(file).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => invalid(&error.to_string()),
                _ => error,
            })
        });
        let file = file.transpose()?;
        let (memory, from) = match &file {
            Some(file) => (file, 0),
            None => (control.file(), Region::MEMORY_OFFSET as u64),
        };
        let access = if memory.is_writable()? { Access::Write } else { Access::ReadOnly };
        // It may be frozen at any moment.
        let or_frozen = |error| match memory.is_frozen() {
            Ok(true) => io::Error::new(FROZEN, "this shared memory has been frozen, and can't be written any more"),
            _ => error,
        };
        let there = memory.size()?.saturating_sub(from);
        let len = control.len.load(SeqCst);
        if len > there || there == 0 {
            return Err(invalid("it is too short"));
        }
        // Touching memory that another process has freed would allocate it in a page fault, and
        // kill this process with SIGBUS if there is none left.
        if access == Access::Write && memory.allocated()? < len {
            memory.allocate(from, len).map_err(or_frozen)?;
        }
        let there = usize::try_from(there).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mapping = match access {
            Access::Write => map_to_write(memory, from, there).map_err(or_frozen)?,
            Access::ReadOnly => Mapping::read_only(memory, from, there)?,
        };
        Ok(Region { control, file, mapping, access })
    }

    /// Returns the descriptors from which another process can [open](Region::open) the region with
    /// this access: the control's, and the memory's if it has its own file.
    ///
    /// # Errors
    /// `Unsupported` for read-only access if the memory lies behind the control; `EMFILE`,
    /// `ENFILE`.
    pub fn descriptors(&self, access: Access) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let file = match (&self.file, access) {
            (Some(file), Access::ReadOnly) if self.access == Access::Write => Some(file.open_read_only()?),
            (Some(file), _) => Some(file.as_fd().try_clone_to_owned()?),
            (None, Access::Write) => None,
            (None, Access::ReadOnly) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok((self.control.as_fd().try_clone_to_owned()?, file))
    }

    /// Returns the descriptor of the control.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Returns the descriptor of the memory, if it has a file of its own.
    pub fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Returns its name in error texts.
    pub fn name(&self) -> &'static str {
        if self.file.is_some() { "shared memory" } else { "array" }
    }

    /// Returns what this process may do with the region.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Returns the length, in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        (self.control.len.load(SeqCst) as usize).min(self.mapping.len())
    }

    /// Returns whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the maximum length, in bytes.
    pub fn most(&self) -> usize {
        (self.control.most.load(Relaxed) as usize).min(self.mapping.len())
    }

    /// Returns the type of the elements.
    pub fn kind(&self) -> Kind {
        std::array::from_fn(|index| self.control.kind[index].load(Relaxed))
    }

    /// Returns the address of the memory. It never changes.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        self.mapping.start()
    }

    /// Grows the memory to at least `len` bytes. Locks on the whole or on parts stay held.
    ///
    /// # Errors
    /// `InvalidInput` if `len` exceeds the maximum; `ENOSPC`, `ENOMEM`, in which case nothing has
    /// changed.
    pub fn grow(&self, len: u64) -> io::Result<()> {
        let now = self.control.len.load(SeqCst);
        if len > self.most() as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if len > now {
            self.allocate(now, len - now, Pages::Small)?;
            self.control.len.fetch_max(len, SeqCst);
        }
        Ok(())
    }

    /// Allocates `len` bytes of the memory's own file.
    fn allocate(&self, from: u64, len: u64, pages: Pages) -> io::Result<()> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        if pages == Pages::Transparent {
            file.check_available(from, len)?;
            // By page faults, since only there does the kernel know which kind of page is wanted.
            self.mapping.populate(from as usize, len as usize);
        }
        // In whole pages, of any size.
        let page = file.page()? as u64;
        let first = from / page * page;
        file.allocate(first, (from + len).next_multiple_of(page) - first)
    }

    /// Populates the page tables for this range.
    pub fn populate(&self, range: Range<usize>) {
        match self.access {
            Access::Write => self.mapping.populate(range.start, range.len()),
            Access::ReadOnly => self.mapping.populate_to_read(range.start, range.len()),
        }
    }

    /// How the memory is used, if it has been used.
    pub fn usage(&self) -> Option<Usage> {
        match self.control.usage.load(SeqCst) {
            0 => None,
            number => Some(Usage::of(number)),
        }
    }

    /// Checks that the memory is used in this way, and decides that if it hasn't been used yet. The
    /// error is the other use.
    #[inline]
    pub fn use_as(&self, usage: Usage) -> Result<(), Usage> {
        match self.control.usage.load(SeqCst) {
            number if number == usage.number() => Ok(()),
            0 => self.use_first_as(usage),
            other => Err(Usage::of(other)),
        }
    }

    #[cold]
    fn use_first_as(&self, usage: Usage) -> Result<(), Usage> {
        match self.control.usage.compare_exchange(0, usage.number(), SeqCst, SeqCst) {
            Ok(_) => Ok(()),
            Err(number) if number == usage.number() => Ok(()),
            Err(other) => Err(Usage::of(other)),
        }
    }

    /// Returns the lock, for the methods of [`Readers`] and [`crate::lock::parts`].
    #[inline]
    pub fn lock(&self) -> &LockMapping<Control, { WORDS + MAX_PARTS }> {
        &self.control
    }

    /// Divides the memory as `plan` says.
    ///
    /// # Errors
    /// As [`LockMapping::divide`]; [`RwAcquireError::TooManyReaders`] if there is no memory for
    /// that many parts.
    pub fn divide(&self, plan: &Plan) -> Result<u32, RwAcquireError> {
        self.control
            .divide(plan, Deadline::Never, |count| self.control.allocate_for(&self.control.parts[..count]).is_ok())
    }

    /// Returns the version of the current division, and its plan.
    pub fn plan(&self) -> Option<(u32, Plan)> {
        self.control.division.plan()
    }

    /// Returns the memory's file, to be frozen, and the length; none if the memory lies behind the
    /// control.
    pub fn into_file(self) -> Option<(SharedFile, usize)> {
        let len = self.len();
        self.file.map(|file| (file, len))
    }
}

/// Maps memory for writing.
///
/// While another process tries to freeze the file, the kernel already refuses writable mappings;
/// the attempt to freeze may then succeed or fail. So this retries until it is decided.
fn map_to_write(memory: &SharedFile, from: u64, len: usize) -> io::Result<Mapping> {
    const MAX_TRIES: u32 = 10_000;
    for _ in 0..MAX_TRIES {
        match Mapping::new(memory, from, len) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !memory.is_frozen()? => {
                std::thread::yield_now();
            }
            result => return result,
        }
    }
    Mapping::new(memory, from, len)
}

/// `len` bytes in whole pages, at least one page.
fn whole_pages(len: u64, page: usize) -> io::Result<usize> {
    let len = usize::try_from(len).ok().and_then(|len| len.max(1).checked_next_multiple_of(page));
    // No mapping may be longer than `isize::MAX`.
    let len = len.filter(|len| *len <= isize::MAX as usize - Region::MEMORY_OFFSET);
    len.ok_or_else(|| io::Error::from_raw_os_error(multiproc_os::errno::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(len: u64) -> RegionConfig {
        RegionConfig { len, most: len, pages: Pages::Small, name: "multiproc-test".into() }
    }

    fn again(region: &Region, access: Access) -> io::Result<Region> {
        let (control, file) = region.descriptors(access)?;
        Region::open(control, file)
    }

    #[test]
    fn freed_part_is_reused() {
        let len = 10 * PAGE as u64;
        for region in [Region::create(len, [0; 3]).unwrap(), Region::create_apart(&wanted(len)).unwrap()] {
            let (file, from) = match &region.file {
                Some(file) => (file, 0),
                None => (region.control.file(), Region::MEMORY_OFFSET as u64),
            };
            let before = file.allocated().unwrap();
            file.free(from, len);
            assert!(file.allocated().unwrap() < len);
            drop(again(&region, Access::Write).unwrap());
            assert!(file.allocated().unwrap() >= len && file.allocated().unwrap() <= before);
        }
    }

    #[test]
    fn control_needs_write_access() {
        let region = Region::create(1, [0; 3]).unwrap();
        assert_eq!(again(&region, Access::ReadOnly).unwrap_err().kind(), io::ErrorKind::Unsupported);
        assert_eq!(region.memory().map(drop), None);
        let region = Region::create_apart(&wanted(1)).unwrap();
        let view = again(&region, Access::ReadOnly).unwrap();
        // A read-only handle can itself produce read-only handles.
        assert_eq!(again(&view, Access::ReadOnly).unwrap().access(), Access::ReadOnly);
    }

    #[test]
    fn garbage() {
        let region = Region::create(3 * PAGE as u64, [0; 3]).unwrap();
        for garbage in [u64::MAX, 1 << 63, 4 * PAGE as u64] {
            region.control.len.store(garbage, SeqCst);
            region.control.most.store(garbage, SeqCst);
            assert_eq!((region.len(), region.most()), (3 * PAGE, 3 * PAGE));
            let error = again(&region, Access::Write).unwrap_err();
            assert!(error.to_string().contains("too short"), "{error}");
        }
        region.control.usage.store(77, SeqCst);
        assert_eq!(region.use_as(Usage::Locked), Err(Usage::Atomics(77)));
    }

    #[test]
    fn repair_after_death_while_splitting() {
        let region = Region::create(100, [0; 3]).unwrap();
        let plan = Plan { count: 4, each: 0, all: 100, unit: 1 };
        let version = region.divide(&plan).unwrap();
        assert_eq!(region.divide(&plan), Ok(version));
        let lock = region.lock();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                lock.write(Deadline::Never).unwrap();
                lock.division().unwrap().begin_change();
            });
        });
        assert_eq!(region.plan(), None);
        assert_eq!(lock.lock_part(1, version, Deadline::Never), Err(RwAcquireError::StalePart));
        let next = region.divide(&plan).unwrap();
        assert!(next > version + 1);
        lock.lock_part(1, next, Deadline::Now).unwrap();
        assert_eq!(lock.lock_part(1, version, Deadline::Now), Err(RwAcquireError::StalePart));
        lock.end_part(1);
    }
}
