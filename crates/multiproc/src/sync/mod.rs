//! Locks that processes share, and what else they wait for each other with.
//!
//! A [`Lock`] is one memory file, without a name, that travels to other processes as an argument, a result, a field of a [`Run`](crate::Run) value, or
//! inside any of them; a clone is another handle of the same. What happens when one of those who use it dies is in `PROTOCOL.md` beside this file.
//!
//! A [`Semaphore`], [`BoundedSemaphore`], [`Event`], [`Condition`] or [`Barrier`] has a pipe besides, by which those who wait are told when nobody is left for whom they
//! could wait. For that, those who wait have to be told apart from those who may yet do something, and what is counted are handles: let threads have a clone
//! each. If several share one handle by reference, and one of them waits, then for all that anybody else can say that handle waits. (An object that has
//! only one handle, and has never been sent anywhere, is waited for as long as the process has threads.)
//!
//! # In `async` code
//!
//! With the feature `async`, a [`Lock`] and a [`Mutex`] have `lock_async`, a [`Semaphore`] and a
//! [`BoundedSemaphore`] have `acquire_async`, and an [`Event`] has `wait_async`, on any executor.
//! The others have no such methods, and are waited for in a thread that may block
//! (`tokio::task::spawn_blocking`):
//!
//! - [`RLock`]: its holder is a thread, which may take it again. Tasks of one thread would all
//!   enter it at once.
//! - [`Condition`]: its guard belongs to a thread, and would have to be kept while the task waits.
//!   An [`Event`] or a [`Semaphore`] tells a task of a change.
//! - [`Barrier`]: a party that has come can't be taken back, as the drop of a future would have to.
//! - [`RwLock`] and [`Once`]: a thread waits for readers, or runs the closure, while it holds a
//!   lock. A [`Mutex`] can stand in for the first.

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
mod rlock;
#[allow(unsafe_code)]
mod rwlock;
pub(crate) mod semaphore;
mod travel;
pub(crate) mod wait_error;

pub use crate::shm::cell::Plain;
pub use barrier::{Barrier, BarrierError, BarrierWaitResult, BrokenBy};
pub use condition::{Condition, ConditionError, ConditionGuard};
pub use error::{LockError, Misuse, PoisonCause, Poisoned};
pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use mutex::{Mutex, MutexGuard};
pub use once::{Once, OnceState};
pub use rlock::{RLock, RLockGuard};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{BoundedSemaphore, Permit, ReleaseError, Semaphore};
pub use wait_error::WaitError;
