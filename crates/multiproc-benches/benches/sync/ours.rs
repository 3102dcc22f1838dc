//! multiproc's own locks and signals.

use multiproc_benches::slices::Contestant;

use super::event::Event;

pub(crate) const LOCK: &str = "multiproc-lock";
pub(crate) const EVENT: &str = "multiproc-event";

/// None yet.
pub(crate) fn contestants() -> Vec<Contestant<Event>> {
    Vec::new()
}
