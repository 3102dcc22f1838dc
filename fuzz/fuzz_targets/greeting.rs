//! What a client or a listener sends before the first message: `channel/auth.rs`, `handshakes.rs`,
//! `connect.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("greeting")(data);
});
