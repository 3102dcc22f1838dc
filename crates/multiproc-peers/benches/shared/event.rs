//! What is measured.

use std::time::Duration;

use multiproc_benches::slices;

/// Of the bytes that are handed over.
pub(crate) const SIZES: [usize; 3] = [1 << 20, 64 << 20, 1 << 30];

/// Of those that are handed back: what is measured is what doesn't depend on it.
pub(crate) const THERE_AND_BACK: [usize; 2] = [1 << 20, 1 << 30];

/// Of those that are written anew.
pub(crate) const FILLED: [usize; 2] = [64 << 20, 1 << 30];

/// Of those that are made.
pub(crate) const MADE: usize = 64 << 20;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Event {
    /// So many bytes to a worker that sums them, until the sum is back; in ms.
    Sum { size: usize },
    /// So many bytes to a worker that writes all of them anew, until it says so; in ms.
    Fill { size: usize },
    /// To a worker that looks at the first and the last of them, and back to who had them and looks likewise; in µs.
    Back { size: usize },
    /// So many bytes in shared memory, of others that lie elsewhere; in ms.
    Make { size: usize },
    /// One more, under a lock if that is what it takes; in ns, or how often a second if two processes do.
    Increment { contended: bool },
    /// The lock of an array: taken, one of its values changed or looked at, and given up; in ns.
    Element,
}

impl Event {
    /// In a quick look, nothing of a gigabyte: a good second is gone before there is one.
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

    /// How many bytes it is about.
    pub(crate) fn size(self) -> usize {
        match self {
            Event::Sum { size } | Event::Fill { size } | Event::Back { size } | Event::Make { size } => size,
            Event::Increment { .. } | Event::Element => 0,
        }
    }

    pub(crate) fn is_of_sums(self) -> bool {
        matches!(self, Event::Sum { .. })
    }

    /// Whether it is of bytes that are handed over and only read.
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

    /// A gigabyte there and back would take Python's half a minute for what it has said when it went there.
    pub(crate) fn is_for_pools(self) -> bool {
        self.is_of_sums() || self == Event::Back { size: 1 << 20 }
    }

    pub(crate) fn is_of_increments(self) -> bool {
        matches!(self, Event::Increment { .. })
    }

    pub(crate) fn is_of_elements(self) -> bool {
        self == Event::Element
    }

    /// Whether it is of what is done alone, to one number.
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

    /// More often where there is something to keep to, and little to prepare.
    fn turns(self) -> u32 {
        if self.is_alone() { 2 } else { 1 }
    }
}

/// `1MiB`, `1GiB`.
pub(crate) fn name_of(size: usize) -> String {
    match size {
        size if size >= 1 << 30 => format!("{}GiB", size >> 30),
        size => format!("{}MiB", size >> 20),
    }
}
