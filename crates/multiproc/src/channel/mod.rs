//! What processes talk through.
//!
//! [`queue`] and [`joinable`] are in shared memory. [`pipe`] makes the two ends of a [`connection`], under which are two transports: [`local`] on one
//! machine, [`stream`] over a byte stream. [`listener`] and [`connect`](mod@connect) make the same of processes that are no relatives, after each has
//! proved by [`auth`] that it knows the key; [`reception`] hears those who come. [`wait`] is for all that can be waited for, here and elsewhere.

pub(crate) mod address;
pub(crate) mod auth;
pub(crate) mod connect;
pub(crate) mod connection;
mod draft;
pub(crate) mod error;
pub(crate) mod joinable;
pub(crate) mod link_error;
pub(crate) mod listener;
pub(crate) mod local;
#[cfg(feature = "async")]
mod meeting;
pub(crate) mod patience;
pub(crate) mod pipe;
pub(crate) mod queue;
#[cfg(feature = "async")]
mod queue_async;
pub(crate) mod queue_error;
pub(crate) mod reception;
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
