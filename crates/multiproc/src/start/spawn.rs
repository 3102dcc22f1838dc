//! The method `Spawn`: the program is exec'd for each child.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::assignment::{self, Order, Started};
use super::entry::{self, Announce};
use super::handshake::{self, Copy};
use super::kind;
use super::report::Report;
use crate::Result;
use crate::process::stdio::Streams;
use crate::transfer::packet::Packet;

/// Which of descriptors 0 to 2 come with the order, in place of those that the child has by exec.
type Replaced = [bool; 3];

/// Starts the process that `order` describes.
pub(crate) fn start(order: &Order<'_>) -> Result<Started> {
    let name = order.name();
    let head = assignment::join::<Replaced>(&order.streams.present());
    let front = assignment::join(order.assignment);
    let fds: Vec<BorrowedFd<'_>> = order.streams.fds().chain(order.fds.iter().copied()).collect();
    let copy = Copy::exec(name)?;
    copy.send_with(name, kind::START, &[&head, &front], &fds, order.payload)?;
    let answer = copy.answer(name)?;
    let early = match answer.kind {
        kind::STARTED => None,
        kind::NOT_STARTED => return Err(handshake::not_started(name, &answer)),
        other => match Report::from_packet(answer) {
            Some(report) => Some(report),
            None => return Err(copy.useless(name, &format_args!("it answered with a message of kind {other}"))),
        },
    };
    let pid = copy.pid;
    let (socket, pidfd) = copy.release();
    Ok(Started { pid, pidfd: Some(pidfd), socket, early })
}

/// The child's side: what the order says, up to the exit.
pub(crate) fn begin(mut packet: Packet, socket: OwnedFd) -> ! {
    let mut fds = std::mem::take(&mut packet.fds).into_iter();
    let payload = std::mem::take(&mut packet.payload);
    let split = assignment::split::<Replaced>(packet.front());
    let (order, streams) = match split.map(|(replaced, order)| (order, Streams::from_fds(replaced, &mut fds))) {
        Ok((order, Ok(streams))) => (order, streams),
        Ok((_, Err(error))) => entry::refuse(socket, &format!("the assignment is incomplete: {error}")),
        Err(error) => entry::refuse(socket, &format!("the assignment is garbage: {error}")),
    };
    if let Err(error) = multiproc_os::stdio::replace_some(streams.0) {
        entry::refuse(socket, &format!("the new process could not set up its stdio: {error}"));
    }
    entry::begin(order, payload, fds, socket, Announce::Yes)
}
