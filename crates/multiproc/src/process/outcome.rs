//! How a target's result is sent back: as itself if it is a serde type; an error that is not a
//! serde type is sent as its text.
//!
//! A target may return any serde type. Most error types are not serde types, so a `Result` with an
//! error that implements [`ErrorChain`] is accepted too: its error arrives as a [`RemoteError`],
//! which contains the messages of the error and of its sources.
//!
//! ```
//! use multiproc::Process;
//!
//! fn port(text: String) -> Result<u16, Box<dyn std::error::Error>> {
//!     Ok(text.parse()?)
//! }
//!
//! # #[multiproc::main]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let child = Process::new(port, ("eighty".to_owned(),)).start()?;
//! let error = child.join()?.unwrap_err();
//! assert_eq!(error.to_string(), "invalid digit found in string");
//! # Ok(())
//! # }
//! ```

use std::error::Error;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::ser::Impossible;
use serde::{Deserialize, Serialize, Serializer};

use crate::transfer::fd_table;

/// The types that a target may return. `Via` is [`Serialized`], [`Chained`] or [`Diverging`], and
/// follows from the type.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't travel back from the process that returns it",
    label = "the target's result can't be sent",
    note = "derive `serde::Serialize` and `serde::Deserialize` for it",
    note = "if it is a `Result` and its error type is not a serde type: return `Box<dyn std::error::Error>`, or implement \
            `multiproc::process::outcome::ErrorChain` for the error, and it arrives as a `multiproc::process::RemoteError`",
    note = "if it is a future: a target is not an `async fn`; have a `fn` build a runtime and block on the future there, as in \
            `tokio::runtime::Runtime::new()?.block_on(..)`"
)]
pub trait Outcome<Via>: Sized {
    /// The type that [`Child::join`](crate::Child::join) returns for it.
    type Value: Serialize + DeserializeOwned;

    /// Returns the value that is sent, and the error's text if the target failed.
    #[doc(hidden)]
    fn settle(self) -> (Self::Value, Option<String>);
}

/// Marks serde types: they arrive as they are.
#[derive(Debug, Clone, Copy)]
pub enum Serialized {}

/// Marks a `Result` with an error that is not a serde type: the error's messages arrive.
#[derive(Debug, Clone, Copy)]
pub enum Chained {}

/// Marks targets that never return, such as `fn serve() -> !`.
#[derive(Debug, Clone, Copy)]
pub enum Diverging {}

/// The value of a target that never returns. No value of this type exists, so `join` always returns
/// an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Never {}

impl Serialize for Never {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        match *self {}
    }
}

impl<'de> Deserialize<'de> for Never {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Never, D::Error> {
        Err(serde::de::Error::custom("a value of this type can't exist"))
    }
}

/// Names the type `!`, which stable Rust allows only as a return type.
#[doc(hidden)]
pub trait Returns {
    /// The return type of the function type.
    type Type;
}

impl<T> Returns for fn() -> T {
    type Type = T;
}

impl Outcome<Diverging> for <fn() -> ! as Returns>::Type {
    type Value = Never;

    fn settle(self) -> (Never, Option<String>) {
        self
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Outcome<Serialized> for T {
    type Value = T;

    fn settle(self) -> (T, Option<String>) {
        let failure = fd_table::dry_run(|| self.serialize(Probe { inside: false })).ok().flatten();
        (self, failure)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned, E: ErrorChain> Outcome<Chained> for Result<T, E> {
    type Value = Result<T, RemoteError>;

    fn settle(self) -> (Result<T, RemoteError>, Option<String>) {
        match self {
            Ok(value) => (Ok(value), None),
            Err(error) => {
                let error = error.to_remote();
                let text = error.report().to_string();
                (Err(error), Some(text))
            }
        }
    }
}

/// An error that is sent as its messages.
///
/// Implemented for boxed errors and the common error types of the standard library. Implement it
/// for your own error types to have them sent this way:
///
/// ```
/// use multiproc::process::{RemoteError, outcome::ErrorChain};
///
/// #[derive(Debug)]
/// struct TooHot;
/// # impl std::fmt::Display for TooHot {
/// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("too hot") }
/// # }
/// impl std::error::Error for TooHot {}
///
/// impl ErrorChain for TooHot {
///     fn to_remote(&self) -> RemoteError {
///         RemoteError::new(self)
///     }
/// }
/// ```
pub trait ErrorChain {
    /// Returns the messages of the error and its sources: [`RemoteError::new`].
    fn to_remote(&self) -> RemoteError;
}

macro_rules! error_chain {
    ($($error:ty),* $(,)?) => {
        $(impl ErrorChain for $error {
            fn to_remote(&self) -> RemoteError {
                RemoteError::new(self)
            }
        })*
    };
}

error_chain!(
    crate::process::error::ChildError,
    crate::CreateError,
    crate::channel::queue_error::GetError,
    crate::JoinError,
    crate::channel::queue_error::PutErrorKind,
    crate::channel::error::RecvError,
    crate::process::scope::ScopeError,
    crate::channel::error::SendErrorKind,
    crate::start::error::StartError,
    crate::process::error::WaitAllError,
    crate::sync::BarrierError,
    crate::sync::ConditionError,
    crate::sync::Misuse,
    crate::sync::ReleaseError,
    crate::sync::WaitError,
    std::char::ParseCharError,
    std::env::VarError,
    std::fmt::Error,
    std::io::Error,
    std::net::AddrParseError,
    std::num::ParseFloatError,
    std::num::ParseIntError,
    std::num::TryFromIntError,
    std::str::ParseBoolError,
    std::str::Utf8Error,
    std::string::FromUtf8Error,
    std::sync::mpsc::RecvError,
    std::time::SystemTimeError,
);

/// Without the item.
impl<T: 'static> ErrorChain for crate::channel::queue_error::PutError<T> {
    fn to_remote(&self) -> RemoteError {
        RemoteError::new(self)
    }
}

/// Without the value.
impl<T: 'static> ErrorChain for crate::channel::error::SendError<T> {
    fn to_remote(&self) -> RemoteError {
        RemoteError::new(self)
    }
}

macro_rules! boxed_error_chain {
    ($($error:ty),* $(,)?) => {
        $(impl ErrorChain for Box<$error> {
            fn to_remote(&self) -> RemoteError {
                RemoteError::new(&**self)
            }
        })*
    };
}

boxed_error_chain!(dyn Error, dyn Error + Send, dyn Error + Send + Sync);

#[cfg(feature = "anyhow")]
impl ErrorChain for anyhow::Error {
    fn to_remote(&self) -> RemoteError {
        RemoteError::new(&**self)
    }
}

/// An error from another process: its message and those of its sources.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteError {
    message: String,
    source: Option<Box<RemoteError>>,
}

impl RemoteError {
    /// The most messages that are kept.
    const DEPTH: usize = 64;

    /// Takes the messages of `error` and of its sources.
    pub fn new(error: &(dyn Error + 'static)) -> RemoteError {
        let messages: Vec<String> =
            std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source())
                .take(RemoteError::DEPTH)
                .map(|error| error.to_string())
                .collect();
        let chain =
            messages.into_iter().rev().fold(None, |source, message| Some(Box::new(RemoteError { message, source })));
        *chain.expect("a chain has at least one message")
    }

    /// Displays the error and its sources, one per line.
    pub fn report(&self) -> impl fmt::Display + '_ {
        Report(self)
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for RemoteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

struct Report<'a>(&'a RemoteError);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut source = self.0.source.as_deref();
        while let Some(error) = source {
            write!(f, "\n  caused by: {error}")?;
            source = error.source.as_deref();
        }
        Ok(())
    }
}

/// A serializer that writes nothing: it only finds out whether the value is the `Err` of a
/// `Result`, and if so, the error's text.
///
/// This checks any serde type for being an error without a trait bound that other types could not
/// satisfy.
struct Probe {
    /// Whether the value is the error inside `Err`.
    inside: bool,
}

/// The error's text; `None` if the value is not an error. `Err(Nothing)` means the same as `None`
/// and stops the serialization early.
type Probed = Result<Option<String>, Nothing>;

#[derive(Debug)]
struct Nothing;

impl fmt::Display for Nothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no error")
    }
}

impl Error for Nothing {}

impl serde::ser::Error for Nothing {
    fn custom<T: fmt::Display>(_: T) -> Nothing {
        Nothing
    }
}

macro_rules! no_error {
    ($($method:ident($($arg:ty),*);)*) => {
        $(fn $method(self, $(_: $arg),*) -> Probed {
            Ok(None)
        })*
    };
}

macro_rules! no_error_inside {
    ($($method:ident($($arg:ty),*) -> $kind:ident;)*) => {
        $(fn $method(self, $(_: $arg),*) -> Result<Self::$kind, Nothing> {
            Err(Nothing)
        })*
    };
}

impl Serializer for Probe {
    type Ok = Option<String>;
    type Error = Nothing;
    type SerializeSeq = Impossible<Option<String>, Nothing>;
    type SerializeTuple = Impossible<Option<String>, Nothing>;
    type SerializeTupleStruct = Impossible<Option<String>, Nothing>;
    type SerializeTupleVariant = Impossible<Option<String>, Nothing>;
    type SerializeMap = Impossible<Option<String>, Nothing>;
    type SerializeStruct = Impossible<Option<String>, Nothing>;
    type SerializeStructVariant = Impossible<Option<String>, Nothing>;

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Probed {
        if self.inside || name != "Result" || variant != "Err" {
            return Ok(None);
        }
        let text = value.serialize(Probe { inside: true }).ok().flatten();
        Ok(Some(text.unwrap_or_else(|| serde_fmt::to_debug(value).to_string())))
    }

    fn serialize_str(self, text: &str) -> Probed {
        Ok(self.inside.then(|| text.to_owned()))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Probed {
        if self.inside { value.serialize(self) } else { Ok(None) }
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Probed {
        Ok(None)
    }

    no_error! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_char(char);
        serialize_bytes(&[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(&'static str);
        serialize_unit_variant(&'static str, u32, &'static str);
    }

    no_error_inside! {
        serialize_seq(Option<usize>) -> SerializeSeq;
        serialize_tuple(usize) -> SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant;
        serialize_map(Option<usize>) -> SerializeMap;
        serialize_struct(&'static str, usize) -> SerializeStruct;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant;
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure<T: Outcome<Serialized>>(value: T) -> Option<String> {
        value.settle().1
    }

    #[test]
    fn result_err() {
        assert_eq!(failure(Ok::<u8, String>(1)), None);
        assert_eq!(failure(Err::<u8, _>("no luck".to_owned())), Some("no luck".into()));
        assert_eq!(failure(Err::<(), u32>(7)), Some("7".into()));

        #[derive(Serialize, Deserialize)]
        struct Detailed {
            line: u32,
        }
        assert_eq!(failure(Err::<(), _>(Detailed { line: 3 })), Some("Detailed { line: 3 }".into()));
    }

    #[test]
    fn other_values() {
        assert_eq!(failure(()), None);
        assert_eq!(failure("text".to_owned()), None);
        assert_eq!(failure(vec![Err::<u8, u8>(1)]), None);
        assert_eq!(failure(Some(Err::<u8, u8>(1))), None);
        assert_eq!(failure(Ok::<Result<u8, u8>, u8>(Err(1))), None);
        assert_eq!(failure((1, [2.0], std::collections::BTreeMap::from([("k".to_owned(), 'v')]))), None);
    }

    #[test]
    fn chain_round_trip() {
        let source = std::io::Error::other("the disk is full");
        let error: Result<(), Box<dyn Error>> =
            Err(Box::new(crate::start::error::StartError::Io { process: "P".into(), what: "memory".into(), source }));
        let (value, text) = Outcome::<Chained>::settle(error);
        let remote = value.unwrap_err();
        assert_eq!(remote.source().unwrap().to_string(), "the disk is full");
        assert!(text.unwrap().ends_with("\n  caused by: the disk is full"));
    }
}
