//! [`Queue`], [`Producer`] and [`Consumer`]: a first-in, first-out queue in shared memory, for any
//! number of processes.
//!
//! This module is the typed layer: it encodes values and decodes them. The queue itself, of bytes
//! and descriptors, is [`multiproc_shm::queue`]; its protocol, `QUEUE.md` in that folder, says
//! which process writes what in which order, and what state is left when a process dies in between.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use multiproc_shm::lock::spin_lock::within;
use multiproc_shm::memory::scratch::Scratch;
use multiproc_shm::message::fd_bundle::FdBundle;
use multiproc_shm::queue::End;
use multiproc_shm::queue::item::Taken;
pub use multiproc_shm::queue::{Message, role};
use multiproc_shm::wait::deadline::Deadline;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::role::{Both, CanGet, CanPut, GetOnly, PutOnly, Role};
use super::queue_error::{GetError, PutError, PutErrorKind};
use super::wait::Waitable;
use crate::create_error::CreateError;
use crate::handle::Handle;
use crate::sendable::Sendable;
use crate::transfer::codec::{self, CodecError};

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
pub type Queue<T> = QueueHandle<T, Both>;

/// The producing end of a [`Queue`]: it can put items, but not take them. See [`Queue::producer`].
pub type Producer<T> = QueueHandle<T, PutOnly>;

/// The consuming end of a [`Queue`]: it can take items, but not put them. See [`Queue::consumer`].
pub type Consumer<T> = QueueHandle<T, GetOnly>;

/// A handle of a queue of `T`s, with its [role] as a type: a [`Queue`], a [`Producer`] or a
/// [`Consumer`]. See [`Queue`].
pub struct QueueHandle<T, R: Role> {
    pub(super) end: End<R>,
    items: PhantomData<fn(T) -> T>,
}

impl<T, R: Role> QueueHandle<T, R> {
    fn of(end: End<R>) -> QueueHandle<T, R> {
        QueueHandle { end, items: PhantomData }
    }
}

/// Puts a value, with the descriptors of handles in it.
#[inline]
pub(super) fn put_value<T: Serialize + DeserializeOwned, R: CanPut>(
    end: &End<R>,
    item: T,
    deadline: Deadline,
) -> Result<(), PutError<T>> {
    within(deadline.limit(), || {
        let mut buffer = end.buffer();
        let mut put = || -> Result<(), PutErrorKind> {
            end.expect_takers()?;
            let fds = codec::encode_into(&item, &mut buffer)?;
            let bundle = pack::<T, R>(end, fds)?;
            Ok(end.put_buffer(&mut buffer, false, &bundle, deadline)?)
        };
        match put() {
            Ok(()) => Ok(()),
            Err(kind) => Err(PutError::new(item, kind)),
        }
    })
}

/// Packs the descriptors of a value's handles.
#[inline]
pub(super) fn pack<T, R: Role>(end: &End<R>, fds: Vec<OwnedFd>) -> Result<FdBundle, PutErrorKind> {
    match fds.is_empty() {
        true => Ok(FdBundle::default()),
        false if end.is_joinable() => {
            let reason = "a handle can't be put into a JoinableQueue, as it could not be delivered again";
            Err(PutErrorKind::Encode(CodecError::new::<T>("cannot serialise", reason)))
        }
        false => FdBundle::pack(fds).map_err(|source| PutErrorKind::Io { what: "its handles", source }),
    }
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

/// The name of a queue in errors.
pub(super) const NAME: &str = "queue";

impl<T> Queue<T> {
    /// Creates a queue without a limit.
    ///
    /// # Errors
    /// [`CreateError`]: `EMFILE` at the limit of open files, `ENOSPC` or `ENOMEM` without memory.
    pub fn new() -> Result<Queue<T>, CreateError> {
        End::new().map(QueueHandle::of).map_err(CreateError::of(NAME))
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
        End::with_limits(items, bytes).map(QueueHandle::of).map_err(CreateError::of(NAME))
    }

    /// Returns an end that can only put items. If producers have only this, and the queue itself is
    /// dropped, consumers are told when the last producer is gone.
    pub fn producer(&self) -> Producer<T> {
        QueueHandle::of(self.end.producer())
    }

    /// Returns an end that can only take items. Since it can't put, it doesn't keep other consumers
    /// waiting when all producers are gone.
    pub fn consumer(&self) -> Consumer<T> {
        QueueHandle::of(self.end.consumer())
    }
}

impl<T, R: Role> QueueHandle<T, R> {
    /// Returns the number of items in the queue at this moment. Other processes may put and take
    /// items at any time.
    pub fn len(&self) -> usize {
        self.end.len()
    }

    /// Whether the queue is empty at this moment.
    pub fn is_empty(&self) -> bool {
        self.end.is_empty()
    }

    /// Whether the queue has reached its capacity at this moment. One without a limit is never
    /// full.
    pub fn is_full(&self) -> bool {
        self.end.is_full()
    }

    /// Returns the greatest number of items the queue may hold, or `None` if there is no limit.
    pub fn capacity(&self) -> Option<usize> {
        self.end.capacity()
    }

    /// Closes the queue for all processes: later puts fail. Items in it can still be taken; then
    /// consumers get [`GetError::Closed`].
    pub fn close(&self) {
        self.end.close();
    }

    /// Whether the queue was [closed](Queue::close).
    pub fn is_closed(&self) -> bool {
        self.end.is_closed()
    }
}

impl<T, R: Role> Clone for QueueHandle<T, R> {
    fn clone(&self) -> QueueHandle<T, R> {
        QueueHandle::of(self.end.clone())
    }
}

impl<T, R: Role> fmt::Debug for QueueHandle<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.end.fmt(f)
    }
}

impl<T, R: Role> Serialize for QueueHandle<T, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (R::PUTS, R::GETS, send(self.end.to_fds())?).serialize(serializer)
    }
}

impl<'de, T, R: Role> Deserialize<'de> for QueueHandle<T, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<QueueHandle<T, R>, D::Error> {
        let (puts, gets, fds) = <(bool, bool, Vec<Handle<OwnedFd>>)>::deserialize(deserializer)?;
        if (puts, gets) != (R::PUTS, R::GETS) {
            return Err(serde::de::Error::custom("it is a queue of another kind"));
        }
        End::from_fds(received(fds)).map(QueueHandle::of).map_err(serde::de::Error::custom)
    }
}

/// The descriptors of a queue, to be serialised.
pub(super) fn send<E: serde::ser::Error>(fds: std::io::Result<Vec<OwnedFd>>) -> Result<Vec<Handle<OwnedFd>>, E> {
    match fds {
        Ok(fds) => Ok(fds.into_iter().map(Handle::new).collect()),
        Err(error) => Err(E::custom(format_args!("no descriptors to send a queue with: {error}"))),
    }
}

/// The descriptors of a queue that was deserialised.
pub(super) fn received(fds: Vec<Handle<OwnedFd>>) -> Vec<OwnedFd> {
    fds.into_iter().map(Handle::into_inner).collect()
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
        self.end.has_consumers()
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
        self.end.has_producers()
    }
}

impl<T: Sendable, R: CanPut> QueueHandle<T, R> {
    /// Puts an item. Waits while the queue is full, for as long as it takes.
    ///
    /// # Errors
    /// [`PutError`], which holds the item and a [kind](PutErrorKind): the item can't be serialised,
    /// there is no memory for it, the queue is closed, or it is full and no process is left that
    /// could take an item.
    #[inline]
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        put_value(&self.end, item, Deadline::Never)
    }

    /// Puts an item if there is room for it now.
    ///
    /// # Errors
    /// Those of [`put`](Self::put); [`PutErrorKind::Full`].
    #[inline]
    pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
        put_value(&self.end, item, Deadline::Now)
    }

    /// Puts an item. Waits while the queue is full, but for at most `timeout`.
    ///
    /// # Errors
    /// Those of [`put`](Self::put); [`PutErrorKind::Timeout`].
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
        put_value(&self.end, item, Deadline::from_now(timeout))
    }

    /// Puts bytes as they are, for [`get_bytes`](Queue::get_bytes). They are copied once.
    ///
    /// # Errors
    /// Those of [`put`](Self::put).
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<(), PutErrorKind> {
        Ok(self.end.put(&[bytes], &[], Deadline::Never)?)
    }

    /// Puts bytes if there is room for them now. See [`put_bytes`](Self::put_bytes).
    ///
    /// # Errors
    /// Those of [`put`](Self::put); [`PutErrorKind::Full`].
    pub fn try_put_bytes(&self, bytes: &[u8]) -> Result<(), PutErrorKind> {
        Ok(self.end.put(&[bytes], &[], Deadline::Now)?)
    }

    /// Puts bytes. Waits while the queue is full, but for at most `timeout`. See
    /// [`put_bytes`](Self::put_bytes).
    ///
    /// # Errors
    /// Those of [`put`](Self::put); [`PutErrorKind::Timeout`].
    pub fn put_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), PutErrorKind> {
        Ok(self.end.put(&[bytes], &[], Deadline::from_now(timeout))?)
    }
}

impl<T: Serialize + DeserializeOwned, R: CanGet> QueueHandle<T, R> {
    #[inline]
    fn get_value(&self, deadline: Deadline) -> Result<T, GetError> {
        let mut scratch = Scratch::new();
        within(deadline.limit(), || {
            let taken = self.end.take(&mut scratch, deadline)?;
            self.value(taken, &scratch)
        })
    }

    /// Decodes the item that was taken.
    #[inline]
    pub(super) fn value(&self, taken: Taken, scratch: &Scratch) -> Result<T, GetError> {
        self.end.read(taken, scratch, decode)?
    }
}

impl<T: Sendable, R: CanGet> QueueHandle<T, R> {
    /// Takes the oldest item. Waits while the queue is empty, for as long as it takes.
    ///
    /// # Errors
    /// [`GetError`]: the queue is empty and closed; it is empty and no process is left that could
    /// put an item; or an item was taken that can't be read.
    #[inline]
    pub fn get(&self) -> Result<T, GetError> {
        self.get_value(Deadline::Never)
    }

    /// Takes the oldest item if there is one.
    ///
    /// # Errors
    /// Those of [`get`](Self::get); [`GetError::Empty`].
    #[inline]
    pub fn try_get(&self) -> Result<T, GetError> {
        self.get_value(Deadline::Now)
    }

    /// Takes the oldest item. Waits while the queue is empty, but for at most `timeout`.
    ///
    /// # Errors
    /// Those of [`get`](Self::get); [`GetError::Timeout`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.get_value(Deadline::from_now(timeout))
    }

    /// Takes the oldest item as bytes: what [`put_bytes`](Queue::put_bytes) was given, or a value
    /// in its encoded form. Large items are read in place.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn get_bytes(&self) -> Result<Message, GetError> {
        Ok(self.end.get(Deadline::Never)?)
    }

    /// Takes the oldest item as bytes if there is one.
    ///
    /// # Errors
    /// Those of [`get`](Self::get); [`GetError::Empty`].
    pub fn try_get_bytes(&self) -> Result<Message, GetError> {
        Ok(self.end.get(Deadline::Now)?)
    }

    /// Takes the oldest item as bytes. Waits while the queue is empty, but for at most `timeout`.
    ///
    /// # Errors
    /// Those of [`get`](Self::get); [`GetError::Timeout`].
    pub fn get_bytes_timeout(&self, timeout: Duration) -> Result<Message, GetError> {
        Ok(self.end.get(Deadline::from_now(timeout))?)
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
    pub fn iter(&self) -> Items<'_, T, R> {
        Items { queue: self }
    }
}

impl<'a, T: Sendable, R: CanGet> IntoIterator for &'a QueueHandle<T, R> {
    type Item = Result<T, GetError>;
    type IntoIter = Items<'a, T, R>;

    fn into_iter(self) -> Items<'a, T, R> {
        self.iter()
    }
}

/// A descriptor that polls readable while there is an item to take. It is the same for all clones
/// of a handle in the process, and may be added to a set of epoll(7). When it is readable, call
/// [`try_get`](Queue::try_get) until it returns [`Empty`](GetError::Empty), and then poll again. It
/// may be readable although there is no item, for example when another process has taken it; the
/// `try_get` that finds none resets it. Don't read from the descriptor.
impl<T, R: CanGet> AsFd for QueueHandle<T, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

/// Ready when there is an item or the queue is closed; a [`Consumer`] also when no process is left
/// that could put an item.
impl<T, R: CanGet> Waitable for QueueHandle<T, R> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.end.fd_to_sleep_on()
    }

    fn ready(&self) -> std::io::Result<bool> {
        Ok(self.end.is_ready())
    }

    fn woken(&self) -> std::io::Result<bool> {
        Ok(self.end.is_ready())
    }

    fn finished(&self) {
        self.end.finished();
    }
}

/// An iterator over the items of a queue, returned by [`Queue::iter`].
pub struct Items<'a, T, R: Role = Both> {
    queue: &'a QueueHandle<T, R>,
}

impl<T: Sendable, R: CanGet> Iterator for Items<'_, T, R> {
    type Item = Result<T, GetError>;

    fn next(&mut self) -> Option<Result<T, GetError>> {
        match self.queue.get_value(Deadline::Never) {
            Err(error) if error.is_end() => None,
            result => Some(result),
        }
    }
}

impl<T, R: Role> fmt::Debug for Items<'_, T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").finish_non_exhaustive()
    }
}
