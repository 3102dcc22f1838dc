//! A message between two processes, and its descriptors: `transfer/packet.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("packet")(data);
});
