//! Closing every file descriptor but some: close_range(2), or a walk over `/proc/self/fd` before Linux 5.9.

use std::io;
use std::os::fd::RawFd;

/// Closes every descriptor from 3 up that is not in `keep`.
///
/// For a process's first steps, before anything of its own has opened a file: whatever inherited descriptor it closes, nobody
/// here may be using.
///
/// # Errors
/// On kernels without close_range, when `/proc/self/fd` can't be read.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter(|fd| **fd >= 3).map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    let mut first = 3_u32;
    for last in keep.into_iter().chain([u32::MAX]) {
        let end = if last == u32::MAX { u32::MAX } else { last - 1 };
        if first <= end
            && let Err(error) = close_range(first, end)
        {
            return if error.raw_os_error() == Some(libc::ENOSYS) { close_listed(first, last) } else { Err(error) };
        }
        first = last.saturating_add(1);
    }
    Ok(())
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closing a descriptor can't touch memory; that nobody uses it any more is the caller's contract.
    crate::cvt_long(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// The way of kernels before 5.9. `keep_next` is the first descriptor at or above `first` that stays open; those above it are
/// left to the caller's next round, which comes here again.
fn close_listed(first: u32, keep_next: u32) -> io::Result<()> {
    let open: Vec<u32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd >= first && *fd != keep_next)
        .collect();
    for fd in open {
        // SAFETY: as in `close_range`.
        unsafe { libc::close(fd as RawFd) };
    }
    Ok(())
}
