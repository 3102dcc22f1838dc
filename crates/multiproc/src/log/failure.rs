//! Records of failures: a panic, sent by the process itself; a death by a signal or for want of
//! memory, sent by its parent. They go to the relay, if there is one, beside the records that the
//! process has logged itself.

use std::panic::Location;
use std::time::SystemTime;

use ::log::{Level, LevelFilter};

use super::record::{Content, Datum};
use super::{TARGET, relay, uplink};
use crate::spec::status::{JoinErrorKind, Panic};

/// The key for the kind of failure: `panic`, `signal`, `out_of_memory` or `memory_limit`.
const KIND: &str = "failure";

/// Whether a record is that of a panic, which the process has printed as well.
pub(crate) fn is_panic(content: &Content<'_>) -> bool {
    let is = |(key, value): &(String, Datum)| key == KIND && *value == Datum::Text("panic".into());
    content.target == TARGET && content.pairs.iter().any(is)
}

/// Sends the record of a panic. Called in the panic hook of a process with relayed records.
pub(crate) fn panicked(panic: &Panic, location: Option<&Location<'_>>) {
    if uplink::current().is_none() || ::log::max_level() == LevelFilter::Off {
        return;
    }
    let thread = std::thread::current();
    let mut pairs = vec![(KIND.into(), Datum::Text("panic".into()))];
    let mut message = format!("panicked: {}", panic.message);
    if let Some(location) = &panic.location {
        message = format!("panicked at {location}: {}", panic.message);
        pairs.push(("location".into(), Datum::Text(location.clone())));
    }
    uplink::send(&Content {
        level: Level::Error as u8,
        target: TARGET.into(),
        file: location.map(|location| location.file().into()),
        line: location.map(Location::line),
        message: message.into(),
        pairs,
        ..uplink::blank(&thread)
    });
}

/// Sends the record of a process that has failed. Called once, in its parent, when it has ended.
pub(crate) fn died(process: &str, pid: i32, how: &JoinErrorKind) {
    let mut pairs = Vec::new();
    match how {
        JoinErrorKind::Signalled { signal, .. } => {
            pairs.push((KIND.into(), Datum::Text("signal".into())));
            pairs.push(("signal".into(), Datum::Signed(i64::from(*signal))));
        }
        JoinErrorKind::OutOfMemory => pairs.push((KIND.into(), Datum::Text("out_of_memory".into()))),
        JoinErrorKind::MemoryLimit { .. } => pairs.push((KIND.into(), Datum::Text("memory_limit".into()))),
        // It has exited, and has reported any failure itself.
        _ => return,
    }
    relay::send(&Content {
        process: process.into(),
        pid,
        thread: None,
        time: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
        level: Level::Error as u8,
        target: TARGET.into(),
        module_path: None,
        file: None,
        line: None,
        message: how.to_string().into(),
        pairs,
        spans: None,
    });
}
