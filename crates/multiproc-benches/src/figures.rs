//! Measured values and their summaries.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

/// The values of several contestants.
#[derive(Default)]
pub struct Series(Vec<(&'static str, Vec<f64>)>);

impl Series {
    /// A series without values.
    pub const fn none() -> Series {
        Series(Vec::new())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, contestant: &'static str, value: f64) {
        match self.0.iter_mut().find(|(name, _)| *name == contestant) {
            Some((_, values)) => values.push(value),
            None => self.0.push((contestant, vec![value])),
        }
    }

    /// Removes all values of a contestant that turned out to be unable to take part.
    pub fn remove(&mut self, contestant: &str) {
        self.0.retain(|(name, _)| *name != contestant);
    }

    /// The summary of a contestant's values; None if it has not taken part.
    pub fn summary(&self, contestant: &str) -> Option<Summary> {
        self.0.iter().find(|(name, _)| *name == contestant).map(|(_, values)| Summary::of(values))
    }

    /// As [`summary`](Series::summary), but only the median.
    pub fn median(&self, contestant: &str) -> Option<f64> {
        self.summary(contestant).map(|summary| summary.median)
    }

    /// The median of `over` divided by that of `under`, if both have taken part.
    pub fn ratio(&self, over: &str, under: &str) -> Option<f64> {
        Some(self.median(over)? / self.median(under)?)
    }

    /// The summaries of all contestants, the smallest median first.
    pub fn summaries(&self) -> Vec<(&'static str, Summary)> {
        let mut all: Vec<_> = self.0.iter().map(|(name, values)| (*name, Summary::of(values))).collect();
        all.sort_by(|(_, left), (_, right)| left.median.total_cmp(&right.median));
        all
    }

    /// An object with a summary for each contestant.
    pub fn json(&self) -> Value {
        self.summaries().into_iter().map(|(name, summary)| (name.to_owned(), json!(summary))).collect()
    }
}

/// Statistics of one contestant's values, of which there is at least one.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Summary {
    pub n: usize,
    pub median: f64,
    pub min: f64,
    pub p90: f64,
    pub max: f64,
}

impl Summary {
    fn of(values: &[f64]) -> Summary {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
        Summary { n, median, min: sorted[0], p90: sorted[(n * 9).div_ceil(10) - 1], max: sorted[n - 1] }
    }
}

/// The median of `values`, which must not be empty.
pub fn median(values: &[f64]) -> f64 {
    Summary::of(values).median
}

/// What is missing from the results and why, each line once.
#[derive(Default)]
pub struct Skipped(pub Vec<String>);

impl Skipped {
    pub fn add(&mut self, what: &str, why: &dyn fmt::Display) {
        let line = format!("{what}: {why}");
        if !self.0.contains(&line) {
            self.0.push(line);
        }
    }

    /// Returns whether there is a line about `what`.
    pub fn names(&self, what: &str) -> bool {
        self.0.iter().any(|line| line.strip_prefix(what).is_some_and(|rest| rest.starts_with(": ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_range() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((summary.n, summary.median), (4, 2.5));
        assert_eq!((summary.min, summary.p90, summary.max), (1.0, 4.0, 4.0));
        assert_eq!(median(&[5.0, 9.0, 7.0]), 7.0);
    }

    #[test]
    fn no_ratio_without_a_result() {
        let mut series = Series::default();
        series.add("one", 6.0);
        series.add("other", 3.0);
        assert_eq!(series.ratio("one", "other"), Some(2.0));
        series.remove("other");
        assert_eq!(series.ratio("one", "other"), None);
    }
}
