//! Random values.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, LinkedList, VecDeque};
use std::ffi::{CString, OsString};
use std::hash::Hash;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{NonZero, Saturating, Wrapping};
use std::ops::{Bound, Range, RangeFrom, RangeInclusive, RangeTo};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// SplitMix64 (Steele, Lea and Flood, 2014), with the nesting depth of the value that is being
/// made.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
    depth: u32,
}

impl Rng {
    /// A generator with the seed in `MULTIPROC_SEED`, or a new seed each time. Prints the seed.
    pub fn from_env() -> Rng {
        let seed = std::env::var("MULTIPROC_SEED").ok().map(|seed| seed.parse().expect("not a number"));
        let now = || SystemTime::UNIX_EPOCH.elapsed().expect("the clock is before 1970").as_nanos() as u64;
        let seed = seed.unwrap_or_else(now);
        println!("MULTIPROC_SEED={seed}");
        Rng::new(seed)
    }

    /// A generator with this seed.
    pub fn new(seed: u64) -> Rng {
        Rng { state: seed, depth: 0 }
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    /// Makes a part of a value, one level deeper.
    pub fn part<T>(&mut self, make: impl FnOnce(&mut Rng) -> T) -> T {
        self.depth += 1;
        let part = make(self);
        self.depth -= 1;
        part
    }

    /// Whether the value should not nest any deeper.
    pub fn is_deep(&self) -> bool {
        self.depth > 6
    }

    /// How many elements a list gets.
    fn len(&mut self) -> usize {
        if self.is_deep() { 0 } else { [0, 0, 1, 1, 2, 3, 5][self.below(7)] }
    }

    fn many<T: Any, C: FromIterator<T>>(&mut self) -> C {
        let len = self.len();
        self.part(|rng| (0..len).map(|_| T::any(rng)).collect())
    }
}

/// A type with random values.
pub trait Any: Sized {
    /// A random value.
    fn any(rng: &mut Rng) -> Self;
}

macro_rules! numbers {
    ($($number:ident)*) => {
        $(
            impl Any for $number {
                fn any(rng: &mut Rng) -> $number {
                    match rng.below(8) {
                        0 => 0,
                        1 => $number::MAX,
                        2 => $number::MIN,
                        3 => rng.number() as $number,
                        4 => (u128::from(rng.number()) << 64 | u128::from(rng.number())) as $number,
                        5 => rng.number() as u8 as $number,
                        6 => (rng.number() as $number) >> rng.below($number::BITS as usize),
                        _ => (rng.number() % 4) as $number,
                    }
                }
            }

            impl Any for NonZero<$number> {
                fn any(rng: &mut Rng) -> Self {
                    NonZero::new($number::any(rng)).unwrap_or(NonZero::<$number>::MIN)
                }
            }
        )*
    };
}

numbers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);

impl Any for bool {
    fn any(rng: &mut Rng) -> bool {
        rng.below(2) == 0
    }
}

impl Any for char {
    fn any(rng: &mut Rng) -> char {
        match rng.below(3) {
            0 => char::from(b' ' + rng.below(95) as u8),
            1 => ['\0', 'ß', '\u{D7FF}', '\u{E000}', char::MAX, '\u{1F600}'][rng.below(6)],
            _ => char::from_u32(rng.number() as u32 % 0x11_0000).unwrap_or('?'),
        }
    }
}

impl Any for String {
    fn any(rng: &mut Rng) -> String {
        match rng.below(4) {
            0 => String::new(),
            // Texts that may be mistaken for values of another type.
            1 => {
                ["0", "17", "-1", "true", "null", "x", "a", "type", "kind", "content", "A", "Unit", "::1", "127.0.0.1"]
                    [rng.below(14)]
                .into()
            }
            _ => (0..rng.below(12)).map(|_| char::any(rng)).collect(),
        }
    }
}

/// A float that is compared by its bits.
#[derive(Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct F64(pub f64);

/// As [`F64`].
#[derive(Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct F32(pub f32);

macro_rules! floats {
    ($($float:ident $inner:ident $bits:ident;)*) => {
        $(
            impl PartialEq for $float {
                fn eq(&self, other: &$float) -> bool {
                    self.0.to_bits() == other.0.to_bits()
                }
            }

            impl std::fmt::Debug for $float {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    write!(f, "{:?} ({:#x})", self.0, self.0.to_bits())
                }
            }

            impl Any for $float {
                fn any(rng: &mut Rng) -> $float {
                    $float(match rng.below(8) {
                        0 => 0.0,
                        1 => -0.0,
                        2 => $inner::NAN,
                        3 => $inner::INFINITY,
                        4 => $inner::MIN_POSITIVE / 2.0,
                        5 => rng.below(1000) as $inner,
                        // No signalling NaN: the processor may turn it into a quiet NaN when it
                        // converts between `f32` and `f64`.
                        _ => match $inner::from_bits(rng.number() as $bits) {
                            odd if odd.is_nan() => -0.5,
                            float => float,
                        },
                    })
                }
            }
        )*
    };
}

floats! {
    F64 f64 u64;
    F32 f32 u32;
}

/// A float that JSON can represent, and distinguish from an integer.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Finite(pub f64);

impl Any for Finite {
    fn any(rng: &mut Rng) -> Finite {
        Finite(F64::any(rng).0).filter_finite()
    }
}

impl Finite {
    fn filter_finite(self) -> Finite {
        if self.0.is_finite() { self } else { Finite(0.5) }
    }
}

impl Any for () {
    fn any(_: &mut Rng) {}
}

impl<T> Any for PhantomData<T> {
    fn any(_: &mut Rng) -> PhantomData<T> {
        PhantomData
    }
}

impl<T: Any> Any for Option<T> {
    fn any(rng: &mut Rng) -> Option<T> {
        if rng.is_deep() || rng.below(3) == 0 { None } else { Some(rng.part(T::any)) }
    }
}

impl<T: Any, E: Any> Any for Result<T, E> {
    fn any(rng: &mut Rng) -> Result<T, E> {
        if bool::any(rng) { Ok(rng.part(T::any)) } else { Err(rng.part(E::any)) }
    }
}

macro_rules! wrappers {
    ($($wrapper:ident)*) => {
        $(impl<T: Any> Any for $wrapper<T> {
            fn any(rng: &mut Rng) -> $wrapper<T> {
                rng.part(|rng| $wrapper::<T>::from(T::any(rng)))
            }
        })*
    };
}

wrappers!(Box Rc Arc Cell RefCell);

macro_rules! marks {
    ($($mark:ident)*) => {
        $(impl<T: Any> Any for $mark<T> {
            fn any(rng: &mut Rng) -> $mark<T> {
                $mark(rng.part(T::any))
            }
        })*
    };
}

marks!(Reverse Wrapping Saturating);

macro_rules! collections {
    ($($collection:ident $(: $bound:ident $other:ident)?;)*) => {
        $(impl<T: Any $(+ $bound + $other)?> Any for $collection<T> {
            fn any(rng: &mut Rng) -> $collection<T> {
                rng.many()
            }
        })*
    };
}

collections! {
    Vec;
    VecDeque;
    LinkedList;
    BTreeSet: Ord Ord;
    HashSet: Hash Eq;
}

impl<K: Any + Hash + Eq, V: Any> Any for HashMap<K, V> {
    fn any(rng: &mut Rng) -> HashMap<K, V> {
        rng.many()
    }
}

impl<K: Any + Ord, V: Any> Any for BTreeMap<K, V> {
    fn any(rng: &mut Rng) -> BTreeMap<K, V> {
        rng.many()
    }
}

impl<T: Any> Any for Box<[T]> {
    fn any(rng: &mut Rng) -> Box<[T]> {
        rng.many()
    }
}

impl<T: Any> Any for Arc<[T]> {
    fn any(rng: &mut Rng) -> Arc<[T]> {
        rng.many()
    }
}

impl Any for Box<str> {
    fn any(rng: &mut Rng) -> Box<str> {
        String::any(rng).into()
    }
}

impl Any for Rc<str> {
    fn any(rng: &mut Rng) -> Rc<str> {
        String::any(rng).into()
    }
}

impl Any for Cow<'static, str> {
    fn any(rng: &mut Rng) -> Cow<'static, str> {
        if bool::any(rng) { "borrowed".into() } else { String::any(rng).into() }
    }
}

impl Any for Cow<'static, [u8]> {
    fn any(rng: &mut Rng) -> Cow<'static, [u8]> {
        if bool::any(rng) { (&[1, 2, 3][..]).into() } else { Vec::any(rng).into() }
    }
}

impl<T: Any, const N: usize> Any for [T; N] {
    fn any(rng: &mut Rng) -> [T; N] {
        rng.part(|rng| std::array::from_fn(|_| T::any(rng)))
    }
}

macro_rules! tuples {
    ($(($($part:ident)*))*) => {
        $(impl<$($part: Any),*> Any for ($($part,)*) {
            fn any(rng: &mut Rng) -> Self {
                rng.part(|rng| ($($part::any(rng),)*))
            }
        })*
    };
}

tuples!((A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H));

impl Any for Duration {
    fn any(rng: &mut Rng) -> Duration {
        Duration::new(u64::any(rng) >> 1, rng.below(1_000_000_000) as u32)
    }
}

impl Any for SystemTime {
    fn any(rng: &mut Rng) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(rng.number() >> 30, rng.below(1_000_000_000) as u32)
    }
}

impl Any for Ipv4Addr {
    fn any(rng: &mut Rng) -> Ipv4Addr {
        u32::any(rng).into()
    }
}

impl Any for Ipv6Addr {
    fn any(rng: &mut Rng) -> Ipv6Addr {
        u128::any(rng).into()
    }
}

impl Any for IpAddr {
    fn any(rng: &mut Rng) -> IpAddr {
        if bool::any(rng) { Ipv4Addr::any(rng).into() } else { Ipv6Addr::any(rng).into() }
    }
}

impl Any for SocketAddrV4 {
    fn any(rng: &mut Rng) -> SocketAddrV4 {
        SocketAddrV4::new(Any::any(rng), Any::any(rng))
    }
}

/// The flow information is in none of its serialized forms.
impl Any for SocketAddrV6 {
    fn any(rng: &mut Rng) -> SocketAddrV6 {
        SocketAddrV6::new(Any::any(rng), Any::any(rng), 0, Any::any(rng))
    }
}

impl Any for SocketAddr {
    fn any(rng: &mut Rng) -> SocketAddr {
        if bool::any(rng) { SocketAddrV4::any(rng).into() } else { SocketAddrV6::any(rng).into() }
    }
}

impl Any for PathBuf {
    fn any(rng: &mut Rng) -> PathBuf {
        String::any(rng).into()
    }
}

impl Any for OsString {
    fn any(rng: &mut Rng) -> OsString {
        OsString::from_vec(Vec::any(rng))
    }
}

impl Any for CString {
    fn any(rng: &mut Rng) -> CString {
        let bytes: Vec<u8> = Vec::any(rng);
        CString::new(bytes.into_iter().filter(|byte| *byte != 0).collect::<Vec<u8>>()).expect("the zeros were removed")
    }
}

impl<T: Any> Any for Range<T> {
    fn any(rng: &mut Rng) -> Range<T> {
        T::any(rng)..T::any(rng)
    }
}

impl<T: Any> Any for RangeInclusive<T> {
    fn any(rng: &mut Rng) -> RangeInclusive<T> {
        T::any(rng)..=T::any(rng)
    }
}

impl<T: Any> Any for RangeFrom<T> {
    fn any(rng: &mut Rng) -> RangeFrom<T> {
        T::any(rng)..
    }
}

impl<T: Any> Any for RangeTo<T> {
    fn any(rng: &mut Rng) -> RangeTo<T> {
        ..T::any(rng)
    }
}

impl<T: Any> Any for Bound<T> {
    fn any(rng: &mut Rng) -> Bound<T> {
        match rng.below(3) {
            0 => Bound::Unbounded,
            1 => Bound::Included(T::any(rng)),
            _ => Bound::Excluded(T::any(rng)),
        }
    }
}

impl Any for serde_bytes::ByteBuf {
    fn any(rng: &mut Rng) -> serde_bytes::ByteBuf {
        serde_bytes::ByteBuf::from(Vec::<u8>::any(rng))
    }
}

impl Any for serde_json::Value {
    fn any(rng: &mut Rng) -> serde_json::Value {
        match rng.below(if rng.is_deep() { 6 } else { 8 }) {
            0 => serde_json::Value::Null,
            1 => bool::any(rng).into(),
            2 => u64::any(rng).into(),
            3 => i64::any(rng).into(),
            // Integers and fractions, but no NaN.
            4 => (rng.below(1 << 20) as f64 / 8.0 - 1000.0).into(),
            5 => String::any(rng).into(),
            6 => Vec::<serde_json::Value>::any(rng).into(),
            _ => serde_json::Value::Object(rng.many::<(String, serde_json::Value), _>()),
        }
    }
}
