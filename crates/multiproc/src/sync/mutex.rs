//! [`Mutex`]: a lock with the value that it guards.
//!
//! A word that the holder's thread owns, and behind it the value, in the same memory file. `PROTOCOL.md`, "Mutex".

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use super::error::{LockError, Misuse, not_made};
use super::guard_state::{GuardState, held};
use super::travel::travels;
use crate::error::Result;
use crate::shm::cell::{Cell, Plain};
use crate::shm::robust_word::{LockMapping, Patience, PoisonableWord, Refusal};
use crate::shm::segment::{Layout, Segment};

/// What lies in shared memory.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Shared<T> {
    pub(super) poisonable: PoisonableWord,
    cell: Cell<T>,
}

// SAFETY: `#[repr(C)]`, and both may lie there. The segment sees to the alignment.
unsafe impl<T: Plain> Layout for Shared<T> {
    const NAME: &'static str = "mutex";
    const KIND: u32 = 0x12;
}

/// A value for threads of any processes, one at a time: [`std::sync::Mutex`] over processes; in Python, a `Value` or `Array` with its lock.
///
/// The value lies in shared memory, so it is plain old data ([`Plain`]): numbers, arrays of numbers, structs of such that are [`bytemuck::Pod`]; aligned to 64 bytes at
/// most. All of its memory is there from the beginning.
///
/// In everything else it is as [`Lock`](super::Lock): it travels, it outlives those who die holding it, and says so. What they were writing may then be half
/// written; it is a value nevertheless, and whoever gets it can put it right.
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
/// Going on after a death:
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

/// What locking gives if it is waited for as long as it takes.
pub(super) type Locked<'a, T> = Result<MutexGuard<'a, T>, LockError<MutexGuard<'a, T>>>;

/// What it gives otherwise.
type Tried<'a, T> = Result<Option<MutexGuard<'a, T>>, LockError<MutexGuard<'a, T>>>;

impl<T: Plain> Mutex<T> {
    /// A new one, with this value, which nobody holds.
    ///
    /// # Errors
    /// [`Error::Make`](crate::Error::Make): no descriptor or no memory is left.
    pub fn new(value: T) -> Result<Mutex<T>> {
        let segment: Segment<Shared<T>> = Segment::create().map_err(not_made(Shared::<T>::NAME))?;
        // SAFETY: it is new, so nobody else has it.
        unsafe { segment.cell.begin_with(value) };
        Ok(Mutex { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// A new one, with a value that is all zero; without that having been anywhere else before, as a large one might have no place on the stack.
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
    /// As [`new`](Mutex::new).
    pub fn zeroed() -> Result<Mutex<T>> {
        let segment: Segment<Shared<T>> = Segment::create().map_err(not_made(Shared::<T>::NAME))?;
        segment.cell.begin();
        Ok(Mutex { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// Waits until nobody holds it, and holds it until the guard is dropped.
    ///
    /// # Errors
    /// [`LockError::Poisoned`], with the guard, if somebody has died or panicked while holding it; [`LockError::Misuse`] if the calling thread holds it already,
    /// or holds 1024 others.
    #[inline]
    pub fn lock(&self) -> Locked<'_, T> {
        match self.take(Patience::Endless)? {
            true => self.guard(),
            false => unreachable!("nobody waits for ever in vain"),
        }
    }

    /// Holds it if nobody else does; `None` if somebody does.
    ///
    /// # Errors
    /// As [`lock`](Mutex::lock).
    #[inline]
    pub fn try_lock(&self) -> Tried<'_, T> {
        self.lock_within(Patience::None)
    }

    /// As [`lock`](Mutex::lock), for at most `timeout`; `None` when that is over.
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
    /// As [`lock`](Mutex::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> Tried<'_, T> {
        self.lock_within(Patience::lasting(timeout))
    }

    #[inline]
    fn lock_within(&self, patience: Patience) -> Tried<'_, T> {
        match self.take(patience)? {
            true => self.guard().map(Some),
            false => Ok(None),
        }
    }

    /// False if the patience has come to its end.
    #[inline]
    fn take(&self, patience: Patience) -> Result<bool, Misuse> {
        match self.inner.poisonable.take(&self.inner, 0, patience, || true) {
            Ok(()) => Ok(true),
            Err(Refusal::Busy) => Ok(false),
            Err(refusal) => Err(Misuse::of(refusal, Shared::<T>::NAME).expect("it isn't that somebody has it")),
        }
    }

    /// Of what has just been taken.
    #[inline]
    pub(super) fn guard(&self) -> Locked<'_, T> {
        held(&self.inner.poisonable, Shared::<T>::NAME, MutexGuard { mutex: self, state: GuardState::new() })
    }

    /// A copy of the value.
    ///
    /// # Errors
    /// As [`lock`](Mutex::lock).
    pub fn get(&self) -> Result<T> {
        Ok(*self.lock()?)
    }

    /// Puts `value` in the place of what is there, and gives that.
    ///
    /// # Errors
    /// As [`lock`](Mutex::lock). Then nothing is changed.
    pub fn set(&self, value: T) -> Result<T> {
        Ok(std::mem::replace(&mut *self.lock()?, value))
    }

    /// Whether somebody holds it at this moment.
    pub fn is_locked(&self) -> bool {
        self.inner.poisonable.word().owner().is_some()
    }

    /// Whether somebody has died or panicked while holding it. That a holder has died is known to those who have locked it since.
    pub fn is_poisoned(&self) -> bool {
        self.inner.poisonable.poison().is_some()
    }

    /// Says that the value is in order again: who locks it from now on gets no error.
    pub fn clear_poison(&self) {
        self.inner.poisonable.clear_poison();
    }
}

impl<T: Plain> Clone for Mutex<T> {
    fn clone(&self) -> Mutex<T> {
        Mutex { inner: self.inner.clone() }
    }
}

/// With the value, if nobody holds it.
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

/// A [`Mutex`] that is held, and by which its value is read and written. Dropping it gives the mutex up.
///
/// In a copy of this process, made by fork, the mutex is not the copy's: using its copy of the guard is a panic, and dropping that does nothing.
#[must_use = "the mutex is given up when this is dropped"]
pub struct MutexGuard<'a, T: Plain> {
    mutex: &'a Mutex<T>,
    state: GuardState,
}

impl<T: Plain> MutexGuard<'_, T> {
    /// As [`Mutex::clear_poison`].
    pub fn clear_poison(&self) {
        self.mutex.clear_poison();
    }
}

impl<T: Plain> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.state.mark_borrowed();
        // SAFETY: the word is this guard's, so nobody else touches the value, and this guard is borrowed.
        unsafe { self.mutex.inner.cell.get() }
    }
}

impl<T: Plain> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.state.mark_borrowed();
        // SAFETY: the word is this guard's, so nobody else touches the value, and this guard is borrowed to be changed.
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
