//! [`active_children`]: handles to the children of this process.

use super::child::ProcessHandle;
use crate::runtime::children;

/// Returns the children of this process that have not ended. Reaps the others.
///
/// ```
/// use multiproc::{Process, active_children};
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let child = Process::new(std::thread::sleep, (std::time::Duration::from_secs(1000),)).name("sleeper").start()?;
/// assert_eq!(active_children()[0].name(), "sleeper");
/// child.kill()?;
/// child.wait()?;
/// assert!(active_children().is_empty());
/// # Ok(())
/// # }
/// ```
pub fn active_children() -> Vec<ProcessHandle> {
    children::active().into_iter().map(ProcessHandle::new).collect()
}
