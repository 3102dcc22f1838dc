//! Tests: what one of them has started and left behind is ended with it, and the rest with the test
//! binary.
//!
//! A test is told from others by the thread that runs it, since the harness of `cargo test` runs
//! many at once. A process belongs to the test on whose thread it was started. Those that other
//! threads of a test start belong to none, and are ended when the binary ends: `exit` treats all
//! processes as daemons there, so that a test binary always ends.

use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

use multiproc_os::threads;

use super::{children, scope};

/// The process that is a test binary, if this is one: 0 if not. Copies of it, made by fork, are
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

/// The test that a process belongs to which this thread starts; 0 for none.
pub(crate) fn current() -> u64 {
    RUNNING.try_with(Cell::get).unwrap_or(0)
}

/// The length of a test. Dropping it, at the end of the test or in a panic there, ends what the
/// test has left behind.
#[derive(Debug)]
pub struct Test {
    number: u64,
    /// What the thread ran before: a test may call the function of another.
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
        // An executor may have taken an async test to another thread.
        let _ = RUNNING.try_with(|running| {
            if running.get() == self.number {
                running.set(self.around)
            }
        });
        // A copy of the process, made by fork in the test, has none of its children.
        if self.process == threads::getpid() {
            let abandoned = children::abandoned_by(self.number);
            scope::end(abandoned.iter().collect(), "a test");
        }
    }
}
