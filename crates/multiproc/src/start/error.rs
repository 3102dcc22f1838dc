//! [`StartError`]: why a process could not be started.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::spec::status::ExitStatus;
use crate::transfer::codec::{CodecError, Refused};

/// A process could not be started.
///
/// ```
/// use multiproc::process::StartError;
/// use multiproc::Process;
///
/// # #[multiproc::main]
/// # fn main() {
/// let process = Process::new(|| (), ()).name("worker").current_dir("/no/such/directory");
/// match process.start() {
///     Err(StartError::Io { process, source, .. }) => {
///         assert_eq!((process.as_str(), source.kind()), ("worker", std::io::ErrorKind::NotFound));
///     }
///     other => panic!("{other:?}"),
/// }
/// # }
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The program has no entry for its children, so a child would run `main` from the top.
    #[error(
        "cannot start {process}: this program has no entry for child processes. Put #[multiproc::main] on `fn main` or call \
         multiproc::init() as its first statement; in a test binary, put #[multiproc::test] on the test in place of #[test]"
    )]
    NoEntry {
        /// The process that was to be started.
        process: String,
    },
    /// The target's arguments, or the fields of a [`Run`](crate::Run) value, can't be sent.
    #[error("cannot start {process}: its arguments can't be sent: {source}")]
    Encode {
        /// The process that was to be started.
        process: String,
        /// Why they can't be sent.
        source: CodecError,
    },
    /// The system refused a step of the start: `EAGAIN` at the limit of processes, `EMFILE` at the
    /// limit of open files, `ENOMEM`, `ENOSPC`; `EACCES` if the child may not enter its current
    /// directory.
    #[error("cannot start {process}: {what}: {source}")]
    Io {
        /// The process that was to be started.
        process: String,
        /// The step that failed.
        what: Cow<'static, str>,
        /// The system's error.
        source: io::Error,
    },
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) was refused because this process has other
    /// threads. It copies the process as it is, and a lock that another thread holds at that moment
    /// would stay held in the copy forever.
    #[error(
        "cannot start {process}: fork refused, this process has {threads} threads ({}). End them first, or use another start method",
        Tasks(tasks)
    )]
    MultiThreaded {
        /// The process that was to be started.
        process: String,
        /// The number of threads, including the calling one.
        threads: usize,
        /// The ids and names of the threads, as in `/proc/self/task`, the calling thread first.
        tasks: Vec<(i32, String)>,
    },
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) was refused because this thread is
    /// panicking: `start` was called by a destructor that runs during unwinding, or by a panic
    /// hook. In the copy, that panic would go on, and the first further panic would abort the
    /// process.
    #[error(
        "cannot start {process}: fork refused, this thread is panicking. Start it once the panic has been caught, or use another start \
         method"
    )]
    Panicking {
        /// The process that was to be started.
        process: String,
    },
    /// A closure for [`Process::fork`](crate::Process::fork) may have captured a reference that one
    /// of this thread's lock guards has given out: a reference to the value of a
    /// [`Mutex`](crate::sync::Mutex), a slice of an [`Array`](crate::Array). Shared memory is not
    /// copied, so two processes would access memory that only the lock's owner may access. The
    /// start is refused until all guards through which this thread has read or written anything are
    /// dropped.
    #[error(
        "cannot start {process}: fork refused, {guards} of this thread's guards {} given out references to shared memory. Drop the guards \
         first; the closure can capture the Mutex, RwLock or Array itself and lock it",
        if *guards == 1 { "has" } else { "have" }
    )]
    Borrowed {
        /// The process that was to be started.
        process: String,
        /// The number of such guards.
        guards: usize,
    },
    /// This process is exiting: it has left `main` or called `exit`, and has already ended or
    /// waited for its children.
    #[error("cannot start {process}: this process is exiting")]
    Exiting {
        /// The process that was to be started.
        process: String,
    },
    /// The new process, or the fork server that should have made it, did not answer as expected: it
    /// died, it is another build, or something else uses its connection.
    #[error("cannot start {process}: {source}")]
    Handshake {
        /// The process that was to be started.
        process: String,
        /// What happened instead.
        source: HandshakeError,
    },
}

impl StartError {
    /// Returns the name of the process that was to be started.
    pub fn process(&self) -> &str {
        match self {
            StartError::NoEntry { process }
            | StartError::Encode { process, .. }
            | StartError::Io { process, .. }
            | StartError::MultiThreaded { process, .. }
            | StartError::Panicking { process }
            | StartError::Borrowed { process, .. }
            | StartError::Exiting { process }
            | StartError::Handshake { process, .. } => process,
        }
    }

    /// Returns a function that converts the system's error for the step `what` of the start of the
    /// process `name`, for `map_err`.
    pub(crate) fn io<'a>(
        name: &'a str,
        what: impl Into<Cow<'static, str>> + 'a,
    ) -> impl FnOnce(io::Error) -> StartError + 'a {
        move |source| StartError::Io { process: name.into(), what: what.into(), source }
    }

    /// The error for a failed handshake with the process `name`.
    pub(crate) fn handshake(name: &str, kind: HandshakeErrorKind) -> StartError {
        StartError::Handshake { process: name.into(), source: HandshakeError { kind, ended: None } }
    }

    /// The error for the process `name` when its arguments were refused.
    pub(crate) fn refused(name: &str, refused: Refused) -> StartError {
        match refused {
            Refused::ByFormat(source) => StartError::Encode { process: name.into(), source },
            Refused::BySystem { what, source } => StartError::io(name, what)(source),
        }
    }
}

/// Why a process that was executed, or the fork server, could not be used. See
/// [`StartError::Handshake`].
pub struct HandshakeError {
    kind: HandshakeErrorKind,
    /// The executed process, and how it ended, if it has been ended because of this.
    ended: Option<Box<(i32, ExitStatus)>>,
}

impl HandshakeError {
    /// The error for the executed process `pid`, which has been ended and has this status.
    pub(crate) fn ended(kind: HandshakeErrorKind, pid: i32, status: ExitStatus) -> HandshakeError {
        HandshakeError { kind, ended: Some(Box::new((pid, status))) }
    }

    /// Returns what happened.
    pub fn kind(&self) -> &HandshakeErrorKind {
        &self.kind
    }

    /// Returns the process id of the process that was executed and can't be used; none if no such
    /// process is to blame.
    pub fn pid(&self) -> Option<i32> {
        self.ended.as_ref().map(|ended| ended.0)
    }

    /// Returns how that process ended.
    pub fn status(&self) -> Option<ExitStatus> {
        self.ended.as_ref().map(|ended| ended.1)
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ended.as_deref() {
            None => write!(f, "{}", self.kind),
            Some((pid, status)) => write!(
                f,
                "the new process (pid {pid}) can't be used as a child: {} ({status}). Its program must call multiproc::init() as \
                 the first statement of main",
                self.kind
            ),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// Why a handshake failed. See [`HandshakeError`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeErrorKind {
    /// It did not answer in time: it is stopped, or the machine is overloaded.
    #[error("it did not answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// It ended, or closed its connection, before it answered.
    #[error("it ended before it answered")]
    Disconnected,
    /// What it sent is not an answer.
    #[error("it broke the protocol: {0}")]
    Corrupt(String),
    /// It refused: it is another build, for example. This is its own text.
    #[error("{0}")]
    Refused(String),
    /// The fork server died at each attempt.
    #[error("its server died {attempts} times in a row")]
    ServerDied {
        /// How often the start was tried.
        attempts: u32,
    },
    /// The target's code is in a shared library, not in the program's own file; its address differs
    /// between processes.
    #[error(
        "the target's code is in a shared library, not in the program's own file; its address differs between processes"
    )]
    SharedLibrary,
}

impl HandshakeErrorKind {
    /// For a message of a kind that is not an answer.
    pub(crate) fn unexpected(kind: u8) -> HandshakeErrorKind {
        HandshakeErrorKind::Corrupt(format!("it answered with a message of kind {kind}"))
    }
}

/// The first few threads, for an error's text.
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
