//! pthread_atfork(3): functions that run when a thread forks, before and after, for state that
//! another thread may be changing at that moment.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Registers `prepare` to be called before every fork(2) of this process that goes through the C
/// library, and `done` to be called afterwards, both in this process and in the copy. The forking
/// thread calls them.
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

/// Registers `done` to be called after fork(2) by the forking thread, in the copy only.
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

/// Returns the number of copies that this process and its ancestors have made through the C
/// library's fork(2). Counting starts at the first call of this function.
pub fn count() -> u32 {
    static REGISTER: Once = Once::new();
    // The registration fails only if memory is short. Then no copies are counted.
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
