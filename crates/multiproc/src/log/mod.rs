//! What processes say besides their results: their log records, and what they print.
//!
//! [`stderr`] prints records; [`relay`] brings those of all descendants to this process's own logger ([`uplink`] is the other end of
//! it, [`wire`] the messages between them); [`capture`] reads what children print, line by line. `PROTOCOL.md` beside this file says
//! who sends what to whom, when it has arrived, and what happens when somebody dies.

mod barrier;
pub(crate) mod capture;
pub(crate) mod failure;
mod lines;
pub(crate) mod record;
pub(crate) mod relay;
mod service;
pub(crate) mod stderr;
#[cfg(feature = "tracing")]
mod tracing;
mod uplink;
mod wire;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use ::log::LevelFilter;

pub(crate) use ::log::Level;

use self::capture::CaptureId;
use crate::process::stdio::Streams;

/// The target of the library's own records.
const OURS: &str = "multiproc";

/// Logs something that the library does. [`log_to_stderr`](crate::log_to_stderr) prints it at this
/// level, which is that of Python's `multiprocessing`; to any other logger it is less serious.
pub(crate) fn event(level: Level, message: fmt::Arguments<'_>) {
    let shown = if stderr::is_installed() || uplink::is_installed() { level } else { elsewhere(level) };
    if shown <= ::log::max_level() {
        ::log::log!(target: OURS, shown, "{message}");
    }
    stderr::event(level, message);
}

/// The level of this library's own records for loggers other than `log_to_stderr`: that a process
/// begins, ends and is waited for matters in the search for a fault.
fn elsewhere(level: Level) -> Level {
    match level {
        Level::Error | Level::Warn => level,
        Level::Info => Level::Debug,
        Level::Debug | Level::Trace => Level::Trace,
    }
}

/// What a child is told of the logging here. The way to the relay, if there is one, comes beside it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct LogConfig {
    /// The level of [`log_to_stderr`](crate::log_to_stderr), if that is how the child logs.
    to_stderr: Option<u8>,
    /// The level of the records that it sends to a relay, if there is one.
    relay: Option<u8>,
}

/// What a child is given of the logging here.
#[derive(Debug)]
pub(crate) struct LogSetup {
    relay: Option<(Arc<OwnedFd>, LevelFilter)>,
    /// What its output is known by here, if it is captured.
    pub(crate) captured: Option<CaptureId>,
}

impl LogSetup {
    /// For the child `name`, whose output is captured or not, or as it is done for all; its `streams` are changed for that.
    pub(crate) fn to(name: &str, capture: Option<bool>, streams: &mut Streams) -> io::Result<LogSetup> {
        Ok(LogSetup { relay: relay::way(), captured: capture::begin(name, capture, streams)? })
    }

    /// What the child is told.
    pub(crate) fn told(&self) -> LogConfig {
        LogConfig {
            // With a relay the process at its other end does that, too.
            to_stderr: if self.relay.is_some() { None } else { stderr::shown_level() },
            relay: self.relay.as_ref().map(|(_, level)| *level as u8),
        }
    }

    /// What comes beside it.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.relay.iter().map(|(way, _)| way.as_fd()).collect()
    }
}

impl LogConfig {
    /// For fuzzers: one that says everything.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn sample() -> LogConfig {
        LogConfig { to_stderr: Some(3), relay: Some(4) }
    }

    /// In a child: does what its parent said. `fds` are what came beside it.
    pub(crate) fn take(self, mut fds: impl Iterator<Item = OwnedFd>) -> io::Result<()> {
        // A forked copy of a process that has a way has it too.
        if let Some(level) = self.relay
            && uplink::way().is_none()
        {
            let missing = || io::Error::new(io::ErrorKind::InvalidData, "a descriptor is missing");
            uplink::install(fds.next().ok_or_else(missing)?, filter(level.into()));
        }
        if let Some(level) = self.to_stderr {
            stderr::log_to_stderr(filter(level.into()));
        }
        Ok(())
    }
}

/// Waits until what a child that has ended has logged and printed has gone where it belongs; no longer than until `deadline`, and not for
/// somebody who is stuck.
pub(crate) fn hear_out(capture: Option<CaptureId>, deadline: Option<Instant>) {
    if let Some(id) = capture {
        capture::flush(capture::Whose::One(id), deadline);
    }
    relay::flush(deadline);
}

/// The same for all that there is, at the end of this process. The first time somebody who was stuck gets another chance.
pub(crate) fn flush(first: bool) {
    if first {
        capture::ignore_poison();
        relay::ignore_poison();
    }
    capture::flush(capture::Whose::All, None);
    relay::flush(None);
}

fn filter(level: usize) -> LevelFilter {
    LevelFilter::iter().find(|filter| *filter as usize == level).unwrap_or(LevelFilter::Off)
}
