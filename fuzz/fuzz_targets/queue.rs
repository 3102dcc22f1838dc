//! A queue with memory that is corrupted while it is used: `multiproc-shm/src/queue/`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("queue")(data);
});
