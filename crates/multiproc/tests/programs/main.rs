//! Programs as they are: the examples, and a test binary.

#[path = "../common/mod.rs"]
mod common;

mod examples;
mod features;
mod forbid_unsafe;
mod test_attribute;
