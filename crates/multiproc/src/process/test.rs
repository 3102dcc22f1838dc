//! Support for tests: the processes that a test has started and left behind are ended with the
//! test, all others with the test binary.
//!
//! A test is identified by the thread that runs it, since the harness of `cargo test` runs many
//! tests at once. A process belongs to the test that runs on the thread that started it. Processes
//! that other threads of a test start belong to no test, and are ended when the binary ends: `exit`
//! treats all processes as daemons there, so that a test binary always ends.

use multiproc_os::threads;

use super::child::ProcessHandle;
use super::scope;
use crate::runtime::{children, test_binary};

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
        let (number, around) = test_binary::begin_test();
        Test { number, around, process: threads::getpid() }
    }
}

impl Drop for Test {
    fn drop(&mut self) {
        test_binary::end_test(self.number, self.around);
        // A copy of the process, made by fork(2) in the test, has none of its children.
        if self.process == threads::getpid() {
            let abandoned: Vec<_> = children::abandoned_by(self.number).into_iter().map(ProcessHandle::new).collect();
            scope::end(abandoned.iter().collect(), "a test");
        }
    }
}
