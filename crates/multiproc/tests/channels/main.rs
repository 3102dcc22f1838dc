//! Queues, pipes and listeners, in blocking and in `async` code.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/memory_group.rs"]
mod memory_group;
#[path = "../common/shared.rs"]
mod shared;

mod listener;
mod pipe;
#[cfg(feature = "async")]
mod pipe_async;
mod queue;
#[cfg(feature = "async")]
mod queue_async;
mod queue_faults;
mod queue_memory;
mod queue_peers;
mod wait;
