//! Notification between processes that share a file: inotify(7), triggered by futimens(2) on the
//! file. Only the file's timestamps change.
//!
//! Unlike a futex, an inotify instance can be waited for with poll(2), together with pidfds and
//! pipes. The notifying process needs nothing but the file.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW};

/// Returns a descriptor that becomes readable when the file is [touched](touch) after this call.
///
/// # Errors
/// `EMFILE` when this user has as many instances as `/proc/sys/fs/inotify/max_user_instances`
/// allows, or the process as many descriptors as it may have; `ENOENT` when `/proc` is not mounted.
pub fn watch(file: impl AsFd) -> io::Result<OwnedFd> {
    let instance = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let path = format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd());
    add_watch(&instance, path, WatchFlags::ATTRIB)?;
    Ok(instance)
}

/// Notifies all processes that [watch](watch()) the file.
///
/// # Errors
/// `EPERM` when the calling process may not write to the file.
pub fn touch(file: impl AsFd) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: now })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll;
    use std::time::Instant;

    #[test]
    fn a_touched_file_is_told_of() {
        let file = rustix::fs::memfd_create("touched", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let (one, other) = (watch(&file).unwrap(), watch(&file).unwrap());
        let readable = || poll::wait_readable(&[&one, &other], Some(Instant::now())).unwrap();
        assert_eq!(readable(), []);
        // Through another open file description of the same file.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        touch(std::fs::File::options().write(true).open(path).unwrap()).unwrap();
        assert_eq!(readable(), [0, 1]);
        assert_eq!(poll::wait_readable(&[&watch(&file).unwrap()], Some(Instant::now())).unwrap(), []);
    }
}
