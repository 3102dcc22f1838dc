//! What processes talk through: [`queue`] and [`joinable`], in shared memory.

mod draft;
pub(crate) mod joinable;
pub(crate) mod queue;
pub(crate) mod queue_error;
