//! A queue with memory that is corrupted while it is used: `multiproc-shm/src/queue/` and
//! `multiproc-shm/src/queue/arena.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("queue")(data);
});
