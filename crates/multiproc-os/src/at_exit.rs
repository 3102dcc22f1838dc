//! A function that runs when the process leaves by `exit(3)`: the end of `main`, or `std::process::exit`.
//!
//! The one hook that both ways out of a Rust program pass through. See atexit(3); it is not called for `_exit`, `abort` or a
//! signal.

use std::io;

/// Has `handler` called at `exit(3)`, in the thread that exits, after the handlers that are registered later.
///
/// # Errors
/// `ENOMEM` when the C library has no room for another handler.
pub fn register(handler: extern "C" fn()) -> io::Result<()> {
    // SAFETY: `handler` is a function of the program with C's calling convention; it lives as long as the program.
    match unsafe { libc::atexit(handler) } {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
    }
}
