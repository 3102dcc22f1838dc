//! Queues, locks and memory that processes share, as bytes and file descriptors.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod lock;
pub mod memory;
pub mod message;
pub mod queue;
pub mod slot_table;
pub mod sync;
pub mod units;
pub mod wait;
pub mod wake;
