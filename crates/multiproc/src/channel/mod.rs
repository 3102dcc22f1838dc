//! Channels between processes: queues, pipes and connections.
//!
//! - [`queue`] and [`joinable`]: queues of values, on top of the queues of bytes in
//!   `multiproc_shm::queue`.
//! - [`pipe`]: makes the two ends of a [`connection`]. Its messages go through one of two
//!   transports, [`local`] (sockets of one machine) or [`stream`] (TCP).
//! - [`listener`] and [`connect`](mod@connect): connections between processes that are not related,
//!   after each side has proved by [`auth`] that it knows the key. [`handshakes`] runs the
//!   listener's side of that.
//! - [`wait`](mod@wait): waits for any of several channels, processes and descriptors.

pub(crate) mod address;
pub(crate) mod auth;
#[cfg(feature = "async")]
mod channel_async;
pub(crate) mod connect;
pub(crate) mod connection;
mod encode_buffer;
pub(crate) mod error;
pub(crate) mod handshakes;
pub(crate) mod joinable;
pub(crate) mod link_error;
pub(crate) mod listener;
pub(crate) mod local;
pub(crate) mod pipe;
pub(crate) mod queue;
#[cfg(feature = "async")]
mod queue_async;
pub(crate) mod queue_error;
pub(crate) mod socket_deadline;
mod socket_files;
pub(crate) mod stream;
pub(crate) mod wait;

/// The version of the handshake between a listener and a client.
pub(crate) const VERSION: u8 = 1;

/// The kind byte of a message.
pub(crate) mod kind {
    /// A value, as the codec has encoded it.
    pub(crate) const VALUE: u8 = b'v';
    /// Bytes, as they are.
    pub(crate) const BYTES: u8 = b'b';
}
