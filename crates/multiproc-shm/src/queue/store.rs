//! A process's view of a queue of bytes and file descriptors in shared memory, the basis of `Queue`
//! and `JoinableQueue`. Its protocol is described in `QUEUE.md`, beside this file.
//!
//! Small items lie in a ring, one after the other. Larger ones have blocks of their own
//! ([`arena`](crate::queue::arena)), and a small record in the ring. The ring grows by doubling, so
//! a queue without a limit accepts items even if none is taken. A producer holds a lock; a consumer
//! of small items holds none.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};

use multiproc_os::fd_queue::FdQueue;

use crate::lock::fork_mutex::ForkMutex;
use crate::lock::spin_lock::{RobustSpinGuard, Stalled};
use crate::loom::atomic::AtomicU64;
use crate::memory::growable_mapping::GrowableMapping;
use crate::memory::once_box::OnceBox;
use crate::memory::segment::Segment;
use crate::queue::arena::{Arena, Blocks, Descriptor, State};
pub use crate::queue::error::Error;
pub use crate::queue::item::{Body, Item, Place, Taken};
pub use crate::queue::layout::INLINE;
use crate::queue::layout::{BLOCK, JOINABLE, LIMITED, RING_AT, SMALLEST, Shared};
use crate::queue::leases::Leases;
pub use crate::queue::limits::Limits;
use crate::wait::consumer_check::ConsumerCheck;
use crate::wait::notifier::{Notifier, Tokens};
use crate::wait::ready_fd::ReadyFd;

/// A process's view of a queue.
#[derive(Debug)]
pub struct Store {
    pub(super) shared: Segment<Shared>,
    pub(super) ring: GrowableMapping,
    pub(super) arena: Arena,
    pub(super) fd_queue: FdQueue,
    /// Notified by producers.
    pub items: Notifier,
    /// Notified by consumers.
    pub room: Option<Notifier>,
    /// Held open for writing by every process that could take items, whatever it does. No thread
    /// waits at it: a hang-up tells producers that no consumer is left.
    pub takers: Notifier,
    /// When a producer next checks whether a consumer is left.
    pub consumer_check: ConsumerCheck,
    /// The descriptor for callers that wait for items with poll(2) or epoll(7), once it has been
    /// asked for.
    pub(super) ready_fd: OnceBox<ReadyFd>,
    /// Whether [`fd_to_poll`](Store::fd_to_poll) has been called.
    pub(super) polled: AtomicBool,
    /// Blocks of this process that are free, but could not be added to the list of free blocks
    /// because its lock could not be acquired in time.
    pub(super) to_give_back: ForkMutex<Vec<u32>>,
    /// The tail, as last seen.
    pub(super) seen_tail: AtomicU64,
    pub(super) flags: u32,
    pub(super) limits: Limits,
    pub(super) leases: Leases,
}

impl Store {
    /// Creates a queue.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create(limits: Limits, joinable: bool) -> io::Result<Store> {
        let shared = Segment::<Shared>::create()?;
        let ring = GrowableMapping::new(RING_AT, SMALLEST);
        ring.extend(shared.file(), 0)?;
        shared.file().allocate(RING_AT, 1 << SMALLEST)?;
        let limited = limits != Limits::NONE;
        let flags = if limited { LIMITED } else { 0 } | if joinable { JOINABLE } else { 0 };
        shared.config.flags.store(flags, Relaxed);
        shared.config.max_items.store(limits.items, Relaxed);
        shared.config.max_bytes.store(limits.bytes, Relaxed);
        shared.config.geometry.store(u64::from(SMALLEST), Relaxed);
        shared.producers.kept.store(1 << SMALLEST, Relaxed);
        shared.producers.memory_until.store(u64::MAX, Relaxed);
        Ok(Store {
            ring,
            arena: Arena::new(),
            fd_queue: FdQueue::new()?,
            items: Notifier::new(Tokens::Consumed)?,
            room: (flags != 0).then(|| Notifier::new(Tokens::Broadcast)).transpose()?,
            takers: Notifier::new(Tokens::Broadcast)?,
            consumer_check: ConsumerCheck::default(),
            ready_fd: OnceBox::new(),
            polled: AtomicBool::new(false),
            to_give_back: ForkMutex::new(Vec::new()),
            seen_tail: AtomicU64::new(0),
            flags,
            limits,
            leases: Leases::default(),
            shared,
        })
    }

    /// Whether any item has been put, for models.
    #[cfg(loom)]
    pub(crate) fn has_had_items(&self) -> bool {
        self.shared.tail.0.load(SeqCst) != 0
    }

    /// The queue as another process of a model has it.
    #[cfg(loom)]
    pub(crate) fn share(&self) -> Store {
        Store {
            shared: self.shared.share(),
            ring: GrowableMapping::new(RING_AT, SMALLEST),
            arena: Arena::new(),
            fd_queue: FdQueue::from_fd(self.fd_queue.as_fd().try_clone_to_owned().unwrap()).unwrap(),
            items: self.items.clone(),
            room: self.room.clone(),
            takers: self.takers.clone(),
            consumer_check: ConsumerCheck::default(),
            ready_fd: OnceBox::new(),
            polled: AtomicBool::new(false),
            to_give_back: ForkMutex::new(Vec::new()),
            seen_tail: AtomicU64::new(0),
            flags: self.flags,
            limits: self.limits,
            leases: Leases::default(),
        }
    }

    /// Opens a queue from the descriptors that [`to_send`](Store::to_send) returned.
    ///
    /// # Errors
    /// `InvalidData` if the descriptors are anything else.
    #[cfg(not(loom))]
    pub fn open(fds: Vec<OwnedFd>) -> io::Result<Store> {
        let mut fds = fds.into_iter();
        let mut next =
            || fds.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a part of the queue is missing"));
        let shared = Segment::<Shared>::open(next()?)?;
        let flags = shared.config.flags.load(Relaxed);
        let limits = match flags & LIMITED != 0 {
            true => {
                Limits { items: shared.config.max_items.load(Relaxed), bytes: shared.config.max_bytes.load(Relaxed) }
            }
            false => Limits::NONE,
        };
        if limits.items == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the limit of the queue is zero"));
        }
        let store = Store {
            ring: GrowableMapping::new(RING_AT, SMALLEST),
            arena: Arena::new(),
            fd_queue: FdQueue::from_fd(next()?)?,
            items: Notifier::from_fd(next()?, Tokens::Consumed)?,
            takers: Notifier::from_any_fd(next()?, Tokens::Broadcast)?,
            consumer_check: ConsumerCheck::default(),
            ready_fd: OnceBox::new(),
            polled: AtomicBool::new(false),
            to_give_back: ForkMutex::new(Vec::new()),
            room: if flags != 0 { Some(Notifier::from_fd(next()?, Tokens::Broadcast)?) } else { None },
            seen_tail: AtomicU64::new(0),
            flags,
            limits,
            leases: Leases::default(),
            shared,
        };
        match fds.next() {
            None => Ok(store),
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a queue has fewer descriptors")),
        }
    }

    /// Calls `change` with the notifiers that count handles which could put (`puts`) and those
    /// that count handles which could take (`gets`).
    #[cfg(not(loom))]
    pub(super) fn for_each_notifier(&self, puts: bool, gets: bool, change: impl Fn(&Notifier)) {
        if puts {
            change(&self.items);
        }
        if gets {
            change(&self.takers);
            self.room.iter().for_each(change);
        }
    }

    /// Duplicates the descriptors that make up a queue, for another process, which can take items
    /// (`takes`) or can't.
    #[cfg(not(loom))]
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
    #[cfg(not(loom))]
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

    /// Returns the limits of the queue.
    #[inline]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether items are leased until their work is done.
    #[inline]
    pub fn is_joinable(&self) -> bool {
        self.flags & JOINABLE != 0
    }

    /// Returns the memory of large items.
    #[inline]
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks { arena: &self.arena, books: &self.shared.books.0, file: self.shared.file() }
    }

    /// Whether no process is left that could take items. Only checked now and then; false in
    /// between. For callers that can't take items themselves.
    #[inline]
    pub fn has_lost_its_takers(&self) -> bool {
        self.consumer_check.is_due() && self.look_for_takers()
    }

    #[cold]
    pub(super) fn look_for_takers(&self) -> bool {
        let is_deserted = self.takers.is_deserted();
        if is_deserted {
            self.consumer_check.look_again();
        }
        is_deserted
    }

    /// Acquires the producers' lock. If the lock is inherited, completes what its dead owner began.
    #[inline]
    pub(super) fn producers(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        let guard = self.shared.producers.spin_lock.lock()?;
        if guard.inherited {
            self.inherit_producers();
        }
        Ok(guard)
    }

    /// As [`producers`](Store::producers), for operations that can't fail: waits without a limit.
    pub(super) fn producers_endlessly(&self) -> RobustSpinGuard<'_> {
        let guard = self.shared.producers.spin_lock.lock_endlessly();
        if guard.inherited {
            self.inherit_producers();
        }
        guard
    }

    #[cold]
    pub(super) fn inherit_producers(&self) {
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
    pub(super) fn consumers(&self) -> Result<RobustSpinGuard<'_>, Stalled> {
        let guard = self.shared.consumers.spin_lock.lock()?;
        if guard.inherited {
            self.inherit_consumers();
        }
        Ok(guard)
    }

    /// As [`consumers`](Store::consumers), for operations that can't fail: waits without a limit.
    pub(super) fn consumers_endlessly(&self) -> RobustSpinGuard<'_> {
        let guard = self.shared.consumers.spin_lock.lock_endlessly();
        if guard.inherited {
            self.inherit_consumers();
        }
        guard
    }

    #[cold]
    pub(super) fn inherit_consumers(&self) {
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

    pub(super) fn is_copy(&self, descriptor: &Descriptor) -> bool {
        descriptor.flags.load(Relaxed) & u32::from(BLOCK) == 0
    }
}
