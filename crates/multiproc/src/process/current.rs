//! Who this process is, and who started it.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, RwLock};

use multiproc_os::threads;
use serde::{Deserialize, Serialize};

/// What a process knows of itself: set before its target runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) name: String,
    /// The numbers in `Process-1:2`: those of the creator, then which of its processes this is.
    pub(crate) numbers: Vec<u32>,
    /// See [`CurrentProcess::seed`].
    pub(crate) seed: u64,
    pub(crate) daemon: bool,
    /// Name and pid of the process that called `start`.
    pub(crate) parent: Option<(String, i32)>,
}

/// None until somebody asks: then this is the main process. It lives as long as the process: a copy of it gets another.
static IDENTITY: RwLock<Option<&'static Identity>> = RwLock::new(None);

/// How many processes have been made here; the last number in their names.
static MADE: AtomicU32 = AtomicU32::new(0);

fn identity() -> &'static Identity {
    if let Some(identity) = *IDENTITY.read().unwrap_or_else(PoisonError::into_inner) {
        return identity;
    }
    let main = || Identity {
        name: "MainProcess".into(),
        numbers: vec![],
        seed: multiproc_os::random::seed(),
        daemon: false,
        parent: None,
    };
    IDENTITY.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| Box::leak(Box::new(main())))
}

/// Makes `identity` that of this process, which has just come to life.
pub(crate) fn become_child(identity: Identity) {
    *IDENTITY.write().unwrap_or_else(PoisonError::into_inner) = Some(Box::leak(Box::new(identity)));
    MADE.store(0, Relaxed);
    *SEED.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The numbers of the next process made here, and its seed.
pub(crate) fn next_numbers() -> (Vec<u32>, u64) {
    let number = MADE.fetch_add(1, Relaxed) + 1;
    let mut numbers = identity().numbers.clone();
    numbers.push(number);
    (numbers, child_seed(current_process().seed(), number))
}

/// The seed of the child of this number: SplitMix64 (Steele, Lea, Flood 2014) with the parent's as its state, finalised once more so
/// that a child's children don't come from the same sequence.
fn child_seed(parent: u64, number: u32) -> u64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    mix(mix(parent.wrapping_add(u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15))) ^ 0xD1B5_4A32_D192_ED03)
}

/// The seed that was set here, in place of the one that this process began with.
static SEED: Mutex<Option<u64>> = Mutex::new(None);

/// Sets the [`seed`](CurrentProcess::seed) of this process, from which those of the processes that are made later follow: a program
/// that does so first thing has the same random numbers every time.
///
/// ```
/// use multiproc::{Process, current_process};
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// multiproc::set_seed(42);
/// let child = Process::new(|| current_process().seed(), ()).start()?;
/// assert_eq!(child.join()?, 0x032B_D39E_1A01_CA35);
/// # Ok(())
/// # }
/// ```
pub fn set_seed(seed: u64) {
    *SEED.lock().unwrap_or_else(PoisonError::into_inner) = Some(seed);
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

    /// A number to seed a random number generator with, another one in each process. That of a child follows from its parent's and from
    /// which of its processes it is, whatever its start method; that of the main process is random unless [set](set_seed).
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
        SEED.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(self.identity.seed)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_a_large_family_differ() {
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
