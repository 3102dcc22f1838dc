//! Errors of putting items into queues and taking them: [`PutError`] and [`GetError`].

use std::fmt;
use std::io;

use multiproc_shm::lock::spin_lock::Stalled;
use multiproc_shm::queue;

use crate::transfer::codec::{CodecError, Refused};

/// An item was not put into a queue. The error holds the item, see
/// [`into_inner`](PutError::into_inner), and the reason.
pub struct PutError<T> {
    item: T,
    kind: PutErrorKind,
}

/// Why an item was not put into a queue. See [`PutError`].
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PutErrorKind {
    /// The queue holds as many items, or bytes, as it may. Only from the `try_` methods, such as
    /// [`try_put`](crate::Queue::try_put).
    #[error("it is full")]
    Full,
    /// The queue was still full when the timeout expired.
    #[error("it was still full when the timeout expired")]
    Timeout,
    /// The item has more bytes than the queue may hold at all.
    #[error("the item is larger than the limit of the queue in bytes")]
    TooLarge,
    /// The queue was [closed](crate::Queue::close).
    #[error("it is closed")]
    Closed,
    /// No process is left that could take an item: all handles that can take are gone, or the queue
    /// is full and the remaining ones wait as well. The items that are in the queue stay there.
    #[error("no process is left that could take an item")]
    Disconnected,
    /// A process is in the middle of an operation on the queue and makes no progress: it is stopped
    /// (`SIGSTOP`, a debugger) or frozen. Only from methods that try or have a timeout. Nothing has
    /// been put; try again when the process continues, or has been killed.
    #[error("process {pid} {} in the middle of an operation on it", if *stopped { "is stopped" } else { "makes no progress" })]
    Stalled {
        /// The process id of that process.
        pid: i32,
        /// Whether it is stopped, according to `/proc`.
        stopped: bool,
    },
    /// The item can't be serialised.
    #[error(transparent)]
    Encode(CodecError),
    /// The system has no memory for the item (`ENOSPC`, `ENOMEM`), or no descriptors (`EMFILE`).
    #[error("{what}: {source}")]
    Io {
        /// What the queue was doing, or what there was no room for.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A process has written garbage into the queue's memory.
    #[error("its memory is corrupt: {0}")]
    Corrupt(&'static str),
}

impl<T> PutError<T> {
    pub(crate) fn new(item: T, kind: PutErrorKind) -> PutError<T> {
        PutError { item, kind }
    }

    /// Returns the reason.
    pub fn kind(&self) -> &PutErrorKind {
        &self.kind
    }

    /// Returns the item that was not put.
    pub fn into_inner(self) -> T {
        self.item
    }

    /// Returns the item and the reason.
    pub fn into_parts(self) -> (T, PutErrorKind) {
        (self.item, self.kind)
    }

    /// Whether there was no room at the moment, or a stopped process was in the way: it makes sense
    /// to try again.
    pub fn is_full(&self) -> bool {
        matches!(self.kind, PutErrorKind::Full | PutErrorKind::Timeout | PutErrorKind::Stalled { .. })
    }

    /// Whether no put can succeed any more: the queue is closed, or no process is left that could
    /// take an item.
    pub fn is_end(&self) -> bool {
        matches!(self.kind, PutErrorKind::Closed | PutErrorKind::Disconnected)
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot put into the queue: {}", self.kind)
    }
}

impl<T> std::error::Error for PutError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            PutErrorKind::Io { source, .. } => Some(source),
            PutErrorKind::Encode(source) => Some(source),
            _ => None,
        }
    }
}

impl From<queue::Error> for PutErrorKind {
    fn from(error: queue::Error) -> PutErrorKind {
        match error {
            queue::Error::Full | queue::Error::FdsFull => PutErrorKind::Full,
            queue::Error::TooLarge => PutErrorKind::TooLarge,
            queue::Error::Closed => PutErrorKind::Closed,
            queue::Error::Disconnected => PutErrorKind::Disconnected,
            queue::Error::Timeout => PutErrorKind::Timeout,
            queue::Error::Stalled(Stalled { pid, is_stopped }) => PutErrorKind::Stalled { pid, stopped: is_stopped },
            queue::Error::Io { what, source } => PutErrorKind::Io { what, source },
            queue::Error::Corrupt(what) => PutErrorKind::Corrupt(what),
            // Not from calls of this layer.
            other => PutErrorKind::Io { what: "put it", source: io::Error::other(other) },
        }
    }
}

impl From<Refused> for PutErrorKind {
    fn from(refused: Refused) -> PutErrorKind {
        if let Refused::BySystem { source, .. } = &refused
            && let Some(Stalled { pid, is_stopped }) = Stalled::of(source)
        {
            return PutErrorKind::Stalled { pid, stopped: is_stopped };
        }
        match refused {
            Refused::ByFormat(error) => PutErrorKind::Encode(error),
            Refused::BySystem { what, source } => PutErrorKind::Io { what, source },
        }
    }
}

/// Why no item was taken from a queue.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// The queue is empty. Only from the `try_` methods, such as
    /// [`try_get`](crate::Queue::try_get).
    #[error("the queue is empty")]
    Empty,
    /// The queue was still empty when the timeout expired. From `join_timeout`: tasks were still
    /// unfinished.
    #[error("timed out waiting for the queue")]
    Timeout,
    /// A process is in the middle of an operation on the queue and makes no progress: it is stopped
    /// (`SIGSTOP`, a debugger) or frozen. Only from methods that try or have a timeout. Nothing has
    /// been taken; try again when the process continues, or has been killed.
    #[error("cannot take from the queue: process {pid} {} in the middle of an operation on it", if *stopped { "is stopped" } else { "makes no progress" })]
    Stalled {
        /// The process id of that process.
        pid: i32,
        /// Whether it is stopped, according to `/proc`.
        stopped: bool,
    },
    /// From the `get` methods: the queue is empty, and no process is left that could put an item.
    /// From [`join`](crate::JoinableQueue::join): tasks are unfinished, and no process is left to
    /// finish them. All other handles are gone, or wait as well.
    #[error("no other process is left that could put an item or finish the remaining tasks")]
    Disconnected,
    /// The queue is empty, and was [closed](crate::Queue::close).
    #[error("the queue is empty and closed")]
    Closed,
    /// An item was taken that can't be turned into a value: it was put as bytes or as another type,
    /// its type's `Deserialize` rejects it, or it contains more handles than this process may have
    /// open files at all (`RLIMIT_NOFILE`). The item is lost; the next one can be taken.
    #[error("an item taken from the queue can't be read: {0}")]
    Decode(CodecError),
    /// The system has no memory (`ENOMEM`) or no descriptors (`EMFILE`) for the next item, which
    /// stays in the queue.
    #[error("cannot take from the queue: {what}: {source}")]
    Io {
        /// What the queue was doing.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A process has written garbage into the queue's memory.
    #[error("cannot take from the queue: its memory is corrupt: {0}")]
    Corrupt(&'static str),
}

impl GetError {
    /// Whether there was no item at the moment, or a stopped process was in the way: it makes sense
    /// to try again.
    pub fn is_empty(&self) -> bool {
        matches!(self, GetError::Empty | GetError::Timeout | GetError::Stalled { .. })
    }

    /// Whether no item will ever come: the queue is empty, and closed or disconnected.
    pub fn is_end(&self) -> bool {
        matches!(self, GetError::Closed | GetError::Disconnected)
    }
}

impl From<queue::Error> for GetError {
    fn from(error: queue::Error) -> GetError {
        match error {
            queue::Error::Empty => GetError::Empty,
            queue::Error::Closed => GetError::Closed,
            queue::Error::Disconnected => GetError::Disconnected,
            queue::Error::Timeout => GetError::Timeout,
            queue::Error::Stalled(Stalled { pid, is_stopped }) => GetError::Stalled { pid, stopped: is_stopped },
            queue::Error::Io { what, source } => GetError::Io { what, source },
            queue::Error::Corrupt(what) => GetError::Corrupt(what),
            // Not from calls of this layer.
            other => GetError::Io { what: "take an item", source: io::Error::other(other) },
        }
    }
}
