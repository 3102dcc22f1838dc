//! What the guards of all locks have in common.

use std::cell::Cell;
use std::marker::PhantomData;
use std::thread;

use multiproc_os::robust::copy_number;

use super::error::{LockError, Poisoned};
use crate::shm::robust_word::PoisonableWord;

thread_local! {
    /// How many guards there are on this thread that have lent what they guard.
    static BORROWED: Cell<usize> = const { Cell::new(0) };
}

/// How many guards this thread has whose references may still be used.
///
/// Such a reference knows nothing of processes: in a copy of this one it would reach the same memory, and whoever has it there would read and write what
/// is held here. So [`Process::fork`](crate::Process::fork), which takes references along, is refused.
pub(crate) fn borrowed() -> usize {
    BORROWED.get()
}

/// A part of each guard: it stays on its thread, and knows whether a panic has begun since it was made.
#[derive(Debug)]
pub(crate) struct GuardState {
    was_panicking: bool,
    /// In which copy of the process it was made.
    copy: u32,
    /// The same, once it has lent what it guards; [`NOT_BORROWED`] before.
    borrowed: Cell<u32>,
    not_send: PhantomData<std::sync::MutexGuard<'static, ()>>,
}

impl GuardState {
    #[inline]
    pub(crate) fn new() -> GuardState {
        let borrowed = Cell::new(NOT_BORROWED);
        GuardState { was_panicking: thread::panicking(), copy: copy_number(), borrowed, not_send: PhantomData }
    }

    /// Sees to it that nothing is touched by the guard's copy in a copy of the process, which safe code can come by with `Process::fork`.
    #[inline]
    pub(crate) fn is_held(&self) {
        assert!(
            self.copy == copy_number(),
            "this guard was copied by fork: what it guards is held by the process that was copied"
        );
    }

    /// Before a reference to what is guarded is given. As [`is_held`](GuardState::is_held); and sees to it that no copy of the process takes the reference
    /// along.
    #[inline]
    pub(crate) fn mark_borrowed(&self) {
        if self.borrowed.get() != copy_number() {
            self.is_held();
            self.borrowed.set(self.copy);
            BORROWED.set(BORROWED.get() + 1);
        }
    }

    /// Sees to what a panic means for others: called when the guard is dropped, before anything is given up.
    #[inline]
    pub(crate) fn end(&self, poisonable: &PoisonableWord) {
        if !self.was_panicking && thread::panicking() && poisonable.is_mine() {
            poisonable.set_poisoned();
        }
    }
}

/// The number of no copy of a process.
const NOT_BORROWED: u32 = u32::MAX;

impl Drop for GuardState {
    #[inline]
    fn drop(&mut self) {
        if self.borrowed.get() != NOT_BORROWED {
            BORROWED.set(BORROWED.get() - 1);
        }
    }
}

/// The guard of what has just been taken; in an error, if somebody has come to grief with it.
#[inline]
pub(crate) fn held<G>(poisonable: &PoisonableWord, what: &'static str, guard: G) -> Result<G, LockError<G>> {
    match poisonable.poison() {
        None => Ok(guard),
        Some(poison) => Err(LockError::Poisoned(Poisoned::new(guard, what, poison))),
    }
}
