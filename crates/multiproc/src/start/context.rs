//! What a child shares with its creator at the moment of the start: environment, current directory,
//! descriptors 0 to 2. (Its settings, as umask and priorities, come with the go-ahead:
//! `confinement.rs`.)
//!
//! An exec'd child inherits them. To a child of the server they are handed: the environment by way of the server, which is told when it has
//! changed, the rest by descriptors that come with each request. The server itself keeps none of them: a pipe that is somebody's stdout must
//! end when its users have ended, and a directory must not be held.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multiproc_os::{directory, environment, stdio};
use serde::{Deserialize, Serialize};

use crate::process::stdio::Streams;

/// What a request says of the surroundings. Descriptors come beside it: the directory if it is another, then those of 0 to 2 that are open.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Context {
    /// The environment, if it is another than the last time.
    #[serde(with = "serde_bytes")]
    environment: Option<Vec<u8>>,
    /// Whether the directory comes too.
    directory: bool,
    /// Which of 0 to 2 are open.
    streams: [bool; 3],
}

/// What the other side has been told already.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The environment.
    environment: Option<Vec<u8>>,
    /// Which directory it is in.
    directory: Option<directory::Id>,
}

/// What of the surroundings goes beside the request, or is kept.
pub(crate) struct Outgoing<'a> {
    /// The environment, if it is another.
    environment: Option<Vec<u8>>,
    directory: Option<OwnedFd>,
    streams: [Option<BorrowedFd<'a>>; 3],
}

impl Outgoing<'_> {
    /// What goes beside the request.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.directory.iter().map(AsFd::as_fd).chain(self.streams.into_iter().flatten())
    }
}

impl Known {
    /// The server has been told this; of it, it remembers the environment. Gives what the child that it makes knows.
    pub(crate) fn learn(&mut self, told: Outgoing<'_>) -> Known {
        if let Some(environment) = told.environment {
            self.environment = Some(environment);
        }
        Known { environment: self.environment.clone(), directory: told.directory.and_then(directory::id_of) }
    }
}

/// The surroundings of this process, now, but for the descriptors that are given, for somebody who knows this much. The directory goes along
/// unless it is `here`, and known. Without `given`, descriptors 0 to 2 are left out: nobody is to hold them who doesn't use them.
pub(crate) fn current<'a>(
    known: &Known,
    here: Option<directory::Id>,
    given: Option<&'a Streams>,
) -> io::Result<(Context, Outgoing<'a>)> {
    let environment = environment::snapshot_unless(known.environment.as_deref());
    let mut streams: [Option<BorrowedFd<'a>>; 3] = [None; 3];
    if let Some(given) = given {
        streams = stdio::streams();
        for (stream, given) in streams.iter_mut().zip(&given.0).filter(|(_, given)| given.is_some()) {
            *stream = given.as_ref().map(AsFd::as_fd);
        }
    }
    let same = here.is_some() && here == known.directory;
    let directory = if same { None } else { Some(directory::open_current()?) };
    let context = Context {
        environment: environment.clone(),
        directory: directory.is_some(),
        streams: streams.map(|stream| stream.is_some()),
    };
    Ok((context, Outgoing { environment, directory, streams }))
}

/// Sends the surroundings of this process beside a request, with `send`, as [`current`] collects
/// them.
///
pub(crate) fn send<'a>(
    known: &Known,
    here: Option<directory::Id>,
    given: Option<&'a Streams>,
    mut send: impl FnMut(Context, &Outgoing<'a>) -> io::Result<()>,
) -> io::Result<Outgoing<'a>> {
    stdio::again_if_closed(|| {
        let (context, outgoing) = current(known, here, given)?;
        send(context, &outgoing).map(|()| outgoing)
    })
}

/// The part of the surroundings that the server does not keep.
#[derive(Debug)]
pub(crate) struct Handed {
    directory: Option<OwnedFd>,
    streams: Streams,
}

impl Context {
    /// Whether there is another directory to go to.
    pub(crate) fn moves(&self) -> bool {
        self.directory
    }

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
        let directory = if self.directory { Some(fds.next().ok_or_else(missing)?) } else { None };
        Ok(Handed { directory, streams: Streams::from_fds(self.streams, &mut fds)? })
    }
}

impl Handed {
    /// In the server, before it copies itself: goes to the directory, where the copy will be.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.directory.as_ref().map_or(Ok(()), directory::change)
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
