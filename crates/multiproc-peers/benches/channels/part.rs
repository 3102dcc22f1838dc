//! What participants do.

use std::sync::atomic::Ordering::AcqRel;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use multiproc_benches::board::Seat;
use multiproc_benches::figures::median;
use multiproc_benches::sys::monotonic;
use multiproc_benches::{Outcome, cast, pace};
use serde::{Deserialize, Serialize};

use super::channel::{Rx, Tx};

/// The last byte of every message.
pub(crate) const LAST: u8 = 7;

/// The first byte of a message, and of a message after which its receiver stops.
const GO_ON: u8 = 1;
const STOP: u8 = 2;

/// How long the measuring side pauses, so that the other side is asleep.
pub(crate) const REST: Duration = Duration::from_millis(5);

/// What one participant does with its end of a channel.
#[derive(Serialize, Deserialize)]
pub(crate) enum Part<T, R> {
    /// Sends as many messages as wanted. The last of all producers to finish sends a stop message
    /// for each consumer.
    Produce {
        tx: T,
        size: usize,
        producers: u64,
        consumers: usize,
    },
    /// Takes messages until a stop message arrives, and for each does `steps` [steps](pace::work)
    /// of work. Counts stop messages too.
    Consume {
        rx: R,
        size: usize,
        steps: u32,
    },
    /// Measures round trips. It has seat 0, and [`Echo`](Part::Echo) has seat 1.
    Ping {
        tx: T,
        rx: R,
        size: usize,
        asleep: bool,
    },
    Echo {
        tx: T,
        rx: R,
        size: usize,
    },
    /// Does as many pieces of work as wanted, without a channel.
    Alone {
        steps: u32,
    },
}

impl<T: Tx, R: Rx> cast::Part for Part<T, R> {
    fn play(self, seat: &mut Seat<'_>) -> Outcome<()> {
        match self {
            Part::Produce { tx, size, producers, consumers } => produce(seat, tx, size, producers, consumers),
            Part::Consume { rx, size, steps } => consume(seat, rx, size, steps),
            Part::Ping { tx, rx, size, asleep } => ping(seat, tx, rx, size, asleep),
            Part::Echo { tx, rx, size } => echo(seat, tx, rx, size),
            Part::Alone { steps } => {
                while let Some(amount) = seat.next_phase() {
                    (0..amount).for_each(|_| pace::work(steps));
                    seat.counted(amount);
                    seat.ended();
                }
                Ok(())
            }
        }
    }
}

fn produce(seat: &mut Seat<'_>, mut tx: impl Tx, size: usize, producers: u64, consumers: usize) -> Outcome<()> {
    tx.open()?;
    let (message, stop) = (message(size, GO_ON), message(size, STOP));
    while let Some(amount) = seat.next_phase() {
        for _ in 0..amount {
            tx.send(&message)?;
        }
        let done = seat.board().tally();
        if done.fetch_add(1, AcqRel) + 1 == producers {
            done.store(0, Relaxed);
            for _ in 0..consumers {
                tx.send(&stop)?;
            }
        }
    }
    Ok(())
}

fn consume(seat: &mut Seat<'_>, mut rx: impl Rx, size: usize, steps: u32) -> Outcome<()> {
    rx.open()?;
    while seat.next_phase().is_some() {
        let mut count = 0;
        loop {
            let first = rx.recv(|message| check(message, size))??;
            count += 1;
            if first == STOP {
                break;
            }
            pace::work(steps);
        }
        seat.counted(count);
        seat.ended();
    }
    Ok(())
}

fn ping(seat: &mut Seat<'_>, mut tx: impl Tx, mut rx: impl Rx, size: usize, asleep: bool) -> Outcome<()> {
    seat.keep_to_processor()?;
    tx.open()?;
    rx.open()?;
    let message = message(size, GO_ON);
    let mut trip = || {
        tx.send(&message)?;
        rx.recv(|message| check(message, size))?
    };
    while let Some(amount) = seat.next_phase() {
        let nanoseconds = if asleep {
            let mut times = Vec::new();
            for _ in 0..amount {
                seat.let_fall_asleep(1, REST)?;
                let begin = monotonic();
                trip()?;
                times.push((monotonic() - begin).as_nanos() as f64);
            }
            median(&times)
        } else {
            pace::each(amount, |part| (0..part).try_for_each(|_| trip().map(drop)))?
        };
        seat.found(nanoseconds / 1000.0);
        seat.ended();
    }
    Ok(())
}

fn echo(seat: &mut Seat<'_>, mut tx: impl Tx, mut rx: impl Rx, size: usize) -> Outcome<()> {
    seat.keep_to_processor()?;
    tx.open()?;
    rx.open()?;
    let message = message(size, GO_ON);
    while let Some(amount) = seat.next_phase() {
        for _ in 0..amount {
            rx.recv(|message| check(message, size))??;
            tx.send(&message)?;
        }
    }
    Ok(())
}

fn message(size: usize, first: u8) -> Vec<u8> {
    let mut message = vec![LAST; size];
    message[0] = first;
    message
}

/// Checks that both ends of a message are as they were sent, and returns its first byte.
#[inline]
fn check(message: &[u8], size: usize) -> Outcome<u8> {
    match message {
        [first @ (GO_ON | STOP), .., LAST] if message.len() == size => Ok(*first),
        _ => Err(format!("a message of {} bytes is not what was sent: {size} bytes", message.len()).into()),
    }
}
