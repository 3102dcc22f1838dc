//! Where those wait for whom it isn't the moment yet, until somebody has changed something. See `PROTOCOL.md`, "The lot" and "The door".
//!
//! Three stages, each for a longer wait: a [backoff](super::backoff) of some microseconds; a futex, for some milliseconds; and then the [gate](super::gate), where
//! a process sleeps for as long as it takes, and is told when nobody is left who could change anything, or when one of those has died on whom it depends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use multiproc_os::futex::{self, Woken};
use multiproc_os::wake_pipe::WakeReason;

use super::backoff::Backoff;
use super::notifier::{Notifier, Subscription, ViaHandle, within};
use super::segment::layout;
use super::spin_lock::Stalled;

/// How long a wait by futex is at most. So long may somebody sleep who should have been woken by one who has died before doing so.
const SHORT: Duration = Duration::from_millis(3);

layout! {
    /// The shared part of a lot; all zero, nobody is there.
    pub(crate) struct WaitQueue {
        /// What those sleep on who wait by futex. It changes with each wake-up.
        turn: AtomicU32,
        /// Whether somebody may sleep on that.
        parked: AtomicU32,
        /// Whether somebody may sleep at the door, so that it has to be rung at before the next change.
        armed: AtomicU32,
    }
}

/// How often a waiter looks that sleeps without being counted, as another thread of its process may
/// help it, where the kernel doesn't tell when threads end.
const LOOK: Duration = Duration::from_millis(100);

/// Why somebody has waited in vain.
#[derive(Debug)]
pub(crate) enum WaitFailure {
    /// The deadline has passed.
    Late,
    /// Nobody is left who could make it come true.
    Alone,
    /// The system has refused to wait.
    System(io::Error),
}

/// Processes whose death is waited for.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Pidfds: they become readable.
    pub(crate) pidfds: Vec<Arc<OwnedFd>>,
    /// Set when there are more than can be watched so: then somebody has to look again after this time.
    pub(crate) look_again: Option<Duration>,
}

impl Watched {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.pidfds.iter().map(|pidfd| pidfd.as_fd()).collect()
    }

    /// How long to sleep at most.
    fn until(&self, deadline: Option<Instant>) -> Option<Instant> {
        self.look_again.map_or(deadline, |time| Some(within(time, deadline)))
    }
}

/// What somebody waits for.
pub(crate) trait WaitOp {
    /// What comes of it.
    type Outcome;

    /// Makes it true, if it can be; called again and again.
    fn attempt(&mut self) -> Option<Self::Outcome>;

    /// Whether it may be true now, looked at while nobody can change anything. If not, calls `arm` before anybody can.
    ///
    /// # Errors
    /// The latch that this needs could not be had within the thread's
    /// [limit](super::spin_lock::within).
    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled>;

    /// Whether it has come to this because a latch could not be had: to try again later makes
    /// sense.
    #[cfg_attr(not(feature = "async"), expect(dead_code, reason = "a thread waits for the latch instead"))]
    fn has_stalled(outcome: &Self::Outcome) -> bool {
        let _ = outcome;
        false
    }

    /// Those whose death may make it true; called after `look`.
    fn watch(&mut self) -> io::Result<Watched> {
        Ok(Watched::default())
    }

    /// One of those has died, or may have. Called before it is attempted again.
    fn died(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Nobody is left who could make it come true by doing something. Whether one of those who are watched may yet do so by dying.
    fn depends(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    /// Whether another thread of this process may make it come true, even if all handles of the process wait.
    fn has_others(&mut self, notifier: &Notifier) -> bool {
        let _ = notifier;
        false
    }

    /// Whether another task of this process may make it come true, even if all handles of the
    /// process wait.
    #[cfg_attr(not(feature = "async"), expect(dead_code, reason = "tasks wait as futures"))]
    fn has_other_tasks(&mut self) -> bool {
        false
    }

    /// ViaHandle what it is waited, as far as the gate is concerned.
    fn through(&self) -> ViaHandle<'_> {
        ViaHandle::Own
    }

    /// Whether there may be something in it for another who waits, after it has come true here.
    fn more(&mut self) -> bool {
        false
    }

    /// Whether it could have come true several times over, as far as is known without looking anew. See [`SpinHistory`](super::backoff::SpinHistory).
    fn came_with_more(&mut self) -> bool {
        false
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

impl WaitQueue {
    /// To be called before a change that somebody may wait for, under the latch that guards it.
    #[inline]
    pub(crate) fn before_change(&self, notifier: &Notifier) {
        if self.armed.load(SeqCst) != 0 {
            self.notify(notifier);
        }
    }

    #[cold]
    fn notify(&self, notifier: &Notifier) {
        // If it could not be done, the next one tries.
        if notifier.notify() {
            self.armed.store(0, SeqCst);
        }
    }

    /// To be called after a change that up to `count` of those who wait may be glad of. What has made the change must be sequentially consistent, or be
    /// followed by something that is, as the opening of a latch.
    #[inline]
    pub(crate) fn after_change(&self, count: u32) {
        if self.parked.load(SeqCst) != 0 {
            self.wake(count);
        }
    }

    #[cold]
    fn wake(&self, count: u32) {
        self.parked.store(0, SeqCst);
        self.turn.fetch_add(1, SeqCst);
        futex::wake(&self.turn, count);
    }

    /// Sets what [`before_change`](WaitQueue::before_change) looks at, and takes the tokens away where that is done. Under the latch that guards the change.
    pub(crate) fn arm(&self, notifier: &Notifier) {
        // In this order: if this process dies in between, there is a token too many.
        self.armed.store(1, SeqCst);
        notifier.clear();
    }

    /// Waits until `wish` comes true.
    pub(crate) fn wait<W: WaitOp>(
        &self,
        notifier: &Notifier,
        deadline: Option<Instant>,
        wish: &mut W,
    ) -> Result<W::Outcome, WaitFailure> {
        let mut backoff = Backoff::by(&notifier.spin_history);
        let outcome = loop {
            if let Some(outcome) = wish.attempt() {
                break outcome;
            }
            if is_over(deadline) {
                return Err(WaitFailure::Late);
            }
            if !backoff.wait() {
                break self.wait_asleep(notifier, deadline, wish)?;
            }
        };
        backoff.learn(&notifier.spin_history, || wish.came_with_more());
        Ok(outcome)
    }

    #[cold]
    fn wait_asleep<W: WaitOp>(
        &self,
        notifier: &Notifier,
        deadline: Option<Instant>,
        wish: &mut W,
    ) -> Result<W::Outcome, WaitFailure> {
        loop {
            if let Some(outcome) = self.wait_on_futex(deadline, wish)? {
                // Of several who sleep, one was woken. The next one is this one's to wake, if there is a reason to.
                self.parked.store(1, SeqCst);
                if wish.more() {
                    self.wake(1);
                }
                return Ok(outcome);
            }
            let mut alone = false;
            let subscription = notifier.listen().unwrap_or(Subscription::Deaf);
            if !wish.look(&mut || self.arm(notifier)).map_err(|stalled| WaitFailure::System(stalled.into()))? {
                alone = self.wait_on_pipe(notifier, &subscription, deadline, wish).map_err(WaitFailure::System)?
                    == WakeReason::HungUp;
            }
            if let Some(outcome) = wish.attempt() {
                return Ok(outcome);
            }
            if alone {
                return Err(WaitFailure::Alone);
            }
            if is_over(deadline) {
                return Err(WaitFailure::Late);
            }
        }
    }

    /// Waits by futex. None when that has taken its time. Who has no more than that isn't told whether anybody is left.
    fn wait_on_futex<W: WaitOp>(
        &self,
        deadline: Option<Instant>,
        wish: &mut W,
    ) -> Result<Option<W::Outcome>, WaitFailure> {
        let end = Instant::now() + SHORT;
        let is_last = deadline.is_some_and(|deadline| deadline <= end);
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        loop {
            self.parked.store(1, SeqCst);
            let turn = self.turn.load(SeqCst);
            if let Some(outcome) = wish.attempt() {
                return Ok(Some(outcome));
            }
            if futex::wait(&self.turn, turn, Some(end)) == Woken::Late {
                return match wish.attempt() {
                    None if is_last => Err(WaitFailure::Late),
                    outcome => Ok(outcome),
                };
            }
        }
    }

    /// Waits at the door. Hung up is what it says if nobody is left, whoever may die.
    fn wait_on_pipe<W: WaitOp>(
        &self,
        notifier: &Notifier,
        subscription: &Subscription,
        deadline: Option<Instant>,
        wish: &mut W,
    ) -> io::Result<WakeReason> {
        let watched = wish.watch()?;
        let mut until = watched.until(deadline);
        let mut reason = match wish.has_others(notifier) {
            // They may end without having done it. One that has ended is not one whose death the
            // wish asks about, but to look again does no harm.
            true => {
                let threads = Notifier::other_threads();
                if threads.is_none() {
                    until = Some(within(LOOK, until));
                }
                let mut fds = watched.fds();
                fds.extend(threads.iter().flatten().map(AsFd::as_fd));
                notifier.sleep_open(subscription, &fds, until)?
            }
            false => notifier.waiting(subscription, wish.through()).sleep(&watched.fds(), until)?,
        };
        // What somebody had open is closed before it is said that they have died.
        if reason == WakeReason::HungUp && wish.depends()? {
            // The ear has heard the hang-up, and would hear nothing else: it listens anew, and so
            // looks anew.
            let subscription = notifier.listen().unwrap_or(Subscription::Deaf);
            if wish.look(&mut || self.arm(notifier))? {
                return Ok(WakeReason::Token);
            }
            // Of others, perhaps, than a while ago.
            let watched = wish.watch()?;
            reason = notifier.sleep_open(&subscription, &watched.fds(), watched.until(until))?;
        }
        if reason == WakeReason::Other || reason == WakeReason::Late && watched.look_again.is_some() {
            wish.died()?;
        }
        Ok(reason)
    }
}
