//! Support for tests: the processes that a test has started and left behind are ended with the
//! test, all others with the test binary.
//!
//! A test is identified by the thread that runs it, since the harness of `cargo test` runs many
//! tests at once. A process belongs to the test that runs on the thread that started it. Processes
//! that other threads of a test start belong to no test, and are ended when the binary ends: `exit`
//! treats all processes as daemons there, so that a test binary always ends.

use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

use multiproc_os::threads;

use super::scope;
use crate::runtime::children;

/// The pid of the test binary; 0 if this program is not one. Copies of it made by fork(2) are
/// ordinary processes.
static BINARY: AtomicI32 = AtomicI32::new(0);

/// The number of the next test.
static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The test that this thread runs; 0 for none.
    static RUNNING: Cell<u64> = const { Cell::new(0) };
}

/// Called in a test binary before its harness runs.
pub(crate) fn begin_binary() {
    BINARY.store(threads::getpid(), Relaxed);
}

/// Whether this process is a test binary, and not a child or a copy of one.
pub(crate) fn is_binary() -> bool {
    BINARY.load(Relaxed) == threads::getpid()
}

/// Returns the test to which a process belongs that this thread starts; 0 for none.
pub(crate) fn current() -> u64 {
    RUNNING.try_with(Cell::get).unwrap_or(0)
}

/// A guard that lives as long as a test. Dropping it, at the end of the test or during a panic,
/// ends the processes that the test has left behind.
#[derive(Debug)]
pub struct Test {
    number: u64,
    /// The test that the thread ran before: a test may call another test's function.
    around: u64,
    process: i32,
}

impl Test {
    /// Begins a test on this thread.
    #[allow(clippy::new_without_default)]
    pub fn begin() -> Test {
        let number = NEXT.fetch_add(1, Relaxed);
        let around = RUNNING.replace(number);
        Test { number, around, process: threads::getpid() }
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        // An executor may have moved an async test to another thread.
        let _ = RUNNING.try_with(|running| {
            if running.get() == self.number {
                running.set(self.around)
            }
        });
        // A copy of the process, made by fork(2) in the test, has none of its children.
        if self.process == threads::getpid() {
            let abandoned = children::abandoned_by(self.number);
            scope::end(abandoned.iter().collect(), "a test");
        }
    }
}
