//! The notes of an executable file, and the ids of a greeting: `image.rs` and `credentials.rs` of
//! `multiproc-os`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("image")(data);
});
