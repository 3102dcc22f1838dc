//! Queues between any number of processes, their ends, items and errors: [`Queue`] and
//! [`JoinableQueue`].

pub use crate::channel::joinable::{JoinableQueue, Task, Tasks};
pub use crate::channel::queue::{Consumer, Items, Message, Producer, Queue, QueueHandle, role};
pub use crate::channel::queue_error::{GetError, PutError, PutErrorKind};
