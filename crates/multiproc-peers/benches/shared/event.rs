//! What is measured.

use std::time::Duration;

use multiproc_benches::slices;

/// Sizes of bytes that are handed over and summed.
pub(crate) const SIZES: [usize; 3] = [1 << 20, 64 << 20, 1 << 30];

/// Sizes of bytes that are handed back, for the part of the cost that doesn't depend on the size.
pub(crate) const THERE_AND_BACK: [usize; 2] = [1 << 20, 1 << 30];

/// Sizes of bytes that are overwritten.
pub(crate) const FILLED: [usize; 2] = [64 << 20, 1 << 30];

/// Size of the bytes that are created.
pub(crate) const MADE: usize = 64 << 20;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Event {
    /// Handing `size` bytes to a worker that sums them, until the sum is back; in ms.
    Sum { size: usize },
    /// Handing `size` bytes to a worker that overwrites all of them, until it reports so; in ms.
    Fill { size: usize },
    /// Handing bytes to a worker that reads the first and the last of them, and back to the lender,
    /// which reads the same; in µs.
    Back { size: usize },
    /// Copying `size` bytes from ordinary into shared memory; in ms.
    Make { size: usize },
    /// Adding one, under a lock if necessary; in ns, or increments per second if two processes do
    /// it.
    Increment { contended: bool },
    /// Taking an array's lock, changing or reading one of its values, and releasing the lock; in
    /// ns.
    Element,
}

impl Event {
    /// All events. In a quick run, none with a gigabyte, which takes more than a second to create.
    pub(crate) fn all(is_quick: bool) -> Vec<Event> {
        let sums = SIZES.map(|size| Event::Sum { size });
        let filled = FILLED.map(|size| Event::Fill { size });
        let back = THERE_AND_BACK.map(|size| Event::Back { size });
        let mut all = vec![
            Event::Make { size: MADE },
            Event::Increment { contended: false },
            Event::Increment { contended: true },
            Event::Element,
        ];
        all.extend(sums.into_iter().chain(filled).chain(back).filter(|event| !is_quick || event.size() < 1 << 30));
        all
    }

    /// The number of bytes involved.
    pub(crate) fn size(self) -> usize {
        match self {
            Event::Sum { size } | Event::Fill { size } | Event::Back { size } | Event::Make { size } => size,
            Event::Increment { .. } | Event::Element => 0,
        }
    }

    pub(crate) fn is_of_sums(self) -> bool {
        matches!(self, Event::Sum { .. })
    }

    /// Whether the bytes are handed over and only read.
    pub(crate) fn is_of_readers(self) -> bool {
        matches!(self, Event::Sum { .. } | Event::Back { .. })
    }

    pub(crate) fn is_of_bytes(self) -> bool {
        self.is_of_readers() || self.is_of_all_bytes()
    }

    pub(crate) fn is_of_making(self) -> bool {
        matches!(self, Event::Make { .. })
    }

    /// Whether all of the bytes are read or written.
    pub(crate) fn is_of_all_bytes(self) -> bool {
        matches!(self, Event::Sum { .. } | Event::Fill { .. })
    }

    /// Whether Python's pool takes part. A gigabyte there and back would take it half a minute, and
    /// tell no more than the way there.
    pub(crate) fn is_for_pools(self) -> bool {
        self.is_of_sums() || self == Event::Back { size: 1 << 20 }
    }

    pub(crate) fn is_of_increments(self) -> bool {
        matches!(self, Event::Increment { .. })
    }

    pub(crate) fn is_of_elements(self) -> bool {
        self == Event::Element
    }

    /// Whether one process works alone on one number.
    pub(crate) fn is_alone(self) -> bool {
        self == Event::Element || self == Event::Increment { contended: false }
    }
}

impl slices::Event for Event {
    fn key(self) -> String {
        match self {
            Event::Sum { size } => format!("sum.{}", name_of(size)),
            Event::Fill { size } => format!("fill.{}", name_of(size)),
            Event::Make { size } => format!("make.{}", name_of(size)),
            Event::Back { size } => format!("back.{}", name_of(size)),
            Event::Increment { contended: false } => "increment".into(),
            Event::Increment { contended: true } => "increment.contended".into(),
            Event::Element => "element".into(),
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Event::Sum { .. } | Event::Fill { .. } | Event::Make { .. } => "ms",
            Event::Back { .. } => "µs",
            Event::Increment { contended: true } => "increments/s",
            Event::Increment { contended: false } | Event::Element => "ns",
        }
    }

    fn slice(self) -> Duration {
        Duration::from_millis(match self {
            Event::Sum { size: 0x4000_0000 } | Event::Fill { size: 0x4000_0000 } => 1000,
            Event::Sum { .. } | Event::Fill { .. } | Event::Make { .. } | Event::Back { .. } => 200,
            Event::Increment { contended: true } => 150,
            Event::Increment { contended: false } | Event::Element => 50,
        })
    }

    /// More turns for events with a target that need little preparation.
    fn turns(self) -> u32 {
        if self.is_alone() { 2 } else { 1 }
    }
}

/// Formats a size: `1MiB`, `1GiB`.
pub(crate) fn name_of(size: usize) -> String {
    match size {
        size if size >= 1 << 30 => format!("{}GiB", size >> 30),
        size => format!("{}MiB", size >> 20),
    }
}
