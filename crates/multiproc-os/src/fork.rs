//! A copy of this process that is its child: fork(2), by way of the C library, so that what others have registered with
//! pthread_atfork(3) is done.

use std::io::{self, Write};
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
    match crate::cvt(unsafe { libc::fork() }).map_err(explained)? {
        0 => {
            std::mem::forget(blocked);
            Ok(Side::Copy)
        }
        pid => Ok(Side::Original(pid)),
    }
}

/// What an error of fork(2) or clone(2) means, where its own text would not tell.
pub fn explained(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOMEM) if crate::namespace::first_child_has_ended() => io::Error::new(
            error.kind(),
            "the PID namespace that this process has made with unshare(CLONE_NEWPID) takes no more processes: its first one, which was \
             the first that this process has started since, has ended. Have one that lives as long as all others start them",
        ),
        Some(libc::EPERM) => io::Error::new(error.kind(), "a sandbox, as of seccomp(2), refuses clone(2) or execve(2)"),
        _ => error,
    }
}

/// Ends this process without the handlers of atexit(3): in a copy that fork made, those are the
/// original's to call. What Rust's stdout and C's stdio have buffered is written out, unless
/// another thread holds their locks: std's and C's own exits differ in that, and neither waits for
/// ever where the other thread doesn't end.
pub fn leave(code: i32) -> ! {
    /// How long a lock is waited for. Writing takes as long as it takes.
    const MOMENT: Duration = Duration::from_millis(100);
    if crate::threads::count().is_ok_and(|threads| threads == 1) {
        // Its one thread may hold the lock itself, which doesn't keep it from flushing.
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
