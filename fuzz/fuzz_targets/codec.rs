//! An encoded value: `transfer/codec.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("codec")(data);
});
