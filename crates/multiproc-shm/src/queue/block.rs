//! A block of a store that this process owns: one that it fills and puts into the queue, or one
//! that it has taken from the queue and reads. Dropping a [`Block`] gives the block back.

use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;

use crate::lock::spin_lock::{Limit, within};
use crate::queue::store::{Refusal, Store, bytes_of, fill};

/// An owned block. `S` is how the store is held: borrowed, or shared.
#[derive(Debug)]
pub struct Block<S: Deref<Target = Store>> {
    store: S,
    index: u32,
    len: u64,
}

impl<S: Deref<Target = Store>> Block<S> {
    /// Allocates an empty block, with memory for `len` bytes.
    pub fn new(store: S, len: u64) -> Result<Block<S>, Refusal> {
        let index = store.allocate(len)?;
        Ok(Block { store, index, len: 0 })
    }

    /// A block that was taken from the queue and contains an item of `len` bytes.
    pub(crate) fn taken(store: S, index: u32, len: u64) -> Block<S> {
        Block { store, index, len }
    }

    pub fn index(&self) -> u32 {
        self.index
    }

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

    /// Doesn't give the block back: it is in the queue now, or owned by another process.
    pub fn leave(self) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: it is neither used again nor dropped.
        unsafe { std::ptr::drop_in_place(&raw mut this.store) };
    }
}

impl<S: Deref<Target = Store>> Drop for Block<S> {
    fn drop(&mut self) {
        // Fails only if the arena is corrupt. Doesn't wait for a stopped process: the block is then
        // given back later.
        let _ = within(Limit::Moment, || self.store.give_back_block(self.index));
    }
}
