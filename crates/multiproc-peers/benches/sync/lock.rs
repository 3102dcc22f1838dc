//! Locks, and what is done with them.

use std::hint::black_box;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use multiproc_benches::board::{Board, Seat};
use multiproc_benches::{Outcome, cast, pace};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::event::{Event, Length};

/// A handle of a lock.
pub(crate) trait Lock: Sized {
    type Guard<'a>
    where
        Self: 'a;

    /// Whether only one participant can hold it at a time.
    const EXCLUSIVE: bool = true;

    /// Two handles of one new lock.
    fn pair() -> Outcome<[Self; 2]>;

    /// Acquires the lock, waiting if necessary; dropping the guard releases it.
    fn lock(&self) -> Outcome<Self::Guard<'_>>;
}

/// What one participant does.
#[derive(Serialize, Deserialize)]
pub(crate) enum Part<L> {
    /// Acquires and releases a lock that no other participant wants.
    Alone { lock: L },
    /// Does the same until it is stopped, and counts on the board what it did with the lock held.
    Contend { lock: L, steps: u32 },
    /// Holds one of three locks, and repeatedly acquires the next one and then releases the
    /// previous one. Another participant does the same from one lock further on, so each step waits
    /// for a step of the other: the participant behind waits for the lock that the other is about
    /// to release, and the participant ahead for the lock that the former has just released.
    HandOver { locks: [L; 3], first: usize },
}

impl<L: Lock> cast::Part for Part<L> {
    fn play(self, seat: &mut Seat<'_>) -> Outcome<()> {
        match self {
            Part::Alone { lock } => alone(seat, &lock),
            Part::Contend { lock, steps } => contend(seat, &lock, steps),
            Part::HandOver { locks, first } => hand_over(seat, &locks, first),
        }
    }
}

fn alone(seat: &mut Seat<'_>, lock: &impl Lock) -> Outcome<()> {
    let lock_once = || black_box(lock).lock().map(drop);
    while let Some(amount) = seat.next_phase() {
        seat.found(pace::each(amount, |part| (0..part).try_for_each(|_| lock_once()))?);
        seat.ended();
    }
    Ok(())
}

fn contend(seat: &mut Seat<'_>, lock: &impl Lock, steps: u32) -> Outcome<()> {
    seat.keep_to_processor()?;
    while seat.next_phase().is_some() {
        let mut count = 0;
        while !seat.is_stopped() {
            let guard = lock.lock()?;
            // A load and a store, so that counts get lost if the lock is not exclusive.
            let tally = seat.board().tally();
            tally.store(tally.load(Relaxed) + 1, Relaxed);
            pace::work(steps);
            drop(guard);
            pace::work(steps);
            count += 1;
        }
        seat.counted(count);
        seat.ended();
    }
    Ok(())
}

fn hand_over<L: Lock>(seat: &mut Seat<'_>, locks: &[L; 3], first: usize) -> Outcome<()> {
    seat.keep_to_processor()?;
    let mut place = first;
    let mut held = locks[place].lock()?;
    while let Some(amount) = seat.next_phase() {
        for _ in 0..amount {
            place = (place + 1) % locks.len();
            let next = locks[place].lock()?;
            // This releases the previous lock.
            held = next;
        }
        seat.ended();
    }
    drop(held);
    Ok(())
}

/// Measures between processes of multiproc.
pub(crate) fn started<L>(event: Event, slice: Duration) -> Outcome<f64>
where
    L: Lock + Serialize + DeserializeOwned + 'static,
{
    cast::started(parts::<L>(event)?, |board| conduct::<L>(board, event, slice))
}

/// Measures between fork copies of this process.
pub(crate) fn forked<L: Lock>(event: Event, slice: Duration) -> Outcome<f64> {
    cast::forked(parts::<L>(event)?, |board| conduct::<L>(board, event, slice))
}

/// Measures between threads.
pub(crate) fn threads<L: Lock + Send + 'static>(event: Event, slice: Duration) -> Outcome<f64> {
    cast::threads(parts::<L>(event)?, |board| conduct::<L>(board, event, slice))
}

fn parts<L: Lock>(event: Event) -> Outcome<Vec<Part<L>>> {
    Ok(match event {
        Event::Contended(length) => {
            let steps = match length {
                Length::Tiny => 5,
                Length::Micro => 500,
            };
            L::pair()?.map(|lock| Part::Contend { lock, steps }).into()
        }
        Event::HandOver => {
            let [(a0, b0), (a1, b1), (a2, b2)] = [two::<L>()?, two()?, two()?];
            vec![Part::HandOver { locks: [a0, a1, a2], first: 0 }, Part::HandOver { locks: [b0, b1, b2], first: 1 }]
        }
        _ => {
            let [lock, _] = L::pair()?;
            vec![Part::Alone { lock }]
        }
    })
}

fn two<L: Lock>() -> Outcome<(L, L)> {
    L::pair().map(Into::into)
}

fn conduct<L: Lock>(board: &Board, event: Event, slice: Duration) -> Outcome<f64> {
    let participants = if event == Event::Uncontended { 1 } else { 2 };
    board.gather(participants)?;
    if let Event::Contended(_) = event {
        contended(board, slice / 5, L::EXCLUSIVE)?;
        return contended(board, slice, L::EXCLUSIVE);
    }
    let (amount, time) = pace::fill(slice, 16, 1000, |amount| {
        let begin = board.begin(amount);
        board.gather(participants)?;
        Ok((0..participants).map(|seat| board.ended(seat)).max().unwrap_or_default() - begin)
    })?;
    Ok(match event {
        Event::Uncontended => board.value(0),
        // Each participant has made `amount` steps.
        _ => time.as_secs_f64() * 1e6 / (2 * amount) as f64,
    })
}

fn contended(board: &Board, slice: Duration, is_exclusive: bool) -> Outcome<f64> {
    board.tally().store(0, Relaxed);
    let begin = board.begin(0);
    std::thread::sleep(slice);
    board.stop();
    board.gather(2)?;
    let count = board.count(0) + board.count(1);
    let tally = board.tally().load(Relaxed);
    if is_exclusive && tally != count {
        return Err(format!("both held the lock at once: {count} acquisitions, but a tally of {tally}").into());
    }
    Ok(count as f64 / (board.ended(0).max(board.ended(1)) - begin).as_secs_f64())
}
