//! The state of a readers-writer lock: a *turnstile*, a word that writers take, and a slot for each
//! reader. See `../sync/PROTOCOL.md`, "RwLock".
//!
//! A reader takes a slot, then checks whether there is a writer; a writer takes the turnstile, then
//! waits for each reader. So readers don't contend with each other while there is no writer. As
//! each of them has a word of its own, the kernel marks the word of one that dies, and wakes the
//! writer that waits for it. After the idea of the "big reader" locks of the Linux kernel.

use std::sync::atomic::Ordering::SeqCst;

use crate::lock::parts::{Division, Part};
use crate::lock::robust_word::{AcquireError, LockMapping, PoisonableWord, RobustWord};
use crate::loom::atomic::AtomicU32;
use crate::loom::robust::Thread;
use crate::memory::layout::{Layout, layout};
use crate::wait::deadline::Deadline;

/// The maximum number of readers at a time.
pub const MAX_READERS: usize = if cfg!(loom) { 2 } else { 4096 };

/// The number of words: the turnstile, and the slots.
pub const WORDS: usize = 1 + MAX_READERS;

/// The index of the turnstile among the words of a [`LockMapping`].
pub(crate) const TURNSTILE: usize = 0;

/// The index of the first part, if there are parts.
pub(crate) const FIRST_PART: usize = WORDS;

layout! {
    /// The part of the state that has memory from the beginning.
    pub struct Entrance {
        turnstile: PoisonableWord,
        /// Whether the owner of the turnstile has begun to write.
        writing: AtomicU32,
        /// How many slots have ever been taken. These have memory.
        used: AtomicU32,
    }
}

layout! {
    /// The word of one reader.
    pub struct Slot {
        word: RobustWord,
        /// How many guards the reading thread has. Only that thread accesses this.
        levels: AtomicU32,
        _reserved: AtomicU32,
    }
}

/// A layout that contains the state.
pub trait Readers: Layout {
    /// The turnstile, and the fields beside it.
    fn entrance(&self) -> &Entrance;
    /// The slots, which need no memory from the beginning.
    fn slots(&self) -> &[Slot; MAX_READERS];
    /// How the protected data is divided, if it can be: see [`crate::lock::parts`].
    #[inline]
    fn division(&self) -> Option<&Division> {
        None
    }
    /// All parts that there can be, which need no memory from the beginning.
    #[inline]
    fn all_parts(&self) -> &[Part] {
        &[]
    }
}

impl Slot {
    /// The thread id of the reader.
    pub(crate) fn owner(&self) -> Option<u32> {
        self.word.owner()
    }
}

/// Why a thread can't read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RwAcquireError {
    /// Other threads read or write until the deadline.
    Timeout,
    /// The calling thread reads.
    HeldForReading,
    /// The calling thread writes.
    HeldForWriting,
    /// The calling thread reads through another handle, and a writer waits, possibly for that.
    OtherHandle,
    /// The calling thread owns the maximum number of words.
    TooManyLocks,
    /// No slot is left, or no memory for one; or a reader has the maximum number of guards.
    TooManyReaders,
    /// The data has been split again since the caller learned of the part.
    StalePart,
    /// A signal handler ran in the calling thread, as with [`AcquireError::Interrupted`].
    Interrupted,
}

impl From<AcquireError> for RwAcquireError {
    fn from(error: AcquireError) -> RwAcquireError {
        match error {
            AcquireError::Timeout => RwAcquireError::Timeout,
            AcquireError::AlreadyHeld => RwAcquireError::HeldForWriting,
            AcquireError::TooManyLocks => RwAcquireError::TooManyLocks,
            AcquireError::Interrupted => RwAcquireError::Interrupted,
        }
    }
}

impl<L: Readers, const N: usize> LockMapping<L, N> {
    /// Returns the turnstile, which is poisoned by a writer that dies or panics.
    pub fn turnstile(&self) -> &PoisonableWord {
        &self.entrance().turnstile
    }

    /// Begins to read. Returns the index of the slot.
    #[inline]
    pub fn read(&self, deadline: Deadline) -> Result<usize, RwAcquireError> {
        let slot = self.take_slot()?;
        // In this order: a writer takes the turnstile, then looks at the slots.
        if self.turnstile().word().is_free() && self.parts_are_free() {
            return Ok(slot);
        }
        self.give_up_slot(slot);
        self.read_slowly(deadline)
    }

    #[cold]
    fn read_slowly(&self, deadline: Deadline) -> Result<usize, RwAcquireError> {
        // A writer may be waiting for this very thread.
        if self.reads() {
            // The slot must have been taken through this handle, as ending the read takes it off
            // the thread's list.
            let mut slots = self.slots_of_this_thread();
            let slot = slots.find(|slot| self.has(&self.slots()[*slot].word)).ok_or(RwAcquireError::OtherHandle)?;
            let levels = &self.slots()[slot].levels;
            levels.store(levels.load(SeqCst).checked_add(1).ok_or(RwAcquireError::TooManyReaders)?, SeqCst);
            return Ok(slot);
        }
        if self.has_part_besides(None) {
            return Err(RwAcquireError::HeldForWriting);
        }
        self.take_turnstile(deadline)?;
        let slot = self.wait_for_parts(deadline).map_err(RwAcquireError::from).and_then(|()| self.take_slot());
        self.turnstile().give_up(self, TURNSTILE);
        slot
    }

    /// Ends reading. Does nothing in a fork copy of the reader.
    #[inline]
    pub fn end_reading(&self, slot: usize) {
        let Slot { word, levels, .. } = &self.slots()[slot];
        match levels.load(SeqCst) {
            level @ 2.. if word.owner() == Some(Thread::current().id()) => levels.store(level - 1, SeqCst),
            _ => self.give_up_slot(slot),
        }
    }

    /// Ends reading, if the calling thread reads through this handle. Returns whether it did.
    pub fn end_reading_here(&self) -> bool {
        let slot = self.slots_of_this_thread().find(|slot| self.has(&self.slots()[*slot].word));
        slot.map(|slot| self.end_reading(slot)).is_some()
    }

    /// Begins to write.
    pub fn write(&self, deadline: Deadline) -> Result<(), RwAcquireError> {
        self.lock_exclusively(deadline)?;
        self.entrance().writing.store(1, SeqCst);
        Ok(())
    }

    /// Takes the turnstile, and waits until there is no reader and no owner of a part.
    pub(crate) fn lock_exclusively(&self, deadline: Deadline) -> Result<(), RwAcquireError> {
        if self.reads() {
            return Err(RwAcquireError::HeldForReading);
        }
        if self.has_part_besides(None) {
            return Err(RwAcquireError::HeldForWriting);
        }
        self.take_turnstile(deadline)?;
        let alone = self.wait_for_readers(deadline).and_then(|()| self.wait_for_parts(deadline));
        if alone.is_err() {
            self.turnstile().give_up(self, TURNSTILE);
        }
        Ok(alone?)
    }

    /// Waits until there is no reader. The caller has the turnstile.
    #[inline]
    pub(crate) fn wait_for_readers(&self, deadline: Deadline) -> Result<(), AcquireError> {
        self.slots_in_use().iter().try_for_each(|slot| slot.word.wait_until_free(deadline))
    }

    /// Ends writing. Does nothing in a fork copy of the writer.
    pub fn end_writing(&self) {
        if self.turnstile().is_mine() {
            self.entrance().writing.store(0, SeqCst);
            self.turnstile().give_up(self, TURNSTILE);
        }
    }

    /// Returns whether a thread writes, or is about to.
    pub fn is_written(&self) -> bool {
        self.turnstile().word().owner().is_some()
    }

    /// Returns how many threads read at this moment, or are about to.
    pub fn readers(&self) -> usize {
        self.slots_in_use().iter().filter(|slot| slot.owner().is_some()).count()
    }

    pub(crate) fn take_turnstile(&self, deadline: Deadline) -> Result<(), AcquireError> {
        let writing = &self.entrance().writing;
        self.turnstile().take(self, TURNSTILE, deadline, || writing.load(SeqCst) != 0)?;
        // The death of a writer has been recorded by now.
        writing.store(0, SeqCst);
        if let Some(division) = self.division() {
            division.repair();
        }
        Ok(())
    }

    /// The slots that may be in use.
    #[inline]
    pub(crate) fn slots_in_use(&self) -> &[Slot] {
        &self.slots()[..self.used()]
    }

    /// The number of slots that may be in use.
    #[inline]
    fn used(&self) -> usize {
        (self.entrance().used.load(SeqCst) as usize).min(MAX_READERS)
    }

    /// Whether the calling thread reads, through any handle.
    pub(crate) fn reads(&self) -> bool {
        self.slots_of_this_thread().next().is_some()
    }

    /// The slots of the calling thread, taken through any handle.
    fn slots_of_this_thread(&self) -> impl Iterator<Item = usize> {
        let this = Some(Thread::current().id());
        (0..self.used()).filter(move |slot| self.slots()[*slot].word.owner() == this)
    }

    #[inline]
    fn take_slot(&self) -> Result<usize, RwAcquireError> {
        let used = self.used();
        // Threads with neighbouring ids start at different slots.
        let first = Thread::current().id() as usize % used.max(1);
        for slot in (first..used).chain(0..first) {
            if self.try_slot(slot)? {
                return Ok(slot);
            }
        }
        self.take_new_slot(used)
    }

    /// Takes a slot that no thread has taken before, or one that has begun to count since the
    /// caller has looked at `seen` of them: the thread that has made it count may not have taken
    /// it, as it owns the maximum number of words.
    #[cold]
    fn take_new_slot(&self, mut seen: usize) -> Result<usize, RwAcquireError> {
        loop {
            let used = self.used();
            for slot in seen..used {
                if self.try_slot(slot)? {
                    return Ok(slot);
                }
            }
            seen = used;
            let slot = self.slots().get(used).ok_or(RwAcquireError::TooManyReaders)?;
            self.allocate_for(slot).map_err(|_| RwAcquireError::TooManyReaders)?;
            // The slot counts before it is taken, so that no writer misses it. If another thread
            // was quicker, there is one more slot to try.
            let _ = self.entrance().used.compare_exchange(used as u32, used as u32 + 1, SeqCst, SeqCst);
            if self.try_slot(used)? {
                return Ok(used);
            }
        }
    }

    #[inline]
    fn try_slot(&self, index: usize) -> Result<bool, RwAcquireError> {
        let slot = &self.slots()[index];
        if slot.word.owner().is_some() {
            return Ok(false);
        }
        match self.take(&slot.word, 1 + index, Deadline::Now) {
            Ok(_) => {
                slot.levels.store(1, SeqCst);
                Ok(true)
            }
            Err(AcquireError::TooManyLocks) => Err(RwAcquireError::TooManyLocks),
            Err(_) => Ok(false),
        }
    }

    #[inline]
    fn give_up_slot(&self, index: usize) {
        self.give_up(&self.slots()[index].word, 1 + index);
    }
}
