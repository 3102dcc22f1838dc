//! Blocks, the memory of large items, as a queue uses them: a [`Block`] that this process owns, how
//! blocks are given back, and how those of dead processes are found. See `QUEUE.md`, "Blocks".

use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use multiproc_os::identity::Identity;
use multiproc_os::robust::copy_number;
use multiproc_os::shared_memory::Mapping;

use crate::lock::fork_mutex::ForkMutexGuard;
use crate::lock::spin_lock::{Limit, Stalled, within};
use crate::queue::arena::{Blocks, State};
use crate::queue::error::Error;
use crate::queue::store::Store;

/// Idle time after which cached block memory is returned to the kernel.
pub(super) const QUIET: Duration = Duration::from_millis(200);

/// An owned block. `S` is how the store is held: borrowed, or shared.
#[derive(Debug)]
pub struct Block<S: Deref<Target = Store>> {
    store: S,
    index: u32,
    len: u64,
    /// The copy of the process that owns the block. A fork copy must not give it back.
    copy: u32,
}

impl<S: Deref<Target = Store>> Block<S> {
    /// Allocates an empty block, with memory for `len` bytes.
    pub fn new(store: S, len: u64) -> Result<Block<S>, Error> {
        let index = store.allocate(len)?;
        Ok(Block { store, index, len: 0, copy: copy_number() })
    }

    /// A block that was taken from the queue and contains an item of `len` bytes.
    pub(crate) fn taken(store: S, index: u32, len: u64) -> Block<S> {
        Block { store, index, len, copy: copy_number() }
    }

    /// Returns the block's number.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Returns the number of bytes in the block.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `bytes`, for which there must be memory.
    pub fn fill(&mut self, bytes: &[u8]) -> io::Result<()> {
        fill(self.store.blocks(), self.index, self.len, bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Allocates memory for `len` bytes in all. Returns false if they don't fit into the block.
    pub fn extend(&mut self, len: u64) -> io::Result<bool> {
        let blocks = self.store.blocks();
        let room = blocks.room(self.index)?;
        if len > room {
            return Ok(false);
        }
        blocks.give_memory(self.index, len)?;
        Ok(true)
    }

    /// The bytes that the block contains.
    pub fn bytes(&self) -> io::Result<&[u8]> {
        // SAFETY: the block is this process's for as long as `self` exists.
        unsafe { bytes_of(self.store.blocks(), self.index, self.len) }
    }

    /// Maps the bytes that the block contains privately: pages that are written are copied, and no
    /// other mapping shows what is written. Returns the mapping and the offset of the bytes in it.
    #[cfg(not(loom))]
    pub(super) fn copy_on_write(&self) -> io::Result<(Mapping, usize)> {
        /// A multiple of every page size, at which a piece of the blocks' mapping begins.
        const STEP: u64 = 1 << 16;
        let blocks = self.store.blocks();
        memory(blocks, self.index, self.len)?;
        let offset = blocks.offset_in_file(self.index)?;
        let start = offset / STEP * STEP;
        let mapping = Mapping::copy_on_write(blocks.file, start, (offset - start + self.len) as usize)?;
        Ok((mapping, (offset - start) as usize))
    }

    /// Doesn't give the block back: it is in the queue now, or owned by another process.
    pub fn leave(self) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: it is neither used again nor dropped.
        unsafe { std::ptr::drop_in_place(&raw mut this.store) };
    }
}

impl<S: Deref<Target = Store>> Drop for Block<S> {
    fn drop(&mut self) {
        if self.copy != copy_number() {
            return;
        }
        // Fails only if the arena is corrupt. Doesn't wait for a stopped process: the block is then
        // given back later.
        let _ = within(Limit::GracePeriod, || self.store.give_back_block(self.index));
    }
}

impl Store {
    /// Allocates a block for `len` bytes, which this process may fill.
    pub fn allocate(&self, len: u64) -> Result<u32, Error> {
        self.give_back_what_was_left()?;
        if self.blocks().is_time_to_look() {
            self.take_from_the_dead()?;
        }
        self.blocks().allocate(len).map_err(Error::io("no memory for an item of its size"))
    }

    /// Gives back a block of this process. If the lock of the free lists can't be acquired in time,
    /// the block is given back at a later call.
    ///
    /// # Errors
    /// `InvalidData` if the arena is corrupt.
    pub fn give_back_block(&self, index: u32) -> io::Result<()> {
        match self.blocks().give_back(index) {
            Err(error) if Stalled::of(&error).is_some() => {
                self.left().push(index);
                Ok(())
            }
            result => result,
        }
    }

    /// The blocks that could not be given back in time. A fork copy has none: they are the
    /// original's.
    fn left(&self) -> ForkMutexGuard<'_, Vec<u32>> {
        self.to_give_back.lock(|left, was_held| {
            let left = std::mem::take(left);
            if was_held {
                std::mem::forget(left);
            }
        })
    }

    /// Gives back the blocks that could not be given back in time.
    pub(super) fn give_back_what_was_left(&self) -> Result<(), Error> {
        let left = std::mem::take(&mut *self.left());
        left.into_iter().try_for_each(|index| self.give_back_block(index)).map_err(Error::io("a block"))
    }

    /// Gives back the blocks of dead processes.
    #[cold]
    pub(super) fn take_from_the_dead(&self) -> Result<(), Error> {
        let blocks = self.blocks();
        let mut suspects = Vec::new();
        {
            // Under the lock, so that no consumer is in the middle of taking an item.
            let _guard = self.consumers()?;
            let head = self.head();
            for (index, descriptor) in blocks.all() {
                let taken = descriptor.position.load(SeqCst) < head;
                match descriptor.state() {
                    state @ State::Building(owner) => suspects.push((descriptor, index, state, Some(owner))),
                    state @ State::Reading(owner) if taken => suspects.push((descriptor, index, state, Some(owner))),
                    // Its producer died before the put.
                    state @ State::Queued if taken => suspects.push((descriptor, index, state, None)),
                    _ => {}
                }
            }
        }
        let Ok(me) = Identity::current() else { return Ok(()) };
        let mut dead = std::collections::HashMap::new();
        for (descriptor, index, state, owner) in suspects {
            let lost = owner.is_none_or(|owner| {
                owner != me && *dead.entry(owner).or_insert_with(|| owner.has_ended().unwrap_or(false))
            });
            if lost && descriptor.change(state, State::Building(me)) {
                let _ = self.give_back_block(index);
            }
        }
        Ok(())
    }

    /// Frees the memory that is kept for a stream of large items, if the queue is empty.
    pub fn give_back_kept(&self) {
        let blocks = self.blocks();
        if blocks.has_kept_more() && self.is_empty() {
            // Fails only if the arena is corrupt, or its lock can't be acquired in time; in either
            // case a later call tries again.
            let _ = within(Limit::GracePeriod, || blocks.free_kept());
        }
    }

    /// Frees the memory that is kept for a stream of large items, if none has been allocated for
    /// [`QUIET`].
    #[inline]
    pub fn give_back_when_quiet(&self) {
        if self.blocks().has_kept_more() && self.blocks().is_quiet(QUIET) {
            self.give_back_kept();
        }
    }
}

/// Writes `bytes` at offset `at` of a block that this process owns.
pub fn fill(blocks: Blocks<'_>, index: u32, at: u64, bytes: &[u8]) -> io::Result<()> {
    let start = memory(blocks, index, at + bytes.len() as u64)?;
    // SAFETY: the block is large enough and owned by this process alone, and `bytes`, which belong
    // to this process, can't lie in it. Only if the arena is corrupt may they lie in another block
    // that overlaps.
    unsafe {
        start.as_ptr().add(at as usize).copy_from(bytes.as_ptr(), bytes.len());
    }
    Ok(())
}

fn memory(blocks: Blocks<'_>, index: u32, len: u64) -> io::Result<NonNull<u8>> {
    let allocated = blocks.allocated(index)?;
    if len > allocated {
        return Err(io::ErrorKind::InvalidData.into());
    }
    blocks.memory(index, len)
}

/// The bytes of an item in a block that this process has taken.
///
/// # Safety
/// The block must remain this process's until the borrow ends.
pub unsafe fn bytes_of<'a>(blocks: Blocks<'a>, index: u32, len: u64) -> io::Result<&'a [u8]> {
    let start = memory(blocks, index, len)?;
    // SAFETY: the block is at least `len` bytes long and has memory; no process writes to it while
    // it is this process's, as the caller guarantees.
    Ok(unsafe { std::slice::from_raw_parts(start.as_ptr(), len as usize) })
}
