//! Messages between processes of one machine. A direction is a pair of `SOCK_SEQPACKET` sockets, of
//! which one only sends and the other only receives. See unix(7).
//!
//! A message is one record, which is there as a whole or not at all. So any number of threads and
//! processes may send and receive on the same socket, and a process that is killed loses at most
//! the message that it was taking. Waiting uses poll(2), which wakes all waiters: a blocking
//! receive in the kernel wakes only one, and if that one is killed before it has taken the message,
//! the others would sleep on although there is a message.
//!
//! A message with descriptors, which includes every message of more than [`INLINE`] bytes, is
//! refused with `ETOOMANYREFS` when too many descriptors of the user are in flight already. No
//! event reports that this has changed, so the sender tries again at intervals.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use multiproc_shm::message::fd_bundle::FdBundle;
use multiproc_shm::message::packet::{self, INLINE, PacketError};
use multiproc_shm::message::payload::{Payload, Sink};
use multiproc_shm::message::shared::{self, Body};
use multiproc_shm::wait::deadline::Deadline;

use super::error::{RecvErrorKind, SendErrorKind};
use super::socket_deadline::SocketDeadline;

/// How often a sender checks whether fewer descriptors are in flight.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Sends `bytes` as one message.
pub(crate) fn send_bytes(socket: &OwnedFd, kind: u8, bytes: &[u8], deadline: Deadline) -> Result<(), SendErrorKind> {
    if bytes.len() <= INLINE {
        return send_with(socket, deadline, || packet::try_send_body(socket, kind, bytes));
    }
    let mut sink = Sink::new();
    let bytes = sink.extend(bytes).and_then(|()| sink.finish()).map_err(SendErrorKind::Io)?;
    send(socket, kind, &Payload { bytes, handles: FdBundle::default() }, deadline)
}

/// Sends a payload as one message.
pub(crate) fn send(socket: &OwnedFd, kind: u8, payload: &Payload, deadline: Deadline) -> Result<(), SendErrorKind> {
    send_with(socket, deadline, || shared::try_send(socket, kind, payload))
}

fn send_with(
    socket: &OwnedFd,
    deadline: Deadline,
    mut try_send: impl FnMut() -> io::Result<()>,
) -> Result<(), SendErrorKind> {
    loop {
        let error = match try_send() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::WouldBlock => match deadline.wait_writable(socket) {
                Ok(true) => {}
                Ok(false) => return Err(deadline.too_late_to_send()),
                Err(error) => return Err(SendErrorKind::Io(error)),
            },
            _ if is_in_flight_limit(&error) => wait_for_in_flight(socket, deadline)?,
            // `ECONNRESET` if the other end was closed with unread messages.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => return Err(SendErrorKind::Disconnected),
            _ => return Err(SendErrorKind::Io(error)),
        }
    }
}

/// Whether too many descriptors are in flight between processes: all of the user's, from any
/// sender.
pub(crate) fn is_in_flight_limit(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::QuotaExceeded && error.raw_os_error().is_none()
}

/// Waits before another try, after an error for which [`is_in_flight_limit`] is true.
pub(crate) fn wait_for_in_flight(socket: &OwnedFd, deadline: Deadline) -> Result<(), SendErrorKind> {
    if deadline.has_passed() {
        return Err(deadline.too_late_to_send());
    }
    let next_check = Instant::now() + CHECK_INTERVAL;
    let until = deadline.instant().map_or(next_check, |deadline| deadline.min(next_check));
    match multiproc_os::poll::wait_hung_up(socket, Some(until)) {
        // The kernel checks the number of descriptors before it checks whether there is a receiver,
        // so a send would not tell that the other end is gone.
        Ok(true) => Err(SendErrorKind::Disconnected),
        Ok(false) => Ok(()),
        Err(error) => Err(SendErrorKind::Io(error)),
    }
}

/// Receives the next message, of at most `limit` bytes, and passes its kind, its bytes and its
/// handles to `consume`.
pub(crate) fn recv<R>(
    socket: &OwnedFd,
    limit: u64,
    deadline: Deadline,
    consume: impl FnOnce(u8, Body<'_>, FdBundle) -> Result<R, RecvErrorKind>,
) -> Result<R, RecvErrorKind> {
    let mut consume = Some(consume);
    loop {
        let taken = shared::try_take(socket, |kind, body, handles| {
            let len = body.len() as u64;
            if len > limit {
                return Err(RecvErrorKind::TooLong { len, limit });
            }
            consume.take().expect("one message is taken")(kind, body, handles)
        });
        match taken {
            Ok(result) => return result,
            Err(PacketError::Empty) => match deadline.wait_readable(socket) {
                Ok(true) => {}
                Ok(false) => return Err(deadline.too_late_to_receive()),
                Err(error) => return Err(RecvErrorKind::Io(error)),
            },
            Err(PacketError::Closed) => return Err(RecvErrorKind::Disconnected),
            Err(PacketError::Lost) => return Err(RecvErrorKind::Lost),
            Err(PacketError::Io(error)) => return Err(RecvErrorKind::Io(error)),
            Err(error @ (PacketError::Corrupt(_) | PacketError::Version(_))) => {
                return Err(RecvErrorKind::Corrupt(error.to_string()));
            }
        }
    }
}

/// Whether there is a message, or no sender is left, before the time is up.
pub(crate) fn poll(socket: impl AsFd, deadline: Deadline) -> io::Result<bool> {
    multiproc_os::poll::wait_readable(socket, deadline.instant())
}
