//! [`Lock`]: mutual exclusion between threads of all processes that have it.
//!
//! A word that the holder's thread owns, and beside it the holder's identity and the poison. See
//! `PROTOCOL.md` in this folder, "Lock".

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use multiproc_os::poll::interruptible_if;

use crate::lock::robust_word::{AcquireError, LockMapping, PoisonableWord};
use crate::lock::users::{self, Users};
use crate::memory::segment::{Layout, Segment, layout};
use crate::memory::slab::{Slab, Slot, in_slab};
use crate::sync::error::{Acquired, ReleaseError, WaitError};
use crate::wait::deadline::Deadline;

layout! {
    /// The layout of a lock in shared memory.
    pub struct LockState: "lock", 0x10 {
        poisonable: PoisonableWord,
        users: Users,
    }
}

impl LockState {
    /// Returns the word.
    #[inline]
    pub fn poisonable(&self) -> &PoisonableWord {
        &self.poisonable
    }
}

#[cfg(feature = "async")]
impl crate::wait::waiters::AsyncLayout for LockState {
    fn poisonable(&self) -> &PoisonableWord {
        &self.poisonable
    }
}

/// A lock for threads of any processes, without a guard: the layer under `multiproc::sync::Lock`.
///
/// It belongs to the *thread* that has acquired it, which is the only one that can release it. If
/// that thread or its process dies, at any instruction, the lock is released at once, and the
/// next thread that acquires it gets [`Acquired::Poisoned`]. Acquiring and releasing a free
/// lock makes no system call. For a lock that any thread may release, see
/// [`ProcessLock`](super::ProcessLock).
///
/// It takes one descriptor, or none of its own [in a slab](Lock::create_in). A clone is another
/// handle of the same lock. The lock isn't fair, and isn't reentrant: for a reentrant one, count
/// how often [`AlreadyHeld`](WaitError::AlreadyHeld) is returned. All processes that use it must be
/// in one PID namespace.
///
/// ```
/// use multiproc_shm::sync::{Acquired, Lock, WaitError};
/// use multiproc_shm::wait::deadline::Deadline;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lock = Lock::create()?;
/// assert_eq!(lock.acquire(Deadline::Never)?, Acquired::Taken);
/// assert!(matches!(lock.acquire(Deadline::Never), Err(WaitError::AlreadyHeld)));
///
/// let same = Lock::from_fds([lock.to_fd()?])?; // in another process, perhaps
/// std::thread::scope(|scope| {
///     let other = scope.spawn(|| same.acquire(Deadline::Now));
///     assert!(matches!(other.join().unwrap(), Err(WaitError::Timeout)));
/// });
/// lock.release()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Lock {
    mapping: Arc<LockMapping<LockState>>,
    slot: Option<Arc<Slot>>,
    is_interruptible: bool,
}

impl Lock {
    /// Creates a lock, which is free.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create() -> io::Result<Lock> {
        Ok(Lock::of(Segment::create()?, None))
    }

    /// Creates a lock in a slab.
    ///
    /// # Errors
    /// `StorageFull` when the slab has no slot left; `ENOSPC`, `ENOMEM`.
    pub fn create_in(slab: &Slab) -> io::Result<Lock> {
        let (segment, slot) = slab.create_slot()?;
        Ok(Lock::of(segment, Some(slot)))
    }

    /// Opens a lock with the descriptor that [`to_fd`](Lock::to_fd) has returned, perhaps in
    /// another process.
    ///
    /// # Errors
    /// `InvalidData` when it is something else; `Unsupported` when it was created in another PID
    /// namespace; `ENOMEM`.
    pub fn from_fds([memory]: [OwnedFd; 1]) -> io::Result<Lock> {
        Ok(Lock::of(Segment::open(memory)?, None))
    }

    /// Opens the lock in a slot of a slab.
    ///
    /// # Errors
    /// As [`from_fds`](Lock::from_fds).
    pub fn open_in(slab: &Slab, index: u32) -> io::Result<Lock> {
        let (segment, slot) = slab.open_slot(index)?;
        Ok(Lock::of(segment, Some(slot)))
    }

    fn of(segment: Segment<LockState>, slot: Option<Slot>) -> Lock {
        Lock { mapping: Arc::new(LockMapping::new(segment)), slot: slot.map(Arc::new), is_interruptible: false }
    }

    /// Returns a descriptor of the memory file, to be sent to another process.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `InvalidInput` if the lock lies in a slab.
    pub fn to_fd(&self) -> io::Result<OwnedFd> {
        match self.slot() {
            Some(_) => Err(in_slab(LockState::NAME)),
            None => self.memory().try_clone_to_owned(),
        }
    }

    /// Returns the memory file.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.mapping.as_fd()
    }

    /// Returns the slot of a lock that lies in a slab.
    pub fn slot(&self) -> Option<&Slot> {
        self.slot.as_deref()
    }

    /// Makes this handle interruptible, as
    /// [`Semaphore::interruptible`](super::Semaphore::interruptible) does.
    #[must_use]
    pub fn interruptible(mut self) -> Lock {
        self.is_interruptible = true;
        self
    }

    /// Returns the memory, with the words that this process takes by this handle and its clones.
    #[inline]
    pub fn mapping(&self) -> &Arc<LockMapping<LockState>> {
        &self.mapping
    }

    /// Returns the lock's word.
    #[inline]
    pub fn poisonable(&self) -> &PoisonableWord {
        &self.mapping.poisonable
    }

    /// Acquires the lock for the calling thread, waiting until `deadline`. [`Deadline::Now`] makes
    /// no wait at all.
    ///
    /// # Errors
    /// [`WaitError::Timeout`]; [`WaitError::AlreadyHeld`], [`WaitError::TooManyLocks`];
    /// [`WaitError::Interrupted`].
    #[inline]
    pub fn acquire(&self, deadline: Deadline) -> Result<Acquired, WaitError> {
        interruptible_if(self.is_interruptible, || self.take(deadline))?;
        Ok(Acquired::of(self.poisonable().poison()))
    }

    /// Takes the word, as [`acquire`](Lock::acquire) does.
    ///
    /// # Errors
    /// The [`AcquireError`].
    #[inline]
    pub fn take(&self, deadline: Deadline) -> Result<(), AcquireError> {
        self.enter();
        let mut inherited = false;
        self.poisonable().take(&self.mapping, 0, deadline, || {
            inherited = true;
            true
        })?;
        self.taken(inherited);
        Ok(())
    }

    /// Called before the lock is taken: if conditions share it, enters this process among its
    /// users, so that waiters of the conditions watch it. Does nothing if it is entered already.
    #[inline]
    pub fn enter(&self) {
        let mapping = &self.mapping;
        if mapping.users.are_recorded() && !mapping.is_recorded() {
            self.enter_slowly();
        }
    }

    #[cold]
    fn enter_slowly(&self) {
        self.users().enter();
        self.mapping.note_recorded();
    }

    /// Called after the lock was taken; `inherited` is set if the previous owner has died.
    #[inline]
    pub fn taken(&self, inherited: bool) {
        // The first condition may have begun to share the lock since the call before.
        self.enter();
        if inherited {
            self.announce_poison();
        }
    }

    /// Wakes the waiters of conditions that share the lock, so that they check its poison.
    #[cold]
    pub fn announce_poison(&self) {
        if self.mapping.users.are_recorded() {
            self.users().tell();
        }
    }

    /// Returns the processes that take the lock, recorded if conditions share it.
    pub fn users(&self) -> users::LockUsers<'_> {
        users::LockUsers { users: &self.mapping.users, file: self.memory() }
    }

    /// Marks the lock as shared by a condition: from now on processes enter themselves as users
    /// before they take it.
    pub fn share(&self) {
        self.mapping.users.start_recording();
    }

    /// Releases the lock.
    ///
    /// # Errors
    /// [`ReleaseError::NotHeld`] if the calling thread doesn't hold it, as in a fork copy of the
    /// process that does.
    #[inline]
    pub fn release(&self) -> Result<(), ReleaseError> {
        if self.give_up() { Ok(()) } else { Err(ReleaseError::NotHeld) }
    }

    /// As [`release`](Lock::release); returns false if the calling thread doesn't hold the lock.
    #[inline]
    pub fn give_up(&self) -> bool {
        self.poisonable().give_up(&self.mapping, 0)
    }

    /// Returns whether the calling thread holds the lock; false in a fork copy of the holder.
    #[inline]
    pub fn is_mine(&self) -> bool {
        self.poisonable().is_mine()
    }

    /// Returns whether a thread holds the lock at this moment.
    pub fn is_locked(&self) -> bool {
        self.poisonable().word().owner().is_some()
    }

    /// Returns whether a thread has died or panicked while it held the lock. A holder's death is
    /// noticed by the next thread that acquires it.
    pub fn is_poisoned(&self) -> bool {
        self.poisonable().poison().is_some()
    }

    /// Poisons the lock, for a thread that holds it and can't leave what it guards in order.
    pub fn set_poisoned(&self) {
        if self.is_mine() {
            self.poisonable().set_poisoned();
            self.announce_poison();
        }
    }

    /// Clears the poison, once what the lock guards has been put right.
    pub fn clear_poison(&self) {
        self.poisonable().clear_poison();
    }
}
