//! Backoff: how to wait for what another process is about to do anyway. Spin for a little, yield
//! now and then, and finally go to sleep.
//!
//! A wake-up across processors takes tens of microseconds, and what a caller waits for often takes
//! less than one. But spinning takes time from other threads. So the time to spin is learnt from
//! how long earlier waits took ([`SpinHistory`]): long enough where answers come that soon, and
//! next to nothing where they don't. Time that another thread could use is offered to it: after the
//! first microseconds, each try is followed by a sched_yield(2).

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiproc_os::threads;

/// The number of rounds of pauses, each twice as long as the one before. And the same, with pauses
/// of one length, where one answer is awaited, and each late look loses time.
const PAUSES: u32 = 7;
const STEADY_PAUSES: u32 = 32;
const STEADY: u32 = 4;

/// The shortest and the longest time to spin before going to sleep.
const SHORTEST: Duration = Duration::from_micros(8);
const LONGEST: Duration = Duration::from_micros(100);

/// The longest time before the first look, in nanoseconds; and the time used to find out whether
/// such a delay gains anything.
const STRIDE: u32 = 1500;
const PROBE: u32 = 150;

/// One wait in this many finds that out.
const PROBES: u32 = 8;

/// The progress of one wait.
#[derive(Debug)]
pub struct Backoff {
    round: u32,
    begun: Option<Instant>,
    most: Duration,
    stride: Duration,
    steady: bool,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::new()
    }
}

impl Backoff {
    /// For a lock that is given up within a moment.
    #[inline]
    pub fn new() -> Backoff {
        Backoff { round: 0, begun: None, most: SHORTEST, stride: Duration::ZERO, steady: false }
    }

    /// For a wait that has a history: spins for as long as that suggests.
    #[inline]
    pub fn by(spin_history: &SpinHistory) -> Backoff {
        let most = Duration::from_nanos(spin_history.time.load(Relaxed).into()).clamp(SHORTEST, LONGEST);
        Backoff { round: 0, begun: None, most, stride: spin_history.stride(), steady: true }
    }

    /// Waits a little. Returns false at once when it is time to go to sleep.
    pub fn wait(&mut self) -> bool {
        // To a model, how long the caller spins is nothing but a matter of scheduling.
        if cfg!(loom) {
            return false;
        }
        let Some(begun) = self.begun else {
            let begun = *self.begun.insert(Instant::now());
            if only_processor() {
                self.round = STEADY_PAUSES;
                return true;
            }
            std::hint::spin_loop();
            while !self.stride.is_zero() && begun.elapsed() < self.stride {
                std::hint::spin_loop();
            }
            return true;
        };
        if begun.elapsed() >= self.most {
            return false;
        }
        self.round += 1;
        let (rounds, pauses) =
            if self.steady { (STEADY_PAUSES, STEADY) } else { (PAUSES, 1 << self.round.min(PAUSES)) };
        if self.round < rounds {
            (0..pauses).for_each(|_| std::hint::spin_loop());
        } else {
            std::thread::yield_now();
        }
        true
    }

    /// Records that the wait has succeeded. `several` tells whether it could have done so several
    /// times over.
    #[inline]
    pub fn learn(&self, spin_history: &SpinHistory, several: impl FnOnce() -> bool) {
        if let Some(begun) = self.begun {
            spin_history.learn_time(begun.elapsed());
            spin_history.learn_stride(self.stride, several());
        }
    }
}

/// What one process has learnt about waiting for one thing.
#[derive(Debug, Default)]
pub struct SpinHistory {
    /// How long to wait without sleeping, in nanoseconds.
    time: AtomicU32,
    /// How many nanoseconds to let pass before the first look. Where items come in a stream, a
    /// consumer that looks all the time slows the producer down: the cache lines that both use move
    /// to and fro with each look. If several items are there after a short delay, the delay was
    /// worth it. Where each item is the answer to another, there never are several. So some waits
    /// are delayed for a moment to find out which it is.
    stride: AtomicU32,
    /// The number of waits so far.
    waits: AtomicU32,
}

impl SpinHistory {
    fn stride(&self) -> Duration {
        let stride = self.stride.load(Relaxed).min(STRIDE);
        let waits = self.waits.load(Relaxed).wrapping_add(1);
        self.waits.store(waits, Relaxed);
        Duration::from_nanos(if waits.is_multiple_of(PROBES) { stride.max(PROBE) } else { stride }.into())
    }

    fn learn_stride(&self, tried: Duration, several: bool) {
        let before = self.stride.load(Relaxed);
        let after = match several {
            true => (2 * tried.as_nanos() as u32).clamp(PROBE, STRIDE),
            false if before < PROBE => 0,
            false => before.min(STRIDE) / 2,
        };
        if after != before {
            self.stride.store(after, Relaxed);
        }
    }

    /// Aims at one and a half times what the wait took, if that is not too long; else at the
    /// shortest time. It learns fast that spinning helps, or that it doesn't help at all, and
    /// slowly that less would do: a process that once sleeps makes the other one wait for longer,
    /// and so sleep as well.
    fn learn_time(&self, took: Duration) {
        let before = i64::from(self.time.load(Relaxed));
        let wanted = match took {
            // This process slept, and perhaps so did the other: if neither had, the wait would have
            // been shorter.
            took if took <= 3 * LONGEST => (took + took / 2).clamp(SHORTEST, LONGEST),
            _ => SHORTEST,
        };
        let wanted = wanted.as_nanos() as i64;
        let is_sudden = wanted > before || took > 3 * LONGEST;
        let after = before + (wanted - before) / if is_sudden { 4 } else { 64 };
        if after != before {
            self.time.store(after as u32, Relaxed);
        }
    }
}

/// Whether the machine has one processor. (Not whether this process may use only one: another
/// process may use the others.)
fn only_processor() -> bool {
    const UNKNOWN: u8 = 0;
    const SEVERAL: u8 = 1;
    const ONE: u8 = 2;
    // Not a `OnceLock`: a fork copy made while another thread sets it would wait for ever.
    static KNOWN: AtomicU8 = AtomicU8::new(UNKNOWN);
    match KNOWN.load(Relaxed) {
        UNKNOWN => {
            let known = if threads::processors() == 1 { ONE } else { SEVERAL };
            KNOWN.store(known, Relaxed);
            known == ONE
        }
        known => known == ONE,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn after(spin_history: &SpinHistory, times: usize, took: Duration) -> Duration {
        (0..times).for_each(|_| spin_history.learn_time(took));
        Backoff::by(spin_history).most
    }

    #[test]
    fn learns() {
        let spin_history = SpinHistory::default();
        assert_eq!(Backoff::by(&spin_history).most, SHORTEST);
        assert_eq!(after(&spin_history, 1000, Duration::from_micros(1)), SHORTEST);
        // As with two processes that wake each other.
        assert!(after(&spin_history, 20, Duration::from_micros(120)) > LONGEST * 9 / 10);
        assert!(
            after(&spin_history, 20, Duration::from_micros(1)) > LONGEST / 2,
            "one who answers sooner changes little"
        );
        assert!(after(&spin_history, 2000, Duration::from_micros(1)) < 2 * SHORTEST);
        assert!(after(&spin_history, 20, Duration::from_micros(40)) > Duration::from_micros(50));
        assert!(after(&spin_history, 20, Duration::from_millis(5)) < 2 * SHORTEST, "it is no use");
        let garbage = SpinHistory { time: u32::MAX.into(), stride: u32::MAX.into(), waits: 0.into() };
        let longest = Duration::from_nanos(STRIDE.into());
        assert_eq!((after(&garbage, 0, Duration::ZERO), Backoff::by(&garbage).stride), (LONGEST, longest));
    }

    #[test]
    fn detects_a_stream() {
        let spin_history = SpinHistory::default();
        // Waits for items that come at intervals of `each` nanoseconds.
        let mut wait = |each: u64| {
            let stride = spin_history.stride();
            spin_history.learn_stride(stride, stride > Duration::from_nanos(each));
            stride
        };
        let total =
            |waits: u32, wait: &mut dyn FnMut(u64) -> Duration, each| (0..waits).map(|_| wait(each)).sum::<Duration>();
        assert!(
            total(800, &mut wait, 10_000) <= Duration::from_nanos(100 * u64::from(PROBE)),
            "answers are hardly delayed"
        );
        total(2 * PROBES, &mut wait, 100);
        assert_eq!(wait(100), Duration::from_nanos(STRIDE.into()));
        total(20, &mut wait, 10_000);
        assert!(wait(10_000) <= Duration::from_nanos(PROBE.into()), "it is a stream no more");
    }

    #[test]
    fn ends() {
        let mut backoff = Backoff::new();
        while backoff.wait() {}
        assert!(backoff.begun.unwrap().elapsed() >= SHORTEST);
    }
}
