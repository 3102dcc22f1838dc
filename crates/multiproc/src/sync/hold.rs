//! What the guards of all locks have in common.

use std::marker::PhantomData;
use std::thread;

use multiproc_os::robust::copy_number;

use super::error::{LockError, Poisoned};
use crate::shm::owned::Guarded;

/// A part of each guard: it stays on its thread, and knows whether a panic has begun since it was made.
#[derive(Debug)]
pub(crate) struct Hold {
    was_panicking: bool,
    /// In which copy of the process it was made.
    copy: u32,
    not_send: PhantomData<std::sync::MutexGuard<'static, ()>>,
}

impl Hold {
    #[inline]
    pub(crate) fn new() -> Hold {
        Hold { was_panicking: thread::panicking(), copy: copy_number(), not_send: PhantomData }
    }

    /// Sees to it that nothing is touched by the guard's copy in a copy of the process, which safe code can come by with `Process::fork`.
    #[inline]
    pub(crate) fn is_held(&self) {
        assert!(
            self.copy == copy_number(),
            "this guard was copied by fork: what it guards is held by the process that was copied"
        );
    }

    /// Sees to what a panic means for others: called when the guard is dropped, before anything is given up.
    #[inline]
    pub(crate) fn end(&self, guarded: &Guarded) {
        if !self.was_panicking && thread::panicking() && guarded.is_mine() {
            guarded.condemn();
        }
    }
}

/// The guard of what has just been taken; in an error, if somebody has come to grief with it.
#[inline]
pub(crate) fn held<G>(guarded: &Guarded, what: &'static str, guard: G) -> Result<G, LockError<G>> {
    match guarded.grief() {
        None => Ok(guard),
        Some(grief) => Err(LockError::Poisoned(Poisoned::new(guard, what, grief))),
    }
}
