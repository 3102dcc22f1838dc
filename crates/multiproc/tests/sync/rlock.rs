//! Locks between processes that their holder can take again.

use std::time::Duration;

use crate::common::{Ends, for_each_method, sleep_long};
use crate::locks::{any_lock, lock_tests};
use crate::shared::kill;
use multiproc::sync::{Event, LockError, Misuse, RLock, RLockGuard};
use multiproc::{Process, Queue};

any_lock!(RLock, "reentrant lock", RLockGuard, RLock::new(), lock, try_lock, lock_timeout, is_locked);
lock_tests!(RLock);

/// Returns another handle of the lock, as if it had come from another process.
fn sent(lock: &RLock) -> RLock {
    let queue = Queue::new().unwrap();
    queue.put(lock.clone()).unwrap();
    queue.get().unwrap()
}

/// Whether another thread could take the lock.
fn is_free(lock: &RLock) -> bool {
    std::thread::scope(|scope| scope.spawn(|| lock.try_lock().unwrap().is_some()).join().unwrap())
}

#[multiproc::test]
fn recursive_lock() {
    let lock = RLock::new().unwrap();
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
        let mut guards = [
            Some(lock.lock().unwrap()),
            lock.try_lock().unwrap(),
            lock.clone().lock_timeout(Duration::ZERO).map(|guard| guard.map(|_| lock.lock().unwrap())).unwrap(),
        ];
        for index in order {
            assert!(!is_free(&lock));
            guards[index] = None;
        }
        assert!(is_free(&lock) && !lock.is_locked());
    }
    let guards: Vec<_> = (0..10_000).map(|_| lock.lock().unwrap()).collect();
    // However often it is taken, it counts as one lock.
    let others: Vec<_> = (0..3).map(|_| RLock::new().unwrap()).collect();
    let held: Vec<_> = others.iter().map(|lock| lock.lock().unwrap()).collect();
    drop((guards, held));
    assert!(is_free(&lock));
}

#[multiproc::test]
fn relock_by_other_handle() {
    let lock = RLock::new().unwrap();
    let other = sent(&lock);
    for (one, two) in [(&lock, &other), (&other, &lock)] {
        let guard = one.lock().unwrap();
        let again = one.lock().unwrap();
        let error = two.lock().map(drop).unwrap_err();
        assert!(matches!(error, LockError::Misuse(Misuse::OtherHandle(_))), "{error}");
        assert!(error.to_string().contains("holds the reentrant lock through another handle"), "{error}");
        assert!(two.try_lock().is_err() && two.is_locked());
        drop(guard);
        assert!(!is_free(&lock) && two.lock().is_err());
        drop(again);
        assert!(is_free(&lock));
    }
}

/// Regression: a handle remembered the last thread that had taken the lock through it, and treated
/// that as its current holder.
#[multiproc::test]
fn unlock_releases_all_handles() {
    let lock = RLock::new().unwrap();
    let other = sent(&lock);
    drop(lock.lock().unwrap());
    let guard = other.lock().unwrap();
    assert!(lock.lock().is_err());
    drop(guard);
    assert!(is_free(&lock));
}

#[multiproc::test]
fn every_guard_reports_poison() {
    let lock = RLock::new().unwrap();
    let other = lock.clone();
    std::thread::spawn(move || std::mem::forget((other.lock(), other.lock()))).join().unwrap();
    let one = lock.lock().unwrap_err().into_guard().unwrap();
    let two = lock.lock().unwrap_err().into_guard().unwrap();
    assert!(!is_free_or_poisoned(&lock));
    two.clear_poison();
    let three = lock.lock().unwrap();
    drop((one, two, three));
    assert!(is_free(&lock));
    assert_eq!(format!("{lock:?}"), "RLock { locked: false, poisoned: false }");
}

fn is_free_or_poisoned(lock: &RLock) -> bool {
    std::thread::scope(|scope| scope.spawn(|| !matches!(lock.try_lock(), Ok(None))).join().unwrap())
}

fn hold_thrice(lock: RLock, holds: Event) {
    let _guards = [0; 3].map(|_| lock.lock().unwrap());
    holds.set();
    sleep_long();
}

for_each_method! {
    fn killed_recursive_owner(method) {
        let (lock, holds) = (RLock::new().unwrap(), Event::new().unwrap());
        let holder = Process::new(hold_thrice, (lock.clone(), holds.clone()));
        let holder = Ends(holder.start_method(method).start().unwrap());
        holds.wait().unwrap();
        kill(&holder);
        drop(lock.lock().unwrap_err().into_guard().unwrap());
        lock.clear_poison();
        assert!(is_free(&lock) && !lock.is_locked());
    }
}
