//! [`Once`]: something that is done one time, by one of all processes.
//!
//! A word that belongs to whoever is doing it, and how far it has come. `PROTOCOL.md`, "Once".

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use super::error::{Misuse, PoisonCause, not_made};
use super::guard_state::GuardState;
use super::travel::travels;
use crate::error::Result;
use crate::shm::robust_word::{Holder, LockMapping, Patience, Poison, PoisonableWord, Refusal};
use crate::shm::segment::{Layout, Segment, layout};

layout! {
    /// What lies in shared memory.
    struct Shared: "once", 0x14 {
        poisonable: PoisonableWord,
        /// 0: nobody has begun.
        state: AtomicU32,
    }
}

/// Somebody has begun, and is at it if the word is theirs.
const BEGUN: u32 = 1;
/// It is done.
const COMPLETE: u32 = 2;

/// Something that is to be done one time, by whichever thread of whichever process comes first, and that the others wait for: [`std::sync::Once`] over processes.
///
/// It travels as a [`Lock`](super::Lock) does. If the one who does it dies or panics, the next one does it, and is told that another has begun: so nobody waits for the
/// dead, and nobody takes for done what isn't.
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

/// What was found by the closure of [`Once::call_once`].
#[derive(Debug)]
pub struct OnceState {
    before: Option<(Poison, Option<Holder>)>,
}

impl OnceState {
    /// Whether another has begun before, and has died or panicked: something may be half done.
    pub fn is_poisoned(&self) -> bool {
        self.before.is_some()
    }

    /// What has happened to the last one who has begun.
    pub fn cause(&self) -> Option<PoisonCause> {
        self.before.map(|(poison, _)| poison.into())
    }

    /// The process that it has happened to, if that is known.
    pub fn pid(&self) -> Option<i32> {
        self.before?.1.map(|holder| holder.pid)
    }
}

impl Once {
    /// A new one: nobody has begun.
    ///
    /// # Errors
    /// [`Error::Make`](crate::Error::Make): no descriptor or no memory is left.
    pub fn new() -> Result<Once> {
        let segment = Segment::create().map_err(not_made(Shared::NAME))?;
        Ok(Once { inner: Arc::new(LockMapping::new(segment)) })
    }

    /// Calls `closure` unless it is done already, or waits until another has done it. When this returns, it is done; says whether it was by this call.
    ///
    /// If one who was doing it has died or panicked, the next one's closure is called, and told so.
    ///
    /// # Errors
    /// If it is called from within the closure; or the calling thread holds 1024 locks.
    #[inline]
    pub fn call_once(&self, closure: impl FnOnce(&OnceState)) -> Result<bool, Misuse> {
        Ok(self.call_within(Patience::Endless, closure)?.expect("nobody waits for ever in vain"))
    }

    /// As [`call_once`](Once::call_once), but doesn't wait: `None` if another is doing it at this moment.
    ///
    /// # Errors
    /// As [`call_once`](Once::call_once).
    pub fn try_call_once(&self, closure: impl FnOnce(&OnceState)) -> Result<Option<bool>, Misuse> {
        self.call_within(Patience::None, closure)
    }

    /// As [`call_once`](Once::call_once), but waits for another for at most `timeout`; `None` when that is over. A call of the closure isn't cut short.
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
    /// As [`call_once`](Once::call_once).
    pub fn call_once_timeout(
        &self,
        timeout: Duration,
        closure: impl FnOnce(&OnceState),
    ) -> Result<Option<bool>, Misuse> {
        self.call_within(Patience::lasting(timeout), closure)
    }

    /// None if the patience has come to its end.
    #[inline]
    fn call_within(&self, patience: Patience, closure: impl FnOnce(&OnceState)) -> Result<Option<bool>, Misuse> {
        if self.is_completed() {
            return Ok(Some(false));
        }
        self.call_slowly(patience, closure)
    }

    #[cold]
    fn call_slowly(&self, patience: Patience, closure: impl FnOnce(&OnceState)) -> Result<Option<bool>, Misuse> {
        let Shared { poisonable, state } = &***self.inner;
        match poisonable.take(&self.inner, 0, patience, || state.load(SeqCst) == BEGUN) {
            Ok(()) => {}
            Err(Refusal::Busy) => return Ok(None),
            Err(refusal) => return Err(Misuse::of(refusal, Shared::NAME).expect("it isn't that somebody has it")),
        }
        // Gives the word up, whatever happens.
        let doing = Doing { once: self, state: GuardState::new() };
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

    /// Whether it is done.
    #[inline]
    pub fn is_completed(&self) -> bool {
        self.inner.state.load(SeqCst) == COMPLETE
    }
}

/// One who has the word.
struct Doing<'a> {
    once: &'a Once,
    state: GuardState,
}

impl Drop for Doing<'_> {
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
