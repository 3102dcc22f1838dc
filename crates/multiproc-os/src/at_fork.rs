//! pthread_atfork(3): what a thread of this library may hold while another thread copies the process.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

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

/// How many copies this process, and those that it is a copy of, have made by way of the C library, since this was asked first.
pub fn count() -> u32 {
    static REGISTER: Once = Once::new();
    // It fails for want of memory only; then there are none, as far as anybody knows.
    REGISTER.call_once(|| drop(register(nothing, one_more)));
    COUNT.load(Relaxed)
}

static COUNT: AtomicU32 = AtomicU32::new(0);

extern "C" fn nothing() {}

extern "C" fn one_more() {
    COUNT.fetch_add(1, Relaxed);
}

fn as_unsafe(function: extern "C" fn()) -> unsafe extern "C" fn() {
    function
}
