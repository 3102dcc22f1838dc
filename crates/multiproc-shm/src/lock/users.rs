//! The users of a lock that conditions share: the processes that take it, recorded in the lock's
//! own memory. Waiters of those conditions must learn when one of these processes has died while it
//! owned the lock. See `../sync/PROTOCOL.md`, "A lock that conditions share".

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use multiproc_os::identity::Identity;
use multiproc_os::inotify;

use crate::memory::segment::layout;
use crate::sync::ledger::me;

/// The number of processes: together with the rest of a lock they fill one page.
const ROOM: usize = 448;

layout! {
    /// The shared part; all zero, no condition shares the lock. In cache lines of its own: reading
    /// the flag must not take the cache line with the lock's word from the owner.
    #[repr(align(64))]
    pub struct Users {
        /// Whether conditions share the lock: then processes enter themselves here before they take
        /// it.
        are_asked_for: AtomicU32,
        /// Whether there is a process that could not be entered.
        are_incomplete: AtomicU32,
        /// Identities, in no order. 0: free.
        processes: [AtomicU64; ROOM],
    }
}

/// A lock's users, and the file that they are in. Waiters watch the file to learn of changes.
#[derive(Debug, Clone, Copy)]
pub struct Shared<'a> {
    /// The users, in the file.
    pub users: &'a Users,
    /// The file.
    pub file: BorrowedFd<'a>,
}

impl Users {
    /// Returns whether a waiter wants to learn of changes.
    #[inline]
    pub fn are_asked_for(&self) -> bool {
        self.are_asked_for.load(SeqCst) != 0
    }

    /// From now on, each process enters itself before it takes the lock.
    pub fn ask(&self) {
        self.are_asked_for.store(1, SeqCst);
    }

    /// Whether there may be processes that are not recorded.
    pub fn are_incomplete(&self) -> bool {
        self.are_incomplete.load(SeqCst) != 0
    }

    /// The recorded processes. One may appear twice, if two of its threads have entered it at the
    /// same time.
    pub fn known(&self) -> impl Iterator<Item = Identity> {
        self.processes.iter().filter_map(|process| Identity::from_bits(process.load(SeqCst)))
    }

    /// Removes processes that have ended.
    pub fn strike(&self, dead: &[Identity]) {
        for process in &self.processes {
            let found = process.load(Relaxed);
            if Identity::from_bits(found).is_some_and(|process| dead.contains(&process)) {
                let _ = process.compare_exchange(found, 0, SeqCst, Relaxed);
            }
        }
    }

    /// Records a process. Returns whether it is new; `None` if there is no room for it.
    fn add(&self, process: Identity) -> Option<bool> {
        let bits = process.to_bits();
        if self.processes.iter().any(|place| place.load(Relaxed) == bits) {
            return Some(false);
        }
        let take = |place: &AtomicU64, from| {
            place.load(Relaxed) == from && place.compare_exchange(from, bits, SeqCst, Relaxed).is_ok()
        };
        if self.processes.iter().any(|place| take(place, 0)) {
            return Some(true);
        }
        if self.are_incomplete() {
            // The search for the dead takes milliseconds, and was in vain before.
            return None;
        }
        let has_ended = |bits| Identity::from_bits(bits).is_some_and(|process| process.has_ended().unwrap_or(false));
        let of_dead = |place: &AtomicU64| {
            let found = place.load(Relaxed);
            has_ended(found) && take(place, found)
        };
        self.processes.iter().any(of_dead).then_some(true)
    }
}

impl Shared<'_> {
    /// Records the calling process, and tells the waiters, even if it was recorded before: another
    /// of its threads may have been stopped before it has told them.
    #[cold]
    pub fn enter(self) {
        if me().ok().and_then(Identity::from_bits).and_then(|me| self.users.add(me)).is_none() {
            self.users.are_incomplete.store(1, SeqCst);
        }
        self.tell();
    }

    /// Makes all waiters check for changes. Where a sandbox refuses the call, they learn when they
    /// look for the next time that they must look often.
    #[cold]
    pub fn tell(self) {
        if inotify::touch(self.file).is_err() {
            self.users.are_incomplete.store(1, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::segment::Segment;
    use std::os::fd::AsFd;

    layout! {
        struct Alone: "users", 0x7fff_0003 {
            users: Users,
        }
    }

    fn dead(number: u64) -> Identity {
        // A pid that no system assigns.
        Identity::from_bits((number + 1) << 32 | 0x7fff_ffff).unwrap()
    }

    #[test]
    fn dead_users_make_room() {
        let segment = Segment::<Alone>::create().unwrap();
        let users = &segment.users;
        for number in 0..ROOM as u64 {
            assert_eq!(users.add(dead(number)), Some(true));
            assert_eq!(users.add(dead(number)), Some(false));
        }
        assert_eq!(users.known().count(), ROOM);
        let this = Identity::current().unwrap();
        assert_eq!(users.add(this), Some(true));
        assert_eq!(users.add(this), Some(false));
        users.strike(&users.known().filter(|process| *process != this).collect::<Vec<_>>());
        assert_eq!(users.known().collect::<Vec<_>>(), [this]);
    }

    #[test]
    fn full_table() {
        let segment = Segment::<Alone>::create().unwrap();
        let shared = Shared { users: &segment.users, file: segment.as_fd() };
        let alive = Identity::of(std::os::unix::process::parent_id() as i32).unwrap().unwrap();
        segment.users.processes.iter().for_each(|place| place.store(alive.to_bits(), SeqCst));
        let watch = inotify::Watch::new(segment.as_fd()).unwrap();
        let is_told = || {
            let now = Some(std::time::Instant::now());
            !multiproc_os::poll::wait_any_in(&[&watch], now).unwrap().is_empty()
        };
        assert!(!segment.users.are_incomplete() && !is_told());
        shared.enter();
        assert!(segment.users.are_incomplete() && is_told());
    }
}
