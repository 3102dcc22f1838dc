//! Whether a SIGKILL was the kernel's, for want of memory: it counts such kills, and what has been added since the last look is news.

use std::sync::{Mutex, PoisonError};

use multiproc_os::oom;

/// The count at the last look; none before the first, and where the kernel doesn't tell.
static SEEN: Mutex<Option<u64>> = Mutex::new(None);

/// Before the first child: what has been counted up to now concerns none of them.
pub(crate) fn take_notice() {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| oom::kills().unwrap_or(u64::MAX));
}

/// Whether there was such a kill since the last look. For a child that SIGKILL has ended: there was one of those too.
pub(crate) fn has_struck() -> bool {
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
