//! Values shared between processes that many read at a time, or one writes.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use crate::common::{self, Ends, LONG, for_each_method, sleep_long, time_until};
use crate::locks::{any_lock, ends, lock_tests, start};
use crate::shared::{Numbers, kill, wait_asleep_in_futex};
use multiproc::sync::{Event, LockError, Misuse, RwLock, RwLockWriteGuard, Semaphore};
use multiproc::{Process, Queue};

any_lock!(
    RwLock<u64>,
    "read-write lock",
    RwLockWriteGuard<u64>,
    RwLock::new(7),
    write,
    try_write,
    write_timeout,
    is_write_locked
);
lock_tests!(RwLock<u64>);

/// Returns another handle of the lock, as if it had come from another process.
fn sent<T: multiproc::sync::Plain>(lock: &RwLock<T>) -> RwLock<T> {
    let queue = Queue::new().unwrap();
    queue.put(lock.clone()).unwrap();
    queue.get().unwrap()
}

/// Writes sometimes, and otherwise reads. In `numbers`: 0 is the number of readers, 1 the number of
/// writers, 2 the most readers so far.
fn read_and_write(lock: RwLock<[u64; 4]>, numbers: Numbers, times: u32) {
    // All four begin together: one alone would be done before the next has arrived.
    numbers.at(3).fetch_add(1, SeqCst);
    while numbers.at(3).load(SeqCst) < 4 {
        std::thread::yield_now();
    }
    for turn in 0..times {
        if turn % 8 == 0 {
            let mut value = lock.write().unwrap();
            assert_eq!((numbers.at(0).load(SeqCst), numbers.at(1).fetch_add(1, SeqCst)), (0, 0));
            for place in 0..4 {
                value[place] += 1;
                if turn % 64 == 0 {
                    std::thread::yield_now();
                }
            }
            numbers.at(1).fetch_sub(1, SeqCst);
        } else {
            let value = lock.read().unwrap();
            let readers = numbers.at(0).fetch_add(1, SeqCst) + 1;
            numbers.at(2).fetch_max(readers, Relaxed);
            assert_eq!(numbers.at(1).load(SeqCst), 0);
            let first = value[0];
            if turn % 16 == 1 {
                std::thread::yield_now();
            }
            assert_eq!(*value, [first; 4]);
            numbers.at(0).fetch_sub(1, SeqCst);
        }
    }
}

/// Reads until it is killed.
fn read_long(lock: RwLock<u64>, reads: Semaphore) {
    let _guard = lock.read().unwrap();
    reads.release().unwrap();
    sleep_long();
}

fn add_one(lock: RwLock<u64>) {
    *lock.write().unwrap() += 1;
}

fn get(lock: RwLock<u64>) -> u64 {
    *lock.read().unwrap()
}

fn write_half(lock: RwLock<[u64; 2]>, wrote: Event) {
    let mut pair = lock.write().unwrap();
    pair[0] = 1;
    wrote.set();
    sleep_long();
}

/// The value that is found in spite of poison, and the process that caused the poison.
fn find(lock: RwLock<[u64; 2]>) -> Option<([u64; 2], Option<i32>)> {
    match lock.read() {
        Err(LockError::Poisoned(poisoned)) => Some((**poisoned.guard(), poisoned.pid())),
        _ => None,
    }
}

for_each_method! {
    fn smoke(method) {
        let (lock, numbers) = (RwLock::new([0; 4]).unwrap(), Numbers::new());
        let children: Vec<_> = (0..4)
            .map(|_| start!(Process::new(read_and_write, (lock.clone(), numbers.clone(), 4000)), method))
            .collect();
        children.iter().for_each(|child| ends(child));
        assert_eq!(lock.get().unwrap(), [2000; 4]);
        assert!(numbers.at(2).load(SeqCst) >= 2, "no two reads overlapped");
        assert_eq!(lock.readers(), 0);
    }

    fn concurrent_readers(method) {
        let (lock, reads) = (RwLock::new(3).unwrap(), Semaphore::new(0).unwrap());
        let _readers: Vec<_> =
            (0..5).map(|_| start!(Process::new(read_long, (lock.clone(), reads.clone())), method)).collect();
        (0..5).for_each(|_| reads.acquire().unwrap().forget());
        assert_eq!((lock.get().unwrap(), lock.readers()), (3, 5));
        assert!(!lock.is_write_locked() && lock.try_write().unwrap().is_none());
        assert!(lock.write_timeout(Duration::from_millis(10)).unwrap().is_none());
        assert!(lock.try_read().unwrap().is_some(), "a write that has given up blocks no read");
    }

    fn killed_reader(method) {
        let (lock, reads) = (RwLock::new(3).unwrap(), Semaphore::new(0).unwrap());
        let readers: Vec<_> =
            (0..3).map(|_| start!(Process::new(read_long, (lock.clone(), reads.clone())), method)).collect();
        readers.iter().for_each(|_| reads.acquire().unwrap().forget());
        let writer = start!(Process::new(add_one, (lock.clone(),)), method);
        wait_asleep_in_futex(writer.pid());
        let late = Process::new(get, (lock.clone(),)).start_method(method).start().unwrap();
        wait_asleep_in_futex(late.pid());
        assert!(lock.is_write_locked() && lock.try_read().unwrap().is_none(), "a writer waits");
        readers.iter().rev().for_each(|reader| kill(reader));
        let took = time_until(|| !writer.is_alive() && !late.is_alive());
        println!("{took:?} from the kills to the end of the waiters");
        assert!(took < Duration::from_millis(900));
        ends(&writer);
        assert_eq!(late.join().unwrap(), 4, "the first waiter was not the first to write");
        assert!(!lock.is_poisoned() && lock.readers() == 0);
    }

    fn killed_waiting_writer(method) {
        let lock = RwLock::new(3).unwrap();
        let guard = lock.read().unwrap();
        let writer = start!(Process::new(add_one, (lock.clone(),)), method);
        wait_asleep_in_futex(writer.pid());
        let reader = Process::new(get, (lock.clone(),)).start_method(method).start().unwrap();
        wait_asleep_in_futex(reader.pid());
        kill(&writer);
        assert_eq!(reader.join().unwrap(), 3);
        assert!(!lock.is_poisoned(), "it had not begun to write");
        drop(guard);
        *lock.write().unwrap() += 1;
    }

    fn writer_poison_on_death(method) {
        let (lock, wrote) = (RwLock::new([0; 2]).unwrap(), Event::new().unwrap());
        let writer = start!(Process::new(write_half, (lock.clone(), wrote.clone())), method);
        wrote.wait().unwrap();
        let readers: Vec<_> =
            (0..2).map(|_| Process::new(find, (lock.clone(),)).start_method(method).start().unwrap()).collect();
        readers.iter().for_each(|reader| wait_asleep_in_futex(reader.pid()));
        kill(&writer);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), Some(([1, 0], Some(writer.pid()))));
        }
        assert!(lock.get().is_err() && lock.set([0; 2]).is_err() && lock.is_poisoned());
        assert_eq!(format!("{lock:?}"), "RwLock { value: [1, 0], poisoned: true }");
        let Err(LockError::Poisoned(mut poisoned)) = lock.write() else { panic!("no poison error") };
        **poisoned.guard_mut() = [2; 2];
        poisoned.guard().clear_poison();
        drop(poisoned);
        assert_eq!((find(lock.clone()), lock.get().unwrap()), (None, [2; 2]));
    }
}

#[multiproc::test]
fn writers_are_not_starved() {
    let (lock, stop) = (RwLock::new(0_u64).unwrap(), std::sync::atomic::AtomicBool::new(false));
    let readers = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                // There is nearly always a reader.
                let mut guard = lock.read().unwrap();
                readers.wait();
                while !stop.load(SeqCst) {
                    std::thread::yield_now();
                    drop(guard);
                    guard = lock.read().unwrap();
                }
            });
        }
        readers.wait();
        for _ in 0..50 {
            *lock.write_timeout(LONG).unwrap().expect("the writer is starved") += 1;
        }
        stop.store(true, SeqCst);
    });
    assert_eq!(lock.get().unwrap(), 50);
}

#[multiproc::test]
fn recursive_read() {
    let lock = RwLock::new(1).unwrap();
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        std::thread::scope(|scope| {
            let mut guards = [Some(lock.read().unwrap()), Some(lock.read().unwrap()), None, None];
            let writer = scope.spawn(|| *lock.write().unwrap() += 1);
            while !lock.is_write_locked() {
                std::thread::yield_now();
            }
            guards[2] = Some(lock.read().unwrap());
            guards[3] = lock.clone().try_read().unwrap().map(|_| lock.read().unwrap());
            let value = **guards[0].as_ref().unwrap();
            for index in order {
                // Nothing is written while one of the readers remains.
                assert_eq!(**guards[index].as_ref().unwrap(), value);
                assert!(!writer.is_finished());
                guards[index] = None;
            }
            writer.join().unwrap();
        });
    }
    assert_eq!(lock.get().unwrap(), 4);
}

#[multiproc::test]
fn relock_by_other_handle() {
    let lock = RwLock::new(1).unwrap();
    let other = sent(&lock);
    let one = lock.read().unwrap();
    // While no thread waits, this is allowed.
    let two = other.read().unwrap();
    drop((one, two));
    let one = lock.read().unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| *lock.write().unwrap() += 1);
        while !lock.is_write_locked() {
            std::thread::yield_now();
        }
        let error = other.read().map(drop).unwrap_err();
        assert!(matches!(error, LockError::Misuse(Misuse::OtherHandle(_))), "{error}");
        let two = lock.read().unwrap();
        drop(one);
        assert!(!writer.is_finished());
        drop(two);
    });
    assert_eq!(other.get().unwrap(), 2);
}

#[multiproc::test]
fn misuse_errors() {
    let lock = RwLock::new(1).unwrap();
    let guard = lock.read().unwrap();
    for other in [&lock, &sent(&lock)] {
        let error = other.write().map(drop).unwrap_err();
        assert!(matches!(error, LockError::Misuse(Misuse::Reads("read-write lock"))), "{error}");
        assert!(other.try_write().is_err() && other.set(1).is_err());
    }
    assert_eq!(format!("{guard} {guard:?}"), "1 1");
    drop(guard);
    let guard = lock.write().unwrap();
    assert!(matches!(lock.write(), Err(LockError::Misuse(Misuse::HeldHere(_)))));
    assert!(matches!(lock.read(), Err(LockError::Misuse(Misuse::HeldHere(_)))));
    assert_eq!(format!("{guard} {guard:?} {lock:?}"), "1 1 RwLock { write_locked: true, poisoned: false }");
    drop(guard);
    assert_eq!(format!("{lock:?}"), "RwLock { value: 1, poisoned: false }");
    // No value at all.
    let bare = RwLock::new(()).unwrap();
    drop((bare.read().unwrap(), bare.read().unwrap()));
    drop(bare.write().unwrap());
}

#[multiproc::test]
fn reader_panic_does_not_poison() {
    let lock = RwLock::new(1).unwrap();
    let other = lock.clone();
    std::thread::spawn(move || {
        let _guard = other.read().unwrap();
        panic!("panic on purpose");
    })
    .join()
    .unwrap_err();
    let forgets = lock.clone();
    std::thread::spawn(move || std::mem::forget(forgets.read().unwrap())).join().unwrap();
    *lock.write_timeout(LONG).unwrap().unwrap() += 1;
    assert_eq!((lock.get().unwrap(), lock.readers()), (2, 0));
}

/// Reads in threads until all do: 4096 of them, 1024 in each of four processes.
fn read_by_many(lock: RwLock<u64>, reads: Semaphore, go: Event) {
    let guards: Vec<_> = (0..1024).map(|_| lock.read().unwrap()).collect();
    // There is no slot for another read either.
    assert!(matches!(lock.read(), Err(LockError::Misuse(Misuse::TooMany(_) | Misuse::TooManyReaders(_)))));
    reads.release().unwrap();
    go.wait().unwrap();
    drop(guards);
}

#[multiproc::test]
fn max_readers() {
    let (lock, reads, go) = (RwLock::new(1).unwrap(), Semaphore::new(0).unwrap(), Event::new().unwrap());
    let children: Vec<_> = (0..4)
        .map(|_| Ends(Process::new(read_by_many, (lock.clone(), reads.clone(), go.clone())).start().unwrap()))
        .collect();
    children.iter().for_each(|_| reads.acquire_timeout(LONG).unwrap().expect("a reader has failed").forget());
    assert_eq!(lock.readers(), 4096);
    let error = lock.read().map(drop).unwrap_err();
    assert!(matches!(error, LockError::Misuse(Misuse::TooManyReaders(_))), "{error}");
    assert!(lock.try_write().unwrap().is_none());
    go.set();
    children.iter().for_each(|child| ends(child));
    *lock.write().unwrap() += 1;
    assert_eq!(lock.get().unwrap(), 2);
}

/// The fork copy neither holds nor ends the read.
#[multiproc::test]
fn forked_guard() {
    common::in_a_process_with_one_thread(|| {
        let lock = RwLock::new(1).unwrap();
        let mut guards = [lock.read().unwrap(), lock.read().unwrap()].map(Some);
        let error = Process::fork(|| **guards[0].as_ref().unwrap()).start().unwrap().join().unwrap_err();
        assert!(error.to_string().contains("this guard was copied by fork"), "{error}");
        Process::fork(|| guards = [None, None]).start().unwrap().join().unwrap();
        assert!(guards[0].is_some() && lock.readers() == 2);
        let child = Process::fork(|| lock.try_write().unwrap().is_none() && lock.get().unwrap() == 1).start().unwrap();
        assert!(child.join().unwrap());
    });
}
