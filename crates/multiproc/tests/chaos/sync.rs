//! Locks, semaphores, events and barriers while their users are killed: of eight processes that use
//! one of them, one is killed every few milliseconds, at any point, and replaced. At no time do
//! more processes hold it than may, what a dead owner held is poisoned, and no process hangs.
//! `MULTIPROC_SEED` and `MULTIPROC_CHAOS_SECONDS` set the random seed and the duration.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::chaos::{self, Random};
use crate::common::{self, Ends, LONG};
use crate::shared::{Numbers, kill};
use multiproc::sync::{Barrier, Event, Lock, LockError, Mutex, RLock, RwLock, Semaphore};
use multiproc::{Process, StartMethod};
use serde::{Deserialize, Serialize};

/// The number of processes at a time.
const WORKERS: usize = 8;

/// How many of them may have a permit.
const PERMITS: usize = 3;

/// Indexes into the shared numbers. Set when the workers must stop:
const STOP: usize = 0;
/// How often anything has been done.
const DONE: usize = 1;
/// A bit for each process: from bit 0 on for those inside as readers or with permits, from 8 on for
/// the one inside exclusively, and from 16 on for those being killed.
const INSIDE: usize = 2;
/// The process that is inside exclusively, and two numbers that it makes equal.
const WHO: usize = 3;
const PAIR: [usize; 2] = [4, 5];
/// How often a poisoned object was repaired.
const MENDED: usize = 6;
/// Of a barrier: how often it has been reset, and how often a process was the leader.
const ROUND: usize = 7;
const LEADERS: usize = 8;

const ALONE: u64 = 1 << 8;
const DOOMED: u64 = 1 << 16;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Object {
    Lock(Lock),
    RLock(RLock),
    Mutex(Mutex<[u64; 2]>),
    RwLock(RwLock<[u64; 2]>),
    Semaphore(Semaphore),
    Event(Event),
    Barrier(Barrier),
}

/// One of the processes.
struct Worker {
    numbers: Numbers,
    place: usize,
    random: Random,
}

impl Worker {
    fn stops(&self) -> bool {
        self.numbers.at(STOP).load(SeqCst) != 0
    }

    /// Records that something has been done.
    fn done(&self) {
        self.numbers.at(DONE).fetch_add(1, SeqCst);
    }

    /// Yields to other processes sometimes.
    fn pause(&mut self) {
        if self.random.below(16) == 0 {
            std::thread::yield_now();
        }
    }

    /// Runs `body` while the object is held. `bit` says how it is held; at most `most` processes
    /// may hold it so.
    fn inside(&mut self, bit: u64, most: usize, body: impl FnOnce(&mut Worker)) {
        let bit = bit << self.place;
        let inside = self.numbers.at(INSIDE).fetch_or(bit, SeqCst) | bit;
        // Processes that are being killed may be gone already, and others may hold the object
        // instead.
        let doomed = (inside >> 16) & 0xff;
        let (some, alone) = (inside & 0xff & !doomed, (inside >> 8) & 0xff & !doomed);
        let allowed =
            if alone == 0 { some.count_ones() as usize <= most } else { alone.is_power_of_two() && some == 0 };
        assert!(allowed, "too many are inside: {inside:b}");
        body(self);
        self.done();
        self.numbers.at(INSIDE).fetch_and(!bit, SeqCst);
    }

    /// What the exclusive holder does. It finds everything as the previous one left it, unless that
    /// one has died and the death was reported.
    fn alone(&mut self) {
        let me = std::process::id().into();
        self.inside(ALONE, 1, |worker| {
            let numbers = worker.numbers.clone();
            let at = |index: usize| numbers.at(index);
            assert_eq!(at(WHO).swap(me, SeqCst), 0, "another process is here, or died here without poison");
            let [first, second] = PAIR.map(|index| at(index).load(SeqCst));
            assert_eq!(first, second);
            at(PAIR[0]).store(first + 1, SeqCst);
            worker.pause();
            at(PAIR[1]).store(first + 1, SeqCst);
            assert_eq!(at(WHO).swap(0, SeqCst), me, "another process is here");
        });
    }

    /// Repairs what a dead process held.
    fn mend(&self) {
        self.numbers.at(WHO).store(0, SeqCst);
        self.numbers.at(PAIR[1]).store(self.numbers.at(PAIR[0]).load(SeqCst), SeqCst);
        self.numbers.at(MENDED).fetch_add(1, SeqCst);
    }

    fn add(&mut self, value: &mut [u64; 2]) {
        assert_eq!(value[0], value[1], "torn, but not poisoned");
        value[0] += 1;
        self.alone();
        value[1] += 1;
    }
}

/// Takes the object, and repairs it if it is poisoned.
macro_rules! take {
    ($worker:ident, $taken:expr $(, $mend:expr)?) => {
        $taken.unwrap_or_else(|error| {
            #[allow(unused_mut)]
            let mut guard = error.into_guard().unwrap();
            $worker.mend();
            $($mend(&mut guard);)?
            guard.clear_poison();
            guard
        })
    };
}

fn work(object: Object, numbers: Numbers, place: usize) {
    let seed = std::process::id().into();
    let mut worker = Worker { numbers, place, random: Random::of(seed) };
    while !worker.stops() {
        turn(&object, &mut worker);
        worker.pause();
    }
}

fn turn(object: &Object, worker: &mut Worker) {
    match object {
        Object::Lock(lock) => {
            let _guard = take!(worker, lock.lock());
            worker.alone();
        }
        Object::RLock(lock) => {
            let _guard = take!(worker, lock.lock());
            let again = lock.lock().unwrap();
            worker.alone();
            drop(again);
        }
        Object::Mutex(mutex) => {
            let mut guard = take!(worker, mutex.lock(), |value: &mut [u64; 2]| value[1] = value[0]);
            worker.add(&mut guard);
        }
        Object::RwLock(lock) if worker.random.below(4) == 0 => {
            let mut guard = take!(worker, lock.write(), |value: &mut [u64; 2]| value[1] = value[0]);
            worker.add(&mut guard);
        }
        Object::RwLock(lock) => match lock.read() {
            Ok(guard) => worker.inside(1, WORKERS, |worker| {
                let before = *guard;
                assert_eq!(before[0], before[1], "torn, but not poisoned");
                worker.pause();
                assert_eq!(*guard, before, "a process writes");
            }),
            // A reader can't repair the value.
            Err(LockError::Poisoned(guard)) => {
                drop(guard);
                drop(take!(worker, lock.write(), |value: &mut [u64; 2]| value[1] = value[0]));
            }
            Err(error) => panic!("{error}"),
        },
        Object::Semaphore(semaphore) => {
            let permit = semaphore.acquire().unwrap();
            worker.inside(1, PERMITS, Worker::pause);
            drop(permit);
        }
        // One half of the processes sets and clears the event, the other half waits.
        Object::Event(event) if worker.place < WORKERS / 2 => {
            let before = worker.numbers.at(DONE).load(SeqCst);
            while worker.numbers.at(DONE).load(SeqCst) == before && !worker.stops() {
                // Another process may have cleared it.
                event.set();
                std::thread::yield_now();
            }
            event.clear();
        }
        Object::Event(event) => {
            event.wait().unwrap();
            worker.done();
        }
        Object::Barrier(barrier) => {
            let round = worker.numbers.at(ROUND).load(SeqCst);
            match barrier.wait() {
                Ok(result) => {
                    if result.is_leader() {
                        worker.numbers.at(LEADERS).fetch_add(1, SeqCst);
                    }
                    worker.done();
                }
                // A process has been killed, or the barrier is being reset. The killing process
                // announces the next round.
                Err(_) => {
                    while worker.numbers.at(ROUND).load(SeqCst) == round && !worker.stops() {
                        std::thread::sleep(Duration::from_micros(100));
                    }
                }
            }
        }
    }
}

fn start(method: StartMethod, object: &Object, numbers: &Numbers, place: usize) -> Ends<()> {
    Ends(Process::new(work, (object.clone(), numbers.clone(), place)).start_method(method).start().unwrap())
}

fn kill_users(method: StartMethod, object: &Object) {
    multiproc::process::set_standby(false);
    let mut random = Random::seeded();
    let numbers = Numbers::new();
    let at = |index: usize| numbers.at(index);
    let mut workers: Vec<Ends<()>> = (0..WORKERS).map(|place| start(method, object, &numbers, place)).collect();
    let kill_one = |place: usize| {
        at(INSIDE).fetch_or(DOOMED << place, SeqCst);
        // Asserts that the signal ended it, and not an earlier failure.
        kill(&workers[place]);
        at(INSIDE).fetch_and(!((DOOMED | ALONE | 1) << place), SeqCst);
        workers[place] = start(method, object, &numbers, place);
        if let Object::Barrier(barrier) = object {
            barrier.reset();
            at(ROUND).fetch_add(1, SeqCst);
        }
    };
    let done = || at(DONE).load(SeqCst);
    let kills = chaos::kill_repeatedly(&mut random, WORKERS, kill_one, done, || true, (object, &numbers));
    at(STOP).store(1, SeqCst);
    if let Object::Barrier(barrier) = object {
        barrier.abort();
    }
    for (place, worker) in workers.iter().enumerate() {
        // The processes that set it have ended, and none clears it any more.
        if let (Object::Event(event), true) = (object, place == WORKERS / 2) {
            event.set();
        }
        let status = worker.wait_timeout(LONG).unwrap().unwrap_or_else(|| panic!("timed out: {object:?}, {numbers:?}"));
        assert!(status.success(), "{status}");
    }
    let [done, mended] = [DONE, MENDED].map(|index| at(index).load(SeqCst));
    println!("{kills} kills, {done} times done, {mended} times mended");
    assert!(mended <= kills && at(INSIDE).load(SeqCst) == 0 && at(WHO).load(SeqCst) == 0);
    is_as_new(object, &numbers, kills);
}

/// Checks what is left of the object when all processes have ended.
fn is_as_new(object: &Object, numbers: &Numbers, kills: u64) {
    match object {
        Object::Lock(lock) => assert!(!lock.is_poisoned() && matches!(lock.try_lock(), Ok(Some(_)))),
        Object::RLock(lock) => assert!(!lock.is_poisoned() && matches!(lock.try_lock(), Ok(Some(_)))),
        Object::Mutex(mutex) => {
            let value = mutex.try_lock().unwrap().expect("no process holds it");
            assert_eq!(value[0], value[1]);
        }
        Object::RwLock(lock) => {
            assert_eq!(lock.readers(), 0);
            let value = lock.try_write().unwrap().expect("no process reads or writes");
            assert_eq!(value[0], value[1]);
        }
        Object::Semaphore(semaphore) => {
            assert_eq!(semaphore.available(), PERMITS);
            let permits: Vec<_> = (0..PERMITS).map(|_| semaphore.try_acquire().unwrap().expect("lost")).collect();
            assert!(semaphore.try_acquire().unwrap().is_none());
            drop(permits);
        }
        Object::Event(event) => {
            assert!(event.is_set() && event.wait_timeout(LONG).unwrap());
            event.clear();
            assert!(!event.is_set());
        }
        // Each round has one leader, and all pass, except for those that were killed before they
        // could record it.
        Object::Barrier(barrier) => {
            let [done, leaders] = [DONE, LEADERS].map(|index| numbers.at(index).load(SeqCst));
            let all = WORKERS as u64;
            assert!(
                done <= leaders * all + (all - 1) * kills && leaders * all <= done + all * kills,
                "{done}, {leaders}"
            );
            barrier.reset();
            assert!(!barrier.is_broken() && barrier.n_waiting() == 0);
        }
    }
}

macro_rules! chaos {
    ($($name:ident: $object:expr;)*) => {
        $(mod $name {
            use super::*;

            #[multiproc::test]
            fn forkserver() {
                common::in_a_process_with_one_thread(|| kill_users(StartMethod::ForkServer, &$object));
            }

            #[multiproc::test]
            fn fork() {
                common::in_a_process_with_one_thread(|| kill_users(StartMethod::Fork, &$object));
            }
        })*
    };
}

chaos! {
    lock: Object::Lock(Lock::new().unwrap());
    rlock: Object::RLock(RLock::new().unwrap());
    mutex: Object::Mutex(Mutex::new([0; 2]).unwrap());
    rwlock: Object::RwLock(RwLock::new([0; 2]).unwrap());
    semaphore: Object::Semaphore(Semaphore::new(PERMITS).unwrap());
    event: Object::Event(Event::new().unwrap());
    barrier: Object::Barrier(Barrier::new(WORKERS).unwrap());
}
