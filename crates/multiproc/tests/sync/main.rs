//! Locks, semaphores, events, conditions, barriers and `Once`, in blocking and in `async` code.

#[path = "../common/chaos.rs"]
mod chaos;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/locks.rs"]
mod locks;
#[path = "../common/seccomp.rs"]
mod seccomp;
#[path = "../common/shared.rs"]
mod shared;

#[cfg(feature = "async")]
mod async_locks;
mod barrier;
mod condition;
mod corrupt;
mod event;
mod idle;
mod lock;
mod mutex;
mod once;
mod rlock;
mod rwlock;
mod semaphore;
