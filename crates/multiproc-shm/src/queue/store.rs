//! A queue of bytes and file descriptors in shared memory, the basis of `Queue` and
//! `JoinableQueue`. Its protocol is described in `QUEUE.md`, beside this file.
//!
//! Small items lie in a ring, one after the other. Larger ones have blocks of their own
//! ([`arena`](crate::queue::arena)), and a small record in the ring. The ring grows by doubling, so
//! a queue without a limit accepts items even if none is taken. A producer holds a lock. A consumer
//! of small items holds none: it reads a record and then advances the head by one compare-and-swap
//! (as readers do under a sequence lock, see Boehm, "Can seqlocks get along with programming
//! language memory models?").

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst, fence,
};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use multiproc_os::fd_budget;
use multiproc_os::fd_queue::FdQueue;
use multiproc_os::identity::Identity;
use multiproc_os::prefetch;

use crate::lock::spin_lock::{Limit, RobustSpinGuard, RobustSpinLock, Stalled, within};
use crate::memory::growable_mapping::GrowableMapping;
use crate::memory::scratch::{Scratch, copy_in};
use crate::memory::segment::{Layout, Segment};
use crate::queue::arena::{Arena, ArenaHeader, Blocks, Descriptor, State};
use crate::queue::block::Block;
use crate::queue::leases::Leases;
use crate::sync::ledger::{self, Book, Ledger};
use crate::wait::change_rate::ChangeRate;
use crate::wait::notifier::{Notifier, Tokens, ViaHandle};
use crate::wait::ready_fd::ReadyFd;
use crate::wait::wait_queue::{WaitFailure, WaitOp, WaitQueue, Watched};

/// Offset of the ring in the file.
const RING_AT: u64 = 2 << 20;

/// Size of a ring, as a power of two: the initial one, the largest at which the ring keeps its
/// memory, and the maximum.
const SMALLEST: u32 = 16;
const KEPT: u32 = 22;
const LARGEST: u32 = 40;

/// Bytes by which memory for a ring larger than [`KEPT`] is allocated and freed.
const STEP: u64 = 1 << 18;

/// Items of at most this many bytes are stored in the ring.
pub const INLINE: usize = Scratch::ROOM - SPECIAL;

/// Bytes of a record's header: a word with length and flags, and the item's number; in a queue with
/// a limit also the number of bytes put before the item.
const HEADER: u64 = 16;
const LIMITED_HEADER: u64 = 24;

/// The bit of the head beside the position which says that producers wait for room: the next
/// consumer puts a token into their wake pipe before it takes an item.
const ARMED: u64 = 1;

/// The largest valid position. Anything larger is garbage; so no computation on positions
/// overflows.
const FARTHEST: u64 = 1 << 62;

/// Number of steps of a ring that are freed in one go, at most.
const STEPS: u64 = 4096;

/// Idle time after which cached block memory is returned to the kernel.
const QUIET: Duration = Duration::from_millis(200);

/// A producer checks for [`QUIET`] at every put with a number that is a multiple of this.
const BETWEEN_LOOKS: u64 = 64;

/// Approximate length of a cache line, in bytes.
const LINE: usize = 64;

/// After an item of at most `SHORT` bytes, a consumer prefetches the next `AHEAD` cache lines. With
/// longer items the processor detects the sequential access by itself.
const SHORT: usize = 192;
const AHEAD: usize = 3;

/// Bytes that precede the content of an item with a block or with handles: the number of the block,
/// the number of handles, the size, and the number of the fd queue entry.
const SPECIAL: usize = 24;

/// Padding up to the next record.
const PAD: u8 = 1;
/// The item is in a block.
const BLOCK: u8 = 2;
/// The item has file descriptors in the fd queue.
const HANDLES: u8 = 4;
/// The item is plain bytes, not an encoded value.
const RAW: u8 = 8;

/// The capacity of a queue, in items and in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub items: u64,
    pub bytes: u64,
}

impl Limits {
    pub const NONE: Limits = Limits { items: u64::MAX, bytes: u64::MAX };

    /// At most `items` items, but at least one; `usize::MAX` means that there is no limit.
    pub fn new(items: usize, bytes: u64) -> Limits {
        Limits { items: if items == usize::MAX { u64::MAX } else { items.max(1) as u64 }, bytes }
    }

    /// The maximum number of items; none if there is no limit.
    pub fn capacity(self) -> Option<usize> {
        usize::try_from(self.items).ok().filter(|items| *items != usize::MAX)
    }
}

const LIMITED: u32 = 1;
const JOINABLE: u32 = 2;

/// States of [`Config::closed`]. `OPEN`: items can be put. `CLOSING`: no more items can be put, and
/// the process that finds this state must notify the waiters for items. `CLOSED`: they have been
/// notified.
const OPEN: u32 = 0;
const CLOSING: u32 = 1;
const CLOSED: u32 = 2;

/// The words that never or seldom change.
#[derive(Debug)]
#[repr(C, align(64))]
struct Config {
    flags: AtomicU32,
    /// The first and the last block in the list of leases that have been given up, plus one; 0 if
    /// the list is empty. Guarded by the producers' lock.
    first_returned: AtomicU32,
    last_returned: AtomicU32,
    /// [`OPEN`], [`CLOSING`] or [`CLOSED`].
    closed: AtomicU32,
    /// The size of the ring as a power of two in the lowest byte; above it, the number of times
    /// that it has changed.
    geometry: AtomicU64,
    items: AtomicU64,
    bytes: AtomicU64,
}

/// The words that producers write, under their lock.
#[derive(Debug)]
#[repr(C, align(64))]
struct Producers {
    spin_lock: RobustSpinLock,
    _unused: AtomicU32,
    /// Number of items put so far, and of their bytes.
    number: AtomicU64,
    bytes: AtomicU64,
    /// The tail and both numbers as they will be after the put in progress.
    next_tail: AtomicU64,
    next_number: AtomicU64,
    next_bytes: AtomicU64,
    /// The head as last seen, and the numbers of items and bytes that had been taken by then. With
    /// these, a producer that puts item after item doesn't disturb the consumers' cache line.
    seen_head: AtomicU64,
    seen_number: AtomicU64,
    seen_bytes: AtomicU64,
    /// Number of entries that have been put into the fd queue, including an unfinished one.
    entries: AtomicU64,
    /// The position up to which the ring has memory.
    memory_until: AtomicU64,
    /// The position up to which the ring's memory has been freed.
    freed_until: AtomicU64,
    /// Number of bytes from the ring's start that keep their memory.
    kept: AtomicU64,
}

/// The words that consumers write.
#[derive(Debug)]
#[repr(C, align(64))]
struct Consumers {
    /// The position of the first item that can be taken, and [`ARMED`]. Advancing it is the take.
    head: AtomicU64,
    /// Held by consumers that take anything but a small item of a plain queue, and by those that
    /// have waiters to notify.
    spin_lock: RobustSpinLock,
    _unused: AtomicU32,
    /// The block that is about to become a lease, plus one.
    leasing: AtomicU64,
}

#[derive(Debug)]
#[repr(C, align(64))]
struct Line<T>(T);

/// The shared part of a queue. An empty queue is all zeros but for the first cache line.
#[derive(Debug)]
#[repr(C)]
pub struct Shared {
    config: Config,
    producers: Producers,
    /// The position after the last item that can be taken. Storing it is the put. It has a cache
    /// line of its own, since consumers that wait for items read it all the time.
    tail: Line<AtomicU64>,
    /// Where consumers wait for items.
    items: Line<WaitQueue>,
    consumers: Consumers,
    /// Where producers wait for room, and callers of `join` for all work to be done.
    room: Line<WaitQueue>,
    books: Line<ArenaHeader>,
    /// The processes that have taken items of a joinable queue. Guarded by the producers' lock.
    workers: Line<Ledger>,
}

// SAFETY: made of atomics, and of structs of atomics.
#[allow(unsafe_code)]
unsafe impl Layout for Shared {
    const NAME: &'static str = "queue";
    const KIND: u32 = u32::from_le_bytes(*b"que3");
    const MORE: usize = ledger::MORE;
}

/// Why an item can't be put or taken.
#[derive(Debug)]
pub enum Refusal {
    /// The queue has reached its limit.
    Full,
    /// There is no room for the item's handles now.
    Crowded,
    /// The item exceeds the queue's limit of bytes, so it will never fit.
    TooLarge,
    Closed,
    /// A system call failed, for lack of memory or of descriptors, say.
    System(&'static str, io::Error),
    /// The shared memory contains garbage.
    Corrupt(&'static str),
    /// No process is left that could change the state that is waited for.
    Alone,
    Late,
}

impl Refusal {
    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Refusal {
        move |error| match error.kind() {
            io::ErrorKind::InvalidData => Refusal::Corrupt(what),
            _ => Refusal::System(what, error),
        }
    }
}

impl Refusal {
    /// The owner of the lock, if the cause is a lock that could not be acquired in time.
    pub fn stalled(&self) -> Option<Stalled> {
        match self {
            Refusal::System(_, error) => Stalled::of(error),
            _ => None,
        }
    }
}

impl From<Stalled> for Refusal {
    fn from(stalled: Stalled) -> Refusal {
        Refusal::System("its lock", stalled.into())
    }
}

impl From<WaitFailure> for Refusal {
    fn from(vain: WaitFailure) -> Refusal {
        match vain {
            WaitFailure::Late => Refusal::Late,
            WaitFailure::Alone => Refusal::Alone,
            WaitFailure::System(error) => Refusal::System("wait", error),
        }
    }
}

/// An item to put.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub body: Body<'a>,
    /// It is plain bytes, not an encoded value.
    pub raw: bool,
    /// The descriptors that go with it, and the number of handles that they stand for.
    pub fds: &'a [OwnedFd],
    pub handles: u32,
}

#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// At most [`INLINE`] bytes.
    Inline(&'a [u8]),
    /// The first bytes, as many as the second field says, of a block that this process owns.
    Block(u32, u64),
}

/// An item that has been taken.
#[derive(Debug)]
pub struct Taken {
    pub place: Place,
    pub raw: bool,
    pub fds: Vec<OwnedFd>,
    pub handles: u32,
    /// How often the item has been taken, including this time.
    pub deliveries: u32,
}

impl Taken {
    /// The item's block, if it is in one that is not a lease. `store` is called only in that case.
    pub fn block<S: std::ops::Deref<Target = Store>>(&self, store: impl FnOnce() -> S) -> Option<Block<S>> {
        let Place::Block(index, len) = self.place else { return None };
        let store = store();
        (!store.is_joinable()).then(|| Block::taken(store, index, len))
    }
}

/// Where the bytes of a taken item are.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// In the scratch.
    Scratch,
    /// In the scratch, and in a block that is a lease.
    Lease(u32),
    /// In a block, which must be given back or is a lease.
    Block(u32, u64),
}

/// A process's view of a queue.
#[derive(Debug)]
pub struct Store {
    shared: Segment<Shared>,
    ring: GrowableMapping,
    arena: Arena,
    fd_queue: FdQueue,
    /// Notified by producers.
    pub items: Notifier,
    /// Notified by consumers.
    pub room: Option<Notifier>,
    /// Held open for writing by every process that could take items, whatever it does. No thread
    /// waits at it: a hang-up tells producers that no consumer is left.
    pub takers: Notifier,
    /// When a producer next checks whether a consumer is left.
    pub change_rate: ChangeRate,
    /// The descriptor for callers that wait for items with poll(2) or epoll(7), once it has been
    /// asked for.
    ready_fd: OnceLock<ReadyFd>,
    /// Whether [`fd_to_poll`](Store::fd_to_poll) has been called.
    polled: AtomicBool,
    /// Blocks of this process that are free, but could not be added to the list of free blocks
    /// because its lock could not be acquired in time.
    to_give_back: Mutex<Vec<u32>>,
    /// The tail, as last seen.
    seen_tail: AtomicU64,
    flags: u32,
    limits: Limits,
    pub(crate) leases: Leases,
}

/// A record that has been read from the ring.
struct Record {
    /// Its position, and the position of the next record.
    at: u64,
    next: u64,
    flags: u8,
    len: usize,
    number: u64,
    /// The number of bytes put before the item, in a queue with a limit; otherwise 0.
    bytes: u64,
}

/// A number of items, and of their bytes.
#[derive(Clone, Copy)]
struct Count {
    number: u64,
    bytes: u64,
}

impl Count {
    fn of(number: &AtomicU64, bytes: &AtomicU64) -> Count {
        Count { number: number.load(SeqCst), bytes: bytes.load(SeqCst) }
    }
}

impl Store {
    pub fn create(limits: Limits, joinable: bool) -> io::Result<Store> {
        let shared = Segment::<Shared>::create()?;
        let ring = GrowableMapping::new(RING_AT, SMALLEST);
        ring.extend(shared.file(), 0)?;
        shared.file().allocate(RING_AT, 1 << SMALLEST)?;
        let limited = limits != Limits::NONE;
        let flags = if limited { LIMITED } else { 0 } | if joinable { JOINABLE } else { 0 };
        shared.config.flags.store(flags, Relaxed);
        shared.config.items.store(limits.items, Relaxed);
        shared.config.bytes.store(limits.bytes, Relaxed);
        shared.config.geometry.store(u64::from(SMALLEST), Relaxed);
        shared.producers.kept.store(1 << SMALLEST, Relaxed);
        shared.producers.memory_until.store(u64::MAX, Relaxed);
        Ok(Store {
            ring,
            arena: Arena::new(),
            fd_queue: FdQueue::new()?,
            items: Notifier::new(Tokens::Taken)?,
            room: (flags != 0).then(|| Notifier::new(Tokens::Heard)).transpose()?,
            takers: Notifier::new(Tokens::Heard)?,
            change_rate: ChangeRate::default(),
            ready_fd: OnceLock::new(),
            polled: AtomicBool::new(false),
            to_give_back: Mutex::default(),
            seen_tail: AtomicU64::new(0),
            flags,
            limits,
            leases: Leases::default(),
            shared,
        })
    }

    /// Opens a queue from the descriptors that [`to_send`](Store::to_send) returned.
    ///
    /// # Errors
    /// `InvalidData` if the descriptors are anything else.
    pub fn open(fds: Vec<OwnedFd>) -> io::Result<Store> {
        let mut fds = fds.into_iter();
        let mut next =
            || fds.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a part of the queue is missing"));
        let shared = Segment::<Shared>::open(next()?)?;
        let flags = shared.config.flags.load(Relaxed);
        let limits = match flags & LIMITED != 0 {
            true => Limits { items: shared.config.items.load(Relaxed), bytes: shared.config.bytes.load(Relaxed) },
            false => Limits::NONE,
        };
        if limits.items == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the limit of the queue is zero"));
        }
        Ok(Store {
            ring: GrowableMapping::new(RING_AT, SMALLEST),
            arena: Arena::new(),
            fd_queue: FdQueue::from_fd(next()?)?,
            items: Notifier::from_fd(next()?, Tokens::Taken)?,
            takers: Notifier::from_any_fd(next()?, Tokens::Heard)?,
            change_rate: ChangeRate::default(),
            ready_fd: OnceLock::new(),
            polled: AtomicBool::new(false),
            to_give_back: Mutex::default(),
            room: if flags != 0 { Some(Notifier::from_fd(next()?, Tokens::Heard)?) } else { None },
            seen_tail: AtomicU64::new(0),
            flags,
            limits,
            leases: Leases::default(),
            shared,
        })
    }

    /// Duplicates the descriptors that make up a queue, for another process, which can take items
    /// (`takes`) or can't.
    pub fn to_send(&self, takes: bool) -> io::Result<Vec<OwnedFd>> {
        let mut fds = vec![
            self.shared.as_fd().try_clone_to_owned()?,
            self.fd_queue.as_fd().try_clone_to_owned()?,
            self.items.to_send()?,
            if takes { self.takers.to_send()? } else { self.takers.to_send_reader()? },
        ];
        if let Some(room) = &self.room {
            fds.push(room.to_send()?);
        }
        Ok(fds)
    }

    /// The memory file, for tests that corrupt it.
    #[doc(hidden)]
    pub fn file(&self) -> &multiproc_os::shared_memory::SharedFile {
        self.shared.file()
    }

    /// Makes the owners of all held locks look dead.
    #[doc(hidden)]
    pub fn orphan_locks(&self) {
        self.shared.producers.spin_lock.orphan();
        self.shared.consumers.spin_lock.orphan();
        self.shared.books.0.orphan_lock();
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub fn is_joinable(&self) -> bool {
        self.flags & JOINABLE != 0
    }

    pub fn blocks(&self) -> Blocks<'_> {
        Blocks { arena: &self.arena, books: &self.shared.books.0, file: self.shared.file() }
    }

    /// Whether the queue is closed to further items.
    #[inline]
    pub fn is_closed(&self) -> bool {
        match self.shared.config.closed.load(SeqCst) {
            OPEN => false,
            CLOSED => true,
            _ => {
                self.finish_closing(self.producers_endlessly());
                true
            }
        }
    }

    /// As [`is_closed`](Store::is_closed), within the thread's limit for lock waits.
    #[cold]
    fn is_closed_in_time(&self) -> Result<bool, Refusal> {
        match self.shared.config.closed.load(SeqCst) {
            OPEN => Ok(false),
            CLOSED => Ok(true),
            _ => {
                self.finish_closing(self.producers()?);
                Ok(true)
            }
        }
    }

    /// As [`is_closed`](Store::is_closed), for a caller that holds a lock and so can't notify the
    /// waiters.
    fn is_closing(&self) -> bool {
        self.shared.config.closed.load(SeqCst) != OPEN
    }

    /// Closes the queue: later puts fail, and all waiters are woken.
    pub fn close(&self) {
        // The waiters for room come first: if this process dies afterwards, they are awake, and the
        // first of them finishes the closing.
        if let Some(room) = &self.room {
            {
                let _consumers = self.consumers_endlessly();
                self.shared.room.0.before_change(room);
                let _ = self.shared.config.closed.compare_exchange(OPEN, CLOSING, SeqCst, Relaxed);
            }
            self.shared.room.0.after_change(u32::MAX);
        }
        self.finish_closing(self.producers_endlessly());
    }

    /// The second half of closing. The caller passes its guard of the producers' lock.
    #[cold]
    fn finish_closing(&self, producers: RobustSpinGuard<'_>) {
        self.shared.items.0.before_change(&self.items);
        self.shared.config.closed.store(CLOSED, SeqCst);
        drop(producers);
        self.shared.items.0.after_change(u32::MAX);
    }

    /// The `geometry` word, and the mask that turns a position into an offset of the ring.
    fn geometry(&self) -> (u64, u64) {
        let geometry = self.shared.config.geometry.load(SeqCst);
        (geometry, (1 << (geometry & 0xff).clamp(u64::from(SMALLEST), u64::from(LARGEST))) - 1)
    }

    /// The position of the first item that can be taken.
    #[inline]
    fn head(&self) -> u64 {
        self.shared.consumers.head.load(SeqCst) & !ARMED
    }

    /// The length of a record's header, in bytes.
    #[inline]
    fn header_len(&self) -> u64 {
        if self.flags & LIMITED != 0 { LIMITED_HEADER } else { HEADER }
    }

    /// Acquires the producers' lock. If the lock is inherited, completes what its dead owner began.
    #[inline]
    fn producers(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        let guard = self.shared.producers.spin_lock.lock()?;
        if guard.inherited {
            self.inherit_producers();
        }
        Ok(guard)
    }

    /// As [`producers`](Store::producers), for operations that can't fail: waits without a limit.
    fn producers_endlessly(&self) -> RobustSpinGuard<'_> {
        let guard = self.shared.producers.spin_lock.lock_endlessly();
        if guard.inherited {
            self.inherit_producers();
        }
        guard
    }

    #[cold]
    fn inherit_producers(&self) {
        let own = &self.shared.producers;
        if self.shared.tail.0.load(SeqCst) == own.next_tail.load(SeqCst) {
            own.number.store(own.next_number.load(Relaxed), Relaxed);
            own.bytes.store(own.next_bytes.load(Relaxed), Relaxed);
        }
        if self.is_joinable() {
            self.list_returned();
        }
        // Makes the next put compare with the actual head.
        own.seen_head.store(self.head(), Relaxed);
    }

    /// Acquires the consumers' lock. If the lock is inherited, repairs what its dead owner left.
    fn consumers(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        let guard = self.shared.consumers.spin_lock.lock()?;
        if guard.inherited {
            self.inherit_consumers();
        }
        Ok(guard)
    }

    /// As [`consumers`](Store::consumers), for operations that can't fail: waits without a limit.
    fn consumers_endlessly(&self) -> RobustSpinGuard<'_> {
        let guard = self.shared.consumers.spin_lock.lock_endlessly();
        if guard.inherited {
            self.inherit_consumers();
        }
        guard
    }

    #[cold]
    fn inherit_consumers(&self) {
        let own = &self.shared.consumers;
        let head = self.head();
        // The dead owner had marked a block as its own, and not yet taken the item.
        if let Some(index) = own.leasing.load(SeqCst).checked_sub(1)
            && let Ok(descriptor) = self.blocks().descriptor(index as u32)
            && descriptor.position.load(SeqCst) >= head
        {
            match descriptor.state() {
                // A copy, which holds no item of the queue. The search for blocks of dead processes
                // finds it.
                State::Leased(owner) if self.is_copy(descriptor) => descriptor.set(State::Building(owner)),
                State::Leased(_) | State::Reading(_) => {
                    descriptor.deliveries.store(0, SeqCst);
                    descriptor.set(State::Queued);
                }
                _ => {}
            }
        }
    }

    fn is_copy(&self, descriptor: &Descriptor) -> bool {
        descriptor.flags.load(Relaxed) & u32::from(BLOCK) == 0
    }

    /// Puts an item, if there is room for it.
    #[inline]
    pub fn try_put(&self, item: &Item<'_>) -> Result<(), Refusal> {
        let (payload, size) = match item.body {
            Body::Inline(bytes) if item.fds.is_empty() => (bytes.len(), bytes.len() as u64),
            Body::Inline(bytes) => (SPECIAL + bytes.len(), bytes.len() as u64),
            Body::Block(_, len) => (SPECIAL, len),
        };
        let header_len = self.header_len();
        let need = header_len + payload.next_multiple_of(8) as u64;
        let own = &self.shared.producers;
        // Checked first without the lock, so that producers that wait for room don't delay the
        // others.
        if self.flags & LIMITED != 0 {
            self.seems_within_limits(size)?;
        }
        let guard = self.producers()?;
        if self.is_closing() {
            drop(guard);
            // The waiters for items may not have been notified yet.
            self.is_closed_in_time()?;
            return Err(Refusal::Closed);
        }
        if self.flags & LIMITED != 0 {
            self.within_limits(size)?;
        }
        let tail = self.shared.tail.0.load(Relaxed);
        let (at, mask) = self.make_room(tail, need)?;
        let words =
            self.ring.words(self.shared.file(), at & mask, (need / 8) as usize).map_err(Refusal::system("the ring"))?;
        let entry = own.entries.load(Relaxed);
        let mut flags = if item.raw { RAW } else { 0 };
        let content = &words[header_len as usize / 8..];
        match item.body {
            Body::Inline(bytes) if item.fds.is_empty() => copy_in(content, bytes),
            Body::Inline(bytes) => {
                flags |= HANDLES;
                content[0].store(u64::from(item.handles) << 32, Relaxed);
                content[1].store(size, Relaxed);
                content[2].store(entry, Relaxed);
                copy_in(&content[SPECIAL / 8..], bytes);
            }
            Body::Block(index, _) => {
                flags |= BLOCK | if item.fds.is_empty() { 0 } else { HANDLES };
                content[0].store(u64::from(item.handles) << 32 | u64::from(index), Relaxed);
                content[1].store(size, Relaxed);
                content[2].store(entry, Relaxed);
                let descriptor = self.blocks().descriptor(index).map_err(Refusal::system("a block"))?;
                descriptor.len.store(size, Relaxed);
                descriptor.flags.store(u32::from(flags), Relaxed);
                descriptor.position.store(at, SeqCst);
            }
        }
        let number = own.number.load(Relaxed);
        let bytes = own.bytes.load(Relaxed);
        words[1].store(number, Relaxed);
        if self.flags & LIMITED != 0 {
            words[2].store(bytes, Relaxed);
        }
        words[0].store(header(at, flags, payload), Relaxed);
        if at != tail {
            let pad = self.ring.words(self.shared.file(), tail & mask, 1).map_err(Refusal::system("the ring"))?;
            pad[0].store(header(tail, PAD, (at - tail) as usize), Relaxed);
        }
        if !item.fds.is_empty() {
            let fds: Vec<BorrowedFd<'_>> = item.fds.iter().map(AsFd::as_fd).collect();
            // The number is stored first, so that no other entry gets it even if this process dies
            // before there is an item.
            own.entries.store(entry.wrapping_add(1), SeqCst);
            self.fd_queue.put(entry, &fds).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock if self.flags & LIMITED != 0 => Refusal::Crowded,
                _ => Refusal::System("it contains too many items with handles", error),
            })?;
        }
        if let Body::Block(index, _) = item.body
            && let Ok(descriptor) = self.blocks().descriptor(index)
        {
            descriptor.set(State::Queued);
        }
        // The tail first: until it is the actual tail, the other two have no effect. The order
        // matters to a process that inherits the lock.
        own.next_tail.store(at + need, Relaxed);
        own.next_number.store(number.wrapping_add(1), Release);
        let bytes = bytes.wrapping_add(size);
        own.next_bytes.store(bytes, Release);
        self.shared.items.0.before_change(&self.items);
        // A release store is enough, since unlocking is sequentially consistent.
        self.shared.tail.0.store(at + need, Release);
        own.number.store(number.wrapping_add(1), Release);
        own.bytes.store(bytes, Release);
        drop(guard);
        self.shared.items.0.after_change(1);
        if number.is_multiple_of(BETWEEN_LOOKS) && self.blocks().has_kept_more() && self.blocks().is_quiet(QUIET) {
            // Consumers may not call again for a long time.
            let _ = within(Limit::Moment, || self.blocks().free_kept());
        }
        // The next item will lie after this one, in memory that consumers have read before. An
        // address beyond the ring makes this a useless hint, but does no harm.
        let behind = words.as_ptr_range().end;
        prefetch::for_write(behind.wrapping_byte_add(LINE - 1));
        prefetch::for_write(behind.wrapping_byte_add(2 * LINE - 1));
        Ok(())
    }

    /// Whether one more item of `size` bytes is within the limits. Exact, since the caller holds
    /// the producers' lock.
    fn within_limits(&self, size: u64) -> Result<(), Refusal> {
        let own = &self.shared.producers;
        if size > self.limits.bytes {
            return Err(Refusal::TooLarge);
        }
        let put = self.put_so_far();
        if self.fits(size, put, Count::of(&own.seen_number, &own.seen_bytes)) {
            return Ok(());
        }
        let taken = self.taken()?;
        match self.fits(size, put, taken) {
            true => {
                own.seen_number.store(taken.number, Relaxed);
                own.seen_bytes.store(taken.bytes, Relaxed);
                Ok(())
            }
            false => Err(Refusal::Full),
        }
    }

    /// As [`within_limits`](Store::within_limits), without the lock. If the answer is uncertain, it
    /// is `Ok`, and the caller checks again under the lock.
    fn seems_within_limits(&self, size: u64) -> Result<(), Refusal> {
        let own = &self.shared.producers;
        let put = self.put_so_far();
        if size > self.limits.bytes || self.fits(size, put, Count::of(&own.seen_number, &own.seen_bytes)) {
            return Ok(());
        }
        match self.taken_before(self.head())? {
            Some(taken) if !self.fits(size, put, taken) && !self.is_closing() => Err(Refusal::Full),
            _ => Ok(()),
        }
    }

    /// The number of items put, or fewer. Must be read before the head: then a queue that looks
    /// full is full.
    #[inline]
    fn put_so_far(&self) -> Count {
        Count::of(&self.shared.producers.number, &self.shared.producers.bytes)
    }

    /// Whether an item of `size` bytes is within the limits, given the numbers put and taken.
    #[inline]
    fn fits(&self, size: u64, put: Count, taken: Count) -> bool {
        let items = put.number.saturating_sub(taken.number);
        let bytes = put.bytes.saturating_sub(taken.bytes);
        items < self.limits.items && bytes.saturating_add(size) <= self.limits.bytes
    }

    /// The number of items taken when the head was `head`; none if the head has changed. The record
    /// at the head says it. If there is none, all items known to have been put have been taken.
    fn taken_before(&self, head: u64) -> Result<Option<Count>, Refusal> {
        let tail = self.shared.tail.0.load(SeqCst);
        if tail > head {
            let (geometry, mask) = self.geometry();
            let record = self.read(head, tail, mask).map(|(record, _)| record);
            fence(SeqCst);
            let same = self.head() == head && self.geometry().0 == geometry;
            return match record {
                Some(record) if same => Ok(Some(Count { number: record.number, bytes: record.bytes })),
                None if same => Err(Refusal::Corrupt("the record at its head")),
                _ => Ok(None),
            };
        }
        let all = self.put_so_far();
        match self.head() == head {
            false => Ok(None),
            true if tail < head && self.shared.tail.0.load(SeqCst) < head => {
                Err(Refusal::Corrupt("the head is beyond the tail"))
            }
            true => Ok(Some(all)),
        }
    }

    /// The number of items taken. The caller holds the producers' lock, so the record at the head
    /// can't be overwritten.
    fn taken(&self) -> Result<Count, Refusal> {
        loop {
            if let Some(taken) = self.taken_before(self.head())? {
                return Ok(taken);
            }
        }
    }

    /// Makes the next consumer put a token into the wake pipe before there may be room for an item:
    /// for `size` bytes; or, if `behind` is given, for its handles, which did not fit into the fd
    /// queue when its oldest entry was the one in `behind`. Returns false, and does nothing, if
    /// there may be room already.
    fn arm_for_room(&self, size: u64, behind: Option<Option<u64>>, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let head = &self.shared.consumers.head;
        let _guard = self.consumers()?;
        let put = self.put_so_far();
        let found = head.load(SeqCst);
        let is_full = match self.taken_before(found & !ARMED) {
            // Entries are discarded with their items, under the lock, but after the head has moved:
            // so the head may have moved before the attempt that found no room, and the entry have
            // been discarded after it.
            Ok(Some(taken)) => match behind {
                Some(oldest) => self.shared.tail.0.load(SeqCst) > found & !ARMED && self.oldest_entry() == oldest,
                None => !self.fits(size, put, taken),
            },
            // An item has been taken meanwhile; or there is garbage, which the next attempt
            // reports.
            Ok(None) | Err(_) => false,
        };
        if !is_full || self.is_closing() {
            return Ok(false);
        }
        // In this order: a consumer that finds the bit puts a token in only if the wake pipe is
        // armed. While this lock is held, no consumer is in the middle of that.
        arm();
        Ok(found & ARMED != 0 || head.compare_exchange(found, found | ARMED, SeqCst, Relaxed).is_ok())
    }

    /// The position for a record of `need` bytes, and the mask of positions. The caller holds the
    /// producers' lock.
    #[inline]
    fn make_room(&self, tail: u64, need: u64) -> Result<(u64, u64), Refusal> {
        let own = &self.shared.producers;
        if tail > FARTHEST {
            return Err(Refusal::Corrupt("the tail"));
        }
        loop {
            let (_, mask) = self.geometry();
            let offset = tail & mask;
            // A record must lie within one piece.
            let end = self.ring.end_of_piece(offset).min(mask + 1);
            let at = if offset + need <= end { tail } else { tail + (end - offset) };
            let until = at + need;
            if until.wrapping_sub(own.seen_head.load(Relaxed)) > mask + 1 {
                let head = self.head();
                own.seen_head.store(head, Relaxed);
                if head > tail {
                    return Err(Refusal::Corrupt("the head is beyond the tail"));
                }
                if tail - head > mask + 1 {
                    return Err(Refusal::Corrupt("its records are longer than its ring"));
                }
                if head == tail && mask + 1 > 1 << SMALLEST {
                    self.shrink();
                    continue;
                }
                if until - head > mask + 1 {
                    self.grow(head, tail)?;
                    continue;
                }
            }
            if until > own.memory_until.load(Relaxed) {
                self.give_memory(tail, until, mask)?;
            }
            return Ok((at, mask));
        }
    }

    /// Doubles the ring. Each record stays where it is, or is copied to the new half if its
    /// position belongs there.
    #[cold]
    fn grow(&self, head: u64, tail: u64) -> Result<(), Refusal> {
        let (own, file) = (&self.shared.producers, self.shared.file());
        let (geometry, mask) = self.geometry();
        let (size, order) = (mask + 1, (mask + 1).ilog2());
        if order >= LARGEST {
            return Err(Refusal::System("its ring can't grow any further", io::ErrorKind::StorageFull.into()));
        }
        // The amount of memory to allocate depends on head and tail, so check that there is a
        // record.
        if head < tail && self.read(head, tail, mask).is_none() {
            return Err(Refusal::Corrupt("the record at its head"));
        }
        self.ring.extend(file, size).map_err(Refusal::system("no memory for its ring"))?;
        // Producers need memory from the tail on, and the records that are copied need it in the
        // new half.
        let kept = own.kept.load(Relaxed);
        if order < KEPT && kept < 2 * size {
            file.allocate(RING_AT + kept, 2 * size - kept).map_err(Refusal::system("no memory for its ring"))?;
            own.kept.store(2 * size, Relaxed);
        }
        let mut position = head;
        while position < tail {
            // Up to the end of a half, or to the tail.
            let until = tail.min((position | mask) + 1);
            if position & size != 0 {
                let to = RING_AT + (position & (2 * size - 1));
                file.allocate(to, until - position).map_err(Refusal::system("no memory for its ring"))?;
                self.copy(position & mask, position & (2 * size - 1), until - position)
                    .map_err(Refusal::system("the ring"))?;
            }
            position = until;
        }
        if order >= KEPT {
            own.memory_until.store(tail, Relaxed);
            own.freed_until.store(own.freed_until.load(Relaxed).max(head / STEP * STEP), Relaxed);
        }
        let changes = (geometry >> 8) + 1;
        self.shared.config.geometry.store(changes << 8 | u64::from(order + 1), SeqCst);
        fence(SeqCst);
        Ok(())
    }

    /// Copies `len` bytes within the ring, word by word.
    fn copy(&self, mut from: u64, mut to: u64, mut len: u64) -> io::Result<()> {
        let file = self.shared.file();
        while len > 0 {
            let part = len.min(self.ring.end_of_piece(from) - from).min(self.ring.end_of_piece(to) - to);
            let count = (part / 8) as usize;
            let (source, target) = (self.ring.words(file, from, count)?, self.ring.words(file, to, count)?);
            for (source, target) in source.iter().zip(target) {
                target.store(source.load(Relaxed), Relaxed);
            }
            (from, to, len) = (from + part, to + part, len - part);
        }
        Ok(())
    }

    /// Shrinks an empty ring to its initial size.
    #[cold]
    fn shrink(&self) {
        let own = &self.shared.producers;
        let (geometry, mask) = self.geometry();
        let changes = (geometry >> 8) + 1;
        self.shared.config.geometry.store(changes << 8 | u64::from(SMALLEST), SeqCst);
        fence(SeqCst);
        if mask + 1 > 1 << KEPT {
            self.shared.file().free(RING_AT + (1 << KEPT), mask + 1 - (1 << KEPT));
        }
        own.memory_until.store(u64::MAX, Relaxed);
        own.freed_until.store(0, Relaxed);
    }

    /// Allocates memory for the ring from `tail` to the position `until`, rounded up to whole
    /// steps.
    #[cold]
    fn give_memory(&self, tail: u64, until: u64, mask: u64) -> Result<(), Refusal> {
        let own = &self.shared.producers;
        let mut position = own.memory_until.load(Relaxed).max(tail);
        while position < until {
            let offset = position & mask;
            let len = (STEP - (position & (STEP - 1))).min(mask + 1 - offset);
            self.shared.file().allocate(RING_AT + offset, len).map_err(Refusal::system("no memory for its ring"))?;
            position += len;
        }
        own.memory_until.store(position, Relaxed);
        Ok(())
    }

    /// Frees the memory of taken items of a large ring, once the head has passed the end of a step.
    #[inline]
    fn give_back(&self, before: u64, head: u64, mask: u64) {
        if mask >> KEPT != 0 && before / STEP != head / STEP {
            self.give_back_steps();
        }
    }

    #[cold]
    fn give_back_steps(&self) {
        let own = &self.shared.producers;
        let Some(guard) = own.spin_lock.try_lock() else { return };
        if guard.inherited {
            self.inherit_producers();
        }
        let (_, mask) = self.geometry();
        let until = self.head() / STEP * STEP;
        let from = own.freed_until.load(Relaxed).max(until.saturating_sub(mask + 1));
        let memory_until = own.memory_until.load(Relaxed);
        if mask >> KEPT == 0 || memory_until == u64::MAX {
            return;
        }
        // A limited number at a time, as other processes wait for the lock; the rest is freed at
        // the next step.
        let mut position = from / STEP * STEP;
        let until = until.min(position.saturating_add(STEPS * STEP));
        while position < until {
            let offset = position & mask;
            // Skips the part that keeps its memory, and what the next round of the ring already
            // uses.
            if offset >= 1 << KEPT && memory_until <= position.saturating_add(mask + 1) {
                self.shared.file().free(RING_AT + offset, STEP);
            }
            position = position.saturating_add(STEP);
        }
        own.freed_until.store(until, Relaxed);
    }

    /// The record at `head`; none if it is garbage, or has been taken meanwhile.
    #[inline]
    fn read(&self, head: u64, tail: u64, mask: u64) -> Option<(Record, &[AtomicU64])> {
        if tail > FARTHEST {
            return None;
        }
        let file = self.shared.file();
        let mut at = head;
        let word = self.ring.words(file, at & mask, 1).ok()?[0].load(Relaxed);
        let (mut flags, mut len) = parse(at, word)?;
        if flags & PAD != 0 {
            at += len as u64;
            if at >= tail {
                return None;
            }
            let word = self.ring.words(file, at & mask, 1).ok()?[0].load(Relaxed);
            (flags, len) = parse(at, word)?;
        }
        let header_len = self.header_len();
        let next = at + header_len + (len as u64).next_multiple_of(8);
        if next > tail || len > Scratch::ROOM || flags & PAD != 0 {
            return None;
        }
        let words = self.ring.words(file, at & mask, ((next - at) / 8) as usize).ok()?;
        let number = words[1].load(Relaxed);
        let content = &words[header_len as usize / 8..];
        let bytes = if self.flags & LIMITED != 0 { words[2].load(Relaxed) } else { 0 };
        Some((Record { at, next, flags, len, number, bytes }, content))
    }

    /// Takes the oldest item, if there is one. A small item is copied into `scratch`.
    #[inline]
    pub fn try_take(&self, scratch: &mut Scratch) -> Result<Option<Taken>, Refusal> {
        if self.flags & JOINABLE != 0 {
            return self.take_with_lock(scratch);
        }
        let consumers = &self.shared.consumers;
        loop {
            let head = consumers.head.load(SeqCst);
            if head & ARMED != 0 {
                return self.take_with_lock(scratch);
            }
            let tail = self.tail(head)?;
            if head == tail {
                return Ok(None);
            }
            let (geometry, mask) = self.geometry();
            let Some((record, content)) = self.read(head, tail, mask) else {
                self.is_garbage(head, geometry)?;
                continue;
            };
            if record.flags & (BLOCK | HANDLES) != 0 {
                return self.take_with_lock(scratch);
            }
            scratch.copy(content, record.len);
            if record.len <= SHORT {
                // The next item lies after this one. Fetched for writing, since a producer writes
                // to a line next, after it has been read.
                let behind = content.as_ptr_range().end;
                (1..=AHEAD).for_each(|line| prefetch::for_write(behind.wrapping_byte_add(line * LINE)));
            }
            // If the ring has changed, or another consumer has taken the item and another one has
            // been written in its place, the copy is garbage.
            fence(Acquire);
            if self.shared.config.geometry.load(Relaxed) != geometry {
                continue;
            }
            if consumers.head.compare_exchange(head, record.next, SeqCst, Relaxed).is_ok() {
                if self.flags & LIMITED != 0 {
                    self.shared.room.0.after_change(1);
                }
                self.give_back(head, record.next, mask);
                return Ok(Some(Taken {
                    place: Place::Scratch,
                    raw: record.flags & RAW != 0,
                    fds: Vec::new(),
                    handles: 0,
                    deliveries: 1,
                }));
            }
        }
    }

    /// The tail, or an earlier position not before `head`.
    #[inline]
    fn tail(&self, head: u64) -> Result<u64, Refusal> {
        // Cached here, so that a consumer that takes item after item doesn't disturb the producers'
        // cache line.
        let seen = self.seen_tail.load(Acquire);
        if seen > head {
            return Ok(seen);
        }
        let tail = self.shared.tail.0.load(SeqCst);
        if tail > FARTHEST {
            return Err(Refusal::Corrupt("the tail"));
        }
        self.seen_tail.store(tail, Release);
        // Another consumer may have advanced the head meanwhile.
        if tail < head && self.head() == head {
            return Err(Refusal::Corrupt("the head is beyond the tail"));
        }
        Ok(tail.max(head))
    }

    /// Returns `Corrupt` if a record that could not be read is garbage: if neither the head nor the
    /// geometry has changed.
    #[cold]
    fn is_garbage(&self, head: u64, geometry: u64) -> Result<(), Refusal> {
        fence(SeqCst);
        let (now, _) = self.geometry();
        match self.head() == head && now == geometry {
            true => Err(Refusal::Corrupt("the record at its head")),
            false => Ok(()),
        }
    }

    /// Takes the oldest item under the consumers' lock: it has a block or handles, or other
    /// processes wait for the take.
    fn take_with_lock(&self, scratch: &mut Scratch) -> Result<Option<Taken>, Refusal> {
        // Checked first without the lock, so that waiting consumers don't delay the others.
        let head = self.head();
        if self.tail(head)? == head {
            return Ok(None);
        }
        // Allocated before the lock is acquired, as allocating needs a lock of its own.
        let mut lease = match self.is_joinable() && !self.is_empty() {
            true => {
                self.enlist()?;
                Some(self.allocate(Scratch::ROOM as u64)?)
            }
            false => None,
        };
        let taken = match self.consumers() {
            Ok(_guard) => self.take_locked(scratch, &mut lease),
            Err(stalled) => Err(stalled.into()),
        };
        if let Some(unused) = lease {
            self.give_back_block(unused).map_err(Refusal::system("a block"))?;
        }
        let Some((taken, head, next)) = taken? else { return Ok(None) };
        if self.room.is_some() {
            // In a joinable queue all are woken: a caller of `join` may wait here too, and would
            // not pass the wake-up on.
            self.shared.room.0.after_change(if self.is_joinable() { u32::MAX } else { 1 });
        }
        let (_, mask) = self.geometry();
        self.give_back(head, next, mask);
        Ok(Some(taken))
    }

    /// Returns the item, and the head before and after the take.
    fn take_locked(
        &self,
        scratch: &mut Scratch,
        lease: &mut Option<u32>,
    ) -> Result<Option<(Taken, u64, u64)>, Refusal> {
        loop {
            let head = self.head();
            let tail = self.tail(head)?;
            // Without a block for a lease: the queue was empty a moment ago.
            if head == tail || self.is_joinable() && lease.is_none() {
                return Ok(None);
            }
            let (geometry, mask) = self.geometry();
            let Some((record, content)) = self.read(head, tail, mask) else {
                self.is_garbage(head, geometry)?;
                continue;
            };
            scratch.copy(content, record.len);
            fence(Acquire);
            if self.shared.config.geometry.load(Relaxed) != geometry {
                continue;
            }
            if let Some(taken) = self.take_record(head, &record, scratch, lease)? {
                return Ok(Some((taken, head, record.next)));
            }
        }
    }

    /// Takes the item of a record. The record's content is in `scratch`. None if another consumer
    /// has taken the item.
    fn take_record(
        &self,
        head: u64,
        record: &Record,
        scratch: &mut Scratch,
        lease: &mut Option<u32>,
    ) -> Result<Option<Taken>, Refusal> {
        let consumers = &self.shared.consumers;
        let special = record.flags & (BLOCK | HANDLES) != 0;
        let (index, handles, size, entry) = match scratch.bytes().first_chunk::<SPECIAL>() {
            Some(bytes) if special => {
                let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
                (word(0) as u32, (word(0) >> 32) as u32, word(8), word(16))
            }
            None if special => return Err(Refusal::Corrupt("the record at its head")),
            _ => (0, 0, record.len as u64, 0),
        };
        let fds = match record.flags & HANDLES != 0 {
            true => self.entry(entry, handles).map_err(Refusal::system("the handles of the item at its head"))?,
            false => Vec::new(),
        };
        if special {
            scratch.skip(SPECIAL);
        }
        let me = || Identity::current().map_err(Refusal::system("this process's own identity"));
        let mut deliveries = 1;
        let place = if record.flags & BLOCK != 0 {
            let descriptor = self.blocks().descriptor(index).map_err(Refusal::system("a block"))?;
            let is_it = descriptor.position.load(SeqCst) == record.at && descriptor.len.load(Relaxed) == size;
            if descriptor.state() != State::Queued || !is_it {
                return Err(Refusal::Corrupt("the block of the item at its head"));
            }
            let state = if self.is_joinable() { State::Leased(me()?) } else { State::Reading(me()?) };
            consumers.leasing.store(u64::from(index) + 1, SeqCst);
            descriptor.set(state);
            deliveries = descriptor.deliveries.fetch_add(1, SeqCst).wrapping_add(1);
            Place::Block(index, size)
        } else if let Some(copy) = lease.filter(|_| self.is_joinable()) {
            let blocks = self.blocks();
            let descriptor = blocks.descriptor(copy).map_err(Refusal::system("a block"))?;
            fill(blocks, copy, 0, scratch.bytes()).map_err(Refusal::system("a block"))?;
            descriptor.len.store(scratch.bytes().len() as u64, Relaxed);
            descriptor.flags.store(u32::from(record.flags), Relaxed);
            descriptor.position.store(record.at, SeqCst);
            descriptor.deliveries.store(1, SeqCst);
            consumers.leasing.store(u64::from(copy) + 1, SeqCst);
            descriptor.set(State::Leased(me()?));
            Place::Lease(copy)
        } else {
            Place::Scratch
        };
        if let Some(room) = &self.room {
            self.shared.room.0.before_change(room);
        }
        // With or without the bit: the waiters that set it have been notified.
        let found = consumers.head.load(SeqCst);
        if found & !ARMED != head || consumers.head.compare_exchange(found, record.next, SeqCst, Relaxed).is_err() {
            return Ok(None);
        }
        if record.flags & HANDLES != 0 {
            self.fd_queue.discard();
        }
        if matches!(place, Place::Lease(_)) {
            *lease = None;
        }
        Ok(Some(Taken { place, raw: record.flags & RAW != 0, fds, handles, deliveries }))
    }

    /// Duplicates the descriptors of the fd queue entry `wanted`, which hold `handles` handles.
    /// Entries before it are discarded: their items have been taken, or their producers died before
    /// the put.
    fn entry(&self, wanted: u64, handles: u32) -> io::Result<Vec<OwnedFd>> {
        while let Some(number) = self.fd_queue.number()? {
            if number == wanted {
                let fds = self.fd_queue.look()?;
                // The handles are packed into sockets, and need room in this process's fd table
                // once the item has been taken; then it would be too late to leave the item in the
                // queue.
                if handles as usize > fds.len() {
                    fd_budget::look(&fds, handles)?;
                }
                return Ok(fds);
            }
            if number > wanted {
                break;
            }
            self.fd_queue.discard();
        }
        Ok(Vec::new())
    }

    /// The number of the oldest entry in the fd queue, if there is one.
    #[cold]
    fn oldest_entry(&self) -> Option<u64> {
        self.fd_queue.number().ok().flatten()
    }

    /// Allocates a block for `len` bytes, which this process may fill.
    pub fn allocate(&self, len: u64) -> Result<u32, Refusal> {
        self.give_back_what_was_left()?;
        if self.blocks().is_time_to_look() {
            self.take_from_the_dead()?;
        }
        self.blocks().allocate(len).map_err(Refusal::system("no memory for an item of its size"))
    }

    /// Gives back a block of this process. If the lock of the free lists can't be acquired in time,
    /// the block is given back at a later call.
    ///
    /// # Errors
    /// `InvalidData` if the arena is corrupt.
    pub fn give_back_block(&self, index: u32) -> io::Result<()> {
        match self.blocks().give_back(index) {
            Err(error) if Stalled::of(&error).is_some() => {
                self.to_give_back.lock().unwrap_or_else(PoisonError::into_inner).push(index);
                Ok(())
            }
            result => result,
        }
    }

    /// Gives back the blocks that could not be given back in time.
    fn give_back_what_was_left(&self) -> Result<(), Refusal> {
        let left = match self.to_give_back.lock() {
            Ok(left) if left.is_empty() => return Ok(()),
            left => std::mem::take(&mut *left.unwrap_or_else(PoisonError::into_inner)),
        };
        left.into_iter().try_for_each(|index| self.give_back_block(index)).map_err(Refusal::system("a block"))
    }

    /// Gives back the blocks of dead processes.
    #[cold]
    fn take_from_the_dead(&self) -> Result<(), Refusal> {
        let blocks = self.blocks();
        let mut suspects = Vec::new();
        {
            // Under the lock, so that no consumer is in the middle of taking an item.
            let _guard = self.consumers()?;
            let head = self.head();
            for (index, descriptor) in blocks.all() {
                let taken = descriptor.position.load(SeqCst) < head;
                match descriptor.state() {
                    state @ State::Building(owner) => suspects.push((descriptor, index, state, Some(owner))),
                    state @ State::Reading(owner) if taken => suspects.push((descriptor, index, state, Some(owner))),
                    // Its producer died before the put.
                    state @ State::Queued if taken => suspects.push((descriptor, index, state, None)),
                    _ => {}
                }
            }
        }
        let Ok(me) = Identity::current() else { return Ok(()) };
        let mut dead = std::collections::HashMap::new();
        for (descriptor, index, state, owner) in suspects {
            let lost = owner.is_none_or(|owner| {
                owner != me && *dead.entry(owner).or_insert_with(|| owner.has_ended().unwrap_or(false))
            });
            if lost && descriptor.change(state, State::Building(me)) {
                let _ = self.give_back_block(index);
            }
        }
        Ok(())
    }

    /// Frees the memory that is kept for a stream of large items, if the queue is empty.
    pub fn give_back_kept(&self) {
        let blocks = self.blocks();
        if blocks.has_kept_more() && self.is_empty() {
            // Fails only if the arena is corrupt, or its lock can't be acquired in time; in either
            // case a later call tries again.
            let _ = within(Limit::Moment, || blocks.free_kept());
        }
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        let head = self.head();
        self.shared.tail.0.load(SeqCst) <= head && !self.has_returned()
    }

    /// The number of items. Read without a lock, which a stopped process might hold.
    pub fn len(&self) -> u64 {
        let returned = if self.has_returned() { self.count_blocks(|state| state == State::Returned) } else { 0 };
        // If there is garbage, no item can be taken.
        let there = self.at_one_moment(|put, taken| put.number.saturating_sub(taken.number)).unwrap_or(0);
        there.saturating_add(returned)
    }

    /// Whether the queue has reached its limit, so that even a small item would have to wait.
    pub fn is_full(&self) -> bool {
        let size = 1.min(self.limits().bytes);
        self.flags & LIMITED != 0 && self.at_one_moment(|put, taken| !self.fits(size, put, taken)).unwrap_or(false)
    }

    /// Calls `look` with the numbers put and taken as of one moment.
    fn at_one_moment<R>(&self, look: impl Fn(Count, Count) -> R) -> Result<R, Refusal> {
        loop {
            let put = self.put_so_far();
            if let Some(taken) = self.taken_before(self.head())? {
                return Ok(look(put, taken));
            }
        }
    }

    /// Whether a lease has been given up and its item can be taken again.
    #[inline]
    pub(crate) fn has_returned(&self) -> bool {
        self.shared.config.first_returned.load(SeqCst) != 0
    }

    /// Rebuilds the list of leases that have been given up. The caller holds the producers' lock.
    #[cold]
    fn list_returned(&self) {
        self.shared.config.first_returned.store(0, SeqCst);
        self.shared.config.last_returned.store(0, SeqCst);
        for (index, descriptor) in self.blocks().all() {
            if descriptor.state() == State::Returned {
                self.push_returned(index, descriptor);
            }
        }
    }

    /// Appends a block to the list of leases that have been given up. The caller holds the
    /// producers' lock.
    fn push_returned(&self, index: u32, descriptor: &Descriptor) {
        let config = &self.shared.config;
        descriptor.next.store(0, SeqCst);
        let last = config.last_returned.load(Relaxed).checked_sub(1);
        match last.and_then(|last| self.blocks().descriptor(last).ok()) {
            Some(last) if self.has_returned() => last.next.store(index + 1, SeqCst),
            _ => config.first_returned.store(index + 1, SeqCst),
        }
        config.last_returned.store(index + 1, SeqCst);
    }

    /// Takes the first lease from the list of those that have been given up. The caller holds the
    /// producers' lock.
    pub(crate) fn pop_returned(&self, me: Identity) -> Option<(u32, &Descriptor)> {
        let config = &self.shared.config;
        // Bounded by the number of blocks, in case the list is garbage and has a cycle.
        for _ in 0..self.blocks().count() {
            let index = config.first_returned.load(SeqCst).checked_sub(1)?;
            let Ok(descriptor) = self.blocks().descriptor(index) else {
                // Garbage: rebuild the list.
                self.list_returned();
                continue;
            };
            let next = descriptor.next.load(SeqCst);
            config.first_returned.store(next, SeqCst);
            if next == 0 {
                config.last_returned.store(0, SeqCst);
            }
            // If this process dies after that, it has the lease, and the process that inherits the
            // lock rebuilds the list.
            if descriptor.change(State::Returned, State::Leased(me)) {
                return Some((index, descriptor));
            }
        }
        None
    }

    /// The ledger of the processes that have taken items.
    pub(crate) fn workers(&self) -> Book<'_, Shared> {
        Book { ledger: &self.shared.workers.0, segment: &self.shared }
    }

    /// Enters this process into the ledger of workers, so that all processes that wait for items
    /// watch it. Must be called before the process has its first lease.
    fn enlist(&self) -> Result<(), Refusal> {
        let me = ledger::me().map_err(Refusal::system("this process's own identity"))?;
        if self.leases.is_enlisted(me) { Ok(()) } else { self.enlist_slowly(me) }
    }

    #[cold]
    fn enlist_slowly(&self, me: u64) -> Result<(), Refusal> {
        let book = self.workers();
        loop {
            {
                let _guard = self.producers()?;
                let is_known = book.entries().any(|(_, entry)| entry.owner() == me);
                let place = if is_known { None } else { book.find(0, |entry| entry.owner() == 0) };
                if let Some(entry) = place.and_then(|place| book.entry(place)) {
                    // Sleeping waiters watch the processes that were on the ledger when they went
                    // to sleep. Waking them makes them watch this one too.
                    self.shared.items.0.before_change(&self.items);
                    entry.owner.store(me, SeqCst);
                }
                if is_known || place.is_some() {
                    self.leases.enlisted_as(me);
                    return Ok(());
                }
            }
            let room = book.make_room().map_err(Refusal::system("its list of processes"))?;
            let _guard = self.producers()?;
            book.add_room(room);
        }
    }

    pub(crate) fn is_raw(&self, lease: &Descriptor) -> bool {
        lease.flags.load(Relaxed) & u32::from(RAW) != 0
    }

    /// Whether the item of this lease has been taken, which makes it a valid lease.
    pub(crate) fn is_taken(&self, lease: &Descriptor) -> bool {
        lease.position.load(SeqCst) < self.head()
    }

    /// The owners of all leases, once for each lease.
    pub(crate) fn lease_owners(&self) -> impl Iterator<Item = Identity> {
        self.blocks().all().filter_map(|(_, descriptor)| match descriptor.state() {
            State::Leased(owner) => Some(owner),
            _ => None,
        })
    }

    /// Calls `look` with the bytes of a lease of this process.
    #[allow(unsafe_code)]
    pub fn with_lease<R>(&self, index: u32, len: u64, look: impl FnOnce(&[u8]) -> R) -> Result<R, Refusal> {
        // SAFETY: the block is this process's until its work is done or the lease is given up,
        // neither of which the caller does meanwhile.
        let bytes = unsafe { bytes_of(self.blocks(), index, len) }.map_err(Refusal::system("a lease"))?;
        Ok(look(bytes))
    }

    /// Gives up a lease of this process, and notifies the processes that wait for items.
    pub(crate) fn give_up_lease(&self, index: u32, me: Identity) {
        let Ok(lease) = self.blocks().descriptor(index) else { return };
        let returned = {
            let _guard = self.producers_endlessly();
            self.shared.items.0.before_change(&self.items);
            let returned = lease.change(State::Leased(me), State::Returned);
            // If this process dies in between, the process that inherits the lock rebuilds the
            // list.
            if returned {
                self.push_returned(index, lease);
            }
            returned
        };
        if returned {
            self.shared.items.0.after_change(1);
        }
    }

    /// Gives up the leases of dead processes, and removes these processes from the ledger.
    pub(crate) fn give_up_leases_of(&self, dead: &[Identity]) -> Result<(), Stalled> {
        let mut count = 0;
        {
            let _guard = self.producers()?;
            self.shared.items.0.before_change(&self.items);
            for (index, lease) in self.blocks().all() {
                let state = lease.state();
                if matches!(state, State::Leased(owner) if dead.contains(&owner))
                    && self.is_taken(lease)
                    && lease.change(state, State::Returned)
                {
                    self.push_returned(index, lease);
                    count += 1;
                }
            }
            let book = self.workers();
            for (_, entry) in book.entries() {
                if Identity::from_bits(entry.owner()).is_some_and(|owner| dead.contains(&owner)) {
                    entry.owner.store(0, SeqCst);
                }
            }
            book.shorten(|entry| entry.owner() == 0);
        }
        if count > 0 {
            self.shared.items.0.after_change(count);
        }
        Ok(())
    }

    /// Takes the oldest lease that has been given up.
    pub(crate) fn take_given_up(&self, me: Identity) -> Result<Option<Taken>, Refusal> {
        self.enlist()?;
        let _guard = self.producers()?;
        let Some((index, lease)) = self.pop_returned(me) else { return Ok(None) };
        let deliveries = lease.deliveries.fetch_add(1, SeqCst).wrapping_add(1);
        let place = Place::Block(index, lease.len.load(SeqCst));
        Ok(Some(Taken { place, raw: self.is_raw(lease), fds: Vec::new(), handles: 0, deliveries }))
    }

    /// Calls `finish`, which finishes an item's work, and notifies the waiters.
    pub(crate) fn change_work(&self, finish: impl FnOnce() -> bool) -> bool {
        let finished = {
            let _guard = self.consumers_endlessly();
            if let Some(room) = &self.room {
                self.shared.room.0.before_change(room);
            }
            finish()
        };
        // Producers and callers of `join` both wait there.
        self.shared.room.0.after_change(u32::MAX);
        finished
    }

    /// The number of items that have been put and not finished.
    pub fn unfinished(&self) -> u64 {
        loop {
            let head = self.head();
            let put = self.shared.producers.number.load(SeqCst);
            let taken = match self.taken_before(head) {
                Ok(Some(taken)) => taken.number,
                Ok(None) => continue,
                // If there is garbage, there is at least one item.
                Err(_) => put.saturating_sub(1),
            };
            let leased = self.count_blocks(|state| matches!(state, State::Leased(_) | State::Returned));
            let waiting = self.shared.tail.0.load(SeqCst) > head;
            if self.head() == head {
                return put.saturating_sub(taken).max(waiting.into()).saturating_add(leased);
            }
        }
    }

    pub(crate) fn look_at_work(&self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _guard = self.consumers()?;
        let done = self.unfinished() == 0;
        if !done {
            arm();
        }
        Ok(done)
    }

    pub(crate) fn wait_for_work<W: WaitOp>(
        &self,
        deadline: Option<Instant>,
        op: &mut W,
    ) -> Result<W::Outcome, WaitFailure> {
        match &self.room {
            Some(room) => self.shared.room.0.wait(room, deadline, op),
            None => Err(WaitFailure::Alone),
        }
    }

    fn count_blocks(&self, wanted: impl Fn(State) -> bool) -> u64 {
        let (blocks, head) = (self.blocks(), self.head());
        let is_wanted = |descriptor: &Descriptor| wanted(descriptor.state()) && descriptor.position.load(SeqCst) < head;
        blocks.all().filter(|(_, descriptor)| is_wanted(descriptor)).count() as u64
    }

    /// Puts an item; waits while there is no room for it.
    #[inline]
    pub fn put(&self, item: &Item<'_>, deadline: Option<Instant>, through: ViaHandle<'_>) -> Result<(), Refusal> {
        match (self.try_put(item), &self.room) {
            (Err(Refusal::Full | Refusal::Crowded), Some(room)) => self.shared.room.0.wait(
                room,
                deadline,
                &mut Put { store: self, item, crowd: HandleRoom::No, through },
            )?,
            (result, _) => result,
        }
    }

    /// Takes the oldest item; waits while there is none.
    #[inline]
    pub fn take(
        &self,
        scratch: &mut Scratch,
        deadline: Option<Instant>,
        through: ViaHandle<'_>,
    ) -> Result<Taken, Refusal> {
        match self.take_any(scratch)? {
            Some(taken) => Ok(taken),
            None => self.shared.items.0.wait(&self.items, deadline, &mut Take { store: self, scratch, through })?,
        }
    }

    /// As [`put`](Store::put), as a future.
    #[cfg(feature = "async")]
    pub async fn put_async(&self, item: &Item<'_>, through: ViaHandle<'_>) -> Result<(), Refusal> {
        match (self.try_put(item), &self.room) {
            (Err(Refusal::Full | Refusal::Crowded), Some(room)) => {
                self.shared
                    .room
                    .0
                    .wait_async(room, &mut Put { store: self, item, crowd: HandleRoom::No, through })
                    .await?
            }
            (result, _) => result,
        }
    }

    /// As [`take`](Store::take), as a future.
    #[cfg(feature = "async")]
    pub async fn take_async(&self, scratch: &mut Scratch, through: ViaHandle<'_>) -> Result<Taken, Refusal> {
        self.shared.items.0.wait_async(&self.items, &mut Take { store: self, scratch, through }).await?
    }

    /// Takes an item, if there is one. Fails with `Closed` if there won't be any more.
    #[inline]
    pub fn take_any(&self, scratch: &mut Scratch) -> Result<Option<Taken>, Refusal> {
        if self.flags & JOINABLE != 0
            && let Some(taken) = self.take_returned()?
        {
            return Ok(Some(taken));
        }
        // In this order, so that an item put before the close is seen.
        let closed = match self.shared.config.closed.load(SeqCst) {
            OPEN => false,
            _ => self.is_closed_in_time()?,
        };
        match self.try_take(scratch)? {
            None if closed => Err(Refusal::Closed),
            taken => Ok(taken),
        }
    }

    /// Whether no process is left that could take items. Only checked now and then; false in
    /// between. For callers that can't take items themselves.
    #[inline]
    pub fn has_lost_its_takers(&self) -> bool {
        self.change_rate.is_due() && self.look_for_takers()
    }

    #[cold]
    fn look_for_takers(&self) -> bool {
        let is_deserted = self.takers.is_deserted();
        if is_deserted {
            self.change_rate.look_again();
        }
        is_deserted
    }

    /// The descriptor that is readable when there may be something to take, armed by this call.
    pub fn fd_to_poll(&self) -> BorrowedFd<'_> {
        let fd = self.fd_to_sleep_on();
        self.polled.store(true, SeqCst);
        if !self.arm() {
            self.items.show();
        }
        fd
    }

    /// The same descriptor, for a caller that [arms](Store::arm) it itself.
    pub fn fd_to_sleep_on(&self) -> BorrowedFd<'_> {
        let wake_pipe = self.items.fd_to_poll();
        if self.ready_fd.get().is_none()
            && let Ok(ready_fd) = ReadyFd::new(wake_pipe)
        {
            // Another thread may have set it meanwhile.
            let _ = self.ready_fd.set(ready_fd);
        }
        // At the limit of open files it is the wake pipe itself.
        self.ready_fd.get().map_or(wake_pipe, ReadyFd::fd)
    }

    /// Makes the pollable descriptor readable when the next item comes, if
    /// [`fd_to_poll`](Store::fd_to_poll) has been called. Returns false if there may be something
    /// to take already.
    #[inline]
    pub fn arm_if_polled(&self) -> bool {
        self.give_back_when_quiet();
        !self.polled.load(Relaxed) || self.arm()
    }

    /// Arms the wake pipe of the items: the next put makes it readable. Returns false if there may
    /// be something to take already.
    pub fn arm(&self) -> bool {
        let mut take = Take { store: self, scratch: &mut Scratch::new(), through: ViaHandle::Other };
        // If it can't be checked now, there may be an item.
        let is_empty =
            !within(Limit::Moment, || take.look(&mut || self.shared.items.0.arm(&self.items))).unwrap_or(true);
        is_empty && self.ready_fd.get().is_none_or(|ready_fd| self.set(ready_fd))
    }

    /// Updates the workers and the timer that the pollable descriptor watches. Returns false if
    /// there is something to take by now.
    fn set(&self, ready_fd: &ReadyFd) -> bool {
        if self.is_joinable() {
            // A worker that comes later notifies the wake pipe.
            let looked = within(Limit::Moment, || self.look_after_workers(true));
            self.with_workers(|workers| ready_fd.watch(workers.iter()));
            if looked.is_err() || self.has_returned() {
                return false;
            }
        }
        self.give_back_when_quiet();
        ready_fd.remind(self.blocks().has_kept_more().then_some(QUIET));
        true
    }

    /// Frees the memory that is kept for a stream of large items, if none has been allocated for
    /// [`QUIET`].
    #[inline]
    pub fn give_back_when_quiet(&self) {
        if self.blocks().has_kept_more() && self.blocks().is_quiet(QUIET) {
            self.give_back_kept();
        }
    }
}

/// The first word of a record's header: length, flags, and a part of `position`, so that other
/// bytes aren't mistaken for a record.
#[inline]
fn header(position: u64, flags: u8, len: usize) -> u64 {
    mark(position) | u64::from(flags) << 32 | len as u64
}

#[inline]
fn parse(position: u64, word: u64) -> Option<(u8, usize)> {
    (word & !0xff_ffff_ffff == mark(position)).then_some(((word >> 32) as u8, word as u32 as usize))
}

#[inline]
fn mark(position: u64) -> u64 {
    (position ^ 0x5a_5a5a << 3) << 37 & !0xff_ffff_ffff
}

/// Writes `bytes` at offset `at` of a block that this process owns.
pub fn fill(blocks: Blocks<'_>, index: u32, at: u64, bytes: &[u8]) -> io::Result<()> {
    let start = memory(blocks, index, at + bytes.len() as u64)?;
    // SAFETY: the block is large enough and owned by this process alone, and `bytes`, which belong
    // to this process, can't lie in it. Only if the arena is corrupt may they lie in another block
    // that overlaps.
    #[allow(unsafe_code)]
    unsafe {
        start.as_ptr().add(at as usize).copy_from(bytes.as_ptr(), bytes.len());
    }
    Ok(())
}

fn memory(blocks: Blocks<'_>, index: u32, len: u64) -> io::Result<NonNull<u8>> {
    let allocated = blocks.allocated(index)?;
    if len > allocated {
        return Err(io::ErrorKind::InvalidData.into());
    }
    blocks.memory(index, len)
}

/// The bytes of an item in a block that this process has taken.
///
/// # Safety
/// The block must remain this process's until the borrow ends.
#[allow(unsafe_code)]
pub unsafe fn bytes_of<'a>(blocks: Blocks<'a>, index: u32, len: u64) -> io::Result<&'a [u8]> {
    let start = memory(blocks, index, len)?;
    // SAFETY: the block is at least `len` bytes long and has memory; no process writes to it while
    // it is this process's, as the caller guarantees.
    Ok(unsafe { std::slice::from_raw_parts(start.as_ptr(), len as usize) })
}

struct Put<'a> {
    store: &'a Store,
    item: &'a Item<'a>,
    crowd: HandleRoom,
    through: ViaHandle<'a>,
}

/// Whether the last attempt to put failed for lack of room for the item's handles.
#[derive(Clone, Copy)]
enum HandleRoom {
    No,
    /// It did; the oldest fd queue entry before the attempt is not known.
    Unseen,
    /// It did, and the oldest fd queue entry before the attempt had this number.
    Behind(Option<u64>),
}

impl WaitOp for Put<'_> {
    type Outcome = Result<(), Refusal>;

    fn attempt(&mut self) -> Option<Result<(), Refusal>> {
        // Read before the attempt: an entry that is discarded after that makes room.
        let crowd = match self.crowd {
            HandleRoom::No => HandleRoom::Unseen,
            HandleRoom::Unseen | HandleRoom::Behind(_) => HandleRoom::Behind(self.store.oldest_entry()),
        };
        match self.store.try_put(self.item) {
            Err(Refusal::Full) => {
                self.crowd = HandleRoom::No;
                None
            }
            Err(Refusal::Crowded) => {
                self.crowd = crowd;
                None
            }
            result => Some(result),
        }
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let size = match self.item.body {
            Body::Inline(bytes) => bytes.len() as u64,
            Body::Block(_, len) => len,
        };
        let behind = match self.crowd {
            HandleRoom::No => None,
            // Make another attempt, before which the oldest entry is read.
            HandleRoom::Unseen => return Ok(true),
            HandleRoom::Behind(oldest) => Some(oldest),
        };
        Ok(!self.store.arm_for_room(size, behind, arm)?)
    }

    fn has_stalled(outcome: &Result<(), Refusal>) -> bool {
        outcome.as_ref().is_err_and(|refusal| refusal.stalled().is_some())
    }

    fn through(&self) -> ViaHandle<'_> {
        self.through
    }

    fn more(&mut self) -> bool {
        !self.store.is_full()
    }

    fn came_with_more(&mut self) -> bool {
        self.store.seems_within_limits(1).is_ok()
    }
}

struct Take<'a> {
    store: &'a Store,
    scratch: &'a mut Scratch,
    through: ViaHandle<'a>,
}

impl WaitOp for Take<'_> {
    type Outcome = Result<Taken, Refusal>;

    fn attempt(&mut self) -> Option<Result<Taken, Refusal>> {
        self.store.take_any(self.scratch).transpose()
    }

    fn has_stalled(outcome: &Result<Taken, Refusal>) -> bool {
        outcome.as_ref().is_err_and(|refusal| refusal.stalled().is_some())
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _guard = self.store.producers()?;
        let is_empty = self.store.is_empty() && !self.store.is_closing();
        if is_empty {
            arm();
        }
        Ok(!is_empty)
    }

    fn watch(&mut self) -> io::Result<Watched> {
        let mut watched = if self.store.is_joinable() { self.store.watch_workers()? } else { Watched::default() };
        // Wakes up once, to free what was kept for the next item.
        if self.store.blocks().has_kept_more() {
            watched.look_again = Some(watched.look_again.map_or(QUIET, |time| time.min(QUIET)));
        }
        Ok(watched)
    }

    fn died(&mut self) -> io::Result<()> {
        if self.store.is_joinable() {
            self.store.look_after_workers(true)?;
        }
        self.store.give_back_kept();
        Ok(())
    }

    fn depends(&mut self) -> io::Result<bool> {
        let me = Identity::current()?;
        Ok(self.store.is_joinable() && self.store.lease_owners().any(|owner| owner != me))
    }

    fn through(&self) -> ViaHandle<'_> {
        self.through
    }

    fn more(&mut self) -> bool {
        !self.store.is_empty()
    }

    fn came_with_more(&mut self) -> bool {
        self.store.seen_tail.load(Relaxed) > self.store.shared.consumers.head.load(Relaxed)
    }
}

#[cfg(test)]
mod model;
