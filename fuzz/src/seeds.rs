//! Writes valid messages to `seeds/`, for the fuzzers to begin with. Run it when a format has
//! changed: `RUSTFLAGS="--cfg fuzzing" cargo run --bin seeds`, in this directory.

use std::path::Path;

fn main() {
    // The environment is a part of some messages, and the seeds must not disclose it.
    for (name, _) in std::env::vars_os() {
        // SAFETY: this process has one thread.
        unsafe { std::env::remove_var(name) };
    }
    // SAFETY: as above.
    unsafe { std::env::set_var("NAME", "value") };
    for (name, _) in multiproc::fuzzing::PARSERS {
        let directory = Path::new("seeds").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        for (number, seed) in multiproc::fuzzing::seeds(name).into_iter().enumerate() {
            std::fs::write(directory.join(number.to_string()), seed).unwrap();
        }
    }
}
