//! Copies the bytes of a small item into shared memory and out of it. There they are atomic words,
//! since other processes may write to them at the same time.

use std::mem::MaybeUninit;
use std::sync::atomic::Ordering::Relaxed;

use crate::loom::atomic::AtomicU64;

/// Writes `bytes` into `words`; the last word is padded with zeros.
#[inline]
pub fn copy_in(words: &[AtomicU64], bytes: &[u8]) {
    let mut chunks = bytes.chunks_exact(8);
    let mut words = words.iter();
    for (chunk, word) in chunks.by_ref().zip(words.by_ref()) {
        word.store(u64::from_ne_bytes(chunk.try_into().expect("eight bytes")), Relaxed);
    }
    let rest = chunks.remainder();
    if let Some(word) = words.next()
        && !rest.is_empty()
    {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_ne_bytes(last), Relaxed);
    }
}

/// A buffer on the stack for the bytes of a small item.
#[derive(Debug)]
pub struct Scratch {
    words: MaybeUninit<[u64; Scratch::WORDS]>,
    /// Number of bytes at the beginning that [`bytes`](Scratch::bytes) leaves out.
    skipped: usize,
    /// Number of bytes that have been written, skipped ones included.
    len: usize,
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

impl Scratch {
    const WORDS: usize = 256;

    /// Number of bytes that fit.
    pub const ROOM: usize = Scratch::WORDS * 8;

    /// Returns an empty buffer.
    #[inline]
    pub fn new() -> Scratch {
        let mut scratch = MaybeUninit::<Scratch>::uninit();
        let start = scratch.as_mut_ptr();
        // Field by field: a struct of constants would be one constant, which the compiler copies
        // whole.
        // SAFETY: the writes are within the struct; any words are valid, even uninitialised ones.
        unsafe {
            (&raw mut (*start).skipped).write(0);
            (&raw mut (*start).len).write(0);
            scratch.assume_init()
        }
    }

    /// Copies the first `len` bytes of `words`, in place of the present content.
    #[inline]
    pub fn copy(&mut self, words: &[AtomicU64], len: usize) {
        assert!(len <= Scratch::ROOM && len <= words.len() * 8);
        let to = self.words.as_mut_ptr().cast::<u64>();
        for (index, word) in words[..len.div_ceil(8)].iter().enumerate() {
            // SAFETY: there is room for this many words, as asserted above.
            unsafe { to.add(index).write(word.load(Relaxed)) };
        }
        (self.skipped, self.len) = (0, len);
    }

    /// Appends `bytes` if the content is then at most `most` bytes long. Returns whether it did.
    #[inline]
    pub fn push(&mut self, bytes: &[u8], most: usize) -> bool {
        let fits = bytes.len() <= most.min(Scratch::ROOM).saturating_sub(self.len);
        if fits {
            // SAFETY: there is room for them after the first `len` bytes, as checked above.
            unsafe {
                let to = self.words.as_mut_ptr().cast::<u8>().add(self.len);
                to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
            self.len += bytes.len();
        }
        fits
    }

    /// Removes the first `len` bytes of the content.
    pub fn skip(&mut self, len: usize) {
        self.skipped = (self.skipped + len).min(self.len);
    }

    /// Empties the buffer.
    #[inline]
    pub fn clear(&mut self) {
        (self.skipped, self.len) = (0, 0);
    }

    /// The content.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes have been written, and all byte patterns are valid.
        let bytes: &[u8] = unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.len) };
        &bytes[self.skipped..]
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let words = [const { AtomicU64::new(u64::MAX) }; Scratch::WORDS];
        let bytes: Vec<u8> = (0..Scratch::ROOM).map(|byte| byte as u8).collect();
        for len in (0..100).chain(Scratch::ROOM - 10..=Scratch::ROOM) {
            copy_in(&words, &bytes[..len]);
            let mut scratch = Scratch::new();
            scratch.copy(&words, len);
            assert_eq!(scratch.bytes(), &bytes[..len]);
        }
    }

    #[test]
    fn limit() {
        let mut scratch = Scratch::new();
        assert!(scratch.push(b"abc", 5) && !scratch.push(b"def", 5) && scratch.push(b"de", 5) && scratch.push(b"", 0));
        assert_eq!(scratch.bytes(), b"abcde");
        scratch.skip(2);
        assert_eq!(scratch.bytes(), b"cde");
        scratch.clear();
        assert!(scratch.push(&[7; Scratch::ROOM], usize::MAX) && !scratch.push(b"x", usize::MAX));
        assert_eq!(scratch.bytes(), [7; Scratch::ROOM]);
    }
}
