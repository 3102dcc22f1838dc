//! Putting and getting in `async` code, on any executor. Needs the feature `async`.
//!
//! Both first try, like `try_put` and `try_get`, and then wait without blocking a thread
//! (`wait_async` in `multiproc_shm::wait`).

use multiproc_shm::lock::spin_lock::{Limit, within};
use multiproc_shm::memory::scratch::Scratch;
use multiproc_shm::queue::End;
use multiproc_shm::queue::item::Taken;
use multiproc_shm::queue::role::{CanGet, CanPut};
use multiproc_shm::wake::take_turns;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::joinable::{JoinableQueue, Task};
use super::queue::{QueueHandle, pack};
use super::queue_error::{GetError, PutError, PutErrorKind};
use crate::sendable::Sendable;
use crate::transfer::codec;

async fn put_value<T: Serialize + DeserializeOwned, R: CanPut>(end: &End<R>, value: T) -> Result<(), PutError<T>> {
    take_turns().await;
    if let Err(error) = end.expect_takers() {
        return Err(PutError::new(value, error.into()));
    }
    let mut buffer = Box::new(end.buffer());
    // A future must not block its executor on a process that is stopped.
    let encoded = within(Limit::GracePeriod, || -> Result<_, PutErrorKind> {
        let fds = codec::encode_into(&value, &mut *buffer)?;
        pack::<T, R>(end, fds)
    });
    let result = match encoded {
        Ok(bundle) => end.put_buffer_async(&mut buffer, false, &bundle).await.map_err(PutErrorKind::from),
        Err(kind) => Err(kind),
    };
    result.map_err(|kind| PutError::new(value, kind))
}

async fn take<R: CanGet>(end: &End<R>, scratch: &mut Scratch) -> Result<Taken, GetError> {
    take_turns().await;
    Ok(end.take_async(scratch).await?)
}

impl<T: Sendable, R: CanPut> QueueHandle<T, R> {
    /// Like [`put`](crate::Queue::put), in `async` code on any executor.
    ///
    /// ```
    /// # #[multiproc::main]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = multiproc::Queue::with_capacity(1)?;
    /// let other = queue.clone();
    /// let both = tokio::join!(
    ///     async { for number in 0..3 { queue.put_async(number).await.unwrap() } },
    ///     async { for number in 0..3 { assert_eq!(other.get_async().await.unwrap(), number) } },
    /// );
    /// # let ((), ()) = both;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// If the future is dropped before it completes, the item has not been put, and is
    /// dropped with it. As with threads, a task that takes while another task waits here
    /// needs a handle of its own: a clone. See [`JoinFuture`](crate::process::JoinFuture) for what
    /// wakes the future; it takes some descriptors while it waits.
    ///
    /// # Errors
    /// Those of [`put`](crate::Queue::put); `EMFILE` also when there are no descriptors to wait
    /// with.
    pub async fn put_async(&self, item: T) -> Result<(), PutError<T>> {
        put_value(&self.end, item).await
    }
}

impl<T: Sendable, R: CanGet> QueueHandle<T, R> {
    /// Like [`get`](crate::Queue::get), in `async` code on any executor.
    ///
    /// ```
    /// use multiproc::queue::Producer;
    /// use multiproc::{Process, Queue};
    ///
    /// fn worker(results: Producer<u32>) {
    ///     results.put(42).unwrap();
    /// }
    ///
    /// # #[multiproc::main]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = Queue::new()?;
    /// let _child = Process::new(worker, (queue.producer(),)).start()?;
    /// assert_eq!(queue.get_async().await?, 42);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The item is taken by the poll that completes the future: a future that is dropped
    /// before that, in a `select!` or at a timeout, has taken nothing. As with threads, a
    /// task that puts while another task waits here needs a handle of its own: a clone. See
    /// [`JoinFuture`](crate::process::JoinFuture) for what wakes the future; it takes some
    /// descriptors while it waits.
    ///
    /// # Errors
    /// Those of [`get`](crate::Queue::get); `EMFILE` also when there are no descriptors to wait
    /// with.
    pub async fn get_async(&self) -> Result<T, GetError> {
        let mut scratch = Box::new(Scratch::new());
        let taken = take(&self.end, &mut scratch).await?;
        self.value(taken, &scratch)
    }
}

impl<T: Sendable> JoinableQueue<T> {
    /// Like [`put`](JoinableQueue::put), in `async` code on any executor. See
    /// [`Queue::put_async`](crate::Queue::put_async).
    ///
    /// # Errors
    /// Those of [`put`](JoinableQueue::put); `EMFILE` also when there are no descriptors to wait
    /// with.
    pub async fn put_async(&self, item: T) -> Result<(), PutError<T>> {
        put_value(self.queue.end(), item).await
    }

    /// Like [`get`](JoinableQueue::get), in `async` code on any executor. See
    /// [`Queue::get_async`](crate::Queue::get_async).
    ///
    /// # Errors
    /// Those of [`get`](JoinableQueue::get); `EMFILE` also when there are no descriptors to wait
    /// with.
    pub async fn get_async(&self) -> Result<Task<T>, GetError> {
        let mut scratch = Box::new(Scratch::new());
        let taken = take(self.queue.end(), &mut scratch).await?;
        self.task(taken, &scratch)
    }
}
