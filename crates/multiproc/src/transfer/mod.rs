//! Turns a Rust value into a payload of bytes and file descriptors, and back.
//!
//! [`codec`] does that, in the forms [`compact`] and [`tagged`], and with an [`fd_table`] for the
//! descriptors of handles inside the value. Bytes and descriptors go between processes by
//! `multiproc_shm::message`, which doesn't depend on serde.

pub(crate) mod codec;
pub(crate) mod compact;
pub(crate) mod fd_table;
pub(crate) mod tagged;
