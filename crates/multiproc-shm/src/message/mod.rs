//! Messages of bytes and descriptors over sockets.

pub mod fd_bundle;
pub mod packet;
pub mod payload;
pub mod shared;
