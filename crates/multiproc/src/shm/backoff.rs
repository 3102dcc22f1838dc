//! How to wait for what another process is about to do anyway: pause a little, let others run now and then, and in the end go to sleep.
//!
//! A wake-up across processors takes tens of microseconds, and what is waited for often less than one. But who pauses takes time from others, so how
//! long it is tried is learnt from how long it took before ([`Habit`]): long enough where answers come that soon, and next to nothing where
//! they don't. Time that somebody else could use is given to them: after the first microseconds, each try is followed by a sched_yield(2).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiproc_os::threads;

/// Rounds of pauses, each twice as long as the one before.
const PAUSES: u32 = 7;

/// The shortest and the longest time before going to sleep.
const SHORTEST: Duration = Duration::from_micros(8);
const LONGEST: Duration = Duration::from_micros(100);

/// Pauses before the first look, at most: about a microsecond.
const STRIDE: u32 = 24;

/// How far one has got with that.
#[derive(Debug)]
pub(crate) struct Backoff {
    round: u32,
    begun: Option<Instant>,
    most: Duration,
    stride: u32,
}

impl Backoff {
    /// For what is given up within a moment.
    #[inline]
    pub(crate) fn new() -> Backoff {
        Backoff { round: 0, begun: None, most: SHORTEST, stride: 1 }
    }

    /// As long as it is worth while.
    #[inline]
    pub(crate) fn by(habit: &Habit) -> Backoff {
        let most = Duration::from_nanos(habit.time.load(Relaxed).into()).clamp(SHORTEST, LONGEST);
        let stride = habit.stride.load(Relaxed).clamp(1, STRIDE);
        Backoff { round: 0, begun: None, most, stride }
    }

    /// Waits a little. False, at once, when it is time to go to sleep.
    pub(crate) fn wait(&mut self) -> bool {
        let Some(begun) = self.begun else {
            self.begun = Some(Instant::now());
            if only_processor() {
                self.round = PAUSES;
            }
            (0..self.stride).for_each(|_| std::hint::spin_loop());
            return true;
        };
        if begun.elapsed() >= self.most {
            return false;
        }
        self.round += 1;
        if self.round < PAUSES {
            (0..1_u32 << self.round).for_each(|_| std::hint::spin_loop());
        } else {
            std::thread::yield_now();
        }
        true
    }

    /// What was waited for has come; `several` says whether more than that.
    #[inline]
    pub(crate) fn learn(&self, habit: &Habit, several: impl FnOnce() -> bool) {
        if let Some(begun) = self.begun {
            habit.learn_time(begun.elapsed());
            habit.learn_stride(several());
        }
    }
}

/// What has been learnt about waiting for one thing, in one process.
#[derive(Debug, Default)]
pub(crate) struct Habit {
    /// How long it is worth while to wait without sleeping, in nanoseconds.
    time: AtomicU32,
    /// How many pauses to make before the first look. Where things come in a stream, who looks all the time is in the way of the one who makes them: memory that
    /// both use goes to and fro with each. If there are several at once after a little while, it was worth it.
    stride: AtomicU32,
}

impl Habit {
    fn learn_stride(&self, several: bool) {
        let before = self.stride.load(Relaxed).min(STRIDE);
        let after = if several { (before + before / 2 + 2).min(STRIDE) } else { before / 2 };
        if after != before {
            self.stride.store(after, Relaxed);
        }
    }

    /// Half as long again as it takes, if that is not too long; else as little as possible. It learns fast that it should try, or that it needn't at all, and
    /// slowly that less would do: who once sleeps, makes the other one wait for longer, and so sleep as well.
    fn learn_time(&self, took: Duration) {
        let before = i64::from(self.time.load(Relaxed));
        let wanted = match took {
            // It was asleep, and so perhaps was the other: if neither had been, it would not have taken so long.
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

/// Whether the machine has one processor. (Not whether this process may use one: another may use the others.)
fn only_processor() -> bool {
    static ALONE: OnceLock<bool> = OnceLock::new();
    *ALONE.get_or_init(|| threads::processors() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(habit: &Habit, times: usize, took: Duration) -> Duration {
        (0..times).for_each(|_| habit.learn_time(took));
        Backoff::by(habit).most
    }

    #[test]
    fn what_is_learnt() {
        let habit = Habit::default();
        assert_eq!(Backoff::by(&habit).most, SHORTEST);
        assert_eq!(after(&habit, 1000, Duration::from_micros(1)), SHORTEST);
        // Two who wake each other.
        assert!(after(&habit, 20, Duration::from_micros(120)) > LONGEST * 9 / 10);
        assert!(after(&habit, 20, Duration::from_micros(1)) > LONGEST / 2, "one who answers sooner changes little");
        assert!(after(&habit, 2000, Duration::from_micros(1)) < 2 * SHORTEST);
        assert!(after(&habit, 20, Duration::from_micros(40)) > Duration::from_micros(50));
        assert!(after(&habit, 20, Duration::from_millis(5)) < 2 * SHORTEST, "it is no use");
        let garbage = Habit { time: u32::MAX.into(), stride: u32::MAX.into() };
        assert_eq!((after(&garbage, 0, Duration::ZERO), Backoff::by(&garbage).stride), (LONGEST, STRIDE));
    }

    #[test]
    fn it_comes_to_an_end() {
        let mut backoff = Backoff::new();
        while backoff.wait() {}
        assert!(backoff.begun.unwrap().elapsed() >= SHORTEST);
    }
}
