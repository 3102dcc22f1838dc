//! What the chaos tests share: pseudo-random numbers that can be reproduced, the duration, and the
//! loop that kills.

#![allow(dead_code)]

use std::fmt::Debug;
use std::time::{Duration, Instant};

use crate::common::LONG;

/// Pseudo-random numbers, the same for the same seed (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// Seeded from [`seed`].
    pub(crate) fn seeded() -> Random {
        Random(seed())
    }

    pub(crate) fn of(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// `MULTIPROC_SEED`, or another seed each time. It is printed.
pub(crate) fn seed() -> u64 {
    let seed = std::env::var("MULTIPROC_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into());
    println!("MULTIPROC_SEED={seed}");
    seed
}

/// `MULTIPROC_CHAOS_SECONDS`, or a default that suits a test suite.
pub(crate) fn duration() -> Duration {
    let seconds = std::env::var("MULTIPROC_CHAOS_SECONDS").ok().map(|seconds| seconds.parse().expect("seconds"));
    Duration::from_secs_f64(seconds.unwrap_or(2.0))
}

/// Every few milliseconds calls `kill_one` with a random index below `targets`, to kill that
/// process and start another in its place: for [`duration`], and until `is_enough`. After each kill
/// the count `done` must grow, whichever process was killed. Returns the number of kills.
pub(crate) fn kill_repeatedly(
    random: &mut Random,
    targets: usize,
    mut kill_one: impl FnMut(usize),
    done: impl Fn() -> u64,
    is_enough: impl Fn() -> bool,
    state: impl Debug,
) -> u64 {
    let goes_on = |kills| {
        let (before, waited) = (done(), Instant::now());
        while done() == before {
            assert!(waited.elapsed() < LONG, "no progress after {kills} kills: {state:?}");
            std::thread::yield_now();
        }
    };
    goes_on(0);
    let (begin, mut kills) = (Instant::now(), 0);
    while begin.elapsed() < duration() || !is_enough() {
        assert!(begin.elapsed() < duration() + LONG, "not enough was done after {kills} kills: {state:?}");
        std::thread::sleep(Duration::from_micros(random.below(6000)));
        kill_one(random.below(targets as u64) as usize);
        kills += 1;
        goes_on(kills);
    }
    kills
}
