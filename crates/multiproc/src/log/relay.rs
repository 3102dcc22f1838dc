//! [`relay_logs`]: the log records of all descendants come to this process's own logger.
//!
//! There is one socket pair. Every descendant has a copy of its writing end and sends each record as one message; a thread here reads and
//! hands them on, one after the other. `PROTOCOL.md` has the messages and says why nothing is lost.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ::log::{Level, LevelFilter};
use multiproc_os::{fd_passing, poll};

use super::barrier::Barrier;
use super::record::{Content, RelayedRecord};
use super::service::Service;
use super::wire::{self, Arrived, Inbox};
use super::{event, stderr, uplink};
use crate::transfer::packet::{self, PacketError};
use crate::{Error, Result};

/// Has the log records of all processes that are started from now on, and of theirs, arrive in this process's own logger, whatever that
/// is: the one of the `log` crate (`env_logger` and the like, or [`log_to_stderr`](crate::log_to_stderr)), or the subscriber of `tracing`.
///
/// Each record comes with its process in front, `[Process-1 4711] message`, and with the key-values `process` and `pid` for loggers that
/// show them; target, level, place and its own key-values are what they were. Those of one process come in the order in which it has
/// logged them. A record has left its process when `log::info!` returns there, so it arrives even if the process is killed right after;
/// and it has been handed to the logger here before `wait` or `join` of that child returns. The same goes for the end of this process.
/// (Only a logger that is stuck for 5 seconds is not waited for.)
///
/// A panic in a descendant, and its death by a signal or for want of memory, is one such record
/// too, of level `ERROR` and with the target `multiproc`: with the message and place of the panic,
/// and the key-values `failure` (`panic`, `signal`, `out_of_memory` or `memory_limit`), `location`
/// and `signal`. (The traceback of a panic is on the stderr of its process, as without a relay;
/// [`log_to_stderr`](crate::log_to_stderr) doesn't repeat it.) Signals that its parent has sent it
/// are no failure.
///
/// In the descendants the logger is ours: `env_logger::init()` in a target would find one there, and panic; use `try_init` in code that runs
/// in both. They log what this process would: the level is [`log::max_level`] of the moment of their start.
///
/// A process that logs faster than this one can write waits, and nothing is dropped. One that outlives this process goes on without
/// logging.
///
/// A thread reads the records, which a logger may notice. Start it after `init` and the logger, before the first child. In a process
/// whose records are relayed already nothing happens. See [`LogRelay`] for options.
///
/// ```
/// use multiproc::{LevelFilter, Process};
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// multiproc::log_to_stderr(LevelFilter::Info); // or env_logger::init(), or …
/// multiproc::relay_logs()?;
/// Process::new(|| log::info!("working"), ()).start()?.wait()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Setup`] when the system has no socket pair or thread to give.
///
/// [`log::max_level`]: https://docs.rs/log/latest/log/fn.max_level.html
pub fn relay_logs() -> Result<()> {
    LogRelay::new().start()
}

type Handler = Arc<dyn Fn(&RelayedRecord) + Send + Sync>;

/// [`relay_logs`] with options.
///
/// ```
/// use multiproc::{LevelFilter, LogRelay, Process};
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
    /// What [`relay_logs`] does.
    #[allow(clippy::new_without_default)]
    pub fn new() -> LogRelay {
        LogRelay { level: None, prefix: true, handler: None }
    }

    /// The least serious level that descendants send. Unless said it is what this process logs itself at the moment of each start, or
    /// everything if there is a [`handler`](LogRelay::handler). What this process's own logger doesn't let pass doesn't pass it all the
    /// same.
    pub fn level(mut self, level: LevelFilter) -> LogRelay {
        self.level = Some(level);
        self
    }

    /// Whether messages get their process in front, `[Process-1 4711] `. They do unless said otherwise; without it the process is in the
    /// key-values `process` and `pid` alone.
    pub fn prefix(mut self, prefix: bool) -> LogRelay {
        self.prefix = prefix;
        self
    }

    /// Has `handler` called with each record, in place of handing it to the logger. [`RelayedRecord::log`] does the latter.
    ///
    /// It is called by one thread, one record after the other; while it is at work, the next ones wait. A panic in it loses that record
    /// alone. In a process whose own records are relayed, those of its descendants come here, and go no further up.
    pub fn handler(mut self, handler: impl Fn(&RelayedRecord) + Send + Sync + 'static) -> LogRelay {
        self.handler = Some(Arc::new(handler));
        self
    }

    /// Starts relaying; or, if this process relays already, does it in this way from now on.
    ///
    /// # Errors
    /// As [`relay_logs`].
    pub fn start(self) -> Result<()> {
        if self.handler.is_none() && uplink::way().is_some() && RELAY.here().is_none() {
            return Ok(());
        }
        let relay = RELAY
            .here_or_launch("multiproc-logs", || Relay::new(self.clone()), Relay::serve)
            .map_err(|source| Error::Setup { what: "relay logs", source })?;
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
    /// What descendants write to; marks too. So the socket never reads as closed, unless somebody shuts it down.
    writer: Arc<OwnedFd>,
    reader: OwnedFd,
    options: Mutex<LogRelay>,
    barrier: Barrier,
}

static RELAY: Service<Relay> = Service::new();

/// What a child is to send its records by, and from which level on; none if nothing is relayed.
pub(crate) fn way() -> Option<(Arc<OwnedFd>, LevelFilter)> {
    match RELAY.here() {
        Some(relay) => Some((relay.writer.clone(), relay.options().level_now())),
        None => uplink::way().map(|way| (way.clone(), ::log::max_level())),
    }
}

/// Sends a record of this process about another: to the relay here, or up to where this process's
/// own go. There is none of it without a relay.
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
    // By way of the thread, which may be busy: the caller may hold a lock that the logger wants.
    if wire::try_send(&relay.writer, content).is_err() {
        stderr::print(Level::Error, &content.process, format_args!("{}", content.message));
    }
}

/// Has the thread waited for again, if it was stuck; see [`Barrier::ignore_poison`].
pub(crate) fn ignore_poison() {
    if let Some(relay) = RELAY.here() {
        relay.barrier.ignore_poison();
    }
}

/// Waits until all that has been sent so far has been handed on; see [`Barrier::wait`].
pub(crate) fn flush(deadline: Option<Instant>) {
    let Some(relay) = RELAY.here() else { return };
    relay.barrier.wait(deadline, |mark, until| {
        loop {
            match wire::try_send_mark(&relay.writer, mark) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(|()| true),
            }
            if !poll::wait_for_room(&relay.writer, until)? {
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

/// Hands a record to whatever logs in this process.
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

    /// The thread's life: as long as the process.
    fn serve(&self) {
        self.barrier.adopt();
        let mut inbox = Inbox::default();
        loop {
            let arrived = match packet::receive(&self.reader, true) {
                Ok(packet) => inbox.take(&packet),
                // Somebody has shut the socket down for all. Those who log are told so by EPIPE.
                Err(PacketError::Closed | PacketError::Empty) => break,
                Err(PacketError::Io(error)) => {
                    // It may still lie there, and must not be tried for ever.
                    fd_passing::discard(&self.reader);
                    Err(error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match arrived {
                Ok(Some(Arrived::Record(record))) => {
                    // Not to be held while the handler runs, which may change it.
                    let options = self.options().clone();
                    // The panic hook has said what there is to say.
                    let _ = catch_unwind(AssertUnwindSafe(|| options.hand_on(&record)));
                }
                Ok(Some(Arrived::Mark(mark))) => self.barrier.pass(mark),
                Ok(None) => {}
                Err(what) => complain(&what),
            }
            self.barrier.handled();
        }
        self.barrier.close();
        complain("a process has shut it down for all");
    }
}

/// Says once that something came that is no record.
fn complain(what: &str) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Relaxed) {
        let _ = catch_unwind(|| {
            event(Level::Warn, format_args!("the relay of log records got something else: {what} (said once)"));
        });
    }
}
