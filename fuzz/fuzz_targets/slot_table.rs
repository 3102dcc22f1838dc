//! The cells of a `ShareableList` with memory that is corrupted while it is used:
//! `multiproc-shm/src/slot_table.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("slot_table")(data);
});
