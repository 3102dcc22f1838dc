//! A process that has been started: [`Child`], which gives the target's value, and
//! [`ProcessHandle`], for everything else.

use std::fmt;
use std::io::{self, PipeReader};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use multiproc_os::signal::{SIGINT, SIGKILL, SIGTERM};
use multiproc_shm::wait::deadline::Deadline;
use serde::de::DeserializeOwned;

use super::error::ChildError;
use crate::channel::wait::Waitable;
use crate::runtime::child::ChildRecord;
use crate::spec::status::{ExitStatus, JoinError, JoinErrorKind};
use crate::spec::stdio::{ChildStdin, Ends};

/// The most that [`terminate`](ProcessHandle::terminate), [`kill`](ProcessHandle::kill) and
/// [`interrupt`](ProcessHandle::interrupt) wait for the end of the process.
const SIGNAL_TIMEOUT: Duration = Duration::from_millis(50);

/// A handle to a process that was started, independent of its target's type.
/// [`active_children`](crate::active_children) returns them, and so does [`Child::handle`]. Clones
/// are handles to the same process.
///
/// Dropping a handle does nothing to the process.
#[derive(Clone)]
pub struct ProcessHandle {
    record: Arc<ChildRecord>,
}

impl ProcessHandle {
    pub(crate) fn new(record: Arc<ChildRecord>) -> ProcessHandle {
        ProcessHandle { record }
    }

    pub(crate) fn record(&self) -> &Arc<ChildRecord> {
        &self.record
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Returns the process id. After the process has been waited for, another process may have the
    /// same id.
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    /// Returns whether it is a daemon: when this process ends, it ends its daemons instead of
    /// waiting for them.
    pub fn daemon(&self) -> bool {
        self.record.daemon
    }

    /// Returns whether it still runs.
    pub fn is_alive(&self) -> bool {
        !self.record.has_ended()
    }

    /// Returns the code that it exited with, 0 for success, or minus the number of the signal that
    /// killed it. None while it runs, and if the status is unknown; see
    /// [`ExitStatus::exit_code`].
    pub fn exit_code(&self) -> Option<i32> {
        self.try_wait().ok().flatten()?.exit_code()
    }

    /// Waits until the process has ended. Any number of threads may wait for the same process, any
    /// number of times.
    ///
    /// Only the process itself is waited for, not processes that it has started and left behind. A
    /// process that reads its input to the end ends when the input does: drop [`Child::stdin`]
    /// first.
    ///
    /// # Errors
    /// [`ChildError`](crate::process::ChildError) if the system call fails; this is not expected.
    pub fn wait(&self) -> Result<ExitStatus, ChildError> {
        Ok(self.wait_until(None)?.expect("a wait without a deadline ends with a status"))
    }

    /// Waits until the process has ended, for at most `timeout`. Returns `None` if it still runs
    /// then.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use multiproc::Process;
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let child = Process::new(std::thread::sleep, (Duration::from_secs(1000),)).start()?;
    /// assert_eq!(child.wait_timeout(Duration::from_millis(10))?, None);
    /// assert!(child.is_alive());
    /// # child.kill()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`wait`](ProcessHandle::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>, ChildError> {
        self.wait_until(Deadline::from_now(timeout).instant())
    }

    /// Returns the status if the process has ended, without waiting.
    ///
    /// # Errors
    /// As [`wait`](ProcessHandle::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, ChildError> {
        self.record.reap().map_err(|source| self.error("wait for", source))
    }

    /// Sends SIGTERM, which asks the process to end.
    ///
    /// Waits at most 50 ms for the end, so that the state of a process that SIGTERM kills usually
    /// shows it when this returns. To be sure, [`wait`](ProcessHandle::wait) for it: a process may
    /// take its time, or handle, block or ignore the signal.
    ///
    /// Does nothing if the process has ended.
    ///
    /// # Errors
    /// [`ChildError`](crate::process::ChildError) if the process runs as another user, for example
    /// because this process has given up rights that the child has kept.
    /// [`kill`](ProcessHandle::kill) still ends it.
    pub fn terminate(&self) -> Result<(), ChildError> {
        self.end_by(SIGTERM, "terminate")
    }

    /// Sends SIGKILL, which ends the process whatever it does. Waits at most 50 ms for the end, as
    /// [`terminate`](ProcessHandle::terminate) does.
    ///
    /// Does nothing if the process has ended. If this process may not signal it, the kernel kills
    /// it as it would if this process had ended, which needs no right; this waits up to 2 s to see
    /// that it does.
    ///
    /// # Errors
    /// [`ChildError`](crate::process::ChildError) if the process runs as another user and may
    /// [outlive its parent](crate::Process::outlive_parent), or if it has changed its user where
    /// neither it nor this process has been root of the whole system.
    pub fn kill(&self) -> Result<(), ChildError> {
        self.end_by(SIGKILL, "kill")
    }

    /// Sends SIGINT. Waits at most 50 ms for the end, as [`terminate`](ProcessHandle::terminate)
    /// does.
    ///
    /// This differs from Ctrl-C, which children [leave to their
    /// parent](crate::process::handle_ctrl_c): a child without a SIGINT handler of its own ends.
    ///
    /// # Errors
    /// As [`terminate`](ProcessHandle::terminate).
    pub fn interrupt(&self) -> Result<(), ChildError> {
        self.end_by(SIGINT, "interrupt")
    }

    /// Sends any signal, without waiting for its effect. Does nothing if the process has ended.
    ///
    /// # Errors
    /// [`ChildError`](crate::process::ChildError) with `EINVAL` for a number that is not a signal.
    /// [`ChildError`](crate::process::ChildError) if the process runs as another user; for SIGKILL
    /// only as with [`kill`](ProcessHandle::kill).
    pub fn signal(&self, signal: i32) -> Result<(), ChildError> {
        self.record.send_signal(signal).map_err(|source| self.error("signal", source))
    }

    /// None if it still runs at the deadline.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<ExitStatus>, ChildError> {
        self.record.wait_until(deadline).map_err(|source| self.error("wait for", source))
    }

    /// Why it counts as failed, if it has ended and was not joined.
    pub(crate) fn failure(&self) -> Option<JoinError> {
        self.record.failure().map(|kind| JoinError::new(self.name(), kind))
    }

    /// Whether a caller has received its value, or the error that there is none.
    pub(crate) fn was_joined(&self) -> bool {
        self.record.joined.load(Relaxed)
    }

    /// Whether this is the last handle to this process. After it has been reaped, no other handle
    /// can come into existence.
    pub(crate) fn is_the_only_one(&self) -> bool {
        Arc::strong_count(&self.record) == 1
    }

    /// Sends a signal, and waits for a moment for the end that it may cause.
    fn end_by(&self, signal: i32, what: &'static str) -> Result<(), ChildError> {
        self.record.send_signal(signal).map_err(|source| self.error(what, source))?;
        self.wait_timeout(SIGNAL_TIMEOUT).map(drop)
    }

    pub(crate) fn error(&self, what: &'static str, source: io::Error) -> ChildError {
        ChildError { process: self.name().into(), what, source }
    }
}

/// Lets functions of several processes take handles and children alike.
impl AsRef<ProcessHandle> for ProcessHandle {
    fn as_ref(&self) -> &ProcessHandle {
        self
    }
}

/// The process's pidfd: it polls readable once the process has ended.
impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.record.exit_fd()
    }
}

/// Ready when the process has ended and has been reaped.
impl Waitable for ProcessHandle {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    /// The socket that stands in for a missing pidfd may not be readable.
    fn ready(&self) -> io::Result<bool> {
        Ok(self.record.is_reaped())
    }

    /// Reaps the process. A debugger that traces it gets its status first: waits a moment for that,
    /// since the pidfd stays readable meanwhile.
    fn woken(&self) -> io::Result<bool> {
        const DEBUGGED: Duration = Duration::from_millis(10);
        if self.record.reap()?.is_some() {
            return Ok(true);
        }
        self.record.wait_for_status(Instant::now() + DEBUGGED)?;
        Ok(self.record.reap()?.is_some())
    }
}

/// `<Process(Process-1, started)>`, `<Process(Process-1, stopped[SIGTERM])>`.
impl fmt::Display for ProcessHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}({}, ", self.record.type_name, self.record.name)?;
        match self.try_wait() {
            Ok(Some(status)) => write!(f, "{status}")?,
            Ok(None) | Err(_) => f.write_str("started")?,
        }
        f.write_str(if self.daemon() { " daemon)>" } else { ")>" })
    }
}

/// The same as [`Display`](fmt::Display).
impl fmt::Debug for ProcessHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A process that was started; its target will return a `T`.
///
/// [`join`](Child::join) takes the child, since there is one value; all other methods are those of
/// a [`ProcessHandle`], which [`handle`](Child::handle) returns. In `async` code, `child.await`
/// joins it, and `(&child).await` waits for it: see [`JoinFuture`](crate::process::JoinFuture).
///
/// Dropping a `Child` does nothing to the process: when this process ends, it waits for the child,
/// or ends it if it is a daemon.
///
/// ```
/// use multiproc::Process;
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let child = Process::new(|a: u64, b: u64| a * b, (6, 7)).start()?;
/// println!("{child}"); // <Process(Process-1, started)>
/// assert_eq!(child.join()?, 42);
/// # Ok(())
/// # }
/// ```
pub struct Child<T> {
    /// The writing end of its standard input, if that was set to
    /// [`Stdio::piped`](crate::process::Stdio::piped). Dropping it closes the child's input.
    pub stdin: Option<ChildStdin>,
    /// The reading end of its standard output, if that is a pipe.
    pub stdout: Option<PipeReader>,
    /// The reading end of its standard error, if that is a pipe.
    pub stderr: Option<PipeReader>,
    handle: ProcessHandle,
    value: PhantomData<fn() -> T>,
}

impl<T> Child<T> {
    pub(crate) fn new(record: Arc<ChildRecord>, ends: Ends) -> Child<T> {
        let Ends { stdin, stdout, stderr } = ends;
        Child { stdin, stdout, stderr, handle: ProcessHandle::new(record), value: PhantomData }
    }

    /// Returns a handle to the same process that doesn't depend on the target's type, to be stored
    /// with others or given to other threads.
    pub fn handle(&self) -> ProcessHandle {
        self.handle.clone()
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        self.handle.name()
    }

    /// Returns the process id. After the process has been waited for, another process may have the
    /// same id.
    pub fn pid(&self) -> i32 {
        self.handle.pid()
    }

    /// Returns whether it is a daemon: when this process ends, it ends its daemons instead of
    /// waiting for them.
    pub fn daemon(&self) -> bool {
        self.handle.daemon()
    }

    /// Returns whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.handle.is_alive()
    }

    /// Returns the code that it exited with, 0 for success, or minus the number of the signal that
    /// killed it. None while it runs, and if the status is unknown; see
    /// [`ExitStatus::exit_code`].
    pub fn exit_code(&self) -> Option<i32> {
        self.handle.exit_code()
    }

    /// Waits until the process has ended, and returns its status. [`join`](Child::join) returns the
    /// target's value. See [`ProcessHandle::wait`].
    ///
    /// # Errors
    /// [`ChildError`] if the system call fails; this is not expected.
    pub fn wait(&self) -> Result<ExitStatus, ChildError> {
        self.handle.wait()
    }

    /// Waits until the process has ended, for at most `timeout`. Returns `None` if it still runs
    /// then. See [`ProcessHandle::wait_timeout`].
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>, ChildError> {
        self.handle.wait_timeout(timeout)
    }

    /// Returns the status if the process has ended, without waiting.
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, ChildError> {
        self.handle.try_wait()
    }

    /// Sends SIGTERM, which asks the process to end, and waits at most 50 ms for the end. See
    /// [`ProcessHandle::terminate`].
    ///
    /// # Errors
    /// [`ChildError`] if the process runs as another user. [`kill`](Child::kill) still ends it.
    pub fn terminate(&self) -> Result<(), ChildError> {
        self.handle.terminate()
    }

    /// Sends SIGKILL, which ends the process whatever it does, and waits at most 50 ms for the end.
    /// See [`ProcessHandle::kill`].
    ///
    /// # Errors
    /// [`ChildError`] in the cases that [`ProcessHandle::kill`] lists.
    pub fn kill(&self) -> Result<(), ChildError> {
        self.handle.kill()
    }

    /// Sends SIGINT, and waits at most 50 ms for the end. See [`ProcessHandle::interrupt`].
    ///
    /// # Errors
    /// As [`terminate`](Child::terminate).
    pub fn interrupt(&self) -> Result<(), ChildError> {
        self.handle.interrupt()
    }

    /// Sends any signal, without waiting for its effect. See [`ProcessHandle::signal`].
    ///
    /// # Errors
    /// [`ChildError`] with `EINVAL` for a number that is not a signal; otherwise as
    /// [`terminate`](Child::terminate).
    pub fn signal(&self, signal: i32) -> Result<(), ChildError> {
        self.handle.signal(signal)
    }
}

impl<T: DeserializeOwned> Child<T> {
    /// Waits until the process has ended, and returns the target's value. If its standard input is
    /// a pipe of this process, it is closed first.
    ///
    /// # Errors
    /// [`JoinError`] when there is no value: the target panicked, the process exited before the
    /// target returned, a signal killed it, or the value could not be sent.
    pub fn join(mut self) -> Result<T, JoinError> {
        self.stdin = None;
        match self.handle.record.wait_until(None) {
            Ok(status) => self.handle.record.value(status.expect("a wait without a deadline ends with a status")),
            Err(error) => Err(JoinError::new(self.name(), JoinErrorKind::Wait(error))),
        }
    }

    /// Waits like [`join`](Child::join), for at most `timeout`. Gives the child back if the process
    /// still runs then.
    ///
    /// If its standard input is a pipe of this process, it is closed first, as by `join`, even if
    /// the child is given back.
    ///
    /// ```
    /// use std::time::Duration;
    /// use multiproc::Process;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let child = Process::new(std::thread::sleep, (Duration::from_secs(1000),)).start()?;
    /// match child.join_timeout(Duration::from_millis(20)) {
    ///     Ok(result) => result?,
    ///     Err(child) => child.kill()?, // it still runs
    /// }
    ///
    /// let child = Process::new(|a: u64, b: u64| a * b, (6, 7)).start()?;
    /// let result = child.join_timeout(Duration::from_secs(60)).map_err(|child| format!("{child} is late"))?;
    /// assert_eq!(result?, 42);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The outer `Err` is the child, if the process still runs. The inner `Err` is the
    /// [`JoinError`] that `join` returns.
    pub fn join_timeout(mut self, timeout: Duration) -> Result<Result<T, JoinError>, Child<T>> {
        self.stdin = None;
        match self.handle.record.wait_until(Deadline::from_now(timeout).instant()) {
            Ok(Some(status)) => Ok(self.handle.record.value(status)),
            Ok(None) => Err(self),
            Err(error) => Ok(Err(JoinError::new(self.name(), JoinErrorKind::Wait(error)))),
        }
    }

    /// Joins the process and meanwhile reads what it writes to its standard output and error, so
    /// that it never blocks on a full pipe. Returns both in full, as bytes; empty if not
    /// [`piped`](crate::process::Stdio::piped).
    ///
    /// Other processes that have inherited the pipes don't delay this: reading stops at what the
    /// pipes contain when this process has ended.
    ///
    /// ```
    /// use multiproc::process::Stdio;
    /// use multiproc::Process;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let noisy = Process::new(|| { println!("one"); eprintln!("two"); 3 }, ());
    /// let child = noisy.stdout(Stdio::piped()).stderr(Stdio::piped()).start()?;
    /// let (value, stdout, stderr) = child.join_with_output();
    /// assert_eq!((value.unwrap(), &stdout[..], &stderr[..]), (3, &b"one\n"[..], &b"two\n"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn join_with_output(mut self) -> (Result<T, JoinError>, Vec<u8>, Vec<u8>) {
        self.stdin = None;
        let pipes = [self.stdout.take().map(OwnedFd::from), self.stderr.take().map(OwnedFd::from)];
        let (result, [stdout, stderr]) = multiproc_os::pipe::read_until_ended(pipes, self.as_fd());
        match result {
            Ok(()) => (self.join(), stdout, stderr),
            Err(error) => (Err(JoinError::new(self.name(), JoinErrorKind::Wait(error))), stdout, stderr),
        }
    }
}

/// Lets functions of several processes take handles and children alike.
impl<T> AsRef<ProcessHandle> for Child<T> {
    fn as_ref(&self) -> &ProcessHandle {
        &self.handle
    }
}

/// The process's pidfd: it polls readable once the process has ended.
impl<T> AsFd for Child<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Ready when the process has ended.
impl<T> Waitable for Child<T> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn ready(&self) -> io::Result<bool> {
        self.handle.ready()
    }

    fn woken(&self) -> io::Result<bool> {
        self.handle.woken()
    }
}

/// The same as for [`ProcessHandle`].
impl<T> fmt::Display for Child<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}

/// The same as [`Display`](fmt::Display).
impl<T> fmt::Debug for Child<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.handle, f)
    }
}
