//! What a process that looks up a name, and the name's owner, send: `shared/names/wire.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("name")(data);
});
