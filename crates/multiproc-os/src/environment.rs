//! The environment of the process as one block of bytes: taken here, put in place there.

use std::io;
use std::os::unix::ffi::OsStrExt;

unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
}

/// The environment of this process now, as `NAME=value` strings, each ended by a NUL.
pub fn snapshot() -> Vec<u8> {
    let mut block = Vec::with_capacity(4096);
    for (name, value) in std::env::vars_os() {
        block.extend_from_slice(name.as_bytes());
        block.push(b'=');
        block.extend_from_slice(value.as_bytes());
        block.push(0);
    }
    block
}

/// Makes `block`, as [`snapshot`] gives it, the whole environment of this process.
///
/// The block is leaked: pointers into the environment that others have taken stay good.
///
/// # Errors
/// `InvalidInput` when the block doesn't end with a NUL.
///
/// # Safety
/// No other thread may read or change the environment meanwhile.
pub unsafe fn replace(block: &[u8]) -> io::Result<()> {
    if block.last().is_some_and(|last| *last != 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the environment's last string has no end"));
    }
    let block: &'static mut [u8] = block.to_vec().leak();
    let mut pointers: Vec<*mut libc::c_char> = Vec::with_capacity(64);
    for entry in block.split_inclusive_mut(|byte| *byte == 0) {
        pointers.push(entry.as_mut_ptr().cast());
    }
    pointers.push(std::ptr::null_mut());
    // SAFETY: the caller vouches that nobody else is looking; the array and the strings live for ever and are ended as
    // environ(7) wants them.
    unsafe { environ = pointers.leak().as_mut_ptr() };
    Ok(())
}
