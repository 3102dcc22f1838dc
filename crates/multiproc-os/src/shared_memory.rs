//! Memory shared by several processes: a memory file that can't shrink, and mappings of it.
//! memfd_create(2), mmap(2).
//!
//! A file may be much longer than its used part: a part that has not been
//! [allocated](SharedFile::allocate) takes no memory, and a part no longer needed can be
//! [freed](SharedFile::free). Memory is allocated before it is touched, so that a lack of memory is
//! an error of that call and not a `SIGBUS`.
//!
//! Any process that has the file may write to it at any time, so safe code may not borrow mapped
//! memory as plain bytes; atomics are fine.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use crate::fd_passing::close_on_exec;
use crate::free_memory::MUCH;
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};

/// The size of a page in bytes: the unit in which memory is allocated, freed and mapped.
pub const PAGE: usize = 4096;

/// The range that one page table maps, in bytes; [`Mapping::populate`] decides per range how to map
/// it.
const PIECE: usize = 2 << 20;

/// An open memory file, sealed against shrinking.
#[derive(Debug)]
pub struct SharedFile {
    fd: OwnedFd,
}

impl SharedFile {
    /// Makes a file of `len` zero bytes, none of them allocated. `name` shows in `/proc/*/fd` and
    /// `/proc/*/maps`.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`; `EFBIG` beyond the limit on the size of files.
    pub fn create(name: &str, len: u64) -> io::Result<SharedFile> {
        SharedFile::of_len(crate::memfd::create(name)?, len)
    }

    /// Makes a file of huge pages from the system's reserve (hugetlbpage in the kernel's
    /// documentation), of the default huge page size. `len` must be a multiple of
    /// [`page`](SharedFile::page).
    ///
    /// # Errors
    /// As [`create`](SharedFile::create); `ENODEV` or `ENOSYS` if the system has no such pages.
    pub fn create_of_huge_pages(name: &str, len: u64) -> io::Result<SharedFile> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
        SharedFile::of_len(crate::fd_passing::above_stdio(rustix::fs::memfd_create(name, flags)?)?, len)
    }

    fn of_len(fd: OwnedFd, len: u64) -> io::Result<SharedFile> {
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK)?;
        let file = SharedFile { fd };
        file.grow(len)?;
        Ok(file)
    }

    /// The size of the file's pages, in bytes.
    ///
    /// # Errors
    /// None is expected.
    pub fn page(&self) -> io::Result<usize> {
        crate::memfd::page(&self.fd)
    }

    /// Opens another descriptor of the same file, through which it can only be read and mapped
    /// read-only. Needs `/proc/self/fd`.
    ///
    /// It protects against mistakes only: a process of the same user that has the descriptor can
    /// reopen the file for writing.
    ///
    /// # Errors
    /// `ENOENT` without `/proc`; `EMFILE`, `ENFILE`.
    pub fn open_read_only(&self) -> io::Result<OwnedFd> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        crate::fd_passing::above_stdio(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Whether the file can be written through this descriptor.
    ///
    /// # Errors
    /// None is expected.
    pub fn is_writable(&self) -> io::Result<bool> {
        Ok(rustix::fs::fcntl_getfl(&self.fd)? & OFlags::RWMODE == OFlags::RDWR)
    }

    /// Whether the file is sealed against writing.
    ///
    /// # Errors
    /// None is expected.
    pub fn is_frozen(&self) -> io::Result<bool> {
        Ok(rustix::fs::fcntl_get_seals(&self.fd)?.contains(SealFlags::WRITE))
    }

    /// Seals the file against growing.
    ///
    /// # Errors
    /// `EPERM` if the file accepts no more seals.
    pub fn seal_size(&self) -> io::Result<()> {
        Ok(rustix::fs::fcntl_add_seals(&self.fd, SealFlags::GROW)?)
    }

    /// Seals the file against writing, for good.
    ///
    /// # Errors
    /// `EBUSY` if a writable mapping exists in any process.
    pub fn freeze(&self) -> io::Result<()> {
        Ok(rustix::fs::fcntl_add_seals(&self.fd, SealFlags::WRITE | SealFlags::GROW)?)
    }

    /// Wraps a file received from another process.
    ///
    /// # Errors
    /// `InvalidData` when `fd` is not a memory file, or could shrink.
    pub fn from_fd(fd: OwnedFd) -> io::Result<SharedFile> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| invalid("not a memory file"))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(invalid("a memory file that could shrink"));
        }
        // It may have been inherited.
        close_on_exec(fd.as_fd())?;
        Ok(SharedFile { fd })
    }

    /// The length of the file, in bytes.
    ///
    /// # Errors
    /// None is expected.
    pub fn size(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_size as u64)
    }

    /// Extends the file to `len` bytes, unless it is longer.
    ///
    /// # Errors
    /// `EFBIG` beyond the limit on the size of files, `ENOMEM`.
    pub fn grow(&self, len: u64) -> io::Result<()> {
        crate::memfd::within_limit(len)?;
        match rustix::fs::ftruncate(&self.fd, len) {
            // It can't shrink: another process has made it longer.
            Err(rustix::io::Errno::PERM) if self.size()? >= len => Ok(()),
            result => Ok(result?),
        }
    }

    /// Allocates memory for `len` bytes from `offset` on; contents are kept.
    ///
    /// The kernel would grant more than there is, and then kill a process. So a request for more
    /// than the free memory is an error up front, as far as this process can tell: see
    /// `free_memory.rs`.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`; `EFBIG`.
    pub fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        // Reserved huge pages don't count as free memory.
        if len < MUCH || self.page()? == PAGE {
            self.check_available(offset, len)?;
        }
        crate::memfd::in_steps(len, |from, len| {
            rustix::fs::fallocate(&self.fd, FallocateFlags::KEEP_SIZE, offset + from, len)
        })
    }

    /// Checks that memory for `len` bytes from `offset` on is there or can be allocated.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn check_available(&self, offset: u64, len: u64) -> io::Result<()> {
        // A file grows at its end, so memory allocated before `offset` doesn't count for this
        // range.
        crate::free_memory::check(len, || self.allocated().unwrap_or(0).saturating_sub(offset))
    }

    /// Frees the memory of the whole pages within `len` bytes from `offset` on. They read as zero
    /// afterwards.
    pub fn free(&self, offset: u64, len: u64) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // It fails when a signal interrupts it; the memory is then freed another time.
        for _ in 0..3 {
            if rustix::fs::fallocate(&self.fd, flags, offset, len) != Err(rustix::io::Errno::INTR) {
                break;
            }
        }
    }

    /// The memory that the file occupies, in bytes.
    ///
    /// # Errors
    /// None is expected.
    pub fn allocated(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_blocks as u64 * 512)
    }
}

impl From<SharedFile> for OwnedFd {
    fn from(file: SharedFile) -> OwnedFd {
        file.fd
    }
}

impl AsFd for SharedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A part of a file, mapped for reading and writing, by other processes as well. It stays mapped
/// for as long as this value exists, even if the file is closed.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it is an address range; code that reads or writes there is responsible for its accesses.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset` on, both multiples of [`PAGE`]. The range must be
    /// within the file by the time it is touched.
    ///
    /// # Errors
    /// `ENOMEM`: too many mappings, or the limit on address space is exceeded.
    pub fn new(file: &SharedFile, offset: u64, len: usize) -> io::Result<Mapping> {
        Mapping::with(file, offset, len, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// As [`new`](Mapping::new), but read-only: a write there raises `SIGSEGV`.
    ///
    /// # Errors
    /// As [`new`](Mapping::new).
    pub fn read_only(file: &SharedFile, offset: u64, len: usize) -> io::Result<Mapping> {
        Mapping::with(file, offset, len, ProtFlags::READ)
    }

    /// As [`new`](Mapping::new), but private: writes go to copies of the pages that only this
    /// mapping has. Pages that have not been written show later changes of the file.
    ///
    /// # Errors
    /// As [`new`](Mapping::new).
    pub fn copy_on_write(file: &SharedFile, offset: u64, len: usize) -> io::Result<Mapping> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        Mapping::with_flags(file, offset, len, ProtFlags::READ | ProtFlags::WRITE, flags)
    }

    /// Returns the address, and leaves it to the caller to unmap it, by
    /// [`from_raw`](Mapping::from_raw).
    pub fn into_raw(self) -> NonNull<u8> {
        std::mem::ManuallyDrop::new(self).start
    }

    /// The mapping of `len` bytes at an address that [`into_raw`](Mapping::into_raw) returned.
    ///
    /// # Safety
    /// The length must be that of the mapping, and no other value may stand for it.
    pub unsafe fn from_raw(start: NonNull<u8>, len: usize) -> Mapping {
        Mapping { start, len }
    }

    fn with(file: &SharedFile, offset: u64, len: usize, protection: ProtFlags) -> io::Result<Mapping> {
        Mapping::with_flags(file, offset, len, protection, MapFlags::SHARED | MapFlags::NORESERVE)
    }

    fn with_flags(
        file: &SharedFile,
        offset: u64,
        len: usize,
        protection: ProtFlags,
        flags: MapFlags,
    ) -> io::Result<Mapping> {
        // SAFETY: a new mapping, at an address that the kernel chooses; only Drop unmaps it.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, protection, flags, file, offset)? };
        Ok(Mapping { start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?, len })
    }

    /// The address of the first byte.
    #[inline]
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Always false; a mapping is never empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Resizes the mapping to `len` bytes, in place or at another address: no part of it may be
    /// borrowed.
    ///
    /// # Errors
    /// `ENOMEM`; the mapping is unchanged then.
    pub fn resize(&mut self, len: usize) -> io::Result<()> {
        // SAFETY: the mapping is ours, and `&mut self` means that nothing of it is borrowed.
        let start = unsafe { rustix::mm::mremap(self.start.as_ptr().cast(), self.len, len, MremapFlags::MAYMOVE)? };
        self.start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        self.len = len;
        Ok(())
    }

    /// Asks the kernel for huge pages in this mapping, if it makes any for memory files:
    /// `MADV_HUGEPAGE` in madvise(2), and `/sys/kernel/mm/transparent_hugepage/shmem_enabled`. Must
    /// be called before the pages are allocated.
    pub fn prefer_huge_pages(&self) {
        // SAFETY: the mapping is ours; this changes none of its bytes.
        let _ = unsafe { rustix::mm::madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxHugepage) };
    }

    /// Maps the pages of `len` bytes from `offset` on for reading, so that they aren't faulted in
    /// one by one. Failures are ignored.
    pub fn populate_to_read(&self, offset: usize, len: usize) {
        let end = (offset + len).min(self.len);
        if offset < end {
            crate::prefault::populate(self.start.as_ptr() as usize + offset, end - offset, Advice::LinuxPopulateRead);
        }
    }

    /// Maps the pages of `len` bytes from `offset` on for writing, so that they aren't faulted in
    /// one by one. Failures are ignored.
    ///
    /// In a shared mapping, a page that is mapped for reading can be written as well, and on a read
    /// fault the kernel maps 16 pages, on a write fault only one. But a page that was allocated and
    /// never touched must still be cleared, and the kernel doesn't map such a page along with
    /// others: there, write faults are quicker. So the first page of each range of one page table
    /// decides which is used.
    pub fn populate(&self, offset: usize, len: usize) {
        let end = (offset + len).min(self.len);
        let mut begin = offset;
        while begin < end {
            let next = (begin + 1).next_multiple_of(PIECE).min(end);
            let advice = match self.is_in_use(begin) {
                true => Advice::LinuxPopulateRead,
                false => Advice::LinuxPopulateWrite,
            };
            crate::prefault::populate(self.start.as_ptr() as usize + begin, next - begin, advice);
            begin = next;
        }
    }

    /// Whether the page at `offset`, which must be within the mapping, has been written or read by
    /// any process. See mincore(2).
    fn is_in_use(&self, offset: usize) -> bool {
        let mut page = 0_u8;
        let start = (self.start.as_ptr() as usize + offset) & !(PAGE - 1);
        // SAFETY: the kernel writes one byte, for the one page asked about.
        unsafe { libc::mincore(start as *mut _, PAGE, &raw mut page) == 0 && page & 1 == 1 }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the last borrow of it has ended.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    fn word(mapping: &Mapping, offset: usize) -> &AtomicU64 {
        assert!(offset + 8 <= mapping.len());
        // SAFETY: within the mapping, aligned, and only used as an atomic.
        unsafe { &*mapping.start().as_ptr().add(offset).cast::<AtomicU64>() }
    }

    #[test]
    fn two_mappings() {
        let file = SharedFile::create("test", 1 << 40).unwrap();
        file.allocate(1 << 30, 8192).unwrap();
        assert_eq!(file.allocated().unwrap(), 8192);
        let one = Mapping::new(&file, 1 << 30, 8192).unwrap();
        let copy = SharedFile::from_fd(file.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let mut two = Mapping::new(&copy, 1 << 30, 4096).unwrap();
        word(&one, 8).store(7, SeqCst);
        word(&one, 4096).store(8, SeqCst);
        two.resize(8192).unwrap();
        two.populate(0, 8192);
        assert_eq!((word(&two, 8).load(SeqCst), word(&two, 4096).load(SeqCst)), (7, 8));
        file.free(1 << 30, 4096);
        assert_eq!(word(&two, 4096).load(SeqCst), 8);
        assert_eq!(file.allocated().unwrap(), 4096);
        assert_eq!(word(&two, 8).load(SeqCst), 0);
    }

    #[test]
    fn populate_keeps_content() {
        let file = SharedFile::create("test", 3 * PIECE as u64).unwrap();
        file.allocate(0, 3 * PIECE as u64).unwrap();
        let one = Mapping::new(&file, 0, 3 * PIECE).unwrap();
        assert!(!one.is_in_use(PIECE));
        word(&one, PIECE).store(7, SeqCst);
        assert!(one.is_in_use(PIECE) && one.is_in_use(PIECE + 4095));
        let two = Mapping::new(&file, 0, 3 * PIECE).unwrap();
        two.populate(PIECE / 2 + 1, 2 * PIECE);
        assert!(!two.is_in_use(0) && two.is_in_use(PIECE / 2) && two.is_in_use(5 * PIECE / 2));
        assert_eq!((word(&two, PIECE).load(SeqCst), word(&two, PIECE + 4096).load(SeqCst)), (7, 0));
        word(&two, PIECE + 4096).store(8, SeqCst);
        two.populate(0, usize::MAX >> 1);
        assert_eq!(word(&one, PIECE + 4096).load(SeqCst), 8);
    }

    #[test]
    fn grow() {
        let file = SharedFile::create("test", 4096).unwrap();
        file.grow(8192).unwrap();
        file.grow(4096).unwrap();
        assert_eq!(file.size().unwrap(), 8192);
    }

    #[test]
    fn read_only() {
        let file = SharedFile::create("test", 4096).unwrap();
        let mapping = Mapping::new(&file, 0, 4096).unwrap();
        word(&mapping, 8).store(7, SeqCst);
        let read_only = SharedFile::from_fd(file.open_read_only().unwrap()).unwrap();
        assert!(file.is_writable().unwrap() && !read_only.is_writable().unwrap());
        let error = Mapping::new(&read_only, 0, 4096).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let view = Mapping::read_only(&read_only, 0, 4096).unwrap();
        view.populate_to_read(0, 4096);
        assert_eq!(word(&view, 8).load(SeqCst), 7);
        assert_eq!(file.freeze().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(mapping);
        assert!(!file.is_frozen().unwrap());
        file.freeze().unwrap();
        assert!(file.is_frozen().unwrap());
        Mapping::new(&file, 0, 4096).unwrap_err();
    }

    #[test]
    fn fix_length() {
        let file = SharedFile::create("test", 4096).unwrap();
        file.seal_size().unwrap();
        assert_eq!(file.grow(8192).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(file.page().unwrap(), PAGE);
    }

    #[test]
    fn allocate_too_much() {
        let file = SharedFile::create("test", 1 << 50).unwrap();
        assert_eq!(file.allocate(0, 1 << 50).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        assert_eq!(file.allocated().unwrap(), 0);
    }

    #[test]
    fn allocated_memory_is_not_counted_twice() {
        const THERE: u64 = 256 << 20;
        let file = SharedFile::create("test", 1 << 50).unwrap();
        file.allocate(0, THERE).unwrap();
        // Leaves room for what other processes allocate and free meanwhile.
        let wanted = crate::free_memory::left().unwrap() + THERE / 2;
        assert_eq!(file.check_available(THERE, wanted).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        file.check_available(0, wanted).unwrap();
    }

    #[test]
    fn shrinkable_file() {
        for fd in [crate::memfd::allocate("test", 4096).unwrap(), crate::pipe::pair().unwrap().0] {
            assert_eq!(SharedFile::from_fd(fd).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
