//! Leases: items that have been taken, with work that isn't done yet. They make a store joinable.
//! See `QUEUE.md`, "Leases".
//!
//! A lease is a block that contains the item, with its owner's identity. When the owner dies, or
//! gives it up, the item can be taken again.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use multiproc_os::identity::Identity;
use multiproc_os::poll;

use crate::lock::spin_lock::{Stalled, within};
use crate::queue::arena::State;
use crate::queue::store::{Refusal, Store, Taken};
use crate::wait::notifier::ViaHandle;
use crate::wait::wait_queue::{WaitOp, Watched};

/// How often a process that takes one item after another checks whether owners of leases have died;
/// and for at most one [`SHARE`]th of the time.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
const SHARE: u32 = 10;

/// How often a waiter checks that could not watch all workers, at the limit of open files.
const LOOK: Duration = Duration::from_millis(100);

/// What a process knows about the processes that take items (the workers).
#[derive(Debug, Default)]
pub struct Leases {
    /// The identity under which this process is on the ledger. A fork copy has another identity.
    enlisted: AtomicU64,
    watched: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When to check next.
    next: Option<Instant>,
    workers: HashMap<Identity, OwnedFd>,
    /// Whether there are other workers, which could not be watched.
    lacks_some: bool,
}

impl Leases {
    #[inline]
    pub(crate) fn is_enlisted(&self, me: u64) -> bool {
        self.enlisted.load(Relaxed) == me
    }

    pub(crate) fn enlisted_as(&self, me: u64) {
        self.enlisted.store(me, Relaxed);
    }
}

impl Store {
    /// Takes an item with a lease that has been given up, or with an owner that has died.
    pub fn take_returned(&self) -> Result<Option<Taken>, Refusal> {
        self.look_after_workers(false).map_err(|error| Refusal::System("the processes that hold its items", error))?;
        if !self.has_returned() {
            return Ok(None);
        }
        let me = Identity::current().map_err(|error| Refusal::System("this process's own identity", error))?;
        self.take_given_up(me)
    }

    /// Ends a lease of this process, as the work is done.
    pub fn finish(&self, index: u32) -> Result<(), Refusal> {
        let garbage = |_| Refusal::Corrupt("a lease");
        let me = Identity::current().map_err(|error| Refusal::System("this process's own identity", error))?;
        let descriptor = self.blocks().descriptor(index).map_err(garbage)?;
        if !self.change_work(|| descriptor.change(State::Leased(me), State::Building(me))) {
            return Err(Refusal::Corrupt("a lease that this process doesn't hold"));
        }
        self.give_back_block(index).map_err(garbage)
    }

    /// Gives up a lease of this process: the item can be taken again.
    pub fn return_lease(&self, index: u32) {
        if let Ok(me) = Identity::current() {
            self.give_up_lease(index, me);
        }
    }

    /// Gives up the leases of processes that have died. Without `now`, does nothing if the last
    /// check is recent.
    pub(crate) fn look_after_workers(&self, now: bool) -> io::Result<()> {
        let begun = Instant::now();
        let mut known = self.leases.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if !now && known.next.is_some_and(|next| begun < next) {
            return Ok(());
        }
        let mut dead = Vec::new();
        let mut workers = HashMap::new();
        known.lacks_some = false;
        for worker in self.workers().others(|entry| entry.owner() != 0)? {
            match known.workers.remove(&worker).map_or_else(|| worker.watch(), |pidfd| Ok(Some(pidfd))) {
                Ok(Some(pidfd)) => drop(workers.insert(worker, pidfd)),
                Ok(None) => dead.push(worker),
                // No descriptor: tries again at the next check.
                Err(_) => known.lacks_some = true,
            }
        }
        let (of, fds): (Vec<Identity>, Vec<&OwnedFd>) = workers.iter().map(|(worker, fd)| (*worker, fd)).unzip();
        if !fds.is_empty()
            && let Ok(ended) = poll::wait_readable(&fds, Some(begun))
        {
            dead.extend(ended.into_iter().map(|index| of[index]));
        }
        known.workers = workers;
        known.next = Some(begun + BETWEEN_LOOKS.max(begun.elapsed() * SHARE));
        drop(known);
        if !dead.is_empty() {
            self.give_up_leases_of(&dead)?;
        }
        Ok(())
    }

    /// Calls `look` with the workers that are watched, and their pidfds.
    pub(crate) fn with_workers(&self, look: impl FnOnce(&HashMap<Identity, OwnedFd>)) {
        look(&self.leases.watched.lock().unwrap_or_else(PoisonError::into_inner).workers);
    }

    /// Pidfds that become readable when a worker ends.
    pub(crate) fn watch_workers(&self) -> io::Result<Watched> {
        self.look_after_workers(true)?;
        let known = self.leases.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut watched = Watched { look_again: known.lacks_some.then_some(LOOK), ..Watched::default() };
        for pidfd in known.workers.values() {
            match pidfd.as_fd().try_clone_to_owned() {
                Ok(pidfd) => watched.pidfds.push(pidfd.into()),
                Err(_) => watched.look_again = Some(LOOK),
            }
        }
        Ok(watched)
    }

    /// Waits until the work on all items is done.
    pub fn join(&self, deadline: Option<Instant>, through: ViaHandle<'_>) -> Result<(), Refusal> {
        if self.unfinished() == 0 {
            return Ok(());
        }
        Ok(within(deadline.into(), || self.wait_for_work(deadline, &mut Join { store: self, through }))?)
    }
}

struct Join<'a> {
    store: &'a Store,
    through: ViaHandle<'a>,
}

impl WaitOp for Join<'_> {
    type Outcome = ();

    fn attempt(&mut self) -> Option<()> {
        (self.store.unfinished() == 0).then_some(())
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        self.store.look_at_work(arm)
    }

    fn through(&self) -> ViaHandle<'_> {
        self.through
    }

    fn more(&mut self) -> bool {
        // Others may wait for the same.
        true
    }
}
