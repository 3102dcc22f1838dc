//! Atomic integers of loom, each access of which is a step of the calling process.
//!
//! loom treats a `SeqCst` access as `AcqRel`, but doesn't let a `SeqCst` load return a `SeqCst`
//! store if there is a newer one. The initial value counts as such a store here, so that the model
//! is no weaker than C++20 for words that are only changed by `SeqCst` operations.
//!
//! `MULTIPROC_WEAKEN=lock/spin_lock.rs:301` makes the accesses in that line `Relaxed`, and a fence
//! there do nothing: a model that still passes doesn't prove that the ordering suffices.

use std::fmt;
use std::panic::Location;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use super::process::step;

/// Values that are the all-zero state of an object's memory.
pub trait Zeroed: Sized {
    fn zeroed() -> Self;
}

impl<T: Zeroed, const N: usize> Zeroed for [T; N] {
    fn zeroed() -> [T; N] {
        std::array::from_fn(|_| T::zeroed())
    }
}

/// Whether the caller's line is to be weakened.
#[track_caller]
fn is_weakened() -> bool {
    static LINE: OnceLock<Option<String>> = OnceLock::new();
    let caller = Location::caller();
    LINE.get_or_init(|| std::env::var("MULTIPROC_WEAKEN").ok()).as_ref().is_some_and(|line| {
        let (file, line) = line.split_once(':').expect("FILE:LINE");
        caller.file().ends_with(&format!("/{file}")) && line.split(',').any(|line| line == caller.line().to_string())
    })
}

/// The ordering of an access in the caller's line.
#[track_caller]
fn of_line(ordering: Ordering) -> Ordering {
    if is_weakened() { Ordering::Relaxed } else { ordering }
}

macro_rules! atomic {
    ($($name:ident $integer:ident),*) => {$(
        pub struct $name(::loom::sync::atomic::$name);

        #[allow(dead_code)]
        impl $name {
            pub(crate) fn new(value: $integer) -> $name {
                let atomic = ::loom::sync::atomic::$name::new(value);
                atomic.store(value, Ordering::SeqCst);
                $name(atomic)
            }

            #[track_caller]
            pub(crate) fn load(&self, ordering: Ordering) -> $integer {
                if step() { self.0.load(of_line(ordering)) } else { 0 }
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $integer, ordering: Ordering) {
                if step() {
                    self.0.store(value, of_line(ordering));
                }
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $integer, ordering: Ordering) -> $integer {
                if step() { self.0.swap(value, of_line(ordering)) } else { 0 }
            }

            #[track_caller]
            pub(crate) fn fetch_add(&self, value: $integer, ordering: Ordering) -> $integer {
                if step() { self.0.fetch_add(value, of_line(ordering)) } else { 0 }
            }

            #[track_caller]
            pub(crate) fn fetch_sub(&self, value: $integer, ordering: Ordering) -> $integer {
                if step() { self.0.fetch_sub(value, of_line(ordering)) } else { 0 }
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                current: $integer,
                new: $integer,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$integer, $integer> {
                match step() {
                    true => self.0.compare_exchange(current, new, of_line(success), of_line(failure)),
                    false => Ok(current),
                }
            }

            pub(crate) fn as_ptr(&self) -> *const $integer {
                (&raw const *self).cast()
            }

            /// The integer as the kernel accesses it, which is no step of the calling process.
            pub(super) fn in_kernel(&self) -> &::loom::sync::atomic::$name {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }

        impl Zeroed for $name {
            fn zeroed() -> $name {
                $name::new(0)
            }
        }
    )*};
}

atomic!(AtomicU32 u32, AtomicU64 u64);

#[track_caller]
pub(crate) fn fence(ordering: Ordering) {
    if step() && !is_weakened() {
        ::loom::sync::atomic::fence(ordering);
    }
}
