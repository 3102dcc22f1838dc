//! What lies in the memory of a shared object: a [`Layout`], a struct of atomics, for which any
//! bytes are valid. So whatever another process writes there, and whatever file is passed off as an
//! object, the worst outcome is a wrong number.

use std::sync::atomic::AtomicU8;

use crate::loom::atomic::{AtomicU32, AtomicU64};

/// Types that may lie in memory to which other processes write at any time.
///
/// # Safety
/// Any bytes must be a value of the type, and they may change while it is borrowed: only atomic
/// integers, and types made of these.
pub unsafe trait AnyBytes: Sync + 'static {}

// SAFETY: an atomic integer.
unsafe impl AnyBytes for AtomicU8 {}
// SAFETY: an atomic integer.
unsafe impl AnyBytes for AtomicU32 {}
// SAFETY: an atomic integer.
unsafe impl AnyBytes for AtomicU64 {}
// SAFETY: made of such values.
unsafe impl<T: AnyBytes, const N: usize> AnyBytes for [T; N] {}

/// Defines what lies in the memory of an object: a struct of fields that are [`AnyBytes`]. With the
/// object's name for errors and its kind, the struct is a [`Layout`] too.
///
/// `layout! { struct Shared: "lock", 0x10 { guarded: PoisonableWord } }`; with [`Layout::MORE`] as
/// the third; `..MORE` if there may be [fewer](Layout::FEWER).
#[doc(hidden)]
#[macro_export]
macro_rules! layout {
    (
        $(#[$attribute:meta])* $visibility:vis struct $name:ident $(: $called:literal, $kind:literal $(, $more:path)? $(, ..$most:path)?)? {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug)]
        #[repr(C)]
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $type,)*
        }

        // SAFETY: each of the fields is, as checked below, and there is nothing else.
        #[allow(unsafe_code)]
        unsafe impl $crate::memory::layout::AnyBytes for $name {}

        const _: () = {
            const fn any_bytes<T: $crate::memory::layout::AnyBytes>() {}
            $(any_bytes::<$type>();)*
        };

        #[cfg(loom)]
        impl $crate::loom::atomic::Zeroed for $name {
            fn zeroed() -> $name {
                $name { $($field: $crate::loom::atomic::Zeroed::zeroed(),)* }
            }
        }

        $(
            // SAFETY: `#[repr(C)]`, and as above.
            #[allow(unsafe_code)]
            unsafe impl $crate::memory::layout::Layout for $name {
                const NAME: &'static str = $called;
                const KIND: u32 = $kind;
                $(const MORE: usize = $more;)?
                $(
                    const MORE: usize = $most;
                    const FEWER: bool = true;
                )?
            }
        )?
    };
}

pub use crate::layout;

/// The contents of an object's memory. All bytes zero must be a sensible state.
///
/// # Safety
/// `#[repr(C)]`, made only of atomic integers, and of arrays and structs of these; aligned to at
/// most 64 bytes.
pub unsafe trait Layout: Sync + Sized + 'static {
    /// The name of the object in errors, and in `/proc/*/fd`: "lock".
    const NAME: &'static str;
    /// Tells layouts of the same size apart.
    const KIND: u32;
    /// How many bytes of the layout have memory from the beginning. The others have it after a call
    /// of [`allocate_for`](crate::memory::segment::Segment::allocate_for).
    const AT_ONCE: usize = size_of::<Self>();
    /// The largest number of 64-bit integers behind the layout, which take no memory until they are
    /// [allocated](crate::memory::segment::Segment::allocate_more).
    const MORE: usize = 0;
    /// Whether an object may have been created with fewer of these.
    const FEWER: bool = false;
}
