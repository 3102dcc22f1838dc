//! [`LockError`]: why locking failed, or what is wrong with a lock that was acquired.
//!
//! The holder of a lock may be killed at any instruction, which leaves what the lock guards as it
//! was at that instant. So the next holder acquires the lock with an error that says so, as with
//! the locks of the standard library after a panic.

use std::fmt;

use multiproc_shm::lock::readers::RwAcquireError;
use multiproc_shm::lock::robust_word::{Holder, Poison};

/// The error of locking: either the lock is acquired, but poisoned by an earlier holder; or it
/// isn't, because the caller has made a mistake.
///
/// The `?` operator converts it to an [`Error`](crate::Error) in functions that return
/// [`multiproc::Result`](crate::Result). That drops the guard, so the lock is released. (As with
/// the errors of [`std::sync`], a `Box<dyn Error>` can't be made of it while it has a guard, which
/// borrows the lock.) To go on in spite of the poison:
///
/// ```
/// use multiproc::sync::{Lock, LockError};
///
/// fn count(lock: &Lock) -> multiproc::Result<()> {
///     let guard = lock.lock().or_else(LockError::into_guard)?;
///     guard.clear_poison(); // once what the lock guards has been put right
///     Ok(())
/// }
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// # count(&Lock::new()?)
/// # }
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum LockError<G> {
    /// A thread has died or panicked while holding the lock. The caller holds it now.
    #[error(transparent)]
    Poisoned(Poisoned<G>),
    /// The lock can't be acquired; nothing has changed.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

impl<G> LockError<G> {
    /// Returns the guard, if the error is poison.
    ///
    /// # Errors
    /// The caller's mistake, otherwise.
    pub fn into_guard(self) -> Result<G, Misuse> {
        match self {
            LockError::Poisoned(poisoned) => Ok(poisoned.into_guard()),
            LockError::Misuse(misuse) => Err(misuse),
        }
    }

    /// Converts the guard.
    pub(super) fn map<H>(self, guard: impl FnOnce(G) -> H) -> LockError<H> {
        match self {
            LockError::Poisoned(poisoned) => LockError::Poisoned(poisoned.map(guard)),
            LockError::Misuse(misuse) => LockError::Misuse(misuse),
        }
    }

    /// Drops the guard, if the error is poison, and so releases the lock.
    pub fn without_guard(self) -> LockError<()> {
        self.map(drop)
    }

    /// Returns whether the lock was acquired, but is poisoned.
    pub fn is_poisoned(&self) -> bool {
        matches!(self, LockError::Poisoned(_))
    }

    /// Returns the kind of lock, for an error's text.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            LockError::Poisoned(poisoned) => poisoned.what,
            LockError::Misuse(misuse) => misuse.what(),
        }
    }
}

/// A lock that was acquired although an earlier holder has died or panicked, with the guard of the
/// present holder.
///
/// Each thread that acquires the lock gets this, until one of them clears the poison.
pub struct Poisoned<G> {
    guard: G,
    what: &'static str,
    cause: PoisonCause,
    holder: Option<Holder>,
}

/// How the holder of a lock came to poison it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoisonCause {
    /// The process was killed or has ended, or the thread has ended without dropping its guard.
    Died,
    /// The thread has panicked.
    Panicked,
}

impl From<Poison> for PoisonCause {
    fn from(poison: Poison) -> PoisonCause {
        match poison {
            Poison::Died => PoisonCause::Died,
            Poison::Panicked => PoisonCause::Panicked,
        }
    }
}

impl<G> Poisoned<G> {
    pub(crate) fn new(guard: G, what: &'static str, (poison, holder): (Poison, Option<Holder>)) -> Poisoned<G> {
        Poisoned { guard, what, cause: poison.into(), holder }
    }

    /// Returns the guard.
    pub fn into_guard(self) -> G {
        self.guard
    }

    /// Drops the guard, and so releases the lock.
    pub fn without_guard(self) -> Poisoned<()> {
        self.map(drop)
    }

    fn map<H>(self, guard: impl FnOnce(G) -> H) -> Poisoned<H> {
        Poisoned { guard: guard(self.guard), what: self.what, cause: self.cause, holder: self.holder }
    }

    /// Borrows the guard.
    pub fn guard(&self) -> &G {
        &self.guard
    }

    /// Borrows the guard mutably, to change what it guards.
    pub fn guard_mut(&mut self) -> &mut G {
        &mut self.guard
    }

    /// How the lock was poisoned.
    pub fn cause(&self) -> PoisonCause {
        self.cause
    }

    /// Returns the process that poisoned the lock. `None` if it died right after it took the lock,
    /// before that was recorded.
    pub fn pid(&self) -> Option<i32> {
        self.holder.map(|holder| holder.pid)
    }

    /// Returns the thread of that process.
    pub fn tid(&self) -> Option<i32> {
        self.holder.map(|holder| holder.tid)
    }
}

impl<G> fmt::Display for Poisoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.holder {
            Some(Holder { pid, tid }) if pid == tid => write!(f, "process {pid}")?,
            Some(Holder { pid, tid }) => write!(f, "thread {tid} of process {pid}")?,
            None => f.write_str("an unknown process")?,
        }
        let cause = match self.cause {
            PoisonCause::Died => "died",
            PoisonCause::Panicked => "panicked",
        };
        write!(f, " has {cause} while holding the {}, and what it guards may have been left half done", self.what)
    }
}

impl<G> std::error::Error for Poisoned<G> {}

/// A mistake of the program that would otherwise deadlock, or worse; or a limit that is reached.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// The calling thread already holds it, so it would wait for itself.
    #[error("this thread already holds the {0}, so it would wait for itself")]
    HeldHere(&'static str),
    /// The calling thread doesn't hold it: it runs in a fork copy of the process that does.
    #[error("this thread doesn't hold the {0}: it runs in a fork copy of the process that does")]
    NotHeld(&'static str),
    /// The calling thread holds it for reading, so it would wait for itself.
    #[error("this thread holds the {0} for reading, so it would wait for itself. Drop the read guard before writing")]
    Reads(&'static str),
    /// The calling thread holds it through another handle, which has arrived in this process
    /// separately. (Clones count as one handle.)
    #[error(
        "this thread holds the {0} through another handle, which this process received separately. Use one handle and its clones"
    )]
    OtherHandle(&'static str),
    /// The calling thread holds it 2^32 - 1 times already, the limit.
    #[error("this thread already holds the {0} 2^32 - 1 times, the maximum")]
    TooDeep(&'static str),
    /// There are 4096 readers, the maximum, or there is no memory for one more.
    #[error("the {0} already has 4096 readers, the maximum, or there is no memory for one more")]
    TooManyReaders(&'static str),
    /// It has no lock: its memory is used as atomics.
    #[error("the {0} is used as atomics, so it can't be locked")]
    Atomics(&'static str),
    /// The part is stale: the array has been split again since.
    #[error("stale part: the {0} has been split again since. Use the parts of the latest split")]
    Divided(&'static str),
    /// The calling thread holds 1024 locks, the maximum.
    #[error("cannot acquire the {0}: this thread already holds 1024 locks, the maximum")]
    TooMany(&'static str),
    /// The system refused the thread that waits on behalf of futures: `RLIMIT_NPROC`, or the limit
    /// of a control group.
    #[error("cannot start a thread to wait for the {0}: the limit of threads or memory is reached")]
    NoThread(&'static str),
}

impl Misuse {
    /// The result of a request for a lock; `Ok(None)` if others hold the lock.
    #[inline]
    pub(crate) fn unless_busy<R>(
        result: Result<R, impl Into<RwAcquireError>>,
        what: &'static str,
    ) -> Result<Option<R>, Misuse> {
        match result {
            Ok(granted) => Ok(Some(granted)),
            Err(error) => match Misuse::of(error, what) {
                None => Ok(None),
                Some(misuse) => Err(misuse),
            },
        }
    }

    /// The misuse behind a denied lock, or a refused word; `None` if others hold the lock.
    #[inline]
    pub(crate) fn of(error: impl Into<RwAcquireError>, what: &'static str) -> Option<Misuse> {
        match error.into() {
            RwAcquireError::Timeout | RwAcquireError::Interrupted => None,
            RwAcquireError::HeldForReading => Some(Misuse::Reads(what)),
            RwAcquireError::HeldForWriting => Some(Misuse::HeldHere(what)),
            RwAcquireError::OtherHandle => Some(Misuse::OtherHandle(what)),
            RwAcquireError::TooManyLocks => Some(Misuse::TooMany(what)),
            RwAcquireError::TooManyReaders => Some(Misuse::TooManyReaders(what)),
            RwAcquireError::StalePart => Some(Misuse::Divided(what)),
        }
    }

    fn what(&self) -> &'static str {
        match self {
            Misuse::HeldHere(what)
            | Misuse::NotHeld(what)
            | Misuse::Reads(what)
            | Misuse::OtherHandle(what)
            | Misuse::TooDeep(what)
            | Misuse::TooManyReaders(what)
            | Misuse::Atomics(what)
            | Misuse::Divided(what)
            | Misuse::TooMany(what)
            | Misuse::NoThread(what) => what,
        }
    }
}
