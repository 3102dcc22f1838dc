//! Pseudorandom orders that are the same in every run.

/// Sebastiano Vigna's SplitMix64.
pub struct Random(u64);

impl Random {
    /// A generator with the seed that all benchmarks share.
    #[expect(clippy::new_without_default, reason = "a default would hide that it always begins with the same seed")]
    pub fn new() -> Random {
        Random(2026)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// The Fisher-Yates shuffle. The modulo's bias is negligible for a handful of contestants.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}
