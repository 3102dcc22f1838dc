//! Values to bytes and back: serde, with postcard's format where it will do and MessagePack's where it won't.
//!
//! postcard is compact and quick but not self-describing: a type whose `Deserialize` asks the format what comes next (untagged
//! and internally tagged enums, `#[serde(flatten)]`, `serde_json::Value`) can be written by it and never read back. Such types
//! go as MessagePack, with field names. Which one a type needs can't be seen from outside, so it is tried: what has been
//! encoded is decoded once in the sender. The trial also makes true that what can't be received fails in the sender, at the
//! call.
//!
//! MessagePack has one nil for `None`, for `()` and so for `Some(())` and `Some(None)` too. A value that would come back changed
//! by that is refused.
//!
//! The first byte of an encoded value says which format follows.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Values up to this many bytes are tried every time. Larger ones are believed if a value of their type has passed.
const ALWAYS_TRIED: usize = 1 << 20;

/// How deep self-describing values may nest, as in serde_json: each level takes some of the reader's stack, and the reader may be a thread with
/// little of that.
const DEEPEST: usize = 128;

/// Why a value can't be sent, or what was received is no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{what} {type_name}: {reason}")]
pub struct CodecError {
    what: String,
    type_name: String,
    reason: String,
}

impl CodecError {
    pub(crate) fn new<T>(what: &str, reason: impl ToString) -> CodecError {
        CodecError { what: what.into(), type_name: std::any::type_name::<T>().into(), reason: reason.to_string() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Format {
    Postcard = b'p',
    MessagePack = b'm',
}

/// What earlier trials found out about a type, by the place of its `decode`. (A `TypeId` would want `'static` types. Types that share the
/// code share the outcome.)
static KNOWN: Mutex<BTreeMap<usize, Format>> = Mutex::new(BTreeMap::new());

/// Encodes `value`, such that [`decode`] gives it back in another process of this program.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(value: &T) -> Result<Vec<u8>, CodecError> {
    let id = decode::<T> as fn(&[u8]) -> Result<T, CodecError> as usize;
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
    let mut failure = None;
    for format in [Format::Postcard, Format::MessagePack] {
        if format == Format::Postcard && known == Some(Format::MessagePack) {
            continue;
        }
        match write(value, format).and_then(|bytes| {
            let proven = known == Some(format) && format == Format::Postcard && bytes.len() > ALWAYS_TRIED;
            if !proven {
                try_out(value, &bytes, format)?;
            }
            Ok(bytes)
        }) {
            Ok(bytes) => {
                if known != Some(format) {
                    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(id, format);
                }
                return Ok(bytes);
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.expect("a format was tried"))
}

/// Encodes a value of one of this library's own types, which postcard can take, for [`decode`].
pub(crate) fn pack(value: &impl Serialize) -> Vec<u8> {
    write(value, Format::Postcard).expect("our own messages are made of numbers, texts and lists")
}

/// Sees whether `bytes` can be read, and as the same value.
fn try_out<T: Serialize + DeserializeOwned>(value: &T, bytes: &[u8], format: Format) -> Result<(), CodecError> {
    let back: T = decode(bytes)?;
    if format == Format::MessagePack && Letters::of(value) != Letters::of(&back) {
        let reason = "the type needs a self-describing format, in which this value can't be told from another: \
                      `Some(())` and `Some(None)` are `None` there";
        return Err(CodecError::new::<T>("cannot serialise", reason));
    }
    Ok(())
}

/// How often each byte occurs in a value's debug text. The order is left out, as a hash map's may differ from its copy's; where a
/// `Some` has become a `None`, letters are missing.
#[derive(PartialEq, Eq)]
struct Letters(Box<[u64; 256]>);

impl Letters {
    fn of(value: &impl Serialize) -> Letters {
        let mut letters = Letters(Box::new([0; 256]));
        // A value that can't be shown leaves what it has shown so far; its copy does the same.
        let _ = std::fmt::write(&mut letters, format_args!("{:?}", serde_fmt::to_debug(value)));
        letters
    }
}

impl std::fmt::Write for Letters {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            self.0[usize::from(byte)] += 1;
        }
        Ok(())
    }
}

fn write<T: Serialize>(value: &T, format: Format) -> Result<Vec<u8>, CodecError> {
    let cannot = |reason: String| CodecError::new::<T>("cannot serialise", reason);
    let mut bytes = vec![format as u8];
    match format {
        Format::Postcard => postcard::to_extend(value, bytes).map_err(|error| cannot(error.to_string())),
        Format::MessagePack => {
            let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
            value.serialize(&mut serializer).map_err(|error| cannot(error.to_string()))?;
            Ok(bytes)
        }
    }
}

/// The value that [`encode`] was given.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let cannot = |reason: String| CodecError::new::<T>("cannot deserialise", reason);
    match bytes.split_first() {
        Some((&tag, rest)) if tag == Format::Postcard as u8 => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(cannot(format!("{} bytes too many", rest.len()))),
            // postcard has no place for what the implementation said.
            Err(postcard::Error::SerdeDeCustom) => {
                Err(cannot("its Deserialize implementation refused what it read".into()))
            }
            Err(error) => Err(cannot(error.to_string())),
        },
        Some((&tag, mut rest)) if tag == Format::MessagePack as u8 => {
            let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
            deserializer.set_max_depth(DEEPEST);
            let value = T::deserialize(&mut deserializer);
            drop(deserializer);
            match value {
                Ok(value) if rest.is_empty() => Ok(value),
                Ok(_) => Err(cannot(format!("{} bytes too many", rest.len()))),
                Err(error) => Err(cannot(error.to_string())),
            }
        }
        Some((tag, _)) => Err(cannot(format!("unknown format {tag:#04x}"))),
        None => Err(cannot("no bytes".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn there_and_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: T) {
        for _ in 0..2 {
            assert_eq!(decode::<T>(&encode(&value).unwrap()).unwrap(), value);
        }
    }

    #[test]
    fn plain_types() {
        there_and_back(());
        there_and_back((u8::MAX, i64::MIN, u128::MAX, 'ß', "text".to_string(), 1.5_f32));
        there_and_back(vec![Some(Some(())), Some(None), None]);
        there_and_back(HashMap::from([(vec![1], Ok::<u8, String>(3)), (vec![], Err("no".into()))]));
        there_and_back(std::time::Duration::from_nanos(1));
        there_and_back(std::net::IpAddr::from([127, 0, 0, 1]));
        there_and_back(vec![7_u8; 100_000]);
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(f64),
        Text { text: String },
        List(Vec<Untagged>),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        A { n: u32 },
        B,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Flat {
        n: u32,
        #[serde(flatten)]
        rest: HashMap<String, u32>,
    }

    #[test]
    fn types_that_ask_the_format_what_comes_next() {
        there_and_back(Untagged::List(vec![Untagged::Number(0.5), Untagged::Text { text: "x".into() }]));
        there_and_back(vec![Tagged::A { n: 7 }, Tagged::B]);
        there_and_back(Flat { n: 1, rest: HashMap::from([("a".into(), 2)]) });
        there_and_back(serde_json::json!({"a": [1, 2.5, null, {"b": "c"}]}));
    }

    #[test]
    fn a_value_that_would_come_back_changed_is_refused() {
        there_and_back((Untagged::Number(1.0), vec![None::<()>], Some(1), HashMap::from([(1, 2), (3, 4), (5, 6)])));
        for option in [Some(Some(())), Some(None)] {
            let error = encode(&(Untagged::Number(1.0), option)).unwrap_err().to_string();
            assert!(error.contains("self-describing"), "{error}");
        }
    }

    #[derive(Debug)]
    struct Unwilling;

    impl Serialize for Unwilling {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("not today"))
        }
    }

    impl<'de> Deserialize<'de> for Unwilling {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Unwilling, D::Error> {
            Ok(Unwilling)
        }
    }

    #[test]
    fn what_cannot_be_sent_says_why() {
        let error = encode(&Unwilling).unwrap_err().to_string();
        assert!(error.contains("Unwilling") && error.contains("not today"), "{error}");
    }

    /// Written as a number, read as a text.
    #[derive(Debug)]
    struct OneWay;

    impl Serialize for OneWay {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_u8(200)
        }
    }

    impl<'de> Deserialize<'de> for OneWay {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<OneWay, D::Error> {
            String::deserialize(deserializer).map(|_| OneWay)
        }
    }

    #[test]
    fn what_cannot_be_received_fails_in_the_sender() {
        assert!(encode(&OneWay).unwrap_err().to_string().contains("cannot deserialise"));
    }

    #[test]
    fn what_nests_too_deep_is_an_error_and_no_overflow_of_the_stack() {
        // Lists with one element each.
        let bytes = |depth| [&b"m"[..], &vec![0x91; depth], &[0xCB], &0.5_f64.to_be_bytes()].concat();
        assert!(decode::<Untagged>(&bytes(DEEPEST - 10)).is_ok());
        for depth in [DEEPEST + 10, 1000, 100_000] {
            assert!(decode::<Untagged>(&bytes(depth)).is_err());
            assert!(decode::<serde_json::Value>(&bytes(depth)).is_err());
        }
        let value = (0..200).fold(serde_json::json!(0), |inner, _| serde_json::json!([inner]));
        let error = encode(&value).unwrap_err().to_string();
        assert!(error.contains("depth"), "{error}");
    }

    #[test]
    fn garbage_is_an_error() {
        for bytes in [&b""[..], b"x", b"p", b"p\xff\xff", b"m", b"m\xc1", b"p\x05\x02a"] {
            assert!(decode::<(u8, String)>(bytes).is_err(), "{bytes:?}");
        }
        assert!(decode::<u8>(b"p\x05\x06").unwrap_err().to_string().contains("too many"));
    }
}
