//! The locks of `multiproc::sync` that one thread holds at a time.

use std::time::Duration;

use multiproc::sync::{
    Lock, LockError, LockGuard, Mutex, MutexGuard, Once, RLock, RLockGuard, RwLock, RwLockWriteGuard,
};

use multiproc::Array;
use multiproc::shared_memory::{ArrayGuard, ArrayPart};

use super::walk::{Run, Scenario, copy, end_soon, sleeps, wait_for};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("lock", take::<Lock>),
    ("lock_asleep", take_asleep::<Lock>),
    ("lock_timeout_asleep", take_within_asleep::<Lock>),
    ("lock_inherit", inherit::<Lock>),
    ("unlock", give_up::<Lock>),
    ("unlock_with_waiters", give_up_with_waiters::<Lock>),
    ("rlock", take::<RLock>),
    ("rlock_again", rlock_again),
    ("rlock_inherit", inherit::<RLock>),
    ("runlock_once_of_twice", runlock_once_of_twice),
    ("runlock", give_up::<RLock>),
    ("mutex_lock", take::<Values>),
    ("mutex_set", mutex_set),
    ("mutex_inherit", inherit::<Values>),
    ("mutex_unlock", give_up::<Values>),
    ("write", take::<Readable>),
    ("write_inherit", inherit::<Readable>),
    ("end_writing", give_up::<Readable>),
    ("end_writing_with_waiters", give_up_with_waiters::<Readable>),
    ("array_lock", take::<Numbers>),
    ("array_lock_asleep", take_asleep::<Numbers>),
    ("array_inherit", inherit::<Numbers>),
    ("array_unlock", give_up::<Numbers>),
    ("array_unlock_with_waiters", give_up_with_waiters::<Numbers>),
    ("part_lock", take::<Piece>),
    ("part_lock_asleep", take_asleep::<Piece>),
    ("part_inherit", inherit::<Piece>),
    ("part_unlock", give_up::<Piece>),
    ("part_unlock_with_waiters", give_up_with_waiters::<Piece>),
    ("call_once", call_once),
    ("call_once_with_waiters", call_once_with_waiters),
    ("call_once_inherit", call_once_inherit),
];

/// Much longer than anything takes here; a wait that should not happen takes at least a second.
pub(crate) const SOON: Duration = Duration::from_millis(500);

type Values = Mutex<[u64; 3]>;
type Readable = RwLock<[u64; 3]>;
type Numbers = Array<u64>;
type Piece = ArrayPart<u64>;

/// The operations that all of these locks have in common.
trait AnyLock: Sized {
    type Guard<'a>
    where
        Self: 'a;
    fn make() -> Self;
    fn take(&self) -> Result<Self::Guard<'_>, LockError<Self::Guard<'_>>>;
    fn take_within(&self, timeout: Duration) -> Result<Option<Self::Guard<'_>>, LockError<Self::Guard<'_>>>;
    fn is_taken(&self) -> bool;
    fn was_poisoned(&self) -> bool;
    fn put_right(&self);

    /// A new lock that this process has waited for, so that work that is done once per process is
    /// done before there is a copy of it.
    fn warm() -> Self
    where
        Self: Sync,
    {
        let lock = Self::make();
        let guard = lock.take().unwrap_or_else(|error| panic!("{error}"));
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(lock.take_within(Duration::from_micros(1)).is_ok_and(|taken| taken.is_none())));
        });
        drop(guard);
        lock
    }

    /// Acquires the lock, poisoned or not.
    fn hold(&self) -> Self::Guard<'_> {
        self.take().or_else(LockError::into_guard).unwrap()
    }

    /// Acquires and releases the lock, as the processes beside the victim do. It also makes the
    /// library do its once-per-thread work.
    fn pass(&self) {
        drop(self.hold());
    }

    /// Checks that the lock can be acquired immediately, and returns its state.
    fn state(&self) -> &'static str {
        let outcome = match self.take_within(SOON) {
            Ok(Some(_guard)) => "free",
            Ok(None) => panic!("the lock has no owner, but can't be acquired"),
            Err(LockError::Poisoned(_poisoned)) => {
                self.put_right();
                "poisoned"
            }
            Err(error) => panic!("{error}"),
        };
        assert!(!self.is_taken() && matches!(self.take_within(Duration::ZERO), Ok(Some(_))));
        outcome
    }
}

macro_rules! any_lock {
    ($type:ty, $guard:ident $(<$value:ty>)?, $new:expr, $take:ident, $within:ident, $taken:ident) => {
        impl AnyLock for $type {
            type Guard<'a> = $guard<'a $(, $value)?>;
            fn make() -> Self {
                $new.unwrap()
            }
            fn take(&self) -> Result<Self::Guard<'_>, LockError<Self::Guard<'_>>> {
                self.$take()
            }
            fn take_within(&self, timeout: Duration) -> Result<Option<Self::Guard<'_>>, LockError<Self::Guard<'_>>> {
                self.$within(timeout)
            }
            fn is_taken(&self) -> bool {
                self.$taken()
            }
            fn was_poisoned(&self) -> bool {
                self.is_poisoned()
            }
            fn put_right(&self) {
                self.clear_poison();
            }
        }
    };
}

any_lock!(Lock, LockGuard, Lock::new(), lock, lock_timeout, is_locked);
any_lock!(RLock, RLockGuard, RLock::new(), lock, lock_timeout, is_locked);
any_lock!(Values, MutexGuard<[u64; 3]>, Mutex::new([1; 3]), lock, lock_timeout, is_locked);
any_lock!(Readable, RwLockWriteGuard<[u64; 3]>, RwLock::new([1; 3]), write, write_timeout, is_write_locked);

any_lock!(Numbers, ArrayGuard<u64>, Array::new(3), lock, lock_timeout, is_locked);
any_lock!(Piece, ArrayGuard<u64>, piece(), lock, lock_timeout, is_locked);

fn piece() -> multiproc::Result<Piece> {
    Ok(Array::new(9)?.split(3)?.swap_remove(1))
}

/// Makes a process die while it holds the lock.
fn orphan<L: AnyLock>(lock: &L) {
    let child = copy(|| std::mem::forget(lock.take().unwrap_or_else(|error| panic!("{error}"))));
    assert_eq!(wait_for(child, 0), Some(0));
}

fn never() {
    panic!("the victim must not sleep");
}

fn take<L: AnyLock + Sync>(run: &mut Run) -> &'static str {
    let lock = L::warm();
    run.victim(
        |step| {
            lock.pass();
            let mut guard = None;
            step(&mut || guard = Some(lock.hold()));
        },
        |_| (),
        never,
    );
    lock.state()
}

fn take_asleep<L: AnyLock + Sync>(run: &mut Run) -> &'static str {
    let lock = L::warm();
    let mut guard = Some(lock.hold());
    run.victim(
        |step| {
            assert!(lock.take_within(Duration::ZERO).is_ok());
            let mut taken = None;
            step(&mut || taken = Some(lock.hold()));
        },
        // Another process waits already; whichever of the two is woken, the other must not be
        // forgotten.
        |run| run.beside(|| lock.pass()),
        || drop(guard.take()),
    );
    drop(guard);
    run.settle_soon();
    // The process beside the victim may have seen the poison.
    if lock.was_poisoned() { "poisoned" } else { lock.state() }
}

fn take_within_asleep<L: AnyLock + Sync>(run: &mut Run) -> &'static str {
    let lock = L::warm();
    let guard = lock.hold();
    run.victim(
        |step| {
            assert!(lock.take_within(Duration::ZERO).is_ok());
            step(&mut || assert!(lock.take_within(Duration::from_millis(1)).is_ok_and(|taken| taken.is_none())));
        },
        |_| (),
        || (),
    );
    drop(guard);
    lock.state()
}

/// A lock with a dead owner is never mistaken for one in order.
fn inherit<L: AnyLock + Sync>(run: &mut Run) -> &'static str {
    let lock = L::warm();
    orphan(&lock);
    run.victim(
        |step| {
            L::make().pass();
            let mut guard = None;
            step(&mut || guard = Some(lock.take().map(drop).is_err_and(|error| error.is_poisoned())));
            assert_eq!(guard, Some(true));
        },
        |_| (),
        never,
    );
    lock.state()
}

fn give_up<L: AnyLock + Sync>(run: &mut Run) -> &'static str {
    let lock = L::warm();
    run.victim(
        |step| {
            let mut guard = Some(lock.hold());
            step(&mut || drop(guard.take()));
        },
        |_| (),
        never,
    );
    lock.state()
}

fn give_up_with_waiters<L: AnyLock + Sync>(run: &mut Run) -> &'static str {
    let lock = L::warm();
    run.victim(
        |step| {
            let mut guard = Some(lock.hold());
            step(&mut || drop(guard.take()));
        },
        |run| (0..2).for_each(|_| run.beside(|| lock.pass())),
        never,
    );
    run.settle_soon();
    if lock.was_poisoned() { "poisoned" } else { lock.state() }
}

fn rlock_again(run: &mut Run) -> &'static str {
    let lock = RLock::warm();
    run.victim(
        |step| {
            let mut guards = [Some(lock.hold()), None];
            step(&mut || guards[1] = Some(lock.hold()));
        },
        |run| run.beside(|| lock.pass()),
        never,
    );
    run.settle_soon();
    if lock.was_poisoned() { "poisoned" } else { lock.state() }
}

fn runlock_once_of_twice(run: &mut Run) -> &'static str {
    let lock = RLock::warm();
    run.victim(
        |step| {
            let mut guards = [Some(lock.hold()), Some(lock.hold())];
            step(&mut || guards[0] = None);
        },
        |run| run.beside(|| lock.pass()),
        never,
    );
    run.settle_soon();
    if lock.was_poisoned() { "poisoned" } else { lock.state() }
}

/// A value that is half written is reported as poisoned.
fn mutex_set(run: &mut Run) -> &'static str {
    let lock = Values::warm();
    run.victim(
        |step| {
            lock.pass();
            step(&mut || assert_eq!(lock.set([2; 3]).unwrap(), [1; 3]));
        },
        |_| (),
        never,
    );
    if lock.lock().is_ok_and(|value| *value != [1; 3] && *value != [2; 3]) {
        panic!("the value is torn, but not reported as poisoned");
    }
    lock.state()
}

/// Checks that the initialization can run or has run, and returns what was found.
fn end_of(once: &Once) -> &'static str {
    let mut outcome = "done";
    once.call_once(|state| outcome = if state.is_poisoned() { "begun" } else { "new" }).unwrap();
    assert!(once.is_completed() && !once.call_once(|_| unreachable!()).unwrap());
    outcome
}

fn new_once() -> Once {
    Once::new().unwrap().call_once(|_| ()).unwrap();
    Once::new().unwrap()
}

fn call_once(run: &mut Run) -> &'static str {
    let once = new_once();
    run.victim(
        |step| {
            Lock::make().pass();
            step(&mut || assert!(once.call_once(|_| ()).unwrap()));
        },
        |_| (),
        never,
    );
    end_of(&once)
}

/// Another process waits for the victim while it runs the initialization.
fn call_once_with_waiters(run: &mut Run) -> &'static str {
    let (once, go) = (new_once(), Lock::warm());
    let (mut guard, mut waiter) = (Some(go.hold()), None);
    run.victim(
        |step| step(&mut || assert!(once.call_once(|_| go.pass()).unwrap())),
        |_| (),
        || {
            let other = copy(|| assert_ne!(end_of(&once), "new"));
            while !sleeps(other) {
                std::thread::yield_now();
            }
            waiter = Some(other);
            drop(guard.take());
        },
    );
    drop(guard);
    if let Some(waiter) = waiter {
        end_soon(vec![waiter]);
        assert!(once.is_completed());
    }
    end_of(&once)
}

fn call_once_inherit(run: &mut Run) -> &'static str {
    let once = new_once();
    let child = copy(|| {
        let _ = once.call_once(|_| {
            // SAFETY: it ends the copy.
            unsafe { libc::_exit(0) }
        });
    });
    assert_eq!(wait_for(child, 0), Some(0));
    run.victim(
        |step| {
            Lock::make().pass();
            step(&mut || assert!(once.call_once(|state| assert!(state.is_poisoned())).unwrap()));
        },
        |_| (),
        never,
    );
    end_of(&once)
}
