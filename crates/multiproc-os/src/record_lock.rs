//! A lock that one process at a time can hold on a file: record locks of fcntl(2), which belong to
//! a process and not to a descriptor, and end with it.
//!
//! A descriptor sent to another process refers to the same open file description there, so locks of
//! open file descriptions (`flock`, `F_OFD_SETLK`) can't tell the two processes apart. Record locks
//! can. The kernel drops them when their process closes *any* descriptor of the file, so the lock
//! must be claimed anew for each use, which takes a tenth of a microsecond.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::cvt;

/// Locks the file of `fd` for this process. If another process holds the lock, returns the id of
/// that process as the inner error.
///
/// # Errors
/// `ENOLCK`; none is expected.
pub fn try_lock(fd: impl AsFd) -> io::Result<Result<(), i32>> {
    let fd = fd.as_fd().as_raw_fd();
    loop {
        let mut lock = whole();
        // SAFETY: the structure is ours, and of the type that the request expects.
        let error = match cvt(unsafe { libc::fcntl(fd, libc::F_SETLK, &raw mut lock) }) {
            Ok(_) => return Ok(Ok(())),
            Err(error) => error,
        };
        if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) {
            return Err(error);
        }
        // SAFETY: as above.
        cvt(unsafe { libc::fcntl(fd, libc::F_GETLK, &raw mut lock) })?;
        if i32::from(lock.l_type) != libc::F_UNLCK {
            return Ok(Err(lock.l_pid));
        }
        // The lock has been released in between.
    }
}

/// A write lock on the whole file.
fn whole() -> libc::flock {
    // SAFETY: all-zero bytes are a value of this type.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_between_processes() {
        let (socket, _other) = crate::fd_passing::pair().unwrap();
        for _ in 0..2 {
            assert_eq!(try_lock(&socket).unwrap(), Ok(()));
        }
        // Closing a duplicate releases the lock; it can be claimed again.
        drop(socket.try_clone().unwrap());
        assert_eq!(try_lock(&socket).unwrap(), Ok(()));
    }
}
