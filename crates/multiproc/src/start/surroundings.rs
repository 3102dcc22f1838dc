//! What a child shares with its creator at the moment of the start: environment, current directory, descriptors 0 to 2.
//!
//! An exec'd child inherits them. To a child of the server they are handed: the environment by way of the server, which is told when it has
//! changed, the rest by descriptors that come with each request. The server itself keeps none of them: a pipe that is somebody's stdout must
//! end when its users have ended, and a directory must not be held.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multiproc_os::{directory, environment, stdio};
use serde::{Deserialize, Serialize};

use crate::process::stdio::Streams;

/// What a request says of the surroundings. Descriptors come beside it: the directory, then those of 0 to 2 that are open.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Surroundings {
    /// The environment, if it is another than the last time.
    #[serde(with = "serde_bytes")]
    environment: Option<Vec<u8>>,
    /// Which of 0 to 2 are open.
    streams: [bool; 3],
}

/// What of the surroundings goes beside the request, or is kept.
pub(crate) struct Outgoing<'a> {
    /// The environment as it is now.
    pub(crate) environment: Vec<u8>,
    directory: OwnedFd,
    streams: [Option<BorrowedFd<'a>>; 3],
}

impl Outgoing<'_> {
    /// What goes beside the request.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.directory.as_fd()).chain(self.streams.into_iter().flatten())
    }
}

/// The surroundings of this process, now, but for the descriptors that are given, for somebody who knows of the environment what it was when
/// it was `known`.
pub(crate) fn current<'a>(known: Option<&[u8]>, given: &'a Streams) -> io::Result<(Surroundings, Outgoing<'a>)> {
    let environment = environment::snapshot();
    let mut streams: [Option<BorrowedFd<'a>>; 3] = stdio::streams();
    for (stream, given) in streams.iter_mut().zip(&given.0).filter(|(_, given)| given.is_some()) {
        *stream = given.as_ref().map(AsFd::as_fd);
    }
    let surroundings = Surroundings {
        environment: (known != Some(&environment)).then(|| environment.clone()),
        streams: streams.map(|stream| stream.is_some()),
    };
    Ok((surroundings, Outgoing { environment, directory: directory::open_current()?, streams }))
}

/// The part of the surroundings that the server does not keep.
#[derive(Debug)]
pub(crate) struct Handed {
    directory: OwnedFd,
    streams: Streams,
}

impl Surroundings {
    /// In the server: takes on the environment, and sorts the descriptors that came with the request.
    ///
    /// # Safety
    /// No other thread may run, and nobody may hold a pointer into the environment.
    pub(crate) unsafe fn receive(self, mut fds: impl Iterator<Item = OwnedFd>) -> io::Result<Handed> {
        if let Some(environment) = self.environment {
            // SAFETY: as the caller says.
            unsafe { environment::replace(environment)? };
        }
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "a descriptor is missing");
        let directory = fds.next().ok_or_else(missing)?;
        Ok(Handed { directory, streams: Streams::from_fds(self.streams, &mut fds)? })
    }
}

impl Handed {
    /// In the server, before it copies itself: goes to the directory, where the copy will be.
    pub(crate) fn enter(&self) -> io::Result<()> {
        directory::change(&self.directory)
    }

    /// In the child: takes on the rest.
    pub(crate) fn take_on(self) -> io::Result<()> {
        stdio::replace(self.streams.0)
    }
}

/// In the server, afterwards.
pub(crate) fn leave() -> io::Result<()> {
    std::env::set_current_dir("/")
}

/// In the server: lets go of the surroundings that it was exec'd in.
pub(crate) fn let_go() -> io::Result<()> {
    stdio::replace([None, None, None])?;
    leave()
}
