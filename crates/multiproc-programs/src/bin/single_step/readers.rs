//! The readers of a `RwLock`, and the writers that wait for them.

use multiproc::sync::{LockError, RwLock, RwLockReadGuard};

use super::locks::SOON;
use super::walk::{Run, Scenario, copy, wait_for};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("read", read),
    ("read_as_the_first_ever", read_as_the_first_ever),
    ("read_asleep", read_asleep),
    ("read_again_while_a_writer_waits", read_again_while_a_writer_waits),
    ("read_inherit", read_inherit),
    ("end_reading", end_reading),
    ("end_reading_with_a_writer_waiting", end_reading_with_a_writer_waiting),
    ("write_asleep", write_asleep),
];

type Pair = RwLock<[u64; 2]>;

/// A new lock that has been read, written and waited for.
fn new_pair() -> Pair {
    let lock = Pair::new([1; 2]).unwrap();
    let guard = lock.read().unwrap();
    std::thread::scope(|scope| {
        let tries = scope.spawn(|| lock.write_timeout(std::time::Duration::from_micros(1)).unwrap().is_none());
        assert!(tries.join().unwrap());
    });
    drop(guard);
    lock
}

/// Adds one to both numbers.
fn add(lock: &Pair) {
    let mut pair = lock.write().or_else(LockError::into_guard).unwrap();
    let sum = pair[0] + 1;
    *pair = [sum; 2];
}

fn read_it(lock: &Pair) -> RwLockReadGuard<'_, [u64; 2]> {
    lock.read().or_else(LockError::into_guard).unwrap()
}

/// Checks that the lock can be read and written immediately, and returns its state.
fn state(lock: &Pair) -> &'static str {
    let mut outcome = "free";
    let written = lock.write_timeout(SOON).or_else(|error| {
        outcome = "poisoned";
        lock.clear_poison();
        error.into_guard().map(Some)
    });
    drop(written.unwrap().expect("the lock has no readers and no writer, but can't be written"));
    assert_eq!(lock.readers(), 0);
    drop((lock.try_read().unwrap().expect("the lock has no writer, but can't be read"), lock.try_read().unwrap()));
    assert!(matches!(lock.try_write(), Ok(Some(_))));
    outcome
}

fn never() {
    panic!("the victim must not sleep");
}

fn read(run: &mut Run) -> &'static str {
    let lock = new_pair();
    run.victim(
        |step| {
            drop(lock.read().unwrap());
            let mut guard = None;
            step(&mut || guard = Some(lock.read().unwrap()));
        },
        |_| (),
        never,
    );
    state(&lock)
}

/// There is no memory for its slot yet.
fn read_as_the_first_ever(run: &mut Run) -> &'static str {
    let lock = Pair::new([1; 2]).unwrap();
    run.victim(
        |step| {
            drop(new_pair());
            let mut guard = None;
            step(&mut || guard = Some(lock.read().unwrap()));
        },
        |_| (),
        never,
    );
    state(&lock)
}

fn read_asleep(run: &mut Run) -> &'static str {
    let lock = new_pair();
    let mut guard = Some(lock.write().unwrap());
    run.victim(
        |step| {
            assert!(lock.try_read().is_ok());
            let mut taken = None;
            step(&mut || taken = Some(lock.read().unwrap()));
        },
        |run| run.beside(|| add(&lock)),
        || drop(guard.take()),
    );
    drop(guard);
    run.settle_soon();
    assert_eq!(*read_it(&lock), [2; 2]);
    state(&lock)
}

fn read_again_while_a_writer_waits(run: &mut Run) -> &'static str {
    let lock = new_pair();
    run.victim(
        |step| {
            let mut guards = [Some(lock.read().unwrap()), None];
            step(&mut || guards[1] = Some(lock.read().unwrap()));
            assert_eq!(guards.map(|guard| *guard.unwrap()), [[1; 2]; 2]);
        },
        |run| run.beside(|| add(&lock)),
        never,
    );
    run.settle_soon();
    assert_eq!(*read_it(&lock), [2; 2]);
    state(&lock)
}

/// A lock with a writer that died is never mistaken for one in order.
fn read_inherit(run: &mut Run) -> &'static str {
    let lock = new_pair();
    let writer = copy(|| std::mem::forget(lock.write().unwrap()));
    assert_eq!(wait_for(writer, 0), Some(0));
    run.victim(
        |step| {
            drop(new_pair());
            let mut told = false;
            step(&mut || told = lock.read().is_err_and(|error| error.is_poisoned()));
            assert!(told);
        },
        |_| (),
        never,
    );
    assert!(lock.read().is_err_and(|error| error.is_poisoned()));
    state(&lock)
}

fn end_reading(run: &mut Run) -> &'static str {
    let lock = new_pair();
    run.victim(
        |step| {
            let mut guard = Some(lock.read().unwrap());
            step(&mut || drop(guard.take()));
        },
        |_| (),
        never,
    );
    state(&lock)
}

fn end_reading_with_a_writer_waiting(run: &mut Run) -> &'static str {
    let lock = new_pair();
    run.victim(
        |step| {
            let mut guard = Some(lock.read().unwrap());
            step(&mut || drop(guard.take()));
        },
        // One writer waits at the slot, and one at the turnstile.
        |run| (0..2).for_each(|_| run.beside(|| add(&lock))),
        never,
    );
    run.settle_soon();
    assert_eq!(*read_it(&lock), [3; 2]);
    state(&lock)
}

fn write_asleep(run: &mut Run) -> &'static str {
    let lock = new_pair();
    let mut guard = Some(lock.read().unwrap());
    run.victim(
        |step| {
            let mut taken = None;
            step(&mut || taken = Some(lock.write().unwrap()));
        },
        |_| (),
        || drop(guard.take()),
    );
    drop(guard);
    state(&lock)
}
