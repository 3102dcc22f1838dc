//! One number that several processes change, and what is done with it.

use std::hint::black_box;
use std::time::Duration;

use multiproc_benches::board::{Board, Seat};
use multiproc_benches::{Outcome, cast, pace};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::event::Event;

/// A handle of a number.
pub(crate) trait Number: Sized {
    /// Two handles of a new number, which is 0.
    fn pair() -> Outcome<[Self; 2]>;

    /// Adds one to it, or does the equivalent in an event that has no increments.
    fn step(&self) -> Outcome<()>;

    /// Its current value.
    fn value(&self) -> Outcome<u64>;
}

/// What one participant does.
#[derive(Serialize, Deserialize)]
pub(crate) enum Part<N> {
    /// As many steps as wanted, while no other participant makes any. If `counts`, the number must
    /// grow by them.
    Alone { number: N, counts: bool },
    /// Steps until it is stopped. The judge then waits for the other participant and reports the
    /// number's value.
    Contend { number: N, is_judge: bool },
}

impl<N: Number> cast::Part for Part<N> {
    fn play(self, seat: &mut Seat<'_>) -> Outcome<()> {
        match self {
            Part::Alone { number, counts } => alone(seat, &number, counts),
            Part::Contend { number, is_judge } => contend(seat, &number, is_judge),
        }
    }
}

fn alone(seat: &mut Seat<'_>, number: &impl Number, counts: bool) -> Outcome<()> {
    while let Some(amount) = seat.next_phase() {
        let before = number.value()?;
        seat.found(pace::each(amount, |part| (0..part).try_for_each(|_| black_box(number).step()))?);
        seat.ended();
        let (after, expected) = (number.value()?, before + if counts { amount } else { 0 });
        if after != expected {
            return Err(format!("the number is {after}, and should be {expected}").into());
        }
    }
    Ok(())
}

fn contend(seat: &mut Seat<'_>, number: &impl Number, is_judge: bool) -> Outcome<()> {
    seat.keep_to_processor()?;
    let mut count = 0;
    while let Some(amount) = seat.next_phase() {
        if amount == LOOK {
            if is_judge {
                seat.counted(number.value()?);
            }
            continue;
        }
        while !seat.is_stopped() {
            number.step()?;
            count += 1;
        }
        seat.counted(count);
        seat.ended();
    }
    Ok(())
}

/// Not an amount: the judge reads the number, and no participant makes a step.
const LOOK: u64 = 1;

/// Measures between processes of multiproc.
pub(crate) fn started<N>(event: Event, slice: Duration) -> Outcome<f64>
where
    N: Number + Serialize + DeserializeOwned + 'static,
{
    cast::started(parts::<N>(event)?, |board| conduct(board, event, slice))
}

/// Measures between fork copies of this process.
pub(crate) fn forked<N: Number>(event: Event, slice: Duration) -> Outcome<f64> {
    cast::forked(parts::<N>(event)?, |board| conduct(board, event, slice))
}

fn parts<N: Number>(event: Event) -> Outcome<Vec<Part<N>>> {
    let [one, other] = N::pair()?;
    Ok(match event {
        Event::Increment { contended: true } => {
            vec![Part::Contend { number: one, is_judge: true }, Part::Contend { number: other, is_judge: false }]
        }
        _ => vec![Part::Alone { number: one, counts: event.is_of_increments() }],
    })
}

fn conduct(board: &Board, event: Event, slice: Duration) -> Outcome<f64> {
    if event != (Event::Increment { contended: true }) {
        board.gather(1)?;
        pace::fill(slice, 16, 1000, |amount| {
            let begin = board.begin(amount);
            board.gather(1)?;
            Ok(board.ended(0) - begin)
        })?;
        return Ok(board.value(0));
    }
    board.gather(2)?;
    let (warm, _) = contended(board, slice / 5)?;
    let (count, time) = contended(board, slice)?;
    board.begin(LOOK);
    board.gather(2)?;
    let value = board.count(0);
    if value != count {
        return Err(format!("the number is {value} after {count} increments").into());
    }
    Ok((count - warm) as f64 / time.as_secs_f64())
}

/// Returns the number of steps since the beginning, and the duration of this slice.
fn contended(board: &Board, slice: Duration) -> Outcome<(u64, Duration)> {
    let begin = board.begin(0);
    std::thread::sleep(slice);
    board.stop();
    board.gather(2)?;
    Ok((board.count(0) + board.count(1), board.ended(0).max(board.ended(1)) - begin))
}
