//! The logger that prints records on stderr, those of the library and those of the program's
//! `log::info!`, in any process: `[INFO/Process-1] message`.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use ::log::{Level, LevelFilter};

use super::record::RelayedRecord;
use super::{TARGET, filter};
use crate::spec::process_info::ProcessInfo;

/// Whether [`log_to_stderr`] was called, here or in the process that started this one.
static TO_STDERR: AtomicBool = AtomicBool::new(false);

static LEVEL: AtomicUsize = AtomicUsize::new(0);

static LOGGER: Logger = Logger(());

/// Prints log records of this level or a more serious one on stderr, each with its level and the
/// name of its process. Processes that are started later do the same.
///
/// These are the records of this library (with the target `multiproc`), and those that the program
/// logs with the macros of the [`log`] crate. If the program has a logger of its own, that logger
/// keeps the program's records and also gets the library's, and only the library's are printed.
///
/// The library's records are printed at the levels of Python's `multiprocessing`: the start and the
/// end of a process are `Info`. Any other logger gets these as `Debug`, and those that are `Debug`
/// here as `Trace`.
///
/// With [`relay_logs`](crate::log::relay_logs), this process prints the records of all its
/// descendants.
///
/// ```
/// use multiproc::log::LevelFilter;
/// use multiproc::Process;
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

/// Returns the logger that [`log_to_stderr`] installs.
///
/// ```
/// # #[multiproc::main]
/// # fn main() {
/// multiproc::log_to_stderr(multiproc::log::LevelFilter::Off);
/// multiproc::log::get_logger().set_level(multiproc::log::LevelFilter::Info);
/// # }
/// ```
pub fn get_logger() -> &'static Logger {
    &LOGGER
}

/// The logger that prints records on stderr. See [`get_logger`].
#[derive(Debug)]
pub struct Logger(());

impl Logger {
    /// Returns the least serious level that is printed.
    pub fn level(&self) -> LevelFilter {
        filter(LEVEL.load(Relaxed))
    }

    /// Sets the least serious level that is printed; `Off` prints none. Processes that are started
    /// later inherit it.
    pub fn set_level(&self, level: LevelFilter) {
        LEVEL.store(level as usize, Relaxed);
        if is_installed() {
            ::log::set_max_level(level);
        }
    }

    fn prints(&self, level: Level) -> bool {
        TO_STDERR.load(Relaxed) && level <= self.level()
    }
}

impl ::log::Log for Logger {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        self.prints(metadata.level())
    }

    fn log(&self, record: &::log::Record<'_>) {
        if self.enabled(record.metadata()) {
            print(record.level(), &ProcessInfo::current().name, *record.args());
        }
    }

    fn flush(&self) {}
}

/// Prints a record of the process `name`.
pub(crate) fn print(level: Level, name: &str, message: fmt::Arguments<'_>) {
    multiproc_os::stdio::write_message(&format!("[{level}/{name}] {message}\n"));
}

/// Whether this is the logger of the `log` crate.
pub(crate) fn is_installed() -> bool {
    std::ptr::addr_eq(::log::logger(), &raw const LOGGER)
}

/// Prints an event of the library, unless it arrives here through the `log` crate.
pub(crate) fn event(level: Level, message: fmt::Arguments<'_>) {
    if LOGGER.prints(level) && !is_installed() {
        print(level, &ProcessInfo::current().name, message);
    }
}

/// Prints a record of another process, if one of this process would be printed.
pub(crate) fn relayed(record: &RelayedRecord) {
    let level = record.original_level();
    if LOGGER.prints(level) && (is_installed() || record.target() == TARGET) && !record.is_printed() {
        print(level, record.process(), format_args!("{}", record.text()));
    }
}

/// The level that is printed; `Off` if nothing is.
pub(crate) fn level() -> LevelFilter {
    if TO_STDERR.load(Relaxed) { LOGGER.level() } else { LevelFilter::Off }
}

/// The level that a child inherits; None if this process doesn't log to stderr.
pub(crate) fn shown_level() -> Option<u8> {
    TO_STDERR.load(Relaxed).then(|| LEVEL.load(Relaxed) as u8)
}
