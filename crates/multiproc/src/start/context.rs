//! The context that a child gets from its parent at the moment of the start: environment, current
//! directory, descriptors 0 to 2. (Settings such as umask and priorities come with the message
//! `GO_AHEAD`; see `confinement.rs`.)
//!
//! An exec'd child inherits its context. A child of the server gets the environment through the
//! server, which is told when it has changed, and the rest as descriptors that come with each
//! request. The server keeps no descriptors: a pipe that is a child's stdout must hang up when its
//! users have ended, and the server must not keep a directory in use.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multiproc_os::{directory, environment, stdio};
use serde::{Deserialize, Serialize};

use crate::spec::stdio::Streams;

/// The context as a request describes it. The descriptors travel with the request: the directory if
/// it has changed, then those of 0 to 2 that are open.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Context {
    /// The environment, if it differs from the last one sent.
    #[serde(with = "serde_bytes")]
    environment: Option<Vec<u8>>,
    /// Whether the directory's descriptor comes with the request.
    directory: bool,
    /// Which of descriptors 0 to 2 are open and come with the request.
    streams: [bool; 3],
}

/// What the other side has been told already.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The environment.
    environment: Option<Vec<u8>>,
    /// The directory that the other side is in.
    directory: Option<directory::Id>,
}

/// The parts of a context that are sent as descriptors beside the request, or remembered after
/// sending.
pub(crate) struct Outgoing<'a> {
    /// The environment, if it has changed.
    environment: Option<Vec<u8>>,
    directory: Option<OwnedFd>,
    streams: [Option<BorrowedFd<'a>>; 3],
}

impl Outgoing<'_> {
    /// Returns the descriptors that go beside the request.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.directory.iter().map(AsFd::as_fd).chain(self.streams.into_iter().flatten())
    }
}

impl Known {
    /// Records what the server has been told; the server remembers only the environment. Returns
    /// what the child that it makes knows.
    pub(crate) fn learn(&mut self, told: Outgoing<'_>) -> Known {
        if let Some(environment) = told.environment {
            self.environment = Some(environment);
        }
        Known { environment: self.environment.clone(), directory: told.directory.and_then(directory::id_of) }
    }
}

/// Collects the current context for a receiver that already has `known`. The directory is left out
/// if it is `here` and the receiver is in it. The streams that are set in `given` replace this
/// process's own; without `given`, descriptors 0 to 2 are left out, since a process must not hold
/// streams that it doesn't use.
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

/// Collects the context as [`current`] does and passes it to `send`, which sends it beside a
/// request.
pub(crate) fn send<'a>(
    known: &Known,
    here: Option<directory::Id>,
    given: Option<&'a Streams>,
    mut send: impl FnMut(Context, &Outgoing<'a>) -> io::Result<()>,
) -> io::Result<Outgoing<'a>> {
    stdio::retry_if_closed(|| {
        let (context, outgoing) = current(known, here, given)?;
        send(context, &outgoing).map(|()| outgoing)
    })
}

/// The parts of the context that the server does not keep.
#[derive(Debug)]
pub(crate) struct Handed {
    directory: Option<OwnedFd>,
    streams: Streams,
}

impl Context {
    /// Whether the child changes to another directory.
    pub(crate) fn moves(&self) -> bool {
        self.directory
    }

    /// In the server, or in a standby child: sets the environment of the process, and sorts the
    /// descriptors that came with the request.
    ///
    /// # Safety
    /// No other thread may run, and no pointer into the environment may be in use.
    pub(crate) unsafe fn receive(self, mut fds: impl Iterator<Item = OwnedFd>) -> io::Result<Handed> {
        if let Some(environment) = self.environment {
            // SAFETY: guaranteed by the caller.
            unsafe { environment::replace(environment)? };
        }
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "a descriptor is missing");
        let directory = if self.directory { Some(fds.next().ok_or_else(missing)?) } else { None };
        Ok(Handed { directory, streams: Streams::from_fds(self.streams, &mut fds)? })
    }
}

impl Handed {
    /// Changes to the directory: in the server before it copies itself, so that the copy starts
    /// there, or in a standby child.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.directory.as_ref().map_or(Ok(()), directory::change)
    }

    /// In the child: installs descriptors 0 to 2.
    pub(crate) fn take_on(self) -> io::Result<()> {
        stdio::replace(self.streams.0)
    }
}

/// In the server, after copying itself: changes back to `/`.
pub(crate) fn leave() -> io::Result<()> {
    std::env::set_current_dir("/")
}

/// In the server: closes descriptors 0 to 2 (they become `/dev/null`) and leaves the directory that
/// it was executed in.
pub(crate) fn let_go() -> io::Result<()> {
    stdio::replace([None, None, None])?;
    leave()
}
