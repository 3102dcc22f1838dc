//! [`End`]: a handle of a queue, with its role as a type.
//!
//! The handles of a process share one view of the queue ([`Store`]). They are counted, so that a
//! wait ends when no process is left that could end it: see `QUEUE.md`, "Handles".

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use multiproc_os::poll::interruptible_if;
use multiproc_os::robust::copy_number;

use crate::lock::spin_lock::{self, Limit};
use crate::memory::scratch::Scratch;
use crate::message::fd_bundle::{FdBundle, MAX_UNPACKED};
use crate::queue::block::Block;
use crate::queue::error::Error;
use crate::queue::item::{Body, Item, Taken};
use crate::queue::item_buffer::ItemBuffer;
use crate::queue::layout::INLINE;
use crate::queue::limits::Limits;
use crate::queue::message::Message;
use crate::queue::role::{Both, CanGet, CanPut, GetOnly, PutOnly, Role};
use crate::queue::store::Store;
use crate::wait::consumer_check;
use crate::wait::deadline::Deadline;
use crate::wait::notifier::{Notifier, ViaHandle};

/// A handle of a queue that puts and takes items. See [`End`].
pub type Queue = End<Both>;

/// A handle of a queue that only puts items. See [`End`].
pub type Producer = End<PutOnly>;

/// A handle of a queue that only takes items. See [`End`].
pub type Consumer = End<GetOnly>;

/// A handle of a first-in, first-out queue of messages in shared memory, for any number of
/// processes and threads. A message is a number of bytes with a number of file descriptors.
///
/// The role `R` says what the handle can do: a [`Queue`] puts and takes, a [`Producer`] only puts,
/// a [`Consumer`] only takes.
///
/// ```
/// use multiproc_shm::queue::Queue;
/// use multiproc_shm::wait::deadline::Deadline;
///
/// let queue = Queue::new()?;
/// let consumer = queue.consumer();
/// let thread = std::thread::spawn(move || consumer.get(Deadline::Never).map(|message| message.to_vec()));
/// queue.put(&[b"a message ", b"in two parts"], &[], Deadline::Never)?;
/// assert_eq!(thread.join().unwrap()?, b"a message in two parts");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Other processes
///
/// A queue is a handful of descriptors. [`to_fds`](End::to_fds) duplicates them, for a message to
/// another process (unix(7), `SCM_RIGHTS`) or a program that inherits them, and
/// [`from_fds`](End::from_fds) makes a handle of them there. In a copy of the process made by
/// fork(2), the handles can be used as they are, whatever other threads were doing at that moment.
///
/// ```
/// use std::time::Duration;
///
/// use multiproc_shm::queue::{Consumer, Queue};
///
/// let queue = Queue::new()?;
/// let fds = queue.consumer().into_fds()?;
/// // Here the descriptors go to another process.
/// let consumer = Consumer::from_fds(fds)?;
/// queue.put(&[b"x"], &[], Duration::from_secs(1))?;
/// assert_eq!(*consumer.get(Duration::from_secs(1))?, *b"x");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Which handles are left
///
/// A wait ends with [`Error::Disconnected`] when no process is left that could end it: when all
/// other handles have been dropped, their processes have ended, or they wait for the same thing.
/// Descriptors of a queue in a message that has not been received count as a handle. A thread that
/// puts while another thread waits in `get` needs a handle of its own: a clone. With
/// [`keep_open`](End::keep_open), the process as a whole counts instead, for as long as it has the
/// handle, whatever its threads do.
///
/// # Descriptors
///
/// A process that has a queue has four descriptors for it, whatever the number of its handles, and
/// a fifth if the queue has a limit: the memory, the queue of descriptors, and two or three pipes.
/// The first call of [`as_fd`](End::as_fd) takes two more, and the first wait of more than some
/// milliseconds one more. Each thread that waits for that long for room takes another two.
pub struct End<R: Role> {
    store: Arc<Store>,
    /// The copy of the process (see [`copy_number`]) in which this handle is counted as a consumer.
    copy: AtomicU32,
    /// How many threads wait through this handle for items, and for room.
    taking: AtomicUsize,
    putting: AtomicUsize,
    /// Whether the process keeps the queue open as long as it has this handle.
    keeps_open: bool,
    /// Whether a signal handler ends a wait.
    is_interruptible: bool,
    role: PhantomData<fn() -> R>,
}

impl End<Both> {
    /// Creates a queue without a limit. It grows as long as there is memory.
    ///
    /// # Errors
    /// `EMFILE` at the limit of open files; `ENOSPC` or `ENOMEM` without memory.
    pub fn new() -> io::Result<Queue> {
        End::create(Limits::NONE, false)
    }

    /// Creates a queue for at most `items` messages at a time, and at least one.
    ///
    /// # Errors
    /// Those of [`new`](End::new).
    pub fn with_capacity(items: usize) -> io::Result<Queue> {
        Queue::with_limits(items, u64::MAX)
    }

    /// Creates a queue for at most `items` messages at a time, and at least one, of at most `bytes`
    /// bytes together. A message of more than `bytes` bytes is [refused](Error::TooLarge).
    ///
    /// # Errors
    /// Those of [`new`](End::new).
    pub fn with_limits(items: usize, bytes: u64) -> io::Result<Queue> {
        End::create(Limits::new(items, bytes), false)
    }

    /// Creates a queue, which is the memory of a [`JoinableQueue`](crate::queue::JoinableQueue) if
    /// `joinable` is true.
    pub(super) fn create(limits: Limits, joinable: bool) -> io::Result<Queue> {
        // Each count of handles starts at one, for this handle.
        Ok(End::of(Arc::new(Store::create(limits, joinable)?)))
    }

    /// Returns a handle that only puts messages. If producers have only such handles, and the queue
    /// itself is dropped, consumers are told when the last producer is gone.
    pub fn producer(&self) -> Producer {
        self.another()
    }

    /// Returns a handle that only takes messages. Since it can't put, it doesn't keep other
    /// consumers waiting when all producers are gone.
    pub fn consumer(&self) -> Consumer {
        self.another()
    }
}

impl<R: Role> End<R> {
    fn of(store: Arc<Store>) -> End<R> {
        End {
            store,
            copy: AtomicU32::new(copy_number()),
            taking: AtomicUsize::new(0),
            putting: AtomicUsize::new(0),
            keeps_open: false,
            is_interruptible: false,
            role: PhantomData,
        }
    }

    /// Creates another handle of the same queue, with the same options.
    fn another<S: Role>(&self) -> End<S> {
        let mut other: End<S> = End::of(self.store.clone());
        other.store.for_each_notifier(S::PUTS, S::GETS, Notifier::add_opener);
        other.is_interruptible = self.is_interruptible;
        if self.keeps_open { other.keep_open() } else { other }
    }

    /// Makes a handle of the descriptors that [`to_fds`](End::to_fds) or
    /// [`into_fds`](End::into_fds) returned, in that order, of a handle of the same role or of a
    /// [`Queue`]. Descriptors that were inherited are closed on exec from now on.
    ///
    /// # Errors
    /// `InvalidData` if they are not the descriptors of a queue, are those of a [`Producer`] and
    /// this handle could get, or are those of a [`JoinableQueue`](crate::queue::JoinableQueue);
    /// `ENOMEM`. Descriptors of two queues that are mixed up are not detected.
    pub fn from_fds(fds: Vec<OwnedFd>) -> io::Result<End<R>> {
        End::open(fds, false)
    }

    /// As [`from_fds`](End::from_fds), for a queue that is joinable or not.
    pub(super) fn open(fds: Vec<OwnedFd>, joinable: bool) -> io::Result<End<R>> {
        let store = Store::open(fds)?;
        if store.is_joinable() != joinable {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is a queue of another kind"));
        }
        if R::GETS && store.takers.is_read_only() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "these are the descriptors of a Producer"));
        }
        // `Store::open` has counted one handle of each kind. Uncount what this one can't do.
        store.for_each_notifier(!R::PUTS, !R::GETS, |notifier| _ = notifier.remove_opener());
        Ok(End::of(Arc::new(store)))
    }

    /// Duplicates the descriptors of the queue, for a handle of the same role in another process:
    /// four, and five of a queue with a limit. They are closed on exec; for a program that inherits
    /// them, the child clears `FD_CLOEXEC` before it executes that.
    ///
    /// As long as they are open, they count as a handle that could put, and unless they are those
    /// of a [`Producer`], also as one that could get.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn to_fds(&self) -> io::Result<Vec<OwnedFd>> {
        self.store.to_send(R::GETS)
    }

    /// As [`to_fds`](End::to_fds), and drops this handle.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn into_fds(self) -> io::Result<Vec<OwnedFd>> {
        self.to_fds()
    }

    /// Makes the process keep the queue open for as long as it has this handle: no wait ends with
    /// [`Error::Disconnected`] because the threads of this process that could end it wait, or have
    /// no handle of their own. Clones of the handle, and its copies made by fork(2), do the same.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc_shm::queue::{Error, Queue};
    ///
    /// let timeout = Duration::from_millis(20);
    /// let queue = Queue::new()?.keep_open();
    /// let clone = queue.clone();
    /// drop(clone);
    /// // Without `keep_open`, no handle would be left that could put a message.
    /// assert!(matches!(queue.get(timeout), Err(Error::Timeout)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn keep_open(mut self) -> End<R> {
        if !std::mem::replace(&mut self.keeps_open, true) {
            self.store.for_each_notifier(R::PUTS, R::GETS, Notifier::pin);
        }
        self
    }

    /// Makes waits through this handle, and through later clones of it, end with
    /// [`Error::Interrupted`] when a signal handler has run in the waiting thread, whether or not
    /// it was installed with `SA_RESTART`. Otherwise waits go on.
    ///
    /// A handler that runs right before the thread goes to sleep doesn't end the wait.
    pub fn interruptible(mut self) -> End<R> {
        self.is_interruptible = true;
        self
    }

    /// Returns the number of messages in the queue at this moment. Other processes may put and take
    /// messages at any time.
    pub fn len(&self) -> usize {
        usize::try_from(self.store.len()).unwrap_or(usize::MAX)
    }

    /// Whether the queue is empty at this moment.
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// Whether the queue has reached its limit at this moment. One without a limit is never full.
    pub fn is_full(&self) -> bool {
        self.store.is_full()
    }

    /// Returns the limits of the queue.
    pub fn limits(&self) -> Limits {
        self.store.limits()
    }

    /// Returns the greatest number of messages the queue may hold, or `None` if there is no limit.
    pub fn capacity(&self) -> Option<usize> {
        self.store.limits().capacity()
    }

    /// Closes the queue for all processes: later puts fail. Messages in it can still be taken; then
    /// consumers get [`Error::Closed`].
    pub fn close(&self) {
        self.store.close();
    }

    /// Whether the queue was [closed](End::close).
    pub fn is_closed(&self) -> bool {
        self.store.is_closed()
    }

    /// Whether this is the handle in a [`JoinableQueue`](crate::queue::JoinableQueue).
    #[doc(hidden)]
    #[inline]
    pub fn is_joinable(&self) -> bool {
        self.store.is_joinable()
    }

    /// Returns the process's view of the queue.
    #[doc(hidden)]
    #[inline]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What a thread that waits for items can't use meanwhile: this handle, if it could put.
    #[doc(hidden)]
    #[inline]
    pub fn to_take(&self) -> ViaHandle<'_> {
        if R::PUTS { ViaHandle::Handle(&self.taking) } else { ViaHandle::Other }
    }

    /// What a thread that waits for room can't use meanwhile: this handle, if it could take.
    #[doc(hidden)]
    #[inline]
    pub fn to_put(&self) -> ViaHandle<'_> {
        if R::GETS { ViaHandle::Handle(&self.putting) } else { ViaHandle::Other }
    }

    /// Calls `wait`, in which a signal handler ends waits if this handle is interruptible.
    #[inline]
    pub(super) fn wait<T>(&self, wait: impl FnOnce() -> T) -> T {
        interruptible_if(self.is_interruptible, wait)
    }

    /// Counts this handle, if it takes, in a copy of the process made by fork(2).
    #[doc(hidden)]
    #[inline]
    pub fn count_in_copy(&self) {
        if self.copy.load(Relaxed) != copy_number() {
            self.count();
        }
    }

    #[cold]
    fn count(&self) {
        let copy = copy_number();
        // Several threads may use one handle.
        if self.copy.swap(copy, Relaxed) != copy && R::GETS {
            self.store.takers.add_opener();
        }
    }

    /// Whether no process is left that could put items. Always false for a handle that can put.
    fn nobody_puts(&self) -> bool {
        !R::PUTS && self.store.items.is_hung_up()
    }

    /// Whether no process is left that could take items. Always false for a handle that can take.
    fn nobody_takes(&self) -> bool {
        !R::GETS && self.store.room.as_ref().is_some_and(|room| room.is_hung_up())
    }
}

/// The descriptors of a bundle, to be put with an item.
#[inline]
fn borrowed(bundle: &FdBundle) -> Vec<BorrowedFd<'_>> {
    // Without the iteration where there are none, as for most items.
    if bundle.count() == 0 { Vec::new() } else { bundle.parts().iter().map(AsFd::as_fd).collect() }
}

impl<R: CanPut> End<R> {
    /// Puts a message: the bytes of `parts`, one part after the other, with duplicates of `fds`.
    /// Waits until `deadline` while the queue is full. A message is put as a whole or not at all,
    /// at whatever moment the process is killed.
    ///
    /// ```
    /// use std::fs::File;
    /// use std::io::{Read, Write};
    /// use std::os::fd::AsFd;
    ///
    /// use multiproc_shm::queue::Queue;
    /// use multiproc_shm::wait::deadline::Deadline;
    ///
    /// let queue = Queue::new()?;
    /// let (mut reader, writer) = std::io::pipe()?;
    /// queue.put(&[b"a pipe"], &[writer.as_fd()], Deadline::Never)?;
    /// drop(writer);
    ///
    /// let mut message = queue.get(Deadline::Never)?;
    /// let mut pipe = File::from(message.take_fds()?.remove(0));
    /// pipe.write_all(&message)?;
    /// drop(pipe);
    /// let mut text = String::new();
    /// reader.read_to_string(&mut text)?;
    /// assert_eq!(text, "a pipe");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`], or [`Error::Full`] with [`Deadline::Now`]; [`Error::TooLarge`],
    /// [`Error::Closed`], [`Error::Disconnected`]; [`Error::Io`] without memory or descriptors.
    #[inline]
    pub fn put(&self, parts: &[&[u8]], fds: &[BorrowedFd<'_>], deadline: impl Into<Deadline>) -> Result<(), Error> {
        let deadline = deadline.into();
        spin_lock::within(deadline.limit(), || self.put_parts(parts, fds, deadline))
    }

    /// Puts a message if that is possible at once. In contrast to [`put`](End::put) with
    /// [`Deadline::Now`], it doesn't even wait for the moment that another thread needs for an
    /// operation on the queue.
    ///
    /// # Errors
    /// Those of [`put`](End::put); [`Error::Full`], [`Error::Busy`].
    pub fn try_put(&self, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        spin_lock::within(Limit::Zero, || self.put_parts(parts, fds, Deadline::Now))
    }

    fn put_parts(&self, parts: &[&[u8]], fds: &[BorrowedFd<'_>], deadline: Deadline) -> Result<(), Error> {
        self.expect_takers()?;
        if fds.len() <= MAX_UNPACKED {
            return self.put_with(parts, fds, fds.len() as u32, deadline);
        }
        let bundle = FdBundle::pack_borrowed(fds).map_err(Error::io("its descriptors"))?;
        self.put_with(parts, &borrowed(&bundle), bundle.count(), deadline)
    }

    #[inline]
    fn put_with(&self, parts: &[&[u8]], fds: &[BorrowedFd<'_>], handles: u32, deadline: Deadline) -> Result<(), Error> {
        let item = |body| Item { body, raw: true, fds, handles };
        if let [bytes] = parts
            && bytes.len() <= INLINE
        {
            return self.put_item(&item(Body::Inline(bytes)), deadline);
        }
        let mut small = Scratch::new();
        if parts.iter().all(|part| small.push(part, INLINE)) {
            return self.put_item(&item(Body::Inline(small.bytes())), deadline);
        }
        let len = parts.iter().map(|part| part.len() as u64).sum();
        // Before the message is copied. A put that waits copies it first, and then waits for room.
        if self.is_closed() {
            return Err(Error::Closed);
        } else if len > self.limits().bytes {
            return Err(Error::TooLarge);
        } else if matches!(deadline, Deadline::Now) && self.is_full() {
            return Err(Error::Full);
        }
        let mut block = Block::new(&*self.store, len)?;
        for part in parts {
            block.fill(part).map_err(Error::io("no memory for it"))?;
        }
        self.put_item(&item(Body::Block(block.index(), block.len())), deadline)?;
        block.leave();
        Ok(())
    }

    /// As [`put`](End::put) without a deadline, as a future. If the future is dropped before it
    /// completes, nothing has been put.
    ///
    /// # Errors
    /// Those of [`put`](End::put).
    #[cfg(feature = "async")]
    pub async fn put_async(&self, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.expect_takers()?;
        let mut buffer = Box::new(self.buffer());
        // A future must not block its executor on a process that is stopped.
        let bundle = spin_lock::within(Limit::GracePeriod, || {
            for part in parts {
                if let Err(error) = buffer.extend(part) {
                    return Err(Error::io("no memory for it")(buffer.failure().unwrap_or(error)));
                }
            }
            FdBundle::pack_borrowed(fds).map_err(Error::io("its descriptors"))
        })?;
        self.put_buffer_async(&mut buffer, true, &bundle).await
    }

    /// Returns an empty buffer for a message that is written piece by piece, into the queue's
    /// memory if it is large. [`put_buffer`](End::put_buffer) puts it.
    #[doc(hidden)]
    #[inline]
    pub fn buffer(&self) -> ItemBuffer<'_> {
        ItemBuffer::new(&self.store)
    }

    /// Puts what was written into a [`buffer`](End::buffer) of this queue, with the descriptors of
    /// `fds`. `raw` says that the message is plain bytes, not a value in a front's encoding;
    /// consumers find it in [`Message::is_raw`].
    ///
    /// The caller limits waits for spin locks (`spin_lock::within`), and has checked that a
    /// consumer is left.
    ///
    /// # Errors
    /// Those of [`put`](End::put).
    #[doc(hidden)]
    #[inline]
    pub fn put_buffer(
        &self,
        buffer: &mut ItemBuffer<'_>,
        raw: bool,
        fds: &FdBundle,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let parts = borrowed(fds);
        self.put_item(&buffer.item(raw, &parts, fds.count())?, deadline)?;
        buffer.leave();
        Ok(())
    }

    /// As [`put_buffer`](End::put_buffer), as a future.
    #[cfg(feature = "async")]
    #[doc(hidden)]
    pub async fn put_buffer_async(&self, buffer: &mut ItemBuffer<'_>, raw: bool, fds: &FdBundle) -> Result<(), Error> {
        let parts = borrowed(fds);
        self.store.put_async(&buffer.item(raw, &parts, fds.count())?, self.to_put()).await?;
        buffer.leave();
        Ok(())
    }

    #[inline]
    fn put_item(&self, item: &Item<'_>, deadline: Deadline) -> Result<(), Error> {
        match self.store.try_put(item) {
            Ok(()) => Ok(()),
            Err(error) => self.put_slowly(item, deadline, error),
        }
    }

    /// Puts the item, which could not be put at once for `error`.
    #[cold]
    fn put_slowly(&self, item: &Item<'_>, deadline: Deadline, error: Error) -> Result<(), Error> {
        let result = match deadline {
            Deadline::Now => Err(error),
            _ => self.wait(|| self.store.put_after(error, item, deadline.instant(), self.to_put())),
        };
        match result {
            // The last consumer may have taken an item before it went away.
            Err(Error::Full | Error::FdsFull | Error::Timeout) if self.nobody_takes() => {
                match self.store.try_put(item) {
                    Err(Error::Full | Error::FdsFull) => Err(Error::Disconnected),
                    result => result,
                }
            }
            result => result,
        }
    }

    /// Returns an error when no process is left that could take the item that is about to be put.
    /// Always `Ok` for a handle that can take items itself.
    #[doc(hidden)]
    #[inline]
    pub fn expect_takers(&self) -> Result<(), Error> {
        match !R::GETS && self.store.has_lost_its_takers() {
            true if self.store.is_closed() => Err(Error::Closed),
            true => Err(Error::Disconnected),
            false => Ok(()),
        }
    }

    /// Whether a handle that can take messages is left in any process. Descriptors of a queue in
    /// messages that have not been received count.
    pub fn has_consumers(&self) -> bool {
        R::GETS || !self.store.takers.is_deserted()
    }
}

impl<R: CanGet> End<R> {
    /// Takes the oldest message. Waits until `deadline` while the queue is empty.
    ///
    /// # Errors
    /// [`Error::Timeout`], or [`Error::Empty`] with [`Deadline::Now`]; [`Error::Closed`] or
    /// [`Error::Disconnected`] when the queue is empty and no message can come; [`Error::Io`]
    /// without memory or descriptors for the message, which stays in the queue.
    #[inline]
    pub fn get(&self, deadline: impl Into<Deadline>) -> Result<Message, Error> {
        let mut scratch = Scratch::new();
        let taken = self.take_until(&mut scratch, deadline.into())?;
        Message::of(taken, &scratch, &self.store)
    }

    /// Takes the oldest message if that is possible at once. In contrast to [`get`](End::get) with
    /// [`Deadline::Now`], it doesn't even wait for the moment that another thread needs for an
    /// operation on the queue.
    ///
    /// # Errors
    /// Those of [`get`](End::get); [`Error::Empty`], [`Error::Busy`].
    pub fn try_get(&self) -> Result<Message, Error> {
        let mut scratch = Scratch::new();
        let taken = self.take_at_once(&mut scratch)?;
        Message::of(taken, &scratch, &self.store)
    }

    /// As [`get`](End::get) without a deadline, as a future. A future that is dropped before it
    /// completes has taken nothing.
    ///
    /// # Errors
    /// Those of [`get`](End::get).
    #[cfg(feature = "async")]
    pub async fn get_async(&self) -> Result<Message, Error> {
        let mut scratch = Box::new(Scratch::new());
        let taken = self.take_async(&mut scratch).await?;
        Message::of(taken, &scratch, &self.store)
    }

    /// Takes the oldest message and passes it to `small` or `large`. The bytes of a small message
    /// (at most 2,024) without descriptors are on the stack, where `small` reads them; no memory is
    /// allocated.
    ///
    /// ```
    /// use multiproc_shm::queue::Queue;
    /// use multiproc_shm::wait::deadline::Deadline;
    ///
    /// let queue = Queue::new()?;
    /// queue.put(&[&42_u32.to_ne_bytes()], &[], Deadline::Never)?;
    /// let number = queue.get_with(
    ///     Deadline::Never,
    ///     |bytes| bytes.try_into().map(u32::from_ne_bytes),
    ///     |_| unreachable!("it is small"),
    /// )??;
    /// assert_eq!(number, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`get`](End::get).
    pub fn get_with<T>(
        &self,
        deadline: impl Into<Deadline>,
        small: impl FnOnce(&[u8]) -> T,
        large: impl FnOnce(Message) -> T,
    ) -> Result<T, Error> {
        let mut scratch = Scratch::new();
        let taken = self.take_until(&mut scratch, deadline.into())?;
        self.pass(taken, &scratch, small, large)
    }

    /// As [`get_with`](End::get_with), if that is possible at once: see [`try_get`](End::try_get).
    ///
    /// # Errors
    /// Those of [`try_get`](End::try_get).
    pub fn try_get_with<T>(
        &self,
        small: impl FnOnce(&[u8]) -> T,
        large: impl FnOnce(Message) -> T,
    ) -> Result<T, Error> {
        let mut scratch = Scratch::new();
        let taken = self.take_at_once(&mut scratch)?;
        self.pass(taken, &scratch, small, large)
    }

    #[inline]
    fn take_until(&self, scratch: &mut Scratch, deadline: Deadline) -> Result<Taken, Error> {
        spin_lock::within(deadline.limit(), || self.take(scratch, deadline))
    }

    /// Doesn't wait for spin locks either.
    fn take_at_once(&self, scratch: &mut Scratch) -> Result<Taken, Error> {
        spin_lock::within(Limit::Zero, || self.take(scratch, Deadline::Now))
    }

    fn pass<T>(
        &self,
        taken: Taken,
        scratch: &Scratch,
        small: impl FnOnce(&[u8]) -> T,
        large: impl FnOnce(Message) -> T,
    ) -> Result<T, Error> {
        match taken.is_small() {
            true => Ok(small(scratch.bytes())),
            false => Ok(large(Message::of(taken, scratch, &self.store)?)),
        }
    }

    /// Takes the oldest item. The bytes of a small one are copied into `scratch`. The caller limits
    /// waits for spin locks (`spin_lock::within`).
    ///
    /// # Errors
    /// Those of [`get`](End::get).
    #[doc(hidden)]
    #[inline]
    pub fn take(&self, scratch: &mut Scratch, deadline: Deadline) -> Result<Taken, Error> {
        self.count_in_copy();
        match self.store.take_any(scratch) {
            Ok(Some(taken)) => Ok(taken),
            Ok(None) => self.take_slowly(scratch, deadline),
            Err(error) => self.take_at_last(scratch, error),
        }
    }

    /// Takes an item, of which there was none a moment ago.
    #[cold]
    fn take_slowly(&self, scratch: &mut Scratch, deadline: Deadline) -> Result<Taken, Error> {
        let result = match deadline {
            Deadline::Now => loop {
                if self.store.arm_if_polled()? {
                    break Err(Error::Empty);
                }
                if let Some(taken) = self.store.take_any(scratch)? {
                    return Ok(taken);
                }
            },
            _ => match self.wait(|| self.store.wait_and_take(scratch, deadline.instant(), self.to_take())) {
                // A caller that polls the descriptor would find it readable again and again.
                Err(Error::Timeout) if matches!(self.store.arm_if_polled(), Ok(false)) => {
                    self.store.take_any(scratch)?.ok_or(Error::Timeout)
                }
                result => result,
            },
        };
        result.or_else(|error| self.take_at_last(scratch, error))
    }

    /// Takes an item if the last producer has put one before it went away.
    #[cold]
    fn take_at_last(&self, scratch: &mut Scratch, error: Error) -> Result<Taken, Error> {
        match error {
            Error::Empty | Error::Timeout | Error::Stalled(_) if self.nobody_puts() => {
                self.store.take_any(scratch)?.ok_or(Error::Disconnected)
            }
            error => Err(error),
        }
    }

    /// Calls `read` with the item that was taken and its bytes. A block is read in place, and then
    /// given back.
    ///
    /// # Errors
    /// [`Error::Io`] if the block can't be mapped; [`Error::Corrupt`].
    #[doc(hidden)]
    #[inline]
    pub fn read<T>(&self, taken: Taken, scratch: &Scratch, read: impl FnOnce(Taken, &[u8]) -> T) -> Result<T, Error> {
        match taken.block(|| &*self.store) {
            Some(block) => Ok(read(taken, block.bytes().map_err(Error::mapping)?)),
            None => Ok(read(taken, scratch.bytes())),
        }
    }

    /// As [`take`](End::take), as a future.
    #[cfg(feature = "async")]
    #[doc(hidden)]
    pub async fn take_async(&self, scratch: &mut Scratch) -> Result<Taken, Error> {
        self.count_in_copy();
        self.store.take_async(scratch, self.to_take()).await
    }

    /// Whether a handle that can put messages is left in any process. The same handles count as for
    /// [`has_consumers`](End::has_consumers).
    pub fn has_producers(&self) -> bool {
        !self.nobody_puts()
    }

    /// Whether a message can be taken, or none will ever come. If not, the descriptor of
    /// [`fd_to_sleep_on`](End::fd_to_sleep_on) becomes readable when that changes.
    #[doc(hidden)]
    pub fn is_ready(&self) -> bool {
        !self.store.arm().unwrap_or(false) || self.nobody_puts()
    }

    /// Frees memory that was kept for further items, if none have come for some time: to be called
    /// at the end of a wait on the descriptor of [`fd_to_sleep_on`](End::fd_to_sleep_on).
    #[doc(hidden)]
    pub fn finished(&self) {
        self.store.give_back_when_quiet();
    }

    /// The descriptor of [`as_fd`](End::as_fd), for a caller that calls [`is_ready`](End::is_ready)
    /// before each sleep.
    #[doc(hidden)]
    pub fn fd_to_sleep_on(&self) -> BorrowedFd<'_> {
        self.store.fd_to_sleep_on()
    }
}

/// A descriptor that polls readable while there is a message to take, from the first call on. It is
/// the same for all clones of a handle in the process, and may be added to a set of epoll(7), also
/// level-triggered. When it is readable, call [`try_get`](End::try_get) until it returns
/// [`Error::Empty`], and then poll again. It may be readable although there is no message, for
/// example when another process has taken it; the `try_get` that finds none resets it. Don't read
/// from the descriptor.
impl<R: CanGet> AsFd for End<R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.store.fd_to_poll()
    }
}

impl<R: Role> Clone for End<R> {
    fn clone(&self) -> End<R> {
        self.another()
    }
}

impl<R: Role> Drop for End<R> {
    fn drop(&mut self) {
        self.store.give_back_kept();
        if self.keeps_open {
            self.store.for_each_notifier(R::PUTS, R::GETS, Notifier::unpin);
        }
        // With the last handle of the process, the descriptors are closed, and the kernel tells the
        // other processes.
        if Arc::strong_count(&self.store) > 1 {
            if R::PUTS {
                self.store.items.remove_opener();
            }
            if R::GETS {
                if *self.copy.get_mut() == copy_number() {
                    self.store.takers.remove_opener();
                }
                if let Some(room) = &self.store.room {
                    room.remove_opener();
                }
            }
        }
        if R::GETS {
            consumer_check::request();
        }
    }
}

impl<R: Role> fmt::Debug for End<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = self.limits();
        let mut text = f.debug_struct(R::NAME);
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
