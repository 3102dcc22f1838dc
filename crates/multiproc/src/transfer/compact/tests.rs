use std::collections::{BTreeMap, VecDeque};

use multiproc_os::numeric_slice::Kind;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::*;
use crate::transfer::tagged;

fn written(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    to_output(value, &mut bytes).unwrap();
    bytes
}

fn there_and_back<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: &T) {
    let bytes = written(value);
    assert_eq!(&from_bytes::<T>(&bytes).unwrap(), value);
    let outline = tagged::outline(value).unwrap();
    assert_eq!(&from_bytes_traced::<T>(&bytes, Trace::new(&outline)).unwrap(), value);
    for cut in 0..bytes.len().min(200) {
        // Truncated bytes are errors, or other values, but never a panic.
        let _ = from_bytes::<T>(&bytes[..cut]);
    }
}

type Runs = (Vec<i8>, Vec<u16>, Vec<i32>, Vec<u64>, Vec<i128>, Vec<usize>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Everything {
    numbers: (u8, i8, u16, i16, u32, i32, u64, i64),
    long: (u128, i128),
    flag: bool,
    letter: char,
    text: String,
    bytes: Vec<u8>,
    #[serde(with = "serde_bytes")]
    other_bytes: Vec<u8>,
    runs: Runs,
    boxed: Box<[i64]>,
    deque: VecDeque<u16>,
    array: [u8; 5],
    nested: Vec<Vec<u8>>,
    map: BTreeMap<String, Option<Vec<u32>>>,
    choices: Vec<Choice>,
    unit: (),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Choice {
    Unit,
    Newtype(Meters),
    Tuple(u8, Option<()>),
    Struct { bytes: Vec<u8> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Meters(i32);

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![
        Just(Choice::Unit),
        any::<i32>().prop_map(|meters| Choice::Newtype(Meters(meters))),
        any::<(u8, Option<()>)>().prop_map(|(number, option)| Choice::Tuple(number, option)),
        any::<Vec<u8>>().prop_map(|bytes| Choice::Struct { bytes }),
    ]
}

prop_compose! {
    fn everything()(
        numbers in any::<(u8, i8, u16, i16, u32, i32, u64, i64)>(),
        long in any::<(u128, i128)>(),
        (flag, letter, text) in any::<(bool, char, String)>(),
        (bytes, other_bytes, nested) in any::<(Vec<u8>, Vec<u8>, Vec<Vec<u8>>)>(),
        runs in any::<Runs>(),
        (boxed, deque, array) in any::<(Vec<i64>, Vec<u16>, [u8; 5])>(),
        map in any::<BTreeMap<String, Option<Vec<u32>>>>(),
        choices in prop::collection::vec(choice(), 0..8),
    ) -> Everything {
        Everything {
            numbers, long, flag, letter, text, bytes, other_bytes, runs, nested, map, choices, array,
            boxed: boxed.into(), deque: deque.into(), unit: (),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 64 }) })]

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes")]
    fn round_trip(value in everything()) {
        there_and_back(&value);
    }

    #[test]
    fn garbage(bytes: Vec<u8>) {
        let _ = from_bytes::<Everything>(&bytes);
        let _ = from_bytes::<(String, Vec<u32>, Choice)>(&bytes);
        let _ = from_bytes::<BTreeMap<char, i128>>(&bytes);
    }

    #[test]
    fn float_bits(single: Vec<u32>, double: Vec<u64>) {
        let single: Vec<f32> = single.into_iter().map(f32::from_bits).collect();
        let double: Vec<f64> = double.into_iter().map(f64::from_bits).collect();
        let back: (Vec<f32>, Vec<f64>) = from_bytes(&written(&(&single, &double))).unwrap();
        prop_assert!(back.0.iter().map(|n| n.to_bits()).eq(single.iter().map(|n| n.to_bits())));
        prop_assert!(back.1.iter().map(|n| n.to_bits()).eq(double.iter().map(|n| n.to_bits())));
    }
}

#[test]
fn integer_limits() {
    macro_rules! ends {
        ($($number:ty)*) => {
            $(there_and_back(&(<$number>::MIN, <$number>::MAX, 0 as $number, 127 as $number, vec![<$number>::MIN, <$number>::MAX]));)*
        };
    }
    ends!(u8 i8 u16 i16 u32 i32 u64 i64 u128 i128 usize isize);
    there_and_back(&('\0', char::MAX, '\u{D7FF}', '\u{E000}'));
}

/// Bytes with the shape of `like`, as if they had been written by `T`.
fn forged<T: Serialize>(like: &T, bytes: &[u8]) -> Vec<u8> {
    let mut shape = written(like);
    let shape = shape.split_off(shape.len() - Shape::LEN);
    [bytes, &shape].concat()
}

#[test]
fn integer_overflow() {
    let large = written(&u64::from(u32::MAX));
    let large = &large[..large.len() - Shape::LEN];
    assert!(from_bytes::<u32>(&forged(&0_u32, large)).is_ok());
    assert!(from_bytes::<u16>(&forged(&0_u16, large)).is_err());
    let small = written(&i64::MIN);
    assert!(from_bytes::<i32>(&forged(&0_i32, &small[..small.len() - Shape::LEN])).is_err());
    assert!(from_bytes::<u64>(&forged(&0_u64, &[0xFF; 10])).is_err());
    assert!(from_bytes::<u64>(&forged(&0_u64, &[0x80; 11])).is_err());
    assert!(from_bytes::<u128>(&forged(&0_u128, &[0xFF; 20])).is_err());
    assert!(from_bytes::<char>(&forged(&'x', &[0x80, 0xB0, 0x03])).is_err());
}

/// Regression: a value of one type was read as another.
#[test]
fn wrong_type() {
    #[derive(Serialize, Deserialize, Debug)]
    struct Other(u32);
    #[derive(Serialize, Deserialize, Debug)]
    enum Turned {
        #[serde(rename = "Struct")]
        Unit,
        Newtype(Meters),
    }
    let fails = |error: Error| assert!(error.to_string().contains("another type"), "{error}");
    fails(from_bytes::<u32>(&written(&5_u16)).unwrap_err());
    fails(from_bytes::<Turned>(&written(&Choice::Unit)).unwrap_err());
    assert!(from_bytes::<Turned>(&written(&Choice::Newtype(Meters(1)))).is_ok());
    assert!(from_bytes::<Other>(&written(&5_u32)).is_ok(), "a wrapper is not seen");
}

#[test]
fn shape_of_calls() {
    fn of<T: Serialize>(value: T) -> Shape {
        shape_to_output(&value, &mut Vec::new()).unwrap()
    }
    assert_eq!(of(vec![(1_u8, "a")]), of(vec![(2_u8, "bcd"), (3, ""), (4, "e")]));
    assert_ne!(of(vec![Some(1)]), of(vec![Some(1), None]));
    assert_eq!(of(vec![Some(1), None]), of(vec![Some(1), Some(2), None, None]));
    assert_eq!(of(BTreeMap::from([(1, "a")])), of(BTreeMap::from([(1, "a"), (2, "b")])));
    assert_ne!(of(BTreeMap::<u8, u8>::new()), of(BTreeMap::from([(1_u8, 2_u8)])));
    assert_ne!(of(Choice::Unit), of(Choice::Newtype(Meters(1))));
    assert_ne!(of((1_u8, 2_u8)), of((1_u8, 2_u8, 3_u8)));
    assert_ne!(of("text"), of(b"text".to_vec()));
}

/// The code in the length at the beginning.
fn code(value: &impl Serialize) -> u8 {
    written(value)[0] & 0xF
}

/// Visits elements one by one, and counts them.
#[derive(Debug, PartialEq)]
struct Counted(usize);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Counted, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Counted;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Counted, A::Error> {
                let mut count = 0;
                while list.next_element::<Meters>()?.is_some() {
                    count += 1;
                }
                Ok(Counted(count))
            }
        }
        deserializer.deserialize_seq(Visitor)
    }
}

#[test]
fn number_lists() {
    assert_eq!(code(&vec![1_u8]), Kind::U8 as u8);
    assert_eq!(code(&vec![1_i32]), Kind::I32 as u8);
    assert_eq!(code(&&[1.5_f64][..]), Kind::F64 as u8);
    assert_eq!(code(&Box::<[u16]>::from([1, 2])), Kind::U16 as u8);
    assert_eq!(code(&"text"), Kind::U8 as u8);
    assert_eq!(code(&vec![true]), ELEMENTS);
    assert_eq!(code(&vec![Meters(1)]), ELEMENTS);
    assert_eq!(code(&VecDeque::from([1_u8])), ELEMENTS);
}

#[test]
fn number_list_with_other_visitor() {
    let run = written(&vec![1_i32, 2, 3]);
    assert_eq!(from_bytes::<Counted>(&run).unwrap(), Counted(3));
    assert_eq!(from_bytes::<VecDeque<i32>>(&run).unwrap(), [1, 2, 3]);
    assert_eq!(from_bytes::<Vec<Meters>>(&run).unwrap(), [Meters(1), Meters(2), Meters(3)]);
    let one_by_one = written(&VecDeque::from([b'a', b'b']));
    // A visitor for bytes could be given a text, which is another type.
    assert!(from_bytes::<serde_bytes::ByteBuf>(&one_by_one).is_err());
    assert!(from_bytes::<serde_bytes::ByteBuf>(&written(&"ab")).is_err());
    assert_eq!(from_bytes::<serde_bytes::ByteBuf>(&written(&serde_bytes::Bytes::new(b"ab"))).unwrap(), b"ab");
    assert_eq!(from_bytes::<Vec<u8>>(&one_by_one).unwrap(), b"ab");
}

/// serde's own visitor for vectors is recognised by a name that is not guaranteed. If serde changes
/// the name, large vectors become slow, and this test fails.
#[test]
fn serde_visitor() {
    struct Asks;
    impl<'de> Deserializer<'de> for Asks {
        type Error = Error;

        fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(if read::is_serdes_own::<V>() { "known".into() } else { "unknown".into() })
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
            seq tuple tuple_struct map struct enum identifier ignored_any
        }
    }
    assert_eq!(Vec::<u8>::deserialize(Asks).unwrap_err().to_string(), "known");
    assert_eq!(Box::<[f64]>::deserialize(Asks).unwrap_err().to_string(), "known");
    assert_eq!(Counted::deserialize(Asks).unwrap_err().to_string(), "unknown");
}

/// A vector of bytes with a visitor that does something other than to collect them.
#[derive(Debug, PartialEq)]
struct Backwards(Vec<u8>);

impl<'de> Deserialize<'de> for Backwards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Backwards, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.insert(0, byte);
                }
                Ok(bytes)
            }
        }
        deserializer.deserialize_seq(Visitor).map(Backwards)
    }
}

#[test]
fn foreign_visitor() {
    assert_eq!(from_bytes::<Backwards>(&written(&vec![1_u8, 2, 3])).unwrap().0, [3, 2, 1]);
}

#[test]
fn self_describing_and_unsized() {
    assert!(from_bytes::<serde_json::Value>(&written(&1)).unwrap_err().to_string().contains("what comes next"));
    struct Unknown;
    impl Serialize for Unknown {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq((0..9).filter(|n| n % 2 == 0))
        }
    }
    assert!(to_output(&Unknown, &mut Vec::new()).unwrap_err().to_string().contains("length"));
    struct Displayed;
    impl Serialize for Displayed {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&format_args!("{}-{:>5}", 1, "zwölf"))
        }
    }
    assert_eq!(from_bytes::<String>(&written(&Displayed)).unwrap(), "1-zwölf");
}

/// A linked list of any length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Chain {
    name: String,
    numbers: [u64; 8],
    next: Option<Box<Chain>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Expression {
    Number(f64),
    Negative(Box<Expression>),
    Sum(Box<Expression>, Box<Expression>),
    Call { name: String, arguments: Vec<Expression> },
    Let(BTreeMap<String, Expression>),
}

fn deep<T>(levels: u32, innermost: T, wrap: impl Fn(T) -> T) -> T {
    (0..levels).fold(innermost, |inner, _| wrap(inner))
}

fn chain(len: u32) -> Chain {
    let one = |next: Option<Chain>| Chain { name: "x".into(), numbers: [1; 8], next: next.map(Box::new) };
    deep(len, one(None), |inner| one(Some(inner)))
}

/// The bytes of a chain that a writer may refuse to write.
fn chain_bytes(len: usize) -> Vec<u8> {
    let one = [&[0x11, b'x'][..], &[1; 8]].concat();
    forged(&chain(3), &[&[&one[..], &[1]].concat().repeat(len)[..], &one, &[0]].concat())
}

/// Regression: bytes from another process could overflow the stack.
#[test]
#[cfg_attr(miri, ignore = "takes minutes")]
fn nesting_limit() {
    use Expression::{Call, Let, Negative, Number, Sum};
    // Each link is a struct and an option, and the last one contains an array.
    let longest = DEEPEST / 2 - 1;
    let check = move || {
        assert_eq!(chain_bytes(3), written(&chain(3)));
        there_and_back(&chain(longest));
        assert_eq!(to_output(&chain(longest + 1), &mut Vec::new()).unwrap_err().to_string(), TOO_DEEP);
        for len in [longest as usize + 1, 100_000] {
            let error = from_bytes::<Chain>(&chain_bytes(len)).unwrap_err();
            assert_eq!(error.to_string(), TOO_DEEP);
            assert!(from_bytes::<Chain>(&chain_bytes(len)).is_err());
        }
        // The number counts as a level too.
        let deepest = DEEPEST - 1;
        there_and_back(&deep(deepest, Number(1.0), |inner| Negative(inner.into())));
        there_and_back(&deep(deepest, Number(1.0), |inner| Sum(inner.into(), Number(2.0).into())));
        there_and_back(&deep(deepest / 2, Number(1.0), |inner| Call { name: "f".into(), arguments: vec![inner] }));
        there_and_back(&deep(deepest / 2, Number(1.0), |inner| Let([("x".into(), inner)].into())));
        // Only enclosing values count, not those beside each other.
        there_and_back(&vec![chain(3); 1000]);
        for too_deep in [
            deep(deepest + 1, Number(1.0), |inner| Negative(inner.into())),
            deep(deepest / 2 + 1, Number(1.0), |inner| Call { name: "f".into(), arguments: vec![inner] }),
            deep(deepest / 2 + 1, Number(1.0), |inner| Let([("x".into(), inner)].into())),
        ] {
            assert_eq!(to_output(&too_deep, &mut Vec::new()).unwrap_err().to_string(), TOO_DEEP);
        }
        let bytes = forged(&(), &[&[1; 100_000][..], &[0; 9]].concat());
        assert_eq!(from_bytes::<Expression>(&bytes).unwrap_err().to_string(), TOO_DEEP);
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap().join().unwrap();
}

/// Regression: a list of empty elements could keep its reader busy for years.
#[test]
#[cfg_attr(miri, ignore = "a million elements")]
fn empty_element_limit() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Empty;
    let fails = |error: Error| assert_eq!(error.to_string(), TOO_MANY_EMPTY);
    let most = MOST_EMPTY as usize;
    there_and_back(&vec![(); most]);
    fails(to_output(&vec![Empty; most + 1], &mut Vec::new()).unwrap_err());
    // The limit is for the value as a whole.
    fails(to_output(&vec![vec![(); most / 2]; 3], &mut Vec::new()).unwrap_err());
    let len = |len: u64| {
        let mut bytes = written(&(len << CODE_BITS));
        bytes.truncate(bytes.len() - Shape::LEN);
        bytes
    };
    let many = forged(&(), &len(1 << 56));
    fails(from_bytes::<Vec<()>>(&many).unwrap_err());
    fails(from_bytes::<Vec<Empty>>(&many).unwrap_err());
    fails(from_bytes::<BTreeMap<(), ()>>(&many).unwrap_err());
    // Neither end accepts one more than the other.
    fails(from_bytes::<Vec<()>>(&forged(&(), &len(MOST_EMPTY + 1))).unwrap_err());
    let three = forged(&(), &[&[3 << CODE_BITS][..], &len(most as u64 / 2 + 2).repeat(3)].concat());
    fails(from_bytes::<Vec<Vec<()>>>(&three).unwrap_err());
    // There may be more elements if they take some bytes, whatever they contain.
    there_and_back(&vec![(true, ()); most + 1]);
}

/// Reads `value` as `T` in a trial, like the first value of its shape.
fn tried<T: DeserializeOwned>(value: &impl Serialize) -> Result<T, Error> {
    let outline = tagged::outline(value).unwrap();
    from_bytes_traced(&written(value), Trace::new(&outline))
}

/// Regression: with aliases there are more names than variants, and the name at the index belonged
/// to another variant.
#[test]
fn renamed_variant() {
    #[derive(Debug, PartialEq, Serialize)]
    enum Written {
        P(u8),
        Q(u8),
        R(u8),
    }
    #[derive(Debug, PartialEq, Deserialize)]
    enum Read {
        #[serde(alias = "Q")]
        P(u8),
        R(u8),
    }
    assert_eq!(tried::<Read>(&Written::P(5)), Ok(Read::P(5)));
    assert!(tried::<Read>(&Written::Q(5)).is_err());
    assert!(tried::<Read>(&Written::R(5)).is_err());

    /// Identifies variants by index alone.
    #[derive(Debug, PartialEq)]
    struct ByNumber(u32, u8);
    impl<'de> Deserialize<'de> for ByNumber {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByNumber, D::Error> {
            struct Eye;
            impl<'de> serde::de::Visitor<'de> for Eye {
                type Value = ByNumber;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a variant")
                }

                fn visit_enum<A: serde::de::EnumAccess<'de>>(self, access: A) -> Result<ByNumber, A::Error> {
                    let (number, contents) = access.variant()?;
                    Ok(ByNumber(number, serde::de::VariantAccess::newtype_variant(contents)?))
                }
            }
            deserializer.deserialize_enum("Written", &["P", "Q", "R"], Eye)
        }
    }
    assert_eq!(tried::<ByNumber>(&Written::R(5)), Ok(ByNumber(2, 5)));
}

/// Regression: the rest of a value that could not be read was taken for the next value.
#[test]
fn error_in_the_middle() {
    use std::num::NonZero;

    #[derive(Debug, PartialEq)]
    struct Lenient<T>(Option<T>);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Ok(Lenient(T::deserialize(deserializer).ok()))
        }
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct NeverShown(NeverOther);
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(from = "u8")]
    struct NeverOther(u8);
    impl From<u8> for NeverOther {
        fn from(number: u8) -> NeverOther {
            assert_eq!(number, 77, "this was never sent");
            NeverOther(number)
        }
    }
    #[derive(Serialize)]
    struct Newtype(u8);

    type Read<T> = (Lenient<T>, NeverShown);
    fn check<T: DeserializeOwned + fmt::Debug>(value: impl Serialize, is_whole: bool) {
        let bytes = written(&(value, Newtype(77)));
        assert_eq!(from_bytes::<Read<T>>(&bytes).is_ok(), is_whole, "{bytes:?}");
    }
    type Some8 = NonZero<u8>;
    check::<(Some8, Some8)>((1_u8, 1_u8), true);
    check::<(Some8, Some8)>((1_u8, 0_u8), true);
    check::<(Some8, Some8)>((0_u8, 1_u8), false);
    check::<Vec<(Some8, Some8)>>(vec![(1_u8, 1_u8), (1, 0)], true);
    check::<Vec<(Some8, Some8)>>(vec![(1_u8, 0_u8), (1, 1)], false);
    check::<Vec<Some8>>(vec![0_u8, 1], true);
    check::<BTreeMap<Some8, Some8>>(BTreeMap::from([(1_u8, 1_u8)]), true);
    check::<BTreeMap<Some8, Some8>>(BTreeMap::from([(1_u8, 0_u8)]), true);
    check::<BTreeMap<Some8, Some8>>(BTreeMap::from([(0_u8, 1_u8)]), false);
    check::<Option<(Some8, Some8)>>(Some((0_u8, 1_u8)), false);
    check::<Result<Some8, ()>>(Ok::<u8, ()>(0), true);
    check::<Result<(Some8, u8), ()>>(Ok::<_, ()>((0_u8, 1_u8)), false);
}
