//! Items that have been taken, and whose work is not done yet: what makes a store joinable. `QUEUE.md`, "Leases".
//!
//! A lease is a block with the item in it, and its owner's identity. When the owner dies, or gives it up, the item is there to be taken again.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use multiproc_os::identity::Identity;
use multiproc_os::poll;

use super::arena::State;
use super::gate::Through;
use super::lot::Wish;
use super::store::{Place, Refusal, Store, Taken};

/// How often somebody who takes one item after another looks whether owners of leases have died.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// What a process knows of the owners of leases.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    looked: Option<Instant>,
    owners: HashMap<Identity, OwnedFd>,
}

impl Store {
    /// Takes an item whose lease has been given up, or whose owner has died.
    pub(crate) fn take_returned(&self) -> Result<Option<Taken>, Refusal> {
        self.look_after_owners(false);
        let Some(last) = self.last_return() else { return Ok(None) };
        let me = Identity::current().map_err(|error| Refusal::System("this process's own identity", error))?;
        let blocks = self.blocks();
        for (index, descriptor) in blocks.all() {
            if descriptor.state() == State::Returned && descriptor.change(State::Returned, State::Leased(me)) {
                let deliveries = descriptor.deliveries.fetch_add(1, SeqCst).wrapping_add(1);
                let raw = self.is_raw(descriptor);
                let place = Place::Block(index, descriptor.len.load(SeqCst));
                return Ok(Some(Taken { place, raw, fds: Vec::new(), handles: 0, deliveries }));
            }
        }
        self.settle_returns(last);
        Ok(None)
    }

    /// The work on a lease of this process's is done.
    pub(crate) fn finish(&self, index: u32) -> Result<(), Refusal> {
        let garbage = |_| Refusal::Corrupt("a lease");
        let me = Identity::current().map_err(|error| Refusal::System("this process's own identity", error))?;
        let descriptor = self.blocks().descriptor(index).map_err(garbage)?;
        if !self.change_work(|| descriptor.change(State::Leased(me), State::Building(me))) {
            return Err(Refusal::Corrupt("a lease that is not this process's"));
        }
        self.blocks().give_back(index).map_err(garbage)
    }

    /// A lease of this process's is given up: somebody else may take the item.
    pub(crate) fn return_lease(&self, index: u32) {
        if let Ok(me) = Identity::current() {
            self.return_leases(|| {
                self.blocks().descriptor(index).is_ok_and(|lease| lease.change(State::Leased(me), State::Returned))
            });
        }
    }

    /// Returns the leases of those who have died. Not more often than makes sense, unless `now`.
    pub(super) fn look_after_owners(&self, now: bool) {
        let mut watched = self.leases.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if !now && watched.looked.is_some_and(|looked| looked.elapsed() < BETWEEN_LOOKS) {
            return;
        }
        let Ok(me) = Identity::current() else { return };
        let mut dead = Vec::new();
        let mut owners = HashMap::new();
        for owner in self.lease_owners() {
            if owner == me || owners.contains_key(&owner) || dead.contains(&owner) {
                continue;
            }
            match watched.owners.remove(&owner).map_or_else(|| owner.watch(), |known| Ok(Some(known))) {
                Ok(Some(pidfd)) => drop(owners.insert(owner, pidfd)),
                Ok(None) => dead.push(owner),
                // No descriptor: another time.
                Err(_) => {}
            }
        }
        let (of, fds): (Vec<Identity>, Vec<&OwnedFd>) = owners.iter().map(|(owner, fd)| (*owner, fd)).unzip();
        if !fds.is_empty()
            && let Ok(ended) = poll::wait_readable(&fds, Some(Instant::now()))
        {
            dead.extend(ended.into_iter().map(|index| of[index]));
        }
        watched.owners = owners;
        watched.looked = Some(Instant::now());
        drop(watched);
        if dead.is_empty() {
            return;
        }
        self.return_leases(|| {
            // All of them.
            self.blocks().all().fold(false, |any, (_, lease)| {
                let lost =
                    matches!(lease.state(), State::Leased(owner) if dead.contains(&owner)) && self.is_taken(lease);
                lost && lease.change(lease.state(), State::Returned) || any
            })
        });
    }

    /// Descriptors that become readable when an owner of leases ends.
    pub(crate) fn watch_leases(&self) -> io::Result<Vec<OwnedFd>> {
        self.look_after_owners(true);
        let watched = self.leases.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.owners.values().map(|pidfd| pidfd.as_fd().try_clone_to_owned()).collect()
    }

    /// Waits until the work on all items is done.
    pub(crate) fn join(&self, deadline: Option<Instant>, through: Through<'_>) -> Result<(), Refusal> {
        if self.unfinished() == 0 {
            return Ok(());
        }
        Ok(self.wait_for_work(deadline, &mut Join { store: self, through })?)
    }
}

struct Join<'a> {
    store: &'a Store,
    through: Through<'a>,
}

impl Wish for Join<'_> {
    type Outcome = ();

    fn attempt(&mut self) -> Option<()> {
        (self.store.unfinished() == 0).then_some(())
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> bool {
        self.store.look_at_work(arm)
    }

    fn through(&self) -> Through<'_> {
        self.through
    }

    fn more(&mut self) -> bool {
        // Others who wait for the same.
        true
    }
}
