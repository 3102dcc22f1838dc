//! What is polled by those that wait for items of a queue by means of their own: poll(2), epoll(7),
//! a runtime. One descriptor, which is always the same.
//!
//! It is an epoll set (a set can be polled, and be in another). In it are the reading side of the
//! [door](super::gate), which is readable while there may be something to take; the pidfds of the
//! processes that take items of a joinable queue, since what one of them has is there to be taken
//! when it dies; and a timer, after which memory goes back that was kept for the next item. All of
//! it is looked after when a consumer has found the queue empty, and is about to sleep.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use multiproc_os::epoll::{Epoll, Often};
use multiproc_os::identity::Identity;
use multiproc_os::robust::copy_number;
use multiproc_os::timer::Timer;

/// See the module.
#[derive(Debug)]
pub(super) struct ReadyFd {
    set: Epoll,
    members: Mutex<Members>,
    /// The copy of the process that has made it. In another it is the original's as well, and is
    /// left alone.
    copy: u32,
}

#[derive(Debug, Default)]
struct Members {
    workers: HashMap<Identity, OwnedFd>,
    timer: Option<Timer>,
}

impl ReadyFd {
    /// With the reading side of a door.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `ENOSPC` when the user has too many in such sets.
    pub(super) fn new(wake_pipe: BorrowedFd<'_>) -> io::Result<ReadyFd> {
        let set = Epoll::new()?;
        set.add(wake_pipe, 0, Often::Always)?;
        Ok(ReadyFd { set, members: Mutex::default(), copy: copy_number() })
    }

    /// What is polled.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_mine(&self) -> bool {
        self.copy == copy_number()
    }

    /// Has it tell of the ends of these processes, and of no others. What can't be watched, at the
    /// limit of open files, is left out.
    pub(super) fn watch<'a>(&self, workers: impl Iterator<Item = (&'a Identity, &'a OwnedFd)>) {
        if !self.is_mine() {
            return;
        }
        let mut members = self.members();
        let mut before = std::mem::take(&mut members.workers);
        for (worker, pidfd) in workers {
            // A descriptor that is closed leaves the set by itself, as it is the only one of its
            // kind.
            let watched = before.remove(worker).map_or_else(|| self.add(pidfd), Ok);
            if let Ok(pidfd) = watched {
                members.workers.insert(*worker, pidfd);
            }
        }
        for gone in before.into_values() {
            let _ = self.set.remove(&gone);
        }
    }

    fn add(&self, pidfd: &OwnedFd) -> io::Result<OwnedFd> {
        let pidfd = pidfd.try_clone()?;
        self.set.add(&pidfd, 0, Often::Always)?;
        Ok(pidfd)
    }

    /// Has it be readable after this time; or not, for that reason.
    pub(super) fn remind(&self, after: Option<Duration>) {
        if !self.is_mine() {
            return;
        }
        let mut members = self.members();
        if after.is_none() && members.timer.is_none() {
            return;
        }
        if let Some(timer) = members.timer.take() {
            let _ = self.set.remove(&timer);
        }
        // At the limit of open files the memory is kept for longer.
        members.timer = after.and_then(|after| Timer::after(after).ok());
        if let Some(timer) = &members.timer {
            let _ = self.set.add(timer, 0, Often::Always);
        }
    }
}
