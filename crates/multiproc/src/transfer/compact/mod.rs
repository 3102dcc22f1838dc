//! The positional form of values: see FORMAT.md in the folder above, "The positional form".
//!
//! It resembles postcard's format (<https://postcard.jamesmunns.com/wire-format>), plus runs of
//! numbers that are copied as a whole. It contains no names and no types. What makes that safe is
//! the *shape*: a hash over the calls that the type's `Serialize` makes, including the names of
//! fields and variants. The writer appends the hash, and the reader computes it again from the
//! calls that the type's `Deserialize` makes. A reader that asks for anything other than what was
//! written gets an error.
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

/// Number of bits of a length that are its code.
const CODE_BITS: u32 = 4;

/// The code of a length of elements that are encoded one by one.
const ELEMENTS: u8 = 0;

/// How many levels deep a value may nest: lists, maps, structs, tuples, enums with contents, `Some`
/// and newtype wrappers count. Each level takes some of the stack of the thread that reads or
/// writes the value: without optimisation 1 to 3 KiB, so these fit into the 2 MiB of a thread.
const MAX_DEPTH: u32 = 512;

pub(super) const TOO_DEEP: &str = "it nests too deep";

/// How many elements of lists, and keys of maps, may take no bytes, in a whole value.
const MAX_EMPTY: u64 = 1 << 20;

const TOO_MANY_EMPTY: &str = "too many of its elements are empty";

/// Whether a value was refused with this text because it is too large or too deep, which would be
/// so in any form.
pub(crate) fn is_too_much(reason: &str) -> bool {
    [TOO_DEEP, TOO_MANY_EMPTY].contains(&reason)
}

/// Why a value can't be written or read.
///
/// A single pointer, so that results stay small: most of them then fit into a register.
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
