//! Processes that don't outlast a piece of code: [`scope`] gives it a [`Scope`] to start them in, and returns when they have ended.
//!
//! As with `std::thread::scope`, but nothing is borrowed (another process can't), and leaving the scope early, by `Err` or by a panic, ends
//! the processes instead of waiting for what may never come.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use multiproc_os::threads;

use super::builder::Process;
use super::child::{Child, ProcessHandle};
use super::children::{SIGKILL, SIGTERM, grace_period};
use super::outcome::Outcome;
use super::run::{CapturesNothing, Run, Target};
use super::status::{JoinError, JoinErrorKind};
use super::wait;
use crate::sendable::Arguments;
use crate::{Error, Result, log};

/// Calls `body` with a [`Scope`] to start processes in, and returns what it returns, once they have all ended.
///
/// - When `body` returns `Ok`, its processes are waited for. Daemons are ended then: SIGTERM, and SIGKILL after the
///   [`grace_period`](crate::grace_period).
/// - When it returns `Err` or panics, all that still run are ended in that way. So the first failure, passed on with `?`, stops the others.
///
/// A process that fails and that nobody [joins](Child::join) isn't overlooked: it turns `Ok` into a [`ScopeError`] that names it. Failed
/// means: it panicked, its target returned an `Err`, it left with a code other than 0, a signal killed it that this process has not sent.
///
/// In a scope only those are daemons that are told to be, whatever the calling process is. Those that
/// [outlive their parent](Process::outlive_parent) are waited for too. A [`Child`] may leave the scope: it has ended by then, and `join`
/// gives its value at once.
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
///     s.spawn(|divisor: u32| 10 / divisor, (0,))?; // nobody joins it
///     Ok(())
/// });
/// assert!(result.unwrap_err().to_string().contains("divide by zero"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// What `body` returns; a [`ScopeError`] when a process has failed that nobody has joined.
///
/// # Panics
/// When `body` does.
pub fn scope<R, E>(body: impl FnOnce(&Scope) -> Result<R, E>) -> Result<R, E>
where
    E: From<ScopeError>,
{
    let scope = Scope::new();
    // What a panic leaves behind is not looked at: it goes on after the processes have ended.
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

/// Where processes are started that end with the scope: see [`scope`]. Threads may share it.
pub struct Scope {
    /// The process that all this is about. A copy of it, made by fork(2) elsewhere, has no business with its children.
    process: i32,
    members: Mutex<Members>,
}

struct Members {
    /// Those that have to be waited for, or asked how they ended, in the order of their starts.
    handles: Vec<ProcessHandle>,
    /// What is known to have gone wrong with those that are no longer among them.
    failures: Vec<JoinError>,
    /// At how many they are looked through for some that are done with.
    full: usize,
}

/// What ends processes here.
const SCOPE: &str = "a scope";

/// So many are kept before they are looked through for the first time.
const FEW: usize = 16;

impl Scope {
    fn new() -> Scope {
        let members = Members { handles: Vec::new(), failures: Vec::new(), full: FEW };
        Scope { process: threads::getpid(), members: Mutex::new(members) }
    }

    /// Starts a process that calls `target` with the elements of the tuple `args`, as [`Process::new`] and [`Process::start`] do.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn spawn<F, A, V, Via>(&self, target: F, args: A) -> Result<Child<V>>
    where
        F: Target<A, Output: Outcome<Via, Value = V>> + CapturesNothing,
        A: Arguments,
    {
        self.start(Process::new(target, args))
    }

    /// Starts a process that has been given a name or other properties, or that runs a [`Run`] value (`value.process()`).
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
    pub fn start<R, V, Via>(&self, process: Process<R>) -> Result<Child<V>>
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

    /// Waits for those that are not daemons, then ends the daemons. Says what went wrong, and with which.
    fn wait(self) -> Vec<JoinError> {
        if self.process != threads::getpid() {
            return Vec::new();
        }
        let Members { handles, mut failures, .. } = self.members.into_inner().unwrap_or_else(PoisonError::into_inner);
        for handle in handles.iter().filter(|handle| !handle.daemon()) {
            if let Err(Error::Child { source, .. }) = handle.wait() {
                failures.push(JoinError::new(handle.name(), JoinErrorKind::Wait(source)));
            }
        }
        let daemons: Vec<_> = handles.iter().filter(|handle| handle.daemon() && handle.is_alive()).collect();
        // How these daemons take their end is nobody's concern.
        failures.extend(handles.iter().filter_map(ProcessHandle::failure));
        failures.extend(end(daemons, SCOPE));
        failures
    }

    /// Ends all that still run.
    fn end(self) {
        if self.process == threads::getpid() {
            let members = self.members.into_inner().unwrap_or_else(PoisonError::into_inner);
            end(members.handles.iter().filter(|handle| handle.is_alive()).collect(), SCOPE);
        }
    }
}

impl Members {
    /// Lets go of those that are done with, when there are twice as many as the last time: a scope may see any number of processes in its
    /// time, and each handle keeps a descriptor.
    fn make_room(&mut self) {
        if self.handles.len() < self.full {
            return;
        }
        let failures = &mut self.failures;
        self.handles.retain(|handle| {
            if !matches!(handle.try_wait(), Ok(Some(_))) {
                return true;
            }
            // As long as somebody else has a handle, it may yet be joined.
            let is_done_with = handle.was_joined() || handle.is_the_only_one();
            if is_done_with {
                failures.extend(handle.failure());
            }
            !is_done_with
        });
        self.full = FEW.max(2 * self.handles.len());
    }
}

/// Ends the processes of a scope or a test: SIGTERM, a time of grace for all together, SIGKILL.
/// Says which can't be ended.
pub(super) fn end(running: Vec<&ProcessHandle>, of: &str) -> Vec<JoinError> {
    for process in &running {
        log::event(log::Level::Info, format_args!("calling terminate() for process {} of {of}", process.name()));
        let _ = process.signal(SIGTERM);
    }
    let deadline = wait::deadline(Some(grace_period()));
    let mut stubborn: Vec<_> =
        running.into_iter().filter(|process| matches!(process.wait_until(deadline), Ok(None))).collect();
    let mut left = Vec::new();
    stubborn.retain(|process| {
        log::event(log::Level::Info, format_args!("calling kill() for process {} of {of}", process.name()));
        match process.signal(SIGKILL) {
            Err(Error::Child { source, .. }) => {
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

/// Processes of a [`scope`] have failed, and nobody had joined them. Says which, and how.
///
/// ```
/// # #[multiproc::main]
/// # fn main() {
/// let result = multiproc::scope(|s| -> Result<(), Box<dyn std::error::Error>> {
///     s.start(multiproc::Process::new(|| if true { std::process::exit(3) }, ()).name("quitter"))?;
///     Ok(())
/// });
/// let error = result.unwrap_err().downcast::<multiproc::ScopeError>().unwrap();
/// assert_eq!(error.failures()[0].process(), "quitter");
/// assert_eq!(error.to_string(), "a process of the scope failed: quitter exited with code 3 and no value");
/// # }
/// ```
pub struct ScopeError {
    failures: Vec<JoinError>,
}

impl ScopeError {
    /// What [`Child::join`] would have said of each process that failed; at least one.
    pub fn failures(&self) -> &[JoinError] {
        &self.failures
    }

    /// The same, by value.
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
