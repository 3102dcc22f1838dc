//! Objects and starts while processes that use them are killed or stopped at any point.

#[path = "../common/chaos.rs"]
mod chaos;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/shared.rs"]
mod shared;

mod array;
mod condition;
mod queue;
mod start;
mod stop;
mod sync;
