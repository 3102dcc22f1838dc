//! [`RwLock`]: a lock for many readers, or one writer, among threads of all processes that have it.
//! The algorithm is in `lock/readers.rs`; see `PROTOCOL.md` in this folder, "RwLock".

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use multiproc_os::poll::interruptible_if;

use crate::lock::readers::{Entrance, MAX_READERS, Readers, RwAcquireError, Slot, WORDS};
use crate::lock::robust_word::LockMapping;
use crate::memory::segment::{AnyBytes, Layout, Segment};
use crate::sync::error::{Acquired, ReleaseError, WaitError};
use crate::wait::deadline::Deadline;

/// The layout of a read-write lock without a value in shared memory.
#[derive(Debug)]
#[repr(C)]
struct RwLockState {
    entrance: Entrance,
    slots: [Slot; MAX_READERS],
}

// SAFETY: both fields are, and there is nothing else.
#[allow(unsafe_code)]
unsafe impl AnyBytes for RwLockState {}

// SAFETY: `#[repr(C)]`, and as above.
#[allow(unsafe_code)]
unsafe impl Layout for RwLockState {
    const NAME: &'static str = "read-write lock without a value";
    const KIND: u32 = 0x15;
    const INITIAL_LEN: usize = offset_of!(RwLockState, slots);
}

impl Readers for RwLockState {
    fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    fn slots(&self) -> &[Slot; MAX_READERS] {
        &self.slots
    }
}

/// A lock that many threads of any processes hold for reading, or one for writing.
///
/// It belongs to threads, as a [`Lock`](super::Lock) does. A reader that dies stops being one; a
/// writer that dies poisons the lock. While a writer waits for the present readers, no new reader
/// gets in, except for threads that read already. It takes one descriptor. A clone is another
/// handle of the same lock.
///
/// ```
/// use multiproc_shm::sync::{RwLock, WaitError};
/// use multiproc_shm::wait::deadline::Deadline;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lock = RwLock::create()?;
/// let _ = lock.acquire_read(Deadline::Never)?;
/// let same = RwLock::from_fds([lock.to_fd()?])?; // in another process, perhaps
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         let _ = same.acquire_read(Deadline::Never).unwrap();
///         same.release_read().unwrap();
///         assert!(matches!(same.acquire_write(Deadline::Now), Err(WaitError::Timeout)));
///     });
/// });
/// lock.release_read()?;
/// let _ = lock.acquire_write(Deadline::Never)?;
/// lock.release_write()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RwLock {
    mapping: Arc<LockMapping<RwLockState, WORDS>>,
    is_interruptible: bool,
}

impl RwLock {
    /// Creates a lock, which is free.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create() -> io::Result<RwLock> {
        Ok(RwLock { mapping: Arc::new(LockMapping::new(Segment::create()?)), is_interruptible: false })
    }

    /// Opens a lock with the descriptor that [`to_fd`](RwLock::to_fd) has returned, perhaps in
    /// another process.
    ///
    /// # Errors
    /// `InvalidData` when it is something else; `Unsupported` when it was created in another PID
    /// namespace; `ENOMEM`.
    pub fn from_fds([memory]: [OwnedFd; 1]) -> io::Result<RwLock> {
        Ok(RwLock { mapping: Arc::new(LockMapping::new(Segment::open(memory)?)), is_interruptible: false })
    }

    /// Returns a descriptor of the memory file, to be sent to another process.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn to_fd(&self) -> io::Result<OwnedFd> {
        self.mapping.as_fd().try_clone_to_owned()
    }

    /// Makes this handle interruptible, as
    /// [`Semaphore::interruptible`](super::Semaphore::interruptible) does.
    #[must_use]
    pub fn interruptible(mut self) -> RwLock {
        self.is_interruptible = true;
        self
    }

    fn acquire<R>(&self, take: impl FnOnce() -> Result<R, RwAcquireError>) -> Result<Acquired, WaitError> {
        interruptible_if(self.is_interruptible, take)?;
        Ok(Acquired::of(self.mapping.turnstile().poison()))
    }

    /// Acquires the lock for reading, for the calling thread, waiting until `deadline`. A thread
    /// may read several times.
    ///
    /// # Errors
    /// As [`Lock::acquire`](super::Lock::acquire); [`WaitError::AlreadyHeld`] if the calling thread
    /// writes, or reads through another handle while a writer waits; [`WaitError::TooManyReaders`].
    pub fn acquire_read(&self, deadline: Deadline) -> Result<Acquired, WaitError> {
        self.acquire(|| self.mapping.read(deadline))
    }

    /// Acquires the lock for writing, for the calling thread, waiting until `deadline`.
    ///
    /// # Errors
    /// As [`Lock::acquire`](super::Lock::acquire); [`WaitError::AlreadyHeld`] if the calling thread
    /// reads or writes.
    pub fn acquire_write(&self, deadline: Deadline) -> Result<Acquired, WaitError> {
        self.acquire(|| self.mapping.write(deadline))
    }

    /// Ends reading once.
    ///
    /// # Errors
    /// [`ReleaseError::NotHeld`] if the calling thread doesn't read through this handle or a clone
    /// of it.
    pub fn release_read(&self) -> Result<(), ReleaseError> {
        if self.mapping.end_reading_here() { Ok(()) } else { Err(ReleaseError::NotHeld) }
    }

    /// Ends writing.
    ///
    /// # Errors
    /// [`ReleaseError::NotHeld`] if the calling thread doesn't write.
    pub fn release_write(&self) -> Result<(), ReleaseError> {
        if !self.mapping.turnstile().is_mine() {
            return Err(ReleaseError::NotHeld);
        }
        self.mapping.end_writing();
        Ok(())
    }

    /// Returns whether a thread writes at this moment, or waits for readers in order to write.
    pub fn is_write_locked(&self) -> bool {
        self.mapping.is_written()
    }

    /// Returns how many threads read at this moment, or are about to.
    pub fn readers(&self) -> usize {
        self.mapping.readers()
    }

    /// Returns whether a thread has died or panicked while writing.
    pub fn is_poisoned(&self) -> bool {
        self.mapping.turnstile().poison().is_some()
    }

    /// Clears the poison, once what the lock guards has been put right.
    pub fn clear_poison(&self) {
        self.mapping.turnstile().clear_poison();
    }
}
