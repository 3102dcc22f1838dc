//! Waiting for another process to change the state of a shared object.

pub mod backoff;
pub mod consumer_check;
pub mod deadline;
#[cfg(not(loom))]
pub mod notifier;
#[cfg(loom)]
pub(crate) use crate::loom::notifier;
pub mod ready_fd;
#[cfg(feature = "async")]
pub mod wait_async;
pub mod wait_queue;
#[cfg(feature = "async")]
pub mod waiters;
