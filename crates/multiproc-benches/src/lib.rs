//! What the benchmarks have in common: contestants that take turns, medians, tables, and ratios that multiproc is held to.
//!
//! Each benchmark in `benches/` prints tables, then each ratio as a line `RATIO <key> <value> <op> <target>`, and writes every figure to
//! `bench/<name>.json` in the target directory. `-- --quick` is for CI: the same, with too little of everything for the figures to mean
//! much. Without `--bench` among the arguments, which `cargo bench` adds, nothing is measured.
//!
//! Only ratios within one run mean anything, and only if a slow moment of the machine is everybody's. So contestants take turns in an order
//! that is shuffled every round.

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

/// Whatever goes wrong ends a measurement: a figure that misses some of its iterations is none.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Whether cargo bench is asking: `cargo test --all-targets` runs the benchmarks too, and wants nothing measured.
pub fn is_asked() -> bool {
    has_argument("--bench")
}

/// Whether figures that mean little are enough.
pub fn is_quick() -> bool {
    has_argument("--quick")
}

fn has_argument(wanted: &str) -> bool {
    std::env::args_os().any(|argument| argument == wanted)
}
