//! Barriers between processes.

mod common;
#[path = "common/shared.rs"]
mod shared;

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use common::{Ends, LONG, for_each_method, sleep_long};
use multiproc::sync::{Barrier, BarrierError, BrokenBy, Event};
use multiproc::{Child, Error, Process, Run, StartMethod};
use serde::{Deserialize, Serialize};
use shared::{Numbers, kill, wait_asleep};

const ROUNDS: usize = 300;

/// Adds one before each round, and sees that all have.
fn rounds(barrier: Barrier, numbers: Numbers) -> Vec<usize> {
    let parties = barrier.parties() as u64;
    let mut indices = Vec::new();
    for round in 1..=ROUNDS as u64 {
        numbers.at(0).fetch_add(1, SeqCst);
        indices.push(barrier.wait().unwrap().index());
        let all = numbers.at(0).load(SeqCst);
        assert!((round * parties..(round + 1) * parties).contains(&all), "{all} in round {round}");
    }
    indices
}

/// What came of waiting, as one to be told elsewhere.
fn wait(barrier: Barrier) -> Result<usize, String> {
    barrier.wait().map(|result| result.index()).map_err(|error| error.to_string())
}

fn broken(error: BarrierError) -> BrokenBy {
    match error {
        BarrierError::Broken(by) => by,
        error => panic!("{error}"),
    }
}

/// Waits once, says so, and sleeps.
fn wait_and_sleep(barrier: Barrier, done: Event) {
    barrier.wait().unwrap();
    done.set();
    sleep_long();
}

/// A process that waits at the barrier, and what it says then.
fn waiter(barrier: &Barrier, method: StartMethod) -> Ends<Said> {
    let target = |barrier: Barrier| Said(wait(barrier));
    Ends(Process::new(target, (barrier.clone(),)).start_method(method).start().unwrap())
}

/// What came of it; a type that doesn't say that the process has failed.
#[derive(Serialize, Deserialize)]
struct Said(Result<usize, String>);

fn join(child: Ends<Said>) -> Result<usize, String> {
    assert!(child.wait_timeout(LONG).unwrap().expect("it hangs").success());
    child.0.joined()
}

trait Joined {
    fn joined(&self) -> Result<usize, String>;
}

impl Joined for Child<Said> {
    fn joined(&self) -> Result<usize, String> {
        unreachable!()
    }
}

#[derive(Serialize, Deserialize)]
struct Party {
    barriers: Vec<Barrier>,
}

impl Run for Party {
    type Output = Barrier;

    fn run(mut self) -> Barrier {
        self.barriers.iter().for_each(|barrier| drop(barrier.wait().unwrap()));
        self.barriers.remove(0)
    }
}
