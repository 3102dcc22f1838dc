//! [`WaitError`]: why a wait failed.

use std::io;

use multiproc_shm::sync as shm;

/// Why a wait failed. Reaching the end of a timeout is not an error.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// No process is left that could end the wait: all that have the object are waiting themselves,
    /// or have ended.
    #[error("cannot {what}: no process is left that could {action}")]
    Disconnected {
        /// What was waited for.
        what: &'static str,
        /// What another process would have had to do.
        action: &'static str,
    },
    /// The system refused to wait: `EMFILE`, `ENOSPC`, `ENOMEM`.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was waited for.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl WaitError {
    /// Returns whether the wait failed because no process is left that could end it.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, WaitError::Disconnected { .. })
    }

    /// Converts the outcome of a wait: `None` if the deadline has passed.
    pub(super) fn of<T>(
        result: Result<T, shm::WaitError>,
        what: &'static str,
        action: &'static str,
    ) -> Result<Option<T>, WaitError> {
        match result {
            Ok(outcome) => Ok(Some(outcome)),
            Err(shm::WaitError::Timeout) => Ok(None),
            Err(shm::WaitError::Disconnected) => Err(WaitError::Disconnected { what, action }),
            Err(error) => Err(WaitError::Io { what, source: error.into() }),
        }
    }
}
