//! Memory for items that are too large for the ring: blocks, each with a descriptor that says whose it is. `QUEUE.md`, "Blocks".
//!
//! A block's size is a power of two; it takes as much memory as is written into it. Blocks that are given back are used again, the last one first, as
//! its pages are mapped and warm. Those that nobody is likely to want soon return their memory to the system.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use multiproc_os::clock;
use multiproc_os::identity::Identity;
use multiproc_os::shared_memory::{PAGE, SharedFile};

use super::growable_mapping::GrowableMapping;
use super::segment::Layout;
use super::spin_lock::{RobustSpinGuard, RobustSpinLock};

/// The smallest block, and the largest, as powers of two.
const SMALLEST: u32 = 12;
const LARGEST: u32 = 40;

/// The blocks are mapped piece by piece; the first one has this size.
const FIRST_PIECE: u32 = 16;

/// Where the descriptors begin in the file, and where the blocks do.
const TABLE_AT: u64 = 1 << 41;
const BLOCKS_AT: u64 = 1 << 42;

/// All blocks lie within so many bytes.
const BLOCKS: u64 = 1 << 42;

/// Of so many large blocks it is looked at which has memory.
const MOST_FREE: u32 = 1 << 20;

/// Free blocks keep this much memory.
const KEPT: u64 = 8 << 20;

/// While large items come one after the other, free blocks may keep this much, and what this many
/// of the items need: the next ones will want it.
const KEPT_IN_STREAMS: u64 = 256 << 20;
const MOST_KEPT: u64 = 3;

/// They do if there were two within this time, and the time that it takes to fill one, in milliseconds.
const STREAM: u64 = 250;
const TIME_PER_MIB: u64 = 1;

/// Not in the queue.
pub(crate) const NOWHERE: u64 = u64::MAX;

/// The shared part; all zero, there are no blocks.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ArenaHeader {
    spin_lock: RobustSpinLock,
    /// How many descriptors there are.
    count: AtomicU32,
    /// Where the next block may lie, counted from the first.
    end: AtomicU64,
    /// How much memory the free blocks have.
    kept: AtomicU64,
    /// When there are so many descriptors, it is time to look for those of the dead.
    next_look: AtomicU32,
    _unused: AtomicU32,
    /// When memory for a large item was asked for last, and the time before, in milliseconds of the system's clock.
    last_large: AtomicU64,
    large_before: AtomicU64,
    /// The first free block of each size, plus one.
    free: [AtomicU32; (LARGEST + 1) as usize],
}

#[cfg(any(test, fuzzing))]
impl ArenaHeader {
    pub(crate) fn orphan_latch(&self) {
        self.spin_lock.orphan();
    }
}

/// What is known of a block.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Descriptor {
    /// See [`State`].
    state: AtomicU64,
    /// Where its record is in the queue, or was.
    pub(crate) position: AtomicU64,
    /// Where it lies, counted from the first block.
    offset: AtomicU64,
    /// How much of it has memory.
    allocated: AtomicU64,
    /// How many bytes have been written into it.
    pub(crate) len: AtomicU64,
    /// Its size, as a power of two.
    class: AtomicU32,
    /// If it is free, the next one of the same size that is, plus one; if its lease has been given
    /// up, the next one of which that is so.
    pub(super) next: AtomicU32,
    /// How often it has been taken by somebody.
    pub(crate) deliveries: AtomicU32,
    /// Its item's flags, for an item that is taken from the block.
    pub(crate) flags: AtomicU32,
}

// SAFETY: atomics, 64 bytes of them.
#[allow(unsafe_code)]
unsafe impl Layout for Descriptor {
    const NAME: &'static str = "block";
    const KIND: u32 = 0;
}

/// Whose a block is. In a word: the owner's identity, and the kind in bits that pids don't use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Free,
    /// Somebody fills it, or gives it back.
    Building(Identity),
    /// It is in the queue, at its position.
    Queued,
    /// Somebody has taken it, and reads it.
    Reading(Identity),
    /// Somebody has taken it, and may not live to say that the work is done.
    Leased(Identity),
    /// Somebody has given up a lease.
    Returned,
}

const KIND_AT: u32 = 24;
const KIND: u64 = 7 << KIND_AT;

impl State {
    pub(crate) fn to_word(self) -> u64 {
        let (kind, owner) = match self {
            State::Free => return 0,
            State::Building(owner) => (1, owner.to_bits()),
            State::Queued => (2, 0),
            State::Reading(owner) => (3, owner.to_bits()),
            State::Leased(owner) => (4, owner.to_bits()),
            State::Returned => (5, 0),
        };
        owner | kind << KIND_AT
    }

    pub(crate) fn of_word(word: u64) -> State {
        let owner = Identity::from_bits(word & !KIND);
        match ((word & KIND) >> KIND_AT, owner) {
            (2, _) => State::Queued,
            (5, _) => State::Returned,
            (1, Some(owner)) => State::Building(owner),
            (3, Some(owner)) => State::Reading(owner),
            (4, Some(owner)) => State::Leased(owner),
            _ => State::Free,
        }
    }
}

impl Descriptor {
    pub(crate) fn state(&self) -> State {
        State::of_word(self.state.load(SeqCst))
    }

    pub(crate) fn set(&self, state: State) {
        self.state.store(state.to_word(), SeqCst);
    }

    /// Whether it went from one state to the other.
    pub(crate) fn change(&self, from: State, to: State) -> bool {
        self.state.compare_exchange(from.to_word(), to.to_word(), SeqCst, SeqCst).is_ok()
    }
}

/// A process's view of it.
#[derive(Debug)]
pub(crate) struct Arena {
    table: GrowableMapping,
    blocks: GrowableMapping,
}

/// The arena with what it lies in.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) books: &'a ArenaHeader,
    pub(crate) file: &'a SharedFile,
}

impl Arena {
    pub(crate) fn new() -> Arena {
        Arena { table: GrowableMapping::new(TABLE_AT, SMALLEST), blocks: GrowableMapping::new(BLOCKS_AT, FIRST_PIECE) }
    }
}

impl<'a> Blocks<'a> {
    /// How many descriptors there are.
    pub(crate) fn count(self) -> u32 {
        self.books.count.load(SeqCst)
    }

    /// A descriptor.
    ///
    /// # Errors
    /// `InvalidData` if there is none of that number.
    pub(crate) fn descriptor(self, index: u32) -> io::Result<&'a Descriptor> {
        if index >= self.count() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let descriptor: &Descriptor =
            self.arena.table.get(self.file, u64::from(index) * size_of::<Descriptor>() as u64)?;
        // One that has never been made, if it is 0: so there are not as many as is said.
        match (SMALLEST..=LARGEST).contains(&descriptor.class.load(Relaxed)) {
            true => Ok(descriptor),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// All descriptors, up to one that is garbage.
    pub(crate) fn all(self) -> impl Iterator<Item = (u32, &'a Descriptor)> {
        (0..self.count()).map_while(move |index| Some((index, self.descriptor(index).ok()?)))
    }

    /// Where a block lies, and its size; looked at anew each time, as others may write there.
    fn place(self, descriptor: &Descriptor) -> io::Result<(u64, u64)> {
        let (class, offset) = (descriptor.class.load(Relaxed), descriptor.offset.load(Relaxed));
        let is_one = (SMALLEST..=LARGEST).contains(&class) && offset < BLOCKS && offset.is_multiple_of(1 << class);
        if is_one { Ok((offset, 1 << class)) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// A block for at least `len` bytes, with memory for them. It is this process's to fill.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`, `EFBIG`; `InvalidData` if the books are garbage.
    pub(crate) fn allocate(self, len: u64) -> io::Result<u32> {
        let class = len.max(1).checked_next_power_of_two().map_or(u32::MAX, u64::ilog2).max(SMALLEST);
        if class > LARGEST {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let me = Identity::current()?;
        let index = {
            let _guard = self.lock()?;
            let free = &self.books.free[class as usize];
            let index = match free.load(Relaxed).checked_sub(1) {
                Some(index) => {
                    let descriptor = self.descriptor(index)?;
                    // Not one that somebody has.
                    if descriptor.state() != State::Free || descriptor.class.load(Relaxed) != class {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    self.unlist(free, descriptor);
                    index
                }
                None => self.create(class)?,
            };
            let descriptor = self.descriptor(index)?;
            descriptor.position.store(NOWHERE, Relaxed);
            descriptor.deliveries.store(0, Relaxed);
            descriptor.set(State::Building(me));
            index
        };
        if len > KEPT {
            self.books.large_before.store(self.books.last_large.swap(clock::milliseconds(), Relaxed), Relaxed);
        }
        match self.give_memory(index, len) {
            Ok(()) => Ok(index),
            Err(error) => {
                self.give_back(index)?;
                Err(error)
            }
        }
    }

    /// A new descriptor, and a place for its block. Under the latch.
    fn create(self, class: u32) -> io::Result<u32> {
        let index = self.books.count.load(Relaxed);
        let at = u64::from(index) * size_of::<Descriptor>() as u64;
        self.arena.table.extend(self.file, at)?;
        if at.is_multiple_of(PAGE as u64) {
            self.file.allocate(self.arena.table.base() + at, PAGE as u64)?;
        }
        // A place that is a multiple of its size lies within one piece of the expanse; at the very beginning, if the first piece is so large.
        let size = 1_u64 << class;
        let end = self.books.end.load(Relaxed);
        if end >= BLOCKS {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let offset = end.max(if class > FIRST_PIECE { size } else { 0 }).next_multiple_of(size);
        self.arena.blocks.extend(self.file, offset + size - 1)?;
        let descriptor: &Descriptor = self.arena.table.get(self.file, at)?;
        descriptor.offset.store(offset, Relaxed);
        descriptor.class.store(class, Relaxed);
        descriptor.allocated.store(0, Relaxed);
        self.books.end.store(offset + size, Relaxed);
        let count = index.checked_add(1).ok_or(io::ErrorKind::StorageFull)?;
        self.books.count.store(count, SeqCst);
        Ok(index)
    }

    /// Whether there are so many more blocks than at the last look that those of the dead should be looked for.
    pub(crate) fn is_time_to_look(self) -> bool {
        const FIRST: u32 = 16;
        let (count, next) = (self.count(), self.books.next_look.load(Relaxed).max(FIRST));
        count >= next && self.books.next_look.swap(count.saturating_mul(2), Relaxed).max(FIRST) == next
    }

    /// Has memory for `len` bytes of a block that is this process's.
    pub(crate) fn give_memory(self, index: u32, len: u64) -> io::Result<()> {
        let descriptor = self.descriptor(index)?;
        let (has, needs) = (descriptor.allocated.load(Relaxed), len.next_multiple_of(PAGE as u64));
        if has < needs {
            let (offset, size) = self.place(descriptor)?;
            if needs > size {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let at = self.arena.blocks.base() + offset;
            self.file.allocate(at + has, needs - has)?;
            descriptor.allocated.store(needs, Relaxed);
        }
        Ok(())
    }

    /// Gives back a block that is this process's, in whatever state.
    ///
    /// # Errors
    /// `InvalidData` if the books are garbage.
    pub(crate) fn give_back(self, index: u32) -> io::Result<()> {
        let descriptor = self.descriptor(index)?;
        descriptor.set(State::Building(Identity::current()?));
        let has = descriptor.allocated.load(Relaxed);
        let kept = if has > KEPT && self.are_coming_in(has) { KEPT_IN_STREAMS.min(MOST_KEPT * has) } else { KEPT };
        if self.books.kept.load(Relaxed).saturating_add(has) > kept {
            self.free_memory(descriptor, has);
        }
        let guard = self.lock()?;
        self.list(index, descriptor);
        drop(guard);
        if kept == KEPT { self.free_kept() } else { Ok(()) }
    }

    /// Whether items of `len` bytes come one after the other.
    fn are_coming_in(self, len: u64) -> bool {
        let window = STREAM + (len >> 20) * TIME_PER_MIB;
        clock::milliseconds().saturating_sub(self.books.large_before.load(Relaxed)) <= window
    }

    /// Whether no memory has been asked for a large item for so long.
    pub(crate) fn is_quiet(self, time: Duration) -> bool {
        u128::from(clock::milliseconds().saturating_sub(self.books.last_large.load(Relaxed))) >= time.as_millis()
    }

    /// Whether free blocks have more memory than they should have for long.
    pub(crate) fn has_kept_more(self) -> bool {
        self.books.kept.load(Relaxed) > KEPT
    }

    /// Gives back the memory that free blocks have had for a stream of large items.
    ///
    /// # Errors
    /// As [`give_back`](Blocks::give_back).
    pub(crate) fn free_kept(self) -> io::Result<()> {
        while self.has_kept_more() {
            let guard = self.lock()?;
            let Some((index, descriptor)) = self.unlist_largest()? else { return Ok(()) };
            drop(guard);
            self.free_memory(descriptor, descriptor.allocated.load(Relaxed));
            let _guard = self.lock()?;
            self.list(index, descriptor);
        }
        Ok(())
    }

    /// Gives back the memory of a block of this process's.
    fn free_memory(self, descriptor: &Descriptor, has: u64) {
        // First that, so that whoever uses it next has memory for it.
        descriptor.allocated.store(0, SeqCst);
        if let Ok((offset, size)) = self.place(descriptor) {
            self.file.free(self.arena.blocks.base() + offset, has.min(size));
        }
    }

    /// Takes a block with memory from the lists of large ones. It is this process's. Under the latch.
    fn unlist_largest(self) -> io::Result<Option<(u32, &'a Descriptor)>> {
        for free in self.books.free.iter().rev().take((LARGEST - KEPT.ilog2()) as usize + 1) {
            let mut place = free;
            // As many as there may be, or else it goes in a circle.
            for _ in 0..self.count().min(MOST_FREE) {
                let Some(index) = place.load(Relaxed).checked_sub(1) else { break };
                let descriptor = self.descriptor(index)?;
                if descriptor.allocated.load(Relaxed) > 0 {
                    descriptor.set(State::Building(Identity::current()?));
                    self.unlist(place, descriptor);
                    return Ok(Some((index, descriptor)));
                }
                place = &descriptor.next;
            }
        }
        Ok(None)
    }

    /// Takes the block at a place of a list of free ones. Under the latch.
    fn unlist(self, free: &AtomicU32, descriptor: &Descriptor) {
        free.store(descriptor.next.load(Relaxed), Relaxed);
        let kept = self.books.kept.load(Relaxed).saturating_sub(descriptor.allocated.load(Relaxed));
        self.books.kept.store(kept, Relaxed);
    }

    /// Puts a block on the list of free ones. Under the latch.
    fn list(self, index: u32, descriptor: &Descriptor) {
        let class = descriptor.class.load(Relaxed).min(LARGEST);
        let free = &self.books.free[class as usize];
        descriptor.set(State::Free);
        descriptor.next.store(free.load(Relaxed), Relaxed);
        free.store(index + 1, Relaxed);
        let kept = self.books.kept.load(Relaxed).saturating_add(descriptor.allocated.load(Relaxed));
        self.books.kept.store(kept, Relaxed);
    }

    /// Takes the latch. What somebody who has died has left half done is all in the lists, so they are made anew.
    fn lock(self) -> io::Result<RobustSpinGuard<'a>> {
        let guard = self.books.spin_lock.lock()?;
        if guard.inherited {
            self.books.free.iter().for_each(|free| free.store(0, Relaxed));
            self.books.kept.store(0, Relaxed);
            for (index, descriptor) in self.all() {
                if descriptor.state() == State::Free {
                    self.list(index, descriptor);
                }
            }
        }
        Ok(guard)
    }

    /// The memory of a block, of which `len` bytes are asked for.
    ///
    /// # Errors
    /// `InvalidData` if it isn't that large.
    pub(crate) fn memory(self, index: u32, len: u64) -> io::Result<NonNull<u8>> {
        let descriptor = self.descriptor(index)?;
        let (offset, size) = self.place(descriptor)?;
        if len > size {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.arena.blocks.address(self.file, offset, len)
    }

    /// How many bytes of a block have memory.
    pub(crate) fn allocated(self, index: u32) -> io::Result<u64> {
        Ok(self.descriptor(index)?.allocated.load(Relaxed))
    }

    /// How many bytes fit into a block, if it has memory for them.
    pub(crate) fn room(self, index: u32) -> io::Result<u64> {
        Ok(1 << self.descriptor(index)?.class.load(Relaxed).min(LARGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::segment::Segment;

    // SAFETY: atomics.
    #[allow(unsafe_code)]
    unsafe impl Layout for ArenaHeader {
        const NAME: &'static str = "books";
        const KIND: u32 = 0;
    }

    fn test(test: impl FnOnce(Blocks<'_>)) {
        let (segment, arena) = (Segment::<ArenaHeader>::create().unwrap(), Arena::new());
        test(Blocks { arena: &arena, books: &segment, file: segment.file() });
    }

    #[test]
    fn what_is_given_back_is_used_again() {
        test(|blocks| {
            let small = blocks.allocate(100).unwrap();
            let large = blocks.allocate(5 << 20).unwrap();
            assert_ne!(blocks.memory(small, 100).unwrap(), blocks.memory(large, 100).unwrap());
            blocks.give_back(small).unwrap();
            blocks.give_back(large).unwrap();
            assert_eq!(blocks.allocate(8 << 20).unwrap(), large);
            assert_eq!(blocks.allocate(0).unwrap(), small);
            assert_ne!(blocks.allocate(1).unwrap(), small);
            assert!(blocks.memory(small, 4097).is_err() && blocks.memory(9, 1).is_err());
            assert!(blocks.allocate(u64::MAX).is_err());
        });
    }

    #[test]
    fn memory_goes_back_to_the_system() {
        test(|blocks| {
            let before = blocks.file.allocated().unwrap();
            let many: Vec<u32> = (0..20).map(|_| blocks.allocate(3 << 20).unwrap()).collect();
            assert!(blocks.file.allocated().unwrap() >= before + (60 << 20));
            many.into_iter().for_each(|index| blocks.give_back(index).unwrap());
            assert!(blocks.file.allocated().unwrap() <= before + (10 << 20));
        });
    }

    #[test]
    fn a_large_block_is_kept_in_a_stream_of_such_and_no_longer() {
        test(|blocks| {
            let before = blocks.file.allocated().unwrap();
            let now = || blocks.file.allocated().unwrap() - before;
            let one = blocks.allocate(64 << 20).unwrap();
            blocks.give_back(one).unwrap();
            assert!(now() <= 9 << 20, "{}", now());
            // A machine that is so slow that this is no stream has nothing to keep.
            let kept = (0..50).any(|_| {
                let (one, other) = (blocks.allocate(64 << 20).unwrap(), blocks.allocate(60 << 20).unwrap());
                blocks.give_back(one).unwrap();
                blocks.give_back(other).unwrap();
                now() >= 60 << 20
            });
            assert!(kept && blocks.has_kept_more());
            blocks.free_kept().unwrap();
            assert!(now() <= 9 << 20 && !blocks.has_kept_more(), "{}", now());
            let huge = blocks.allocate(300 << 20).unwrap();
            let _ = blocks.allocate(100);
            blocks.books.large_before.store(u64::MAX, Relaxed);
            blocks.give_back(huge).unwrap();
            assert!(now() <= 10 << 20, "{}", now());
        });
    }

    #[test]
    fn the_lists_are_made_anew_after_a_death() {
        test(|blocks| {
            let taken: Vec<u32> = [10, 10, 10_000, 10].map(|len| blocks.allocate(len).unwrap()).to_vec();
            blocks.give_back(taken[1]).unwrap();
            blocks.give_back(taken[2]).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::mem::forget(blocks.books.spin_lock.lock().unwrap());
                    blocks.books.free.iter().for_each(|free| free.store(99, Relaxed));
                });
            });
            assert_eq!(blocks.allocate(10).unwrap(), taken[1]);
            assert_eq!(blocks.allocate(10_000).unwrap(), taken[2]);
            assert_eq!(blocks.allocate(10).unwrap(), 4);
        });
    }

    #[test]
    fn states_are_what_they_were() {
        let me = Identity::current().unwrap();
        use State::{Building, Free, Leased, Queued, Reading, Returned};
        for state in [Free, Building(me), Queued, Reading(me), Leased(me), Returned] {
            assert_eq!(State::of_word(state.to_word()), state);
        }
        assert_eq!(State::of_word(u64::MAX), State::Free);
    }
}
