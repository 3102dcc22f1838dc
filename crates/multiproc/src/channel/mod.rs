//! What processes talk through.
//!
//! [`queue`] and [`joinable`] are in shared memory. [`pipe`] makes the two ends of a [`connection`], under which are two transports: [`local`] on one
//! machine, [`stream`] over a byte stream. [`listener`] and [`connect`](mod@connect) make the same of processes that are no relatives, after each has
//! proved by [`auth`] that it knows the key; [`handshakes`] hears those who come. [`wait`] is for all that can be waited for, here and elsewhere.

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
pub(crate) mod patience;
pub(crate) mod pipe;
pub(crate) mod queue;
#[cfg(feature = "async")]
mod queue_async;
pub(crate) mod queue_error;
mod socket_files;
pub(crate) mod stream;
pub(crate) mod wait;

/// What a message is, in its kind byte.
pub(crate) mod kind {
    /// A value, as the codec has encoded it.
    pub(crate) const VALUE: u8 = b'v';
    /// Bytes, as they are.
    pub(crate) const BYTES: u8 = b'b';
}
