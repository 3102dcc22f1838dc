//! A corpus of types that implement serde in every way that its derive macros offer, with
//! generators of their values, and an oracle: what a self-describing format makes of a value. The
//! tests of this crate send these values in every way there is.

pub mod any;
pub mod oracle;
pub mod types;

pub use any::{Any, Rng};
