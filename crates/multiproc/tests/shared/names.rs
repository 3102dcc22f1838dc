//! Shared memory that is found by its name.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use crate::common::{self, Ends, LONG, for_each_method, sleep_long};
use crate::shared::kill;
use multiproc::process::StartError;
use multiproc::shared_memory::{MemoryError, NameError};
use multiproc::sync::{Event, LockError};
use multiproc::{Process, Queue, SharedMemory, StartMethod};

/// A name that no other test has.
fn name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("test {} {} é", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Acts as an unrelated program that was only given the name.
fn add_one(name: String) -> (usize, u8) {
    let memory = SharedMemory::open(&name).unwrap();
    assert_eq!(memory.name(), Some(&*name));
    let view = SharedMemory::open_read_only(&name).unwrap();
    let mut bytes = memory.lock().unwrap();
    bytes[0] += 1;
    drop(bytes);
    (memory.len(), view.read().unwrap()[0])
}

fn own(name: String, has: Event) {
    let memory = SharedMemory::options().growable(1 << 20).name(&name).create(10).unwrap();
    let mut bytes = memory.lock().unwrap();
    bytes[0] = 1;
    has.set();
    sleep_long();
}

fn unlink(name: String) {
    SharedMemory::open(&name).unwrap().unlink().unwrap();
}

fn is_found(name: &str) -> bool {
    match SharedMemory::open(name) {
        Ok(_) => true,
        Err(MemoryError::Name(NameError::NotFound { .. })) => false,
        Err(error) => panic!("{error}"),
    }
}

for_each_method! {
    fn unrelated_program(method) not_fork {
        let name = name();
        let memory = SharedMemory::create(&name, 5000).unwrap();
        assert_eq!((memory.name(), memory.clone().name()), (Some(&*name), Some(&*name)));
        for turn in 1..=2 {
            let child = Process::new(add_one, (name.clone(),)).start_method(method).start().unwrap();
            assert_eq!(child.join().unwrap(), (5000, turn));
        }
        let error = SharedMemory::create(&name, 10).unwrap_err();
        assert_eq!(error.to_string(), format!("the name {name:?} is taken by process {}", std::process::id()));
        // Any process may remove the name.
        Process::new(unlink, (name.clone(),)).start_method(method).start().unwrap().join().unwrap();
        assert!(!is_found(&name));
        assert!(matches!(memory.unlink().unwrap_err(), MemoryError::Name(NameError::NotFound { .. })));
        assert_eq!(memory.read().unwrap()[0], 2);
        drop(SharedMemory::create(&name, 10).unwrap());
        assert!(!is_found(&name));
    }

    fn name_ends_with_owner(method) {
        let (name, has) = (name(), Event::new().unwrap());
        let owner = Ends(Process::new(own, (name.clone(), has.clone())).start_method(method).start().unwrap());
        has.wait().unwrap();
        let memory = SharedMemory::open(&name).unwrap();
        assert_eq!((memory.len(), memory.max_len()), (10, 1 << 20));
        kill(&owner);
        assert!(!is_found(&name));
        // A process that has the memory keeps it, and is told which process died with the lock.
        let Err(LockError::Poisoned(poisoned)) = memory.lock() else { panic!("no poison error") };
        assert_eq!((poisoned.pid(), poisoned.guard()[0]), (Some(owner.pid()), 1));
        drop(poisoned);
        // The name is free at once.
        let again = SharedMemory::create(&name, 20).unwrap();
        assert_eq!(SharedMemory::open(&name).unwrap().len(), 20);
        drop(again);
    }
}

#[multiproc::test]
fn sent_handle_has_no_name() {
    let name = name();
    let memory = SharedMemory::create(&name, 10).unwrap();
    let queue = Queue::new().unwrap();
    queue.put(memory.clone()).unwrap();
    let other = queue.get().unwrap();
    assert_eq!(other.name(), None);
    assert!(matches!(other.unlink().unwrap_err(), MemoryError::Nameless));
    assert!(is_found(&name));
    let clone = memory.clone();
    drop(memory);
    assert!(is_found(&name), "there is a clone of the handle that made it");
    drop(clone);
    assert!(!is_found(&name));
    other.lock().unwrap()[0] = 1;
    assert!(matches!(SharedMemory::new(1).unwrap().unlink().unwrap_err(), MemoryError::Nameless));
}

#[multiproc::test]
fn array_and_part_keep_name() {
    let name = name();
    let array = SharedMemory::create(&name, 80).unwrap().as_array::<f64>().unwrap();
    assert!(is_found(&name));
    let part = array.split(2).unwrap().remove(0);
    drop(array);
    assert!(is_found(&name));
    drop(part);
    assert!(!is_found(&name));
}

#[multiproc::test]
fn find_during_freeze() {
    let (name, ended) = (name(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Relaxed) {
                is_found(&name);
            }
        });
        for _ in 0..1000 {
            let mut memory = Some(SharedMemory::create(&name, 10).unwrap());
            // The memory exists for a moment, is found, and is frozen at the same time.
            while let Some(found) = memory.take() {
                if let Err(error) = found.freeze() {
                    let (found, error) = error.into_parts();
                    assert!(matches!(error, MemoryError::InUse), "{error}");
                    memory = found;
                }
            }
        }
        ended.store(true, Relaxed);
    });
}

#[multiproc::test]
fn invalid_names() {
    for (name, text) in [("", "is empty"), ("a\0b", "zero byte"), (&*"x".repeat(80), "has 80 bytes; the limit is 79")] {
        let error = SharedMemory::create(name, 10).unwrap_err();
        assert!(matches!(error, MemoryError::Name(_)) && error.to_string().contains(text), "{error}");
        let error = SharedMemory::open(name).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    let id = std::process::id().to_string();
    let long = format!("{id}{}", "é".repeat((78 - id.len()) / 2));
    let memory = SharedMemory::create(&long, 10).unwrap();
    assert!(is_found(&long));
    drop(memory);
}

#[multiproc::test]
fn freeze() {
    let name = name();
    let memory = SharedMemory::create(&name, 10).unwrap();
    let other = SharedMemory::open(&name).unwrap();
    let memory = memory.freeze().unwrap_err().into_parts().0.unwrap();
    assert_eq!(memory.name(), Some(&*name));
    drop(other);
    assert!(is_found(&name));
    let view = SharedMemory::open_read_only(&name).unwrap();
    let bytes = memory.freeze().unwrap();
    assert!(!is_found(&name));
    assert_eq!((bytes.len(), view.len()), (10, 10));
}

/// The thread that answers requests for the name exists as long as the name.
#[multiproc::test]
fn fork_is_refused() {
    common::in_a_process_with_one_thread(|| {
        let name = name();
        let memory = SharedMemory::create(&name, 10).unwrap();
        // An answer: the thread has its name.
        drop(SharedMemory::open(&name).unwrap());
        let start = || Process::fork(|| ()).start();
        let Err(StartError::MultiThreaded { tasks, .. }) = start() else { panic!("fork was not refused") };
        assert!(tasks.iter().any(|(_, name)| name == "multiproc-names"), "{tasks:?}");
        let other = SharedMemory::create(&self::name(), 10).unwrap();
        drop(memory);
        assert!(start().is_err());
        drop(other);
        start().unwrap().join().unwrap();
    });
}

#[multiproc::test]
fn stopped_owner() {
    let (name, has) = (name(), Event::new().unwrap());
    let process = Process::new(own, (name.clone(), has.clone())).start_method(StartMethod::ForkServer);
    let owner = Ends(process.start().unwrap());
    has.wait().unwrap();
    owner.signal(libc::SIGSTOP).unwrap();
    // A thread that runs on another processor stops a little later.
    let stat = |task: std::path::PathBuf| std::fs::read_to_string(task.join("stat")).unwrap_or_default();
    let tasks = || std::fs::read_dir(format!("/proc/{}/task", owner.pid())).unwrap().map(|task| task.unwrap().path());
    while !tasks().all(|task| stat(task).rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))) {
        std::thread::yield_now();
    }
    let begun = Instant::now();
    let error = SharedMemory::open(&name).unwrap_err();
    assert!(matches!(error, MemoryError::Name(NameError::Timeout { .. })), "{error}");
    assert!(error.to_string().contains(&format!("process {}", owner.pid())), "{error}");
    assert!(begun.elapsed() < LONG);
    owner.signal(libc::SIGCONT).unwrap();
    assert!(is_found(&name));
}
