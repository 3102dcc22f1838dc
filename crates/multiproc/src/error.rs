//! [`Error`]: all errors of this library as one type. Each says what was tried, and for which
//! process.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::channel::error::{RecvError, SendError};
use crate::channel::link_error::{ConnectError, ListenError};
use crate::channel::queue_error::{GetError, PutError, PutErrorKind};
use crate::process::child::ProcessHandle;
use crate::process::outcome::RemoteError;
use crate::process::scope::ScopeError;
use crate::shared::error::MemoryError;
use crate::shared::shareable_list::ShareableListError;
use crate::spec::status::JoinError;
use crate::sync::barrier::BarrierError;
use crate::sync::semaphore::ReleaseError;
use crate::sync::wait_error::WaitError;
use crate::transfer::codec::CodecError;

/// An error of this library: starting a process, waiting for one, signalling one, or using an
/// object that processes share.
///
/// What goes wrong *inside* a child process is described by [`JoinError`].
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program has no entry for its children, so a child would run `main` from the top.
    #[error(
        "cannot start {process}: this program has no entry for child processes. Put #[multiproc::main] on `fn main` or call \
         multiproc::init() as its first statement; in a test binary, put #[multiproc::test] on the test in place of #[test]"
    )]
    NoEntry {
        /// The process that was to be started.
        process: String,
    },
    /// The target's arguments, or the fields of a [`Run`](crate::Run) value, can't be sent.
    #[error("cannot start {process}: its arguments can't be sent: {source}")]
    Arguments {
        /// The process that was to be started.
        process: String,
        /// Why they can't be sent.
        source: CodecError,
    },
    /// The system refused a step of the start: `EAGAIN` at the limit of processes, `EMFILE` at the
    /// limit of open files, `ENOMEM`, `ENOSPC`; `EACCES` if the child may not enter its current
    /// directory.
    #[error("cannot start {process}: {what}: {source}")]
    Start {
        /// The process that was to be started.
        process: String,
        /// The step that failed.
        what: Cow<'static, str>,
        /// The system's error.
        source: io::Error,
    },
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) was refused because this process has other
    /// threads. It copies the process as it is, and a lock that another thread holds at that moment
    /// would stay held in the copy for ever.
    #[error(
        "cannot start {process}: fork refused, this process has {threads} threads ({}). End them first, or use another start method",
        Tasks(tasks)
    )]
    MultiThreaded {
        /// The process that was to be started.
        process: String,
        /// The number of threads, including the calling one.
        threads: usize,
        /// The ids and names of the threads, as in `/proc/self/task`, the calling thread first.
        tasks: Vec<(i32, String)>,
    },
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) was refused because this thread is
    /// panicking: `start` was called by a destructor that runs during unwinding, or by a panic
    /// hook. In the copy, that panic would go on, and the first further panic would abort the
    /// process.
    #[error(
        "cannot start {process}: fork refused, this thread is panicking. Start it once the panic has been caught, or use another start \
         method"
    )]
    Panicking {
        /// The process that was to be started.
        process: String,
    },
    /// A closure for [`Process::fork`](crate::Process::fork) may have captured a reference that one
    /// of this thread's lock guards has given out: a reference to the value of a
    /// [`Mutex`](crate::sync::Mutex), a slice of an [`Array`](crate::Array). Shared memory is not
    /// copied, so two processes would access memory that only the lock's owner may access. The
    /// start is refused until all guards through which this thread has read or written anything are
    /// dropped.
    #[error(
        "cannot start {process}: fork refused, {guards} of this thread's guards {} given out references to shared memory. Drop the guards \
         first; the closure can capture the Mutex, RwLock or Array itself and lock it",
        if *guards == 1 { "has" } else { "have" }
    )]
    Lent {
        /// The process that was to be started.
        process: String,
        /// The number of such guards.
        guards: usize,
    },
    /// This process is exiting: it has left `main` or called `exit`, and has already ended or
    /// waited for its children.
    #[error("cannot start {process}: this process is exiting")]
    Exiting {
        /// The process that was to be started.
        process: String,
    },
    /// The new process, or the fork server that should have made it, did not answer as expected: it
    /// died, it is another build, or something else uses its connection.
    #[error("cannot start {process}: {reason}")]
    Handshake {
        /// The process that was to be started.
        process: String,
        /// What happened instead.
        reason: String,
    },
    /// Waiting for a process or sending it a signal failed.
    #[error("cannot {what} {process}: {source}")]
    Child {
        /// The process.
        process: String,
        /// The operation that failed.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Some processes had not ended at the timeout. See [`wait_all`](crate::wait_all).
    #[error("{} of {of} processes still run after {timeout:?}: {}", running.len(), Names(running))]
    StillRunning {
        /// The processes that still run.
        running: Vec<ProcessHandle>,
        /// How many processes were waited for.
        of: usize,
        /// The timeout.
        timeout: Duration,
    },
    /// Processes of a [`scope`](crate::scope) failed and were not joined.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A process ended without a value. See [`JoinError`].
    #[error(transparent)]
    Join(Box<JoinError>),
    /// A target returned an error.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// An object that processes share, such as a lock, could not be made: `EMFILE` at the limit of
    /// open files, `ENOSPC`, `ENOMEM`.
    #[error("cannot make {}: {source}", with_article(what))]
    Make {
        /// The kind of object.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A lock could not be acquired. See [`LockError`](crate::sync::LockError).
    #[error("cannot take the {what}: {reason}")]
    Lock {
        /// The kind of lock.
        what: &'static str,
        /// Why it could not be acquired.
        reason: String,
    },
    /// An operation on shared memory failed.
    #[error(transparent)]
    Memory(MemoryError),
    /// A wait failed.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// A release would have given a semaphore too many permits.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A barrier is broken.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// An item could not be put into a queue. The item is dropped; [`PutError`](crate::PutError)
    /// itself gives it back.
    #[error("cannot put into the queue: {0}")]
    Put(#[from] PutErrorKind),
    /// No item could be taken from a queue.
    #[error(transparent)]
    Get(#[from] GetError),
    /// A message could not be sent. The value is dropped; [`SendError`](crate::SendError) itself
    /// gives it back.
    #[error(transparent)]
    Send(SendError<()>),
    /// No message could be received.
    #[error(transparent)]
    Recv(#[from] RecvError),
    /// A connection could not be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A listener could not be made, or could not accept a connection.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An item of a [`ShareableList`](crate::ShareableList) could not be changed.
    #[error(transparent)]
    ShareableList(#[from] ShareableListError),
    /// A logger, an exit handler or a pipe could not be made, or waiting for several objects
    /// failed.
    #[error("cannot {what}: {source}")]
    Setup {
        /// The operation that failed.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl From<JoinError> for Error {
    fn from(error: JoinError) -> Error {
        Error::Join(Box::new(error))
    }
}

impl<T> From<PutError<T>> for Error {
    fn from(error: PutError<T>) -> Error {
        Error::Put(error.into_parts().1)
    }
}

impl<T> From<SendError<T>> for Error {
    fn from(error: SendError<T>) -> Error {
        Error::Send(error.without_value())
    }
}

/// The first few threads, for an error's text.
struct Tasks<'a>(&'a [(i32, String)]);

impl fmt::Display for Tasks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        for (index, (id, name)) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{name} {id}", if index == 0 { "" } else { ", " })?;
        }
        if self.0.len() > SHOWN { f.write_str(", …") } else { Ok(()) }
    }
}

/// The names of the processes; only the first few if there are many.
struct Names<'a>(&'a [ProcessHandle]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 10;
        let names: Vec<&str> = self.0.iter().take(MOST).map(ProcessHandle::name).collect();
        f.write_str(&names.join(", "))?;
        match self.0.len().saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The kind of object with its indefinite article, if it takes one.
fn with_article(what: &str) -> String {
    match what {
        "shared memory" | "shared bytes" => what.into(),
        _ if what.starts_with(['a', 'e', 'i', 'o']) => format!("an {what}"),
        _ => format!("a {what}"),
    }
}

/// The result of this library's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles() {
        for (what, text) in [
            ("array", "cannot make an array: out of memory"),
            ("semaphore", "cannot make a semaphore: out of memory"),
            ("shared memory", "cannot make shared memory: out of memory"),
        ] {
            assert_eq!(Error::Make { what, source: io::ErrorKind::OutOfMemory.into() }.to_string(), text);
        }
    }
}
