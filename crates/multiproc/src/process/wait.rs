//! Waiting for several processes to end.

use std::time::Duration;

use multiproc_shm::wait::deadline::Deadline;

use super::child::ProcessHandle;
use super::error::WaitAllError;
use crate::spec::status::ExitStatus;

/// Waits until all of `children` have ended, for at most `timeout` (`None`: without limit). Returns
/// their statuses, in the order of the children.
///
/// `children` is any collection with items that have a [`ProcessHandle`]: `&[Child<T>]`, an
/// iterator of `&Child<T>`, [`active_children()`](crate::active_children). For children of
/// different types, make an array of handles: `[child.handle(), other.handle()]`. The same child
/// may occur twice.
///
/// A process that fails doesn't end the wait: look at the statuses, or use
/// [`scope`](crate::scope). [`wait_any`](crate::wait_any) returns when one of them has ended.
///
/// ```
/// use std::time::Duration;
/// use multiproc::process::WaitAllError;
/// use multiproc::{Process, wait_all};
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let quick = Process::new(|| (), ()).start()?;
/// let slow = Process::new(|| std::thread::sleep(Duration::from_secs(1000)), ()).start()?;
/// match wait_all([&quick, &slow], Duration::from_millis(100)) {
///     Err(WaitAllError::Timeout { running, .. }) => {
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
/// [`WaitAllError::Timeout`](crate::process::WaitAllError::Timeout) at the timeout, with the
/// processes that still run; the statuses of the others can be asked for.
/// [`ChildError`](crate::process::ChildError) if the system call fails; this is not expected.
pub fn wait_all<I>(children: I, timeout: impl Into<Option<Duration>>) -> Result<Vec<ExitStatus>, WaitAllError>
where
    I: IntoIterator,
    I::Item: AsRef<ProcessHandle>,
{
    let timeout = timeout.into();
    let deadline = Deadline::from_now(timeout).instant();
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
        false => Err(WaitAllError::Timeout { running, of: children.len(), timeout: timeout.unwrap_or(Duration::MAX) }),
    }
}
