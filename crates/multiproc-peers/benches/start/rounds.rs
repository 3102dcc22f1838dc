//! Contestants that take turns.

use std::time::{Duration, Instant};

use multiproc_benches::Outcome;
use multiproc_benches::figures::Series;
use multiproc_benches::random::Random;

/// An implementation that is measured, with the function that times one iteration.
pub(crate) struct Contestant<'a> {
    pub(crate) name: &'static str,
    /// Whether it copies the address space of this process, and so is slow when that is large.
    pub(crate) copies_parent: bool,
    measure: Box<dyn FnMut() -> Outcome<Duration> + 'a>,
}

impl<'a> Contestant<'a> {
    /// A contestant that returns the time of an iteration itself.
    pub(crate) fn new(name: &'static str, measure: impl FnMut() -> Outcome<Duration> + 'a) -> Contestant<'a> {
        Contestant { name, copies_parent: false, measure: Box::new(measure) }
    }

    /// A contestant with iterations that are timed from beginning to end.
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

/// Runs an iteration of each that doesn't count, and then `rounds` that do; in microseconds.
/// Contestants that copy the parent take part in one of `copy_every` rounds.
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
