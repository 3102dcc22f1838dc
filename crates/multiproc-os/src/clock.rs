//! A clock that all processes of the machine share.

/// Returns the milliseconds since a fixed point in the past, the same for all processes of the
/// machine. The value never decreases. See clock_gettime(2), `CLOCK_MONOTONIC`.
pub fn milliseconds() -> u64 {
    nanoseconds() / 1_000_000
}

/// Returns the nanoseconds since the same point as [`milliseconds`].
pub fn nanoseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is a local variable. The clock exists, so the call can't fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
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
