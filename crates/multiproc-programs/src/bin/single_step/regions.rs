//! Arrays that are locked as a whole and in parts, and shared memory that grows.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use multiproc::shared_memory::ArrayPart;
use multiproc::sync::LockError;
use multiproc::{Array, SharedMemory};

use super::locks::SOON;
use super::walk::{Run, Scenario, copy, wait_for};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("array_read", array_read),
    ("array_read_asleep", array_read_asleep),
    ("array_end_reading_with_parts_waiting", array_end_reading_with_parts_waiting),
    ("array_lock_with_parts_held", array_lock_with_parts_held),
    ("part_lock_behind_a_reader", part_lock_behind_a_reader),
    ("part_lock_with_another", part_lock_with_another),
    ("part_unlock_with_all_waiting", part_unlock_with_all_waiting),
    ("divide", divide),
    ("divide_inherit", divide_inherit),
    ("memory_grow", memory_grow),
];

/// Four numbers in four parts, each of which has been locked.
fn new_array() -> (Array<u64>, Vec<ArrayPart<u64>>) {
    let array = Array::from_slice(&[1; 4]).unwrap();
    let parts = array.split(4).unwrap();
    let guard = array.read().unwrap();
    std::thread::scope(|scope| {
        let tries = || parts[0].lock_timeout(std::time::Duration::from_micros(1)).unwrap().is_none();
        assert!(scope.spawn(tries).join().unwrap());
    });
    drop(guard);
    parts.iter().for_each(|part| drop(part.lock().unwrap()));
    (array, parts)
}

/// Adds one to a part, as the processes beside the victim do.
fn add(part: &ArrayPart<u64>) {
    part.lock().or_else(LockError::into_guard).unwrap()[0] += 1;
}

fn look(array: &Array<u64>) -> Vec<u64> {
    array.read().or_else(LockError::into_guard).unwrap().to_vec()
}

/// Checks that the whole array can be locked immediately, and returns its state.
fn state(array: &Array<u64>) -> &'static str {
    let outcome = if array.read_timeout(SOON).is_err() { "poisoned" } else { "free" };
    array.clear_poison();
    assert!(array.lock_timeout(SOON).unwrap().is_some(), "the array has no holder, but can't be locked");
    assert_eq!(array.readers(), 0);
    for part in array.split(4).unwrap() {
        assert!(part.try_lock().unwrap().is_some() && !part.is_locked());
    }
    drop((array.try_read().unwrap().expect("the array has no holder, but can't be read"), array.try_read().unwrap()));
    assert!(array.try_lock().unwrap().is_some());
    outcome
}

/// As [`state`], after the processes beside the victim have ended and left these numbers.
fn settled(run: &mut Run, array: &Array<u64>, numbers: [u64; 4]) -> &'static str {
    run.settle_soon();
    assert_eq!(look(array), numbers);
    state(array)
}

fn never() {
    panic!("the victim must not sleep");
}

fn array_read(run: &mut Run) -> &'static str {
    let (array, _parts) = new_array();
    run.victim(
        |step| {
            drop(array.read().unwrap());
            let mut guard = None;
            step(&mut || guard = Some(array.read().unwrap()));
        },
        |_| (),
        never,
    );
    state(&array)
}

/// One process holds a part, and another one wants it.
fn array_read_asleep(run: &mut Run) -> &'static str {
    let (array, parts) = new_array();
    let mut guard = Some(parts[1].lock().unwrap());
    run.victim(
        |step| {
            assert!(array.try_read().is_ok());
            let mut taken = None;
            step(&mut || taken = Some(array.read().unwrap()));
        },
        |run| run.beside(|| add(&parts[1])),
        || drop(guard.take()),
    );
    drop(guard);
    settled(run, &array, [1, 2, 1, 1])
}

fn array_end_reading_with_parts_waiting(run: &mut Run) -> &'static str {
    let (array, parts) = new_array();
    run.victim(
        |step| {
            let mut guard = Some(array.read().unwrap());
            step(&mut || drop(guard.take()));
        },
        // One process waits at the slot, and others at the turnstile, one of them for the same
        // part.
        |run| [0, 0, 3].into_iter().for_each(|part| run.beside(|| add(&parts[part]))),
        never,
    );
    settled(run, &array, [3, 1, 1, 2])
}

fn array_lock_with_parts_held(run: &mut Run) -> &'static str {
    let (array, parts) = new_array();
    let mut guards = Some([parts[1].lock().unwrap(), parts[3].lock().unwrap()]);
    run.victim(
        |step| {
            let mut taken = None;
            step(&mut || taken = Some(array.lock().unwrap()));
        },
        |run| run.beside(|| add(&parts[3])),
        || drop(guards.take()),
    );
    drop(guards);
    settled(run, &array, [1, 1, 1, 2])
}

fn part_lock_behind_a_reader(run: &mut Run) -> &'static str {
    let (array, parts) = new_array();
    let mut guard = Some(array.read().unwrap());
    run.victim(
        |step| {
            assert!(parts[1].try_lock().is_ok());
            let mut taken = None;
            step(&mut || taken = Some(parts[1].lock().unwrap()));
        },
        |run| run.beside(|| add(&parts[2])),
        || drop(guard.take()),
    );
    drop(guard);
    settled(run, &array, [1, 1, 2, 1])
}

/// A process waits for the whole array while the victim holds a part and wants another one.
fn part_lock_with_another(run: &mut Run) -> &'static str {
    let (array, parts) = new_array();
    run.victim(
        |step| {
            let mut guards = [Some(parts[2].lock().unwrap()), None];
            step(&mut || guards[1] = Some(parts[0].lock().unwrap()));
        },
        |run| run.beside(|| array.lock().or_else(LockError::into_guard).unwrap()[0] += 1),
        never,
    );
    settled(run, &array, [2, 1, 1, 1])
}

fn part_unlock_with_all_waiting(run: &mut Run) -> &'static str {
    let (array, parts) = new_array();
    run.victim(
        |step| {
            let mut guard = Some(parts[1].lock().unwrap());
            step(&mut || drop(guard.take()));
        },
        |run| {
            run.beside(|| add(&parts[1]));
            run.beside(|| drop(look(&array)));
            run.beside(|| array.lock().or_else(LockError::into_guard).unwrap()[1] += 1);
        },
        never,
    );
    settled(run, &array, [1, 3, 1, 1])
}

/// The array is divided or not, and reports which; a part that a dead process held is still
/// poisoned.
fn divide(run: &mut Run) -> &'static str {
    let (array, parts) = new_array();
    let dead = copy(|| std::mem::forget(parts[2].lock().unwrap()));
    assert_eq!(wait_for(dead, 0), Some(0));
    run.victim(
        |step| {
            let other = new_array();
            drop(other.0.split(2).unwrap());
            step(&mut || drop(array.split(2).unwrap()));
        },
        |_| (),
        never,
    );
    divided(&array, &parts)
}

/// The same, when a process has died while dividing the array.
fn divide_inherit(run: &mut Run) -> &'static str {
    let (array, parts) = new_array();
    let dead = copy(|| std::mem::forget(parts[2].lock().unwrap()));
    assert_eq!(wait_for(dead, 0), Some(0));
    let dead = copy(|| std::mem::forget(array.lock().or_else(LockError::into_guard).unwrap()));
    assert_eq!(wait_for(dead, 0), Some(0));
    run.victim(
        |step| {
            let other = new_array();
            drop(other.0.split(2).unwrap());
            step(&mut || drop(array.split(2).unwrap()));
        },
        |_| (),
        never,
    );
    divided(&array, &parts)
}

fn divided(array: &Array<u64>, old: &[ArrayPart<u64>]) -> &'static str {
    assert!(array.read_timeout(SOON).is_err(), "the poison of a dead holder is lost");
    array.clear_poison();
    let outcome = if old[3].lock_timeout(SOON).is_err() { "divided" } else { "not divided" };
    assert_eq!(array.split(2).unwrap()[1].lock_timeout(SOON).unwrap().unwrap().len(), 2);
    assert!(old[3].lock().is_err());
    state(array);
    outcome
}

fn memory_grow(run: &mut Run) -> &'static str {
    let memory = SharedMemory::options().growable(1 << 20).create(4096).unwrap();
    let numbers = memory.as_atomics::<AtomicU64>().unwrap();
    numbers[511].store(7, SeqCst);
    run.victim(
        |step| {
            SharedMemory::options().growable(1 << 20).create(4096).unwrap().grow(8192).unwrap();
            step(&mut || memory.grow(8192).unwrap());
        },
        |_| (),
        never,
    );
    let outcome = if memory.len() == 8192 { "grown" } else { "not grown" };
    memory.grow(12_288).unwrap();
    let numbers = memory.as_atomics::<AtomicU64>().unwrap();
    assert_eq!([511, 512, 1535].map(|place: usize| numbers[place].load(SeqCst)), [7, 0, 0]);
    outcome
}
