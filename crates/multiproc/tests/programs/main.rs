//! Programs as they are: the examples, what the compiler says of mistakes, and a test binary.

#[path = "../common/mod.rs"]
mod common;

mod compile;
mod examples;
mod features;
mod forbid_unsafe;
mod test_attribute;
