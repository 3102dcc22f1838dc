//! Encodes values into payloads and decodes them. The forms in which they travel are described in
//! FORMAT.md, in this folder.
//!
//! A value is written in the positional form ([`compact`]), which is fast, if its type reads
//! exactly what it writes; otherwise in the tagged form ([`tagged`]), with names and types, from
//! which every type can be read that a text format can carry.
//!
//! Which form a type needs can't be seen from outside, so the sender tries it: it reads the first
//! value of each shape from the encoded bytes and nothing else. In the positional form the trial
//! compares each call of the type's `Deserialize` with the call of its `Serialize` before it reads
//! anything, so the type is never given a number that means something else. A value that can't be
//! read in any form is an error of the call that sends it. Later values of the same type and shape
//! are not tried again in the same thread.
//!
//! Handles inside a value put duplicates of their descriptors into an [fd table](fd_table). The
//! trial uses these up, and the value is then encoded again; so the trial needs no more descriptors
//! than sending does.
//!
//! A panic in the type's `Serialize` or `Deserialize` is an error of the call.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use multiproc_os::memfd::Sealed;
use multiproc_shm::message::fd_bundle::FdBundle;
use multiproc_shm::message::payload::{Bytes, Payload, Sink};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::compact::{self, Output, Shape, Trace};
use super::fd_table;
use super::tagged::{self, Reading};

/// Why a value can't be serialised or deserialised.
///
/// A value may nest at most 512 levels deep, as a reader's stack is limited: lists, maps, structs,
/// tuples, enums with contents, `Some` and newtype wrappers count. A linked list of boxes reaches
/// that after 256 links, and is better sent as a `Vec`. Types that ask the format what comes next
/// (`serde_json::Value`, untagged enums, `flatten`) or that leave fields out may nest 128 levels
/// deep. At most about a million elements of a value may be empty, as `()` is.
///
/// A received value that could not be read is kept in the error: see
/// [`decode_as`](CodecError::decode_as).
#[derive(Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{what} {type_name}: {reason}")]
pub struct CodecError {
    what: Box<str>,
    type_name: Box<str>,
    reason: Box<str>,
    #[serde(skip)]
    bytes: Option<Arc<[u8]>>,
}

impl CodecError {
    pub(crate) fn new<T>(what: &str, reason: impl ToString) -> CodecError {
        let type_name = std::any::type_name::<T>().into();
        CodecError { what: what.into(), type_name, reason: reason.to_string().into(), bytes: None }
    }

    fn deserialising<T>(reason: impl ToString) -> CodecError {
        CodecError::new::<T>("cannot deserialise", reason)
    }

    fn serialising<T>(reason: impl ToString) -> CodecError {
        CodecError::new::<T>("cannot serialise", reason)
    }

    /// Keeps the bytes that could not be read, if there is memory for a copy.
    fn with_bytes(mut self, bytes: &[u8]) -> CodecError {
        let mut kept = Vec::new();
        if kept.try_reserve_exact(bytes.len()).is_ok() {
            kept.extend_from_slice(bytes);
            self.bytes = Some(kept.into());
        }
        self
    }

    /// Returns the encoded bytes of the received value that could not be read; `None` if the error
    /// is not about a received value, or if there was no memory to keep it.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.bytes.as_deref()
    }

    /// Reads the received value as another type, one that accepts what the first refused. Handles
    /// in the value are lost.
    ///
    /// # Errors
    /// The value can't be read as `U` either, or the error has none.
    ///
    /// ```
    /// use multiproc::queue::GetError;
    /// use multiproc::Queue;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Debug, Serialize, Deserialize)]
    /// #[serde(try_from = "u8", into = "u8")]
    /// #[derive(Clone)]
    /// struct Percent(u8);
    ///
    /// impl TryFrom<u8> for Percent {
    ///     type Error = String;
    ///
    ///     fn try_from(number: u8) -> Result<Percent, String> {
    ///         if number <= 100 { Ok(Percent(number)) } else { Err(format!("{number} %")) }
    ///     }
    /// }
    ///
    /// impl From<Percent> for u8 {
    ///     fn from(percent: Percent) -> u8 {
    ///         percent.0
    ///     }
    /// }
    ///
    /// let queue = Queue::new()?;
    /// queue.put(Percent(50))?;
    /// queue.put(Percent(150))?; // its type was tried with the first one
    /// assert_eq!(queue.get()?.0, 50);
    /// let Err(GetError::Decode(error)) = queue.get() else { panic!() };
    /// assert_eq!(error.decode_as::<u8>()?, 150);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn decode_as<U: DeserializeOwned>(&self) -> Result<U, CodecError> {
        match &self.bytes {
            Some(bytes) => decode_with(bytes, Vec::new()),
            None => Err(CodecError::deserialising::<U>("the error contains no received value")),
        }
    }
}

/// The form of a value, as the low half of its first byte. The high half is the [version](VERSION)
/// of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Form {
    Positional = 1,
    Tagged = 2,
    /// The tagged form, [read like text](Reading::LikeText).
    TaggedLikeText = 3,
}

/// The version of the format that FORMAT.md describes.
const VERSION: u8 = 1;

impl Form {
    const ALL: [Form; 3] = [Form::Positional, Form::Tagged, Form::TaggedLikeText];

    #[inline]
    const fn byte(self) -> u8 {
        VERSION << 4 | self as u8
    }

    fn of<T>(byte: u8) -> Result<Form, CodecError> {
        if byte >> 4 != VERSION {
            let theirs = byte >> 4;
            return Err(CodecError::deserialising::<T>(format_args!(
                "it is in version {theirs} of the format, and this program reads version {VERSION}: build both programs with the \
                 same version of multiproc"
            )));
        }
        let form = Form::ALL.into_iter().find(|form| form.byte() == byte);
        form.ok_or_else(|| CodecError::deserialising::<T>(format_args!("unknown form {byte:#04x}")))
    }
}

/// Encodes `value` after the bytes of `front`. [`decode`] returns the value in another process of
/// this program.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(front: &[u8], value: &T) -> Result<Payload, Refused> {
    let mut buffer = PayloadBuffer::new(front);
    let fds = encode_into(value, &mut buffer)?;
    let handles = match fds.is_empty() {
        true => FdBundle::default(),
        false => FdBundle::pack(fds).map_err(Refused::by_system("its handles could not be packed"))?,
    };
    let bytes = buffer.finish().map_err(Refused::by_system("no memory file for its value"))?;
    Ok(Payload { bytes, handles })
}

/// Encodes a value of one of this library's own types, all of which the positional form supports,
/// for [`unpack`].
pub(crate) fn pack(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    compact::to_output(value, &mut bytes).expect("our own messages are made of numbers, texts and lists");
    bytes
}

/// Decodes a value that [`pack`] has encoded.
pub(crate) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    compact::from_bytes(bytes).map_err(|error| CodecError::deserialising::<T>(error))
}

/// The destination to which [`encode_into`] writes a value, piece by piece.
pub(crate) trait Buffer: Output<Error = io::Error> {
    /// Removes all that was written.
    fn clear(&mut self);

    /// All that was written. Nothing may be written afterwards, except after
    /// [`clear`](Buffer::clear).
    fn written(&mut self) -> io::Result<&[u8]>;

    /// The system's error, which serializers reduce to a text or lose; none if there was none.
    fn failure(&mut self) -> Option<io::Error>;
}

/// The bytes of a payload while they are written, after the caller's front.
struct PayloadBuffer<'f> {
    front: &'f [u8],
    sink: Sink,
    /// The finished bytes, once they have been looked at.
    finished: Option<Bytes>,
    /// A mapping of the finished bytes, if they are in a file.
    view: Option<Sealed>,
}

impl<'f> PayloadBuffer<'f> {
    fn new(front: &'f [u8]) -> PayloadBuffer<'f> {
        PayloadBuffer { front, sink: PayloadBuffer::sink(front), finished: None, view: None }
    }

    fn sink(front: &[u8]) -> Sink {
        let mut sink = Sink::new();
        // An error is reported by the next call.
        let _ = sink.extend(front);
        sink
    }

    fn finish(self) -> io::Result<Bytes> {
        match self.finished {
            Some(bytes) => Ok(bytes),
            None => self.sink.finish(),
        }
    }
}

impl Output for PayloadBuffer<'_> {
    type Error = io::Error;

    #[inline]
    fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.extend(bytes)
    }
}

impl Buffer for PayloadBuffer<'_> {
    #[inline]
    fn clear(&mut self) {
        if self.finished.is_some() || !self.sink.holds_only(self.front.len()) {
            (self.sink, self.finished, self.view) = (PayloadBuffer::sink(self.front), None, None);
        }
    }

    fn written(&mut self) -> io::Result<&[u8]> {
        if self.finished.is_none() {
            self.finished = Some(std::mem::replace(&mut self.sink, Sink::new()).finish()?);
        }
        let all = match self.finished.as_ref().expect("it is finished") {
            Bytes::Inline(bytes) => bytes,
            Bytes::File { file, len } => match &mut self.view {
                Some(view) => &view[..],
                none => &none.insert(Sealed::map(file, *len)?)[..],
            },
            Bytes::Mapped(bytes) => &bytes[..],
        };
        Ok(&all[self.front.len()..])
    }

    #[inline]
    fn failure(&mut self) -> Option<io::Error> {
        self.sink.take_failure()
    }
}

/// As [`encode`], into the caller's buffer. Returns the descriptors of the handles in the value.
#[inline]
pub(crate) fn encode_into<T: Serialize + DeserializeOwned>(
    value: &T,
    buffer: &mut impl Buffer,
) -> Result<Vec<OwnedFd>, Refused> {
    let id = id_of::<T>();
    if TrialCache::contains(id, TrialCache::NEEDS_TAGS) {
        match encode_tagged(id, value, buffer) {
            // Some values of the type may not need tags, and may then nest deeper.
            Err(Refused::ByFormat(error)) if error.is_final() => {}
            done => return done,
        }
    }
    let written = write_with(buffer, Form::Positional, |buffer| compact::shape_to_output(value, buffer));
    match written {
        Ok((shape, fds)) if TrialCache::contains(id, shape.number()) => Ok(fds),
        Ok((shape, fds)) => try_positional(id, shape, value, buffer, fds),
        Err(stopped) => match stopped.of::<T>() {
            Refused::ByFormat(error) if !error.is_final() => encode_tagged(id, value, buffer),
            refused => Err(refused),
        },
    }
}

/// A number that stands for a type: the address of its `decode`. (A `TypeId` would require
/// `'static` types. Types that share the code share the outcome.)
#[inline]
fn id_of<T: DeserializeOwned>() -> u64 {
    let decode: fn(&[u8]) -> Result<T, CodecError> = decode_bytes::<T>;
    decode as usize as u64
}

/// Tries to read what was written in the positional form, if this is the first value of its shape.
#[cold]
fn try_positional<T: Serialize + DeserializeOwned>(
    id: u64,
    shape: Shape,
    value: &T,
    buffer: &mut impl Buffer,
    fds: Vec<OwnedFd>,
) -> Result<Vec<OwnedFd>, Refused> {
    if reads_what_it_writes(std::any::type_name::<T>()) {
        TrialCache::remember(id, shape.number());
        return Ok(fds);
    }
    if TrialCache::contains(id, !shape.number()) {
        return encode_tagged(id, value, buffer);
    }
    let handles = fds.len();
    let result = {
        let outline = catch_panic(|| fd_table::dry_run(|| tagged::outline(value)));
        let view = buffer.written().map_err(Refused::by_system("no memory to map it"))?;
        outline.and_then(|outline| {
            let read = || compact::from_bytes_traced::<T>(&view[1..], Trace::new(&outline));
            catch_panic(|| fd_table::decoding(fds, false, read)).map(drop)
        })
    };
    match result {
        Ok(()) => {
            TrialCache::remember(id, shape.number());
            match handles {
                0 => Ok(Vec::new()),
                // The trial has taken the descriptors.
                _ => match write_with(buffer, Form::Positional, |buffer| compact::shape_to_output(value, buffer)) {
                    Ok((again, fds)) if again == shape => Ok(fds),
                    Ok(_) => Err(changed::<T>()),
                    Err(stopped) => Err(stopped.of::<T>()),
                },
            }
        }
        Err(error) if compact::is_too_much(&error.to_string()) => Err(CodecError::serialising::<T>(error).into()),
        Err(error) => {
            let fds = encode_tagged(id, value, buffer)?;
            // Another value of the type may do without tags.
            let what = if compact::needs_tags(&error) { TrialCache::NEEDS_TAGS } else { !shape.number() };
            TrialCache::remember(id, what);
            Ok(fds)
        }
    }
}

#[cold]
fn encode_tagged<T: Serialize + DeserializeOwned>(
    id: u64,
    value: &T,
    buffer: &mut impl Buffer,
) -> Result<Vec<OwnedFd>, Refused> {
    let write = |buffer: &mut _, form| {
        write_with(buffer, form, |buffer| tagged::shape_to_output(value, buffer)).map_err(Stopped::of::<T>)
    };
    // Most values of a type are read in the same way, so that is tried first. But each shape is
    // checked, whatever was sent before.
    if TrialCache::contains(id, TrialCache::LIKE_TEXT) {
        let (shape, fds) = write(buffer, Form::TaggedLikeText)?;
        if TrialCache::contains(id, shape.number() ^ Form::TaggedLikeText as u64) {
            return Ok(fds);
        }
    }
    let mut refusal = None;
    for form in [Form::Tagged, Form::TaggedLikeText] {
        let (shape, fds) = write(buffer, form)?;
        let contains = shape.number() ^ form as u64;
        if TrialCache::contains(id, contains) {
            return Ok(fds);
        }
        let handles = fds.len();
        let view = buffer.written().map_err(Refused::by_system("no memory to map it"))?;
        match decode_with::<T>(view, fds) {
            Ok(_) => {
                if form == Form::TaggedLikeText {
                    TrialCache::remember(id, TrialCache::LIKE_TEXT);
                }
                TrialCache::remember(id, contains);
                if handles == 0 {
                    return Ok(Vec::new());
                }
                let (again, fds) = write(buffer, form)?;
                return if again == shape { Ok(fds) } else { Err(changed::<T>()) };
            }
            Err(error) if error.is_final() => return Err(error.into()),
            Err(error) => {
                refusal.get_or_insert(error);
            }
        }
    }
    let error = refusal.expect("one form was tried");
    Err(CodecError { bytes: None, ..error }.into())
}

/// The error for a value that was written differently after its trial.
fn changed<T>() -> Refused {
    CodecError::serialising::<T>("it is serialised differently each time").into()
}

impl CodecError {
    /// Whether any other form would fail in the same way.
    fn is_final(&self) -> bool {
        compact::is_too_much(&self.reason)
    }
}

/// Whether a type of this name consists only of types of the standard library that read exactly
/// what they write, and accept every value. The name is only a hint, used only to skip a trial: the
/// receiver compares the shapes in any case.
fn reads_what_it_writes(name: &str) -> bool {
    /// Removes one type from the front of `name`.
    fn one(name: &str) -> Option<&str> {
        const NUMBERS: [&str; 17] = [
            "u8",
            "u16",
            "u32",
            "u64",
            "u128",
            "usize",
            "i8",
            "i16",
            "i32",
            "i64",
            "i128",
            "isize",
            "f32",
            "f64",
            "bool",
            "char",
            "alloc::string::String",
        ];
        const WRAPPERS: [&str; 3] = ["alloc::vec::Vec<", "core::option::Option<", "alloc::boxed::Box<"];
        if let Some(mut rest) = name.strip_prefix('(') {
            while !rest.starts_with(')') {
                rest = one(rest)?;
                rest = rest.strip_prefix(", ").or(rest.strip_prefix(',')).unwrap_or(rest);
            }
            return rest.strip_prefix(')');
        }
        if let Some(inner) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
            return one(inner)?.strip_prefix('>');
        }
        let end = name.find([',', ')', '>']).unwrap_or(name.len());
        let (word, rest) = name.split_at(end);
        NUMBERS.contains(&word).then_some(rest)
    }
    one(name) == Some("")
}

/// Why a value could not be encoded. The type is added later.
enum Stopped {
    ByFormat(String),
    BySystem(Refused),
}

impl Stopped {
    fn of<T>(self) -> Refused {
        match self {
            Stopped::ByFormat(reason) => CodecError::serialising::<T>(reason).into(),
            Stopped::BySystem(refused) => refused,
        }
    }
}

#[inline]
fn write_with<D: Buffer, R>(
    buffer: &mut D,
    form: Form,
    write: impl FnOnce(&mut D) -> Result<R, compact::Error>,
) -> Result<(R, Vec<OwnedFd>), Stopped> {
    buffer.clear();
    let (written, fds) = fd_table::encoding(|| {
        // The buffer's error is checked below.
        let _ = buffer.extend(&[form.byte()]);
        catch_panic(|| write(buffer))
    });
    if let Some(failure) = buffer.failure() {
        return Err(Stopped::BySystem(Refused::by_system("no memory for its value")(failure)));
    }
    let duplicates = |error| Stopped::BySystem(Refused::by_system("no descriptor for a duplicate of a handle")(error));
    let fds = fds.map_err(duplicates)?;
    Ok((written.map_err(|error| Stopped::ByFormat(error.to_string()))?, fds))
}

thread_local! {
    static PANICS_PASS: Cell<bool> = const { Cell::new(false) };
}

/// Calls `call`; panics of user code in it pass through, in place of becoming errors. For a child
/// process, which reports them as panics, with their location.
pub(crate) fn let_panics_pass<R>(call: impl FnOnce() -> R) -> R {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            PANICS_PASS.set(self.0);
        }
    }
    let _reset = Reset(PANICS_PASS.replace(true));
    call()
}

/// Calls user code, and turns a panic in it into an error.
#[inline]
fn catch_panic<R>(call: impl FnOnce() -> Result<R, compact::Error>) -> Result<R, compact::Error> {
    // Unwind safety: what the code was working on is dropped, or belongs to the caller, which gets
    // an error.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        if PANICS_PASS.get() {
            resume_unwind(panic);
        }
        let message = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        let message = message.unwrap_or("no message");
        Err(serde::ser::Error::custom(format_args!("its code panicked: {message}")))
    })
}

/// The types and shapes that have passed a trial in this thread: a small cache.
struct TrialCache;

impl TrialCache {
    /// Stands for a shape: the type asks what comes next.
    const NEEDS_TAGS: u64 = 0x5e1f_de5c_0000_0001;

    /// Stands for a shape: the type can only be read like text.
    const LIKE_TEXT: u64 = 0x5e1f_de5c_0000_0002;

    /// Number of rows, of two entries each.
    const ROWS: usize = 64;

    fn row(id: u64, shape: u64) -> (usize, u64) {
        let key = (id ^ shape.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        ((key >> 58) as usize % TrialCache::ROWS, key)
    }

    #[inline]
    fn contains(id: u64, shape: u64) -> bool {
        let (row, key) = TrialCache::row(id, shape);
        CACHE.with(|tried| tried[row][0].get() == key || tried[row][1].get() == key)
    }

    /// Replaces the older of a row's two entries.
    fn remember(id: u64, shape: u64) {
        let (row, key) = TrialCache::row(id, shape);
        CACHE.with(|tried| {
            let [newer, older] = &tried[row];
            if newer.get() != key {
                older.set(newer.replace(key));
            }
        });
    }
}

thread_local! {
    static CACHE: [[Cell<u64>; 2]; TrialCache::ROWS] = const { [const { [const { Cell::new(0) }; 2] }; TrialCache::ROWS] };
}

/// Decodes a value that [`encode_into`] has encoded, from its bytes and the descriptors that came
/// with them.
#[inline]
pub(crate) fn decode_from<T: DeserializeOwned>(bytes: &[u8], handles: FdBundle) -> Result<T, CodecError> {
    let fds = match handles.count() {
        // The usual case.
        0 => Vec::new(),
        _ => handles.unpack().map_err(|error| {
            CodecError::deserialising::<T>(format_args!("the handles in it can't be taken: {error}"))
        })?,
    };
    decode_with(bytes, fds)
}

/// Why a value is refused.
#[derive(Debug, thiserror::Error)]
#[doc(hidden)]
pub enum Refused {
    /// The format can't represent it, or its type refuses it.
    #[error(transparent)]
    ByFormat(#[from] CodecError),
    /// There is no memory or no descriptor for it.
    #[error("{what}: {source}")]
    BySystem { what: &'static str, source: io::Error },
}

impl Refused {
    fn by_system(what: &'static str) -> impl FnOnce(io::Error) -> Refused {
        move |source| Refused::BySystem { what, source }
    }
}

/// Decodes a value that [`encode`] has encoded, after `front` bytes of the front.
pub(crate) fn decode<T: DeserializeOwned>(payload: Payload, front: usize) -> Result<T, CodecError> {
    let cannot = |reason: &dyn ToString| CodecError::deserialising::<T>(reason.to_string());
    let fds =
        payload.handles.unpack().map_err(|error| cannot(&format_args!("the handles in it can't be taken: {error}")))?;
    let view = payload.bytes.open().map_err(|error| cannot(&error))?;
    decode_with(view.get(front..).unwrap_or_default(), fds)
}

/// Decodes a value that [`encode`] has encoded, from its bytes without a front and the descriptors
/// of its handles.
#[inline]
pub(crate) fn decode_with<T: DeserializeOwned>(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<T, CodecError> {
    let again = bytes.first() != Some(&Form::Positional.byte());
    fd_table::decoding(fds, again, || decode_bytes(bytes))
}

#[inline]
fn decode_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let result = match bytes.split_first() {
        Some((&form, rest)) if form == Form::Positional.byte() => catch_panic(|| compact::from_bytes(rest)),
        _ => return decode_tagged(bytes),
    };
    result.map_err(|error| undecodable::<T>(bytes, &error))
}

#[cold]
fn decode_tagged<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let Some((form, rest)) = bytes.split_first() else { return Err(CodecError::deserialising::<T>("no bytes")) };
    let reading = match Form::of::<T>(*form)? {
        Form::TaggedLikeText => Reading::LikeText,
        Form::Tagged | Form::Positional => Reading::Exact,
    };
    catch_panic(|| tagged::from_bytes(rest, reading)).map_err(|error| undecodable::<T>(bytes, &error))
}

#[cold]
fn undecodable<T>(bytes: &[u8], error: &compact::Error) -> CodecError {
    CodecError::deserialising::<T>(error).with_bytes(bytes)
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
    fn self_describing_types() {
        there_and_back(Untagged::List(vec![Untagged::Number(0.5), Untagged::Text { text: "x".into() }]));
        there_and_back(vec![Tagged::A { n: 7 }, Tagged::B]);
        there_and_back(Flat { n: 1, rest: HashMap::from([("a".into(), 2)]) });
        there_and_back(serde_json::json!({"a": [1, 2.5, null, {"b": "c"}]}));
    }

    #[test]
    fn nested_options() {
        there_and_back((Untagged::Number(1.0), vec![None::<()>], Some(1), HashMap::from([(1, 2), (3, 4), (5, 6)])));
        for option in [Some(Some(())), Some(None), None] {
            there_and_back((Untagged::Number(1.0), option));
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
    fn encode_error() {
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
    fn decode_error_in_sender() {
        assert!(encode(&[], &OneWay).unwrap_err().to_string().contains("cannot deserialise"));
    }

    type Writer = crate::Handle<io::PipeWriter>;

    /// Decodes bytes that refer to the handles `indices`, when `count` handles have arrived.
    fn forged<T: DeserializeOwned>(indices: &[u8], count: usize) -> (Result<T, CodecError>, Vec<io::PipeReader>) {
        let (readers, writers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| io::pipe().unwrap()).map(|(reader, writer)| (reader, OwnedFd::from(writer))).unzip();
        let handles = FdBundle::pack(writers).unwrap();
        let writer = || Writer::new(io::pipe().unwrap().1);
        let bytes = encode(&[], &(writer(), writer())).unwrap().bytes.open().unwrap().to_vec();
        let bytes = [&bytes[..1], indices, &bytes[3..]].concat();
        (decode(Payload { bytes: Bytes::Inline(bytes), handles }, 0), readers)
    }

    #[test]
    fn missing_handle() {
        for (bytes, count, what) in [
            (&[0, 0][..], 1, "number 0 has been taken already"),
            (&[0, 5], 5, "no handle number 5"),
            (&[0, 1], 1, "no handle number 1"),
            (&[0, 100], 100, "no handle number 100"),
        ] {
            let (result, readers) = forged::<(Writer, Writer)>(bytes, count);
            assert!(result.unwrap_err().to_string().contains(what), "{what}");
            for mut reader in readers {
                assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
            }
        }
    }

    #[test]
    fn untaken_handles_are_closed() {
        let (result, mut readers) = forged::<(Writer, Writer)>(&[2, 0], 3);
        let (mut third, mut first) = result.unwrap();
        for (reader, writer) in [(2, &mut third), (0, &mut first)] {
            io::Write::write_all(&mut **writer, b"x").unwrap();
            assert_eq!(io::Read::read(&mut readers[reader], &mut [0]).unwrap(), 1);
        }
        assert_eq!(io::Read::read(&mut readers[1], &mut [0]).unwrap(), 0);
    }

    #[test]
    fn nesting_limit() {
        // Lists with one element each: the tag of a list is 8, that of an `f64` 0x2c.
        let bytes = |depth| {
            [&[Form::Tagged.byte()][..], &vec![8; depth], &[0x2C], &0.5_f64.to_le_bytes(), &vec![0; depth]].concat()
        };
        assert!(decode_bytes::<Untagged>(&bytes(100)).is_ok());
        for depth in [130, 1000, 100_000] {
            assert!(decode_bytes::<Untagged>(&bytes(depth)).is_err());
            assert!(decode_bytes::<serde_json::Value>(&bytes(depth)).is_err());
            assert!(decode_bytes::<serde::de::IgnoredAny>(&bytes(depth)).is_err());
        }
        let value = (0..200).fold(serde_json::json!(0), |inner, _| serde_json::json!([inner]));
        let error = encode(&[], &value).unwrap_err().to_string();
        assert!(error.contains("too deep"), "{error}");
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Chain(Option<Box<Chain>>);

    #[test]
    fn limits_of_the_compact_format() {
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
        assert_eq!(encode(&[], &chain(1)).unwrap().bytes.open().unwrap()[0], Form::Positional.byte());
    }

    #[test]
    fn garbage() {
        let decode_all = |bytes: &[u8], front| {
            let payload = Payload { bytes: Bytes::Inline(bytes.into()), handles: FdBundle::default() };
            decode::<(u8, String)>(payload, front)
        };
        let good = encode(&[], &(5_u8, "a".to_owned())).unwrap().bytes.open().unwrap().to_vec();
        assert_eq!(decode_all(&good, 0).unwrap(), (5, "a".into()));
        let all =
            [vec![], b"x".to_vec(), vec![0x11], vec![0x12], vec![0x12, 0xC1], [&good[..], b"b"].concat(), vec![0; 9]];
        for bytes in all.iter().map(Vec::as_slice).chain((0..good.len()).map(|len| &good[..len])) {
            for front in [0, 1, 100] {
                assert!(decode_all(bytes, front).is_err(), "{bytes:?}");
            }
        }
        for index in 0..good.len() {
            let mut bytes = good.clone();
            bytes[index] ^= 0x40;
            // Either another value of the type, or an error.
            let _ = decode_all(&bytes, 0);
        }
    }

    #[test]
    fn wrong_version() {
        let mut bytes = encode(&[], &7_u8).unwrap().bytes.open().unwrap().to_vec();
        bytes[0] = bytes[0] & 0xF | (VERSION + 1) << 4;
        let error = decode_bytes::<u8>(&bytes).unwrap_err().to_string();
        assert!(
            error.contains("version 2 of the format") && error.contains("the same version of multiproc"),
            "{error}"
        );
    }

    #[test]
    fn std_types() {
        fn contains<T>() -> bool {
            reads_what_it_writes(std::any::type_name::<T>())
        }
        assert!(contains::<()>() && contains::<u8>() && contains::<String>() && contains::<Vec<Vec<f64>>>());
        assert!(contains::<(u8,)>() && contains::<(Vec<u8>, Option<Box<(i32, char)>>)>());
        struct Mine;
        assert!(
            !contains::<Mine>()
                && !contains::<Vec<Mine>>()
                && !contains::<(u8, Mine)>()
                && !contains::<Option<(Mine,)>>()
        );
        assert!(
            !contains::<std::num::NonZero<u8>>()
                && !contains::<&str>()
                && !contains::<HashMap<u8, u8>>()
                && !contains::<[u8; 3]>()
        );
        for odd in ["", "(", "u8)", "(u8", "alloc::vec::Vec<u8", "alloc::vec::Vec<>", "u8u8", "Vec<u8>"] {
            assert!(!reads_what_it_writes(odd), "{odd}");
        }
    }
}
