//! A barrier that waits until a service thread has handled all earlier items, but never blocks for
//! good if that thread is stuck.
//!
//! A waiter sends a *mark* through the thread's own channel and waits until the thread receives it:
//! all that was in the channel before the mark has been handled then. The thread may call user code
//! (a logger), which may need something that the waiter holds (the lock on stdout, say). So it is
//! waited for only while it makes progress: if it has handled nothing for some seconds, waits end,
//! and later ones return at once until it makes progress, except at the end of the process.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// How long a thread may take for one item before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// The state shared by a thread that handles items and its waiters.
#[derive(Debug)]
pub(crate) struct Barrier {
    patience: Duration,
    state: Mutex<State>,
    passed: Condvar,
    /// The number of items handled.
    handled: AtomicU64,
    /// The thread that handles them, which must not wait for itself.
    thread: OnceLock<ThreadId>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next mark.
    next: u64,
    /// The marks that are waited for and have not been received yet.
    waiting: BTreeSet<u64>,
    /// The value of [`handled`](Barrier::handled) when a waiter last gave up.
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

    /// Makes the calling thread the handler of the items.
    pub(crate) fn adopt(&self) {
        let _ = self.thread.set(thread::current().id());
    }

    /// Records that another item has been handled.
    pub(crate) fn handled(&self) {
        self.handled.fetch_add(1, Relaxed);
    }

    /// Records that this mark was received, and wakes its waiter.
    pub(crate) fn pass(&self, mark: u64) {
        self.handled();
        if self.lock().waiting.remove(&mark) {
            self.passed.notify_all();
        }
    }

    /// Records that the thread ends: no more marks will be received, and all waiters are woken.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.over = true;
        state.waiting.clear();
        self.passed.notify_all();
    }

    /// Lets callers wait for a stuck thread again: it may be able to go on by now, without having
    /// made progress yet.
    pub(crate) fn ignore_poison(&self) {
        self.lock().stuck_at = None;
    }

    /// Waits until all that is in the channel now has been handled, `deadline` has passed, or the
    /// thread is stuck. `send` puts a mark into the channel; it may block until the instant that it
    /// is given, and returns whether it has sent the mark by then.
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
    fn waits_for_earlier_records() {
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
    fn own_thread_and_ended_thread() {
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
    fn stuck_thread_is_waited_for_once() {
        let barrier = Barrier::new(Duration::from_millis(10));
        barrier.wait(None, |_, _| Ok(true));
        barrier.handled();
        // A thread that makes progress is waited for, however long it takes.
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
