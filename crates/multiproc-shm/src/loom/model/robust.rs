//! A model of `multiproc_os::robust`. What the kernel does when a thread ends is in
//! [`process`](super::process).

use std::fmt;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

pub(crate) use multiproc_os::robust::{OWNER, OWNER_DIED, WAITERS, WORD_SHIFT};

use super::atomic::{AtomicU64, Zeroed};
use super::futex::Futex;
use super::process::{local, step};

/// The number of words that a thread may own at a time.
const MOST: usize = 16;

/// A word and what is beside it: one atomic integer, as an access to a part of one is no concept of
/// the memory model.
#[derive(Debug)]
pub struct Word(Half);

/// The part of a [`Word`] that the kernel sees.
#[derive(Debug)]
pub(crate) struct Half(AtomicU64);

impl Word {
    pub(crate) fn word(&self) -> &Half {
        &self.0
    }

    pub(crate) fn pair(&self) -> &AtomicU64 {
        &self.0.0
    }
}

impl Zeroed for Word {
    fn zeroed() -> Word {
        Word(Half(AtomicU64::new(0)))
    }
}

impl Half {
    pub(crate) fn as_ptr(&self) -> *const u32 {
        (&raw const *self).cast()
    }
}

impl Futex for Half {
    fn address(&self) -> usize {
        self.as_ptr().addr()
    }

    fn value(&self) -> u32 {
        (self.0.in_kernel().load(Relaxed) >> WORD_SHIFT) as u32
    }

    fn replace(&self, from: u32, to: u32) -> bool {
        let pair = self.0.in_kernel();
        let rest = pair.load(Relaxed) & !(u64::from(u32::MAX) << WORD_SHIFT);
        let [from, to] = [from, to].map(|word| u64::from(word) << WORD_SHIFT | rest);
        pair.compare_exchange(from, to, SeqCst, Relaxed).is_ok()
    }
}

/// The calling process, which has one thread.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    id: u32,
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Thread({})", self.id)
    }
}

impl Thread {
    pub(crate) fn current() -> Thread {
        Thread { id: local(|local| local.id.get()) }
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn process(&self) -> u32 {
        self.id
    }

    pub(crate) fn announce<F: Futex + 'static>(&self, word: &F) {
        if step() {
            local(|local| local.pending.set(Some(&raw const *word)));
        }
    }

    pub(crate) fn done(&self) {
        if step() {
            local(|local| local.pending.set(None));
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        local(|local| local.owned.borrow().len() < MOST)
    }

    /// # Safety
    /// As for `multiproc_os::robust::Thread::own`.
    pub(crate) unsafe fn own(&self, word: &Word) {
        if step() {
            local(|local| local.owned.borrow_mut().push(word));
        }
    }

    pub(crate) fn let_go(&self, word: &Word) {
        if step() {
            local(|local| local.owned.borrow_mut().retain(|owned| !std::ptr::eq(*owned, word)));
        }
    }

    pub(crate) fn owns(&self, word: &Word) -> bool {
        local(|local| local.owned.borrow().iter().any(|owned| std::ptr::eq(*owned, word)))
    }
}

/// No process of a model has a fork copy.
pub(crate) fn copy_number() -> u32 {
    1
}
