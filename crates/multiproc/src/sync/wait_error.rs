//! [`WaitError`]: why somebody has waited in vain.

use std::io;

use crate::shm::wait_queue::WaitFailure;

/// Why a wait could not come to its end. That the time was up is no error.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// Nobody is left who could do what is waited for: of those who have the object all wait themselves, or have ended.
    #[error("cannot {what}: nobody is left who could {whom}")]
    Disconnected {
        /// What was waited for.
        what: &'static str,
        /// What somebody would have had to do.
        whom: &'static str,
    },
    /// The system has refused to wait: `EMFILE`, `ENOSPC`, `ENOMEM`.
    #[error("cannot {what}: {source}")]
    System {
        /// What was waited for.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl WaitError {
    /// Whether nobody is left.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, WaitError::Disconnected { .. })
    }

    /// What has come of waiting: none if it was too late.
    pub(super) fn of<T>(
        result: Result<T, WaitFailure>,
        what: &'static str,
        whom: &'static str,
    ) -> Result<Option<T>, WaitError> {
        match result {
            Ok(outcome) => Ok(Some(outcome)),
            Err(WaitFailure::Late) => Ok(None),
            Err(WaitFailure::Alone) => Err(WaitError::Disconnected { what, whom }),
            Err(WaitFailure::System(source)) => Err(WaitError::System { what, source }),
        }
    }
}
