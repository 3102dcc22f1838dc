//! The tagged form of values: see FORMAT.md in the folder above, "The tagged form".
//!
//! Each value is preceded by its type, and each field and variant by its name, so a type may ask
//! what comes next, leave fields out, and number its variants as it likes. A reader gets what a
//! text format would return, in more detail: `Some(())` is not `None`, and numbers keep their type.

mod read;
mod write;

pub(crate) use read::{Reading, from_bytes};
pub(crate) use write::{outline, shape_to_output};

use multiproc_os::numeric_slice::Kind;

/// How many levels deep a value may nest in this form, as in serde_json: types that need it use
/// more of the stack for each level.
const MAX_DEPTH: u32 = 128;

/// The byte before each value, and at the end of those that have parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag(pub(crate) u8);

impl Tag {
    /// Ends a list, a tuple, a map or a struct.
    pub(crate) const END: Tag = Tag(0);
    pub(crate) const UNIT: Tag = Tag(1);
    pub(crate) const NONE: Tag = Tag(2);
    /// The value follows.
    pub(crate) const SOME: Tag = Tag(3);
    /// One byte, 0 or 1.
    pub(crate) const BOOL: Tag = Tag(4);
    /// Four bytes.
    pub(crate) const CHAR: Tag = Tag(5);
    /// A length and the bytes.
    pub(crate) const STR: Tag = Tag(6);
    /// A length and the bytes.
    pub(crate) const BYTES: Tag = Tag(7);
    /// The elements, and the end.
    pub(crate) const SEQ: Tag = Tag(8);
    /// The parts, and the end.
    pub(crate) const TUPLE: Tag = Tag(9);
    /// Keys and values in turn, and the end.
    pub(crate) const MAP: Tag = Tag(10);
    /// Fields, each a [`Tag::FIELD`], and the end.
    pub(crate) const STRUCT: Tag = Tag(11);
    /// A name, and the value follows.
    pub(crate) const FIELD: Tag = Tag(12);
    /// A name.
    pub(crate) const UNIT_VARIANT: Tag = Tag(13);
    /// A name, and the value follows.
    pub(crate) const NEWTYPE_VARIANT: Tag = Tag(14);
    /// A name, and a tuple follows.
    pub(crate) const TUPLE_VARIANT: Tag = Tag(15);
    /// A name, and a struct follows.
    pub(crate) const STRUCT_VARIANT: Tag = Tag(16);

    const NUMBER: u8 = 0x20;
    const RUN: u8 = 0x30;

    /// A number of this kind; its bytes follow.
    #[inline]
    pub(crate) const fn number(kind: Kind) -> Tag {
        Tag(Tag::NUMBER | kind as u8)
    }

    /// Numbers of this kind: their count, and their bytes.
    #[inline]
    pub(crate) const fn run(kind: Kind) -> Tag {
        Tag(Tag::RUN | kind as u8)
    }

    fn as_number(self) -> Option<Kind> {
        (self.0 & 0xF0 == Tag::NUMBER).then(|| Kind::from_u8(self.0 & 0xF)).flatten()
    }

    fn as_run(self) -> Option<Kind> {
        (self.0 & 0xF0 == Tag::RUN).then(|| Kind::from_u8(self.0 & 0xF)).flatten()
    }

    fn is_number(self) -> bool {
        self.as_number().is_some()
    }

    /// Whether a text format would represent it as a text.
    fn is_text(self) -> bool {
        [Tag::STR, Tag::CHAR, Tag::UNIT_VARIANT].contains(&self)
    }

    /// Whether a text format would represent it as a list.
    fn is_list(self) -> bool {
        [Tag::SEQ, Tag::TUPLE, Tag::BYTES].contains(&self) || self.as_run().is_some()
    }

    /// Whether a text format would represent it as a map.
    fn is_map(self) -> bool {
        [Tag::MAP, Tag::STRUCT].contains(&self) || self.is_variant() && self != Tag::UNIT_VARIANT
    }

    /// Returns its name in error texts.
    fn name(self) -> &'static str {
        match self {
            Tag::UNIT | Tag::NONE => "nothing",
            Tag::BOOL => "a flag",
            Tag::UNIT_VARIANT => "the name of a variant",
            _ if self.is_number() => "a number",
            _ if self.is_text() => "a text",
            _ if self.is_list() => "a list",
            _ if self.is_map() => "a map",
            _ => "something unknown",
        }
    }

    fn is_variant(self) -> bool {
        (Tag::UNIT_VARIANT.0..=Tag::STRUCT_VARIANT.0).contains(&self.0)
    }
}

#[cfg(test)]
mod tests;
