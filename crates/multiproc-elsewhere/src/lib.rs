//! A worker function in a crate of its own. The crate knows nothing of multiproc: any function can
//! be a target.

#![warn(missing_docs)]

/// Prints a line.
pub fn worker() {
    println!("Worker");
}

/// Returns the sum of `numbers`.
pub fn sum(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}
