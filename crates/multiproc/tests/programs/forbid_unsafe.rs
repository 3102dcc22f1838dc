//! The attributes must not make a crate that forbids `unsafe` fail to compile.

#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unreachable_pub)]

use multiproc::Process;

#[multiproc::test]
fn test_attribute() {
    assert_eq!(Process::new(|| 5, ()).start().unwrap().join().unwrap(), 5);
}

/// A test without the attribute profits from those with it.
#[test]
fn plain_test() {
    assert_eq!(Process::new(|| 6, ()).start().unwrap().join().unwrap(), 6);
}
