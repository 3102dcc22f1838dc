//! This process and its parent: names, ids, seeds.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use multiproc_os::threads;

use crate::spec::process_info::ProcessInfo;

/// The number of processes made here; the last number in their names.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Sets what is known of this process, a new child.
pub(crate) fn become_child(info: ProcessInfo) {
    ProcessInfo::set_current(info);
    MADE.store(0, Relaxed);
    *SEED.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Returns the numbers and the seed of the next process made here.
pub(crate) fn next_numbers() -> (Vec<u32>, u64) {
    let number = MADE.fetch_add(1, Relaxed) + 1;
    let mut numbers = ProcessInfo::current().numbers.clone();
    numbers.push(number);
    (numbers, child_seed(current_process().seed(), number))
}

/// The seed of the child with this number: SplitMix64 (Steele, Lea, Flood 2014) with the parent's
/// seed as its state, finalised once more so that a child's children don't come from the same
/// sequence.
fn child_seed(parent: u64, number: u32) -> u64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    mix(mix(parent.wrapping_add(u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15))) ^ 0xD1B5_4A32_D192_ED03)
}

/// The seed that [`set_seed`] has set, in place of the initial one.
static SEED: Mutex<Option<u64>> = Mutex::new(None);

/// Sets the [`seed`](CurrentProcess::seed) of this process, from which the seeds of processes made
/// later are derived. A program that calls this first has the same seeds in every run.
///
/// ```
/// use multiproc::{Process, current_process};
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// multiproc::process::set_seed(42);
/// let child = Process::new(|| current_process().seed(), ()).start()?;
/// assert_eq!(child.join()?, 0x032B_D39E_1A01_CA35);
/// # Ok(())
/// # }
/// ```
pub fn set_seed(seed: u64) {
    *SEED.lock().unwrap_or_else(PoisonError::into_inner) = Some(seed);
}

/// Returns the calling process.
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
    CurrentProcess { info: ProcessInfo::current() }
}

/// Returns the process that started this one; `None` in the main process.
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
    ProcessInfo::current().parent.as_ref().map(|(name, pid)| ParentProcess { name, pid: *pid })
}

/// The calling process. See [`current_process`].
#[derive(Clone, Copy)]
pub struct CurrentProcess {
    info: &'static ProcessInfo,
}

impl CurrentProcess {
    /// Returns the name: `MainProcess`, or the name of the [`Process`](crate::Process) that it was
    /// started from.
    pub fn name(&self) -> &'static str {
        &self.info.name
    }

    /// Returns the process id.
    pub fn pid(&self) -> i32 {
        threads::getpid()
    }

    /// Returns whether it is a daemon: when its parent ends, the parent ends it instead of waiting
    /// for it.
    pub fn daemon(&self) -> bool {
        self.info.daemon
    }

    /// Returns a seed for random number generators, different in each process. A child's seed is
    /// derived from its parent's and from the child's number among the parent's processes, whatever
    /// the start method; the main process's seed is random unless [set](set_seed).
    ///
    /// ```
    /// use multiproc::{Process, current_process};
    /// # struct StdRng(u64);
    /// # impl StdRng { fn seed_from_u64(seed: u64) -> StdRng { StdRng(seed) } fn random(&self) -> u64 { self.0 } }
    ///
    /// fn roll() -> u64 {
    ///     StdRng::seed_from_u64(current_process().seed()).random() // as the crate `rand` has it
    /// }
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (one, two) = (Process::new(roll, ()).start()?, Process::new(roll, ()).start()?);
    /// assert_ne!(one.join()?, two.join()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn seed(&self) -> u64 {
        SEED.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(self.info.seed)
    }
}

/// `<CurrentProcess(Process-1, started daemon)>`.
impl fmt::Debug for CurrentProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let daemon = if self.daemon() { " daemon" } else { "" };
        write!(f, "<CurrentProcess({}, started{daemon})>", self.name())
    }
}

/// The parent of this process. See [`parent_process`].
#[derive(Debug, Clone, Copy)]
pub struct ParentProcess {
    name: &'static str,
    pid: i32,
}

impl ParentProcess {
    /// Returns the name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the parent's process id at the moment when it started this process. The parent may
    /// have ended since, if this process was started with
    /// [`outlive_parent`](crate::Process::outlive_parent).
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

/// Returns the number of processors that this process may use: at most those of its affinity mask,
/// and at most the quotas of its control groups, rounded down; at least 1.
///
/// ```
/// assert!(multiproc::cpu_count() >= 1);
/// ```
pub fn cpu_count() -> usize {
    // The standard library reads sched_getaffinity(2) and cgroups of both versions.
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ() {
        let children = |parents: &[u64]| -> Vec<u64> {
            parents.iter().flat_map(|parent| (1..=30).map(|number| child_seed(*parent, number))).collect()
        };
        let first = children(&[0]);
        let second = children(&first);
        let third = children(&second);
        let mut all = [vec![0], first, second, third].concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
