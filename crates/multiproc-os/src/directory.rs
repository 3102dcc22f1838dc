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

/// Makes the directory behind the handle the current one.
///
/// # Errors
/// `ENOTDIR`, `EACCES`.
pub fn change(directory: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::fchdir(directory)?)
}
