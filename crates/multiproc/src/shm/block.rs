//! A block of a store that is this process's: filled and put into the queue, or taken from it and read. When this is dropped, it is given back.

use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;

use super::spin_lock::{Limit, within};
use super::store::{Refusal, Store, bytes_of, fill};

/// See the module. `S` is how the store is held: borrowed, or shared.
#[derive(Debug)]
pub(crate) struct Block<S: Deref<Target = Store>> {
    store: S,
    index: u32,
    len: u64,
}

impl<S: Deref<Target = Store>> Block<S> {
    /// An empty one, with memory for `len` bytes.
    pub(crate) fn new(store: S, len: u64) -> Result<Block<S>, Refusal> {
        let index = store.allocate(len)?;
        Ok(Block { store, index, len: 0 })
    }

    /// One that was taken from the queue, with an item of `len` bytes in it.
    pub(super) fn taken(store: S, index: u32, len: u64) -> Block<S> {
        Block { store, index, len }
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Appends `bytes`, for which there must be memory.
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> io::Result<()> {
        fill(self.store.blocks(), self.index, self.len, bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Has memory for `len` bytes in all, if they fit into the block. False if they don't.
    pub(crate) fn extend(&mut self, len: u64) -> io::Result<bool> {
        let blocks = self.store.blocks();
        let room = blocks.room(self.index)?;
        if len > room {
            return Ok(false);
        }
        blocks.give_memory(self.index, len)?;
        Ok(true)
    }

    /// What is in it.
    pub(crate) fn bytes(&self) -> io::Result<&[u8]> {
        // SAFETY: it is this process's as long as `self` is.
        unsafe { bytes_of(self.store.blocks(), self.index, self.len) }
    }

    /// It is in the queue now, or somebody else's.
    pub(crate) fn leave(self) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: it is not used again, nor dropped.
        unsafe { std::ptr::drop_in_place(&raw mut this.store) };
    }
}

impl<S: Deref<Target = Store>> Drop for Block<S> {
    fn drop(&mut self) {
        // It fails only if the books are garbage. It does not wait for a process that is stopped:
        // then it is given back later.
        let _ = within(Limit::Moment, || self.store.give_back_block(self.index));
    }
}
