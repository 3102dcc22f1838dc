//! The measured values.

use multiproc_benches::figures::{Series, Skipped};
use multiproc_benches::host::Host;

use super::{RESIDENT, rate};

/// Everything that was measured in one run.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) host: Host,
    pub(crate) quick: bool,
    /// Start and wait, in microseconds, for each of [`RESIDENT`].
    pub(crate) start: [Series; RESIDENT.len()],
    /// From `start` to the target's first line, in microseconds.
    pub(crate) first_line: Series,
    /// Starts per second, for each of [`rate::IN_FLIGHT`].
    pub(crate) rate: [Series; rate::IN_FLIGHT.len()],
    /// Memory of an idle child, in kB.
    pub(crate) pss: Series,
    pub(crate) skipped: Skipped,
}
