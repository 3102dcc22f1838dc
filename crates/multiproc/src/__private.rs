//! What the attributes expand to. Not for use by hand.

pub use crate::process::test::Test;

use crate::process::{at_exit, test};
use crate::start::entry;

/// The length of the user's `main`.
#[derive(Debug)]
pub struct Main(());

impl Main {
    /// Turns off to the target in a child; goes on in the main process.
    #[allow(clippy::new_without_default)]
    pub fn begin() -> Main {
        entry::begin_program(true);
        Main(())
    }
}

/// The end of `main`, by return or by panic.
impl Drop for Main {
    fn drop(&mut self) {
        at_exit::run();
    }
}

/// Called by the loader in a test binary, before its `main`.
pub extern "C" fn before_harness() {
    entry::init();
    test::begin_binary();
}
