//! The environment of a process as one block of bytes, to be copied from one process to another.

use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

unsafe extern "C" {
    static mut environ: *mut *mut libc::c_char;
}

/// Returns the current environment of this process as `NAME=value` strings, each terminated by a
/// NUL.
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

/// Returns what [`snapshot`] returns, or `None` if that is equal to `known`.
pub fn snapshot_unless(known: Option<&[u8]>) -> Option<Vec<u8>> {
    let now = snapshot();
    (known != Some(&now)).then_some(now)
}

/// What [`replace`] installed last: the strings, and the array of pointers to them (as numbers, so
/// that it is `Send`).
static IN_PLACE: Mutex<(Vec<u8>, Vec<usize>)> = Mutex::new((Vec::new(), Vec::new()));

/// Makes `block`, in the form that [`snapshot`] returns, the whole environment of this process.
/// Frees the block that an earlier call installed.
///
/// # Errors
/// `InvalidInput` when the block doesn't end with a NUL.
///
/// # Safety
/// No other thread may read or change the environment during the call, and no pointer into it (as
/// getenv(3) returns) may be used afterwards.
pub unsafe fn replace(block: Vec<u8>) -> io::Result<()> {
    if block.last().is_some_and(|last| *last != 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the environment block doesn't end with a NUL"));
    }
    let strings = block.split_inclusive(|byte| *byte == 0).map(|string| string.as_ptr() as usize);
    let pointers: Vec<usize> = strings.chain([0]).collect();
    let mut in_place = IN_PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the caller vouches that no other thread accesses the environment. The array and the
    // strings stay at their addresses until the next call, and are terminated as environ(7)
    // requires.
    unsafe { environ = pointers.as_ptr().cast_mut().cast() };
    *in_place = (block, pointers);
    Ok(())
}

/// Returns the address range of the block that [`replace`] installed, valid until the next call of
/// `replace`. The range is empty, at an arbitrary address, if none was installed or the block is
/// empty.
pub fn place() -> Range<usize> {
    let in_place = IN_PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = in_place.0.as_ptr_range();
    bytes.start as usize..bytes.end as usize
}

/// Overwrites with zeros the strings that this program was executed with, which lie at `initial`
/// and which `/proc/PID/environ` shows, for this process and for copies that are made of it later.
/// The environment is empty afterwards, until [`replace`] is called.
///
/// # Safety
/// As [`replace`], and `initial` must be the range of those strings:
/// [`Ranges::environment`](crate::title::Ranges::environment).
pub unsafe fn wipe(initial: Range<usize>) {
    // SAFETY: by the caller's contract. An empty block can't lack its final NUL.
    let emptied = unsafe { replace(Vec::new()) };
    if emptied.is_ok() && !initial.is_empty() {
        // SAFETY: by the caller's contract, this is the part of the first thread's stack to which
        // the kernel copied the strings, and no pointer into it is left.
        unsafe { std::ptr::write_bytes(initial.start as *mut u8, 0, initial.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_matches_environment() {
        let block = snapshot();
        let strings: Vec<&[u8]> = block.split(|byte| *byte == 0).collect();
        assert_eq!(strings.len(), std::env::vars_os().count() + 1);
        let path = std::env::var_os("PATH").unwrap();
        assert!(strings.contains(&[b"PATH=", path.as_bytes()].concat().as_slice()));
    }

    #[test]
    fn unterminated_block() {
        // SAFETY: nothing is replaced.
        assert!(unsafe { replace(b"A=b".to_vec()) }.is_err());
    }
}
