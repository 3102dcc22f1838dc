//! A process that has been started: [`Child`], which will give the target's value, and [`ProcessHandle`], for everything else.

use std::fmt;
use std::io::{self, PipeReader};
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use multiproc_os::errno::{ECHILD, EPERM, ESRCH};
use multiproc_os::interrupt::{self, Registered};
use multiproc_os::signal::{self, Prospect};
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

/// A process that doesn't die of SIGKILL in this time hangs in the kernel.
const LONGEST: Duration = Duration::from_secs(2);

/// What all handles to one process share.
pub(crate) struct Shared {
    pub(crate) name: String,
    /// What it prints as: `Process`, or the name of a [`Run`](crate::Run) type.
    pub(crate) type_name: &'static str,
    pub(crate) pid: i32,
    pub(crate) daemon: bool,
    pub(crate) outlives_parent: bool,
    /// The test on whose thread it was started; 0 for none.
    pub(crate) test: u64,
    /// The process that started it. In a copy of that, made by fork(2) elsewhere, it is not a child, and its report not ours to take.
    parent: i32,
    /// For Ctrl-C, which ends it then. None if it is not to be ended by that. Before the descriptor, so that it is dropped first.
    registered: Option<Registered>,
    /// What its output is known by, if it is captured.
    capture: Option<CaptureId>,
    /// Whether what it has logged and printed before its end has gone where it belongs.
    heard_out: AtomicBool,
    /// The process itself: readable once it has ended. If it was gone before it could be opened, the socket stands in for it.
    pidfd: OwnedFd,
    state: Mutex<State>,
    /// Closes its standard input, if this process has the other end.
    stdin: Option<Closer>,
    /// Whether somebody has got its value, or has been told why there is none.
    joined: AtomicBool,
    /// Whether the end of this process has found that it can't end it.
    pub(super) given_up: AtomicBool,
    /// The signals that somebody here has sent it, as bits, so that it is no riddle where they came from.
    sent: AtomicU64,
}

/// How long the thread that reaps a child of this process in place of us may take for that. It is
/// inside a system call that doesn't wait; only on an overloaded machine is it anything that can be
/// measured.
const REAPED_WITHIN: Duration = Duration::from_secs(10);

enum State {
    /// It runs, or has ended and nobody has looked yet. Our end of its socket, where its report will be; while it is open here,
    /// the process may live.
    Running { socket: OwnedFd, early: Option<Report> },
    /// It has ended and been reaped.
    Ended { status: ExitStatus, report: Last },
    /// This is a copy of its parent, and has let go of it. It may run or have ended.
    Disowned,
    /// For a moment only, while one becomes the other.
    Between,
}

/// The last words of a process that has ended.
enum Last {
    Said(Report),
    /// They are still in the socket: there was no descriptor left to take them with.
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

    /// The status that goes with what was said.
    fn status(&self) -> Option<ExitStatus> {
        match self {
            Last::Said(report) => Some(report.status()),
            Last::Waiting(_) | Last::Nothing => None,
        }
    }
}

impl Shared {
    /// A process that has just been started, with our end of its socket and what has come through it already.
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
            // Somebody has reaped it already.
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

    /// Readable once the process has ended.
    pub(crate) fn exit_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status if the process has ended; reaps it then, and fetches its report.
    pub(crate) fn reap(&self) -> io::Result<Option<ExitStatus>> {
        let mut state = self.lock();
        if let State::Ended { status, .. } = &*state {
            return Ok(Some(*status));
        }
        let status = match pidfd::reap(&self.pidfd) {
            Ok(None) => return Ok(None),
            Ok(Some((end, usage))) => Some(ExitStatus::new(end, Some(usage))),
            Err(error) if error.raw_os_error() == Some(ECHILD) => {
                // Something else has reaped it, or is about to. Or it is no child of ours: this is
                // a copy of the process that started it, which may not have reaped it.
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
        // The process is gone, so what it has sent is there, and a grandchild that has inherited its end can't keep us waiting.
        let report = match std::mem::replace(&mut *state, State::Between) {
            State::Running { early: Some(report), .. } => Last::Said(report),
            State::Running { socket, early: None } => Last::receive(socket),
            State::Ended { .. } | State::Disowned | State::Between => {
                unreachable!("it was running a moment ago, and the lock is held")
            }
        };
        let mut status = status.or_else(|| report.status()).unwrap_or(ExitStatus::unknown());
        if status.signal() == Some(SIGKILL) && !self.was_sent(SIGKILL) && out_of_memory::has_struck() {
            status.set_out_of_memory();
        }
        let end = match &report {
            Last::Said(Report::Failed(failure @ Failure::MemoryLimit { .. })) => Some(failure.clone().into()),
            Last::Said(_) => None,
            // A signal from here is no news.
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

    /// The value of a process that has ended with this status, or why there is none.
    pub(crate) fn value<T: DeserializeOwned>(&self, status: ExitStatus) -> Result<T, JoinError> {
        let fail = |kind| JoinError::new(&self.name, kind);
        self.joined.store(true, Relaxed);
        // What the target has returned, it has returned, whatever befell the process on its way out.
        match self.take_report().map_err(|error| fail(JoinErrorKind::Wait(error)))? {
            Some(Report::Returned { value, .. }) => {
                codec::decode(value, 0).map_err(|error| JoinError::of_value(&self.name, error))
            }
            Some(Report::Failed(failure)) => Err(fail(failure.into())),
            Some(Report::Garbage(what)) => Err(fail(JoinErrorKind::Undecodable(what))),
            None => Err(fail(JoinErrorKind::without_a_word(&status))),
        }
    }

    /// In a copy of the parent: closes its socket, whose being open is its right to live. It is no child of this process.
    pub(crate) fn disown(&self) {
        self.close_stdin();
        let mut state = self.lock();
        if let State::Running { .. } = *state {
            *state = State::Disowned;
        }
    }

    /// Ends its input, whoever has the other end of that in this process.
    pub(crate) fn close_stdin(&self) {
        self.stdin.iter().for_each(Closer::close);
    }

    /// Whether it has ended and been reaped, as far as this process knows.
    pub(crate) fn is_reaped(&self) -> bool {
        matches!(&*self.lock(), State::Ended { .. })
    }

    /// What is wrong with a process that has ended, if nobody has joined it; what `join` would say, but for an `Err` that nobody has seen,
    /// and a signal that was sent from here.
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

    /// Whether it has ended; reaps it then. One that can't be waited for counts as ended.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.reap(), Ok(None))
    }

    /// The status, if the process has ended and been reaped.
    fn known_status(&self) -> Option<ExitStatus> {
        match &*self.lock() {
            State::Ended { status, .. } => Some(*status),
            State::Running { .. } | State::Disowned | State::Between => None,
        }
    }

    fn wait_until(&self, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
        let mut has_ended = false;
        loop {
            if let Some(status) = self.reap()? {
                self.hear_out(deadline);
                return Ok(Some(status));
            }
            // Its status is a debugger's first.
            if has_ended && !pidfd::wait_for_status(&self.pidfd, deadline)? {
                return Ok(None);
            }
            [has_ended] = pidfd::wait_any([&self.pidfd], deadline)?;
            if !has_ended {
                return Ok(None);
            }
        }
    }

    /// Waits until the status of a process that has ended can be taken, but no longer than until
    /// `deadline`.
    pub(crate) fn wait_for_status(&self, deadline: Instant) -> io::Result<bool> {
        pidfd::wait_for_status(&self.pidfd, Some(deadline))
    }

    /// Whether somebody here has sent it this signal.
    fn was_sent(&self, signal: i32) -> bool {
        self.sent.load(Relaxed) & bit(signal) != 0
    }

    /// Waits for the last records and lines of a process that has ended.
    fn hear_out(&self, deadline: Option<Instant>) {
        if !self.heard_out.load(Relaxed) {
            log::hear_out(self.capture, deadline);
            // With time to spare it has been done; without, the next one tries again.
            let in_time = deadline.is_none_or(|deadline| Instant::now() < deadline);
            self.heard_out.store(in_time, Relaxed);
        }
    }

    /// Nothing happens to a process that has ended, nor to the one that has its id now.
    ///
    /// Where this process has not the right to signal it, SIGKILL comes by way of its lifeline, and
    /// its end is waited for.
    pub(crate) fn send_signal(&self, signal: i32) -> io::Result<()> {
        if let State::Ended { .. } = &*self.lock() {
            return Ok(());
        }
        // Before: what comes of it may be seen at once.
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

    /// Has the kernel end a process that this one may not signal. False if it has no lifeline, or
    /// none that this process holds.
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
                "it runs as another user than this process. Only a process with the rights of that user can signal it"
            }
            SIGKILL => {
                "it runs as another user than this process, and has become that user since it was started. It ends with the next call to \
                 this library that it makes, or by a process with the rights of that user"
            }
            _ => {
                "it runs as another user than this process. kill() needs no right to signal it; or ask it to end by a message"
            }
        };
        io::Error::new(io::ErrorKind::PermissionDenied, format!("Operation not permitted: {what}"))
    }
}

/// A signal's place in a set; none for what is no signal.
fn bit(signal: i32) -> u64 {
    1_u64.checked_shl(signal.wrapping_sub(1) as u32).unwrap_or(0)
}

/// A process that was started, whatever its target returns: what [`active_children`](crate::active_children) gives, and what a
/// [`Child`] has too. Clones are handles to the same process.
///
/// Dropping it does nothing to the process.
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

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its id. After it has been waited for, some other process may have it.
    pub fn pid(&self) -> i32 {
        self.shared.pid
    }

    /// Whether it is a daemon: ended, not waited for, when this process ends.
    pub fn daemon(&self) -> bool {
        self.shared.daemon
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        !self.shared.has_ended()
    }

    /// 0, the code that it exited with, or minus the signal that killed it. None while it runs; also when the status is unknown,
    /// see [`ExitStatus::exit_code`].
    pub fn exit_code(&self) -> Option<i32> {
        self.try_wait().ok().flatten()?.exit_code()
    }

    /// Waits until it has ended. Any number of threads may wait for the same process, any number of times.
    ///
    /// Only the process itself is waited for: those that it has started and left behind delay nobody. One that reads its input to the end ends
    /// when that does: drop [`Child::stdin`] first.
    ///
    /// # Errors
    /// [`Error::Child`] if the system refuses; none is expected.
    pub fn wait(&self) -> Result<ExitStatus> {
        Ok(self.wait_until(None)?.expect("without a deadline, it waits"))
    }

    /// Waits until it has ended, but no longer than `timeout`; none if it still runs then.
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

    /// Its status if it has ended, without waiting.
    ///
    /// # Errors
    /// As [`wait`](ProcessHandle::wait).
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.shared.reap().map_err(|source| self.error("wait for", source))
    }

    /// Asks it to end: SIGTERM. A process that does nothing about that signal is gone when this returns; one that handles, blocks or
    /// ignores it, or is stopped, is left to do so.
    ///
    /// Nothing happens if it has ended.
    ///
    /// # Errors
    /// [`Error::Child`] if it runs as another user, as when this process has given up rights that
    /// the other has kept. [`kill`](ProcessHandle::kill) ends it all the same.
    pub fn terminate(&self) -> Result<()> {
        self.end_by(SIGTERM, "terminate")
    }

    /// Ends it, whatever it does: SIGKILL. It is gone when this returns.
    ///
    /// Nothing happens if it has ended. Where this process has not the right to signal it, the
    /// kernel is told to kill it as if this process had ended, which needs no right.
    ///
    /// # Errors
    /// [`Error::Child`] if it runs as another user, and was to [outlive its
    /// parent](crate::Process::outlive_parent), or has changed its user where neither it nor this
    /// process has been root of the whole system.
    pub fn kill(&self) -> Result<()> {
        self.end_by(SIGKILL, "kill")
    }

    /// Sends it SIGINT. As with [`terminate`](ProcessHandle::terminate), it is gone when this returns unless it does something about it.
    ///
    /// Ctrl-C is something else: children [leave that to their parent](crate::handle_ctrl_c). A process that has a SIGINT handler of its own is given
    /// a tenth of a second.
    ///
    /// # Errors
    /// As [`terminate`](ProcessHandle::terminate).
    pub fn interrupt(&self) -> Result<()> {
        self.end_by(SIGINT, "interrupt")
    }

    /// Sends it any signal, and doesn't wait for what comes of it. Nothing happens if it has ended.
    ///
    /// # Errors
    /// [`Error::Child`] with `EINVAL` for a number that is no signal. [`Error::Child`] if it runs
    /// as another user; for SIGKILL only as with [`kill`](ProcessHandle::kill).
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.shared.send_signal(signal).map_err(|source| self.error("signal", source))
    }

    /// None if it still runs at the deadline.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<ExitStatus>> {
        self.shared.wait_until(deadline).map_err(|source| self.error("wait for", source))
    }

    /// Its status if it is known to have ended: nobody is asked.
    pub(crate) fn known_status(&self) -> Option<ExitStatus> {
        self.shared.known_status()
    }

    /// What is wrong with it, if it has ended and nobody has joined it.
    pub(crate) fn failure(&self) -> Option<JoinError> {
        self.shared.failure().map(|kind| JoinError::new(self.name(), kind))
    }

    /// Whether somebody has got its value, or has been told why there is none.
    pub(crate) fn was_joined(&self) -> bool {
        self.shared.joined.load(Relaxed)
    }

    /// Whether nobody else has a handle to this process, which has been reaped: then nobody ever will have one.
    pub(crate) fn is_the_only_one(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// Sends a signal, and waits for the end if that is sure to come of it: so that what is asked next is told of it.
    fn end_by(&self, signal: i32, what: &'static str) -> Result<()> {
        /// A handler doesn't show whose it is. In this time the one that the process was born with has ended it, if it has come to run.
        const MOMENT: Duration = Duration::from_millis(100);
        // Looked at before: afterwards it may be gone, and something else have its id.
        let prospect = if self.shared.has_ended() { Prospect::Unknown } else { signal::prospect(self.pid(), signal) };
        self.shared.send_signal(signal).map_err(|source| self.error(what, source))?;
        let ends = match prospect {
            Prospect::Fatal => true,
            Prospect::Handled if signal == SIGINT => {
                self.wait_timeout(MOMENT)?.is_none() && signal::is_under_way(self.pid(), signal)
            }
            Prospect::Handled | Prospect::Unknown => false,
        };
        if ends {
            self.wait_timeout(LONGEST)?;
        }
        Ok(())
    }

    pub(crate) fn error(&self, what: &'static str, source: io::Error) -> Error {
        Error::Child { process: self.name().into(), what, source }
    }
}

/// So that functions of many processes take handles and children alike.
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

/// Ready when the process has ended.
impl Waitable for ProcessHandle {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    /// What stands in for a pidfd that could not be opened in time may not be readable.
    fn ready(&self) -> io::Result<bool> {
        Ok(self.known_status().is_some())
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

/// As [`Display`](fmt::Display).
impl fmt::Debug for ProcessHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A process that was started, and whose target will return a `T`.
///
/// Besides [`join`](Child::join) it has all that a [`ProcessHandle`] has: `name`, `pid`, `is_alive`, `wait`, `wait_timeout`,
/// `terminate`, `kill`, `exit_code`, … In `async` code `child.await` joins it, and `(&child).await` waits for it: see
/// [`JoinFuture`](crate::JoinFuture).
///
/// Dropping it does nothing to the process: at the end of this process it is waited for, or ended if it is a daemon.
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
    /// The other end of its standard input, if it was started with [`Stdio::piped`](crate::Stdio::piped). Closing it, that is, dropping
    /// it, is the end of the child's input.
    pub stdin: Option<ChildStdin>,
    /// The other end of its standard output, if that is a pipe.
    pub stdout: Option<PipeReader>,
    /// The other end of its standard error, if that is a pipe.
    pub stderr: Option<PipeReader>,
    handle: ProcessHandle,
    value: PhantomData<fn() -> T>,
}

impl<T> Child<T> {
    pub(crate) fn new(shared: Arc<Shared>, ends: Ends) -> Child<T> {
        let Ends { stdin, stdout, stderr } = ends;
        Child { stdin, stdout, stderr, handle: ProcessHandle::new(shared), value: PhantomData }
    }

    /// A handle to the same process that doesn't say what its target returns, to be kept with others or given to other threads.
    pub fn handle(&self) -> ProcessHandle {
        self.handle.clone()
    }
}

impl<T: DeserializeOwned> Child<T> {
    /// Waits until the process has ended, and gives what its target returned. If its standard input is a pipe of ours, that is closed first.
    ///
    /// # Errors
    /// [`JoinError`] when there is no value: the target panicked, the process exited before it returned, a signal killed it, the
    /// value could not be sent.
    pub fn join(mut self) -> Result<T, JoinError> {
        self.stdin = None;
        match self.handle.shared.wait_until(None) {
            Ok(status) => self.handle.shared.value(status.expect("without a deadline, it waits")),
            Err(error) => Err(JoinError::new(self.name(), JoinErrorKind::Wait(error))),
        }
    }

    /// As [`join`](Child::join), but waits at most `timeout`. Gives the child back if the process
    /// still runs then.
    ///
    /// A standard input that is a pipe of this process is closed first, as `join` does, also if the
    /// child comes back.
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
    /// The outer `Err` is the child, when the process still runs. The inner one is the
    /// [`JoinError`] that `join` gives.
    pub fn join_timeout(mut self, timeout: Duration) -> Result<Result<T, JoinError>, Child<T>> {
        self.stdin = None;
        match self.handle.shared.wait_until(wait::deadline(Some(timeout))) {
            Ok(Some(status)) => Ok(self.handle.shared.value(status)),
            Ok(None) => Err(self),
            Err(error) => Ok(Err(JoinError::new(self.name(), JoinErrorKind::Wait(error)))),
        }
    }

    /// As [`join`](Child::join), and meanwhile reads what the process writes to its standard output and error, so that it never waits for
    /// a reader: both in full, as bytes, empty if not [`piped`](crate::Stdio::piped).
    ///
    /// Other processes that have inherited the pipes keep nobody waiting: what counts is what is there when this one has ended.
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

impl<T> Deref for Child<T> {
    type Target = ProcessHandle;

    fn deref(&self) -> &ProcessHandle {
        &self.handle
    }
}

/// So that functions of many processes take handles and children alike.
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
}

/// As that of [`ProcessHandle`].
impl<T> fmt::Display for Child<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}

/// As [`Display`](fmt::Display).
impl<T> fmt::Debug for Child<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.handle, f)
    }
}
