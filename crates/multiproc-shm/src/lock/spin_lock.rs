//! The spin lock that guards the state of an object for a moment. It survives the death of its
//! owner; see `../PROTOCOL.md`, "The spin lock".
//!
//! A caller spins for some microseconds, then sleeps on a futex. The algorithm is that of robust
//! mutexes in glibc (see also "Futexes Are Tricky" by Ulrich Drepper), but the word is never on the
//! thread's list of what it owns. Instead it is announced to the kernel for as long as it is held,
//! which takes two stores.

use std::cell::Cell;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};
use std::{fmt, io};

use crate::loom::atomic::AtomicU32;
use crate::loom::futex::{self, Woken};
use crate::loom::robust::{OWNER, OWNER_DIED, Thread, WAITERS};
use crate::loom::threads;
use crate::memory::layout::AnyBytes;
use crate::wait::backoff::Backoff;

/// The longest time for which a running thread holds a spin lock. A stopped one may exceed it.
const MAX_HOLD_TIME: Duration = Duration::from_secs(1);

/// How long a caller waits past its limit for an owner of which nothing else is known, or that is
/// stopped.
const GRACE: Duration = Duration::from_millis(2);
/// The same, for an owner that sleeps: it may be in a page fault, or frozen.
const GRACE_FOR_SLEEPERS: Duration = Duration::from_millis(20);
/// The same, for an owner that is runnable, but may lack a processor.
const GRACE_FOR_RUNNERS: Duration = Duration::from_millis(200);

/// How long the calling thread waits for spin locks.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// For as long as it takes.
    Endless,
    /// Until this deadline.
    Until(Instant),
    /// Only for the grace period of an owner, in which a running one is done: 2 to 200 ms.
    GracePeriod,
    /// Not at all, not even for the grace period.
    Zero,
}

impl From<Option<Instant>> for Limit {
    fn from(deadline: Option<Instant>) -> Limit {
        deadline.map_or(Limit::Endless, Limit::Until)
    }
}

thread_local! {
    static LIMIT: Cell<Limit> = const { Cell::new(Limit::Endless) };
}

/// Calls `action`, in which the calling thread waits for spin locks no longer than `limit`. So a
/// call with a timeout returns in time, even if the owner of a spin lock is stopped. With
/// [`Limit::Endless`], the limit that is in force stays so; and [`Limit::Zero`] stays in force
/// regardless of the limit.
#[inline(always)]
pub fn within<R>(limit: Limit, action: impl FnOnce() -> R) -> R {
    /// Restores the previous limit, after a panic too.
    struct Before(Limit);
    impl Drop for Before {
        fn drop(&mut self) {
            LIMIT.set(self.0);
        }
    }
    // Called in one place, so that `action` is inlined.
    let _before = match limit {
        Limit::Endless => None,
        limit => {
            let before = LIMIT.get();
            if !matches!(before, Limit::Zero) {
                LIMIT.set(limit);
            }
            Some(Before(before))
        }
    };
    action()
}

/// A spin lock could not be acquired in time, as its owner made no progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled {
    /// The process that holds it; 0 if that was not looked up, as the caller didn't wait at all.
    pub pid: i32,
    /// Whether that process is stopped, as far as known.
    pub is_stopped: bool,
}

impl Stalled {
    fn by(owner: u32) -> Stalled {
        let seen = threads::seen(owner as i32);
        Stalled {
            pid: seen.map_or(owner as i32, |seen| seen.process),
            is_stopped: seen.is_some_and(threads::Seen::is_stopped),
        }
    }

    /// The lock was held, and the caller doesn't wait at all ([`Limit::Zero`]).
    pub const BUSY: Stalled = Stalled { pid: 0, is_stopped: false };

    /// Returns the `Stalled` that caused this error, if one did.
    pub fn of(error: &io::Error) -> Option<Stalled> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.is_stopped { "is stopped" } else { "makes no progress" };
        if *self == Stalled::BUSY {
            return f.write_str("another thread is in the middle of an operation on it");
        }
        write!(f, "process {} {how} in the middle of an operation on it", self.pid)
    }
}

impl std::error::Error for Stalled {}

impl From<Stalled> for io::Error {
    fn from(stalled: Stalled) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, stalled)
    }
}

/// A spin lock; all zero, it is unlocked.
///
/// A thread that holds one must not take another one, nor take or give up a robust word: a thread
/// can announce one word at a time.
#[derive(Debug)]
#[repr(C)]
pub struct RobustSpinLock(AtomicU32);

// SAFETY: an atomic integer.
#[allow(unsafe_code)]
unsafe impl AnyBytes for RobustSpinLock {}

#[cfg(loom)]
impl crate::loom::atomic::Zeroed for RobustSpinLock {
    fn zeroed() -> RobustSpinLock {
        RobustSpinLock(AtomicU32::new(0))
    }
}

/// A spin lock that is held.
#[must_use]
#[derive(Debug)]
pub struct RobustSpinGuard<'a> {
    spin_lock: &'a RobustSpinLock,
    thread: Thread,
    /// Whether the previous owner has died while it held the lock: then the new owner repairs the
    /// state.
    pub inherited: bool,
}

impl RobustSpinLock {
    #[cfg(all(test, not(loom)))]
    const fn new() -> RobustSpinLock {
        RobustSpinLock(AtomicU32::new(0))
    }

    /// Waits until the lock is free, and takes it.
    ///
    /// # Errors
    /// When the thread's [limit](within) has passed.
    #[inline]
    pub fn lock(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        let thread = Thread::current();
        thread.announce(&self.0);
        let inherited = match self.0.compare_exchange(0, thread.id(), SeqCst, Relaxed) {
            Ok(_) => false,
            Err(_) => self.lock_slowly(thread, LIMIT.get())?,
        };
        Ok(RobustSpinGuard { spin_lock: self, thread, inherited })
    }

    /// As [`lock`](RobustSpinLock::lock), but waits for as long as it takes, regardless of the
    /// limit: for operations that can't fail.
    #[inline]
    pub fn lock_endlessly(&self) -> RobustSpinGuard<'_> {
        let thread = Thread::current();
        thread.announce(&self.0);
        let inherited = match self.0.compare_exchange(0, thread.id(), SeqCst, Relaxed) {
            Ok(_) => false,
            Err(_) => self.lock_slowly(thread, Limit::Endless).unwrap_or_default(),
        };
        RobustSpinGuard { spin_lock: self, thread, inherited }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<RobustSpinGuard<'_>> {
        let thread = Thread::current();
        thread.announce(&self.0);
        let word = self.0.load(Relaxed);
        if word & OWNER == 0 && self.0.compare_exchange(word, thread.id() | word & WAITERS, SeqCst, Relaxed).is_ok() {
            return Some(RobustSpinGuard { spin_lock: self, thread, inherited: word & OWNER_DIED != 0 });
        }
        thread.done();
        None
    }

    /// Makes the lock look as if its owner had died.
    #[doc(hidden)]
    pub fn orphan(&self) {
        if self.0.load(SeqCst) != 0 {
            self.0.store(OWNER_DIED, SeqCst);
        }
    }

    /// Returns whether a thread holds it at this moment.
    #[cfg(test)]
    pub fn is_held(&self) -> bool {
        self.0.load(SeqCst) & OWNER != 0
    }

    /// Returns whether the previous owner has died.
    #[cold]
    fn lock_slowly(&self, thread: Thread, limit: Limit) -> Result<bool, Stalled> {
        let mut backoff = Backoff::new();
        let end = match limit {
            Limit::Endless => None,
            Limit::Until(deadline) => Some(deadline.max(Instant::now())),
            Limit::GracePeriod => Some(Instant::now()),
            Limit::Zero => None,
        };
        // When to check next whether to give up.
        let mut until = end.map(|end| end + GRACE);
        // A waiter that has slept can't know whether others sleep.
        let mut slept = 0;
        loop {
            let word = self.0.load(Relaxed);
            if word & OWNER == 0 {
                let mine = thread.id() | word & WAITERS | slept;
                if self.0.compare_exchange(word, mine, SeqCst, Relaxed).is_ok() {
                    return Ok(word & OWNER_DIED != 0);
                }
                continue;
            }
            if let Limit::Zero = limit
                && word & OWNER != thread.id()
            {
                thread.done();
                return Err(Stalled::BUSY);
            }
            if let (Some(end), Some(time)) = (end, until)
                && time <= Instant::now()
            {
                match patience_with(word & OWNER) {
                    more if end + more > time => until = Some(end + more),
                    // A waiter that has slept may have been woken in place of another. With
                    // `WAITERS` set, the owner wakes that one.
                    _ if word & WAITERS != slept & WAITERS
                        && slept != 0
                        && self.0.compare_exchange(word, word | WAITERS, SeqCst, Relaxed).is_err() => {}
                    _ => {
                        thread.done();
                        return Err(Stalled::by(word & OWNER));
                    }
                }
                continue;
            }
            if word & OWNER == thread.id() {
                // No thread waits for a lock that it holds: the word is garbage.
                let _ = self.0.compare_exchange(word, OWNER_DIED | word & WAITERS, SeqCst, Relaxed);
                continue;
            }
            if backoff.wait() {
                continue;
            }
            let waited_for = word | WAITERS;
            if word == waited_for || self.0.compare_exchange(word, waited_for, Relaxed, Relaxed).is_ok() {
                let suspicious = Instant::now().checked_add(MAX_HOLD_TIME);
                let is_limited = until.is_some_and(|until| suspicious.is_none_or(|suspicious| until < suspicious));
                let woken = futex::wait(&self.0, waited_for, if is_limited { until } else { suspicious });
                slept = WAITERS;
                // Not the id of any thread that could hold the lock: the word is garbage.
                if woken == Woken::Timeout
                    && !is_limited
                    && !threads::may_share((word & OWNER) as i32, (&raw const self.0).cast())
                {
                    let _ = self.0.compare_exchange(waited_for, OWNER_DIED | WAITERS, Relaxed, Relaxed);
                }
            }
        }
    }
}

/// How long past its limit a caller still waits for this owner.
fn patience_with(owner: u32) -> Duration {
    match threads::seen(owner as i32) {
        Some(seen) if seen.is_stopped() => GRACE,
        Some(seen) if seen.is_running() => GRACE_FOR_RUNNERS,
        _ => GRACE_FOR_SLEEPERS,
    }
}

impl Drop for RobustSpinGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // If this thread dies between the two, the kernel wakes a waiter, as the word is announced.
        if self.spin_lock.0.swap(0, SeqCst) & WAITERS != 0 {
            futex::wake(&self.spin_lock.0, 1);
        }
        self.thread.done();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn mutual_exclusion() {
        let (spin_lock, count) = (RobustSpinLock::new(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let guard = spin_lock.lock().unwrap();
                        assert!(!guard.inherited);
                        // Not one atomic operation, so that a second holder would be noticed.
                        count.store(count.load(Relaxed) + 1, Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.load(SeqCst), 80_000);
        assert!(!spin_lock.is_held());
    }

    #[test]
    fn dead_owner() {
        let spin_lock = RobustSpinLock::new();
        std::thread::scope(|scope| {
            scope.spawn(|| std::mem::forget(spin_lock.lock().unwrap()));
        });
        // Waits for the kernel, which repairs the word while the thread ends.
        assert!(spin_lock.lock().unwrap().inherited);
        assert!(!spin_lock.lock().unwrap().inherited);
    }

    #[test]
    fn dead_owner_wakes_waiter() {
        for _ in 0..50 {
            let spin_lock = RobustSpinLock::new();
            let (locked, go) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::mem::forget(spin_lock.lock().unwrap());
                    locked.send(()).unwrap();
                    while spin_lock.0.load(Relaxed) & WAITERS == 0 {
                        std::thread::yield_now();
                    }
                });
                go.recv().unwrap();
                let sleepers: Vec<_> = (0..3).map(|_| scope.spawn(|| spin_lock.lock().unwrap().inherited)).collect();
                let inherited = sleepers.into_iter().map(|sleeper| sleeper.join().unwrap());
                assert_eq!(inherited.filter(|inherited| *inherited).count(), 1);
            });
        }
    }

    #[test]
    fn garbage() {
        let spin_lock = RobustSpinLock(AtomicU32::new(OWNER));
        assert!(spin_lock.lock().unwrap().inherited);
    }

    #[test]
    fn relock_by_owner() {
        let spin_lock = RobustSpinLock(AtomicU32::new(Thread::current().id()));
        assert!(spin_lock.lock().unwrap().inherited);
    }

    #[test]
    fn try_lock() {
        let spin_lock = RobustSpinLock::new();
        let held = spin_lock.try_lock().unwrap();
        assert!(spin_lock.is_held());
        std::thread::scope(|scope| assert!(scope.spawn(|| spin_lock.try_lock().is_none()).join().unwrap()));
        drop(held);
        assert!(spin_lock.try_lock().is_some());
    }

    /// A process that holds the lock, which is in shared memory, and is stopped.
    #[allow(unsafe_code)]
    fn stopped_owner(spin_lock: &RobustSpinLock) -> i32 {
        // SAFETY: the fork copy calls only what is async-signal-safe.
        match unsafe { libc::fork() } {
            0 => {
                let guard = spin_lock.lock_endlessly();
                // SAFETY: no memory is touched.
                unsafe { libc::raise(libc::SIGSTOP) };
                drop(guard);
                // SAFETY: exits at once.
                unsafe { libc::_exit(0) };
            }
            pid => {
                let mut status = 0;
                // SAFETY: the status is ours.
                assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) }, pid);
                pid
            }
        }
    }

    #[allow(unsafe_code)]
    fn end(pid: i32, signal: i32) {
        // SAFETY: no memory is touched.
        unsafe { libc::kill(pid, signal) };
        // SAFETY: its exit status isn't needed.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    }

    #[test]
    fn lock_timeout_with_stopped_owner() {
        let memory = crate::memory::segment::Segment::<Memory>::create().unwrap();
        let spin_lock = &memory.spin_lock;
        let pid = stopped_owner(spin_lock);
        let wanted = Stalled { pid, is_stopped: true };
        let begun = Instant::now();
        assert_eq!(within(Limit::GracePeriod, || spin_lock.lock().map(drop)), Err(wanted));
        assert!(begun.elapsed() >= GRACE);
        let deadline = Instant::now() + Duration::from_millis(50);
        assert_eq!(
            within(Limit::Until(deadline), || within(Limit::Endless, || spin_lock.lock().map(drop))),
            Err(wanted)
        );
        assert!(Instant::now() >= deadline);
        assert!(wanted.to_string().starts_with(&format!("process {pid} is stopped")), "{wanted}");
        assert_eq!(Stalled::of(&wanted.into()), Some(wanted));
        assert_eq!(Stalled::of(&io::ErrorKind::TimedOut.into()), None);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| spin_lock.lock().unwrap().inherited);
            let impatient =
                within(Limit::Until(Instant::now() + Duration::from_millis(5)), || spin_lock.lock().map(drop));
            assert_eq!(impatient, Err(wanted));
            end(pid, libc::SIGCONT);
            assert!(!sleeper.join().unwrap());
        });
        let pid = stopped_owner(spin_lock);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                within(Limit::Until(Instant::now() + MAX_HOLD_TIME * 60), || spin_lock.lock().unwrap().inherited)
            });
            end(pid, libc::SIGKILL);
            assert!(sleeper.join().unwrap());
        });
        drop(spin_lock.lock().unwrap());
    }

    crate::memory::segment::layout! {
        struct Memory: "latch", 0x7f {
            spin_lock: RobustSpinLock,
        }
    }
}
