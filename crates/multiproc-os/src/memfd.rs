//! Memory files that can no longer change: memfd_create(2) and file seals.
//!
//! A sealed file can neither be written nor shrunk, so a reader may map it and read it for as long
//! as it likes, without `SIGBUS` and without values that change while it reads. The memory is
//! allocated before it is mapped, so that a full tmpfs is reported as an error here.
//!
//! The limit on the size of files (`RLIMIT_FSIZE`) applies to memory files too, and the kernel
//! sends `SIGXFSZ`, which kills, to a process that exceeds it. The functions here return an error
//! instead.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::free_memory;

const PAGE: usize = 4096;

const SEALS: SealFlags = SealFlags::from_bits_retain(
    SealFlags::WRITE.bits() | SealFlags::SHRINK.bits() | SealFlags::GROW.bits() | SealFlags::SEAL.bits(),
);

/// Creates an unsealed, zeroed memory file of `len` bytes, all of them allocated. `name` is shown
/// in `/proc/*/fd`.
///
/// # Errors
/// `ENOSPC`, `ENOMEM`, `EMFILE`; `EFBIG` beyond the limit on the size of files.
pub fn allocate(name: &str, len: u64) -> io::Result<OwnedFd> {
    let fd = create(name)?;
    within_limit(len)?;
    free_memory::check(len, || 0)?;
    in_steps(len, |from, len| rustix::fs::fallocate(&fd, FallocateFlags::empty(), from, len))?;
    Ok(fd)
}

/// Calls `allocate` until all of `len` bytes, from 0 on, are allocated: with one call, unless a
/// signal interrupts it.
///
/// Older kernels check for signals between pages, and then free what the interrupted call has
/// allocated. In a program with a timer, repeating the same call might never succeed; so the next
/// call is for a smaller part.
pub(crate) fn in_steps(len: u64, mut allocate: impl FnMut(u64, u64) -> rustix::io::Result<()>) -> io::Result<()> {
    let (mut done, mut step) = (0, len);
    while done < len {
        step = step.min(len - done);
        match allocate(done, step) {
            Ok(()) => done += step,
            Err(rustix::io::Errno::INTR) => step = (step / 2).max(PAGE as u64),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(crate) fn create(name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING) {
        Ok(fd) => crate::fd_passing::above_stdio(fd),
        // The kernel itself requires no privilege for this call.
        Err(rustix::io::Errno::PERM | rustix::io::Errno::NOSYS) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "memfd_create(2) is refused, for example by a seccomp profile; shared memory needs this call",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Checks that this process may have a file of `len` bytes: see `RLIMIT_FSIZE` in getrlimit(2).
pub(crate) fn within_limit(len: u64) -> io::Result<()> {
    match rustix::process::getrlimit(rustix::process::Resource::Fsize).current {
        Some(limit) if len > limit => Err(io::Error::from_raw_os_error(libc::EFBIG)),
        _ => Ok(()),
    }
}

/// Returns the size of the pages that a memory file consists of: larger than usual if it was made
/// of reserved huge pages (hugetlbfs). (`st_blksize` doesn't tell this: it may be larger for other
/// files too, when the kernel uses transparent huge pages.)
pub(crate) fn page(fd: impl AsFd) -> io::Result<usize> {
    const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
    let file_system = rustix::fs::fstatfs(fd)?;
    match file_system.f_type as u64 & 0xffff_ffff {
        HUGETLBFS_MAGIC => Ok(file_system.f_bsize as usize),
        _ => Ok(PAGE),
    }
}

/// A memory file that is written sequentially, and sealed when it is complete.
#[derive(Debug)]
pub struct Growing {
    fd: OwnedFd,
    len: u64,
}

impl Growing {
    /// Creates an empty file. `name` is shown in `/proc/*/fd`.
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub fn create(name: &str) -> io::Result<Growing> {
        Ok(Growing { fd: create(name)?, len: 0 })
    }

    /// Appends all of `bytes`, or none of them on error. They are written with pwrite(2) and not
    /// through a mapping: then the kernel needn't zero pages that are filled completely, and there
    /// are no page faults.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`; `EFBIG` beyond the limit on the size of files.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let len = self.len.saturating_add(bytes.len() as u64);
        within_limit(len)?;
        free_memory::check(bytes.len() as u64, || 0)?;
        let mut at = self.len;
        while !bytes.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.fd, bytes, at))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
            bytes = &bytes[written..];
        }
        self.len = at;
        Ok(())
    }

    /// Seals the file, and returns it with its length.
    ///
    /// # Errors
    /// None is expected.
    pub fn seal(self) -> io::Result<(OwnedFd, u64)> {
        rustix::fs::fcntl_add_seals(&self.fd, SEALS)?;
        Ok((self.fd, self.len))
    }
}

/// Creates a sealed memory file that holds the concatenation of `parts`.
///
/// # Errors
/// As [`Growing::create`] and [`Growing::write`].
pub fn sealed(name: &str, parts: &[&[u8]]) -> io::Result<OwnedFd> {
    let mut file = Growing::create(name)?;
    for part in parts {
        file.write(part)?;
    }
    Ok(file.seal()?.0)
}

/// A part of a sealed memory file, mapped for reading.
#[derive(Debug)]
pub struct Sealed {
    start: *const u8,
    len: usize,
    /// The mapping, which consists of whole pages.
    pages: (*const u8, usize),
}

// SAFETY: the bytes are sealed against writing, so any thread may read them at any time.
unsafe impl Send for Sealed {}
// SAFETY: as above.
unsafe impl Sync for Sealed {}

impl Sealed {
    /// Maps the first `len` bytes of `fd`. The mapping outlives the descriptor.
    ///
    /// # Errors
    /// `InvalidData` when `fd` is not a memory file, is not sealed against writing and shrinking,
    /// or is shorter than `len`; `ENOMEM`.
    pub fn map(fd: impl AsFd, len: u64) -> io::Result<Sealed> {
        Sealed::map_part(fd, 0, len)
    }

    /// Maps `len` bytes of `fd`, from `offset` on.
    ///
    /// # Errors
    /// As [`map`](Sealed::map).
    pub fn map_part(fd: impl AsFd, offset: u64, len: u64) -> io::Result<Sealed> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| invalid("not a memory file"))?;
        if !seals.contains(SealFlags::WRITE | SealFlags::SHRINK) {
            return Err(invalid("a memory file that is not sealed"));
        }
        let stat = rustix::fs::fstat(&fd)?;
        let end = offset.checked_add(len).and_then(|end| i64::try_from(end).ok());
        if stat.st_size < end.ok_or(invalid("a length out of range"))? {
            return Err(invalid("a memory file shorter than announced"));
        }
        let len = usize::try_from(len).map_err(|_| invalid("a length out of range"))?;
        if len == 0 {
            // Aligned like a mapping, since the bytes may be read as numbers.
            let nowhere = std::ptr::without_provenance(PAGE);
            return Ok(Sealed { start: nowhere, len, pages: (nowhere, 0) });
        }
        let page = page(&fd)?;
        let before = (offset % page as u64) as usize;
        let (all, from) = ((before + len).next_multiple_of(page), offset - before as u64);
        // SAFETY: a fresh mapping at an address of the kernel's choice; only Drop unmaps it.
        let pages =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), all, ProtFlags::READ, MapFlags::SHARED, &fd, from)? };
        let pages = pages.cast::<u8>().cast_const();
        // SAFETY: within the mapping.
        Ok(Sealed { start: unsafe { pages.add(before) }, len, pages: (pages, all) })
    }

    /// Maps the pages of these bytes in advance, so that they don't fault one by one. Does nothing
    /// where this fails.
    pub fn populate(&self, range: std::ops::Range<usize>) {
        let (begin, end) = (range.start, range.end.min(self.len));
        if begin < end {
            let advice = rustix::mm::Advice::LinuxPopulateRead;
            crate::prefault::populate(self.start as usize + begin, end - begin, advice);
        }
    }
}

impl Deref for Sealed {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is in a mapping of `len` bytes from there that lives as long as `self`;
        // the seals keep the file from shrinking and its bytes from changing.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        let (start, len) = self.pages;
        if len > 0 {
            // SAFETY: the mapping belongs to `self`, and the last borrow of it has ended.
            let _ = unsafe { rustix::mm::munmap(start.cast_mut().cast(), len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_any_part() {
        let bytes: Vec<u8> = (0..3 * PAGE).map(|byte| (byte % 251) as u8).collect();
        let file = sealed("test", &[&bytes]).unwrap();
        for (offset, len) in [(0, 3 * PAGE), (1, PAGE), (PAGE, 7), (PAGE + 9, 2 * PAGE - 9), (3 * PAGE, 0), (5, 0)] {
            let part = Sealed::map_part(&file, offset as u64, len as u64).unwrap();
            part.populate(0..len);
            assert!(part[..] == bytes[offset..offset + len], "{len} bytes from {offset} on");
        }
        for (offset, len) in [(1, 3 * PAGE as u64), (3 * PAGE as u64 + 1, 0), (u64::MAX, 1), (0, u64::MAX)] {
            assert_eq!(Sealed::map_part(&file, offset, len).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn retry_after_interrupts() {
        // A signal interrupts each call that is for more than this.
        const LARGEST: u64 = 10_000;
        let mut done = vec![];
        let allocate = |from, len| {
            if len > LARGEST {
                return Err(rustix::io::Errno::INTR);
            }
            done.push((from, len));
            Ok(())
        };
        in_steps(1 << 20 | 1, allocate).unwrap();
        let end = done.iter().fold(0, |end, (from, len)| {
            assert_eq!(*from, end, "no gaps");
            end + len
        });
        assert_eq!(end, 1 << 20 | 1);
        let full = in_steps(1 << 20, |_, _| Err(rustix::io::Errno::NOSPC)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn sealed_content() {
        let fd = sealed("test", &[b"he", b"", b"llo"]).unwrap();
        assert_eq!(&*Sealed::map(&fd, 5).unwrap(), b"hello");
        assert_eq!(&*Sealed::map(&fd, 0).unwrap(), b"");
        assert!(rustix::io::pwrite(&fd, b"x", 0).is_err());
    }

    #[test]
    fn unsealed_or_short_file() {
        let unsealed = allocate("test", 16).unwrap();
        assert_eq!(Sealed::map(&unsealed, 16).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let short = sealed("test", &[b"abc"]).unwrap();
        assert_eq!(Sealed::map(&short, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(Sealed::map(&short, u64::MAX).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (socket, _) = crate::fd_passing::pair().unwrap();
        assert_eq!(Sealed::map(&socket, 1).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
