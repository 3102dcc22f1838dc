//! Decides when a producer checks whether any consumer is left: rarely enough to cost nothing, and
//! at once after a process has ended or a handle was dropped.
//!
//! The check is a system call, and a put takes a few dozen nanoseconds. So a producer counts its
//! puts and reads the clock at some of them: at each one while puts come slowly, at every
//! [`STRIDE`]th one in a stream. It checks for consumers when [`CHECK_INTERVAL`] has passed since
//! the last check, or when this process has learnt that another process has ended, or has dropped a
//! handle.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use multiproc_os::clock;

/// How many puts a stream makes for each reading of the clock.
const STRIDE: u32 = 16;

/// The largest gap between two puts of a stream, in nanoseconds.
const MAX_GAP: u64 = 10_000;

/// The time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_micros(200);

/// How often this process has learnt that a process has ended, or has dropped a handle.
static CHANGES: AtomicU32 = AtomicU32::new(1);

/// Makes all producers check at their next put: a process has ended, or a handle is gone.
pub fn request() {
    CHANGES.fetch_add(1, Relaxed);
}

/// When this process last checked for consumers of one queue, and how fast its puts come. Threads
/// may write it concurrently; at most a check is lost.
#[derive(Debug, Default)]
pub struct ConsumerCheck {
    /// The number of puts left before the clock is read next.
    puts: AtomicU32,
    /// That number as it was set when the clock was read last.
    stride: AtomicU32,
    /// When the clock was read last, and when the last check was made, in nanoseconds.
    clock: AtomicU64,
    checked: AtomicU64,
    /// The value of [`CHANGES`] at the last check.
    changes: AtomicU32,
}

impl ConsumerCheck {
    /// Returns whether a check is due. Must be called at each put.
    #[inline]
    pub fn is_due(&self) -> bool {
        let puts = self.puts.load(Relaxed);
        if puts == 0 || self.changes.load(Relaxed) != CHANGES.load(Relaxed) {
            return self.check_clock(now());
        }
        self.puts.store(puts - 1, Relaxed);
        false
    }

    #[cold]
    fn check_clock(&self, now: u64) -> bool {
        let each = now.saturating_sub(self.clock.swap(now, Relaxed)) / u64::from(self.stride.load(Relaxed).max(1));
        let stride = if each > MAX_GAP { 1 } else { STRIDE };
        self.stride.store(stride, Relaxed);
        self.puts.store(stride - 1, Relaxed);
        let changes = CHANGES.load(Relaxed);
        let since = now.saturating_sub(self.checked.load(Relaxed));
        let is_due = self.changes.swap(changes, Relaxed) != changes || u128::from(since) >= CHECK_INTERVAL.as_nanos();
        if is_due {
            self.checked.store(now, Relaxed);
        }
        is_due
    }

    /// Makes the next put check again, as no consumer was found.
    #[cold]
    pub fn look_again(&self) {
        self.changes.store(0, Relaxed);
    }
}

/// Nanoseconds on a clock that is beyond [`CHECK_INTERVAL`].
fn now() -> u64 {
    clock::nanoseconds() + CHECK_INTERVAL.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: a request is one to all of the process.
    #[test]
    fn check_interval_and_request() {
        let consumer_check = ConsumerCheck::default();
        consumer_check.changes.store(CHANGES.load(Relaxed), Relaxed);
        assert!(consumer_check.check_clock(1_000_000), "the first one");
        assert!(consumer_check.check_clock(2_000_000) && consumer_check.puts.load(Relaxed) == 0);
        assert!(!consumer_check.check_clock(2_000_100), "that was a moment ago");
        assert_eq!(consumer_check.puts.load(Relaxed), STRIDE - 1, "a stream");
        assert!(!consumer_check.check_clock(2_002_000) && consumer_check.check_clock(2_300_000));
        assert_eq!(consumer_check.puts.load(Relaxed), 0, "no stream any more");

        let consumer_check = ConsumerCheck::default();
        consumer_check.check_clock(1_000_000);
        request();
        assert!(consumer_check.is_due(), "something has changed");
        consumer_check.look_again();
        assert!(consumer_check.is_due(), "and it was no good");
    }
}
