//! Arrays in shared memory, and parts of them.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::common::{self, LONG, for_each_method, sleep_long};
use crate::locks::{any_lock, ends, holding_tests, start};
use crate::shared::{Numbers, kill, wait_asleep_in_futex};
use multiproc::process::StartError;
use multiproc::shared_memory::{ArrayGuard, ArrayPart, MemoryError, RawArray, RawValue};
use multiproc::sync::{Event, LockError, Misuse, PoisonCause, Semaphore};
use multiproc::{Array, CreateError, Process, Queue, Value};

any_lock!(Array<u64>, "array", ArrayGuard<u64>, Array::new(4), lock, try_lock, lock_timeout, is_locked, [1, 2, 1]);
any_lock!(
    ArrayPart<u64>,
    "array",
    ArrayGuard<u64>,
    Ok(Array::new(4)?.split(2).expect("an array of four has two parts").swap_remove(1)),
    lock,
    try_lock,
    lock_timeout,
    is_locked,
    [1, 2, 1]
);

mod whole {
    use super::*;
    holding_tests!(Array<u64>);
}

mod part {
    use super::*;
    holding_tests!(ArrayPart<u64>);
}

/// Returns another handle of the array, as if it had come from another process.
fn sent(array: &Array<u64>) -> Array<u64> {
    let queue = Queue::new().unwrap();
    queue.put(array.clone()).unwrap();
    queue.get().unwrap()
}

fn misuse<G>(result: Result<G, LockError<G>>) -> Misuse {
    match result {
        Err(LockError::Misuse(misuse)) => misuse,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the call was allowed"),
    }
}

fn fill(part: ArrayPart<u64>, again: bool) {
    let range = part.range();
    let mut values = part.lock().unwrap();
    assert_eq!(values.len(), range.len());
    for (place, value) in range.zip(values.iter_mut()) {
        assert_eq!(*value, if again { place as u64 } else { 0 });
        *value = place as u64;
    }
}

fn hold_part(part: ArrayPart<u64>, holds: Semaphore) {
    let mut values = part.lock().unwrap();
    values[0] = 7;
    holds.release().unwrap();
    sleep_long();
}

fn read_long(array: Array<u64>, reads: Semaphore) {
    let _values = array.read().unwrap();
    reads.release().unwrap();
    sleep_long();
}

fn sum(array: Array<u64>) -> u64 {
    array.read().unwrap().iter().sum()
}

fn add_one(array: Array<u64>) {
    array.lock().unwrap().iter_mut().for_each(|value| *value += 1);
}

/// Reads the array, and returns how and in which process its holder died or panicked, if one did.
fn culprit(array: Array<u64>) -> Option<(bool, Option<i32>)> {
    match array.read() {
        Ok(_) => None,
        Err(LockError::Poisoned(poisoned)) => Some((poisoned.cause() == PoisonCause::Died, poisoned.pid())),
        Err(error) => panic!("{error}"),
    }
}

for_each_method! {
    fn smoke(method) {
        let array = Array::<u64>::new(1000).unwrap();
        for turn in 0..3 {
            let parts = if turn < 2 { array.split(7) } else { array.chunks(300) };
            let children: Vec<_> = parts
                .unwrap()
                .into_iter()
                .map(|part| start!(Process::new(fill, (part, turn > 0)), method))
                .collect();
            children.iter().for_each(|child| ends(child));
        }
        assert_eq!(array.to_vec().unwrap(), (0..1000).collect::<Vec<_>>());
        assert!(!array.is_locked() && !array.is_poisoned() && array.readers() == 0);
    }

    fn parts(method) {
        let (array, holds) = (Array::new(8).unwrap(), Semaphore::new(0).unwrap());
        let parts = array.split(4).unwrap();
        let [one, other] =
            [0, 2].map(|part| start!(Process::new(hold_part, (parts[part].clone(), holds.clone())), method));
        (0..2).for_each(|_| holds.acquire().unwrap().forget());
        assert!(parts[0].try_lock().unwrap().is_none() && parts[2].is_locked());
        assert!(array.try_read().unwrap().is_none() && array.try_lock().unwrap().is_none());
        assert!(array.lock_timeout(Duration::from_millis(5)).unwrap().is_none());
        assert!(array.read_timeout(Duration::from_millis(5)).unwrap().is_none());
        // Waits that have given up do not block later ones.
        parts[1].lock().unwrap()[1] = 5;
        let reader = Process::new(culprit, (array.clone(),)).start_method(method).start().unwrap();
        wait_asleep_in_futex(reader.pid());
        kill(&one);
        kill(&other);
        let (died, pid) = reader.join().unwrap().expect("no poison error");
        assert!(died);
        assert!([one.pid(), other.pid()].contains(&pid.unwrap()));
        // Each part has its own poison.
        drop(parts[1].lock().unwrap());
        let Err(LockError::Poisoned(poisoned)) = parts[2].lock() else { panic!("no poison error") };
        assert_eq!((poisoned.pid(), poisoned.guard()[0]), (Some(other.pid()), 7));
        poisoned.guard().clear_poison();
        drop(poisoned);
        drop(parts[2].lock().unwrap());
        assert!(array.is_poisoned() && parts[0].is_poisoned() && !parts[2].is_poisoned());
        array.clear_poison();
        assert_eq!(array.to_vec().unwrap(), [7, 0, 0, 5, 7, 0, 0, 0]);
    }

    fn killed_waiter(method) {
        let (array, reads) = (Array::new(4).unwrap(), Semaphore::new(0).unwrap());
        let parts = array.split(2).unwrap();
        let reader = start!(Process::new(read_long, (array.clone(), reads.clone())), method);
        reads.acquire().unwrap().forget();
        // Both wait for the reader, one of them at the turnstile (the lock that serializes
        // waiters).
        let [one, other] = [0, 1].map(|part| {
            let waiter = start!(Process::new(fill, (parts[part].clone(), false)), method);
            wait_asleep_in_futex(waiter.pid());
            waiter
        });
        kill(&one);
        kill(&reader);
        ends(&other);
        assert!(!array.is_poisoned());
        assert_eq!(array.to_vec().unwrap(), [0, 0, 2, 3]);
    }

    fn concurrent_readers(method) {
        let (array, reads) = (Array::from_slice(&[1, 2, 3]).unwrap(), Semaphore::new(0).unwrap());
        let readers: Vec<_> =
            (0..4).map(|_| start!(Process::new(read_long, (array.clone(), reads.clone())), method)).collect();
        (0..4).for_each(|_| reads.acquire().unwrap().forget());
        assert_eq!((array.readers(), sum(array.clone())), (4, 6));
        let writer = start!(Process::new(add_one, (array.clone(),)), method);
        wait_asleep_in_futex(writer.pid());
        readers.iter().for_each(|reader| kill(reader));
        ends(&writer);
        assert_eq!((array.readers(), sum(array.clone()), array.is_poisoned()), (0, 9, false));
    }

    fn split_while_in_use(method) {
        let (array, holds) = (Array::new(8).unwrap(), Semaphore::new(0).unwrap());
        let old = array.split(4).unwrap();
        let holder = start!(Process::new(hold_part, (old[1].clone(), holds.clone())), method);
        holds.acquire().unwrap().forget();
        // The same division again waits for no thread.
        assert_eq!(array.split(4).unwrap()[1].range(), 2..4);
        std::thread::scope(|scope| {
            let divider = (method != multiproc::StartMethod::Fork).then(|| scope.spawn(|| array.split(2).unwrap()));
            if divider.is_some() {
                while !array.is_locked() {
                    std::thread::yield_now();
                }
            }
            kill(&holder);
            let new = divider.map_or_else(|| array.split(2).unwrap(), |divider| divider.join().unwrap());
            assert_eq!(new[0].range(), 0..4);
            // Poison that a dead holder has left outlasts the new division.
            let Err(LockError::Poisoned(poisoned)) = new[0].lock() else { panic!("no poison error") };
            assert_eq!((poisoned.pid(), poisoned.guard()[2]), (Some(holder.pid()), 7));
            drop(poisoned);
            array.clear_poison();
            drop(new[0].lock().unwrap());
        });
        assert!(matches!(misuse(old[1].lock()), Misuse::Divided("array")));
        let queue = Queue::new().unwrap();
        queue.put(old[3].clone()).unwrap();
        assert!(matches!(misuse(queue.get().unwrap().lock()), Misuse::Divided(_)), "after being sent too");
    }
}

#[multiproc::test]
fn values_and_lengths() {
    let array = Array::from_fn(5, |place| place as u32 * 10).unwrap();
    assert_eq!(
        (array.len(), array.is_empty(), array.get(4).unwrap(), array.get(5).unwrap()),
        (5, false, Some(40), None)
    );
    assert_eq!((array.set(1, 11).unwrap(), array.set(9, 1).unwrap()), (Some(10), None));
    assert_eq!(array.to_vec().unwrap(), [0, 11, 20, 30, 40]);
    let empty = Array::<f64>::new(0).unwrap();
    assert!(empty.is_empty() && empty.lock().unwrap().is_empty() && empty.read().unwrap().is_empty());
    assert!(empty.chunks(3).unwrap().is_empty());
    assert_eq!(empty.split(3).unwrap().iter().map(ArrayPart::len).sum::<usize>(), 0);
    let text = format!("{array:?}");
    assert_eq!(text, "Array { of: \"u32\", len: 5, locked: false, poisoned: false }");
    let odd = Array::<[u8; 3]>::new(5000).unwrap();
    odd.lock().unwrap()[4999] = [1, 2, 3];
    odd.prefault();
    assert_eq!(odd.get(4999).unwrap(), Some([1, 2, 3]));
    for len in [usize::MAX, usize::MAX / 8, 1 << 47] {
        let error = Array::<u64>::new(len).unwrap_err();
        assert!(matches!(error, CreateError { what: "array", .. }), "{error}");
    }
}

#[multiproc::test]
fn parts_cover_all() {
    let array = Array::<u16>::new(10).unwrap();
    let ranges = |parts: Vec<ArrayPart<u16>>| parts.iter().map(ArrayPart::range).collect::<Vec<_>>();
    assert_eq!(ranges(array.split(4).unwrap()), [0..2, 2..5, 5..7, 7..10]);
    assert_eq!(ranges(array.split(1).unwrap()), vec![0..10; 1]);
    assert_eq!(ranges(array.chunks(4).unwrap()), [0..4, 4..8, 8..10]);
    assert_eq!(ranges(array.chunks(99).unwrap()), vec![0..10; 1]);
    assert_eq!(array.split(12).unwrap().iter().filter(|part| part.is_empty()).count(), 2);
    for result in [array.split(0), array.split(4097), array.chunks(0)] {
        let error = result.unwrap_err();
        assert!(matches!(error, MemoryError::Parts { asked: 0 | 4097 }));
        // Regression: for parts of length 0 the message spoke of "0 parts".
        let text = error.to_string();
        assert!(text.contains("4097 parts") || text.contains("parts of length 0"), "{text}");
    }
    let many = Array::<u8>::new(5000).unwrap();
    let parts = many.split(4096).unwrap();
    let _guards: Vec<_> = parts[..1020].iter().map(|part| part.lock().unwrap()).collect();
    assert!(std::thread::scope(|scope| scope.spawn(|| parts[4095].try_lock().unwrap().is_some()).join().unwrap()));
    let second = &array.split(2).unwrap()[1];
    assert_eq!((second.index(), second.len(), second.array().len()), (1, 5, 10));
    assert_eq!(format!("{second:?}"), "ArrayPart { index: 1, range: 5..10, poisoned: false, .. }");
}

#[multiproc::test]
fn misuse_errors() {
    let array = Array::<u64>::new(8).unwrap();
    let other = sent(&array);
    let parts = array.split(4).unwrap();
    let guard = array.lock().unwrap();
    for array in [&array, &other] {
        assert!(matches!(misuse(array.lock()), Misuse::HeldHere("array")));
        assert!(matches!(misuse(array.read()), Misuse::HeldHere(_)));
        assert!(matches!(misuse(array.split(4).unwrap()[0].lock()), Misuse::HeldHere(_)));
        assert!(matches!(array.split(2).unwrap_err(), MemoryError::Lock(Misuse::HeldHere(_))));
    }
    drop(guard);
    let guard = parts[1].lock().unwrap();
    for array in [&array, &other] {
        assert!(matches!(misuse(array.lock()), Misuse::HeldHere(_)));
        assert!(matches!(misuse(array.read()), Misuse::HeldHere(_)));
        assert!(matches!(misuse(array.split(4).unwrap()[1].lock()), Misuse::HeldHere(_)));
        assert!(matches!(array.split(2).unwrap_err(), MemoryError::Lock(Misuse::HeldHere(_))));
        drop(array.split(4).unwrap()[2].lock().unwrap());
    }
    drop(guard);
    let guard = array.read().unwrap();
    for array in [&array, &other] {
        assert!(matches!(misuse(array.lock()), Misuse::Reads(_)));
        assert!(matches!(misuse(array.split(4).unwrap()[1].lock()), Misuse::Reads(_)));
        assert!(matches!(array.split(2).unwrap_err(), MemoryError::Lock(Misuse::Reads(_))));
        drop(array.read().unwrap());
    }
    drop(guard);
    assert!(!array.is_locked() && array.readers() == 0);
    assert!(parts.iter().all(|part| !part.is_locked()));
    // The rejected divisions changed nothing.
    drop(parts[3].lock().unwrap());
}

/// A thread that holds a part may take another while a thread waits for the whole; the waiter
/// doesn't take free parts in between.
#[multiproc::test]
fn second_part_while_whole_is_awaited() {
    let array = Array::<u64>::new(4).unwrap();
    let parts = array.split(4).unwrap();
    for reads in [false, true] {
        for [first, second] in [[0, 3], [3, 0], [2, 1]] {
            std::thread::scope(|scope| {
                let one = parts[first].lock().unwrap();
                let waiter = scope.spawn(|| match reads {
                    true => drop(array.read().unwrap()),
                    false => drop(array.lock().unwrap()),
                });
                while !array.is_locked() {
                    std::thread::yield_now();
                }
                // Other threads have to queue behind the waiter.
                assert!(scope.spawn(|| parts[second].try_lock().unwrap().is_none()).join().unwrap());
                let two = parts[second].lock().unwrap();
                drop(one);
                for _ in 0..100 {
                    assert!(!waiter.is_finished());
                    std::thread::yield_now();
                }
                drop(two);
                waiter.join().unwrap();
            });
        }
    }
}

#[multiproc::test]
fn part_of_other_array() {
    let array = Array::<u64>::new(4).unwrap();
    let parts = array.split(2).unwrap();
    let (reader, one) = (array.read().unwrap(), &parts[0]);
    let (go, has) = (Event::new().unwrap(), Semaphore::new(0).unwrap());
    std::thread::scope(|scope| {
        // Two threads want the same part while another reads. When the reader ends, one of the two
        // gets the part, and the other must not block the other part.
        for _ in 0..2 {
            scope.spawn(|| {
                let guard = one.lock().unwrap();
                has.release().unwrap();
                go.wait().unwrap();
                drop(guard);
            });
        }
        while !array.is_locked() {
            std::thread::yield_now();
        }
        drop(reader);
        has.acquire_timeout(LONG).unwrap().unwrap().forget();
        parts[1].lock_timeout(LONG).unwrap().expect("the part is blocked")[0] += 1;
        assert!(one.try_lock().unwrap().is_none());
        go.set();
    });
}

#[multiproc::test]
fn whole_poison_on_death() {
    let array = Array::<u64>::new(4).unwrap();
    let parts = array.split(2).unwrap();
    let forgets = array.clone();
    std::thread::spawn(move || std::mem::forget(forgets.lock().unwrap())).join().unwrap();
    for part in &parts {
        let Err(LockError::Poisoned(poisoned)) = part.lock_timeout(LONG) else { panic!("no poison error") };
        assert_eq!(poisoned.pid(), Some(std::process::id() as i32));
        // The holder of a part can't clear the poison of the whole.
        poisoned.into_guard().clear_poison();
        assert!(part.is_poisoned());
    }
    assert!(array.read().is_err() && array.get(0).is_err());
    array.clear_poison();
    drop((parts[0].lock().unwrap(), parts[1].lock().unwrap()));
    assert_eq!(array.get(0).unwrap(), Some(0));
}

/// Regression: a part of an old division cleared the poison of the new part with the same index.
#[multiproc::test]
fn stale_part() {
    let array = Array::<u64>::new(4).unwrap();
    let (old, new) = (array.split(2).unwrap(), array.split(4).unwrap());
    let dies = new[1].clone();
    std::thread::spawn(move || std::mem::forget(dies.lock().unwrap())).join().unwrap();
    assert!(new[1].lock_timeout(LONG).is_err_and(|error| error.is_poisoned()));
    old[1].clear_poison();
    assert!(new[1].is_poisoned() && !old[1].is_poisoned());
    let _guard = new[0].lock().unwrap();
    assert!(new[0].is_locked() && !old[0].is_locked());
}

/// A fork copy of a guard holds nothing and unlocks nothing.
#[multiproc::test]
fn forked_guards() {
    common::in_a_process_with_one_thread(|| {
        let array = Array::<u64>::new(4).unwrap();
        let parts = array.split(2).unwrap();
        let mut guards = [parts[0].lock().unwrap(), parts[1].lock().unwrap()].map(Some);
        let error = Process::fork(|| guards[1].as_ref().unwrap()[0]).start().unwrap().join().unwrap_err();
        assert!(error.to_string().contains("this guard was copied by fork"), "{error}");
        Process::fork(|| guards = [None, None]).start().unwrap().join().unwrap();
        let child = Process::fork(|| array.try_read().unwrap().is_none() && parts[1].try_lock().unwrap().is_none());
        assert!(child.start().unwrap().join().unwrap());
        guards[1] = None;
        assert!(Process::fork(|| parts[1].try_lock().unwrap().is_some()).start().unwrap().join().unwrap());
        drop(guards);
        let reader = array.read().unwrap();
        assert!(Process::fork(|| array.try_lock().unwrap().is_none()).start().unwrap().join().unwrap());
        drop(reader);
        assert!(!array.is_poisoned());
    });
}

#[multiproc::test]
fn wrong_type() {
    fn error(result: Result<multiproc::Child<()>, StartError>) -> String {
        result.map(drop).unwrap_err().to_string()
    }
    // Generic code could mix the types up, since only a descriptor is sent, whatever the type.
    #[derive(serde::Serialize)]
    #[serde(transparent)]
    struct Floats(Array<f32>);
    impl<'de> serde::Deserialize<'de> for Floats {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Floats, D::Error> {
            Array::<u32>::deserialize(deserializer).map(|_| unreachable!())
        }
    }
    #[derive(serde::Serialize)]
    #[serde(transparent)]
    struct Raw(RawArray<AtomicU64>);
    impl<'de> serde::Deserialize<'de> for Raw {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
            Array::<u64>::deserialize(deserializer).map(|_| unreachable!())
        }
    }
    let text = error(Process::new(|_: Floats| (), (Floats(Array::new(1).unwrap()),)).start());
    assert!(text.contains("this is not an array of u32"), "{text}");
    let text = error(Process::new(|_: Raw| (), (Raw(RawArray::new(1).unwrap()),)).start());
    assert!(text.contains("this is not an array of u64"), "{text}");
}

fn count(numbers: Numbers, raw: RawArray<AtomicU64>, one: RawValue<AtomicU64>, value: Value<u64>) {
    for turn in 0..10_000 {
        raw[turn % 3].fetch_add(1, SeqCst);
        one.fetch_add(2, SeqCst);
        *value.lock().unwrap() += 3;
    }
    numbers.at(0).fetch_add(1, SeqCst);
}

for_each_method! {
    fn atomics_and_values(method) {
        let (numbers, raw) = (Numbers::new(), RawArray::new(3).unwrap());
        let (one, value) = (RawValue::<AtomicU64>::new(5).unwrap(), Value::new(5).unwrap());
        let children: Vec<_> = (0..3)
            .map(|_| start!(Process::new(count, (numbers.clone(), raw.clone(), one.clone(), value.clone())), method))
            .collect();
        children.iter().for_each(|child| ends(child));
        assert_eq!(raw.iter().map(|number| number.load(SeqCst)).sum::<u64>(), 30_000);
        assert_eq!((one.load(SeqCst), value.get().unwrap(), numbers.at(0).load(SeqCst)), (60_005, 90_005, 3));
        assert_eq!(format!("{one:?} {raw:?}"), "60005 [10002, 9999, 9999]");
    }
}

#[cfg(feature = "ndarray")]
#[multiproc::test]
fn ndarray() {
    fn multiply(a: Array<f64>, b: Array<f64>, rows: ArrayPart<f64>) {
        let (a, b, mut rows_of_c) = (a.read().unwrap(), b.read().unwrap(), rows.lock().unwrap());
        let (a, b) = (a.as_ndarray((4, 3)).unwrap(), b.as_ndarray((3, 2)).unwrap());
        let first = rows.range().start / 2;
        let mut c = rows_of_c.as_ndarray_mut((rows.len() / 2, 2)).unwrap();
        let mine = a.slice(ndarray::s![first..first + rows.len() / 2, ..]);
        c.assign(&mine.dot(&b));
    }
    let a = Array::from_fn(12, |place| place as f64).unwrap();
    let b = Array::from_fn(6, |place| 1.0 / (place + 1) as f64).unwrap();
    let c = Array::<f64>::new(8).unwrap();
    let children: Vec<_> = c
        .chunks(4)
        .unwrap()
        .into_iter()
        .map(|rows| start!(Process::new(multiply, (a.clone(), b.clone(), rows)), multiproc::StartMethod::ForkServer))
        .collect();
    children.iter().for_each(|child| ends(child));
    let (a, b, c) = (a.read().unwrap(), b.read().unwrap(), c.read().unwrap());
    let expected = a.as_ndarray((4, 3)).unwrap().dot(&b.as_ndarray((3, 2)).unwrap());
    assert_eq!(c.as_ndarray((4, 2)).unwrap(), expected);
    c.as_ndarray((5, 2)).unwrap_err();
}
