//! A child's spec, and its entry's address: `spec/child_spec.rs`, `spec/target.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("child_spec")(data);
});
