//! A queue with memory that is corrupted while it is used: `shm/store.rs` and `shm/arena.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("queue")(data);
});
