//! A copy of this process that is its child: fork(2) through the C library, so that the functions
//! that other code registered with pthread_atfork(3) are called.

use std::io::{self, Write};
use std::time::Duration;

use crate::signal::Blocked;

/// The process in which [`fork`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The caller; holds the copy's pid.
    Original(i32),
    /// The new process.
    Copy,
}

/// Makes a copy of the calling process, as its child. Flushes C's stdio first, since otherwise both
/// processes would write its buffers. In the copy all signals are blocked, so that none runs a
/// handler that was meant for the original; see
/// [`reset_to_defaults`](crate::signal::reset_to_defaults).
///
/// # Errors
/// As fork(2): `EAGAIN` at the limit of processes, `ENOMEM`.
///
/// # Safety
/// The process must have a single thread, the calling one. In the copy of a process with more
/// threads, locks that those threads held are never released.
pub unsafe fn fork() -> io::Result<Side> {
    flush_c_stdio();
    let blocked = Blocked::all();
    // SAFETY: by the caller's contract.
    match crate::cvt(unsafe { libc::fork() }).map_err(explained)? {
        0 => {
            std::mem::forget(blocked);
            Ok(Side::Copy)
        }
        pid => Ok(Side::Original(pid)),
    }
}

/// Replaces the text of an error of fork(2) or clone(2) where it wouldn't tell the user the cause.
pub fn explained(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOMEM) if crate::namespace::first_child_has_ended() => io::Error::new(
            error.kind(),
            "the PID namespace that this process created with unshare(CLONE_NEWPID) accepts no more processes: its \
             first process, the first that this process started afterwards, has ended. Start the others from a \
             process that outlives them",
        ),
        Some(libc::EPERM) => io::Error::new(error.kind(), "a sandbox (e.g. seccomp(2)) refuses clone(2) or execve(2)"),
        _ => error,
    }
}

/// Ends this process without calling the handlers of atexit(3): in a copy made by fork(2), they are
/// the original's to call. Flushes Rust's stdout and C's stdio, unless another thread holds their
/// locks for more than 100 ms. The exit functions of std and of C handle held locks differently
/// from each other; this one never waits forever for a thread that doesn't end.
pub fn exit_without_handlers(code: i32) -> ! {
    /// How long to wait for a lock. The write itself may take any time.
    const MOMENT: Duration = Duration::from_millis(100);
    if crate::threads::count().is_ok_and(|threads| threads == 1) {
        // The only thread may hold the lock itself, which doesn't keep it from flushing.
        let _ = std::io::stdout().flush();
        flush_c_stdio();
    } else {
        let (taken, rust) = std::sync::mpsc::channel();
        let flush_rust = move || {
            let mut stdout = std::io::stdout().lock();
            let _ = taken.send(());
            let _ = stdout.flush();
            let _ = taken.send(());
        };
        let (done, c) = std::sync::mpsc::channel();
        let flush_c = move || {
            flush_c_stdio();
            let _ = done.send(());
        };
        let rust = std::thread::Builder::new().spawn(flush_rust).ok().map(|_| rust);
        let c = std::thread::Builder::new().spawn(flush_c).ok().map(|_| c);
        if let Some(rust) = rust
            && rust.recv_timeout(MOMENT).is_ok()
        {
            let _ = rust.recv();
        }
        if let Some(c) = c {
            let _ = c.recv_timeout(MOMENT);
        }
    }
    // SAFETY: it ends the process, and touches no memory.
    unsafe { libc::_exit(code) }
}

fn flush_c_stdio() {
    // SAFETY: a null pointer means all streams; the C library locks each while it flushes it.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoke() {
        // The test harness has threads, so the test runs in a child made by fork(2), which has one
        // thread. Of what it uses, other threads here could only hold the lock of stdout.
        let _stdout = std::io::stdout().lock();
        let code = crate::copy::exit_code_of(|| {
            // SAFETY: this process has a single thread.
            match unsafe { fork() } {
                Ok(Side::Copy) => exit_without_handlers(7),
                Ok(Side::Original(grandchild)) => {
                    let mut status = 0;
                    // SAFETY: the status is ours.
                    unsafe { libc::waitpid(grandchild, &raw mut status, 0) };
                    libc::WEXITSTATUS(status)
                }
                Err(_) => 1,
            }
        });
        assert_eq!(code, 7);
    }
}
