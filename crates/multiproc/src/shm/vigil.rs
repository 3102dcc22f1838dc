//! What a future does where a thread sleeps at a door: it has one descriptor watched, an epoll set of all that may wake it.
//!
//! It is counted as waiting, as a thread is, and so is told as well when nobody is left who could change anything. See `PROTOCOL.md`, "The door".

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use multiproc_os::door::Knock;
use multiproc_os::epoll::{Epoll, Often};
use multiproc_os::timer::Timer;

use super::gate::{Ear, Gate};
use super::latch::{Limit, within};
use super::lot::{Lot, Vain, Wish};
use crate::wake::{Source, Wakeup};

/// How long a future waits that finds a latch in the hands of a process that is stopped.
const PAUSE: Duration = Duration::from_millis(5);

impl Lot {
    /// As [`wait`](Lot::wait), without a thread that sleeps. Dropped before its end, it leaves everything as it was.
    pub(crate) async fn wait_async<W: Wish>(&self, gate: &Gate, wish: &mut W) -> Result<W::Outcome, Vain> {
        loop {
            // What is polled must not wait for a process that is stopped.
            match within(Limit::Moment, || wish.attempt()) {
                Some(outcome) if W::has_stalled(&outcome) => {
                    pause().await.map_err(Vain::System)?;
                    continue;
                }
                Some(outcome) => return Ok(outcome),
                None => {}
            }
            let ear = gate.listen().map_err(Vain::System)?;
            match within(Limit::Moment, || wish.look(&mut || self.arm(gate))) {
                Ok(false) => {}
                Ok(true) => {
                    // Others are at it. They may be tasks of this thread.
                    let_others_run().await;
                    continue;
                }
                Err(_) => {
                    pause().await.map_err(Vain::System)?;
                    continue;
                }
            }
            if wait_at_the_door(gate, &ear, wish).await.map_err(Vain::System)? == Knock::HungUp {
                return within(Limit::Moment, || wish.attempt()).ok_or(Vain::Alone);
            }
        }
    }
}

/// Hung up is what it says if nobody is left, whoever may die.
async fn wait_at_the_door<W: Wish>(gate: &Gate, ear: &Ear, wish: &mut W) -> io::Result<Knock> {
    let watched = wish.watch()?;
    let timer = watched.look_again.map(Timer::after).transpose()?;
    let mut others = Vec::new();
    if let Some(timer) = &timer {
        others.push(timer.as_fd().try_clone_to_owned()?);
    }
    others.extend(watched.pidfds);
    let mut knock = {
        let waiting = gate.waiting_future(ear, wish.through())?;
        let door = waiting.fd().try_clone_to_owned()?;
        watch(door, &others, |others| waiting.sleep(others, Some(Instant::now()))).await?
    };
    // What somebody had open is closed before it is said that they have died.
    if knock == Knock::HungUp && wish.depends()? {
        // Of others, perhaps, than a while ago.
        let watched = wish.watch()?;
        others.truncate(usize::from(timer.is_some()));
        others.extend(watched.pidfds);
        let door = ear.fd().unwrap_or(gate.as_fd()).try_clone_to_owned()?;
        knock = watch(door, &others, |others| gate.sleep_open(ear, others, Some(Instant::now()))).await?;
    }
    if knock == Knock::Other {
        wish.died()?;
    }
    Ok(knock)
}

/// Waits until `look` sees something, which it can when `door` or one of `others` is readable.
async fn watch(
    door: OwnedFd,
    others: &[OwnedFd],
    look: impl Fn(&[BorrowedFd<'_>]) -> io::Result<Knock>,
) -> io::Result<Knock> {
    let set = Arc::new(Set(Epoll::new()?));
    set.0.add(&door, 0, Often::Always)?;
    for other in others {
        set.0.add(other, 0, Often::Always)?;
    }
    let others: Vec<BorrowedFd<'_>> = others.iter().map(AsFd::as_fd).collect();
    let mut wakeup = Wakeup::default();
    poll_fn(|context| {
        loop {
            match look(&others)? {
                Knock::Late => ready!(wakeup.poll(&set, context))?,
                knock => return Poll::Ready(Ok(knock)),
            }
        }
    })
    .await
}

/// Readable when one of several descriptors is.
struct Set(Epoll);

impl Source for Set {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until it is worth another try to have a latch whose owner is stopped: nothing tells when it goes on.
async fn pause() -> io::Result<()> {
    let timer = Timer::after(PAUSE)?.as_fd().try_clone_to_owned()?;
    watch(timer.try_clone()?, &[timer], |timer| {
        let over = multiproc_os::poll::wait_readable(timer, Some(Instant::now()))?;
        Ok(if over.is_empty() { Knock::Late } else { Knock::Other })
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
