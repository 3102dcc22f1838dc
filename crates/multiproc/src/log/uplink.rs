//! The logger in a descendant of a relaying process, which sends each record through the *uplink*,
//! the relay's socket, before `log::info!` returns.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use ::log::{LevelFilter, Log, Metadata, Record};
use multiproc_os::threads;

use super::record::{Content, pairs_of};
use super::{stderr, wire};
use crate::spec::process_info::ProcessInfo;

/// The uplink to the relaying process, if there is one above this process.
static UPLINK: OnceLock<Arc<OwnedFd>> = OnceLock::new();

/// Whether the records of the `log` crate are sent through the uplink.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Whether [`install`] has made [`Uplink`] the logger of the `log` crate.
pub(crate) fn is_installed() -> bool {
    INSTALLED.load(Relaxed)
}

/// Sends the records of this process through the uplink `uplink`, if they have this level or a more
/// serious one.
pub(crate) fn install(uplink: OwnedFd, level: LevelFilter) {
    // It is set already only in a fork copy of a process that had an uplink, and the copy's is the
    // same.
    let _ = UPLINK.set(Arc::new(uplink));
    // No code of the program has run yet. If a logger has been set nevertheless, it keeps the
    // records.
    if ::log::set_logger(&Uplink).is_ok() {
        ::log::set_max_level(level);
        INSTALLED.store(true, Relaxed);
    }
    #[cfg(feature = "tracing")]
    super::tracing::install(level);
}

/// The uplink, if there is one.
pub(crate) fn current() -> Option<&'static Arc<OwnedFd>> {
    UPLINK.get()
}

/// Sends a record. Blocks while the socket is full: as long as a process has the reading end open,
/// nothing is lost.
pub(crate) fn send(content: &Content<'_>) {
    let Some(uplink) = current() else { return };
    match wire::send(uplink, content) {
        Ok(()) => {}
        // The relaying process is gone.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        // Out of memory, or the program has closed descriptors that it doesn't know.
        Err(_) => stderr::print(level_of(content), &content.process, format_args!("{}", content.message)),
    }
}

fn level_of(content: &Content<'_>) -> ::log::Level {
    ::log::Level::iter().find(|level| *level as u8 == content.level).unwrap_or(::log::Level::Error)
}

/// A record with what is common to all records of this process; the rest is empty.
pub(crate) fn blank(thread: &std::thread::Thread) -> Content<'_> {
    Content {
        process: ProcessInfo::current().name.as_str().into(),
        pid: threads::getpid(),
        thread: thread.name().map(Into::into),
        time: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
        level: 0,
        target: "".into(),
        module_path: None,
        file: None,
        line: None,
        message: "".into(),
        pairs: Vec::new(),
        spans: None,
    }
}

struct Uplink;

impl Log for Uplink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= ::log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let message = match record.args().as_str() {
            Some(text) => text.into(),
            None => record.args().to_string().into(),
        };
        send(&Content {
            level: record.level() as u8,
            target: record.target().into(),
            module_path: record.module_path().map(Into::into),
            file: record.file().map(Into::into),
            line: record.line(),
            message,
            pairs: pairs_of(record),
            ..blank(&std::thread::current())
        });
    }

    fn flush(&self) {}
}
