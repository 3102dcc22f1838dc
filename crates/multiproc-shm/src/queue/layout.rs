//! The shared words of a queue, and the constants of its memory: where the ring lies, how a record
//! begins, what the flags mean. See `QUEUE.md`, "The memory".

use crate::lock::spin_lock::RobustSpinLock;
use crate::loom::atomic::{AtomicU32, AtomicU64};
use crate::memory::layout::{AnyBytes, Layout, layout};
use crate::memory::scratch::Scratch;
use crate::queue::arena::ArenaHeader;
use crate::sync::ledger::{self, Ledger};
use crate::wait::wait_queue::WaitQueue;

/// Offset of the ring in the file.
pub(super) const RING_AT: u64 = 2 << 20;

/// Size of a ring, as a power of two: the initial one, the largest at which the ring keeps its
/// memory, and the maximum.
pub(super) const SMALLEST: u32 = if cfg!(loom) { 6 } else { 16 };
pub(super) const KEPT: u32 = 22;
pub(super) const LARGEST: u32 = if cfg!(loom) { 8 } else { 40 };

/// Items of at most this many bytes are stored in the ring.
pub const INLINE: usize = Scratch::ROOM - SPECIAL;

/// Bytes of a record's header: a word with length and flags, and the item's number; in a queue with
/// a limit also the number of bytes put before the item.
pub(super) const HEADER: u64 = 16;
pub(super) const LIMITED_HEADER: u64 = 24;

/// The bit of the head beside the position which says that producers wait for room: the next
/// consumer puts a token into their wake pipe before it takes an item.
pub(super) const ARMED: u64 = 1;

/// The largest valid position. Anything larger is garbage; so no computation on positions
/// overflows.
pub(super) const FARTHEST: u64 = 1 << 62;

/// Bytes that precede the content of an item with a block or with handles: the number of the block,
/// the number of handles, the size, and the number of the fd queue entry.
pub(super) const SPECIAL: usize = 24;

/// Padding up to the next record.
pub(super) const PAD: u8 = 1;
/// The item is in a block.
pub(super) const BLOCK: u8 = 2;
/// The item has file descriptors in the fd queue.
pub(super) const HANDLES: u8 = 4;
/// The item is plain bytes, not an encoded value.
pub(super) const RAW: u8 = 8;

pub(super) const LIMITED: u32 = 1;
pub(super) const JOINABLE: u32 = 2;

/// States of [`Config::closed`]. `OPEN`: items can be put. `CLOSING`: no more items can be put, and
/// the process that finds this state must notify the waiters for items. `CLOSED`: they have been
/// notified.
pub(super) const OPEN: u32 = 0;
pub(super) const CLOSING: u32 = 1;
pub(super) const CLOSED: u32 = 2;

layout! {
    /// The words that never or seldom change.
    #[repr(align(64))]
    pub(super) struct Config {
        pub(super) flags: AtomicU32,
        /// The first and the last block in the list of leases that have been given up, plus one; 0
        /// if the list is empty. Guarded by the producers' lock.
        pub(super) first_returned: AtomicU32,
        pub(super) last_returned: AtomicU32,
        /// [`OPEN`], [`CLOSING`] or [`CLOSED`].
        pub(super) closed: AtomicU32,
        /// The size of the ring as a power of two in the lowest byte; above it, the number of times
        /// that it has changed.
        pub(super) geometry: AtomicU64,
        /// The limits on items and on their bytes; `u64::MAX` for none.
        pub(super) max_items: AtomicU64,
        pub(super) max_bytes: AtomicU64,
    }
}

layout! {
    /// The words that producers write, under their lock.
    #[repr(align(64))]
    pub(super) struct Producers {
        pub(super) spin_lock: RobustSpinLock,
        pub(super) _unused: AtomicU32,
        /// Number of items put so far, and of their bytes.
        pub(super) number: AtomicU64,
        pub(super) bytes: AtomicU64,
        /// The tail and both numbers as they will be after the put in progress.
        pub(super) next_tail: AtomicU64,
        pub(super) next_number: AtomicU64,
        pub(super) next_bytes: AtomicU64,
        /// The head as last seen, and the numbers of items and bytes that had been taken by then.
        /// With these, a producer that puts item after item doesn't disturb the consumers' cache
        /// line.
        pub(super) seen_head: AtomicU64,
        pub(super) seen_number: AtomicU64,
        pub(super) seen_bytes: AtomicU64,
        /// Number of entries that have been put into the fd queue, including an unfinished one.
        pub(super) entries: AtomicU64,
        /// The position up to which the ring has memory.
        pub(super) memory_until: AtomicU64,
        /// The position up to which the ring's memory has been freed.
        pub(super) freed_until: AtomicU64,
        /// Number of bytes from the ring's start that keep their memory.
        pub(super) kept: AtomicU64,
    }
}

layout! {
    /// The words that consumers write.
    #[repr(align(64))]
    pub(super) struct Consumers {
        /// The position of the first item that can be taken, and [`ARMED`]. Advancing it is the
        /// take.
        pub(super) head: AtomicU64,
        /// Held by consumers that take anything but a small item of a plain queue, and by those
        /// that have waiters to notify.
        pub(super) spin_lock: RobustSpinLock,
        pub(super) _unused: AtomicU32,
        /// The block that is being taken or is about to become a lease, plus one.
        pub(super) leasing: AtomicU64,
    }
}

#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Line<T>(pub(super) T);

// SAFETY: made of such a value.
#[allow(unsafe_code)]
unsafe impl<T: AnyBytes> AnyBytes for Line<T> {}

#[cfg(loom)]
impl<T: crate::loom::atomic::Zeroed> crate::loom::atomic::Zeroed for Line<T> {
    fn zeroed() -> Line<T> {
        Line(T::zeroed())
    }
}

layout! {
    /// The shared part of a queue. An empty queue is all zeros but for the first cache line.
    pub(crate) struct Shared {
        pub(super) config: Config,
        pub(super) producers: Producers,
        /// The position after the last item that can be taken. Storing it is the put. It has a
        /// cache line of its own, since consumers that wait for items read it all the time.
        pub(super) tail: Line<AtomicU64>,
        /// Where consumers wait for items.
        pub(super) items: Line<WaitQueue>,
        pub(super) consumers: Consumers,
        /// Where producers wait for room, and callers of `join` for all work to be done.
        pub(super) room: Line<WaitQueue>,
        pub(super) books: Line<ArenaHeader>,
        /// The processes that have taken items of a joinable queue. Guarded by the producers' lock.
        pub(super) workers: Line<Ledger>,
    }
}

// SAFETY: `#[repr(C)]`, and made of atomics only, as `layout` checks.
#[allow(unsafe_code)]
unsafe impl Layout for Shared {
    const NAME: &'static str = "queue";
    const KIND: u32 = u32::from_le_bytes(*b"que3");
    const TRAILING_WORDS: usize = ledger::TRAILING_WORDS;
}

/// The first word of a record's header: length, flags, and a part of `position`, so that other
/// bytes aren't mistaken for a record.
#[inline]
pub(super) fn header(position: u64, flags: u8, len: usize) -> u64 {
    mark(position) | u64::from(flags) << 32 | len as u64
}

#[inline]
pub(super) fn parse(position: u64, word: u64) -> Option<(u8, usize)> {
    (word & !0xff_ffff_ffff == mark(position)).then_some(((word >> 32) as u8, word as u32 as usize))
}

#[inline]
pub(super) fn mark(position: u64) -> u64 {
    (position ^ 0x5a_5a5a << 3) << 37 & !0xff_ffff_ffff
}
