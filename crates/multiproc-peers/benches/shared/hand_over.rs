//! The two sides between which bytes are handed over.

use std::time::Duration;

use multiproc_benches::board::{Board, Seat};
use multiproc_benches::figures::median;
use multiproc_benches::sys::monotonic;
use multiproc_benches::{Outcome, cast, pace};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bytes::{ends, expected_ends, expected_sum, fill, sum};
use super::event::Event;

/// What the worker does with the bytes.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Sum them.
    Sum,
    /// Overwrite them with the same values.
    Fill,
    /// Read both ends, and give them back.
    Return,
}

impl Task {
    /// The expected result.
    fn expected(self, size: usize) -> u64 {
        match self {
            Task::Sum => expected_sum(size),
            Task::Fill | Task::Return => expected_ends(size),
        }
    }

    /// Reads the bytes as the task requires.
    pub(crate) fn look(self, bytes: &[u8]) -> u64 {
        match self {
            Task::Sum => sum(bytes),
            Task::Fill | Task::Return => ends(bytes),
        }
    }

    /// As [`look`](Task::look), where the bytes may be changed.
    pub(crate) fn change(self, bytes: &mut [u8]) -> u64 {
        if self == Task::Fill {
            fill(bytes, 0);
        }
        self.look(bytes)
    }
}

/// A way of handing bytes over.
pub(crate) trait Way {
    type Lender: Lender;
    type Worker: Worker;

    fn pair() -> Outcome<(Self::Lender, Self::Worker)>;
}

/// The side that has the bytes.
pub(crate) trait Lender {
    /// Creates `size` bytes, in the process that uses them.
    fn open(&mut self, size: usize) -> Outcome<()>;

    /// Creates again what is used up each time. Not measured.
    fn renew(&mut self) -> Outcome<()> {
        Ok(())
    }

    /// Hands the bytes over, and waits for the answer.
    fn ask(&mut self, task: Task) -> Outcome<u64>;
}

/// The side that receives the bytes.
pub(crate) trait Worker {
    /// Does what can be done beforehand.
    fn open(&mut self) -> Outcome<()> {
        Ok(())
    }

    /// Waits for the bytes, and answers.
    fn serve(&mut self, task: Task) -> Outcome<()>;
}

/// What one participant does.
#[derive(Serialize, Deserialize)]
pub(crate) enum Part<L, W> {
    /// Measures how long it takes. It has seat 0, and [`Serve`](Part::Serve) has seat 1.
    Ask {
        lender: L,
        size: usize,
        task: Task,
    },
    Serve {
        worker: W,
        task: Task,
    },
}

impl<L: Lender, W: Worker> cast::Part for Part<L, W> {
    fn play(self, seat: &mut Seat<'_>) -> Outcome<()> {
        seat.keep_to_processor()?;
        match self {
            Part::Ask { lender, size, task } => ask(seat, lender, size, task),
            Part::Serve { worker, task } => serve(seat, worker, task),
        }
    }
}

fn ask(seat: &mut Seat<'_>, mut lender: impl Lender, size: usize, task: Task) -> Outcome<()> {
    lender.open(size)?;
    while let Some(amount) = seat.next_phase() {
        let mut times = Vec::new();
        for _ in 0..amount {
            lender.renew()?;
            let begin = monotonic();
            let found = lender.ask(task)?;
            times.push((monotonic() - begin).as_nanos() as f64);
            if found != task.expected(size) {
                return Err(format!("the result was {found}, not {}", task.expected(size)).into());
            }
        }
        seat.found(median(&times));
        seat.ended();
    }
    Ok(())
}

fn serve(seat: &mut Seat<'_>, mut worker: impl Worker, task: Task) -> Outcome<()> {
    worker.open()?;
    while let Some(amount) = seat.next_phase() {
        (0..amount).try_for_each(|_| worker.serve(task))?;
    }
    Ok(())
}

/// Measures between processes of multiproc.
pub(crate) fn started<W: Way>(event: Event, slice: Duration) -> Outcome<f64>
where
    W::Lender: Serialize + DeserializeOwned + 'static,
    W::Worker: Serialize + DeserializeOwned + 'static,
{
    cast::started(parts::<W>(event)?, |board| conduct(board, event, slice))
}

/// Measures between fork copies of this process.
pub(crate) fn forked<W: Way>(event: Event, slice: Duration) -> Outcome<f64> {
    cast::forked(parts::<W>(event)?, |board| conduct(board, event, slice))
}

fn parts<W: Way>(event: Event) -> Outcome<Vec<Part<W::Lender, W::Worker>>> {
    let (size, task) = match event {
        Event::Sum { size } => (size, Task::Sum),
        Event::Fill { size } => (size, Task::Fill),
        Event::Back { size } => (size, Task::Return),
        Event::Make { .. } | Event::Increment { .. } | Event::Element => {
            return Err("this event hands nothing over".into());
        }
    };
    let (lender, worker) = W::pair()?;
    Ok(vec![Part::Ask { lender, size, task }, Part::Serve { worker, task }])
}

fn conduct(board: &Board, event: Event, slice: Duration) -> Outcome<f64> {
    board.gather(2)?;
    pace::fill(slice, 1, 2, |amount| {
        let begin = board.begin(amount);
        board.gather(2)?;
        Ok(board.ended(0) - begin)
    })?;
    let nanoseconds = board.value(0);
    Ok(if event.is_of_all_bytes() { nanoseconds / 1e6 } else { nanoseconds / 1e3 })
}
