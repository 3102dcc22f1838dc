//! The `async` methods of locks, semaphores and events, on any executor, with the feature `async`.
//!
//! A lock is waited for by a thread that sleeps on its word
//! ([`waiters`](multiproc_shm::wait::waiters)), and taken by the thread that polls the future.
//! Semaphores and events are waited for as queues are (`PROTOCOL.md` of `multiproc-shm`).

use std::future::poll_fn;
use std::sync::Arc;

use multiproc_shm::lock::robust_word::{LockMapping, PoisonableWord};
use multiproc_shm::memory::cell::Plain;
use multiproc_shm::wait::waiters::{AsyncAcquireError, AsyncLayout, Wait};
use multiproc_shm::wake::take_turns;

use super::error::{LockError, Misuse};
use super::event::Event;
use super::lock::{Lock, LockGuard};
use super::mutex::{self, Mutex, MutexGuard};
use super::raw_lock::RawLock;
use super::semaphore::{ACQUIRE, BoundedSemaphore, Permit, Semaphore};
use super::wait_error::WaitError;

impl<T: Plain> AsyncLayout for mutex::Shared<T> {
    fn poisonable(&self) -> &PoisonableWord {
        &self.poisonable
    }
}

/// Takes the word of a lock for the thread that polls this future to completion.
async fn take<L: AsyncLayout>(mapping: &Arc<LockMapping<L>>) -> Result<(), Misuse> {
    let mut wait = Wait::new(mapping);
    poll_fn(|context| wait.poll(context)).await.map_err(|denied| match denied {
        AsyncAcquireError::Acquire(error) => Misuse::of(error, L::NAME).expect("a future waits for a busy lock"),
        AsyncAcquireError::NoThread => Misuse::NoThread(L::NAME),
    })
}

impl Lock {
    /// Acquires the lock as [`lock`](Lock::lock) does, in `async` code on any executor.
    ///
    /// ```
    /// use multiproc::Process;
    /// use multiproc::sync::Lock;
    ///
    /// fn work(lock: Lock, number: u32) -> multiproc::Result<()> {
    ///     let _guard = lock.lock()?;
    ///     println!("{number}: no other process prints now");
    ///     Ok(())
    /// }
    ///
    /// # #[multiproc::main]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let lock = Lock::new()?;
    /// let child = Process::new(work, (lock.clone(), 1)).start()?;
    /// {
    ///     let _guard = lock.lock_async().await.map_err(multiproc::Error::from)?;
    ///     println!("nor now");
    /// }
    /// child.await??;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The lock belongs to the thread that polls the future to completion, so the guard is not
    /// [`Send`]: a task that may move between threads can't hold it across an `.await`, and the
    /// compiler rejects that. A task that stays on one thread can; other tasks of that thread then
    /// wait for it here. A task that awaits the lock while it has a guard of this method waits for
    /// itself, forever, as with any lock for tasks.
    ///
    /// The lock is taken by the poll that completes the future. A future that is dropped before
    /// that, in a `select!` or at a timeout, has taken nothing, and the next waiter is woken in its
    /// place.
    ///
    /// All futures that wait through one handle and its clones share one thread, which sleeps for
    /// them and competes with other threads and processes as any thread does. There is one such
    /// thread for each lock that is waited for, for the duration of the wait. When it is woken
    /// because the lock is free, the future that has waited longest tries first; if other threads
    /// are quicker again and again, the thread takes the lock for that future. So the futures of
    /// one handle get the lock in the order of their first polls, except for those that find it
    /// free at once. Between them and other threads and processes there is no order, as with
    /// [`lock`](Lock::lock): the first to try while the lock is free gets it, and a future has the
    /// same chance as a thread. A task that isn't polled delays others by at most 20 ms.
    ///
    /// # Errors
    /// As for [`lock`](Lock::lock), the holder's death included; [`Misuse::HeldHere`] if the
    /// calling thread holds the lock by one of the other methods; [`Misuse::NoThread`] if the
    /// system refuses a thread to wait with.
    pub async fn lock_async(&self) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        take_turns().await;
        self.inner.enter();
        let poison_count = self.inner.poisonable().poison_count();
        take(self.inner.mapping()).await?;
        self.inner.taken(self.inner.poisonable().poison_count() != poison_count);
        self.guarded(LockGuard::new(self))
    }
}

impl<T: Plain> Mutex<T> {
    /// Acquires the mutex as [`lock`](Mutex::lock) does, in `async` code on any executor. The
    /// remarks at [`Lock::lock_async`] apply here too.
    ///
    /// ```
    /// use multiproc::Process;
    /// use multiproc::sync::Mutex;
    ///
    /// fn add(total: Mutex<u64>, number: u64) -> multiproc::Result<()> {
    ///     *total.lock()? += number;
    ///     Ok(())
    /// }
    ///
    /// # #[multiproc::main]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let total = Mutex::new(0)?;
    /// let child = Process::new(add, (total.clone(), 3)).start()?;
    /// *total.lock_async().await.map_err(multiproc::Error::from)? += 4;
    /// child.await??;
    /// assert_eq!(total.get()?, 7);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`Lock::lock_async`].
    pub async fn lock_async(&self) -> Result<MutexGuard<'_, T>, LockError<MutexGuard<'_, T>>> {
        take_turns().await;
        take(&self.inner).await?;
        self.guarded(MutexGuard::new(self))
    }
}

macro_rules! acquiring {
    ($($name:ident)*) => { $(
        impl $name {
            /// Takes a permit as [`acquire`](Self::acquire) does, in `async` code on any executor.
            ///
            /// ```
            /// use multiproc::Process;
            #[doc = concat!("use multiproc::sync::", stringify!($name), ";")]
            ///
            #[doc = concat!("fn download(number: u32, connections: ", stringify!($name), ") -> multiproc::Result<u32> {")]
            ///     let _permit = connections.acquire()?;
            ///     Ok(number * number)
            /// }
            ///
            /// # #[multiproc::main]
            /// # #[tokio::main(flavor = "current_thread")]
            /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
            #[doc = concat!("let connections = ", stringify!($name), "::new(1)?;")]
            /// let child = Process::new(download, (3, connections.clone())).start()?;
            /// let permit = connections.acquire_async().await?;
            /// println!("the child downloads nothing now");
            /// drop(permit);
            /// assert_eq!(child.await??, 9);
            /// # Ok(())
            /// # }
            /// ```
            ///
            /// A permit belongs to the process, not to a thread: it may be held across an `.await`,
            /// and dropped in another thread. It is taken by the poll that completes the future: a
            /// future that is dropped before that, in a `select!` or at a timeout, has taken none.
            /// A permit wakes all futures and threads that wait, and the first to try takes
            /// it; the others wait again, with no order among them. A task that gives a permit back
            /// while another waits here needs no handle of its own. A task that waits for a permit
            /// that it holds itself waits forever. [`JoinFuture`](crate::process::JoinFuture) describes what
            /// wakes the future; it takes one or two descriptors while it waits.
            ///
            /// # Errors
            /// As for [`acquire`](Self::acquire); [`WaitError::Io`] also when there is no
            /// descriptor or thread to wait with.
            pub async fn acquire_async(&self) -> Result<Permit<'_>, WaitError> {
                take_turns().await;
                WaitError::of(self.permits.acquire_async().await, ACQUIRE, "release one")?;
                Ok(Permit::new(&self.permits))
            }
        }
    )* };
}

acquiring!(Semaphore BoundedSemaphore);

impl Event {
    /// Waits as [`wait`](Event::wait) does, in `async` code on any executor.
    ///
    /// ```
    /// use multiproc::Process;
    /// use multiproc::sync::Event;
    ///
    /// fn work(ready: Event) {
    ///     ready.set();
    /// }
    ///
    /// # #[multiproc::main]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let ready = Event::new()?;
    /// let child = Process::new(work, (ready.clone(),)).start()?;
    /// ready.wait_async().await?;
    /// child.await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The wait counts from the first poll: the future completes if the event has been set since
    /// then, even if it was cleared at once. Dropping the future leaves nothing behind. As with
    /// threads, a task that sets the event while another waits here needs a handle of its own: a
    /// clone. [`JoinFuture`](crate::process::JoinFuture) describes what wakes the future; it takes
    /// one or two descriptors while it waits.
    ///
    /// # Errors
    /// As for [`wait`](Event::wait); [`WaitError::Io`] also when there is no descriptor or
    /// thread to wait with.
    pub async fn wait_async(&self) -> Result<(), WaitError> {
        take_turns().await;
        WaitError::of(self.flag.wait_async().await, "wait for an event", "set it").map(drop)
    }
}
