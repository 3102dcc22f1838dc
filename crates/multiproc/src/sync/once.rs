//! [`Once`]: an initialization that runs once in all processes together.
//!
//! A word that is owned by the thread that runs the closure, and the progress. See
//! `sync/PROTOCOL.md` of `multiproc-shm`, "Once".

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use multiproc_shm::lock::robust_word::{AcquireError, Holder, LockMapping, Poison, PoisonableWord};
use multiproc_shm::memory::segment::{Layout, Segment, layout};
use multiproc_shm::wait::deadline::Deadline;

use super::error::{Misuse, PoisonCause};
use super::guard_state::GuardState;
use super::travel::travels;
use crate::create_error::CreateError;

layout! {
    /// The layout of a `Once` in shared memory.
    struct Shared: "once", 0x14 {
        poisonable: PoisonableWord,
        /// 0: not begun; [`BEGUN`]; [`COMPLETE`].
        state: AtomicU32,
    }
}

/// A closure was begun; one is running now if the word has an owner.
const BEGUN: u32 = 1;
/// A closure has returned.
const COMPLETE: u32 = 2;

/// A closure that must run once, in whichever thread of whichever process calls first, while the
/// others wait for it: [`std::sync::Once`] across processes.
///
/// It can be sent to other processes as a [`Lock`](super::Lock) can. If the thread that runs the
/// closure dies or panics, the next caller runs its own closure, and its [`OnceState`] says that
/// another one was begun: no thread waits for a dead one, or takes an unfinished run for complete.
///
/// ```
/// use multiproc::Process;
/// use multiproc::sync::{Mutex, Once};
///
/// fn work(once: Once, table: Mutex<[u32; 4]>) -> multiproc::Result<u32> {
///     once.call_once(|_| {
///         // One of the processes fills the table.
///         table.set([1, 2, 3, 4]).unwrap();
///     })?;
///     Ok(table.get()?.iter().sum())
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (once, table) = (Once::new()?, Mutex::new([0; 4])?);
/// let children = (0..3).map(|_| Process::new(work, (once.clone(), table.clone())).start());
/// for child in children.collect::<Result<Vec<_>, _>>()? {
///     assert_eq!(child.join()??, 10);
/// }
/// assert!(once.is_completed());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Once {
    inner: Arc<LockMapping<Shared>>,
}

/// The state of a [`Once`] when its closure begins.
#[derive(Debug)]
pub struct OnceState {
    before: Option<(Poison, Option<Holder>)>,
}

impl OnceState {
    /// Returns whether another closure was begun before and its thread has died or panicked:
    /// something may be half done.
    pub fn is_poisoned(&self) -> bool {
        self.before.is_some()
    }

    /// Returns how the last thread that began a closure has ended; `None` if none has.
    pub fn cause(&self) -> Option<PoisonCause> {
        self.before.map(|(poison, _)| poison.into())
    }

    /// Returns the process of that thread, if it is known.
    pub fn pid(&self) -> Option<i32> {
        self.before?.1.map(|holder| holder.pid)
    }
}

impl Once {
    /// Creates a `Once` that is not begun.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn new() -> Result<Once, CreateError> {
        let segment = Segment::create().map_err(CreateError::of(Shared::NAME))?;
        Ok(Once { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// Calls `closure` unless a closure has completed already; waits if one is running. When this
    /// returns, one has completed. Returns true if it was the caller's.
    ///
    /// If the thread that ran a closure has died or panicked, the next caller's closure runs, and
    /// its [`OnceState`] says so.
    ///
    /// # Errors
    /// [`Misuse`], if this is called from within the closure, or the calling thread holds 1024
    /// locks.
    #[inline]
    pub fn call_once(&self, closure: impl FnOnce(&OnceState)) -> Result<bool, Misuse> {
        Ok(self.call_within(Deadline::Never, closure)?.expect("endless waits don't time out"))
    }

    /// Calls `closure` as [`call_once`](Once::call_once) does, but doesn't wait: returns `None` if
    /// another closure is running.
    ///
    /// # Errors
    /// As for [`call_once`](Once::call_once).
    pub fn try_call_once(&self, closure: impl FnOnce(&OnceState)) -> Result<Option<bool>, Misuse> {
        self.call_within(Deadline::Now, closure)
    }

    /// Calls `closure` as [`call_once`](Once::call_once) does, but waits for a running closure for
    /// at most `timeout`; returns `None` if that isn't complete in time. The timeout doesn't
    /// interrupt the caller's own closure.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::sync::Once;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let once = Once::new()?;
    /// assert_eq!(once.call_once_timeout(Duration::from_millis(10), |_| println!("here"))?, Some(true));
    /// assert_eq!(once.try_call_once(|_| println!("again"))?, Some(false));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`call_once`](Once::call_once).
    pub fn call_once_timeout(
        &self,
        timeout: Duration,
        closure: impl FnOnce(&OnceState),
    ) -> Result<Option<bool>, Misuse> {
        self.call_within(Deadline::after(timeout), closure)
    }

    /// Returns `None` if `deadline` passes.
    #[inline]
    fn call_within(&self, deadline: Deadline, closure: impl FnOnce(&OnceState)) -> Result<Option<bool>, Misuse> {
        if self.is_completed() {
            return Ok(Some(false));
        }
        self.call_slowly(deadline, closure)
    }

    #[cold]
    fn call_slowly(&self, deadline: Deadline, closure: impl FnOnce(&OnceState)) -> Result<Option<bool>, Misuse> {
        let Shared { poisonable, state } = &***self.inner;
        match poisonable.take(&self.inner, 0, deadline, || state.load(SeqCst) == BEGUN) {
            Ok(()) => {}
            Err(AcquireError::Timeout) => return Ok(None),
            Err(error) => return Err(Misuse::of(error, Shared::NAME).expect("a busy lock is handled above")),
        }
        // Releases the word when it is dropped, also by a panic of the closure.
        let doing = Running { once: self, state: GuardState::new() };
        let before = match state.load(SeqCst) {
            COMPLETE => return Ok(Some(false)),
            BEGUN => poisonable.poison().or(Some((Poison::Died, None))),
            _ => None,
        };
        state.store(BEGUN, SeqCst);
        closure(&OnceState { before });
        doing.state.is_held();
        state.store(COMPLETE, SeqCst);
        Ok(Some(true))
    }

    /// Returns whether a closure has completed.
    #[inline]
    pub fn is_completed(&self) -> bool {
        self.inner.state.load(SeqCst) == COMPLETE
    }
}

/// Ownership of the word while the closure runs.
struct Running<'a> {
    once: &'a Once,
    state: GuardState,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let inner = &self.once.inner;
        self.state.end(&inner.poisonable);
        inner.poisonable.give_up(inner, 0);
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("completed", &self.is_completed()).finish()
    }
}

travels!(Once, |mapping| Ok(Once { inner: Arc::new(mapping) }));
