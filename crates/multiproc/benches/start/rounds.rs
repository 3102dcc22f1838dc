//! Contestants that take turns.

use std::time::{Duration, Instant};

use super::Outcome;
use super::figures::Series;

/// One way of doing the thing, and how it takes its own time.
pub(crate) struct Contestant<'a> {
    pub(crate) name: &'static str,
    /// Whether it copies the address space of this process, and so is slow when that is large.
    pub(crate) copies_parent: bool,
    measure: Box<dyn FnMut() -> Outcome<Duration> + 'a>,
}

impl<'a> Contestant<'a> {
    /// One that says itself how long an iteration took.
    pub(crate) fn new(name: &'static str, measure: impl FnMut() -> Outcome<Duration> + 'a) -> Contestant<'a> {
        Contestant { name, copies_parent: false, measure: Box::new(measure) }
    }

    /// One whose iteration is timed from beginning to end.
    pub(crate) fn timed(name: &'static str, mut iteration: impl FnMut() -> Outcome<()> + 'a) -> Contestant<'a> {
        Contestant::new(name, move || {
            let begin = Instant::now();
            iteration()?;
            Ok(begin.elapsed())
        })
    }

    pub(crate) fn copies_parent(self) -> Contestant<'a> {
        Contestant { copies_parent: true, ..self }
    }
}

/// An iteration of each that doesn't count, and then `rounds` that do; in microseconds. Contestants that copy the
/// parent take part in one of `copy_every` rounds.
pub(crate) fn run(
    contestants: &mut [Contestant<'_>],
    rounds: u32,
    copy_every: u32,
    random: &mut Random,
    series: &mut Series,
) -> Outcome<()> {
    for contestant in contestants.iter_mut() {
        (contestant.measure)()?;
    }
    for round in 0..rounds {
        random.shuffle(contestants);
        for contestant in contestants.iter_mut().filter(|one| !one.copies_parent || round % copy_every == 0) {
            let time = (contestant.measure)()?;
            series.add(contestant.name, time.as_secs_f64() * 1e6);
        }
    }
    Ok(())
}

/// Sebastiano Vigna's SplitMix64: the same orders in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Random {
        Random(2026)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Fisher and Yates. The modulo's bias is none that a handful of contestants could notice.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}
