//! In a descendant of a process that relays: its logger, which sends each record on its way before `log::info!` returns.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use ::log::{LevelFilter, Log, Metadata, Record};
use multiproc_os::threads;

use super::record::{Content, pairs_of};
use super::{stderr, wire};
use crate::process::current::current_process;

/// The way to the process that relays, if there is one above this.
static WAY: OnceLock<Arc<OwnedFd>> = OnceLock::new();

/// Whether the `log` crate's records go there.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// See [`INSTALLED`].
pub(crate) fn is_installed() -> bool {
    INSTALLED.load(Relaxed)
}

/// Has the records of this process go by `way`, from this level on.
pub(crate) fn install(way: OwnedFd, level: LevelFilter) {
    // Set already only in a copy of a process that had it; the copy's is the same.
    let _ = WAY.set(Arc::new(way));
    // Nothing of the program has run yet. If something has put a logger there even so, it keeps the records.
    if ::log::set_logger(&Uplink).is_ok() {
        ::log::set_max_level(level);
        INSTALLED.store(true, Relaxed);
    }
    #[cfg(feature = "tracing")]
    super::tracing::install(level);
}

/// See [`WAY`].
pub(crate) fn way() -> Option<&'static Arc<OwnedFd>> {
    WAY.get()
}

/// Sends a record. Waits while the way is full: as long as somebody is there to read, nothing is lost.
pub(crate) fn send(content: &Content<'_>) {
    let Some(way) = way() else { return };
    match wire::send(way, content) {
        Ok(()) => {}
        // Nobody is there any more.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        // No memory, or the program has closed descriptors that it does not know.
        Err(_) => stderr::print(level_of(content), &content.process, format_args!("{}", content.message)),
    }
}

fn level_of(content: &Content<'_>) -> ::log::Level {
    ::log::Level::iter().find(|level| *level as u8 == content.level).unwrap_or(::log::Level::Error)
}

/// What every record of this process has, whatever it says; the rest is empty.
pub(crate) fn blank(thread: &std::thread::Thread) -> Content<'_> {
    Content {
        process: current_process().name().into(),
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
