//! A value on its way into a queue: a few bytes in a buffer of the thread's, or more in a block of the queue, straight from where they are.

use std::cell::Cell;
use std::io;

use crate::shm::block::Block;
use crate::shm::store::{Body, INLINE, Refusal, Store};
use crate::transfer::codec;
use crate::transfer::compact::Output;

/// So much is gathered before it goes into the block.
const GATHERED: usize = 64 * 1024;

/// Pieces of this many bytes go straight into the block.
const STRAIGHT: usize = 4 * 1024;

thread_local! {
    /// Kept, so that putting small items allocates nothing.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// See the module.
pub(crate) struct Draft<'a> {
    store: &'a Store,
    buffer: Vec<u8>,
    /// How many bytes there may be in the buffer.
    limit: usize,
    block: Option<Block<&'a Store>>,
    failure: Option<io::Error>,
}

impl<'a> Draft<'a> {
    #[inline]
    pub(crate) fn new(store: &'a Store) -> Draft<'a> {
        let mut buffer = BUFFER.take();
        buffer.clear();
        Draft { store, buffer, limit: INLINE, block: None, failure: None }
    }

    /// What is to be put into the queue.
    #[inline]
    pub(crate) fn finish(&mut self) -> io::Result<Body<'_>> {
        if self.block.is_none() {
            return Ok(Body::Inline(&self.buffer));
        }
        self.flush()?;
        let block = self.block.as_ref().expect("seen above");
        Ok(Body::Block(block.index(), block.len()))
    }

    /// It has been put.
    #[inline]
    pub(crate) fn leave(mut self) {
        if let Some(block) = self.block.take() {
            block.leave();
        }
    }

    #[inline(never)]
    fn extend_block(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.failure.is_none() {
            match self.write(bytes) {
                Ok(()) => return Ok(()),
                Err(error) => (self.failure, self.limit) = (Some(error), 0),
            }
        }
        Err(io::Error::other("the bytes could not be written"))
    }

    /// Empties the buffer into the block, and then there is room.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.limit = GATHERED;
        let straight = bytes.len() >= STRAIGHT;
        self.make_room(self.buffer.len() + if straight { bytes.len() } else { 0 })?;
        self.flush()?;
        if straight {
            return self.block.as_mut().expect("there is room in it").fill(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.make_room(self.buffer.len())?;
            self.block.as_mut().expect("there is room in it").fill(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Sees to a block with memory for `more` bytes.
    fn make_room(&mut self, more: usize) -> io::Result<()> {
        let Some(block) = &mut self.block else {
            self.block = Some(Block::new(self.store, more as u64).map_err(system)?);
            return Ok(());
        };
        let need = block.len() + more as u64;
        // What has grown once may grow again.
        if block.extend(need)? {
            return Ok(());
        }
        let mut larger = Block::new(self.store, need.max(2 * block.len())).map_err(system)?;
        larger.fill(block.bytes()?)?;
        self.block = Some(larger);
        Ok(())
    }
}

fn system(refusal: Refusal) -> io::Error {
    match refusal {
        Refusal::System(_, error) => error,
        Refusal::Corrupt(what) => io::Error::new(io::ErrorKind::InvalidData, what),
        other => io::Error::other(format!("{other:?}")),
    }
}

impl Drop for Draft<'_> {
    #[inline]
    fn drop(&mut self) {
        // Not if it has grown a lot.
        if self.buffer.capacity() <= GATHERED {
            BUFFER.set(std::mem::take(&mut self.buffer));
        }
    }
}

impl Output for Draft<'_> {
    type Error = io::Error;

    #[inline]
    fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() <= self.limit.saturating_sub(self.buffer.len()) {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.extend_block(bytes)
    }
}

impl io::Write for Draft<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl codec::Draft for Draft<'_> {
    #[inline]
    fn clear(&mut self) {
        // What the system has refused once may be there the next time.
        self.buffer.clear();
        (self.limit, self.block, self.failure) = (INLINE, None, None);
    }

    fn written(&mut self) -> io::Result<&[u8]> {
        if self.block.is_some() {
            Draft::flush(self)?;
        }
        match &self.block {
            Some(block) => block.bytes(),
            None => Ok(&self.buffer),
        }
    }

    fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }
}
