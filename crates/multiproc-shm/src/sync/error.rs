//! [`WaitError`] and [`ReleaseError`]: why a call on an object of this module failed.

use std::io;

use crate::lock::readers::RwAcquireError;
use crate::lock::robust_word::{AcquireError, Holder, Poison};
use crate::lock::spin_lock::Stalled;
use crate::wait::wait_queue::WaitFailure;

/// A lock that was acquired.
#[must_use = "a lock can be acquired and poisoned"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired {
    /// The caller holds the lock.
    Taken,
    /// The caller holds the lock, but an earlier holder has died or panicked with it: what the lock
    /// guards may have been left half done. Each caller that acquires the lock gets this until
    /// the poison is cleared.
    Poisoned {
        /// How the earlier holder has ended.
        cause: Poison,
        /// The process of that holder; `None` if it isn't known.
        pid: Option<i32>,
    },
}

impl Acquired {
    /// Returns whether the lock is poisoned.
    pub fn is_poisoned(self) -> bool {
        matches!(self, Acquired::Poisoned { .. })
    }

    #[inline]
    pub(crate) fn of(poison: Option<(Poison, Option<Holder>)>) -> Acquired {
        match poison {
            None => Acquired::Taken,
            Some((cause, holder)) => Acquired::Poisoned { cause, pid: holder.map(|holder| holder.pid) },
        }
    }
}

/// Why a wait failed. The object is unchanged, except that a failed wait at a
/// [`Barrier`](super::Barrier) breaks its round.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The deadline has passed.
    #[error("the deadline has passed")]
    Timeout,
    /// A signal handler ran in the waiting thread, and the handle is interruptible.
    #[error("a signal handler ran in the waiting thread")]
    Interrupted,
    /// No process is left that could end the wait: all that have the object wait themselves, or
    /// have ended.
    #[error("no process is left that could end the wait")]
    Disconnected,
    /// Another thread or process is in the middle of an operation on the object, and the caller
    /// doesn't wait at all. The operation takes less than a microsecond, unless its process is
    /// stopped: try again with a deadline.
    #[error("another thread is in the middle of an operation on the object")]
    Busy,
    /// A process was stopped in the middle of an operation on the object, or makes no progress
    /// there, until the deadline.
    #[error(transparent)]
    Stalled(Stalled),
    /// The calling thread already holds the lock, so it would wait for itself.
    #[error("this thread already holds the lock, so it would wait for itself")]
    AlreadyHeld,
    /// The calling thread holds 1024 locks, the maximum.
    #[error("this thread already holds 1024 locks, the maximum")]
    TooManyLocks,
    /// The lock has 4096 readers, the maximum, or there is no memory for one more.
    #[error("the lock already has 4096 readers, the maximum, or there is no memory for one more")]
    TooManyReaders,
    /// The system refused to wait: `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`; `/proc` is not mounted.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for WaitError {
    fn from(error: io::Error) -> WaitError {
        match Stalled::of(&error) {
            Some(Stalled::BUSY) => WaitError::Busy,
            Some(stalled) => WaitError::Stalled(stalled),
            None if error.kind() == io::ErrorKind::Interrupted => WaitError::Interrupted,
            None => WaitError::Io(error),
        }
    }
}

impl From<Stalled> for WaitError {
    fn from(stalled: Stalled) -> WaitError {
        if stalled == Stalled::BUSY { WaitError::Busy } else { WaitError::Stalled(stalled) }
    }
}

impl From<WaitFailure> for WaitError {
    fn from(failure: WaitFailure) -> WaitError {
        match failure {
            WaitFailure::Timeout => WaitError::Timeout,
            WaitFailure::Disconnected => WaitError::Disconnected,
            WaitFailure::Interrupted => WaitError::Interrupted,
            WaitFailure::Io(error) => error.into(),
        }
    }
}

impl From<AcquireError> for WaitError {
    fn from(error: AcquireError) -> WaitError {
        match error {
            AcquireError::Timeout => WaitError::Timeout,
            AcquireError::AlreadyHeld => WaitError::AlreadyHeld,
            AcquireError::TooManyLocks => WaitError::TooManyLocks,
            AcquireError::Interrupted => WaitError::Interrupted,
        }
    }
}

impl From<RwAcquireError> for WaitError {
    fn from(error: RwAcquireError) -> WaitError {
        match error {
            // There are no parts that could be stale.
            RwAcquireError::Timeout | RwAcquireError::StalePart => WaitError::Timeout,
            RwAcquireError::HeldForReading | RwAcquireError::HeldForWriting | RwAcquireError::OtherHandle => {
                WaitError::AlreadyHeld
            }
            RwAcquireError::TooManyLocks => WaitError::TooManyLocks,
            RwAcquireError::TooManyReaders => WaitError::TooManyReaders,
            RwAcquireError::Interrupted => WaitError::Interrupted,
        }
    }
}

impl From<WaitError> for io::Error {
    fn from(error: WaitError) -> io::Error {
        let kind = match error {
            WaitError::Io(error) => return error,
            WaitError::Stalled(stalled) => return stalled.into(),
            WaitError::Busy => return Stalled::BUSY.into(),
            WaitError::Timeout => io::ErrorKind::TimedOut,
            WaitError::Interrupted => io::ErrorKind::Interrupted,
            WaitError::Disconnected => io::ErrorKind::BrokenPipe,
            WaitError::AlreadyHeld => io::ErrorKind::Deadlock,
            WaitError::TooManyLocks | WaitError::TooManyReaders => io::ErrorKind::QuotaExceeded,
        };
        io::Error::new(kind, error)
    }
}

/// Why a lock or a permit can't be released. The object is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The caller doesn't hold the lock; or no process does, if any process may release it.
    #[error("cannot release a lock or permit that the caller doesn't hold")]
    NotHeld,
    /// There would be more permits than this bound.
    #[error("cannot add permits to a semaphore: there would be more than {0}")]
    TooMany(usize),
}
