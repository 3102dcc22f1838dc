//! What tests under fire need: numbers that look random and can be had again, how long to go on, and the fire.

#![allow(dead_code)]

use std::fmt::Debug;
use std::time::{Duration, Instant};

use crate::common::LONG;

/// Numbers that look random, and are the same for the same seed (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// From `MULTIPROC_SEED`, or others each time. The seed is printed.
    pub(crate) fn seeded() -> Random {
        let seed = std::env::var("MULTIPROC_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into());
        println!("MULTIPROC_SEED={seed}");
        Random(seed)
    }

    pub(crate) fn of(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// `MULTIPROC_CHAOS_SECONDS`, or as long as a test suite bears.
pub(crate) fn duration() -> Duration {
    let seconds = std::env::var("MULTIPROC_CHAOS_SECONDS").ok().map(|seconds| seconds.parse().expect("seconds"));
    Duration::from_secs_f64(seconds.unwrap_or(2.0))
}

/// Every few milliseconds `shoot` kills one of so many, whose number it is given, and starts another in its place: for that long, and until it `is_enough`. Each
/// time something must be done then, whoever has been killed; `done` counts that. Says how often one was killed.
pub(crate) fn fire(
    random: &mut Random,
    targets: usize,
    mut shoot: impl FnMut(usize),
    done: impl Fn() -> u64,
    is_enough: impl Fn() -> bool,
    state: impl Debug,
) -> u64 {
    let goes_on = |kills| {
        let (before, waited) = (done(), Instant::now());
        while done() == before {
            assert!(waited.elapsed() < LONG, "nothing is done any more, after {kills} kills: {state:?}");
            std::thread::yield_now();
        }
    };
    goes_on(0);
    let (begin, mut kills) = (Instant::now(), 0);
    while begin.elapsed() < duration() || !is_enough() {
        assert!(begin.elapsed() < duration() + LONG, "not all is done, after {kills} kills: {state:?}");
        std::thread::sleep(Duration::from_micros(random.below(6000)));
        shoot(random.below(targets as u64) as usize);
        kills += 1;
        goes_on(kills);
    }
    kills
}
