//! When a producer looks whether any consumer is left: rarely enough to cost nothing, and soon
//! enough after something has changed.
//!
//! To look is a system call, and a put is a few dozen nanoseconds. So a producer counts its puts
//! and looks at the clock at some of them: at each while they come slowly, at every [`STRIDE`]th in
//! a stream. It looks for consumers when [`BETWEEN`] has passed since it did last, or when this
//! process has learnt of the end of another or has dropped a handle.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How many puts go by between two looks at the clock, in a stream.
const STRIDE: u32 = 16;

/// Puts that come with more time than this between them are no stream.
const SLOW: u64 = 10_000;

/// How long after one look the next one is due.
const BETWEEN: Duration = Duration::from_micros(200);

/// How often this process has learnt that a process has ended, or has dropped a handle.
static CHANGES: AtomicU32 = AtomicU32::new(1);

/// Has producers look at their next put: a process has ended, or a handle is gone.
pub(crate) fn changed() {
    CHANGES.fetch_add(1, Relaxed);
}

/// What the producers of one queue in this process know of the time. Threads may write it at the
/// same time: what is lost is a look.
#[derive(Debug, Default)]
pub(crate) struct ChangeRate {
    /// How many puts are left before the next look at the clock.
    puts: AtomicU32,
    /// How many there were.
    stride: AtomicU32,
    /// When the clock was looked at last, and when consumers were looked for, in nanoseconds.
    clock: AtomicU64,
    looked: AtomicU64,
    /// [`CHANGES`] at that time.
    changes: AtomicU32,
}

impl ChangeRate {
    /// Whether it is time to look. To be called at each put.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        let puts = self.puts.load(Relaxed);
        if puts == 0 || self.changes.load(Relaxed) != CHANGES.load(Relaxed) {
            return self.look_at_the_clock(now());
        }
        self.puts.store(puts - 1, Relaxed);
        false
    }

    #[cold]
    fn look_at_the_clock(&self, now: u64) -> bool {
        let each = now.saturating_sub(self.clock.swap(now, Relaxed)) / u64::from(self.stride.load(Relaxed).max(1));
        let stride = if each > SLOW { 1 } else { STRIDE };
        self.stride.store(stride, Relaxed);
        self.puts.store(stride - 1, Relaxed);
        let changes = CHANGES.load(Relaxed);
        let since = now.saturating_sub(self.looked.load(Relaxed));
        let is_due = self.changes.swap(changes, Relaxed) != changes || u128::from(since) >= BETWEEN.as_nanos();
        if is_due {
            self.looked.store(now, Relaxed);
        }
        is_due
    }

    /// Has the next put look again: no consumer was found.
    #[cold]
    pub(crate) fn look_again(&self) {
        self.changes.store(0, Relaxed);
    }
}

/// Nanoseconds since this process asked first; never 0.
fn now() -> u64 {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    BEGINNING.get_or_init(Instant::now).elapsed().as_nanos() as u64 + BETWEEN.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_producer_looks_at_each_put_and_a_fast_one_seldom() {
        let change_rate = ChangeRate::default();
        change_rate.changes.store(CHANGES.load(Relaxed), Relaxed);
        assert!(change_rate.look_at_the_clock(1_000_000), "the first one");
        assert!(change_rate.look_at_the_clock(2_000_000) && change_rate.puts.load(Relaxed) == 0);
        assert!(!change_rate.look_at_the_clock(2_000_100), "that was a moment ago");
        assert_eq!(change_rate.puts.load(Relaxed), STRIDE - 1, "a stream");
        assert!(!change_rate.look_at_the_clock(2_002_000) && change_rate.look_at_the_clock(2_300_000));
        assert_eq!(change_rate.puts.load(Relaxed), 0, "no stream any more");
    }

    #[test]
    fn a_change_is_looked_at_once() {
        let change_rate = ChangeRate::default();
        change_rate.look_at_the_clock(1_000_000);
        changed();
        assert!(change_rate.is_due(), "something has changed");
        change_rate.look_again();
        assert!(change_rate.is_due(), "and it was no good");
    }
}
