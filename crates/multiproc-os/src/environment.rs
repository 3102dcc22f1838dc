//! The environment of the process as one block of bytes: taken here, put in place there.

use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

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

/// As [`snapshot`], but none if the environment is `known`.
pub fn snapshot_unless(known: Option<&[u8]>) -> Option<Vec<u8>> {
    let now = snapshot();
    (known != Some(&now)).then_some(now)
}

/// What [`replace`] has put in place: the strings, and the array of pointers to them (as numbers, so that it is `Send`).
static IN_PLACE: Mutex<(Vec<u8>, Vec<usize>)> = Mutex::new((Vec::new(), Vec::new()));

/// Makes `block`, as [`snapshot`] gives it, the whole environment of this process. What an earlier call has put in place is freed.
///
/// # Errors
/// `InvalidInput` when the block doesn't end with a NUL.
///
/// # Safety
/// No other thread may read or change the environment meanwhile, and nobody may hold a pointer into it (as getenv(3) returns).
pub unsafe fn replace(block: Vec<u8>) -> io::Result<()> {
    if block.last().is_some_and(|last| *last != 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the environment's last string has no end"));
    }
    let strings = block.split_inclusive(|byte| *byte == 0).map(|string| string.as_ptr() as usize);
    let pointers: Vec<usize> = strings.chain([0]).collect();
    let mut in_place = IN_PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the caller vouches that nobody else is looking. The array and the strings stay where they are until the next call, and are
    // ended as environ(7) wants them.
    unsafe { environ = pointers.as_ptr().cast_mut().cast() };
    *in_place = (block, pointers);
    Ok(())
}

/// Where the block lies that [`replace`] has put in place, as long as it isn't called again; empty,
/// somewhere, if it never was or the block is empty.
pub fn place() -> Range<usize> {
    let in_place = IN_PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = in_place.0.as_ptr_range();
    bytes.start as usize..bytes.end as usize
}

/// Overwrites the strings that this program was executed with, which lie at `initial` and which
/// `/proc/PID/environ` shows, with zeros: here and in the copies that are made of this process
/// later. The environment is empty afterwards, until [`replace`] is called.
///
/// # Safety
/// As [`replace`], and `initial` must be the place of those strings:
/// [`Ranges::environment`](crate::title::Ranges::environment).
pub unsafe fn wipe(initial: Range<usize>) {
    // SAFETY: as the caller says; an empty block has no end to lack.
    let emptied = unsafe { replace(Vec::new()) };
    if emptied.is_ok() && !initial.is_empty() {
        // SAFETY: as the caller says: it is the part of the first thread's stack where the kernel
        // has put the strings, and nothing points there any more.
        unsafe { std::ptr::write_bytes(initial.start as *mut u8, 0, initial.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_what_the_environment_holds() {
        let block = snapshot();
        let strings: Vec<&[u8]> = block.split(|byte| *byte == 0).collect();
        assert_eq!(strings.len(), std::env::vars_os().count() + 1);
        let path = std::env::var_os("PATH").unwrap();
        assert!(strings.contains(&[b"PATH=", path.as_bytes()].concat().as_slice()));
    }

    #[test]
    fn a_block_without_an_end_is_refused() {
        // SAFETY: nothing is replaced.
        assert!(unsafe { replace(b"A=b".to_vec()) }.is_err());
    }
}
