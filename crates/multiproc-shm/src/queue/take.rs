//! Taking an item. A small one is taken without a lock: the record is copied, and then the head is
//! advanced by one compare-and-swap, as readers do under a sequence lock (see Boehm, "Can seqlocks
//! get along with programming language memory models?"). Taken under the consumers' lock are items
//! with a block or descriptors, all items of a joinable queue, and any item while a waiter has set
//! [`ARMED`]. See `QUEUE.md`, "Take".

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{Ordering::Acquire, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Instant;

use multiproc_os::fd_budget;
use multiproc_os::identity::Identity;
use multiproc_os::prefetch;

use crate::lock::spin_lock::Stalled;
use crate::loom::atomic::fence;
use crate::memory::scratch::Scratch;
use crate::queue::arena::State;
use crate::queue::block::{QUIET, fill};
use crate::queue::error::Error;
use crate::queue::item::{Place, Taken};
use crate::queue::layout::{ARMED, BLOCK, HANDLES, JOINABLE, LIMITED, OPEN, RAW, SPECIAL};
use crate::queue::put::LINE;
use crate::queue::ring::Record;
use crate::queue::store::Store;
use crate::wait::notifier::ViaHandle;
use crate::wait::wait_queue::{WaitOp, Watched};

/// After an item of at most `SHORT` bytes, a consumer prefetches the next `AHEAD` cache lines. With
/// longer items the processor detects the sequential access by itself.
const SHORT: usize = 192;
const AHEAD: usize = 3;

impl Store {
    /// Takes the oldest item; waits while there is none.
    #[inline]
    pub fn take(
        &self,
        scratch: &mut Scratch,
        deadline: Option<Instant>,
        through: ViaHandle<'_>,
    ) -> Result<Taken, Error> {
        match self.take_any(scratch)? {
            Some(taken) => Ok(taken),
            None => self.wait_and_take(scratch, deadline, through),
        }
    }

    /// As [`take`](Store::take), when there was no item a moment ago.
    pub(super) fn wait_and_take(
        &self,
        scratch: &mut Scratch,
        deadline: Option<Instant>,
        through: ViaHandle<'_>,
    ) -> Result<Taken, Error> {
        self.shared.items.0.wait(&self.items, deadline, &mut Take { store: self, scratch, through })?
    }

    /// As [`take`](Store::take), as a future.
    #[cfg(feature = "async")]
    pub async fn take_async(&self, scratch: &mut Scratch, through: ViaHandle<'_>) -> Result<Taken, Error> {
        self.shared.items.0.wait_async(&self.items, &mut Take { store: self, scratch, through }).await?
    }

    /// Takes an item, if there is one. Fails with `Closed` if there won't be any more.
    #[inline]
    pub fn take_any(&self, scratch: &mut Scratch) -> Result<Option<Taken>, Error> {
        if self.flags & JOINABLE != 0
            && let Some(taken) = self.take_returned()?
        {
            return Ok(Some(taken));
        }
        // In this order, so that an item put before the close is seen.
        let closed = match self.shared.config.closed.load(SeqCst) {
            OPEN => false,
            _ => self.is_closed_in_time()?,
        };
        match self.try_take(scratch)? {
            None if closed => Err(Error::Closed),
            taken => Ok(taken),
        }
    }

    /// Takes the oldest item, if there is one. A small item is copied into `scratch`.
    #[inline]
    pub fn try_take(&self, scratch: &mut Scratch) -> Result<Option<Taken>, Error> {
        if self.flags & JOINABLE != 0 {
            return self.take_with_lock(scratch);
        }
        let consumers = &self.shared.consumers;
        loop {
            let head = consumers.head.load(SeqCst);
            if head & ARMED != 0 {
                return self.take_with_lock(scratch);
            }
            let tail = self.tail(head)?;
            if head == tail {
                return Ok(None);
            }
            let (geometry, mask) = self.geometry();
            let Some((record, content)) = self.read(head, tail, mask) else {
                self.is_garbage(head, geometry)?;
                continue;
            };
            if record.flags & (BLOCK | HANDLES) != 0 {
                return self.take_with_lock(scratch);
            }
            scratch.copy(content, record.len);
            if record.len <= SHORT {
                // The next item lies after this one. Fetched for writing, since a producer writes
                // to a line next, after it has been read.
                let behind = content.as_ptr_range().end;
                (1..=AHEAD).for_each(|line| prefetch::for_write(behind.wrapping_byte_add(line * LINE)));
            }
            // If the ring has changed, or another consumer has taken the item and another one has
            // been written in its place, the copy is garbage.
            fence(Acquire);
            if self.shared.config.geometry.load(Relaxed) != geometry {
                continue;
            }
            if consumers.head.compare_exchange(head, record.next, SeqCst, Relaxed).is_ok() {
                if self.flags & LIMITED != 0 {
                    self.shared.room.0.after_change(1);
                }
                self.give_back(head, record.next, mask);
                return Ok(Some(Taken {
                    place: Place::Scratch,
                    raw: record.flags & RAW != 0,
                    fds: Vec::new(),
                    handles: 0,
                    deliveries: 1,
                }));
            }
        }
    }

    /// Takes the oldest item under the consumers' lock, as the [module](self) says when.
    pub(super) fn take_with_lock(&self, scratch: &mut Scratch) -> Result<Option<Taken>, Error> {
        // Checked first without the lock, so that waiting consumers don't delay the others.
        let head = self.head();
        if self.tail(head)? == head {
            return Ok(None);
        }
        // Allocated before the lock is acquired, as allocating needs a lock of its own.
        let mut lease = match self.is_joinable() && !self.is_empty() {
            true => {
                self.enlist()?;
                Some(self.allocate(Scratch::ROOM as u64)?)
            }
            false => None,
        };
        let taken = match self.consumers() {
            Ok(_guard) => self.take_locked(scratch, &mut lease),
            Err(stalled) => Err(stalled.into()),
        };
        if let Some(unused) = lease {
            self.give_back_block(unused).map_err(Error::io("a block"))?;
        }
        let Some((taken, head, next)) = taken? else { return Ok(None) };
        if self.room.is_some() {
            // In a joinable queue all are woken: a caller of `join` may wait here too, and would
            // not pass the wake-up on.
            self.shared.room.0.after_change(if self.is_joinable() { u32::MAX } else { 1 });
        }
        let (_, mask) = self.geometry();
        self.give_back(head, next, mask);
        Ok(Some(taken))
    }

    /// Returns the item, and the head before and after the take.
    pub(super) fn take_locked(
        &self,
        scratch: &mut Scratch,
        lease: &mut Option<u32>,
    ) -> Result<Option<(Taken, u64, u64)>, Error> {
        loop {
            let head = self.head();
            let tail = self.tail(head)?;
            // Without a block for a lease: the queue was empty a moment ago.
            if head == tail || self.is_joinable() && lease.is_none() {
                return Ok(None);
            }
            let (geometry, mask) = self.geometry();
            let Some((record, content)) = self.read(head, tail, mask) else {
                self.is_garbage(head, geometry)?;
                continue;
            };
            scratch.copy(content, record.len);
            fence(Acquire);
            if self.shared.config.geometry.load(Relaxed) != geometry {
                continue;
            }
            if let Some(taken) = self.take_record(head, &record, scratch, lease)? {
                return Ok(Some((taken, head, record.next)));
            }
        }
    }

    /// Takes the item of a record. The record's content is in `scratch`. None if another consumer
    /// has taken the item.
    pub(super) fn take_record(
        &self,
        head: u64,
        record: &Record,
        scratch: &mut Scratch,
        lease: &mut Option<u32>,
    ) -> Result<Option<Taken>, Error> {
        let consumers = &self.shared.consumers;
        let special = record.flags & (BLOCK | HANDLES) != 0;
        let (index, handles, size, entry) = match scratch.bytes().first_chunk::<SPECIAL>() {
            Some(bytes) if special => {
                let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
                (word(0) as u32, (word(0) >> 32) as u32, word(8), word(16))
            }
            None if special => return Err(Error::Corrupt("the record at its head")),
            _ => (0, 0, record.len as u64, 0),
        };
        let fds = match record.flags & HANDLES != 0 {
            true => self.entry(entry, handles).map_err(Error::io("the handles of the item at its head"))?,
            false => Vec::new(),
        };
        if special {
            scratch.skip(SPECIAL);
        }
        let me = || Identity::current().map_err(Error::io("this process's own identity"));
        let mut deliveries = 1;
        let place = if record.flags & BLOCK != 0 {
            let descriptor = self.blocks().descriptor(index).map_err(Error::io("a block"))?;
            let is_it = descriptor.position.load(SeqCst) == record.at && descriptor.len.load(Relaxed) == size;
            if descriptor.state() != State::Queued || !is_it {
                return Err(Error::Corrupt("the block of the item at its head"));
            }
            let state = if self.is_joinable() { State::Leased(me()?) } else { State::Reading(me()?) };
            // Before the state: if this process dies before the head is advanced, the next owner
            // of the lock resets the block.
            consumers.leasing.store(u64::from(index) + 1, SeqCst);
            descriptor.set(state);
            deliveries = descriptor.deliveries.fetch_add(1, SeqCst).wrapping_add(1);
            Place::Block(index, size)
        } else if let Some(copy) = lease.filter(|_| self.is_joinable()) {
            let blocks = self.blocks();
            let descriptor = blocks.descriptor(copy).map_err(Error::io("a block"))?;
            fill(blocks, copy, 0, scratch.bytes()).map_err(Error::io("a block"))?;
            descriptor.len.store(scratch.bytes().len() as u64, Relaxed);
            descriptor.flags.store(u32::from(record.flags), Relaxed);
            descriptor.position.store(record.at, SeqCst);
            descriptor.deliveries.store(1, SeqCst);
            consumers.leasing.store(u64::from(copy) + 1, SeqCst);
            descriptor.set(State::Leased(me()?));
            Place::Lease(copy)
        } else {
            Place::Scratch
        };
        if let Some(room) = &self.room {
            self.shared.room.0.before_change(room);
        }
        // `ARMED` may be set or not: the waiters that set it have been notified.
        let found = consumers.head.load(SeqCst);
        if found & !ARMED != head || consumers.head.compare_exchange(found, record.next, SeqCst, Relaxed).is_err() {
            return Ok(None);
        }
        if record.flags & HANDLES != 0 {
            self.fd_queue.discard();
        }
        if matches!(place, Place::Lease(_)) {
            *lease = None;
        }
        Ok(Some(Taken { place, raw: record.flags & RAW != 0, fds, handles, deliveries }))
    }

    /// Duplicates the descriptors of the fd queue entry `wanted`, which hold `handles` handles.
    /// Entries before it are discarded: their items have been taken, or their producers died before
    /// the put.
    pub(super) fn entry(&self, wanted: u64, handles: u32) -> io::Result<Vec<OwnedFd>> {
        while let Some(number) = self.fd_queue.number()? {
            if number == wanted {
                let fds = self.fd_queue.peek()?;
                // The handles are packed into sockets, and need room in this process's fd table
                // once the item has been taken; then it would be too late to leave the item in the
                // queue.
                if handles as usize > fds.len() {
                    fd_budget::check_now(&fds, handles)?;
                }
                return Ok(fds);
            }
            if number > wanted {
                break;
            }
            self.fd_queue.discard();
        }
        Ok(Vec::new())
    }

    /// The number of the oldest entry in the fd queue, if there is one.
    #[cold]
    pub(super) fn oldest_entry(&self) -> Option<u64> {
        self.fd_queue.number().ok().flatten()
    }
}

pub(super) struct Take<'a> {
    pub(super) store: &'a Store,
    pub(super) scratch: &'a mut Scratch,
    pub(super) through: ViaHandle<'a>,
}

impl WaitOp for Take<'_> {
    type Outcome = Result<Taken, Error>;

    fn attempt(&mut self) -> Option<Result<Taken, Error>> {
        self.store.take_any(self.scratch).transpose()
    }

    fn has_stalled(outcome: &Result<Taken, Error>) -> bool {
        outcome.as_ref().is_err_and(Error::has_stalled)
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _guard = self.store.producers()?;
        let is_empty = self.store.is_empty() && !self.store.is_closing();
        if is_empty {
            arm();
        }
        Ok(!is_empty)
    }

    fn watch(&mut self) -> io::Result<Watched> {
        let mut watched = if self.store.is_joinable() { self.store.watch_workers()? } else { Watched::default() };
        // Wakes up once, to free what was kept for the next item.
        if self.store.blocks().has_kept_more() {
            watched.look_again = Some(watched.look_again.map_or(QUIET, |time| time.min(QUIET)));
        }
        Ok(watched)
    }

    fn died(&mut self) -> io::Result<()> {
        if self.store.is_joinable() {
            self.store.look_after_workers(true)?;
        }
        self.store.give_back_kept();
        Ok(())
    }

    fn depends(&mut self) -> io::Result<bool> {
        let me = Identity::current()?;
        Ok(self.store.is_joinable() && self.store.lease_owners().any(|owner| owner != me))
    }

    fn through(&self) -> ViaHandle<'_> {
        self.through
    }

    fn more(&mut self) -> bool {
        !self.store.is_empty()
    }

    fn came_with_more(&mut self) -> bool {
        self.store.seen_tail.load(Relaxed) > self.store.shared.consumers.head.load(Relaxed)
    }
}
