//! Synchronization primitives between processes: locks, semaphores, events, conditions, barriers.
//!
//! A [`Lock`] is an unnamed memory file (memfd_create(2)). It travels to other processes as an
//! argument, a result, a field of a [`Run`](crate::Run) value, or nested in any of these; a clone
//! is another handle of the same lock. `sync/PROTOCOL.md` of `multiproc-shm`
//! specifies what happens when a process that uses a lock dies.
//!
//! A [`Semaphore`], [`BoundedSemaphore`], [`Event`], [`Condition`] or [`Barrier`] has a pipe as
//! well, through which waiters learn that no process is left that could end their wait. For this,
//! the library has to distinguish waiting users of the object from users that can still act, and it
//! counts handles: give each thread a clone of its own. If several threads share one handle by
//! reference and one of them waits, other processes see that handle as waiting. (An object that has
//! only one handle and has never been sent anywhere is waited for as long as the process has other
//! threads.)
//!
//! # In `async` code
//!
//! With the feature `async`, a [`Lock`] and a [`Mutex`] have `lock_async`, a [`Semaphore`] and a
//! [`BoundedSemaphore`] have `acquire_async`, and an [`Event`] has `wait_async`, on any executor.
//! The other types have no such methods; wait for them in a thread that may block
//! (`tokio::task::spawn_blocking`):
//!
//! - [`RLock`]: its holder is a thread, which may lock it again. All tasks of one thread would hold
//!   it at once.
//! - [`Condition`]: its guard belongs to a thread, and would have to be held while the task waits.
//!   An [`Event`] or a [`Semaphore`] can notify a task of a change.
//! - [`Barrier`]: a party that has arrived can't be taken back, which dropping a future would
//!   require.
//! - [`RwLock`] and [`Once`]: a thread waits for readers, or runs the closure, while it holds a
//!   lock. A [`Mutex`] can replace an `RwLock`.

#[cfg(feature = "async")]
mod async_locks;
pub(crate) mod barrier;
mod condition;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod guard_state;
mod lock;
#[allow(unsafe_code)]
mod mutex;
mod once;
pub(crate) mod raw_lock;
mod rlock;
#[allow(unsafe_code)]
mod rwlock;
pub(crate) mod semaphore;
mod travel;
pub(crate) mod wait_error;

pub use barrier::{Barrier, BarrierError, BarrierWaitResult, BrokenBy};
pub use condition::{Condition, ConditionError, ConditionGuard};
pub use error::{LockError, Misuse, PoisonCause, Poisoned};
pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use multiproc_shm::memory::cell::Plain;
pub use mutex::{Mutex, MutexGuard};
pub use once::{Once, OnceState};
pub use rlock::{RLock, RLockGuard};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{BoundedSemaphore, Permit, ReleaseError, Semaphore};
pub use wait_error::WaitError;
