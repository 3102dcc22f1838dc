//! Threads that use one array at once, through one handle and through several, in all ways:
//! reading, locking all of it, locking chains of parts and unlocking them in another order,
//! dividing it anew, with and without a timeout. No thread ever holds what another holds.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::chaos::{self, Random};
use crate::common::LONG;
use multiproc::shared_memory::ArrayGuard;
use multiproc::sync::{LockError, Misuse};
use multiproc::{Array, Queue};

/// The number of values in the array.
const VALUES: usize = 24;

/// Returns another handle of the array, as if it had come from another process.
fn sent(array: &Array<u64>) -> Array<u64> {
    let queue = Queue::new().unwrap();
    queue.put(array.clone()).unwrap();
    queue.get().unwrap()
}

/// What the threads record: the holder of each value, and how often each kind of work was done.
struct Stage {
    holder: [AtomicU64; VALUES],
    done: [AtomicUsize; 5],
}

impl Stage {
    fn enter(&self, me: u64, range: std::ops::Range<usize>) {
        range.for_each(|value| assert_eq!(self.holder[value].swap(me, SeqCst), 0, "value {value} has a holder"));
    }

    fn leave(&self, me: u64, range: std::ops::Range<usize>) {
        range.for_each(|value| assert_eq!(self.holder[value].swap(0, SeqCst), me, "value {value} has another holder"));
    }

    fn done(&self, what: usize) {
        self.done[what].fetch_add(1, SeqCst);
    }
}

fn turn(array: &Array<u64>, me: u64, random: &mut Random, stage: &Stage) {
    let timeout = Duration::from_micros([0, 1, 50, 300, 2000][random.below(5) as usize]);
    let patient = random.below(2) == 0;
    match random.below(100) {
        0..25 => {
            let guard = if patient { array.read().map(Some) } else { array.read_timeout(timeout) };
            let Some(values) = guard.unwrap() else { return };
            assert!(stage.holder.iter().all(|holder| holder.load(SeqCst) == 0));
            let before = values.to_vec();
            if random.below(8) == 0 {
                std::thread::yield_now();
                assert_eq!(*array.read().unwrap(), before);
            }
            assert_eq!(*values, before);
            stage.done(0);
        }
        25..40 => {
            let guard = if patient { array.lock().map(Some) } else { array.lock_timeout(timeout) };
            let Some(mut values) = guard.unwrap() else { return };
            stage.enter(me, 0..VALUES);
            values.iter_mut().for_each(|value| *value += 1);
            if random.below(8) == 0 {
                std::thread::yield_now();
            }
            stage.leave(me, 0..VALUES);
            stage.done(1);
        }
        40..44 => {
            array.split([4, 6, 12][random.below(3) as usize]).unwrap();
            stage.done(2);
        }
        _ => chain_of_parts(array, me, random, stage, timeout),
    }
}

/// Locks parts in ascending order, so that no two threads wait for each other, and unlocks some
/// before it locks the next.
fn chain_of_parts(array: &Array<u64>, me: u64, random: &mut Random, stage: &Stage, timeout: Duration) {
    let other = (random.below(2) == 0).then(|| sent(array));
    let parts = other.as_ref().unwrap_or(array).split(6).unwrap();
    let mut guards: Vec<(ArrayGuard<'_, u64>, std::ops::Range<usize>)> = Vec::new();
    for part in parts.iter().skip(random.below(3) as usize).take(1 + random.below(5) as usize) {
        let guard = if random.below(2) == 0 { part.lock().map(Some) } else { part.lock_timeout(timeout) };
        match guard {
            Ok(Some(mut values)) => {
                stage.enter(me, part.range());
                values.iter_mut().for_each(|value| *value += 1);
                stage.done(if guards.is_empty() { 3 } else { 4 });
                guards.push((values, part.range()));
            }
            Ok(None) => {}
            // The array was divided differently before a guard existed.
            Err(LockError::Misuse(Misuse::Divided(_))) if guards.is_empty() => return,
            Err(error) => panic!("{error}"),
        }
        if random.below(3) == 0 && guards.len() > 1 {
            let (values, range) = guards.remove(0);
            stage.leave(me, range);
            drop(values);
        }
    }
    for (values, range) in guards {
        stage.leave(me, range);
        drop(values);
    }
}

#[multiproc::test]
fn mutual_exclusion() {
    let array = Array::<u64>::new(VALUES).unwrap();
    array.split(6).unwrap();
    let stage = Stage { holder: [const { AtomicU64::new(0) }; VALUES], done: [const { AtomicUsize::new(0) }; 5] };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for me in 1..=6_u64 {
            let array = if me % 2 == 0 { sent(&array) } else { array.clone() };
            let stage = &stage;
            scope.spawn(move || {
                let mut random = Random::of(me);
                let all_is_done = || stage.done.iter().all(|done| done.load(SeqCst) > 0);
                while begun.elapsed() < chaos::duration() || !all_is_done() {
                    assert!(begun.elapsed() < chaos::duration() + LONG, "some kind of work was never done");
                    turn(&array, me, &mut random, stage);
                }
            });
        }
    });
    let done = stage.done.map(|done| done.into_inner());
    println!("{done:?} done");
    assert!(!array.is_poisoned() && array.readers() == 0 && !array.is_locked());
}
