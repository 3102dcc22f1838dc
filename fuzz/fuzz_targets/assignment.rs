//! What a child is told, and its entry's address: `start/assignment.rs`, `start/target.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("assignment")(data);
});
