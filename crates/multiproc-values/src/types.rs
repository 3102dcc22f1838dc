//! The corpus: every attribute of serde's derive macros, alone and in pairs, and the types of the
//! standard library.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, LinkedList, VecDeque};
use std::ffi::{CString, OsString};
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::{NonZero, Saturating, Wrapping};
use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo};
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::{DeserializeOwned, Deserializer};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::any::{Any, F32, F64, Finite, Rng};

/// Defines types, each with a generator of its values.
macro_rules! corpus {
    ($($(#[$meta:meta])* $kind:ident $name:ident $body:tt)*) => {
        $(corpus!(@one $(#[$meta])* $kind $name [] $body);)*
    };
    (@one $(#[$meta:meta])* struct $name:ident [$($parameter:ident),*] {
        $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)?
    }) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[allow(missing_docs)]
        $(#[$meta])*
        pub struct $name<$($parameter),*> { $($(#[$field_meta])* pub $field: $type),* }

        impl<$($parameter: Any),*> Any for $name<$($parameter),*> {
            fn any(rng: &mut Rng) -> Self {
                rng.part(|_rng| $name { $($field: <$type as Any>::any(_rng)),* })
            }
        }
    };
    (@one $(#[$meta:meta])* struct $name:ident [$($parameter:ident),*] (
        $($(#[$field_meta:meta])* $type:ty),* $(,)?
    )) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[allow(missing_docs)]
        $(#[$meta])*
        pub struct $name<$($parameter),*>($($(#[$field_meta])* pub $type),*);

        impl<$($parameter: Any),*> Any for $name<$($parameter),*> {
            fn any(rng: &mut Rng) -> Self {
                rng.part(|_rng| $name($(<$type as Any>::any(_rng)),*))
            }
        }
    };
    (@one $(#[$meta:meta])* enum $name:ident [$($parameter:ident),*] {
        $(
            $(#[$variant_meta:meta])* $variant:ident
            $(($($(#[$part_meta:meta])* $part:ty),* $(,)?))?
            $({$($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)?})?
        ),* $(,)?
    }) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[allow(missing_docs)]
        $(#[$meta])*
        pub enum $name<$($parameter),*> {
            $(
                $(#[$variant_meta])* $variant
                $(($($(#[$part_meta])* $part),*))?
                $({$($(#[$field_meta])* $field: $type),*})?
            ),*
        }

        impl<$($parameter: Any),*> Any for $name<$($parameter),*> {
            fn any(rng: &mut Rng) -> Self {
                type Make<T> = fn(&mut Rng) -> T;
                let variants: &[Make<Self>] = &[
                    $(|_rng| $name::$variant $(($(<$part as Any>::any(_rng)),*))? $({$($field: <$type as Any>::any(_rng)),*})?),*
                ];
                let chosen = if rng.is_deep() { 0 } else { rng.below(variants.len()) };
                rng.part(variants[chosen])
            }
        }
    };
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn forty_two<T: From<u8>>() -> T {
    42.into()
}

/// A module for `with` that serializes a field as text.
mod as_text {
    use super::*;

    pub(super) fn serialize<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A module for `with` that serializes a map as a list of pairs.
mod as_pairs {
    use super::*;

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K: DeserializeOwned + Ord, V: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<K, V>, D::Error> {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Writes a wider number than is read.
fn widened<S: Serializer>(number: &u8, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64((*number).into())
}

/// Writes a narrower number than is read.
fn narrowed<S: Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(*number as u8)
}

/// Reads a list, from a list or a single number.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(u32),
        Many(Vec<u32>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

fn one_as_itself<S: Serializer>(list: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
    match list {
        [one] => one.serialize(serializer),
        list => list.serialize(serializer),
    }
}

/// A type that serde treats as one of another crate.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Foreign {
    pub seconds: i64,
    pub fraction: i32,
}

impl Any for Foreign {
    fn any(rng: &mut Rng) -> Foreign {
        Foreign { seconds: Any::any(rng), fraction: Any::any(rng) }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Foreign")]
struct ForeignDef {
    #[serde(rename = "secs")]
    seconds: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    fraction: i32,
}

/// A unit struct.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unit;

impl Any for Unit {
    fn any(_: &mut Rng) -> Unit {
        Unit
    }
}

/// A key of maps.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Key {
    FirstOne,
    #[serde(alias = "2nd")]
    SecondOne,
    #[serde(rename = "0")]
    Zero,
}

impl Any for Key {
    fn any(rng: &mut Rng) -> Key {
        [Key::FirstOne, Key::SecondOne, Key::Zero][rng.below(3)].clone()
    }
}

impl<const N: usize> From<[u8; N]> for IntoBytes {
    fn from(_: [u8; N]) -> IntoBytes {
        IntoBytes { first: N as u8, rest: Vec::new() }
    }
}

impl From<Vec<u8>> for IntoBytes {
    fn from(bytes: Vec<u8>) -> IntoBytes {
        IntoBytes { first: bytes[0], rest: bytes[1..].to_vec() }
    }
}

impl From<IntoBytes> for Vec<u8> {
    fn from(bytes: IntoBytes) -> Vec<u8> {
        [vec![bytes.first], bytes.rest].concat()
    }
}

impl TryFrom<u32> for Even {
    type Error = String;

    fn try_from(number: u32) -> Result<Even, String> {
        if number.is_multiple_of(2) { Ok(Even(number as u8 / 2)) } else { Err(format!("{number} is odd")) }
    }
}

/// Converts to a type other than its source type.
impl From<Even> for u16 {
    fn from(even: Even) -> u16 {
        u16::from(even.0) * 2
    }
}

impl From<BTreeMap<String, u8>> for FromTextKeys {
    fn from(keys: BTreeMap<String, u8>) -> FromTextKeys {
        FromTextKeys { keys }
    }
}

impl From<FromTextKeys> for BTreeMap<u16, u8> {
    fn from(from: FromTextKeys) -> BTreeMap<u16, u8> {
        from.keys.into_iter().map(|(key, value)| (key.len() as u16, value)).collect()
    }
}

impl From<Plain> for FromStruct {
    fn from(plain: Plain) -> FromStruct {
        FromStruct { plain, seen: true }
    }
}

impl From<FromStruct> for Plain {
    fn from(from: FromStruct) -> Plain {
        from.plain
    }
}

impl Default for DefaultContainer {
    fn default() -> DefaultContainer {
        DefaultContainer { a: 7, b: "seven".into(), c: vec![7], d: Some(true) }
    }
}

corpus! {
    // Plain types, which are sent in the positional form.
    struct Plain { a: u8, b: String, c: Option<i64>, d: Vec<u16>, e: bool }
    struct Empty {}
    struct EmptyTuple ()
    struct Newtype (u32)
    struct NewtypeOfUnit (())
    struct Pair (u8, String)
    struct Wide {
        a: u8, b: u16, c: u32, d: u64, e: u128, f: i8, g: i16, h: i32, i: i64, j: i128,
        k: usize, l: isize, m: F32, n: F64, o: bool, p: char, q: String, r: (), s: Option<()>, t: [u8; 3],
    }
    enum PlainEnum { Unit, Newtype(u8), Tuple(u8, String), Struct { a: u8, b: Option<Box<PlainEnum>> }, EmptyTuple(), EmptyStruct {} }
    enum UnitsOnly { A, B, C, D }
    struct Tree { value: u32, children: Vec<Tree> }
    enum List { End, Link(u8, Box<List>) }
    struct Nested { options: Option<Option<Option<()>>>, results: Result<Result<u8, String>, Option<u16>>, lists: Vec<Vec<Vec<u8>>> }

    // Fields that are left out.
    struct Skip { a: u8, #[serde(skip)] b: u32, c: u8 }
    struct SkipFirst { #[serde(skip)] a: String, b: u8 }
    struct SkipLast { a: u8, #[serde(skip)] b: Vec<u8> }
    struct SkipAll { #[serde(skip)] a: u8, #[serde(skip)] b: u8 }
    struct SkipPath { a: u8, #[serde(skip, default = "forty_two")] b: u32, c: u8 }
    struct SkipSerializing { a: u8, #[serde(default, skip_serializing)] b: u8, c: u8 }
    struct SkipDeserializing { a: u8, #[serde(skip_deserializing)] b: u8, c: u8 }
    struct SkipBoth { #[serde(default, skip_serializing)] a: u8, #[serde(skip_deserializing)] b: u8, c: u16 }
    struct SkipBothSameType { #[serde(skip_serializing, default)] a: u8, #[serde(skip_deserializing)] b: u8 }
    struct SkipIfNone { #[serde(default, skip_serializing_if = "Option::is_none")] limit: Option<u8>, strict: bool, retries: u8, count: u32 }
    struct SkipIfNoneTwice { #[serde(skip_serializing_if = "Option::is_none")] a: Option<u8>, #[serde(skip_serializing_if = "Option::is_none")] b: Option<u8> }
    struct SkipIfZero { #[serde(default, skip_serializing_if = "is_zero")] a: u8, #[serde(default, skip_serializing_if = "is_zero")] b: u8, c: u8 }
    struct SkipIfEmpty { #[serde(default, skip_serializing_if = "Vec::is_empty")] a: Vec<u8>, #[serde(default, skip_serializing_if = "String::is_empty")] b: String, c: Vec<u8> }
    struct SkipIfWithoutDefault { #[serde(skip_serializing_if = "is_zero")] a: u8, b: u8 }
    struct SkipIfPath { #[serde(default = "forty_two", skip_serializing_if = "is_zero")] a: u16, b: u16 }
    struct SkipTuple (u8, #[serde(skip)] u8, u8)
    struct SkipTupleFirst (#[serde(skip)] u8, u16)
    struct SkipTupleLast (String, #[serde(skip)] u16)
    struct SkipTupleAll (#[serde(skip)] u8)
    struct SkipTupleBoth (#[serde(skip_serializing, default)] u8, #[serde(skip_deserializing)] u8, #[serde(default)] u8)
    struct SkipTupleIf (u8, #[serde(skip_serializing_if = "is_zero", default)] u8, #[serde(default)] u8)
    enum SkipInVariants {
        Struct { a: u8, #[serde(skip)] b: u8, c: u8 },
        If { #[serde(default, skip_serializing_if = "is_zero")] a: u8, #[serde(default, skip_serializing_if = "Option::is_none")] b: Option<u8> },
        Tuple(u8, #[serde(skip)] u8, u8),
        One(#[serde(skip)] u8),
        Two(#[serde(skip)] u8, u8),
    }
    struct DefaultField { #[serde(default)] a: u8, #[serde(default = "forty_two")] b: u32, c: u8 }
    #[serde(default)]
    struct DefaultContainer { #[serde(skip_serializing_if = "is_zero")] a: u8, b: String, #[serde(skip)] c: Vec<u8>, #[serde(skip_serializing_if = "Option::is_none")] d: Option<bool> }

    // Variants that are left out.
    enum SkipVariantFirst { #[serde(skip)] Internal, Keep(u8), Delete(u8), Last }
    enum SkipVariantMiddle { A, #[serde(skip)] Internal(u8), Keep(u8), Delete(u8) }
    enum SkipVariantLast { A, Keep(u8), #[serde(skip)] Internal { a: u8 } }
    enum SkipVariantSerializing { A(u8), #[serde(skip_serializing)] B(u8), C(u8), D(u8) }
    enum SkipVariantDeserializing { A(u8), #[serde(skip_deserializing)] B(u8), C(u8), D(u8) }
    enum SkipVariantAll { #[serde(skip_serializing)] A, #[serde(skip_deserializing)] B, #[serde(skip)] C, D, #[serde(skip_deserializing)] E(u8), F(u8), G { a: u8 } }

    // Names.
    struct Rename { #[serde(rename = "type")] a: u8, #[serde(rename = "a")] b: u8, c: u8 }
    struct RenameApart { #[serde(rename(serialize = "x", deserialize = "y"), default)] a: u8, #[serde(rename(serialize = "y", deserialize = "x"), default)] b: u8 }
    struct RenameOneWay { #[serde(rename(serialize = "x"), default)] a: u8, b: u8 }
    #[serde(rename_all = "camelCase", rename = "other")]
    struct RenameAll { first_one: u8, second_one: String, #[serde(rename = "third")] third_one: Option<u8> }
    #[serde(rename_all(serialize = "UPPERCASE", deserialize = "lowercase"))]
    struct RenameAllApart { #[serde(default)] a: u8, #[serde(default)] b: u16 }
    #[serde(rename_all = "SCREAMING_SNAKE_CASE", rename_all_fields = "PascalCase")]
    enum RenameVariants { FirstOne(u8), SecondOne { field_one: u8, field_two: u8 }, #[serde(rename = "third")] ThirdOne }
    enum RenameVariantsApart { #[serde(rename(serialize = "B", deserialize = "A"))] A(u8), #[serde(rename(serialize = "A", deserialize = "B"))] B(u8), C(u8) }
    struct Alias { #[serde(alias = "x", alias = "y")] a: u8, #[serde(alias = "z")] b: u16, c: u8 }
    enum AliasVariants { #[serde(alias = "X", alias = "Y")] A(u8), #[serde(alias = "Z")] B(u8), C(u8) }
    enum AliasOfSkipped { #[serde(alias = "Q")] P(u8), #[serde(skip_deserializing)] Q(u8), R(u8) }
    enum AliasOfSkippedUnit { #[serde(alias = "Q")] P, #[serde(skip_deserializing)] Q, R }
    enum AliasOfRenamed { #[serde(rename(serialize = "w"), alias = "w", alias = "z")] A(u8), #[serde(rename(serialize = "z"))] B(u8), C(u8) }
    struct AliasOfSkippedField { #[serde(alias = "b")] a: u8, #[serde(skip_deserializing)] c: u8 }
    struct AliasMeets { #[serde(skip_serializing, alias = "b", default)] a: u8, #[serde(skip_deserializing)] b: u8 }
    #[serde(deny_unknown_fields)]
    struct Deny { a: u8, #[serde(default, skip_serializing_if = "is_zero")] b: u8, c: Option<u8> }
    #[serde(deny_unknown_fields)]
    struct DenySkipped { a: u8, #[serde(skip_deserializing)] b: u8 }
    enum Other { A(u8), B, #[serde(other)] Rest }
    enum OtherAndSkipped { A, #[serde(skip_deserializing)] B, #[serde(skip_deserializing)] C(u8), #[serde(other)] Rest }

    // Flattened.
    struct Flat { a: u8, #[serde(flatten)] inner: Plain2, z: u8 }
    struct Plain2 { x: u8, y: String }
    struct FlatMap { a: u8, #[serde(flatten)] rest: BTreeMap<String, u32> }
    struct FlatMapOfValues { a: u8, #[serde(flatten)] rest: HashMap<String, serde_json::Value> }
    struct FlatIntegerKeys { a: u8, #[serde(flatten)] rest: BTreeMap<u32, String> }
    struct FlatEnumKeys { a: u8, #[serde(flatten)] rest: BTreeMap<Key, String> }
    struct FlatOption { a: u8, #[serde(flatten)] inner: Option<Plain2> }
    struct FlatEnum { a: u8, #[serde(flatten)] inner: PlainEnum }
    struct FlatInternal { a: u8, #[serde(flatten)] inner: Internal }
    struct FlatAdjacent { a: u8, #[serde(flatten)] inner: Adjacent }
    struct FlatUntagged { a: u8, #[serde(flatten)] inner: UntaggedStructs }
    struct FlatSeveral { #[serde(flatten)] one: Flat, #[serde(flatten)] two: RenameAll, own: String, #[serde(flatten)] rest: BTreeMap<String, serde_json::Value> }
    struct FlatSkips { #[serde(flatten)] one: SkipIfNone, #[serde(flatten)] two: Skip, #[serde(skip)] own: u8 }
    struct FlatDefault { #[serde(flatten, default)] one: DefaultContainer, #[serde(default = "forty_two")] own: u16 }
    struct FlatAlias { #[serde(flatten)] one: Alias, own: u8 }
    struct FlatAddresses { #[serde(flatten)] one: Addresses, own: IpAddr }
    struct FlatTypes { #[serde(flatten)] one: Various, own: u8 }
    struct Various { a: u16, b: i64, c: F32, d: Finite, e: char, f: (), g: Option<u8>, h: (u8, String), i: ByteBuf, j: Vec<u16>, k: [u8; 3] }
    struct FlatFirst { #[serde(flatten)] rest: BTreeMap<String, u8>, a: u8, #[serde(skip)] b: u8 }
    struct FlatTextKeys { a: u8, #[serde(flatten)] rest: FromTextKeys }
    #[serde(from = "BTreeMap<String, u8>", into = "BTreeMap<u16, u8>")]
    struct FromTextKeys { keys: BTreeMap<String, u8> }
    struct FlatNewtype { #[serde(flatten)] one: TransparentStruct, own: u8 }
    struct FlatUnit { #[serde(flatten)] one: (), own: u8 }
    enum FlatInVariant { A { a: u8, #[serde(flatten)] rest: BTreeMap<String, u8> }, B { #[serde(flatten)] inner: Plain2 }, C }

    // Enums in other representations.
    #[serde(untagged)]
    enum Untagged { Nothing, Flag(bool), Number(u64), Negative(i64), Float(Finite), Text(String), List(Vec<Untagged>), Map { a: u8, b: Vec<Untagged> } }
    #[serde(untagged)]
    enum UntaggedStructs { A { a: u8, b: u8 }, B { a: u8 }, C { c: String, #[serde(default, skip_serializing_if = "Option::is_none")] d: Option<u8> }, D(Plain2) }
    #[serde(untagged)]
    enum UntaggedHost { Ip(IpAddr), Socket(SocketAddr), Path(PathBuf) }
    #[serde(untagged)]
    enum UntaggedNumbers { A(u8), B(i8), C(u16), D(i32), E(u64), F(Finite), G(char) }
    #[serde(untagged)]
    enum UntaggedLong { A(u128), B(i128), C(String) }
    #[serde(untagged)]
    enum UntaggedTuples { One((u8,)), Two(u8, String), Three(u8, u8, u8), Many(Vec<u8>), Bytes(ByteBuf) }
    #[serde(untagged)]
    enum UntaggedOptions { A(Option<u8>), B(Option<Option<String>>), C(Vec<Option<bool>>) }
    #[serde(untagged)]
    enum UntaggedEnums { A(UnitsOnly), B(PlainEnum), C(Internal), D(Result<u8, String>) }
    #[serde(untagged)]
    enum UntaggedSkips { A(SkipVariantMiddle), B(Skip), #[serde(skip)] C(u8), #[serde(skip_deserializing)] D(u8), E(String) }
    enum UntaggedVariant { A, B(u8), C { a: u8 }, #[serde(untagged)] Other(String), #[serde(untagged)] Number { n: u64 } }
    enum UntaggedVariantValue { Known(u8), #[serde(untagged)] Unknown(serde_json::Value) }
    #[serde(tag = "type")]
    enum Internal { Unit, Newtype(Plain2), Struct { a: u8, b: Option<String> }, Map(BTreeMap<String, u8>), Empty {} }
    #[serde(tag = "type", rename_all = "snake_case")]
    enum InternalSkips { UnitOne, StructOne { #[serde(skip)] a: u8, #[serde(default, skip_serializing_if = "is_zero")] b: u8, c: u8 }, #[serde(skip)] Skipped, Wrapped(SkipIfNone), #[serde(skip_deserializing)] OneWay { a: u8 }, #[serde(other)] Other }
    #[serde(tag = "type")]
    enum InternalAddresses { A { ip: IpAddr, v4: Ipv4Addr }, B { at: SocketAddr }, C(Addresses) }
    #[serde(tag = "type")]
    enum InternalNested { A(Internal2), B(Flat), C(Adjacent), D { inner: Box<InternalNested> }, E { maps: BTreeMap<u16, String>, options: Option<Option<u8>> } }
    #[serde(tag = "kind")]
    enum Internal2 { X { x: u8 }, Y }
    #[serde(tag = "type")]
    enum InternalUnit { A(()), B(Unit), C(TransparentStruct) }
    #[serde(tag = "type")]
    struct TaggedStruct { a: u8, b: String }
    #[serde(tag = "type")]
    enum InternalUntagged { A(UntaggedStructs), B { inner: Untagged } }
    #[serde(tag = "t", content = "c")]
    enum Adjacent { Unit, Newtype(u8), Tuple(u8, String), Struct { a: u8, #[serde(default, skip_serializing_if = "is_zero")] b: u8 }, List(Vec<u8>), Nothing(()), Maybe(Option<u8>) }
    #[serde(tag = "t", content = "c", deny_unknown_fields)]
    enum AdjacentSkips { Unit, #[serde(skip)] Skipped(u8), Keep(u8), Tuple(#[serde(skip)] u8, u8), Struct { a: u8, #[serde(skip)] b: u8 }, Ip(IpAddr), #[serde(skip_deserializing)] OneWay(u8), Delete(u8) }
    #[serde(tag = "t", content = "c")]
    enum AdjacentNested { A(Adjacent), B(Internal), C { inner: Option<Box<AdjacentNested>> }, D(Untagged), E(FlatMap) }
    #[serde(untagged)]
    enum Anything { A(Adjacent), B(Internal), C(FlatInternal), D(SkipIfNone), E(UntaggedHost), F(Durations), G(BTreeMap<String, u8>) }

    // Conversion functions.
    struct With { #[serde(with = "as_text")] a: u64, #[serde(with = "as_text")] ip: IpAddr, b: u8 }
    struct WithPairs { #[serde(with = "as_pairs")] a: BTreeMap<Vec<u8>, String>, b: u8 }
    struct WithBytes { #[serde(with = "serde_bytes")] a: Vec<u8>, b: ByteBuf, c: Vec<u8> }
    struct WithSkip { #[serde(with = "as_text", default, skip_serializing_if = "is_zero")] a: u8, #[serde(skip)] b: u8, c: u8 }
    struct SerializeWith { #[serde(serialize_with = "widened")] a: u8, b: u32 }
    struct SerializeWithNarrow { #[serde(serialize_with = "narrowed")] a: u32, b: u32 }
    struct OneOrMany { #[serde(serialize_with = "one_as_itself", deserialize_with = "one_or_many")] a: Vec<u32>, b: u8 }
    enum WithVariant { #[serde(with = "as_text")] A(u64), #[serde(serialize_with = "widened")] B(u8), C(u8), D(#[serde(with = "as_text")] i32, u8) }
    #[serde(from = "Vec<u8>", into = "Vec<u8>")]
    struct IntoBytes { first: u8, rest: Vec<u8> }
    #[serde(try_from = "u32", into = "u16")]
    struct Even (u8)
    #[serde(from = "Plain", into = "Plain")]
    struct FromStruct { plain: Plain, seen: bool }
    struct FromBeside { #[serde(skip)] a: u32, even: Even, bytes: IntoBytes, #[serde(default, skip_serializing_if = "is_zero")] b: u8, from: FromStruct }
    struct Remote { #[serde(with = "ForeignDef")] a: Foreign, b: u8 }
    #[serde(transparent)]
    struct Transparent (String)
    #[serde(transparent)]
    struct TransparentStruct { inner: Plain2, #[serde(skip)] unit: PhantomData<u8> }
    struct Borrowed { text: Cow<'static, str>, bytes: Cow<'static, [u8]>, b: u8 }

    // Keys.
    struct IntegerKeys { a: BTreeMap<u8, u8>, b: HashMap<i64, String>, c: BTreeMap<u128, u8>, d: BTreeMap<bool, u8>, e: BTreeMap<char, u8> }
    struct EnumKeys { a: BTreeMap<Key, u8>, b: HashMap<Key, Vec<Key>> }
    struct OddKeys { a: BTreeMap<(u8, u8), u8>, b: BTreeMap<Option<u8>, u8>, c: BTreeMap<Vec<u8>, ()>, d: HashMap<IpAddr, u8> }
    #[serde(untagged)]
    enum UntaggedKeys { A { keys: BTreeMap<u8, u8>, b: u8 }, B(BTreeMap<Key, u8>), C(BTreeMap<i32, String>) }

    // The standard library.
    struct Collections { a: Vec<String>, b: VecDeque<u8>, c: LinkedList<i16>, d: BTreeSet<String>, e: HashSet<u32>, f: BTreeMap<String, Vec<u8>>, g: HashMap<String, Option<u8>>, h: Box<[u16]>, i: Arc<[u8]> }
    struct Pointers { a: Box<u8>, b: Rc<String>, c: Arc<Plain>, d: Box<str>, e: Rc<str>, f: Cell<u8>, g: RefCell<String> }
    struct Durations { a: Duration, b: SystemTime, c: Option<Duration> }
    struct Addresses { ip: IpAddr, four: Ipv4Addr, six: Ipv6Addr, socket: SocketAddr }
    struct Scoped (SocketAddrV6)
    struct Paths { a: PathBuf, c: CString }
    struct OsTexts { a: OsString }
    struct Ranges { a: Range<u8>, b: RangeInclusive<i32>, c: Bound<u16>, d: RangeFrom<u8>, e: RangeTo<u64> }
    struct Numbers { a: NonZero<u8>, b: Option<NonZero<u32>>, c: Wrapping<i16>, d: Saturating<u8>, e: Reverse<u8>, f: NonZero<i128> }
    struct Arrays { a: [u8; 0], b: [u16; 4], c: [String; 2], d: [[u8; 2]; 3], e: [Option<u8>; 5] }
    struct Tuples { a: (u8,), b: (u8, String), c: (u8, (u16, (u32, ()))), d: [(u8, u8); 2] }
    struct Runs { a: Vec<F32>, b: Vec<u64>, c: Vec<i128>, d: Vec<bool>, e: Vec<char>, f: Vec<usize>, g: Vec<()> }
    struct Phantom { a: PhantomData<String>, b: u8 }
    struct Json { a: serde_json::Value, b: u8 }
}

// With type parameters.
corpus!(@one struct Generic [A, B] { a: A, b: Vec<B>, c: Option<(A, B)> });
corpus!(@one struct FlatGeneric [A, B] { #[serde(flatten)] one: A, #[serde(flatten)] two: B });
corpus!(@one #[serde(bound(serialize = "T: Serialize + Default", deserialize = "T: DeserializeOwned"))] struct Bounded [T] { #[serde(skip_serializing_if = "Vec::is_empty", default)] a: Vec<T>, b: Option<T> });

/// Fields in several of those representations in one value, of types that influence the choice of
/// the form and of types that don't.
pub type Mixture = (Plain, Option<Skip>, Vec<SkipVariantMiddle>, HashMap<String, Untagged>, Result<FlatMap, Key2>);

/// Types as generic arguments of others.
pub type Combined = Generic<Generic<Skip, Internal>, Result<Adjacent, SkipIfZero>>;

/// Flattened generic arguments.
pub type FlatBoth = FlatGeneric<Plain2, SkipIfNone>;

/// Plain generic arguments.
pub type PlainGeneric = Generic<u8, PlainEnum>;

/// A type with bounds of its own.
pub type BoundedPlain = Bounded<u16>;

/// A newtype of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key2(pub Key);

impl Any for Key2 {
    fn any(rng: &mut Rng) -> Key2 {
        Key2(Key::any(rng))
    }
}

/// Calls a macro with the names of all types of the corpus.
#[macro_export]
macro_rules! for_each_type {
    ($callback:ident) => {
        $callback! {
            Plain Empty EmptyTuple Newtype NewtypeOfUnit Pair Wide PlainEnum UnitsOnly PlainGeneric Tree List Nested Unit
            Skip SkipFirst SkipLast SkipAll SkipPath SkipSerializing SkipDeserializing SkipBoth SkipBothSameType SkipIfNone
            SkipIfNoneTwice SkipIfZero SkipIfEmpty SkipIfWithoutDefault SkipIfPath SkipTuple SkipTupleFirst SkipTupleLast
            SkipTupleAll SkipTupleBoth SkipTupleIf SkipInVariants DefaultField DefaultContainer
            SkipVariantFirst SkipVariantMiddle SkipVariantLast SkipVariantSerializing SkipVariantDeserializing SkipVariantAll
            Rename RenameApart RenameOneWay RenameAll RenameAllApart RenameVariants RenameVariantsApart Alias AliasVariants
            AliasOfSkipped AliasOfSkippedUnit AliasOfRenamed AliasOfSkippedField AliasMeets Deny DenySkipped Other OtherAndSkipped
            Flat FlatMap FlatMapOfValues FlatIntegerKeys FlatEnumKeys FlatOption FlatEnum FlatInternal FlatAdjacent FlatUntagged
            FlatSeveral FlatSkips FlatDefault FlatAlias FlatAddresses FlatTypes FlatFirst FlatTextKeys FromTextKeys FlatNewtype FlatUnit FlatBoth FlatInVariant
            Untagged UntaggedStructs UntaggedHost UntaggedNumbers UntaggedLong UntaggedTuples UntaggedOptions UntaggedEnums
            UntaggedSkips UntaggedVariant UntaggedVariantValue Internal InternalSkips InternalAddresses InternalNested InternalUnit
            TaggedStruct InternalUntagged Adjacent AdjacentSkips AdjacentNested Anything
            With WithPairs WithBytes WithSkip SerializeWith SerializeWithNarrow OneOrMany WithVariant IntoBytes Even FromStruct
            FromBeside Remote Transparent TransparentStruct BoundedPlain Borrowed
            IntegerKeys EnumKeys OddKeys UntaggedKeys
            Collections Pointers Durations Addresses Scoped Paths OsTexts Ranges Numbers Arrays Tuples Runs Phantom Json
            Key Mixture Combined
        }
    };
}
