//! A process that has been started: [`Child`], which gives the target's value, and
//! [`ProcessHandle`], for everything else.

use std::fmt;
use std::io::{self, PipeReader};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use multiproc_os::errno::{ECHILD, EPERM, ESRCH};
use multiproc_os::interrupt::{self, Registered};
use multiproc_os::{lifeline, pidfd, threads};
use serde::de::DeserializeOwned;

use super::children::{self, SIGINT, SIGKILL, SIGTERM};
use super::out_of_memory;
use super::status::{ExitStatus, JoinError, JoinErrorKind};
use super::stdio::{ChildStdin, Closer, Ends};
use super::{test, wait};
use crate::channel::wait::Waitable;
use crate::log::capture::CaptureId;
use crate::shm::change_rate;
use crate::start::child_spec::Started;
use crate::start::report::{Failure, Report, receive_report};
use crate::start::standby;
use crate::transfer::codec;
use crate::{Error, Result, log};

/// The most that [`terminate`](ProcessHandle::terminate), [`kill`](ProcessHandle::kill) and
/// [`interrupt`](ProcessHandle::interrupt) wait for the end of the process.
const MOMENT: Duration = Duration::from_millis(50);

/// How long to wait for the kernel to kill a process after its lifeline has been cut. One that
/// still runs after this time is not going to be killed.
const LONGEST: Duration = Duration::from_secs(2);

/// What all handles to one process share.
pub(crate) struct Shared {
    pub(crate) name: String,
    /// The type name in its `Display` output: `Process`, or the name of a [`Run`](crate::Run) type.
    pub(crate) type_name: &'static str,
    pub(crate) pid: i32,
    pub(crate) daemon: bool,
    pub(crate) outlives_parent: bool,
    /// The number of the test that ran on the thread that started the process; 0 for none.
    pub(crate) test: u64,
    /// The pid of the process that started it. In a copy of that process, made by fork(2)
    /// elsewhere, it is not a child, and the copy must not take its report.
    parent: i32,
    /// Its entry in the list of processes that a Ctrl-C ends. None if Ctrl-C must not end it.
    /// Declared before the pidfd, so that the entry is dropped first.
    registered: Option<Registered>,
    /// The id of its captured output. None if the output is not captured.
    capture: Option<CaptureId>,
    /// Whether its log records and captured output have been flushed since it ended.
    heard_out: AtomicBool,
    /// The pidfd: readable once the process has ended. If the process was reaped before a pidfd
    /// could be opened, the socket takes its place.
    pidfd: OwnedFd,
    state: Mutex<State>,
    /// Closes the pipe to its standard input, if this process has the other end.
    stdin: Option<Closer>,
    /// Whether a caller has received its value, or has been told why there is none.
    joined: AtomicBool,
    /// Whether this process, at its end, has found that it can't end the child.
    pub(super) given_up: AtomicBool,
    /// The signals that this process has sent it, as bits. A death by one of them is expected and
    /// is not reported as a failure.
    sent: AtomicU64,
}

/// How long to wait when another thread of this process is reaping the child. That thread is inside
/// a system call that doesn't block, so the wait is measurable only on an overloaded machine.
const REAPED_WITHIN: Duration = Duration::from_secs(10);

enum State {
    /// The process runs, or has ended and has not been reaped. `socket` is the parent's end of its
    /// socket, on which its report will arrive; the process is killed when the parent closes that
    /// end.
    Running { socket: OwnedFd, early: Option<Report> },
    /// The process has ended and been reaped.
    Ended { status: ExitStatus, report: Last },
    /// This process is a copy of the parent and has closed its copy of the socket. The child may
    /// run or have ended.
    Disowned,
    /// Taken for a moment while `Running` becomes `Ended`.
    Between,
}

/// The report of a process that has ended.
enum Last {
    Said(Report),
    /// The report is still in the socket: it carries descriptors, and this process had no free
    /// ones.
    Waiting(OwnedFd),
    Nothing,
}

impl Last {
    fn receive(socket: OwnedFd) -> Last {
        match receive_report(&socket) {
            Ok(Some(report)) => Last::Said(report),
            Ok(None) => Last::Nothing,
            Err(_) => Last::Waiting(socket),
        }
    }

    /// The exit status that the report implies.
    fn status(&self) -> Option<ExitStatus> {
        match self {
            Last::Said(report) => report.status(),
            Last::Waiting(_) | Last::Nothing => None,
        }
    }
}

impl Shared {
    /// A process that has just been started.
    pub(crate) fn new(
        (name, type_name): (String, &'static str),
        (daemon, outlives_parent): (bool, bool),
        capture: Option<CaptureId>,
        stdin: Option<Closer>,
        started: Started,
    ) -> Shared {
        let Started { pid, pidfd, socket, early } = started;
        let registered = pidfd.as_ref().filter(|_| !outlives_parent).map(Registered::new);
        let (pidfd, state) = match pidfd {
            Some(pidfd) => (pidfd, State::Running { socket, early }),
            // Another part of the program has already reaped it.
            None => {
                let report = match early {
                    Some(report) => Last::Said(report),
                    None => receive_report(&socket).ok().flatten().map_or(Last::Nothing, Last::Said),
                };
                let status = report.status().unwrap_or(ExitStatus::unknown());
                (socket, State::Ended { status, report })
            }
        };
        Shared {
            name,
            type_name,
            pid,
            daemon,
            outlives_parent,
            test: test::current(),
            parent: threads::getpid(),
            registered,
            capture,
            heard_out: AtomicBool::new(false),
            pidfd,
            state: Mutex::new(state),
            stdin,
            joined: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        }
    }

    /// Returns a descriptor that is readable once the process has ended.
    pub(crate) fn exit_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the status if the process has ended, and then reaps it and receives its report.
    pub(crate) fn reap(&self) -> io::Result<Option<ExitStatus>> {
        let mut state = self.lock();
        if let State::Ended { status, .. } = &*state {
            return Ok(Some(*status));
        }
        let status = match pidfd::reap(&self.pidfd) {
            Ok(None) => return Ok(None),
            Ok(Some((end, usage))) => Some(ExitStatus::new(end, Some(usage))),
            Err(error) if error.raw_os_error() == Some(ECHILD) => {
                // Another part of the program has reaped it, or is about to. Or it is not a child
                // of this process: this is a copy of its parent, and the parent may not have reaped
                // it.
                if pidfd::wait_any([&self.pidfd], Some(Instant::now()))? == [false] {
                    return Ok(None);
                }
                let is_ours = self.parent == threads::getpid();
                let patience = if is_ours { REAPED_WITHIN } else { Duration::from_millis(100) };
                pidfd::end_of_reaped(&self.pidfd, patience).map(|end| ExitStatus::new(end, None))
            }
            Err(error) => return Err(error),
        };
        if self.parent != threads::getpid() {
            return Ok(Some(status.unwrap_or(ExitStatus::unknown())));
        }
        if let Some(registered) = &self.registered {
            registered.withdraw();
        }
        // The process is gone, so everything that it has sent has arrived. A grandchild that has
        // inherited the other end can't block this.
        let report = match std::mem::replace(&mut *state, State::Between) {
            State::Running { early: Some(report), .. } => Last::Said(report),
            State::Running { socket, early: None } => Last::receive(socket),
            State::Ended { .. } | State::Disowned | State::Between => {
                unreachable!("the process was running when the lock was taken")
            }
        };
        let mut status = status.or_else(|| report.status()).unwrap_or(ExitStatus::unknown());
        if status.signal() == Some(SIGKILL) && !self.was_sent(SIGKILL) && out_of_memory::has_struck() {
            status.set_out_of_memory();
        }
        let end = match &report {
            Last::Said(Report::Failed(failure @ Failure::MemoryLimit { .. })) => Some(failure.clone().into()),
            Last::Said(_) => None,
            // A death by a signal that this process sent is not logged.
            Last::Waiting(_) | Last::Nothing if status.signal().is_some_and(|signal| self.was_sent(signal)) => None,
            Last::Waiting(_) | Last::Nothing => Some(JoinErrorKind::without_a_word(&status)),
        };
        *state = State::Ended { status, report };
        drop(state);
        if let Some(end) = end {
            log::failure::died(&self.name, self.pid, &end);
        }
        children::remove(self);
        standby::child_has_ended();
        change_rate::changed();
        Ok(Some(status))
    }

    /// Takes the report of a process that has ended.
    fn take_report(&self) -> io::Result<Option<Report>> {
        match &mut *self.lock() {
            State::Ended { report, .. } => match std::mem::replace(report, Last::Nothing) {
                Last::Said(said) => Ok(Some(said)),
                Last::Nothing => Ok(None),
                Last::Waiting(socket) => receive_report(&socket).inspect_err(|_| *report = Last::Waiting(socket)),
            },
            State::Running { .. } | State::Disowned | State::Between => Ok(None),
        }
    }

    /// Returns the value of a process that has ended with this status, or why there is none.
    pub(crate) fn value<T: DeserializeOwned>(&self, status: ExitStatus) -> Result<T, JoinError> {
        let fail = |kind| JoinError::new(&self.name, kind);
        self.joined.store(true, Relaxed);
        // If the target has returned a value, the value counts, whatever happened to the process
        // while it was exiting.
        match self.take_report().map_err(|error| fail(JoinErrorKind::Wait(error)))? {
            Some(Report::Returned { value, .. }) => {
                codec::decode(value, 0).map_err(|error| JoinError::of_value(&self.name, error))
            }
            Some(Report::Failed(failure)) => Err(fail(failure.into())),
            Some(Report::Garbage(what)) => Err(fail(JoinErrorKind::Undecodable(what))),
            None => Err(fail(JoinErrorKind::without_a_word(&status))),
        }
    }

    /// In a copy of the parent: closes the copy's end of the child's socket. The child lives as
    /// long as any copy of that end is open, and it is not a child of this process.
    pub(crate) fn disown(&self) {
        self.close_stdin();
        let mut state = self.lock();
        if let State::Running { .. } = *state {
            *state = State::Disowned;
        }
    }

    /// Closes the child's standard input, wherever in this process the other end is.
    pub(crate) fn close_stdin(&self) {
        self.stdin.iter().for_each(Closer::close);
    }

    /// Whether it has ended and been reaped, as far as this process knows.
    pub(crate) fn is_reaped(&self) -> bool {
        matches!(&*self.lock(), State::Ended { .. })
    }

    /// Why a process that has ended counts as failed, unless it was joined. The same as `join`
    /// would return, except that an `Err` from the target counts as a failure here and a death by a
    /// signal from this process doesn't.
    fn failure(&self) -> Option<JoinErrorKind> {
        if self.joined.load(Relaxed) {
            return None;
        }
        let mut state = self.lock();
        let State::Ended { status, report } = &mut *state else { return None };
        *report = match std::mem::replace(report, Last::Nothing) {
            Last::Waiting(socket) => Last::receive(socket),
            taken => taken,
        };
        match report {
            Last::Said(Report::Returned { failed: false, .. }) => None,
            Last::Said(Report::Returned { failed: true, .. }) => Some(JoinErrorKind::ReturnedErr),
            Last::Said(Report::Failed(failure)) => Some(failure.clone().into()),
            Last::Said(Report::Garbage(what)) => Some(JoinErrorKind::Undecodable(what.clone())),
            Last::Waiting(_) | Last::Nothing if status.success() => None,
            Last::Waiting(_) | Last::Nothing if status.signal().is_some_and(|signal| self.was_sent(signal)) => None,
            Last::Waiting(_) | Last::Nothing => Some(JoinErrorKind::without_a_word(status)),
        }
    }

    /// Whether it has ended; reaps it then. A process that can't be waited for counts as ended.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.reap(), Ok(None))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
        let mut has_ended = false;
        loop {
            if let Some(status) = self.reap()? {
                self.hear_out(deadline);
                return Ok(Some(status));
            }
            // A debugger that traces the process gets its status first.
            if has_ended && !pidfd::wait_for_status(&self.pidfd, deadline)? {
                return Ok(None);
            }
            [has_ended] = pidfd::wait_any([&self.pidfd], deadline)?;
            if !has_ended {
                return Ok(None);
            }
        }
    }

    /// Waits until the status of a process that has ended can be taken, at most until `deadline`.
    pub(crate) fn wait_for_status(&self, deadline: Instant) -> io::Result<bool> {
        pidfd::wait_for_status(&self.pidfd, Some(deadline))
    }

    /// Whether this process has sent it this signal.
    fn was_sent(&self, signal: i32) -> bool {
        self.sent.load(Relaxed) & bit(signal) != 0
    }

    /// Flushes an ended child's log records and captured output, at most until `deadline`.
    fn hear_out(&self, deadline: Option<Instant>) {
        if !self.heard_out.load(Relaxed) {
            log::hear_out(self.capture, deadline);
            // If the deadline cut this short, the next call tries again.
            let in_time = deadline.is_none_or(|deadline| Instant::now() < deadline);
            self.heard_out.store(in_time, Relaxed);
        }
    }

    /// Sends a signal through the pidfd, so it can't hit another process that has the same pid now.
    /// Does nothing to a process that has ended.
    ///
    /// If this process may not signal the child, SIGKILL is delivered by cutting the child's
    /// lifeline, and this waits for the child's end.
    pub(crate) fn send_signal(&self, signal: i32) -> io::Result<()> {
        if let State::Ended { .. } = &*self.lock() {
            return Ok(());
        }
        // Recorded before the signal is sent, since its effect may be seen at once.
        self.sent.fetch_or(bit(signal), Relaxed);
        let sent = match signal {
            SIGINT => interrupt::send(&self.pidfd),
            _ => pidfd::send_signal(&self.pidfd, signal),
        };
        match sent {
            Err(error) if error.raw_os_error() == Some(ESRCH) => Ok(()),
            Err(error) if error.raw_os_error() == Some(EPERM) => {
                if signal == SIGKILL && self.cut_lifeline() {
                    let deadline = Instant::now().checked_add(LONGEST);
                    if pidfd::wait_any([&self.pidfd], deadline)? == [true] {
                        return Ok(());
                    }
                }
                Err(self.not_permitted(signal))
            }
            result => result,
        }
    }

    /// Makes the kernel kill a process that this one may not signal. False if the child has no
    /// lifeline, or if this process doesn't hold it.
    fn cut_lifeline(&self) -> bool {
        match &*self.lock() {
            State::Running { socket, .. } if !self.outlives_parent => lifeline::cut(socket).is_ok(),
            _ => false,
        }
    }

    /// The error for a signal that this process may not send.
    fn not_permitted(&self, signal: i32) -> io::Error {
        let what = match signal {
            _ if self.outlives_parent => {
                "it runs as another user; only a process with the rights of that user can signal it"
            }
            SIGKILL => {
                "it runs as another user, and has become that user since it was started. It ends at its next call to this \
                 library, or when a process with the rights of that user kills it"
            }
            _ => "it runs as another user. kill() works without the right to signal it, or ask it to end by a message",
        };
        io::Error::new(io::ErrorKind::PermissionDenied, format!("Operation not permitted: {what}"))
    }
}

/// The bit of a signal in `sent`; 0 for a number that is no signal.
fn bit(signal: i32) -> u64 {
    1_u64.checked_shl(signal.wrapping_sub(1) as u32).unwrap_or(0)
}

/// A handle to a process that was started, independent of its target's type.
/// [`active_children`](crate::active_children) returns them, and so does [`Child::handle`]. Clones
/// are handles to the same process.
///
/// Dropping a handle does nothing to the process.
#[derive(Clone)]
pub struct ProcessHandle {
    shared: Arc<Shared>,
}

impl ProcessHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> ProcessHandle {
        ProcessHandle { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Returns the process id. After the process has been waited for, another process may have the
    /// same id.
    pub fn pid(&self) -> i32 {
        self.shared.pid
    }

    /// Whether it is a daemon: when this process ends, it ends its daemons instead of waiting for
    /// them.
    pub fn daemon(&self) -> bool {
        self.shared.daemon
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        !self.shared.has_ended()
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
    /// [`Error::Child`] if the system call fails; this is not expected.
    pub fn wait(&self) -> Result<ExitStatus> {
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
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        self.wait_until(wait::deadline(Some(timeout)))
    }

    /// Returns the status if the process has ended, without waiting.
    ///
    /// # Errors
    /// As [`wait`](ProcessHandle::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.shared.reap().map_err(|source| self.error("wait for", source))
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
    /// [`Error::Child`] if the process runs as another user, for example because this process has
    /// given up rights that the child has kept. [`kill`](ProcessHandle::kill) still ends it.
    pub fn terminate(&self) -> Result<()> {
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
    /// [`Error::Child`] if the process runs as another user and was told to [outlive its
    /// parent](crate::Process::outlive_parent), or if it has changed its user where neither it nor
    /// this process has been root of the whole system.
    pub fn kill(&self) -> Result<()> {
        self.end_by(SIGKILL, "kill")
    }

    /// Sends SIGINT. Waits at most 50 ms for the end, as [`terminate`](ProcessHandle::terminate)
    /// does.
    ///
    /// This differs from Ctrl-C, which children [leave to their parent](crate::handle_ctrl_c): a
    /// child without a SIGINT handler of its own ends.
    ///
    /// # Errors
    /// As [`terminate`](ProcessHandle::terminate).
    pub fn interrupt(&self) -> Result<()> {
        self.end_by(SIGINT, "interrupt")
    }

    /// Sends any signal, without waiting for its effect. Does nothing if the process has ended.
    ///
    /// # Errors
    /// [`Error::Child`] with `EINVAL` for a number that is no signal. [`Error::Child`] if the
    /// process runs as another user; for SIGKILL only as with [`kill`](ProcessHandle::kill).
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.shared.send_signal(signal).map_err(|source| self.error("signal", source))
    }

    /// None if it still runs at the deadline.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<ExitStatus>> {
        self.shared.wait_until(deadline).map_err(|source| self.error("wait for", source))
    }

    /// Why it counts as failed, if it has ended and was not joined.
    pub(crate) fn failure(&self) -> Option<JoinError> {
        self.shared.failure().map(|kind| JoinError::new(self.name(), kind))
    }

    /// Whether a caller has received its value, or has been told why there is none.
    pub(crate) fn was_joined(&self) -> bool {
        self.shared.joined.load(Relaxed)
    }

    /// Whether this is the last handle to this process. After it has been reaped, no other handle
    /// can come into existence.
    pub(crate) fn is_the_only_one(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// Sends a signal, and waits for a moment for the end that it may cause.
    fn end_by(&self, signal: i32, what: &'static str) -> Result<()> {
        self.shared.send_signal(signal).map_err(|source| self.error(what, source))?;
        self.wait_timeout(MOMENT).map(drop)
    }

    pub(crate) fn error(&self, what: &'static str, source: io::Error) -> Error {
        Error::Child { process: self.name().into(), what, source }
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
        self.shared.exit_fd()
    }
}

/// Ready when the process has ended and has been reaped.
impl Waitable for ProcessHandle {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    /// The socket that stands in for a missing pidfd may not be readable.
    fn ready(&self) -> io::Result<bool> {
        Ok(self.shared.is_reaped())
    }

    /// Reaps the process. A debugger that traces it gets its status first: waits a moment for that,
    /// since the pidfd stays readable meanwhile.
    fn woken(&self) -> io::Result<bool> {
        const DEBUGGED: Duration = Duration::from_millis(10);
        if self.shared.reap()?.is_some() {
            return Ok(true);
        }
        self.shared.wait_for_status(Instant::now() + DEBUGGED)?;
        Ok(self.shared.reap()?.is_some())
    }
}

/// `<Process(Process-1, started)>`, `<Process(Process-1, stopped[SIGTERM])>`.
impl fmt::Display for ProcessHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}({}, ", self.shared.type_name, self.shared.name)?;
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
/// joins it, and `(&child).await` waits for it: see [`JoinFuture`](crate::JoinFuture).
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
    /// [`Stdio::piped`](crate::Stdio::piped). Dropping it closes the child's input.
    pub stdin: Option<ChildStdin>,
    /// The reading end of its standard output, if that is a pipe.
    pub stdout: Option<PipeReader>,
    /// The reading end of its standard error, if that is a pipe.
    pub stderr: Option<PipeReader>,
    handle: ProcessHandle,
    value: PhantomData<fn() -> T>,
}

impl<T> Child<T> {
    pub(crate) fn new(shared: Arc<Shared>, ends: Ends) -> Child<T> {
        let Ends { stdin, stdout, stderr } = ends;
        Child { stdin, stdout, stderr, handle: ProcessHandle::new(shared), value: PhantomData }
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

    /// Whether it is a daemon: when this process ends, it ends its daemons instead of waiting for
    /// them.
    pub fn daemon(&self) -> bool {
        self.handle.daemon()
    }

    /// Whether it still runs.
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
    /// [`Error::Child`] if the system call fails; this is not expected.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.handle.wait()
    }

    /// Waits until the process has ended, for at most `timeout`. Returns `None` if it still runs
    /// then. See [`ProcessHandle::wait_timeout`].
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        self.handle.wait_timeout(timeout)
    }

    /// Returns the status if the process has ended, without waiting.
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.handle.try_wait()
    }

    /// Sends SIGTERM, which asks the process to end, and waits at most 50 ms for the end. See
    /// [`ProcessHandle::terminate`].
    ///
    /// # Errors
    /// [`Error::Child`] if the process runs as another user. [`kill`](Child::kill) still ends it.
    pub fn terminate(&self) -> Result<()> {
        self.handle.terminate()
    }

    /// Sends SIGKILL, which ends the process whatever it does, and waits at most 50 ms for the end.
    /// See [`ProcessHandle::kill`].
    ///
    /// # Errors
    /// [`Error::Child`] in the cases that [`ProcessHandle::kill`] lists.
    pub fn kill(&self) -> Result<()> {
        self.handle.kill()
    }

    /// Sends SIGINT, and waits at most 50 ms for the end. See [`ProcessHandle::interrupt`].
    ///
    /// # Errors
    /// As [`terminate`](Child::terminate).
    pub fn interrupt(&self) -> Result<()> {
        self.handle.interrupt()
    }

    /// Sends any signal, without waiting for its effect. See [`ProcessHandle::signal`].
    ///
    /// # Errors
    /// [`Error::Child`] with `EINVAL` for a number that is no signal; otherwise as
    /// [`terminate`](Child::terminate).
    pub fn signal(&self, signal: i32) -> Result<()> {
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
        match self.handle.shared.wait_until(None) {
            Ok(status) => self.handle.shared.value(status.expect("a wait without a deadline ends with a status")),
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
        match self.handle.shared.wait_until(wait::deadline(Some(timeout))) {
            Ok(Some(status)) => Ok(self.handle.shared.value(status)),
            Ok(None) => Err(self),
            Err(error) => Ok(Err(JoinError::new(self.name(), JoinErrorKind::Wait(error)))),
        }
    }

    /// Joins the process and meanwhile reads what it writes to its standard output and error, so
    /// that it never blocks on a full pipe. Returns both in full, as bytes; empty if not
    /// [`piped`](crate::Stdio::piped).
    ///
    /// Other processes that have inherited the pipes don't delay this: reading stops at what the
    /// pipes contain when this process has ended.
    ///
    /// ```
    /// use multiproc::{Process, Stdio};
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
