//! Waiting on a wake pipe as a future: where a thread would sleep, a future has one descriptor
//! watched, an epoll set of all that may wake it.
//!
//! It counts as a waiter, as a thread does, so it also ends when no process is left that could
//! change the state. See `../PROTOCOL.md`, "The wake pipe".

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use multiproc_os::epoll::{Epoll, Trigger};
use multiproc_os::timer::Timer;
use multiproc_os::wake_pipe::{self, WakeReason};

use crate::lock::spin_lock::{Limit, Stalled, within};
use crate::wait::notifier::{Notifier, Subscription, Waiting};
use crate::wait::wait_queue::{WaitFailure, WaitOp, WaitQueue};
use crate::wake::{Source, Wakeup};

/// How long a future waits before it tries again, when a spin lock is held by a process that is
/// stopped.
const PAUSE: Duration = Duration::from_millis(5);

impl WaitQueue {
    /// As [`wait`](WaitQueue::wait), as a future. Dropping it early has no effect on the state.
    pub async fn wait_async<W: WaitOp>(&self, notifier: &Notifier, op: &mut W) -> Result<W::Outcome, WaitFailure> {
        // Whether the pipe has hung up, and only the death of a watched process may help.
        let mut is_alone = false;
        loop {
            // A future that is polled must not wait for a process that is stopped.
            match within(Limit::GracePeriod, || op.attempt()) {
                Some(outcome) if W::has_stalled(&outcome) => {
                    pause().await.map_err(WaitFailure::Io)?;
                    continue;
                }
                Some(outcome) => return Ok(outcome),
                None => {}
            }
            let subscription = notifier.listen().map_err(WaitFailure::Io)?;
            match within(Limit::GracePeriod, || op.look(&mut || self.arm(notifier))) {
                Ok(false) => {}
                Ok(true) => {
                    // Others change the state. They may be tasks of this thread.
                    let_others_run().await;
                    continue;
                }
                Err(_) => {
                    pause().await.map_err(WaitFailure::Io)?;
                    continue;
                }
            }
            match wait_on_pipe(notifier, &subscription, op, is_alone).await {
                // The kernel closes the descriptors of a dying process before its pidfd becomes
                // readable.
                Ok(WakeReason::HungUp) => match op.depends() {
                    Ok(true) => is_alone = true,
                    Ok(false) => return within(Limit::GracePeriod, || op.attempt()).ok_or(WaitFailure::Disconnected),
                    Err(error) => return Err(WaitFailure::Io(error)),
                },
                Ok(_) => is_alone = false,
                // The spin lock is needed to deal with the dead process.
                Err(error) if Stalled::of(&error).is_some() => pause().await.map_err(WaitFailure::Io)?,
                Err(error) => return Err(WaitFailure::Io(error)),
            }
        }
    }
}

/// Waits on the wake pipe. Reports a hang-up even if deaths may still help, unless `is_alone` says
/// that the caller knows about it: then it waits for deaths and tokens only.
async fn wait_on_pipe<W: WaitOp>(
    notifier: &Notifier,
    subscription: &Subscription,
    op: &mut W,
    is_alone: bool,
) -> io::Result<WakeReason> {
    let watched = within(Limit::GracePeriod, || op.watch())?;
    let timer = watched.look_again.map(Timer::after).transpose()?;
    let others: Vec<BorrowedFd<'_>> = timer.iter().map(AsFd::as_fd).chain(watched.fds()).collect();
    // The future isn't counted as a waiter where a hang-up would say nothing.
    let is_counted = !is_alone && !op.has_other_tasks();
    let now = || Some(Instant::now());
    let waiting = is_counted.then(|| notifier.waiting_future(subscription, op.through())).transpose()?;
    let look = || match &waiting {
        Some(waiting) => waiting.sleep(&others, now()),
        None => match subscription {
            Subscription::Epoll(..) => subscription.poll_now(&others),
            Subscription::Polled | Subscription::Periodic => notifier.sleep_open(subscription, &others, now()),
        },
    };
    let reason = match subscription {
        Subscription::Epoll(subscription, _) => {
            for other in &others {
                subscription.add(other)?;
            }
            watch(subscription, look).await?
        }
        Subscription::Polled | Subscription::Periodic => {
            let set = Epoll::new()?;
            set.add(waiting.as_ref().map_or_else(|| notifier.as_fd(), Waiting::fd), 0, Trigger::Level)?;
            for other in &others {
                set.add(other, 0, Trigger::Level)?;
            }
            watch(&Arc::new(Set(set)), look).await?
        }
    };
    drop(waiting);
    if reason == WakeReason::Other {
        within(Limit::GracePeriod, || op.died())?;
    }
    Ok(reason)
}

/// Waits until `look` reports something, as it can when `source` is readable.
async fn watch<S: Source>(source: &Arc<S>, look: impl Fn() -> io::Result<WakeReason>) -> io::Result<WakeReason> {
    let mut wakeup = Wakeup::default();
    poll_fn(|context| {
        loop {
            match look()? {
                WakeReason::Timeout => ready!(wakeup.poll(source, context))?,
                reason => return Poll::Ready(Ok(reason)),
            }
        }
    })
    .await
}

/// Readable when one of its members is.
struct Set(Epoll);

impl Source for Set {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Source for wake_pipe::Subscription {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

impl Source for Timer {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

/// Waits before another attempt at a spin lock with a stopped owner: no event reports that the
/// owner continues.
async fn pause() -> io::Result<()> {
    let timer = Arc::new(Timer::after(PAUSE)?);
    watch(&timer, || {
        let over = multiproc_os::poll::wait_any_in(&[timer.as_fd()], Some(Instant::now()))?;
        Ok(if over.is_empty() { WakeReason::Timeout } else { WakeReason::Other })
    })
    .await
    .map(drop)
}

async fn let_others_run() {
    let mut done = false;
    poll_fn(|context| match std::mem::replace(&mut done, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}
