//! [`Event`]: something has happened, and all who wait for it go on.
//!
//! A counter of changes: odd, the event is set. `PROTOCOL.md`, "Event".

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::travel;
use super::wait_error::WaitError;
use crate::error::{Error, Result};
use crate::shm::event_state::Flag;
use crate::shm::object::Object;

/// A flag that processes can wait for: Python's `multiprocessing.Event`.
///
/// All who wait when it is set go on, even if it is cleared again at once, and whoever else is killed meanwhile.
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
/// A counter in a memfd. Who waits tries for some microseconds, sleeps on a futex for some milliseconds, and then in poll(2), for as long as it takes.
#[derive(Clone)]
pub struct Event {
    pub(super) flag: Object<Flag>,
}

impl Event {
    /// A new event, which is not set.
    ///
    /// # Errors
    /// [`Error::Make`]: no descriptor or no memory is left.
    pub fn new() -> Result<Event> {
        let flag = Flag::create().map_err(|source| Error::Make { what: "event", source })?;
        Ok(Event { flag })
    }

    /// Sets it, and wakes all who wait for it.
    pub fn set(&self) {
        self.flag.set();
    }

    /// Clears it: from now on it is waited for.
    pub fn clear(&self) {
        self.flag.clear();
    }

    /// Whether it is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.flag.is_set()
    }

    /// Waits until it is set; not at all if it is.
    ///
    /// An event of which there has never been a second handle, here or in another process, may yet
    /// be set by another thread through this one. So it is waited for as long as this process has
    /// other threads, and then for ever if none of them sets it: give threads a clone each, and the
    /// wait ends when the last clone is dropped.
    ///
    /// # Errors
    /// [`WaitError::Disconnected`] when nobody is left who could set it; [`WaitError::System`].
    pub fn wait(&self) -> Result<(), WaitError> {
        self.wait_within(None).map(drop)
    }

    /// As [`wait`](Event::wait), for at most `timeout`. Whether it was set.
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
    /// As [`wait`](Event::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, WaitError> {
        self.wait_within(Some(timeout))
    }

    fn wait_within(&self, timeout: Option<Duration>) -> Result<bool, WaitError> {
        let waited = WaitError::of(self.flag.wait(timeout), "wait for an event", "set it")?;
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
        travel::serialize(&self.flag, serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
        travel::deserialize(deserializer).map(|flag| Event { flag })
    }
}
