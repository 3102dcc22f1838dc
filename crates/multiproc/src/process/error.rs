//! [`ChildError`] and [`WaitAllError`]: waiting for a process or signalling it failed.

use std::fmt;
use std::io;
use std::time::Duration;

use super::child::ProcessHandle;

/// Waiting for a process or sending it a signal failed.
#[derive(thiserror::Error)]
#[error("cannot {what} {process}: {source}")]
#[non_exhaustive]
pub struct ChildError {
    /// The process.
    pub process: String,
    /// The operation that failed.
    pub what: &'static str,
    /// The system's error.
    pub source: io::Error,
}

/// Waiting for the ends of several processes failed. See [`wait_all`](crate::wait_all).
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum WaitAllError {
    /// Some processes had not ended at the timeout.
    #[error("{} of {of} processes still run after {timeout:?}: {}", running.len(), Names(running))]
    Timeout {
        /// The processes that still run.
        running: Vec<ProcessHandle>,
        /// How many processes were waited for.
        of: usize,
        /// The timeout.
        timeout: Duration,
    },
    /// A process could not be waited for.
    #[error(transparent)]
    Child(#[from] ChildError),
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
