//! Arrays while their users are killed: eight processes read all of one, change all of it, change
//! parts of it, and split it again; every few milliseconds one of them is killed and replaced. No
//! process changes what another reads or changes, what a dead owner held is poisoned, and none
//! hangs. `MULTIPROC_SEED` and `MULTIPROC_CHAOS_SECONDS` set the random seed and the duration.

use std::sync::atomic::Ordering::SeqCst;

use crate::chaos::{self, Random};
use crate::common::{self, Ends, LONG};
use crate::shared::{Numbers, kill};
use multiproc::shared_memory::{ArrayGuard, ArrayPart};
use multiproc::sync::{LockError, Misuse};
use multiproc::{Array, Process, StartMethod};

/// The number of processes at a time.
const WORKERS: usize = 8;

/// The number of pairs. The two numbers of a pair are equal while no process changes them.
const PAIRS: usize = 48;

/// Indexes into the shared numbers. Set when the workers must stop:
const STOP: usize = 0;
/// How often each kind of work was done: reading, changing all, one part or two parts, and dividing
/// anew.
const DONE: usize = 1;
const KINDS: usize = 5;
/// How often a process was told that another had died.
const TOLD: usize = 7;
/// The process that is changing each pair.
const AT: usize = 16;

type Pair = [u64; 2];

struct Worker {
    array: Array<Pair>,
    numbers: Numbers,
    random: Random,
    me: u64,
}

impl Worker {
    fn done(&self, kind: usize) {
        self.numbers.at(DONE + kind).fetch_add(1, SeqCst);
    }

    fn pause(&mut self) {
        if self.random.below(16) == 0 {
            std::thread::yield_now();
        }
    }

    /// Changes pairs, the first of which has the index `first`, and asserts that no other process
    /// does.
    fn change(&mut self, pairs: &mut [Pair], first: usize) {
        let numbers = self.numbers.clone();
        let holder = |index: usize| numbers.at(AT + first + index);
        for index in 0..pairs.len() {
            assert_eq!(holder(index).swap(self.me, SeqCst), 0, "another process is here, or died here without poison");
        }
        self.pause();
        for (index, pair) in pairs.iter_mut().enumerate() {
            assert_eq!(pair[0], pair[1], "torn, but not poisoned");
            pair[0] += 1;
            if index == 3 {
                self.pause();
            }
            pair[1] += 1;
        }
        for index in 0..pairs.len() {
            assert_eq!(holder(index).swap(0, SeqCst), self.me, "another process is here");
        }
    }

    /// Repairs what a dead process held.
    fn mend(&self, guard: &mut ArrayGuard<'_, Pair>, first: usize) {
        self.numbers.at(TOLD).fetch_add(1, SeqCst);
        for (index, pair) in guard.iter_mut().enumerate() {
            pair[1] = pair[0];
            self.numbers.at(AT + first + index).store(0, SeqCst);
        }
        guard.clear_poison();
    }

    /// Locks all of the array, repairing it first if it is poisoned.
    fn all<'a>(&self, array: &'a Array<Pair>) -> ArrayGuard<'a, Pair> {
        array.lock().unwrap_or_else(|error| {
            let mut guard = error.into_guard().unwrap();
            self.mend(&mut guard, 0);
            guard
        })
    }

    /// Locks this part; `None` if the array has been divided anew. Repairs the whole first if its
    /// holder has died.
    fn part<'a>(&self, part: &'a ArrayPart<Pair>) -> Option<ArrayGuard<'a, Pair>> {
        loop {
            match part.lock() {
                Ok(guard) => return Some(guard),
                Err(LockError::Misuse(Misuse::Divided(_))) => return None,
                Err(error) => {
                    let mut guard = error.into_guard().unwrap();
                    self.mend(&mut guard, part.range().start);
                    if !part.is_poisoned() {
                        return Some(guard);
                    }
                    drop(guard);
                    drop(self.all(&self.array));
                }
            }
        }
    }

    fn turn(&mut self) {
        let array = self.array.clone();
        match self.random.below(100) {
            0..30 => match array.read() {
                Ok(pairs) => {
                    let before = pairs.to_vec();
                    assert!(before.iter().all(|pair| pair[0] == pair[1]), "torn, but not poisoned");
                    self.pause();
                    assert_eq!(*pairs, before, "a process writes");
                    self.done(0);
                }
                // A reader can't repair the array.
                Err(LockError::Poisoned(guard)) => {
                    drop(guard);
                    drop(self.all(&array));
                }
                Err(error) => panic!("{error}"),
            },
            30..45 => {
                let mut guard = self.all(&array);
                self.change(&mut guard, 0);
                self.done(1);
            }
            45..48 => {
                drop(array.split(1 + self.random.below(12) as usize).unwrap());
                self.done(4);
            }
            turn => {
                // The number of parts is one that is often used; if the array is divided
                // differently, this divides it anew.
                let parts = array.split(if turn < 90 { 6 } else { 4 }).unwrap();
                let index = self.random.below(parts.len() as u64) as usize;
                let Some(mut guard) = self.part(&parts[index]) else { return };
                let first = parts[index].range().start;
                self.change(&mut guard, first);
                self.done(2);
                // In ascending order, so that no two processes wait for each other.
                if let Some(other) = parts.get(index + 1).filter(|_| turn % 2 == 0) {
                    // The holder of a part can't repair poison of the whole.
                    if let Ok(mut another) = other.lock() {
                        self.change(&mut another, other.range().start);
                        self.change(&mut guard, first);
                        self.done(3);
                    }
                }
            }
        }
    }
}

fn work(array: Array<Pair>, numbers: Numbers) {
    let me = std::process::id().into();
    let mut worker = Worker { array, numbers, random: Random::of(me), me };
    while worker.numbers.at(STOP).load(SeqCst) == 0 {
        worker.turn();
        worker.pause();
    }
}

fn start(method: StartMethod, array: &Array<Pair>, numbers: &Numbers) -> Ends<()> {
    Ends(Process::new(work, (array.clone(), numbers.clone())).start_method(method).start().unwrap())
}

fn kill_users(method: StartMethod) {
    multiproc::process::set_standby(false);
    let (mut random, numbers, array) = (Random::seeded(), Numbers::new(), Array::new(PAIRS).unwrap());
    let mut workers: Vec<Ends<()>> = (0..WORKERS).map(|_| start(method, &array, &numbers)).collect();
    let done = || (0..KINDS).map(|kind| numbers.at(DONE + kind).load(SeqCst));
    let kill_one = |place: usize| {
        // Asserts that the signal ended it, and not an earlier failure.
        kill(&workers[place]);
        workers[place] = start(method, &array, &numbers);
    };
    let is_enough = || done().all(|done| done > 0);
    let kills = chaos::kill_repeatedly(&mut random, WORKERS, kill_one, || done().sum(), is_enough, (&array, &numbers));
    numbers.at(STOP).store(1, SeqCst);
    for worker in &workers {
        let status = worker.wait_timeout(LONG).unwrap().unwrap_or_else(|| panic!("timed out: {array:?}, {numbers:?}"));
        assert!(status.success(), "{status}");
    }
    println!("{kills} kills, {:?} done, {} deaths reported", done().collect::<Vec<_>>(), numbers.at(TOLD).load(SeqCst));
    // In its final state: no process holds it.
    assert_eq!(array.readers(), 0);
    let worker = Worker { array: array.clone(), numbers, random, me: 0 };
    drop(worker.all(&array));
    array.clear_poison();
    let pairs = array.try_lock().unwrap().expect("no process holds it");
    assert!(pairs.iter().all(|pair| pair[0] == pair[1]));
    drop(pairs);
    let parts = array.split(5).unwrap();
    assert!(parts.iter().all(|part| part.try_lock().unwrap().is_some()));
}

#[multiproc::test]
fn forkserver() {
    common::in_a_process_with_one_thread(|| kill_users(StartMethod::ForkServer));
}

#[multiproc::test]
fn fork() {
    common::in_a_process_with_one_thread(|| kill_users(StartMethod::Fork));
}
