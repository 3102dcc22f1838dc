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
            None => {
                return Err(copy.lost(name, &format_args!("it answered with a message of kind {other}")));
            }
        },
    };
    Ok(Started { pid: copy.pid, pidfd: Some(copy.pidfd), socket: copy.socket, early })
}
