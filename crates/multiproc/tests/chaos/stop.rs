//! Processes that are stopped (SIGSTOP) at any point: calls of other processes with a timeout, and
//! `try_` calls, return in time. `MULTIPROC_SEED` and `MULTIPROC_CHAOS_SECONDS` set the random seed
//! and the duration.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::chaos::{self, Random};
use crate::common::{self, Ends, for_each_method};
use multiproc::queue::{GetError, PutErrorKind};
use multiproc::sync::{Barrier, BoundedSemaphore, Condition, Event, Lock, RwLock, Semaphore};
use multiproc::{Array, Child, JoinableQueue, Process, Queue, StartMethod};
use serde::{Deserialize, Serialize};

/// The timeout of each call.
const TIMEOUT: Duration = Duration::from_millis(10);

/// A call that takes longer is late. One that waits for a stopped process never returns, so the
/// limit need not be tight.
const IN_TIME: Duration = Duration::from_secs(20);

#[derive(Clone, Serialize, Deserialize)]
struct Things {
    queue: Queue<Vec<u8>>,
    limited: Queue<u64>,
    tasks: JoinableQueue<u64>,
    semaphore: Semaphore,
    bounded: BoundedSemaphore,
    event: Event,
    condition: Condition,
    barrier: Barrier,
    lock: Lock,
    rwlock: RwLock<u64>,
    array: Array<u64>,
}

impl Things {
    fn new() -> Things {
        Things {
            queue: Queue::new().unwrap(),
            limited: Queue::with_capacity(100).unwrap(),
            tasks: JoinableQueue::with_capacity(100).unwrap(),
            semaphore: Semaphore::new(1).unwrap(),
            bounded: BoundedSemaphore::new(2).unwrap(),
            event: Event::new().unwrap(),
            condition: Condition::new().unwrap(),
            barrier: Barrier::new(3).unwrap(),
            lock: Lock::new().unwrap(),
            rwlock: RwLock::new(0).unwrap(),
            array: Array::new(4).unwrap(),
        }
    }
}

/// What the stopped processes do, again and again.
fn work(kind: u64, things: Things) {
    let value = |number: u64| vec![7; [10, 5000, 100_000][number as usize % 3]];
    for number in 0.. {
        match kind {
            0 => {
                // At most what leaves room for the puts beside a stopped consumer.
                if things.queue.len() < 100 {
                    let _ = things.queue.put(value(number));
                }
            }
            1 => drop(things.queue.get_timeout(TIMEOUT)),
            2 => drop(things.limited.put_timeout(number, TIMEOUT)),
            3 => drop(things.limited.get_timeout(TIMEOUT)),
            4 => drop(things.tasks.put_timeout(number, TIMEOUT)),
            5 => match things.tasks.get_timeout(TIMEOUT) {
                Ok(task) if number % 2 == 0 => task.task_done(),
                _ => {}
            },
            6 => drop((things.semaphore.acquire_timeout(TIMEOUT), things.bounded.acquire_timeout(TIMEOUT))),
            7 => {
                things.event.set();
                things.event.clear();
            }
            8 => {
                if let Ok(Some(guard)) = things.condition.lock_timeout(TIMEOUT) {
                    guard.notify_all();
                }
            }
            9 => {
                if let Ok(Some(mut guard)) = things.condition.lock_timeout(TIMEOUT) {
                    let _ = guard.wait_timeout(Duration::from_micros(number % 100));
                }
            }
            10 => {
                let _ = things.barrier.wait_timeout(Duration::from_micros(number % 100));
                things.barrier.reset();
            }
            11 => {
                drop(things.lock.lock_timeout(TIMEOUT));
                drop(things.rwlock.write_timeout(TIMEOUT));
                drop(things.rwlock.read_timeout(TIMEOUT));
            }
            _ => drop(things.array.lock_timeout(TIMEOUT)),
        }
    }
}

const KINDS: u64 = 13;

/// A call that other processes make.
type Call = (&'static str, fn(&Things) -> Option<String>);

fn put<T>(result: Result<(), multiproc::queue::PutError<T>>) -> Option<String> {
    result.err().filter(|error| matches!(error.kind(), PutErrorKind::Stalled { .. })).map(|error| error.to_string())
}

fn got<T>(result: Result<T, GetError>) -> Option<String> {
    result.err().filter(|error| matches!(error, GetError::Stalled { .. })).map(|error| error.to_string())
}

fn said<T, E: ToString>(result: Result<T, E>) -> Option<String> {
    result.err().map(|error| error.to_string()).filter(|text| text.contains("is stopped"))
}

const CALLS: &[Call] = &[
    ("Queue::try_put", |things| put(things.queue.try_put(vec![1]))),
    ("Queue::try_put, large", |things| put(things.queue.try_put(vec![1; 10_000]))),
    ("Queue::put_timeout", |things| put(things.queue.put_timeout(vec![1], TIMEOUT))),
    ("Queue::put_timeout, large", |things| put(things.queue.put_timeout(vec![1; 200_000], TIMEOUT))),
    ("Queue::try_get", |things| got(things.queue.try_get())),
    ("Queue::get_timeout", |things| got(things.queue.get_timeout(TIMEOUT))),
    ("Queue::get_bytes_timeout", |things| got(things.queue.get_bytes_timeout(TIMEOUT))),
    ("Queue::len", |things| {
        let _ = (things.queue.len(), things.queue.is_empty(), things.limited.is_full(), things.tasks.unfinished());
        None
    }),
    ("limited try_put", |things| put(things.limited.try_put(1))),
    ("limited put_timeout", |things| put(things.limited.put_timeout(1, TIMEOUT))),
    ("limited try_get", |things| got(things.limited.try_get())),
    ("limited get_timeout", |things| got(things.limited.get_timeout(TIMEOUT))),
    ("tasks try_put", |things| put(things.tasks.try_put(1))),
    ("tasks put_timeout", |things| put(things.tasks.put_timeout(1, TIMEOUT))),
    ("tasks try_get", |things| match things.tasks.try_get() {
        // Giving the task back has no time limit.
        Ok(task) => {
            std::mem::forget(task);
            None
        }
        Err(error) => got::<()>(Err(error)),
    }),
    ("tasks get_timeout", |things| match things.tasks.get_timeout(TIMEOUT) {
        Ok(task) => {
            std::mem::forget(task);
            None
        }
        Err(error) => got::<()>(Err(error)),
    }),
    ("tasks join_timeout", |things| got(things.tasks.join_timeout(TIMEOUT))),
    ("Semaphore::try_acquire", |things| {
        let permit = things.semaphore.try_acquire();
        said(permit.map(std::mem::forget))
    }),
    ("Semaphore::acquire_timeout", |things| {
        let permit = things.bounded.acquire_timeout(TIMEOUT);
        said(permit.map(std::mem::forget))
    }),
    ("Event::wait_timeout", |things| said(things.event.wait_timeout(TIMEOUT))),
    ("Condition::lock_timeout, wait_timeout", |things| match things.condition.lock_timeout(TIMEOUT) {
        Ok(Some(mut guard)) => said(guard.wait_timeout(TIMEOUT)),
        _ => None,
    }),
    ("Condition::try_lock", |things| {
        let _ = things.condition.try_lock().is_ok();
        None
    }),
    ("Barrier::wait_timeout", |things| said(things.barrier.wait_timeout(TIMEOUT))),
    ("locks", |things| {
        let _ = (things.lock.try_lock().is_ok(), things.lock.lock_timeout(TIMEOUT).is_ok());
        let _ = (things.rwlock.try_read().is_ok(), things.rwlock.read_timeout(TIMEOUT).is_ok());
        let _ = (things.rwlock.try_write().is_ok(), things.rwlock.write_timeout(TIMEOUT).is_ok());
        let _ = (things.array.try_lock().is_ok(), things.array.lock_timeout(TIMEOUT).is_ok());
        None
    }),
];

/// Kills the stopped process if a call does not return.
struct Watchdog(std::sync::mpsc::Sender<()>);

impl Watchdog {
    fn new(stopped: &Child<()>, what: &'static str) -> Watchdog {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let pid = stopped.pid();
        std::thread::spawn(move || {
            if wait.recv_timeout(IN_TIME) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{what} has not returned");
                // SAFETY: the call accesses no memory.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        });
        Watchdog(done)
    }
}

fn stop_and_call(method: StartMethod) {
    let mut random = Random::seeded();
    let (begun, mut rounds, mut stalls) = (Instant::now(), 0, BTreeMap::<&str, u32>::new());
    while begun.elapsed() < chaos::duration() || rounds < 2 * KINDS {
        let things = Things::new();
        let kind = rounds % KINDS;
        rounds += 1;
        let child = Ends(Process::new(work, (kind, things.clone())).start_method(method).start().unwrap());
        std::thread::sleep(Duration::from_micros(3_000 + random.below(5_000)));
        // Stops it at several points, since it runs in between.
        for _ in 0..4 {
            child.signal(libc::SIGSTOP).unwrap();
            for (name, call) in CALLS {
                let started = Instant::now();
                let watchdog = Watchdog::new(&child, name);
                if let Some(text) = call(&things) {
                    assert!(text.contains(&format!("process {}", child.pid())), "{name}: {text}");
                    *stalls.entry(name).or_default() += 1;
                }
                drop(watchdog.0);
                assert!(
                    started.elapsed() < IN_TIME,
                    "{name} took {:?} beside a process stopped at {kind}",
                    started.elapsed()
                );
            }
            child.signal(libc::SIGCONT).unwrap();
            std::thread::sleep(Duration::from_micros(random.below(3_000)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Everything works again.
        things.queue.put(vec![1]).unwrap();
        things.queue.get_timeout(IN_TIME).unwrap();
        while things.limited.try_get().is_ok() {}
        things.limited.put(1).unwrap();
        things.event.set();
        assert!(things.event.wait_timeout(IN_TIME).unwrap());
    }
    println!("{rounds} rounds; calls that found a spin lock held by the stopped process: {stalls:?}");
}

for_each_method! {
    fn timeouts_beside_stopped_process(method) not_fork {
        stop_and_call(method);
    }
}

fn hold(condition: Condition, ready: Queue<u32>) {
    let _guard = condition.lock().unwrap();
    ready.put(1).unwrap();
    common::sleep_long();
}

for_each_method! {
    fn condition_wait_with_stopped_owner(method) {
        let (condition, ready) = (Condition::new().unwrap(), Queue::new().unwrap());
        let mut guard = condition.lock().unwrap();
        let child = Process::new(hold, (condition.clone(), ready.clone()));
        let child = Ends(child.start_method(method).start().unwrap());
        // The child takes the lock as soon as this process waits, and is then stopped.
        std::thread::scope(|scope| {
            let pid = child.pid();
            let ready = ready.clone();
            scope.spawn(move || {
                ready.get_timeout(IN_TIME).unwrap();
                // SAFETY: the call accesses no memory.
                unsafe { libc::kill(pid, libc::SIGSTOP) };
            });
            let error = guard.wait_timeout(Duration::from_secs(1)).unwrap_err();
            assert!(matches!(error, multiproc::sync::ConditionError::Stopped { pid: holder } if holder == pid), "{error}");
        });
        assert!(guard.wait_timeout(TIMEOUT).is_err(), "the lock is not held");
        drop(guard);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(condition.lock().unwrap_err().is_poisoned());
    }
}
