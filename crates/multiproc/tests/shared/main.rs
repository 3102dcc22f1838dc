//! Shared memory: arrays, lists, bytes, and what is found by name.

#[path = "../common/chaos.rs"]
mod chaos;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/locks.rs"]
mod locks;
#[path = "../common/shared.rs"]
mod shared;

mod array;
mod array_threads;
mod names;
mod names_owner;
mod shareable_list;
mod shared_bytes;
mod shared_memory;
