//! Logging what the library does, and what the user's `log::info!` says in any process, on stderr: `[INFO/Process-1] message`.

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::process::current::current_process;

pub use ::log::LevelFilter;

pub(crate) use ::log::Level;

/// Whether [`log_to_stderr`] was called, here or in the process that started this one.
static TO_STDERR: AtomicBool = AtomicBool::new(false);

static LEVEL: AtomicUsize = AtomicUsize::new(0);

static LOGGER: Logger = Logger(());

/// Has log records printed on stderr, each with its level and the name of its process, if they are of this level or a more serious one.
/// Processes that are started later do the same.
///
/// These are the records of this library (its target is `multiproc`), and those that the program writes by the macros of the [`log`]
/// crate. If the program has a logger of its own, that one keeps the program's records, gets the library's too, and only the library's
/// are printed.
///
/// ```
/// use multiproc::{LevelFilter, Process};
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// multiproc::log_to_stderr(LevelFilter::Debug);
/// Process::new(|| log::info!("working"), ()).start()?.wait()?; // [INFO/Process-1] working
/// # Ok(())
/// # }
/// ```
///
/// [`log`]: https://docs.rs/log
pub fn log_to_stderr(level: LevelFilter) -> &'static Logger {
    TO_STDERR.store(true, Relaxed);
    let _ = ::log::set_logger(&LOGGER);
    LOGGER.set_level(level);
    &LOGGER
}

/// The logger that [`log_to_stderr`] puts to work.
///
/// ```
/// # #[multiproc::main]
/// # fn main() {
/// multiproc::log_to_stderr(multiproc::LevelFilter::Off);
/// multiproc::get_logger().set_level(multiproc::LevelFilter::Info);
/// # }
/// ```
pub fn get_logger() -> &'static Logger {
    &LOGGER
}

/// What prints the log. See [`get_logger`].
#[derive(Debug)]
pub struct Logger(());

impl Logger {
    /// The least serious level that is printed.
    pub fn level(&self) -> LevelFilter {
        filter(LEVEL.load(Relaxed))
    }

    /// Has records printed that are of this level or a more serious one; none with `Off`. Processes that are started later inherit it.
    pub fn set_level(&self, level: LevelFilter) {
        LEVEL.store(level as usize, Relaxed);
        if is_installed() {
            ::log::set_max_level(level);
        }
    }

    fn print(&self, level: Level, message: fmt::Arguments<'_>) {
        let line = format!("[{level}/{}] {message}\n", current_process().name());
        // In one piece, so that lines of several processes don't mix. That nobody may be reading is no reason to fail.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

impl ::log::Log for Logger {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        TO_STDERR.load(Relaxed) && metadata.level() <= self.level()
    }

    fn log(&self, record: &::log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.print(record.level(), *record.args());
        }
    }

    fn flush(&self) {}
}

fn filter(level: usize) -> LevelFilter {
    LevelFilter::iter().find(|filter| *filter as usize == level).unwrap_or(LevelFilter::Off)
}

/// Whether the `log` crate's records come here.
fn is_installed() -> bool {
    std::ptr::addr_eq(::log::logger(), &raw const LOGGER)
}

/// Logs something that the library does.
pub(crate) fn event(level: Level, message: fmt::Arguments<'_>) {
    if level <= ::log::max_level() {
        ::log::log!(target: "multiproc", level, "{message}");
    }
    if TO_STDERR.load(Relaxed) && level <= LOGGER.level() && !is_installed() {
        LOGGER.print(level, message);
    }
}

/// What a child is told of the logging here.
pub(crate) fn bequest() -> Option<u8> {
    TO_STDERR.load(Relaxed).then(|| LEVEL.load(Relaxed) as u8)
}

/// In a child: does what its parent did.
pub(crate) fn inherit(level: Option<u8>) {
    if let Some(level) = level {
        log_to_stderr(filter(level.into()));
    }
}
