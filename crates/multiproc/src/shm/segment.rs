//! The memory of one object: a memory file, of which the first part is mapped, with a header that says what it is.
//!
//! What lies in it is described by a [`Layout`]: a struct of atomics, for which any bytes are valid. So whatever another process writes there, and whatever file
//! somebody passes off as an object, the worst that comes of it is a wrong number.

use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use multiproc_os::namespace;
use multiproc_os::shared_memory::{Mapping, PAGE, SharedFile};

/// The first eight bytes of a segment.
const MAGIC: u64 = u64::from_ne_bytes(*b"mulproc\x01");

/// Where the layout begins.
const AT: usize = 64;

/// What may lie in memory to which others write at any time.
///
/// # Safety
/// Any bytes are a value of it, and they may change while it is borrowed: atomic integers, and what is made of such.
pub(crate) unsafe trait AnyBytes: Sync + 'static {}

// SAFETY: an atomic integer.
unsafe impl AnyBytes for AtomicU8 {}
// SAFETY: an atomic integer.
unsafe impl AnyBytes for AtomicU32 {}
// SAFETY: an atomic integer.
unsafe impl AnyBytes for AtomicU64 {}
// SAFETY: made of such.
unsafe impl<T: AnyBytes, const N: usize> AnyBytes for [T; N] {}

/// Defines what lies in the memory of an object, of fields that are [`AnyBytes`]: a [`Layout`] if its name in errors and its kind are given.
///
/// `layout! { struct Shared: "lock", 0x10 { guarded: PoisonableWord } }`; with [`Layout::MORE`] as the third; `..MORE` if there may be [fewer](Layout::FEWER).
macro_rules! layout {
    (
        $(#[$attribute:meta])* $visibility:vis struct $name:ident $(: $called:literal, $kind:literal $(, $more:path)? $(, ..$most:path)?)? {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug)]
        #[repr(C)]
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $type,)*
        }

        // SAFETY: each of the fields is, which is looked at below, and there is nothing else.
        #[allow(unsafe_code)]
        unsafe impl $crate::shm::segment::AnyBytes for $name {}

        const _: () = {
            const fn any_bytes<T: $crate::shm::segment::AnyBytes>() {}
            $(any_bytes::<$type>();)*
        };

        $(
            // SAFETY: `#[repr(C)]`, and as above.
            #[allow(unsafe_code)]
            unsafe impl $crate::shm::segment::Layout for $name {
                const NAME: &'static str = $called;
                const KIND: u32 = $kind;
                $(const MORE: usize = $more;)?
                $(
                    const MORE: usize = $most;
                    const FEWER: bool = true;
                )?
            }
        )?
    };
}

pub(crate) use layout;

/// What lies in the memory of an object. All of it zero must be a sensible state.
///
/// # Safety
/// `#[repr(C)]`, made of atomic integers, and of arrays and structs of such, alone; aligned to 64 bytes at most.
pub(crate) unsafe trait Layout: Sync + Sized + 'static {
    /// What the object is called in errors, and in `/proc/*/fd`: "lock".
    const NAME: &'static str;
    /// Tells layouts of the same size apart.
    const KIND: u32;
    /// How many of its bytes have memory from the beginning; the others, once it has been [allocated](Segment::allocate_for) for them.
    const AT_ONCE: usize = size_of::<Self>();
    /// How many numbers there may be behind it, which take no memory until they are [allocated](Segment::allocate_more).
    const MORE: usize = 0;
    /// Whether an object may have been made with fewer than that.
    const FEWER: bool = false;
}

#[repr(C)]
struct Header {
    magic: AtomicU64,
    kind: AtomicU32,
    /// The size of the layout, or its lowest bits, which another build of the program may have changed.
    size: AtomicU32,
    /// The PID namespace of who has made it: the ids of threads that lie in it are of that. 0 if it isn't known.
    namespace: AtomicU32,
}

/// A segment, with an `L` in it.
#[derive(Debug)]
pub(crate) struct Segment<L> {
    file: SharedFile,
    mapping: Mapping,
    layout: PhantomData<fn() -> L>,
}

impl<L: Layout> Segment<L> {
    /// How much of the file the header and the layout take, in whole pages.
    pub(crate) const LEN: usize = {
        assert!(align_of::<L>() <= AT && size_of::<Header>() <= AT);
        (AT + size_of::<L>()).next_multiple_of(PAGE)
    };

    /// How much of that has memory from the beginning.
    const AT_ONCE: usize = {
        assert!(L::AT_ONCE <= size_of::<L>());
        (AT + L::AT_ONCE).next_multiple_of(PAGE)
    };

    /// How much of the file is mapped, with so many numbers behind the layout.
    const fn mapped(more: usize) -> usize {
        Self::LEN + (more * 8).next_multiple_of(PAGE)
    }

    /// A new one, all zero.
    ///
    /// # Errors
    /// `EMFILE`, `ENOSPC`, `ENOMEM`.
    pub(crate) fn create() -> io::Result<Segment<L>> {
        Segment::create_for(L::MORE)
    }

    /// The same, of no more than so many numbers behind the layout: for what can do with [`fewer`](Layout::FEWER).
    ///
    /// # Errors
    /// As [`create`](Segment::create).
    pub(crate) fn create_for(more: usize) -> io::Result<Segment<L>> {
        assert!(more == L::MORE || L::FEWER && more < L::MORE);
        let mapped = Self::mapped(more);
        let file = SharedFile::create(&format!("multiproc-{}", L::NAME), mapped as u64)?;
        file.allocate(0, Self::AT_ONCE as u64)?;
        let mapping = Mapping::new(&file, 0, mapped)?;
        let segment: Segment<L> = Segment { file, mapping, layout: PhantomData };
        let header = segment.header();
        header.kind.store(L::KIND, Relaxed);
        header.size.store(size_of::<L>() as u32, Relaxed);
        header.namespace.store(namespace::of_pids().unwrap_or(0), Relaxed);
        header.magic.store(MAGIC, Relaxed);
        Ok(segment)
    }

    /// One that has come from another process.
    ///
    /// # Errors
    /// `InvalidData` when it is something else; `Unsupported` when it was made in another PID namespace; `ENOMEM`.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<Segment<L>> {
        let invalid = |what: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidData, format!("this is no {} of this program: {what}", L::NAME))
        };
        let file = SharedFile::from_fd(fd).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => invalid(&error),
            _ => error,
        })?;
        let (size, least) = (file.size()?, Self::mapped(if L::FEWER { 0 } else { L::MORE }));
        if size < least as u64 {
            return Err(invalid(&"it is too short"));
        }
        let mapped = (size.min(Self::mapped(L::MORE) as u64) as usize / PAGE) * PAGE;
        // What somebody has given back without being asked would be a fault of this process.
        file.allocate(0, Self::AT_ONCE as u64)?;
        let mapping = Mapping::new(&file, 0, mapped)?;
        let segment: Segment<L> = Segment { file, mapping, layout: PhantomData };
        let header = segment.header();
        if header.magic.load(Relaxed) != MAGIC || header.kind.load(Relaxed) != L::KIND {
            return Err(invalid(&"it is something else"));
        }
        if header.size.load(Relaxed) != size_of::<L>() as u32 {
            return Err(invalid(&"it is of another build"));
        }
        // Here a thread that holds something there would have another id, or seem not to be: then it would be taken from one who has it.
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
        // SAFETY: the mapping is at least that long, begins with a page, and the header is made of atomics.
        unsafe { &*self.mapping.start().as_ptr().cast() }
    }

    /// Closes the file, and leaves its memory mapped for good.
    pub(crate) fn leave_mapped(self) {
        std::mem::forget(self.mapping);
    }

    /// Whether that lies in this segment's memory.
    #[inline]
    pub(crate) fn holds<T: ?Sized>(&self, what: &T) -> bool {
        let offset = (&raw const *what).addr().wrapping_sub(self.mapping.start().as_ptr() as usize);
        offset < Self::LEN && size_of_val(what) <= Self::LEN - offset
    }

    /// Has memory for a part of the layout that hasn't from the beginning.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub(crate) fn allocate_for<T: ?Sized>(&self, part: &T) -> io::Result<()> {
        assert!(self.holds(part), "another segment's");
        let offset = (&raw const *part).addr() - self.mapping.start().as_ptr() as usize;
        self.file.allocate(offset as u64, size_of_val(part) as u64)
    }

    /// The numbers behind the layout, zero at first. Those that have not been allocated must not be touched.
    pub(crate) fn more(&self) -> &[AtomicU64] {
        let more = ((self.mapping.len() - Self::LEN) / 8).min(L::MORE);
        // SAFETY: so much is mapped behind the layout, which ends with a page; and whatever is there are atomics.
        unsafe { std::slice::from_raw_parts(self.mapping.start().as_ptr().add(Self::LEN).cast(), more) }
    }

    /// Has memory for the page of numbers of which number `index` is one; says where the next page begins.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub(crate) fn allocate_more(&self, index: usize) -> io::Result<usize> {
        let page = index * 8 / PAGE;
        self.file.allocate((Self::LEN + page * PAGE) as u64, PAGE as u64)?;
        Ok(((page + 1) * PAGE / 8).min(L::MORE))
    }

    /// The file, to be sent, or to be mapped further.
    pub(crate) fn file(&self) -> &SharedFile {
        &self.file
    }
}

impl<L: Layout> Deref for Segment<L> {
    type Target = L;

    #[inline]
    fn deref(&self) -> &L {
        // SAFETY: the mapping is long enough, and aligned: see LEN. A layout is made of atomics, so that any bytes will do and others
        // may write there.
        unsafe { &*self.mapping.start().as_ptr().add(AT).cast() }
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
    fn what_one_writes_the_other_reads() {
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
        const MORE: usize = 1 << 20;
    }

    #[test]
    fn there_is_more_when_it_is_needed() {
        let one = Segment::<Long>::create().unwrap();
        let two = Segment::<Long>::open(one.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(one.file().allocated().unwrap(), PAGE as u64);
        assert_eq!(one.allocate_more(600).unwrap(), 1024);
        one.more()[1023].store(7, Relaxed);
        assert_eq!(two.more()[1023].load(Relaxed), 7);
        assert_eq!(one.allocate_more(Long::MORE - 1).unwrap(), Long::MORE);
        two.more()[Long::MORE - 1].store(8, Relaxed);
        assert_eq!(one.file().allocated().unwrap(), 3 * PAGE as u64);
    }

    #[test]
    fn what_is_no_such_object_is_an_error() {
        let number = Segment::<Number>::create().unwrap();
        let fd = || number.as_fd().try_clone_to_owned().unwrap();
        for (result, text) in [
            (Segment::<Other>::open(fd()).map(drop), "something else"),
            (Segment::<Number>::open(std::io::pipe().unwrap().0.into()).map(drop), "no memory file"),
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
    fn what_was_held_in_another_pid_namespace_could_be_taken_in_this_one() {
        let number = Segment::<Number>::create().unwrap();
        let open = || Segment::<Number>::open(number.as_fd().try_clone_to_owned().unwrap());
        let ours = number.header().namespace.load(Relaxed);
        number.header().namespace.store(ours ^ 1, Relaxed);
        let error = open().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("the number belongs to another PID namespace"), "{error}");
        // Who has made it did not know.
        number.header().namespace.store(0, Relaxed);
        open().unwrap();
    }
}
