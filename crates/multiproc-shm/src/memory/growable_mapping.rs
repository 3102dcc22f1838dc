//! A part of a memory file that may become very large, mapped piece by piece as the file grows: the
//! first piece, and then pieces that are each as long as all before them together. A piece, once
//! mapped, stays mapped at its address for as long as the object is open in this process.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::AcqRel, Ordering::Acquire};

use multiproc_os::shared_memory::{Mapping, SharedFile};

/// The number of pieces: from 64 KiB, the sizes double up to 4 TiB in all.
const PIECES: usize = 27;

/// A growing part of a memory file, mapped piece by piece; see the module.
#[derive(Debug)]
pub struct GrowableMapping {
    /// Offset in the file.
    base: u64,
    /// The length of the first piece, as a power of two.
    first: u32,
    /// The address of each piece, null until it is mapped. No lock is held meanwhile, which a
    /// fork copy made at that moment would wait for.
    pieces: [AtomicPtr<u8>; PIECES],
}

impl GrowableMapping {
    /// Makes it for a file from the offset `base`; nothing is mapped yet. The first piece has
    /// `1 << first` bytes, each further one as many as all before it.
    pub fn new(base: u64, first: u32) -> GrowableMapping {
        GrowableMapping { base, first, pieces: [const { AtomicPtr::new(std::ptr::null_mut()) }; PIECES] }
    }

    /// The offset in the file.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The end of the piece in which `offset` lies. Every access must lie within one piece.
    #[inline]
    pub fn end_of_piece(&self, offset: u64) -> u64 {
        if offset >> self.first == 0 { 1 << self.first } else { 2 << offset.ilog2() }
    }

    /// Makes the file long enough for the piece in which `offset` lies.
    ///
    /// # Errors
    /// `EFBIG`; `StorageFull` if there is no piece for that offset.
    pub fn extend(&self, file: &SharedFile, offset: u64) -> io::Result<()> {
        if offset >> self.first >> (PIECES - 1) != 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.grow(self.base + self.end_of_piece(offset))
    }

    /// The address of `len` bytes at `offset`. Maps the piece if it isn't mapped yet.
    ///
    /// # Errors
    /// `InvalidData` if they aren't in one piece, or the file is too short; `ENOMEM`.
    #[inline]
    pub fn address(&self, file: &SharedFile, offset: u64, len: u64) -> io::Result<NonNull<u8>> {
        let index = if offset >> self.first == 0 { 0 } else { (offset.ilog2() - self.first + 1) as usize };
        let start = if index == 0 { 0 } else { self.len_of(index) };
        let piece = match self.pieces.get(index).map(|piece| NonNull::new(piece.load(Acquire))) {
            Some(Some(piece)) => piece,
            _ => self.map(file, index, start)?,
        };
        let within = offset - start;
        if within.checked_add(len).is_none_or(|end| end > self.len_of(index)) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: within the mapping, as checked above.
        Ok(unsafe { piece.add(within as usize) })
    }

    /// The length of a piece, which is also the offset of every piece but the first.
    #[inline]
    fn len_of(&self, index: usize) -> u64 {
        1 << (self.first as usize + index.saturating_sub(1))
    }

    #[cold]
    fn map(&self, file: &SharedFile, index: usize, start: u64) -> io::Result<NonNull<u8>> {
        let piece = self.pieces.get(index).ok_or(io::ErrorKind::InvalidData)?;
        let len = self.len_of(index);
        // An access beyond the end of the file would raise SIGBUS.
        if file.size()? < self.base + start + len {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mapping = Mapping::new(file, self.base + start, len as usize)?;
        let new = mapping.into_raw();
        match piece.compare_exchange(std::ptr::null_mut(), new.as_ptr(), AcqRel, Acquire) {
            Ok(_) => Ok(new),
            Err(before) => {
                // Another thread has mapped it meanwhile.
                // SAFETY: the mapping is the one above, of this length, and no other value has it.
                drop(unsafe { Mapping::from_raw(new, len as usize) });
                NonNull::new(before).ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
        }
    }

    /// The words at `offset`, a multiple of 8, as atomics.
    ///
    /// # Errors
    /// As [`address`](GrowableMapping::address).
    #[inline]
    pub fn words(&self, file: &SharedFile, offset: u64, count: usize) -> io::Result<&[AtomicU64]> {
        let start = self.address(file, offset & !7, count as u64 * 8)?;
        // SAFETY: in a mapping that lives as long as `self`, aligned to 8 bytes; other processes
        // may write to atomics, and all byte patterns are valid for them.
        Ok(unsafe { std::slice::from_raw_parts(start.as_ptr().cast(), count) })
    }

    /// The struct of atomics at `offset`, a multiple of its size, which is a power of two.
    ///
    /// # Errors
    /// As [`address`](GrowableMapping::address).
    #[inline]
    pub fn get<T: crate::memory::segment::Layout>(&self, file: &SharedFile, offset: u64) -> io::Result<&T> {
        const { assert!(size_of::<T>().is_power_of_two() && align_of::<T>() <= size_of::<T>()) };
        let start = self.address(file, offset & !(size_of::<T>() as u64 - 1), size_of::<T>() as u64)?;
        // SAFETY: in a mapping that lives as long as `self`, and aligned; a layout is made of
        // atomics, so all byte patterns are valid.
        Ok(unsafe { &*start.as_ptr().cast() })
    }
}

impl Drop for GrowableMapping {
    fn drop(&mut self) {
        for index in 0..PIECES {
            let len = self.len_of(index) as usize;
            if let Some(start) = NonNull::new(*self.pieces[index].get_mut()) {
                // SAFETY: the piece was mapped with this length, and the last borrow has ended.
                drop(unsafe { Mapping::from_raw(start, len) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn pieces_double_and_stay_mapped() {
        let file = SharedFile::create("test", 4096).unwrap();
        let growable_mapping = GrowableMapping::new(4096, 12);
        for (offset, end) in [(0, 4096), (4095, 4096), (4096, 8192), (8191, 8192), (8192, 16384), (1 << 30, 1 << 31)] {
            assert_eq!(growable_mapping.end_of_piece(offset), end);
            if offset & 7 != 0 {
                continue;
            }
            growable_mapping.extend(&file, offset).unwrap();
            growable_mapping.words(&file, offset, 1).unwrap()[0].store(offset + 1, Relaxed);
            assert!(growable_mapping.words(&file, end - 8, 2).is_err(), "not in one piece");
        }
        let other = GrowableMapping::new(4096, 12);
        for offset in [0, 4096, 8192, 1 << 30] {
            assert_eq!(other.words(&file, offset, 1).unwrap()[0].load(Relaxed), offset + 1);
        }
        assert!(growable_mapping.extend(&file, u64::MAX).is_err());
        assert!(growable_mapping.words(&file, u64::MAX, 1).is_err());
    }
}
