//! A ledger: records what each process holds of an object (permits, say), so that other processes
//! can give that back when the process dies.
//!
//! The ledger is a list of entries: the [identity](multiproc_os::identity) of a process, and a
//! number that the object notes about it. The first entries lie beside the object, further ones in
//! pages that are allocated on demand. An entry is free if it holds no identity, or if the object
//! says so. All changes are made with the object's spin lock held.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use multiproc_os::errno::{EMFILE, ENFILE};
use multiproc_os::fork_local::ForkLocal;
use multiproc_os::identity::Identity;
use multiproc_os::poll;

use crate::loom::atomic::{AtomicU32, AtomicU64};
use crate::memory::layout::{Layout, layout};
use crate::memory::segment::Segment;
use crate::wait::wait_queue::Watched;

/// The number of entries beside the object.
const NEAR_ENTRIES: usize = if cfg!(loom) { 1 } else { 32 };
/// The number of entries behind the object: more than the default limit of processes.
const FAR_ENTRIES: usize = 65536;
/// The [`Layout::TRAILING_WORDS`] of an object with a ledger.
pub const TRAILING_WORDS: usize = 2 * FAR_ENTRIES;

/// At most this many processes are watched by pidfds at a time: each takes a descriptor.
const MAX_WATCHED: usize = 128;
/// How many waiters share a pidfd: the kernel refuses (`EINVAL`) to have more than 500 epoll sets,
/// themselves members of sets, watch the same file.
const WAITERS_PER_PIDFD: usize = 256;
/// How often processes beyond [`MAX_WATCHED`] are checked one by one. The checks take at most a
/// tenth of the time.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

layout! {
    /// The state in shared memory. All zero: it is empty.
    pub struct Ledger {
        /// Only entries with an index below this may be in use.
        used: AtomicU32,
        /// The number of entries behind the object that have memory.
        allocated: AtomicU32,
        near: [[AtomicU64; 2]; NEAR_ENTRIES],
    }
}

/// An entry of a ledger.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The identity of the process; 0 if there is none. The object may use other entries anew, too.
    pub owner: &'a AtomicU64,
    /// The object's note about that process.
    pub note: &'a AtomicU64,
}

impl Entry<'_> {
    /// Returns the identity of the process; 0 if there is none.
    pub fn owner(self) -> u64 {
        self.owner.load(Relaxed)
    }

    /// Returns the object's note about that process.
    pub fn note(self) -> u64 {
        self.note.load(Relaxed)
    }
}

/// A ledger, with the segment that it is in.
pub struct LedgerView<'a, L> {
    /// The ledger.
    pub ledger: &'a Ledger,
    /// The segment.
    pub segment: &'a Segment<L>,
}

impl<L> Clone for LedgerView<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for LedgerView<'_, L> {}

impl<'a, L: Layout> LedgerView<'a, L> {
    /// The number of entries that may be in use.
    #[inline]
    fn used(self) -> usize {
        match self.ledger.used.load(Relaxed) as usize {
            used @ 0..=NEAR_ENTRIES => used,
            used => used.min(self.room()),
        }
    }

    /// The number of entries that there can be behind the object.
    fn far(self) -> usize {
        self.segment.more().len() / 2
    }

    /// The number of entries that have memory.
    fn room(self) -> usize {
        NEAR_ENTRIES + (self.ledger.allocated.load(Relaxed) as usize).min(self.far())
    }

    /// Returns the entry with this index, if it has memory.
    #[inline]
    pub fn entry(self, index: usize) -> Option<Entry<'a>> {
        let [owner, note] = match self.ledger.near.get(index) {
            Some(pair) => pair,
            None if index < self.room() => &self.segment.more().as_chunks().0[index - NEAR_ENTRIES],
            None => return None,
        };
        Some(Entry { owner, note })
    }

    /// Returns all entries that may be in use, with their indices.
    pub fn entries(self) -> impl Iterator<Item = (usize, Entry<'a>)> {
        (0..self.used()).filter_map(move |index| Some((index, self.entry(index)?)))
    }

    /// Finds an entry for which `is_usable` is true, `hint` if possible. Returns `None` if there is
    /// none with memory: see [`make_room`](LedgerView::make_room). Must be called with the spin
    /// lock held.
    #[inline]
    pub fn find(self, hint: usize, is_usable: impl Fn(Entry<'_>) -> bool) -> Option<usize> {
        if hint < self.used() && self.entry(hint).is_some_and(&is_usable) {
            return Some(hint);
        }
        let used = self.used();
        if let Some((index, _)) = self.entries().find(|(_, entry)| is_usable(*entry)) {
            return Some(index);
        }
        // Before anything is written there.
        self.entry(used)?;
        self.ledger.used.store(used as u32 + 1, Release);
        Some(used)
    }

    /// Allocates memory for more entries, which then must be recorded by
    /// [`add_room`](LedgerView::add_room). Must be called without the spin lock, as it takes long.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`; `StorageFull` when there is no room for more processes.
    pub fn make_room(self) -> io::Result<usize> {
        let (allocated, far) = (self.ledger.allocated.load(Relaxed) as usize, self.far());
        let allocated = allocated.min(far);
        if allocated == far {
            let error = format!("its list of processes is full ({} entries)", NEAR_ENTRIES + far);
            return Err(io::Error::new(io::ErrorKind::StorageFull, error));
        }
        Ok(self.segment.allocate_more(2 * allocated)? / 2)
    }

    /// Records what [`make_room`](LedgerView::make_room) has returned. Must be called with the spin
    /// lock held.
    pub fn add_room(self, allocated: usize) {
        if allocated > self.ledger.allocated.load(Relaxed) as usize {
            self.ledger.allocated.store(allocated as u32, Release);
        }
    }

    /// Drops entries from the end for which `is_free` is true, so that no process looks at them any
    /// more. Must be called with the spin lock held.
    pub fn shorten(self, is_free: impl Fn(Entry<'_>) -> bool) {
        let mut used = self.used();
        while used > 0 && self.entry(used - 1).is_some_and(&is_free) {
            used -= 1;
        }
        self.ledger.used.store(used as u32, Release);
    }

    /// Other processes with an entry for which `is_meant` is true, each once. Needs no lock; the
    /// result may be out of date.
    pub fn others(self, is_meant: impl Fn(Entry<'_>) -> bool) -> io::Result<Vec<Identity>> {
        let me = me()?;
        let owners = self.entries().filter(|(_, entry)| is_meant(*entry)).map(|(_, entry)| entry.owner());
        let mut owners: Vec<u64> = owners.filter(|owner| *owner != me).collect();
        owners.sort_unstable();
        owners.dedup();
        Ok(owners.into_iter().filter_map(Identity::from_bits).collect())
    }
}

/// Returns the identity of the calling process, as it is written in a ledger.
///
/// # Errors
/// When `/proc` is not mounted.
#[inline]
pub fn me() -> io::Result<u64> {
    Identity::current().map(Identity::to_bits)
}

/// Returns the ended ones of `processes`, as far as there are descriptors to find out.
pub fn dead_of(mut processes: Vec<Identity>) -> Vec<Identity> {
    processes.retain(|process| process.has_ended().unwrap_or(false));
    processes
}

/// Returns a pidfd of `process`, which some [`WAITERS_PER_PIDFD`] waiters of the calling process
/// share; `None` if `process` has ended.
fn pidfd_of(process: Identity) -> io::Result<Option<Arc<OwnedFd>>> {
    static SHARED: ForkLocal<Mutex<HashMap<Identity, Weak<OwnedFd>>>> = ForkLocal::new();
    let mut shared = SHARED.get().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pidfd) = shared.get(&process).and_then(Weak::upgrade)
        && Arc::strong_count(&pidfd) <= WAITERS_PER_PIDFD
    {
        return Ok(Some(pidfd));
    }
    let Some(pidfd) = process.watch()?.map(Arc::new) else { return Ok(None) };
    shared.retain(|_, pidfd| pidfd.strong_count() > 0);
    shared.insert(process, Arc::downgrade(&pidfd));
    Ok(Some(pidfd))
}

/// Pidfds for watching `processes`, and those of them that have ended already.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn watch(processes: Vec<Identity>) -> io::Result<(Watched, Vec<Identity>)> {
    let begun = Instant::now();
    let (mut pidfds, mut alive, mut dead) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = processes.into_iter().peekable();
    while let Some(process) = rest.peek() {
        if pidfds.len() == MAX_WATCHED {
            break;
        }
        match pidfd_of(*process) {
            Ok(None) => dead.push(*process),
            Ok(Some(pidfd)) => {
                pidfds.push(pidfd);
                alive.push(*process);
            }
            Err(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
                // Leaves a descriptor for checking the rest one by one.
                pidfds.pop();
                break;
            }
            Err(error) => return Err(error),
        }
        rest.next();
    }
    let ended = poll::wait_any_in(&pidfds, Some(Instant::now()))?;
    dead.extend(ended.into_iter().map(|index| alive[index]));
    let rest: Vec<Identity> = alive.into_iter().skip(pidfds.len()).chain(rest).collect();
    let has_more = !rest.is_empty();
    dead.extend(dead_of(rest));
    let look_again = has_more.then(|| CHECK_INTERVAL.max(begun.elapsed() * 10));
    Ok((Watched { pidfds, touched: None, look_again }, dead))
}
