//! A Rust value ↔ a payload of bytes and file descriptors.
//!
//! [`codec`] turns values into bytes and back; [`packet`] carries bytes and descriptors between processes, and knows no
//! serde, so that other fronts can stand on it.

pub(crate) mod codec;
pub(crate) mod packet;
