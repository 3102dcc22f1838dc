//! What one who looks for a name, and its owner, say: `shared/names/wire.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("name")(data);
});
