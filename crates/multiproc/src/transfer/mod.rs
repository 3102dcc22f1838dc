//! A Rust value ↔ a payload of bytes and file descriptors.
//!
//! [`codec`] turns values into payloads and back, in the forms [`compact`] and [`tagged`], and
//! [`bag`] for the descriptors of handles inside the values. [`payload`], [`bundle`], [`packet`]
//! and [`shared`] carry bytes and descriptors between processes, and know no serde, so that other
//! fronts can stand on them.

pub(crate) mod codec;
pub(crate) mod compact;
pub(crate) mod fd_bundle;
pub(crate) mod fd_table;
pub(crate) mod packet;
pub(crate) mod payload;
pub(crate) mod shared;
pub(crate) mod tagged;
