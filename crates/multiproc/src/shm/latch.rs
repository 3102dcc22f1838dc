//! One at a time, for a moment: the lock inside the objects. It survives its owner; see `PROTOCOL.md`, "The latch".
//!
//! The algorithm is that of robust mutexes in glibc, see also "Futexes Are Tricky" by Ulrich Drepper; but the word is never on the thread's list of
//! what it owns. It is announced to the kernel for as long as it is held, which takes two stores.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use multiproc_os::futex::{self, Woken};
use multiproc_os::robust::{OWNER, OWNER_DIED, Thread, WAITERS};
use multiproc_os::threads;

use super::backoff::Backoff;
use super::segment::AnyBytes;

/// Nobody who runs holds a latch for so long. Who is stopped may.
const SUSPICIOUS: Duration = Duration::from_secs(1);

/// A latch; all zero, it is open.
///
/// Who holds one must neither take another nor own or give up a robust word: a thread can announce one thing at a time.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Latch(AtomicU32);

// SAFETY: an atomic integer.
#[allow(unsafe_code)]
unsafe impl AnyBytes for Latch {}

/// A latch that is held.
#[must_use]
#[derive(Debug)]
pub(crate) struct Latched<'a> {
    latch: &'a Latch,
    thread: Thread,
    /// Whether the one before has died in the middle: who takes it then sees to the state that was left.
    pub(crate) inherited: bool,
}

impl Latch {
    #[cfg(test)]
    pub(crate) const fn new() -> Latch {
        Latch(AtomicU32::new(0))
    }

    /// Waits until it is open, and takes it.
    #[inline]
    pub(crate) fn lock(&self) -> Latched<'_> {
        let thread = Thread::current();
        thread.announce(&self.0);
        let inherited = match self.0.compare_exchange(0, thread.id(), SeqCst, Relaxed) {
            Ok(_) => false,
            Err(_) => self.lock_slowly(thread),
        };
        Latched { latch: self, thread, inherited }
    }

    /// Takes it if it is open.
    pub(crate) fn try_lock(&self) -> Option<Latched<'_>> {
        let thread = Thread::current();
        thread.announce(&self.0);
        let word = self.0.load(Relaxed);
        if word & OWNER == 0 && self.0.compare_exchange(word, thread.id() | word & WAITERS, SeqCst, Relaxed).is_ok() {
            return Some(Latched { latch: self, thread, inherited: word & OWNER_DIED != 0 });
        }
        thread.done();
        None
    }

    /// Whoever has it is dead.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn orphan(&self) {
        if self.0.load(SeqCst) != 0 {
            self.0.store(OWNER_DIED, SeqCst);
        }
    }

    /// Whether somebody holds it at this moment.
    #[cfg(test)]
    pub(crate) fn is_held(&self) -> bool {
        self.0.load(SeqCst) & OWNER != 0
    }

    /// Says whether the one before has died.
    #[cold]
    fn lock_slowly(&self, thread: Thread) -> bool {
        let mut backoff = Backoff::new();
        // Who has slept can't know whether others do.
        let mut slept = 0;
        loop {
            let word = self.0.load(Relaxed);
            if word & OWNER == 0 {
                let mine = thread.id() | word & WAITERS | slept;
                if self.0.compare_exchange(word, mine, SeqCst, Relaxed).is_ok() {
                    return word & OWNER_DIED != 0;
                }
                continue;
            }
            if word & OWNER == thread.id() {
                // Nobody waits for what they have: it is garbage.
                let _ = self.0.compare_exchange(word, OWNER_DIED | word & WAITERS, SeqCst, Relaxed);
                continue;
            }
            if backoff.wait() {
                continue;
            }
            let waited_for = word | WAITERS;
            if word == waited_for || self.0.compare_exchange(word, waited_for, Relaxed, Relaxed).is_ok() {
                let woken = futex::wait(&self.0, waited_for, Instant::now().checked_add(SUSPICIOUS));
                slept = WAITERS;
                // Not the id of any thread that could have it: what stands there is garbage.
                if woken == Woken::Late && !threads::may_share((word & OWNER) as i32, (&raw const self.0).cast()) {
                    let _ = self.0.compare_exchange(waited_for, OWNER_DIED | WAITERS, Relaxed, Relaxed);
                }
            }
        }
    }
}

impl Drop for Latched<'_> {
    #[inline]
    fn drop(&mut self) {
        // If this thread dies between the two, the kernel wakes: the word is announced.
        if self.latch.0.swap(0, SeqCst) & WAITERS != 0 {
            futex::wake(&self.latch.0, 1);
        }
        self.thread.done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn one_at_a_time() {
        let (latch, count) = (Latch::new(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let latched = latch.lock();
                        assert!(!latched.inherited);
                        // Not one operation, so that two would be seen.
                        count.store(count.load(Relaxed) + 1, Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.load(SeqCst), 80_000);
        assert!(!latch.is_held());
    }

    #[test]
    fn what_a_dead_owner_leaves_is_inherited_once() {
        let latch = Latch::new();
        std::thread::scope(|scope| {
            scope.spawn(|| std::mem::forget(latch.lock()));
        });
        // Waits for the kernel, which puts the word right while the thread ends.
        assert!(latch.lock().inherited);
        assert!(!latch.lock().inherited);
    }

    #[test]
    fn who_sleeps_is_woken_by_the_kernel_when_the_owner_dies() {
        for _ in 0..50 {
            let latch = Latch::new();
            let (locked, go) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::mem::forget(latch.lock());
                    locked.send(()).unwrap();
                    while latch.0.load(Relaxed) & WAITERS == 0 {
                        std::thread::yield_now();
                    }
                });
                go.recv().unwrap();
                let sleepers: Vec<_> = (0..3).map(|_| scope.spawn(|| latch.lock().inherited)).collect();
                let inherited = sleepers.into_iter().map(|sleeper| sleeper.join().unwrap());
                assert_eq!(inherited.filter(|inherited| *inherited).count(), 1);
            });
        }
    }

    #[test]
    fn a_word_of_garbage_is_taken_for_that_of_a_dead_owner() {
        let latch = Latch(AtomicU32::new(OWNER));
        assert!(latch.lock().inherited);
    }

    #[test]
    fn nobody_waits_for_themselves() {
        let latch = Latch(AtomicU32::new(Thread::current().id()));
        assert!(latch.lock().inherited);
    }

    #[test]
    fn who_only_tries_does_not_wait() {
        let latch = Latch::new();
        let held = latch.try_lock().unwrap();
        assert!(latch.is_held());
        std::thread::scope(|scope| assert!(scope.spawn(|| latch.try_lock().is_none()).join().unwrap()));
        drop(held);
        assert!(latch.try_lock().is_some());
    }
}
