//! The current directory, as a handle and not as a path: the directory may have been renamed or deleted.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// A handle to the current directory (`O_PATH`), close-on-exec. By way of `/proc`, so that it needs no right to search the directory.
///
/// # Errors
/// `EMFILE`; `ENOENT` when `/proc` is not mounted.
pub fn open_current() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    crate::fd_passing::above_stdio(rustix::fs::open(c"/proc/self/cwd", flags, Mode::empty())?)
}

/// What tells a directory from all others that are there at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    device: u64,
    inode: u64,
}

/// Which directory is the current one; none if that can't be told.
pub fn id() -> Option<Id> {
    let stat = rustix::fs::stat(c".").ok()?;
    Some(Id { device: stat.st_dev, inode: stat.st_ino })
}

/// Whether this process may not search its current directory: it is there, but could not go there.
pub fn is_barred() -> bool {
    rustix::fs::stat(c".").is_err_and(|error| error == rustix::io::Errno::ACCESS)
}

/// Which directory is behind the handle; none if that can't be told.
pub fn id_of(directory: impl AsFd) -> Option<Id> {
    let stat = rustix::fs::fstat(directory).ok()?;
    Some(Id { device: stat.st_dev, inode: stat.st_ino })
}

/// Makes the directory behind the handle the current one.
///
/// # Errors
/// `ENOTDIR`, `EACCES`.
pub fn change(directory: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::fchdir(directory)?)
}
