//! An object as a program holds it: a segment, a gate, and any number of handles in this process.
//!
//! Each [`Object`] is a handle through which somebody may open the gate. In a copy that fork(2) makes of the process, a handle counts from the moment when it is used
//! there: of the others nobody can say whether the copy will ever come by them.

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::{fmt, io};

use multiproc_os::robust::copy_number;

use super::notifier::{Notifier, Tokens, ViaHandle};
use super::segment::{Layout, Segment};

/// A handle of an object with a gate.
pub(crate) struct Object<L> {
    inner: Arc<Inner<L>>,
    /// The copy of the process in which the gate counts this handle.
    copy: AtomicU32,
    /// How many wait through it.
    waiters: AtomicUsize,
}

struct Inner<L> {
    segment: Segment<L>,
    notifier: Notifier,
    /// Where in the object's ledger this process was last.
    place: AtomicU32,
}

impl<L: Layout> Object<L> {
    /// A new object, all zero.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub(crate) fn create() -> io::Result<Object<L>> {
        Ok(Object::of(Segment::create()?, Notifier::new(Tokens::Heard)?))
    }

    /// One that has come from another process.
    ///
    /// # Errors
    /// `InvalidData` when it is something else; `ENOMEM`.
    pub(crate) fn open(memory: OwnedFd, wake_pipe: OwnedFd) -> io::Result<Object<L>> {
        let notifier = Notifier::from_fd(wake_pipe, Tokens::Heard).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                io::Error::new(error.kind(), format!("this is no {} of this program: its door: {error}", L::NAME))
            }
            _ => error,
        });
        Ok(Object::of(Segment::open(memory)?, notifier?))
    }

    fn of(segment: Segment<L>, notifier: Notifier) -> Object<L> {
        let inner = Arc::new(Inner { segment, notifier, place: AtomicU32::new(0) });
        Object { inner, copy: AtomicU32::new(copy_number()), waiters: AtomicUsize::new(0) }
    }

    /// Its gate, for one who is about to use it.
    #[inline]
    pub(crate) fn notifier(&self) -> &Notifier {
        if self.copy.load(Relaxed) != copy_number() {
            self.show();
        }
        &self.inner.notifier
    }

    /// Has this handle counted in a copy of the process.
    #[cold]
    fn show(&self) {
        let copy = copy_number();
        // Several threads may use one handle.
        if self.copy.swap(copy, Relaxed) != copy {
            // Those who wait do so in the original.
            self.waiters.store(0, Relaxed);
            self.inner.notifier.add_opener();
        }
    }

    pub(crate) fn segment(&self) -> &Segment<L> {
        &self.inner.segment
    }

    /// Where in the object's ledger this process was last.
    pub(crate) fn place(&self) -> &AtomicU32 {
        &self.inner.place
    }

    /// The memory, to be sent with [the door](Object::door).
    pub(crate) fn memory(&self) -> BorrowedFd<'_> {
        self.inner.segment.file().as_fd()
    }

    /// The door, to be sent.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub(crate) fn wake_pipe(&self) -> io::Result<OwnedFd> {
        self.notifier().to_send()
    }

    /// ViaHandle what somebody waits who does so by this handle.
    pub(crate) fn through(&self) -> ViaHandle<'_> {
        ViaHandle::Handle(&self.waiters)
    }

    /// Has this handle counted no more, which is about to be dropped. Whether it was the last that counted in this process.
    pub(crate) fn retire(&mut self) -> bool {
        // Copies are numbered from 1.
        std::mem::take(self.copy.get_mut()) == copy_number() && self.inner.notifier.remove_opener() == 0
    }
}

impl<L: Layout> Deref for Object<L> {
    type Target = L;

    #[inline]
    fn deref(&self) -> &L {
        &self.inner.segment
    }
}

impl<L: Layout> Clone for Object<L> {
    fn clone(&self) -> Object<L> {
        self.notifier().add_opener();
        Object { inner: Arc::clone(&self.inner), copy: AtomicU32::new(copy_number()), waiters: AtomicUsize::new(0) }
    }
}

impl<L> Drop for Object<L> {
    fn drop(&mut self) {
        // The last one closes the door.
        if Arc::strong_count(&self.inner) > 1 && *self.copy.get_mut() == copy_number() {
            self.inner.notifier.remove_opener();
        }
    }
}

impl<L: Layout> fmt::Debug for Object<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(L::NAME).field("memory", &self.memory()).field("door", &self.inner.notifier.as_fd()).finish()
    }
}
