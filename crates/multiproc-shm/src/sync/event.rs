//! [`Event`]: a flag that callers can wait for. See `PROTOCOL.md` in this folder,
//! "Event".

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use multiproc_os::poll::interruptible_if;

use crate::lock::spin_lock::{RobustSpinLock, Stalled, within};
use crate::memory::object::Object;
use crate::memory::segment::layout;
use crate::memory::slab::{Slab, Slot};
use crate::sync::error::WaitError;
use crate::wait::deadline::Deadline;
use crate::wait::notifier::ViaHandle;
use crate::wait::wait_queue::{WaitOp, WaitQueue};

layout! {
    /// The state in shared memory. All zero: it is not set.
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

/// A flag that wakes all its waiters when it is set: the layer under `multiproc::sync::Event`.
///
/// It takes two descriptors, or none of its own [in a slab](Event::create_in). A clone is another
/// handle of the same event; a thread that sets the event while another waits needs one of its own.
///
/// ```
/// use multiproc_shm::sync::Event;
/// use multiproc_shm::wait::deadline::Deadline;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ready = Event::create()?;
/// let same = Event::from_fds(ready.to_fds()?)?; // in another process, perhaps
/// std::thread::scope(|scope| {
///     scope.spawn(move || same.set());
///     ready.wait(Deadline::Never)
/// })?;
/// assert!(ready.is_set());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Event {
    object: Object<EventState>,
    is_interruptible: bool,
}

impl Event {
    /// Creates an event that is not set.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub fn create() -> io::Result<Event> {
        Object::create().map(Event::from_object)
    }

    /// Creates an event in a slab.
    ///
    /// # Errors
    /// `StorageFull` when the slab has no slot left; `ENOSPC`, `ENOMEM`.
    pub fn create_in(slab: &Slab) -> io::Result<Event> {
        Object::create_in(slab).map(Event::from_object)
    }

    /// Opens an event with the descriptors that [`to_fds`](Event::to_fds) has returned, perhaps in
    /// another process.
    ///
    /// # Errors
    /// `InvalidData` when they are something else; `Unsupported` when it was created in another PID
    /// namespace; `ENOMEM`.
    pub fn from_fds([memory, wake_pipe]: [OwnedFd; 2]) -> io::Result<Event> {
        Object::open(memory, wake_pipe).map(Event::from_object)
    }

    /// Opens the event in a slot of a slab.
    ///
    /// # Errors
    /// As [`from_fds`](Event::from_fds).
    pub fn open_in(slab: &Slab, index: u32) -> io::Result<Event> {
        Object::open_in(slab, index).map(Event::from_object)
    }

    /// Returns descriptors of the memory file and of the wake pipe, to be sent to another process.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `InvalidInput` if the event lies in a slab.
    pub fn to_fds(&self) -> io::Result<[OwnedFd; 2]> {
        self.object.to_fds()
    }

    /// Returns the slot of an event that lies in a slab.
    pub fn slot(&self) -> Option<&Slot> {
        self.object.slot()
    }

    /// Makes this handle interruptible, as
    /// [`Semaphore::interruptible`](super::Semaphore::interruptible) does.
    #[must_use]
    pub fn interruptible(mut self) -> Event {
        self.is_interruptible = true;
        self
    }

    /// Returns the object behind the event.
    pub fn object(&self) -> &Object<EventState> {
        &self.object
    }

    /// Makes an event of its object.
    pub fn from_object(object: Object<EventState>) -> Event {
        Event { object, is_interruptible: false }
    }

    /// Returns whether the event is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        is_set(self.object.changes.load(SeqCst))
    }

    /// Sets the event, and wakes all waiters.
    pub fn set(&self) {
        let object = &self.object;
        let notifier = object.notifier();
        if self.is_set() {
            return;
        }
        let guard = object.spin_lock.lock_endlessly();
        let changes = object.changes.load(SeqCst);
        if is_set(changes) {
            return;
        }
        object.wait_queue.before_change(notifier);
        object.changes.store(changes.wrapping_add(1), SeqCst);
        drop(guard);
        object.wait_queue.after_change(u32::MAX);
    }

    /// Clears the event. No caller waits for that.
    pub fn clear(&self) {
        let object = &self.object;
        let _guard = object.spin_lock.lock_endlessly();
        let changes = object.changes.load(SeqCst);
        if is_set(changes) {
            object.changes.store(changes.wrapping_add(1), SeqCst);
        }
    }

    /// Waits until the event is set, or has been set in the meantime.
    ///
    /// # Errors
    /// [`WaitError::Timeout`], [`WaitError::Interrupted`]; [`WaitError::Disconnected`] if no
    /// process is left that could set the event; [`WaitError::Stalled`], [`WaitError::Io`].
    pub fn wait(&self, deadline: Deadline) -> Result<(), WaitError> {
        let object = &self.object;
        let found = object.changes.load(SeqCst);
        if is_set(found) {
            return Ok(());
        }
        if deadline == Deadline::Now {
            return Err(WaitError::Timeout);
        }
        let wait = || {
            let mut op = Set { object, found };
            within(deadline.limit(), || object.wait_queue.wait(object.notifier(), deadline.instant(), &mut op))
        };
        Ok(interruptible_if(self.is_interruptible, wait)?)
    }

    /// As [`wait`](Event::wait) without a deadline, as a future.
    ///
    /// # Errors
    /// As [`wait`](Event::wait).
    #[cfg(feature = "async")]
    pub async fn wait_async(&self) -> Result<(), WaitError> {
        let object = &self.object;
        let found = object.changes.load(SeqCst);
        if is_set(found) {
            return Ok(());
        }
        Ok(object.wait_queue.wait_async(object.notifier(), &mut Set { object, found }).await?)
    }
}

/// Waits until the flag is set. It was not set when `changes` was `found`, so any other number will
/// do.
struct Set<'a> {
    object: &'a Object<EventState>,
    found: u64,
}

impl WaitOp for Set<'_> {
    type Outcome = ();

    fn attempt(&mut self) -> Option<()> {
        (self.object.changes.load(SeqCst) != self.found).then_some(())
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _guard = self.object.spin_lock.lock()?;
        if self.attempt().is_some() {
            return Ok(true);
        }
        arm();
        Ok(false)
    }

    fn through(&self) -> ViaHandle<'_> {
        self.object.through()
    }
}
