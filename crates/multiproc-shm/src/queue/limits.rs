//! How many items a queue holds, and how many it may hold.
//!
//! Consumers keep no count, so a consumer that dies can't leave one wrong: the record at the head
//! says how many items were put before it, and all of those have been taken. See `QUEUE.md`, "Put".

use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};

use crate::lock::spin_lock::Stalled;
use crate::loom::atomic::{AtomicU64, fence};
use crate::queue::arena::State;
use crate::queue::error::Error;
use crate::queue::layout::{ARMED, LIMITED};
use crate::queue::store::Store;

/// The capacity of a queue, in items and in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The greatest number of items; `u64::MAX`: no limit.
    pub items: u64,
    /// The greatest number of bytes of all items together; `u64::MAX`: no limit.
    pub bytes: u64,
}

impl Limits {
    /// No limits.
    pub const NONE: Limits = Limits { items: u64::MAX, bytes: u64::MAX };

    /// At most `items` items, but at least one; `usize::MAX` means that there is no limit.
    pub fn new(items: usize, bytes: u64) -> Limits {
        Limits { items: if items == usize::MAX { u64::MAX } else { items.max(1) as u64 }, bytes }
    }

    /// The maximum number of items; none if there is no limit.
    pub fn capacity(self) -> Option<usize> {
        usize::try_from(self.items).ok().filter(|items| *items != usize::MAX)
    }
}

/// A number of items, and of their bytes.
#[derive(Clone, Copy)]
pub(super) struct Count {
    pub(super) number: u64,
    pub(super) bytes: u64,
}

impl Count {
    pub(super) fn of(number: &AtomicU64, bytes: &AtomicU64) -> Count {
        Count { number: number.load(SeqCst), bytes: bytes.load(SeqCst) }
    }
}

impl Store {
    /// Whether one more item of `size` bytes is within the limits. Exact, since the caller holds
    /// the producers' lock.
    pub(super) fn within_limits(&self, size: u64) -> Result<(), Error> {
        let own = &self.shared.producers;
        if size > self.limits.bytes {
            return Err(Error::TooLarge);
        }
        let put = self.put_so_far();
        if self.fits(size, put, Count::of(&own.seen_number, &own.seen_bytes)) {
            return Ok(());
        }
        let taken = self.taken()?;
        match self.fits(size, put, taken) {
            true => {
                own.seen_number.store(taken.number, Relaxed);
                own.seen_bytes.store(taken.bytes, Relaxed);
                Ok(())
            }
            false => Err(Error::Full),
        }
    }

    /// As [`within_limits`](Store::within_limits), without the lock. If the answer is uncertain, it
    /// is `Ok`, and the caller checks again under the lock.
    pub(super) fn seems_within_limits(&self, size: u64) -> Result<(), Error> {
        let own = &self.shared.producers;
        let put = self.put_so_far();
        if size > self.limits.bytes || self.fits(size, put, Count::of(&own.seen_number, &own.seen_bytes)) {
            return Ok(());
        }
        match self.taken_before(self.head())? {
            Some(taken) if !self.fits(size, put, taken) && !self.is_closing() => Err(Error::Full),
            _ => Ok(()),
        }
    }

    /// The number of items put, or fewer. Must be read before the head: then a queue that looks
    /// full is full.
    #[inline]
    pub(super) fn put_so_far(&self) -> Count {
        Count::of(&self.shared.producers.number, &self.shared.producers.bytes)
    }

    /// Whether an item of `size` bytes is within the limits, given the numbers put and taken.
    #[inline]
    pub(super) fn fits(&self, size: u64, put: Count, taken: Count) -> bool {
        let items = put.number.saturating_sub(taken.number);
        let bytes = put.bytes.saturating_sub(taken.bytes);
        items < self.limits.items && bytes.saturating_add(size) <= self.limits.bytes
    }

    /// The number of items taken when the head was `head`; none if the head has changed. The record
    /// at the head says it. If there is none, all items known to have been put have been taken.
    pub(super) fn taken_before(&self, head: u64) -> Result<Option<Count>, Error> {
        let tail = self.shared.tail.0.load(SeqCst);
        if tail > head {
            let (geometry, mask) = self.geometry();
            let record = self.read(head, tail, mask).map(|(record, _)| record);
            fence(SeqCst);
            let same = self.head() == head && self.geometry().0 == geometry;
            return match record {
                Some(record) if same => Ok(Some(Count { number: record.number, bytes: record.bytes })),
                None if same => Err(Error::Corrupt("the record at its head")),
                _ => Ok(None),
            };
        }
        let all = self.put_so_far();
        match self.head() == head {
            false => Ok(None),
            true if tail < head && self.shared.tail.0.load(SeqCst) < head => {
                Err(Error::Corrupt("the head is beyond the tail"))
            }
            true => Ok(Some(all)),
        }
    }

    /// The number of items taken. The caller holds the producers' lock, so the record at the head
    /// can't be overwritten.
    pub(super) fn taken(&self) -> Result<Count, Error> {
        loop {
            if let Some(taken) = self.taken_before(self.head())? {
                return Ok(taken);
            }
        }
    }

    /// Makes the next consumer put a token into the wake pipe before there may be room for an item:
    /// for `size` bytes; or, if `behind` is given, for its handles, which did not fit into the fd
    /// queue when its oldest entry was the one in `behind`. Returns false, and does nothing, if
    /// there may be room already.
    pub(super) fn arm_for_room(
        &self,
        size: u64,
        behind: Option<Option<u64>>,
        arm: &mut dyn FnMut(),
    ) -> Result<bool, Stalled> {
        let head = &self.shared.consumers.head;
        let _guard = self.consumers()?;
        let put = self.put_so_far();
        let found = head.load(SeqCst);
        let is_full = match self.taken_before(found & !ARMED) {
            // Entries are discarded with their items, under the lock, but after the head has moved:
            // so the head may have moved before the attempt that found no room, and the entry have
            // been discarded after it.
            Ok(Some(taken)) => match behind {
                Some(oldest) => self.shared.tail.0.load(SeqCst) > found & !ARMED && self.oldest_entry() == oldest,
                None => !self.fits(size, put, taken),
            },
            // An item has been taken meanwhile; or there is garbage, which the next attempt
            // reports.
            Ok(None) | Err(_) => false,
        };
        if !is_full || self.is_closing() {
            return Ok(false);
        }
        // In this order: a consumer that finds the bit puts a token in only if the wake pipe is
        // armed. While this lock is held, no consumer is in the middle of that.
        arm();
        Ok(found & ARMED != 0 || head.compare_exchange(found, found | ARMED, SeqCst, Relaxed).is_ok())
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        let head = self.head();
        self.shared.tail.0.load(SeqCst) <= head && !self.has_returned()
    }

    /// The number of items. Read without a lock, which a stopped process might hold.
    pub fn len(&self) -> u64 {
        let returned = if self.has_returned() { self.count_blocks(|state| state == State::Returned) } else { 0 };
        // If there is garbage, no item can be taken.
        let there = self.at_one_moment(|put, taken| put.number.saturating_sub(taken.number)).unwrap_or(0);
        there.saturating_add(returned)
    }

    /// Whether the queue has reached its limit, so that even a small item would have to wait.
    pub fn is_full(&self) -> bool {
        let size = 1.min(self.limits().bytes);
        self.flags & LIMITED != 0 && self.at_one_moment(|put, taken| !self.fits(size, put, taken)).unwrap_or(false)
    }

    /// Calls `look` with the numbers put and taken as of one moment.
    pub(super) fn at_one_moment<R>(&self, look: impl Fn(Count, Count) -> R) -> Result<R, Error> {
        loop {
            let put = self.put_so_far();
            if let Some(taken) = self.taken_before(self.head())? {
                return Ok(look(put, taken));
            }
        }
    }
}
