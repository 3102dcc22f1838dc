//! A clock that all processes of the machine share.

use rustix::time::{ClockId, clock_gettime};

/// Returns the milliseconds since a fixed point in the past, the same for all processes of the
/// machine. The value never decreases. See clock_gettime(2), `CLOCK_MONOTONIC`.
pub fn milliseconds() -> u64 {
    nanoseconds() / 1_000_000
}

/// Returns the nanoseconds since the same point as [`milliseconds`].
pub fn nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn monotonic() {
        let before = super::milliseconds();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(super::milliseconds() > before);
    }
}
