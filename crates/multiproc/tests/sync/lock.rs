//! Locks between processes.

use std::sync::atomic::Ordering::SeqCst;

use crate::common::{self, for_each_method};
use crate::locks::{self, any_lock, lock_tests, start};
use crate::shared::Numbers;
use multiproc::Process;
use multiproc::sync::{Lock, LockError, LockGuard, Misuse};

any_lock!(Lock, "lock", LockGuard, Lock::new(), lock, try_lock, lock_timeout, is_locked);
lock_tests!(Lock);

#[multiproc::test]
fn relock() {
    let lock = Lock::new().unwrap();
    let guard = lock.lock().unwrap();
    let queue = multiproc::Queue::new().unwrap();
    queue.put(lock.clone()).unwrap();
    let sent: Lock = queue.get().unwrap();
    for other in [&lock, &lock.clone(), &sent] {
        let error = other.lock().map(drop).unwrap_err();
        assert!(matches!(error, LockError::Misuse(Misuse::HeldHere(_))), "{error}");
        assert_eq!(error.to_string(), "this thread holds the lock already, and would wait for itself");
        assert!(other.try_lock().is_err());
    }
    let error: multiproc::Error = lock.lock().map(drop).unwrap_err().into();
    assert!(error.to_string().starts_with("cannot take the lock: this thread holds"), "{error}");
    drop(guard);
    drop(sent.lock().unwrap());
    assert_eq!(format!("{lock:?}"), "Lock { locked: false, poisoned: false }");
}

#[multiproc::test]
fn clear_poison_by_guard() {
    let lock = Lock::new().unwrap();
    let other = lock.clone();
    std::thread::spawn(move || std::mem::forget(other.lock())).join().unwrap();
    let Err(LockError::Poisoned(poisoned)) = lock.lock() else { panic!("no poison error") };
    let guard = poisoned.into_guard();
    assert_eq!(format!("{guard:?}"), "LockGuard { poisoned: true }");
    guard.clear_poison();
    assert_eq!(format!("{guard:?}"), "LockGuard { poisoned: false }");
    drop(guard);
    drop(lock.lock().unwrap());
}

for_each_method! {
    /// Several processes do nothing but take and release one lock, many times.
    fn no_lost_wake_up(method) {
        let (lock, numbers) = (Lock::new().unwrap(), Numbers::new());
        let hurry = |lock: Lock, numbers: Numbers| {
            for turn in 0..20_000 {
                let _guard = lock.lock().unwrap();
                locks::count(&numbers, turn);
            }
        };
        let children: Vec<_> =
            (0..8).map(|_| start!(Process::new(hurry, (lock.clone(), numbers.clone())), method)).collect();
        children.iter().for_each(|child| locks::ends(child));
        assert_eq!(numbers.at(1).load(SeqCst), 160_000);
    }
}

/// The child has the handle that its parent captured, and both refer to one lock.
#[multiproc::test]
fn captured_by_fork() {
    common::in_a_process_with_one_thread(|| {
        let lock = Lock::new().unwrap();
        let mut guard = Some(lock.lock().unwrap());
        let child = Process::fork(|| lock.try_lock().unwrap().is_none()).start().unwrap();
        assert!(child.join().unwrap());
        // Nor does dropping the fork copy of the guard release anything.
        Process::fork(|| drop(guard.take())).start().unwrap().join().unwrap();
        assert!(guard.is_some() && lock.is_locked() && !lock.is_poisoned());
        drop(guard);
        Process::fork(|| drop(lock.lock().unwrap())).start().unwrap().join().unwrap();
    });
}
