//! A payload carries a value from one process to another: its bytes, inline or in a memory file,
//! and its descriptors.
//!
//! The bytes are written into a [`Sink`]. Up to [`INLINE`] bytes stay in memory and go in the
//! message itself; more go into a memory file, without an intermediate copy if they come in large
//! pieces. So a large value is copied only once by its sender, and the sender needn't wait for the
//! receiver.

use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;

use multiproc_os::memfd::{Growing, Sealed};

use crate::message::fd_bundle::FdBundle;

/// Payloads of at most this many bytes lie in the message itself.
pub const INLINE: usize = 32 * 1024;

/// Bytes and descriptors that belong together.
#[derive(Debug, Default)]
#[doc(hidden)]
pub struct Payload {
    pub bytes: Bytes,
    pub handles: FdBundle,
}

/// The bytes of a message or of a part of it, wherever they lie.
#[derive(Debug)]
pub enum Bytes {
    /// In this process's own memory.
    Inline(Vec<u8>),
    /// In a sealed memory file, as they are sent.
    File {
        /// The memory file.
        file: OwnedFd,
        /// Length, in bytes.
        len: u64,
    },
    /// In a mapping, as they were received from a memory file.
    Mapped(Sealed),
}

impl Default for Bytes {
    fn default() -> Bytes {
        Bytes::Inline(Vec::new())
    }
}

impl Bytes {
    /// Returns the number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Bytes::Inline(bytes) => bytes.len() as u64,
            Bytes::File { len, .. } => *len,
            Bytes::Mapped(bytes) => bytes.len() as u64,
        }
    }

    /// Returns whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes as a slice. Fails if there is no memory to map a file.
    pub fn open(&self) -> io::Result<View<'_>> {
        Ok(match self {
            Bytes::Inline(bytes) => View::Here(bytes),
            Bytes::File { file, len } => View::Mapped(Sealed::map(file, *len)?),
            Bytes::Mapped(bytes) => View::Here(bytes),
        })
    }
}

/// The bytes that [`Bytes::open`] returns.
pub enum View<'a> {
    /// In the `Bytes` themselves.
    Here(&'a [u8]),
    /// In a mapping of the memory file.
    Mapped(Sealed),
}

impl Deref for View<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            View::Here(bytes) => bytes,
            View::Mapped(bytes) => bytes,
        }
    }
}

/// A writer for a payload's bytes, from front to back.
#[derive(Debug)]
pub struct Sink {
    /// The bytes that have not been written to the file; without a file, all bytes. Its capacity is
    /// at most `limit`.
    buffer: Vec<u8>,
    /// The maximum number of bytes in the buffer.
    limit: usize,
    file: Option<Growing>,
    /// The first error. Kept here because serde's errors are only text, and this one is not the
    /// value's fault.
    failure: Option<io::Error>,
}

impl Default for Sink {
    fn default() -> Sink {
        Sink::new()
    }
}

impl Sink {
    /// Number of bytes that are collected before they are written to the file: enough to make the
    /// cost of the system call negligible, and few enough to stay in the cache.
    const GATHERED: usize = 256 * 1024;

    /// Pieces of at least this many bytes are written to the file directly when the buffer is full.
    const STRAIGHT: usize = 16 * 1024;

    /// Room for a small value, in bytes.
    const SMALL: usize = 128;

    /// Returns an empty sink.
    pub fn new() -> Sink {
        // Most values are small, and growing from nothing by a few bytes at a time would reallocate
        // four times.
        Sink { buffer: Vec::with_capacity(Sink::SMALL), limit: INLINE, file: None, failure: None }
    }

    /// Appends `bytes`. After an error, all later calls that need more room fail too.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        // The same condition as in the vector's own check, which the compiler therefore leaves out.
        if bytes.len() <= self.buffer.capacity() - self.buffer.len() {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.extend_further(bytes)
    }

    #[inline(never)]
    fn extend_further(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() <= self.limit.saturating_sub(self.buffer.len()) {
            let capacity = (2 * self.buffer.capacity()).max(self.buffer.len() + bytes.len()).min(self.limit);
            self.buffer.reserve_exact(capacity - self.buffer.len());
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        if self.failure.is_none() {
            match self.write(bytes) {
                Ok(()) => return Ok(()),
                Err(error) => (self.failure, self.limit, self.buffer) = (Some(error), 0, Vec::new()),
            }
        }
        Err(io::Error::other("the bytes could not be written"))
    }

    /// Makes room by writing the buffer to the file, and then appends `bytes`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(Growing::create("multiproc-value")?),
        };
        file.write(&self.buffer)?;
        self.buffer.clear();
        self.limit = Sink::GATHERED;
        if bytes.len() >= Sink::STRAIGHT {
            return file.write(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Whether exactly `len` bytes have been written, in memory, and without an error.
    #[inline]
    pub fn holds_only(&self, len: usize) -> bool {
        self.file.is_none() && self.buffer.len() == len && self.failure.is_none()
    }

    /// The error, if there was one. Then what was written is of no use.
    #[inline]
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// All bytes that were written.
    pub fn finish(mut self) -> io::Result<Bytes> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let Some(mut file) = self.file.take() else { return Ok(Bytes::Inline(self.buffer)) };
        file.write(&self.buffer)?;
        let (file, len) = file.seal()?;
        Ok(Bytes::File { file, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_fragmentation() {
        for piece in [1, 7, INLINE - 1, INLINE, INLINE + 1, Sink::STRAIGHT - 1, Sink::STRAIGHT, Sink::GATHERED + 1] {
            for total in [0, 1, INLINE, INLINE + 1, 3 * INLINE, Sink::GATHERED + INLINE + 1, 1_000_003] {
                let all: Vec<u8> = (0..total).map(|i| (i % 251) as u8).collect();
                let mut sink = Sink::new();
                for (number, piece) in all.chunks(piece).enumerate() {
                    // Small ones and large ones in turn.
                    let (left, right) = piece.split_at(if number % 2 == 0 { piece.len() / 2 } else { 0 });
                    sink.extend(left).unwrap();
                    sink.extend(right).unwrap();
                }
                let bytes = sink.finish().unwrap();
                assert_eq!(bytes.len(), total as u64);
                assert!(*bytes.open().unwrap() == all, "{total} bytes in pieces of {piece}");
                assert_eq!(matches!(bytes, Bytes::Inline(_)), total <= INLINE);
            }
        }
    }
}
