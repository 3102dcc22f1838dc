//! Waiting until a thread of ours has handled what came before, without ever being stuck because it is.
//!
//! Who waits sends a *mark* through the thread's own channel and waits for it to come out at the other end: what lay before it has been
//! handled then. The thread may call code of the user's (a logger), which may want something that the one who waits holds (the lock on
//! stdout, say). So it is waited for only while it gets on: one that has handled nothing for some seconds is left alone, and nobody waits
//! for it again before it moves, but for the end of the process.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// How long a thread may take for one thing before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a thread that handles things and those who wait for it share.
#[derive(Debug)]
pub(crate) struct Barrier {
    patience: Duration,
    state: Mutex<State>,
    passed: Condvar,
    /// How many things have been handled.
    handled: AtomicU64,
    /// The thread that handles them, which must not wait for itself.
    thread: OnceLock<ThreadId>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next mark.
    next: u64,
    /// The marks that have not come out yet, and are waited for.
    waiting: BTreeSet<u64>,
    /// What [`handled`](Barrier::handled) was when somebody lost patience last.
    stuck_at: Option<u64>,
    /// Whether the thread has ended.
    over: bool,
}

impl Default for Barrier {
    fn default() -> Barrier {
        Barrier::new(PATIENCE)
    }
}

impl Barrier {
    fn new(patience: Duration) -> Barrier {
        Barrier {
            patience,
            state: Mutex::default(),
            passed: Condvar::new(),
            handled: AtomicU64::new(0),
            thread: OnceLock::new(),
        }
    }

    /// The calling thread is the one that handles things.
    pub(crate) fn adopt(&self) {
        let _ = self.thread.set(thread::current().id());
    }

    /// One more thing has been handled.
    pub(crate) fn handled(&self) {
        self.handled.fetch_add(1, Relaxed);
    }

    /// This mark has come out.
    pub(crate) fn pass(&self, mark: u64) {
        self.handled();
        if self.lock().waiting.remove(&mark) {
            self.passed.notify_all();
        }
    }

    /// The thread ends; no mark will come out any more.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.over = true;
        state.waiting.clear();
        self.passed.notify_all();
    }

    /// Has a thread that was stuck waited for again: what it was stuck on may have gone, and it may not have noticed yet.
    pub(crate) fn ignore_poison(&self) {
        self.lock().stuck_at = None;
    }

    /// Waits until all that is in the channel now has been handled, or `deadline` has passed, or the thread is stuck. `send` puts a mark
    /// into the channel; it may wait until the instant that it is given, and says whether it was done by then.
    pub(crate) fn wait(
        &self,
        deadline: Option<Instant>,
        mut send: impl FnMut(u64, Option<Instant>) -> io::Result<bool>,
    ) {
        let mut seen = self.handled.load(Relaxed);
        let mark = {
            let mut state = self.lock();
            if state.over || state.stuck_at == Some(seen) || self.thread.get() == Some(&thread::current().id()) {
                return;
            }
            let mark = state.next;
            state.next += 1;
            state.waiting.insert(mark);
            mark
        };
        let mut sent = false;
        loop {
            let until = [deadline, Instant::now().checked_add(self.patience)].into_iter().flatten().min();
            if !sent {
                match send(mark, until) {
                    Ok(done) => sent = done,
                    Err(_) => break,
                }
            }
            let mut state = self.lock();
            if sent {
                let left = until.map_or(self.patience, |until| until.saturating_duration_since(Instant::now()));
                let waiting = |state: &mut State| state.waiting.contains(&mark);
                state = self.passed.wait_timeout_while(state, left, waiting).unwrap_or_else(PoisonError::into_inner).0;
            }
            if !state.waiting.contains(&mark) {
                return;
            }
            let now = self.handled.load(Relaxed);
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                break;
            }
            if until.is_none_or(|until| until <= Instant::now()) {
                if now == seen {
                    state.stuck_at = Some(now);
                    break;
                }
                seen = now;
            }
        }
        self.lock().waiting.remove(&mark);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn soon() -> Option<Instant> {
        Instant::now().checked_add(Duration::from_secs(300))
    }

    #[test]
    fn what_came_before_the_mark_has_been_handled() {
        let barrier = Barrier::default();
        let (sender, receiver) = mpsc::channel::<Option<u64>>();
        let done = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                barrier.adopt();
                for message in receiver {
                    match message {
                        None => drop(done.fetch_add(1, Relaxed)),
                        Some(mark) => barrier.pass(mark),
                    }
                    barrier.handled();
                }
            });
            for round in 1..100 {
                for _ in 0..100 {
                    sender.send(None).unwrap();
                }
                barrier.wait(soon(), |mark, _| {
                    sender.send(Some(mark)).unwrap();
                    Ok(true)
                });
                assert_eq!(done.load(Relaxed), round * 100);
            }
            drop(sender);
        });
    }

    #[test]
    fn nobody_waits_longer_than_told_for_the_thread_itself_or_for_one_that_has_ended() {
        let barrier = Barrier::default();
        barrier.wait(Some(Instant::now()), |_, _| Ok(true));
        barrier.wait(None, |_, _| Err(io::ErrorKind::BrokenPipe.into()));
        assert!(barrier.lock().waiting.is_empty());
        thread::scope(|scope| {
            let (asked, asks) = mpsc::channel();
            let barrier = &barrier;
            let waits = scope.spawn(move || {
                barrier.wait(None, |_, _| {
                    asked.send(()).unwrap();
                    Ok(true)
                })
            });
            asks.recv().unwrap();
            barrier.close();
            waits.join().unwrap();
        });
        barrier.wait(None, |_, _| panic!("it is over"));
        let own = Barrier::default();
        own.adopt();
        own.wait(None, |_, _| panic!("it would wait for itself"));
    }

    #[test]
    fn a_thread_that_is_stuck_is_waited_for_once() {
        let barrier = Barrier::new(Duration::from_millis(10));
        barrier.wait(None, |_, _| Ok(true));
        barrier.handled();
        // One that gets on is waited for, however long it takes.
        let mut moves = 0;
        barrier.wait(None, |mark, until| {
            while until.unwrap() > Instant::now() {
                thread::yield_now();
            }
            moves += 1;
            barrier.handled();
            if moves == 5 {
                barrier.pass(mark);
            }
            Ok(false)
        });
        assert_eq!(moves, 5);
        barrier.wait(None, |_, _| Ok(true));
        barrier.wait(None, |_, _| panic!("it has not moved"));
        barrier.ignore_poison();
        barrier.wait(None, |mark, _| {
            barrier.pass(mark);
            Ok(true)
        });
        barrier.wait(None, |_, _| Ok(true));
        barrier.handled();
        barrier.wait(None, |mark, _| {
            barrier.pass(mark);
            Ok(true)
        });
    }
}
