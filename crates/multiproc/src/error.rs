//! [`Error`]: all errors of this library as one type, for `?`. The functions themselves return the
//! errors of their parts.

use std::io;

use multiproc_shm::lock::spin_lock::Stalled;

use crate::channel::error::{RecvError, SendError};
use crate::channel::link_error::{ConnectError, ListenError};
use crate::channel::queue_error::{GetError, PutError, PutErrorKind};
use crate::create_error::CreateError;
use crate::process::error::{ChildError, WaitAllError};
use crate::process::outcome::{ErrorChain, RemoteError};
use crate::process::scope::ScopeError;
use crate::shared::error::{FreezeError, MemoryError};
use crate::shared::shareable_list::ShareableListError;
use crate::spec::status::JoinError;
use crate::start::error::StartError;
use crate::sync::barrier::BarrierError;
use crate::sync::semaphore::ReleaseError;
use crate::sync::wait_error::WaitError;
use crate::sync::{ConditionError, LockError, Misuse};

/// An error of this library: starting a process, waiting for one, signalling one, or using an
/// object that processes share.
///
/// What goes wrong *inside* a child process is described by [`JoinError`].
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A process could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Waiting for a process or sending it a signal failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// Some of several processes had not ended at the timeout, or could not be waited for.
    #[error(transparent)]
    WaitAll(#[from] WaitAllError),
    /// Processes of a [`scope`](crate::scope) failed and were not joined.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A process ended without a value. See [`JoinError`].
    #[error(transparent)]
    Join(Box<JoinError>),
    /// A target returned an error.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// An object that processes share, such as a lock or a queue, could not be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// A lock could not be acquired. See [`LockError`](crate::sync::LockError).
    #[error("cannot acquire the {what}: {0}", what = .0.what())]
    Lock(LockError<()>),
    /// An operation on shared memory failed.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A wait failed.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// A release would have given a semaphore too many permits.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A barrier is broken.
    #[error(transparent)]
    Barrier(#[from] BarrierError),
    /// An item could not be put into a queue. The item is dropped;
    /// [`PutError`](crate::queue::PutError) itself gives it back.
    #[error("cannot put into the queue: {0}")]
    Put(#[from] PutErrorKind),
    /// No item could be taken from a queue.
    #[error(transparent)]
    Get(#[from] GetError),
    /// A message could not be sent. The value is dropped;
    /// [`SendError`](crate::connection::SendError) itself gives it back.
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
    /// An item of a [`ShareableList`](crate::shared_memory::ShareableList) could not be changed.
    #[error(transparent)]
    ShareableList(#[from] ShareableListError),
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

impl<G> From<LockError<G>> for Error {
    fn from(error: LockError<G>) -> Error {
        Error::Lock(error.without_guard())
    }
}

impl From<Misuse> for Error {
    fn from(misuse: Misuse) -> Error {
        Error::Lock(misuse.into())
    }
}

impl From<ConditionError> for Error {
    fn from(error: ConditionError) -> Error {
        match error {
            ConditionError::Poisoned(poisoned) => LockError::Poisoned(poisoned).into(),
            ConditionError::Wait(error) => error.into(),
            ConditionError::Stopped { pid } => {
                let source = io::Error::from(Stalled { pid, is_stopped: true });
                WaitError::Io { what: "wait for a condition", source }.into()
            }
            ConditionError::Misuse(misuse) => misuse.into(),
        }
    }
}

impl From<FreezeError> for Error {
    fn from(error: FreezeError) -> Error {
        Error::Memory(error.into_parts().1)
    }
}

impl ErrorChain for Error {
    fn to_remote(&self) -> RemoteError {
        RemoteError::new(self)
    }
}

/// A result with [`Error`], for functions that use several parts of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;
