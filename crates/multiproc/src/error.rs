//! What can go wrong, as one type: every error says what was tried, and for which process.

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
use crate::process::status::JoinError;
use crate::shared::error::MemoryError;
use crate::shared::shareable_list::ShareableListError;
use crate::sync::barrier::BarrierError;
use crate::sync::semaphore::ReleaseError;
use crate::sync::wait_error::WaitError;
use crate::transfer::codec::CodecError;

/// An error of this library, outside the target: starting, waiting for and signalling processes.
///
/// What happens *in* a process is told by [`JoinError`].
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program has no entry for its children, so a child would run `main` from the top.
    #[error(
        "cannot start {process}: this program has no entry for child processes. Put #[multiproc::main] on `fn main`, or call \
         multiproc::init() first thing in it; in a test binary put #[multiproc::test] on the test in place of #[test]"
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
        /// Why they can't.
        source: CodecError,
    },
    /// The system refused something on the way to the new process: `EAGAIN` at the limit of processes, `EMFILE` at the limit of
    /// open files, `ENOMEM`, `ENOSPC`; `EACCES` when the current directory may not be entered.
    #[error("cannot start {process}: {what}: {source}")]
    Start {
        /// The process that was to be started.
        process: String,
        /// What was being done.
        what: Cow<'static, str>,
        /// What the system said.
        source: io::Error,
    },
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) copies this process as it is, and a lock that another thread holds at that moment would be
    /// held in the copy for ever. So it is refused while there are other threads.
    #[error(
        "cannot start {process}: fork refused, this process has {threads} threads ({}). End them first, or use another start method",
        Tasks(tasks)
    )]
    MultiThreaded {
        /// The process that was to be started.
        process: String,
        /// How many threads there are, the calling one included.
        threads: usize,
        /// The ids and names of those threads, as in `/proc/self/task`, the calling one first.
        tasks: Vec<(i32, String)>,
    },
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) copies this process as it is, and this
    /// thread is in the middle of a panic: `start` was called by a destructor that runs because of
    /// it, or by a panic hook. In the copy that panic would go on, and the first of its own would
    /// abort it.
    #[error(
        "cannot start {process}: fork refused, this thread is panicking. Start it once the panic has been caught, or use another start \
         method"
    )]
    Panicking {
        /// The process that was to be started.
        process: String,
    },
    /// A closure for [`Process::fork`](crate::Process::fork) may have captured what a guard of this thread has given: a reference to the value of a
    /// [`Mutex`](crate::sync::Mutex), a slice of an [`Array`](crate::Array). Shared memory is not copied, so two processes would use at the same time what
    /// only one holds. Refused until the guards are dropped through which anything has been read or written.
    #[error(
        "cannot start {process}: fork refused, {guards} of this thread's guards {} lent shared memory. Drop what has locked it first; the closure \
         can capture the Mutex, RwLock or Array itself and lock that",
        if *guards == 1 { "has" } else { "have" }
    )]
    Lent {
        /// The process that was to be started.
        process: String,
        /// How many there are.
        guards: usize,
    },
    /// This process is at its end: it has left `main` or called `exit`, and has ended or waited for its children.
    #[error("cannot start {process}: this process is exiting")]
    Exiting {
        /// The process that was to be started.
        process: String,
    },
    /// The new process, or the server that was to make it, did not answer as it should: it died, it is another build, or something
    /// else talks on its connection.
    #[error("cannot start {process}: {reason}")]
    Handshake {
        /// The process that was to be started.
        process: String,
        /// What happened in place of the answer.
        reason: String,
    },
    /// Waiting for a process or sending it a signal failed.
    #[error("cannot {what} {process}: {source}")]
    Child {
        /// The process.
        process: String,
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Some processes had not ended when the time was up. See [`wait_all`](crate::wait_all).
    #[error("{} of {of} processes still run after {timeout:?}: {}", running.len(), Names(running))]
    StillRunning {
        /// Those that run.
        running: Vec<ProcessHandle>,
        /// How many were waited for.
        of: usize,
        /// How long.
        timeout: Duration,
    },
    /// Processes of a [`scope`](crate::scope) have failed, and nobody had joined them.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A process has ended without a value. See [`JoinError`].
    #[error(transparent)]
    Join(Box<JoinError>),
    /// A target has returned an error.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// An object for several processes, a lock say, could not be made: `EMFILE` at the limit of open files, `ENOSPC`, `ENOMEM`.
    #[error("cannot make {}: {source}", with_article(what))]
    Make {
        /// The kind of object.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A lock could not be taken as it should be. See [`LockError`](crate::sync::LockError).
    #[error("cannot take the {what}: {reason}")]
    Lock {
        /// The kind of lock.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// Something can't be done with shared memory.
    #[error(transparent)]
    Memory(MemoryError),
    /// Something was waited for in vain.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// A semaphore would have had too many permits.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A barrier is broken.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// Something could not be put into a queue. The item is gone: look at the [`PutError`](crate::PutError) itself to have it back.
    #[error("cannot put into the queue: {0}")]
    Put(#[from] PutErrorKind),
    /// Nothing could be taken from a queue.
    #[error(transparent)]
    Get(#[from] GetError),
    /// A message could not be sent. The value is gone: look at the [`SendError`](crate::SendError) itself to have it back.
    #[error(transparent)]
    Send(SendError<()>),
    /// No message could be received.
    #[error(transparent)]
    Recv(#[from] RecvError),
    /// No connection has come about.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A listener can't be made, or nobody be accepted.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// An item of a [`ShareableList`](crate::ShareableList) could not be changed.
    #[error(transparent)]
    ShareableList(#[from] ShareableListError),
    /// A logger, an exit handler or a pipe could not be made, or several objects not be waited for.
    #[error("cannot {what}: {source}")]
    Setup {
        /// What was being done.
        what: &'static str,
        /// What the system said.
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

/// The first few of them, for an error's text.
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

/// The names of these processes; the first few, if there are many.
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

/// A kind of object, as one speaks of one of them.
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
    fn no_object_had_the_article_that_belongs_to_it() {
        for (what, text) in [
            ("array", "cannot make an array: out of memory"),
            ("semaphore", "cannot make a semaphore: out of memory"),
            ("shared memory", "cannot make shared memory: out of memory"),
        ] {
            assert_eq!(Error::Make { what, source: io::ErrorKind::OutOfMemory.into() }.to_string(), text);
        }
    }
}
