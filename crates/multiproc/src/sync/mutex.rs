//! [`Mutex`]: a lock together with the value that it guards.
//!
//! A word that the holder's thread owns, and behind it the value, in the same memory file. See
//! `sync/PROTOCOL.md` of `multiproc-shm`, "Mutex".

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use multiproc_shm::lock::robust_word::{Holder, LockMapping, Poison, PoisonableWord};
use multiproc_shm::memory::cell::{Cell, Plain};
use multiproc_shm::memory::segment::{Layout, Segment};
use multiproc_shm::wait::deadline::Deadline;

use super::error::{LockError, Misuse};
use super::guard_state::GuardState;
use super::raw_lock::{self, RawLock};
use super::travel::travels;
use crate::create_error::CreateError;

/// The layout of a mutex in shared memory.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Shared<T> {
    pub(super) poisonable: PoisonableWord,
    cell: Cell<T>,
}

// SAFETY: `#[repr(C)]`, and both fields may be placed in shared memory. The segment takes care of
// the alignment.
unsafe impl<T: Plain> Layout for Shared<T> {
    const NAME: &'static str = "mutex";
    const KIND: u32 = 0x12;
}

/// A value in shared memory that threads of any processes access one at a time:
/// [`std::sync::Mutex`] across processes; in Python, a `Value` or `Array` with its lock.
///
/// The value lies in shared memory, so it must be plain old data ([`Plain`]): numbers, arrays of
/// numbers, and structs of these that are [`bytemuck::Pod`]; aligned to at most 64 bytes. All of
/// its memory is allocated at creation.
///
/// In everything else it is like [`Lock`](super::Lock): it can be sent to other processes, survives
/// the death of its holder, and then reports that as poison. A value that the dead holder was
/// writing may be half written; it is still a valid value of the type, and the next holder can put
/// it right.
///
/// ```
/// use multiproc::Process;
/// use multiproc::sync::Mutex;
///
/// fn add(total: Mutex<u64>, number: u64) -> multiproc::Result<()> {
///     *total.lock()? += number;
///     Ok(())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let total = Mutex::new(0)?;
/// let children = (1..=4).map(|number| Process::new(add, (total.clone(), number)).start());
/// for child in children.collect::<Result<Vec<_>, _>>()? {
///     child.join()??;
/// }
/// assert_eq!(total.get()?, 10);
/// # Ok(())
/// # }
/// ```
///
/// Recovering after the death of a holder:
///
/// ```
/// use multiproc::sync::{LockError, Mutex};
///
/// fn take(balance: &Mutex<[i64; 2]>) -> multiproc::Result<()> {
///     let mut balance = match balance.lock() {
///         Err(LockError::Poisoned(poisoned)) => {
///             eprintln!("{poisoned}");
///             let mut balance = poisoned.into_guard();
///             balance[1] = -balance[0]; // whatever puts it right
///             balance.clear_poison();
///             balance
///         }
///         locked => locked?,
///     };
///     balance[0] -= 1;
///     balance[1] += 1;
///     Ok(())
/// }
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// # let balance = Mutex::new([0, 0])?;
/// # take(&balance)?;
/// # assert_eq!(balance.get()?, [-1, 1]);
/// # Ok(())
/// # }
/// ```
pub struct Mutex<T: Plain> {
    pub(super) inner: Arc<LockMapping<Shared<T>>>,
}

/// The result of locking without a time limit.
pub(super) type Locked<'a, T> = Result<MutexGuard<'a, T>, LockError<MutexGuard<'a, T>>>;

/// The result of trying to lock, or of locking with a timeout.
type Tried<'a, T> = raw_lock::Tried<MutexGuard<'a, T>>;

impl<T: Plain> Mutex<T> {
    /// Creates a mutex with this value, which is free.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn new(value: T) -> Result<Mutex<T>, CreateError> {
        let segment: Segment<Shared<T>> = Segment::create().map_err(CreateError::of(Shared::<T>::NAME))?;
        // SAFETY: the segment is new, so no other thread accesses it.
        unsafe { segment.cell.begin_with(value) };
        Ok(Mutex { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// Creates a mutex with a value that is all zero. The value is never placed on the stack, where
    /// a large one might not fit.
    ///
    /// ```
    /// use multiproc::sync::Mutex;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let table = Mutex::<[[f64; 1024]; 1024]>::zeroed()?;
    /// table.lock()?[1000][3] = 1.5;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`new`](Mutex::new).
    pub fn zeroed() -> Result<Mutex<T>, CreateError> {
        let segment: Segment<Shared<T>> = Segment::create().map_err(CreateError::of(Shared::<T>::NAME))?;
        segment.cell.begin();
        Ok(Mutex { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// Acquires the mutex, waiting until it is free, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard, if a thread has died or panicked while holding the
    /// mutex; [`LockError::Misuse`] if the calling thread holds it already, or holds 1024 other
    /// locks.
    #[inline]
    pub fn lock(&self) -> Locked<'_, T> {
        self.lock_with(|()| MutexGuard::new(self))
    }

    /// Acquires the mutex if it is free; returns `None` if it is held.
    ///
    /// # Errors
    /// As for [`lock`](Mutex::lock).
    #[inline]
    pub fn try_lock(&self) -> Tried<'_, T> {
        self.try_lock_with(|()| MutexGuard::new(self))
    }

    /// Acquires the mutex, waiting for at most `timeout`; returns `None` if it isn't acquired in
    /// that time.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::sync::Mutex;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let mutex = Mutex::new([1.5, 2.5])?;
    /// if let Some(mut guard) = mutex.lock_timeout(Duration::from_millis(10))? {
    ///     guard[1] = 3.5;
    /// }
    /// assert_eq!(mutex.get()?, [1.5, 3.5]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`lock`](Mutex::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> Tried<'_, T> {
        self.lock_timeout_with(timeout, |()| MutexGuard::new(self))
    }

    /// Returns a copy of the value.
    ///
    /// # Errors
    /// As for [`lock`](Mutex::lock).
    pub fn get(&self) -> Result<T, LockError<()>> {
        self.lock().map(|guard| *guard).map_err(LockError::without_guard)
    }

    /// Replaces the value, and returns the previous one.
    ///
    /// # Errors
    /// As for [`lock`](Mutex::lock). The value is unchanged then.
    pub fn set(&self, value: T) -> Result<T, LockError<()>> {
        self.lock().map(|mut guard| std::mem::replace(&mut *guard, value)).map_err(LockError::without_guard)
    }

    /// Returns whether the mutex is held at this moment.
    pub fn is_locked(&self) -> bool {
        self.inner.poisonable.word().owner().is_some()
    }

    /// Returns whether a thread has died or panicked while holding the mutex. A holder's death is
    /// noticed by the next thread that locks it.
    pub fn is_poisoned(&self) -> bool {
        self.has_poison()
    }

    /// Clears the poison, once the value has been put right: locking no longer gives an error.
    pub fn clear_poison(&self) {
        self.inner.poisonable.clear_poison();
    }
}

impl<T: Plain> RawLock for Mutex<T> {
    type Hold = ();

    #[inline]
    fn name(&self) -> &'static str {
        Shared::<T>::NAME
    }

    #[inline]
    fn acquire(&self, deadline: Deadline) -> Result<Option<()>, Misuse> {
        let taken = self.inner.poisonable.take(&self.inner, 0, deadline, || true);
        Misuse::unless_busy(taken, Shared::<T>::NAME)
    }

    #[inline]
    fn poison(&self) -> Option<(Poison, Option<Holder>)> {
        self.inner.poisonable.poison()
    }
}

impl<T: Plain> Clone for Mutex<T> {
    fn clone(&self) -> Mutex<T> {
        Mutex { inner: self.inner.clone() }
    }
}

/// Shows the value, if the mutex is free.
impl<T: Plain + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Mutex");
        match self.try_lock() {
            Ok(Some(guard)) => text.field("value", &*guard),
            Err(LockError::Poisoned(poisoned)) => text.field("value", &**poisoned.guard()),
            _ => text.field("locked", &self.is_locked()),
        };
        text.field("poisoned", &self.is_poisoned()).finish()
    }
}

travels!(Mutex<T: Plain>, |mapping: LockMapping<Shared<T>>| {
    mapping.cell.check().map_err(serde::de::Error::custom)?;
    Ok(Mutex { inner: Arc::new(mapping) })
});

/// The guard of a [`Mutex`] that is held, which gives access to its value. Dropping it releases the
/// mutex.
///
/// In a fork copy of this process, the mutex is still held by the original: accessing the value
/// through the copy's guard panics, and dropping that guard does nothing.
#[must_use = "the mutex is given up when this is dropped"]
pub struct MutexGuard<'a, T: Plain> {
    mutex: &'a Mutex<T>,
    state: GuardState,
}

impl<'a, T: Plain> MutexGuard<'a, T> {
    /// The guard of the mutex that the calling thread has just acquired.
    #[inline]
    pub(super) fn new(mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        MutexGuard { mutex, state: GuardState::new() }
    }

    /// Clears the poison, as [`Mutex::clear_poison`] does.
    pub fn clear_poison(&self) {
        self.mutex.clear_poison();
    }
}

impl<T: Plain> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.state.mark_borrowed();
        // SAFETY: this guard's thread owns the word, so no other thread accesses the value, and the
        // reference borrows this guard.
        unsafe { self.mutex.inner.cell.get() }
    }
}

impl<T: Plain> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.state.mark_borrowed();
        // SAFETY: this guard's thread owns the word, so no other thread accesses the value, and the
        // reference borrows this guard mutably.
        unsafe { self.mutex.inner.cell.get_mut() }
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain + fmt::Display> fmt::Display for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Plain> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.state.end(&self.mutex.inner.poisonable);
        self.mutex.inner.poisonable.give_up(&self.mutex.inner, 0);
    }
}
