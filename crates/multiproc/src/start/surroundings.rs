//! What a child shares with its creator at the moment of the start: environment, current directory, descriptors 0 to 2.
//!
//! An exec'd child inherits them. The server was exec'd earlier, so it is told: with each request what has changed since the last.

use std::io;
use std::os::fd::OwnedFd;

use multiproc_os::directory::{self, DirectoryId};
use multiproc_os::environment;
use multiproc_os::stdio::{self, Stdio};
use serde::{Deserialize, Serialize};

/// The surroundings at one moment, to be compared with those of another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    environment: Vec<u8>,
    /// The current directory; none if it can't be told.
    directory: Option<DirectoryId>,
    stdio: Option<Stdio>,
}

/// What has changed, for the other side. Its descriptors travel beside it, in the order of the fields.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Change {
    #[serde(with = "serde_bytes")]
    environment: Option<Vec<u8>>,
    directory: bool,
    /// Which of 0 to 2 are open.
    stdio: Option<[bool; 3]>,
}

impl Surroundings {
    /// Those of this process, now.
    pub(crate) fn current() -> Surroundings {
        Surroundings {
            environment: environment::snapshot(),
            directory: directory::current_id().ok(),
            stdio: Some(Stdio::current()),
        }
    }

    /// What somebody who knows `known` must be told, and the descriptors that go with it.
    pub(crate) fn change_since(&self, known: Option<&Surroundings>) -> io::Result<(Change, Vec<OwnedFd>)> {
        let mut change = Change::default();
        let mut fds = Vec::new();
        if known.is_none_or(|known| known.environment != self.environment) {
            change.environment = Some(self.environment.clone());
        }
        if self.directory.is_some() && known.is_none_or(|known| known.directory != self.directory) {
            fds.push(directory::open_current()?);
            change.directory = true;
        }
        if let Some(stdio) = &self.stdio
            && known.is_none_or(|known| known.stdio != self.stdio)
        {
            fds.extend(stdio.duplicates()?);
            change.stdio = Some(stdio.open());
        }
        Ok((change, fds))
    }
}

impl Change {
    /// Makes the change in this process. `fds` are those that came with it; what is left over stays in the iterator.
    ///
    /// # Safety
    /// No other thread may run.
    pub(crate) unsafe fn apply(self, fds: &mut impl Iterator<Item = OwnedFd>) -> io::Result<()> {
        let mut next =
            || fds.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a descriptor is missing"));
        if let Some(environment) = self.environment {
            // SAFETY: the caller vouches that nobody else is looking.
            unsafe { environment::replace(environment)? };
        }
        if self.directory {
            directory::change(next()?)?;
        }
        if let Some(open) = self.stdio {
            let mut streams = [None, None, None];
            for (stream, _) in streams.iter_mut().zip(open).filter(|(_, open)| *open) {
                *stream = Some(next()?);
            }
            stdio::replace(streams)?;
        }
        Ok(())
    }
}
