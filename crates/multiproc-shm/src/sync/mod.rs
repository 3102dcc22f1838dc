//! The states of semaphores, events, barriers and conditions.

#[cfg(not(loom))]
pub mod barrier_state;
#[cfg(not(loom))]
pub mod event_state;
pub mod ledger;
#[cfg(not(loom))]
pub mod permits;
#[cfg(not(loom))]
pub mod tickets;
