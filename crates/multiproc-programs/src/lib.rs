//! Whole programs that use multiproc; their tests are in `tests/`. The library itself only has what
//! they share.

use std::time::Duration;

use multiproc::StartMethod;

/// The start method of this name, as tests pass it to programs.
pub fn start_method(name: &str) -> StartMethod {
    match name {
        "forkserver" => StartMethod::ForkServer,
        "spawn" => StartMethod::Spawn,
        "fork" => StartMethod::Fork,
        other => panic!("no method {other}"),
    }
}

/// Sleeps longer than any test takes.
pub fn sleep_long() {
    std::thread::sleep(Duration::from_secs(100_000));
}

/// Prints a line immediately and in one piece, without any buffers.
pub fn say(line: &str) {
    use std::io::Write;
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

/// Pseudorandom numbers, the same for the same seed: splitmix64, from Steele, Lea and Flood, "Fast
/// splittable pseudorandom number generators", 2014.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with this seed, which determines all numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
