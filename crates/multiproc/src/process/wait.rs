//! Waiting for several processes at once: poll(2) on their pidfds.

use std::time::{Duration, Instant};

use multiproc_os::poll;

use super::child::ProcessHandle;
use crate::spec::status::ExitStatus;
use crate::{Error, Result};

/// Waits until one of `children` has ended, for at most `timeout` (`None`: without limit). Returns
/// its index and its status; if several have ended, those of the first. Returns `None` if all still
/// run at the timeout, or if there are no children.
///
/// `children` is any collection with items that have a [`ProcessHandle`]: `&[Child<T>]`, an
/// iterator of `&Child<T>`, [`active_children()`](crate::active_children). For children of
/// different types, make an array of handles: `[child.handle(), other.handle()]`. The same child may
/// occur twice.
///
/// A child that has ended is returned again by the next call, so a loop that waits for the next
/// child must remove it. Only the child that is returned is reaped. Each call asks the kernel about
/// all children, which takes some 0.1 ms for a thousand.
///
/// ```
/// use std::time::Duration;
/// use multiproc::{Process, wait_any};
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut children = Vec::new();
/// for millis in [30, 10, 20] {
///     children.push(Process::new(|millis| std::thread::sleep(Duration::from_millis(millis)), (millis,)).start()?);
/// }
/// while let Some((index, status)) = wait_any(&children, None)? {
///     let child = children.swap_remove(index);
///     println!("{} has ended: {status}", child.name());
///     child.join()?;
/// }
/// # assert!(children.is_empty());
/// # Ok(())
/// # }
/// ```
///
/// The table at [`wait`](crate::wait()#what-can-be-waited-for-and-how) shows what else can be
/// waited for, and with which function.
///
/// # Errors
/// [`Error::Child`] if the system call fails; this is not expected.
pub fn wait_any<I>(children: I, timeout: impl Into<Option<Duration>>) -> Result<Option<(usize, ExitStatus)>>
where
    I: IntoIterator,
    I::Item: AsRef<ProcessHandle>,
{
    let deadline = deadline(timeout.into());
    let children: Vec<I::Item> = children.into_iter().collect();
    let handles: Vec<&ProcessHandle> = children.iter().map(AsRef::as_ref).collect();
    first_to_end(&handles, deadline)
}

/// Waits until all of `children` have ended, for at most `timeout` (`None`: without limit). Returns
/// their statuses, in the order of the children.
///
/// `children` is any collection that [`wait_any`] takes. A process that fails doesn't end the wait:
/// look at the statuses, or use [`scope`](crate::scope).
///
/// ```
/// use std::time::Duration;
/// use multiproc::{Error, Process, wait_all};
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let quick = Process::new(|| (), ()).start()?;
/// let slow = Process::new(|| std::thread::sleep(Duration::from_secs(1000)), ()).start()?;
/// match wait_all([&quick, &slow], Duration::from_millis(100)) {
///     Err(Error::StillRunning { running, .. }) => {
///         for child in running {
///             child.kill()?;
///         }
///     }
///     other => panic!("{other:?}"),
/// }
/// let statuses = wait_all([&quick, &slow], None)?;
/// assert_eq!(statuses[1].exit_code(), Some(-9));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::StillRunning`] at the timeout, with the processes that still run; the statuses of the
/// others can be asked for. [`Error::Child`] if the system call fails; this is not expected.
pub fn wait_all<I>(children: I, timeout: impl Into<Option<Duration>>) -> Result<Vec<ExitStatus>>
where
    I: IntoIterator,
    I::Item: AsRef<ProcessHandle>,
{
    let timeout = timeout.into();
    let deadline = deadline(timeout);
    let children: Vec<I::Item> = children.into_iter().collect();
    let mut statuses = Vec::with_capacity(children.len());
    let mut running = Vec::new();
    // They are waited for one after the other, since all must end. Once the deadline has passed,
    // each is only checked.
    for child in &children {
        match child.as_ref().wait_until(deadline)? {
            Some(status) => statuses.push(status),
            None => running.push(child.as_ref().clone()),
        }
    }
    match running.is_empty() {
        true => Ok(statuses),
        false => Err(Error::StillRunning { running, of: children.len(), timeout: timeout.unwrap_or(Duration::MAX) }),
    }
}

/// The deadline of a timeout; none if it lies beyond the clock's range.
pub(crate) fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// How long to wait for the status of a process that has ended and that a debugger traces, before
/// the other processes are checked again.
const DEBUGGED: Duration = Duration::from_millis(50);

fn first_to_end(handles: &[&ProcessHandle], deadline: Option<Instant>) -> Result<Option<(usize, ExitStatus)>> {
    // If one is known to have ended, only those before it are polled: the socket that stands in for
    // a missing pidfd may not be readable.
    let known = handles.iter().enumerate().find_map(|(index, handle)| Some((index, handle.known_status()?)));
    let (asked, deadline) = match known {
        Some((index, _)) => (&handles[..index], Some(Instant::now())),
        None => (handles, deadline),
    };
    if asked.is_empty() {
        return Ok(known);
    }
    let fail =
        |source| Error::Child { process: format!("any of {} processes", handles.len()), what: "wait for", source };
    loop {
        let ended = poll::wait_readable(asked, deadline).map_err(fail)?;
        for index in &ended {
            if let Some(status) = asked[*index].try_wait()? {
                return Ok(Some((*index, status)));
            }
        }
        let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
        match ended.first() {
            Some(index) if known.is_none() && !is_over => {
                // A debugger that traces it gets its status first. Meanwhile another process may
                // end.
                let soon = Instant::now() + DEBUGGED;
                let until = deadline.map_or(soon, |deadline| deadline.min(soon));
                asked[*index].record().wait_for_status(until).map_err(fail)?;
            }
            _ => return Ok(known),
        }
    }
}
