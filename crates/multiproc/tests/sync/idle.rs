//! Waiters sleep: no process wakes up while nothing happens that it waits for.

use std::time::Duration;

use crate::common::{self, Ends, LONG, for_each_method, switches, until_nothing_wakes};
use multiproc::queue::Consumer;
use multiproc::sync::{Barrier, Condition, Event, Lock, RwLock, Semaphore};
use multiproc::{Array, JoinableQueue, Process, Queue};
use serde::{Deserialize, Serialize};

/// Everything that can be waited for. None of it happens.
#[derive(Clone, Serialize, Deserialize)]
struct Things {
    queue: Queue<u64>,
    full: Queue<u64>,
    tasks: JoinableQueue<u64>,
    condition: Condition,
    /// Two conditions of one lock. Another process has had a handle of the lock alone.
    conditions: [Condition; 2],
    event: Event,
    semaphore: Semaphore,
    barrier: Barrier,
    lock: Lock,
    rwlock: RwLock<u64>,
    array: Array<u64>,
    /// A process that has begun to wait says so here.
    ready: Queue<u32>,
}

const KINDS: u32 = 15;

fn wait_for(kind: u32, things: Things, consumer: Consumer<u64>) {
    things.ready.put(kind).unwrap();
    match kind {
        0 => drop(things.queue.get()),
        1 => drop(things.full.put(7)),
        2 => drop(things.tasks.get()),
        3 => drop(things.tasks.join()),
        4 => drop(things.condition.lock().unwrap().wait()),
        5 => drop(things.event.wait()),
        6 => drop(things.semaphore.acquire()),
        7 => {
            // Another thread has a permit of the same handle.
            let semaphore = &things.semaphore;
            std::thread::scope(|scope| {
                let (taken, wait) = std::sync::mpsc::channel();
                scope.spawn(move || {
                    let _permit = semaphore.acquire().unwrap();
                    taken.send(()).unwrap();
                    common::sleep_long();
                });
                wait.recv().unwrap();
                drop(semaphore.acquire());
            });
        }
        8 => drop(things.barrier.wait()),
        9 => drop(things.lock.lock()),
        10 => drop(things.rwlock.write()),
        11 => drop(multiproc::wait_any(&[&things.tasks, &things.queue], None)),
        12 => drop(things.array.lock()),
        13 | 14 => drop(things.conditions[kind as usize % 2].lock().unwrap().wait()),
        _ => drop(consumer.get_timeout(LONG)),
    }
    unreachable!("nothing of that has come: {kind}");
}

fn hold_a_task(tasks: JoinableQueue<u64>, shared: Lock, ready: Queue<u32>) {
    drop(shared.lock().unwrap());
    let _task = tasks.get().unwrap();
    ready.put(u32::MAX).unwrap();
    common::sleep_long();
}

for_each_method! {
    fn waiters_are_idle(method) {
        let shared = Lock::new().unwrap();
        let things = Things {
            queue: Queue::new().unwrap(),
            full: Queue::with_capacity(1).unwrap(),
            tasks: JoinableQueue::new().unwrap(),
            condition: Condition::new().unwrap(),
            conditions: [(); 2].map(|()| Condition::with_lock(shared.clone()).unwrap()),
            event: Event::new().unwrap(),
            semaphore: Semaphore::new(1).unwrap(),
            barrier: Barrier::new(1000).unwrap(),
            lock: Lock::new().unwrap(),
            rwlock: RwLock::new(0).unwrap(),
            array: Array::new(10).unwrap(),
            ready: Queue::new().unwrap(),
        };
        things.full.put(1).unwrap();
        things.tasks.put(1).unwrap();
        let ready = || things.ready.get_timeout(LONG).unwrap();
        let holder = Process::new(hold_a_task, (things.tasks.clone(), shared, things.ready.clone()));
        let _holder = Ends(holder.start_method(method).start().unwrap());
        assert_eq!(ready(), u32::MAX);
        let (_lock, _read) = (things.lock.lock().unwrap(), things.rwlock.read().unwrap());
        let _array = things.array.lock().unwrap();
        // The process that takes a permit comes first, and the other semaphore waiter after it.
        let kinds = [7, 6].into_iter().chain((0..=KINDS).filter(|kind| ![6, 7].contains(kind)));
        let children: Vec<_> = kinds
            .map(|kind| {
                let child = Process::new(wait_for, (kind, things.clone(), things.queue.consumer()));
                let child = Ends(child.start_method(method).start().unwrap());
                assert_eq!(ready(), kind);
                if kind == 7 {
                    while things.semaphore.try_acquire().unwrap().is_some() {
                        std::thread::yield_now();
                    }
                }
                (kind, child)
            })
            .collect();
        let count = || children.iter().map(|(kind, child)| (*kind, switches(child.pid()))).collect::<Vec<_>>();
        // They all fall asleep eventually. Repeated wake-ups would come several times a second.
        until_nothing_wakes(count, Duration::from_secs(3));
        assert!(children.iter().all(|(_, child)| child.is_alive()));
    }
}

fn take_and_wait(tasks: JoinableQueue<u64>, ready: Queue<u32>) {
    let task = tasks.get().unwrap();
    ready.put(*task as u32).unwrap();
    drop(tasks.get());
}

for_each_method! {
    // Only the deaths of the processes that it watches wake the sleeper, and some processes become
    // owners of tasks while it sleeps.
    fn death_of_later_worker_wakes_waiter(method) not_fork {
        let (tasks, ready) = (JoinableQueue::<u64>::new().unwrap(), Queue::<u32>::new().unwrap());
        std::thread::scope(|scope| {
            let (other, (name, named)) = (tasks.clone(), std::sync::mpsc::channel());
            let sleeper = scope.spawn(move || {
                name.send(multiproc_os::threads::gettid()).unwrap();
                let task = other.get().unwrap();
                let seen = (*task, task.deliveries());
                task.task_done();
                seen
            });
            let tid = named.recv().unwrap();
            // By now it should sleep in the wait queue's poll(2), and not in futex(2), which is
            // used for the first milliseconds. If it doesn't yet, the test covers less.
            let status = || std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
            common::time_until(|| status().contains("State:\tS"));
            std::thread::sleep(Duration::from_millis(30));
            // The worker takes the item, or the sleeper does: then there is nothing to check.
            let worker = Process::new(take_and_wait, (tasks.clone(), ready.clone()));
            let worker = Ends(worker.start_method(method).start().unwrap());
            tasks.put(1).unwrap();
            match ready.get_timeout(Duration::from_secs(2)) {
                Ok(_) => {
                    worker.kill().unwrap();
                    assert_eq!(sleeper.join().unwrap(), (1, 2));
                }
                Err(_) => {
                    // Or the worker was slow, and the item of a dead one is delivered again.
                    let _ = worker.kill();
                    assert_eq!(sleeper.join().unwrap().0, 1);
                }
            }
        });
    }

    fn readable_fd_after_death_of_worker(method) {
        use std::os::fd::AsFd;
        let (tasks, ready) = (JoinableQueue::<u64>::new().unwrap(), Queue::<u32>::new().unwrap());
        let is_readable = |time| multiproc_os::poll::wait_readable(tasks.as_fd(), Some(std::time::Instant::now() + time)).unwrap();
        assert!(matches!(tasks.try_get(), Err(multiproc::queue::GetError::Empty)));
        tasks.put(5).unwrap();
        let worker = Ends(Process::new(take_and_wait, (tasks.clone(), ready.clone())).start_method(method).start().unwrap());
        assert_eq!(ready.get_timeout(LONG).unwrap(), 5);
        assert!(matches!(tasks.try_get(), Err(multiproc::queue::GetError::Empty)));
        assert!(!is_readable(Duration::from_millis(20)));
        worker.kill().unwrap();
        assert!(is_readable(LONG), "by the death alone");
        let task = tasks.try_get().unwrap();
        assert_eq!((*task, task.deliveries()), (5, 2));
        assert!(matches!(tasks.try_get(), Err(multiproc::queue::GetError::Empty)));
        assert!(!is_readable(Duration::from_millis(20)), "nothing is left");
        task.task_done();
    }
}

fn take_one_and_wait(semaphore: Semaphore, ready: Queue<u32>, go: Event) {
    let _one = semaphore.acquire().unwrap();
    ready.put(1).unwrap();
    go.wait().unwrap();
    drop(semaphore.acquire());
}

for_each_method! {
    // Regression: after the hang-up of the wake pipe, the waiter checked again and again.
    fn wait_for_death_is_idle(method) {
        let (semaphore, ready, go) = (Semaphore::new(3).unwrap(), Queue::new().unwrap(), Event::new().unwrap());
        let permit = semaphore.acquire().unwrap();
        let children = [0; 2].map(|_| {
            let child = Process::new(take_one_and_wait, (semaphore.clone(), ready.clone(), go.clone()));
            Ends(child.start_method(method).start().unwrap())
        });
        for _ in 0..2 {
            assert_eq!(ready.get_timeout(LONG).unwrap(), 1);
        }
        go.set();
        let counts = || children.iter().map(|child| switches(child.pid())).collect::<Vec<_>>();
        // They sleep when a token comes, which then stays in the wake pipe. Afterwards only the two
        // of them are left.
        until_nothing_wakes(counts, Duration::from_millis(500));
        permit.forget();
        drop(semaphore);
        until_nothing_wakes(counts, Duration::from_secs(3));
        assert!(children.iter().all(|child| child.is_alive()));
        children[0].kill().unwrap();
        assert!(children[1].wait_timeout(LONG).unwrap().unwrap().success());
    }
}
