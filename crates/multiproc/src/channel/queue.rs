//! [`Queue`], [`Producer`] and [`Consumer`]: a first-in, first-out queue in shared memory, for any
//! number of processes.
//!
//! This module is the typed layer. The queue itself is [`store`](crate::shm::store); its protocol,
//! `QUEUE.md` of `multiproc-shm`, says which process writes what in which order, and what state is
//! left when a process dies in between.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multiproc_os::robust::copy_number;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::encode_buffer::EncodeBuffer;
use super::queue_error::{GetError, PutError, PutErrorKind};
use super::wait::Waitable;
use crate::create_error::CreateError;
use crate::handle::Handle;
use crate::sendable::Sendable;
use crate::shm::block::Block;
use crate::shm::change_rate;
use crate::shm::notifier::ViaHandle;
use crate::shm::scratch::Scratch;
use crate::shm::spin_lock::{self, Limit};
use crate::shm::store::{Body, INLINE, Item, Limits, Place, Refusal, Store, Taken};
use crate::transfer::codec::{self, CodecError};
use crate::transfer::fd_bundle::FdBundle;

/// A first-in, first-out queue for any number of producing and consuming processes and threads.
/// Python's `multiprocessing.Queue`, but without a feeder thread or a local buffer: an item goes
/// straight into shared memory.
///
/// ```
/// use multiproc::{Process, Queue};
///
/// fn worker(queue: Queue<String>) {
///     queue.put("from the worker".to_owned()).unwrap();
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let queue = Queue::new()?;
/// let child = Process::new(worker, (queue.clone(),)).start()?;
/// assert_eq!(queue.get()?, "from the worker");
/// child.join()?;
/// # Ok(())
/// # }
/// ```
///
/// A handle can be cloned, shared between threads, and sent to other processes: as an argument, a
/// result, a field, or through another queue.
///
/// **A put is final.** When [`put`](Queue::put) returns, the item is in memory that outlives its
/// producer, which may exit or be killed the next moment. An item is put as a whole or not at all,
/// at whatever moment a process is killed, and exactly one consumer takes it. A consumer that is
/// killed after it has taken an item takes the item with it; use
/// [`JoinableQueue`](crate::JoinableQueue) where the item must be delivered again.
///
/// **No call waits in vain.** A [`get`](Queue::get) on an empty queue, and a `put` on a full one,
/// end with an error when no process is left that could end the wait: when all other handles have
/// been dropped, their processes have ended, or they wait for the same thing. Handles inside
/// messages that have not been received yet, and in the arguments of processes that are about to
/// start, count as other handles. A thread that puts while another thread waits in `get` needs a
/// handle of its own: a clone. (As long as there has never been a second handle, in this process or
/// another, threads may share the only one.)
///
/// A [`Producer`]'s `put` also fails when no handle is left anywhere that could take an item, even
/// if the queue has room: [`Disconnected`](PutErrorKind::Disconnected). In a stream of puts this
/// may be noticed some hundreds of microseconds late.
///
/// **A process that is stopped** (`SIGSTOP`, a debugger) in the middle of an operation delays those
/// calls of other processes that have no timeout. Calls with a timeout, and the `try_` calls,
/// return in time, and their error names the process: [`Stalled`](PutErrorKind::Stalled).
///
/// **Limits.** Without a limit, a queue grows as long as there is memory; then `put` returns an
/// error, before the kernel has to kill a process. [`with_capacity`](Queue::with_capacity) and
/// [`with_limits`](Queue::with_limits) bound it. Memory goes back to the system as items are taken.
///
/// A queue takes four file descriptors in each process that has it, five if it has a limit. A queue
/// can hold some hundreds of items with open files in them (see [`Handle`]) at a time; `put`
/// returns an error if there are too many.
pub struct Queue<T> {
    pub(super) end: End<T>,
}

/// The producing end of a [`Queue`]: it can put items, but not take them. See [`Queue::producer`].
pub struct Producer<T> {
    pub(super) end: End<T>,
}

/// The consuming end of a [`Queue`]: it can take items, but not put them. See [`Queue::consumer`].
pub struct Consumer<T> {
    pub(super) end: End<T>,
}

/// What a handle may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    Both,
    Put,
    Get,
}

impl Role {
    fn puts(self) -> bool {
        self != Role::Get
    }

    fn gets(self) -> bool {
        self != Role::Put
    }
}

/// What handles of all three kinds have in common.
pub(super) struct End<T> {
    pub(super) store: Arc<Store>,
    role: Role,
    /// The copy of the process (see [`copy_number`]) in which this handle is counted as a consumer.
    copy: AtomicU32,
    /// How many threads wait through this handle for items.
    taking: AtomicUsize,
    putting: AtomicUsize,
    items: PhantomData<fn(T) -> T>,
}

impl<T> End<T> {
    pub(super) fn create(limits: Limits, joinable: bool) -> Result<End<T>, CreateError> {
        match Store::create(limits, joinable) {
            // Each count of handles starts at one, for this handle.
            Ok(store) => Ok(End::of(Arc::new(store), Role::Both)),
            Err(source) => Err(CreateError { what: "queue", source }),
        }
    }

    fn of(store: Arc<Store>, role: Role) -> End<T> {
        End {
            store,
            role,
            copy: AtomicU32::new(copy_number()),
            taking: AtomicUsize::new(0),
            putting: AtomicUsize::new(0),
            items: PhantomData,
        }
    }

    /// Creates another handle to the same queue.
    pub(super) fn another(&self, role: Role) -> End<T> {
        if role.puts() {
            self.store.items.add_opener();
        }
        if role.gets() {
            self.store.takers.add_opener();
            if let Some(room) = &self.store.room {
                room.add_opener();
            }
        }
        End::of(self.store.clone(), role)
    }

    /// What a thread that waits for items can't use meanwhile: this handle, if it could put.
    pub(super) fn to_take(&self) -> ViaHandle<'_> {
        if self.role.puts() { ViaHandle::Handle(&self.taking) } else { ViaHandle::Other }
    }

    /// What a thread that waits for room can't use meanwhile: this handle, if it could take.
    pub(super) fn to_put(&self) -> ViaHandle<'_> {
        if self.role.gets() { ViaHandle::Handle(&self.putting) } else { ViaHandle::Other }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.store.fd_to_poll()
    }

    /// Counts this handle, if it takes, in a copy of the process made by fork(2).
    #[inline]
    pub(super) fn count_in_copy(&self) {
        if self.copy.load(Relaxed) != copy_number() {
            self.count();
        }
    }

    #[cold]
    fn count(&self) {
        let copy = copy_number();
        // Several threads may use one handle.
        if self.copy.swap(copy, Relaxed) != copy && self.role.gets() {
            self.store.takers.add_opener();
        }
    }

    /// Returns an error when no process is left that could take the item that is about to be put.
    /// Always `Ok` for a handle that can take items itself.
    #[inline]
    pub(super) fn expect_takers(&self) -> Result<(), PutErrorKind> {
        match !self.role.gets() && self.store.has_lost_its_takers() {
            true if self.store.is_closed() => Err(PutErrorKind::Closed),
            true => Err(PutErrorKind::Disconnected),
            false => Ok(()),
        }
    }

    /// Whether a process is left that could take items.
    fn has_takers(&self) -> bool {
        self.role.gets() || !self.store.takers.is_deserted()
    }

    /// Whether a process is left that could put items.
    fn has_putters(&self) -> bool {
        !self.nobody_puts()
    }

    /// Whether an item can be taken, or none will ever come.
    pub(super) fn is_ready(&self) -> bool {
        !self.store.arm() || self.nobody_puts()
    }

    /// Whether no process is left that could put items. Always false for a handle that can put.
    fn nobody_puts(&self) -> bool {
        !self.role.puts() && self.store.items.is_hung_up()
    }

    /// Whether no process is left that could take items. Always false for a handle that can take.
    fn nobody_takes(&self) -> bool {
        !self.role.gets() && self.store.room.as_ref().is_some_and(|room| room.is_hung_up())
    }
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        self.store.give_back_kept();
        // With the last handle of the process, the descriptors are closed, and the kernel tells the
        // other processes.
        if Arc::strong_count(&self.store) > 1 {
            if self.role.puts() {
                self.store.items.remove_opener();
            }
            if self.role.gets() {
                if *self.copy.get_mut() == copy_number() {
                    self.store.takers.remove_opener();
                }
                if let Some(room) = &self.store.room {
                    room.remove_opener();
                }
            }
        }
        if self.role.gets() {
            change_rate::changed();
        }
    }
}

impl<T> Serialize for End<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fds = self
            .store
            .to_send(self.role.gets())
            .map_err(|error| serde::ser::Error::custom(format_args!("no descriptors to send a queue with: {error}")))?;
        let fds: Vec<Handle<OwnedFd>> = fds.into_iter().map(Handle::new).collect();
        (self.role, fds).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for End<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<End<T>, D::Error> {
        let (role, fds) = <(Role, Vec<Handle<OwnedFd>>)>::deserialize(deserializer)?;
        let fds = fds.into_iter().map(Handle::into_inner).collect();
        let store = Store::open(fds).map_err(serde::de::Error::custom)?;
        // `Store::open` has counted one handle of each kind. Uncount what this one can't do.
        if !role.puts() {
            store.items.remove_opener();
        }
        if !role.gets() {
            store.takers.remove_opener();
            if let Some(room) = &store.room {
                room.remove_opener();
            }
        }
        Ok(End::of(Arc::new(store), role))
    }
}

/// The moment at which `timeout` is over. `None`, for no deadline, if the clock can't represent it.
pub(super) fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// Whether to wait, and until when.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    None,
    Until(Option<Instant>),
}

impl Patience {
    /// Calls `action`, in which no wait exceeds this limit, including waits for spin locks.
    #[inline(always)]
    pub(super) fn limits<R>(self, action: impl FnOnce() -> R) -> R {
        let limit = match self {
            Patience::Until(deadline) => deadline.into(),
            Patience::None => Limit::Moment,
        };
        spin_lock::within(limit, action)
    }
}

impl<T: Serialize + DeserializeOwned> End<T> {
    #[inline]
    pub(super) fn put(&self, item: T, patience: Patience) -> Result<(), PutError<T>> {
        patience.limits(|| self.put_within(item, patience))
    }

    #[inline]
    fn put_within(&self, item: T, patience: Patience) -> Result<(), PutError<T>> {
        let mut buffer = EncodeBuffer::new(&self.store);
        let mut put = || -> Result<(), PutErrorKind> {
            self.expect_takers()?;
            let fds = codec::encode_into(&item, &mut buffer)?;
            self.put_encoded(&mut buffer, fds, patience)
        };
        match put() {
            Ok(()) => Ok(()),
            Err(kind) => Err(PutError::new(item, kind)),
        }
    }

    #[inline]
    fn put_encoded(
        &self,
        buffer: &mut EncodeBuffer<'_>,
        fds: Vec<OwnedFd>,
        patience: Patience,
    ) -> Result<(), PutErrorKind> {
        let bundle = self.pack(fds)?;
        self.put_item(&item(buffer, &bundle)?, patience)?;
        buffer.leave();
        Ok(())
    }

    #[inline]
    pub(super) fn pack(&self, fds: Vec<OwnedFd>) -> Result<FdBundle, PutErrorKind> {
        match fds.is_empty() {
            true => Ok(FdBundle::default()),
            false if self.store.is_joinable() => {
                let reason = "a handle can't be put into a JoinableQueue, as it could not be delivered again";
                Err(PutErrorKind::Encode(CodecError::new::<T>("cannot serialise", reason)))
            }
            false => FdBundle::pack(fds).map_err(|source| PutErrorKind::Io { what: "its handles", source }),
        }
    }

    #[inline]
    pub(super) fn get(&self, patience: Patience) -> Result<T, GetError> {
        let mut scratch = Scratch::new();
        patience.limits(|| {
            let taken = self.take(&mut scratch, patience)?;
            self.value(taken, &scratch)
        })
    }

    /// Decodes the item that was taken.
    #[inline]
    pub(super) fn value(&self, taken: Taken, scratch: &Scratch) -> Result<T, GetError> {
        match taken.block(|| &*self.store) {
            Some(block) => decode(taken, block.bytes().map_err(mapping)?),
            None => decode(taken, scratch.bytes()),
        }
    }

    #[inline]
    pub(super) fn take(&self, scratch: &mut Scratch, patience: Patience) -> Result<Taken, GetError> {
        self.count_in_copy();
        let result = match patience {
            Patience::Until(deadline) => match self.store.take(scratch, deadline, self.to_take()) {
                // A caller that polls the descriptor would find it readable again and again.
                Err(Refusal::Late) if !self.store.arm_if_polled() => {
                    self.store.take_any(scratch)?.ok_or(GetError::Timeout)
                }
                result => result.map_err(GetError::from),
            },
            Patience::None => loop {
                match self.store.take_any(scratch)? {
                    Some(taken) => return Ok(taken),
                    None if self.store.arm_if_polled() => break Err(GetError::Empty),
                    None => {}
                }
            },
        };
        match result {
            // The last producer may have put an item before it went away.
            Err(error) if error.is_empty() && self.nobody_puts() => {
                self.store.take_any(scratch)?.ok_or(GetError::Disconnected)
            }
            result => result,
        }
    }

    #[inline]
    fn put_item(&self, item: &Item<'_>, patience: Patience) -> Result<(), Refusal> {
        let result = match patience {
            Patience::None => self.store.try_put(item),
            Patience::Until(deadline) => self.store.put(item, deadline, self.to_put()),
        };
        match result {
            // The last consumer may have taken an item before it went away.
            Err(Refusal::Full | Refusal::Crowded | Refusal::Late) if self.nobody_takes() => {
                match self.store.try_put(item) {
                    Err(Refusal::Full | Refusal::Crowded) => Err(Refusal::Alone),
                    result => result,
                }
            }
            result => result,
        }
    }

    pub(super) fn put_bytes(&self, bytes: &[u8], patience: Patience) -> Result<(), PutErrorKind> {
        patience.limits(|| self.put_bytes_within(bytes, patience))
    }

    fn put_bytes_within(&self, bytes: &[u8], patience: Patience) -> Result<(), PutErrorKind> {
        self.expect_takers()?;
        if bytes.len() <= INLINE {
            let item = Item { body: Body::Inline(bytes), raw: true, fds: &[], handles: 0 };
            return Ok(self.put_item(&item, patience)?);
        }
        let mut block = Block::new(&*self.store, bytes.len() as u64)?;
        block.fill(bytes).map_err(|source| PutErrorKind::Io { what: "no memory for it", source })?;
        let item = Item { body: Body::Block(block.index(), block.len()), raw: true, fds: &[], handles: 0 };
        self.put_item(&item, patience)?;
        block.leave();
        Ok(())
    }

    pub(super) fn get_bytes(&self, patience: Patience) -> Result<Message, GetError> {
        let mut scratch = Scratch::new();
        let taken = patience.limits(|| self.take(&mut scratch, patience))?;
        Ok(Message(match taken.block(|| self.store.clone()) {
            Some(block) => {
                block.bytes().map_err(mapping)?;
                Content::Block(block)
            }
            None => Content::Small(scratch.bytes().into()),
        }))
    }
}

fn mapping(source: std::io::Error) -> GetError {
    match source.kind() {
        std::io::ErrorKind::InvalidData => GetError::Corrupt("a block"),
        _ => GetError::Io { what: "map an item", source },
    }
}

/// The item to put: an encoded value with its handles.
#[inline]
pub(super) fn item<'a>(buffer: &'a mut EncodeBuffer<'_>, bundle: &'a FdBundle) -> Result<Item<'a>, PutErrorKind> {
    let body = buffer.finish().map_err(|source| PutErrorKind::Io { what: "no memory for its value", source })?;
    Ok(Item { body, raw: false, fds: bundle.parts(), handles: bundle.count() })
}

/// Decodes the item `taken`, with its encoded form in `bytes`.
#[inline]
pub(super) fn decode<T: DeserializeOwned>(taken: Taken, bytes: &[u8]) -> Result<T, GetError> {
    let cannot = |reason: &str| GetError::Decode(CodecError::new::<T>("cannot deserialise", reason));
    if taken.raw {
        return Err(cannot("it was put as bytes"));
    }
    let bundle = match taken.handles {
        0 => FdBundle::default(),
        handles => FdBundle::received(taken.fds, handles).ok_or_else(|| cannot("its handles are missing"))?,
    };
    codec::decode_from(bytes, bundle).map_err(GetError::Decode)
}

impl<T> Queue<T> {
    /// Creates a queue without a limit.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): `EMFILE` at the limit of open files, `ENOSPC` or
    /// `ENOMEM` without memory.
    pub fn new() -> Result<Queue<T>, CreateError> {
        Ok(Queue { end: End::create(Limits::NONE, false)? })
    }

    /// Creates a queue for at most `items` items at a time, and at least one.
    ///
    /// # Errors
    /// Those of [`new`](Queue::new).
    pub fn with_capacity(items: usize) -> Result<Queue<T>, CreateError> {
        Queue::with_limits(items, u64::MAX)
    }

    /// Creates a queue for at most `items` items at a time, with at most `bytes` bytes in their
    /// encoded form together. An item of more than `bytes` bytes is
    /// [refused](PutErrorKind::TooLarge).
    ///
    /// # Errors
    /// Those of [`new`](Queue::new).
    pub fn with_limits(items: usize, bytes: u64) -> Result<Queue<T>, CreateError> {
        Ok(Queue { end: End::create(Limits::new(items, bytes), false)? })
    }

    /// Returns an end that can only put items. If producers have only this, and the queue itself is
    /// dropped, consumers are told when the last producer is gone.
    pub fn producer(&self) -> Producer<T> {
        Producer { end: self.end.another(Role::Put) }
    }

    /// Returns an end that can only take items. Since it can't put, it doesn't keep other consumers
    /// waiting when all producers are gone.
    pub fn consumer(&self) -> Consumer<T> {
        Consumer { end: self.end.another(Role::Get) }
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Queue<T> {
        Queue { end: self.end.another(Role::Both) }
    }
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Producer<T> {
        Producer { end: self.end.another(Role::Put) }
    }
}

impl<T> Clone for Consumer<T> {
    fn clone(&self) -> Consumer<T> {
        Consumer { end: self.end.another(Role::Get) }
    }
}

/// Methods and traits of all three kinds of handle.
macro_rules! any_end {
    ($($name:ident)*) => { $(
        impl<T> $name<T> {
            /// Returns the number of items in the queue at this moment. Other processes may put and
            /// take items at any time.
            pub fn len(&self) -> usize {
                usize::try_from(self.end.store.len()).unwrap_or(usize::MAX)
            }

            /// Whether the queue is empty at this moment.
            pub fn is_empty(&self) -> bool {
                self.end.store.is_empty()
            }

            /// Whether the queue has reached its capacity at this moment. One without a limit is
            /// never full.
            pub fn is_full(&self) -> bool {
                self.end.store.is_full()
            }

            /// Returns the greatest number of items the queue may hold, or `None` if there is no
            /// limit.
            pub fn capacity(&self) -> Option<usize> {
                self.end.store.limits().capacity()
            }

            /// Closes the queue for all processes: later puts fail. Items in it can still be taken;
            /// then consumers get [`GetError::Closed`].
            pub fn close(&self) {
                self.end.store.close();
            }

            /// Whether the queue was [closed](Queue::close).
            pub fn is_closed(&self) -> bool {
                self.end.store.is_closed()
            }
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let limits = self.end.store.limits();
                let mut text = f.debug_struct(stringify!($name));
                text.field("len", &self.len());
                if limits.items != u64::MAX {
                    text.field("capacity", &limits.items);
                }
                if limits.bytes != u64::MAX {
                    text.field("bytes", &limits.bytes);
                }
                if self.is_closed() {
                    text.field("closed", &true);
                }
                text.finish()
            }
        }

        impl<T> Serialize for $name<T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.end.serialize(serializer)
            }
        }

        impl<'de, T> Deserialize<'de> for $name<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name<T>, D::Error> {
                let end = End::deserialize(deserializer)?;
                match end.store.is_joinable() || end.role != $name::<T>::ROLE {
                    true => Err(serde::de::Error::custom("it is a queue of another kind")),
                    false => Ok($name { end }),
                }
            }
        }
    )* };
}

impl<T> Producer<T> {
    /// Whether a handle that can take items is left in any process. Handles inside messages that
    /// have not been received yet, and in the arguments of processes that are about to start,
    /// count.
    ///
    /// ```
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let queue = multiproc::Queue::<u32>::new()?;
    /// let (producer, consumer) = (queue.producer(), queue.consumer());
    /// drop(queue);
    /// assert!(producer.has_consumers());
    /// drop(consumer);
    /// assert!(!producer.has_consumers());
    /// # Ok(())
    /// # }
    /// ```
    pub fn has_consumers(&self) -> bool {
        self.end.has_takers()
    }
}

impl<T> Consumer<T> {
    /// Whether a handle that can put items is left in any process. The same handles count as for
    /// [`Producer::has_consumers`].
    ///
    /// ```
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let queue = multiproc::Queue::<u32>::new()?;
    /// let (producer, consumer) = (queue.producer(), queue.consumer());
    /// drop(queue);
    /// assert!(consumer.has_producers());
    /// drop(producer);
    /// assert!(!consumer.has_producers());
    /// # Ok(())
    /// # }
    /// ```
    pub fn has_producers(&self) -> bool {
        self.end.has_putters()
    }
}

impl<T> Queue<T> {
    const ROLE: Role = Role::Both;
}

impl<T> Producer<T> {
    const ROLE: Role = Role::Put;
}

impl<T> Consumer<T> {
    const ROLE: Role = Role::Get;
}

any_end!(Queue Producer Consumer);

/// Methods of handles that can put.
macro_rules! putting {
    ($($name:ident)*) => { $(
        impl<T: Sendable> $name<T> {
            /// Puts an item. Waits while the queue is full, for as long as it takes.
            ///
            /// # Errors
            /// [`PutError`], which holds the item and a [kind](PutErrorKind): the item can't be
            /// serialised, there is no memory for it, the queue is closed, or it is full and no
            /// process is left that could take an item.
            #[inline]
            pub fn put(&self, item: T) -> Result<(), PutError<T>> {
                self.end.put(item, Patience::Until(None))
            }

            /// Puts an item if there is room for it now.
            ///
            /// # Errors
            /// Those of [`put`](Self::put); [`PutErrorKind::Full`].
            #[inline]
            pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
                self.end.put(item, Patience::None)
            }

            /// Puts an item. Waits while the queue is full, but for at most `timeout`.
            ///
            /// # Errors
            /// Those of [`put`](Self::put); [`PutErrorKind::Timeout`].
            pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
                self.end.put(item, Patience::Until(deadline(timeout)))
            }

            /// Puts bytes as they are, for [`get_bytes`](Queue::get_bytes). They are copied once.
            ///
            /// # Errors
            /// Those of [`put`](Self::put).
            pub fn put_bytes(&self, bytes: &[u8]) -> Result<(), PutErrorKind> {
                self.end.put_bytes(bytes, Patience::Until(None))
            }

            /// Puts bytes if there is room for them now. See [`put_bytes`](Self::put_bytes).
            ///
            /// # Errors
            /// Those of [`put`](Self::put); [`PutErrorKind::Full`].
            pub fn try_put_bytes(&self, bytes: &[u8]) -> Result<(), PutErrorKind> {
                self.end.put_bytes(bytes, Patience::None)
            }

            /// Puts bytes. Waits while the queue is full, but for at most `timeout`. See
            /// [`put_bytes`](Self::put_bytes).
            ///
            /// # Errors
            /// Those of [`put`](Self::put); [`PutErrorKind::Timeout`].
            pub fn put_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), PutErrorKind> {
                self.end.put_bytes(bytes, Patience::Until(deadline(timeout)))
            }
        }
    )* };
}

putting!(Queue Producer);

/// Methods of handles that can take.
macro_rules! getting {
    ($($name:ident)*) => { $(
        impl<T: Sendable> $name<T> {
            /// Takes the oldest item. Waits while the queue is empty, for as long as it takes.
            ///
            /// # Errors
            /// [`GetError`]: the queue is empty and closed; it is empty and no process is left that
            /// could put an item; or an item was taken that can't be read.
            #[inline]
            pub fn get(&self) -> Result<T, GetError> {
                self.end.get(Patience::Until(None))
            }

            /// Takes the oldest item if there is one.
            ///
            /// # Errors
            /// Those of [`get`](Self::get); [`GetError::Empty`].
            #[inline]
            pub fn try_get(&self) -> Result<T, GetError> {
                self.end.get(Patience::None)
            }

            /// Takes the oldest item. Waits while the queue is empty, but for at most `timeout`.
            ///
            /// # Errors
            /// Those of [`get`](Self::get); [`GetError::Timeout`].
            pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
                self.end.get(Patience::Until(deadline(timeout)))
            }

            /// Takes the oldest item as bytes: what [`put_bytes`](Queue::put_bytes) was given, or a
            /// value in its encoded form. Large items are read in place.
            ///
            /// # Errors
            /// Those of [`get`](Self::get).
            pub fn get_bytes(&self) -> Result<Message, GetError> {
                self.end.get_bytes(Patience::Until(None))
            }

            /// Takes the oldest item as bytes if there is one.
            ///
            /// # Errors
            /// Those of [`get`](Self::get); [`GetError::Empty`].
            pub fn try_get_bytes(&self) -> Result<Message, GetError> {
                self.end.get_bytes(Patience::None)
            }

            /// Takes the oldest item as bytes. Waits while the queue is empty, but for at most
            /// `timeout`.
            ///
            /// # Errors
            /// Those of [`get`](Self::get); [`GetError::Timeout`].
            pub fn get_bytes_timeout(&self, timeout: Duration) -> Result<Message, GetError> {
                self.end.get_bytes(Patience::Until(deadline(timeout)))
            }

            /// Returns an iterator over the items, which waits for each. It ends when the queue is
            /// empty, and closed or disconnected.
            ///
            /// ```
            /// # #[multiproc::main]
            /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
            /// let queue = multiproc::Queue::new()?;
            /// queue.put(1)?;
            /// queue.put(2)?;
            /// queue.close();
            /// let items: Vec<i32> = queue.iter().collect::<Result<_, _>>()?;
            /// assert_eq!(items, [1, 2]);
            /// # Ok(())
            /// # }
            /// ```
            pub fn iter(&self) -> Items<'_, T> {
                Items { end: &self.end }
            }
        }

        impl<'a, T: Serialize + DeserializeOwned> IntoIterator for &'a $name<T> {
            type Item = Result<T, GetError>;
            type IntoIter = Items<'a, T>;

            fn into_iter(self) -> Items<'a, T> {
                self.iter()
            }
        }

        /// A descriptor that polls readable while there is an item to take. It is the same for all
        /// clones of a handle in the process, and may be added to a set of epoll(7). When it is
        /// readable, call [`try_get`](Queue::try_get) until it returns [`Empty`](GetError::Empty),
        /// and then poll again. It may be readable although there is no item, for example when
        /// another process has taken it; the `try_get` that finds none resets it. Don't read from
        /// the descriptor.
        impl<T> AsFd for $name<T> {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.end.fd()
            }
        }

        /// Ready when there is an item or the queue is closed; a [`Consumer`] also when no process
        /// is left that could put an item.
        impl<T> Waitable for $name<T> {
            fn fd(&self) -> BorrowedFd<'_> {
                self.end.store.fd_to_sleep_on()
            }

            fn ready(&self) -> std::io::Result<bool> {
                Ok(self.end.is_ready())
            }

            fn woken(&self) -> std::io::Result<bool> {
                Ok(self.end.is_ready())
            }

            fn finished(&self) {
                self.end.store.give_back_when_quiet();
            }
        }
    )* };
}

getting!(Queue Consumer);

/// An iterator over the items of a queue, returned by [`Queue::iter`].
pub struct Items<'a, T> {
    end: &'a End<T>,
}

impl<T: Serialize + DeserializeOwned> Iterator for Items<'_, T> {
    type Item = Result<T, GetError>;

    fn next(&mut self) -> Option<Result<T, GetError>> {
        match self.end.get(Patience::Until(None)) {
            Err(error) if error.is_end() => None,
            result => Some(result),
        }
    }
}

impl<T> fmt::Debug for Items<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").finish_non_exhaustive()
    }
}

/// An item of a queue, as bytes. Large items stay in the queue's own memory, which is freed when
/// this is dropped.
pub struct Message(Content);

enum Content {
    Small(Box<[u8]>),
    Block(Block<Arc<Store>>),
}

impl Message {
    /// Returns the bytes as a `Vec`. Large items are copied.
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Content::Small(bytes) => bytes.into(),
            Content::Block(_) => self.to_vec(),
        }
    }
}

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Content::Small(bytes) => bytes,
            // It has been mapped before, when it was taken, and stays mapped.
            Content::Block(block) => block.bytes().unwrap_or_default(),
        }
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} bytes)", self.len())
    }
}

impl PartialEq<[u8]> for Message {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

/// Returns the index of the item's lease, if the item may have to be delivered again.
pub(super) fn lease_of(taken: &Taken) -> Option<u32> {
    match taken.place {
        Place::Lease(index) | Place::Block(index, _) => Some(index),
        Place::Scratch => None,
    }
}
