//! What the server is asked for: `start/forkserver.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("request")(data);
});
