use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use proptest::prelude::*;
use serde::de::{self, DeserializeOwned, Deserializer, IgnoredAny, Visitor};
use serde::{Deserialize, Serialize};

use super::*;
use crate::transfer::compact::{Shape, is_too_much};

fn written(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    shape_to_output(value, &mut bytes).unwrap();
    bytes
}

fn shape(value: &impl Serialize) -> Shape {
    shape_to_output(value, &mut Vec::new()).unwrap()
}

fn exact<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    from_bytes(bytes, Reading::Exact).map_err(|error| error.to_string())
}

fn like_text<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    from_bytes(bytes, Reading::LikeText).map_err(|error| error.to_string())
}

fn there_and_back<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: T) {
    let bytes = written(&value);
    assert_eq!(exact::<T>(&bytes).unwrap(), value);
    assert_eq!(exact::<IgnoredAny>(&bytes), Ok(IgnoredAny));
    for cut in 0..bytes.len() {
        assert!(exact::<IgnoredAny>(&bytes[..cut]).is_err(), "{value:?} up to {cut}");
        assert!(exact::<T>(&bytes[..cut]).is_err(), "{value:?} up to {cut}");
        let _ = like_text::<T>(&bytes[..cut]);
    }
    let longer = [&bytes[..], &[Tag::UNIT.0]].concat();
    assert!(exact::<T>(&longer).unwrap_err().contains("1 bytes too many"));
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Choice {
    Unit,
    Newtype(u8),
    Tuple(u8, String),
    Struct { a: u8, b: Option<Box<Choice>> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Wrapped(u16);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Nothing,
    Flag(bool),
    Number(u64),
    Negative(i64),
    Ip(IpAddr),
    Text(String),
    List(Vec<Untagged>),
    Struct { a: u8, b: Box<Untagged> },
}

#[test]
fn round_trip() {
    there_and_back(());
    there_and_back(Unit);
    there_and_back([None, Some(None), Some(Some(()))]);
    there_and_back((true, false));
    there_and_back(('\0', 'ß', char::MAX));
    there_and_back((String::new(), "text".to_owned(), "x".repeat(300)));
    there_and_back((serde_bytes::ByteBuf::new(), serde_bytes::ByteBuf::from(vec![0, 255])));
    there_and_back((Vec::<String>::new(), vec!["a".to_owned()], [1_u8, 2], Vec::<()>::new(), vec![(), ()]));
    there_and_back(BTreeMap::from([
        ("a".to_owned(), BTreeMap::from([(1_u8, ()), (2, ())])),
        (String::new(), [].into()),
    ]));
    there_and_back((Wrapped(300), Choice::Unit, Choice::Newtype(1), Choice::Tuple(2, "x".into())));
    there_and_back(Choice::Struct { a: 1, b: Some(Box::new(Choice::Struct { a: 2, b: None })) });
    macro_rules! numbers {
        ($($number:ident)*) => {
            $(
                there_and_back(($number::MIN, $number::MAX, 1 as $number));
                there_and_back((Vec::<$number>::new(), vec![$number::MIN, $number::MAX, 7 as $number]));
            )*
        };
    }
    numbers!(u8 i8 u16 i16 u32 i32 u64 i64 u128 i128 f32 f64 usize isize);
}

#[test]
fn self_describing_types() {
    there_and_back(Untagged::List(vec![Untagged::Nothing, Untagged::Flag(true), Untagged::Negative(-1)]));
    there_and_back(Untagged::Struct { a: 1, b: Box::new(Untagged::Ip([1, 2, 3, 4].into())) });
    there_and_back(vec![Untagged::Number(u64::MAX), Untagged::Text("x".into())]);
    there_and_back(serde_json::json!({"a": [1, -1, 2.5, null, true, "x", {}], "": {"b": []}}));
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<i32>().prop_map(|number| (f64::from(number) / 8.0).into()),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Reads the garbage as many different types.
fn read_all(bytes: &[u8]) {
    for reading in [Reading::Exact, Reading::LikeText] {
        let _ = from_bytes::<serde_json::Value>(bytes, reading);
        let _ = from_bytes::<Untagged>(bytes, reading);
        let _ = from_bytes::<Choice>(bytes, reading);
        let _ = from_bytes::<(u8, Option<Choice>, Vec<Wrapped>)>(bytes, reading);
        let _ = from_bytes::<BTreeMap<u16, Vec<i128>>>(bytes, reading);
        let _ = from_bytes::<serde_bytes::ByteBuf>(bytes, reading);
        let _ = from_bytes::<IgnoredAny>(bytes, reading);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn json(value in any_json()) {
        let bytes = written(&value);
        prop_assert_eq!(&exact::<serde_json::Value>(&bytes).unwrap(), &value);
        prop_assert_eq!(&like_text::<serde_json::Value>(&bytes).unwrap(), &value);
    }

    #[test]
    fn garbage(bytes: Vec<u8>) {
        read_all(&bytes);
    }

    /// Garbage made of valid tags, names and lengths, so that more of it is read.
    #[test]
    fn likely_garbage(bytes in prop::collection::vec(prop_oneof![0..0x14_u8, 0x20..0x3D_u8, Just(b'a')], 0..60)) {
        read_all(&bytes);
    }

    #[test]
    fn mutated_values(value in any_json(), place: prop::sample::Index, byte: u8) {
        let mut bytes = written(&(&value, Choice::Struct { a: 1, b: None }, Some(1.5)));
        let place = place.index(bytes.len());
        bytes[place] = byte;
        read_all(&bytes);
        let _ = exact::<(serde_json::Value, Choice, Option<f64>)>(&bytes);
    }
}

/// `depth` lists inside each other.
fn lists(depth: usize) -> Vec<u8> {
    [vec![Tag::SEQ.0; depth], vec![Tag::UNIT.0], vec![Tag::END.0; depth]].concat()
}

#[test]
fn nesting_limit() {
    assert!(exact::<serde_json::Value>(&lists(128)).is_ok());
    assert!(exact::<IgnoredAny>(&lists(128)).is_ok());
    for depth in [129, 100_000] {
        for error in [
            exact::<serde_json::Value>(&lists(depth)).unwrap_err(),
            exact::<IgnoredAny>(&lists(depth)).unwrap_err(),
            exact::<Untagged>(&vec![Tag::SOME.0; depth + 1]).unwrap_err(),
        ] {
            assert!(is_too_much(&error), "{error}");
        }
    }
    let value = |depth| (0..depth).fold(serde_json::Value::Null, |inner, _| vec![inner].into());
    assert_eq!(exact(&written(&value(128))), Ok(value(128)));
    assert!(is_too_much(&shape_to_output(&value(129), &mut Vec::new()).unwrap_err().to_string()));
}

#[test]
fn fields_by_name() {
    #[derive(Serialize)]
    struct Written {
        b: u8,
        a: String,
        unknown: Vec<Choice>,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Read {
        a: String,
        b: u64,
        #[serde(default)]
        missing: u8,
    }
    let value = Written { b: 5, a: "x".into(), unknown: vec![Choice::Tuple(1, "y".into()), Choice::Unit] };
    assert_eq!(exact::<Read>(&written(&value)).unwrap(), Read { a: "x".into(), b: 5, missing: 0 });

    #[derive(Debug, PartialEq, Deserialize)]
    enum Reordered {
        Struct { a: u8 },
        Unit,
        Tuple(u16, String),
    }
    assert_eq!(exact::<Reordered>(&written(&Choice::Unit)).unwrap(), Reordered::Unit);
    assert_eq!(exact::<Reordered>(&written(&Choice::Struct { a: 7, b: None })).unwrap(), Reordered::Struct { a: 7 });
    let tuple = written(&Choice::Tuple(7, "x".into()));
    assert_eq!(exact::<Reordered>(&tuple).unwrap(), Reordered::Tuple(7, "x".into()));
    assert!(exact::<Reordered>(&written(&Choice::Newtype(1))).unwrap_err().contains("unknown variant"));
    // A map with one entry is an enum, as in text; a text is a variant without contents.
    assert_eq!(exact::<Choice>(&written(&BTreeMap::from([("Newtype", 7)]))).unwrap(), Choice::Newtype(7));
    assert_eq!(exact::<Choice>(&written(&"Unit")).unwrap(), Choice::Unit);
    assert!(exact::<Choice>(&written(&"Newtype")).is_err());
    assert!(exact::<Choice>(&written(&BTreeMap::from([("Newtype", 7), ("Unit", 8)]))).is_err());
}

#[test]
fn like_text_restrictions() {
    /// Records what the visitor is given, as text.
    #[derive(Debug, PartialEq)]
    struct Shown(String);

    struct Eye;

    macro_rules! shows {
        ($($visit:ident $type:ty;)*) => {
            $(fn $visit<E>(self, value: $type) -> Result<Shown, E> {
                Ok(Shown(format!("{} {value:?}", stringify!($visit))))
            })*
        };
    }

    impl<'de> Visitor<'de> for Eye {
        type Value = Shown;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("anything")
        }

        shows! {
            visit_u8 u8; visit_u64 u64; visit_i8 i8; visit_i64 i64; visit_u128 u128; visit_char char; visit_str &str; visit_bytes &[u8];
            visit_bool bool; visit_f64 f64;
        }

        fn visit_unit<E>(self) -> Result<Shown, E> {
            Ok(Shown("unit".into()))
        }

        fn visit_none<E>(self) -> Result<Shown, E> {
            Ok(Shown("none".into()))
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shown, D::Error> {
            Ok(Shown(format!("some {}", Shown::deserialize(deserializer)?.0)))
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Shown, A::Error> {
            let mut text = "seq".to_owned();
            while let Some(Shown(element)) = seq.next_element()? {
                text = format!("{text}, {element}");
            }
            Ok(Shown(text))
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Shown, A::Error> {
            let mut text = "map".to_owned();
            while let Some((Shown(key), Shown(value))) = map.next_entry()? {
                text = format!("{text}, {key}: {value}");
            }
            Ok(Shown(text))
        }
    }

    impl<'de> Deserialize<'de> for Shown {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shown, D::Error> {
            deserializer.deserialize_any(Eye)
        }
    }

    fn check(value: impl Serialize, is_exact: &str, is_like_text: &str) {
        let bytes = written(&value);
        assert_eq!(exact::<Shown>(&bytes).unwrap().0, is_exact);
        assert_eq!(like_text::<Shown>(&bytes).unwrap().0, is_like_text);
    }
    check(None::<u8>, "none", "unit");
    check(Some(Some(1_u8)), "some some visit_u8 1", "visit_u8 1");
    check(Some(()), "some unit", "unit");
    check('x', "visit_char 'x'", "visit_str \"x\"");
    check(serde_bytes::Bytes::new(&[1]), "visit_bytes [1]", "seq, visit_u8 1");
    check(5_i8, "visit_i8 5", "visit_u64 5");
    check(-5_i8, "visit_i8 -5", "visit_i64 -5");
    check(7_u128, "visit_u64 7", "visit_u64 7");
    check(u128::MAX, &format!("visit_u128 {}", u128::MAX), &format!("visit_u128 {}", u128::MAX));
    check(-7_i128, "visit_i64 -7", "visit_i64 -7");
    check(BTreeMap::from([(1_u8, true)]), "map, visit_u8 1: visit_bool true", "map, visit_str \"1\": visit_bool true");
    check(BTreeMap::from([(true, ())]), "map, visit_bool true: unit", "map, visit_str \"true\": unit");
    check(Choice::Unit, "visit_str \"Unit\"", "visit_str \"Unit\"");
    check(Choice::Newtype(1), "map, visit_str \"Newtype\": visit_u8 1", "map, visit_str \"Newtype\": visit_u8 1");
    check(Wrapped(1), "visit_u64 1", "visit_u64 1");
    // Keys are numbers again for types that expect numbers.
    let map = BTreeMap::from([(i16::MIN, 1_u8), (0, 2), (i16::MAX, 3)]);
    assert_eq!(like_text::<BTreeMap<i16, u8>>(&written(&map)).unwrap(), map);
    let texts = like_text::<BTreeMap<String, u8>>(&written(&map)).unwrap();
    assert_eq!(texts.into_keys().collect::<Vec<_>>(), ["-32768", "0", "32767"]);
    assert!(exact::<BTreeMap<String, u8>>(&written(&map)).is_err());
}

/// Regression: text tells whether a number is positive, but not its type, also to types that expect
/// a certain one.
#[test]
fn positive_numbers_are_unsigned() {
    #[derive(Debug, PartialEq)]
    struct Positive(u64);
    impl<'de> Deserialize<'de> for Positive {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Positive, D::Error> {
            struct Eye;
            impl<'de> Visitor<'de> for Eye {
                type Value = Positive;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a positive number")
                }

                fn visit_u64<E>(self, number: u64) -> Result<Positive, E> {
                    Ok(Positive(number))
                }
            }
            deserializer.deserialize_i32(Eye)
        }
    }
    assert!(exact::<Positive>(&written(&5_i32)).is_err());
    assert_eq!(like_text::<Positive>(&written(&5_i32)).unwrap(), Positive(5));
    assert_eq!(like_text::<i32>(&written(&-5_i32)).unwrap(), -5);
    assert_eq!(like_text::<(u128, i128)>(&written(&(u128::MAX, i128::MIN))).unwrap(), (u128::MAX, i128::MIN));
    assert!(like_text::<Positive>(&written(&-5_i32)).is_err());
}

/// Takes the first element, and the first key without its value.
#[derive(Debug, PartialEq)]
struct First(u8);

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<First, D::Error> {
        struct Eye;
        impl<'de> Visitor<'de> for Eye {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list or a map")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<First, A::Error> {
                Ok(First(seq.next_element()?.unwrap_or(0)))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<First, A::Error> {
                Ok(First(map.next_key()?.unwrap_or(0)))
            }
        }
        deserializer.deserialize_any(Eye)
    }
}

#[test]
fn trailing_bytes() {
    for (bytes, is_whole) in [
        (written(&Vec::<u8>::new()), true),
        (written(&[7_u8]), true),
        (written(&vec![7_u8]), true),
        (written(&[7_u8, 8]), false),
        (written(&vec![7_u8, 8]), false),
        (written(&vec![Some(7_u8), Some(8)]), false),
        (written(&BTreeMap::<u8, u8>::new()), true),
        (written(&BTreeMap::from([(7_u8, ())])), false),
        (written(&BTreeMap::from([(7_u8, 8_u8), (9, 10)])), false),
    ] {
        let read = exact::<First>(&bytes);
        assert_eq!(read.is_ok(), is_whole, "{bytes:?}: {read:?}");
        assert!(is_whole || read.unwrap_err().contains("has not read all"));
    }
    /// Takes only keys, or only values.
    #[derive(Debug)]
    struct Half<const VALUES: bool>;
    impl<'de, const VALUES: bool> Deserialize<'de> for Half<VALUES> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Eye<const VALUES: bool>;
            impl<'de, const VALUES: bool> Visitor<'de> for Eye<VALUES> {
                type Value = Half<VALUES>;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a map")
                }

                fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    if VALUES {
                        map.next_value::<IgnoredAny>()?;
                    }
                    while map.next_key::<IgnoredAny>()?.is_some() {}
                    Ok(Half)
                }
            }
            deserializer.deserialize_map(Eye)
        }
    }
    let map = written(&BTreeMap::from([("a", "b"), ("c", "d")]));
    assert!(exact::<Half<false>>(&map).is_err());
    assert!(exact::<Half<true>>(&map).is_err());
    assert!(exact::<Half<false>>(&written(&Choice::Newtype(1))).is_err());
    assert!(exact::<Half<true>>(&written(&Choice::Newtype(1))).is_err());
}

/// Regression: the rest of a value that could not be read was taken for the next value.
#[test]
fn value_after_unreadable_value() {
    #[derive(Debug, PartialEq)]
    struct Lenient<T>(Option<T>);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            Ok(Lenient(T::deserialize(deserializer).ok()))
        }
    }
    fn check<T: DeserializeOwned + fmt::Debug + PartialEq>(value: impl Serialize) {
        let read = exact::<(u8, Lenient<T>, String)>(&written(&(1_u8, &value, "x"))).unwrap();
        assert_eq!(read, (1, Lenient(None), "x".into()));
        let [first, second] = exact::<[Lenient<T>; 2]>(&written(&(&value, &value))).unwrap();
        assert_eq!((first, second), (Lenient(None), Lenient(None)));
        assert_eq!(exact::<Lenient<T>>(&written(&value)).unwrap(), Lenient(None));
        let map = exact::<BTreeMap<String, Lenient<T>>>(&written(&BTreeMap::from([("a", &value), ("b", &value)])));
        assert_eq!(map.unwrap().len(), 2);
    }
    check::<(bool, u8, u8)>((1_u8, 2_u8, 3_u8));
    check::<(u8, bool, u8)>((1_u8, 2_u8, 3_u8));
    check::<Vec<bool>>(vec![Some(1_u8), None, Some(2)]);
    check::<Vec<bool>>(vec![1_u64, 2]);
    check::<BTreeMap<String, bool>>(BTreeMap::from([("a", 1), ("b", 2)]));
    check::<BTreeMap<u8, u8>>(BTreeMap::from([("a", 1), ("b", 2)]));
    check::<u8>(BTreeMap::from([("a", 1), ("b", 2)]));
    check::<Choice>(BTreeMap::from([("Nothing", 1), ("Unit", 2)]));
    check::<Choice>(Ok::<_, u8>((1, 2, 3)));
    check::<Choice>(Choice::Tuple(1, "x".into()) == Choice::Unit);
    check::<Result<u8, u8>>(Choice::Tuple(1, "x".into()));
    check::<Result<bool, u8>>(Ok::<_, u8>(vec!["x", "y"]));
    check::<Option<Vec<bool>>>(Some(vec!["x", "y"]));
    check::<Wrapped>((1, (2, 3)));
    check::<Untagged>((0..126).fold(serde_json::Value::Null, |inner, _| serde_json::json!({ "a": inner })));
}

#[test]
fn shape_without_values() {
    #[derive(Serialize)]
    struct Flat {
        own: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, u8>,
    }
    let flat = |keys: &[&str]| Flat { own: 1, rest: keys.iter().map(|key| ((*key).to_owned(), 7)).collect() };
    assert_eq!(shape(&(1_u8, "a".to_owned())), shape(&(2_u8, String::new())));
    assert_eq!(shape(&vec![Some(1); 3]), shape(&vec![Some(7)]));
    assert_ne!(shape(&1_u8), shape(&1_u16));
    assert_ne!(shape(&Choice::Unit), shape(&Choice::Newtype(1)));
    assert_ne!(shape(&Some(1)), shape(&1));
    assert_ne!(shape(&[vec![Some(1)], vec![None]]), shape(&[vec![None], vec![Some(1)]]));
    assert_eq!(shape(&flat(&["a"])), shape(&flat(&["b", "c"])));
    // Regression: readers refuse a key that is also the name of a field.
    assert_ne!(shape(&flat(&["a"])), shape(&flat(&["own"])));
    assert_ne!(shape(&flat(&["own"])), shape(&flat(&["own", "a"]).rest));
    #[derive(Serialize)]
    #[serde(tag = "type")]
    enum Internal {
        A { n: u8 },
        B { n: u8 },
    }
    assert_ne!(shape(&Internal::A { n: 1 }), shape(&Internal::B { n: 1 }));
}
