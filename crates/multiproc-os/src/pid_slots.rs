//! A page of process ids, shared between two processes, that the kernel itself writes to.
//!
//! A server that is killed right after it made a process can't report the process's id to its
//! client. So the kernel writes the id into shared memory (`CLONE_PARENT_SETTID` of clone(2))
//! within the system call that makes the process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicI32;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// The number of slots in the page.
pub const SLOTS: usize = 1024;

const BYTES: usize = SLOTS * size_of::<AtomicI32>();

/// The mapped page. A slot holds 0 until a process was made for it.
#[derive(Debug)]
pub struct PidSlots {
    start: *const AtomicI32,
}

// SAFETY: only atomics are reached through the pointer.
unsafe impl Send for PidSlots {}
// SAFETY: as above.
unsafe impl Sync for PidSlots {}

impl PidSlots {
    /// Makes a page of zeroes, and the descriptor through which another process maps it.
    ///
    /// # Errors
    /// `ENOMEM`, `ENOSPC`, `EMFILE`.
    pub fn create() -> io::Result<(PidSlots, OwnedFd)> {
        let fd = crate::memfd::allocate("multiproc-pids", BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW)?;
        Ok((PidSlots::map(&fd)?, fd))
    }

    /// Maps the page that [`create`](PidSlots::create) made in another process. Fork copies of this
    /// process don't inherit the mapping.
    ///
    /// # Errors
    /// `InvalidData` when `fd` is not such a page.
    pub fn map(fd: impl AsFd) -> io::Result<PidSlots> {
        let sealed = rustix::fs::fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(rustix::fs::SealFlags::SHRINK));
        if !sealed || rustix::fs::fstat(&fd)?.st_size != BYTES as i64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a page of process ids"));
        }
        // SAFETY: a new mapping, at an address that the kernel chooses, of a file that can't
        // shrink.
        let start = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), BYTES, protection, MapFlags::SHARED, &fd, 0)?
        };
        // SAFETY: the range is the mapping just made; DontFork only keeps it out of fork copies of
        // this process.
        unsafe { rustix::mm::madvise(start, BYTES, Advice::LinuxDontFork)? };
        Ok(PidSlots { start: start.cast() })
    }

    /// The slot with this index; None from [`SLOTS`] on.
    pub fn get(&self, index: usize) -> Option<&AtomicI32> {
        // SAFETY: the mapping has SLOTS aligned words, zero at first, and lives as long as `self`.
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
    fn shared_between_mappings() {
        let (ours, fd) = PidSlots::create().unwrap();
        let theirs = PidSlots::map(&fd).unwrap();
        assert_eq!(theirs.get(SLOTS - 1).unwrap().load(SeqCst), 0);
        ours.get(SLOTS - 1).unwrap().store(42, SeqCst);
        assert_eq!(theirs.get(SLOTS - 1).unwrap().load(SeqCst), 42);
        assert!(ours.get(SLOTS).is_none());
    }

    #[test]
    fn foreign_fd() {
        let other = crate::memfd::allocate("test", BYTES as u64).unwrap();
        assert_eq!(PidSlots::map(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
