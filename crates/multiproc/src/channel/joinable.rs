//! [`JoinableQueue`]: a queue that tracks unfinished work, and delivers an item again when its
//! consumer dies before finishing it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::queue::{End, Patience, Role, deadline, decode, lease_of};
use super::queue_error::{GetError, PutError};
use super::wait::Waitable;
use crate::create_error::CreateError;
use crate::sendable::Sendable;
use crate::shm::scratch::Scratch;
use crate::shm::store::{Limits, Place, Store, Taken};

/// A [`Queue`](crate::Queue) of work. A process that takes an item holds it until the work is
/// [done](Task::task_done). If the process dies before that, the item can be taken again, and the
/// next taker sees [how often](Task::deliveries) it has been delivered.
/// [`join`](JoinableQueue::join) waits until all work is done. Python's
/// `multiprocessing.JoinableQueue`, which loses the items that a killed worker had taken.
///
/// ```
/// use multiproc::{JoinableQueue, Process};
///
/// fn worker(tasks: JoinableQueue<Option<u32>>) {
///     loop {
///         let task = tasks.get().unwrap();
///         let Some(number) = *task else {
///             task.task_done(); // the poison pill
///             break;
///         };
///         println!("{number} squared is {}", number * number);
///         task.task_done();
///     }
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tasks = JoinableQueue::new()?;
/// for _ in 0..2 {
///     Process::new(worker, (tasks.clone(),)).start()?;
/// }
/// for number in 0..5 {
///     tasks.put(Some(number))?;
/// }
/// for _ in 0..2 {
///     tasks.put(None)?;
/// }
/// tasks.join()?;
/// # Ok(())
/// # }
/// ```
///
/// Items can't contain open files ([`Handle`](crate::Handle)s, queues, locks), because those could
/// not be delivered a second time: `put` returns an error.
pub struct JoinableQueue<T> {
    pub(super) end: End<T>,
}

impl<T> JoinableQueue<T> {
    /// Creates a queue without a limit.
    ///
    /// # Errors
    /// Those of [`Queue::new`](crate::Queue::new).
    pub fn new() -> Result<JoinableQueue<T>, CreateError> {
        Ok(JoinableQueue { end: End::create(Limits::NONE, true)? })
    }

    /// Creates a queue for at most `items` items at a time, and at least one. Items that have been
    /// taken don't count.
    ///
    /// # Errors
    /// Those of [`Queue::new`](crate::Queue::new).
    pub fn with_capacity(items: usize) -> Result<JoinableQueue<T>, CreateError> {
        JoinableQueue::with_limits(items, u64::MAX)
    }

    /// Creates a queue for at most `items` items at a time, with at most `bytes` bytes in their
    /// encoded form together. Items that have been taken don't count. An item of more than `bytes`
    /// bytes is [refused](crate::PutErrorKind::TooLarge).
    ///
    /// # Errors
    /// Those of [`Queue::new`](crate::Queue::new).
    pub fn with_limits(items: usize, bytes: u64) -> Result<JoinableQueue<T>, CreateError> {
        Ok(JoinableQueue { end: End::create(Limits::new(items, bytes), true)? })
    }

    /// Returns the greatest number of items the queue may hold, or `None` if there is no limit.
    pub fn capacity(&self) -> Option<usize> {
        self.end.store.limits().capacity()
    }

    /// Returns the number of items that wait to be taken, at this moment.
    pub fn len(&self) -> usize {
        usize::try_from(self.end.store.len()).unwrap_or(usize::MAX)
    }

    /// Whether no item waits to be taken, at this moment.
    pub fn is_empty(&self) -> bool {
        self.end.store.is_empty()
    }

    /// Whether the queue has reached its capacity at this moment.
    pub fn is_full(&self) -> bool {
        self.end.store.is_full()
    }

    /// Returns the number of items that were put and are not done, at this moment: those that wait
    /// to be taken, and those that have been taken.
    pub fn unfinished(&self) -> usize {
        usize::try_from(self.end.store.unfinished()).unwrap_or(usize::MAX)
    }

    /// Closes the queue for all processes: later puts fail. Items in it can still be taken; then
    /// consumers get [`GetError::Closed`].
    ///
    /// Items of consumers that die after that can still be taken again.
    pub fn close(&self) {
        self.end.store.close();
    }

    /// Whether the queue was [closed](JoinableQueue::close).
    pub fn is_closed(&self) -> bool {
        self.end.store.is_closed()
    }

    /// Waits until the work on all items that were put is done, for as long as it takes.
    ///
    /// # Errors
    /// [`GetError::Disconnected`] when work is left and no other process is there to do it: all
    /// other handles have been dropped, or their processes have ended. Take the items in this
    /// process, or start another consumer.
    pub fn join(&self) -> Result<(), GetError> {
        Ok(self.end.store.join(None, self.end.to_put())?)
    }

    /// Like [`join`](JoinableQueue::join), but waits for at most `timeout`.
    ///
    /// # Errors
    /// [`GetError::Timeout`], [`GetError::Disconnected`].
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), GetError> {
        Ok(self.end.store.join(deadline(timeout), self.end.to_put())?)
    }
}

impl<T: Sendable> JoinableQueue<T> {
    /// Puts an item. See [`Queue::put`](crate::Queue::put).
    ///
    /// # Errors
    /// Those of [`Queue::put`](crate::Queue::put).
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.end.put(item, Patience::Until(None))
    }

    /// Puts an item if there is room for it now. See [`Queue::try_put`](crate::Queue::try_put).
    ///
    /// # Errors
    /// Those of [`Queue::try_put`](crate::Queue::try_put).
    pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
        self.end.put(item, Patience::None)
    }

    /// Puts an item; waits for room for at most `timeout`. See
    /// [`Queue::put_timeout`](crate::Queue::put_timeout).
    ///
    /// # Errors
    /// Those of [`Queue::put_timeout`](crate::Queue::put_timeout).
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.end.put(item, Patience::Until(deadline(timeout)))
    }

    /// Takes the oldest item, or first of all one with which a consumer has died. Waits while there
    /// is none.
    ///
    /// # Errors
    /// Those of [`Queue::get`](crate::Queue::get). An item that can't be read counts as done.
    pub fn get(&self) -> Result<Task<T>, GetError> {
        self.take(Patience::Until(None))
    }

    /// Like [`get`](JoinableQueue::get), but doesn't wait.
    ///
    /// # Errors
    /// Those of [`get`](JoinableQueue::get); [`GetError::Empty`].
    pub fn try_get(&self) -> Result<Task<T>, GetError> {
        self.take(Patience::None)
    }

    /// Like [`get`](JoinableQueue::get), but waits for at most `timeout`.
    ///
    /// # Errors
    /// Those of [`get`](JoinableQueue::get); [`GetError::Timeout`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<Task<T>, GetError> {
        self.take(Patience::Until(deadline(timeout)))
    }

    /// Returns an iterator over the items, which waits for each. It ends when the queue is empty,
    /// and closed or disconnected. An item is delivered again if its work is not
    /// [done](Task::task_done).
    ///
    /// ```
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tasks = multiproc::JoinableQueue::new()?;
    /// tasks.put(1)?;
    /// tasks.put(2)?;
    /// tasks.close();
    /// for task in &tasks {
    ///     task?.task_done();
    /// }
    /// assert_eq!(tasks.unfinished(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn iter(&self) -> Tasks<'_, T> {
        Tasks { queue: self }
    }

    fn take(&self, patience: Patience) -> Result<Task<T>, GetError> {
        let mut scratch = Scratch::new();
        patience.limits(|| {
            let taken = self.end.take(&mut scratch, patience)?;
            self.task(taken, &scratch)
        })
    }

    /// Decodes the item that was taken.
    pub(super) fn task(&self, taken: Taken, scratch: &Scratch) -> Result<Task<T>, GetError> {
        let deliveries = taken.deliveries;
        let index = lease_of(&taken).ok_or(GetError::Corrupt("an item without a lease"))?;
        // From here on, dropping `lease` returns the item, and finishing it removes the item.
        let lease = Lease { store: self.end.store.clone(), index, finished: false };
        let value = match taken.place {
            Place::Block(index, len) => {
                self.end.store.with_lease(index, len, |bytes| decode(taken, bytes)).map_err(GetError::from)?
            }
            _ => decode(taken, scratch.bytes()),
        };
        match value {
            Ok(value) => Ok(Task { value, deliveries, lease }),
            Err(error) => {
                // It would be undecodable for every consumer, so it isn't delivered again.
                lease.finish();
                Err(error)
            }
        }
    }
}

/// An iterator over the items of a queue, returned by [`JoinableQueue::iter`].
#[derive(Debug)]
pub struct Tasks<'a, T> {
    queue: &'a JoinableQueue<T>,
}

impl<T: Serialize + DeserializeOwned> Iterator for Tasks<'_, T> {
    type Item = Result<Task<T>, GetError>;

    fn next(&mut self) -> Option<Result<Task<T>, GetError>> {
        match self.queue.get() {
            Err(error) if error.is_end() => None,
            result => Some(result),
        }
    }
}

impl<'a, T: Serialize + DeserializeOwned> IntoIterator for &'a JoinableQueue<T> {
    type Item = Result<Task<T>, GetError>;
    type IntoIter = Tasks<'a, T>;

    fn into_iter(self) -> Tasks<'a, T> {
        self.iter()
    }
}

impl<T> Clone for JoinableQueue<T> {
    fn clone(&self) -> JoinableQueue<T> {
        JoinableQueue { end: self.end.another(Role::Both) }
    }
}

impl<T> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinableQueue").field("len", &self.len()).field("unfinished", &self.unfinished()).finish()
    }
}

impl<T> Serialize for JoinableQueue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.end.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for JoinableQueue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JoinableQueue<T>, D::Error> {
        let end = End::deserialize(deserializer)?;
        match end.store.is_joinable() {
            true => Ok(JoinableQueue { end }),
            false => Err(serde::de::Error::custom("it is a queue of another kind")),
        }
    }
}

/// The same kind of descriptor as that of a [`Queue`](crate::Queue). It is readable also when an
/// item can be taken again because its consumer has died.
impl<T> AsFd for JoinableQueue<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.fd()
    }
}

/// Ready when there is an item or the queue is closed, as for a [`Queue`](crate::Queue); also when
/// an item can be taken again because its consumer has died.
impl<T> Waitable for JoinableQueue<T> {
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

/// An item taken from a [`JoinableQueue`], which this process holds until its work is
/// [done](Task::task_done). Derefs to the item.
///
/// If it is dropped before that, for example by a panic, the item can be taken again, as if the
/// process had died.
pub struct Task<T> {
    value: T,
    deliveries: u32,
    lease: Lease,
}

impl<T> Task<T> {
    /// Marks the work as done: the item is gone for good.
    pub fn task_done(self) {
        self.lease.finish();
    }

    /// Returns the item itself, and marks its work as done.
    pub fn into_inner(self) -> T {
        let Task { value, lease, .. } = self;
        lease.finish();
        value
    }

    /// Returns how often the item has been taken, this time included. More than once means that an
    /// earlier consumer has died, or dropped the task without finishing it.
    pub fn deliveries(&self) -> u32 {
        self.deliveries
    }
}

impl<T> Deref for Task<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Task<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("value", &self.value).field("deliveries", &self.deliveries).finish()
    }
}

/// The right to work on an item. Dropping it without finishing returns the item to the queue.
struct Lease {
    store: Arc<Store>,
    index: u32,
    finished: bool,
}

impl Lease {
    fn finish(mut self) {
        self.finished = true;
        // Fails only if the shared memory is corrupt, or in a fork copy, which doesn't hold the
        // item.
        let _ = self.store.finish(self.index);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.finished {
            self.store.return_lease(self.index);
        }
    }
}
