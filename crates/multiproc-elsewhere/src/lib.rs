//! A worker function in a crate of its own. It knows nothing of multiproc: any function is a target.

#![warn(missing_docs)]

/// Says that it works.
pub fn worker() {
    println!("Worker");
}

/// The sum of `numbers`, in whatever process it is called.
pub fn sum(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}
