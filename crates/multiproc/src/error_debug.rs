//! `Debug` of all public errors, which prints the error's message.
//!
//! `fn main() -> Result<(), E>` and `Result::unwrap` print an error with [`Debug`](fmt::Debug), and
//! that output should help the user: the text of [`Display`](fmt::Display), then the causes that
//! this text doesn't contain, one on each line. What a derived `Debug` would show in addition is
//! available in the variant and its fields, by matching.
//!
//! All errors are listed here, so that the test below can tell when one is missing.

use std::error::Error as StdError;
use std::fmt;

/// Implements `Debug` for error types. Errors that hold a value don't show it, and don't require
/// its `Debug`.
macro_rules! debug_as_message {
    ($($([$parameter:ident])? $name:ident: $error:ty),* $(,)?) => {
        $(
            impl $(<$parameter>)? fmt::Debug for $error {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    write(f, self, self.source())
                }
            }
        )*
        #[cfg(test)]
        const LISTED: &[&str] = &[$(stringify!($name)),*];
    };
}

debug_as_message! {
    Error: crate::Error,
    CodecError: crate::CodecError,
    CreateError: crate::CreateError,
    // Processes.
    StartError: crate::start::error::StartError,
    HandshakeError: crate::start::error::HandshakeError,
    HandshakeErrorKind: crate::start::error::HandshakeErrorKind,
    ChildError: crate::process::error::ChildError,
    WaitAllError: crate::process::error::WaitAllError,
    JoinError: crate::JoinError,
    RemoteError: crate::process::outcome::RemoteError,
    ScopeError: crate::process::scope::ScopeError,
    HostInstalled: crate::process::HostInstalled,
    // Queues and connections.
    [T] PutError: crate::channel::queue_error::PutError<T>,
    PutErrorKind: crate::channel::queue_error::PutErrorKind,
    GetError: crate::channel::queue_error::GetError,
    [T] SendError: crate::channel::error::SendError<T>,
    SendErrorKind: crate::channel::error::SendErrorKind,
    RecvError: crate::channel::error::RecvError,
    RecvErrorKind: crate::channel::error::RecvErrorKind,
    ConnectError: crate::channel::link_error::ConnectError,
    ConnectErrorKind: crate::channel::link_error::ConnectErrorKind,
    ListenError: crate::channel::link_error::ListenError,
    ListenErrorKind: crate::channel::link_error::ListenErrorKind,
    Refusal: crate::channel::link_error::Refusal,
    RefusalReason: crate::channel::link_error::RefusalReason,
    // Shared memory.
    MemoryError: crate::shared::error::MemoryError,
    FreezeError: crate::shared::error::FreezeError,
    NameError: crate::shared::names::NameError,
    NameRefusal: crate::shared::names::NameRefusal,
    ShareableListError: crate::shared::shareable_list::ShareableListError,
    // Locks.
    [G] LockError: crate::sync::LockError<G>,
    [G] Poisoned: crate::sync::Poisoned<G>,
    Misuse: crate::sync::Misuse,
    ConditionError: crate::sync::ConditionError,
    WaitError: crate::sync::WaitError,
    ReleaseError: crate::sync::ReleaseError,
    BarrierError: crate::sync::BarrierError,
}

/// This is not an error itself, but is printed like one.
impl fmt::Debug for crate::spec::status::JoinErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self, None)
    }
}

/// Writes the message, and the causes that it doesn't contain.
fn write(
    f: &mut fmt::Formatter<'_>,
    message: &dyn fmt::Display,
    cause: Option<&(dyn StdError + 'static)>,
) -> fmt::Result {
    /// How many causes are followed at most: a chain of a foreign error type need not end.
    const DEPTH: usize = 64;

    let mut said = message.to_string();
    f.write_str(&said)?;
    for cause in std::iter::successors(cause, |cause: &&(dyn StdError + 'static)| (*cause).source()).take(DEPTH) {
        let text = cause.to_string();
        if !said.contains(&text) {
            write!(f, "\n  caused by: {text}")?;
            said = text;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::Error;
    use crate::process::{RemoteError, StartError};
    use crate::queue::GetError;

    /// The names of the public types that implement `std::error::Error` in this crate's sources.
    fn errors_in(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                errors_in(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("error_debug.rs") {
                errors_of(&std::fs::read_to_string(path).unwrap(), found);
            }
        }
    }

    fn errors_of(source: &str, found: &mut BTreeSet<String>) {
        let name = |text: &str| text.chars().take_while(|char| char.is_alphanumeric()).collect::<String>();
        let public = |name: &str| {
            source.contains(&format!("pub enum {name} "))
                || source.contains(&format!("pub struct {name} "))
                || source.contains(&format!("pub struct {name}("))
                || source.contains(&format!("pub enum {name}<"))
                || source.contains(&format!("pub struct {name}<"))
        };
        let mut hidden = false;
        let mut derives = false;
        for line in source.lines().map(str::trim_start) {
            derives |= line.starts_with("#[derive(") && line.contains("thiserror::Error");
            hidden |= line == "#[doc(hidden)]";
            if let Some(item) = line.strip_prefix("pub enum ").or(line.strip_prefix("pub struct ")) {
                if derives && !hidden {
                    found.insert(name(item));
                }
                (derives, hidden) = (false, false);
            } else if line.starts_with("pub(crate) enum ") || line.starts_with("pub(crate) struct ") {
                (derives, hidden) = (false, false);
            } else if line.starts_with("impl")
                && let Some((_, implementor)) =
                    line.split_once(" std::error::Error for ").or(line.split_once(" Error for "))
                && !line.contains("ser::Error")
                && !line.contains("de::Error")
                && public(&name(implementor))
            {
                found.insert(name(implementor));
            }
        }
    }

    #[test]
    fn every_public_error_is_covered() {
        let mut found = BTreeSet::new();
        errors_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        let listed: BTreeSet<String> = LISTED.iter().map(|name| name.to_string()).collect();
        assert!(found.len() >= 30, "the sources aren't read: {found:?}");
        assert_eq!(found, listed, "errors in the sources, and those with a `Debug` in this file");
    }

    #[test]
    fn search_finds_each_form() {
        let mut found = BTreeSet::new();
        let source = "#[derive(Clone, thiserror::Error)]\n#[non_exhaustive]\npub enum A {\n}\n\
                      pub struct B<T> {\n}\nimpl<T> std::error::Error for B<T> {}\n\
                      pub struct C(u32);\nimpl Error for C {}\n\
                      #[derive(thiserror::Error)]\n#[doc(hidden)]\npub enum D {}\n\
                      #[derive(thiserror::Error)]\npub(crate) enum E {}\npub struct F {}\n\
                      pub struct G {}\nimpl serde::ser::Error for G {}";
        errors_of(source, &mut found);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["A", "B", "C"]);
    }

    #[test]
    fn debug_is_the_message() {
        let error = StartError::NoEntry { process: "Process-1".into() };
        assert_eq!(format!("{error:?}"), error.to_string());
        assert!(error.to_string().contains("#[multiproc::main]") && error.to_string().contains("multiproc::init()"));
        assert!(error.to_string().contains("#[multiproc::test]"));
        // Also when pretty-printed, because an application may print its own error around this one
        // so.
        assert_eq!(format!("{:#?}", GetError::Empty), "the queue is empty");
        // The cause is part of the message, so it isn't repeated.
        let source = io::Error::from_raw_os_error(libc::EMFILE);
        let error = Error::from(StartError::Io { process: "p".into(), what: "its pipe".into(), source });
        assert_eq!(format!("{error:?}"), "cannot start p: its pipe: Too many open files (os error 24)");
    }

    #[test]
    fn debug_shows_sources() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Level(&'static str, #[source] Option<Box<Level>>);

        let chain = Level("outer", Some(Level("middle", Some(Level("inner", None).into())).into()));
        let error = RemoteError::new(&chain);
        assert_eq!(format!("{error:?}"), "outer\n  caused by: middle\n  caused by: inner");
        assert_eq!(format!("{:?}", Error::from(error)), "outer\n  caused by: middle\n  caused by: inner");
    }

    #[test]
    fn value_without_debug() {
        struct Plain;
        let error = crate::queue::PutError::new(Plain, crate::queue::PutErrorKind::Full);
        assert_eq!(format!("{error:?}"), "cannot put into the queue: it is full");
    }
}
