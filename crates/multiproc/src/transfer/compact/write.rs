//! Encodes values in the positional form.

use std::convert::Infallible;
use std::fmt::{self, Display, Write as _};
use std::io;

use multiproc_os::numeric_slice::{self, Kind};
use multiproc_shm::message::payload::Sink;
use serde::ser::{self, Serialize};

use super::shape::{Fields, Shape, name_hash};
use super::{CODE_BITS, ELEMENTS, Error, MAX_DEPTH, MAX_EMPTY, TOO_DEEP, TOO_MANY_EMPTY};
use crate::transfer::tagged::Tag;

/// A destination for encoded bytes.
pub(crate) trait Output {
    type Error: Display;

    fn extend(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
}

impl Output for Vec<u8> {
    type Error = Infallible;

    #[inline]
    fn extend(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

impl Output for Sink {
    type Error = io::Error;

    #[inline]
    fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        Sink::extend(self, bytes)
    }
}

/// Writes `value` to `output`.
pub(crate) fn to_output<O: Output>(value: &(impl Serialize + ?Sized), output: &mut O) -> Result<(), Error> {
    shape_to_output(value, output).map(drop)
}

/// Writes `value` to `output`, and returns its shape.
#[inline]
pub(crate) fn shape_to_output<O: Output>(value: &(impl Serialize + ?Sized), output: &mut O) -> Result<Shape, Error> {
    let mut serializer =
        Serializer { output, shape: Shape::EMPTY, has_written: false, levels: MAX_DEPTH, empty: MAX_EMPTY };
    value.serialize(&mut serializer)?;
    let shape = serializer.shape;
    serializer.bytes(&shape.to_bytes())?;
    Ok(shape)
}

struct Serializer<'a, O> {
    output: &'a mut O,
    /// The shape of the calls so far.
    shape: Shape,
    /// Whether the element that is being written has any bytes.
    has_written: bool,
    /// How many levels deeper the value may nest.
    levels: u32,
    /// How many more elements may be empty.
    empty: u64,
}

impl<O: Output> Serializer<'_, O> {
    #[inline]
    fn note(&mut self, tag: Tag) {
        self.shape.note_tag(tag);
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.has_written = true;
        self.output.extend(bytes).map_err(ser::Error::custom)
    }

    #[inline]
    fn varint(&mut self, mut number: u64) -> Result<(), Error> {
        // The usual case.
        if number < 0x80 {
            return self.bytes(&[number as u8]);
        }
        let mut bytes = [0; 10];
        let mut len = 0;
        loop {
            bytes[len] = number as u8 & 0x7F;
            number >>= 7;
            len += 1;
            if number == 0 {
                return self.bytes(&bytes[..len]);
            }
            bytes[len - 1] |= 0x80;
        }
    }

    #[inline]
    fn zigzag(&mut self, number: i64) -> Result<(), Error> {
        self.varint((number << 1 ^ number >> 63) as u64)
    }

    fn long_varint(&mut self, mut number: u128) -> Result<(), Error> {
        while number > 0x7F {
            self.bytes(&[number as u8 | 0x80])?;
            number >>= 7;
        }
        self.bytes(&[number as u8])
    }

    #[inline]
    fn len(&mut self, len: usize, code: u8) -> Result<(), Error> {
        let len = len as u64;
        if len >> (u64::BITS - CODE_BITS) != 0 {
            return Err("the length is out of range".into());
        }
        self.varint(len << CODE_BITS | u64::from(code))
    }

    /// Writes numbers of `kind` as they lie in memory.
    #[inline]
    fn run(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), Error> {
        self.len(bytes.len() / kind.width(), kind as u8)?;
        self.bytes(bytes)
    }

    /// Goes a level deeper, until [`up`](Serializer::up).
    #[inline]
    fn down(&mut self) -> Result<(), Error> {
        self.levels = self.levels.checked_sub(1).ok_or(TOO_DEEP)?;
        Ok(())
    }

    #[inline]
    fn up(&mut self) {
        self.levels += 1;
    }

    /// Writes something that is one level deeper, and not more than one value.
    #[inline]
    fn inner(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.down()?;
        value.serialize(&mut *self)?;
        self.up();
        Ok(())
    }

    /// Writes the index of a variant, before its kind is noted.
    #[inline]
    fn variant(&mut self, index: u32, name: &str) -> Result<(), Error> {
        self.shape.note(name_hash(name));
        self.varint(index.into())
    }
}

/// The elements of a list, or the entries of a map.
struct List<'a, 'b, O> {
    serializer: &'a mut Serializer<'b, O>,
    /// How many elements have been announced, but not yet written.
    left: usize,
    /// The shape of the previous element.
    last: Shape,
    /// The shape outside of the element that is being written.
    around: Shape,
}

impl<'a, 'b, O: Output> List<'a, 'b, O> {
    #[inline]
    fn begin(serializer: &'a mut Serializer<'b, O>, tag: Tag, len: Option<usize>) -> Result<Self, Error> {
        serializer.note(tag);
        let len = len.ok_or("the length is not known beforehand")?;
        serializer.len(len, ELEMENTS)?;
        serializer.down()?;
        let around = serializer.shape;
        Ok(List { serializer, left: len, last: Shape::EMPTY, around })
    }

    /// Writes an element of a list, or the key of an entry.
    #[inline]
    fn first(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        // If it wraps around, it is not zero at the end either, which is an error.
        self.left = self.left.wrapping_sub(1);
        let serializer = &mut *self.serializer;
        serializer.has_written = false;
        self.around = std::mem::replace(&mut serializer.shape, Shape::EMPTY);
        value.serialize(&mut *serializer)?;
        if !serializer.has_written {
            serializer.empty = serializer.empty.checked_sub(1).ok_or(TOO_MANY_EMPTY)?;
        }
        // The element that contains this list has bytes: at least the list's length.
        serializer.has_written = true;
        Ok(())
    }

    /// Ends an element or an entry: its shape counts if it differs from that of the previous one.
    #[inline]
    fn complete(&mut self) {
        let shape = std::mem::replace(&mut self.serializer.shape, self.around);
        if shape != self.last {
            self.serializer.shape.note(shape.number());
            self.last = shape;
        }
    }

    #[inline]
    fn element(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.first(value)?;
        self.complete();
        Ok(())
    }

    #[inline]
    fn finish(self) -> Result<(), Error> {
        if self.left != 0 {
            return Err(WRONG_LEN.into());
        }
        self.serializer.note(Tag::END);
        self.serializer.up();
        Ok(())
    }
}

const WRONG_LEN: &str = "not as many elements as it announced";

/// The parts of a tuple, or of a tuple variant.
struct Tuple<'a, 'b, O> {
    serializer: &'a mut Serializer<'b, O>,
    /// How many parts have been announced, but not yet written.
    left: usize,
}

impl<'a, 'b, O: Output> Tuple<'a, 'b, O> {
    #[inline]
    fn begin(serializer: &'a mut Serializer<'b, O>, tag: Tag, len: usize) -> Result<Self, Error> {
        serializer.note(tag);
        serializer.shape.note(len as u64);
        serializer.down()?;
        Ok(Tuple { serializer, left: len })
    }

    #[inline]
    fn part(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.left = self.left.wrapping_sub(1);
        value.serialize(&mut *self.serializer)
    }

    #[inline]
    fn finish(self) -> Result<(), Error> {
        if self.left != 0 {
            return Err(WRONG_LEN.into());
        }
        self.serializer.up();
        Ok(())
    }
}

/// The fields of a struct, or of a struct variant.
struct Struct<'a, 'b, O> {
    serializer: &'a mut Serializer<'b, O>,
    fields: Fields,
}

impl<'a, 'b, O: Output> Struct<'a, 'b, O> {
    #[inline]
    fn begin(serializer: &'a mut Serializer<'b, O>, tag: Tag) -> Result<Self, Error> {
        serializer.note(tag);
        serializer.down()?;
        Ok(Struct { serializer, fields: Fields::NONE })
    }

    #[inline(always)]
    fn field(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.fields.add(name);
        value.serialize(&mut *self.serializer)
    }

    #[inline]
    fn finish(self) -> Result<(), Error> {
        self.serializer.shape.note(self.fields.number());
        self.serializer.up();
        Ok(())
    }
}

impl<'a, 'b, O: Output> ser::Serializer for &'a mut Serializer<'b, O> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = List<'a, 'b, O>;
    type SerializeTuple = Tuple<'a, 'b, O>;
    type SerializeTupleStruct = Tuple<'a, 'b, O>;
    type SerializeTupleVariant = Tuple<'a, 'b, O>;
    type SerializeMap = List<'a, 'b, O>;
    type SerializeStruct = Struct<'a, 'b, O>;
    type SerializeStructVariant = Struct<'a, 'b, O>;

    /// As in the tagged form, so that a type is represented in the same way in both.
    fn is_human_readable(&self) -> bool {
        true
    }

    /// Receives slices and vectors, and types that contain them, as a whole.
    #[inline]
    fn collect_seq<I>(self, list: I) -> Result<(), Error>
    where
        I: IntoIterator<Item: Serialize>,
    {
        if let Some((kind, bytes)) = numeric_slice::bytes_of(&list) {
            self.note(Tag::run(kind));
            return self.run(kind, bytes);
        }
        let mut elements = list.into_iter();
        let len = match elements.size_hint() {
            (low, Some(high)) if low == high => Some(low),
            _ => None,
        };
        let mut list = List::begin(self, Tag::SEQ, len)?;
        elements.try_for_each(|element| list.element(&element))?;
        list.finish()
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.note(Tag::BOOL);
        self.bytes(&[value.into()])
    }

    #[inline]
    fn serialize_i8(self, value: i8) -> Result<(), Error> {
        self.note(Tag::number(Kind::I8));
        self.bytes(&value.to_le_bytes())
    }

    #[inline]
    fn serialize_i16(self, value: i16) -> Result<(), Error> {
        self.note(Tag::number(Kind::I16));
        self.zigzag(value.into())
    }

    #[inline]
    fn serialize_i32(self, value: i32) -> Result<(), Error> {
        self.note(Tag::number(Kind::I32));
        self.zigzag(value.into())
    }

    #[inline]
    fn serialize_i64(self, value: i64) -> Result<(), Error> {
        self.note(Tag::number(Kind::I64));
        self.zigzag(value)
    }

    fn serialize_i128(self, value: i128) -> Result<(), Error> {
        self.note(Tag::number(Kind::I128));
        self.long_varint((value << 1 ^ value >> 127) as u128)
    }

    #[inline]
    fn serialize_u8(self, value: u8) -> Result<(), Error> {
        self.note(Tag::number(Kind::U8));
        self.bytes(&[value])
    }

    #[inline]
    fn serialize_u16(self, value: u16) -> Result<(), Error> {
        self.note(Tag::number(Kind::U16));
        self.varint(value.into())
    }

    #[inline]
    fn serialize_u32(self, value: u32) -> Result<(), Error> {
        self.note(Tag::number(Kind::U32));
        self.varint(value.into())
    }

    #[inline]
    fn serialize_u64(self, value: u64) -> Result<(), Error> {
        self.note(Tag::number(Kind::U64));
        self.varint(value)
    }

    fn serialize_u128(self, value: u128) -> Result<(), Error> {
        self.note(Tag::number(Kind::U128));
        self.long_varint(value)
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        self.note(Tag::number(Kind::F32));
        self.bytes(&value.to_le_bytes())
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        self.note(Tag::number(Kind::F64));
        self.bytes(&value.to_le_bytes())
    }

    #[inline]
    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.note(Tag::CHAR);
        self.varint(u32::from(value).into())
    }

    #[inline]
    fn serialize_str(self, text: &str) -> Result<(), Error> {
        self.note(Tag::STR);
        self.run(Kind::U8, text.as_bytes())
    }

    #[inline]
    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Error> {
        self.note(Tag::BYTES);
        self.run(Kind::U8, bytes)
    }

    /// The length comes first, so the text is formatted twice: once to count its bytes, and once to
    /// write them. It is not stored in between.
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Error> {
        struct Count(usize);
        impl fmt::Write for Count {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 += text.len();
                Ok(())
            }
        }
        struct Text<'a, 'b, O> {
            serializer: &'a mut Serializer<'b, O>,
            /// How many bytes have been announced, but not yet written.
            left: usize,
            result: Result<(), Error>,
        }
        impl<O: Output> fmt::Write for Text<'_, '_, O> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.result = match self.left.checked_sub(text.len()) {
                    Some(left) => {
                        self.left = left;
                        self.serializer.bytes(text.as_bytes())
                    }
                    None => Err(CHANGED.into()),
                };
                self.result.as_ref().map_or(Err(fmt::Error), |()| Ok(()))
            }
        }
        const CHANGED: &str = "it is displayed differently each time";
        let fail = |_| Error::from("it can't be displayed");
        let mut count = Count(0);
        write!(count, "{value}").map_err(fail)?;
        self.note(Tag::STR);
        self.len(count.0, Kind::U8 as u8)?;
        let mut text = Text { serializer: self, left: count.0, result: Ok(()) };
        let written = write!(text, "{value}");
        text.result.and(written.map_err(fail))?;
        if text.left != 0 { Err(CHANGED.into()) } else { Ok(()) }
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Error> {
        self.note(Tag::NONE);
        self.bytes(&[0])
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        self.note(Tag::SOME);
        self.bytes(&[1])?;
        self.inner(value)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Error> {
        self.note(Tag::UNIT);
        Ok(())
    }

    #[inline]
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, index: u32, variant: &'static str) -> Result<(), Error> {
        self.variant(index, variant)?;
        self.note(Tag::UNIT_VARIANT);
        Ok(())
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        self.inner(value)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.variant(index, variant)?;
        self.note(Tag::NEWTYPE_VARIANT);
        self.inner(value)
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<List<'a, 'b, O>, Error> {
        List::begin(self, Tag::SEQ, len)
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Tuple<'a, 'b, O>, Error> {
        Tuple::begin(self, Tag::TUPLE, len)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Tuple<'a, 'b, O>, Error> {
        Tuple::begin(self, Tag::TUPLE, len)
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Tuple<'a, 'b, O>, Error> {
        self.variant(index, variant)?;
        Tuple::begin(self, Tag::TUPLE_VARIANT, len)
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<List<'a, 'b, O>, Error> {
        List::begin(self, Tag::MAP, len)
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Struct<'a, 'b, O>, Error> {
        Struct::begin(self, Tag::STRUCT)
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Struct<'a, 'b, O>, Error> {
        self.variant(index, variant)?;
        Struct::begin(self, Tag::STRUCT_VARIANT)
    }
}

impl<O: Output> ser::SerializeSeq for List<'_, '_, O> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.element(value)
    }

    #[inline]
    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

impl<O: Output> ser::SerializeMap for List<'_, '_, O> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.first(key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut *self.serializer)?;
        self.complete();
        Ok(())
    }

    #[inline]
    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

/// The parts are written one after the other, with nothing between or after them.
macro_rules! parts {
    ($($trait:ident $method:ident;)*) => {
        $(impl<O: Output> ser::$trait for Tuple<'_, '_, O> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.part(value)
            }

            #[inline]
            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        })*
    };
}

parts! {
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

macro_rules! fields {
    ($($trait:ident)*) => {
        $(impl<O: Output> ser::$trait for Struct<'_, '_, O> {
            type Ok = ();
            type Error = Error;

            #[inline(always)]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
                self.field(name, value)
            }

            #[inline]
            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        })*
    };
}

fields! { SerializeStruct SerializeStructVariant }
