//! The log records and the output of processes: [`log_to_stderr`] prints what the library does,
//! [`relay_logs`] forwards the records of all descendants to this process's own logger, and
//! [`capture_output`] reads what children print, line by line.

// `relay` and `uplink` are the two ends of the relay, with the messages of `wire` between them.
// PROTOCOL.md beside this file describes the messages, their guarantees, and what happens when a
// process dies.

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

pub use ::log::LevelFilter;

pub use self::capture::{CapturedLine, OutputCapture, OutputStream, capture_output};
pub use self::record::RelayedRecord;
pub use self::relay::{LogRelay, relay_logs};
pub use self::stderr::{Logger, get_logger, log_to_stderr};

pub(crate) use ::log::Level;

use self::capture::CaptureId;
use crate::spec::log_config::LogConfig;
use crate::spec::stdio::Streams;

/// The target of the library's own records.
const OURS: &str = "multiproc";

/// Logs an event of the library. [`log_to_stderr`](crate::log_to_stderr) prints it at this level,
/// which is that of Python's `multiprocessing`; any other logger gets a less serious level.
pub(crate) fn event(level: Level, message: fmt::Arguments<'_>) {
    let shown = if stderr::is_installed() || uplink::is_installed() { level } else { elsewhere(level) };
    if shown <= ::log::max_level() {
        ::log::log!(target: OURS, shown, "{message}");
    }
    stderr::event(level, message);
}

/// The level of the library's own records for loggers other than `log_to_stderr`: the start and end
/// of a process, and waiting for one, only matter for debugging.
fn elsewhere(level: Level) -> Level {
    match level {
        Level::Error | Level::Warn => level,
        Level::Info => Level::Debug,
        Level::Debug | Level::Trace => Level::Trace,
    }
}

/// The parent's side of a child's logging.
#[derive(Debug)]
pub(crate) struct LogSetup {
    relay: Option<(Arc<OwnedFd>, LevelFilter)>,
    /// Identifies the child's output in the capture, if it is captured.
    pub(crate) captured: Option<CaptureId>,
}

impl LogSetup {
    /// Prepares the logging of the child `name`. `capture` says whether its output is captured,
    /// None that the setting for all children holds; the pipes of a capture are put into `streams`.
    pub(crate) fn to(name: &str, capture: Option<bool>, streams: &mut Streams) -> io::Result<LogSetup> {
        Ok(LogSetup { relay: relay::uplink(), captured: capture::begin(name, capture, streams)? })
    }

    /// The log config for the child.
    pub(crate) fn told(&self) -> LogConfig {
        LogConfig {
            // With a relay, the process that relays prints the records.
            to_stderr: if self.relay.is_some() { None } else { stderr::shown_level() },
            relay: self.relay.as_ref().map(|(_, level)| *level as u8),
        }
    }

    /// The descriptors that are sent beside the log config.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.relay.iter().map(|(uplink, _)| uplink.as_fd()).collect()
    }
}

/// In a child: applies its log config. `fds` are the descriptors that were sent beside it.
pub(crate) fn apply(config: LogConfig, mut fds: impl Iterator<Item = OwnedFd>) -> io::Result<()> {
    // A fork copy of a process with an uplink has the uplink already.
    if let Some(level) = config.relay
        && uplink::current().is_none()
    {
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "a descriptor is missing");
        uplink::install(fds.next().ok_or_else(missing)?, filter(level.into()));
    }
    if let Some(level) = config.to_stderr {
        stderr::log_to_stderr(filter(level.into()));
    }
    Ok(())
}

/// Flushes an ended child's log records and captured output, until `deadline` at most; doesn't wait
/// for a thread that is stuck.
pub(crate) fn hear_out(capture: Option<CaptureId>, deadline: Option<Instant>) {
    if let Some(id) = capture {
        capture::flush(capture::Whose::One(id), deadline);
    }
    relay::flush(deadline);
}

/// Flushes all log records and captured output, at the end of this process. The first call also
/// waits for a thread that was stuck before.
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
