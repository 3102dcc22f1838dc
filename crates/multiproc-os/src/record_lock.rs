//! One process at a time: record locks of fcntl(2), which belong to a process and not to a descriptor, and end with it.
//!
//! A descriptor that has travelled to another process leads to the same open file there, so locks of open files (`flock`, `F_OFD_SETLK`) can't
//! tell the two apart. These can. The kernel drops one when its process closes *any* descriptor of the file, so it has to be taken anew for
//! each use, which costs a tenth of a microsecond.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::cvt;

/// Makes `fd` this process's. Gives the id of the process that has it, if another has.
///
/// # Errors
/// `ENOLCK`; none is expected.
pub fn claim(fd: impl AsFd) -> io::Result<Result<(), i32>> {
    let fd = fd.as_fd().as_raw_fd();
    loop {
        let mut lock = whole();
        // SAFETY: the structure is ours, and of the type that the request takes.
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
        // It has been given up in between.
    }
}

/// All of a file.
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
    fn a_process_may_claim_what_it_has_and_others_may_not() {
        let (socket, _other) = crate::fd_passing::pair().unwrap();
        for _ in 0..2 {
            assert_eq!(claim(&socket).unwrap(), Ok(()));
        }
        // Whoever closes a duplicate gives it up, and may claim it again.
        drop(socket.try_clone().unwrap());
        assert_eq!(claim(&socket).unwrap(), Ok(()));
    }
}
