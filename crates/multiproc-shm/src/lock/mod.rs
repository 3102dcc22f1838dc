//! Locks in shared memory that survive the death of their owner.

#[allow(unsafe_code)]
pub mod fork_mutex;
pub mod parts;
pub mod readers;
#[allow(unsafe_code)]
pub mod robust_word;
pub mod spin_lock;
#[cfg(not(loom))]
pub mod users;
