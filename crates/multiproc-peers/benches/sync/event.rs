//! What is measured.

use std::time::Duration;

use multiproc_benches::slices;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Event {
    /// Lock and unlock without contention, in ns.
    Uncontended,
    /// Acquisitions per second of a lock that two processes want all the time. Each does a little
    /// work with the lock held, and a little between acquisitions.
    Contended(Length),
    /// From one process to the other, in µs; see [`HandOver`](super::lock::Part::HandOver).
    HandOver,
    /// From setting a signal until the other process, which was asleep, runs; in µs.
    Wake,
}

/// The length of the work done with the lock held, and of that without.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Length {
    Tiny,
    /// About a microsecond.
    Micro,
}

impl Event {
    pub(crate) const ALL: [Event; 5] = [
        Event::Uncontended,
        Event::Contended(Length::Tiny),
        Event::Contended(Length::Micro),
        Event::HandOver,
        Event::Wake,
    ];

    pub(crate) fn is_of_locks(self) -> bool {
        !self.is_of_signals()
    }

    /// Readers don't wait for each other, and so hand nothing over.
    pub(crate) fn is_of_readers(self) -> bool {
        self.is_of_locks() && self != Event::HandOver
    }

    pub(crate) fn is_of_signals(self) -> bool {
        self == Event::Wake
    }
}

impl slices::Event for Event {
    fn key(self) -> String {
        match self {
            Event::Uncontended => "uncontended",
            Event::Contended(Length::Tiny) => "contended.tiny",
            Event::Contended(Length::Micro) => "contended.1us",
            Event::HandOver => "hand-over",
            Event::Wake => "wake",
        }
        .into()
    }

    fn unit(self) -> &'static str {
        match self {
            Event::Uncontended => "ns",
            Event::Contended(_) => "acquisitions/s",
            Event::HandOver | Event::Wake => "µs",
        }
    }

    fn slice(self) -> Duration {
        Duration::from_millis(match self {
            Event::Uncontended => 50,
            Event::Contended(_) | Event::HandOver => 150,
            Event::Wake => 200,
        })
    }
}
