//! What the memory-ordering core is built on: atomics, futexes, and the kernel's robust list. In a
//! normal build these are `std`'s and those of `multiproc_os`. With `--cfg loom` they are models,
//! so that [loom](https://docs.rs/loom) runs the same code under every interleaving, up to a bound,
//! and with the reorderings that the memory model of C++20 allows.
//!
//! [`models`] says what is checked, and what is not.

#[cfg(not(loom))]
mod real;
#[cfg(not(loom))]
pub(crate) use real::*;

#[cfg(loom)]
mod model;
#[cfg(loom)]
pub(crate) use model::*;

#[cfg(all(loom, test))]
mod models;

#[cfg(all(loom, feature = "async"))]
compile_error!("the loom models are of the code without the feature `async`");
