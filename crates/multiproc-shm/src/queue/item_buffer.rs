//! [`ItemBuffer`]: a message while it is being written. A small one stays on the stack; a larger
//! one is written straight into a block of the queue.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use crate::memory::scratch::Scratch;
use crate::queue::block::Block;
use crate::queue::error::Error;
use crate::queue::item::{Body, Item};
use crate::queue::layout::INLINE;
use crate::queue::store::Store;

/// How many bytes are collected before they are written into the block.
const GATHERED: usize = 64 * 1024;

/// Pieces of at least this many bytes are written straight into the block.
const STRAIGHT: usize = 4 * 1024;

/// A message that is written piece by piece, before it is put ([`End::buffer`](crate::queue::End)).
/// A small one stays on the stack; a larger one is written straight into a block of the queue.
pub struct ItemBuffer<'a> {
    store: &'a Store,
    /// All bytes of a small value. Of a large one, the bytes written last: each call of a
    /// serializer writes only a few.
    small: Scratch,
    /// Whether more was written than fits into `small`: then the value is in a block.
    is_large: bool,
    /// What follows in the block, before the bytes in `small`.
    buffer: Vec<u8>,
    block: Option<Block<&'a Store>>,
    failure: Option<io::Error>,
}

impl<'a> ItemBuffer<'a> {
    /// Returns an empty buffer.
    #[inline]
    pub fn new(store: &'a Store) -> ItemBuffer<'a> {
        ItemBuffer { store, small: Scratch::new(), is_large: false, buffer: Vec::new(), block: None, failure: None }
    }

    /// Returns what was written, as the body of an item.
    #[inline]
    pub fn finish(&mut self) -> io::Result<Body<'_>> {
        if !self.is_large {
            return Ok(Body::Inline(self.small.bytes()));
        }
        self.flush()?;
        let block = self.block.as_ref().expect("a large value has a block");
        Ok(Body::Block(block.index(), block.len()))
    }

    /// As [`finish`](ItemBuffer::finish), as an item with these descriptors, which stand for
    /// `handles` handles.
    #[inline]
    pub(super) fn item<'b>(
        &'b mut self,
        raw: bool,
        fds: &'b [BorrowedFd<'b>],
        handles: u32,
    ) -> Result<Item<'b>, Error> {
        let body = self.finish().map_err(Error::io("no memory for its value"))?;
        Ok(Item { body, raw, fds, handles })
    }

    /// Leaves the block to the queue: the item has been put.
    #[inline]
    pub fn leave(&mut self) {
        if let Some(block) = self.block.take() {
            block.leave();
        }
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// When there is no memory for them. [`failure`](ItemBuffer::failure) tells the reason.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.small.push(bytes, INLINE) {
            return Ok(());
        }
        self.extend_block(bytes)
    }

    /// Forgets what was written, and a failure: the next attempt may get the memory that the system
    /// refused now.
    #[inline]
    pub fn clear(&mut self) {
        self.small.clear();
        if self.is_large {
            self.buffer.clear();
            (self.is_large, self.block, self.failure) = (false, None, None);
        }
    }

    /// Returns what was written.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn written(&mut self) -> io::Result<&[u8]> {
        if !self.is_large {
            return Ok(self.small.bytes());
        }
        self.flush()?;
        self.block.as_ref().expect("a large value has a block").bytes()
    }

    /// Takes the reason for which bytes could not be appended.
    pub fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    #[inline(never)]
    fn extend_block(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.failure.is_none() {
            match self.write(bytes) {
                Ok(()) => return Ok(()),
                Err(error) => self.failure = Some(error),
            }
        }
        Err(io::Error::other("the bytes could not be written"))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.is_large = true;
        self.gather()?;
        if bytes.len() >= STRAIGHT {
            self.make_room(self.buffer.len() + bytes.len())?;
            self.flush_buffer()?;
            return self.block.as_mut().expect("make_room has made a block").fill(bytes);
        }
        if !self.small.push(bytes, INLINE) {
            self.reserve(bytes.len())?;
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Moves the bytes in `small` to `buffer`.
    fn gather(&mut self) -> io::Result<()> {
        self.reserve(self.small.bytes().len())?;
        self.buffer.extend_from_slice(self.small.bytes());
        self.small.clear();
        Ok(())
    }

    /// Flushes `buffer` if `more` bytes would make it too large.
    fn reserve(&mut self, more: usize) -> io::Result<()> {
        if more > GATHERED - self.buffer.len() { self.flush_buffer() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.gather()?;
        self.flush_buffer()
    }

    fn flush_buffer(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.make_room(self.buffer.len())?;
            self.block.as_mut().expect("make_room has made a block").fill(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Makes sure that there is a block with memory for `more` bytes.
    fn make_room(&mut self, more: usize) -> io::Result<()> {
        let Some(block) = &mut self.block else {
            self.block = Some(Block::new(self.store, more as u64).map_err(into_io)?);
            return Ok(());
        };
        let need = block.len() + more as u64;
        // Allocate ahead: a value that has outgrown its block may grow again.
        if block.extend(need)? {
            return Ok(());
        }
        let mut larger = Block::new(self.store, need.max(2 * block.len())).map_err(into_io)?;
        larger.fill(block.bytes()?)?;
        self.block = Some(larger);
        Ok(())
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io { source, .. } => source,
        Error::Stalled(stalled) => stalled.into(),
        Error::Busy => crate::lock::spin_lock::Stalled::BUSY.into(),
        Error::Corrupt(what) => io::Error::new(io::ErrorKind::InvalidData, what),
        other => io::Error::other(other),
    }
}

impl fmt::Debug for ItemBuffer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemBuffer").field("is_large", &self.is_large).finish_non_exhaustive()
    }
}
