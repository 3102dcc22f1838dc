//! The states of semaphores, events, barriers and conditions.

pub mod barrier_state;
pub mod event_state;
pub mod ledger;
pub mod permits;
pub mod tickets;
