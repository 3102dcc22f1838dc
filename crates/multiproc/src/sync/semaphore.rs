//! [`Semaphore`] and [`BoundedSemaphore`]: counting semaphores.
//!
//! The number of free permits, and a ledger of how many each process holds. See `sync/PROTOCOL.md`
//! of `multiproc-shm`, "Semaphore".

use std::fmt;
use std::time::Duration;

use multiproc_shm::sync::{self as shm, semaphore};
use multiproc_shm::wait::deadline::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::travel;
use super::wait_error::WaitError;
use crate::create_error::CreateError;

/// A counting semaphore: Python's `multiprocessing.Semaphore`, with a guard for each permit.
///
/// A [`Permit`] goes back to the semaphore when it is dropped, and also when its process dies, by
/// whatever means: waiters get it within milliseconds. To use a semaphore for signals, where one
/// process takes what another gives, call [`Permit::forget`] on what was taken, and
/// [`release`](Semaphore::release) in the other process.
///
/// ```
/// use multiproc::Process;
/// use multiproc::sync::Semaphore;
///
/// fn download(number: u32, connections: Semaphore) -> multiproc::Result<u32> {
///     let _permit = connections.acquire()?; // two at a time
///     Ok(number * number)
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let connections = Semaphore::new(2)?;
/// let children = (0..5).map(|number| Process::new(download, (number, connections.clone())).start());
/// for child in children.collect::<Result<Vec<_>, _>>()? {
///     println!("{}", child.join()??);
/// }
/// assert_eq!(connections.available(), 2);
/// # Ok(())
/// # }
/// ```
///
/// A semaphore isn't fair: a permit goes to the thread that tries first while there is one, even if
/// another has waited longer.
///
/// # Implementation notes
/// A counter and a list of holders in a memfd, changed under a robust futex. A waiter spins for
/// some microseconds, sleeps on a futex for some milliseconds, and then in poll(2), on the holders'
/// pidfds among others, without a time limit.
#[derive(Clone)]
pub struct Semaphore {
    pub(super) permits: shm::Semaphore,
}

/// A [`Semaphore`] that never has more permits than it was created with: Python's
/// `multiprocessing.BoundedSemaphore`.
///
/// Releasing a permit that was not taken and forgotten before is an error.
///
/// ```
/// use multiproc::sync::BoundedSemaphore;
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let semaphore = BoundedSemaphore::new(1)?;
/// semaphore.acquire()?.forget();
/// semaphore.release()?;
/// assert!(semaphore.release().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BoundedSemaphore {
    pub(super) permits: shm::Semaphore,
}

/// Why permits can't be added to a semaphore.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// A [`BoundedSemaphore`] would have more permits than it was created with, counting those that
    /// are held.
    #[error("cannot release {count} permits of a bounded semaphore: there would be more than {bound}")]
    Bound {
        /// How many were to be released.
        count: usize,
        /// How many the semaphore was created with.
        bound: usize,
    },
    /// There would be more than [`Semaphore::MAX_PERMITS`].
    #[error("cannot release {count} permits of a semaphore: there would be more than {}", Semaphore::MAX_PERMITS)]
    Overflow {
        /// How many were to be released.
        count: usize,
    },
}

pub(super) const ACQUIRE: &str = "acquire a permit of a semaphore";

fn create(permits: usize, bound: Option<usize>) -> Result<shm::Semaphore, CreateError> {
    shm::Semaphore::create(permits, bound).map_err(CreateError::of("semaphore"))
}

fn acquire(permits: &shm::Semaphore) -> Result<Permit<'_>, WaitError> {
    let taken = acquire_until(permits, Deadline::Never)?;
    Ok(taken.expect("endless waits don't time out"))
}

fn acquire_until(permits: &shm::Semaphore, deadline: Deadline) -> Result<Option<Permit<'_>>, WaitError> {
    let taken = WaitError::of(permits.acquire(deadline), ACQUIRE, "release one")?;
    Ok(taken.map(|()| Permit::new(permits)))
}

fn release(permits: &shm::Semaphore, count: usize) -> Result<(), ReleaseError> {
    permits.add(count).map_err(|error| match error {
        shm::ReleaseError::TooMany(bound) if bound < semaphore::MOST => ReleaseError::Bound { count, bound },
        _ => ReleaseError::Overflow { count },
    })
}

fn available(permits: &shm::Semaphore) -> usize {
    // If this fails, the permits of dead holders are reclaimed later, by a caller that needs one.
    let _ = permits.reclaim();
    permits.available()
}

macro_rules! impl_semaphore {
    ($name:ident) => {
        impl $name {
            /// The maximum number of permits.
            pub const MAX_PERMITS: usize = semaphore::MOST;

            /// Takes a permit, waiting until there is one.
            ///
            /// # Errors
            /// [`WaitError::Disconnected`] when no process is left that could release one;
            /// [`WaitError::Io`].
            #[inline]
            pub fn acquire(&self) -> Result<Permit<'_>, WaitError> {
                acquire(&self.permits)
            }

            /// Takes a permit if there is one; returns `None` otherwise. Before it returns `None`,
            /// it checks whether a process that holds a permit is dead, which takes some
            /// microseconds for each.
            ///
            /// # Errors
            /// [`WaitError::Io`].
            #[inline]
            pub fn try_acquire(&self) -> Result<Option<Permit<'_>>, WaitError> {
                acquire_until(&self.permits, Deadline::Now)
            }

            /// Takes a permit, waiting for at most `timeout`; returns `None` if there is none in
            /// that time.
            ///
            /// ```
            /// use std::time::Duration;
            ///
            #[doc = concat!("use multiproc::sync::", stringify!($name), ";")]
            ///
            /// # #[multiproc::main]
            /// # fn main() -> multiproc::Result<()> {
            #[doc = concat!("let semaphore = ", stringify!($name), "::new(1)?;")]
            /// let permit = semaphore.acquire()?;
            /// assert!(semaphore.acquire_timeout(Duration::from_millis(1))?.is_none());
            /// drop(permit);
            /// assert!(semaphore.acquire_timeout(Duration::from_millis(1))?.is_some());
            /// # Ok(())
            /// # }
            /// ```
            ///
            /// # Errors
            /// As for [`acquire`](Self::acquire).
            pub fn acquire_timeout(&self, timeout: Duration) -> Result<Option<Permit<'_>>, WaitError> {
                acquire_until(&self.permits, Deadline::after(timeout))
            }

            /// Adds a permit, in place of one that was [forgotten](Permit::forget) or in addition.
            /// Any process may do that.
            ///
            /// # Errors
            /// [`ReleaseError`], if there would be too many.
            pub fn release(&self) -> Result<(), ReleaseError> {
                self.release_many(1)
            }

            /// Adds `count` permits, or none in case of an error.
            ///
            /// # Errors
            /// [`ReleaseError`], if there would be too many.
            pub fn release_many(&self, count: usize) -> Result<(), ReleaseError> {
                release(&self.permits, count)
            }

            /// Returns how many permits are free at this moment, including those of dead processes.
            pub fn available(&self) -> usize {
                available(&self.permits)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("available", &self.permits.available()).finish_non_exhaustive()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                travel::serialize(self.permits.object(), serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let object = travel::deserialize(deserializer)?;
                let permits = shm::Semaphore::from_object(object).map_err(serde::de::Error::custom)?;
                Ok($name { permits })
            }
        }
    };
}

impl Semaphore {
    /// Creates a semaphore with this number of permits, which may be 0.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left, or `permits` is
    /// more than [`MAX_PERMITS`](Semaphore::MAX_PERMITS).
    pub fn new(permits: usize) -> Result<Semaphore, CreateError> {
        Ok(Semaphore { permits: create(permits, None)? })
    }
}

impl BoundedSemaphore {
    /// Creates a semaphore with this number of permits, which is also the bound.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left, or `permits` is
    /// more than [`MAX_PERMITS`](Semaphore::MAX_PERMITS).
    pub fn new(permits: usize) -> Result<BoundedSemaphore, CreateError> {
        Ok(BoundedSemaphore { permits: create(permits, Some(permits))? })
    }
}

impl_semaphore!(Semaphore);
impl_semaphore!(BoundedSemaphore);

/// A permit of a [`Semaphore`]. Dropping it gives it back.
///
/// In a fork copy of this process, the permit still belongs to the original: dropping the copy does
/// nothing.
#[must_use = "the permit is given back when this is dropped"]
pub struct Permit<'a> {
    permits: &'a shm::Semaphore,
    copy: u32,
}

impl<'a> Permit<'a> {
    pub(super) fn new(permits: &'a shm::Semaphore) -> Permit<'a> {
        Permit { permits, copy: multiproc_os::robust::copy_number() }
    }

    fn is_mine(&self) -> bool {
        self.copy == multiproc_os::robust::copy_number()
    }

    /// Drops the permit without giving it back: the semaphore has one permit less, until a process
    /// [releases](Semaphore::release) one. The death of this process doesn't change that.
    pub fn forget(self) {
        if self.is_mine() {
            self.permits.forget();
        }
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_mine() {
            self.permits.give_back();
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}
