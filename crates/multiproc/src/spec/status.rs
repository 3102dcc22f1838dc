//! How a process ended: [`ExitStatus`], and [`JoinError`] for why there is no value.

use std::fmt;
use std::io;
use std::time::Duration;

use multiproc_os::pidfd::{End, Usage};
use multiproc_os::signal::{self, SIGKILL};
use multiproc_shm::units::Size;
use serde::{Deserialize, Serialize};

use crate::transfer::codec::CodecError;

/// How a process ended, and the resources that it used.
///
/// ```
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let child = multiproc::Process::new(|code: i32| if code != 0 { std::process::exit(code) }, (3,)).start()?;
/// let status = child.wait()?;
/// assert_eq!(status.exit_code(), Some(3));
/// assert!(status.max_rss().unwrap() > 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    end: Option<End>,
    usage: Option<Usage>,
    out_of_memory: bool,
}

impl ExitStatus {
    pub(crate) fn new(end: End, usage: Option<Usage>) -> ExitStatus {
        ExitStatus { end: Some(end), usage, out_of_memory: false }
    }

    /// For a process that is gone, with its status taken by another part of the program.
    pub(crate) fn unknown() -> ExitStatus {
        ExitStatus { end: None, usage: None, out_of_memory: false }
    }

    /// Returns the code that it exited with, 0 for success, or minus the number of the signal that
    /// killed it.
    ///
    /// None only when the status is unknown: another part of this program has waited for any child,
    /// or ignores `SIGCHLD`, and the kernel (before Linux 6.15) doesn't keep the status for others.
    pub fn exit_code(&self) -> Option<i32> {
        self.end.map(|end| match end {
            End::Exited(code) => code,
            End::Signalled { signal, .. } => -signal,
        })
    }

    /// Returns the code that it exited with, 0 to 255; none if a signal killed it.
    pub fn code(&self) -> Option<i32> {
        match self.end {
            Some(End::Exited(code)) => Some(code),
            _ => None,
        }
    }

    /// Returns the signal that killed it; none if it exited.
    pub fn signal(&self) -> Option<i32> {
        match self.end {
            Some(End::Signalled { signal, .. }) => Some(signal),
            _ => None,
        }
    }

    /// Returns whether a signal killed it and the kernel reported a core dump.
    pub fn core_dumped(&self) -> bool {
        matches!(self.end, Some(End::Signalled { core_dumped: true, .. }))
    }

    /// Returns whether it exited with code 0.
    pub fn success(&self) -> bool {
        self.code() == Some(0)
    }

    pub(crate) fn set_out_of_memory(&mut self) {
        self.out_of_memory = true;
    }

    /// Returns whether the kernel killed it because memory ran out: it was killed by a SIGKILL that
    /// this process didn't send, and meanwhile the kernel has counted an out-of-memory kill in this
    /// process's control group (or on this machine, if the group has no such counter).
    pub fn out_of_memory(&self) -> bool {
        self.out_of_memory
    }

    /// Returns its peak resident memory, in bytes. None if the status is unknown or was not taken
    /// by this process.
    pub fn max_rss(&self) -> Option<u64> {
        self.usage.map(|usage| usage.max_rss)
    }

    /// Returns the processor time that the process and the children it waited for spent in user
    /// mode.
    pub fn user_time(&self) -> Option<Duration> {
        self.usage.map(|usage| usage.user_time)
    }

    /// Returns the processor time that the process and the children it waited for spent in the
    /// kernel.
    pub fn system_time(&self) -> Option<Duration> {
        self.usage.map(|usage| usage.system_time)
    }

    /// Returns the total processor time: user and system.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.usage.map(|usage| usage.user_time + usage.system_time)
    }
}

/// As in `<Process(Process-1, stopped[SIGTERM])>`: `stopped`, `stopped[1]`, `stopped[SIGTERM]`,
/// `stopped[SIGRTMIN+6]`.
impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            Some(End::Exited(0)) => f.write_str("stopped"),
            Some(End::Exited(code)) => write!(f, "stopped[{code}]"),
            Some(End::Signalled { signal, .. }) => write!(f, "stopped[{}]", SignalName(signal)),
            None => f.write_str("stopped[unknown]"),
        }
    }
}

/// Displays a signal by its name, as in kill(1): `SIGTERM`, `SIGRTMIN+6`; `signal 32` if it has
/// none.
struct SignalName(i32);

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (signal::name(self.0), signal::real_time(self.0)) {
            (Some(name), _) => f.write_str(name),
            (None, Some(0)) => f.write_str("SIGRTMIN"),
            (None, Some(number)) => write!(f, "SIGRTMIN+{number}"),
            (None, None) => write!(f, "signal {}", self.0),
        }
    }
}

/// A panic in a child process, as the child reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Panic {
    /// The message; `Box<dyn Any>` if the panic's payload was not a string.
    pub message: String,
    /// `file:line:column`; none if the target has replaced the panic hook that this library sets.
    pub location: Option<String>,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.location {
            Some(location) => write!(f, ", at {location}"),
            None => Ok(()),
        }
    }
}

/// Why [`Child::join`](crate::Child::join) has no value, and for which process.
///
/// ```
/// use multiproc::process::JoinErrorKind;
/// use multiproc::Process;
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let child = Process::new(|divisor: u32| 10 / divisor, (0,)).name("divider").start()?;
/// let error = child.join().unwrap_err();
/// assert_eq!(error.process(), "divider");
/// assert!(matches!(error.kind(), JoinErrorKind::Panicked(panic) if panic.message.contains("divide by zero")));
/// # Ok(())
/// # }
/// ```
#[derive(thiserror::Error)]
#[error("{process} {kind}")]
pub struct JoinError {
    process: String,
    kind: JoinErrorKind,
}

/// The ways in which a process can end without a value.
#[non_exhaustive]
pub enum JoinErrorKind {
    /// The target panicked. Exit code 1.
    Panicked(Panic),
    /// The process exited with this code and without a value: by `std::process::exit` or `_exit`,
    /// before the target returned.
    Exited(i32),
    /// A signal killed the process: an abort, a segmentation fault, a `kill`.
    Signalled {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel reported a core dump.
        core_dumped: bool,
    },
    /// The process started, but could not set itself up. Exit code 70.
    Setup(String),
    /// The process could not decode its arguments. Exit code 1.
    Arguments(String),
    /// The target returned a value that can't be sent. Exit code 1.
    Encode(String),
    /// The process died because it reached its [`memory_limit`](crate::Process::memory_limit): it
    /// ended itself by SIGABRT or SIGSEGV.
    MemoryLimit {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The kernel killed the process by SIGKILL because memory ran out, in its control group or on
    /// the machine.
    OutOfMemory,
    /// The value that the process sent can't be decoded.
    Decode(Box<CodecError>),
    /// What the process sent as its report is not one.
    Corrupt(String),
    /// The target returned an `Err` and was not joined. Exit code 1. Only a
    /// [`ScopeError`](crate::process::ScopeError) contains this kind: for `join`, the `Err` is the
    /// value.
    ReturnedErr,
    /// The process is gone and its status is unknown; see [`ExitStatus::exit_code`].
    Unknown,
    /// Waiting for it failed.
    Wait(io::Error),
    /// The process still runs: its scope could not end it, because it runs as another user.
    NotEnded(io::Error),
}

impl JoinErrorKind {
    /// Why there is no value from a process that ended without a report.
    pub(crate) fn from_status(status: &ExitStatus) -> JoinErrorKind {
        match status.end {
            Some(End::Exited(code)) => JoinErrorKind::Exited(code),
            Some(End::Signalled { signal: SIGKILL, .. }) if status.out_of_memory => JoinErrorKind::OutOfMemory,
            Some(End::Signalled { signal, core_dumped }) => JoinErrorKind::Signalled { signal, core_dumped },
            None => JoinErrorKind::Unknown,
        }
    }
}

impl JoinError {
    pub(crate) fn new(process: &str, kind: JoinErrorKind) -> JoinError {
        JoinError { process: process.into(), kind }
    }

    /// The error for a value that has arrived and can't be decoded.
    pub(crate) fn of_value(process: &str, error: CodecError) -> JoinError {
        JoinError::new(process, JoinErrorKind::Decode(Box::new(error)))
    }

    /// Returns the result that has arrived and could not be decoded: [`CodecError::decode_as`]
    /// decodes it as another type.
    pub fn undecodable(&self) -> Option<&CodecError> {
        match &self.kind {
            JoinErrorKind::Decode(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the name of the process.
    pub fn process(&self) -> &str {
        &self.process
    }

    /// Returns what happened.
    pub fn kind(&self) -> &JoinErrorKind {
        &self.kind
    }

    /// Returns what happened, by value.
    pub fn into_kind(self) -> JoinErrorKind {
        self.kind
    }

    /// Returns whether the target panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.kind, JoinErrorKind::Panicked(_))
    }

    /// Returns the signal that killed the process, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.kind {
            JoinErrorKind::Signalled { signal, .. } => Some(signal),
            JoinErrorKind::OutOfMemory => Some(SIGKILL),
            _ => None,
        }
    }
}

impl fmt::Display for JoinErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinErrorKind::Panicked(panic) => write!(f, "panicked: {panic}"),
            JoinErrorKind::Exited(code) => {
                write!(f, "exited with code {code} and no value")
            }
            JoinErrorKind::Signalled { signal, core_dumped } => {
                write!(f, "was killed by {}", SignalName(*signal))?;
                if *core_dumped { f.write_str(" (core dumped)") } else { Ok(()) }
            }
            JoinErrorKind::Setup(reason) => write!(f, "could not set itself up: {reason}"),
            JoinErrorKind::Arguments(reason) => write!(f, "could not decode its arguments: {reason}"),
            JoinErrorKind::Encode(reason) => {
                write!(f, "has a result that can't be sent: {reason}")
            }
            JoinErrorKind::MemoryLimit { limit } => {
                write!(f, "needed more memory than its limit of {}", Size(*limit))
            }
            JoinErrorKind::OutOfMemory => {
                f.write_str("was killed by the kernel (SIGKILL) because there was no memory left")
            }
            JoinErrorKind::Decode(error) => write!(f, "sent a result that can't be decoded: {error}"),
            JoinErrorKind::Corrupt(reason) => write!(f, "sent a report that can't be decoded: {reason}"),
            JoinErrorKind::ReturnedErr => f.write_str("returned an error and was not joined"),
            JoinErrorKind::Unknown => {
                f.write_str("has ended, and another part of this program has taken its exit status")
            }
            JoinErrorKind::Wait(error) => write!(f, "can't be waited for: {error}"),
            JoinErrorKind::NotEnded(error) => write!(f, "could not be ended: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_names() {
        let first = libc::SIGRTMIN();
        let names =
            [(15, "SIGTERM"), (first, "SIGRTMIN"), (first + 6, "SIGRTMIN+6"), (32, "signal 32"), (99, "signal 99")];
        for (signal, name) in names {
            let status = ExitStatus::new(End::Signalled { signal, core_dumped: false }, None);
            assert_eq!(status.to_string(), format!("stopped[{name}]"));
            let error = JoinError::new("p", JoinErrorKind::from_status(&status));
            assert_eq!(error.to_string(), format!("p was killed by {name}"));
        }
    }
}
