//! Kills a process after each instruction of a call, and checks that the object of the call
//! continues to work for others.
//!
//! - `single_step NAME all` walks over the whole call: in each run the process is killed one
//!   instruction later.
//! - `single_step NAME MILLISECONDS SEED` chooses instructions at random, for that long.
//!
//! It prints the number of instructions of the call, the number of runs, and how often each outcome
//! occurred. The calls are in the other files, one for each kind of object, and listed here;
//! `walk.rs` explains how to write one.

mod lists;
mod locks;
mod queue;
mod readers;
mod regions;
mod waits;
mod walk;

use std::time::Duration;

use multiproc_programs::Random;
use walk::{Moments, Scenario};

/// All scenarios, by name.
const SCENARIOS: &[&[(&str, Scenario)]] =
    &[lists::SCENARIOS, locks::SCENARIOS, queue::SCENARIOS, readers::SCENARIOS, regions::SCENARIOS, waits::SCENARIOS];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (name, moments) = match arguments[..] {
        [name, "all"] => (name, Moments::All),
        [name, time, seed] => {
            let time = Duration::from_millis(time.parse().unwrap());
            (name, Moments::Some(time, Random::new(seed.parse().unwrap())))
        }
        _ => panic!("no such arguments: {arguments:?}"),
    };
    let scenario = SCENARIOS.iter().flat_map(|list| list.iter()).find(|(other, _)| *other == name);
    walk::walk(scenario.unwrap_or_else(|| panic!("no scenario {name}")).1, moments);
}
