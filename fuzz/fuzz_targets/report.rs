//! A child's report at its end: `spec/report.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    multiproc::fuzzing::parser("report")(data);
});
