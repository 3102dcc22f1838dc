//! The current directory, as a handle and not as a path: the directory may have been renamed or deleted.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// A handle to the current directory (`O_PATH`), close-on-exec. By way of `/proc`, where that is
/// mounted, so that it needs no right to search the directory.
///
/// # Errors
/// `EMFILE`; `EACCES` without `/proc`, when this process may not search the directory.
pub fn open_current() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(c"/proc/self/cwd", flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => rustix::fs::open(c".", flags, Mode::empty()),
        opened => opened,
    };
    crate::fd_passing::above_stdio(directory?)
}

/// What tells a directory from all others that are there at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id {
    device: u64,
    inode: u64,
}

impl Id {
    fn of(stat: &rustix::fs::Stat) -> Id {
        Id { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// Which directory is the current one.
///
/// # Errors
/// `EACCES` when this process may not search it: it is there, but could not go there.
pub fn id() -> io::Result<Id> {
    Ok(Id::of(&rustix::fs::stat(c".")?))
}

/// Which directory is behind the handle; none if that can't be told.
pub fn id_of(directory: impl AsFd) -> Option<Id> {
    Some(Id::of(&rustix::fs::fstat(directory).ok()?))
}

/// Makes the directory behind the handle the current one.
///
/// # Errors
/// `ENOTDIR`, `EACCES`.
pub fn change(directory: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::fchdir(directory)?)
}
