//! Notification of processes that share a file: inotify(7) on one side, futimens(2) on the other.
//! The file's contents don't change, only its times.
//!
//! An inotify instance can be polled beside pidfds and pipes, which a futex can't, and the
//! notifying process needs nothing but the file. Instances are scarce, as a user may have 128 of
//! them, and slow to close (some milliseconds, for the kernel waits until no other processor uses
//! it). So a process has at most [`MOST`], and keeps them for the next watch.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init, remove_watch};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW};

use crate::errno::EMFILE;
use crate::fd_passing::above_stdio;
use crate::fork_local::ForkLocal;

/// The most instances that a process has.
const MOST: usize = 2;

/// The instances of this process.
static INSTANCES: ForkLocal<Instances> = ForkLocal::new();

#[derive(Default)]
struct Instances {
    made: AtomicUsize,
    /// Those that watch nothing now.
    free: Mutex<Vec<OwnedFd>>,
}

impl Instances {
    fn free(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> io::Result<OwnedFd> {
        if let Some(instance) = self.free().pop() {
            return Ok(instance);
        }
        if self.made.fetch_add(1, Relaxed) >= MOST {
            self.made.fetch_sub(1, Relaxed);
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        let made = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(Into::into).and_then(above_stdio);
        made.inspect_err(|_| {
            self.made.fetch_sub(1, Relaxed);
        })
    }
}

/// A file that is watched, until this is dropped. Its descriptor becomes readable when the file is
/// [touched](touch).
#[derive(Debug)]
pub struct Watch {
    instance: ManuallyDrop<OwnedFd>,
    /// The number of the watch.
    number: i32,
}

impl Watch {
    /// Watches a file from now on.
    ///
    /// # Errors
    /// `EMFILE` when this process has [the most](MOST) such watches, when the user has as many
    /// inotify instances as `/proc/sys/fs/inotify/max_user_instances` allows, or the process as
    /// many descriptors as it may have; `ENOENT` when `/proc` is not mounted.
    pub fn new(file: impl AsFd) -> io::Result<Watch> {
        let instances = INSTANCES.get();
        let instance = instances.get()?;
        let path = format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd());
        match add_watch(&instance, path, WatchFlags::ATTRIB) {
            Ok(number) => Ok(Watch { instance: ManuallyDrop::new(instance), number }),
            Err(error) => {
                instances.free().push(instance);
                Err(error.into())
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.instance.as_fd()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = remove_watch(&*self.instance, self.number);
        // Including the event that says that the watch was removed.
        let mut events = [0_u8; 512];
        while rustix::io::read(&*self.instance, &mut events).is_ok_and(|len| len > 0) {}
        // SAFETY: it isn't used again.
        let instance = unsafe { ManuallyDrop::take(&mut self.instance) };
        INSTANCES.get().free().push(instance);
    }
}

/// Notifies all that [watch](Watch) the file.
///
/// # Errors
/// `EPERM` when the calling process may not write to the file, or a sandbox refuses the call.
pub fn touch(file: impl AsFd) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: now })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll;
    use std::time::Instant;

    // One test, since both instances of the process are in use at times.
    #[test]
    fn smoke() {
        let file = rustix::fs::memfd_create("touched", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let readable = |watches: &[&Watch]| poll::wait_any_in(watches, Some(Instant::now())).unwrap();
        for _ in 0..3 {
            let (one, other) = (Watch::new(&file).unwrap(), Watch::new(&file).unwrap());
            assert_eq!(Watch::new(&file).unwrap_err().raw_os_error(), Some(EMFILE));
            assert_eq!(readable(&[&one, &other]), []);
            // Through another open file description of the same file.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            touch(std::fs::File::options().write(true).open(path).unwrap()).unwrap();
            assert_eq!(readable(&[&one, &other]), [0, 1]);
        }
        assert_eq!(INSTANCES.get().made.load(Relaxed), MOST);
        assert!(Watch::new(std::io::pipe().unwrap().0).is_ok_and(|watch| readable(&[&watch]).is_empty()));
    }
}
