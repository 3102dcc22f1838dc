//! [`Event`]: a flag that wakes all its waiters when it is set.
//!
//! A counter of changes; the event is set while it is odd. See `sync/PROTOCOL.md` of
//! `multiproc-shm`, "Event".

use std::fmt;
use std::time::Duration;

use multiproc_shm::sync as shm;
use multiproc_shm::wait::deadline::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::travel;
use super::wait_error::WaitError;
use crate::create_error::CreateError;

/// A flag that processes can wait for: Python's `multiprocessing.Event`.
///
/// All threads that wait when the event is set go on, even if it is cleared again at once, and
/// whatever other processes are killed meanwhile.
///
/// ```
/// use multiproc::Process;
/// use multiproc::sync::Event;
///
/// fn work(ready: Event, go: Event) -> multiproc::Result<()> {
///     ready.set();
///     Ok(go.wait()?)
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (ready, go) = (Event::new()?, Event::new()?);
/// let child = Process::new(work, (ready.clone(), go.clone())).start()?;
/// ready.wait()?; // an error if the child dies before
/// go.set();
/// child.join()??;
/// # Ok(())
/// # }
/// ```
///
/// # Implementation notes
/// A counter in a memfd. A waiter spins for some microseconds, sleeps on a futex for some
/// milliseconds, and then in poll(2), without a time limit.
#[derive(Clone)]
pub struct Event {
    pub(super) flag: shm::Event,
}

impl Event {
    /// Creates an event, which is not set.
    ///
    /// # Errors
    /// [`CreateError`](crate::CreateError): no descriptor or no memory is left.
    pub fn new() -> Result<Event, CreateError> {
        let flag = shm::Event::create().map_err(CreateError::of("event"))?;
        Ok(Event { flag })
    }

    /// Sets the event, and wakes all its waiters.
    pub fn set(&self) {
        self.flag.set();
    }

    /// Clears the event: later calls of [`wait`](Event::wait) block.
    pub fn clear(&self) {
        self.flag.clear();
    }

    /// Returns whether the event is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.flag.is_set()
    }

    /// Waits until the event is set; returns at once if it is.
    ///
    /// An event that has never had a second handle, here or in another process, can still be set by
    /// another thread through this handle. So the wait lasts as long as this process has other
    /// threads, even if none of them will set it: give each thread a clone of its own, and the wait
    /// ends when the last clone is dropped.
    ///
    /// # Errors
    /// [`WaitError::Disconnected`] when no process is left that could set it;
    /// [`WaitError::Io`].
    pub fn wait(&self) -> Result<(), WaitError> {
        self.wait_until(Deadline::Never).map(drop)
    }

    /// Waits as [`wait`](Event::wait) does, for at most `timeout`. Returns whether the event was
    /// set.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use multiproc::sync::Event;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let event = Event::new()?;
    /// assert!(!event.wait_timeout(Duration::from_millis(1))?);
    /// event.set();
    /// assert!(event.wait_timeout(Duration::from_millis(1))?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`wait`](Event::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, WaitError> {
        self.wait_until(Deadline::after(timeout))
    }

    fn wait_until(&self, deadline: Deadline) -> Result<bool, WaitError> {
        let waited = WaitError::of(self.flag.wait(deadline), "wait for an event", "set it")?;
        Ok(waited.is_some())
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("set", &self.is_set()).finish_non_exhaustive()
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        travel::serialize(self.flag.object(), serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
        travel::deserialize(deserializer).map(|object| Event { flag: shm::Event::from_object(object) })
    }
}
