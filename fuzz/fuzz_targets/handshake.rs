//! What an exec'd copy of the program receives first: `start/handshake.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("handshake")(data);
});
