//! Random numbers from the kernel: getrandom(2).

use rustix::rand::{GetRandomFlags, getrandom};

/// Returns a random number; one made of the time and the process id when the kernel can't provide
/// random numbers yet.
pub fn seed() -> u64 {
    let mut bytes = [0; 8];
    match getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            now.as_nanos() as u64 ^ (crate::threads::getpid() as u64) << 40
        }
    }
}

/// Fills `bytes` with unpredictable random numbers. Blocks while the kernel can't provide them yet,
/// in the first moments after boot.
///
/// # Errors
/// None is expected; interruptions by signals are not reported.
pub fn fill(bytes: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::io::retry_on_intr(|| getrandom(&mut bytes[filled..], GetRandomFlags::empty()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_differ() {
        assert_ne!(super::seed(), super::seed());
    }

    #[test]
    fn fills_all_bytes() {
        let mut bytes = [0; 1000];
        super::fill(&mut bytes).unwrap();
        assert!(bytes.chunks(20).all(|chunk| chunk.iter().any(|byte| *byte != 0)));
    }
}
