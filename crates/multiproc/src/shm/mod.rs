//! Objects that lie in shared memory and outlive each of their users. No serialisation and no
//! process handling here.
//!
//! [`segment`] is the memory of an object, with a header that says what it is. [`spin_lock`] guards
//! its state for a moment; a [`robust_word`] is held by a thread for as long as it likes; a caller
//! waits in a [`wait_queue`] until another process has changed the state. `PROTOCOL.md` in this
//! folder describes how these use the kernel (robust futexes, pipes, pidfds), so that no process
//! hangs because another one has died.

pub(crate) mod arena;
pub(crate) mod backoff;
pub(crate) mod barrier_state;
#[allow(unsafe_code)]
pub(crate) mod block;
#[allow(unsafe_code)]
pub(crate) mod cell;
pub(crate) mod change_rate;
pub(crate) mod event_state;
#[allow(unsafe_code)]
pub(crate) mod growable_mapping;
pub(crate) mod leases;
pub(crate) mod ledger;
pub(crate) mod notifier;
pub(crate) mod object;
pub(crate) mod parts;
pub(crate) mod permits;
pub(crate) mod readers;
mod ready_fd;
#[allow(unsafe_code)]
pub(crate) mod region;
#[allow(unsafe_code)]
pub(crate) mod robust_word;
#[allow(unsafe_code)]
pub(crate) mod scratch;
#[allow(unsafe_code)]
pub(crate) mod segment;
pub(crate) mod slot_table;
pub(crate) mod spin_lock;
pub(crate) mod store;
pub(crate) mod tickets;
pub(crate) mod users;
#[cfg(feature = "async")]
mod wait_async;
pub(crate) mod wait_queue;
#[cfg(feature = "async")]
pub(crate) mod waiters;
