//! A corpus of types that implement serde in every way that its derive macros offer, with
//! generators of their values, and an oracle: the value that a self-describing format gives back.
//! The tests of this crate send these values through queues and pipes, and as arguments and
//! results.

pub mod any;
pub mod oracle;
pub mod types;

pub use any::{Any, Rng};
