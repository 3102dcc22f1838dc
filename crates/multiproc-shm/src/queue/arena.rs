//! Memory for items that are too large for a queue's ring: blocks, each with a descriptor that says
//! which process owns it. See `QUEUE.md`, "Blocks".
//!
//! A block's size is a power of two; it has as much memory as its items have needed. Blocks that
//! are given back are reused, the last one first, since its pages are mapped and in the cache.
//! Blocks that are unlikely to be needed soon return their memory to the kernel.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use multiproc_os::clock;
use multiproc_os::identity::Identity;

use crate::lock::spin_lock::{RobustSpinGuard, RobustSpinLock};
use crate::loom::atomic::{AtomicU32, AtomicU64};
use crate::loom::shared_memory::{PAGE, SharedFile};
use crate::memory::growable_mapping::GrowableMapping;
use crate::memory::layout::{Layout, layout};

/// Size of the smallest block, and of the largest, as powers of two.
const SMALLEST: u32 = 12;
const LARGEST: u32 = 40;

/// Size of the first piece of the blocks' mapping, as a power of two.
const FIRST_PIECE: u32 = 16;

/// Offsets in the file of the table of descriptors, and of the blocks.
const TABLE_AT: u64 = 1 << 41;
const BLOCKS_AT: u64 = 1 << 42;

/// Bytes of address range for all blocks.
const BLOCKS: u64 = 1 << 42;

/// Number of free large blocks, at most, among which one with memory is searched.
const MOST_FREE: u32 = 1 << 20;

/// Bytes of memory that free blocks keep.
const KEPT: u64 = 8 << 20;

/// In a stream of large items, free blocks keep what `MOST_KEPT` of the items need, and at most
/// `KEPT_IN_STREAMS` bytes, since the next items will need it.
const KEPT_IN_STREAMS: u64 = 256 << 20;
const MOST_KEPT: u64 = 3;

/// Two large items are a stream if they come within `STREAM` milliseconds, plus the time to fill a
/// block of their size, `TIME_PER_MIB` milliseconds for each MiB.
const STREAM: u64 = 250;
const TIME_PER_MIB: u64 = 1;

/// The position of a block that is not in the queue.
pub const NOWHERE: u64 = u64::MAX;

layout! {
    /// The shared part of an arena. An arena without blocks is all zeros.
    pub struct ArenaHeader {
        spin_lock: RobustSpinLock,
        /// Number of descriptors.
        count: AtomicU32,
        /// Offset of the next new block from the first one.
        end: AtomicU64,
        /// Bytes of memory that the free blocks have.
        kept: AtomicU64,
        /// The number of descriptors at which blocks of dead processes are next searched for.
        next_look: AtomicU32,
        _unused: AtomicU32,
        /// When memory for a large item was last asked for, and the time before that, in
        /// milliseconds of the system's clock.
        last_large: AtomicU64,
        large_before: AtomicU64,
        /// The first free block of each size, plus one.
        free: [AtomicU32; (LARGEST + 1) as usize],
    }
}

#[doc(hidden)]
impl ArenaHeader {
    pub fn orphan_lock(&self) {
        self.spin_lock.orphan();
    }
}

/// What is known of a block.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Descriptor {
    /// A [`State`] as a word.
    state: AtomicU64,
    /// The position in the queue of the block's record; kept after the item has been taken.
    pub position: AtomicU64,
    /// Offset from the first block.
    offset: AtomicU64,
    /// How many bytes of the block have memory, counted from its start.
    allocated: AtomicU64,
    /// Number of bytes that have been written into the block.
    pub len: AtomicU64,
    /// Size of the block, as a power of two.
    class: AtomicU32,
    /// For a free block, the next free one of the same size, plus one; for one with a lease that
    /// has been given up, the next such block, plus one.
    pub(crate) next: AtomicU32,
    /// How often the item has been taken.
    pub deliveries: AtomicU32,
    /// The item's flags, for when it is taken from the block.
    pub flags: AtomicU32,
}

// SAFETY: made of atomics, 64 bytes in all.
#[allow(unsafe_code)]
unsafe impl Layout for Descriptor {
    const NAME: &'static str = "block";
    const KIND: u32 = 0;
}

/// What a block is used for, and by which process. In a word: the owner's identity, and the kind in
/// bits that pids don't use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// On a list of free blocks.
    Free,
    /// The owner fills it, or gives it back.
    Building(Identity),
    /// In the queue, at its position.
    Queued,
    /// The owner has taken it, and reads it.
    Reading(Identity),
    /// The owner has taken it, and may die before it says that the work is done.
    Leased(Identity),
    /// A lease that has been given up: the item can be taken again.
    Returned,
}

const KIND_AT: u32 = 24;
const KIND: u64 = 7 << KIND_AT;

impl State {
    /// Returns the word for the state.
    pub fn to_word(self) -> u64 {
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

    /// Returns the state for a word; `Free` if the word is invalid.
    pub fn of_word(word: u64) -> State {
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
    /// Returns the block's state.
    pub fn state(&self) -> State {
        State::of_word(self.state.load(SeqCst))
    }

    /// Sets the block's state.
    pub fn set(&self, state: State) {
        self.state.store(state.to_word(), SeqCst);
    }

    /// Changes the state from `from` to `to`. Returns false if it was not `from`.
    pub fn change(&self, from: State, to: State) -> bool {
        self.state.compare_exchange(from.to_word(), to.to_word(), SeqCst, SeqCst).is_ok()
    }
}

/// A process's mappings of an arena.
#[derive(Debug)]
pub struct Arena {
    table: GrowableMapping,
    blocks: GrowableMapping,
}

/// An arena together with its header and its file.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    /// This process's mappings.
    pub arena: &'a Arena,
    /// The shared header.
    pub books: &'a ArenaHeader,
    /// The queue's file.
    pub file: &'a SharedFile,
}

impl Default for Arena {
    fn default() -> Arena {
        Arena::new()
    }
}

impl Arena {
    /// Returns an arena of which nothing is mapped yet.
    pub fn new() -> Arena {
        Arena { table: GrowableMapping::new(TABLE_AT, SMALLEST), blocks: GrowableMapping::new(BLOCKS_AT, FIRST_PIECE) }
    }
}

impl<'a> Blocks<'a> {
    /// The number of descriptors.
    pub fn count(self) -> u32 {
        self.books.count.load(SeqCst)
    }

    /// Returns the descriptor of a block.
    ///
    /// # Errors
    /// `InvalidData` if there is no block of that number.
    pub fn descriptor(self, index: u32) -> io::Result<&'a Descriptor> {
        if index >= self.count() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let descriptor: &Descriptor =
            self.arena.table.get(self.file, u64::from(index) * size_of::<Descriptor>() as u64)?;
        // A class of 0 says that the descriptor was never initialised, so the count is garbage.
        match (SMALLEST..=LARGEST).contains(&descriptor.class.load(Relaxed)) {
            true => Ok(descriptor),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// All descriptors, up to the first invalid one.
    pub fn all(self) -> impl Iterator<Item = (u32, &'a Descriptor)> {
        (0..self.count()).map_while(move |index| Some((index, self.descriptor(index).ok()?)))
    }

    /// Offset and size of a block. Read and checked anew each time, as other processes may write to
    /// the descriptor.
    fn place(self, descriptor: &Descriptor) -> io::Result<(u64, u64)> {
        let (class, offset) = (descriptor.class.load(Relaxed), descriptor.offset.load(Relaxed));
        let is_one = (SMALLEST..=LARGEST).contains(&class) && offset < BLOCKS && offset.is_multiple_of(1 << class);
        if is_one { Ok((offset, 1 << class)) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Allocates a block of at least `len` bytes, with memory for them. This process may fill it.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`, `EFBIG`; `InvalidData` if the arena is corrupt.
    pub fn allocate(self, len: u64) -> io::Result<u32> {
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
                    // Not a block that a process owns.
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

    /// Makes a new descriptor and reserves the address range of its block. The caller holds the
    /// lock.
    fn create(self, class: u32) -> io::Result<u32> {
        let index = self.books.count.load(Relaxed);
        let at = u64::from(index) * size_of::<Descriptor>() as u64;
        self.arena.table.extend(self.file, at)?;
        if at.is_multiple_of(PAGE as u64) {
            self.file.allocate(self.arena.table.base() + at, PAGE as u64)?;
        }
        // At a multiple of its size, a block lies within one piece of the mapping; at offset 0 only
        // if the first piece is that large.
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

    /// Whether the number of blocks has grown so much since the last search that blocks of dead
    /// processes should be searched for again.
    pub fn is_time_to_look(self) -> bool {
        const FIRST: u32 = 16;
        let (count, next) = (self.count(), self.books.next_look.load(Relaxed).max(FIRST));
        count >= next && self.books.next_look.swap(count.saturating_mul(2), Relaxed).max(FIRST) == next
    }

    /// Allocates memory for the first `len` bytes of a block that this process owns.
    pub fn give_memory(self, index: u32, len: u64) -> io::Result<()> {
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

    /// Gives back a block that this process owns, whatever its state.
    ///
    /// # Errors
    /// `InvalidData` if the arena is corrupt.
    pub fn give_back(self, index: u32) -> io::Result<()> {
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

    /// Whether items of `len` bytes come in a stream.
    fn are_coming_in(self, len: u64) -> bool {
        let window = STREAM + (len >> 20) * TIME_PER_MIB;
        clock::milliseconds().saturating_sub(self.books.large_before.load(Relaxed)) <= window
    }

    /// Whether no memory for a large item has been asked for during the last `time`.
    pub fn is_quiet(self, time: Duration) -> bool {
        u128::from(clock::milliseconds().saturating_sub(self.books.last_large.load(Relaxed))) >= time.as_millis()
    }

    /// Whether free blocks have more memory than they may keep outside of a stream.
    pub fn has_kept_more(self) -> bool {
        self.books.kept.load(Relaxed) > KEPT
    }

    /// Frees the memory that free blocks keep for a stream of large items.
    ///
    /// # Errors
    /// As [`give_back`](Blocks::give_back).
    pub fn free_kept(self) -> io::Result<()> {
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

    /// Frees the memory of a block that this process owns.
    fn free_memory(self, descriptor: &Descriptor, has: u64) {
        // Stored first, so that the next user of the block allocates memory for it.
        descriptor.allocated.store(0, SeqCst);
        if let Ok((offset, size)) = self.place(descriptor) {
            self.file.free(self.arena.blocks.base() + offset, has.min(size));
        }
    }

    /// Removes a block that has memory from the free lists of large blocks. This process then owns
    /// it. The caller holds the lock.
    fn unlist_largest(self) -> io::Result<Option<(u32, &'a Descriptor)>> {
        for free in self.books.free.iter().rev().take((LARGEST - KEPT.ilog2()) as usize + 1) {
            let mut place = free;
            // Bounded by the number of blocks, in case the list is garbage and has a cycle.
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

    /// Removes the block that `free` refers to from a free list. The caller holds the lock.
    fn unlist(self, free: &AtomicU32, descriptor: &Descriptor) {
        free.store(descriptor.next.load(Relaxed), Relaxed);
        let kept = self.books.kept.load(Relaxed).saturating_sub(descriptor.allocated.load(Relaxed));
        self.books.kept.store(kept, Relaxed);
    }

    /// Adds a block to a free list. The caller holds the lock.
    fn list(self, index: u32, descriptor: &Descriptor) {
        let class = descriptor.class.load(Relaxed).min(LARGEST);
        let free = &self.books.free[class as usize];
        descriptor.set(State::Free);
        descriptor.next.store(free.load(Relaxed), Relaxed);
        free.store(index + 1, Relaxed);
        let kept = self.books.kept.load(Relaxed).saturating_add(descriptor.allocated.load(Relaxed));
        self.books.kept.store(kept, Relaxed);
    }

    /// Acquires the lock. If it is inherited, rebuilds the lists, the only thing that its dead
    /// owner may have left half done.
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

    /// The address of the first `len` bytes of a block.
    ///
    /// # Errors
    /// `InvalidData` if the block is smaller.
    pub fn memory(self, index: u32, len: u64) -> io::Result<NonNull<u8>> {
        let descriptor = self.descriptor(index)?;
        let (offset, size) = self.place(descriptor)?;
        if len > size {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.arena.blocks.address(self.file, offset, len)
    }

    /// Offset of a block in the file.
    ///
    /// # Errors
    /// `InvalidData` if there is no such block.
    pub fn offset_in_file(self, index: u32) -> io::Result<u64> {
        Ok(self.arena.blocks.base() + self.place(self.descriptor(index)?)?.0)
    }

    /// How many bytes of a block have memory.
    pub fn allocated(self, index: u32) -> io::Result<u64> {
        Ok(self.descriptor(index)?.allocated.load(Relaxed))
    }

    /// How many bytes a block can hold, once it has memory for them.
    pub fn room(self, index: u32) -> io::Result<u64> {
        Ok(1 << self.descriptor(index)?.class.load(Relaxed).min(LARGEST))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::segment::Segment;

    // SAFETY: made of atomics.
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
    fn freed_memory_is_reused() {
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
    fn memory_returns_to_the_system() {
        test(|blocks| {
            let before = blocks.file.allocated().unwrap();
            let many: Vec<u32> = (0..20).map(|_| blocks.allocate(3 << 20).unwrap()).collect();
            assert!(blocks.file.allocated().unwrap() >= before + (60 << 20));
            many.into_iter().for_each(|index| blocks.give_back(index).unwrap());
            assert!(blocks.file.allocated().unwrap() <= before + (10 << 20));
        });
    }

    #[test]
    fn large_blocks_are_cached_during_a_stream() {
        test(|blocks| {
            let before = blocks.file.allocated().unwrap();
            let now = || blocks.file.allocated().unwrap() - before;
            let one = blocks.allocate(64 << 20).unwrap();
            blocks.give_back(one).unwrap();
            assert!(now() <= 9 << 20, "{}", now());
            // On a machine so slow that this is no stream, nothing is kept: try again.
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
    fn rebuild_after_death() {
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
    fn states_round_trip() {
        let me = Identity::current().unwrap();
        use State::{Building, Free, Leased, Queued, Reading, Returned};
        for state in [Free, Building(me), Queued, Reading(me), Leased(me), Returned] {
            assert_eq!(State::of_word(state.to_word()), state);
        }
        assert_eq!(State::of_word(u64::MAX), State::Free);
    }
}
