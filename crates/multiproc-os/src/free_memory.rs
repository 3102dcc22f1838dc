//! How much memory there is to be had: `MemAvailable` in `/proc/meminfo`, see proc(5), and what the control group leaves.
//!
//! The kernel gives a memory file more pages than it has, and then kills somebody to have them. So it is looked before, where much is wanted; who comes at the same time
//! may still be too many.

use std::{fs, io};

use crate::control_group;

/// From so many bytes on, it is looked first whether there is memory.
pub(crate) const MUCH: u64 = 64 << 20;

/// Looks whether there is memory for so many bytes, or could be. `besides` is what is there for it already.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn look_for(len: u64, besides: impl FnOnce() -> u64) -> io::Result<()> {
    match len >= MUCH && left().is_some_and(|left| len > left.saturating_add(besides())) {
        true => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
        false => Ok(()),
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
        assert_eq!(look_for(1 << 60, || 0).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        look_for(1 << 60, || 1 << 60).unwrap();
    }
}
