//! Values to payloads and back: serde, with a compact format ([`compact`]) where it will do and MessagePack's where it won't.
//!
//! The compact format is quick but not self-describing: a type whose `Deserialize` asks the format what comes next (untagged
//! and internally tagged enums, `#[serde(flatten)]`, `serde_json::Value`) can be written in it and never read back. Such types
//! go as MessagePack, with field names. Which one a type needs can't be seen from outside, so it is tried: what has been
//! encoded is decoded once in the sender. The trial also makes true that what can't be received fails in the sender, at the
//! call.
//!
//! MessagePack has one nil for `None`, for `()` and so for `Some(())` and `Some(None)` too. A value that would come back changed
//! by that is refused.
//!
//! Handles inside a value put duplicates of their descriptors into a [`bag`]. The trial uses these up, so that it needs no descriptor that the
//! value doesn't need on its way; then the value is encoded anew.
//!
//! The first byte of an encoded value says which format follows.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bag;
use super::bundle::Bundle;
use super::compact::{self, Depth};
use super::payload::{Bytes, Payload, Sink};

/// Values up to this many bytes are tried every time, to the last. Larger ones are believed if a value of their type has passed, and otherwise
/// tried without copying what is large in them.
const ALWAYS_TRIED: u64 = 1 << 20;

/// How deep self-describing values may nest, as in serde_json: each level takes some of the reader's stack, and the reader may be a thread with
/// little of that.
const DEEPEST: usize = 128;

/// Why a value can't be sent, or what was received is no value.
///
/// A value may nest 512 levels deep, as a reader has only so much stack: lists, maps, structs, tuples, enums with contents, options with one and
/// wrappers count. A list that is a chain of boxes comes to that after 256 links, and is better sent as a `Vec`. Types that need a
/// self-describing format (`serde_json::Value`, untagged enums, `flatten`) may nest 128 levels deep. A million elements of a value may be empty, as
/// `()` is.
#[derive(Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
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
    Compact = b'c',
    MessagePack = b'm',
}

/// What earlier trials found out about a type, by the place of its `decode`. (A `TypeId` would want `'static` types. Types that share the
/// code share the outcome.)
static KNOWN: Mutex<BTreeMap<usize, Format>> = Mutex::new(BTreeMap::new());

/// Encodes `value` behind `front`, such that [`decode`] gives it back in another process of this program.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(front: &[u8], value: &T) -> Result<Payload, Refused> {
    let id = decode_bytes::<T> as fn(&[u8], Depth) -> Result<T, CodecError> as usize;
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied();
    let mut failure = None;
    for format in [Format::Compact, Format::MessagePack] {
        if format == Format::Compact && known == Some(Format::MessagePack) {
            continue;
        }
        match write_and_try(front, value, format, known) {
            Ok((bytes, fds)) => {
                if known != Some(format) {
                    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(id, format);
                }
                let handles = Bundle::tie(fds).map_err(Refused::by_system("its handles could not be put together"))?;
                return Ok(Payload { bytes, handles });
            }
            Err(Refused::ByFormat(error)) if !compact::is_too_much(&error.reason) => failure = Some(error),
            Err(refused) => return Err(refused),
        }
    }
    Err(failure.expect("a format was tried").into())
}

/// Encodes a value of one of this library's own types, which the compact format can take, for [`unpack`].
pub(crate) fn pack(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    compact::to_output(value, &mut bytes).expect("our own messages are made of numbers, texts and lists");
    bytes
}

/// The value that [`pack`] was given.
pub(crate) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    compact::from_bytes(bytes, Depth::Whole).map_err(|error| CodecError::new::<T>("cannot deserialise", error))
}

/// Where a value is encoded to, piece by piece, by [`encode_into`].
pub(crate) trait Draft: compact::Output<Error = io::Error> + io::Write {
    /// Forgets what was written.
    fn clear(&mut self);

    /// What was written, all of it.
    fn written(&mut self) -> io::Result<&[u8]>;

    /// What the system has refused, as serializers make a text of it, if anything of it at all.
    fn failure(&mut self) -> Option<io::Error>;
}

/// As [`encode`], to be done often: into memory of the caller's, and with less trying. A value is decoded in the sender only if none of the same
/// type and shape has been in this thread.
#[inline]
pub(crate) fn encode_into<T: Serialize + DeserializeOwned>(
    value: &T,
    draft: &mut impl Draft,
) -> Result<Vec<OwnedFd>, Refused> {
    let id = decode_bytes::<T> as fn(&[u8], Depth) -> Result<T, CodecError> as usize as u64;
    let self_describing = Tried::known(id, Format::MessagePack as u64);
    if !self_describing {
        match draft_compact(id, value, draft) {
            Err(Refused::ByFormat(error)) if !compact::is_too_much(&error.reason) => {}
            done => return done,
        }
    }
    draft_self_describing(id, value, draft)
}

#[cold]
fn draft_self_describing<T: Serialize + DeserializeOwned>(
    id: u64,
    value: &T,
    draft: &mut impl Draft,
) -> Result<Vec<OwnedFd>, Refused> {
    // Tried each time.
    let write = |draft: &mut _| {
        let mut serializer = rmp_serde::Serializer::new(draft).with_struct_map();
        value.serialize(&mut serializer).map_err(|error| error.to_string())
    };
    let (_, fds) = draft_with(draft, write, Format::MessagePack).map_err(Stopped::of::<T>)?;
    let handles = fds.len();
    try_out(value, draft.written().map_err(Refused::by_system("no memory to look at it"))?, fds, Format::MessagePack)?;
    Tried::remember(id, Format::MessagePack as u64);
    match handles {
        0 => Ok(Vec::new()),
        _ => Ok(draft_with(draft, write, Format::MessagePack).map_err(Stopped::of::<T>)?.1),
    }
}

#[inline]
fn draft_compact<T: Serialize + DeserializeOwned>(
    id: u64,
    value: &T,
    draft: &mut impl Draft,
) -> Result<Vec<OwnedFd>, Refused> {
    let (shape, fds) =
        draft_with(draft, |draft| write_compact(value, draft), Format::Compact).map_err(Stopped::of::<T>)?;
    if Tried::known(id, shape) {
        return Ok(fds);
    }
    try_compact(id, shape, value, draft, fds)
}

#[cold]
fn try_compact<T: Serialize + DeserializeOwned>(
    id: u64,
    shape: u64,
    value: &T,
    draft: &mut impl Draft,
    fds: Vec<OwnedFd>,
) -> Result<Vec<OwnedFd>, Refused> {
    let view = draft.written().map_err(Refused::by_system("no memory to look at it"))?;
    let handles = fds.len();
    if view.len() as u64 <= ALWAYS_TRIED || handles > 0 || decode_bytes::<T>(view, Depth::Skim).is_err() {
        try_out(value, view, fds, Format::Compact)?;
    }
    if handles == 0 {
        Tried::remember(id, shape);
        return Ok(Vec::new());
    }
    Ok(draft_with(draft, |draft| write_compact(value, draft), Format::Compact).map_err(Stopped::of::<T>)?.1)
}

/// Gives its shape.
#[inline]
fn write_compact<T: Serialize>(value: &T, draft: &mut impl Draft) -> Result<u64, String> {
    compact::shape_to_output(value, draft).map_err(|error| error.to_string())
}

/// Why a draft could not be made, of what is not known here.
enum Stopped {
    ByFormat(String),
    BySystem(Refused),
}

impl Stopped {
    fn of<T>(self) -> Refused {
        match self {
            Stopped::ByFormat(reason) => CodecError::new::<T>("cannot serialise", reason).into(),
            Stopped::BySystem(refused) => refused,
        }
    }
}

#[inline]
fn draft_with<D: Draft, R>(
    draft: &mut D,
    write: impl FnOnce(&mut D) -> Result<R, String>,
    format: Format,
) -> Result<(R, Vec<OwnedFd>), Stopped> {
    draft.clear();
    let (written, fds) = bag::fill(|| {
        // An error of the draft's is asked for below.
        let _ = draft.extend(&[format as u8]);
        write(draft)
    });
    if let Some(failure) = draft.failure() {
        return Err(Stopped::BySystem(Refused::by_system("no memory for its value")(failure)));
    }
    let duplicates = |error| Stopped::BySystem(Refused::by_system("no descriptor for a duplicate of a handle")(error));
    let fds = fds.map_err(duplicates)?;
    Ok((written.map_err(Stopped::ByFormat)?, fds))
}

/// Which types and shapes have been tried in this thread, and passed; as many as there is room for.
struct Tried;

impl Tried {
    const ROOM: usize = 64;

    fn place(id: u64, shape: u64) -> (usize, u64) {
        let key = (id ^ shape.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        ((key >> 58) as usize % Tried::ROOM, key)
    }

    #[inline]
    fn known(id: u64, shape: u64) -> bool {
        let (place, key) = Tried::place(id, shape);
        TRIED.with(|tried| tried[place].get() == key)
    }

    fn remember(id: u64, shape: u64) {
        let (place, key) = Tried::place(id, shape);
        TRIED.with(|tried| tried[place].set(key));
    }
}

thread_local! {
    static TRIED: [Cell<u64>; Tried::ROOM] = const { [const { Cell::new(0) }; Tried::ROOM] };
}

/// The value that [`encode_into`] was given, from what it has written and the descriptors that came with it.
#[inline]
pub(crate) fn decode_from<T: DeserializeOwned>(bytes: &[u8], handles: Bundle) -> Result<T, CodecError> {
    let fds = match handles.count() {
        // The usual case.
        0 => Vec::new(),
        _ => handles.untie().map_err(|error| {
            CodecError::new::<T>("cannot deserialise", format_args!("the handles in it can't be taken: {error}"))
        })?,
    };
    decode_with(bytes, fds)
}

/// Who refuses to take a value.
#[derive(Debug, thiserror::Error)]
#[doc(hidden)]
pub enum Refused {
    /// The format: it is the value's own fault.
    #[error(transparent)]
    ByFormat(#[from] CodecError),
    /// There is no memory, or no descriptor, for it.
    #[error("{what}: {source}")]
    BySystem { what: &'static str, source: io::Error },
}

impl Refused {
    fn by_system(what: &'static str) -> impl FnOnce(io::Error) -> Refused {
        move |source| Refused::BySystem { what, source }
    }

    /// As the error of starting the process `name`.
    pub(crate) fn at_start(self, name: &str) -> crate::Error {
        match self {
            Refused::ByFormat(source) => crate::Error::Arguments { process: name.into(), source },
            Refused::BySystem { what, source } => {
                crate::Error::Start { process: name.into(), what: what.into(), source }
            }
        }
    }
}

/// Encodes `value`, and sees whether that can be read, and as the same value.
fn write_and_try<T: Serialize + DeserializeOwned>(
    front: &[u8],
    value: &T,
    format: Format,
    known: Option<Format>,
) -> Result<(Bytes, Vec<OwnedFd>), Refused> {
    let (bytes, fds) = write(front, value, format)?;
    let large = bytes.len() > ALWAYS_TRIED && format == Format::Compact;
    if large && known == Some(format) {
        return Ok((bytes, fds));
    }
    let handles = fds.len();
    {
        let view = bytes.open().map_err(Refused::by_system("no memory to map it"))?;
        let view = &view[front.len()..];
        // What is refused for its emptiness gets a second chance.
        if !(large && handles == 0 && decode_bytes::<T>(view, Depth::Skim).is_ok()) {
            try_out(value, view, fds, format)?;
            if handles > 0 {
                return write(front, value, format);
            }
        }
    }
    Ok((bytes, Vec::new()))
}

fn try_out<T: Serialize + DeserializeOwned>(
    value: &T,
    bytes: &[u8],
    fds: Vec<OwnedFd>,
    format: Format,
) -> Result<(), CodecError> {
    let back: T = decode_with(bytes, fds)?;
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
        let _ = bag::look(|| std::fmt::write(&mut letters, format_args!("{:?}", serde_fmt::to_debug(value))));
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

fn write<T: Serialize>(front: &[u8], value: &T, format: Format) -> Result<(Bytes, Vec<OwnedFd>), Refused> {
    let mut sink = Sink::new();
    let write = || {
        // An error of the sink's is asked for below.
        let _ = sink.extend(front).and_then(|()| sink.extend(&[format as u8]));
        match format {
            Format::Compact => compact::to_output(value, &mut sink).map_err(|error| error.to_string()),
            Format::MessagePack => {
                let mut serializer = rmp_serde::Serializer::new(&mut sink).with_struct_map();
                value.serialize(&mut serializer).map_err(|error| error.to_string())
            }
        }
    };
    let (written, fds) = bag::fill(write);
    // What the system has refused is said by the serializer in its own way, if at all.
    let bytes = sink.finish().map_err(Refused::by_system("no memory file for its value"))?;
    let fds = fds.map_err(Refused::by_system("no descriptor for a duplicate of a handle"))?;
    written.map_err(|reason| CodecError::new::<T>("cannot serialise", reason))?;
    Ok((bytes, fds))
}

/// The value that [`encode`] was given, behind the `front` bytes of the front.
pub(crate) fn decode<T: DeserializeOwned>(payload: Payload, front: usize) -> Result<T, CodecError> {
    let cannot = |reason: &dyn ToString| CodecError::new::<T>("cannot deserialise", reason.to_string());
    let fds =
        payload.handles.untie().map_err(|error| cannot(&format_args!("the handles in it can't be taken: {error}")))?;
    let view = payload.bytes.open().map_err(|error| cannot(&error))?;
    decode_with(view.get(front..).unwrap_or_default(), fds)
}

/// The value that [`encode`] was given, from its bytes without a front, and the descriptors of its handles.
#[inline]
pub(crate) fn decode_with<T: DeserializeOwned>(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<T, CodecError> {
    let again = bytes.first() == Some(&(Format::MessagePack as u8));
    bag::empty(fds, again, || decode_bytes(bytes, Depth::Whole))
}

#[inline]
fn decode_bytes<T: DeserializeOwned>(bytes: &[u8], depth: Depth) -> Result<T, CodecError> {
    match bytes.split_first() {
        Some((&tag, rest)) if tag == Format::Compact as u8 => compact::from_bytes(rest, depth)
            .map_err(|error| CodecError::new::<T>("cannot deserialise", error.to_string())),
        _ => decode_self_describing(bytes),
    }
}

#[cold]
fn decode_self_describing<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let cannot = |reason: String| CodecError::new::<T>("cannot deserialise", reason);
    match bytes.split_first() {
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
            assert_eq!(decode::<T>(encode(b"front", &value).unwrap(), 5).unwrap(), value);
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
            let error = encode(&[], &(Untagged::Number(1.0), option)).unwrap_err().to_string();
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
        let error = encode(&[], &Unwilling).unwrap_err().to_string();
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
        assert!(encode(&[], &OneWay).unwrap_err().to_string().contains("cannot deserialise"));
    }

    type Writer = crate::Handle<io::PipeWriter>;

    /// What bytes say of handles, when `count` have come.
    fn forged<T: DeserializeOwned>(bytes: &[u8], count: usize) -> (Result<T, CodecError>, Vec<io::PipeReader>) {
        let (readers, writers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| io::pipe().unwrap()).map(|(reader, writer)| (reader, OwnedFd::from(writer))).unzip();
        let handles = Bundle::tie(writers).unwrap();
        (decode(Payload { bytes: Bytes::Inline(bytes.into()), handles }, 0), readers)
    }

    #[test]
    fn a_handle_that_is_missing_or_taken_is_an_error_and_the_others_are_closed() {
        for (bytes, count, what) in [
            (b"c\0\0", 1, "number 0 has been taken already"),
            (b"c\0\x05", 5, "no handle number 5"),
            (b"c\0\x01", 1, "no handle number 1"),
            (b"c\0\x64", 100, "no handle number 100"),
        ] {
            let (result, readers) = forged::<(Writer, Writer)>(bytes, count);
            assert!(result.unwrap_err().to_string().contains(what), "{what}");
            for mut reader in readers {
                assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
            }
        }
    }

    #[test]
    fn handles_that_nobody_takes_are_closed() {
        let (result, mut readers) = forged::<(Writer, Writer)>(b"c\x02\0", 3);
        let (mut third, mut first) = result.unwrap();
        for (reader, writer) in [(2, &mut third), (0, &mut first)] {
            io::Write::write_all(&mut **writer, b"x").unwrap();
            assert_eq!(io::Read::read(&mut readers[reader], &mut [0]).unwrap(), 1);
        }
        assert_eq!(io::Read::read(&mut readers[1], &mut [0]).unwrap(), 0);
    }

    #[test]
    fn what_nests_too_deep_is_an_error_and_no_overflow_of_the_stack() {
        // Lists with one element each.
        let bytes = |depth| [&b"m"[..], &vec![0x91; depth], &[0xCB], &0.5_f64.to_be_bytes()].concat();
        assert!(decode_bytes::<Untagged>(&bytes(DEEPEST - 10), Depth::Whole).is_ok());
        for depth in [DEEPEST + 10, 1000, 100_000] {
            assert!(decode_bytes::<Untagged>(&bytes(depth), Depth::Whole).is_err());
            assert!(decode_bytes::<serde_json::Value>(&bytes(depth), Depth::Whole).is_err());
        }
        let value = (0..200).fold(serde_json::json!(0), |inner, _| serde_json::json!([inner]));
        let error = encode(&[], &value).unwrap_err().to_string();
        assert!(error.contains("depth"), "{error}");
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Chain(Option<Box<Chain>>);

    #[test]
    fn what_is_too_much_for_the_compact_format_is_refused_and_not_sent_in_the_other() {
        let chain = |len| (0..len).fold(Chain(None), |inner, _| Chain(Some(inner.into())));
        let mut nothing = vec![(); 1 << 20];
        for _ in 0..2 {
            there_and_back(chain(200));
            let error = encode(&[], &chain(300)).unwrap_err().to_string();
            assert!(error.contains("too deep"), "{error}");
            there_and_back(nothing.clone());
            nothing.push(());
            let error = encode(&[], &nothing).unwrap_err().to_string();
            assert!(error.contains("empty"), "{error}");
            nothing.pop();
        }
        assert_eq!(encode(&[], &chain(1)).unwrap().bytes.open().unwrap()[0], Format::Compact as u8);
    }

    #[test]
    fn garbage_is_an_error() {
        let decode_all = |bytes: &[u8], front| {
            let payload = Payload { bytes: Bytes::Inline(bytes.into()), handles: Bundle::default() };
            decode::<(u8, String)>(payload, front)
        };
        for bytes in [&b""[..], b"x", b"c", b"c\xff\xff", b"m", b"m\xc1", b"c\x05\x21a", b"c\x05\x11ab"] {
            for front in [0, 1, 100] {
                assert!(decode_all(bytes, front).is_err(), "{bytes:?}");
            }
        }
        assert_eq!(decode_all(b"c\x05\x11a", 0).unwrap(), (5, "a".into()));
        assert!(decode_all(b"c\x05\x11ab", 0).unwrap_err().to_string().contains("too many"));
    }
}
