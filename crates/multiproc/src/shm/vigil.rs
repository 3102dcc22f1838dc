//! What a future does where a thread sleeps at a door: it has one descriptor watched, an epoll set of all that may wake it.
//!
//! It is counted as waiting, as a thread is, and so is told as well when nobody is left who could change anything. See `PROTOCOL.md`, "The door".

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use multiproc_os::door::{self, Knock};
use multiproc_os::epoll::{Epoll, Often};
use multiproc_os::timer::Timer;

use super::gate::{Ear, Gate, Waiting};
use super::latch::{Limit, Stalled, within};
use super::lot::{Lot, Vain, Wish};
use crate::wake::{Source, Wakeup};

/// How long a future waits that finds a latch in the hands of a process that is stopped.
const PAUSE: Duration = Duration::from_millis(5);

impl Lot {
    /// As [`wait`](Lot::wait), without a thread that sleeps. Dropped before its end, it leaves everything as it was.
    pub(crate) async fn wait_async<W: Wish>(&self, gate: &Gate, wish: &mut W) -> Result<W::Outcome, Vain> {
        // Whether the door was hung up, and only the death of a process on the ledger may help.
        let mut is_alone = false;
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
            match wait_at_the_door(gate, &ear, wish, is_alone).await {
                // What a process had open is closed before its pidfd tells of its death.
                Ok(Knock::HungUp) => match wish.depends() {
                    Ok(true) => is_alone = true,
                    Ok(false) => return within(Limit::Moment, || wish.attempt()).ok_or(Vain::Alone),
                    Err(error) => return Err(Vain::System(error)),
                },
                Ok(_) => is_alone = false,
                // The latch is needed to see to the dead.
                Err(error) if Stalled::of(&error).is_some() => pause().await.map_err(Vain::System)?,
                Err(error) => return Err(Vain::System(error)),
            }
        }
    }
}

/// Says that the door is hung up, whatever deaths may still help; unless `is_alone` says that this
/// is known: then it waits for deaths and tokens alone.
async fn wait_at_the_door<W: Wish>(gate: &Gate, ear: &Ear, wish: &mut W, is_alone: bool) -> io::Result<Knock> {
    let watched = within(Limit::Moment, || wish.watch())?;
    let timer = watched.look_again.map(Timer::after).transpose()?;
    let others: Vec<BorrowedFd<'_>> =
        timer.iter().map(AsFd::as_fd).chain(watched.pidfds.iter().map(|pidfd| pidfd.as_fd())).collect();
    // It isn't counted where a hang-up would say nothing.
    let is_counted = !is_alone && !wish.has_other_tasks();
    let now = || Some(Instant::now());
    let waiting = is_counted.then(|| gate.waiting_future(ear, wish.through())).transpose()?;
    let look = || match &waiting {
        Some(waiting) => waiting.sleep(&others, now()),
        None => match ear {
            Ear::Hears(..) => ear.glance(&others),
            Ear::Sees | Ear::Deaf => gate.sleep_open(ear, &others, now()),
        },
    };
    let knock = match ear {
        Ear::Hears(ear, _) => {
            for other in &others {
                ear.add(other)?;
            }
            watch(ear, look).await?
        }
        Ear::Sees | Ear::Deaf => {
            let set = Epoll::new()?;
            set.add(waiting.as_ref().map_or_else(|| gate.as_fd(), Waiting::fd), 0, Often::Always)?;
            for other in &others {
                set.add(other, 0, Often::Always)?;
            }
            watch(&Arc::new(Set(set)), look).await?
        }
    };
    drop(waiting);
    if knock == Knock::Other {
        within(Limit::Moment, || wish.died())?;
    }
    Ok(knock)
}

/// Waits until `look` sees something, which it can when `source` is readable.
async fn watch<S: Source>(source: &Arc<S>, look: impl Fn() -> io::Result<Knock>) -> io::Result<Knock> {
    let mut wakeup = Wakeup::default();
    poll_fn(|context| {
        loop {
            match look()? {
                Knock::Late => ready!(wakeup.poll(source, context))?,
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

impl Source for door::Ear {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

impl Source for Timer {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

/// Waits until it is worth another try to have a latch whose owner is stopped: nothing tells when
/// it goes on.
async fn pause() -> io::Result<()> {
    let timer = Arc::new(Timer::after(PAUSE)?);
    watch(&timer, || {
        let over = multiproc_os::poll::wait_readable(&[timer.as_fd()], Some(Instant::now()))?;
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
