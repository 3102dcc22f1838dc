//! The states of semaphores, events, barriers and conditions.

pub mod barrier;
pub mod event;
pub mod ledger;
pub mod semaphore;
pub mod condition;
