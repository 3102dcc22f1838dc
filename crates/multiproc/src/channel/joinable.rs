//! [`JoinableQueue`]: a queue that knows when the work on its items is done, and hands out again what somebody has died with.

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
use crate::Result;
use crate::sendable::Sendable;
use crate::shm::scratch::Scratch;
use crate::shm::store::{Limits, Place, Store, Taken};

/// A [`Queue`](crate::Queue) of work. An item that was taken is somebody's until its work is [done](Task::task_done); if its process dies before that, the item is there to be taken again, and
/// who takes it sees [how often](Task::deliveries) that has happened. [`join`](JoinableQueue::join) waits until all work is done. Python's
/// `multiprocessing.JoinableQueue`, which loses what a killed worker had in its hands.
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
/// Items can't have open files in them ([`Handle`](crate::Handle)s, queues, locks), which could not be delivered a second time: `put` says so.
pub struct JoinableQueue<T> {
    pub(super) end: End<T>,
}

impl<T> JoinableQueue<T> {
    /// A queue without a limit.
    ///
    /// # Errors
    /// As [`Queue::new`](crate::Queue::new).
    pub fn new() -> Result<JoinableQueue<T>> {
        Ok(JoinableQueue { end: End::create(Limits::NONE, true)? })
    }

    /// A queue in which there are at most `items` at a time; at least one. Those that have been taken don't count.
    ///
    /// # Errors
    /// As [`Queue::new`](crate::Queue::new).
    pub fn with_capacity(items: usize) -> Result<JoinableQueue<T>> {
        JoinableQueue::with_limits(items, u64::MAX)
    }

    /// A queue in which there are at most `items`, of at most `bytes` together as they are encoded, at a time. Those that have been taken don't count. An item of more bytes than that is
    /// [refused](crate::PutErrorKind::TooLarge).
    ///
    /// # Errors
    /// As [`Queue::new`](crate::Queue::new).
    pub fn with_limits(items: usize, bytes: u64) -> Result<JoinableQueue<T>> {
        Ok(JoinableQueue { end: End::create(Limits::new(items, bytes), true)? })
    }

    /// How many items may be in it; none without a limit.
    pub fn capacity(&self) -> Option<usize> {
        self.end.store.limits().capacity()
    }

    /// How many items wait to be taken at this moment.
    pub fn len(&self) -> usize {
        usize::try_from(self.end.store.len()).unwrap_or(usize::MAX)
    }

    /// Whether none waits to be taken at this moment.
    pub fn is_empty(&self) -> bool {
        self.end.store.is_empty()
    }

    /// Whether there are as many items in it as there may be, at this moment.
    pub fn is_full(&self) -> bool {
        self.end.store.is_full()
    }

    /// How many items have been put whose work is not done, at this moment: those that wait, and those that have been taken.
    pub fn unfinished(&self) -> usize {
        usize::try_from(self.end.store.unfinished()).unwrap_or(usize::MAX)
    }

    /// Lets nobody put anything any more. What is in it can be taken, and then everybody is told that this is [the end](GetError::Closed).
    ///
    /// Items with which somebody dies after that are still there to be taken again.
    pub fn close(&self) {
        self.end.store.close();
    }

    /// Whether somebody has [closed](JoinableQueue::close) it.
    pub fn is_closed(&self) -> bool {
        self.end.store.is_closed()
    }

    /// Waits until the work on all items is done that have been put, for as long as it takes.
    ///
    /// # Errors
    /// [`GetError::Disconnected`] when work is left, and nobody to do it: all other handles have been dropped, or their processes have ended. Take it yourself, or start somebody.
    pub fn join(&self) -> Result<(), GetError> {
        Ok(self.end.store.join(None, self.end.to_put())?)
    }

    /// As [`join`](JoinableQueue::join), but no longer than `timeout`.
    ///
    /// # Errors
    /// [`GetError::TimedOut`], [`GetError::Disconnected`].
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), GetError> {
        Ok(self.end.store.join(deadline(timeout), self.end.to_put())?)
    }
}

impl<T: Sendable> JoinableQueue<T> {
    /// As [`Queue::put`](crate::Queue::put).
    ///
    /// # Errors
    /// As there.
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.end.put(item, Patience::Until(None))
    }

    /// As [`Queue::try_put`](crate::Queue::try_put).
    ///
    /// # Errors
    /// As there.
    pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
        self.end.put(item, Patience::None)
    }

    /// As [`Queue::put_timeout`](crate::Queue::put_timeout).
    ///
    /// # Errors
    /// As there.
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.end.put(item, Patience::Until(deadline(timeout)))
    }

    /// Takes the oldest item; one that somebody has died with, before others. Waits while there is none.
    ///
    /// # Errors
    /// As [`Queue::get`](crate::Queue::get). An item that can't be read counts as done.
    pub fn get(&self) -> Result<Task<T>, GetError> {
        self.take(Patience::Until(None))
    }

    /// As [`get`](JoinableQueue::get), if there is one.
    ///
    /// # Errors
    /// As there; [`GetError::Empty`].
    pub fn try_get(&self) -> Result<Task<T>, GetError> {
        self.take(Patience::None)
    }

    /// As [`get`](JoinableQueue::get), but waits no longer than `timeout`.
    ///
    /// # Errors
    /// As there; [`GetError::TimedOut`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<Task<T>, GetError> {
        self.take(Patience::Until(deadline(timeout)))
    }

    /// The items, one after the other, each waited for; up to the end: until the queue is closed or disconnected, and empty. Each is delivered again if its work
    /// is not [done](Task::task_done).
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

    /// What was taken, as a task.
    pub(super) fn task(&self, taken: Taken, scratch: &Scratch) -> Result<Task<T>, GetError> {
        let deliveries = taken.deliveries;
        let index = lease_of(&taken).ok_or(GetError::Corrupt("an item without a lease"))?;
        // From here on it is given back, or done.
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
                // To hand it out again would be of no use.
                lease.finish();
                Err(error)
            }
        }
    }
}

/// What [`JoinableQueue::iter`] gives.
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
            false => Err(serde::de::Error::custom("it is another kind of queue")),
        }
    }
}

/// As of a [`Queue`](crate::Queue). It is readable also when an item is to be had because a process
/// has died with it.
impl<T> AsFd for JoinableQueue<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.fd()
    }
}

/// As of a [`Queue`](crate::Queue); ready also when an item is to be had because a process has died
/// with it.
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

/// An item that was taken from a [`JoinableQueue`], and is this process's until its work is [done](Task::task_done). Derefs to the item.
///
/// When it is dropped before that, by a panic say, the item is there to be taken again, as if its process had died.
pub struct Task<T> {
    value: T,
    deliveries: u32,
    lease: Lease,
}

impl<T> Task<T> {
    /// The work is done: the item is gone for good.
    pub fn task_done(self) {
        self.lease.finish();
    }

    /// The item itself, whose work counts as done.
    pub fn into_inner(self) -> T {
        let Task { value, lease, .. } = self;
        lease.finish();
        value
    }

    /// How often the item has been taken, this time included. More than once means that somebody has died with it, or dropped it.
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

/// An item in this process's hands.
struct Lease {
    store: Arc<Store>,
    index: u32,
    finished: bool,
}

impl Lease {
    fn finish(mut self) {
        self.finished = true;
        // It fails only if the memory is garbage, or if this is a copy of the process that has it.
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
