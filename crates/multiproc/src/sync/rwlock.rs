//! [`RwLock`]: a value for many readers, or one writer.
//!
//! Each reader owns a word, and so does the writer, so the kernel reports the death of each. The
//! algorithm is in `multiproc-shm/src/lock/readers.rs`. See `sync/PROTOCOL.md` of `multiproc-shm`,
//! "RwLock".

use std::fmt;
use std::mem::offset_of;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use multiproc_shm::lock::readers::{Entrance, MAX_READERS, Readers, Slot, WORDS};
use multiproc_shm::lock::robust_word::{Holder, LockMapping, Poison};
use multiproc_shm::memory::cell::{Cell, Plain};
use multiproc_shm::memory::segment::{Layout, Segment};
use multiproc_shm::wait::deadline::Deadline;

use super::error::{LockError, Misuse};
use super::guard_state::GuardState;
use super::raw_lock::{self, RawLock};
use super::travel::travels;
use crate::create_error::CreateError;

/// The layout of a read-write lock in shared memory.
#[derive(Debug)]
#[repr(C)]
struct Shared<T> {
    entrance: Entrance,
    cell: Cell<T>,
    slots: [Slot; MAX_READERS],
}

// SAFETY: `#[repr(C)]`, and all fields may be placed in shared memory. The segment takes care of
// the alignment.
unsafe impl<T: Plain> Layout for Shared<T> {
    const NAME: &'static str = "read-write lock";
    const KIND: u32 = 0x13;
    const INITIAL_LEN: usize = offset_of!(Shared<T>, slots);
}

impl<T: Plain> Readers for Shared<T> {
    #[inline]
    fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    #[inline]
    fn slots(&self) -> &[Slot; MAX_READERS] {
        &self.slots
    }
}

/// A value in shared memory that many threads of any processes read at the same time, or one of
/// them writes: [`std::sync::RwLock`] across processes.
///
/// The value lies in shared memory, as that of a [`Mutex`](super::Mutex) does; a lock without a
/// value has `()`. A clone is another handle of the same lock, and so is what arrives in another
/// process when a lock is sent there. A lock takes one descriptor, memory for the value, and 48
/// bytes for each of the most readers that it has had at a time; at most 4096.
///
/// When a reader dies, it stops being one, and a writer that waits for it goes on at once. When a
/// writer dies or panics, the value stays as it was at that moment, and all readers and writers
/// get [`LockError::Poisoned`] until [`clear_poison`](RwLock::clear_poison).
///
/// While a writer waits for the present readers to finish, no new reader gets in. A thread that
/// reads already may read again at any time, through the same handle or a clone of it. (If the
/// process has received the same lock twice, these are two handles.)
///
/// ```
/// use multiproc::Process;
/// use multiproc::sync::RwLock;
///
/// fn report(rates: RwLock<[f64; 3]>) -> multiproc::Result<f64> {
///     let rates = rates.read()?; // others read at the same time
///     Ok(rates.iter().sum())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rates = RwLock::new([1.0, 2.0, 3.0])?;
/// let child = Process::new(report, (rates.clone(),)).start()?;
/// assert_eq!(child.join()??, 6.0);
/// rates.set([4.0, 2.0, 3.0])?;
/// assert_eq!(report(rates)?, 9.0);
/// # Ok(())
/// # }
/// ```
///
/// All processes that use it must be in the same PID namespace.
pub struct RwLock<T: Plain = ()> {
    inner: Arc<LockMapping<Shared<T>, WORDS>>,
}

/// The result of reading without a time limit.
type Read<'a, T> = Result<RwLockReadGuard<'a, T>, LockError<RwLockReadGuard<'a, T>>>;

/// The result of trying to read, or of reading with a timeout.
type TriedRead<'a, T> = raw_lock::Tried<RwLockReadGuard<'a, T>>;

/// The result of writing without a time limit.
type Written<'a, T> = Result<RwLockWriteGuard<'a, T>, LockError<RwLockWriteGuard<'a, T>>>;

/// The result of trying to write, or of writing with a timeout.
type TriedWrite<'a, T> = raw_lock::Tried<RwLockWriteGuard<'a, T>>;

impl<T: Plain> RwLock<T> {
    /// Creates a lock with this value, which is free.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn new(value: T) -> Result<RwLock<T>, CreateError> {
        let segment: Segment<Shared<T>> = Segment::create().map_err(CreateError::of(Shared::<T>::NAME))?;
        // SAFETY: the segment is new, so no other thread accesses it.
        unsafe { segment.cell.begin_with(value) };
        Ok(RwLock { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// Creates a lock with a value that is all zero. The value is never placed on the stack, where
    /// a large one might not fit.
    ///
    /// ```
    /// use multiproc::sync::RwLock;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let table = RwLock::<[[f64; 1024]; 1024]>::zeroed()?;
    /// table.write()?[1000][3] = 1.5;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`new`](RwLock::new).
    pub fn zeroed() -> Result<RwLock<T>, CreateError> {
        let segment: Segment<Shared<T>> = Segment::create().map_err(CreateError::of(Shared::<T>::NAME))?;
        segment.cell.begin();
        Ok(RwLock { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// Acquires the lock for reading, waiting until no thread writes or is about to, and holds it
    /// until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard, if a thread has died or panicked while writing;
    /// [`LockError::Misuse`] if the calling thread writes, holds 1024 locks, would be one reader
    /// too many, or would wait for itself, since it reads through another handle and a writer
    /// waits.
    #[inline]
    pub fn read(&self) -> Read<'_, T> {
        Reading(self).lock_with(|slot| RwLockReadGuard::new(self, slot))
    }

    /// Acquires the lock for reading if no thread writes; returns `None` if a thread writes, is
    /// about to, or is just checking whether it can.
    ///
    /// # Errors
    /// As for [`read`](RwLock::read).
    pub fn try_read(&self) -> TriedRead<'_, T> {
        Reading(self).try_lock_with(|slot| RwLockReadGuard::new(self, slot))
    }

    /// Acquires the lock for reading, waiting for at most `timeout`; returns `None` if it isn't
    /// acquired in that time.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::sync::RwLock;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let lock = RwLock::new(7)?;
    /// let value = lock.read_timeout(Duration::from_millis(10))?;
    /// assert_eq!(*value.unwrap(), 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`read`](RwLock::read).
    pub fn read_timeout(&self, timeout: Duration) -> TriedRead<'_, T> {
        Reading(self).lock_timeout_with(timeout, |slot| RwLockReadGuard::new(self, slot))
    }

    /// Acquires the lock for writing, waiting until no thread reads or writes, and holds it until
    /// the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard, if a thread has died or panicked while writing;
    /// [`LockError::Misuse`] if the calling thread reads or writes, or holds 1024 locks.
    #[inline]
    pub fn write(&self) -> Written<'_, T> {
        Writing(self).lock_with(|()| RwLockWriteGuard::new(self))
    }

    /// Acquires the lock for writing if no thread reads or writes; returns `None` if a thread does,
    /// is about to, or is just checking whether it can.
    ///
    /// # Errors
    /// As for [`write`](RwLock::write).
    pub fn try_write(&self) -> TriedWrite<'_, T> {
        Writing(self).try_lock_with(|()| RwLockWriteGuard::new(self))
    }

    /// Acquires the lock for writing, waiting for at most `timeout`; returns `None` if it isn't
    /// acquired in that time.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::sync::RwLock;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let lock = RwLock::new(7)?;
    /// let reader = lock.read()?;
    /// std::thread::scope(|scope| {
    ///     let writer = scope.spawn(|| lock.write_timeout(Duration::from_millis(10)).unwrap().is_some());
    ///     assert!(!writer.join().unwrap());
    /// });
    /// # drop(reader);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`write`](RwLock::write).
    pub fn write_timeout(&self, timeout: Duration) -> TriedWrite<'_, T> {
        Writing(self).lock_timeout_with(timeout, |()| RwLockWriteGuard::new(self))
    }

    /// Returns a copy of the value.
    ///
    /// # Errors
    /// As for [`read`](RwLock::read).
    pub fn get(&self) -> Result<T, LockError<()>> {
        self.read().map(|guard| *guard).map_err(LockError::without_guard)
    }

    /// Replaces the value, and returns the previous one.
    ///
    /// # Errors
    /// As for [`write`](RwLock::write). The value is unchanged then.
    pub fn set(&self, value: T) -> Result<T, LockError<()>> {
        self.write().map(|mut guard| std::mem::replace(&mut *guard, value)).map_err(LockError::without_guard)
    }

    /// Returns whether a thread writes at this moment, or waits for readers in order to write.
    pub fn is_write_locked(&self) -> bool {
        self.inner.is_written()
    }

    /// Returns how many threads read at this moment, including those that are just checking whether
    /// they can.
    pub fn readers(&self) -> usize {
        self.inner.readers()
    }

    /// Returns whether a thread has died or panicked while writing. A writer's death is noticed by
    /// the next thread that reads or writes.
    pub fn is_poisoned(&self) -> bool {
        Writing(self).has_poison()
    }

    /// Clears the poison, once the value has been put right: reading and writing no longer give an
    /// error.
    pub fn clear_poison(&self) {
        self.inner.turnstile().clear_poison();
    }
}

/// The lock for reading.
struct Reading<'a, T: Plain>(&'a RwLock<T>);

/// The lock for writing.
struct Writing<'a, T: Plain>(&'a RwLock<T>);

impl<T: Plain> RawLock for Reading<'_, T> {
    /// The reader's slot.
    type Hold = usize;

    #[inline]
    fn name(&self) -> &'static str {
        Shared::<T>::NAME
    }

    #[inline]
    fn acquire(&self, deadline: Deadline) -> Result<Option<usize>, Misuse> {
        Misuse::unless_busy(self.0.inner.read(deadline), Shared::<T>::NAME)
    }

    #[inline]
    fn poison(&self) -> Option<(Poison, Option<Holder>)> {
        self.0.inner.turnstile().poison()
    }
}

impl<T: Plain> RawLock for Writing<'_, T> {
    type Hold = ();

    #[inline]
    fn name(&self) -> &'static str {
        Shared::<T>::NAME
    }

    #[inline]
    fn acquire(&self, deadline: Deadline) -> Result<Option<()>, Misuse> {
        Misuse::unless_busy(self.0.inner.write(deadline), Shared::<T>::NAME)
    }

    #[inline]
    fn poison(&self) -> Option<(Poison, Option<Holder>)> {
        self.0.inner.turnstile().poison()
    }
}

impl<T: Plain> Clone for RwLock<T> {
    fn clone(&self) -> RwLock<T> {
        RwLock { inner: self.inner.clone() }
    }
}

/// Shows the value, unless a thread writes.
impl<T: Plain + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("RwLock");
        match self.try_read() {
            Ok(Some(guard)) => text.field("value", &*guard),
            Err(LockError::Poisoned(poisoned)) => text.field("value", &**poisoned.guard()),
            _ => text.field("write_locked", &self.is_write_locked()),
        };
        text.field("poisoned", &self.is_poisoned()).finish()
    }
}

travels!(RwLock<T: Plain>, |mapping: LockMapping<Shared<T>, WORDS>| {
    mapping.cell.check().map_err(serde::de::Error::custom)?;
    Ok(RwLock { inner: Arc::new(mapping) })
});

/// The guard of a [`RwLock`] that is held for reading. Dropping it releases the lock.
///
/// In a fork copy of this process, it is still the original that reads: accessing the value through
/// the copy's guard panics, and dropping that guard does nothing.
#[must_use = "the lock is given up when this is dropped"]
pub struct RwLockReadGuard<'a, T: Plain = ()> {
    lock: &'a RwLock<T>,
    slot: usize,
    state: GuardState,
}

impl<'a, T: Plain> RwLockReadGuard<'a, T> {
    #[inline]
    fn new(lock: &'a RwLock<T>, slot: usize) -> RwLockReadGuard<'a, T> {
        RwLockReadGuard { lock, slot, state: GuardState::new() }
    }

    /// Clears the poison, as [`RwLock::clear_poison`] does.
    pub fn clear_poison(&self) {
        self.lock.clear_poison();
    }
}

impl<T: Plain> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.state.mark_borrowed();
        // SAFETY: no thread writes as long as this guard's slot is taken, and the reference borrows
        // this guard.
        unsafe { self.lock.inner.cell.get() }
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain + fmt::Display> fmt::Display for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.inner.end_reading(self.slot);
    }
}

/// The guard of a [`RwLock`] that is held for writing. Dropping it releases the lock.
///
/// In a fork copy of this process, it is still the original that writes: accessing the value
/// through the copy's guard panics, and dropping that guard does nothing.
#[must_use = "the lock is given up when this is dropped"]
pub struct RwLockWriteGuard<'a, T: Plain = ()> {
    lock: &'a RwLock<T>,
    state: GuardState,
}

impl<'a, T: Plain> RwLockWriteGuard<'a, T> {
    #[inline]
    fn new(lock: &'a RwLock<T>) -> RwLockWriteGuard<'a, T> {
        RwLockWriteGuard { lock, state: GuardState::new() }
    }

    /// Clears the poison, as [`RwLock::clear_poison`] does.
    pub fn clear_poison(&self) {
        self.lock.clear_poison();
    }
}

impl<T: Plain> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.state.mark_borrowed();
        // SAFETY: this guard's thread owns the turnstile and no thread reads, so no other thread
        // accesses the value; and the reference borrows this guard.
        unsafe { self.lock.inner.cell.get() }
    }
}

impl<T: Plain> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.state.mark_borrowed();
        // SAFETY: this guard's thread owns the turnstile and no thread reads, so no other thread
        // accesses the value; and the reference borrows this guard mutably.
        unsafe { self.lock.inner.cell.get_mut() }
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain + fmt::Display> fmt::Display for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain> Drop for RwLockWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.state.end(self.lock.inner.turnstile());
        self.lock.inner.end_writing();
    }
}
