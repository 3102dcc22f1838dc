//! The memory of one shared object (a segment): a memory file with its first part mapped, and a
//! header that says what it is.
//!
//! A [`Layout`] describes what lies in it.

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use multiproc_os::namespace;
use multiproc_os::shared_memory::{Mapping, PAGE, SharedFile};

pub use crate::memory::layout::{AnyBytes, Layout, layout};

/// The first eight bytes of a segment.
const MAGIC: u64 = u64::from_ne_bytes(*b"mulproc\x01");

/// The offset of the layout.
const LAYOUT_OFFSET: usize = 64;

#[repr(C)]
struct Header {
    magic: AtomicU64,
    kind: AtomicU32,
    /// The size of the layout (its lowest 32 bits), which another build of the program may have
    /// changed.
    size: AtomicU32,
    /// The PID namespace of the process that created the object: the thread ids in the memory are
    /// of this namespace. 0 if it isn't known.
    namespace: AtomicU32,
}

/// A segment that contains an `L`.
#[derive(Debug)]
pub struct Segment<L> {
    file: Arc<SharedFile>,
    /// The offset of the segment in the file: other segments may lie in the same file.
    base: u64,
    mapping: Mapping,
    layout: PhantomData<fn() -> L>,
}

impl<L: Layout> Segment<L> {
    /// The length of the header and the layout in the file, in whole pages.
    pub const LEN: usize = {
        assert!(align_of::<L>() <= LAYOUT_OFFSET && size_of::<Header>() <= LAYOUT_OFFSET);
        (LAYOUT_OFFSET + size_of::<L>()).next_multiple_of(PAGE)
    };

    /// How much of that has memory from the beginning.
    const INITIAL_LEN: usize = {
        assert!(L::INITIAL_LEN <= size_of::<L>());
        (LAYOUT_OFFSET + L::INITIAL_LEN).next_multiple_of(PAGE)
    };

    /// The length of the mapping, with `more` integers behind the layout.
    const fn mapped(more: usize) -> usize {
        Self::LEN + (more * 8).next_multiple_of(PAGE)
    }

    /// Creates a segment, all zero.
    ///
    /// # Errors
    /// `EMFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create() -> io::Result<Segment<L>> {
        Segment::create_for(L::TRAILING_WORDS)
    }

    /// As [`create`](Segment::create), with at most `more` integers behind the layout: for layouts
    /// that allow [fewer](Layout::TRAILING_WORDS_VARY).
    ///
    /// # Errors
    /// As [`create`](Segment::create).
    pub fn create_for(more: usize) -> io::Result<Segment<L>> {
        assert!(more == L::TRAILING_WORDS || L::TRAILING_WORDS_VARY && more < L::TRAILING_WORDS);
        let mapped = Self::mapped(more);
        let file = SharedFile::create(&format!("multiproc-{}", L::NAME), mapped as u64)?;
        Segment::create_at(Arc::new(file), 0, more)
    }

    /// As [`create`](Segment::create), in a file that is `behind` bytes longer than the segment.
    ///
    /// # Errors
    /// As [`create`](Segment::create).
    pub fn create_with_room(behind: u64) -> io::Result<Segment<L>> {
        let len = Self::mapped(L::TRAILING_WORDS) as u64 + behind;
        let file = SharedFile::create(&format!("multiproc-{}", L::NAME), len)?;
        Segment::create_at(Arc::new(file), 0, L::TRAILING_WORDS)
    }

    /// Creates a segment at the offset `base` of a file, which is all zero there and long enough,
    /// with `more` integers behind the layout, perhaps fewer than [`Layout::TRAILING_WORDS`].
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub fn create_at(file: Arc<SharedFile>, base: u64, more: usize) -> io::Result<Segment<L>> {
        file.allocate(base, Self::INITIAL_LEN as u64)?;
        let mapping = Mapping::new(&file, base, Self::mapped(more))?;
        let segment: Segment<L> = Segment { file, base, mapping, layout: PhantomData };
        let header = segment.header();
        header.kind.store(L::KIND, Relaxed);
        header.size.store(size_of::<L>() as u32, Relaxed);
        header.namespace.store(namespace::of_pids().unwrap_or(0), Relaxed);
        header.magic.store(MAGIC, Release);
        Ok(segment)
    }

    /// Maps a segment that was received from another process.
    ///
    /// # Errors
    /// `InvalidData` when it is something else; `Unsupported` when it was created in another PID
    /// namespace; `ENOMEM`.
    pub fn open(fd: OwnedFd) -> io::Result<Segment<L>> {
        let invalid = invalid::<L>;
        let file = SharedFile::from_fd(fd).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => invalid(&error),
            _ => error,
        })?;
        let (size, least) = (file.size()?, Self::mapped(if L::TRAILING_WORDS_VARY { 0 } else { L::TRAILING_WORDS }));
        if size < least as u64 {
            return Err(invalid(&"it is too short"));
        }
        let mapped = (size.min(Self::mapped(L::TRAILING_WORDS) as u64) as usize / PAGE) * PAGE;
        Segment::map(Arc::new(file), 0, mapped)
    }

    /// Maps a segment that was created [there](Segment::create_at) with this number of integers
    /// behind the layout.
    ///
    /// # Errors
    /// As [`open`](Segment::open).
    pub fn open_at(file: Arc<SharedFile>, base: u64, more: usize) -> io::Result<Segment<L>> {
        let mapped = Self::mapped(more);
        if file.size()? < base + mapped as u64 {
            return Err(invalid::<L>(&"it is too short"));
        }
        Segment::map(file, base, mapped)
    }

    fn map(file: Arc<SharedFile>, base: u64, mapped: usize) -> io::Result<Segment<L>> {
        let invalid = invalid::<L>;
        // Another process may have punched holes into the file. Touching one would raise SIGBUS in
        // this process if there were no memory left.
        file.allocate(base, Self::INITIAL_LEN as u64)?;
        let mapping = Mapping::new(&file, base, mapped)?;
        let segment: Segment<L> = Segment { file, base, mapping, layout: PhantomData };
        let header = segment.header();
        if header.magic.load(Acquire) != MAGIC || header.kind.load(Relaxed) != L::KIND {
            return Err(invalid(&"it is an object of another kind"));
        }
        if header.size.load(Relaxed) != size_of::<L>() as u32 {
            return Err(invalid(&"it was created by another build of the program"));
        }
        // In this namespace, a thread that holds something there has another id, or seems not to
        // exist: what it holds would be taken from it.
        match (header.namespace.load(Relaxed), namespace::of_pids()) {
            (theirs @ 1.., Some(ours)) if theirs != ours => {
                let text = format!("the {} belongs to another PID namespace: {theirs}, and this is {ours}", L::NAME);
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
            _ => {}
        }
        Ok(segment)
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping is long enough, starts at a page boundary, and the header is made of
        // atomics.
        unsafe { &*self.mapping.start().as_ptr().cast() }
    }

    /// Closes the file, and leaves its memory mapped forever.
    pub fn leave_mapped(self) {
        std::mem::forget(self.mapping);
    }

    /// Returns whether `what` lies in this segment's memory.
    #[inline]
    pub fn holds<T: ?Sized>(&self, what: &T) -> bool {
        let offset = (&raw const *what).addr().wrapping_sub(self.mapping.start().as_ptr() as usize);
        offset < Self::LEN && size_of_val(what) <= Self::LEN - offset
    }

    /// Allocates memory for a part of the layout that has none from the beginning.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub fn allocate_for<T: ?Sized>(&self, part: &T) -> io::Result<()> {
        assert!(self.holds(part), "the part lies in another segment");
        let offset = (&raw const *part).addr() - self.mapping.start().as_ptr() as usize;
        self.file.allocate(self.base + offset as u64, size_of_val(part) as u64)
    }

    /// Returns the integers behind the layout, zero at first. Those that haven't been allocated
    /// must not be touched.
    pub fn more(&self) -> &[AtomicU64] {
        let more = ((self.mapping.len() - Self::LEN) / 8).min(L::TRAILING_WORDS);
        // SAFETY: the mapping has room for this many integers behind the layout, which ends at a
        // page boundary; and they are atomics.
        unsafe { std::slice::from_raw_parts(self.mapping.start().as_ptr().add(Self::LEN).cast(), more) }
    }

    /// Allocates memory for the page of the integer with this index. Returns the index of the first
    /// integer of the next page.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub fn allocate_more(&self, index: usize) -> io::Result<usize> {
        let page = index * 8 / PAGE;
        self.file.allocate(self.base + (Self::LEN + page * PAGE) as u64, PAGE as u64)?;
        Ok(((page + 1) * PAGE / 8).min(self.more().len()))
    }

    /// Returns the memory file, for more segments in it.
    pub fn shared_file(&self) -> &Arc<SharedFile> {
        &self.file
    }

    /// Returns the memory file, for sending it, or for mapping more of it.
    pub fn file(&self) -> &SharedFile {
        &self.file
    }
}

/// The error of opening a file that is not a segment of this layout.
fn invalid<L: Layout>(what: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid {}: {what}", L::NAME))
}

impl<L: Layout> Deref for Segment<L> {
    type Target = L;

    #[inline]
    fn deref(&self) -> &L {
        // SAFETY: the mapping is long enough, and aligned: see LEN. A layout is made of atomics, so
        // any bytes are valid, and other processes may write there.
        unsafe { &*self.mapping.start().as_ptr().add(LAYOUT_OFFSET).cast() }
    }
}

impl<L> AsFd for Segment<L> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    #[repr(C)]
    struct Number(AtomicU64);
    // SAFETY: an atomic.
    unsafe impl Layout for Number {
        const NAME: &'static str = "number";
        const KIND: u32 = 1;
    }

    #[derive(Debug)]
    #[repr(C)]
    struct Other(AtomicU64);
    // SAFETY: an atomic.
    unsafe impl Layout for Other {
        const NAME: &'static str = "other";
        const KIND: u32 = 2;
    }

    #[test]
    fn smoke() {
        let one = Segment::<Number>::create().unwrap();
        let two = Segment::<Number>::open(one.as_fd().try_clone_to_owned().unwrap()).unwrap();
        one.0.store(7, Relaxed);
        assert_eq!(two.0.load(Relaxed), 7);
    }

    #[derive(Debug)]
    #[repr(C)]
    struct Long(AtomicU64);
    // SAFETY: an atomic.
    unsafe impl Layout for Long {
        const NAME: &'static str = "long";
        const KIND: u32 = 3;
        const TRAILING_WORDS: usize = 1 << 20;
    }

    #[test]
    fn grow() {
        let one = Segment::<Long>::create().unwrap();
        let two = Segment::<Long>::open(one.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(one.file().allocated().unwrap(), PAGE as u64);
        assert_eq!(one.allocate_more(600).unwrap(), 1024);
        one.more()[1023].store(7, Relaxed);
        assert_eq!(two.more()[1023].load(Relaxed), 7);
        assert_eq!(one.allocate_more(Long::TRAILING_WORDS - 1).unwrap(), Long::TRAILING_WORDS);
        two.more()[Long::TRAILING_WORDS - 1].store(8, Relaxed);
        assert_eq!(one.file().allocated().unwrap(), 3 * PAGE as u64);
    }

    #[test]
    fn wrong_object() {
        let number = Segment::<Number>::create().unwrap();
        let fd = || number.as_fd().try_clone_to_owned().unwrap();
        for (result, text) in [
            (Segment::<Other>::open(fd()).map(drop), "another kind"),
            (Segment::<Number>::open(std::io::pipe().unwrap().0.into()).map(drop), "not a memory file"),
            (Segment::<Number>::open(multiproc_os::memfd::sealed("x", &[b"short"]).unwrap()).map(drop), "too short"),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(text), "{error}");
        }
        number.header().size.store(9, Relaxed);
        assert!(Segment::<Number>::open(fd()).unwrap_err().to_string().contains("another build"));
    }

    #[test]
    fn other_pid_namespace() {
        let number = Segment::<Number>::create().unwrap();
        let open = || Segment::<Number>::open(number.as_fd().try_clone_to_owned().unwrap());
        let ours = number.header().namespace.load(Relaxed);
        number.header().namespace.store(ours ^ 1, Relaxed);
        let error = open().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("the number belongs to another PID namespace"), "{error}");
        // The process that created it did not know its namespace.
        number.header().namespace.store(0, Relaxed);
        open().unwrap();
    }
}
