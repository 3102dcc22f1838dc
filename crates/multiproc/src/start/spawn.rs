//! The method `Spawn`: the program is executed for each child.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multiproc_os::{fd_passing, lifeline, threads};
use multiproc_shm::message::packet::Packet;
use serde::{Deserialize, Serialize};

use super::error::{HandshakeErrorKind, StartError};
use super::forkserver;
use super::handshake::{Answer, ExecutedProcess};
use super::run_child::{self, StartAck};
use crate::spec::child_spec::{self, Launch, Started};
use crate::spec::kind;
use crate::spec::stdio::Streams;

/// The part of a launch message before the child spec.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// Which of descriptors 0 to 2 come with the message, in place of those that the child has
    /// inherited.
    replaced: [bool; 3],
    /// Whether the child is made by its parent's main thread. See `multiproc_os::lifeline`.
    by_main_thread: bool,
}

/// Starts the process that `launch` describes.
pub(crate) fn start(launch: &Launch<'_>) -> Result<Started, StartError> {
    let name = launch.name();
    let head = Head { replaced: launch.streams.present(), by_main_thread: threads::is_main() };
    let head = child_spec::join(&head);
    let front = child_spec::join(launch.spec);
    // The child gets a socket of its own as its lifeline. Nothing may ever be sent on that, so the
    // launch message goes through the handshake's socket.
    let (ours, theirs) = fd_passing::pair().map_err(StartError::io(name, "a socket pair could not be made"))?;
    let fds: Vec<BorrowedFd<'_>> =
        std::iter::once(theirs.as_fd()).chain(launch.streams.fds()).chain(launch.fds.iter().copied()).collect();
    let copy = ExecutedProcess::exec(name)?;
    if !launch.spec.outlives_parent && lifeline::may_change_user_unseen() {
        forkserver::guard(name, Some(copy.pid));
    }
    copy.send_with(name, kind::START, &[&head, &front], &fds, launch.payload)?;
    drop(fds);
    drop(theirs);
    let early =
        Answer::of(name, copy.answer_on(name, &ours)?, |kind| copy.fail(name, HandshakeErrorKind::unexpected(kind)))?
            .early;
    let pid = copy.pid;
    let (_, pidfd) = copy.release();
    Ok(Started { pid, pidfd: Some(pidfd), socket: ours, early })
}

/// The child's side: decodes the launch message, then runs the child up to its exit.
pub(crate) fn begin(mut packet: Packet, handshake: OwnedFd) -> ! {
    let mut fds = std::mem::take(&mut packet.fds).into_iter();
    let Some(socket) = fds.next() else { run_child::refuse(handshake, "the launch message has no socket") };
    drop(handshake);
    let payload = std::mem::take(&mut packet.payload);
    let split = child_spec::split::<Head>(packet.front());
    let (launch, streams) = match split.map(|(head, launch)| {
        lifeline::set_made_by_main_thread(head.by_main_thread);
        (launch, Streams::from_fds(head.replaced, &mut fds))
    }) {
        Ok((launch, Ok(streams))) => (launch, streams),
        Ok((_, Err(error))) => run_child::refuse(socket, &format!("the launch message is incomplete: {error}")),
        Err(error) => run_child::refuse(socket, &format!("the launch message can't be decoded: {error}")),
    };
    if let Err(error) = multiproc_os::stdio::replace_some(streams.0) {
        run_child::refuse(socket, &format!("the new process could not set up its stdio: {error}"));
    }
    run_child::begin(launch, payload, fds, socket, StartAck::Yes, None)
}
