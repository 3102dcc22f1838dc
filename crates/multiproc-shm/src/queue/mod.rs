//! A queue of bytes and descriptors in shared memory. Its protocol is in `QUEUE.md`, in this folder.
//!
//! [`store`] is a process's view of a queue. Its operations are in `put`, `take`, `limits`,
//! [`leases`], `close` and `readiness`; the shared memory is in `layout` and `ring`, that of large
//! items in [`arena`] and [`block`].

pub mod arena;
#[allow(unsafe_code)]
pub mod block;
mod close;
mod item;
mod layout;
pub mod leases;
mod limits;
mod put;
mod readiness;
mod ring;
pub mod store;
mod take;

#[cfg(test)]
mod model;
