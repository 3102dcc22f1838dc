//! What became of a process: [`ExitStatus`], and [`JoinError`] for why there is no value.

use std::fmt;
use std::io;
use std::time::Duration;

use multiproc_os::pidfd::{End, Usage};
use multiproc_os::signal;
use serde::{Deserialize, Serialize};

use super::children::SIGKILL;
use crate::transfer::codec::CodecError;
use crate::units::Size;

/// How a process ended, and what it had used.
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

    /// For a process that is gone, and whose status somebody else has taken.
    pub(crate) fn unknown() -> ExitStatus {
        ExitStatus { end: None, usage: None, out_of_memory: false }
    }

    /// 0, the code that it exited with, or minus the signal that killed it.
    ///
    /// None only when the status is unknown: something else in this program has waited for any child, or ignores `SIGCHLD`, and
    /// the kernel (before Linux 6.15) doesn't keep the status for others.
    pub fn exit_code(&self) -> Option<i32> {
        self.end.map(|end| match end {
            End::Exited(code) => code,
            End::Signalled { signal, .. } => -signal,
        })
    }

    /// The code that it exited with, 0 to 255; none if a signal killed it.
    pub fn code(&self) -> Option<i32> {
        match self.end {
            Some(End::Exited(code)) => Some(code),
            _ => None,
        }
    }

    /// The signal that killed it; none if it exited.
    pub fn signal(&self) -> Option<i32> {
        match self.end {
            Some(End::Signalled { signal, .. }) => Some(signal),
            _ => None,
        }
    }

    /// Whether a signal killed it and the kernel was to write a core file.
    pub fn core_dumped(&self) -> bool {
        matches!(self.end, Some(End::Signalled { core_dumped: true, .. }))
    }

    /// Whether it exited with code 0.
    pub fn success(&self) -> bool {
        self.code() == Some(0)
    }

    pub(crate) fn set_out_of_memory(&mut self) {
        self.out_of_memory = true;
    }

    /// Whether the kernel killed it because there was no memory left: it was killed by SIGKILL, not from here, and the kernel has counted
    /// such a kill meanwhile, in this process's control group (or on this machine, where the group doesn't tell).
    pub fn out_of_memory(&self) -> bool {
        self.out_of_memory
    }

    /// The most memory that it had resident at once, in bytes. None when the status is unknown or came from elsewhere.
    pub fn max_rss(&self) -> Option<u64> {
        self.usage.map(|usage| usage.max_rss)
    }

    /// The processor time that it and those it waited for spent in user mode.
    pub fn user_time(&self) -> Option<Duration> {
        self.usage.map(|usage| usage.user_time)
    }

    /// The processor time that it and those it waited for spent in the kernel.
    pub fn system_time(&self) -> Option<Duration> {
        self.usage.map(|usage| usage.system_time)
    }

    /// The processor time in all: user and system.
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

/// A signal by name, as in kill(1): `SIGTERM`, `SIGRTMIN+6`; `signal 32` where it has none.
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

/// A panic in a process, as told by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Panic {
    /// The message; `Box<dyn Any>` if the panic's payload was no text.
    pub message: String,
    /// `file:line:column`, if the standard panic hook was in place.
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

/// Why [`Child::join`](crate::Child::join) has no value. Names the process.
///
/// ```
/// use multiproc::{JoinErrorKind, Process};
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
    undecodable: Option<Box<CodecError>>,
}

/// The ways in which a process can end without a value.
#[non_exhaustive]
pub enum JoinErrorKind {
    /// The target panicked. Exit code 1.
    Panicked(Panic),
    /// The process left with this code and no value: by `std::process::exit` or `_exit`, before the target returned.
    Exited(i32),
    /// A signal killed the process: an abort, a segmentation fault, a kill by the kernel for want of memory.
    Signalled {
        /// The signal's number.
        signal: i32,
        /// Whether a core file was asked for.
        core_dumped: bool,
    },
    /// The process could not take on what it was to begin with, after it had been started. Exit code 70.
    NotStarted(String),
    /// The process could not make sense of its arguments. Exit code 1.
    Arguments(String),
    /// The target returned a value that can't be sent. Exit code 1.
    NotSent(String),
    /// The process got no more memory, and died of that: [`memory_limit`](crate::Process::memory_limit). By itself, of SIGABRT or SIGSEGV.
    MemoryLimit {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The kernel killed the process because there was no memory left, in its control group or on the machine. SIGKILL.
    OutOfMemory,
    /// What the process sent as its value can't be decoded.
    Undecodable(String),
    /// The target returned an `Err`, which nobody has looked at. Exit code 1. Only a [`ScopeError`](crate::ScopeError) says so: to whoever
    /// joins the process the `Err` is a value.
    ReturnedErr,
    /// The process is gone and its status is unknown; see [`ExitStatus::exit_code`].
    Unknown,
    /// Waiting for it failed.
    Wait(io::Error),
    /// It still runs: its scope could not end it, as it runs as another user.
    NotEnded(io::Error),
}

impl JoinErrorKind {
    /// Why there is no value from a process that has left without a word.
    pub(crate) fn without_a_word(status: &ExitStatus) -> JoinErrorKind {
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
        JoinError { process: process.into(), kind, undecodable: None }
    }

    /// There is a value, which can't be read.
    pub(crate) fn of_value(process: &str, error: CodecError) -> JoinError {
        let kind = JoinErrorKind::Undecodable(error.to_string());
        JoinError { undecodable: Some(Box::new(error)), ..JoinError::new(process, kind) }
    }

    /// The result that has come and could not be read: [`CodecError::decode_as`] reads it as
    /// another type.
    pub fn undecodable(&self) -> Option<&CodecError> {
        self.undecodable.as_deref()
    }

    /// The name of the process.
    pub fn process(&self) -> &str {
        &self.process
    }

    /// What happened.
    pub fn kind(&self) -> &JoinErrorKind {
        &self.kind
    }

    /// What happened, by value.
    pub fn into_kind(self) -> JoinErrorKind {
        self.kind
    }

    /// Whether the target panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.kind, JoinErrorKind::Panicked(_))
    }

    /// The signal that killed the process, if one did.
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
            JoinErrorKind::NotStarted(reason) => write!(f, "could not begin: {reason}"),
            JoinErrorKind::Arguments(reason) => write!(f, "could not take its arguments: {reason}"),
            JoinErrorKind::NotSent(reason) => {
                write!(f, "has a result that can't be sent: {reason}")
            }
            JoinErrorKind::MemoryLimit { limit } => {
                write!(f, "needed more memory than its limit of {}", Size(*limit))
            }
            JoinErrorKind::OutOfMemory => {
                f.write_str("was killed by the kernel, SIGKILL, because there was no memory left")
            }
            JoinErrorKind::Undecodable(reason) => {
                write!(f, "sent a result that can't be decoded: {reason}")
            }
            JoinErrorKind::ReturnedErr => f.write_str("returned an error that nobody has looked at"),
            JoinErrorKind::Unknown => {
                f.write_str("is gone, and its exit status was taken by another part of this program")
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
    fn signals_have_names_or_are_called_signals() {
        let first = libc::SIGRTMIN();
        let names =
            [(15, "SIGTERM"), (first, "SIGRTMIN"), (first + 6, "SIGRTMIN+6"), (32, "signal 32"), (99, "signal 99")];
        for (signal, name) in names {
            let status = ExitStatus::new(End::Signalled { signal, core_dumped: false }, None);
            assert_eq!(status.to_string(), format!("stopped[{name}]"));
            let error = JoinError::new("p", JoinErrorKind::without_a_word(&status));
            assert_eq!(error.to_string(), format!("p was killed by {name}"));
        }
    }
}
