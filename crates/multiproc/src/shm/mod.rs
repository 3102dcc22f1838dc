//! Objects made of bytes in shared memory, which outlive any of their users. No serde, no process handling.
//!
//! [`segment`] is the memory of an object, with a header that tells what it is. [`spin_lock`] lets one in at a time, for a moment; [`wait_queue`] is
//! where those wait for whom it isn't the moment yet; [`owned`] is what a thread holds for as long as it likes. How these, and the kernel, see to it
//! that nobody hangs because somebody died is in `PROTOCOL.md` beside this file.

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
