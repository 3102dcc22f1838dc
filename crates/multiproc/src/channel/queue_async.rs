//! Putting and getting in `async` code, on any executor. Needs the feature `async`.
//!
//! Both first try, like `try_put` and `try_get`, and then wait without blocking a thread
//! (`wait_async` in [`shm`](crate::shm)).

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::encode_buffer::EncodeBuffer;
use super::joinable::{JoinableQueue, Task};
use super::queue::{Consumer, End, Producer, Queue, item};
use super::queue_error::{GetError, PutError, PutErrorKind};
use crate::shm::scratch::Scratch;
use crate::shm::spin_lock::{Limit, within};
use crate::shm::store::Taken;
use crate::transfer::codec;
use crate::transfer::fd_bundle::FdBundle;
use crate::wake::take_turns;

impl<T: Serialize + DeserializeOwned> End<T> {
    async fn put_async(&self, value: T) -> Result<(), PutError<T>> {
        take_turns().await;
        if let Err(kind) = self.expect_takers() {
            return Err(PutError::new(value, kind));
        }
        let mut buffer = Box::new(EncodeBuffer::new(&self.store));
        // A future must not block its executor on a process that is stopped.
        let bundle = match within(Limit::Moment, || self.encode(&value, &mut buffer)) {
            Ok(bundle) => bundle,
            Err(kind) => return Err(PutError::new(value, kind)),
        };
        let result = match item(&mut buffer, &bundle) {
            Ok(item) => self.store.put_async(&item, self.to_put()).await.map_err(PutErrorKind::from),
            Err(kind) => Err(kind),
        };
        match result {
            Ok(()) => {
                buffer.leave();
                Ok(())
            }
            Err(kind) => Err(PutError::new(value, kind)),
        }
    }

    fn encode(&self, value: &T, buffer: &mut EncodeBuffer<'_>) -> Result<FdBundle, PutErrorKind> {
        let fds = codec::encode_into(value, buffer)?;
        self.pack(fds)
    }

    async fn take_async(&self, scratch: &mut Scratch) -> Result<Taken, GetError> {
        take_turns().await;
        self.count_in_copy();
        Ok(self.store.take_async(scratch, self.to_take()).await?)
    }
}

macro_rules! putting {
    ($($name:ident)*) => { $(
        impl<T: Serialize + DeserializeOwned> $name<T> {
            /// Like [`put`](Queue::put), in `async` code on any executor.
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
            /// Those of [`put`](Queue::put); `EMFILE` also when there are no descriptors to wait
            /// with.
            pub async fn put_async(&self, item: T) -> Result<(), PutError<T>> {
                self.end.put_async(item).await
            }
        }
    )* };
}

putting!(Queue Producer JoinableQueue);

macro_rules! getting {
    ($($name:ident)*) => { $(
        impl<T: Serialize + DeserializeOwned> $name<T> {
            /// Like [`get`](Queue::get), in `async` code on any executor.
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
            /// Those of [`get`](Queue::get); `EMFILE` also when there are no descriptors to wait
            /// with.
            pub async fn get_async(&self) -> Result<T, GetError> {
                let mut scratch = Box::new(Scratch::new());
                let taken = self.end.take_async(&mut scratch).await?;
                self.end.value(taken, &scratch)
            }
        }
    )* };
}

getting!(Queue Consumer);

impl<T: Serialize + DeserializeOwned> JoinableQueue<T> {
    /// Like [`get`](JoinableQueue::get), in `async` code on any executor. See [`Queue::get_async`].
    ///
    /// # Errors
    /// Those of [`get`](JoinableQueue::get); `EMFILE` also when there are no descriptors to wait
    /// with.
    pub async fn get_async(&self) -> Result<Task<T>, GetError> {
        let mut scratch = Box::new(Scratch::new());
        let taken = self.end.take_async(&mut scratch).await?;
        self.task(taken, &scratch)
    }
}
