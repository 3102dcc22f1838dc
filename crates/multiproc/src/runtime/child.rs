//! A child of this process: its state, and how it is reaped and signalled. The handles of
//! `process/child.rs` share it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use multiproc_os::errno::{ECHILD, EPERM, ESRCH};
use multiproc_os::interrupt::{self, Registered};
use multiproc_os::signal::{SIGINT, SIGKILL};
use multiproc_os::{lifeline, pidfd, poll, threads};
use multiproc_shm::wait::consumer_check;
use serde::de::DeserializeOwned;

use super::{children, out_of_memory, test_binary};
use crate::log;
use crate::log::capture::CaptureId;
use crate::spec::child_spec::Started;
use crate::spec::report::{Failure, Report, receive_report};
use crate::spec::status::{ExitStatus, JoinError, JoinErrorKind};
use crate::spec::stdio::Closer;
use crate::transfer::codec;

/// How long to wait for the kernel to kill a process after its lifeline has been cut. One that
/// still runs after this time is not going to be killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// A child of this process: what all handles to it share.
pub(crate) struct ChildRecord {
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
    is_flushed: AtomicBool,
    /// Readable once the process has ended: its pidfd, or its socket if the process was reaped
    /// before a pidfd could be opened.
    pidfd: OwnedFd,
    state: Mutex<State>,
    /// Closes the pipe to its standard input, if this process has the other end.
    stdin: Option<Closer>,
    /// Whether a caller has received its value, or the error that there is none.
    pub(crate) joined: AtomicBool,
    /// Whether this process, at its end, has found that it can't end the child.
    pub(super) given_up: AtomicBool,
    /// The signals that this process has sent it, or is sending, as bits. A death by one of them is
    /// expected and is not reported as a failure.
    sent: AtomicU64,
}

/// How long to wait for the status when other code of this process is reaping the child, or the
/// kernel is, since SIGCHLD is ignored. Neither blocks, so the wait is measurable only on an
/// overloaded machine.
const REAP_TIMEOUT: Duration = Duration::from_secs(10);

enum State {
    /// The process runs, or has ended and has not been reaped. `socket` is the parent's end of its
    /// socket, on which its report will arrive, if it has not arrived during the start (`early`).
    /// Unless it may outlive its parent, the process is killed when all copies of that end are
    /// closed.
    Running { socket: OwnedFd, early: Option<Report> },
    /// The process has ended and been reaped.
    Ended { status: ExitStatus, report: FinalReport },
    /// This process is a copy of the parent and has closed its copy of the socket. The child may
    /// run or have ended.
    Detached,
    /// Held only while `Running` becomes `Ended`.
    Reaping,
}

/// The report of a process that has ended.
enum FinalReport {
    Received(Report),
    /// The report is still in the socket: it carries descriptors, and this process had no free
    /// ones.
    Unread(OwnedFd),
    None,
}

impl FinalReport {
    fn receive(socket: OwnedFd) -> FinalReport {
        match receive_report(&socket) {
            Ok(Some(report)) => FinalReport::Received(report),
            Ok(None) => FinalReport::None,
            Err(_) => FinalReport::Unread(socket),
        }
    }

    /// The exit status that the report implies.
    fn status(&self) -> Option<ExitStatus> {
        match self {
            FinalReport::Received(report) => report.status(),
            FinalReport::Unread(_) | FinalReport::None => None,
        }
    }
}

impl ChildRecord {
    /// A process that has just been started.
    pub(crate) fn new(
        (name, type_name): (String, &'static str),
        (daemon, outlives_parent): (bool, bool),
        capture: Option<CaptureId>,
        stdin: Option<Closer>,
        started: Started,
    ) -> ChildRecord {
        let Started { pid, pidfd, socket, early } = started;
        let registered = pidfd.as_ref().filter(|_| !outlives_parent).map(Registered::new);
        let (pidfd, state) = match pidfd {
            Some(pidfd) => (pidfd, State::Running { socket, early }),
            // Another part of the program has already reaped it.
            None => {
                let report = match early {
                    Some(report) => FinalReport::Received(report),
                    None => receive_report(&socket).ok().flatten().map_or(FinalReport::None, FinalReport::Received),
                };
                let status = report.status().unwrap_or(ExitStatus::unknown());
                (socket, State::Ended { status, report })
            }
        };
        ChildRecord {
            name,
            type_name,
            pid,
            daemon,
            outlives_parent,
            test: test_binary::current_test(),
            parent: threads::getpid(),
            registered,
            capture,
            is_flushed: AtomicBool::new(false),
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

    /// Reaps the process if it has ended: receives its report, logs an unexpected death, and takes
    /// it off the list of children. Returns its status. In a fork copy of the parent, only returns
    /// the status, as far as it is known.
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
                if !poll::wait_readable(&self.pidfd, Some(Instant::now()))? {
                    return Ok(None);
                }
                let is_ours = self.parent == threads::getpid();
                let patience = if is_ours { REAP_TIMEOUT } else { Duration::from_millis(100) };
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
        let report = match std::mem::replace(&mut *state, State::Reaping) {
            State::Running { early: Some(report), .. } => FinalReport::Received(report),
            State::Running { socket, early: None } => FinalReport::receive(socket),
            State::Ended { .. } | State::Detached | State::Reaping => {
                unreachable!("the process was running when the lock was taken")
            }
        };
        let mut status = status.or_else(|| report.status()).unwrap_or(ExitStatus::unknown());
        if status.signal() == Some(SIGKILL) && !self.was_sent(SIGKILL) && out_of_memory::has_killed() {
            status.set_out_of_memory();
        }
        let end = match &report {
            FinalReport::Received(Report::Failed(failure @ Failure::MemoryLimit { .. })) => {
                Some(failure.clone().into())
            }
            FinalReport::Received(_) => None,
            // A death by a signal that this process sent is not logged.
            FinalReport::Unread(_) | FinalReport::None
                if status.signal().is_some_and(|signal| self.was_sent(signal)) =>
            {
                None
            }
            FinalReport::Unread(_) | FinalReport::None => Some(JoinErrorKind::from_status(&status)),
        };
        *state = State::Ended { status, report };
        drop(state);
        if let Some(end) = end {
            log::failure::died(&self.name, self.pid, &end);
        }
        children::reaped(self);
        consumer_check::request();
        Ok(Some(status))
    }

    /// Takes the report of a process that has ended.
    fn take_report(&self) -> io::Result<Option<Report>> {
        match &mut *self.lock() {
            State::Ended { report, .. } => match std::mem::replace(report, FinalReport::None) {
                FinalReport::Received(report) => Ok(Some(report)),
                FinalReport::None => Ok(None),
                FinalReport::Unread(socket) => {
                    receive_report(&socket).inspect_err(|_| *report = FinalReport::Unread(socket))
                }
            },
            State::Running { .. } | State::Detached | State::Reaping => Ok(None),
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
            Some(Report::Corrupt(what)) => Err(fail(JoinErrorKind::Corrupt(what))),
            None => Err(fail(JoinErrorKind::from_status(&status))),
        }
    }

    /// In a copy of the parent: closes the copy's end of the child's socket, which would keep the
    /// child alive after its parent's death.
    pub(crate) fn detach(&self) {
        self.close_stdin();
        let mut state = self.lock();
        if let State::Running { .. } = *state {
            *state = State::Detached;
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
    /// would return, except that an `Err` from the target counts as a failure here, and that a
    /// death by a signal from this process and an exit with code 0 don't.
    pub(crate) fn failure(&self) -> Option<JoinErrorKind> {
        if self.joined.load(Relaxed) {
            return None;
        }
        let mut state = self.lock();
        let State::Ended { status, report } = &mut *state else { return None };
        *report = match std::mem::replace(report, FinalReport::None) {
            FinalReport::Unread(socket) => FinalReport::receive(socket),
            taken => taken,
        };
        match report {
            FinalReport::Received(Report::Returned { failed: false, .. }) => None,
            FinalReport::Received(Report::Returned { failed: true, .. }) => Some(JoinErrorKind::ReturnedErr),
            FinalReport::Received(Report::Failed(failure)) => Some(failure.clone().into()),
            FinalReport::Received(Report::Corrupt(what)) => Some(JoinErrorKind::Corrupt(what.clone())),
            FinalReport::Unread(_) | FinalReport::None if status.success() => None,
            FinalReport::Unread(_) | FinalReport::None
                if status.signal().is_some_and(|signal| self.was_sent(signal)) =>
            {
                None
            }
            FinalReport::Unread(_) | FinalReport::None => Some(JoinErrorKind::from_status(status)),
        }
    }

    /// Whether it has ended; reaps it then. A process that can't be waited for counts as ended.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.reap(), Ok(None))
    }

    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
        let mut has_ended = false;
        loop {
            if let Some(status) = self.reap()? {
                self.flush_output(deadline);
                return Ok(Some(status));
            }
            // A debugger that traces the process gets its status first.
            if has_ended && !pidfd::wait_for_status(&self.pidfd, deadline)? {
                return Ok(None);
            }
            has_ended = poll::wait_readable(&self.pidfd, deadline)?;
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
    fn flush_output(&self, deadline: Option<Instant>) {
        if !self.is_flushed.load(Relaxed) {
            log::flush_child(self.capture, deadline);
            // If the deadline cut this short, the next call tries again.
            let in_time = deadline.is_none_or(|deadline| Instant::now() < deadline);
            self.is_flushed.store(in_time, Relaxed);
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
        let is_new = self.sent.fetch_or(bit(signal), Relaxed) & bit(signal) == 0;
        let sent = match signal {
            SIGINT => interrupt::send(&self.pidfd),
            _ => pidfd::send_signal(&self.pidfd, signal),
        };
        match sent {
            Err(error) if error.raw_os_error() == Some(ESRCH) => Ok(()),
            Err(error) if error.raw_os_error() == Some(EPERM) => {
                if signal == SIGKILL && self.cut_lifeline() {
                    let deadline = Instant::now().checked_add(KILL_TIMEOUT);
                    if poll::wait_readable(&self.pidfd, deadline)? {
                        return Ok(());
                    }
                }
                if is_new {
                    self.sent.fetch_and(!bit(signal), Relaxed);
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

/// The bit of a signal in `sent`; 0 for a number that is not a signal.
fn bit(signal: i32) -> u64 {
    1_u64.checked_shl(signal.wrapping_sub(1) as u32).unwrap_or(0)
}
