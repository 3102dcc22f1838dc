//! [`ForkMutex`]: a mutex between the threads of one process that a fork copy can always lock.
//!
//! fork(2) copies memory as it is, with the locks that other threads hold at that moment, and none
//! of those threads: a `std::sync::Mutex` that was locked stays locked in the copy for ever. Here
//! the word says in which copy it was locked, so the copy takes over the lock of a thread that it
//! doesn't have. What that thread was changing may be half done; so the first caller in each copy
//! renews the value before it uses it.

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use multiproc_os::futex;
use multiproc_os::robust::{Thread, copy_number};

use crate::wait::backoff::Backoff;

/// Bits of the word of a locked mutex; above them is the copy of the process that has locked it.
/// The word of an unlocked mutex is 0.
const LOCKED: u32 = 1;
const WAITERS: u32 = 2;
const COPY_AT: u32 = 2;

/// A mutex that a fork copy can always lock; see the [module](self).
pub struct ForkMutex<T> {
    word: AtomicU32,
    /// Guarded by the word.
    content: UnsafeCell<Content<T>>,
}

struct Content<T> {
    /// The copy of the process that has last locked the mutex.
    copy: u32,
    value: T,
}

// SAFETY: as for `std::sync::Mutex`: one thread at a time has access to the value.
unsafe impl<T: Send> Send for ForkMutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for ForkMutex<T> {}

/// A mutex that is locked, until the guard is dropped.
#[must_use]
pub struct ForkMutexGuard<'a, T> {
    mutex: &'a ForkMutex<T>,
}

impl<T> ForkMutex<T> {
    /// Creates an unlocked mutex.
    pub fn new(value: T) -> ForkMutex<T> {
        // Makes sure that copies are numbered.
        Thread::current();
        ForkMutex { word: AtomicU32::new(0), content: UnsafeCell::new(Content { copy: copy_number(), value }) }
    }

    /// Locks the mutex. The first call in each fork copy calls `renew` with the original's value.
    /// If `was_held` (its second argument) is true, another thread of the original may have been
    /// changing the value when the copy was made: then its parts must not be dropped or followed,
    /// but replaced and forgotten.
    pub fn lock(&self, renew: impl FnOnce(&mut T, bool)) -> ForkMutexGuard<'_, T> {
        let copy = copy_number();
        let mine = copy << COPY_AT | LOCKED;
        let was_held = match self.word.compare_exchange(0, mine, Acquire, Relaxed) {
            Ok(_) => false,
            Err(_) => self.lock_slowly(mine),
        };
        let guard = ForkMutexGuard { mutex: self };
        // SAFETY: the mutex is locked.
        let content = unsafe { &mut *self.content.get() };
        if content.copy != copy {
            content.copy = copy;
            renew(&mut content.value, was_held);
        }
        guard
    }

    /// Returns whether the lock was taken over from a thread of the original.
    #[cold]
    fn lock_slowly(&self, mine: u32) -> bool {
        let mut backoff = Backoff::new();
        // A thread that has slept can't know whether others sleep.
        let mut take = mine;
        loop {
            let word = self.word.load(Relaxed);
            if word == 0 || word >> COPY_AT != mine >> COPY_AT {
                if self.word.compare_exchange(word, take, Acquire, Relaxed).is_ok() {
                    return word != 0;
                }
                continue;
            }
            if backoff.wait() {
                continue;
            }
            let waited_for = word | WAITERS;
            if word == waited_for || self.word.compare_exchange(word, waited_for, Relaxed, Relaxed).is_ok() {
                futex::wait(&self.word, waited_for, None);
                take = mine | WAITERS;
            }
        }
    }
}

impl<T> Drop for ForkMutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.mutex.word.swap(0, Release) & WAITERS != 0 {
            futex::wake(&self.mutex.word, 1);
        }
    }
}

impl<T> Deref for ForkMutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mutex is locked for as long as the guard exists.
        unsafe { &(*self.mutex.content.get()).value }
    }
}

impl<T> DerefMut for ForkMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above.
        unsafe { &mut (*self.mutex.content.get()).value }
    }
}

impl<T> fmt::Debug for ForkMutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForkMutex").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let mutex = ForkMutex::new(0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let mut guard = mutex.lock(|_, _| unreachable!("it is no copy"));
                        // Not one atomic operation, so that a second holder would be noticed.
                        let value = *guard;
                        std::hint::black_box(&mut guard);
                        *guard = value + 1;
                    }
                });
            }
        });
        assert_eq!(*mutex.lock(|_, _| ()), 80_000);
    }

    #[test]
    fn a_copy_takes_over_what_another_thread_held() {
        let mutex = ForkMutex::new(1);
        for holds in [true, false] {
            let (held, release) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let guard = holds.then(|| mutex.lock(|_, _| ()));
                    held.wait();
                    release.wait();
                    drop(guard);
                });
                held.wait();
                // SAFETY: the copy makes no calls that another thread of the original could block.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    let mut renewed = None;
                    let first = *mutex.lock(|value, was_held| {
                        renewed = Some(was_held);
                        *value = 2;
                    });
                    let second = *mutex.lock(|value, _| *value = 3);
                    let is_right = (first, second, renewed) == (2, 2, Some(holds));
                    // SAFETY: it ends the process.
                    unsafe { libc::_exit(i32::from(!is_right)) };
                }
                let mut status = 0;
                // SAFETY: the status is ours.
                assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
                release.wait();
                assert_eq!(status, 0);
            });
            assert_eq!(*mutex.lock(|_, _| unreachable!("it is no copy")), 1);
        }
    }
}
