//! The current directory, as a handle and not as a path: the directory may have been renamed or deleted.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// What tells one directory from another: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryId {
    device: u64,
    inode: u64,
}

/// Which directory is the current one.
///
/// # Errors
/// As stat(2).
pub fn current_id() -> io::Result<DirectoryId> {
    let stat = rustix::fs::stat(c".")?;
    Ok(DirectoryId { device: stat.st_dev, inode: stat.st_ino })
}

/// A handle to the current directory (`O_PATH`), close-on-exec.
///
/// # Errors
/// As open(2).
pub fn open_current() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    crate::fd_passing::above_stdio(rustix::fs::open(c".", flags, Mode::empty())?)
}

/// Makes the directory behind the handle the current one.
///
/// # Errors
/// `ENOTDIR`, `EACCES`.
pub fn change(directory: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::fchdir(directory)?)
}
