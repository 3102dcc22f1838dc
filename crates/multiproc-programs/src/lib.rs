//! Whole programs that use multiproc; their tests are in `tests/`. Nothing is in the library itself but what they share.

use std::time::Duration;

/// Sleeps for ever, as far as a test is concerned.
pub fn sleep_long() {
    std::thread::sleep(Duration::from_secs(100_000));
}

/// Prints a line at once, in one piece, whatever buffers there are.
pub fn say(line: &str) {
    use std::io::Write;
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}
