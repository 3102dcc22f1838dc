//! What processes talk by: pipes, and connections between programs.
//!
//! [`pipe`] makes them, [`connection`] is their ends, [`listener`] and [`client`] bring programs together that aren't related, once [`auth`]
//! has seen that both know the key. Under the ends are two transports: [`local`] on one machine, [`stream`] over TCP. [`wait`] is for all
//! that can be waited for, here and elsewhere. How the bytes look is written in [CONNECTION.md](CONNECTION.md).

pub(crate) mod address;
pub(crate) mod connection;
pub(crate) mod error;
pub(crate) mod local;
pub(crate) mod patience;
pub(crate) mod pipe;
pub(crate) mod stream;
pub(crate) mod wait;

/// What a message is, in its kind byte.
pub(crate) mod kind {
    /// A value, as the codec has encoded it.
    pub(crate) const VALUE: u8 = b'v';
    /// Bytes, as they are.
    pub(crate) const BYTES: u8 = b'b';
}
