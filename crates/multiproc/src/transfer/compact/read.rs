//! Bytes to values.

use multiproc_os::plain::{self, Kind};
use serde::de::value::U32Deserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Visitor};
use serde::forward_to_deserialize_any;

use super::{CODE_BITS, DEEPEST, ELEMENTS, Error, MOST_EMPTY, TOO_DEEP, TOO_MANY_EMPTY};

/// How closely bytes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// All of them.
    Whole,
    /// Only to see whether they can be read: of texts and runs of numbers, which can't be wrong, nothing is copied, and they come out empty.
    Skim,
}

/// The value that `bytes` are, all of them.
#[inline]
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8], depth: Depth) -> Result<T, Error> {
    let mut deserializer = Deserializer { bytes, depth, levels: DEEPEST, empty: MOST_EMPTY };
    let value = T::deserialize(&mut deserializer)?;
    match deserializer.bytes.len() {
        0 => Ok(value),
        left => Err(de::Error::custom(format_args!("{left} bytes too many"))),
    }
}

struct Deserializer<'de> {
    /// What has not been read yet.
    bytes: &'de [u8],
    depth: Depth,
    /// How many levels deeper it may nest.
    levels: u32,
    /// How many more elements may be empty.
    empty: u64,
}

/// From this many bytes on a text is copied by us and handed over, which is quicker than to show it and have it copied.
const LARGE: usize = 1 << 20;

const CUT_OFF: &str = "it is cut off";

/// Reads seven bits a byte, the lowest first, until one says that it is the last.
macro_rules! varint {
    ($name:ident $number:ty) => {
        #[inline]
        fn $name(&mut self) -> Result<$number, Error> {
            let mut number = 0;
            for shift in (0..<$number>::BITS).step_by(7) {
                let byte = self.byte()?;
                let bits = <$number>::from(byte & 0x7F);
                if bits << shift >> shift != bits {
                    break;
                }
                number |= bits << shift;
                if byte & 0x80 == 0 {
                    return Ok(number);
                }
            }
            Err(OUT_OF_RANGE.into())
        }
    };
}

impl<'de> Deserializer<'de> {
    #[inline]
    fn byte(&mut self) -> Result<u8, Error> {
        let (byte, rest) = self.bytes.split_first().ok_or(CUT_OFF)?;
        self.bytes = rest;
        Ok(*byte)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'de [u8], Error> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(CUT_OFF)?;
        self.bytes = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(CUT_OFF)?;
        self.bytes = rest;
        Ok(*taken)
    }

    varint!(varint u64);
    varint!(long_varint u128);

    #[inline]
    fn unsigned<N: TryFrom<u64>>(&mut self) -> Result<N, Error> {
        N::try_from(self.varint()?).map_err(|_| OUT_OF_RANGE.into())
    }

    #[inline]
    fn signed<N: TryFrom<i64>>(&mut self) -> Result<N, Error> {
        let number = self.varint()?;
        N::try_from((number >> 1) as i64 ^ -((number & 1) as i64)).map_err(|_| OUT_OF_RANGE.into())
    }

    /// A length, and the code that tells what it is the length of.
    #[inline]
    fn len(&mut self) -> Result<(usize, u8), Error> {
        let number = self.varint()?;
        let code = number as u8 & ((1 << CODE_BITS) - 1);
        Ok((usize::try_from(number >> CODE_BITS).map_err(|_| OUT_OF_RANGE)?, code))
    }

    /// The bytes of `len` numbers of a kind.
    #[inline]
    fn run(&mut self, len: usize, kind: Kind) -> Result<&'de [u8], Error> {
        self.take(len.checked_mul(kind.width()).ok_or(OUT_OF_RANGE)?)
    }

    /// Bytes that lie together: they may have been written as a run or one by one, which is the same.
    #[inline]
    fn byte_run(&mut self) -> Result<&'de [u8], Error> {
        match self.len()? {
            (len, code) if code == ELEMENTS || code == Kind::U8 as u8 => self.take(len),
            _ => Err("no bytes or text".into()),
        }
    }

    /// Reads what is one level deeper.
    #[inline]
    fn deeper<R>(&mut self, read: impl FnOnce(&mut Self) -> Result<R, Error>) -> Result<R, Error> {
        self.levels = self.levels.checked_sub(1).ok_or(TOO_DEEP)?;
        let read = read(self);
        self.levels += 1;
        read
    }

    /// The bytes of a text.
    fn text_run(&mut self) -> Result<&'de [u8], Error> {
        let bytes = self.byte_run()?;
        Ok(if self.depth == Depth::Whole { bytes } else { &[] })
    }
}

const OUT_OF_RANGE: &str = "a number is out of range";

const NOT_UTF_8: &str = "a text is not UTF-8";

const NOT_SELF_DESCRIBING: &str = "the type asks what comes next, which the format does not tell";

impl<'de> de::Deserializer<'de> for &mut Deserializer<'de> {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(NOT_SELF_DESCRIBING.into())
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(NOT_SELF_DESCRIBING.into())
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(NOT_SELF_DESCRIBING.into())
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.byte()? {
            0 => visitor.visit_bool(false),
            1 => visitor.visit_bool(true),
            _ => Err("neither true nor false".into()),
        }
    }

    #[inline]
    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i8(self.byte()? as i8)
    }

    #[inline]
    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i16(self.signed()?)
    }

    #[inline]
    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i32(self.signed()?)
    }

    #[inline]
    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(self.signed()?)
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let number = self.long_varint()?;
        visitor.visit_i128((number >> 1) as i128 ^ -((number & 1) as i128))
    }

    #[inline]
    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u8(self.byte()?)
    }

    #[inline]
    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u16(self.unsigned()?)
    }

    #[inline]
    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u32(self.unsigned()?)
    }

    #[inline]
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u64(self.varint()?)
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u128(self.long_varint()?)
    }

    #[inline]
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f32(f32::from_le_bytes(self.array()?))
    }

    #[inline]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_f64(f64::from_le_bytes(self.array()?))
    }

    #[inline]
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_char(char::from_u32(self.unsigned()?).ok_or("no character")?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(str::from_utf8(self.text_run()?).map_err(|_| NOT_UTF_8)?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.text_run()?;
        if text.len() < LARGE {
            return visitor.visit_borrowed_str(str::from_utf8(text).map_err(|_| NOT_UTF_8)?);
        }
        visitor.visit_string(String::from_utf8(plain::copy(text)).map_err(|_| NOT_UTF_8)?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_bytes(self.byte_run()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let bytes = self.byte_run()?;
        visitor.visit_byte_buf(match self.depth {
            Depth::Whole => plain::copy(bytes),
            Depth::Skim => Vec::new(),
        })
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.byte()? {
            0 => visitor.visit_none(),
            1 => self.deeper(|inner| visitor.visit_some(inner)),
            _ => Err("neither something nor nothing".into()),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deeper(|inner| visitor.visit_newtype_struct(inner))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let (len, code) = self.len()?;
        if code == ELEMENTS {
            return self.deeper(|inner| visitor.visit_seq(List::of(inner, len)));
        }
        let kind = Kind::from_u8(code).ok_or("numbers of an unknown kind")?;
        let bytes = self.run(len, kind)?;
        if is_serdes_own::<V>() {
            let wanted = match self.depth {
                Depth::Whole => bytes,
                Depth::Skim => &[],
            };
            if let Some(vec) = plain::vec_of::<V::Value>(kind, wanted) {
                return Ok(vec);
            }
        }
        visitor.visit_seq(Numbers { kind, bytes })
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.deeper(|inner| visitor.visit_seq(Elements { deserializer: inner, left: len }))
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.len()? {
            (len, ELEMENTS) => self.deeper(|inner| visitor.visit_map(List::of(inner, len))),
            _ => Err("no map".into()),
        }
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }
}

/// Whether `V` is one of those visitors of serde's own that make a vector of exactly the numbers that they are shown: then the vector can be
/// made without it. The name is only a hint, which a visitor of somebody else's does not have; that `V` makes a vector of such
/// numbers is seen by its type.
pub(super) fn is_serdes_own<V>() -> bool {
    std::any::type_name::<V>().starts_with("serde_core::de::impls::")
}

/// Elements that come one by one, as many as the type has.
struct Elements<'a, 'de> {
    deserializer: &'a mut Deserializer<'de>,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.deserializer).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// Elements that come one by one, as many as the bytes say.
struct List<'a, 'de>(Elements<'a, 'de>);

impl<'a, 'de> List<'a, 'de> {
    #[inline]
    fn of(deserializer: &'a mut Deserializer<'de>, len: usize) -> List<'a, 'de> {
        List(Elements { deserializer, left: len })
    }
}

impl<'de> de::SeqAccess<'de> for List<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let before = self.0.deserializer.bytes.len();
        let element = self.0.next_element_seed(seed)?;
        if before == self.0.deserializer.bytes.len() && element.is_some() {
            let empty = &mut self.0.deserializer.empty;
            *empty = empty.checked_sub(1).ok_or(TOO_MANY_EMPTY)?;
        }
        Ok(element)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.left)
    }
}

impl<'de> de::MapAccess<'de> for List<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        de::SeqAccess::next_element_seed(self, seed)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(&mut *self.0.deserializer)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.left)
    }
}

impl<'de> de::EnumAccess<'de> for &mut Deserializer<'de> {
    type Error = Error;
    type Variant = Self;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let index: u32 = self.unsigned()?;
        let variant: U32Deserializer<Error> = de::IntoDeserializer::into_deserializer(index);
        Ok((seed.deserialize(variant)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for &mut Deserializer<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        self.deeper(|inner| seed.deserialize(inner))
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_tuple(self, len, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_tuple(self, fields.len(), visitor)
    }
}

/// The numbers of a run, for whoever wants them one by one.
struct Numbers<'de> {
    kind: Kind,
    bytes: &'de [u8],
}

impl<'de> de::SeqAccess<'de> for Numbers<'de> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some((number, rest)) = self.bytes.split_at_checked(self.kind.width()) else { return Ok(None) };
        self.bytes = rest;
        seed.deserialize(Number { kind: self.kind, bytes: number }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.bytes.len() / self.kind.width())
    }
}

/// One number of a run.
struct Number<'de> {
    kind: Kind,
    bytes: &'de [u8],
}

impl<'de> de::Deserializer<'de> for Number<'de> {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        macro_rules! visit {
            ($visit:ident $number:ty) => {
                visitor.$visit(<$number>::from_le_bytes(self.bytes.try_into().map_err(|_| CUT_OFF)?))
            };
        }
        match self.kind {
            Kind::U8 => visit!(visit_u8 u8),
            Kind::I8 => visit!(visit_i8 i8),
            Kind::U16 => visit!(visit_u16 u16),
            Kind::I16 => visit!(visit_i16 i16),
            Kind::U32 => visit!(visit_u32 u32),
            Kind::I32 => visit!(visit_i32 i32),
            Kind::U64 => visit!(visit_u64 u64),
            Kind::I64 => visit!(visit_i64 i64),
            Kind::U128 => visit!(visit_u128 u128),
            Kind::I128 => visit!(visit_i128 i128),
            Kind::F32 => visit!(visit_f32 f32),
            Kind::F64 => visit!(visit_f64 f64),
        }
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
