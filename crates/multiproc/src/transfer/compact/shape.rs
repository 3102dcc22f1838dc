//! The shape of a value: a hash over the calls of its serializer, or of its deserializer.
//!
//! Two values of one type and one shape are written, and read, by the same calls with the same
//! names. Numbers, texts and bytes don't count, nor do their lengths, nor the number of elements of
//! equal shape that follow each other in a list. The hash is the same in every process and every
//! build, as it is computed from names and not from their addresses.

use crate::transfer::tagged::Tag;

/// The hash of the calls so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape(u64);

/// The factor of the polynomial: an odd number without a pattern that fits into an instruction.
const STEP: u64 = 0x4f1b_bcdd;

/// An odd number without a pattern: 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Shape {
    pub(crate) const EMPTY: Shape = Shape(0);

    /// Adds one more call: a step of a polynomial hash, which is a multiplication and an addition.
    #[inline]
    pub(crate) fn note(&mut self, call: u64) {
        self.0 = self.0.wrapping_mul(STEP).wrapping_add(call);
    }

    #[inline]
    pub(crate) fn note_tag(&mut self, tag: Tag) {
        self.note(tag.0 as u64 + 1);
    }

    /// A number for the shape, for use in a table and in the shape of a list: the hash of a few
    /// calls is a small number, and could equal another hash with something added to it. Different
    /// shapes have different numbers.
    #[inline]
    pub(crate) fn number(self) -> u64 {
        let product = self.0.wrapping_mul(FACTOR);
        product ^ product >> 32
    }

    /// The part of the shape that is sent: the bits of a product that depend on all of its bits.
    #[inline]
    pub(crate) fn to_bytes(self) -> [u8; Shape::LEN] {
        ((self.0.wrapping_mul(FACTOR) >> 32) as u32).to_le_bytes()
    }

    pub(crate) const LEN: usize = 4;
}

/// A hash of a name. For a constant name the compiler can compute it at compile time.
#[inline]
pub(crate) fn name_hash(name: &str) -> u64 {
    #[inline]
    fn word(bytes: &[u8], from: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[from..from + 8]);
        u64::from_le_bytes(word)
    }

    #[inline]
    fn half(bytes: &[u8], from: usize) -> u64 {
        let mut half = [0; 4];
        half.copy_from_slice(&bytes[from..from + 4]);
        u32::from_le_bytes(half).into()
    }

    let bytes = name.as_bytes();
    let (first, last) = match bytes.len() {
        0 => (0, 0),
        // The first, the middle and the last byte, which may be the same.
        len @ 1..=3 => (u64::from(bytes[0]), u64::from(bytes[len / 2]) << 8 | u64::from(bytes[len - 1])),
        len @ 4..=7 => (half(bytes, 0), half(bytes, len - 4)),
        len @ 8..=16 => (word(bytes, 0), word(bytes, len - 8)),
        len => (long(bytes), word(bytes, len - 8)),
    };
    let mixed = (first.wrapping_mul(FACTOR) ^ last.rotate_left(29)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ mixed >> 32) ^ (bytes.len() as u64) << 56
}

/// All groups of eight bytes from the front; the last bytes are hashed by the caller.
fn long(bytes: &[u8]) -> u64 {
    let mut hash = Shape::EMPTY;
    for word in bytes.chunks_exact(8) {
        hash.note(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        hash.0 ^= hash.0 >> 29;
    }
    hash.0
}

/// The hash of the names of a struct's fields, in their order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields(u64);

impl Fields {
    pub(super) const NONE: Fields = Fields(1);

    #[inline]
    pub(super) fn add(&mut self, name: &str) {
        self.0 = (self.0.rotate_left(5) ^ name_hash(name)).wrapping_mul(FACTOR);
    }

    #[inline]
    pub(super) fn number(self) -> u64 {
        self.0
    }

    pub(super) fn of(names: &[&str]) -> Fields {
        let mut fields = Fields::NONE;
        names.iter().for_each(|name| fields.add(name));
        fields
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_differ() {
        let mut seen = HashSet::new();
        for len in 0..40 {
            let name = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"[..len].to_owned();
            assert!(seen.insert(name_hash(&name)), "{name}");
            for place in 0..len {
                let mut other = name.clone().into_bytes();
                other[place] = b'_';
                let other = String::from_utf8(other).unwrap();
                assert!(seen.insert(name_hash(&other)), "{other}");
            }
        }
        assert_ne!(name_hash("\0"), name_hash("\0\0"));
    }

    #[test]
    fn field_order() {
        let [one, other] = [["left", "right"], ["right", "left"]].map(|names| Fields::of(&names).number());
        assert_ne!(one, other);
        assert_ne!(Fields::of(&[]).number(), Fields::of(&[""]).number());
    }

    /// The table of trials contains numbers of shapes combined with several forms.
    #[test]
    fn no_collision_between_calls() {
        let mut seen = HashSet::new();
        for tag in 0..=u8::MAX {
            let mut shape = Shape::EMPTY;
            shape.note_tag(Tag(tag));
            for form in 0..16 {
                assert!(seen.insert(shape.number() ^ form) && seen.insert(!shape.number() ^ form), "{tag}, {form}");
            }
        }
    }

    /// The hash is a part of the format: other processes may be other builds.
    #[test]
    fn hashes_are_stable() {
        let mut shape = Shape::EMPTY;
        shape.note_tag(Tag::STRUCT);
        shape.note(Fields::of(&["name", "a_longer_name", "a_name_of_more_than_sixteen_bytes"]).number());
        assert_eq!(shape.to_bytes(), [179, 108, 83, 92]);
    }
}
