//! Queues, locks and memory that processes share, as bytes and file descriptors.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![warn(missing_docs)]
// The models run the core, and need nothing else.
#![cfg_attr(loom, allow(dead_code, unused_imports, unreachable_pub))]

pub mod lock;
#[cfg_attr(loom, allow(unsafe_code))]
mod loom;
pub mod memory;
#[cfg(not(loom))]
pub mod message;
pub mod queue;
#[cfg(not(loom))]
pub mod slot_table;
pub mod sync;
#[cfg(not(loom))]
pub mod units;
pub mod wait;
#[cfg(not(loom))]
pub mod wake;
