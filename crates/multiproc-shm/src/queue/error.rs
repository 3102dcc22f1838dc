//! [`Error`]: why an item was not put or taken.

use std::io;

use crate::lock::spin_lock::Stalled;
use crate::wait::wait_queue::WaitFailure;

/// Why an operation on a queue had no effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The queue is empty. Only from calls that don't wait.
    #[error("the queue is empty")]
    Empty,
    /// The queue holds as many items, or bytes, as it may. Only from calls that don't wait.
    #[error("the queue is full")]
    Full,
    /// The queue holds as many descriptors as the kernel lets it. There is room when an item with
    /// descriptors is taken. Only from calls that don't wait, and only from a queue with a limit;
    /// without a limit it is an [`Io`](Error::Io) error.
    #[error("the queue has no room for more items with descriptors")]
    FdsFull,
    /// The item has more bytes than the queue may hold at all.
    #[error("the item is larger than the queue's limit in bytes")]
    TooLarge,
    /// The queue was closed; from a call that takes: and it is empty.
    #[error("the queue is closed")]
    Closed,
    /// No process is left that could end the wait: no other handle can take items (of a full
    /// queue), put items (into an empty one), or finish the work that `join` waits for. All are
    /// gone, or wait as well.
    #[error("no process is left that could put an item, take one or finish the work")]
    Disconnected,
    /// The deadline has passed.
    #[error("timed out waiting for the queue")]
    Timeout,
    /// A signal handler ran in this thread while it waited. Only from handles that are
    /// [interruptible](crate::queue::End::interruptible).
    #[error("a signal interrupted the wait for the queue")]
    Interrupted,
    /// A process is in the middle of an operation on the queue and makes no progress: it is stopped
    /// (`SIGSTOP`, a debugger) or frozen. Only from calls with a deadline. Try again when the
    /// process continues, or has been killed.
    #[error("the queue can't be used now: {0}")]
    Stalled(Stalled),
    /// Another thread is in the middle of an operation on the queue. Only from
    /// [`try_put`](crate::queue::End::try_put) and [`try_get`](crate::queue::End::try_get), which
    /// don't wait for the moment that this takes. Try again, or wait.
    #[error("another thread is in the middle of an operation on the queue")]
    Busy,
    /// A system call failed: there is no memory (`ENOSPC`, `ENOMEM`) or no descriptor (`EMFILE`),
    /// say. An item that was to be taken stays in the queue.
    #[error("{what}: {source}")]
    Io {
        /// What was needed, or failed.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A process has written garbage into the queue's memory.
    #[error("the queue's memory is corrupt: {0}")]
    Corrupt(&'static str),
}

impl Error {
    /// Maps an error of the system in the context `what`.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| match (Stalled::of(&source), source.kind()) {
            (Some(stalled), _) => stalled.into(),
            (None, io::ErrorKind::InvalidData) => Error::Corrupt(what),
            (None, _) => Error::Io { what, source },
        }
    }

    /// Maps an error of mapping a block.
    #[cold]
    pub(crate) fn mapping(source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::InvalidData => Error::Corrupt("a block"),
            _ => Error::io("map an item")(source),
        }
    }

    /// Whether the cause is an internal lock that could not be acquired in time.
    pub(crate) fn has_stalled(&self) -> bool {
        matches!(self, Error::Stalled(_) | Error::Busy)
    }

    /// Whether there was no room at the moment: the queue is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Full | Error::FdsFull)
    }

    /// Whether it makes sense to try again: the queue is empty or full at the moment, the deadline
    /// has passed, or another thread or process is in the way.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Error::Empty
                | Error::Full
                | Error::FdsFull
                | Error::Timeout
                | Error::Interrupted
                | Error::Stalled(_)
                | Error::Busy
        )
    }

    /// Whether no call of the same kind can succeed any more: the queue is closed, or no other
    /// process is left.
    pub fn is_end(&self) -> bool {
        matches!(self, Error::Closed | Error::Disconnected)
    }
}

impl From<Stalled> for Error {
    fn from(stalled: Stalled) -> Error {
        if stalled == Stalled::BUSY { Error::Busy } else { Error::Stalled(stalled) }
    }
}

impl From<WaitFailure> for Error {
    fn from(failure: WaitFailure) -> Error {
        match failure {
            WaitFailure::Late => Error::Timeout,
            WaitFailure::Alone => Error::Disconnected,
            WaitFailure::Interrupted => Error::Interrupted,
            WaitFailure::System(error) => Error::io("wait")(error),
        }
    }
}
