//! A page shared by the participants of a measurement, which may be processes or threads.
//!
//! A measurement proceeds in phases. Each participant has a [`Seat`]; when it is ready it sleeps
//! there until the conductor, which has the [`Board`], begins the next phase and sets its amount of
//! work. The phase is over when all participants are ready again. The clock thus starts when all
//! sides are running, and the start of a process is never part of a figure.
//!
//! A participant that fails stores its reason in the page and wakes the conductor. A participant
//! that is killed can't; the alarm of its slice then ends the others.

use std::fs::File;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Outcome;
use crate::sys::{self, futex_wait, futex_wake};

/// The maximum number of participants.
const SEATS: usize = 16;

/// The shared page. It can be sent to other processes as an argument.
pub struct Board {
    file: File,
    page: &'static Page,
}

/// Fields that different processes write during a measurement lie on separate cache lines.
#[repr(C)]
struct Page {
    /// Number of phases begun; participants that wait for the next phase sleep on it.
    phase: Line<AtomicU32>,
    /// Amount of work in this phase, or [`OVER`] when there are no more phases.
    amount: Line<AtomicU64>,
    /// Number of participants that are ready for the next phase; the conductor sleeps on it.
    ready: Line<AtomicU32>,
    /// Not 0 once participants that work until they are stopped should stop.
    stop: Line<AtomicU32>,
    /// A counter that participants share.
    tally: Line<AtomicU64>,
    /// State of `reason`: 0 for none, 1 while it is being written, 2 when it is complete.
    failed: Line<AtomicU32>,
    reason: [AtomicU8; 256],
    places: [Line<Place>; SEATS],
}

/// What a participant reports about itself.
#[repr(C)]
struct Place {
    thread: AtomicI32,
    count: AtomicU64,
    ended: AtomicU64,
    value: AtomicU64,
}

/// Two cache lines of most processors, since many prefetch lines in pairs.
#[repr(C, align(128))]
struct Line<T>(T);

const OVER: u64 = u64::MAX;

impl Board {
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Outcome<Board> {
        Ok(Board::map(sys::memory_file(size_of::<Page>())?)?)
    }

    fn map(file: File) -> std::io::Result<Board> {
        let start = sys::map_shared(Some(&file), size_of::<Page>())?;
        // SAFETY: the mapping is as large as the file, page-aligned and never unmapped, and it is
        // accessed only through atomics, for which all bit patterns are valid.
        let page = unsafe { start.cast::<Page>().as_ref() };
        Ok(Board { file, page })
    }

    /// Another handle of the same page, to be sent to a process.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn again(&self) -> std::io::Result<Board> {
        Ok(Board { file: self.file.try_clone()?, page: self.page })
    }

    /// The seat of one participant. There are 16.
    pub fn seat(&self, index: usize) -> Seat<'_> {
        let place = &self.page.places[index].0;
        place.thread.store(sys::thread_id(), Relaxed);
        Seat { board: self, index, place, phase: 0 }
    }

    /// Waits until `participants` participants are ready for the next phase, and so have finished
    /// this one.
    ///
    /// # Errors
    /// When a participant failed, with the reason that it gave.
    pub fn gather(&self, participants: usize) -> Outcome<()> {
        loop {
            let ready = self.page.ready.0.load(Acquire);
            if self.page.failed.0.load(Acquire) != 0 {
                return Err(self.reason().into());
            }
            if ready as usize == participants {
                return Ok(());
            }
            futex_wait(&self.page.ready.0, ready);
        }
    }

    /// Begins the next phase and returns the time at which it began.
    pub fn begin(&self, amount: u64) -> Duration {
        self.page.ready.0.store(0, Relaxed);
        self.page.stop.0.store(0, Relaxed);
        self.page.amount.0.store(amount, Relaxed);
        let begin = sys::monotonic();
        self.page.phase.0.fetch_add(1, Release);
        futex_wake(&self.page.phase.0, u32::MAX >> 1);
        begin
    }

    /// Stops the participants that work until they are stopped.
    pub fn stop(&self) {
        self.page.stop.0.store(1, Relaxed);
    }

    /// Lets the participants return.
    pub fn finish(&self) {
        self.begin(OVER);
    }

    /// Returns what a participant has counted.
    pub fn count(&self, index: usize) -> u64 {
        self.page.places[index].0.count.load(Acquire)
    }

    /// Returns the time at which a participant last [reported](Seat::ended) that it was done.
    pub fn ended(&self, index: usize) -> Duration {
        Duration::from_nanos(self.page.places[index].0.ended.load(Acquire))
    }

    /// Returns the value that a participant has found.
    pub fn value(&self, index: usize) -> f64 {
        f64::from_bits(self.page.places[index].0.value.load(Acquire))
    }

    /// A counter that all participants may change.
    pub fn tally(&self) -> &AtomicU64 {
        &self.page.tally.0
    }

    /// Stores the reason why a participant gave up.
    pub fn fail(&self, reason: &str) {
        let failed = &self.page.failed.0;
        if failed.compare_exchange(0, 1, AcqRel, Acquire).is_ok() {
            for (byte, place) in reason.bytes().zip(&self.page.reason) {
                place.store(byte, Relaxed);
            }
            failed.store(2, Release);
        }
        // Changes the word that the conductor sleeps on, so that it looks again.
        self.page.ready.0.fetch_add(SEATS as u32, Release);
        futex_wake(&self.page.ready.0, 1);
    }

    fn reason(&self) -> String {
        while self.page.failed.0.load(Acquire) != 2 {
            std::thread::yield_now();
        }
        let bytes = self.page.reason.iter().map(|byte| byte.load(Relaxed)).take_while(|byte| *byte != 0);
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
    }
}

impl Serialize for Board {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        multiproc::handle::serialize(&self.file, serializer)
    }
}

impl<'de> Deserialize<'de> for Board {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Board, D::Error> {
        let file: File = multiproc::handle::deserialize(deserializer)?;
        Board::map(file).map_err(serde::de::Error::custom)
    }
}

/// A participant's access to the board.
pub struct Seat<'a> {
    board: &'a Board,
    index: usize,
    place: &'a Place,
    phase: u32,
}

impl Seat<'_> {
    /// Reports that this participant is ready, waits for the next phase, and returns its amount of
    /// work. Returns None when there are no more phases.
    pub fn next_phase(&mut self) -> Option<u64> {
        let page = self.board.page;
        page.ready.0.fetch_add(1, Release);
        futex_wake(&page.ready.0, 1);
        while page.phase.0.load(Acquire) == self.phase {
            futex_wait(&page.phase.0, self.phase);
        }
        self.phase += 1;
        Some(page.amount.0.load(Relaxed)).filter(|amount| *amount != OVER)
    }

    /// Pins this participant to a processor, the one after that of the previous participant. A
    /// wake-up then always crosses from one processor to another, and two participants that can run
    /// at the same time do, regardless of the scheduler.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn keep_to_processor(&self) -> Outcome<()> {
        Ok(sys::keep_to_processor(self.index)?)
    }

    /// Returns whether the conductor has asked the participants to stop.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.board.page.stop.0.load(Relaxed) != 0
    }

    /// Reports a count.
    pub fn counted(&self, count: u64) {
        self.place.count.store(count, Release);
    }

    /// Reports that all is done, as of now.
    pub fn ended(&self) {
        self.place.ended.store(sys::nanoseconds(), Release);
    }

    /// Reports the value found.
    pub fn found(&self, value: f64) {
        self.place.value.store(value.to_bits(), Release);
    }

    /// The board, to read what other participants report.
    pub fn board(&self) -> &Board {
        self.board
    }

    /// Waits until another participant has been asleep in the kernel for a while.
    ///
    /// # Errors
    /// When it doesn't go to sleep.
    pub fn let_fall_asleep(&self, other: usize, rest: Duration) -> Outcome<()> {
        let thread = self.board.page.places[other].0.thread.load(Relaxed);
        let path = format!("/proc/{thread}/stat");
        std::thread::sleep(rest);
        for _ in 0..1000 {
            // The state follows the name, which is in parentheses and may contain any character:
            // see proc_pid_stat(5).
            let line = std::fs::read_to_string(&path)?;
            if line.rsplit(") ").next().is_some_and(|after| after.starts_with('S')) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(format!("participant {other} does not go to sleep").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phase_ends_when_all_parts_are_done() {
        let board = Board::new().unwrap();
        std::thread::scope(|scope| {
            for index in 0..3 {
                let board = &board;
                scope.spawn(move || {
                    let mut seat = board.seat(index);
                    let mut sum = 0;
                    while let Some(amount) = seat.next_phase() {
                        sum += amount;
                        seat.counted(sum);
                    }
                });
            }
            board.gather(3).unwrap();
            board.begin(5);
            board.gather(3).unwrap();
            board.begin(6);
            board.gather(3).unwrap();
            assert_eq!([0, 1, 2].map(|index| board.count(index)), [11; 3]);
            board.finish();
        });
    }

    #[test]
    fn failure_reason_is_reported() {
        let board = Board::new().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| board.fail("no more tea"));
            assert_eq!(board.gather(1).unwrap_err().to_string(), "no more tea");
        });
    }
}
