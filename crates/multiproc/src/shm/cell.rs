//! A value in shared memory, which is changed by whoever owns the word beside it: plain old data, for which any bytes will do.
//!
//! A process may die in the middle of writing to it, and another then reads what is there. So it is only for types of which that can be said, and it is looked
//! at whether those who open it mean the same type.

use std::any::type_name;
use std::cell::UnsafeCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytemuck::{AnyBitPattern, NoUninit};

use super::segment::AnyBytes;

/// What can lie in memory that several processes share: any bytes are a value of it, none of its bytes is padding, and nothing in it points anywhere.
///
/// Integers, floats, arrays and tuples without padding of such; and a struct of one's own that is `#[repr(C)]` or `#[repr(transparent)]`, with `#[derive(Clone, Copy,
/// bytemuck::Pod, bytemuck::Zeroable)]`, the attributes of the crate [`bytemuck`] with its feature `derive`. Neither `bool` nor `char` nor an enum is, as not all bytes are a value of them: take a
/// `u8` for a `bool`.
///
/// The values themselves are never serialised. What is generic over them and derives serde's traits says so:
///
/// ```
/// use multiproc::{Array, Plain, Process, Value};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// #[serde(bound = "")]
/// struct Job<T: Plain> {
///     samples: Array<T>,
///     largest: Value<T>,
/// }
///
/// #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
/// #[repr(C)]
/// struct Point {
///     x: f64,
///     y: f64,
/// }
///
/// fn count<T: Plain>(job: Job<T>) -> usize {
///     job.samples.len()
/// }
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let job = Job { samples: Array::<Point>::new(100)?, largest: Value::new(Point { x: 0.0, y: 0.0 })? };
/// assert_eq!(Process::new(count, (job,)).start()?.join()?, 100);
/// # Ok(())
/// # }
/// ```
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

/// See the module.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Cell<T> {
    size: AtomicU64,
    align: AtomicU64,
    /// A number made of the type's name.
    name: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: who touches the value has seen to it that nobody else does.
unsafe impl<T: Plain> Sync for Cell<T> {}

// SAFETY: atomic integers, and a value for which any bytes will do, which is not touched without further ado.
unsafe impl<T: Plain> AnyBytes for Cell<T> {}

impl<T: Plain> Cell<T> {
    /// Writes what it is, in memory that nobody else has yet. The value is all zero there.
    pub(crate) fn begin(&self) {
        let [size, align, name] = kind_of::<T>();
        self.size.store(size, Relaxed);
        self.align.store(align, Relaxed);
        self.name.store(name, Relaxed);
    }

    /// The same, and the first value.
    ///
    /// # Safety
    /// Nobody else may have this memory yet.
    pub(crate) unsafe fn begin_with(&self, value: T) {
        self.begin();
        // SAFETY: as the caller says; whatever was there has no destructor, as the type is `Copy`.
        unsafe { self.value.get().write(value) };
    }

    /// Sees whether it is of this type.
    ///
    /// # Errors
    /// `InvalidData` if not.
    pub(crate) fn check(&self) -> io::Result<()> {
        let kind = [&self.size, &self.align, &self.name].map(|number| number.load(Relaxed));
        match kind == kind_of::<T>() {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, format!("its value is no {}", type_name::<T>()))),
        }
    }

    /// The value.
    ///
    /// # Safety
    /// Nobody may change it for as long as it is borrowed.
    #[inline]
    pub(crate) unsafe fn get(&self) -> &T {
        // SAFETY: as the caller says; whatever bytes there are, they are a value.
        unsafe { &*self.value.get() }
    }

    /// The value, to be changed.
    ///
    /// # Safety
    /// Nobody else may touch it for as long as it is borrowed.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn get_mut(&self) -> &mut T {
        // SAFETY: as the caller says; whatever bytes there are, they are a value.
        unsafe { &mut *self.value.get() }
    }
}

/// Size, alignment and a number made of the name: what tells types apart.
pub(crate) fn kind_of<T>() -> [u64; 3] {
    // FNV-1a: Fowler, Noll, Vo.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let name = type_name::<T>().bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    [size_of::<T>() as u64, align_of::<T>() as u64, name]
}
