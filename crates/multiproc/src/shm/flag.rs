//! A flag that can be waited for: what an event is made of. `../sync/PROTOCOL.md`, "Event".

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::gate::Through;
use super::latch::{Latch, Stalled, within};
use super::lot::{Lot, Vain, Wish};
use super::object::Object;
use super::segment::layout;

layout! {
    /// The shared part; all zero, it is not set.
    pub(crate) struct Flag: "event", 0x21 {
        /// How often it has been set and cleared, in all. Odd: it is set.
        changes: AtomicU64,
        latch: Latch,
        lot: Lot,
    }
}

fn is_set(changes: u64) -> bool {
    changes & 1 != 0
}

impl Flag {
    /// A new one.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub(crate) fn create() -> io::Result<Object<Flag>> {
        Object::create()
    }

    /// Whether it is set.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        is_set(self.changes.load(SeqCst))
    }
}

impl Object<Flag> {
    /// Sets it, and wakes all who wait.
    pub(crate) fn set(&self) {
        let gate = self.gate();
        if self.is_set() {
            return;
        }
        let latched = self.latch.lock_endlessly();
        let changes = self.changes.load(SeqCst);
        if is_set(changes) {
            return;
        }
        self.lot.before_change(gate);
        self.changes.store(changes.wrapping_add(1), SeqCst);
        drop(latched);
        self.lot.after_change(u32::MAX);
    }

    /// Clears it. Nobody waits for that.
    pub(crate) fn clear(&self) {
        let _latched = self.latch.lock_endlessly();
        let changes = self.changes.load(SeqCst);
        if is_set(changes) {
            self.changes.store(changes.wrapping_add(1), SeqCst);
        }
    }

    /// Waits until it is set, or has been meanwhile.
    ///
    /// # Errors
    /// [`Vain`].
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<(), Vain> {
        let found = self.changes.load(SeqCst);
        if is_set(found) {
            return Ok(());
        }
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        within(deadline.into(), || self.lot.wait(self.gate(), deadline, &mut Set { flag: self, found }))
    }

    /// As [`wait`](Object::wait), for as long as it takes, as a future.
    ///
    /// # Errors
    /// As there.
    #[cfg(feature = "async")]
    pub(crate) async fn wait_async(&self) -> Result<(), Vain> {
        let found = self.changes.load(SeqCst);
        if is_set(found) {
            return Ok(());
        }
        self.lot.wait_async(self.gate(), &mut Set { flag: self, found }).await
    }
}

/// The wish that it be set: whatever differs from what was found, when it was not, will do.
struct Set<'a> {
    flag: &'a Object<Flag>,
    found: u64,
}

impl Wish for Set<'_> {
    type Outcome = ();

    fn attempt(&mut self) -> Option<()> {
        (self.flag.changes.load(SeqCst) != self.found).then_some(())
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _latched = self.flag.latch.lock()?;
        if self.attempt().is_some() {
            return Ok(true);
        }
        arm();
        Ok(false)
    }

    fn through(&self) -> Through<'_> {
        self.flag.through()
    }
}
