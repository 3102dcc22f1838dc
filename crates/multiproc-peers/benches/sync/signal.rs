//! Signals for which another participant sleeps.

use std::time::Duration;

use multiproc_benches::board::{Board, Seat};
use multiproc_benches::figures::median;
use multiproc_benches::{Outcome, cast, sys};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::event::Event;

/// A handle of a signal.
pub(crate) trait Signal: Sized {
    /// Two handles of one new signal.
    fn pair() -> Outcome<[Self; 2]>;

    fn set(&self) -> Outcome<()>;

    /// Waits until the signal is set.
    fn wait(&self) -> Outcome<()>;

    /// Clears the signal. Called by the waiter.
    fn clear(&self) -> Outcome<()>;
}

/// What one participant does.
#[derive(Serialize, Deserialize)]
pub(crate) enum Part<S> {
    /// Sets the signal, each time when the other participant is asleep. It has seat 0.
    Set(S),
    /// Waits for the signal. Counts twice each time: when it is about to wait, and when it has
    /// cleared the signal. It has seat 1.
    Wait(S),
}

/// How long the setting side pauses, so that the other side is asleep.
const REST: Duration = Duration::from_millis(1);

impl<S: Signal> cast::Part for Part<S> {
    fn play(self, seat: &mut Seat<'_>) -> Outcome<()> {
        match self {
            Part::Set(signal) => set(seat, &signal),
            Part::Wait(signal) => wait(seat, &signal),
        }
    }
}

fn set(seat: &mut Seat<'_>, signal: &impl Signal) -> Outcome<()> {
    seat.keep_to_processor()?;
    let mut count = 0;
    while let Some(amount) = seat.next_phase() {
        let mut times = Vec::new();
        for _ in 0..amount {
            until_counted(seat.board(), count + 1);
            seat.let_fall_asleep(1, REST)?;
            let begin = sys::monotonic();
            signal.set()?;
            count += 2;
            until_counted(seat.board(), count);
            times.push((seat.board().ended(1) - begin).as_nanos() as f64);
        }
        seat.found(median(&times) / 1000.0);
    }
    Ok(())
}

/// Waits for the other participant's count. Not measured, so it need not be fast.
fn until_counted(board: &Board, count: u64) {
    while board.count(1) < count {
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn wait(seat: &mut Seat<'_>, signal: &impl Signal) -> Outcome<()> {
    seat.keep_to_processor()?;
    let mut count = 0;
    while let Some(amount) = seat.next_phase() {
        for _ in 0..amount {
            seat.counted(count + 1);
            signal.wait()?;
            seat.ended();
            signal.clear()?;
            count += 2;
            seat.counted(count);
        }
    }
    Ok(())
}

/// Measures between processes of multiproc.
pub(crate) fn started<S>(_: Event, slice: Duration) -> Outcome<f64>
where
    S: Signal + Serialize + DeserializeOwned + 'static,
{
    cast::started(parts::<S>()?, |board| conduct(board, slice))
}

/// Measures between fork copies of this process.
pub(crate) fn forked<S: Signal>(_: Event, slice: Duration) -> Outcome<f64> {
    cast::forked(parts::<S>()?, |board| conduct(board, slice))
}

fn parts<S: Signal>() -> Outcome<Vec<Part<S>>> {
    let [one, other] = S::pair()?;
    Ok(vec![Part::Set(one), Part::Wait(other)])
}

fn conduct(board: &Board, slice: Duration) -> Outcome<f64> {
    board.gather(2)?;
    // Each iteration takes a little more than `REST`.
    for amount in [5, (slice.as_millis() / (2 * REST.as_millis())) as u64] {
        board.begin(amount);
        board.gather(2)?;
    }
    Ok(board.value(0))
}
