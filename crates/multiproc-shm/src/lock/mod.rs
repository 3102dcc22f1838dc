//! Locks in shared memory that survive the death of their owner.

pub mod parts;
pub mod readers;
#[allow(unsafe_code)]
pub mod robust_word;
pub mod spin_lock;
pub mod users;
