//! Waiting for another process to change the state of a shared object.

pub mod backoff;
pub mod change_rate;
pub mod deadline;
pub mod notifier;
pub mod ready_fd;
#[cfg(feature = "async")]
pub mod wait_async;
pub mod wait_queue;
#[cfg(feature = "async")]
pub mod waiters;
