//! The name of shared memory: publishing a region under a name, and opening one by it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use multiproc_os::shared_memory::SharedFile;

use super::names::{self, NameError, Offer, Published};
use crate::shm::region::{Access, FROZEN, Region};

/// The name by which memory is known.
pub(super) struct Name {
    text: String,
    /// In the process that has published the name: the name, as long as it exists.
    published: Mutex<Option<Published>>,
    offering: Option<Arc<Offering>>,
}

impl Name {
    /// A name that another process has published.
    pub(super) fn of_another_process(name: &str) -> Name {
        Name { text: name.into(), published: Mutex::new(None), offering: None }
    }

    /// Publishes the region under this name.
    pub(super) fn publish(name: &str, region: &Region) -> Result<Name, NameError> {
        let fail = |source| NameError::Io { name: name.into(), source };
        let (control, memory) = region.descriptors(Access::Write).map_err(fail)?;
        let memory = SharedFile::from_fd(memory.expect("shared memory has a file of its own")).map_err(fail)?;
        let offering = Arc::new(Offering { control, memory });
        let offer: Weak<Offering> = Arc::downgrade(&offering);
        let published = Mutex::new(Some(names::publish(name, offer)?));
        Ok(Name { text: name.into(), published, offering: Some(offering) })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Removes the name, in this process or in the one that has published it.
    pub(super) fn unlink(&self) -> Result<(), NameError> {
        if self.offering.is_none() {
            return names::withdraw(&self.text, Instant::now() + PATIENCE);
        }
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner).take();
        match published.is_some_and(|published| published.is_live()) {
            true => Ok(()),
            false => Err(NameError::NotFound { name: self.text.clone() }),
        }
    }
}

/// The descriptors that are handed to a process that opens the name.
struct Offering {
    control: OwnedFd,
    memory: SharedFile,
}

/// The kinds of access that a process can request.
const TO_WRITE: u8 = 0;
const TO_READ: u8 = 1;

impl Offer for Offering {
    fn offer(&self, wish: u8) -> io::Result<Vec<OwnedFd>> {
        let memory = match wish {
            TO_WRITE => self.memory.as_fd().try_clone_to_owned()?,
            TO_READ => self.memory.open_read_only()?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        Ok(vec![self.control.try_clone()?, memory])
    }
}

/// How long to wait for the owner of a name.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the region with this name, for this access.
pub(super) fn find(name: &str, access: Access) -> Result<Region, NameError> {
    let wish = match access {
        Access::Write => TO_WRITE,
        Access::ReadOnly => TO_READ,
    };
    let found = names::find(name, wish, Instant::now() + PATIENCE)?;
    let garbage = || NameError::OtherProtocol { name: name.into(), owner: found.owner };
    let mut fds = found.fds.into_iter();
    let (Some(control), Some(memory), None) = (fds.next(), fds.next(), fds.next()) else { return Err(garbage()) };
    match Region::open(control, Some(memory)) {
        Ok(region) if region.access() == access => Ok(region),
        Ok(_) => Err(garbage()),
        // The memory is frozen: its owner is about to remove the name.
        Err(error) if error.kind() == FROZEN => Err(NameError::NotFound { name: name.into() }),
        Err(source) => Err(NameError::Io { name: name.into(), source }),
    }
}
