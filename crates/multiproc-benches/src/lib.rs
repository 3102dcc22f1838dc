//! What the benchmarks share: contestants that take turns, medians, tables, and the ratios that
//! multiproc must meet.
//!
//! Each benchmark in `benches/` prints tables, then each ratio as a line `RATIO <key> <value> <op>
//! <target>`, and writes every figure to `bench/<name>.json` in the target directory. `-- --quick`
//! is for CI: the same, but with too few iterations for the figures to mean much. Nothing is
//! measured unless `--bench` is among the arguments; `cargo bench` adds it.
//!
//! Only ratios within one run are meaningful, and only if a slow moment of the machine affects all
//! contestants alike. So contestants take turns in an order that is shuffled every round.

use std::error::Error;

pub mod board;
pub mod cast;
pub mod figures;
pub mod host;
pub mod leftovers;
pub mod pace;
pub mod pthread;
pub mod python;
pub mod random;
pub mod report;
pub mod slices;
pub mod sys;

/// Any error ends a measurement, since a figure that lacks some of its iterations would be wrong.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Returns whether `cargo bench` runs this program: `cargo test --all-targets` runs the benchmarks
/// too, but expects no measurement.
pub fn is_asked() -> bool {
    has_argument("--bench")
}

/// Returns whether a quick run is asked for, with figures that mean little.
pub fn is_quick() -> bool {
    has_argument("--quick")
}

fn has_argument(wanted: &str) -> bool {
    std::env::args_os().any(|argument| argument == wanted)
}
