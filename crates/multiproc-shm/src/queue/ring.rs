//! The ring: records one after the other, at positions that never decrease. It grows by doubling,
//! and shrinks when it is empty. See `QUEUE.md`, "The memory" and "Put".

use std::io;
use std::sync::atomic::{Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

use crate::loom::atomic::{AtomicU64, fence};
use crate::memory::scratch::Scratch;
use crate::queue::error::Error;
use crate::queue::layout::{
    ARMED, FARTHEST, HEADER, KEPT, LARGEST, LIMITED, LIMITED_HEADER, PAD, RING_AT, SMALLEST, parse,
};
use crate::queue::store::Store;

/// Bytes by which memory for a ring larger than [`KEPT`] is allocated and freed.
const STEP: u64 = 1 << 18;

/// Number of steps of a ring that are freed in one go, at most.
const STEPS: u64 = 4096;

/// A record that has been read from the ring.
pub(super) struct Record {
    /// Its position, and the position of the next record.
    pub(super) at: u64,
    pub(super) next: u64,
    pub(super) flags: u8,
    pub(super) len: usize,
    pub(super) number: u64,
    /// The number of bytes put before the item, in a queue with a limit; otherwise 0.
    pub(super) bytes: u64,
}

impl Store {
    /// The `geometry` word, and the mask that turns a position into an offset of the ring.
    pub(super) fn geometry(&self) -> (u64, u64) {
        let geometry = self.shared.config.geometry.load(SeqCst);
        (geometry, (1 << (geometry & 0xff).clamp(u64::from(SMALLEST), u64::from(LARGEST))) - 1)
    }

    /// The position of the first item that can be taken.
    #[inline]
    pub(super) fn head(&self) -> u64 {
        self.shared.consumers.head.load(SeqCst) & !ARMED
    }

    /// The length of a record's header, in bytes.
    #[inline]
    pub(super) fn header_len(&self) -> u64 {
        if self.flags & LIMITED != 0 { LIMITED_HEADER } else { HEADER }
    }

    /// The tail, or an earlier position not before `head`.
    #[inline]
    pub(super) fn tail(&self, head: u64) -> Result<u64, Error> {
        // Cached here, so that a consumer that takes item after item doesn't disturb the producers'
        // cache line.
        let seen = self.seen_tail.load(Acquire);
        if seen > head {
            return Ok(seen);
        }
        let tail = self.shared.tail.0.load(SeqCst);
        if tail > FARTHEST {
            return Err(Error::Corrupt("the tail"));
        }
        self.seen_tail.store(tail, Release);
        // Another consumer may have advanced the head meanwhile.
        if tail < head && self.head() == head {
            return Err(Error::Corrupt("the head is beyond the tail"));
        }
        Ok(tail.max(head))
    }

    /// The record at `head`; none if it is garbage, or has been taken meanwhile.
    #[inline]
    pub(super) fn read(&self, head: u64, tail: u64, mask: u64) -> Option<(Record, &[AtomicU64])> {
        if tail > FARTHEST {
            return None;
        }
        let file = self.shared.file();
        let mut at = head;
        let word = self.ring.words(file, at & mask, 1).ok()?[0].load(Relaxed);
        let (mut flags, mut len) = parse(at, word)?;
        if flags & PAD != 0 {
            at += len as u64;
            if at >= tail {
                return None;
            }
            let word = self.ring.words(file, at & mask, 1).ok()?[0].load(Relaxed);
            (flags, len) = parse(at, word)?;
        }
        let header_len = self.header_len();
        let next = at + header_len + (len as u64).next_multiple_of(8);
        if next > tail || len > Scratch::ROOM || flags & PAD != 0 {
            return None;
        }
        let words = self.ring.words(file, at & mask, ((next - at) / 8) as usize).ok()?;
        let number = words[1].load(Relaxed);
        let content = &words[header_len as usize / 8..];
        let bytes = if self.flags & LIMITED != 0 { words[2].load(Relaxed) } else { 0 };
        Some((Record { at, next, flags, len, number, bytes }, content))
    }

    /// Returns `Corrupt` if a record that could not be read is garbage: if neither the head nor the
    /// geometry has changed.
    #[cold]
    pub(super) fn is_garbage(&self, head: u64, geometry: u64) -> Result<(), Error> {
        fence(SeqCst);
        let (now, _) = self.geometry();
        match self.head() == head && now == geometry {
            true => Err(Error::Corrupt("the record at its head")),
            false => Ok(()),
        }
    }

    /// The position for a record of `need` bytes, and the mask of positions. The caller holds the
    /// producers' lock.
    #[inline]
    pub(super) fn make_room(&self, tail: u64, need: u64) -> Result<(u64, u64), Error> {
        let own = &self.shared.producers;
        if tail > FARTHEST {
            return Err(Error::Corrupt("the tail"));
        }
        loop {
            let (_, mask) = self.geometry();
            let offset = tail & mask;
            // A record must lie within one piece.
            let end = self.ring.end_of_piece(offset).min(mask + 1);
            let at = if offset + need <= end { tail } else { tail + (end - offset) };
            let until = at + need;
            if until.wrapping_sub(own.seen_head.load(Relaxed)) > mask + 1 {
                let head = self.head();
                own.seen_head.store(head, Relaxed);
                if head > tail {
                    return Err(Error::Corrupt("the head is beyond the tail"));
                }
                if tail - head > mask + 1 {
                    return Err(Error::Corrupt("its records are longer than its ring"));
                }
                if head == tail && mask + 1 > 1 << SMALLEST {
                    self.shrink();
                    continue;
                }
                if until - head > mask + 1 {
                    self.grow(head, tail)?;
                    continue;
                }
            }
            if until > own.memory_until.load(Relaxed) {
                self.give_memory(tail, until, mask)?;
            }
            return Ok((at, mask));
        }
    }

    /// Doubles the ring. Each record stays where it is, or is copied to the new half if its
    /// position belongs there.
    #[cold]
    pub(super) fn grow(&self, head: u64, tail: u64) -> Result<(), Error> {
        let (own, file) = (&self.shared.producers, self.shared.file());
        let (geometry, mask) = self.geometry();
        let (size, order) = (mask + 1, (mask + 1).ilog2());
        if order >= LARGEST {
            return Err(Error::Io {
                what: "its ring can't grow any further",
                source: io::ErrorKind::StorageFull.into(),
            });
        }
        // The amount of memory to allocate depends on head and tail, so check that there is a
        // record.
        if head < tail && self.read(head, tail, mask).is_none() {
            return Err(Error::Corrupt("the record at its head"));
        }
        self.ring.extend(file, size).map_err(Error::io("no memory for its ring"))?;
        // Producers need memory from the tail on, and the records that are copied need it in the
        // new half.
        let kept = own.kept.load(Relaxed);
        if order < KEPT && kept < 2 * size {
            file.allocate(RING_AT + kept, 2 * size - kept).map_err(Error::io("no memory for its ring"))?;
            own.kept.store(2 * size, Relaxed);
        }
        let mut position = head;
        while position < tail {
            // Up to the end of a half, or to the tail.
            let until = tail.min((position | mask) + 1);
            if position & size != 0 {
                let to = RING_AT + (position & (2 * size - 1));
                file.allocate(to, until - position).map_err(Error::io("no memory for its ring"))?;
                self.copy(position & mask, position & (2 * size - 1), until - position)
                    .map_err(Error::io("the ring"))?;
            }
            position = until;
        }
        if order >= KEPT {
            own.memory_until.store(tail, Relaxed);
            own.freed_until.store(own.freed_until.load(Relaxed).max(head / STEP * STEP), Relaxed);
        }
        let changes = (geometry >> 8) + 1;
        self.shared.config.geometry.store(changes << 8 | u64::from(order + 1), SeqCst);
        fence(SeqCst);
        Ok(())
    }

    /// Copies `len` bytes within the ring, word by word.
    pub(super) fn copy(&self, mut from: u64, mut to: u64, mut len: u64) -> io::Result<()> {
        let file = self.shared.file();
        while len > 0 {
            let part = len.min(self.ring.end_of_piece(from) - from).min(self.ring.end_of_piece(to) - to);
            let count = (part / 8) as usize;
            let (source, target) = (self.ring.words(file, from, count)?, self.ring.words(file, to, count)?);
            for (source, target) in source.iter().zip(target) {
                target.store(source.load(Relaxed), Relaxed);
            }
            (from, to, len) = (from + part, to + part, len - part);
        }
        Ok(())
    }

    /// Shrinks an empty ring to its initial size.
    #[cold]
    pub(super) fn shrink(&self) {
        let own = &self.shared.producers;
        let (geometry, mask) = self.geometry();
        let changes = (geometry >> 8) + 1;
        self.shared.config.geometry.store(changes << 8 | u64::from(SMALLEST), SeqCst);
        fence(SeqCst);
        if mask + 1 > 1 << KEPT {
            self.shared.file().free(RING_AT + (1 << KEPT), mask + 1 - (1 << KEPT));
        }
        own.memory_until.store(u64::MAX, Relaxed);
        own.freed_until.store(0, Relaxed);
    }

    /// Allocates memory for the ring from `tail` to the position `until`, rounded up to whole
    /// steps.
    #[cold]
    pub(super) fn give_memory(&self, tail: u64, until: u64, mask: u64) -> Result<(), Error> {
        let own = &self.shared.producers;
        let mut position = own.memory_until.load(Relaxed).max(tail);
        while position < until {
            let offset = position & mask;
            let len = (STEP - (position & (STEP - 1))).min(mask + 1 - offset);
            self.shared.file().allocate(RING_AT + offset, len).map_err(Error::io("no memory for its ring"))?;
            position += len;
        }
        own.memory_until.store(position, Relaxed);
        Ok(())
    }

    /// Frees the memory of taken items of a large ring, once the head has passed the end of a step.
    #[inline]
    pub(super) fn give_back(&self, before: u64, head: u64, mask: u64) {
        if mask >> KEPT != 0 && before / STEP != head / STEP {
            self.give_back_steps();
        }
    }

    #[cold]
    pub(super) fn give_back_steps(&self) {
        let own = &self.shared.producers;
        let Some(guard) = own.spin_lock.try_lock() else { return };
        if guard.inherited {
            self.inherit_producers();
        }
        let (_, mask) = self.geometry();
        let until = self.head() / STEP * STEP;
        let from = own.freed_until.load(Relaxed).max(until.saturating_sub(mask + 1));
        let memory_until = own.memory_until.load(Relaxed);
        if mask >> KEPT == 0 || memory_until == u64::MAX {
            return;
        }
        // A limited number at a time, as other processes wait for the lock; the rest is freed at
        // the next step.
        let mut position = from / STEP * STEP;
        let until = until.min(position.saturating_add(STEPS * STEP));
        while position < until {
            let offset = position & mask;
            // Skips the part that keeps its memory, and what the next round of the ring already
            // uses.
            if offset >= 1 << KEPT && memory_until <= position.saturating_add(mask + 1) {
                self.shared.file().free(RING_AT + offset, STEP);
            }
            position = position.saturating_add(STEP);
        }
        own.freed_until.store(until, Relaxed);
    }
}
