//! Messages over TCP: `channel/stream.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("frame")(data);
});
