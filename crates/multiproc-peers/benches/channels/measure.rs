//! Runs a slice: creates the participants of an event and conducts them.

use std::time::Duration;

use multiproc_benches::board::Board;
use multiproc_benches::{Outcome, cast, pace};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::channel::{Channel, Rx, Tx, depth};
use super::event::{Event, WORKERS};
use super::part::{Part, REST};

/// Pieces of work, and steps in each: a tenth of a millisecond, which is enough work to be worth a
/// message per piece.
const PIECES: u64 = 4096;
const STEPS: u32 = 50_000;

/// Measures between processes of multiproc.
pub(crate) fn started<C: Channel>(event: Event, slice: Duration) -> Outcome<f64>
where
    C::Tx: Serialize + DeserializeOwned + 'static,
    C::Rx: Serialize + DeserializeOwned + 'static,
{
    cast::started(parts::<C>(event)?, |board| conduct(board, event, slice))
}

/// Measures between fork copies of this process.
pub(crate) fn forked<C: Channel>(event: Event, slice: Duration) -> Outcome<f64> {
    cast::forked(parts::<C>(event)?, |board| conduct(board, event, slice))
}

/// Measures between threads.
pub(crate) fn threads<C: Channel>(event: Event, slice: Duration) -> Outcome<f64>
where
    C::Tx: Send + 'static,
    C::Rx: Send + 'static,
{
    cast::threads(parts::<C>(event)?, |board| conduct(board, event, slice))
}

/// Measures without a channel: each process knows its share of the work.
pub(crate) fn divided(_: Event, slice: Duration) -> Outcome<f64> {
    let parts = (0..WORKERS).map(|_| Part::<Nothing, Nothing>::Alone { steps: STEPS }).collect();
    cast::started(parts, |board| work(board, 0, WORKERS, slice))
}

/// The type of ends where there is no channel.
#[derive(Serialize, serde::Deserialize)]
enum Nothing {}

impl Tx for Nothing {
    fn send(&mut self, _: &[u8]) -> Outcome<()> {
        match *self {}
    }
}

impl Rx for Nothing {
    fn recv<T>(&mut self, _: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        match *self {}
    }
}

fn parts<C: Channel>(event: Event) -> Outcome<Vec<Part<C::Tx, C::Rx>>> {
    match event {
        Event::Throughput { size, producers, consumers } => line::<C>(size, producers, consumers, 0),
        Event::Work => line::<C>(event.size(), 1, WORKERS, STEPS),
        Event::RoundTrip { size, asleep } => {
            let (there_tx, there_rx) = pair::<C>(size)?;
            let (back_tx, back_rx) = pair::<C>(size)?;
            let ping = Part::Ping { tx: there_tx, rx: back_rx, size, asleep };
            Ok(vec![ping, Part::Echo { tx: back_tx, rx: there_rx, size }])
        }
    }
}

fn line<C: Channel>(size: usize, producers: usize, consumers: usize, steps: u32) -> Outcome<Vec<Part<C::Tx, C::Rx>>> {
    let (txs, rxs) = C::line(size, producers, consumers)?;
    let produce = |tx| Part::Produce { tx, size, producers: producers as u64, consumers };
    let consume = |rx| Part::Consume { rx, size, steps };
    Ok(txs.into_iter().map(produce).chain(rxs.into_iter().map(consume)).collect())
}

fn pair<C: Channel>(size: usize) -> Outcome<(C::Tx, C::Rx)> {
    let (mut txs, mut rxs) = C::line(size, 1, 1)?;
    txs.pop().zip(rxs.pop()).ok_or_else(|| "a channel without ends".into())
}

fn conduct(board: &Board, event: Event, slice: Duration) -> Outcome<f64> {
    match event {
        Event::Throughput { size, producers, consumers } => throughput(board, size, producers, consumers, slice),
        Event::RoundTrip { size, asleep } => round_trip(board, size, asleep, slice),
        Event::Work => work(board, 1, WORKERS, slice),
    }
}

/// Measures from the moment when all may begin until the last consumer has its last message.
fn throughput(board: &Board, size: usize, producers: usize, consumers: usize, slice: Duration) -> Outcome<f64> {
    board.gather(producers + consumers)?;
    let messages = |amount| producers as u64 * amount + consumers as u64;
    let first = if size <= 64 << 10 { 16 } else { 1 };
    // Enough messages that all memory which is used in turn has been touched.
    let warm = 2 * depth(size) as u64 / producers as u64 + 1;
    let (amount, time) =
        pace::fill(slice, first, warm, |amount| phase(board, amount, producers, consumers, messages(amount)))?;
    Ok(messages(amount) as f64 / time.as_secs_f64())
}

/// Lets the participants in the first seats do `amount` each. Those that count have the seats after
/// them, and their counts should add up to `expected`.
fn phase(board: &Board, amount: u64, before: usize, counting: usize, expected: u64) -> Outcome<Duration> {
    let begin = board.begin(amount);
    board.gather(before + counting)?;
    let seats = before..before + counting;
    let count: u64 = seats.clone().map(|seat| board.count(seat)).sum();
    if count != expected {
        return Err(format!("{count} of {expected} messages arrived").into());
    }
    let end = seats.map(|seat| board.ended(seat)).max().unwrap_or_default();
    Ok(end - begin)
}

fn round_trip(board: &Board, size: usize, asleep: bool, slice: Duration) -> Outcome<f64> {
    board.gather(2)?;
    let run = |amount| -> Outcome<Duration> {
        let begin = board.begin(amount);
        board.gather(2)?;
        Ok(board.ended(0) - begin)
    };
    if asleep {
        run(3)?;
        run((slice.as_millis() / REST.as_millis()) as u64)?;
    } else {
        pace::fill(slice, 1, if size <= 64 << 10 { 100 } else { 3 }, run)?;
    }
    Ok(board.value(0))
}

/// Measures in milliseconds. In a quick run there is less work, for all contestants.
fn work(board: &Board, producers: usize, workers: usize, slice: Duration) -> Outcome<f64> {
    board.gather(producers + workers)?;
    let run = |pieces: u64| -> Outcome<Duration> {
        if producers == 0 {
            phase(board, pieces / workers as u64, 0, workers, pieces)
        } else {
            phase(board, pieces, producers, workers, pieces + workers as u64)
        }
    };
    run(128)?;
    let pieces = if slice < Duration::from_millis(100) { PIECES / 8 } else { PIECES };
    Ok(run(pieces)?.as_secs_f64() * 1e3)
}
