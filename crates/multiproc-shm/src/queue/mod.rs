//! Queues of bytes and file descriptors in shared memory: [`Queue`] with its ends [`Producer`] and
//! [`Consumer`], and [`JoinableQueue`].
//!
//! | | |
//! | --- | --- |
//! | put | [`put`](End::put) and [`try_put`](End::try_put): any number of parts, which needn't be copied together first, with descriptors |
//! | get | [`get`](End::get), [`get_with`](End::get_with) to read a small message in place, [`try_get`](End::try_get); a large [`Message`] is mapped, private and writable |
//! | openness | until [`close`](End::close), or until no handle is left that could put (for consumers) or get (for producers); [`keep_open`](End::keep_open) counts the process as well, as long as it has the handle, for what the handle can do |
//! | readiness | the descriptor of a `Consumer` is readable while there are messages: [`as_fd`](End#impl-AsFd-for-End<R>) |
//! | a task that must not be lost | [`JoinableQueue`]: a taken message is a lease until it is done |
//!
//! A queue takes four descriptors in a process, five with a limit or joinable.
//!
//! The handles are in `end` and `joinable`, on top of a process's view of the queue, [`store`].
//! What that does is in `put`, `take`, `limits`, [`leases`], `close` and `readiness`; the shared
//! memory is in `layout` and `ring`, that of large items in [`arena`] and [`block`]. The protocol,
//! and what state is left when a process is killed at any instruction, is in `QUEUE.md`, in this
//! folder.

pub mod arena;
#[allow(unsafe_code)]
pub mod block;
mod close;
#[cfg(not(loom))]
pub mod end;
mod error;
pub mod item;
#[cfg(not(loom))]
mod item_buffer;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod joinable;
mod layout;
pub mod leases;
mod limits;
#[cfg(not(loom))]
#[allow(unsafe_code)]
mod message;
mod put;
#[cfg(not(loom))]
mod readiness;
mod ring;
pub mod role;
pub mod store;
mod take;

#[cfg(all(test, not(loom)))]
mod model;

#[cfg(not(loom))]
pub use end::{Consumer, End, Producer, Queue};
pub use error::Error;
#[cfg(not(loom))]
pub use item_buffer::ItemBuffer;
#[cfg(not(loom))]
pub use joinable::{JoinableQueue, Lease, Task};
pub use limits::Limits;
#[cfg(not(loom))]
pub use message::Message;
