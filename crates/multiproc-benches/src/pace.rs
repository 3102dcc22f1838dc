//! Chooses the number of iterations so that a measurement takes about as long as it should.

use std::hint::black_box;
use std::time::Duration;

use crate::Outcome;
use crate::figures::median;
use crate::sys::monotonic;

/// Runs growing amounts, beginning with `first`, until at least `warm` has been done and the speed
/// is known; then runs the amount that fills `slice`. Returns that last amount and how long it
/// took.
///
/// # Errors
/// Those of `run`, which does an amount and returns how long it took.
pub fn fill(
    slice: Duration,
    first: u64,
    warm: u64,
    mut run: impl FnMut(u64) -> Outcome<Duration>,
) -> Outcome<(u64, Duration)> {
    let (mut amount, mut done) = (first, 0);
    loop {
        let time = run(amount)?;
        done += amount;
        let fitting = (slice.as_secs_f64() / time.as_secs_f64().max(1e-9) * amount as f64) as u64;
        if time >= slice || (done >= warm && time >= slice / 8) {
            // At least two, however slow they are.
            let amount = fitting.max(2);
            return Ok((amount, run(amount)?));
        }
        amount = fitting.min(amount * 8);
    }
}

/// Does `amount` in up to 64 parts, and returns the median time of a single iteration, in
/// nanoseconds.
///
/// # Errors
/// Those of `run`.
pub fn each(amount: u64, mut run: impl FnMut(u64) -> Outcome<()>) -> Outcome<f64> {
    let mut times = Vec::with_capacity(64);
    let mut left = amount;
    while left > 0 {
        let part = (amount / 64).clamp(1, left);
        let begin = monotonic();
        run(part)?;
        times.push((monotonic() - begin).as_nanos() as f64 / part as f64);
        left -= part;
    }
    Ok(median(&times))
}

/// Keeps the processor busy. A step takes about two nanoseconds and is a round of George
/// Marsaglia's xorshift.
#[inline]
pub fn work(steps: u32) {
    let mut state = black_box(1_u64);
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    black_box(state);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_amount_fills_the_slice() {
        let mut amounts = Vec::new();
        let (amount, time) = fill(Duration::from_millis(10), 1, 100, |amount| {
            amounts.push(amount);
            Ok(Duration::from_micros(amount))
        })
        .unwrap();
        assert_eq!((amount, time), (10_000, Duration::from_millis(10)));
        assert_eq!(amounts, [1, 8, 64, 512, 4096, 10_000]);
    }

    #[test]
    fn slow_work_is_repeated_once() {
        let run = |amount: u64| Ok(Duration::from_secs(amount));
        assert_eq!(fill(Duration::from_millis(10), 1, 100, run).unwrap(), (2, Duration::from_secs(2)));
    }

    #[test]
    fn parts_add_up() {
        for amount in [1, 63, 64, 65, 1000] {
            let mut sum = 0;
            each(amount, |part| {
                sum += part;
                Ok(())
            })
            .unwrap();
            assert_eq!(sum, amount);
        }
    }
}
