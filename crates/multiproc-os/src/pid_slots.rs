//! One page of process ids that two processes share, for the kernel to write to.
//!
//! A server that is killed right after it made a process can tell nobody the process's id. So the id goes into shared memory by
//! the kernel's own hand (`CLONE_PARENT_SETTID`), inside the very call that makes the process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicI32;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// How many slots the page has.
pub const SLOTS: usize = 1024;

const BYTES: usize = SLOTS * size_of::<AtomicI32>();

/// The page, mapped. 0 in a slot means that no process was made for it.
#[derive(Debug)]
pub struct PidSlots {
    start: *const AtomicI32,
}

// SAFETY: nothing but atomics is reached through it.
unsafe impl Send for PidSlots {}
// SAFETY: as above.
unsafe impl Sync for PidSlots {}

impl PidSlots {
    /// A new page of zeroes, and the descriptor by which another process maps it.
    ///
    /// # Errors
    /// `ENOMEM`, `ENOSPC`, `EMFILE`.
    pub fn create() -> io::Result<(PidSlots, OwnedFd)> {
        let fd = crate::memfd::allocate("multiproc-pids", BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW)?;
        Ok((PidSlots::map(&fd)?, fd))
    }

    /// Maps the page that [`create`](PidSlots::create) made in another process. Copies of this process don't have it.
    ///
    /// # Errors
    /// `InvalidData` when `fd` is something else.
    pub fn map(fd: impl AsFd) -> io::Result<PidSlots> {
        let sealed = rustix::fs::fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(rustix::fs::SealFlags::SHRINK));
        if !sealed || rustix::fs::fstat(&fd)?.st_size != BYTES as i64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a page of process ids"));
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice, of a file that can't shrink.
        let start = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), BYTES, protection, MapFlags::SHARED, &fd, 0)?
        };
        // SAFETY: the range is the mapping just made; DontFork only keeps it out of copies of this process.
        unsafe { rustix::mm::madvise(start, BYTES, Advice::LinuxDontFork)? };
        Ok(PidSlots { start: start.cast() })
    }

    /// The slot of this number; none at or above [`SLOTS`].
    pub fn get(&self, index: usize) -> Option<&AtomicI32> {
        // SAFETY: the mapping has SLOTS aligned words, zeroed at first, and lives as long as `self`.
        (index < SLOTS).then(|| unsafe { &*self.start.add(index) })
    }
}

impl Drop for PidSlots {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the last borrow of it has ended.
        let _ = unsafe { rustix::mm::munmap(self.start.cast_mut().cast(), BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn two_mappings_show_the_same_words() {
        let (ours, fd) = PidSlots::create().unwrap();
        let theirs = PidSlots::map(&fd).unwrap();
        assert_eq!(theirs.get(SLOTS - 1).unwrap().load(SeqCst), 0);
        ours.get(SLOTS - 1).unwrap().store(42, SeqCst);
        assert_eq!(theirs.get(SLOTS - 1).unwrap().load(SeqCst), 42);
        assert!(ours.get(SLOTS).is_none());
    }

    #[test]
    fn a_foreign_descriptor_is_refused() {
        let other = crate::memfd::allocate("test", BYTES as u64).unwrap();
        assert_eq!(PidSlots::map(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
