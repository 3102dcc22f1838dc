//! Runs participants as processes of multiproc, as fork copies of this process, or as threads.
//!
//! All functions are called from a process that has done nothing else, see
//! [`slices`](crate::slices), so that there is only one thread when a copy is made.

use std::sync::Arc;

use multiproc::{Child, Process};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Outcome;
use crate::board::{Board, Seat};

/// What a participant does.
pub trait Part {
    /// Does all of the participant's work, until [`Seat::next_phase`] returns None.
    ///
    /// # Errors
    /// Any error ends the measurement.
    fn play(self, seat: &mut Seat<'_>) -> Outcome<()>;
}

/// Runs each part in a process of its own, started by the default method; the part is sent to it.
///
/// # Errors
/// When a process can't be started, a participant fails, or `conduct` fails.
pub fn started<P, T>(parts: Vec<P>, conduct: impl FnOnce(&Board) -> Outcome<T>) -> Outcome<T>
where
    P: Part + Serialize + DeserializeOwned + 'static,
{
    let board = Board::new()?;
    let start = |(index, part)| {
        // Each participant gets a descriptor of its own.
        let board: Board = board.again()?;
        Ok(Process::new(perform_sent::<P>, (part, index, board)).start()?)
    };
    let children = parts.into_iter().enumerate().map(start).collect::<Outcome<Vec<_>>>()?;
    conduct_and_join(&board, children, conduct)
}

/// Runs each part in a fork copy of this process, for parts that can't be sent.
///
/// # Errors
/// As for [`started`].
pub fn forked<P: Part, T>(parts: Vec<P>, conduct: impl FnOnce(&Board) -> Outcome<T>) -> Outcome<T> {
    let board = Board::new()?;
    let start = |(index, part)| Ok(Process::fork(|| perform(part, index, &board)).start()?);
    let children = parts.into_iter().enumerate().map(start).collect::<Outcome<Vec<_>>>()?;
    conduct_and_join(&board, children, conduct)
}

/// Runs each part in a thread of this process. After an error, threads may be left running.
///
/// # Errors
/// As for [`started`].
pub fn threads<P, T>(parts: Vec<P>, conduct: impl FnOnce(&Board) -> Outcome<T>) -> Outcome<T>
where
    P: Part + Send + 'static,
{
    let board = Arc::new(Board::new()?);
    let start = |(index, part)| {
        let board = Arc::clone(&board);
        std::thread::spawn(move || perform(part, index, &board))
    };
    let threads: Vec<_> = parts.into_iter().enumerate().map(start).collect();
    let result = conduct(&board)?;
    board.finish();
    for thread in threads {
        thread.join().map_err(|_| "a participant panicked")??;
    }
    Ok(result)
}

fn conduct_and_join<T>(
    board: &Board,
    children: Vec<Child<Result<(), String>>>,
    conduct: impl FnOnce(&Board) -> Outcome<T>,
) -> Outcome<T> {
    let result = conduct(board).inspect_err(|_| children.iter().for_each(|child| drop(child.kill())))?;
    board.finish();
    for child in children {
        child.join()??;
    }
    Ok(result)
}

fn perform_sent<P: Part>(part: P, index: usize, board: Board) -> Result<(), String> {
    perform(part, index, &board)
}

fn perform(part: impl Part, index: usize, board: &Board) -> Result<(), String> {
    let panic = FailsOnPanic(board);
    let result = part.play(&mut board.seat(index)).map_err(|error| error.to_string());
    drop(panic);
    result.inspect_err(|error| board.fail(error))
}

/// Reports a panic to the conductor.
struct FailsOnPanic<'a>(&'a Board);

impl Drop for FailsOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("a participant panicked");
        }
    }
}
