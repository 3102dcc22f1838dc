//! [`RwLock`]: many who read a value, or one who writes it.
//!
//! Each reader has a word of its own, and so does the writer, so that the kernel tells of the death of each. The algorithm is in `shm/readers.rs`; `PROTOCOL.md`, "RwLock".

use std::fmt;
use std::mem::offset_of;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use super::error::{LockError, Misuse, not_made};
use super::guard_state::{GuardState, held};
use super::travel::travels;
use crate::error::Result;
use crate::shm::cell::{Cell, Plain};
use crate::shm::readers::{Denial, Entrance, MOST, Readers, Slot, WORDS};
use crate::shm::robust_word::{LockMapping, Patience};
use crate::shm::segment::{Layout, Segment};

/// What lies in shared memory.
#[derive(Debug)]
#[repr(C)]
struct Shared<T> {
    entrance: Entrance,
    cell: Cell<T>,
    slots: [Slot; MOST],
}

// SAFETY: `#[repr(C)]`, and all of them may lie there. The segment sees to the alignment.
unsafe impl<T: Plain> Layout for Shared<T> {
    const NAME: &'static str = "read-write lock";
    const KIND: u32 = 0x13;
    const AT_ONCE: usize = offset_of!(Shared<T>, slots);
}

impl<T: Plain> Readers for Shared<T> {
    #[inline]
    fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    #[inline]
    fn slots(&self) -> &[Slot; MOST] {
        &self.slots
    }
}

/// A value that threads of any processes read at the same time, or one of them writes: [`std::sync::RwLock`] over processes.
///
/// The value lies in shared memory, as that of a [`Mutex`](super::Mutex) does; where there is none, it is `()`. A clone is another handle of the same lock, and so is what arrives
/// where one was sent to. It costs one descriptor, and memory for the value and for as many readers as there have been at a time, 48 bytes each; 4096 at most.
///
/// A reader that dies is no reader any more; a writer that waits for it goes on at once. A writer that dies, or panics, leaves the value as it is at that moment, and all who read
/// or write from then on are told ([`LockError::Poisoned`]), until [`clear_poison`](RwLock::clear_poison).
///
/// A writer that has come to wait for readers lets no more of them in. A thread that reads already may do so again at any time, through the same handle or a clone of
/// that. (If the process has been sent the same lock twice, these are two handles.)
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
/// All processes that use it must be of the same PID namespace.
pub struct RwLock<T: Plain = ()> {
    inner: Arc<LockMapping<Shared<T>, WORDS>>,
}

/// What reading gives if it is waited for as long as it takes.
type Read<'a, T> = Result<RwLockReadGuard<'a, T>, LockError<RwLockReadGuard<'a, T>>>;

/// What it gives otherwise.
type TriedRead<'a, T> = Result<Option<RwLockReadGuard<'a, T>>, LockError<RwLockReadGuard<'a, T>>>;

/// What writing gives if it is waited for as long as it takes.
type Written<'a, T> = Result<RwLockWriteGuard<'a, T>, LockError<RwLockWriteGuard<'a, T>>>;

/// What it gives otherwise.
type TriedWrite<'a, T> = Result<Option<RwLockWriteGuard<'a, T>>, LockError<RwLockWriteGuard<'a, T>>>;

impl<T: Plain> RwLock<T> {
    /// A new one, with this value, which nobody reads or writes.
    ///
    /// # Errors
    /// [`Error::Make`](crate::Error::Make): no descriptor or no memory is left.
    pub fn new(value: T) -> Result<RwLock<T>> {
        let segment: Segment<Shared<T>> = Segment::create().map_err(not_made(Shared::<T>::NAME))?;
        // SAFETY: it is new, so nobody else has it.
        unsafe { segment.cell.begin_with(value) };
        Ok(RwLock { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// A new one, with a value that is all zero; without that having been anywhere else before, as a large one might have no place on the stack.
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
    /// As [`new`](RwLock::new).
    pub fn zeroed() -> Result<RwLock<T>> {
        let segment: Segment<Shared<T>> = Segment::create().map_err(not_made(Shared::<T>::NAME))?;
        segment.cell.begin();
        Ok(RwLock { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// Waits until nobody writes or is about to, and reads until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard, if somebody has died or panicked while writing; [`LockError::Misuse`] if the calling thread writes, holds 1024
    /// locks, would be one reader too many, or would wait for itself, since it reads through another handle and somebody waits to write.
    #[inline]
    pub fn read(&self) -> Read<'_, T> {
        match Self::granted(self.inner.read(Patience::Endless))? {
            Some(slot) => self.reader(slot),
            None => unreachable!("nobody waits for ever in vain"),
        }
    }

    /// Reads if nobody writes; `None` if somebody does, or is about to, or is looking whether somebody does.
    ///
    /// # Errors
    /// As [`read`](RwLock::read).
    pub fn try_read(&self) -> TriedRead<'_, T> {
        self.read_within(Patience::None)
    }

    /// As [`read`](RwLock::read), waiting for at most `timeout`; `None` when that is over.
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
    /// As [`read`](RwLock::read).
    pub fn read_timeout(&self, timeout: Duration) -> TriedRead<'_, T> {
        self.read_within(Patience::lasting(timeout))
    }

    fn read_within(&self, patience: Patience) -> TriedRead<'_, T> {
        match Self::granted(self.inner.read(patience))? {
            Some(slot) => self.reader(slot).map(Some),
            None => Ok(None),
        }
    }

    #[inline]
    fn reader(&self, slot: usize) -> Read<'_, T> {
        let guard = RwLockReadGuard { lock: self, slot, state: GuardState::new() };
        held(self.inner.turnstile(), Shared::<T>::NAME, guard)
    }

    /// Waits until nobody reads or writes, and writes until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard, if somebody has died or panicked while writing; [`LockError::Misuse`] if the calling thread reads or writes, or holds 1024
    /// locks.
    #[inline]
    pub fn write(&self) -> Written<'_, T> {
        match Self::granted(self.inner.write(Patience::Endless))? {
            Some(()) => self.writer(),
            None => unreachable!("nobody waits for ever in vain"),
        }
    }

    /// Writes if nobody reads or writes; `None` if somebody does, or is about to, or is looking whether somebody does.
    ///
    /// # Errors
    /// As [`write`](RwLock::write).
    pub fn try_write(&self) -> TriedWrite<'_, T> {
        self.write_within(Patience::None)
    }

    /// As [`write`](RwLock::write), waiting for at most `timeout`; `None` when that is over.
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
    /// As [`write`](RwLock::write).
    pub fn write_timeout(&self, timeout: Duration) -> TriedWrite<'_, T> {
        self.write_within(Patience::lasting(timeout))
    }

    fn write_within(&self, patience: Patience) -> TriedWrite<'_, T> {
        match Self::granted(self.inner.write(patience))? {
            Some(()) => self.writer().map(Some),
            None => Ok(None),
        }
    }

    #[inline]
    fn writer(&self) -> Written<'_, T> {
        held(self.inner.turnstile(), Shared::<T>::NAME, RwLockWriteGuard { lock: self, state: GuardState::new() })
    }

    #[inline]
    fn granted<R>(result: Result<R, Denial>) -> Result<Option<R>, Misuse> {
        Misuse::unless_busy(result, Shared::<T>::NAME)
    }

    /// A copy of the value.
    ///
    /// # Errors
    /// As [`read`](RwLock::read).
    pub fn get(&self) -> Result<T> {
        Ok(*self.read()?)
    }

    /// Puts `value` in the place of what is there, and gives that.
    ///
    /// # Errors
    /// As [`write`](RwLock::write). Then nothing is changed.
    pub fn set(&self, value: T) -> Result<T> {
        Ok(std::mem::replace(&mut *self.write()?, value))
    }

    /// Whether somebody writes at this moment, or waits for readers to do so.
    pub fn is_write_locked(&self) -> bool {
        self.inner.is_written()
    }

    /// How many read at this moment, or are looking whether they can.
    pub fn readers(&self) -> usize {
        self.inner.readers()
    }

    /// Whether somebody has died or panicked while writing. That a writer has died is known to those who have read or written since.
    pub fn is_poisoned(&self) -> bool {
        self.inner.turnstile().poison().is_some()
    }

    /// Says that the value is in order again: who reads or writes from now on gets no error.
    pub fn clear_poison(&self) {
        self.inner.turnstile().clear_poison();
    }
}

impl<T: Plain> Clone for RwLock<T> {
    fn clone(&self) -> RwLock<T> {
        RwLock { inner: self.inner.clone() }
    }
}

/// With the value, if nobody writes.
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

/// One who reads the value of a [`RwLock`], until this is dropped.
///
/// In a copy of this process, made by fork, it is not the copy that reads: using its copy of the guard is a panic, and dropping that does nothing.
#[must_use = "the lock is given up when this is dropped"]
pub struct RwLockReadGuard<'a, T: Plain = ()> {
    lock: &'a RwLock<T>,
    slot: usize,
    state: GuardState,
}

impl<T: Plain> RwLockReadGuard<'_, T> {
    /// As [`RwLock::clear_poison`].
    pub fn clear_poison(&self) {
        self.lock.clear_poison();
    }
}

impl<T: Plain> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.state.mark_borrowed();
        // SAFETY: as long as this guard's slot is taken nobody writes, and this guard is borrowed.
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

/// The one who writes the value of a [`RwLock`], until this is dropped.
///
/// In a copy of this process, made by fork, it is not the copy that writes: using its copy of the guard is a panic, and dropping that does nothing.
#[must_use = "the lock is given up when this is dropped"]
pub struct RwLockWriteGuard<'a, T: Plain = ()> {
    lock: &'a RwLock<T>,
    state: GuardState,
}

impl<T: Plain> RwLockWriteGuard<'_, T> {
    /// As [`RwLock::clear_poison`].
    pub fn clear_poison(&self) {
        self.lock.clear_poison();
    }
}

impl<T: Plain> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.state.mark_borrowed();
        // SAFETY: this guard has the turnstile, and nobody reads, so nobody else touches the value; and this guard is borrowed.
        unsafe { self.lock.inner.cell.get() }
    }
}

impl<T: Plain> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.state.mark_borrowed();
        // SAFETY: this guard has the turnstile, and nobody reads, so nobody else touches the value; and this guard is borrowed to be changed.
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
