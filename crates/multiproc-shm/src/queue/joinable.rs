//! [`JoinableQueue`]: a queue of work. A message is held by the process that has taken it until its
//! work is done, and is delivered again if that process dies before. See `QUEUE.md`, "Leases".

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::lock::spin_lock::{self, Limit};
use crate::memory::scratch::Scratch;
use crate::queue::block::bytes_of;
use crate::queue::end::{End, Queue};
use crate::queue::error::Error;
use crate::queue::item::{Place, Taken};
use crate::queue::limits::Limits;
use crate::queue::role::Both;
use crate::queue::store::Store;
use crate::wait::deadline::Deadline;

/// A queue of work. A process that takes a message holds it until the work is
/// [done](Task::task_done). If the process dies before that, the message can be taken again, and
/// the next consumer sees [how often](Task::deliveries) it has been delivered.
///
/// ```
/// use multiproc_shm::queue::JoinableQueue;
/// use multiproc_shm::wait::deadline::Deadline;
///
/// let queue = JoinableQueue::new()?;
/// queue.put(&[b"work"], Deadline::Never)?;
///
/// let task = queue.get(Deadline::Never)?;
/// drop(task); // As if its process had died.
/// let task = queue.get(Deadline::Never)?;
/// assert_eq!((&*task, task.deliveries()), (&b"work"[..], 2));
/// task.task_done();
/// queue.join(Deadline::Never)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Messages have no descriptors, since those could not be delivered a second time. Of handles,
/// other processes and descriptors, the same holds as for an [`End`]. A process has five
/// descriptors for such a queue, and one for each process that has taken messages and is watched.
#[derive(Clone)]
pub struct JoinableQueue {
    end: Queue,
}

impl JoinableQueue {
    /// Creates a queue without a limit.
    ///
    /// # Errors
    /// Those of [`Queue::new`](End::new).
    pub fn new() -> io::Result<JoinableQueue> {
        JoinableQueue::of(Limits::NONE)
    }

    /// Creates a queue for at most `items` messages at a time, and at least one, of at most `bytes`
    /// bytes together. Messages that have been taken don't count.
    ///
    /// # Errors
    /// Those of [`Queue::new`](End::new).
    pub fn with_limits(items: usize, bytes: u64) -> io::Result<JoinableQueue> {
        JoinableQueue::of(Limits::new(items, bytes))
    }

    fn of(limits: Limits) -> io::Result<JoinableQueue> {
        Ok(JoinableQueue { end: End::create(limits, true)? })
    }

    /// Makes a handle of the descriptors that [`to_fds`](JoinableQueue::to_fds) or
    /// [`into_fds`](JoinableQueue::into_fds) returned.
    ///
    /// # Errors
    /// `InvalidData` if they are not the descriptors of a joinable queue; `ENOMEM`.
    pub fn from_fds(fds: Vec<OwnedFd>) -> io::Result<JoinableQueue> {
        Ok(JoinableQueue { end: End::open(fds, true)? })
    }

    /// Duplicates the descriptors of the queue, as [`End::to_fds`] does.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn to_fds(&self) -> io::Result<Vec<OwnedFd>> {
        self.end.to_fds()
    }

    /// As [`to_fds`](JoinableQueue::to_fds), and drops this handle.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn into_fds(self) -> io::Result<Vec<OwnedFd>> {
        self.to_fds()
    }

    /// As [`End::keep_open`].
    pub fn keep_open(self) -> JoinableQueue {
        JoinableQueue { end: self.end.keep_open() }
    }

    /// As [`End::interruptible`].
    pub fn interruptible(self) -> JoinableQueue {
        JoinableQueue { end: self.end.interruptible() }
    }

    /// Returns the number of messages that wait to be taken, at this moment.
    pub fn len(&self) -> usize {
        self.end.len()
    }

    /// Whether no message waits to be taken, at this moment.
    pub fn is_empty(&self) -> bool {
        self.end.is_empty()
    }

    /// Whether the queue has reached its limit at this moment.
    pub fn is_full(&self) -> bool {
        self.end.is_full()
    }

    /// Returns the greatest number of messages the queue may hold, or `None` if there is no limit.
    pub fn capacity(&self) -> Option<usize> {
        self.end.capacity()
    }

    /// Returns the number of messages that were put and are not done, at this moment: those that
    /// wait to be taken, and those that have been taken.
    pub fn unfinished(&self) -> usize {
        usize::try_from(self.end.store().unfinished()).unwrap_or(usize::MAX)
    }

    /// Closes the queue for all processes, as [`End::close`] does. Messages of consumers that die
    /// after that can still be taken again.
    pub fn close(&self) {
        self.end.close();
    }

    /// Whether the queue was [closed](JoinableQueue::close).
    pub fn is_closed(&self) -> bool {
        self.end.is_closed()
    }

    /// Puts a message. See [`End::put`].
    ///
    /// # Errors
    /// Those of [`End::put`].
    pub fn put(&self, parts: &[&[u8]], deadline: impl Into<Deadline>) -> Result<(), Error> {
        self.end.put(parts, &[], deadline)
    }

    /// Puts a message if that is possible at once. See [`End::try_put`].
    ///
    /// # Errors
    /// Those of [`End::try_put`].
    pub fn try_put(&self, parts: &[&[u8]]) -> Result<(), Error> {
        self.end.try_put(parts, &[])
    }

    /// Takes the oldest message, or first of all one with which a consumer has died. Waits until
    /// `deadline` while there is none.
    ///
    /// # Errors
    /// Those of [`End::get`].
    pub fn get(&self, deadline: impl Into<Deadline>) -> Result<Task, Error> {
        self.task(Deadline::limit, deadline.into())
    }

    /// Takes a message if that is possible at once. See [`End::try_get`].
    ///
    /// # Errors
    /// Those of [`End::try_get`].
    pub fn try_get(&self) -> Result<Task, Error> {
        self.task(|_| Limit::Zero, Deadline::Now)
    }

    fn task(&self, limit: impl Fn(Deadline) -> Limit, deadline: Deadline) -> Result<Task, Error> {
        let mut scratch = Scratch::new();
        spin_lock::within(limit(deadline), || {
            let taken = self.end.take(&mut scratch, deadline)?;
            let deliveries = taken.deliveries;
            let (lease, content) = self.read(taken, &scratch, |taken, bytes| match taken.place {
                Place::Block(_, len) => Content::Block(len),
                _ => Content::Small(bytes.into()),
            })?;
            Ok(Task { content, deliveries, lease })
        })
    }

    /// Waits until the work on all messages that were put is done, or until `deadline`.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::Disconnected`] when work is left and no other handle is there
    /// to do it. A [`Task`] is not a handle: a thread that works on one keeps a clone of the queue.
    pub fn join(&self, deadline: impl Into<Deadline>) -> Result<(), Error> {
        let deadline = deadline.into();
        self.end.wait(|| self.end.store().join(deadline.instant(), self.end.to_put()))
    }

    /// Calls `read` with the item that was taken and its bytes. Returns the lease of the item, too:
    /// dropping it returns the item to the queue.
    ///
    /// # Errors
    /// [`Error::Io`] if a large item can't be mapped: it can be taken again. [`Error::Corrupt`].
    #[doc(hidden)]
    pub fn read<T>(
        &self,
        taken: Taken,
        scratch: &Scratch,
        read: impl FnOnce(Taken, &[u8]) -> T,
    ) -> Result<(Lease, T), Error> {
        let store = self.end.store();
        let (Place::Lease(index) | Place::Block(index, _)) = taken.place else {
            return Err(Error::Corrupt("an item without a lease"));
        };
        let lease = Lease { store: store.clone(), index, is_finished: false };
        let value = match taken.place {
            Place::Block(index, len) => store.with_lease(index, len, |bytes| read(taken, bytes))?,
            _ => read(taken, scratch.bytes()),
        };
        Ok((lease, value))
    }

    /// Returns the handle of the queue, for fronts that encode and decode values.
    #[doc(hidden)]
    #[inline]
    pub fn end(&self) -> &End<Both> {
        &self.end
    }
}

impl fmt::Debug for JoinableQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinableQueue").field("len", &self.len()).field("unfinished", &self.unfinished()).finish()
    }
}

/// The same kind of descriptor as that of an [`End`]. It is readable also when a message can be
/// taken again because its consumer has died.
impl AsFd for JoinableQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

/// A message of a [`JoinableQueue`], which this process holds until its work is
/// [done](Task::task_done). It derefs to its bytes.
///
/// If it is dropped before that, for example by a panic, the message can be taken again, as if the
/// process had died. The drop waits for a process that is stopped in the middle of an operation on
/// the queue, as calls without a deadline do.
#[must_use = "the message is delivered again if it is dropped"]
pub struct Task {
    content: Content,
    deliveries: u32,
    lease: Lease,
}

enum Content {
    Small(Box<[u8]>),
    /// In the lease's block, of this length.
    Block(u64),
}

impl Task {
    /// Marks the work as done: the message is gone for good.
    pub fn task_done(self) {
        self.lease.finish();
    }

    /// Returns how often the message has been taken, this time included. More than once means that
    /// an earlier consumer has died, or dropped the task without finishing it.
    pub fn deliveries(&self) -> u32 {
        self.deliveries
    }
}

impl Deref for Task {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.content {
            Content::Small(bytes) => bytes,
            // SAFETY: the block is this process's for as long as the lease exists. It was mapped
            // when the task was made, and stays mapped.
            Content::Block(len) => unsafe {
                bytes_of(self.lease.store.blocks(), self.lease.index, *len).unwrap_or_default()
            },
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("len", &self.len()).field("deliveries", &self.deliveries).finish()
    }
}

/// The right to work on an item. Dropping it without finishing returns the item to the queue.
#[derive(Debug)]
pub struct Lease {
    store: Arc<Store>,
    index: u32,
    is_finished: bool,
}

impl Lease {
    /// Marks the work as done: the item is gone for good.
    pub fn finish(mut self) {
        self.is_finished = true;
        // Fails only if the shared memory is corrupt, or in a fork copy, which doesn't hold the
        // item.
        let _ = self.store.finish(self.index);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.is_finished {
            self.store.return_lease(self.index);
        }
    }
}
