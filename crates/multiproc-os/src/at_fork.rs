//! pthread_atfork(3): what a thread of this library may hold while another thread copies the process.

use std::io;

/// Has `prepare` called before any fork(2) of this process by way of the C library, and `done` afterwards, in the process and in its copy, by the
/// thread that forks.
///
/// # Errors
/// `ENOMEM`.
pub fn register(prepare: extern "C" fn(), done: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the functions live as long as the program.
    match unsafe { libc::pthread_atfork(Some(as_unsafe(prepare)), Some(as_unsafe(done)), Some(as_unsafe(done))) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Has `done` called by the thread that has forked, in the copy alone.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn register_in_copy(done: extern "C" fn()) -> io::Result<()> {
    // SAFETY: the function lives as long as the program.
    match unsafe { libc::pthread_atfork(None, None, Some(as_unsafe(done))) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn as_unsafe(function: extern "C" fn()) -> unsafe extern "C" fn() {
    function
}
