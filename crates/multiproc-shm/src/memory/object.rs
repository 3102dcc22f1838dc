//! A shared object as a program holds it: a segment, a notifier, and any number of handles in this
//! process.
//!
//! Each [`Object`] is a handle through which the object may be changed, and so counts as an opener
//! of the notifier. In a fork copy, a handle counts from the moment when it is used there: whether
//! the copy will ever use the others is not known.

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::{fmt, io};

use multiproc_os::robust::copy_number;

use crate::memory::segment::{Layout, Segment};
use crate::memory::slab::{Slab, Slot, in_slab};
use crate::wait::notifier::{Notifier, Tokens, ViaHandle};

/// A handle of an object with a notifier.
pub struct Object<L> {
    inner: Arc<Inner<L>>,
    /// The number of the process (an original or a fork copy) in which the notifier counts this
    /// handle.
    copy: AtomicU32,
    /// The number of threads and futures that wait through this handle.
    waiters: AtomicUsize,
}

struct Inner<L> {
    segment: Segment<L>,
    /// Objects in a slab share it.
    notifier: Arc<Notifier>,
    slot: Option<Slot>,
    /// The index of this process's latest entry in the object's ledger.
    ledger_index: AtomicU32,
}

impl<L: Layout> Object<L> {
    /// Creates an object, all zero.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create() -> io::Result<Object<L>> {
        Ok(Object::of(Segment::create()?, Arc::new(Notifier::new(Tokens::Broadcast)?), None))
    }

    /// Creates an object in a slab, all zero.
    ///
    /// # Errors
    /// As [`Slab::create_slot`].
    pub fn create_in(slab: &Slab) -> io::Result<Object<L>> {
        let (segment, slot) = slab.create_slot()?;
        Ok(Object::in_slab(segment, slot))
    }

    /// Opens the object in this slot of a slab.
    ///
    /// # Errors
    /// As [`Slab::open_slot`].
    pub fn open_in(slab: &Slab, index: u32) -> io::Result<Object<L>> {
        let (segment, slot) = slab.open_slot(index)?;
        Ok(Object::in_slab(segment, slot))
    }

    fn in_slab(segment: Segment<L>, slot: Slot) -> Object<L> {
        let notifier = slot.slab().notifier().clone();
        notifier.add_opener();
        Object::of(segment, notifier, Some(slot))
    }

    /// Opens an object that was received from another process.
    ///
    /// # Errors
    /// `InvalidData` when the descriptors are something else; `ENOMEM`.
    pub fn open(memory: OwnedFd, wake_pipe: OwnedFd) -> io::Result<Object<L>> {
        let notifier = Notifier::from_fd(wake_pipe, Tokens::Broadcast).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                io::Error::new(error.kind(), format!("invalid {}: its wake pipe: {error}", L::NAME))
            }
            _ => error,
        });
        Ok(Object::of(Segment::open(memory)?, Arc::new(notifier?), None))
    }

    fn of(segment: Segment<L>, notifier: Arc<Notifier>, slot: Option<Slot>) -> Object<L> {
        let inner = Arc::new(Inner { segment, notifier, slot, ledger_index: AtomicU32::new(0) });
        Object { inner, copy: AtomicU32::new(copy_number()), waiters: AtomicUsize::new(0) }
    }

    /// Returns the notifier, for a caller that is about to use it: counts this handle if that isn't
    /// done yet.
    #[inline]
    pub fn notifier(&self) -> &Notifier {
        if self.copy.load(Relaxed) != copy_number() {
            self.show();
        }
        &self.inner.notifier
    }

    /// Counts this handle in a fork copy.
    #[cold]
    fn show(&self) {
        let copy = copy_number();
        // Several threads may use one handle.
        if self.copy.swap(copy, Relaxed) != copy {
            // The waiters are threads of the original process.
            self.waiters.store(0, Relaxed);
            self.inner.notifier.add_opener();
        }
    }

    /// Returns the object's memory.
    pub fn segment(&self) -> &Segment<L> {
        &self.inner.segment
    }

    /// Returns the index of this process's latest entry in the object's ledger.
    pub fn ledger_index(&self) -> &AtomicU32 {
        &self.inner.ledger_index
    }

    /// Returns the memory file, to be sent together with [the wake pipe](Object::wake_pipe).
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.inner.segment.file().as_fd()
    }

    /// Returns a descriptor of the wake pipe, to be sent.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn wake_pipe(&self) -> io::Result<OwnedFd> {
        self.notifier().to_send()
    }

    /// Descriptors of the memory file and of the wake pipe, to be sent.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `InvalidInput` if the object lies in a slab.
    pub fn to_fds(&self) -> io::Result<[OwnedFd; 2]> {
        if self.inner.slot.is_some() {
            return Err(in_slab(L::NAME));
        }
        Ok([self.memory().try_clone_to_owned()?, self.wake_pipe()?])
    }

    /// Returns the slot, if the object lies in a slab.
    pub fn slot(&self) -> Option<&Slot> {
        self.inner.slot.as_ref()
    }

    /// Returns the way in which the notifier counts a caller that waits by this handle.
    pub fn through(&self) -> ViaHandle<'_> {
        ViaHandle::Handle(&self.waiters)
    }

    /// Stops counting this handle, which is about to be dropped. Returns whether it was the last
    /// one that counted in this process.
    pub fn retire(&mut self) -> bool {
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
        // The last handle closes the wake pipe, unless the pipe is shared.
        let is_open = Arc::strong_count(&self.inner) > 1 || self.inner.slot.is_some();
        if is_open && *self.copy.get_mut() == copy_number() {
            self.inner.notifier.remove_opener();
        }
    }
}

impl<L: Layout> fmt::Debug for Object<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(L::NAME)
            .field("memory", &self.memory())
            .field("wake_pipe", &self.inner.notifier.as_fd())
            .finish()
    }
}
