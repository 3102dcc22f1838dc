//! Turns a Rust value into a payload of bytes and file descriptors, and back.
//!
//! [`codec`] does that, in the forms [`compact`] and [`tagged`], and with an [`fd_table`] for the
//! descriptors of handles inside the value. [`payload`], [`fd_bundle`], [`packet`] and [`shared`]
//! carry bytes and descriptors between processes. They don't depend on serde, so that other
//! encodings can use them.

pub(crate) mod codec;
pub(crate) mod compact;
pub(crate) mod fd_table;
pub(crate) mod tagged;
pub(crate) use multiproc_shm::message::{fd_bundle, packet, payload, shared};
