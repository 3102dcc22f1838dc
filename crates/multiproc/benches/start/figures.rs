//! What was measured.

use std::fmt;

use serde::Serialize;

use super::{RESIDENT, rate};

/// Everything that was measured in one run.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) host: Host,
    pub(crate) quick: bool,
    /// Start and wait, in microseconds, for each of [`RESIDENT`].
    pub(crate) start: [Series; RESIDENT.len()],
    /// From `start` to the target's first line, in microseconds.
    pub(crate) first_line: Series,
    /// Starts per second, for each of [`rate::IN_FLIGHT`].
    pub(crate) rate: [Series; rate::IN_FLIGHT.len()],
    /// Of an idle child, in kB.
    pub(crate) pss: Series,
    /// What is missing, and why.
    pub(crate) skipped: Vec<String>,
}

impl Figures {
    /// Notes that something could not be measured.
    pub(crate) fn skip(&mut self, what: &str, why: &dyn fmt::Display) {
        let line = format!("{what}: {why}");
        if !self.skipped.contains(&line) {
            self.skipped.push(line);
        }
    }
}

/// Values of several contestants.
#[derive(Default)]
pub(crate) struct Series(Vec<(&'static str, Vec<f64>)>);

impl Series {
    pub(crate) fn add(&mut self, contestant: &'static str, value: f64) {
        match self.0.iter_mut().find(|(name, _)| *name == contestant) {
            Some((_, values)) => values.push(value),
            None => self.0.push((contestant, vec![value])),
        }
    }

    /// None of a contestant that has not taken part.
    pub(crate) fn summary(&self, contestant: &str) -> Option<Summary> {
        self.0.iter().find(|(name, _)| *name == contestant).map(|(_, values)| Summary::of(values))
    }

    /// All contestants, the smallest median first.
    pub(crate) fn summaries(&self) -> Vec<(&'static str, Summary)> {
        let mut all: Vec<_> = self.0.iter().map(|(name, values)| (*name, Summary::of(values))).collect();
        all.sort_by(|(_, left), (_, right)| left.median.total_cmp(&right.median));
        all
    }
}

/// What becomes of the values of one contestant. There is at least one.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Summary {
    pub(crate) n: usize,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) p90: f64,
}

impl Summary {
    fn of(values: &[f64]) -> Summary {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
        Summary { n, median, min: sorted[0], p90: sorted[(n * 9).div_ceil(10) - 1] }
    }
}

/// The machine, as far as it bears on the figures.
#[derive(Default, Serialize)]
pub(crate) struct Host {
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    /// Whether memory comes in pages of 2 MiB, which makes a large parent cheap to copy: `[always]`, `[madvise]` or
    /// `[never]`.
    pub(crate) huge_pages: String,
    pub(crate) python: Option<String>,
}

impl Host {
    pub(crate) fn look() -> Host {
        let read = |path| std::fs::read_to_string(path).map_or("unknown".to_owned(), |text| text.trim().to_owned());
        Host {
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled"),
            python: None,
        }
    }
}
