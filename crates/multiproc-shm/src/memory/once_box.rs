//! [`OnceBox`]: a value that is set at most once, without a lock.
//!
//! `OnceLock` has a state in which a thread sets the value and others wait for it. A fork copy made
//! at that moment would wait for ever, as it has no such thread. Here a thread that loses the race
//! drops its own value instead.

use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::AcqRel, Ordering::Acquire};

/// A value that is set at most once; see the [module](self).
pub struct OnceBox<T> {
    value: AtomicPtr<T>,
    owns: PhantomData<Box<T>>,
}

impl<T> OnceBox<T> {
    /// Creates an empty one.
    pub const fn new() -> OnceBox<T> {
        OnceBox { value: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }

    /// Returns the value, if it has been set.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: it is null or has come from `Box::into_raw` in `set`, and is freed only when
        // `self` is dropped.
        unsafe { self.value.load(Acquire).as_ref() }
    }

    /// Sets the value, unless it has been set, and returns the one that is set.
    pub fn set(&self, value: T) -> &T {
        let new = Box::into_raw(Box::new(value));
        match self.value.compare_exchange(ptr::null_mut(), new, AcqRel, Acquire) {
            // SAFETY: as in `get`.
            Ok(_) => unsafe { &*new },
            Err(before) => {
                // SAFETY: it was allocated above, and no other thread has seen it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: as in `get`.
                unsafe { &*before }
            }
        }
    }
}

impl<T> Default for OnceBox<T> {
    fn default() -> OnceBox<T> {
        OnceBox::new()
    }
}

impl<T> Drop for OnceBox<T> {
    fn drop(&mut self) {
        let value = *self.value.get_mut();
        if !value.is_null() {
            // SAFETY: it has come from `Box::into_raw`, and the last borrow has ended.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for OnceBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnceBox").field(&self.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_wins_and_all_are_dropped() {
        let (once, value) = (OnceBox::new(), std::sync::Arc::new(()));
        assert!(once.get().is_none());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| once.set((std::thread::current().id(), value.clone())));
            }
        });
        assert_eq!(std::sync::Arc::strong_count(&value), 2);
        assert_eq!(once.get().unwrap().0, once.set((std::thread::current().id(), value.clone())).0);
        drop(once);
        assert_eq!(std::sync::Arc::strong_count(&value), 1);
    }
}
