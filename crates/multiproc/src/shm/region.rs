//! Memory of any length that several processes read and write: under a lock, as a whole or in parts; or as atomics.
//!
//! It lies behind the lock in the same file, or in a file of its own: then it can be handed out for reading alone, grow, be frozen, and be of huge pages. All of it
//! that may be touched has memory beforehand. `../shared/PROTOCOL.md`.

use std::io;
use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use multiproc_os::shared_memory::{Mapping, PAGE, SharedFile};

use super::parts::{Division, MOST_PARTS, Part, Plan};
use super::readers::{Denial, Entrance, MOST, Readers, Slot, WORDS};
use super::robust_word::{LockMapping, Patience};
use super::segment::{Layout, Segment, layout};

layout! {
    /// What is beside the memory.
    pub(crate) struct Control {
        entrance: Entrance,
        division: Division,
        /// What it is used as: 0, not yet; [`LOCKED`]; or atomics of so many bytes.
        usage: AtomicU32,
        _reserved: AtomicU32,
        /// How many bytes there are. It only grows.
        len: AtomicU64,
        /// How many there can be.
        most: AtomicU64,
        /// What it is made of, if that matters: see [`Kind`].
        kind: [AtomicU64; 3],
        slots: [Slot; MOST],
        parts: [Part; MOST_PARTS],
    }
}

// SAFETY: `#[repr(C)]`, of what is made of atomics.
unsafe impl Layout for Control {
    const NAME: &'static str = "shared memory";
    const KIND: u32 = 0x50;
    const AT_ONCE: usize = offset_of!(Control, slots);
}

impl Readers for Control {
    #[inline]
    fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    #[inline]
    fn slots(&self) -> &[Slot; MOST] {
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

/// The memory is used under its lock.
const LOCKED: u32 = u32::MAX;

/// The kind of the error when somebody wants to write what has been frozen.
pub(crate) const FROZEN: io::ErrorKind = io::ErrorKind::ReadOnlyFilesystem;

/// What tells types apart; all zero: bytes, which may be taken for anything.
pub(crate) type Kind = [u64; 3];

/// What the memory is to be used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Under its lock.
    Locked,
    /// As atomics of so many bytes.
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

/// How a region is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// How many bytes.
    pub(crate) len: u64,
    /// How many there can be some day.
    pub(crate) most: u64,
    pub(crate) pages: Pages,
    /// What its file is called in `/proc/*/maps`.
    pub(crate) name: String,
}

/// The pages that memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Pages {
    /// Of the usual size.
    #[default]
    Small,
    /// Huge, where the kernel makes such by itself.
    Transparent,
    /// Huge, of those that the administrator has put in reserve.
    Reserved,
}

/// What somebody may do who has the descriptors of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    ReadOnly,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Region {
    control: LockMapping<Control, { WORDS + MOST_PARTS }>,
    /// Where the memory lies, if not behind the control.
    file: Option<SharedFile>,
    mapping: Mapping,
    access: Access,
}

impl Region {
    /// Where the memory begins that lies behind the control.
    const BEHIND: usize = Segment::<Control>::LEN;

    /// One of `len` bytes, all zero, in one file.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`, `EFBIG`.
    pub(crate) fn create(len: u64, kind: Kind) -> io::Result<Region> {
        let segment: Segment<Control> = Segment::create()?;
        let (pages, behind) = (whole_pages(len, PAGE)?, Region::BEHIND as u64);
        segment.file().grow(behind + pages as u64)?;
        segment.file().allocate(behind, len)?;
        segment.file().fix()?;
        let mapping = Mapping::new(segment.file(), behind, pages)?;
        let region = Region { control: LockMapping::new(segment), file: None, mapping, access: Access::Write };
        region.begin(len, len, kind);
        Ok(region)
    }

    /// One whose memory has a file of its own.
    ///
    /// # Errors
    /// As [`create`](Region::create).
    pub(crate) fn create_apart(wanted: &Wanted) -> io::Result<Region> {
        let most = wanted.most.max(wanted.len);
        let file = match wanted.pages {
            Pages::Reserved => {
                let file = SharedFile::create_of_huge_pages(&wanted.name, 0)?;
                file.grow(whole_pages(most, file.page()?)? as u64)?;
                file
            }
            _ => SharedFile::create(&wanted.name, whole_pages(most, PAGE)? as u64)?,
        };
        file.fix()?;
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
        for (place, number) in self.control.kind.iter().zip(kind) {
            place.store(number, Relaxed);
        }
        self.control.most.store(most, Relaxed);
        self.control.len.store(len, SeqCst);
    }

    /// One that has come from another process.
    ///
    /// # Errors
    /// `InvalidData` when it is something else, or has been cut; `ReadOnlyFilesystem` when it was to be written and has been frozen; `ENOMEM`, `ENOSPC`.
    pub(crate) fn open(control: OwnedFd, file: Option<OwnedFd>) -> io::Result<Region> {
        let invalid =
            |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("this is no shared memory: {what}"));
        let control: LockMapping<Control, _> = LockMapping::new(Segment::open(control)?);
        let file = file.map(|file| {
            SharedFile::from_fd(file).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => invalid(&error.to_string()),
                _ => error,
            })
        });
        let file = file.transpose()?;
        let (memory, from) = match &file {
            Some(file) => (file, 0),
            None => (control.file(), Region::BEHIND as u64),
        };
        let access = if memory.is_writable()? { Access::Write } else { Access::ReadOnly };
        // It may be so at any moment.
        let or_frozen = |error| match memory.is_frozen() {
            Ok(true) => io::Error::new(FROZEN, "this shared memory has been frozen, and can't be written any more"),
            _ => error,
        };
        let there = memory.size()?.saturating_sub(from);
        let len = control.len.load(SeqCst);
        if len > there || there == 0 {
            return Err(invalid("it is too short"));
        }
        // What somebody has given back without being asked would be a fault of this process.
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

    /// What to [open](Region::open) it by, with this access: the descriptor of the control, and that of the memory if it has one of its own.
    ///
    /// # Errors
    /// `Unsupported` for reading only, if the memory can't be had without the control; `EMFILE`, `ENFILE`.
    pub(crate) fn descriptors(&self, access: Access) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let file = match (&self.file, access) {
            (Some(file), Access::ReadOnly) if self.access == Access::Write => Some(file.open_read_only()?),
            (Some(file), _) => Some(file.as_fd().try_clone_to_owned()?),
            (None, Access::Write) => None,
            (None, Access::ReadOnly) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok((self.control.as_fd().try_clone_to_owned()?, file))
    }

    /// The descriptor of the control.
    pub(crate) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// That of the memory, if it has one of its own.
    pub(crate) fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// What it is called in errors.
    pub(crate) fn name(&self) -> &'static str {
        if self.file.is_some() { "shared memory" } else { "array" }
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// How many bytes there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        (self.control.len.load(SeqCst) as usize).min(self.mapping.len())
    }

    /// How many there can be.
    pub(crate) fn most(&self) -> usize {
        (self.control.most.load(Relaxed) as usize).min(self.mapping.len())
    }

    /// What it is made of.
    pub(crate) fn kind(&self) -> Kind {
        std::array::from_fn(|index| self.control.kind[index].load(Relaxed))
    }

    /// Where it begins. It stays there.
    #[inline]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.mapping.start()
    }

    /// Has `len` bytes, or more. Whoever has a part of it, or all of it, keeps what they have.
    ///
    /// # Errors
    /// `InvalidInput` beyond the most that there can be; `ENOSPC`, `ENOMEM`, and then nothing has changed.
    pub(crate) fn grow(&self, len: u64) -> io::Result<()> {
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

    /// Has memory for so many bytes of a file of its own.
    fn allocate(&self, from: u64, len: u64, pages: Pages) -> io::Result<()> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        if pages == Pages::Transparent {
            file.look_for(from, len)?;
            // By a fault, since the kernel knows only there whose pages they are to be.
            self.mapping.populate(from as usize, len as usize);
        }
        // By whole pages, whatever their size.
        let page = file.page()? as u64;
        let first = from / page * page;
        file.allocate(first, (from + len).next_multiple_of(page) - first)
    }

    /// Has the pages of so many bytes mapped.
    pub(crate) fn populate(&self, range: Range<usize>) {
        match self.access {
            Access::Write => self.mapping.populate(range.start, range.len()),
            Access::ReadOnly => self.mapping.populate_to_read(range.start, range.len()),
        }
    }

    /// What it is used as, if it has been used.
    pub(crate) fn usage(&self) -> Option<Usage> {
        match self.control.usage.load(SeqCst) {
            0 => None,
            number => Some(Usage::of(number)),
        }
    }

    /// Sees whether it is used as this, and has it used as this from now on if it hasn't been used yet. What it is used as otherwise, if it is.
    #[inline]
    pub(crate) fn use_as(&self, usage: Usage) -> Result<(), Usage> {
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

    /// The lock, as [`Readers`] and [`super::parts`] have it.
    #[inline]
    pub(crate) fn lock(&self) -> &LockMapping<Control, { WORDS + MOST_PARTS }> {
        &self.control
    }

    /// Has it divided so.
    ///
    /// # Errors
    /// Those of [`LockMapping::divide`]; [`Denial::NoSlot`] if there is no memory for so many parts.
    pub(crate) fn divide(&self, plan: &Plan) -> Result<u32, Denial> {
        self.control
            .divide(plan, Patience::Endless, |count| self.control.allocate_for(&self.control.parts[..count]).is_ok())
    }

    /// How it is divided, and the number of that.
    pub(crate) fn plan(&self) -> Option<(u32, Plan)> {
        self.control.division.plan()
    }

    /// Takes the memory's file out, for it to be frozen; none if the memory is behind the control.
    pub(crate) fn into_file(self) -> Option<(SharedFile, usize)> {
        let len = self.len();
        self.file.map(|file| (file, len))
    }
}

/// Maps it to be written.
///
/// While somebody tries to freeze it the kernel refuses that already, a moment before it is frozen, or isn't after all. So it is tried again.
fn map_to_write(memory: &SharedFile, from: u64, len: usize) -> io::Result<Mapping> {
    const TRIES: u32 = 10_000;
    for _ in 0..TRIES {
        match Mapping::new(memory, from, len) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !memory.is_frozen()? => {
                std::thread::yield_now();
            }
            result => return result,
        }
    }
    Mapping::new(memory, from, len)
}

/// So many bytes in whole pages, one at least.
fn whole_pages(len: u64, page: usize) -> io::Result<usize> {
    let len = usize::try_from(len).ok().and_then(|len| len.max(1).checked_next_multiple_of(page));
    // No mapping is longer than half of what can be counted.
    let len = len.filter(|len| *len <= isize::MAX as usize - Region::BEHIND);
    len.ok_or_else(|| io::Error::from_raw_os_error(multiproc_os::errno::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(len: u64) -> Wanted {
        Wanted { len, most: len, pages: Pages::Small, name: "multiproc-test".into() }
    }

    fn again(region: &Region, access: Access) -> io::Result<Region> {
        let (control, file) = region.descriptors(access)?;
        Region::open(control, file)
    }

    #[test]
    fn what_was_given_back_is_there_again() {
        let len = 10 * PAGE as u64;
        for region in [Region::create(len, [0; 3]).unwrap(), Region::create_apart(&wanted(len)).unwrap()] {
            let (file, from) = match &region.file {
                Some(file) => (file, 0),
                None => (region.control.file(), Region::BEHIND as u64),
            };
            let before = file.allocated().unwrap();
            file.free(from, len);
            assert!(file.allocated().unwrap() < len);
            drop(again(&region, Access::Write).unwrap());
            assert!(file.allocated().unwrap() >= len && file.allocated().unwrap() <= before);
        }
    }

    #[test]
    fn memory_behind_its_control_is_not_for_reading_alone() {
        let region = Region::create(1, [0; 3]).unwrap();
        assert_eq!(again(&region, Access::ReadOnly).unwrap_err().kind(), io::ErrorKind::Unsupported);
        assert_eq!(region.memory().map(drop), None);
        let region = Region::create_apart(&wanted(1)).unwrap();
        let view = again(&region, Access::ReadOnly).unwrap();
        // One of those is as good as the first.
        assert_eq!(again(&view, Access::ReadOnly).unwrap().access(), Access::ReadOnly);
    }

    #[test]
    fn numbers_of_garbage_lead_nobody_out_of_it() {
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
    fn parts_are_put_right_when_somebody_has_died_dividing() {
        let region = Region::create(100, [0; 3]).unwrap();
        let plan = Plan { count: 4, each: 0, all: 100, unit: 1 };
        let version = region.divide(&plan).unwrap();
        assert_eq!(region.divide(&plan), Ok(version));
        let lock = region.lock();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                lock.write(Patience::Endless).unwrap();
                lock.division().unwrap().begin_change();
            });
        });
        assert_eq!(region.plan(), None);
        assert_eq!(lock.lock_part(1, version, Patience::Endless), Err(Denial::Stale));
        let next = region.divide(&plan).unwrap();
        assert!(next > version + 1);
        lock.lock_part(1, next, Patience::None).unwrap();
        assert_eq!(lock.lock_part(1, version, Patience::None), Err(Denial::Stale));
        lock.end_part(1);
    }
}
