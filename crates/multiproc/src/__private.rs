//! Support for the code that `#[multiproc::main]` and `#[multiproc::test]` generate. Not a public
//! interface.

pub use crate::process::test::Test;

use crate::process::init;
use crate::runtime::{at_exit, test_binary};

/// A guard that lives as long as the user's `main`.
#[derive(Debug)]
pub struct Main(());

impl Main {
    /// Runs the target in a child and never returns there; returns in the main process.
    #[allow(clippy::new_without_default)]
    pub fn begin(is_first: bool) -> Main {
        init::begin_program(is_first);
        Main(())
    }
}

/// Runs the exit steps at the end of `main`, whether it returns or panics.
impl Drop for Main {
    fn drop(&mut self) {
        at_exit::run();
    }
}

/// Called by the loader in a test binary, before its `main`.
pub extern "C" fn before_harness() {
    init::init();
    test_binary::begin();
}
