//! Finds out whether a SIGKILL came from the kernel's out-of-memory killer: the kernel counts such
//! kills, and an increase since the last look explains one death.

use std::sync::{Mutex, PoisonError};

use multiproc_os::oom;

/// The count at the last look. None before the first look; `u64::MAX` if the kernel has no counter.
static SEEN: Mutex<Option<u64>> = Mutex::new(None);

/// Takes the count before the first child is started, so that earlier kills are not attributed to a
/// child.
pub(crate) fn take_notice() {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| oom::kills().unwrap_or(u64::MAX));
}

/// Whether such a kill has happened since the last look. Called for a child that died of SIGKILL.
pub(crate) fn has_killed() -> bool {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    match (*seen, oom::kills()) {
        (Some(before), Some(now)) if now > before => {
            // One kill explains one death.
            *seen = Some(before + 1);
            true
        }
        _ => false,
    }
}
