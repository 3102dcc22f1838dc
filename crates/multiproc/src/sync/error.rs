//! Why something can't be locked as one would like: [`LockError`].
//!
//! Whoever holds a lock may be killed at any instruction, and what the lock guards is then as it was left. So the next one is told, as by the locks of the
//! standard library after a panic, and has the lock all the same.

use std::fmt;
use std::io;

use crate::error::Error;
use crate::shm::readers::Denial;
use crate::shm::robust_word::{Holder, Poison, Refusal};

/// Why a lock isn't simply held now: it is, but somebody has come to grief with it; or it isn't, because the caller has made a mistake.
///
/// `?` makes an [`Error`](crate::Error) of it, and drops the guard, so that the lock is free again; so it does in functions that return
/// [`multiproc::Result`](crate::Result). (As with those of [`std::sync`], a `Box<dyn Error>` can't be made of it while it has a guard, which borrows the lock.) To
/// go on with what is there:
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
    /// Somebody has died or panicked while holding it. The caller holds it now.
    #[error(transparent)]
    Poisoned(Poisoned<G>),
    /// It can't be held; nothing has changed.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

impl<G> LockError<G> {
    /// The guard, if it was for poison that there is an error.
    ///
    /// # Errors
    /// What the caller has done wrong, if not.
    pub fn into_guard(self) -> Result<G, Misuse> {
        match self {
            LockError::Poisoned(poisoned) => Ok(poisoned.into_guard()),
            LockError::Misuse(misuse) => Err(misuse),
        }
    }

    /// With another guard.
    pub(super) fn map<H>(self, guard: impl FnOnce(G) -> H) -> LockError<H> {
        match self {
            LockError::Poisoned(poisoned) => LockError::Poisoned(Poisoned {
                guard: guard(poisoned.guard),
                what: poisoned.what,
                cause: poisoned.cause,
                holder: poisoned.holder,
            }),
            LockError::Misuse(misuse) => LockError::Misuse(misuse),
        }
    }

    /// Whether the lock is held, and somebody has come to grief with it.
    pub fn is_poisoned(&self) -> bool {
        matches!(self, LockError::Poisoned(_))
    }
}

/// What somebody has left behind who died or panicked while holding a lock, and the guard of the one who holds it now.
///
/// It stays so for all who lock it, until one of them says that it has been put right.
pub struct Poisoned<G> {
    guard: G,
    what: &'static str,
    cause: PoisonCause,
    holder: Option<Holder>,
}

/// How somebody has come to grief while holding a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoisonCause {
    /// The process was killed, or has ended, or the thread has, with the guard forgotten.
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

    /// The guard.
    pub fn into_guard(self) -> G {
        self.guard
    }

    /// The guard, borrowed.
    pub fn guard(&self) -> &G {
        &self.guard
    }

    /// The guard, borrowed to change what it guards.
    pub fn guard_mut(&mut self) -> &mut G {
        &mut self.guard
    }

    /// What has happened.
    pub fn cause(&self) -> PoisonCause {
        self.cause
    }

    /// The process that it has happened to. None when it had only just got the lock, and nobody can say.
    pub fn pid(&self) -> Option<i32> {
        self.holder.map(|holder| holder.pid)
    }

    /// The thread of that process.
    pub fn tid(&self) -> Option<i32> {
        self.holder.map(|holder| holder.tid)
    }
}

impl<G> fmt::Display for Poisoned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.holder {
            Some(Holder { pid, tid }) if pid == tid => write!(f, "process {pid}")?,
            Some(Holder { pid, tid }) => write!(f, "thread {tid} of process {pid}")?,
            None => f.write_str("somebody")?,
        }
        let cause = match self.cause {
            PoisonCause::Died => "died",
            PoisonCause::Panicked => "panicked",
        };
        write!(f, " has {cause} while holding the {}, and what it guards may have been left half done", self.what)
    }
}

impl<G> std::error::Error for Poisoned<G> {}

/// A mistake in the program, which without this would be a thread that waits for itself, or worse; or a limit.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// The calling thread holds it already, and would wait for itself.
    #[error("this thread holds the {0} already, and would wait for itself")]
    HeldHere(&'static str),
    /// The calling thread doesn't hold it: it is a copy, made by fork, of the process that does.
    #[error("this thread doesn't hold the {0}: it is in a copy of the process that does")]
    NotHeld(&'static str),
    /// The calling thread reads, and wants to write: it would wait for itself.
    #[error("this thread reads what the {0} guards, and would wait for itself to write there")]
    Reads(&'static str),
    /// The calling thread holds it, through a handle that has come to this process on another way. (Clones count as one handle.)
    #[error("this thread holds the {0} through another handle, which has come to this process by itself")]
    OtherHandle(&'static str),
    /// The calling thread holds it so many times over that it can't be counted: 2^32 - 1.
    #[error("this thread holds the {0} too many times over")]
    TooDeep(&'static str),
    /// There are as many readers as there can be, 4096; or there is no memory for one more.
    #[error("there are as many readers of the {0} as there can be, or no memory for one more")]
    TooManyReaders(&'static str),
    /// It has no lock: it is used as atomics.
    #[error("the {0} is used as atomics, and so not under its lock")]
    Atomics(&'static str),
    /// It has been divided otherwise since, so there is no such part any more.
    #[error("the {0} has been divided otherwise since, and has no such part any more")]
    Divided(&'static str),
    /// The calling thread holds as many locks as a thread can: 1024.
    #[error("this thread holds as many locks as a thread can, and can't hold the {0} too")]
    TooMany(&'static str),
    /// The system has refused the thread that waits for it on behalf of futures: `RLIMIT_NPROC`, or
    /// the limit of a control group.
    #[error("the system has no thread left to wait with for the {0}")]
    NoThread(&'static str),
}

impl Misuse {
    /// That of taking a word. None if it was only that somebody else has it.
    pub(crate) fn of(refusal: Refusal, what: &'static str) -> Option<Misuse> {
        match refusal {
            Refusal::Busy => None,
            Refusal::Mine => Some(Misuse::HeldHere(what)),
            Refusal::Full => Some(Misuse::TooMany(what)),
        }
    }

    /// What was granted of reading or writing what many can read. None if others do.
    #[inline]
    pub(crate) fn unless_busy<R>(result: Result<R, Denial>, what: &'static str) -> Result<Option<R>, Misuse> {
        match result {
            Ok(granted) => Ok(Some(granted)),
            Err(denial) => match Misuse::of_denial(denial, what) {
                None => Ok(None),
                Some(misuse) => Err(misuse),
            },
        }
    }

    /// That of reading or writing what many can read. None if it was only that others do.
    #[inline]
    pub(crate) fn of_denial(denial: Denial, what: &'static str) -> Option<Misuse> {
        match denial {
            Denial::Busy => None,
            Denial::Reads => Some(Misuse::Reads(what)),
            Denial::Writes => Some(Misuse::HeldHere(what)),
            Denial::OtherHandle => Some(Misuse::OtherHandle(what)),
            Denial::Full => Some(Misuse::TooMany(what)),
            Denial::NoSlot => Some(Misuse::TooManyReaders(what)),
            Denial::Stale => Some(Misuse::Divided(what)),
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

impl<G> From<LockError<G>> for Error {
    fn from(error: LockError<G>) -> Error {
        match error {
            LockError::Poisoned(poisoned) => Error::Lock { what: poisoned.what, reason: poisoned.to_string() },
            LockError::Misuse(misuse) => misuse.into(),
        }
    }
}

impl From<Misuse> for Error {
    fn from(misuse: Misuse) -> Error {
        Error::Lock { what: misuse.what(), reason: misuse.to_string() }
    }
}

/// For an object that could not be made.
pub(crate) fn not_made(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Make { what, source }
}
