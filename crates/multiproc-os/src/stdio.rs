//! Descriptors 0 to 2: what they are now, and putting others in their place.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// What descriptors 0 to 2 are open on; equal for two moments if a process started at either would see the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stdio {
    streams: [Option<Stream>; 3],
}

/// A file as fstat(2) and `F_GETFL` tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream {
    device: u64,
    inode: u64,
    special: u64,
    flags: u32,
}

impl Stdio {
    /// As they are now in this process; a closed one is none.
    pub fn current() -> Stdio {
        Stdio { streams: [0, 1, 2].map(Stdio::stream) }
    }

    fn stream(number: RawFd) -> Option<Stream> {
        // SAFETY: the number is not -1, and nothing is done with it but to ask the kernel, which checks it.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let stat = rustix::fs::fstat(fd).ok()?;
        let flags = rustix::fs::fcntl_getfl(fd).ok()?;
        Some(Stream { device: stat.st_dev, inode: stat.st_ino, special: stat.st_rdev, flags: flags.bits() })
    }

    /// Which of them are open.
    pub fn open(&self) -> [bool; 3] {
        self.streams.map(|stream| stream.is_some())
    }

    /// Copies of the open ones, in order, above 2 and close-on-exec.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let mut copies = Vec::new();
        for (number, _) in self.open().iter().enumerate().filter(|(_, open)| **open) {
            // SAFETY: as in `stream`.
            let fd = unsafe { BorrowedFd::borrow_raw(number as RawFd) };
            copies.push(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
        }
        Ok(copies)
    }
}

/// Makes `fds` the descriptors 0 to 2 of this process; `/dev/null` where there is none.
///
/// # Errors
/// When `/dev/null` can't be opened.
pub fn replace(fds: [Option<OwnedFd>; 3]) -> io::Result<()> {
    for (number, fd) in fds.into_iter().enumerate() {
        let fd = match fd {
            Some(fd) => fd,
            None => dev_null()?,
        };
        // SAFETY: both numbers are open or free, and dup2 touches no memory. What 0 to 2 were open on belongs to nobody: the
        // standard library uses the numbers alone.
        crate::cvt(unsafe { libc::dup2(fd.as_raw_fd(), number as RawFd) })?;
    }
    Ok(())
}

/// Opens `/dev/null` in place of each of 0 to 2 that is closed, as the Rust runtime does at the start of `main`.
///
/// # Errors
/// When `/dev/null` can't be opened.
pub fn ensure_open() -> io::Result<()> {
    for (number, open) in Stdio::current().open().into_iter().enumerate() {
        if !open {
            let fd = dev_null()?;
            // SAFETY: as in `replace`; the number is free.
            crate::cvt(unsafe { libc::dup2(fd.as_raw_fd(), number as RawFd) })?;
        }
    }
    Ok(())
}

fn dev_null() -> io::Result<OwnedFd> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    crate::fd_passing::above_stdio(file.into())
}
