//! A wait queue in shared memory: a caller sleeps here while its condition doesn't hold, until
//! another process changes the state. See `../PROTOCOL.md`, "The wait queue" and "The wake pipe".
//!
//! A wait has three stages, each for a longer wait: a [backoff](crate::wait::backoff) of some
//! microseconds; a futex, for some milliseconds; and then the wake pipe, by way of the process's
//! [notifier](crate::wait::notifier). There a waiter sleeps for as long as it takes. It also
//! wakes when no process is left that could change the state, and when a process has died on which
//! the condition depends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use multiproc_os::wake_pipe::WakeReason;
use multiproc_os::{inotify, poll};

use crate::lock::spin_lock::Stalled;
use crate::loom::atomic::{AtomicU32, fence};
use crate::loom::futex::{self, Woken};
use crate::memory::layout::layout;
use crate::wait::backoff::Backoff;
use crate::wait::deadline::sooner;
use crate::wait::notifier::{Notifier, Subscription, ViaHandle};

/// The longest wait on the futex: the delay of a waiter when the process that should have woken it
/// died first.
const MAX_FUTEX_WAIT: Duration = Duration::from_millis(3);

layout! {
    /// The state of a wait queue in shared memory. All zero: no waiter.
    pub struct WaitQueue {
        /// The futex that waiters of the second stage sleep on. Each wake-up changes it.
        turn: AtomicU32,
        /// Whether a waiter may sleep on `turn`.
        parked: AtomicU32,
        /// Whether a waiter may sleep on the wake pipe: then a token must be written before the
        /// next change.
        armed: AtomicU32,
    }
}

/// How often a waiter checks whether the other threads of its process still run, if one of them may
/// make the change and the kernel doesn't report the end of a thread.
const THREAD_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Why a wait ended before the condition held.
#[derive(Debug)]
pub enum WaitFailure {
    /// The deadline has passed.
    Timeout,
    /// No process is left that could make the condition true.
    Disconnected,
    /// A signal handler ran in this thread, which is in
    /// [`interruptible`](multiproc_os::poll::interruptible).
    Interrupted,
    /// A system call has failed.
    Io(io::Error),
}

impl WaitFailure {
    /// Tells an interruption (`EINTR`) from other errors.
    fn of(error: io::Error) -> WaitFailure {
        match error.kind() {
            io::ErrorKind::Interrupted => WaitFailure::Interrupted,
            _ => WaitFailure::Io(error),
        }
    }
}

/// Processes to watch: the death of one ends the sleep.
#[derive(Debug, Default)]
pub struct Watched {
    /// Their pidfds, which become readable when the processes end.
    pub pidfds: Vec<Arc<OwnedFd>>,
    /// A file that other processes touch when there is something to look at.
    pub touched: Option<inotify::Watch>,
    /// How long to sleep before [`WaitOp::died`] is called in any case: to look for dead processes
    /// when there are more than can be watched by pidfds, or for other work that is due then.
    pub look_again: Option<Duration>,
}

impl Watched {
    /// Returns the descriptors to poll.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.pidfds.iter().map(|pidfd| pidfd.as_fd()).chain(self.touched.iter().map(AsFd::as_fd)).collect()
    }

    /// When to stop sleeping, at the latest.
    fn until(&self, deadline: Option<Instant>) -> Option<Instant> {
        self.look_again.map_or(deadline, |time| Some(sooner(time, deadline)))
    }
}

/// What a caller waits for: a condition, and how to act on it. "The condition holds" means that an
/// attempt would succeed.
pub trait WaitOp {
    /// The result of a successful attempt.
    type Outcome;

    /// Carries the operation out if its condition holds. Called again and again.
    fn attempt(&mut self) -> Option<Self::Outcome>;

    /// Checks whether the condition may hold, while no process can change the state. If it doesn't,
    /// calls `arm` before any process can.
    ///
    /// # Errors
    /// The spin lock that this needs could not be acquired within the thread's
    /// [limit](crate::lock::spin_lock::within).
    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled>;

    /// Whether this outcome says that a spin lock could not be acquired, so that it makes sense to
    /// try again later.
    fn has_stalled(outcome: &Self::Outcome) -> bool {
        let _ = outcome;
        false
    }

    /// The processes to watch: the death of one may make the condition true. Called after `look`.
    fn watch(&mut self) -> io::Result<Watched> {
        Ok(Watched::default())
    }

    /// Called before the next attempt when a watched process has died, and after the time that
    /// [`Watched::look_again`] gives.
    fn died(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Called when no process is left that could make the condition true by an action. Returns
    /// whether the death of a watched process may still do so.
    fn depends(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    /// Whether another thread of this process may make the condition true, even if all handles of
    /// the process wait.
    fn has_others(&mut self, notifier: &Notifier) -> bool {
        let _ = notifier;
        false
    }

    /// Whether another task of this process may make the condition true, even if all handles of the
    /// process wait.
    fn has_other_tasks(&mut self) -> bool {
        false
    }

    /// The handle through which the caller waits, as the notifier counts it.
    fn through(&self) -> ViaHandle<'_> {
        ViaHandle::Own
    }

    /// Called after success: whether another waiter may succeed as well.
    fn more(&mut self) -> bool {
        false
    }

    /// Whether the operation could have succeeded several times over, as far as known without
    /// reading what the other side writes. See [`SpinHistory`](crate::wait::backoff::SpinHistory).
    fn came_with_more(&mut self) -> bool {
        false
    }
}

/// A fence between the change and the load of `parked`. After a change by a release store, such as
/// that to a queue's tail, the sequentially consistent operation on another word that follows it
/// doesn't keep the load from coming before the change, in C++20. On x86 that operation is compiled
/// to a locked instruction, which is a full barrier, so only the compiler must be kept from
/// reordering.
#[inline(always)]
fn fence_after_rmw() {
    #[cfg(all(any(target_arch = "x86", target_arch = "x86_64"), not(any(loom, miri))))]
    std::sync::atomic::compiler_fence(SeqCst);
    #[cfg(not(all(any(target_arch = "x86", target_arch = "x86_64"), not(any(loom, miri)))))]
    fence(SeqCst);
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

impl WaitQueue {
    /// Must be called before a change that others may wait for, with the spin lock held that guards
    /// the change.
    #[inline]
    pub fn before_change(&self, notifier: &Notifier) {
        if self.armed.load(SeqCst) != 0 {
            self.notify(notifier);
        }
    }

    #[cold]
    fn notify(&self, notifier: &Notifier) {
        // If the token could not be written, the next caller tries.
        if notifier.notify() {
            self.armed.store(0, SeqCst);
        }
    }

    /// Must be called after a change that up to `count` waiters may have waited for. The change
    /// must have been made by a sequentially consistent store or read-modify-write operation, or be
    /// followed by one, such as the release of a spin lock.
    #[inline]
    pub fn after_change(&self, count: u32) {
        fence_after_rmw();
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

    /// Says that the caller may sleep on `turn`, before it checks whether it must.
    fn park(&self) {
        self.parked.store(1, SeqCst);
        // With the fence in `after_change`: either the caller sees the change, or the process that
        // makes it sees the flag. Whatever the ordering of the accesses to the state.
        fence(SeqCst);
    }

    /// Sets the flag that [`before_change`](WaitQueue::before_change) reads, and removes the tokens
    /// where the notifier does that. Must be called with the spin lock held that guards the change.
    pub fn arm(&self, notifier: &Notifier) {
        // In this order: if this process dies in between, there is a token too many.
        self.armed.store(1, SeqCst);
        notifier.clear();
    }

    /// Waits until `op` succeeds.
    pub fn wait<W: WaitOp>(
        &self,
        notifier: &Notifier,
        deadline: Option<Instant>,
        op: &mut W,
    ) -> Result<W::Outcome, WaitFailure> {
        let mut backoff = Backoff::by(&notifier.spin_history);
        let outcome = loop {
            if let Some(outcome) = op.attempt() {
                break outcome;
            }
            if is_over(deadline) {
                return Err(WaitFailure::Timeout);
            }
            if !backoff.wait() {
                break self.wait_asleep(notifier, deadline, op)?;
            }
        };
        backoff.learn(&notifier.spin_history, || op.came_with_more());
        Ok(outcome)
    }

    #[cold]
    fn wait_asleep<W: WaitOp>(
        &self,
        notifier: &Notifier,
        deadline: Option<Instant>,
        op: &mut W,
    ) -> Result<W::Outcome, WaitFailure> {
        loop {
            if let Some(outcome) = self.wait_on_futex(deadline, op)? {
                // Of several sleepers, one was woken, and the wake-up has reset `parked`. Sets it
                // for the others, so that a change from now on wakes one; for an earlier change,
                // this one does.
                self.park();
                if op.more() {
                    self.wake(1);
                }
                return Ok(outcome);
            }
            let mut alone = false;
            let subscription = notifier.listen().unwrap_or(Subscription::Periodic);
            if !op.look(&mut || self.arm(notifier)).map_err(|stalled| WaitFailure::Io(stalled.into()))? {
                alone = self.wait_on_pipe(notifier, &subscription, deadline, op).map_err(WaitFailure::of)?
                    == WakeReason::HungUp;
            }
            if let Some(outcome) = op.attempt() {
                return Ok(outcome);
            }
            if alone {
                return Err(WaitFailure::Disconnected);
            }
            if is_over(deadline) {
                return Err(WaitFailure::Timeout);
            }
        }
    }

    /// Waits on the futex. Returns `None` after [`MAX_FUTEX_WAIT`]. A caller with an earlier
    /// deadline doesn't learn whether any process is left.
    fn wait_on_futex<W: WaitOp>(
        &self,
        deadline: Option<Instant>,
        op: &mut W,
    ) -> Result<Option<W::Outcome>, WaitFailure> {
        let end = Instant::now() + MAX_FUTEX_WAIT;
        let is_last = deadline.is_some_and(|deadline| deadline <= end);
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        loop {
            // In this order: a waker that resets `parked` after it is set here changes `turn` after
            // that, and so after it was read.
            let turn = self.turn.load(SeqCst);
            self.park();
            if let Some(outcome) = op.attempt() {
                return Ok(Some(outcome));
            }
            match futex::wait(&self.turn, turn, Some(end)) {
                Woken::Timeout => {
                    return match op.attempt() {
                        None if is_last => Err(WaitFailure::Timeout),
                        outcome => Ok(outcome),
                    };
                }
                Woken::Interrupted if poll::is_interruptible() => {
                    return match op.attempt() {
                        None => Err(WaitFailure::Interrupted),
                        outcome => Ok(outcome),
                    };
                }
                Woken::Interrupted | Woken::Perhaps => {}
            }
        }
    }

    /// Waits on the wake pipe. Returns [`WakeReason::HungUp`] when no process is left that could
    /// make the condition true, not even by dying.
    fn wait_on_pipe<W: WaitOp>(
        &self,
        notifier: &Notifier,
        subscription: &Subscription,
        deadline: Option<Instant>,
        op: &mut W,
    ) -> io::Result<WakeReason> {
        let watched = op.watch()?;
        let mut until = watched.until(deadline);
        let mut reason = match op.has_others(notifier) {
            // These threads may end without having helped. The operation doesn't ask about the end
            // of a thread, but looking again does no harm.
            true => {
                let threads = Notifier::other_threads();
                if threads.is_none() {
                    until = Some(sooner(THREAD_CHECK_INTERVAL, until));
                }
                let mut fds = watched.fds();
                fds.extend(threads.iter().flatten().map(AsFd::as_fd));
                notifier.sleep_open(subscription, &fds, until)?
            }
            false => notifier.waiting(subscription, op.through()).sleep(&watched.fds(), until)?,
        };
        // The kernel closes the descriptors of a dying process before its pidfd becomes readable.
        if reason == WakeReason::HungUp && op.depends()? {
            // The subscription has reported the hang-up, and would report nothing else. With a new
            // one, the state must be checked again.
            let subscription = notifier.listen().unwrap_or(Subscription::Periodic);
            if op.look(&mut || self.arm(notifier))? {
                return Ok(WakeReason::Token);
            }
            // The processes to watch may have changed meanwhile.
            let watched = op.watch()?;
            reason = notifier.sleep_open(&subscription, &watched.fds(), watched.until(until))?;
        }
        if reason == WakeReason::Other || reason == WakeReason::Timeout && watched.look_again.is_some() {
            op.died()?;
        }
        Ok(reason)
    }
}
