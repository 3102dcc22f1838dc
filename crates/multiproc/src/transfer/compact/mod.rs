//! The positional form of values: see FORMAT.md beside this folder, "The positional form".
//!
//! It is close to postcard's format (<https://postcard.jamesmunns.com/wire-format>), with runs of
//! numbers that are copied as a whole. It holds no names and no types. What makes that safe is the
//! *shape*: a hash over the calls that the type's `Serialize` makes, with the names of fields and
//! variants in it. The writer appends the hash, and the reader computes it again from the calls
//! that the type's `Deserialize` makes. A reader that asks for anything else than what was written
//! gets an error.
//!
//! Nesting depth and the number of elements without bytes are limited at both ends in the same way:
//! a few bytes from another process must not overflow the reader's stack, or keep it busy for
//! years.

mod read;
mod shape;
mod write;

pub(super) use read::{Number, numbers};
pub(crate) use read::{Trace, from_bytes, from_bytes_traced, needs_tags};
pub(crate) use write::{Output, shape_to_output, to_output};

pub(super) use shape::{Shape, name_hash};

use std::borrow::Cow;
use std::fmt;

/// How many bits of a length are its code.
const CODE_BITS: u32 = 4;

/// The code of elements that come one by one.
const ELEMENTS: u8 = 0;

/// How many levels deep values may nest: lists, maps, structs, tuples, enums with contents, options
/// with one, wrappers. Each takes some of the stack of the thread that reads or writes it: without
/// optimisation 1 to 3 KiB, so these fit into the 2 MiB of a thread.
const DEEPEST: u32 = 512;

pub(super) const TOO_DEEP: &str = "it nests too deep";

/// How many elements of lists, and keys of maps, may take no bytes, in a value as a whole.
const MOST_EMPTY: u64 = 1 << 20;

const TOO_MANY_EMPTY: &str = "too many of its elements are empty";

/// Whether a value was refused with this text because there is too much of it, which would be so in
/// any form.
pub(crate) fn is_too_much(reason: &str) -> bool {
    [TOO_DEEP, TOO_MANY_EMPTY].contains(&reason)
}

/// Why something can't be written, or read.
///
/// A pointer, as most results that have room for one are nothing else, and pass in a register.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Error(Box<Cow<'static, str>>);

impl serde::ser::Error for Error {
    #[cold]
    fn custom<T: fmt::Display>(message: T) -> Error {
        Error(Box::new(message.to_string().into()))
    }
}

impl serde::de::Error for Error {
    #[cold]
    fn custom<T: fmt::Display>(message: T) -> Error {
        Error(Box::new(message.to_string().into()))
    }
}

impl From<&'static str> for Error {
    #[cold]
    #[inline(never)]
    fn from(message: &'static str) -> Error {
        Error(Box::new(message.into()))
    }
}

#[cfg(test)]
mod tests;
