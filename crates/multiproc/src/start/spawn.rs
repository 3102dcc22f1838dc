//! The method `Spawn`: the program is exec'd for each child.

use super::assignment::{self, Order, Started};
use super::handshake::Copy;
use super::kind;
use super::report::Report;
use crate::Result;

/// Starts the process that `order` describes.
pub(crate) fn start(order: &Order<'_>) -> Result<Started> {
    let name = order.name();
    let front = assignment::join(order.assignment);
    let copy = Copy::exec(name)?;
    copy.send(name, kind::START, &[&front, order.payload], &[])?;
    let answer = copy.answer(name)?;
    let early = match answer.kind {
        kind::STARTED => None,
        other => match Report::from_packet(answer) {
            Some(report) => Some(report),
            None => return Err(copy.useless(name, &format_args!("it answered with a message of kind {other}"))),
        },
    };
    let pid = copy.pid;
    let (socket, pidfd) = copy.release();
    Ok(Started { pid, pidfd: Some(pidfd), socket, early })
}
