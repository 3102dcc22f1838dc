//! [`relay_logs`]: forwards the log records of all descendants to this process's own logger.
//!
//! There is one socket pair. Every descendant has a copy of its writing end, the *uplink*, and
//! sends each record as one message; a thread here reads the records and passes them to the logger,
//! one after the other. `PROTOCOL.md` has the messages, and says why nothing is lost.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ::log::{Level, LevelFilter};
use multiproc_os::{fd_passing, poll};
use multiproc_shm::message::packet::{self, PacketError};

use super::barrier::Barrier;
use super::record::{Content, RelayedRecord};
use super::service::Service;
use super::wire::{self, Arrived, Inbox};
use super::{event, stderr, uplink};
use crate::create_error::CreateError;

/// Forwards the log records of all processes that are started from now on, and of their
/// descendants, to this process's own logger: that of the `log` crate (`env_logger` and the like,
/// or [`log_to_stderr`](crate::log_to_stderr)), or the subscriber of `tracing`.
///
/// Each record is prefixed with its process, `[Process-1 4711] message`, and has the key-values
/// `process` and `pid` for loggers that show them; target, level, location and its own key-values
/// are unchanged. The records of one process arrive in the order in which it logged them. A record
/// has left its process when `log::info!` returns there, so it arrives even if the process is
/// killed right after; and it has been passed to the logger here before `wait` or `join` of that
/// child returns, and before this process ends. (A logger that is stuck for 5 seconds is not waited
/// for.)
///
/// A panic in a descendant, and its death by a signal or for want of memory, is a record too, of
/// level `ERROR` and with the target `multiproc`: with the message and location of the panic, and
/// the key-values `failure` (`panic`, `signal`, `out_of_memory` or `memory_limit`), `location` and
/// `signal`. (The traceback of a panic is printed on the stderr of its process, as without a relay;
/// [`log_to_stderr`](crate::log_to_stderr) doesn't repeat it.) Signals sent by the process's parent
/// are not failures.
///
/// In the descendants the library sets the logger: `env_logger::init()` in a target would find one,
/// and panic; use `try_init` in code that runs in both. They log at this process's level:
/// [`log::max_level`] at the time of their start.
///
/// If a process logs faster than this one can write, it blocks; nothing is dropped. A process that
/// outlives this one goes on without logging.
///
/// A background thread reads the records and calls the logger, which may notice that thread (by its
/// name, say). Call this function after `init` and after setting the logger, before starting the
/// first child. In a process that already sends its own records to a relay, it does nothing. See
/// [`LogRelay`] for options.
///
/// ```
/// use multiproc::log::LevelFilter;
/// use multiproc::Process;
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// multiproc::log_to_stderr(LevelFilter::Info); // or env_logger::init(), or …
/// multiproc::log::relay_logs()?;
/// Process::new(|| log::info!("working"), ()).start()?.wait()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`CreateError`](crate::CreateError) when no socket pair or thread can be made.
///
/// [`log::max_level`]: https://docs.rs/log/latest/log/fn.max_level.html
pub fn relay_logs() -> Result<(), CreateError> {
    LogRelay::new().start()
}

type Handler = Arc<dyn Fn(&RelayedRecord) + Send + Sync>;

/// [`relay_logs`] with options.
///
/// ```
/// use multiproc::log::{LevelFilter, LogRelay};
/// use multiproc::Process;
/// use std::sync::mpsc;
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let (sender, records) = mpsc::channel();
/// LogRelay::new()
///     .level(LevelFilter::Warn)
///     .handler(move |record| sender.send((record.process().to_owned(), record.message().to_owned())).unwrap())
///     .start()?;
/// let child = Process::new(|| { log::info!("fine"); log::warn!("not so fine") }, ()).start()?;
/// child.wait()?;
/// assert_eq!(records.try_iter().collect::<Vec<_>>(), [("Process-1".into(), "not so fine".into())]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is relayed before it is started"]
pub struct LogRelay {
    level: Option<LevelFilter>,
    prefix: bool,
    handler: Option<Handler>,
}

impl LogRelay {
    /// Returns the options of [`relay_logs`].
    #[allow(clippy::new_without_default)]
    pub fn new() -> LogRelay {
        LogRelay { level: None, prefix: true, handler: None }
    }

    /// Sets the least serious level that descendants send. The default is the level at which this
    /// process logs when a child is started, or every level if there is a
    /// [`handler`](LogRelay::handler). This process's own logger still applies its own level.
    pub fn level(mut self, level: LevelFilter) -> LogRelay {
        self.level = Some(level);
        self
    }

    /// Sets whether messages are prefixed with their process, `[Process-1 4711] `. The default is
    /// true; without the prefix, only the key-values `process` and `pid` identify the process.
    pub fn prefix(mut self, prefix: bool) -> LogRelay {
        self.prefix = prefix;
        self
    }

    /// Calls `handler` with each record instead of passing it to the logger; [`RelayedRecord::log`]
    /// does the latter.
    ///
    /// One thread calls it, one record after the other; while it runs, later records wait. A panic
    /// in it loses only that record. In a process that sends its own records to a relay, the
    /// records of its descendants go to `handler`, and no further up.
    pub fn handler(mut self, handler: impl Fn(&RelayedRecord) + Send + Sync + 'static) -> LogRelay {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// Starts relaying; if this process relays already, these options replace the present ones.
    ///
    /// # Errors
    /// As [`relay_logs`].
    pub fn start(self) -> Result<(), CreateError> {
        if self.handler.is_none() && uplink::current().is_some() && RELAY.here().is_none() {
            return Ok(());
        }
        let relay = RELAY
            .here_or_launch("multiproc-logs", || Relay::new(self.clone()), Relay::serve)
            .map_err(CreateError::of("log relay"))?;
        *relay.options() = self;
        Ok(())
    }
}

impl fmt::Debug for LogRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handler = self.handler.as_ref().map(|_| "…");
        f.debug_struct("LogRelay")
            .field("level", &self.level)
            .field("prefix", &self.prefix)
            .field("handler", &handler)
            .finish()
    }
}

/// The relay of this process, shared with its thread.
struct Relay {
    /// The end that descendants write to, and this process for marks. Since this process keeps it
    /// open, the socket reads as closed only if a process shuts it down.
    writer: Arc<OwnedFd>,
    reader: OwnedFd,
    options: Mutex<LogRelay>,
    barrier: Barrier,
}

static RELAY: Service<Relay> = Service::new();

/// The uplink for a child's records and their least serious level; None if nothing is relayed.
pub(crate) fn uplink() -> Option<(Arc<OwnedFd>, LevelFilter)> {
    match RELAY.here() {
        Some(relay) => Some((relay.writer.clone(), relay.options().level_now())),
        None => uplink::current().map(|uplink| (uplink.clone(), ::log::max_level())),
    }
}

/// Sends a record of this process about another: to the relay here, or through this process's own
/// uplink. Does nothing without a relay.
pub(crate) fn send(content: &Content<'_>) {
    let Some(relay) = RELAY.here() else {
        if content.level <= ::log::max_level() as u8 {
            uplink::send(content);
        }
        return;
    };
    if content.level > relay.options().level_now() as u8 {
        return;
    }
    // Sent to the thread, which may be busy, since the caller may hold a lock that the logger
    // wants.
    if wire::try_send(&relay.writer, content).is_err() {
        stderr::print(Level::Error, &content.process, format_args!("{}", content.message));
    }
}

/// Lets callers wait for the thread again after it was stuck; see [`Barrier::ignore_poison`].
pub(crate) fn ignore_poison() {
    if let Some(relay) = RELAY.here() {
        relay.barrier.ignore_poison();
    }
}

/// Waits until all that has been sent so far has been handled; see [`Barrier::wait`].
pub(crate) fn flush(deadline: Option<Instant>) {
    let Some(relay) = RELAY.here() else { return };
    relay.barrier.wait(deadline, |mark, until| {
        loop {
            match wire::try_send_mark(&relay.writer, mark) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(|()| true),
            }
            if !poll::wait_writable(&relay.writer, until)? {
                return Ok(false);
            }
        }
    });
}

impl LogRelay {
    fn level_now(&self) -> LevelFilter {
        match (self.level, &self.handler) {
            (Some(level), _) => level,
            (None, Some(_)) => LevelFilter::Trace,
            (None, None) => {
                let level = ::log::max_level().max(stderr::level());
                #[cfg(feature = "tracing")]
                let level = level.max(super::tracing::level());
                level
            }
        }
    }

    fn hand_on(&self, record: &RelayedRecord) {
        match &self.handler {
            Some(handler) => handler(record),
            None => log_here(record, self.prefix),
        }
    }
}

/// Passes a record to the logger of this process.
pub(crate) fn log_here(record: &RelayedRecord, prefix: bool) {
    stderr::relayed(record);
    if stderr::is_installed() {
        return;
    }
    if record.level() <= ::log::max_level() {
        record.log_by_facade(prefix);
    }
    #[cfg(feature = "tracing")]
    if ::log::max_level() == LevelFilter::Off {
        super::tracing::emit(record);
    }
}

impl Relay {
    fn new(options: LogRelay) -> io::Result<Relay> {
        let (writer, reader) = fd_passing::pair()?;
        Ok(Relay { writer: Arc::new(writer), reader, options: Mutex::new(options), barrier: Barrier::default() })
    }

    fn options(&self) -> MutexGuard<'_, LogRelay> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop of the thread, for as long as the process lives.
    fn serve(&self) {
        self.barrier.adopt();
        let mut inbox = Inbox::default();
        loop {
            let arrived = match packet::receive(&self.reader, true) {
                Ok(packet) => inbox.take(&packet),
                // A process has shut the socket down for all. Logging processes get EPIPE.
                Err(PacketError::Closed | PacketError::Empty) => break,
                Err(PacketError::Io(error)) => {
                    // The message may still be in the socket, and must not be read again forever.
                    fd_passing::discard(&self.reader);
                    Err(error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match arrived {
                Ok(Some(Arrived::Record(record))) => {
                    // Cloned, so that the lock isn't held while the handler runs, which may change
                    // the options.
                    let options = self.options().clone();
                    // The panic hook has reported it.
                    let _ = catch_unwind(AssertUnwindSafe(|| options.hand_on(&record)));
                }
                Ok(Some(Arrived::Mark(mark))) => self.barrier.pass(mark),
                Ok(None) => {}
                Err(what) => warn_once(&what),
            }
            self.barrier.handled();
        }
        self.barrier.close();
        warn_once("a process has shut its socket down");
    }
}

/// Warns, once, about a message that is not a record.
fn warn_once(what: &str) {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if !REPORTED.swap(true, Relaxed) {
        let _ = catch_unwind(|| {
            event(Level::Warn, format_args!("error in the relay of log records: {what} (reported once)"));
        });
    }
}
