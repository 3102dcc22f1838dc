//! Types of widely used crates that implement serde by hand, sent by themselves and inside types
//! that buffer their contents.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::str::FromStr;

use multiproc::Queue;
use multiproc::connection::one_way;
use multiproc_values::oracle::judge;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged<T> {
    Struct { value: T },
    Pair(T, u8),
    Value(T),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
enum Internal<T> {
    A { value: T },
    B { list: Vec<T>, map: HashMap<String, T>, option: Option<T> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent<T> {
    One(T),
    Two(T, T),
    Struct { value: T },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct Holder<T> {
    value: T,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maybe: Option<T>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct Flat<T> {
    own: u8,
    #[serde(flatten)]
    inner: Holder<T>,
    #[serde(flatten)]
    rest: BTreeMap<String, u8>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Plain<T> {
    before: u32,
    bytes: Vec<u8>,
    values: Vec<T>,
    after: String,
}

/// A type that can be sent and compared.
trait Value: Serialize + DeserializeOwned + PartialEq + Debug + Clone + Sync {}

impl<T: Serialize + DeserializeOwned + PartialEq + Debug + Clone + Sync> Value for T {}

/// Sends values through a queue and a pipe, and returns how many have arrived unchanged.
fn send<T: Value>(values: &[T]) -> usize {
    let queue = Queue::new().unwrap();
    let (sender, receiver) = one_way().unwrap();
    let mut arrived = 0;
    for value in values {
        let sent = queue.put(value.clone()).map_err(|error| error.to_string());
        judge(value, sent, || queue.try_get().map_err(|error| error.to_string())).unwrap();
        if sender.send(value.clone()).is_ok() {
            arrived += usize::from(receiver.recv().unwrap() == *value);
        }
    }
    arrived
}

/// Sends values by themselves and inside others, in new threads, which remember nothing of the
/// types. By themselves all must arrive unchanged.
fn check<T: Value>(values: &[T]) {
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(send(values), values.len(), "{values:?}"));
        scope.spawn(|| {
            let plain = |value: &T, size| Plain {
                before: 300,
                bytes: vec![7; size],
                values: vec![value.clone(); 3],
                after: "x".repeat(size),
            };
            let plain: Vec<_> = values.iter().flat_map(|value| [plain(value, 2 << 20), plain(value, 3)]).collect();
            assert_eq!(send(&plain), plain.len());
        });
        scope.spawn(|| {
            let of = |value: &T| {
                let value = value.clone();
                [Untagged::Struct { value: value.clone() }, Untagged::Pair(value.clone(), 7), Untagged::Value(value)]
            };
            send(&values.iter().flat_map(of).collect::<Vec<_>>());
        });
        scope.spawn(|| {
            let of = |value: &T| {
                let value = value.clone();
                let map = HashMap::from([("a".to_owned(), value.clone())]);
                [
                    Internal::A { value: value.clone() },
                    Internal::B { list: vec![value.clone(); 2], map, option: Some(value) },
                ]
            };
            send(&values.iter().flat_map(of).collect::<Vec<_>>());
        });
        scope.spawn(|| {
            let of = |value: &T| {
                let value = value.clone();
                [Adjacent::One(value.clone()), Adjacent::Two(value.clone(), value.clone()), Adjacent::Struct { value }]
            };
            send(&values.iter().flat_map(of).collect::<Vec<_>>());
        });
        scope.spawn(|| {
            let of = |value: &T| {
                let rest = BTreeMap::from([("x".to_owned(), 1), ("y".to_owned(), 2)]);
                let inner = |maybe| Holder { value: value.clone(), maybe };
                [
                    Flat { own: 1, inner: inner(None), rest: BTreeMap::new() },
                    Flat { own: 1, inner: inner(Some(value.clone())), rest },
                ]
            };
            send(&values.iter().flat_map(of).collect::<Vec<_>>());
        });
    });
}

fn parsed<T: FromStr<Err: Debug>>(texts: &[&str]) -> Vec<T> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn serde_json_values() {
    use multiproc_values::{Any, Rng};
    use serde_json::{Map, Number, Value, json};

    let mut rng = Rng::from_env();
    check(&(0..100).map(|_| Value::any(&mut rng)).collect::<Vec<_>>());
    let map = |value: Value| value.as_object().unwrap().clone();
    check(&[Map::new(), map(json!({"a": [1, -1, 1.5, null], "b": {"c": "d"}})), map(json!({"value": 1, "type": "A"}))]);
    check(&[Number::from(0), Number::from(-5), Number::from(u64::MAX), Number::from_f64(0.1).unwrap()]);
}

#[test]
fn raw_json() {
    use serde_json::value::RawValue;

    /// Compared by its text.
    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Raw(Box<RawValue>);

    impl PartialEq for Raw {
        fn eq(&self, other: &Raw) -> bool {
            self.0.get() == other.0.get()
        }
    }

    let texts = [r#"{"a": [1,  2.50]}"#, "null", "1e3", r#""text""#];
    let values: Vec<_> = texts.map(|text| Raw(RawValue::from_string(text.to_owned()).unwrap())).into();
    check(&values);
}

#[test]
fn uuid() {
    check(&[uuid::Uuid::nil(), uuid::Uuid::max(), uuid::Uuid::from_u128(0x1234_5678_9abc_def0)]);
    check(&[uuid::Uuid::from_u128(7).urn(), uuid::Uuid::from_u128(8).urn()]);
}

#[test]
fn dates_and_times() {
    use chrono::{DateTime, Duration, FixedOffset, Month, NaiveDate, NaiveDateTime, NaiveTime, Utc, Weekday};

    check(&parsed::<DateTime<Utc>>(&[
        "2026-11-28T17:00:00Z",
        "1969-12-31T23:59:59.999999999Z",
        "2016-12-31T23:59:60Z",
    ]));
    check(&parsed::<DateTime<FixedOffset>>(&["2026-11-28T17:00:00.5+05:30", "-0001-01-01T00:00:00-12:00"]));
    check(&parsed::<NaiveDate>(&["2026-11-28", "-262143-01-01", "+262142-12-31"]));
    check(&parsed::<NaiveTime>(&["00:00:00", "23:59:60.25"]));
    check(&parsed::<NaiveDateTime>(&["2026-11-28T17:00:00", "2026-11-28T17:00:00.000001"]));
    check(&[Duration::zero(), Duration::nanoseconds(-1), Duration::MAX]);
    check(&[Month::January, Month::December]);
    check(&[Weekday::Mon, Weekday::Sun]);

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Stamps {
        #[serde(with = "chrono::serde::ts_milliseconds")]
        at: DateTime<Utc>,
        #[serde(with = "chrono::serde::ts_seconds_option", default, skip_serializing_if = "Option::is_none")]
        seconds: Option<DateTime<Utc>>,
    }
    let at = |millis| DateTime::from_timestamp_millis(millis).unwrap();
    check(&[Stamps { at: at(-1), seconds: None }, Stamps { at: at(1 << 40), seconds: Some(at(5000)) }]);

    let odt = time::OffsetDateTime::UNIX_EPOCH;
    check(&[odt, odt + time::Duration::nanoseconds(1), odt - time::Duration::days(100_000)]);
    check(&[time::Duration::ZERO, time::Duration::nanoseconds(-1), time::Duration::MAX]);
    check(&[odt.date(), time::Date::MAX]);
    check(&[time::Month::May]);
}

#[test]
fn addresses() {
    check(&parsed::<url::Url>(&["https://user@example.org:8080/a?b=c#d", "mailto:a@b", "http://[::1]/"]));
    check(&parsed::<ipnet::IpNet>(&["10.0.0.0/8", "fe80::/10"]));
    check(&parsed::<ipnet::Ipv4Net>(&["10.0.0.0/8", "1.2.3.4/32"]));
    check(&parsed::<std::net::SocketAddrV6>(&["[fe80::1%5]:80", "[::]:0"]));
    check(&parsed::<std::net::SocketAddr>(&["[fe80::1%4294967295]:80", "1.2.3.4:5"]));
}

#[test]
fn collections() {
    use arrayvec::{ArrayString, ArrayVec};
    use indexmap::{IndexMap, IndexSet};
    use smallvec::{SmallVec, smallvec};

    check(&[IndexMap::from([("b".to_owned(), 1), ("a".to_owned(), 2)]), IndexMap::new()]);
    check(&[IndexMap::from([(7_u16, vec![1_u8]), (3, vec![])])]);
    check(&[IndexSet::from([3_u8, 1, 2]), IndexSet::new()]);
    check::<SmallVec<[u16; 2]>>(&[smallvec![], smallvec![1, 300], smallvec![1, 2, 3]]);
    check(&[ArrayVec::<u32, 4>::new(), ArrayVec::from_iter([1, 2, 3])]);
    check(&[ArrayString::<8>::from("text").unwrap(), ArrayString::new()]);
    check(&[bytes::Bytes::from_static(b"\xff\0"), bytes::Bytes::new()]);
    check(&[bytes::BytesMut::from(&b"abc"[..])]);
    check::<hashbrown::HashMap<String, u8>>(&[
        hashbrown::HashMap::from([("a".to_owned(), 1)]),
        hashbrown::HashMap::new(),
    ]);
    check::<hashbrown::HashSet<u64>>(&[hashbrown::HashSet::from([1, 1 << 40])]);
    check(&[heapless::Vec::<u8, 4>::from_slice(&[1, 2]).unwrap(), heapless::Vec::new()]);
    check(&[heapless::String::<8>::try_from("text").unwrap()]);
    check(&[smol_str::SmolStr::new("short"), smol_str::SmolStr::new("x".repeat(100))]);
    check(&[serde_bytes::ByteBuf::from(vec![0, 255]), serde_bytes::ByteBuf::new()]);
}

#[test]
fn numbers() {
    check(&parsed::<rust_decimal::Decimal>(&["0", "-1.50", "79228162514264337593543950335"]));
    check(&parsed::<num_bigint::BigInt>(&["0", "-123456789012345678901234567890", "4294967296"]));
    check(&parsed::<num_bigint::BigUint>(&["0", "123456789012345678901234567890"]));
    check(&parsed::<bigdecimal::BigDecimal>(&["0", "-1.50", "123456789012345678901234567890.123"]));
    check(&[ordered_float::OrderedFloat(0.1_f64), ordered_float::OrderedFloat(-0.0)]);
    check(&[ordered_float::NotNan::new(0.1_f32).unwrap()]);
    check(&[half::f16::from_f32(1.5), half::f16::MAX]);
    check(&[half::bf16::from_f32(-2.5)]);
}

bitflags::bitflags! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Flags: u16 {
        const A = 1;
        const B = 2;
        const REST = 0xFF00;
    }
}

impl Serialize for Flags {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        bitflags::serde::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Flags, D::Error> {
        bitflags::serde::deserialize(deserializer)
    }
}

#[test]
fn others() {
    use either::Either;

    check(&parsed::<semver::Version>(&["1.2.3", "0.0.0-alpha.1+build"]));
    check(&parsed::<semver::VersionReq>(&["*", ">=1.2, <2"]));
    check(&[Flags::empty(), Flags::A | Flags::B, Flags::all(), Flags::from_bits_retain(0x10)]);
    check(&[Either::<u8, String>::Left(7), Either::Right("x".into())]);
    check(&parsed::<toml::Value>(&[
        "7",
        "-1.5",
        "\"x\"",
        "[1, [true]]",
        "{a = 1, b = {c = []}}",
        "2026-11-28T17:00:00Z",
    ]));
    check(&parsed::<toml::Table>(&["a = 1\n[b]\nc = 2026-11-28", ""]));
    check(&parsed::<toml::value::Datetime>(&["2026-11-28", "17:00:00.5", "2026-11-28T17:00:00+01:00"]));

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct EitherWay {
        #[serde(with = "either::serde_untagged")]
        either: Either<Vec<u8>, String>,
        #[serde(with = "either::serde_untagged_optional", default, skip_serializing_if = "Option::is_none")]
        maybe: Option<Either<u8, bool>>,
    }
    check(&[
        EitherWay { either: Either::Left(vec![1]), maybe: None },
        EitherWay { either: Either::Right("x".into()), maybe: Some(Either::Right(true)) },
    ]);
}
