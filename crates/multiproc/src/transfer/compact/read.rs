//! Decodes values from the positional form.

use std::marker::PhantomData;
use std::mem;
use std::slice;

use multiproc_os::numeric_slice::{self, Kind};
use serde::de::value::{BorrowedStrDeserializer, U32Deserializer};
use serde::de::{self, Deserialize, DeserializeOwned, DeserializeSeed, Visitor};
use serde::forward_to_deserialize_any;

use super::shape::{Fields, Shape, name_hash};
use super::{CODE_BITS, ELEMENTS, Error, MAX_DEPTH, MAX_EMPTY, TOO_DEEP, TOO_MANY_EMPTY};
use crate::transfer::tagged::Tag;

/// Reads a value from all of `bytes`.
#[inline]
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    read(bytes, Unchecked)
}

/// Reads a value from all of `bytes`. Each call of the type's `Deserialize` is compared with the
/// trace before anything is read.
#[cold]
pub(crate) fn from_bytes_traced<T: DeserializeOwned>(bytes: &[u8], trace: Trace<'_>) -> Result<T, Error> {
    read(bytes, trace)
}

#[inline]
fn read<T: DeserializeOwned, C: Check>(bytes: &[u8], check: C) -> Result<T, Error> {
    let (bytes, written) = bytes.split_last_chunk::<{ Shape::LEN }>().ok_or(CUT_OFF)?;
    let mut deserializer = Deserializer {
        bytes: bytes.iter(),
        shape: Shape::EMPTY,
        check,
        levels: MAX_DEPTH,
        empty: MAX_EMPTY,
        is_between: false,
        failure: None,
    };
    let value = T::deserialize(&mut deserializer)?;
    if let Some(failure) = deserializer.failure {
        return Err(failure);
    }
    deserializer.check.end()?;
    match deserializer.bytes.len() {
        0 if deserializer.shape.to_bytes() == *written => Ok(value),
        0 => Err(OTHER_SHAPE.into()),
        left => Err(de::Error::custom(format_args!("{left} bytes too many"))),
    }
}

/// Whether [`from_bytes`] failed because the type asks what comes next, which only the tagged form
/// can tell.
pub(crate) fn needs_tags(error: &Error) -> bool {
    *error.0 == ASKS
}

struct Deserializer<'de, C> {
    /// The unread bytes. Advancing an iterator changes only its start; a slice has a length to
    /// update too.
    bytes: slice::Iter<'de, u8>,
    /// The shape of the calls so far.
    shape: Shape,
    check: C,
    /// How many levels deeper the value may nest.
    levels: u32,
    /// How many more elements may be empty.
    empty: u64,
    /// Whether a variant has been read, but not yet its contents.
    is_between: bool,
    /// The error after which nothing is read any more.
    failure: Option<Error>,
}

/// A text of at least this many bytes is copied here and passed as a `String`, which is faster than
/// to pass it borrowed and let the visitor copy it.
const LARGE: usize = 1 << 20;

const CUT_OFF: &str = "it is cut off";

const OUT_OF_RANGE: &str = "a number is out of range";

const NOT_UTF_8: &str = "a text is not UTF-8";

const ASKS: &str = "the type asks what comes next, which the positional form does not tell";

const IRREGULAR: &str = "the type reads something other than it writes";

const OTHER_SHAPE: &str = "the value was written as another type, or by another version of it";

const LEFT_OVER: &str = "the type has not read all of its elements";

/// Checks each call of the type's `Deserialize` before anything is read for it.
///
/// There is one implementation for each way to read, so that reading without a comparison needs no
/// branches for it.
trait Check {
    /// Whether calls are compared with anything.
    const COMPARES: bool;

    fn expect(&mut self, tag: Tag) -> Result<(), Error>;

    /// A field, one of the last `left` of `names`; for a tuple, which has no names, does nothing.
    fn expect_field(&mut self, names: Names, left: usize) -> Result<(), Error>;

    /// The name of a variant, before [its kind](Check::expect_kind).
    fn expect_variant(&mut self, name: &str) -> Result<(), Error>;

    fn expect_kind(&mut self, tag: Tag) -> Result<(), Error>;

    /// Makes the reading fail for good, even if user code ignores the error.
    fn fail(&mut self) -> Error;

    /// The end of the value.
    fn end(&self) -> Result<(), Error>;
}

/// The usual case: the comparison of the shapes at the end suffices.
struct Unchecked;

impl Check for Unchecked {
    const COMPARES: bool = false;

    #[inline(always)]
    fn expect(&mut self, _: Tag) -> Result<(), Error> {
        Ok(())
    }

    #[inline(always)]
    fn expect_field(&mut self, _: Names, _: usize) -> Result<(), Error> {
        Ok(())
    }

    #[inline(always)]
    fn expect_variant(&mut self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    #[inline(always)]
    fn expect_kind(&mut self, _: Tag) -> Result<(), Error> {
        Ok(())
    }

    fn fail(&mut self) -> Error {
        IRREGULAR.into()
    }

    #[inline(always)]
    fn end(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// The calls that a serializer received: the outline that
/// [`outline`](crate::transfer::tagged::outline) has written.
pub(crate) struct Trace<'t> {
    /// The part of the outline that is expected next.
    outline: &'t [u8],
    /// The tag of a variant, once its name has been compared.
    variant: Option<Tag>,
    failed: bool,
}

impl<'t> Trace<'t> {
    pub(crate) fn new(outline: &'t [u8]) -> Trace<'t> {
        Trace { outline, variant: None, failed: false }
    }

    fn next(&mut self) -> Option<Tag> {
        let (tag, rest) = self.outline.split_first()?;
        self.outline = rest;
        Some(Tag(*tag))
    }

    fn expect_name(&mut self, name: &str) -> Result<(), Error> {
        let (mut len, mut shift) = (0, 0);
        while let Some((byte, rest)) = self.outline.split_first() {
            self.outline = rest;
            len |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        match self.outline.split_at_checked(len) {
            Some((found, rest)) if found == name.as_bytes() => {
                self.outline = rest;
                Ok(())
            }
            _ => Err(self.fail()),
        }
    }
}

impl Check for Trace<'_> {
    const COMPARES: bool = true;

    fn fail(&mut self) -> Error {
        self.failed = true;
        self.outline = &[];
        IRREGULAR.into()
    }

    fn expect(&mut self, tag: Tag) -> Result<(), Error> {
        match self.next() {
            Some(next) if next == tag => Ok(()),
            _ => Err(self.fail()),
        }
    }

    fn expect_field(&mut self, names: Names, left: usize) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        self.expect(Tag::FIELD)?;
        self.expect_name(names[names.len() - left])
    }

    fn expect_variant(&mut self, name: &str) -> Result<(), Error> {
        self.variant = self.next();
        self.expect_name(name)
    }

    fn expect_kind(&mut self, tag: Tag) -> Result<(), Error> {
        match self.variant.take() {
            Some(variant) if variant == tag => match tag {
                Tag::TUPLE_VARIANT => self.expect(Tag::TUPLE),
                Tag::STRUCT_VARIANT => self.expect(Tag::STRUCT),
                _ => Ok(()),
            },
            _ => Err(self.fail()),
        }
    }

    fn end(&self) -> Result<(), Error> {
        if self.failed || !self.outline.is_empty() { Err(IRREGULAR.into()) } else { Ok(()) }
    }
}

/// Reads seven bits from each byte, the lowest first, up to a byte without the high bit.
macro_rules! varint {
    ($name:ident $rest:ident $number:ty) => {
        /// One byte is the usual case.
        #[inline(always)]
        fn $name(&mut self) -> Result<$number, Error> {
            let byte = self.byte()?;
            if byte < 0x80 { Ok(byte.into()) } else { self.$rest(byte) }
        }

        #[inline(never)]
        fn $rest(&mut self, first: u8) -> Result<$number, Error> {
            let mut number = <$number>::from(first & 0x7F);
            for shift in (7..<$number>::BITS).step_by(7) {
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

impl<'de, C: Check> Deserializer<'de, C> {
    /// Adds a call to the shape, and compares it with the call that was written.
    #[inline]
    fn note(&mut self, tag: Tag) -> Result<(), Error> {
        self.shape.note_tag(tag);
        self.check.expect(tag)
    }

    /// As [`note`](Deserializer::note), for the tag of a variant.
    #[inline]
    fn note_kind(&mut self, tag: Tag) -> Result<(), Error> {
        self.is_between = false;
        self.shape.note_tag(tag);
        self.check.expect_kind(tag)
    }

    /// Ends a list or a map. `value` is the visitor's result.
    #[inline]
    fn end_of_list<R>(&mut self, progress: Progress, value: Result<R, Error>) -> Result<R, Error> {
        if progress.left != 0 || progress.is_between {
            return Err(self.give_up(value.err().unwrap_or(LEFT_OVER.into())));
        }
        self.note(Tag::END)?;
        value
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Error> {
        Ok(*self.bytes.next().ok_or(CUT_OFF)?)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'de [u8], Error> {
        let (taken, rest) = self.bytes.as_slice().split_at_checked(len).ok_or(CUT_OFF)?;
        self.bytes = rest.iter();
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let taken = *self.bytes.as_slice().first_chunk().ok_or(CUT_OFF)?;
        self.bytes.nth(N - 1);
        Ok(taken)
    }

    varint!(varint varint_rest u64);
    varint!(long_varint long_varint_rest u128);

    #[inline]
    fn unsigned<N: TryFrom<u64>>(&mut self) -> Result<N, Error> {
        N::try_from(self.varint()?).map_err(|_| OUT_OF_RANGE.into())
    }

    #[inline]
    fn signed<N: TryFrom<i64>>(&mut self) -> Result<N, Error> {
        let number = self.varint()?;
        N::try_from((number >> 1) as i64 ^ -((number & 1) as i64)).map_err(|_| OUT_OF_RANGE.into())
    }

    /// A length, and the code that tells the type of the elements.
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

    /// The bytes of a text or of a byte string.
    #[inline]
    fn byte_run(&mut self, tag: Tag) -> Result<&'de [u8], Error> {
        self.note(tag)?;
        match self.len()? {
            (len, code) if code == Kind::U8 as u8 => self.take(len),
            _ => Err("neither bytes nor a text".into()),
        }
    }

    /// Reads something that is one level deeper.
    #[inline]
    fn deeper<R>(&mut self, read: impl FnOnce(&mut Self) -> Result<R, Error>) -> Result<R, Error> {
        self.levels = self.levels.checked_sub(1).ok_or(TOO_DEEP)?;
        let read = read(self);
        self.levels += 1;
        read
    }

    /// Reads parts that lie one after the other.
    #[inline]
    fn parts<V: Visitor<'de>>(&mut self, names: Names, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.deeper(|inner| {
            let mut left = len;
            // Passed by value, which compilers optimise best.
            let value = visitor.visit_seq(Parts { deserializer: &mut *inner, names, left: &mut left });
            if left != 0 {
                return Err(inner.give_up(value.err().unwrap_or(LEFT_OVER.into())));
            }
            // All parts have been read, even if the visitor has failed.
            inner.check.expect(Tag::END)?;
            value
        })
    }

    #[inline]
    fn tuple<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.shape.note(len as u64);
        self.parts(&[], len, visitor)
    }

    #[inline]
    fn fields<V: Visitor<'de>>(&mut self, names: Names, visitor: V) -> Result<V::Value, Error> {
        let value = self.parts(names, names.len(), visitor);
        self.shape.note(known::fields(names));
        value
    }
}

type Names = &'static [&'static str];

/// A cache of the hashes of names in this thread. `'static` names are identified by their address.
mod known {
    use std::cell::Cell;

    use super::{Fields, Names, name_hash};

    const ROOM: usize = 128;

    /// The address of the names, their number, and their hash.
    #[derive(Clone, Copy)]
    struct Entry(*const &'static str, usize, u64);

    thread_local! {
        static NAME_HASHES: [Cell<Entry>; ROOM] = const { [const { Cell::new(Entry(std::ptr::null(), 0, 0)) }; ROOM] };
    }

    /// In place of a number of names: a single name.
    const VARIANT: usize = usize::MAX;

    #[inline]
    fn place_of<'k>(known: &'k [Cell<Entry>; ROOM], names: *const &'static str) -> &'k Cell<Entry> {
        // A `&str` is two words long, so the lowest four bits don't vary.
        &known[(names as usize >> 4) % ROOM]
    }

    #[inline]
    fn look_up(names: *const &'static str, count: usize) -> Option<u64> {
        let entry = NAME_HASHES.with(|known| place_of(known, names).get());
        (entry.0 == names && entry.1 == count).then_some(entry.2)
    }

    fn remember(names: *const &'static str, count: usize, hash: u64) -> u64 {
        NAME_HASHES.with(|known| place_of(known, names).set(Entry(names, count, hash)));
        hash
    }

    /// The hash of the fields of a struct.
    #[inline]
    pub(super) fn fields(names: Names) -> u64 {
        #[cold]
        #[inline(never)]
        fn hash(names: Names) -> u64 {
            remember(names.as_ptr(), names.len(), Fields::of(names).number())
        }
        look_up(names.as_ptr(), names.len()).unwrap_or_else(|| hash(names))
    }

    /// The hash of a variant's name.
    #[inline]
    pub(super) fn variant(name: &'static &'static str) -> u64 {
        #[cold]
        #[inline(never)]
        fn hash(name: &'static &'static str) -> u64 {
            remember(name, VARIANT, name_hash(name))
        }
        look_up(name, VARIANT).unwrap_or_else(|| hash(name))
    }
}

impl<'de, C: Check> de::Deserializer<'de> for &mut Deserializer<'de, C> {
    type Error = Error;

    /// As in the tagged form, so that a type is represented in the same way in both.
    fn is_human_readable(&self) -> bool {
        true
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        self.asked()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        self.asked()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        self.asked()
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::BOOL)?;
        match self.byte()? {
            0 => visitor.visit_bool(false),
            1 => visitor.visit_bool(true),
            _ => Err("neither true nor false".into()),
        }
    }

    #[inline]
    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::I8))?;
        visitor.visit_i8(self.byte()? as i8)
    }

    #[inline]
    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::I16))?;
        visitor.visit_i16(self.signed()?)
    }

    #[inline]
    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::I32))?;
        visitor.visit_i32(self.signed()?)
    }

    #[inline]
    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::I64))?;
        visitor.visit_i64(self.signed()?)
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::I128))?;
        let number = self.long_varint()?;
        visitor.visit_i128((number >> 1) as i128 ^ -((number & 1) as i128))
    }

    #[inline]
    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::U8))?;
        visitor.visit_u8(self.byte()?)
    }

    #[inline]
    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::U16))?;
        visitor.visit_u16(self.unsigned()?)
    }

    #[inline]
    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::U32))?;
        visitor.visit_u32(self.unsigned()?)
    }

    #[inline]
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::U64))?;
        visitor.visit_u64(self.varint()?)
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::U128))?;
        visitor.visit_u128(self.long_varint()?)
    }

    #[inline]
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::F32))?;
        visitor.visit_f32(f32::from_le_bytes(self.array()?))
    }

    #[inline]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::number(Kind::F64))?;
        visitor.visit_f64(f64::from_le_bytes(self.array()?))
    }

    #[inline]
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::CHAR)?;
        visitor.visit_char(char::from_u32(self.unsigned()?).ok_or("not a character")?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(str::from_utf8(self.byte_run(Tag::STR)?).map_err(|_| NOT_UTF_8)?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.byte_run(Tag::STR)?;
        if text.len() < LARGE {
            return visitor.visit_borrowed_str(str::from_utf8(text).map_err(|_| NOT_UTF_8)?);
        }
        visitor.visit_string(String::from_utf8(numeric_slice::copy(text)).map_err(|_| NOT_UTF_8)?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_bytes(self.byte_run(Tag::BYTES)?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_byte_buf(numeric_slice::copy(self.byte_run(Tag::BYTES)?))
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.byte()? {
            0 => {
                self.note(Tag::NONE)?;
                visitor.visit_none()
            }
            1 => {
                self.note(Tag::SOME)?;
                self.deeper(|inner| visitor.visit_some(inner))
            }
            _ => Err("an option that is neither `Some` nor `None`".into()),
        }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::UNIT)?;
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deeper(|inner| visitor.visit_newtype_struct(inner))
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let (len, code) = self.len()?;
        if code == ELEMENTS {
            self.note(Tag::SEQ)?;
            return self.deeper(|inner| {
                let mut progress = Progress::of(len);
                let value = visitor.visit_seq(List::of(inner, &mut progress));
                inner.end_of_list(progress, value)
            });
        }
        let kind = Kind::from_u8(code).ok_or("numbers of an unknown kind")?;
        self.note(Tag::run(kind))?;
        let bytes = self.run(len, kind)?;
        numbers(kind, bytes, visitor)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::TUPLE)?;
        self.tuple(len, visitor)
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
        self.note(Tag::MAP)?;
        match self.len()? {
            (len, ELEMENTS) => self.deeper(|inner| {
                let mut progress = Progress::of(len);
                let value = visitor.visit_map(List::of(inner, &mut progress));
                inner.end_of_list(progress, value)
            }),
            _ => Err("not a map".into()),
        }
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, names: Names, visitor: V) -> Result<V::Value, Error> {
        self.note(Tag::STRUCT)?;
        self.fields(names, visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: Names,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let value = visitor.visit_enum(Enum { deserializer: &mut *self, variants });
        if self.is_between {
            return Err(self.give_up(value.err().unwrap_or(LEFT_OVER.into())));
        }
        value
    }
}

impl<C: Check> Deserializer<'_, C> {
    /// Stops reading after an error in the middle of a value: a type that ignores the error would
    /// be given bytes that belong to something else.
    #[cold]
    fn give_up(&mut self, error: Error) -> Error {
        self.failure.get_or_insert_with(|| error.clone());
        self.bytes = [].iter();
        error
    }

    #[cold]
    fn asked<T>(&mut self) -> Result<T, Error> {
        self.check.fail();
        Err(ASKS.into())
    }
}

/// Passes the numbers of a run to a visitor; if it would only collect them into a vector, returns
/// the vector at once.
pub(crate) fn numbers<'de, V: Visitor<'de>>(kind: Kind, bytes: &'de [u8], visitor: V) -> Result<V::Value, Error> {
    if is_serdes_own::<V>()
        && let Some(vec) = numeric_slice::vec_of::<V::Value>(kind, bytes)
    {
        return Ok(vec);
    }
    let mut numbers = Numbers { kind, bytes };
    let value = visitor.visit_seq(&mut numbers)?;
    if numbers.bytes.is_empty() { Ok(value) } else { Err(LEFT_OVER.into()) }
}

/// Whether `V` is one of serde's own visitors, which collect exactly the numbers that they get into
/// a vector, so that the vector can be made without the visitor. The name is only a hint, which no
/// visitor of another crate has; that the result is a vector of such numbers is checked by its
/// type.
pub(crate) fn is_serdes_own<V>() -> bool {
    std::any::type_name::<V>().starts_with("serde_core::de::impls::")
}

/// The parts of a tuple or struct, as many as the type has; each has a name if they are fields.
struct Parts<'a, 'de, C> {
    deserializer: &'a mut Deserializer<'de, C>,
    names: Names,
    left: &'a mut usize,
}

impl<'de, C: Check> de::SeqAccess<'de> for Parts<'_, 'de, C> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if *self.left == 0 {
            return Ok(None);
        }
        self.deserializer.check.expect_field(self.names, *self.left)?;
        *self.left -= 1;
        seed.deserialize(&mut *self.deserializer).map(Some)
    }

    /// serde's own implementation isn't inlined everywhere.
    #[inline(always)]
    fn next_element<T: de::Deserialize<'de>>(&mut self) -> Result<Option<T>, Error> {
        self.next_element_seed(PhantomData)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(*self.left)
    }
}

/// How far a list or a map has been read.
#[derive(Clone, Copy)]
struct Progress {
    left: usize,
    /// Whether a key has been read, but not yet its value.
    is_between: bool,
}

impl Progress {
    #[inline]
    fn of(len: usize) -> Progress {
        Progress { left: len, is_between: false }
    }
}

/// Elements or entries, as many as the encoded length says.
struct List<'a, 'de, C> {
    deserializer: &'a mut Deserializer<'de, C>,
    progress: Progress,
    /// Where the progress is stored at the end.
    end: &'a mut Progress,
    /// The shape of the previous element.
    last: Shape,
    /// The shape outside of the element that is being read.
    around: Shape,
}

impl<'a, 'de, C: Check> List<'a, 'de, C> {
    #[inline]
    fn of(deserializer: &'a mut Deserializer<'de, C>, progress: &'a mut Progress) -> List<'a, 'de, C> {
        let around = deserializer.shape;
        let (progress, end) = (mem::replace(progress, Progress::of(usize::MAX)), progress);
        List { deserializer, progress, end, last: Shape::EMPTY, around }
    }

    /// Reads an element of a list, or the key of an entry.
    #[inline]
    fn first<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.progress.left == 0 {
            return Ok(None);
        }
        self.progress.left -= 1;
        let deserializer = &mut *self.deserializer;
        let before = deserializer.bytes.len();
        self.around = mem::replace(&mut deserializer.shape, Shape::EMPTY);
        let element = seed.deserialize(&mut *deserializer)?;
        if before == deserializer.bytes.len() {
            deserializer.empty = deserializer.empty.checked_sub(1).ok_or(TOO_MANY_EMPTY)?;
        }
        Ok(Some(element))
    }

    #[inline]
    fn complete(&mut self) {
        let shape = mem::replace(&mut self.deserializer.shape, self.around);
        if shape != self.last {
            self.deserializer.shape.note(shape.number());
            self.last = shape;
        }
    }
}

impl<C> Drop for List<'_, '_, C> {
    #[inline(always)]
    fn drop(&mut self) {
        *self.end = self.progress;
    }
}

impl<'de, C: Check> de::SeqAccess<'de> for List<'_, 'de, C> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let element = self.first(seed);
        if !matches!(element, Ok(None)) {
            self.complete();
        }
        element
    }

    #[inline(always)]
    fn next_element<T: de::Deserialize<'de>>(&mut self) -> Result<Option<T>, Error> {
        self.next_element_seed(PhantomData)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.progress.left)
    }
}

impl<'de, C: Check> de::MapAccess<'de> for List<'_, 'de, C> {
    type Error = Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if mem::replace(&mut self.progress.is_between, self.progress.left > 0) {
            return Err(self.deserializer.give_up(LEFT_OVER.into()));
        }
        self.first(seed)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        if !mem::take(&mut self.progress.is_between) {
            return Err(self.deserializer.give_up("a value was read without its key".into()));
        }
        let value = seed.deserialize(&mut *self.deserializer);
        self.complete();
        value
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.progress.left)
    }
}

struct Enum<'a, 'de, C> {
    deserializer: &'a mut Deserializer<'de, C>,
    variants: Names,
}

impl<C: Check> Enum<'_, '_, C> {
    /// The index of the variant, and its name in the reader's type.
    #[inline]
    fn number(&mut self) -> Result<(u32, &'static &'static str), Error> {
        let deserializer = &mut *self.deserializer;
        let index: u32 = deserializer.unsigned()?;
        let name = self.variants.get(index as usize).unwrap_or(&"");
        deserializer.shape.note(known::variant(name));
        deserializer.check.expect_variant(name)?;
        deserializer.is_between = true;
        Ok((index, name))
    }
}

fn number_of_variant(index: u32) -> U32Deserializer<Error> {
    de::IntoDeserializer::into_deserializer(index)
}

impl<'a, 'de, C: Check> de::EnumAccess<'de> for Enum<'a, 'de, C> {
    type Error = Error;
    type Variant = &'a mut Deserializer<'de, C>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(mut self, seed: S) -> Result<(S::Value, Self::Variant), Error> {
        let (index, _) = self.number()?;
        Ok((seed.deserialize(number_of_variant(index))?, self.deserializer))
    }

    /// A trial compares the variant that has the index with the variant that has the name. If some
    /// variants have aliases, there are more names than variants, and the name at that index may
    /// belong to another variant.
    #[inline]
    fn variant<V: Deserialize<'de>>(mut self) -> Result<(V, Self::Variant), Error> {
        let (index, name) = self.number()?;
        let variant = V::deserialize(number_of_variant(index))?;
        if C::COMPARES
            && let Ok(named) = V::deserialize(BorrowedStrDeserializer::<Error>::new(name))
            && mem::discriminant(&named) != mem::discriminant(&variant)
        {
            return Err(self.deserializer.check.fail());
        }
        Ok((variant, self.deserializer))
    }
}

impl<'de, C: Check> de::VariantAccess<'de> for &mut Deserializer<'de, C> {
    type Error = Error;

    #[inline]
    fn unit_variant(self) -> Result<(), Error> {
        self.note_kind(Tag::UNIT_VARIANT)
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        self.note_kind(Tag::NEWTYPE_VARIANT)?;
        self.deeper(|inner| seed.deserialize(inner))
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.note_kind(Tag::TUPLE_VARIANT)?;
        self.tuple(len, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(self, names: Names, visitor: V) -> Result<V::Value, Error> {
        self.note_kind(Tag::STRUCT_VARIANT)?;
        self.fields(names, visitor)
    }
}

/// The numbers of a run, for a visitor that takes them one by one.
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

/// A number of a known type.
pub(crate) struct Number<'de> {
    pub(crate) kind: Kind,
    pub(crate) bytes: &'de [u8],
}

impl<'de> de::Deserializer<'de> for Number<'de> {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        true
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

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
