//! [`Barrier`]: nobody goes on before all have come.
//!
//! BarrierState, and a list of who has arrived. `PROTOCOL.md`, "Barrier".

use std::time::{Duration, Instant};
use std::{fmt, io};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::travel;
use crate::error::{Error, Result};
use crate::shm::barrier_state::{self, BarrierState, Cause};
use crate::shm::object::Object;

/// A place where a number of parties wait for each other, again and again: Python's `multiprocessing.Barrier`.
///
/// A party is a call of [`wait`](Barrier::wait), in whatever process or thread. If one of them gives up, the barrier is *broken*, and all who wait or come are told so,
/// and by whom, until it is [reset](Barrier::reset). So it is when a party is killed while it waits, when a process that was there in an earlier
/// round dies before it has come again, when somebody has waited for too long, and when nobody is left who could come. A process is expected to come
/// again until it has dropped its last handle.
///
/// ```
/// use multiproc::Process;
/// use multiproc::sync::Barrier;
///
/// fn work(barrier: Barrier) -> multiproc::Result<usize> {
///     // … prepare …
///     let result = barrier.wait()?; // nobody begins before all are ready
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
/// There is no method for `async` code: a party that has come can't be taken back, as the drop of a
/// future would have to. Wait in a thread that may block.
///
/// # Implementation notes
/// A word with the round, and a list of processes, in a memfd, changed under a robust futex. Who waits tries for some microseconds, sleeps on a futex for some
/// milliseconds, and then in poll(2), on the pidfds of the other parties among others, for as long as it takes.
pub struct Barrier {
    barrier_state: Object<BarrierState>,
}

impl Barrier {
    /// A new barrier for so many parties.
    ///
    /// # Errors
    /// [`Error::Make`]: no party, or more than [`MAX_PARTIES`](Barrier::MAX_PARTIES); no descriptor or no memory is left.
    pub fn new(parties: usize) -> Result<Barrier> {
        let barrier_state = BarrierState::create(parties).map_err(|source| Error::Make { what: "barrier", source })?;
        Ok(Barrier { barrier_state })
    }

    /// How many parties there may be at most.
    pub const MAX_PARTIES: usize = barrier_state::MOST;

    /// Waits until all have come.
    ///
    /// # Errors
    /// [`BarrierError::Broken`] if it is broken, or will be before all have come.
    pub fn wait(&self) -> Result<BarrierWaitResult, BarrierError> {
        self.wait_within(None, None::<fn()>)
    }

    /// As [`wait`](Barrier::wait), for at most `timeout`: when that is over, the barrier is broken.
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
    /// As [`wait`](Barrier::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<BarrierWaitResult, BarrierError> {
        self.wait_within(Some(timeout), None::<fn()>)
    }

    /// As [`wait`](Barrier::wait); if the caller is the last one, calls `action` before anybody goes on. Let all give the same one.
    ///
    /// If the action panics, or its process dies in it, the barrier is broken. It may break the barrier itself, by [`abort`](Barrier::abort).
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
    /// As [`wait`](Barrier::wait).
    pub fn wait_with(&self, action: impl FnOnce()) -> Result<BarrierWaitResult, BarrierError> {
        self.wait_within(None, Some(action))
    }

    /// [`wait_with`](Barrier::wait_with) and [`wait_timeout`](Barrier::wait_timeout) in one. Those who wait for the action wait no longer than they would for
    /// each other.
    ///
    /// # Errors
    /// As [`wait`](Barrier::wait).
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
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        match self.barrier_state.wait(deadline, action) {
            Ok(index) => Ok(BarrierWaitResult { index }),
            Err((_, Some(error))) => Err(BarrierError::System(error)),
            Err((cause, None)) => Err(BarrierError::Broken(cause.into())),
        }
    }

    /// Breaks it: all who wait or come are told so, until it is reset.
    pub fn abort(&self) {
        self.barrier_state.break_round(None, Cause::Aborted(multiproc_os::threads::getpid()));
    }

    /// Makes it as it was when it was new. Those who wait are told that it is broken; no process is expected any more because it was there before.
    pub fn reset(&self) {
        self.barrier_state.reset();
    }

    /// How many parties wait for each other.
    pub fn parties(&self) -> usize {
        self.barrier_state.parties()
    }

    /// How many have come and wait at this moment.
    pub fn n_waiting(&self) -> usize {
        self.barrier_state.arrived()
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.barrier_state.is_broken()
    }
}

impl Clone for Barrier {
    fn clone(&self) -> Barrier {
        Barrier { barrier_state: self.barrier_state.clone() }
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        if self.barrier_state.retire() {
            self.barrier_state.leave();
        }
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
        travel::serialize(&self.barrier_state, serializer)
    }
}

impl<'de> Deserialize<'de> for Barrier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Barrier, D::Error> {
        travel::deserialize(deserializer).map(|barrier_state| Barrier { barrier_state })
    }
}

/// What one of the parties of a [`Barrier`] is told when all have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarrierWaitResult {
    index: usize,
}

impl BarrierWaitResult {
    /// How many were there when this one came: 0 for the first, and for each party another number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether this is the one of them that does what only one should do: the first.
    pub fn is_leader(&self) -> bool {
        self.index == 0
    }
}

/// Why nobody goes on at a [`Barrier`].
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// It is broken.
    #[error("cannot wait at a barrier: it is broken: {0}")]
    Broken(BrokenBy),
    /// The system has refused to wait (`EMFILE`, `ENOSPC`, `ENOMEM`), and so the barrier is broken.
    #[error("cannot wait at a barrier: {0}")]
    System(io::Error),
}

/// What has broken a [`Barrier`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokenBy {
    /// A party has died: while it waited, in the action, or before it has come again.
    Death {
        /// Its process.
        pid: i32,
    },
    /// A party has waited for longer than it would.
    Timeout {
        /// Its process.
        pid: i32,
    },
    /// [`Barrier::abort`].
    Abort {
        /// The process that has called it.
        pid: i32,
    },
    /// The action has panicked.
    Action {
        /// The process that it ran in.
        pid: i32,
    },
    /// [`Barrier::reset`], while some waited.
    Reset {
        /// The process that has called it, if that is still known.
        pid: Option<i32>,
    },
    /// Nobody was left who could come: all who have the barrier were waiting, or had ended.
    Disconnected,
    /// The system has refused to let a party wait.
    System {
        /// Its process.
        pid: i32,
    },
}

impl From<Cause> for BrokenBy {
    fn from(cause: Cause) -> BrokenBy {
        match cause {
            Cause::Died(pid) => BrokenBy::Death { pid },
            Cause::Late(pid) => BrokenBy::Timeout { pid },
            Cause::Aborted(pid) => BrokenBy::Abort { pid },
            Cause::Action(pid) => BrokenBy::Action { pid },
            Cause::Reset(pid) => BrokenBy::Reset { pid: (pid != 0).then_some(pid) },
            Cause::Alone => BrokenBy::Disconnected,
            Cause::System(pid) => BrokenBy::System { pid },
        }
    }
}

impl fmt::Display for BrokenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokenBy::Death { pid } => write!(f, "process {pid} has died"),
            BrokenBy::Timeout { pid } => write!(f, "process {pid} has waited for too long"),
            BrokenBy::Abort { pid } => write!(f, "process {pid} has aborted it"),
            BrokenBy::Action { pid } => write!(f, "the action has panicked in process {pid}"),
            BrokenBy::Reset { pid: Some(pid) } => write!(f, "process {pid} has reset it"),
            BrokenBy::Reset { pid: None } => f.write_str("somebody has reset it"),
            BrokenBy::Disconnected => f.write_str("nobody is left who could come"),
            BrokenBy::System { pid } => write!(f, "process {pid} could not wait"),
        }
    }
}
