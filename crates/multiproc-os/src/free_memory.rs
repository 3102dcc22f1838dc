//! How much memory there is to be had: `MemAvailable` in `/proc/meminfo`, see proc(5), and what the control group leaves.
//!
//! The kernel gives a memory file more pages than there are, and then kills a process to have them.
//! So this process looks before it asks for much; and before it asks for a little, if what it has
//! asked for since it looked last is a good part of what there was then. The closer the end, the
//! more often it looks: in a control group of 400 MB, each time that some 25 MB have been taken,
//! and in the end after each MiB. Others that take memory at the same time have what is left then,
//! and the [`MARGIN`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{fs, io};

use crate::control_group;

/// From so many bytes on, it is looked first whether there is memory.
pub(crate) const MUCH: u64 = 64 << 20;

/// What is left to others, and to what the kernel needs for itself.
const MARGIN: u64 = 8 << 20;

/// This process looks when it has asked for a fixed part of what there was; but not before
/// [`LEAST`].
const PARTS: u64 = 16;
const LEAST: u64 = 1 << 20;

/// How many bytes this process may ask for before it looks again.
static BUDGET: AtomicU64 = AtomicU64::new(LEAST);

/// To be called before this many bytes are asked for: looks whether they are there, if that is to
/// be looked at. `besides` is what is there for it already, which is asked for much only.
///
/// # Errors
/// `ENOMEM`.
#[inline]
pub(crate) fn look_for(len: u64, besides: impl FnOnce() -> u64) -> io::Result<()> {
    let budget = BUDGET.load(Relaxed);
    if len < MUCH && len <= budget {
        // Another thread may do so at the same time. It makes little of a difference.
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

/// What may be asked for after `len` bytes, before one looks again; and whether those are there.
fn reckon(len: u64, left: u64, besides: impl FnOnce() -> u64) -> (u64, bool) {
    let spare = left.saturating_sub(MARGIN);
    match len > spare && len > spare.saturating_add(besides()) {
        true => (0, false),
        false => ((spare.saturating_sub(len) / PARTS).clamp(LEAST, MUCH), true),
    }
}

/// How much this process can still have, swap included.
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
    fn there_is_some_and_not_any_amount() {
        look_for(MUCH, || 0).unwrap();
        look_for(MUCH - 1, || unreachable!("that isn't much")).unwrap();
        look_for(1, || unreachable!("that isn't much")).unwrap();
        assert_eq!(look_for(1 << 60, || 0).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        look_for(1 << 60, || 1 << 60).unwrap();
    }

    #[test]
    fn the_less_there_is_the_sooner_it_is_looked_at_again() {
        let none = || 0;
        assert_eq!(reckon(1, u64::MAX, none), (MUCH, true));
        assert_eq!(reckon(0, MARGIN + (320 << 20), none), (20 << 20, true));
        assert_eq!(reckon(4096, MARGIN + (4 << 20), none), (LEAST, true));
        assert_eq!(reckon(4096, MARGIN + 4095, none), (0, false));
        assert_eq!(reckon(4096, 0, none), (0, false));
        assert_eq!(reckon(4096, MARGIN, || 4096), (LEAST, true));
    }
}
