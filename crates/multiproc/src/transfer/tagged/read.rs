//! Decodes values from the tagged form.

use std::marker::PhantomData;
use std::mem;

use multiproc_os::numeric_slice::{self, Kind};
use serde::de::value::{BorrowedStrDeserializer, StringDeserializer};
use serde::de::{self, Deserialize, DeserializeOwned, DeserializeSeed, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::{MAX_DEPTH, Tag};
use crate::transfer::compact::{Error, Number, TOO_DEEP, numbers};

/// How values are read for a type that asks what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Exactly what was written: `Some`, `None` and `()` are three things, a number has its type, a
    /// `char` is a `char`.
    Exact,
    /// What a text format would tell: `Some` is passed over, `None` is `()`, bytes are a list of
    /// numbers, a `char` is a text. For types that were made for JSON and can't be read otherwise.
    LikeText,
}

/// Reads a value from all of `bytes`.
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8], reading: Reading) -> Result<T, Error> {
    let mut deserializer = Deserializer { bytes, reading, levels: MAX_DEPTH, is_astray: false, is_between: false };
    let value = deserializer.one(PhantomData::<T>)?;
    match deserializer.bytes.len() {
        0 => Ok(value),
        left => Err(de::Error::custom(format_args!("{left} bytes too many"))),
    }
}

struct Deserializer<'de> {
    /// The unread bytes.
    bytes: &'de [u8],
    reading: Reading,
    /// How many levels deeper the value may nest.
    levels: u32,
    /// Whether an error has ended a value before all of it was read.
    is_astray: bool,
    /// Whether a variant has been read, but not yet its contents.
    is_between: bool,
}

const CUT_OFF: &str = "it is cut off";

const OUT_OF_RANGE: &str = "a length is out of range";

const NOT_UTF_8: &str = "a text is not UTF-8";

const NO_VALUE: &str = "there is no value where one should be";

const LEFT_OVER: &str = "the type has not read all of its elements";

/// A text of at least this many bytes is copied here and passed as a `String`, which is faster than
/// to pass it borrowed and let the visitor copy it.
const LARGE: usize = 1 << 20;

/// serde_json's name for its type of raw JSON text, for which its `Deserialize` expects a map.
const RAW_JSON: &str = "$serde_json::private::RawValue";

impl<'de> Deserializer<'de> {
    fn peek(&self) -> Result<Tag, Error> {
        Ok(Tag(*self.bytes.first().ok_or(CUT_OFF)?))
    }

    /// Consumes the tag that was peeked at.
    fn tag(&mut self) -> Result<Tag, Error> {
        let tag = self.peek()?;
        self.bytes = &self.bytes[1..];
        Ok(tag)
    }

    fn take(&mut self, len: usize) -> Result<&'de [u8], Error> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(CUT_OFF)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn len(&mut self) -> Result<usize, Error> {
        let mut len = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                break;
            }
            len |= bits << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(len).map_err(|_| OUT_OF_RANGE.into());
            }
        }
        Err(OUT_OF_RANGE.into())
    }

    /// A length, and the bytes.
    fn byte_run(&mut self) -> Result<&'de [u8], Error> {
        let len = self.len()?;
        self.take(len)
    }

    fn text(&mut self) -> Result<&'de str, Error> {
        str::from_utf8(self.byte_run()?).map_err(|_| NOT_UTF_8.into())
    }

    /// A count, and the bytes of that many numbers.
    fn run(&mut self, kind: Kind) -> Result<&'de [u8], Error> {
        let count = self.len()?;
        self.take(count.checked_mul(kind.width()).ok_or(OUT_OF_RANGE)?)
    }

    /// Reads something that is one level deeper.
    fn deeper<R>(&mut self, read: impl FnOnce(&mut Self) -> Result<R, Error>) -> Result<R, Error> {
        let Some(levels) = self.levels.checked_sub(1) else {
            self.is_astray = true;
            return Err(TOO_DEEP.into());
        };
        self.levels = levels;
        let read = read(self);
        self.levels += 1;
        self.is_astray |= read.is_err();
        read
    }

    /// Reads a value. If the type ignores an error in the middle of it, skips to the end of the
    /// value, so that the next value is read from its start.
    fn one<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let start = self.bytes;
        let value = seed.deserialize(&mut *self);
        if value.is_ok() && mem::take(&mut self.is_astray) {
            self.bytes = start;
            self.skip()?;
        }
        value
    }

    /// Reads whatever comes next. A type that has said what it `expects` is not told that the value
    /// is inside a `Some`.
    fn value<V: Visitor<'de>>(&mut self, expects: bool, visitor: V) -> Result<V::Value, Error> {
        let text = self.reading == Reading::LikeText;
        let mut tag = self.tag()?;
        while tag == Tag::SOME && (expects || text) {
            tag = self.tag()?;
        }
        if let Some(kind) = tag.as_number() {
            let bytes = self.take(kind.width())?;
            return number(kind, bytes, text, visitor);
        }
        if let Some(kind) = tag.as_run() {
            return numbers(kind, self.run(kind)?, visitor);
        }
        match tag {
            Tag::UNIT => visitor.visit_unit(),
            Tag::NONE if expects || text => visitor.visit_unit(),
            Tag::NONE => visitor.visit_none(),
            Tag::SOME => self.deeper(|inner| visitor.visit_some(inner)),
            Tag::BOOL => match self.take(1)?[0] {
                0 => visitor.visit_bool(false),
                1 => visitor.visit_bool(true),
                _ => Err("neither true nor false".into()),
            },
            Tag::CHAR => {
                let number = u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes"));
                let char = char::from_u32(number).ok_or("not a character")?;
                if text { visitor.visit_str(char.encode_utf8(&mut [0; 4])) } else { visitor.visit_char(char) }
            }
            Tag::STR => visitor.visit_borrowed_str(self.text()?),
            Tag::BYTES if text => numbers(Kind::U8, self.byte_run()?, visitor),
            Tag::BYTES => visitor.visit_borrowed_bytes(self.byte_run()?),
            Tag::SEQ | Tag::TUPLE => self.parts(|parts| visitor.visit_seq(parts)),
            Tag::MAP | Tag::STRUCT => self.parts(|parts| visitor.visit_map(parts)),
            Tag::UNIT_VARIANT => visitor.visit_borrowed_str(self.text()?),
            tag if tag.is_variant() => {
                let name = Some(self.text()?);
                self.deeper(|inner| {
                    let mut entry = OneVariant { name, deserializer: inner, is_read: false };
                    let value = visitor.visit_map(&mut entry)?;
                    if entry.is_read { Ok(value) } else { Err(LEFT_OVER.into()) }
                })
            }
            _ => Err(NO_VALUE.into()),
        }
    }

    /// Reads what comes next, if the visitor accepts its type.
    fn expected<V: Visitor<'de>>(&mut self, accepts: impl Fn(Tag) -> bool, visitor: V) -> Result<V::Value, Error> {
        let tag = self.pass_some()?;
        if accepts(tag) {
            return self.value(true, visitor);
        }
        self.is_astray = true;
        Err(de::Error::invalid_type(Unexpected::Other(tag.name()), &visitor))
    }

    /// Reads something that has parts and an end, all of which must be read.
    fn parts<R>(&mut self, read: impl FnOnce(&mut Parts<'_, 'de>) -> Result<R, Error>) -> Result<R, Error> {
        self.deeper(|inner| {
            let mut parts = Parts { deserializer: inner, ended: false, is_between: false };
            let value = read(&mut parts)?;
            if !parts.is_between && parts.is_at_end()? { Ok(value) } else { Err(LEFT_OVER.into()) }
        })
    }

    /// Skips a value.
    fn skip(&mut self) -> Result<(), Error> {
        let tag = self.tag()?;
        if let Some(kind) = tag.as_number() {
            return self.take(kind.width()).map(drop);
        }
        if let Some(kind) = tag.as_run() {
            return self.run(kind).map(drop);
        }
        match tag {
            Tag::UNIT | Tag::NONE => Ok(()),
            Tag::SOME => self.deeper(Self::skip),
            Tag::BOOL => self.take(1).map(drop),
            Tag::CHAR => self.take(4).map(drop),
            Tag::STR | Tag::BYTES | Tag::UNIT_VARIANT => self.byte_run().map(drop),
            Tag::SEQ | Tag::TUPLE | Tag::MAP | Tag::STRUCT => self.deeper(|inner| {
                while inner.peek()? != Tag::END {
                    if inner.peek()? == Tag::FIELD {
                        inner.tag()?;
                        inner.byte_run()?;
                    }
                    inner.skip()?;
                }
                inner.tag().map(drop)
            }),
            tag if tag.is_variant() => {
                self.byte_run()?;
                self.deeper(Self::skip)
            }
            _ => Err(NO_VALUE.into()),
        }
    }

    /// The text that a text format makes of a key that is a number or a flag, if the value is read
    /// like text.
    fn key_text(&mut self) -> Result<Option<String>, Error> {
        if self.reading == Reading::Exact {
            return Ok(None);
        }
        let tag = self.pass_some()?;
        if tag == Tag::BOOL {
            self.tag()?;
            return Ok(Some((self.take(1)?[0] != 0).to_string()));
        }
        let Some(kind) = tag.as_number() else { return Ok(None) };
        self.tag()?;
        let bytes = self.take(kind.width())?;
        macro_rules! text {
            ($($kind:ident $number:ident;)*) => {
                match kind {
                    $(Kind::$kind => format!("{:?}", $number::from_le_bytes(bytes.try_into().expect("as many bytes"))),)*
                }
            };
        }
        Ok(Some(text! {
            U8 u8; I8 i8; U16 u16; I16 i16; U32 u32; I32 i32; U64 u64; I64 i64; U128 u128; I128 i128; F32 f32; F64 f64;
        }))
    }

    /// Passes over `Some`, for a type that expects the value in it.
    fn pass_some(&mut self) -> Result<Tag, Error> {
        while self.peek()? == Tag::SOME {
            self.tag()?;
        }
        self.peek()
    }
}

/// Passes a number to the visitor of a type that asks what comes next. A 128-bit number is passed
/// as one of 64 bits if it fits; read like text (`text`), a number that isn't negative is unsigned.
fn number<'de, V: Visitor<'de>>(kind: Kind, bytes: &'de [u8], text: bool, visitor: V) -> Result<V::Value, Error> {
    let wide = match kind {
        Kind::U128 => {
            let number = u128::from_le_bytes(bytes.try_into().expect("16 bytes"));
            return match u64::try_from(number) {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => visitor.visit_u128(number),
            };
        }
        Kind::I128 => i128::from_le_bytes(bytes.try_into().expect("16 bytes")),
        Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 if text => {
            // Sign extension.
            let mut wide = if bytes[bytes.len() - 1] & 0x80 == 0 { [0; 16] } else { [0xFF; 16] };
            wide[..bytes.len()].copy_from_slice(bytes);
            i128::from_le_bytes(wide)
        }
        _ => return de::Deserializer::deserialize_any(Number { kind, bytes }, visitor),
    };
    if let Ok(number) = u64::try_from(wide) {
        return visitor.visit_u64(number);
    }
    match i64::try_from(wide) {
        Ok(number) => visitor.visit_i64(number),
        Err(_) => visitor.visit_i128(wide),
    }
}

/// A type that says what it expects gets that, or what a text format writes in the same way. Other
/// values are refused: some visitors would accept them, though no other format passes them such
/// values.
macro_rules! expect {
    ($($method:ident $accepts:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.expected($accepts, visitor)
        })*
    };
}

/// A type that expects exactly the type of the number that was written gets the number unchanged,
/// other types get it as `number` passes it. Read like text, numbers of at most 64 bits have no
/// type, only a sign.
macro_rules! exact {
    ($($method:ident $number:ident $kind:ident $visit:ident;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let is_shown = self.reading == Reading::Exact || Kind::$kind.width() == 16;
            if self.pass_some()? == Tag::number(Kind::$kind) && is_shown {
                self.tag()?;
                let number = self.take(Kind::$kind.width())?;
                return visitor.$visit($number::from_le_bytes(number.try_into().expect("as many bytes")));
            }
            self.expected(Tag::is_number, visitor)
        })*
    };
}
impl<'de> de::Deserializer<'de> for &mut Deserializer<'de> {
    type Error = Error;

    /// serde's buffers, with which it tries one type after another, are human-readable too.
    fn is_human_readable(&self) -> bool {
        true
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.value(false, visitor)
    }

    expect! {
        deserialize_bool |tag| tag == Tag::BOOL;
        deserialize_char Tag::is_text;
        deserialize_str Tag::is_text;
        deserialize_f32 Tag::is_number;
        deserialize_f64 Tag::is_number;
        deserialize_map Tag::is_map;
        deserialize_unit |tag| tag == Tag::UNIT || tag == Tag::NONE;
    }

    exact! {
        deserialize_i8 i8 I8 visit_i8;
        deserialize_i16 i16 I16 visit_i16;
        deserialize_i32 i32 I32 visit_i32;
        deserialize_i64 i64 I64 visit_i64;
        deserialize_i128 i128 I128 visit_i128;
        deserialize_u8 u8 U8 visit_u8;
        deserialize_u16 u16 U16 visit_u16;
        deserialize_u32 u32 U32 visit_u32;
        deserialize_u64 u64 U64 visit_u64;
        deserialize_u128 u128 U128 visit_u128;
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let takes_bytes = self.reading == Reading::Exact;
        self.expected(|tag| tag.is_text() || takes_bytes && tag == Tag::BYTES, visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.pass_some()? != Tag::STR {
            return self.expected(Tag::is_text, visitor);
        }
        self.tag()?;
        let text = self.byte_run()?;
        if text.len() < LARGE {
            return visitor.visit_borrowed_str(str::from_utf8(text).map_err(|_| NOT_UTF_8)?);
        }
        visitor.visit_string(String::from_utf8(numeric_slice::copy(text)).map_err(|_| NOT_UTF_8)?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.pass_some()? {
            // A text format writes bytes as a list.
            tag if self.reading == Reading::LikeText && tag.is_list() => self.value(true, visitor),
            Tag::BYTES => {
                self.tag()?;
                visitor.visit_borrowed_bytes(self.byte_run()?)
            }
            tag if tag == Tag::run(Kind::U8) => {
                self.tag()?;
                visitor.visit_borrowed_bytes(self.run(Kind::U8)?)
            }
            Tag::STR | Tag::UNIT_VARIANT => {
                self.tag()?;
                visitor.visit_borrowed_bytes(self.text()?.as_bytes())
            }
            Tag::CHAR => visitor.visit_bytes(char::deserialize(self)?.encode_utf8(&mut [0; 4]).as_bytes()),
            _ => self.expected(Tag::is_list, visitor),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.pass_some()? {
            tag if self.reading == Reading::Exact && (tag == Tag::BYTES || tag == Tag::run(Kind::U8)) => {
                self.tag()?;
                visitor.visit_byte_buf(numeric_slice::copy(self.byte_run()?))
            }
            _ => self.deserialize_bytes(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek()? {
            Tag::NONE | Tag::UNIT => {
                self.tag()?;
                visitor.visit_none()
            }
            Tag::SOME => {
                self.tag()?;
                self.deeper(|inner| visitor.visit_some(inner))
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        if name == RAW_JSON && self.peek()? == Tag::STRUCT {
            return self.value(true, visitor);
        }
        self.deeper(|inner| visitor.visit_newtype_struct(inner))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.pass_some()? == Tag::BYTES {
            self.tag()?;
            return numbers(Kind::U8, self.byte_run()?, visitor);
        }
        self.expected(Tag::is_list, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.expected(|tag| tag.is_map() || tag.is_list(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.pass_some()? {
            // As in text, a map with one entry can be an enum.
            Tag::MAP | Tag::STRUCT => {
                self.tag()?;
                self.parts(|parts| visitor.visit_enum(parts))
            }
            Tag::STR => {
                self.tag()?;
                visitor.visit_enum(Variant { tag: Tag::UNIT_VARIANT, deserializer: self })
            }
            tag if tag.is_variant() => {
                self.tag()?;
                let value = visitor.visit_enum(Variant { tag, deserializer: &mut *self });
                if mem::take(&mut self.is_between) {
                    self.is_astray = true;
                    return Err(value.err().unwrap_or(LEFT_OVER.into()));
                }
                value
            }
            _ => self.expected(|_| false, visitor),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.skip()?;
        visitor.visit_unit()
    }
}

/// Elements, entries or fields, up to the end.
struct Parts<'a, 'de> {
    deserializer: &'a mut Deserializer<'de>,
    /// Whether the end has been read.
    ended: bool,
    /// Whether a key has been read, but not yet its value.
    is_between: bool,
}

impl Parts<'_, '_> {
    fn is_at_end(&mut self) -> Result<bool, Error> {
        if !self.ended && self.deserializer.peek()? == Tag::END {
            self.deserializer.tag()?;
            self.ended = true;
        }
        Ok(self.ended)
    }
}

impl<'de> de::SeqAccess<'de> for &mut Parts<'_, 'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.is_at_end()? {
            return Ok(None);
        }
        self.deserializer.one(seed).map(Some)
    }
}

impl<'de> de::MapAccess<'de> for &mut Parts<'_, 'de> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.is_between {
            return Err(LEFT_OVER.into());
        }
        if self.is_at_end()? {
            return Ok(None);
        }
        self.is_between = true;
        let deserializer = &mut *self.deserializer;
        match deserializer.peek()? {
            Tag::FIELD => {
                deserializer.tag()?;
                seed.deserialize(BorrowedStrDeserializer::new(deserializer.text()?)).map(Some)
            }
            _ => match deserializer.key_text()? {
                Some(text) => seed.deserialize(TextKey(text)).map(Some),
                None => deserializer.one(seed).map(Some),
            },
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        if !mem::take(&mut self.is_between) {
            return Err("a value was read without its key".into());
        }
        self.deserializer.one(seed)
    }
}

/// A key that has become text; a type that expects a number gets it parsed again.
struct TextKey(String);

macro_rules! parsed {
    ($($method:ident $number:ident $visit:ident;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0.parse::<$number>() {
                Ok(number) => visitor.$visit(number),
                Err(_) => visitor.visit_string(self.0),
            }
        })*
    };
}

impl<'de> de::Deserializer<'de> for TextKey {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.0)
    }

    parsed! {
        deserialize_bool bool visit_bool;
        deserialize_i8 i64 visit_i64;
        deserialize_i16 i64 visit_i64;
        deserialize_i32 i64 visit_i64;
        deserialize_i64 i64 visit_i64;
        deserialize_i128 i128 visit_i128;
        deserialize_u8 u64 visit_u64;
        deserialize_u16 u64 visit_u64;
        deserialize_u32 u64 visit_u64;
        deserialize_u64 u64 visit_u64;
        deserialize_u128 u128 visit_u128;
        deserialize_f32 f64 visit_f64;
        deserialize_f64 f64 visit_f64;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let text: StringDeserializer<Error> = de::IntoDeserializer::into_deserializer(self.0);
        text.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A map that is read as an enum.
impl<'a, 'de> de::EnumAccess<'de> for &'a mut Parts<'_, 'de> {
    type Error = Error;
    type Variant = Variant<'a, 'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Variant<'a, 'de>), Error> {
        let mut entries = &mut *self;
        let name = de::MapAccess::next_key_seed(&mut entries, seed)?.ok_or("a map without the name of a variant")?;
        self.is_between = false;
        Ok((name, Variant { tag: Tag::NEWTYPE_VARIANT, deserializer: &mut *self.deserializer }))
    }
}

/// A variant of which the tag has been read. The name comes next, or has been read too, and then
/// the contents come.
struct Variant<'a, 'de> {
    tag: Tag,
    deserializer: &'a mut Deserializer<'de>,
}

impl<'a, 'de> de::EnumAccess<'de> for Variant<'a, 'de> {
    type Error = Error;
    type Variant = Variant<'a, 'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Variant<'a, 'de>), Error> {
        let name = self.deserializer.text()?;
        self.deserializer.is_between = self.tag != Tag::UNIT_VARIANT;
        Ok((seed.deserialize(BorrowedStrDeserializer::<Error>::new(name))?, self))
    }
}

impl<'a, 'de> Variant<'a, 'de> {
    /// The deserializer, positioned at the variant's contents.
    fn contents(self) -> Result<&'a mut Deserializer<'de>, Error> {
        match self.tag {
            Tag::UNIT_VARIANT => Err("a variant without contents, where it should have some".into()),
            _ => {
                self.deserializer.is_between = false;
                Ok(self.deserializer)
            }
        }
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.tag {
            Tag::UNIT_VARIANT => Ok(()),
            _ => self.contents()?.deeper(|inner| de::Deserialize::deserialize(inner)),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        self.contents()?.deeper(|inner| seed.deserialize(inner))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.contents()?.deeper(|inner| de::Deserializer::deserialize_tuple(inner, len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, names: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.contents()?.deeper(|inner| de::Deserializer::deserialize_struct(inner, "", names, visitor))
    }
}

/// A variant with contents, for a type that asks what comes next: a map with one entry.
struct OneVariant<'a, 'de> {
    name: Option<&'de str>,
    deserializer: &'a mut Deserializer<'de>,
    is_read: bool,
}

impl<'de> de::MapAccess<'de> for &mut OneVariant<'_, 'de> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.name.take().map(|name| seed.deserialize(BorrowedStrDeserializer::new(name))).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        if self.name.is_some() || mem::replace(&mut self.is_read, true) {
            return Err("a value was read without its key".into());
        }
        self.deserializer.one(seed)
    }
}
