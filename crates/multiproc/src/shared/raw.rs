//! [`RawValue`] and [`RawArray`]: atomics that several processes share, without a lock.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
};

use multiproc_shm::memory::cell::kind_of;
use multiproc_shm::memory::region::{Region, Usage};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::MemoryError;
use super::travel;
use crate::create_error::CreateError;

mod sealed {
    /// # Safety
    /// The type is an atomic integer: any bytes are a valid value, and all its methods may be
    /// called while others access it.
    #[allow(unreachable_pub)]
    pub unsafe trait Sealed: Send + Sync + std::fmt::Debug + 'static {}
}

/// The atomic integers of [`std::sync::atomic`]: [`AtomicU8`] to [`AtomicU64`], [`AtomicI8`] to
/// [`AtomicI64`], [`AtomicUsize`] and [`AtomicIsize`].
///
/// Not `AtomicBool`, since not all bytes are a valid one.
pub trait Atomic: sealed::Sealed {
    /// The integer that [`RawValue::new`] takes: `u64` for `AtomicU64`.
    type Value: Copy;

    #[doc(hidden)]
    fn begin(&self, value: Self::Value);
}

macro_rules! atomics {
    ($($atomic:ident: $value:ty),* $(,)?) => {
        $(
            // SAFETY: it is an atomic integer.
            unsafe impl sealed::Sealed for $atomic {}

            impl Atomic for $atomic {
                type Value = $value;

                fn begin(&self, value: $value) {
                    self.store(value, std::sync::atomic::Ordering::SeqCst);
                }
            }
        )*
    };
}

atomics! {
    AtomicU8: u8, AtomicU16: u16, AtomicU32: u32, AtomicU64: u64, AtomicUsize: usize,
    AtomicI8: i8, AtomicI16: i16, AtomicI32: i32, AtomicI64: i64, AtomicIsize: isize,
}

/// Any number of atomics in shared memory, without a lock: Python's `multiprocessing.RawArray`,
/// without its races.
///
/// It derefs to a slice of the atomics. A clone is another handle of the same array, and so is what
/// arrives in another process when an array is sent there. It takes one descriptor. No thread ever
/// waits for another, so the death of a process doesn't affect the others. To change more than one
/// number at a time, use [`Array`](crate::Array).
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// use multiproc::shared_memory::RawArray;
/// use multiproc::Process;
///
/// fn count(bytes: Vec<u8>, histogram: RawArray<AtomicU32>) {
///     for byte in bytes {
///         histogram[usize::from(byte)].fetch_add(1, Ordering::Relaxed);
///     }
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let histogram = RawArray::<AtomicU32>::new(256)?;
/// let texts = [b"to be or".to_vec(), b"not to be".to_vec()];
/// let children = texts.map(|text| Process::new(count, (text, histogram.clone())).start());
/// for child in children {
///     child?.join()?;
/// }
/// assert_eq!(histogram[usize::from(b'o')].load(Ordering::Relaxed), 4);
/// # Ok(())
/// # }
/// ```
pub struct RawArray<A: Atomic> {
    inner: Arc<Region>,
    of: PhantomData<fn() -> A>,
}

impl<A: Atomic> RawArray<A> {
    /// Creates an array of `len` zeros.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn new(len: usize) -> Result<RawArray<A>, CreateError> {
        RawArray::named(len, "array of atomics")
    }

    fn named(len: usize, name: &'static str) -> Result<RawArray<A>, CreateError> {
        let bytes = len.checked_mul(size_of::<A>()).map_or(u64::MAX, |bytes| bytes as u64);
        let region = Region::create(bytes, kind_of::<A>()).map_err(CreateError::of(name))?;
        Ok(RawArray::of(region).expect("a new region is not in use"))
    }

    /// Creates an array with these values.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicI64, Ordering};
    ///
    /// use multiproc::shared_memory::RawArray;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let numbers = RawArray::<AtomicI64>::from_slice(&[1, -2, 3])?;
    /// assert_eq!(numbers.iter().map(|number| number.load(Ordering::Relaxed)).sum::<i64>(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`new`](RawArray::new).
    pub fn from_slice(values: &[A::Value]) -> Result<RawArray<A>, CreateError> {
        let array = RawArray::<A>::new(values.len())?;
        for (slot, value) in array.iter().zip(values) {
            slot.begin(*value);
        }
        Ok(array)
    }

    fn of(region: Region) -> Result<RawArray<A>, MemoryError> {
        let size = size_of::<A>();
        if region.kind() != kind_of::<A>() {
            return Err(MemoryError::Type { asked: type_name::<A>() });
        }
        region.use_as(Usage::Atomics(size)).map_err(|usage| MemoryError::used_as(usage, size))?;
        Ok(RawArray { inner: Arc::new(region), of: PhantomData })
    }
}

impl<A: Atomic> Deref for RawArray<A> {
    type Target = [A];

    #[inline]
    fn deref(&self) -> &[A] {
        // SAFETY: this number of bytes is mapped as long as this handle exists, and begins with a
        // page; any bytes are valid atomics; and all processes access them as such, since that is
        // the usage of the region.
        unsafe { std::slice::from_raw_parts(self.inner.start().as_ptr().cast(), self.inner.len() / size_of::<A>()) }
    }
}

impl<A: Atomic> Clone for RawArray<A> {
    fn clone(&self) -> RawArray<A> {
        RawArray { inner: self.inner.clone(), of: PhantomData }
    }
}

impl<A: Atomic> fmt::Debug for RawArray<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<A: Atomic> Serialize for RawArray<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        travel::serialize(&self.inner, serializer)
    }
}

impl<'de, A: Atomic> Deserialize<'de> for RawArray<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawArray<A>, D::Error> {
        RawArray::of(travel::deserialize_to_write(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// An atomic in shared memory, without a lock: Python's `multiprocessing.RawValue`, without its
/// races.
///
/// It derefs to the atomic. Otherwise it is like [`RawArray`]; for a value of several numbers, use
/// [`Value`](crate::Value).
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use multiproc::shared_memory::RawValue;
/// use multiproc::Process;
///
/// fn work(done: RawValue<AtomicU64>) {
///     done.fetch_add(1, Ordering::Relaxed);
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let done = RawValue::<AtomicU64>::new(10)?;
/// Process::new(work, (done.clone(),)).start()?.join()?;
/// assert_eq!(done.load(Ordering::Relaxed), 11);
/// # Ok(())
/// # }
/// ```
pub struct RawValue<A: Atomic> {
    one: RawArray<A>,
}

impl<A: Atomic> RawValue<A> {
    /// Creates an atomic with this value.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn new(value: A::Value) -> Result<RawValue<A>, CreateError> {
        let one = RawArray::<A>::named(1, "atomic")?;
        one[0].begin(value);
        Ok(RawValue { one })
    }
}

impl<A: Atomic> Deref for RawValue<A> {
    type Target = A;

    #[inline]
    fn deref(&self) -> &A {
        &self.one[0]
    }
}

impl<A: Atomic> Clone for RawValue<A> {
    fn clone(&self) -> RawValue<A> {
        RawValue { one: self.one.clone() }
    }
}

impl<A: Atomic> fmt::Debug for RawValue<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<A: Atomic> Serialize for RawValue<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.one.serialize(serializer)
    }
}

impl<'de, A: Atomic> Deserialize<'de> for RawValue<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawValue<A>, D::Error> {
        let one = RawArray::<A>::deserialize(deserializer)?;
        match one.len() {
            1 => Ok(RawValue { one }),
            len => Err(serde::de::Error::custom(format_args!("this is not a single atomic, but {len} of them"))),
        }
    }
}
