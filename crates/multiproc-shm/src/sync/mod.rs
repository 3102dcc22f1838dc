//! Locks, semaphores, events, conditions and barriers that processes share, without guards.
//!
//! | type | belongs to | descriptors |
//! | --- | --- | --- |
//! | [`Lock`], [`RwLock`] | the thread that has acquired it | 1 |
//! | [`ProcessLock`] | the process that has acquired it; any process may release it | 2 |
//! | [`Semaphore`] | each permit to the process that has acquired it; any process may release it | 2 |
//! | [`Event`], [`Condition`], [`Barrier`] | – | 2 |
//!
//! All but `RwLock` can lie in a [`Slab`](crate::memory::slab::Slab): any number of objects with
//! two descriptors in all.
//!
//! Each is opened in another process with the descriptors of `to_fds` (`Lock` and `RwLock`:
//! `to_fd`), in their order, sent by any means: sendmsg(2), or inherited, for which the child
//! clears `FD_CLOEXEC` before it executes the program; `from_fds` sets it again. As long as they
//! are open, the descriptors count as a handle. Those of two objects that are mixed up are not
//! detected. All processes must be in one PID namespace. When a process dies, what it holds is
//! released, and waits that depend on it end with an error. `PROTOCOL.md` in this folder says what
//! happens at each instruction.
//!
//! A call waits until a [`Deadline`](crate::wait::deadline::Deadline). With `Deadline::Now` it
//! waits only for operations of other threads that take a moment; `try_acquire` doesn't even do
//! that. A handle made `interruptible` returns [`WaitError::Interrupted`] when a signal handler has
//! run in the waiting thread.
//!
//! After fork(2), the child may use all objects at once, also if the parent has other threads. What
//! the parent holds isn't held by the child.

#[cfg(not(loom))]
pub mod barrier;
#[cfg(not(loom))]
pub mod condition;
#[cfg(not(loom))]
pub mod error;
#[cfg(not(loom))]
pub mod event;
pub mod ledger;
#[cfg(not(loom))]
pub mod lock;
#[cfg(not(loom))]
pub mod process_lock;
#[cfg(not(loom))]
pub mod rwlock;
#[cfg(not(loom))]
pub mod semaphore;

#[cfg(not(loom))]
pub use barrier::{Barrier, BarrierError};
#[cfg(not(loom))]
pub use condition::{Condition, ConditionError};
#[cfg(not(loom))]
pub use error::{Acquired, ReleaseError, WaitError};
#[cfg(not(loom))]
pub use event::Event;
#[cfg(not(loom))]
pub use lock::Lock;
#[cfg(not(loom))]
pub use process_lock::ProcessLock;
#[cfg(not(loom))]
pub use rwlock::RwLock;
#[cfg(not(loom))]
pub use semaphore::Semaphore;
