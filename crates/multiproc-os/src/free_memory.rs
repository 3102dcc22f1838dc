//! The amount of memory that is still available: `MemAvailable` in `/proc/meminfo`, see proc(5),
//! and what the control group leaves.
//!
//! The kernel grants a memory file more pages than exist, and later kills a process to obtain them.
//! So this process checks before each large request. It also checks before a small one if its
//! requests since the last check add up to a sizeable part of what was available then. The closer
//! to the limit, the more frequent the checks: in a control group of 400 MB, after every 25 MB or
//! so, and near the end after each MiB. Other processes that allocate at the same time are covered
//! by what each check leaves unrequested, and by the [`MARGIN`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{fs, io};

use crate::control_group;

/// Size of a large request in bytes: before it, the available memory is always checked.
pub(crate) const MUCH: u64 = 64 << 20;

/// Bytes that are left to other processes and to the kernel.
const MARGIN: u64 = 8 << 20;

/// After a check, requests for 1 / `PARTS` of the available memory need no other check, but always
/// for at least `LEAST` bytes.
const PARTS: u64 = 16;
const LEAST: u64 = 1 << 20;

/// Bytes that this process may request before it checks again.
static BUDGET: AtomicU64 = AtomicU64::new(LEAST);

/// Must be called before `len` bytes are requested: checks that they are available, if a check is
/// due. `besides` returns the bytes of the request that are already allocated; it is called for
/// large requests only.
///
/// # Errors
/// `ENOMEM`.
#[inline]
pub(crate) fn check(len: u64, besides: impl FnOnce() -> u64) -> io::Result<()> {
    let budget = BUDGET.load(Relaxed);
    if len < MUCH && len <= budget {
        // Another thread may do the same at this moment, and its update be lost. The error is
        // small.
        BUDGET.store(budget - len, Relaxed);
        return Ok(());
    }
    look_now(len, besides)
}

#[cold]
fn look_now(len: u64, besides: impl FnOnce() -> u64) -> io::Result<()> {
    let Some(left) = left() else {
        BUDGET.store(MUCH, Relaxed);
        return Ok(());
    };
    let (budget, is_enough) = reckon(len, left, || if len >= MUCH { besides() } else { 0 });
    BUDGET.store(budget, Relaxed);
    if is_enough { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOMEM)) }
}

/// Returns the budget until the next check, after `len` bytes, and whether those are available.
fn reckon(len: u64, left: u64, besides: impl FnOnce() -> u64) -> (u64, bool) {
    let spare = left.saturating_sub(MARGIN);
    match len > spare && len > spare.saturating_add(besides()) {
        true => (0, false),
        false => ((spare.saturating_sub(len) / PARTS).clamp(LEAST, MUCH), true),
    }
}

/// Returns the bytes that this process can still get, swap included.
pub(crate) fn left() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let swap = kib("SwapFree:").unwrap_or(0) * 1024;
    let machine = kib("MemAvailable:")? * 1024 + swap;
    Some(control_group::free_memory(swap).unwrap_or(u64::MAX).min(machine))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoke() {
        check(MUCH, || 0).unwrap();
        check(MUCH - 1, || unreachable!("a small request")).unwrap();
        check(1, || unreachable!("a small request")).unwrap();
        assert_eq!(check(1 << 60, || 0).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        check(1 << 60, || 1 << 60).unwrap();
    }

    #[test]
    fn low_memory_is_checked_more_often() {
        let none = || 0;
        assert_eq!(reckon(1, u64::MAX, none), (MUCH, true));
        assert_eq!(reckon(0, MARGIN + (320 << 20), none), (20 << 20, true));
        assert_eq!(reckon(4096, MARGIN + (4 << 20), none), (LEAST, true));
        assert_eq!(reckon(4096, MARGIN + 4095, none), (0, false));
        assert_eq!(reckon(4096, 0, none), (0, false));
        assert_eq!(reckon(4096, MARGIN, || 4096), (LEAST, true));
    }
}
