//! The state that the guards of all locks share.

use std::cell::Cell;
use std::marker::PhantomData;
use std::thread;

use multiproc_os::robust::copy_number;

use multiproc_shm::lock::robust_word::PoisonableWord;

thread_local! {
    /// How many guards of this thread have given out a reference to what they guard.
    static BORROWED: Cell<usize> = const { Cell::new(0) };
}

/// How many guards this thread has that have given out references, which may still be used.
///
/// Such a reference knows nothing of processes: a fork copy of this process could access the same
/// memory through it, while this process holds the lock. So
/// [`Process::fork`](crate::Process::fork), which takes references along, is refused while there
/// are any.
pub(crate) fn borrowed() -> usize {
    BORROWED.get()
}

/// A part of each guard: keeps it on its thread, and knows whether a panic has begun since it was
/// made.
#[derive(Debug)]
pub(crate) struct GuardState {
    was_panicking: bool,
    /// The number of the fork copy in which the guard was made.
    copy: u32,
    /// The same number, once the guard has given out a reference; [`NOT_BORROWED`] before.
    borrowed: Cell<u32>,
    not_send: PhantomData<std::sync::MutexGuard<'static, ()>>,
}

impl GuardState {
    #[inline]
    pub(crate) fn new() -> GuardState {
        let borrowed = Cell::new(NOT_BORROWED);
        GuardState { was_panicking: thread::panicking(), copy: copy_number(), borrowed, not_send: PhantomData }
    }

    /// Panics if this runs in a fork copy of the process that made the guard. Safe code can bring a
    /// guard there with `Process::fork`.
    #[inline]
    pub(crate) fn is_held(&self) {
        assert!(
            self.copy == copy_number(),
            "this guard was copied by fork: what it guards is held by the original process"
        );
    }

    /// Called before a reference to what is guarded is given out. Checks as
    /// [`is_held`](GuardState::is_held) does, and makes `Process::fork` refuse to copy the
    /// reference.
    #[inline]
    pub(crate) fn mark_borrowed(&self) {
        if self.borrowed.get() != copy_number() {
            self.is_held();
            self.borrowed.set(self.copy);
            BORROWED.set(BORROWED.get() + 1);
        }
    }

    /// Poisons the word if the thread panics. Called when the guard is dropped, before the word is
    /// given up.
    #[inline]
    pub(crate) fn end(&self, poisonable: &PoisonableWord) {
        if !self.was_panicking && thread::panicking() && poisonable.is_mine() {
            poisonable.set_poisoned();
        }
    }
}

/// A number that no fork copy has.
const NOT_BORROWED: u32 = u32::MAX;

impl Drop for GuardState {
    #[inline]
    fn drop(&mut self) {
        if self.borrowed.get() != NOT_BORROWED {
            BORROWED.set(BORROWED.get() - 1);
        }
    }
}
