//! What is measured.

use std::time::Duration;

use multiproc_benches::slices;

/// Message sizes, in bytes.
pub(crate) const SIZES: [usize; 5] = [64, 1 << 10, 64 << 10, 1 << 20, 64 << 20];

/// Message sizes from four producers to four consumers. Without the largest size, for which eight
/// processes would only measure the memory.
pub(crate) const SHARED_SIZES: [usize; 4] = [64, 1 << 10, 64 << 10, 1 << 20];

/// How many processes do the work of [`Event::Work`].
pub(crate) const WORKERS: usize = 8;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Event {
    /// Messages per second, from `producers` producers to `consumers` consumers.
    Throughput { size: usize, producers: usize, consumers: usize },
    /// There and back between two processors, in µs: while both sides run, or with the other side
    /// asleep each time.
    RoundTrip { size: usize, asleep: bool },
    /// A fixed amount of work that one process distributes to [`WORKERS`] workers, in ms.
    Work,
}

impl Event {
    pub(crate) fn all() -> Vec<Event> {
        let mut all = vec![Event::Work, Event::RoundTrip { size: 64, asleep: true }];
        for size in SIZES {
            all.push(Event::Throughput { size, producers: 1, consumers: 1 });
            all.push(Event::RoundTrip { size, asleep: false });
        }
        all.extend(SHARED_SIZES.map(|size| Event::Throughput { size, producers: 4, consumers: 4 }));
        all
    }

    /// The size of its messages, in bytes.
    pub(crate) fn size(self) -> usize {
        match self {
            Event::Throughput { size, .. } | Event::RoundTrip { size, .. } => size,
            Event::Work => 64,
        }
    }

    pub(crate) fn is_any(self) -> bool {
        true
    }

    /// Whether there is one sender and one receiver.
    pub(crate) fn is_for_two(self) -> bool {
        matches!(self, Event::Throughput { producers: 1, consumers: 1, .. } | Event::RoundTrip { .. })
    }

    pub(crate) fn is_for_unbounded(self) -> bool {
        self.size() <= 64 << 10
    }

    /// Whether a message is an array that is copied by value.
    pub(crate) fn is_for_arrays(self) -> bool {
        self.size() == 64
    }

    pub(crate) fn is_work(self) -> bool {
        self == Event::Work
    }

    /// Whether it makes sense in Python, where the work would be different, and where round trips
    /// with the largest messages take most of a second.
    pub(crate) fn is_for_scripts(self) -> bool {
        !matches!(self, Event::Work | Event::RoundTrip { size: 0x400_0000, .. })
    }
}

impl slices::Event for Event {
    fn key(self) -> String {
        match self {
            Event::Throughput { size, producers, consumers } => {
                format!("throughput.{producers}:{consumers}.{}", name_of(size))
            }
            Event::RoundTrip { size, asleep: false } => format!("round-trip.both-run.{}", name_of(size)),
            Event::RoundTrip { size, asleep: true } => format!("round-trip.asleep.{}", name_of(size)),
            Event::Work => format!("work.1:{WORKERS}"),
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Event::Throughput { .. } => "messages/s",
            Event::RoundTrip { .. } => "µs",
            Event::Work => "ms",
        }
    }

    fn slice(self) -> Duration {
        Duration::from_millis(match self.size() {
            _ if self == Event::RoundTrip { size: 64, asleep: true } => 200,
            size if size > 1 << 20 => 250,
            _ => 100,
        })
    }

    /// More turns for events with a target.
    fn turns(self) -> u32 {
        let often = match self {
            Event::Throughput { size, consumers: 1, .. } => size == 64 || size == 1 << 20,
            Event::Throughput { size, .. } | Event::RoundTrip { size, .. } => size == 64,
            Event::Work => false,
        };
        if often { 2 } else { 1 }
    }
}

/// Formats a size: `64B`, `1KiB`, `64MiB`.
pub(crate) fn name_of(size: usize) -> String {
    match size {
        size if size >= 1 << 20 => format!("{}MiB", size >> 20),
        size if size >= 1 << 10 => format!("{}KiB", size >> 10),
        size => format!("{size}B"),
    }
}
