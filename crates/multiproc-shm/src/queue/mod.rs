//! A queue of bytes and descriptors in shared memory. Its protocol is in `QUEUE.md`, in this folder.

pub mod arena;
#[allow(unsafe_code)]
pub mod block;
pub mod leases;
pub mod store;
