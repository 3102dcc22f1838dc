//! The state of an event: a flag that callers can wait for. See `PROTOCOL.md` in this folder,
//! "Event".

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::lock::spin_lock::{RobustSpinLock, Stalled, within};
use crate::memory::object::Object;
use crate::memory::segment::layout;
use crate::wait::notifier::ViaHandle;
use crate::wait::wait_queue::{WaitFailure, WaitOp, WaitQueue};

layout! {
    /// The shared part; all zero, it is not set.
    pub struct EventState: "event", 0x21 {
        /// How often the flag has been set and cleared, in all. It is set when this is odd.
        changes: AtomicU64,
        spin_lock: RobustSpinLock,
        wait_queue: WaitQueue,
    }
}

fn is_set(changes: u64) -> bool {
    changes & 1 != 0
}

impl EventState {
    /// Creates a flag that is not set.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create() -> io::Result<Object<EventState>> {
        Object::create()
    }

    /// Whether the flag is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        is_set(self.changes.load(SeqCst))
    }
}

impl Object<EventState> {
    /// Sets the flag, and wakes all waiters.
    pub fn set(&self) {
        let notifier = self.notifier();
        if self.is_set() {
            return;
        }
        let guard = self.spin_lock.lock_endlessly();
        let changes = self.changes.load(SeqCst);
        if is_set(changes) {
            return;
        }
        self.wait_queue.before_change(notifier);
        self.changes.store(changes.wrapping_add(1), SeqCst);
        drop(guard);
        self.wait_queue.after_change(u32::MAX);
    }

    /// Clears the flag. No caller waits for that.
    pub fn clear(&self) {
        let _guard = self.spin_lock.lock_endlessly();
        let changes = self.changes.load(SeqCst);
        if is_set(changes) {
            self.changes.store(changes.wrapping_add(1), SeqCst);
        }
    }

    /// Waits until the flag is set, or has been set in the meantime.
    ///
    /// # Errors
    /// [`WaitFailure`].
    pub fn wait(&self, timeout: Option<Duration>) -> Result<(), WaitFailure> {
        let found = self.changes.load(SeqCst);
        if is_set(found) {
            return Ok(());
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        within(deadline.into(), || self.wait_queue.wait(self.notifier(), deadline, &mut Set { flag: self, found }))
    }

    /// As [`wait`](Object::wait) without a timeout, as a future.
    ///
    /// # Errors
    /// As [`wait`](Object::wait).
    #[cfg(feature = "async")]
    pub async fn wait_async(&self) -> Result<(), WaitFailure> {
        let found = self.changes.load(SeqCst);
        if is_set(found) {
            return Ok(());
        }
        self.wait_queue.wait_async(self.notifier(), &mut Set { flag: self, found }).await
    }
}

/// Waits until the flag is set. It was not set when `changes` was `found`, so any other number will
/// do.
struct Set<'a> {
    flag: &'a Object<EventState>,
    found: u64,
}

impl WaitOp for Set<'_> {
    type Outcome = ();

    fn attempt(&mut self) -> Option<()> {
        (self.flag.changes.load(SeqCst) != self.found).then_some(())
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _guard = self.flag.spin_lock.lock()?;
        if self.attempt().is_some() {
            return Ok(true);
        }
        arm();
        Ok(false)
    }

    fn through(&self) -> ViaHandle<'_> {
        self.flag.through()
    }
}
