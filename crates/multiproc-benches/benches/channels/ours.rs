//! multiproc's own channels.
//!
//! A contestant is a [`Channel`](super::channel::Channel) whose ends derive serde's traits, run by
//! [`measure::started`](super::measure::started). The names that the ratios ask for: [`QUEUE`], [`BOUNDED`], [`BYTES`].

use multiproc_benches::slices::Contestant;

use super::event::Event;

/// `Queue<Vec<u8>>`, unbounded.
pub(crate) const QUEUE: &str = "multiproc-queue";
/// `Queue<Vec<u8>>` with a capacity.
pub(crate) const BOUNDED: &str = "multiproc-queue-bounded";
/// Messages of a bounded queue as they are, looked at in place.
pub(crate) const BYTES: &str = "multiproc-queue-bytes";

/// None yet.
pub(crate) fn contestants() -> Vec<Contestant<Event>> {
    Vec::new()
}
