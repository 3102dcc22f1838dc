//! A condition while its users are killed: processes wait for tokens that others bring, and every
//! few milliseconds one of them is killed, at any point. `MULTIPROC_SEED` and
//! `MULTIPROC_CHAOS_SECONDS` set the random seed and the duration.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use crate::chaos::{self, Random};
use crate::common::{self, Ends, LONG};
use crate::shared::Numbers;
use multiproc::sync::{Condition, ConditionError, ConditionGuard};
use multiproc::{Process, StartMethod};

const TOKENS: usize = 0;
const PUT: usize = 1;
const TAKEN: usize = 2;
const STOP: usize = 3;
const POISONED: usize = 4;

/// Repairs what a killed process has left half-done: it may have died between two of the writes,
/// and two numbers together determine the third.
fn repair(guard: &ConditionGuard<'_>, numbers: &Numbers) {
    numbers.at(TOKENS).store(numbers.at(PUT).load(Relaxed) - numbers.at(TAKEN).load(Relaxed), Relaxed);
    numbers.at(POISONED).fetch_add(1, Relaxed);
    guard.clear_poison();
}

fn lock<'a>(condition: &'a Condition, numbers: &Numbers) -> ConditionGuard<'a> {
    condition.lock().unwrap_or_else(|error| {
        let guard = error.into_guard().unwrap();
        repair(&guard, numbers);
        guard
    })
}

/// Takes tokens until told to stop.
fn take(condition: Condition, numbers: Numbers) {
    let mut guard = lock(&condition, &numbers);
    loop {
        if numbers.at(TOKENS).load(Relaxed) > 0 {
            numbers.at(TOKENS).store(numbers.at(TOKENS).load(Relaxed) - 1, Relaxed);
            numbers.at(TAKEN).store(numbers.at(TAKEN).load(Relaxed) + 1, Relaxed);
            // Lets other processes take the lock.
            drop(guard);
            guard = lock(&condition, &numbers);
            continue;
        }
        if numbers.at(STOP).load(Relaxed) != 0 {
            return;
        }
        match guard.wait() {
            Ok(()) => {}
            Err(ConditionError::Poisoned(_)) => repair(&guard, &numbers),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Brings tokens, with one notification for each, until told to stop.
fn bring(condition: Condition, numbers: Numbers) {
    while numbers.at(STOP).load(SeqCst) == 0 {
        let guard = lock(&condition, &numbers);
        // Again under the lock: no taker waits any more for a token that is brought after the end.
        if numbers.at(STOP).load(SeqCst) == 0 && numbers.at(TOKENS).load(Relaxed) < 4 {
            numbers.at(PUT).store(numbers.at(PUT).load(Relaxed) + 1, Relaxed);
            numbers.at(TOKENS).store(numbers.at(TOKENS).load(Relaxed) + 1, Relaxed);
            guard.notify_one();
        }
        drop(guard);
        std::thread::yield_now();
    }
}

fn start(method: StartMethod, condition: &Condition, numbers: &Numbers, place: usize) -> Ends<()> {
    let started = match place % 3 {
        0 => Process::new(bring, (condition.clone(), numbers.clone())).start_method(method).start(),
        _ => Process::new(take, (condition.clone(), numbers.clone())).start_method(method).start(),
    };
    Ends(started.unwrap())
}

fn kill_users(method: StartMethod) {
    let mut random = Random::seeded();
    let (condition, numbers) = (Condition::new().unwrap(), Numbers::new());
    let mut processes: Vec<Ends<()>> = (0..8).map(|place| start(method, &condition, &numbers, place)).collect();
    let kill_one = |place: usize| {
        processes[place].kill().unwrap();
        processes[place].wait().unwrap();
        processes[place] = start(method, &condition, &numbers, place);
    };
    let taken = || numbers.at(TAKEN).load(SeqCst);
    let kills = chaos::kill_repeatedly(&mut random, 8, kill_one, taken, || true, (&condition, &numbers));
    numbers.at(STOP).store(1, SeqCst);
    lock(&condition, &numbers).notify_all();
    for process in &processes {
        assert!(process.wait_timeout(LONG).unwrap().expect("timed out").success());
    }
    let [put, taken, poisoned] = [PUT, TAKEN, POISONED].map(|place| numbers.at(place).load(SeqCst));
    println!("{kills} kills, {poisoned} of them with the lock held; {taken} of {put} tokens taken");
    assert_eq!(put, taken);
}

#[multiproc::test]
fn forkserver() {
    common::in_a_process_with_one_thread(|| kill_users(StartMethod::ForkServer));
}

#[multiproc::test]
fn fork() {
    common::in_a_process_with_one_thread(|| kill_users(StartMethod::Fork));
}
