//! The format that values travel in: that of postcard, made quick for what is large.
//!
//! It is compact, knows nothing of names, and is not self-describing, as postcard's (<https://postcard.jamesmunns.com/wire-format>):
//! integers of more than a byte are varints of seven bits a byte, the signed ones in zigzag; floats are their bytes; an option is 0, or 1 and
//! the value; an enum is the number of its variant, as a varint, and its contents; structs and tuples are their fields.
//!
//! The difference is in what has a length: sequences, maps, texts and bytes. They begin with the varint `length * 16 + code`. Code 0 means
//! that the elements follow one by one. Any other code is a [`Kind`] of number: the elements are numbers of that kind and lie there as they
//! lie in memory (little-endian; the parties are processes of one program). Texts and bytes are runs of `u8`. So a `Vec<u8>` or `Vec<f64>`, however deep inside a
//! value, is copied as a whole, at both ends, and costs no call for each element.
//!
//! How deep values nest, and how many elements they have that take no bytes, is limited, at both ends in the same way: a few bytes of somebody
//! else's must not overflow the reader's stack, or keep it busy for years.
//!
//! [`Kind`]: multiproc_os::plain::Kind

mod read;
mod write;

pub(crate) use read::{Depth, from_bytes};
pub(crate) use write::{Output, shape_to_output, to_output};

use std::borrow::Cow;
use std::fmt;

/// How many bits of a length are its code.
const CODE_BITS: u32 = 4;

/// The code of elements that come one by one.
const ELEMENTS: u8 = 0;

/// How many levels deep values may nest: lists, maps, structs, tuples, enums with contents, options with one, wrappers. Each takes some of the
/// stack of whoever reads or writes it: without optimisation 1 to 3 KiB, so these fit into the 2 MiB of a thread.
const DEEPEST: u32 = 512;

const TOO_DEEP: &str = "it nests too deep";

/// How many elements of lists, and keys of maps, may take no bytes, in a value as a whole.
const MOST_EMPTY: u64 = 1 << 20;

const TOO_MANY_EMPTY: &str = "too many of its elements are empty";

/// Whether a value has been refused with this text because there is too much of it, which it would be in another format, too.
pub(crate) fn is_too_much(reason: &str) -> bool {
    [TOO_DEEP, TOO_MANY_EMPTY].contains(&reason)
}

/// Why something can't be written, or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Error(Cow<'static, str>);

impl serde::ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Error {
        Error(message.to_string().into())
    }
}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Error {
        Error(message.to_string().into())
    }
}

impl From<&'static str> for Error {
    fn from(message: &'static str) -> Error {
        Error(message.into())
    }
}

#[cfg(test)]
mod tests;
