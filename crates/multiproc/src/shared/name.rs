//! The name of shared memory: publishing a region under a name, and opening one by it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use multiproc_os::shared_memory::SharedFile;
use multiproc_shm::memory::region::{Access, FROZEN, Region};

use super::names::{self, NameError, Offer, Published};

/// The name by which memory is known.
pub(super) struct Name {
    text: String,
    /// In the process that has published the name: the name, as long as it exists.
    published: Mutex<Option<Published>>,
    memory: Option<Arc<NamedMemory>>,
}

impl Name {
    /// A name that another process has published.
    pub(super) fn of_another_process(name: &str) -> Name {
        Name { text: name.into(), published: Mutex::new(None), memory: None }
    }

    /// Publishes the region under this name.
    pub(super) fn publish(name: &str, region: &Region) -> Result<Name, NameError> {
        let fail = |source| NameError::Io { name: name.into(), source };
        let (control, memory) = region.descriptors(Access::Write).map_err(fail)?;
        let memory = SharedFile::from_fd(memory.expect("shared memory has a file of its own")).map_err(fail)?;
        let memory = Arc::new(NamedMemory { control, memory });
        let offer: Weak<NamedMemory> = Arc::downgrade(&memory);
        let published = Mutex::new(Some(names::publish(name, offer)?));
        Ok(Name { text: name.into(), published, memory: Some(memory) })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Removes the name from this process, or from the process that published it.
    pub(super) fn unlink(&self) -> Result<(), NameError> {
        if self.memory.is_none() {
            return names::withdraw(&self.text, Instant::now() + OWNER_TIMEOUT);
        }
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner).take();
        match published.is_some_and(|published| published.is_live()) {
            true => Ok(()),
            false => Err(NameError::NotFound { name: self.text.clone() }),
        }
    }
}

/// The descriptors that are handed to a process that opens the name.
struct NamedMemory {
    control: OwnedFd,
    memory: SharedFile,
}

/// The kinds of access that a process can request.
const WRITE: u8 = 0;
const READ: u8 = 1;

impl Offer for NamedMemory {
    fn offer(&self, access: u8) -> io::Result<Vec<OwnedFd>> {
        let memory = match access {
            WRITE => self.memory.as_fd().try_clone_to_owned()?,
            READ => self.memory.open_read_only()?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        Ok(vec![self.control.try_clone()?, memory])
    }
}

/// How long to wait for the owner of a name.
const OWNER_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the region with this name, for this access.
pub(super) fn find(name: &str, access: Access) -> Result<Region, NameError> {
    let requested = match access {
        Access::Write => WRITE,
        Access::ReadOnly => READ,
    };
    let found = names::find(name, requested, Instant::now() + OWNER_TIMEOUT)?;
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
