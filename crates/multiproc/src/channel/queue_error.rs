//! Why something could not be put into a queue, or taken from one.

use std::fmt;
use std::io;

use crate::shm::spin_lock::Stalled;
use crate::shm::store::Refusal;
use crate::transfer::codec::{CodecError, Refused};

/// Why an item was not put into a queue. The item is inside.
pub struct PutError<T> {
    item: T,
    kind: PutErrorKind,
}

/// See [`PutError`].
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PutErrorKind {
    /// There are as many items, or bytes, in it as there may be; when [trying](crate::Queue::try_put).
    #[error("it is full")]
    Full,
    /// It was full until the end of the timeout.
    #[error("it was full all the time")]
    TimedOut,
    /// The item has more bytes than the queue may ever hold.
    #[error("the item is larger than all that may be in it")]
    TooLarge,
    /// Somebody has [closed](crate::Queue::close) it.
    #[error("it is closed")]
    Closed,
    /// No process is left that could take anything out: all handles that could take are gone, or
    /// the queue is full and those that are left wait as well. The items that are in the queue stay
    /// there.
    #[error("nobody is left who could take anything out")]
    Disconnected,
    /// A process is in the middle of an operation on the queue and does not go on: it is stopped
    /// (`SIGSTOP`, a debugger) or frozen. When trying, or with a timeout. Nothing has been put; to
    /// try again makes sense when the process goes on, or has been killed.
    #[error("process {pid} {} in the middle of an operation on it", if *stopped { "is stopped" } else { "makes no progress" })]
    Stalled {
        /// The process.
        pid: i32,
        /// Whether it is stopped, as far as `/proc` tells.
        stopped: bool,
    },
    /// The item can't be sent.
    #[error(transparent)]
    Unserialisable(CodecError),
    /// The system has no memory for it (`ENOSPC`, `ENOMEM`), or no descriptors (`EMFILE`).
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody has written garbage into the queue's memory.
    #[error("its memory is corrupt: {0}")]
    Corrupt(&'static str),
}

impl<T> PutError<T> {
    pub(crate) fn new(item: T, kind: PutErrorKind) -> PutError<T> {
        PutError { item, kind }
    }

    /// The reason.
    pub fn kind(&self) -> &PutErrorKind {
        &self.kind
    }

    /// The item that was not put.
    pub fn into_inner(self) -> T {
        self.item
    }

    /// The item and the reason.
    pub fn into_parts(self) -> (T, PutErrorKind) {
        (self.item, self.kind)
    }

    /// Whether there was no room at the moment: to try again makes sense.
    pub fn is_full(&self) -> bool {
        matches!(self.kind, PutErrorKind::Full | PutErrorKind::TimedOut | PutErrorKind::Stalled { .. })
    }

    /// Whether nothing can ever be put again: it is closed, or no process is left that could take
    /// anything.
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
            PutErrorKind::System { source, .. } => Some(source),
            PutErrorKind::Unserialisable(source) => Some(source),
            _ => None,
        }
    }
}

impl From<Refusal> for PutErrorKind {
    fn from(refusal: Refusal) -> PutErrorKind {
        if let Some(Stalled { pid, is_stopped }) = refusal.stalled() {
            return PutErrorKind::Stalled { pid, stopped: is_stopped };
        }
        match refusal {
            Refusal::Full | Refusal::Crowded => PutErrorKind::Full,
            Refusal::TooLarge => PutErrorKind::TooLarge,
            Refusal::Closed => PutErrorKind::Closed,
            Refusal::System(what, source) => PutErrorKind::System { what, source },
            Refusal::Corrupt(what) => PutErrorKind::Corrupt(what),
            Refusal::Alone => PutErrorKind::Disconnected,
            Refusal::Late => PutErrorKind::TimedOut,
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
            Refused::ByFormat(error) => PutErrorKind::Unserialisable(error),
            Refused::BySystem { what, source } => PutErrorKind::System { what, source },
        }
    }
}

/// Why nothing was taken from a queue.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// There is nothing in it; when [trying](crate::Queue::try_get).
    #[error("the queue is empty")]
    Empty,
    /// There was nothing in it until the end of the timeout.
    #[error("the queue was empty all the time")]
    TimedOut,
    /// A process is in the middle of an operation on the queue and does not go on: it is stopped
    /// (`SIGSTOP`, a debugger) or frozen. When trying, or with a timeout. Nothing has been taken;
    /// to try again makes sense when the process goes on, or has been killed.
    #[error("cannot take from the queue: process {pid} {} in the middle of an operation on it", if *stopped { "is stopped" } else { "makes no progress" })]
    Stalled {
        /// The process.
        pid: i32,
        /// Whether it is stopped, as far as `/proc` tells.
        stopped: bool,
    },
    /// Getting: it is empty, and no process is left that could put anything in. Joining: tasks are
    /// left, and no process to do them. All other handles are gone, or wait as well.
    #[error("no other process is left that could put an item in, or do the tasks that are left")]
    Disconnected,
    /// It is empty, and somebody has [closed](crate::Queue::close) it.
    #[error("the queue is empty and closed")]
    Closed,
    /// An item was taken that can't be turned into a value, because it was put as bytes or as another type, or its type refuses it, or there are more
    /// handles in it than this process may have open files at all (`RLIMIT_NOFILE`). It is lost; the next one can be taken.
    #[error("an item was taken from the queue that can't be read: {0}")]
    Undecodable(CodecError),
    /// The system has no memory (`ENOMEM`) or no descriptors (`EMFILE`) for the next item. It stays where it is.
    #[error("cannot take from the queue: {what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody has written garbage into the queue's memory.
    #[error("cannot take from the queue: its memory is corrupt: {0}")]
    Corrupt(&'static str),
}

impl GetError {
    /// Whether there was nothing at the moment: to try again makes sense.
    pub fn is_empty(&self) -> bool {
        matches!(self, GetError::Empty | GetError::TimedOut | GetError::Stalled { .. })
    }

    /// Whether nothing will ever come: the queue is empty, and closed or disconnected.
    pub fn is_end(&self) -> bool {
        matches!(self, GetError::Closed | GetError::Disconnected)
    }
}

impl From<Refusal> for GetError {
    fn from(refusal: Refusal) -> GetError {
        if let Some(Stalled { pid, is_stopped }) = refusal.stalled() {
            return GetError::Stalled { pid, stopped: is_stopped };
        }
        match refusal {
            Refusal::Full | Refusal::Crowded | Refusal::TooLarge => GetError::Corrupt("it is empty and full"),
            Refusal::Closed => GetError::Closed,
            Refusal::System(what, source) => GetError::System { what, source },
            Refusal::Corrupt(what) => GetError::Corrupt(what),
            Refusal::Alone => GetError::Disconnected,
            Refusal::Late => GetError::TimedOut,
        }
    }
}
