//! Encodes values in the tagged form.

use std::fmt::Display;

use multiproc_os::numeric_slice::{self, Kind};
use serde::ser::{self, Serialize};

use super::{MAX_DEPTH, Tag};
use crate::transfer::compact::{Error, Output, Shape, TOO_DEEP, name_hash};

/// Writes `value` to `output`, and returns its shape.
pub(crate) fn shape_to_output<O: Output>(value: &(impl Serialize + ?Sized), output: &mut O) -> Result<Shape, Error> {
    let mut serializer = Serializer {
        output,
        shape: Shape::EMPTY,
        levels: MAX_DEPTH,
        contents: true,
        is_name: false,
        is_key: false,
        key: None,
    };
    value.serialize(&mut serializer)?;
    Ok(serializer.shape)
}

/// The tags and names of a value, without numbers, texts and lengths: the full sequence of calls of
/// which its [`Shape`] is a hash.
pub(crate) fn outline(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, Error> {
    let mut output = Vec::new();
    // The positional form may nest deeper, and has checked its own limit.
    let mut serializer = Serializer {
        output: &mut output,
        shape: Shape::EMPTY,
        levels: u32::MAX,
        contents: false,
        is_name: false,
        is_key: false,
        key: None,
    };
    value.serialize(&mut serializer)?;
    Ok(output)
}

struct Serializer<'a, O> {
    output: &'a mut O,
    shape: Shape,
    /// How many levels deeper the value may nest.
    levels: u32,
    /// Whether numbers, texts and bytes are written, and not only their tags.
    contents: bool,
    /// Whether the value that is being written is a `str`, and not a type that contains one.
    is_name: bool,
    /// Whether the value that is being written is a key.
    is_key: bool,
    /// The hash of the last key, if it was a text.
    key: Option<u64>,
}

impl<O: Output> Serializer<'_, O> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.output.extend(bytes).map_err(ser::Error::custom)
    }

    fn tag(&mut self, tag: Tag) -> Result<(), Error> {
        self.shape.note_tag(tag);
        self.bytes(&[tag.0])
    }

    fn with_contents(&mut self, tag: Tag, bytes: &[u8]) -> Result<(), Error> {
        self.tag(tag)?;
        if self.contents { self.bytes(bytes) } else { Ok(()) }
    }

    fn len(&mut self, len: usize) -> Result<(), Error> {
        let mut left = len as u64;
        while left > 0x7F {
            self.bytes(&[left as u8 | 0x80])?;
            left >>= 7;
        }
        self.bytes(&[left as u8])
    }

    /// Writes `count` elements, which are `bytes`.
    fn with_len(&mut self, tag: Tag, count: usize, bytes: &[u8]) -> Result<(), Error> {
        self.tag(tag)?;
        if !self.contents {
            return Ok(());
        }
        self.len(count)?;
        self.bytes(bytes)
    }

    fn name(&mut self, tag: Tag, name: &str) -> Result<(), Error> {
        self.tag(tag)?;
        self.shape.note(name_hash(name));
        self.len(name.len())?;
        self.bytes(name.as_bytes())
    }

    /// Writes a value.
    ///
    /// The names of internally tagged variants and of flattened fields arrive as values and keys of
    /// the type `str`, which users' own fields rarely have. Their content decides how the rest is
    /// read, so it belongs to the shape.
    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.is_name = std::any::type_name::<T>() == "str";
        let result = value.serialize(&mut *self);
        self.is_name = false;
        result
    }

    /// Goes a level deeper, until [`up`](Serializer::up).
    fn down(&mut self) -> Result<(), Error> {
        self.levels = self.levels.checked_sub(1).ok_or(TOO_DEEP)?;
        Ok(())
    }

    fn up(&mut self) {
        self.levels += 1;
    }

    fn inner(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.down()?;
        self.value(value)?;
        self.up();
        Ok(())
    }
}

/// A value that has parts, up to its end.
struct Parts<'a, 'b, O> {
    serializer: &'a mut Serializer<'b, O>,
    /// The shape of the previous part, for lists and maps, in which only a part of another shape
    /// counts.
    last: Option<Shape>,
    /// The shape outside of the part that is being written.
    around: Shape,
    /// In a map, the hashes of the keys that are texts.
    keys: Vec<u64>,
    /// Whether some of the keys are names: those of a flattened struct, or of an internally tagged
    /// enum.
    has_names: bool,
}

impl<'a, 'b, O: Output> Parts<'a, 'b, O> {
    /// A value that has the same parts in each value of the type.
    fn fixed(serializer: &'a mut Serializer<'b, O>) -> Result<Self, Error> {
        serializer.down()?;
        let around = serializer.shape;
        Ok(Parts { serializer, last: None, around, keys: Vec::new(), has_names: false })
    }

    /// Elements or entries.
    fn list(serializer: &'a mut Serializer<'b, O>) -> Result<Self, Error> {
        Ok(Parts { last: Some(Shape::EMPTY), ..Parts::fixed(serializer)? })
    }

    fn begin(&mut self) {
        if self.last.is_some() {
            self.around = std::mem::replace(&mut self.serializer.shape, Shape::EMPTY);
        }
    }

    fn complete(&mut self) {
        let Some(last) = &mut self.last else { return };
        let shape = std::mem::replace(&mut self.serializer.shape, self.around);
        if shape != *last {
            self.serializer.shape.note(shape.number());
            *last = shape;
        }
    }

    fn part(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.begin();
        self.serializer.value(value)?;
        self.complete();
        Ok(())
    }

    /// A flattened map may have a key that is also the name of a field. Most types refuse that, so
    /// it belongs to the shape.
    fn note_duplicates(&mut self) {
        self.keys.sort_unstable();
        for pair in self.keys.windows(2) {
            if pair[0] == pair[1] {
                self.serializer.shape.note(pair[0]);
            }
        }
    }

    fn field(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.serializer.name(Tag::FIELD, name)?;
        self.serializer.value(value)
    }

    fn finish(mut self) -> Result<(), Error> {
        if self.has_names {
            self.note_duplicates();
        }
        self.serializer.up();
        self.serializer.tag(Tag::END)
    }
}

macro_rules! numbers {
    ($($method:ident $number:ty, $kind:ident;)*) => {
        $(fn $method(self, value: $number) -> Result<(), Error> {
            self.with_contents(Tag::number(Kind::$kind), &value.to_le_bytes())
        })*
    };
}

impl<'a, 'b, O: Output> ser::Serializer for &'a mut Serializer<'b, O> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Parts<'a, 'b, O>;
    type SerializeTuple = Parts<'a, 'b, O>;
    type SerializeTupleStruct = Parts<'a, 'b, O>;
    type SerializeTupleVariant = Parts<'a, 'b, O>;
    type SerializeMap = Parts<'a, 'b, O>;
    type SerializeStruct = Parts<'a, 'b, O>;
    type SerializeStructVariant = Parts<'a, 'b, O>;

    /// serde's buffers, with which it tries one type after another, are human-readable too.
    fn is_human_readable(&self) -> bool {
        true
    }

    fn collect_seq<I>(self, list: I) -> Result<(), Error>
    where
        I: IntoIterator<Item: Serialize>,
    {
        if let Some((kind, bytes)) = numeric_slice::bytes_of(&list) {
            return self.with_len(Tag::run(kind), bytes.len() / kind.width(), bytes);
        }
        let mut parts = self.serialize_seq(None)?;
        list.into_iter().try_for_each(|element| parts.part(&element))?;
        parts.finish()
    }

    numbers! {
        serialize_i8 i8, I8;
        serialize_i16 i16, I16;
        serialize_i32 i32, I32;
        serialize_i64 i64, I64;
        serialize_i128 i128, I128;
        serialize_u8 u8, U8;
        serialize_u16 u16, U16;
        serialize_u32 u32, U32;
        serialize_u64 u64, U64;
        serialize_u128 u128, U128;
        serialize_f32 f32, F32;
        serialize_f64 f64, F64;
    }

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.with_contents(Tag::BOOL, &[value.into()])
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.with_contents(Tag::CHAR, &u32::from(value).to_le_bytes())
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        if self.is_name || self.is_key {
            let hash = name_hash(text);
            if self.is_name {
                self.shape.note(hash);
            }
            self.key = Some(hash);
        }
        self.with_len(Tag::STR, text.len(), text.as_bytes())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Error> {
        self.with_len(Tag::BYTES, bytes.len(), bytes)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Error> {
        use std::fmt::Write as _;
        let mut text = String::new();
        write!(text, "{value}").map_err(|_| "it can't be displayed")?;
        self.serialize_str(&text)
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.tag(Tag::NONE)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        self.tag(Tag::SOME)?;
        self.inner(value)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.tag(Tag::UNIT)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.tag(Tag::UNIT)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.name(Tag::UNIT_VARIANT, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        self.inner(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.name(Tag::NEWTYPE_VARIANT, variant)?;
        self.inner(value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a, 'b, O>, Error> {
        self.tag(Tag::SEQ)?;
        Parts::list(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'a, 'b, O>, Error> {
        self.tag(Tag::TUPLE)?;
        Parts::fixed(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Parts<'a, 'b, O>, Error> {
        self.serialize_tuple(len)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a, 'b, O>, Error> {
        self.name(Tag::TUPLE_VARIANT, variant)?;
        self.tag(Tag::TUPLE)?;
        Parts::fixed(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'a, 'b, O>, Error> {
        self.tag(Tag::MAP)?;
        Parts::list(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<'a, 'b, O>, Error> {
        self.tag(Tag::STRUCT)?;
        Parts::fixed(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a, 'b, O>, Error> {
        self.name(Tag::STRUCT_VARIANT, variant)?;
        self.tag(Tag::STRUCT)?;
        Parts::fixed(self)
    }
}

macro_rules! parts {
    ($($trait:ident $method:ident;)*) => {
        $(impl<O: Output> ser::$trait for Parts<'_, '_, O> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.part(value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        })*
    };
}

parts! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

impl<O: Output> ser::SerializeMap for Parts<'_, '_, O> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.begin();
        self.has_names |= std::any::type_name::<T>() == "str";
        let before = std::mem::replace(&mut self.serializer.is_key, true);
        self.serializer.key = None;
        let result = self.serializer.value(key);
        self.serializer.is_key = before;
        self.keys.extend(self.serializer.key.take());
        result
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.serializer.value(value)?;
        self.complete();
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

macro_rules! fields {
    ($($trait:ident)*) => {
        $(impl<O: Output> ser::$trait for Parts<'_, '_, O> {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
                self.field(name, value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        })*
    };
}

fields! { SerializeStruct SerializeStructVariant }
