//! Locks, semaphores, events, barriers, arrays and lists with memory that another process
//! overwrites. Whatever it contains, every call returns, with an error or with a value that may be
//! wrong; and nothing panics, hangs, or accesses memory outside the object.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::chaos::{self, Random};
use crate::common::{self, LONG};
use multiproc::shared_memory::RawArray;
use multiproc::sync::{Barrier, BoundedSemaphore, Condition, Event, Lock, Mutex, Once, RLock, RwLock, Semaphore};
use multiproc::{Array, SharedMemory, shareable_list};

/// The number of cases of each test.
const CASES: u64 = 100;

const SOON: Duration = Duration::from_millis(1);

/// The memory files of this process: inodes, and the descriptors' names. (Numbers alone are reused
/// when an object is dropped.)
fn files() -> BTreeSet<(u64, PathBuf)> {
    let memory = |path: PathBuf| {
        let link = std::fs::read_link(&path).ok()?;
        let is_ours = link.to_str()?.starts_with("/memfd:multiproc-");
        is_ours.then_some((path.metadata().ok()?.ino(), path))
    };
    std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| memory(entry.unwrap().path())).collect()
}

/// Makes an object, and returns its memory files too.
fn made<T>(make: impl FnOnce() -> T) -> (T, Vec<File>) {
    let before = files();
    let object = make();
    let open = |(_, path): &(u64, PathBuf)| File::options().read(true).write(true).open(path).unwrap();
    let new = files().difference(&before).map(open).collect::<Vec<_>>();
    assert!(!new.is_empty());
    (object, new)
}

/// Whether a thread that finds this value in a lock must wait for a live thread: one of this
/// process, or one of another process with memory that can't be read, which may hold the lock as
/// well. Such a value would not be garbage.
fn names_a_live_thread(word: u32) -> bool {
    let id = word & 0x3fff_ffff;
    let exists = |path: String| Path::new(&path).exists();
    id != 0
        && exists(format!("/proc/{id}"))
        && (exists(format!("/proc/self/task/{id}")) || std::fs::read(format!("/proc/{id}/maps")).is_err())
}

/// Overwrites a random word with a random value.
fn corrupt(files: &[File], random: &mut Random) {
    let file = &files[random.below(files.len() as u64) as usize];
    let far = if random.below(4) == 0 { 4096 } else { 256 };
    let at = random.below(far / 4) * 4;
    let small = random.below(4);
    let value = match random.below(8) {
        0 => small,
        1 => u64::MAX - small,
        2 => u64::from(u32::MAX) - small,
        3 => 1 << 31 | small,
        4 => 1 << random.below(64),
        5 => 1 << 40 | small,
        6 => small << 32,
        _ => random.next(),
    };
    if names_a_live_thread(value as u32) || names_a_live_thread((value >> 32) as u32) {
        return;
    }
    let len = if random.below(2) == 0 { 4 } else { 8 };
    let _ = file.write_all_at(&value.to_ne_bytes()[..len], at);
}

/// Runs `calls` on objects that are corrupted before, and in the middle when `calls` says so.
fn survives<T>(name: &str, make: impl Fn() -> T, calls: impl Fn(&T, &mut dyn FnMut())) {
    let seed = chaos::seed();
    for case in 0..CASES {
        let mut random = Random::of(seed ^ case);
        let (object, files) = made(&make);
        (0..random.below(4)).for_each(|_| corrupt(&files, &mut random));
        let begun = Instant::now();
        calls(&object, &mut || corrupt(&files, &mut random));
        drop(object);
        if begun.elapsed() > SOON * 100 {
            println!("case {case} takes {:?}", begun.elapsed());
        }
        assert!(begun.elapsed() < LONG, "{name}: case {case} takes too long");
    }
}

macro_rules! corrupted {
    ($($name:ident: $make:expr, |$object:ident, $again:ident| $calls:block)*) => { $(
        #[multiproc::test]
        fn $name() {
            // In a process of its own, which has no other memory files that could be overwritten.
            common::in_a_process_with_one_thread(|| {
                survives(stringify!($name), || $make.unwrap(), |$object, $again| $calls)
            });
        }
    )* };
}

corrupted! {
    event: Event::new(), |event, again| {
        let _ = event.wait_timeout(SOON);
        event.set();
        again();
        event.clear();
        let _ = (event.is_set(), event.wait_timeout(SOON));
    }

    semaphore: Semaphore::new(2), |semaphore, again| {
        let permit = semaphore.try_acquire();
        again();
        let _ = semaphore.acquire_timeout(SOON);
        let _ = (semaphore.release(), semaphore.release_many(3), semaphore.available());
        drop(permit);
    }

    bounded_semaphore: BoundedSemaphore::new(2), |semaphore, again| {
        let permit = semaphore.acquire_timeout(SOON);
        again();
        let _ = (semaphore.release(), semaphore.try_acquire(), semaphore.available());
        drop(permit);
    }

    barrier: Barrier::new(2), |barrier, again| {
        let _ = barrier.wait_timeout(SOON);
        again();
        let _ = (barrier.parties(), barrier.n_waiting(), barrier.is_broken());
        barrier.reset();
        let _ = barrier.wait_timeout_with(SOON, again);
        barrier.abort();
    }

    barrier_of_one: Barrier::new(1), |barrier, again| {
        let _ = barrier.wait_timeout(SOON);
        let _ = barrier.wait_timeout_with(SOON, again);
        barrier.reset();
    }

    condition: Condition::new(), |condition, again| {
        if let Ok(Some(mut guard)) = condition.lock_timeout(SOON) {
            let _ = guard.wait_timeout(SOON);
            again();
            let _ = (guard.notify(2), guard.wait_timeout(SOON), guard.notify_all());
        }
    }

    lock: Lock::new(), |lock, again| {
        let guard = lock.lock_timeout(SOON);
        again();
        drop(guard);
        let _ = (lock.is_locked(), lock.is_poisoned(), lock.try_lock().is_ok());
        lock.clear_poison();
    }

    rlock: RLock::new(), |lock, again| {
        let guard = lock.lock_timeout(SOON);
        again();
        let inner = lock.try_lock();
        again();
        drop(inner);
        drop(guard);
        let _ = (lock.is_locked(), lock.is_poisoned());
        lock.clear_poison();
    }

    mutex: Mutex::new([7_u64; 4]), |mutex, again| {
        if let Ok(Some(mut guard)) = mutex.lock_timeout(SOON) {
            guard[3] = guard[3].wrapping_add(1);
            again();
        }
        let _ = (mutex.is_locked(), mutex.is_poisoned(), mutex.try_lock().is_ok());
        mutex.clear_poison();
    }

    rwlock: RwLock::new([7_u64; 4]), |lock, again| {
        let reading = lock.read_timeout(SOON);
        again();
        let _ = (lock.try_read().is_ok(), lock.readers());
        drop(reading);
        if let Ok(Some(mut guard)) = lock.write_timeout(SOON) {
            guard[0] = 1;
            again();
        }
        let _ = (lock.is_write_locked(), lock.is_poisoned(), lock.try_write().is_ok());
        lock.clear_poison();
    }

    once: Once::new(), |once, again| {
        let _ = (once.is_completed(), once.call_once(|_| again()).is_ok());
        let _ = once.is_completed();
    }

    array: Array::<u64>::from_slice(&[7; 9]), |array, again| {
        let mut parts = array.split(4).unwrap_or_default();
        again();
        for part in &parts {
            if let Ok(Some(mut guard)) = part.lock_timeout(SOON) {
                guard.iter_mut().for_each(|value| *value += 1);
                again();
            }
            let _ = (part.is_locked(), part.is_poisoned(), part.range());
        }
        if let Ok(Some(guard)) = array.read_timeout(SOON) {
            let _ = (guard.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value)), array.try_read().is_ok());
        }
        again();
        parts.extend(array.chunks(5).unwrap_or_default());
        if let Ok(Some(mut guard)) = array.lock_timeout(SOON) {
            again();
            guard.fill(1);
        }
        parts.iter().for_each(|part| drop(part.try_lock()));
        let _ = (array.is_locked(), array.is_poisoned(), array.readers(), array.len());
        array.clear_poison();
    }

    shared_memory: SharedMemory::options().growable(1 << 20).create(5000), |memory, again| {
        let _ = (memory.grow(9000), memory.len(), memory.max_len());
        if let Ok(Some(mut guard)) = memory.lock_timeout(SOON) {
            again();
            guard.fill(1);
        }
        again();
        let _ = memory.as_atomics::<std::sync::atomic::AtomicU8>().map(|bytes| bytes.len());
        if let Ok(view) = memory.read_only() {
            let _ = view.read_timeout(SOON).map(|guard| guard.map(|bytes| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>()));
        }
        let _ = (memory.grow(20_000), memory.clone().freeze().is_ok());
        memory.prefault();
    }

    raw_array: RawArray::<std::sync::atomic::AtomicU64>::new(9), |array, again| {
        again();
        let add = |number: &std::sync::atomic::AtomicU64| number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let _ = array.iter().map(add).max();
    }

    list: shareable_list![1, "two", 3.0], |list, again| {
        let _ = (list.set(1, "2"), list.get(0), list.to_vec());
        again();
        let _ = (list.replace(2, 1), list.compare_exchange(0, 1, 2), list.room(1), list.position("2"));
        again();
        let _ = (list.iter().count(), list.set(0, 7), list.len());
    }
}
