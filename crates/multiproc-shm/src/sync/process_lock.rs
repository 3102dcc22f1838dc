//! [`ProcessLock`]: a lock that belongs to a process, and that any process may release. See
//! `PROTOCOL.md` in this folder, "ProcessLock".

use std::io;
use std::os::fd::OwnedFd;

use crate::lock::robust_word::Poison;
use crate::memory::object::Object;
use crate::memory::slab::{Slab, Slot};
use crate::sync::error::{Acquired, ReleaseError, WaitError};
use crate::sync::semaphore::{LOCK, Semaphore};
use crate::wait::deadline::Deadline;

/// A lock that any thread of any process may release: Python's `multiprocessing.Lock`.
///
/// It belongs to the *process* that has acquired it. When that process dies, the lock is released,
/// and the next caller that acquires it gets [`Acquired::Poisoned`]. It isn't reentrant, and
/// doesn't know threads: a thread that acquires it twice waits until it is released (and gets
/// [`WaitError::Disconnected`] if no other handle is left that could release it). For a lock
/// that belongs to a thread, and costs no system call and no ledger, use [`Lock`](super::Lock).
///
/// It takes two descriptors, or none of its own [in a slab](ProcessLock::create_in). A clone is
/// another handle of the same lock.
///
/// ```
/// use multiproc_shm::sync::{Acquired, ProcessLock, ReleaseError};
/// use multiproc_shm::wait::deadline::Deadline;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lock = ProcessLock::create()?;
/// assert_eq!(lock.acquire(Deadline::Never)?, Acquired::Taken);
///
/// // Another thread releases it; or another process, which has received the descriptors:
/// let same = ProcessLock::from_fds(lock.to_fds()?)?;
/// std::thread::scope(|scope| scope.spawn(|| same.release()).join().unwrap())?;
///
/// assert_eq!(lock.release(), Err(ReleaseError::NotHeld));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ProcessLock {
    permit: Semaphore,
}

impl ProcessLock {
    /// Creates a lock, which is free.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create() -> io::Result<ProcessLock> {
        Ok(ProcessLock { permit: Semaphore::begin(1, Some(1), LOCK, Object::create)? })
    }

    /// Creates a lock in a slab.
    ///
    /// # Errors
    /// `StorageFull` when the slab has no slot left; `ENOSPC`, `ENOMEM`.
    pub fn create_in(slab: &Slab) -> io::Result<ProcessLock> {
        Ok(ProcessLock { permit: Semaphore::begin(1, Some(1), LOCK, || Object::create_in(slab))? })
    }

    /// Opens a lock with the descriptors that [`to_fds`](ProcessLock::to_fds) has returned, perhaps
    /// in another process.
    ///
    /// # Errors
    /// `InvalidData` when they are something else; `Unsupported` when it was created in another PID
    /// namespace; `ENOMEM`.
    pub fn from_fds([memory, wake_pipe]: [OwnedFd; 2]) -> io::Result<ProcessLock> {
        Ok(ProcessLock { permit: Semaphore::of_kind(Object::open(memory, wake_pipe)?, LOCK)? })
    }

    /// Opens the lock in a slot of a slab.
    ///
    /// # Errors
    /// `InvalidData` when the slot has something else; otherwise as
    /// [`from_fds`](ProcessLock::from_fds).
    pub fn open_in(slab: &Slab, index: u32) -> io::Result<ProcessLock> {
        Ok(ProcessLock { permit: Semaphore::of_kind(Object::open_in(slab, index)?, LOCK)? })
    }

    /// Returns descriptors of the memory file and of the wake pipe, to be sent to another process.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `InvalidInput` if the lock lies in a slab.
    pub fn to_fds(&self) -> io::Result<[OwnedFd; 2]> {
        self.permit.to_fds()
    }

    /// Returns the slot of a lock that lies in a slab.
    pub fn slot(&self) -> Option<&Slot> {
        self.permit.slot()
    }

    /// Makes this handle interruptible, as [`Semaphore::interruptible`] does.
    #[must_use]
    pub fn interruptible(self) -> ProcessLock {
        ProcessLock { permit: self.permit.interruptible() }
    }

    /// Acquires the lock for the calling process, waiting until `deadline`.
    ///
    /// # Errors
    /// As [`Semaphore::acquire`].
    #[inline]
    pub fn acquire(&self, deadline: Deadline) -> Result<Acquired, WaitError> {
        self.permit.acquire(deadline)?;
        Ok(self.acquired())
    }

    /// Acquires the lock if it is free; returns `None` if a process holds it. Doesn't wait, not
    /// even for an operation of another thread that takes a moment. A process that was killed holds
    /// the lock until it has ended, a moment later.
    ///
    /// # Errors
    /// As [`Semaphore::try_acquire`].
    #[inline]
    pub fn try_acquire(&self) -> Result<Option<Acquired>, WaitError> {
        Ok(self.permit.try_acquire()?.then(|| self.acquired()))
    }

    #[inline]
    fn acquired(&self) -> Acquired {
        match self.permit.poison() {
            None => Acquired::Taken,
            Some(process) => Acquired::Poisoned { cause: Poison::Died, pid: Some(process.pid()) },
        }
    }

    /// Releases the lock, whichever process holds it. Waits for as long as it takes if another
    /// process is stopped in the middle of an operation on the lock.
    ///
    /// # Errors
    /// [`ReleaseError::NotHeld`] if no process does.
    #[inline]
    pub fn release(&self) -> Result<(), ReleaseError> {
        self.permit.release()
    }

    /// Returns whether a process holds the lock at this moment. One that has died counts until a
    /// call notices it.
    pub fn is_locked(&self) -> bool {
        self.permit.available() == 0
    }

    /// Returns whether a process has died while it held the lock. Its death is noticed by the next
    /// caller that acquires the lock or tries to.
    pub fn is_poisoned(&self) -> bool {
        self.permit.poison().is_some()
    }

    /// Clears the poison, once what the lock guards has been put right.
    pub fn clear_poison(&self) {
        self.permit.clear_poison();
    }
}
