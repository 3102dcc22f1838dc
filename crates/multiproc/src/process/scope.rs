//! Processes that end with a closure: [`scope`] passes a [`Scope`] to it to start them in, and
//! returns when they have ended.
//!
//! This resembles `std::thread::scope`, with two differences: nothing is borrowed, since another
//! process can't borrow; and leaving the scope early, by `Err` or by a panic, ends the processes
//! instead of waiting for them, possibly forever.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use multiproc_os::signal::{SIGKILL, SIGTERM};
use multiproc_os::threads;
use multiproc_shm::wait::deadline::Deadline;

use super::arguments::Arguments;
use super::builder::Process;
use super::child::{Child, ProcessHandle};
use super::error::ChildError;
use super::outcome::Outcome;
use super::run::Run;
use crate::log;
use crate::runtime::children::grace_period;
use crate::spec::status::{JoinError, JoinErrorKind};
use crate::spec::target::{CapturesNothing, Target};
use crate::start::error::StartError;

/// Calls `body` with a [`Scope`] to start processes in. Returns the result of `body` once all of
/// these processes have ended.
///
/// - When `body` returns `Ok`, its processes are waited for. Then its daemons are ended: SIGTERM,
///   and SIGKILL after the [`grace_period`](crate::process::grace_period).
/// - When `body` returns `Err` or panics, all processes that still run are ended in that way. So
///   the first failure, passed on with `?`, stops the others.
///
/// A process that fails without being [joined](Child::join) is reported: it turns `Ok` into a
/// [`ScopeError`] that names it. A process has failed if it panicked, its target returned an `Err`,
/// it exited with a code other than 0, or a signal killed it that this process has not sent.
///
/// In a scope, a process is a daemon only if it was made one explicitly, even if the calling
/// process is a daemon. Processes that [outlive their parent](Process::outlive_parent) are waited
/// for too. A [`Child`] may leave the scope: its process has ended by then, and `join` returns its
/// value at once.
///
/// ```
/// use std::error::Error;
///
/// fn sum(numbers: Vec<u64>) -> u64 {
///     numbers.iter().sum()
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn Error>> {
/// let total = multiproc::scope(|s| -> Result<u64, Box<dyn Error>> {
///     let left = s.spawn(sum, (vec![1, 2],))?;
///     let right = s.spawn(sum, (vec![3, 4],))?;
///     Ok(left.join()? + right.join()?)
/// })?;
/// assert_eq!(total, 10);
///
/// let result = multiproc::scope(|s| -> multiproc::Result<()> {
///     s.spawn(|divisor: u32| 10 / divisor, (0,))?; // not joined
///     Ok(())
/// });
/// assert!(result.unwrap_err().to_string().contains("divide by zero"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The error that `body` returns; a [`ScopeError`] when a process has failed and was not joined.
///
/// # Panics
/// When `body` panics.
pub fn scope<R, E>(body: impl FnOnce(&Scope) -> Result<R, E>) -> Result<R, E>
where
    E: From<ScopeError>,
{
    let scope = Scope::new();
    // Unwind safety doesn't matter here: the panic is resumed after the processes have ended.
    match catch_unwind(AssertUnwindSafe(|| body(&scope))) {
        Ok(Ok(value)) => match scope.wait() {
            failures if failures.is_empty() => Ok(value),
            failures => Err(ScopeError { failures }.into()),
        },
        Ok(Err(error)) => {
            scope.end();
            Err(error)
        }
        Err(panic) => {
            scope.end();
            resume_unwind(panic)
        }
    }
}

/// Starts processes that end with the scope; see [`scope`]. It can be shared between threads.
pub struct Scope {
    /// The process that called [`scope`]. In a copy of it, made by fork(2) elsewhere, the scope's
    /// processes are not children.
    process: i32,
    members: Mutex<Members>,
}

struct Members {
    /// The processes that must be waited for, or asked how they ended, in the order of their
    /// starts.
    handles: Vec<ProcessHandle>,
    /// The failures of processes that are no longer in `handles`.
    failures: Vec<JoinError>,
    /// The length of `handles` at which finished processes are removed next.
    full: usize,
}

/// The reason for ending a process, in the log.
const SCOPE: &str = "a scope";

/// The least length of `handles` at which finished processes are removed.
const FEW: usize = 16;

impl Scope {
    fn new() -> Scope {
        let members = Members { handles: Vec::new(), failures: Vec::new(), full: FEW };
        Scope { process: threads::getpid(), members: Mutex::new(members) }
    }

    /// Starts a process that calls `target` with the elements of the tuple `args`, like
    /// [`Process::new`] and [`Process::start`].
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn spawn<F, A, V, Via>(&self, target: F, args: A) -> Result<Child<V>, StartError>
    where
        F: Target<A, Output: Outcome<Via, Value = V>> + CapturesNothing,
        A: Arguments,
    {
        self.start(Process::new(target, args))
    }

    /// Starts a process that has a name or other properties, or that runs a [`Run`] value
    /// (`value.process()`).
    ///
    /// ```
    /// # use multiproc::Process;
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// multiproc::scope(|s| {
    ///     s.start(Process::new(|| println!("at work"), ()).name("worker"))?;
    ///     s.start(Process::new(std::thread::park, ()).name("helper").daemon(true))?;
    ///     Ok(()) // the worker is waited for, then the helper is ended
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start<R, V, Via>(&self, process: Process<R>) -> Result<Child<V>, StartError>
    where
        R: Run,
        R::Output: Outcome<Via, Value = V>,
    {
        self.lock().make_room();
        let child = process.daemon_if_unsaid(false).start()?;
        self.lock().handles.push(child.handle());
        Ok(child)
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the processes that are not daemons, then ends the daemons. Returns the failures.
    fn wait(self) -> Vec<JoinError> {
        if self.process != threads::getpid() {
            return Vec::new();
        }
        let Members { handles, mut failures, .. } = self.members.into_inner().unwrap_or_else(PoisonError::into_inner);
        for handle in handles.iter().filter(|handle| !handle.daemon()) {
            if let Err(ChildError { source, .. }) = handle.wait() {
                failures.push(JoinError::new(handle.name(), JoinErrorKind::Wait(source)));
            }
        }
        let daemons: Vec<_> = handles.iter().filter(|handle| handle.daemon() && handle.is_alive()).collect();
        // Collected before the daemons are ended, so that how they end doesn't count.
        failures.extend(handles.iter().filter_map(ProcessHandle::failure));
        failures.extend(end(daemons, SCOPE));
        failures
    }

    /// Ends all processes that still run.
    fn end(self) {
        if self.process == threads::getpid() {
            let members = self.members.into_inner().unwrap_or_else(PoisonError::into_inner);
            end(members.handles.iter().filter(|handle| handle.is_alive()).collect(), SCOPE);
        }
    }
}

impl Members {
    /// Removes finished processes, whenever twice as many are left as the last time: a scope may
    /// start any number of processes in its lifetime, and each handle keeps a descriptor open.
    fn make_room(&mut self) {
        if self.handles.len() < self.full {
            return;
        }
        let failures = &mut self.failures;
        self.handles.retain(|handle| {
            if !matches!(handle.try_wait(), Ok(Some(_))) {
                return true;
            }
            // While there is another handle, the process may still be joined.
            let is_done_with = handle.was_joined() || handle.is_the_only_one();
            if is_done_with {
                failures.extend(handle.failure());
            }
            !is_done_with
        });
        self.full = FEW.max(2 * self.handles.len());
    }
}

/// Ends the processes of a scope or a test: SIGTERM, one grace period for all of them together,
/// SIGKILL. Returns an error for each process that can't be ended.
pub(super) fn end(running: Vec<&ProcessHandle>, of: &str) -> Vec<JoinError> {
    for process in &running {
        log::event(log::Level::Info, format_args!("calling terminate() for process {} of {of}", process.name()));
        let _ = process.signal(SIGTERM);
    }
    let deadline = Deadline::from_now(grace_period()).instant();
    let mut stubborn: Vec<_> =
        running.into_iter().filter(|process| matches!(process.wait_until(deadline), Ok(None))).collect();
    let mut left = Vec::new();
    stubborn.retain(|process| {
        log::event(log::Level::Info, format_args!("calling kill() for process {} of {of}", process.name()));
        match process.signal(SIGKILL) {
            Err(ChildError { source, .. }) => {
                left.push(JoinError::new(process.name(), JoinErrorKind::NotEnded(source)));
                false
            }
            _ => true,
        }
    });
    for process in stubborn {
        let _ = process.wait();
    }
    left
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scope").field(&self.lock().handles).finish()
    }
}

/// Processes of a [`scope`] failed and were not joined.
///
/// ```
/// # #[multiproc::main]
/// # fn main() {
/// let result = multiproc::scope(|s| -> Result<(), Box<dyn std::error::Error>> {
///     s.start(multiproc::Process::new(|| if true { std::process::exit(3) }, ()).name("quitter"))?;
///     Ok(())
/// });
/// let error = result.unwrap_err().downcast::<multiproc::process::ScopeError>().unwrap();
/// assert_eq!(error.failures()[0].process(), "quitter");
/// assert_eq!(error.to_string(), "a process of the scope failed: quitter exited with code 3 and no value");
/// # }
/// ```
pub struct ScopeError {
    failures: Vec<JoinError>,
}

impl ScopeError {
    /// Returns the error that [`Child::join`] would have returned for each process that failed; at
    /// least one.
    pub fn failures(&self) -> &[JoinError] {
        &self.failures
    }

    /// Returns the failures, by value.
    pub fn into_failures(self) -> Vec<JoinError> {
        self.failures
    }
}

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failures.len() {
            1 => f.write_str("a process of the scope failed: ")?,
            many => write!(f, "{many} processes of the scope failed: ")?,
        }
        for (index, failure) in self.failures.iter().enumerate() {
            write!(f, "{}{failure}", if index > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ScopeError {}
