//! A queue of bytes and descriptors, in shared memory: what `Queue` and `JoinableQueue` are made of. `QUEUE.md` beside this file is its protocol.
//!
//! Small items lie in a ring, one behind the other; larger ones in blocks of their own ([`arena`](super::arena)), with a small record in the ring. The ring grows by doubling, so
//! that a queue without a limit needs nobody who empties it. Who puts takes a latch; who takes small items takes none, but looks and then moves the head
//! by one atomic operation (as readers do under a sequence lock, see Boehm, "Can seqlocks get along with programming language memory models?").

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

use super::arena::{Arena, ArenaHeader, Blocks, Descriptor, State};
use super::block::Block;
use super::change_rate::ChangeRate;
use super::growable_mapping::GrowableMapping;
use super::leases::Leases;
use super::ledger::{self, Book, Ledger};
use super::notifier::{Notifier, Tokens, ViaHandle};
use super::ready_fd::ReadyFd;
use super::scratch::{Scratch, copy_in};
use super::segment::{Layout, Segment};
use super::spin_lock::{Limit, RobustSpinGuard, RobustSpinLock, Stalled, within};
use super::wait_queue::{WaitFailure, WaitOp, WaitQueue, Watched};

/// Where the ring begins in the file.
const RING_AT: u64 = 2 << 20;

/// The size of a ring, as a power of two: at first; up to where it keeps its memory; at most.
const SMALLEST: u32 = 16;
const KEPT: u32 = 22;
const LARGEST: u32 = 40;

/// A larger ring gets memory, and gives it back, in steps of this many bytes.
const STEP: u64 = 1 << 18;

/// Items up to this many bytes lie in the ring.
pub(crate) const INLINE: usize = Scratch::ROOM - SPECIAL;

/// What stands before an item in the ring: its length and flags, and its number; in a queue with a limit also how many bytes have been put before it.
const HEADER: u64 = 16;
const LIMITED_HEADER: u64 = 24;

/// A bit of the head, beside the position: who takes next rings at the door of those who wait for room.
const ARMED: u64 = 1;

/// No position is beyond that: what says so is garbage, and nothing that is reckoned from it overflows.
const FARTHEST: u64 = 1 << 62;

/// Memory of a ring goes back in so many steps at a time.
const STEPS: u64 = 4096;

/// So long nothing has come when memory is given back that was kept for what comes next.
const QUIET: Duration = Duration::from_millis(200);

/// A producer looks at each put of this many whether that is so.
const BETWEEN_LOOKS: u64 = 64;

/// The length of a line of the cache, or about so.
const LINE: usize = 64;

/// Who takes items of up to so many bytes has so many lines fetched ahead; of longer ones the processor finds out by itself that they lie one behind the other.
const SHORT: usize = 192;
const AHEAD: usize = 3;

/// What stands before an item that has a block or handles.
const SPECIAL: usize = 24;

/// Nothing but room up to the next record.
const PAD: u8 = 1;
/// The item is in a block.
const BLOCK: u8 = 2;
/// Descriptors go with it.
const HANDLES: u8 = 4;
/// The item is bytes, and no encoded value.
const RAW: u8 = 8;

/// What a queue may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) items: u64,
    pub(crate) bytes: u64,
}

impl Limits {
    pub(crate) const NONE: Limits = Limits { items: u64::MAX, bytes: u64::MAX };

    /// At most so many items, but at least one; as many as there can be are no limit.
    pub(crate) fn new(items: usize, bytes: u64) -> Limits {
        Limits { items: if items == usize::MAX { u64::MAX } else { items.max(1) as u64 }, bytes }
    }

    /// How many items there may be; none without a limit.
    pub(crate) fn capacity(self) -> Option<usize> {
        usize::try_from(self.items).ok().filter(|items| *items != usize::MAX)
    }
}

const LIMITED: u32 = 1;
const JOINABLE: u32 = 2;

/// Things can be put. Nothing can be put any more, and whoever finds that out sees to it that those who wait for items are told. They have been.
const OPEN: u32 = 0;
const CLOSING: u32 = 1;
const CLOSED: u32 = 2;

/// What doesn't change, or seldom.
#[derive(Debug)]
#[repr(C, align(64))]
struct Config {
    flags: AtomicU32,
    /// The first and the last block of those whose leases have been given up, plus one; 0: there
    /// are none. Under the producers' latch.
    first_returned: AtomicU32,
    last_returned: AtomicU32,
    /// [`OPEN`], [`CLOSING`] or [`CLOSED`].
    closed: AtomicU32,
    /// The size of the ring as a power of two, in the lowest byte; above, how often it has changed.
    geometry: AtomicU64,
    items: AtomicU64,
    bytes: AtomicU64,
}

/// What those write who put. Under the latch.
#[derive(Debug)]
#[repr(C, align(64))]
struct Producers {
    spin_lock: RobustSpinLock,
    _unused: AtomicU32,
    /// How many items have been put, and their bytes.
    number: AtomicU64,
    bytes: AtomicU64,
    /// The same and the tail, as they will be after the put that is under way.
    next_tail: AtomicU64,
    next_number: AtomicU64,
    next_bytes: AtomicU64,
    /// The head, as it was seen last, and how many items had been taken then, and their bytes. So that who puts one item after another
    /// doesn't disturb those who take.
    seen_head: AtomicU64,
    seen_number: AtomicU64,
    seen_bytes: AtomicU64,
    /// How many letters have been put into the mailbox, or begun.
    letters: AtomicU64,
    /// Up to here the ring has memory.
    memory_until: AtomicU64,
    /// Up to here it has been given back.
    freed_until: AtomicU64,
    /// How much of the ring has kept its memory, from its beginning.
    kept: AtomicU64,
}

/// What those write who take.
#[derive(Debug)]
#[repr(C, align(64))]
struct Consumers {
    /// From here on items are there to be taken, but for [`ARMED`]. To move this is to have taken.
    head: AtomicU64,
    /// Held by those who take what is no small item of a queue, and those who have somebody to ring for.
    spin_lock: RobustSpinLock,
    _unused: AtomicU32,
    /// The block that is about to become a lease, plus one.
    leasing: AtomicU64,
}

#[derive(Debug)]
#[repr(C, align(64))]
struct Line<T>(T);

/// The shared part; all zero but for the first line, the queue is empty.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Shared {
    nature: Config,
    producers: Producers,
    /// Up to here items are there to be taken. To write this is to have put. By itself, as those who wait for items look at it all the time.
    tail: Line<AtomicU64>,
    /// Where those wait who take.
    items: Line<WaitQueue>,
    consumers: Consumers,
    /// Where those wait who put, and those who wait for all work to be done.
    room: Line<WaitQueue>,
    books: Line<ArenaHeader>,
    /// The processes that have taken items of a joinable queue. Under the producers' latch.
    workers: Line<Ledger>,
}

// SAFETY: atomics, and structs of such.
#[allow(unsafe_code)]
unsafe impl Layout for Shared {
    const NAME: &'static str = "queue";
    const KIND: u32 = u32::from_le_bytes(*b"que3");
    const MORE: usize = ledger::MORE;
}

/// Why something can't be put or taken.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// There is no room for it now, by the queue's limit.
    Full,
    /// There is no room for its handles now.
    Crowded,
    /// There never will be.
    TooLarge,
    Closed,
    /// The system gives no memory, or no descriptors.
    System(&'static str, io::Error),
    /// What lies in the shared memory is garbage.
    Corrupt(&'static str),
    /// Nobody is left who could make it come true.
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
    /// Whether it is that a latch could not be had in time: who has it, then.
    pub(crate) fn stalled(&self) -> Option<Stalled> {
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

/// What is to be put.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item<'a> {
    pub(crate) body: Body<'a>,
    /// Bytes, and no encoded value.
    pub(crate) raw: bool,
    /// The descriptors that go with it, and how many handles they make.
    pub(crate) fds: &'a [OwnedFd],
    pub(crate) handles: u32,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Body<'a> {
    /// No more than [`INLINE`].
    Inline(&'a [u8]),
    /// In a block of this process's, of which so many bytes are the item.
    Block(u32, u64),
}

/// What was taken.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) place: Place,
    pub(crate) raw: bool,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) handles: u32,
    /// How often it has been taken so far, this time included.
    pub(crate) deliveries: u32,
}

impl Taken {
    /// The block it is in, if it is in one that is no lease. `store` is asked for only if it is in one.
    pub(crate) fn block<S: std::ops::Deref<Target = Store>>(&self, store: impl FnOnce() -> S) -> Option<Block<S>> {
        let Place::Block(index, len) = self.place else { return None };
        let store = store();
        (!store.is_joinable()).then(|| Block::taken(store, index, len))
    }
}

/// Where it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// In the scratch.
    Scratch,
    /// In the scratch, and in a block that is a lease.
    Lease(u32),
    /// In a block, which is to be given back, or is a lease.
    Block(u32, u64),
}

/// A process's view of a queue.
#[derive(Debug)]
pub(crate) struct Store {
    shared: Segment<Shared>,
    ring: GrowableMapping,
    arena: Arena,
    mailbox: FdQueue,
    /// Opened by those who put.
    pub(crate) items: Notifier,
    /// Opened by those who take.
    pub(crate) room: Option<Notifier>,
    /// Held by all that could take, whatever they do: where none waits, so that producers see
    /// whether any consumer is left.
    pub(crate) takers: Notifier,
    /// When producers look at that.
    pub(crate) change_rate: ChangeRate,
    /// What is polled by those that wait for items by means of their own, once it has been asked
    /// for.
    ready_fd: OnceLock<ReadyFd>,
    /// Whether it has been.
    polled: AtomicBool,
    /// Blocks of this process's that are free, but for the list of those, which could not be had in
    /// time.
    to_give_back: Mutex<Vec<u32>>,
    /// The tail, as it was seen last.
    seen_tail: AtomicU64,
    flags: u32,
    limits: Limits,
    pub(super) leases: Leases,
}

/// A record of the ring, as it was read.
struct Record {
    /// Where it is, and where the next one is.
    at: u64,
    next: u64,
    flags: u8,
    len: usize,
    number: u64,
    /// In a queue with a limit.
    bytes: u64,
}

/// How many items, and how many bytes they have.
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
    pub(crate) fn create(limits: Limits, joinable: bool) -> io::Result<Store> {
        let shared = Segment::<Shared>::create()?;
        let ring = GrowableMapping::new(RING_AT, SMALLEST);
        ring.extend(shared.file(), 0)?;
        shared.file().allocate(RING_AT, 1 << SMALLEST)?;
        let limited = limits != Limits::NONE;
        let flags = if limited { LIMITED } else { 0 } | if joinable { JOINABLE } else { 0 };
        shared.nature.flags.store(flags, Relaxed);
        shared.nature.items.store(limits.items, Relaxed);
        shared.nature.bytes.store(limits.bytes, Relaxed);
        shared.nature.geometry.store(u64::from(SMALLEST), Relaxed);
        shared.producers.kept.store(1 << SMALLEST, Relaxed);
        shared.producers.memory_until.store(u64::MAX, Relaxed);
        Ok(Store {
            ring,
            arena: Arena::new(),
            mailbox: FdQueue::new()?,
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

    /// From what [`to_send`](Store::to_send) gave.
    ///
    /// # Errors
    /// `InvalidData` when it is something else.
    pub(crate) fn open(fds: Vec<OwnedFd>) -> io::Result<Store> {
        let mut fds = fds.into_iter();
        let mut next =
            || fds.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a part of the queue is missing"));
        let shared = Segment::<Shared>::open(next()?)?;
        let flags = shared.nature.flags.load(Relaxed);
        let limits = match flags & LIMITED != 0 {
            true => Limits { items: shared.nature.items.load(Relaxed), bytes: shared.nature.bytes.load(Relaxed) },
            false => Limits::NONE,
        };
        if limits.items == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the limit of the queue is nothing"));
        }
        Ok(Store {
            ring: GrowableMapping::new(RING_AT, SMALLEST),
            arena: Arena::new(),
            mailbox: FdQueue::from_fd(next()?)?,
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

    /// The descriptors that make a queue, to be sent to another process, which takes items
    /// (`takes`) or can't.
    pub(crate) fn to_send(&self, takes: bool) -> io::Result<Vec<OwnedFd>> {
        let mut fds = vec![
            self.shared.as_fd().try_clone_to_owned()?,
            self.mailbox.as_fd().try_clone_to_owned()?,
            self.items.to_send()?,
            if takes { self.takers.to_send()? } else { self.takers.to_send_reader()? },
        ];
        if let Some(room) = &self.room {
            fds.push(room.to_send()?);
        }
        Ok(fds)
    }

    /// The memory file, to be spoiled.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn file(&self) -> &multiproc_os::shared_memory::SharedFile {
        self.shared.file()
    }

    /// Has the owners of those latches be dead that are held.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn orphan_latches(&self) {
        self.shared.producers.spin_lock.orphan();
        self.shared.consumers.spin_lock.orphan();
        self.shared.books.0.orphan_latch();
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn is_joinable(&self) -> bool {
        self.flags & JOINABLE != 0
    }

    pub(crate) fn blocks(&self) -> Blocks<'_> {
        Blocks { arena: &self.arena, books: &self.shared.books.0, file: self.shared.file() }
    }

    /// Whether nothing can be put any more.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        match self.shared.nature.closed.load(SeqCst) {
            OPEN => false,
            CLOSED => true,
            _ => {
                self.finish_closing(self.producers_endlessly());
                true
            }
        }
    }

    /// As [`is_closed`](Store::is_closed), within the thread's limit.
    #[cold]
    fn is_closed_in_time(&self) -> Result<bool, Refusal> {
        match self.shared.nature.closed.load(SeqCst) {
            OPEN => Ok(false),
            CLOSED => Ok(true),
            _ => {
                self.finish_closing(self.producers()?);
                Ok(true)
            }
        }
    }

    /// The same, for one who holds a latch and so can't tell anybody.
    fn is_closing(&self) -> bool {
        self.shared.nature.closed.load(SeqCst) != OPEN
    }

    /// Has nothing more put in. Everybody who waits is told.
    pub(crate) fn close(&self) {
        // First those who wait for room: if this process dies after that, they are awake, and the first of them finishes it.
        if let Some(room) = &self.room {
            {
                let _consumers = self.consumers_endlessly();
                self.shared.room.0.before_change(room);
                let _ = self.shared.nature.closed.compare_exchange(OPEN, CLOSING, SeqCst, Relaxed);
            }
            self.shared.room.0.after_change(u32::MAX);
        }
        self.finish_closing(self.producers_endlessly());
    }

    /// With the producers' latch.
    #[cold]
    fn finish_closing(&self, producers: RobustSpinGuard<'_>) {
        self.shared.items.0.before_change(&self.items);
        self.shared.nature.closed.store(CLOSED, SeqCst);
        drop(producers);
        self.shared.items.0.after_change(u32::MAX);
    }

    /// The ring's size and what goes with it: a mask for positions.
    fn geometry(&self) -> (u64, u64) {
        let geometry = self.shared.nature.geometry.load(SeqCst);
        (geometry, (1 << (geometry & 0xff).clamp(u64::from(SMALLEST), u64::from(LARGEST))) - 1)
    }

    /// From here on items are there to be taken.
    #[inline]
    fn head(&self) -> u64 {
        self.shared.consumers.head.load(SeqCst) & !ARMED
    }

    /// How long the header of a record is.
    #[inline]
    fn header_len(&self) -> u64 {
        if self.flags & LIMITED != 0 { LIMITED_HEADER } else { HEADER }
    }

    /// Takes the producers' latch, and completes what a dead one has begun.
    #[inline]
    fn producers(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        let guard = self.shared.producers.spin_lock.lock()?;
        if guard.inherited {
            self.inherit_producers();
        }
        Ok(guard)
    }

    /// The same, for what can't fail.
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
        // The next put looks at how things are.
        own.seen_head.store(self.head(), Relaxed);
    }

    /// Takes the consumers' latch, and puts right what a dead one has left.
    fn consumers(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        let guard = self.shared.consumers.spin_lock.lock()?;
        if guard.inherited {
            self.inherit_consumers();
        }
        Ok(guard)
    }

    /// The same, for what can't fail.
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
        // It had marked a block as its own, and not taken the item.
        if let Some(index) = own.leasing.load(SeqCst).checked_sub(1)
            && let Ok(descriptor) = self.blocks().descriptor(index as u32)
            && descriptor.position.load(SeqCst) >= head
        {
            match descriptor.state() {
                // A copy: there is no item in it. Whoever looks for blocks of the dead finds it.
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
    pub(crate) fn try_put(&self, item: &Item<'_>) -> Result<(), Refusal> {
        let (payload, size) = match item.body {
            Body::Inline(bytes) if item.fds.is_empty() => (bytes.len(), bytes.len() as u64),
            Body::Inline(bytes) => (SPECIAL + bytes.len(), bytes.len() as u64),
            Body::Block(_, len) => (SPECIAL, len),
        };
        let header_len = self.header_len();
        let need = header_len + payload.next_multiple_of(8) as u64;
        let own = &self.shared.producers;
        // First without the latch, so that those who wait for room are not in the way of others.
        if self.flags & LIMITED != 0 {
            self.seems_within_limits(size)?;
        }
        let guard = self.producers()?;
        if self.is_closing() {
            drop(guard);
            // Those who wait for items may not have been told yet.
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
        let letter = own.letters.load(Relaxed);
        let mut flags = if item.raw { RAW } else { 0 };
        let content = &words[header_len as usize / 8..];
        match item.body {
            Body::Inline(bytes) if item.fds.is_empty() => copy_in(content, bytes),
            Body::Inline(bytes) => {
                flags |= HANDLES;
                content[0].store(u64::from(item.handles) << 32, Relaxed);
                content[1].store(size, Relaxed);
                content[2].store(letter, Relaxed);
                copy_in(&content[SPECIAL / 8..], bytes);
            }
            Body::Block(index, _) => {
                flags |= BLOCK | if item.fds.is_empty() { 0 } else { HANDLES };
                content[0].store(u64::from(item.handles) << 32 | u64::from(index), Relaxed);
                content[1].store(size, Relaxed);
                content[2].store(letter, Relaxed);
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
            // First that, so that no other has its number, even if this process dies before there is an item.
            own.letters.store(letter.wrapping_add(1), SeqCst);
            self.mailbox.put(letter, &fds).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock if self.flags & LIMITED != 0 => Refusal::Crowded,
                _ => Refusal::System("there are too many items with handles in it", error),
            })?;
        }
        if let Body::Block(index, _) = item.body
            && let Ok(descriptor) = self.blocks().descriptor(index)
        {
            descriptor.set(State::Queued);
        }
        // First the tail: as long as it is not the tail, the others mean nothing. Each after the other, for whoever inherits this.
        own.next_tail.store(at + need, Relaxed);
        own.next_number.store(number.wrapping_add(1), Release);
        let bytes = bytes.wrapping_add(size);
        own.next_bytes.store(bytes, Release);
        self.shared.items.0.before_change(&self.items);
        // The latch is opened by what is sequentially consistent.
        self.shared.tail.0.store(at + need, Release);
        own.number.store(number.wrapping_add(1), Release);
        own.bytes.store(bytes, Release);
        drop(guard);
        self.shared.items.0.after_change(1);
        if number.is_multiple_of(BETWEEN_LOOKS) && self.blocks().has_kept_more() && self.blocks().is_quiet(QUIET) {
            // The consumers may not come by again.
            let _ = within(Limit::Moment, || self.blocks().free_kept());
        }
        // What is put next will lie behind it, where somebody has read before. Within the ring, or else it is a hint in vain.
        let behind = words.as_ptr_range().end;
        prefetch::for_write(behind.wrapping_byte_add(LINE - 1));
        prefetch::for_write(behind.wrapping_byte_add(2 * LINE - 1));
        Ok(())
    }

    /// Whether one more item of `size` bytes may be put: for sure, under the producers' latch.
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

    /// As [`within_limits`](Store::within_limits), looked at without the latch. Who wonders looks again under it.
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

    /// How much has been put, at least. To be looked at before the head: then it is full if it seems so.
    #[inline]
    fn put_so_far(&self) -> Count {
        Count::of(&self.shared.producers.number, &self.shared.producers.bytes)
    }

    /// Whether an item of `size` bytes is within the limits if so much has been put, and so much has been taken.
    #[inline]
    fn fits(&self, size: u64, put: Count, taken: Count) -> bool {
        let items = put.number.saturating_sub(taken.number);
        let bytes = put.bytes.saturating_sub(taken.bytes);
        items < self.limits.items && bytes.saturating_add(size) <= self.limits.bytes
    }

    /// How much has been taken if that is the head; none if it isn't any more. The record that is there says it. If there is none, all has been that
    /// is known to be put.
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

    /// How much has been taken. Under the producers' latch, so that nobody writes over what is at the head.
    fn taken(&self) -> Result<Count, Refusal> {
        loop {
            if let Some(taken) = self.taken_before(self.head())? {
                return Ok(taken);
            }
        }
    }

    /// Makes a consumer ring at the door when there may be room for an item: for `size` bytes, and
    /// for its handles if there was none for those `behind` the oldest letter. False,
    /// without that, if there may be some already.
    fn arm_for_room(&self, size: u64, behind: Option<Option<u64>>, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let head = &self.shared.consumers.head;
        let _guard = self.consumers()?;
        let put = self.put_so_far();
        let found = head.load(SeqCst);
        let is_full = match self.taken_before(found & !ARMED) {
            // Letters go when items do, under the latch, but after the head has moved: so it may have moved
            // before the attempt that found no room, and the letter have gone after it.
            Ok(Some(taken)) => match behind {
                Some(oldest) => self.shared.tail.0.load(SeqCst) > found & !ARMED && self.oldest_letter() == oldest,
                None => !self.fits(size, put, taken),
            },
            // Something has been taken meanwhile; or there is garbage, and whoever tries is told.
            Ok(None) | Err(_) => false,
        };
        if !is_full || self.is_closing() {
            return Ok(false);
        }
        // In this order: who finds the bit rings only if that is set. Under the latch nobody is in the middle of it.
        arm();
        Ok(found & ARMED != 0 || head.compare_exchange(found, found | ARMED, SeqCst, Relaxed).is_ok())
    }

    /// Where a record of `need` bytes goes, and the mask of positions. Under the producers' latch.
    #[inline]
    fn make_room(&self, tail: u64, need: u64) -> Result<(u64, u64), Refusal> {
        let own = &self.shared.producers;
        if tail > FARTHEST {
            return Err(Refusal::Corrupt("the tail"));
        }
        loop {
            let (_, mask) = self.geometry();
            let offset = tail & mask;
            // A record lies within one piece.
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
                    return Err(Refusal::Corrupt("there is more in it than fits"));
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

    /// Doubles the ring. What has been put stays where it is, or goes to the new half, where its position says.
    #[cold]
    fn grow(&self, head: u64, tail: u64) -> Result<(), Refusal> {
        let (own, file) = (&self.shared.producers, self.shared.file());
        let (geometry, mask) = self.geometry();
        let (size, order) = (mask + 1, (mask + 1).ilog2());
        if order >= LARGEST {
            return Err(Refusal::System("it can't become any larger", io::ErrorKind::StorageFull.into()));
        }
        // Memory is asked for by what head and tail say: so something should be there.
        if head < tail && self.read(head, tail, mask).is_none() {
            return Err(Refusal::Corrupt("the record at its head"));
        }
        self.ring.extend(file, size).map_err(Refusal::system("no memory for its ring"))?;
        // Those who put need memory from the tail on, and what is moved needs it in the new half.
        let kept = own.kept.load(Relaxed);
        if order < KEPT && kept < 2 * size {
            file.allocate(RING_AT + kept, 2 * size - kept).map_err(Refusal::system("no memory for its ring"))?;
            own.kept.store(2 * size, Relaxed);
        }
        let mut position = head;
        while position < tail {
            // Up to where either half ends, or the records do.
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
        self.shared.nature.geometry.store(changes << 8 | u64::from(order + 1), SeqCst);
        fence(SeqCst);
        Ok(())
    }

    /// Copies words of the ring.
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

    /// Makes the ring as small as it was, when it is empty.
    #[cold]
    fn shrink(&self) {
        let own = &self.shared.producers;
        let (geometry, mask) = self.geometry();
        let changes = (geometry >> 8) + 1;
        self.shared.nature.geometry.store(changes << 8 | u64::from(SMALLEST), SeqCst);
        fence(SeqCst);
        if mask + 1 > 1 << KEPT {
            self.shared.file().free(RING_AT + (1 << KEPT), mask + 1 - (1 << KEPT));
        }
        own.memory_until.store(u64::MAX, Relaxed);
        own.freed_until.store(0, Relaxed);
    }

    /// Has memory for the ring from `tail` up to the position `until`, and some more.
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

    /// Gives back the memory of what has been taken from a large ring, when `head` has come by the end of a step.
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
        // Not too many at a time, as others wait; the rest at the next step.
        let mut position = from / STEP * STEP;
        let until = until.min(position.saturating_add(STEPS * STEP));
        while position < until {
            let offset = position & mask;
            // Not what is kept, and not what is in use again, a round later.
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

    /// Takes the oldest item, if there is one. Small ones are copied into `scratch`.
    #[inline]
    pub(crate) fn try_take(&self, scratch: &mut Scratch) -> Result<Option<Taken>, Refusal> {
        if self.flags & JOINABLE != 0 {
            return self.take_latched(scratch);
        }
        let consumers = &self.shared.consumers;
        loop {
            let head = consumers.head.load(SeqCst);
            if head & ARMED != 0 {
                return self.take_latched(scratch);
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
                return self.take_latched(scratch);
            }
            scratch.copy(content, record.len);
            if record.len <= SHORT {
                // What comes next lies behind it. For writing, since that is what is done next with a line that was read.
                let behind = content.as_ptr_range().end;
                (1..=AHEAD).for_each(|line| prefetch::for_write(behind.wrapping_byte_add(line * LINE)));
            }
            // If the ring has changed, or somebody has taken the item and another lies in its place, this was garbage.
            fence(Acquire);
            if self.shared.nature.geometry.load(Relaxed) != geometry {
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

    /// The tail, or something between `head` and that.
    #[inline]
    fn tail(&self, head: u64) -> Result<u64, Refusal> {
        // Kept here, so that who takes one item after another doesn't disturb those who put.
        let seen = self.seen_tail.load(Acquire);
        if seen > head {
            return Ok(seen);
        }
        let tail = self.shared.tail.0.load(SeqCst);
        if tail > FARTHEST {
            return Err(Refusal::Corrupt("the tail"));
        }
        self.seen_tail.store(tail, Release);
        // Somebody may have taken more meanwhile.
        if tail < head && self.head() == head {
            return Err(Refusal::Corrupt("the head is beyond the tail"));
        }
        Ok(tail.max(head))
    }

    /// What could not be read at `head` is garbage if nothing has changed meanwhile.
    #[cold]
    fn is_garbage(&self, head: u64, geometry: u64) -> Result<(), Refusal> {
        fence(SeqCst);
        let (now, _) = self.geometry();
        match self.head() == head && now == geometry {
            true => Err(Refusal::Corrupt("the record at its head")),
            false => Ok(()),
        }
    }

    /// Takes the oldest item under the latch: it has a block, or handles, or others wait for what this changes.
    fn take_latched(&self, scratch: &mut Scratch) -> Result<Option<Taken>, Refusal> {
        // Those who wait are not in the way of others.
        let head = self.head();
        if self.tail(head)? == head {
            return Ok(None);
        }
        // Before the latch, as it takes one itself.
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
            // In a joinable one others may wait there for the work to be done, who wouldn't pass it on.
            self.shared.room.0.after_change(if self.is_joinable() { u32::MAX } else { 1 });
        }
        let (_, mask) = self.geometry();
        self.give_back(head, next, mask);
        Ok(Some(taken))
    }

    /// With where the head was, and is.
    fn take_locked(
        &self,
        scratch: &mut Scratch,
        lease: &mut Option<u32>,
    ) -> Result<Option<(Taken, u64, u64)>, Refusal> {
        loop {
            let head = self.head();
            let tail = self.tail(head)?;
            // Without one for a lease, it was empty a moment ago.
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
            if self.shared.nature.geometry.load(Relaxed) != geometry {
                continue;
            }
            if let Some(taken) = self.take_record(head, &record, scratch, lease)? {
                return Ok(Some((taken, head, record.next)));
            }
        }
    }

    /// Takes the item of a record, which is in `scratch`; none if somebody else has.
    fn take_record(
        &self,
        head: u64,
        record: &Record,
        scratch: &mut Scratch,
        lease: &mut Option<u32>,
    ) -> Result<Option<Taken>, Refusal> {
        let consumers = &self.shared.consumers;
        let special = record.flags & (BLOCK | HANDLES) != 0;
        let (index, handles, size, letter) = match scratch.bytes().first_chunk::<SPECIAL>() {
            Some(bytes) if special => {
                let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
                (word(0) as u32, (word(0) >> 32) as u32, word(8), word(16))
            }
            None if special => return Err(Refusal::Corrupt("the record at its head")),
            _ => (0, 0, record.len as u64, 0),
        };
        let fds = match record.flags & HANDLES != 0 {
            true => self.letter(letter, handles).map_err(Refusal::system("the handles of the item at its head"))?,
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
        // With the bit or without it: those whom it is for have been told.
        let found = consumers.head.load(SeqCst);
        if found & !ARMED != head || consumers.head.compare_exchange(found, record.next, SeqCst, Relaxed).is_err() {
            return Ok(None);
        }
        if record.flags & HANDLES != 0 {
            self.mailbox.discard();
        }
        if matches!(place, Place::Lease(_)) {
            *lease = None;
        }
        Ok(Some(Taken { place, raw: record.flags & RAW != 0, fds, handles, deliveries }))
    }

    /// The descriptors in the letter of this number, in which so many handles are. Those of items that have been taken, or never came to be, are
    /// thrown away.
    fn letter(&self, wanted: u64, handles: u32) -> io::Result<Vec<OwnedFd>> {
        while let Some(number) = self.mailbox.number()? {
            if number == wanted {
                let fds = self.mailbox.look()?;
                // They lie in sockets: they need their room when the item has been taken, which is too late to leave it.
                if handles as usize > fds.len() {
                    fd_budget::look(&fds, handles)?;
                }
                return Ok(fds);
            }
            if number > wanted {
                break;
            }
            self.mailbox.discard();
        }
        Ok(Vec::new())
    }

    /// The number of the oldest letter, if there is one.
    #[cold]
    fn oldest_letter(&self) -> Option<u64> {
        self.mailbox.number().ok().flatten()
    }

    /// A block for `len` bytes, this process's to fill.
    pub(crate) fn allocate(&self, len: u64) -> Result<u32, Refusal> {
        self.give_back_what_was_left()?;
        if self.blocks().is_time_to_look() {
            self.take_from_the_dead()?;
        }
        self.blocks().allocate(len).map_err(Refusal::system("no memory for an item of its size"))
    }

    /// Gives back a block that is this process's. If the latch of the blocks can't be had in time,
    /// it is done later.
    ///
    /// # Errors
    /// `InvalidData` if the books are garbage.
    pub(crate) fn give_back_block(&self, index: u32) -> io::Result<()> {
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

    /// Gives back the blocks that nobody will give back any more.
    #[cold]
    fn take_from_the_dead(&self) -> Result<(), Refusal> {
        let blocks = self.blocks();
        let mut suspects = Vec::new();
        {
            // While nobody is about to take an item.
            let _guard = self.consumers()?;
            let head = self.head();
            for (index, descriptor) in blocks.all() {
                let taken = descriptor.position.load(SeqCst) < head;
                match descriptor.state() {
                    state @ State::Building(owner) => suspects.push((descriptor, index, state, Some(owner))),
                    state @ State::Reading(owner) if taken => suspects.push((descriptor, index, state, Some(owner))),
                    // Its producer has died before it was put.
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

    /// Gives back the memory that is kept for a stream of large items, as none have come for a while, or won't.
    pub(crate) fn give_back_kept(&self) {
        let blocks = self.blocks();
        if blocks.has_kept_more() && self.is_empty() {
            // It fails only if the books are garbage, or their latch can't be had in time; and then
            // it is done another time.
            let _ = within(Limit::Moment, || blocks.free_kept());
        }
    }

    /// Whether there is nothing to take.
    pub(crate) fn is_empty(&self) -> bool {
        let head = self.head();
        self.shared.tail.0.load(SeqCst) <= head && !self.has_returned()
    }

    /// How many items there are. Without a latch, which a process may hold that is stopped.
    pub(crate) fn len(&self) -> u64 {
        let returned = if self.has_returned() { self.count_blocks(|state| state == State::Returned) } else { 0 };
        // If there is garbage, nothing can be taken.
        let there = self.at_one_moment(|put, taken| put.number.saturating_sub(taken.number)).unwrap_or(0);
        there.saturating_add(returned)
    }

    /// Whether an item that is not too large would have to wait: whether there are as many as there may be.
    pub(crate) fn is_full(&self) -> bool {
        let size = 1.min(self.limits().bytes);
        self.flags & LIMITED != 0 && self.at_one_moment(|put, taken| !self.fits(size, put, taken)).unwrap_or(false)
    }

    /// What `look` makes of how much has been put, and how much has been taken.
    fn at_one_moment<R>(&self, look: impl Fn(Count, Count) -> R) -> Result<R, Refusal> {
        loop {
            let put = self.put_so_far();
            if let Some(taken) = self.taken_before(self.head())? {
                return Ok(look(put, taken));
            }
        }
    }

    /// Whether some lease has been given up, and waits to be taken.
    #[inline]
    pub(super) fn has_returned(&self) -> bool {
        self.shared.nature.first_returned.load(SeqCst) != 0
    }

    /// Makes the list of leases that have been given up anew. Under the producers' latch.
    #[cold]
    fn list_returned(&self) {
        self.shared.nature.first_returned.store(0, SeqCst);
        self.shared.nature.last_returned.store(0, SeqCst);
        for (index, descriptor) in self.blocks().all() {
            if descriptor.state() == State::Returned {
                self.push_returned(index, descriptor);
            }
        }
    }

    /// Puts a lease that has been given up at the end of their list. Under the producers' latch.
    fn push_returned(&self, index: u32, descriptor: &Descriptor) {
        let nature = &self.shared.nature;
        descriptor.next.store(0, SeqCst);
        let last = nature.last_returned.load(Relaxed).checked_sub(1);
        match last.and_then(|last| self.blocks().descriptor(last).ok()) {
            Some(last) if self.has_returned() => last.next.store(index + 1, SeqCst),
            _ => nature.first_returned.store(index + 1, SeqCst),
        }
        nature.last_returned.store(index + 1, SeqCst);
    }

    /// Takes the first lease of those that have been given up. Under the producers' latch.
    pub(super) fn pop_returned(&self, me: Identity) -> Option<(u32, &Descriptor)> {
        let nature = &self.shared.nature;
        // As many as there may be, or else it goes in a circle.
        for _ in 0..self.blocks().count() {
            let index = nature.first_returned.load(SeqCst).checked_sub(1)?;
            let Ok(descriptor) = self.blocks().descriptor(index) else {
                // Garbage.
                self.list_returned();
                continue;
            };
            let next = descriptor.next.load(SeqCst);
            nature.first_returned.store(next, SeqCst);
            if next == 0 {
                nature.last_returned.store(0, SeqCst);
            }
            // If this process dies after that, it has the lease, and the process that inherits the
            // latch makes the list anew.
            if descriptor.change(State::Returned, State::Leased(me)) {
                return Some((index, descriptor));
            }
        }
        None
    }

    /// The processes that have taken items.
    pub(super) fn workers(&self) -> Book<'_, Shared> {
        Book { ledger: &self.shared.workers.0, segment: &self.shared }
    }

    /// Puts this process on the list of those that take items, so that all that wait for items
    /// watch it. Before it has a lease for the first time.
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
                    // Waiters that sleep watch the processes that were on it. They are to watch
                    // this one, too.
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

    pub(super) fn is_raw(&self, lease: &Descriptor) -> bool {
        lease.flags.load(Relaxed) & u32::from(RAW) != 0
    }

    /// Whether a lease is one: its item has been taken.
    pub(super) fn is_taken(&self, lease: &Descriptor) -> bool {
        lease.position.load(SeqCst) < self.head()
    }

    /// Those who have leases.
    pub(super) fn lease_owners(&self) -> impl Iterator<Item = Identity> {
        self.blocks().all().filter_map(|(_, descriptor)| match descriptor.state() {
            State::Leased(owner) => Some(owner),
            _ => None,
        })
    }

    /// Calls `look` with the bytes of a lease of this process's.
    #[allow(unsafe_code)]
    pub(crate) fn with_lease<R>(&self, index: u32, len: u64, look: impl FnOnce(&[u8]) -> R) -> Result<R, Refusal> {
        // SAFETY: it is this process's until its work is done or it is given up, which the caller doesn't do meanwhile.
        let bytes = unsafe { bytes_of(self.blocks(), index, len) }.map_err(Refusal::system("a lease"))?;
        Ok(look(bytes))
    }

    /// Gives up a lease of this process's, as the processes that wait for items must learn of it.
    pub(super) fn give_up_lease(&self, index: u32, me: Identity) {
        let Ok(lease) = self.blocks().descriptor(index) else { return };
        let returned = {
            let _guard = self.producers_endlessly();
            self.shared.items.0.before_change(&self.items);
            let returned = lease.change(State::Leased(me), State::Returned);
            // If this process dies in between, the process that inherits the latch makes the list
            // anew.
            if returned {
                self.push_returned(index, lease);
            }
            returned
        };
        if returned {
            self.shared.items.0.after_change(1);
        }
    }

    /// Gives up the leases of processes that have died, and takes those off the list.
    pub(super) fn give_up_leases_of(&self, dead: &[Identity]) -> Result<(), Stalled> {
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
    pub(super) fn take_given_up(&self, me: Identity) -> Result<Option<Taken>, Refusal> {
        self.enlist()?;
        let _guard = self.producers()?;
        let Some((index, lease)) = self.pop_returned(me) else { return Ok(None) };
        let deliveries = lease.deliveries.fetch_add(1, SeqCst).wrapping_add(1);
        let place = Place::Block(index, lease.len.load(SeqCst));
        Ok(Some(Taken { place, raw: self.is_raw(lease), fds: Vec::new(), handles: 0, deliveries }))
    }

    /// Does what finishes work, as those must learn of who wait for that.
    pub(super) fn change_work(&self, finish: impl FnOnce() -> bool) -> bool {
        let finished = {
            let _guard = self.consumers_endlessly();
            if let Some(room) = &self.room {
                self.shared.room.0.before_change(room);
            }
            finish()
        };
        // Both those who put and those who join wait there.
        self.shared.room.0.after_change(u32::MAX);
        finished
    }

    /// How many items have been put on which the work is not done.
    pub(crate) fn unfinished(&self) -> u64 {
        loop {
            let head = self.head();
            let put = self.shared.producers.number.load(SeqCst);
            let taken = match self.taken_before(head) {
                Ok(Some(taken)) => taken.number,
                Ok(None) => continue,
                // If there is garbage, something is there.
                Err(_) => put.saturating_sub(1),
            };
            let leased = self.count_blocks(|state| matches!(state, State::Leased(_) | State::Returned));
            let waiting = self.shared.tail.0.load(SeqCst) > head;
            if self.head() == head {
                return put.saturating_sub(taken).max(waiting.into()).saturating_add(leased);
            }
        }
    }

    pub(super) fn look_at_work(&self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _guard = self.consumers()?;
        let done = self.unfinished() == 0;
        if !done {
            arm();
        }
        Ok(done)
    }

    pub(super) fn wait_for_work<W: WaitOp>(
        &self,
        deadline: Option<Instant>,
        wish: &mut W,
    ) -> Result<W::Outcome, WaitFailure> {
        match &self.room {
            Some(room) => self.shared.room.0.wait(room, deadline, wish),
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
    pub(crate) fn put(
        &self,
        item: &Item<'_>,
        deadline: Option<Instant>,
        through: ViaHandle<'_>,
    ) -> Result<(), Refusal> {
        match (self.try_put(item), &self.room) {
            (Err(Refusal::Full | Refusal::Crowded), Some(room)) => {
                self.shared.room.0.wait(room, deadline, &mut Put { store: self, item, crowd: Crowd::No, through })?
            }
            (result, _) => result,
        }
    }

    /// Takes the oldest item; waits while there is none.
    #[inline]
    pub(crate) fn take(
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
    pub(crate) async fn put_async(&self, item: &Item<'_>, through: ViaHandle<'_>) -> Result<(), Refusal> {
        match (self.try_put(item), &self.room) {
            (Err(Refusal::Full | Refusal::Crowded), Some(room)) => {
                self.shared.room.0.wait_async(room, &mut Put { store: self, item, crowd: Crowd::No, through }).await?
            }
            (result, _) => result,
        }
    }

    /// As [`take`](Store::take), as a future.
    #[cfg(feature = "async")]
    pub(crate) async fn take_async(&self, scratch: &mut Scratch, through: ViaHandle<'_>) -> Result<Taken, Refusal> {
        self.shared.items.0.wait_async(&self.items, &mut Take { store: self, scratch, through }).await?
    }

    /// Takes an item, if there is one; an error if there won't be any more.
    #[inline]
    pub(crate) fn take_any(&self, scratch: &mut Scratch) -> Result<Option<Taken>, Refusal> {
        if self.flags & JOINABLE != 0
            && let Some(taken) = self.take_returned()?
        {
            return Ok(Some(taken));
        }
        // In this order: what was put before it was closed is seen.
        let closed = match self.shared.nature.closed.load(SeqCst) {
            OPEN => false,
            _ => self.is_closed_in_time()?,
        };
        match self.try_take(scratch)? {
            None if closed => Err(Refusal::Closed),
            taken => Ok(taken),
        }
    }

    /// Whether no process is left that could take anything, as far as is known: it is looked only
    /// now and then. For a caller that can't itself.
    #[inline]
    pub(crate) fn has_lost_its_takers(&self) -> bool {
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

    /// The descriptor that is readable when there may be something to take: from now on, and now if
    /// there is.
    pub(crate) fn fd_to_poll(&self) -> BorrowedFd<'_> {
        let fd = self.fd_to_sleep_on();
        self.polled.store(true, SeqCst);
        if !self.arm() {
            self.items.show();
        }
        fd
    }

    /// The same descriptor, for one that [arms](Store::arm) it itself.
    pub(crate) fn fd_to_sleep_on(&self) -> BorrowedFd<'_> {
        let wake_pipe = self.items.fd_to_poll();
        if self.ready_fd.get().is_none()
            && let Ok(ready_fd) = ReadyFd::new(wake_pipe)
        {
            // Another thread may have been quicker.
            let _ = self.ready_fd.set(ready_fd);
        }
        // At the limit of open files it is the door itself.
        self.ready_fd.get().map_or(wake_pipe, ReadyFd::fd)
    }

    /// Has the descriptor tell of the next item, if it has been asked for. False if there may be
    /// something to take already.
    #[inline]
    pub(crate) fn arm_if_polled(&self) -> bool {
        self.give_back_when_quiet();
        !self.polled.load(Relaxed) || self.arm()
    }

    /// Has the door of the items rung at when there may be something to take. False if there may be already.
    pub(crate) fn arm(&self) -> bool {
        let mut take = Take { store: self, scratch: &mut Scratch::new(), through: ViaHandle::Other };
        // If it can't be looked at now, there may be something.
        let is_empty =
            !within(Limit::Moment, || take.look(&mut || self.shared.items.0.arm(&self.items))).unwrap_or(true);
        is_empty && self.ready_fd.get().is_none_or(|ready_fd| self.set(ready_fd))
    }

    /// Has the bell tell of whatever else may come. False if something has by now.
    fn set(&self, ready_fd: &ReadyFd) -> bool {
        if self.is_joinable() {
            // Those that come later ring at the door.
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

    /// Gives back the memory that is kept for a stream of large items, if none have come for a
    /// while.
    #[inline]
    pub(crate) fn give_back_when_quiet(&self) {
        if self.blocks().has_kept_more() && self.blocks().is_quiet(QUIET) {
            self.give_back_kept();
        }
    }
}

/// What an item's length and flags look like in a record at `position`. A part of that is in it too, so that something else isn't taken for a record.
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

/// Writes into a block that is this process's.
pub(crate) fn fill(blocks: Blocks<'_>, index: u32, at: u64, bytes: &[u8]) -> io::Result<()> {
    let start = memory(blocks, index, at + bytes.len() as u64)?;
    // SAFETY: the block is large enough, and this process's alone; a value of another process can't lie in it. Unless the books are garbage, and then
    // `bytes` may be of another block that overlaps.
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
/// The block must be this process's until the borrow ends.
#[allow(unsafe_code)]
pub(crate) unsafe fn bytes_of<'a>(blocks: Blocks<'a>, index: u32, len: u64) -> io::Result<&'a [u8]> {
    let start = memory(blocks, index, len)?;
    // SAFETY: the block is as large, and has memory; nobody writes to it while it is this process's, as the caller says.
    Ok(unsafe { std::slice::from_raw_parts(start.as_ptr(), len as usize) })
}

struct Put<'a> {
    store: &'a Store,
    item: &'a Item<'a>,
    crowd: Crowd,
    through: ViaHandle<'a>,
}

/// Whether it was for want of room for its handles that an item could not be put, at the last
/// attempt.
#[derive(Clone, Copy)]
enum Crowd {
    No,
    /// It was; what was in the mailbox before the attempt is not known.
    Unseen,
    /// It was, and this was the number of the oldest letter before the attempt.
    Behind(Option<u64>),
}

impl WaitOp for Put<'_> {
    type Outcome = Result<(), Refusal>;

    fn attempt(&mut self) -> Option<Result<(), Refusal>> {
        // Before the attempt: what is taken out of the mailbox after that makes room.
        let crowd = match self.crowd {
            Crowd::No => Crowd::Unseen,
            Crowd::Unseen | Crowd::Behind(_) => Crowd::Behind(self.store.oldest_letter()),
        };
        match self.store.try_put(self.item) {
            Err(Refusal::Full) => {
                self.crowd = Crowd::No;
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
            Crowd::No => None,
            // Another attempt, before which it is seen what is in the mailbox.
            Crowd::Unseen => return Ok(true),
            Crowd::Behind(oldest) => Some(oldest),
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
        // Once, to give back what was kept for the next item.
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
