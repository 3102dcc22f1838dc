//! [`JoinableQueue`]: a queue that tracks unfinished work, and delivers an item again when its
//! consumer dies before finishing it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use multiproc_shm::lock::spin_lock::within;
use multiproc_shm::memory::scratch::Scratch;
use multiproc_shm::queue::item::Taken;
use multiproc_shm::queue::{self as shm_queue, Lease};
use multiproc_shm::wait::deadline::Deadline;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::queue::{NAME, decode, put_value, received, send};
use super::queue_error::{GetError, PutError};
use super::wait::Waitable;
use crate::create_error::CreateError;
use crate::handle::Handle;
use crate::sendable::Sendable;

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
    pub(super) queue: shm_queue::JoinableQueue,
    items: PhantomData<fn(T) -> T>,
}

impl<T> JoinableQueue<T> {
    fn of(queue: shm_queue::JoinableQueue) -> JoinableQueue<T> {
        JoinableQueue { queue, items: PhantomData }
    }

    /// Creates a queue without a limit.
    ///
    /// # Errors
    /// Those of [`Queue::new`](crate::Queue::new).
    pub fn new() -> Result<JoinableQueue<T>, CreateError> {
        shm_queue::JoinableQueue::new().map(JoinableQueue::of).map_err(CreateError::of(NAME))
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
    /// bytes is [refused](crate::queue::PutErrorKind::TooLarge).
    ///
    /// # Errors
    /// Those of [`Queue::new`](crate::Queue::new).
    pub fn with_limits(items: usize, bytes: u64) -> Result<JoinableQueue<T>, CreateError> {
        shm_queue::JoinableQueue::with_limits(items, bytes).map(JoinableQueue::of).map_err(CreateError::of(NAME))
    }

    /// Returns the greatest number of items the queue may hold, or `None` if there is no limit.
    pub fn capacity(&self) -> Option<usize> {
        self.queue.capacity()
    }

    /// Returns the number of items that wait to be taken, at this moment.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no item waits to be taken, at this moment.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether the queue has reached its capacity at this moment.
    pub fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// Returns the number of items that were put and are not done, at this moment: those that wait
    /// to be taken, and those that have been taken.
    pub fn unfinished(&self) -> usize {
        self.queue.unfinished()
    }

    /// Closes the queue for all processes: later puts fail. Items in it can still be taken; then
    /// consumers get [`GetError::Closed`].
    ///
    /// Items of consumers that die after that can still be taken again.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Whether the queue was [closed](JoinableQueue::close).
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Waits until the work on all items that were put is done, for as long as it takes.
    ///
    /// # Errors
    /// [`GetError::Disconnected`] when work is left and no other process is there to do it: all
    /// other handles have been dropped, or their processes have ended. Take the items in this
    /// process, or start another consumer.
    pub fn join(&self) -> Result<(), GetError> {
        Ok(self.queue.join(Deadline::Never)?)
    }

    /// Like [`join`](JoinableQueue::join), but waits for at most `timeout`.
    ///
    /// # Errors
    /// [`GetError::Timeout`], [`GetError::Disconnected`].
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), GetError> {
        Ok(self.queue.join(Deadline::from_now(timeout))?)
    }
}

impl<T: Sendable> JoinableQueue<T> {
    /// Puts an item. See [`Queue::put`](crate::Queue::put).
    ///
    /// # Errors
    /// Those of [`Queue::put`](crate::Queue::put).
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        put_value(self.queue.end(), item, Deadline::Never)
    }

    /// Puts an item if there is room for it now. See [`Queue::try_put`](crate::Queue::try_put).
    ///
    /// # Errors
    /// Those of [`Queue::try_put`](crate::Queue::try_put).
    pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
        put_value(self.queue.end(), item, Deadline::Now)
    }

    /// Puts an item; waits for room for at most `timeout`. See
    /// [`Queue::put_timeout`](crate::Queue::put_timeout).
    ///
    /// # Errors
    /// Those of [`Queue::put_timeout`](crate::Queue::put_timeout).
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
        put_value(self.queue.end(), item, Deadline::from_now(timeout))
    }

    /// Takes the oldest item, or first of all one with which a consumer has died. Waits while there
    /// is none.
    ///
    /// # Errors
    /// Those of [`Queue::get`](crate::Queue::get). An item that can't be read counts as done.
    pub fn get(&self) -> Result<Task<T>, GetError> {
        self.take(Deadline::Never)
    }

    /// Like [`get`](JoinableQueue::get), but doesn't wait.
    ///
    /// # Errors
    /// Those of [`get`](JoinableQueue::get); [`GetError::Empty`].
    pub fn try_get(&self) -> Result<Task<T>, GetError> {
        self.take(Deadline::Now)
    }

    /// Like [`get`](JoinableQueue::get), but waits for at most `timeout`.
    ///
    /// # Errors
    /// Those of [`get`](JoinableQueue::get); [`GetError::Timeout`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<Task<T>, GetError> {
        self.take(Deadline::from_now(timeout))
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

    fn take(&self, deadline: Deadline) -> Result<Task<T>, GetError> {
        let mut scratch = Scratch::new();
        within(deadline.limit(), || {
            let taken = self.queue.end().take(&mut scratch, deadline)?;
            self.task(taken, &scratch)
        })
    }

    /// Decodes the item that was taken.
    pub(super) fn task(&self, taken: Taken, scratch: &Scratch) -> Result<Task<T>, GetError> {
        let deliveries = taken.deliveries;
        let (lease, value) = self.queue.read(taken, scratch, decode)?;
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
        JoinableQueue::of(self.queue.clone())
    }
}

impl<T> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.queue.fmt(f)
    }
}

impl<T> Serialize for JoinableQueue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        send(self.queue.to_fds())?.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for JoinableQueue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JoinableQueue<T>, D::Error> {
        let fds = Vec::<Handle<OwnedFd>>::deserialize(deserializer)?;
        let queue = shm_queue::JoinableQueue::from_fds(received(fds)).map_err(serde::de::Error::custom)?;
        Ok(JoinableQueue::of(queue))
    }
}

/// The same kind of descriptor as that of a [`Queue`](crate::Queue). It is readable also when an
/// item can be taken again because its consumer has died.
impl<T> AsFd for JoinableQueue<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// Ready when there is an item or the queue is closed, as for a [`Queue`](crate::Queue); also when
/// an item can be taken again because its consumer has died.
impl<T> Waitable for JoinableQueue<T> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.queue.end().fd_to_sleep_on()
    }

    fn ready(&self) -> std::io::Result<bool> {
        Ok(self.queue.end().is_ready())
    }

    fn woken(&self) -> std::io::Result<bool> {
        Ok(self.queue.end().is_ready())
    }

    fn finished(&self) {
        self.queue.end().finished();
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
