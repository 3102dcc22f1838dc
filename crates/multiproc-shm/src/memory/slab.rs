//! [`Slab`]: many small objects in one memory file, with one wake pipe. See `../PROTOCOL.md`, "The
//! slab".

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use multiproc_os::random;

use crate::memory::segment::{Layout, Segment, layout};
use crate::wait::notifier::{Notifier, Tokens};

/// The length of a slot, in bytes: a page for the object, and as many as are left for its ledger.
const SLOT_LEN: usize = 32 << 10;

/// The maximum number of slots.
const MAX_SLOTS: u32 = 1 << 16;

layout! {
    /// The first page.
    struct Header: "slab", 0x40 {
        /// A random number.
        id: AtomicU64,
        /// The number of slots.
        capacity: AtomicU32,
        /// The number of slots that have been given out.
        used: AtomicU32,
    }
}

/// Memory for many locks, semaphores, events, conditions and barriers, which share two descriptors:
/// one of a memory file, one of a pipe. An object with memory of its own takes one or two.
///
/// A slab is sent to another process by its descriptors; an object in it by the slab and the index
/// of its slot ([`Slot::index`]). The memory, a page for each object that was created, is returned
/// when the last process drops the slab and the objects in it; the slot of an object that is
/// dropped isn't used again. A clone is another handle of the same slab.
///
/// Each process that has the slab keeps its pipe open. So a wait for an object in a slab doesn't
/// end with [`Disconnected`](crate::sync::WaitError::Disconnected).
///
/// ```
/// use multiproc_shm::memory::slab::Slab;
/// use multiproc_shm::sync::Semaphore;
/// use multiproc_shm::wait::deadline::Deadline;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let slab = Slab::create(1024)?;
/// let semaphores = (0..600).map(|_| Semaphore::create_in(&slab, 1, None)).collect::<Result<Vec<_>, _>>()?;
/// semaphores[599].acquire(Deadline::Never)?;
///
/// // In another process, which has received the descriptors and the index:
/// let same_slab = Slab::from_fds(slab.to_fds()?)?;
/// let index = semaphores[599].slot().unwrap().index();
/// let same = Semaphore::open_in(&same_slab, index)?;
/// assert_eq!((slab.id(), same.available()), (same_slab.id(), 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Slab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    header: Segment<Header>,
    notifier: Arc<Notifier>,
}

/// The place of an object in a slab.
#[derive(Debug)]
pub struct Slot {
    slab: Slab,
    index: u32,
}

impl Slot {
    /// Returns the slab.
    pub fn slab(&self) -> &Slab {
        &self.slab
    }

    /// Returns the index of the slot, from 0.
    pub fn index(&self) -> u32 {
        self.index
    }
}

impl Slab {
    /// Creates a slab for at most `capacity` objects. Memory is allocated when they are created.
    ///
    /// # Errors
    /// `InvalidInput` for no slot or more than 65,536; `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create(capacity: u32) -> io::Result<Slab> {
        if capacity == 0 || capacity > MAX_SLOTS {
            let error = format!("cannot create a slab of {capacity} slots: it can have 1 to {MAX_SLOTS}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        let header = Segment::<Header>::create_with_room(u64::from(capacity) * SLOT_LEN as u64)?;
        let mut id = [0; 8];
        random::fill(&mut id)?;
        header.id.store(u64::from_ne_bytes(id), Relaxed);
        header.capacity.store(capacity, Relaxed);
        Ok(Slab::of(header, Notifier::new(Tokens::Broadcast)?))
    }

    /// Opens a slab with the descriptors that [`to_fds`](Slab::to_fds) has returned, perhaps in
    /// another process.
    ///
    /// # Errors
    /// `InvalidData` when they are something else; `Unsupported` when the slab was created in
    /// another PID namespace; `ENOMEM`.
    pub fn from_fds([memory, wake_pipe]: [OwnedFd; 2]) -> io::Result<Slab> {
        Ok(Slab::of(Segment::open(memory)?, Notifier::from_fd(wake_pipe, Tokens::Broadcast)?))
    }

    fn of(header: Segment<Header>, notifier: Notifier) -> Slab {
        notifier.pin();
        Slab { inner: Arc::new(Inner { header, notifier: Arc::new(notifier) }) }
    }

    /// Returns descriptors of the memory file and of the pipe, to be sent to another process.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn to_fds(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.inner.header.as_fd().try_clone_to_owned()?, self.inner.notifier.to_send()?])
    }

    /// Returns a random number, by which a process knows a slab that it receives again.
    pub fn id(&self) -> u64 {
        self.inner.header.id.load(Relaxed)
    }

    /// Returns the number of slots, used or not.
    pub fn capacity(&self) -> u32 {
        self.inner.header.capacity.load(Relaxed).min(MAX_SLOTS)
    }

    /// Returns the number of objects that have been created in the slab, by all processes.
    pub fn used(&self) -> u32 {
        self.inner.header.used.load(Relaxed).min(self.capacity())
    }

    pub(crate) fn notifier(&self) -> &Arc<Notifier> {
        &self.inner.notifier
    }

    /// Creates a segment in a slot that no object has had.
    ///
    /// # Errors
    /// `StorageFull` when all slots have been used; `ENOSPC`, `ENOMEM`.
    pub fn create_slot<L: Layout>(&self) -> io::Result<(Segment<L>, Slot)> {
        let (used, capacity) = (&self.inner.header.used, self.capacity());
        let next = |used: u32| (used < capacity).then(|| used + 1);
        let index = used.fetch_update(SeqCst, SeqCst, next).map_err(|_| {
            let error =
                format!("no slot is left for this object ({}): all {capacity} of the slab have been used", L::NAME);
            io::Error::new(io::ErrorKind::StorageFull, error)
        })?;
        let file = self.inner.header.shared_file().clone();
        let segment = Segment::create_at(file, offset(index), more::<L>())?;
        Ok((segment, Slot { slab: self.clone(), index }))
    }

    /// Maps the segment in this slot.
    ///
    /// # Errors
    /// `InvalidData` when the slot has no such object; `Unsupported` when that was created in
    /// another PID namespace; `ENOMEM`.
    pub fn open_slot<L: Layout>(&self, index: u32) -> io::Result<(Segment<L>, Slot)> {
        if index >= self.used() {
            let error = format!("invalid {}: the slab has no object in slot {index}", L::NAME);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        let file = self.inner.header.shared_file().clone();
        let segment = Segment::open_at(file, offset(index), more::<L>())?;
        Ok((segment, Slot { slab: self.clone(), index }))
    }
}

/// The offset of a slot in the file.
fn offset(index: u32) -> u64 {
    Segment::<Header>::LEN as u64 + u64::from(index) * SLOT_LEN as u64
}

/// The number of integers behind the layout, as far as a slot has room for them. Ledgers, which lie
/// there, hold fewer processes then.
const fn more<L: Layout>() -> usize {
    const { assert!(Segment::<L>::LEN <= SLOT_LEN, "a slot is too short for this layout") };
    let room = (SLOT_LEN - Segment::<L>::LEN) / 8;
    if L::TRAILING_WORDS < room { L::TRAILING_WORDS } else { room }
}

/// The error of asking an object in a slab for descriptors of its own.
pub(crate) fn in_slab(what: &str) -> io::Error {
    let error = format!("the {what} lies in a slab: send the slab and the index of the slot");
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    layout! {
        struct Number: "number", 0x7fff_0040, MANY {
            number: AtomicU64,
        }
    }

    layout! {
        struct Other: "other", 0x7fff_0041 {
            number: AtomicU64,
        }
    }

    const MANY: usize = 1 << 20;

    #[test]
    fn slots_are_apart() {
        let slab = Slab::create(3).unwrap();
        let slots: Vec<(Segment<Number>, Slot)> = (0..3).map(|_| slab.create_slot().unwrap()).collect();
        for (segment, slot) in &slots {
            segment.number.store(u64::from(slot.index()) + 7, Relaxed);
            let last = segment.more().len() - 1;
            segment.allocate_more(last).unwrap();
            segment.more()[last].store(u64::MAX, Relaxed);
        }
        let same = Slab::from_fds(slab.to_fds().unwrap()).unwrap();
        for (index, (segment, _)) in slots.iter().enumerate() {
            let (opened, slot) = same.open_slot::<Number>(index as u32).unwrap();
            assert_eq!((slot.index() as usize, opened.number.load(Relaxed)), (index, index as u64 + 7));
            assert_eq!(opened.more().len(), segment.more().len());
        }
        let error = slab.create_slot::<Number>().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    }

    #[test]
    fn what_is_no_such_object_is_an_error() {
        let slab = Slab::create(2).unwrap();
        slab.create_slot::<Number>().unwrap();
        for error in [slab.open_slot::<Other>(0).unwrap_err(), slab.open_slot::<Number>(1).unwrap_err()] {
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        assert_eq!(Slab::create(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
