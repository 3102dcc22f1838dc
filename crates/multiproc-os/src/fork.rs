//! A copy of this process that is its child: fork(2), by way of the C library, so that what others have registered with
//! pthread_atfork(3) is done.

use std::io;
use std::time::Duration;

use crate::signal::Blocked;

/// Where [`fork`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In the caller; the copy's pid.
    Original(i32),
    /// In the new process.
    Copy,
}

/// Makes a copy of the calling process, as its child. What C's stdio has buffered is written out first, lest both write it. In the copy all
/// signals are blocked, so that none is taken by a handler that is not meant for it; see
/// [`reset_to_defaults`](crate::signal::reset_to_defaults).
///
/// # Errors
/// As fork(2): `EAGAIN` at the limit of processes, `ENOMEM`.
///
/// # Safety
/// The process must have one thread, the calling one: in a copy of a process with more of them, whatever lock another thread held is
/// held for ever.
pub unsafe fn fork() -> io::Result<Side> {
    flush_c_stdio();
    let blocked = Blocked::all();
    // SAFETY: as the caller says.
    match crate::cvt(unsafe { libc::fork() })? {
        0 => {
            std::mem::forget(blocked);
            Ok(Side::Copy)
        }
        pid => Ok(Side::Original(pid)),
    }
}

/// Ends this process without the handlers of atexit(3): in a copy that fork made, those are the original's to call. What C's stdio has
/// buffered is written out.
pub fn leave(code: i32) -> ! {
    // A stream may be locked for good by another thread, in the middle of a read say.
    const MOMENT: Duration = Duration::from_millis(100);
    if crate::threads::count().is_ok_and(|threads| threads == 1) {
        flush_c_stdio();
    } else {
        let (done, wait) = std::sync::mpsc::channel();
        let flush = move || {
            flush_c_stdio();
            let _ = done.send(());
        };
        if std::thread::Builder::new().spawn(flush).is_ok() {
            let _ = wait.recv_timeout(MOMENT);
        }
    }
    // SAFETY: it ends the process, and touches no memory.
    unsafe { libc::_exit(code) }
}

fn flush_c_stdio() {
    // SAFETY: a null pointer means all streams; each is locked by the C library while it is written out.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_a_child() {
        // The harness has threads, so this is done by a child that it forks, which has one. It may do no more than system calls.
        // SAFETY: the copy calls nothing that could wait for another thread.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: this process has one thread.
            let code = match unsafe { fork() } {
                Ok(Side::Copy) => leave(7),
                Ok(Side::Original(grandchild)) => {
                    let mut status = 0;
                    // SAFETY: the status is ours.
                    unsafe { libc::waitpid(grandchild, &raw mut status, 0) };
                    libc::WEXITSTATUS(status)
                }
                Err(_) => 1,
            };
            // SAFETY: it ends the process.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: the status is ours.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), 7);
    }
}
