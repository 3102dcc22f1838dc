//! Who this process is, and who started it.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use multiproc_os::threads;
use serde::{Deserialize, Serialize};

/// What a process knows of itself: set once, before its target runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) name: String,
    /// The numbers in `Process-1:2`: those of the creator, then which of its processes this is.
    pub(crate) numbers: Vec<u32>,
    pub(crate) daemon: bool,
    /// Name and pid of the process that called `start`.
    pub(crate) parent: Option<(String, i32)>,
}

static IDENTITY: OnceLock<Identity> = OnceLock::new();

/// How many processes have been made here; the last number in their names.
static MADE: AtomicU32 = AtomicU32::new(0);

fn identity() -> &'static Identity {
    IDENTITY.get_or_init(|| Identity { name: "MainProcess".into(), numbers: vec![], daemon: false, parent: None })
}

/// Makes `identity` that of this process, which has just come to life.
pub(crate) fn become_child(identity: Identity) {
    // Set already only if somebody asked before: nobody does before a child's first steps are done.
    let _ = IDENTITY.set(identity);
}

/// The numbers of the next process made here.
pub(crate) fn next_numbers() -> Vec<u32> {
    let mut numbers = identity().numbers.clone();
    numbers.push(MADE.fetch_add(1, Relaxed) + 1);
    numbers
}

/// The process that calls this.
///
/// ```
/// use multiproc::{Process, current_process};
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// assert_eq!(current_process().name(), "MainProcess");
/// let child = Process::new(|| current_process().name().to_owned(), ()).start()?;
/// assert_eq!(child.join()?, "Process-1");
/// # Ok(())
/// # }
/// ```
pub fn current_process() -> CurrentProcess {
    CurrentProcess { identity: identity() }
}

/// The process that started this one; none in the main process.
///
/// ```
/// use multiproc::{Process, current_process, parent_process};
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// assert!(parent_process().is_none());
/// let child = Process::new(|| parent_process().map(|parent| parent.pid()), ()).start()?;
/// assert_eq!(child.join()?, Some(current_process().pid()));
/// # Ok(())
/// # }
/// ```
pub fn parent_process() -> Option<ParentProcess> {
    identity().parent.as_ref().map(|(name, pid)| ParentProcess { name, pid: *pid })
}

/// The calling process. See [`current_process`].
#[derive(Clone, Copy)]
pub struct CurrentProcess {
    identity: &'static Identity,
}

impl CurrentProcess {
    /// Its name: `MainProcess`, or what it was given when it was made.
    pub fn name(&self) -> &'static str {
        &self.identity.name
    }

    /// Its id.
    pub fn pid(&self) -> i32 {
        threads::getpid()
    }

    /// Whether it is a daemon: ended, not waited for, when the process that started it ends.
    pub fn daemon(&self) -> bool {
        self.identity.daemon
    }
}

/// `<CurrentProcess(Process-1, started daemon)>`.
impl fmt::Debug for CurrentProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let daemon = if self.daemon() { " daemon" } else { "" };
        write!(f, "<CurrentProcess({}, started{daemon})>", self.name())
    }
}

/// The process that started this one. See [`parent_process`].
#[derive(Debug, Clone, Copy)]
pub struct ParentProcess {
    name: &'static str,
    pid: i32,
}

impl ParentProcess {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The id that it had when it started this process. It may have ended since, if this process was started with
    /// [`outlive_parent`](crate::Process::outlive_parent).
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

/// How many processors this process may use: no more than its affinity mask has, and no more than the quotas of its control groups
/// allow, rounded down; at least 1.
///
/// ```
/// assert!(multiproc::cpu_count() >= 1);
/// ```
pub fn cpu_count() -> usize {
    // The standard library looks at sched_getaffinity(2) and at cgroups of both versions.
    std::thread::available_parallelism().map_or(1, usize::from)
}
