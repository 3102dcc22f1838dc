//! The locks of `multiproc::sync`.

use std::time::Duration;

use multiproc::sync::{Lock, LockError};

use super::walk::{Run, Scenario};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("lock", lock),
    ("lock_asleep", lock_asleep),
    ("lock_timeout_asleep", lock_timeout_asleep),
    ("unlock", unlock),
    ("unlock_with_waiters", unlock_with_waiters),
];

/// Much longer than anything takes here; a wait that should not be takes a second at least.
const SOON: Duration = Duration::from_millis(500);

/// Sees that the lock can be had at once, and says how.
fn state(lock: &Lock) -> &'static str {
    let outcome = match lock.lock_timeout(SOON) {
        Ok(Some(_guard)) => "free",
        Ok(None) => panic!("nobody holds it, and it can't be had"),
        Err(LockError::Poisoned(poisoned)) => {
            poisoned.guard().clear_poison();
            "poisoned"
        }
        Err(error) => panic!("{error}"),
    };
    assert!(!lock.is_locked() && matches!(lock.try_lock(), Ok(Some(_))));
    outcome
}

/// Takes it and gives it up again, as those do who run beside the victim.
fn pass(lock: &Lock) {
    drop(lock.lock().or_else(LockError::into_guard).unwrap());
}

/// A new lock, which this process has waited for: so that what is done once in a process has been done, before there is a copy of it.
fn new_lock() -> Lock {
    let lock = Lock::new().unwrap();
    let guard = lock.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(lock.lock_timeout(Duration::from_micros(1)).unwrap().is_none()));
    });
    drop(guard);
    lock
}

/// Has the library do what it does once in a thread.
fn warm(lock: &Lock) {
    assert!(lock.try_lock().is_ok());
}

fn lock(run: &mut Run) -> &'static str {
    let lock = new_lock();
    run.victim(
        |step| {
            warm(&lock);
            let mut guard = None;
            step(&mut || guard = Some(lock.lock().unwrap()));
        },
        |_| (),
        || panic!("it sleeps"),
    );
    state(&lock)
}

fn lock_asleep(run: &mut Run) -> &'static str {
    let lock = new_lock();
    let guard = lock.lock().unwrap();
    let mut guard = Some(guard);
    run.victim(
        |step| {
            warm(&lock);
            let mut taken = None;
            step(&mut || taken = Some(lock.lock().unwrap()));
        },
        // Somebody waits already; whichever of the two is woken, the other isn't forgotten.
        |run| run.beside(|| pass(&lock)),
        || drop(guard.take()),
    );
    drop(guard);
    run.settle();
    match lock.is_poisoned() {
        // The one beside has seen it.
        true => "poisoned",
        false => state(&lock),
    }
}

fn lock_timeout_asleep(run: &mut Run) -> &'static str {
    let lock = new_lock();
    let guard = lock.lock().unwrap();
    run.victim(
        |step| {
            warm(&lock);
            step(&mut || assert!(lock.lock_timeout(Duration::from_millis(1)).unwrap().is_none()));
        },
        |_| (),
        || (),
    );
    drop(guard);
    state(&lock)
}

fn unlock(run: &mut Run) -> &'static str {
    let lock = new_lock();
    run.victim(
        |step| {
            let mut guard = Some(lock.lock().unwrap());
            step(&mut || drop(guard.take()));
        },
        |_| (),
        || panic!("it sleeps"),
    );
    state(&lock)
}

fn unlock_with_waiters(run: &mut Run) -> &'static str {
    let lock = new_lock();
    run.victim(
        |step| {
            let mut guard = Some(lock.lock().unwrap());
            step(&mut || drop(guard.take()));
        },
        |run| (0..2).for_each(|_| run.beside(|| pass(&lock))),
        || panic!("it sleeps"),
    );
    run.settle();
    if lock.is_poisoned() { "poisoned" } else { state(&lock) }
}
