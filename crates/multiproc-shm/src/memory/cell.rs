//! A value in shared memory, guarded by the lock word beside it: plain old data, for which any
//! bytes are valid.
//!
//! A process may die while it writes to the value, and another process then reads what is there. So
//! only types that implement [`Plain`] are allowed. The cell also stores its type, so that
//! processes which open it with another type get an error.

use std::any::type_name;
use std::cell::UnsafeCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytemuck::{AnyBitPattern, NoUninit};

use crate::memory::segment::AnyBytes;

/// A type with values that can lie in memory shared by several processes: all byte patterns are
/// valid values, there are no padding bytes, and there are no pointers or references.
///
/// These are integers, floats, and arrays and tuples of them without padding; and your own structs
/// that are `#[repr(C)]` or `#[repr(transparent)]` and have `#[derive(Clone, Copy, bytemuck::Pod,
/// bytemuck::Zeroable)]`, from the crate [`bytemuck`] with its feature `derive`. `bool`, `char` and
/// enums are not, since not all byte patterns are valid for them: use a `u8` in place of a `bool`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't lie in memory that processes share",
    label = "not plain old data",
    note = "a struct: write `#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]` and `#[repr(C)]` above it",
    note = "a `bool`, `char` or enum: take a `u8` or `u32` for it; not all bytes are a value of it, and another process may write any",
    note = "a `String`, a `Vec` or a reference: what it points to is not in the shared memory; take an array `[u8; N]`, \
            `multiproc::ShareableList`, or send it by a `multiproc::Queue`"
)]
pub trait Plain: AnyBitPattern + NoUninit + Send + Sync {}

#[diagnostic::do_not_recommend]
impl<T: AnyBitPattern + NoUninit + Send + Sync> Plain for T {}

/// A typed value in shared memory; see the module.
#[derive(Debug)]
#[repr(C)]
pub struct Cell<T> {
    size: AtomicU64,
    align: AtomicU64,
    /// A hash of the type's name.
    name: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: a caller that accesses the value ensures that no other thread or process does.
unsafe impl<T: Plain> Sync for Cell<T> {}

// SAFETY: atomic integers, and a value for which any bytes are valid, accessed only by unsafe
// methods.
unsafe impl<T: Plain> AnyBytes for Cell<T> {}

impl<T: Plain> Cell<T> {
    /// Stores the type, in memory that no other process has yet. The value there is all zeros.
    pub fn begin(&self) {
        let [size, align, name] = kind_of::<T>();
        self.size.store(size, Relaxed);
        self.align.store(align, Relaxed);
        self.name.store(name, Relaxed);
    }

    /// Stores the type and the first value.
    ///
    /// # Safety
    /// No other process may have this memory yet.
    pub unsafe fn begin_with(&self, value: T) {
        self.begin();
        // SAFETY: as the caller guarantees; the previous bytes need no destructor, as the type is
        // `Copy`.
        unsafe { self.value.get().write(value) };
    }

    /// Checks that the value is of type `T`.
    ///
    /// # Errors
    /// `InvalidData` if it is not.
    pub fn check(&self) -> io::Result<()> {
        let kind = [&self.size, &self.align, &self.name].map(|number| number.load(Relaxed));
        match kind == kind_of::<T>() {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, format!("its type is not {}", type_name::<T>()))),
        }
    }

    /// Returns the value.
    ///
    /// # Safety
    /// No thread or process may change it while it is borrowed.
    #[inline]
    pub unsafe fn get(&self) -> &T {
        // SAFETY: as the caller guarantees; all byte patterns are valid values.
        unsafe { &*self.value.get() }
    }

    /// Returns the value, to be changed.
    ///
    /// # Safety
    /// No other thread or process may access it while it is borrowed.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn get_mut(&self) -> &mut T {
        // SAFETY: as the caller guarantees; all byte patterns are valid values.
        unsafe { &mut *self.value.get() }
    }
}

/// Size, alignment and a hash of the type's name, by which types are told apart.
pub fn kind_of<T>() -> [u64; 3] {
    // FNV-1a: Fowler, Noll, Vo.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let name = type_name::<T>().bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    [size_of::<T>() as u64, align_of::<T>() as u64, name]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_mismatch() {
        let words: [AtomicU64; 4] = [const { AtomicU64::new(u64::MAX) }; 4];
        // SAFETY: any bytes are one, it is as large and as aligned as the words, which are atomic
        // or `UnsafeCell`s in both types, and are borrowed for as long.
        let cell = unsafe { &*(&raw const words).cast::<Cell<[u32; 2]>>() };
        assert!(cell.check().is_err());
        // SAFETY: no other thread has it.
        unsafe {
            assert_eq!(*cell.get(), [u32::MAX; 2]);
            cell.begin_with([1, 2]);
            cell.get_mut()[0] = 7;
            assert_eq!(*cell.get(), [7, 2]);
        }
        assert!(cell.check().is_ok());
        // SAFETY: as above.
        let other = unsafe { &*(&raw const words).cast::<Cell<[f32; 2]>>() };
        assert_eq!(other.check().unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(words[3].load(Relaxed).to_ne_bytes(), bytemuck::cast::<[u32; 2], [u8; 8]>([7, 2]));
    }
}
