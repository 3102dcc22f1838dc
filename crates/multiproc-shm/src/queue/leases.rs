//! Leases: items that have been taken, with work that isn't done yet. They make a store joinable.
//! See `QUEUE.md`, "Leases".
//!
//! A lease is a block that contains the item, with its owner's identity. When the owner dies, or
//! gives it up, the item can be taken again.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use multiproc_os::identity::Identity;
use multiproc_os::poll;

use crate::lock::fork_mutex::{ForkMutex, ForkMutexGuard};
use crate::lock::spin_lock::{Stalled, within};
use crate::queue::arena::{Descriptor, State};
use crate::queue::block::bytes_of;
use crate::queue::error::Error;
use crate::queue::item::{Place, Taken};
use crate::queue::layout::{RAW, Shared};
use crate::queue::store::Store;
use crate::sync::ledger::{self, LedgerView};
use crate::wait::notifier::ViaHandle;
use crate::wait::wait_queue::{WaitFailure, WaitOp, Watched};

/// How often a process that takes one item after another checks whether owners of leases have died;
/// and for at most one [`SHARE`]th of the time.
const BETWEEN_CHECKS: Duration = Duration::from_millis(1);
const SHARE: u32 = 10;

/// How often a waiter checks that could not watch all workers, at the limit of open files.
const LOOK: Duration = Duration::from_millis(100);

/// What a process knows about the processes that take items (the workers).
#[derive(Debug)]
pub struct Leases {
    /// The identity under which this process is on the ledger. A fork copy has another identity.
    enlisted: AtomicU64,
    watched: ForkMutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When to check next.
    next: Option<Instant>,
    workers: HashMap<Identity, OwnedFd>,
    /// Whether there are other workers, which could not be watched.
    lacks_some: bool,
}

impl Default for Leases {
    fn default() -> Leases {
        Leases { enlisted: AtomicU64::new(0), watched: ForkMutex::new(Known::default()) }
    }
}

impl Leases {
    /// Locks what is known. In a fork copy that was made while another thread changed it, nothing
    /// is.
    fn known(&self) -> ForkMutexGuard<'_, Known> {
        self.watched.lock(|known, was_held| {
            if was_held {
                std::mem::forget(std::mem::take(known));
            }
        })
    }

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
    pub fn take_returned(&self) -> Result<Option<Taken>, Error> {
        self.look_after_workers(false).map_err(Error::io("the processes that hold its items"))?;
        if !self.has_returned() {
            return Ok(None);
        }
        let me =
            Identity::current().map_err(|error| Error::Io { what: "this process's own identity", source: error })?;
        self.take_given_up(me)
    }

    /// Ends a lease of this process, as the work is done.
    pub fn finish(&self, index: u32) -> Result<(), Error> {
        let garbage = |_| Error::Corrupt("a lease");
        let me =
            Identity::current().map_err(|error| Error::Io { what: "this process's own identity", source: error })?;
        let descriptor = self.blocks().descriptor(index).map_err(garbage)?;
        if !self.change_work(|| descriptor.change(State::Leased(me), State::Building(me))) {
            return Err(Error::Corrupt("a lease that this process doesn't hold"));
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
        let mut known = self.leases.known();
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
            && let Ok(ended) = poll::wait_any_in(&fds, Some(begun))
        {
            dead.extend(ended.into_iter().map(|index| of[index]));
        }
        known.workers = workers;
        known.next = Some(begun + BETWEEN_CHECKS.max(begun.elapsed() * SHARE));
        drop(known);
        if !dead.is_empty() {
            self.give_up_leases_of(&dead)?;
        }
        Ok(())
    }

    /// Calls `look` with the workers that are watched, and their pidfds.
    pub(crate) fn with_workers(&self, look: impl FnOnce(&HashMap<Identity, OwnedFd>)) {
        look(&self.leases.known().workers);
    }

    /// Pidfds that become readable when a worker ends.
    pub(crate) fn watch_workers(&self) -> io::Result<Watched> {
        self.look_after_workers(true)?;
        let known = self.leases.known();
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
    pub fn join(&self, deadline: Option<Instant>, through: ViaHandle<'_>) -> Result<(), Error> {
        if self.unfinished() == 0 {
            return Ok(());
        }
        Ok(within(deadline.into(), || self.wait_for_work(deadline, &mut Join { store: self, through }))?)
    }
}

impl Store {
    pub(crate) fn is_raw(&self, lease: &Descriptor) -> bool {
        lease.flags.load(Relaxed) & u32::from(RAW) != 0
    }

    /// Whether the item of this lease has been taken, which makes it a valid lease.
    pub(crate) fn is_taken(&self, lease: &Descriptor) -> bool {
        lease.position.load(SeqCst) < self.head()
    }

    /// The owners of all leases, once for each lease.
    pub(crate) fn lease_owners(&self) -> impl Iterator<Item = Identity> {
        self.blocks().all().filter_map(|(_, descriptor)| match descriptor.state() {
            State::Leased(owner) => Some(owner),
            _ => None,
        })
    }

    /// Calls `look` with the bytes of a lease of this process.
    #[allow(unsafe_code)]
    pub fn with_lease<R>(&self, index: u32, len: u64, look: impl FnOnce(&[u8]) -> R) -> Result<R, Error> {
        // SAFETY: the block is this process's until its work is done or the lease is given up,
        // neither of which the caller does meanwhile.
        let bytes = unsafe { bytes_of(self.blocks(), index, len) }.map_err(Error::io("a lease"))?;
        Ok(look(bytes))
    }

    /// Gives up a lease of this process, and notifies the processes that wait for items.
    pub(crate) fn give_up_lease(&self, index: u32, me: Identity) {
        let Ok(lease) = self.blocks().descriptor(index) else { return };
        let returned = {
            let _guard = self.producers_endlessly();
            self.shared.items.0.before_change(&self.items);
            let returned = lease.change(State::Leased(me), State::Returned);
            // If this process dies in between, the process that inherits the lock rebuilds the
            // list.
            if returned {
                self.push_returned(index, lease);
            }
            returned
        };
        if returned {
            self.shared.items.0.after_change(1);
        }
    }

    /// Gives up the leases of dead processes, and removes these processes from the ledger.
    pub(crate) fn give_up_leases_of(&self, dead: &[Identity]) -> Result<(), Stalled> {
        let mut count = 0;
        {
            let _guard = self.producers()?;
            self.shared.items.0.before_change(&self.items);
            for (index, lease) in self.blocks().all() {
                let state = lease.state();
                if matches!(state, State::Leased(owner) if dead.contains(&owner))
                    && self.is_taken(lease)
                    && lease.change(state, State::Returned)
                {
                    self.push_returned(index, lease);
                    count += 1;
                }
            }
            let workers = self.workers();
            for (_, entry) in workers.entries() {
                if Identity::from_bits(entry.owner()).is_some_and(|owner| dead.contains(&owner)) {
                    entry.owner.store(0, SeqCst);
                }
            }
            workers.shorten(|entry| entry.owner() == 0);
        }
        if count > 0 {
            self.shared.items.0.after_change(count);
        }
        Ok(())
    }

    /// Takes the oldest lease that has been given up.
    pub(crate) fn take_given_up(&self, me: Identity) -> Result<Option<Taken>, Error> {
        self.enlist()?;
        let _guard = self.producers()?;
        let Some((index, lease)) = self.pop_returned(me) else { return Ok(None) };
        let deliveries = lease.deliveries.fetch_add(1, SeqCst).wrapping_add(1);
        let place = Place::Block(index, lease.len.load(SeqCst));
        Ok(Some(Taken { place, raw: self.is_raw(lease), fds: Vec::new(), handles: 0, deliveries }))
    }

    /// Calls `finish`, which finishes an item's work, and notifies the waiters.
    pub(crate) fn change_work(&self, finish: impl FnOnce() -> bool) -> bool {
        let finished = {
            let _guard = self.consumers_endlessly();
            if let Some(room) = &self.room {
                self.shared.room.0.before_change(room);
            }
            finish()
        };
        // Producers and callers of `join` both wait there.
        self.shared.room.0.after_change(u32::MAX);
        finished
    }

    /// The number of items that have been put and not finished.
    pub fn unfinished(&self) -> u64 {
        loop {
            let head = self.head();
            let put = self.shared.producers.number.load(SeqCst);
            let taken = match self.taken_before(head) {
                Ok(Some(taken)) => taken.number,
                Ok(None) => continue,
                // If there is garbage, there is at least one item.
                Err(_) => put.saturating_sub(1),
            };
            let leased = self.count_blocks(|state| matches!(state, State::Leased(_) | State::Returned));
            let waiting = self.shared.tail.0.load(SeqCst) > head;
            if self.head() == head {
                return put.saturating_sub(taken).max(waiting.into()).saturating_add(leased);
            }
        }
    }

    pub(crate) fn look_at_work(&self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _guard = self.consumers()?;
        let done = self.unfinished() == 0;
        if !done {
            arm();
        }
        Ok(done)
    }

    pub(crate) fn wait_for_work<W: WaitOp>(
        &self,
        deadline: Option<Instant>,
        op: &mut W,
    ) -> Result<W::Outcome, WaitFailure> {
        match &self.room {
            Some(room) => self.shared.room.0.wait(room, deadline, op),
            None => Err(WaitFailure::Disconnected),
        }
    }

    pub(super) fn count_blocks(&self, wanted: impl Fn(State) -> bool) -> u64 {
        let (blocks, head) = (self.blocks(), self.head());
        let is_wanted = |descriptor: &Descriptor| wanted(descriptor.state()) && descriptor.position.load(SeqCst) < head;
        blocks.all().filter(|(_, descriptor)| is_wanted(descriptor)).count() as u64
    }

    /// Whether a lease has been given up and its item can be taken again.
    #[inline]
    pub(crate) fn has_returned(&self) -> bool {
        self.shared.config.first_returned.load(SeqCst) != 0
    }

    /// Rebuilds the list of leases that have been given up. The caller holds the producers' lock.
    #[cold]
    pub(super) fn list_returned(&self) {
        self.shared.config.first_returned.store(0, SeqCst);
        self.shared.config.last_returned.store(0, SeqCst);
        for (index, descriptor) in self.blocks().all() {
            if descriptor.state() == State::Returned {
                self.push_returned(index, descriptor);
            }
        }
    }

    /// Appends a block to the list of leases that have been given up. The caller holds the
    /// producers' lock.
    pub(super) fn push_returned(&self, index: u32, descriptor: &Descriptor) {
        let config = &self.shared.config;
        descriptor.next.store(0, SeqCst);
        let last = config.last_returned.load(Relaxed).checked_sub(1);
        match last.and_then(|last| self.blocks().descriptor(last).ok()) {
            Some(last) if self.has_returned() => last.next.store(index + 1, SeqCst),
            _ => config.first_returned.store(index + 1, SeqCst),
        }
        config.last_returned.store(index + 1, SeqCst);
    }

    /// Takes the first lease from the list of those that have been given up. The caller holds the
    /// producers' lock.
    pub(crate) fn pop_returned(&self, me: Identity) -> Option<(u32, &Descriptor)> {
        let config = &self.shared.config;
        // Bounded by the number of blocks, in case the list is garbage and has a cycle.
        for _ in 0..self.blocks().count() {
            let index = config.first_returned.load(SeqCst).checked_sub(1)?;
            let Ok(descriptor) = self.blocks().descriptor(index) else {
                // Garbage: rebuild the list.
                self.list_returned();
                continue;
            };
            let next = descriptor.next.load(SeqCst);
            config.first_returned.store(next, SeqCst);
            if next == 0 {
                config.last_returned.store(0, SeqCst);
            }
            // If this process dies after that, it has the lease, and the process that inherits the
            // lock rebuilds the list.
            if descriptor.change(State::Returned, State::Leased(me)) {
                return Some((index, descriptor));
            }
        }
        None
    }

    /// The ledger of the processes that have taken items.
    pub(crate) fn workers(&self) -> LedgerView<'_, Shared> {
        LedgerView { ledger: &self.shared.workers.0, segment: &self.shared }
    }

    /// Enters this process into the ledger of workers, so that all processes that wait for items
    /// watch it. Must be called before the process has its first lease.
    pub(super) fn enlist(&self) -> Result<(), Error> {
        let me = ledger::me().map_err(Error::io("this process's own identity"))?;
        if self.leases.is_enlisted(me) { Ok(()) } else { self.enlist_slowly(me) }
    }

    #[cold]
    pub(super) fn enlist_slowly(&self, me: u64) -> Result<(), Error> {
        let workers = self.workers();
        loop {
            {
                let _guard = self.producers()?;
                let is_known = workers.entries().any(|(_, entry)| entry.owner() == me);
                let place = if is_known { None } else { workers.find(0, |entry| entry.owner() == 0) };
                if let Some(entry) = place.and_then(|place| workers.entry(place)) {
                    // Sleeping waiters watch the processes that were on the ledger when they went
                    // to sleep. Waking them makes them watch this one too.
                    self.shared.items.0.before_change(&self.items);
                    entry.owner.store(me, SeqCst);
                }
                if is_known || place.is_some() {
                    self.leases.enlisted_as(me);
                    return Ok(());
                }
            }
            let room = workers.make_room().map_err(Error::io("its list of processes"))?;
            let _guard = self.producers()?;
            workers.add_room(room);
        }
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
