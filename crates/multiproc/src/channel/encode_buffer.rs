//! What the codec writes values into: the [`ItemBuffer`] of a queue. A small value stays on the
//! stack; a larger one is written straight into a block of the queue.

use std::io;

use multiproc_shm::queue::ItemBuffer;

use crate::transfer::codec;
use crate::transfer::compact::Output;

impl Output for ItemBuffer<'_> {
    type Error = io::Error;

    #[inline]
    fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        ItemBuffer::extend(self, bytes)
    }
}

impl codec::Buffer for ItemBuffer<'_> {
    #[inline]
    fn clear(&mut self) {
        ItemBuffer::clear(self);
    }

    fn written(&mut self) -> io::Result<&[u8]> {
        ItemBuffer::written(self)
    }

    fn failure(&mut self) -> Option<io::Error> {
        ItemBuffer::failure(self)
    }
}
