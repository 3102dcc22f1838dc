//! [`Barrier`]: a fixed number of parties wait for each other.
//!
//! A [`shm::Barrier`], with a ledger of the processes that have arrived. See `sync/PROTOCOL.md` of
//! `multiproc-shm`, "Barrier".

use std::time::Duration;
use std::{fmt, io};

use multiproc_shm::sync as shm;
use multiproc_shm::sync::barrier::BreakCause;
use multiproc_shm::wait::deadline::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::travel;
use crate::create_error::CreateError;

/// A point at which a number of parties wait for each other, again and again: Python's
/// `multiprocessing.Barrier`.
///
/// A party is a call of [`wait`](Barrier::wait), in any process or thread. If a party gives
/// up, the barrier is *broken*: all parties that wait or arrive get an error that names the cause
/// and the process, until the barrier is [reset](Barrier::reset). A barrier also breaks when a
/// party is killed while it waits, when a process that arrived in an earlier round dies before it
/// arrives again, when a party reaches its timeout, and when no process is left that could arrive.
/// A process is expected to arrive again until it has dropped its last handle.
///
/// ```
/// use multiproc::Process;
/// use multiproc::sync::Barrier;
///
/// fn work(barrier: Barrier) -> multiproc::Result<usize> {
///     // … prepare …
///     let result = barrier.wait()?; // no worker begins before all are ready
///     // … work …
///     Ok(result.index())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let barrier = Barrier::new(3)?;
/// let children = (0..3).map(|_| Process::new(work, (barrier.clone(),)).start()).collect::<Result<Vec<_>, _>>()?;
/// let mut indices = Vec::new();
/// for child in children {
///     indices.push(child.join()??);
/// }
/// indices.sort();
/// assert_eq!(indices, [0, 1, 2]);
/// # Ok(())
/// # }
/// ```
///
/// There is no method for `async` code: a party that has arrived can't be taken back, which
/// dropping a future would require. Wait in a thread that may block.
///
/// # Implementation notes
/// A word with the round, and a list of processes, in a memfd, changed under a robust futex. A
/// waiter spins for some microseconds, sleeps on a futex for some milliseconds, and then in
/// poll(2), on the pidfds of the other parties among others, without a time limit.
#[derive(Clone)]
pub struct Barrier {
    inner: shm::Barrier,
}

impl Barrier {
    /// Creates a barrier for this number of parties.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): `parties` is zero or more than
    /// [`MAX_PARTIES`](Barrier::MAX_PARTIES); no descriptor or no memory is left.
    pub fn new(parties: usize) -> Result<Barrier, CreateError> {
        let inner = shm::Barrier::create(parties).map_err(CreateError::of("barrier"))?;
        Ok(Barrier { inner })
    }

    /// The maximum number of parties.
    pub const MAX_PARTIES: usize = shm::barrier::MAX_PARTIES;

    /// Waits until all parties have arrived.
    ///
    /// # Errors
    /// [`BarrierError::Broken`] if the barrier is broken, or breaks before all parties have
    /// arrived.
    pub fn wait(&self) -> Result<BarrierWaitResult, BarrierError> {
        self.wait_within(None, None::<fn()>)
    }

    /// Waits as [`wait`](Barrier::wait) does, for at most `timeout`; when that has passed, the
    /// barrier breaks.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::sync::{Barrier, BarrierError, BrokenBy};
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let barrier = Barrier::new(2)?;
    /// match barrier.wait_timeout(Duration::from_millis(1)) {
    ///     Err(BarrierError::Broken(BrokenBy::Timeout { pid })) => assert_eq!(pid, std::process::id() as i32),
    ///     _ => unreachable!(),
    /// }
    /// assert!(barrier.is_broken());
    /// barrier.reset();
    /// assert!(!barrier.is_broken());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`wait`](Barrier::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<BarrierWaitResult, BarrierError> {
        self.wait_within(Some(timeout), None::<fn()>)
    }

    /// Waits as [`wait`](Barrier::wait) does; if the caller is the last party to arrive, calls
    /// `action` before any party goes on. All parties should pass the same action.
    ///
    /// If the action panics, or its process dies in it, the barrier breaks. The action may break
    /// the barrier itself, by [`abort`](Barrier::abort).
    ///
    /// ```
    /// use multiproc::sync::Barrier;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let barrier = Barrier::new(2)?;
    /// let other = barrier.clone();
    /// let thread = std::thread::spawn(move || other.wait_with(|| println!("all are here")));
    /// barrier.wait_with(|| println!("all are here"))?; // said once
    /// thread.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`wait`](Barrier::wait).
    pub fn wait_with(&self, action: impl FnOnce()) -> Result<BarrierWaitResult, BarrierError> {
        self.wait_within(None, Some(action))
    }

    /// Combines [`wait_with`](Barrier::wait_with) and [`wait_timeout`](Barrier::wait_timeout). The
    /// timeout of a party includes the time of the action.
    ///
    /// # Errors
    /// As for [`wait`](Barrier::wait).
    pub fn wait_timeout_with(
        &self,
        timeout: Duration,
        action: impl FnOnce(),
    ) -> Result<BarrierWaitResult, BarrierError> {
        self.wait_within(Some(timeout), Some(action))
    }

    fn wait_within(
        &self,
        timeout: Option<Duration>,
        action: Option<impl FnOnce()>,
    ) -> Result<BarrierWaitResult, BarrierError> {
        let deadline = Deadline::from_now(timeout).instant();
        match self.inner.wait_with(deadline, action) {
            Ok(index) => Ok(BarrierWaitResult { index }),
            Err((_, Some(error))) => Err(BarrierError::Io(error)),
            Err((cause, None)) => Err(BarrierError::Broken(cause.into())),
        }
    }

    /// Breaks the barrier: all parties that wait or arrive get an error, until it is reset.
    pub fn abort(&self) {
        self.inner.abort();
    }

    /// Resets the barrier to its initial state. Parties that wait get an error; processes that
    /// arrived in earlier rounds are no longer expected.
    pub fn reset(&self) {
        self.inner.reset();
    }

    /// Returns the number of parties that wait for each other.
    pub fn parties(&self) -> usize {
        self.inner.parties()
    }

    /// Returns how many parties have arrived and wait at this moment.
    pub fn n_waiting(&self) -> usize {
        self.inner.arrived()
    }

    /// Returns whether the barrier is broken.
    pub fn is_broken(&self) -> bool {
        self.inner.is_broken()
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("parties", &self.parties())
            .field("waiting", &self.n_waiting())
            .field("broken", &self.is_broken())
            .finish_non_exhaustive()
    }
}

impl Serialize for Barrier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        travel::serialize(self.inner.object(), serializer)
    }
}

impl<'de> Deserialize<'de> for Barrier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Barrier, D::Error> {
        travel::deserialize(deserializer).map(|object| Barrier { inner: shm::Barrier::from_object(object) })
    }
}

/// The result of a wait at a [`Barrier`] when all parties have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarrierWaitResult {
    index: usize,
}

impl BarrierWaitResult {
    /// Returns the position of this party in the order of arrival, from 0. It differs for each
    /// party of a round.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Returns whether this party is the leader, for work that only one party should do. The leader
    /// is the first that arrived.
    pub fn is_leader(&self) -> bool {
        self.index == 0
    }
}

/// Why waiting at a [`Barrier`] failed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// The barrier is broken.
    #[error("cannot wait at a barrier: it is broken: {0}")]
    Broken(BrokenBy),
    /// The system refused to wait (`EMFILE`, `ENOSPC`, `ENOMEM`), so the barrier is broken.
    #[error("cannot wait at a barrier: {0}")]
    Io(io::Error),
}

/// The cause for which a [`Barrier`] is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokenBy {
    /// A party has died: while it waited, in the action, or before it arrived again.
    Death {
        /// The process of the party.
        pid: i32,
    },
    /// A party has reached its timeout.
    Timeout {
        /// The process of the party.
        pid: i32,
    },
    /// A process has called [`Barrier::abort`].
    Abort {
        /// The process that has called it.
        pid: i32,
    },
    /// The action has panicked.
    Action {
        /// The process that it ran in.
        pid: i32,
    },
    /// A process has called [`Barrier::reset`] while parties waited.
    Reset {
        /// The process that has called it, if that is still known.
        pid: Option<i32>,
    },
    /// No process was left that could arrive: all that have the barrier were waiting, or had ended.
    Disconnected,
    /// The system refused to let a party wait.
    Io {
        /// The process of the party.
        pid: i32,
    },
}

impl From<BreakCause> for BrokenBy {
    fn from(cause: BreakCause) -> BrokenBy {
        match cause {
            BreakCause::Death(pid) => BrokenBy::Death { pid },
            BreakCause::Timeout(pid) => BrokenBy::Timeout { pid },
            BreakCause::Abort(pid) => BrokenBy::Abort { pid },
            BreakCause::Action(pid) => BrokenBy::Action { pid },
            BreakCause::Reset(pid) => BrokenBy::Reset { pid: (pid != 0).then_some(pid) },
            BreakCause::Disconnected => BrokenBy::Disconnected,
            BreakCause::Io(pid) => BrokenBy::Io { pid },
        }
    }
}

impl fmt::Display for BrokenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokenBy::Death { pid } => write!(f, "process {pid} has died"),
            BrokenBy::Timeout { pid } => write!(f, "process {pid} has reached its timeout"),
            BrokenBy::Abort { pid } => write!(f, "process {pid} has aborted it"),
            BrokenBy::Action { pid } => write!(f, "the action has panicked in process {pid}"),
            BrokenBy::Reset { pid: Some(pid) } => write!(f, "process {pid} has reset it"),
            BrokenBy::Reset { pid: None } => f.write_str("a process has reset it"),
            BrokenBy::Disconnected => f.write_str("no process is left that could arrive"),
            BrokenBy::Io { pid } => write!(f, "process {pid} could not wait"),
        }
    }
}
