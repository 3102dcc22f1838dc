//! The current directory as a handle instead of a path, since the directory may be renamed or
//! deleted.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// Opens a handle to the current directory (`O_PATH`), close-on-exec. It is opened through `/proc`
/// if that is mounted, which needs no search permission on the directory.
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

/// Identifies a directory among all those that exist at the same time.
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

/// Returns the id of the current directory.
///
/// # Errors
/// `EACCES` when this process may not search the current directory: it is in it, but could not
/// change to it now.
pub fn id() -> io::Result<Id> {
    Ok(Id::of(&rustix::fs::stat(c".")?))
}

/// Returns the id of the directory behind the handle; `None` if it can't be determined.
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
