//! Values to bytes.

use std::convert::Infallible;
use std::fmt::{self, Display, Write as _};
use std::io;

use multiproc_os::plain::{self, Kind};
use serde::ser::{self, Serialize};

use super::{CODE_BITS, DEEPEST, ELEMENTS, Error, MOST_EMPTY, TOO_DEEP, TOO_MANY_EMPTY};
use crate::transfer::payload::Sink;

/// Where bytes can be written to.
pub(crate) trait Output {
    type Error: Display;

    fn extend(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
}

impl Output for Vec<u8> {
    type Error = Infallible;

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

/// Writes `value` to `output`, and gives its shape: a number that follows from which methods of the serializer its type has called, and in which
/// order, but neither from the numbers, texts and bytes in it nor from how long they are. Two values of one type and shape are read by the same
/// calls.
#[inline]
pub(crate) fn shape_to_output<O: Output>(value: &(impl Serialize + ?Sized), output: &mut O) -> Result<u64, Error> {
    let mut serializer = Serializer { output, shape: 0, written: 0, levels: DEEPEST, empty: MOST_EMPTY };
    value.serialize(&mut serializer)?;
    Ok(serializer.shape)
}

struct Serializer<'a, O> {
    output: &'a mut O,
    /// What has been called so far: see [`shape_to_output`].
    shape: u64,
    /// How many bytes.
    written: u64,
    /// How many levels deeper it may nest.
    levels: u32,
    /// How many more elements may be empty.
    empty: u64,
}

impl<O: Output> Serializer<'_, O> {
    /// Takes one more call into the shape. The step is that of Fowler, Noll and Vo's FNV-1a, with a word in place of a byte.
    #[inline]
    fn note(&mut self, call: u64) {
        self.shape = (self.shape ^ call).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }

    #[inline]
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written += bytes.len() as u64;
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

    /// Numbers of `kind` as they lie in memory.
    #[inline]
    fn run(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), Error> {
        self.len(bytes.len() / kind.width(), kind as u8)?;
        self.bytes(bytes)
    }

    /// Goes a level deeper, until [`up`](Serializer::up).
    #[inline]
    fn down(&mut self) -> Result<&mut Self, Error> {
        self.levels = self.levels.checked_sub(1).ok_or(TOO_DEEP)?;
        Ok(self)
    }

    #[inline]
    fn up(&mut self) {
        self.levels += 1;
    }

    /// Writes what is one level deeper, and no more than one value.
    #[inline]
    fn inner(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        value.serialize(self.down()?)?;
        self.up();
        Ok(())
    }

    /// Writes one of the parts that every value of a type has.
    #[inline]
    fn part(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        value.serialize(self)
    }

    /// Writes an element of a list, or a key of a map.
    #[inline]
    fn element(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        let before = self.written;
        value.serialize(&mut *self)?;
        if self.written == before {
            self.empty = self.empty.checked_sub(1).ok_or(TOO_MANY_EMPTY)?;
        }
        Ok(())
    }

    fn known(&mut self, len: Option<usize>) -> Result<(), Error> {
        self.len(len.ok_or("the length is not known beforehand")?, ELEMENTS)
    }
}

impl<O: Output> ser::Serializer for &mut Serializer<'_, O> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fn is_human_readable(&self) -> bool {
        false
    }

    /// Where slices and vectors, and what stands on them, come by as a whole.
    #[inline]
    fn collect_seq<I>(self, list: I) -> Result<(), Error>
    where
        I: IntoIterator<Item: Serialize>,
    {
        self.note(1);
        if let Some((kind, bytes)) = plain::bytes_of(&list) {
            self.note(0x100 | kind as u64);
            return self.run(kind, bytes);
        }
        let mut elements = list.into_iter();
        let len = match elements.size_hint() {
            (low, Some(high)) if low == high => Some(low),
            _ => None,
        };
        self.known(len)?;
        self.down()?;
        elements.try_for_each(|element| self.element(&element))?;
        self.up();
        Ok(())
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.note(2);
        self.bytes(&[value.into()])
    }

    #[inline]
    fn serialize_i8(self, value: i8) -> Result<(), Error> {
        self.note(3);
        self.bytes(&value.to_le_bytes())
    }

    #[inline]
    fn serialize_i16(self, value: i16) -> Result<(), Error> {
        self.note(4);
        self.serialize_i64(value.into())
    }

    #[inline]
    fn serialize_i32(self, value: i32) -> Result<(), Error> {
        self.note(5);
        self.serialize_i64(value.into())
    }

    #[inline]
    fn serialize_i64(self, value: i64) -> Result<(), Error> {
        self.note(6);
        self.varint((value << 1 ^ value >> 63) as u64)
    }

    fn serialize_i128(self, value: i128) -> Result<(), Error> {
        self.note(7);
        self.long_varint((value << 1 ^ value >> 127) as u128)
    }

    #[inline]
    fn serialize_u8(self, value: u8) -> Result<(), Error> {
        self.note(8);
        self.bytes(&[value])
    }

    #[inline]
    fn serialize_u16(self, value: u16) -> Result<(), Error> {
        self.note(9);
        self.varint(value.into())
    }

    #[inline]
    fn serialize_u32(self, value: u32) -> Result<(), Error> {
        self.note(10);
        self.varint(value.into())
    }

    #[inline]
    fn serialize_u64(self, value: u64) -> Result<(), Error> {
        self.note(11);
        self.varint(value)
    }

    fn serialize_u128(self, value: u128) -> Result<(), Error> {
        self.note(12);
        self.long_varint(value)
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        self.note(13);
        self.bytes(&value.to_le_bytes())
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        self.note(14);
        self.bytes(&value.to_le_bytes())
    }

    #[inline]
    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.note(15);
        self.varint(u32::from(value).into())
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        self.note(16);
        self.run(Kind::U8, text.as_bytes())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Error> {
        self.note(17);
        self.run(Kind::U8, bytes)
    }

    /// The length comes first, so it is counted first: no text is kept in between.
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Error> {
        struct Count(usize);
        impl fmt::Write for Count {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0 += text.len();
                Ok(())
            }
        }
        struct Text<'a, 'b, O>(&'a mut Serializer<'b, O>, Result<(), Error>);
        impl<O: Output> fmt::Write for Text<'_, '_, O> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.1 = self.0.bytes(text.as_bytes());
                self.1.as_ref().map_or(Err(fmt::Error), |()| Ok(()))
            }
        }
        let fail = |_| Error::from("it can't be displayed");
        let mut count = Count(0);
        write!(count, "{value}").map_err(fail)?;
        self.note(0x200);
        self.len(count.0, Kind::U8 as u8)?;
        let mut text = Text(self, Ok(()));
        let written = write!(text, "{value}");
        text.1.and(written.map_err(fail))
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Error> {
        self.note(18);
        self.bytes(&[0])
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        self.note(19);
        self.bytes(&[1])?;
        self.inner(value)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.note(20);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.note(21);
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Result<(), Error> {
        self.note(22 | u64::from(index) << 8);
        self.varint(index.into())
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
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.varint(index.into())?;
        self.inner(value)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self, Error> {
        self.note(23);
        self.known(len)?;
        self.down()
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Error> {
        self.note(24);
        self.down()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Error> {
        self.note(25);
        self.down()
    }

    fn serialize_tuple_variant(self, _: &'static str, index: u32, _: &'static str, _: usize) -> Result<Self, Error> {
        self.note(26 | u64::from(index) << 8);
        self.varint(index.into())?;
        self.down()
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self, Error> {
        self.note(27);
        self.known(len)?;
        self.down()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Error> {
        self.note(28);
        self.down()
    }

    fn serialize_struct_variant(self, _: &'static str, index: u32, _: &'static str, _: usize) -> Result<Self, Error> {
        self.note(29 | u64::from(index) << 8);
        self.varint(index.into())?;
        self.down()
    }
}

/// The parts of what has parts are written one after the other, and nothing between or after them.
macro_rules! parts {
    ($($trait:ident $method:ident($($name:ty)?) $part:ident;)*) => {
        $(impl<O: Output> ser::$trait for &mut Serializer<'_, O> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, $(_: $name,)? value: &T) -> Result<(), Error> {
                self.$part(value)
            }

            $(fn skip_field(&mut self, _: $name) -> Result<(), Error> {
                self.note(0x400);
                Ok(())
            })?

            #[inline]
            fn end(self) -> Result<(), Error> {
                self.note(30);
                self.up();
                Ok(())
            }
        })*
    };
}

parts! {
    SerializeSeq serialize_element() element;
    SerializeTuple serialize_element() part;
    SerializeTupleStruct serialize_field() part;
    SerializeTupleVariant serialize_field() part;
    SerializeStruct serialize_field(&'static str) part;
    SerializeStructVariant serialize_field(&'static str) part;
}

impl<O: Output> ser::SerializeMap for &mut Serializer<'_, O> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.element(key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.part(value)
    }

    fn end(self) -> Result<(), Error> {
        self.note(31);
        self.up();
        Ok(())
    }
}
