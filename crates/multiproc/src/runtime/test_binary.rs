//! Whether this process is a test binary, and which test each of its threads runs.

use std::cell::Cell;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

use multiproc_os::threads;

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
pub(crate) fn begin() {
    BINARY.store(threads::getpid(), Relaxed);
}

/// Whether this process is a test binary, and not a child or a copy of one.
pub(crate) fn is_this() -> bool {
    BINARY.load(Relaxed) == threads::getpid()
}

/// Returns the test to which a process belongs that this thread starts; 0 for none.
pub(crate) fn current_test() -> u64 {
    RUNNING.try_with(Cell::get).unwrap_or(0)
}

/// Begins a test on this thread. Returns its number, and that of the test that the thread ran
/// before: a test may call another test's function.
pub(crate) fn begin_test() -> (u64, u64) {
    let number = NEXT.fetch_add(1, Relaxed);
    (number, RUNNING.replace(number))
}

/// Ends the test `number`; `around` is the test that the thread ran before.
pub(crate) fn end_test(number: u64, around: u64) {
    // An executor may have moved an async test to another thread.
    let _ = RUNNING.try_with(|running| {
        if running.get() == number {
            running.set(around)
        }
    });
}
