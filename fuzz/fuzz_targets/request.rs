//! Requests to the server: `start/forkserver.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("request")(data);
});
