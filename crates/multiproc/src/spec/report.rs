//! A child's report: the target's value, or why there is none. It is the last message on the
//! child's socket; see `start/PROTOCOL.md`.

use std::io;
use std::os::fd::AsFd;

use multiproc_os::pidfd::End;
use multiproc_shm::message::packet::{self, Packet, PacketError};
use multiproc_shm::message::payload::Payload;
use serde::{Deserialize, Serialize};

use crate::spec::status::{ExitStatus, JoinErrorKind, Panic};
use crate::transfer::codec;

use super::kind;

/// The exit code of a process that could not set itself up: `EX_SOFTWARE` of sysexits.h.
pub(crate) const EXIT_SETUP_FAILED: i32 = 70;

/// The last message of a child.
#[derive(Debug)]
pub(crate) enum Report {
    /// The target returned: its encoded value, and whether the value is the `Err` of a `Result`.
    Returned { value: Payload, failed: bool },
    /// There is no value.
    Failed(Failure),
    /// The message can't be decoded.
    Corrupt(String),
}

/// Why there is no value, in a form that can always be sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Failure {
    Panicked(Panic),
    Arguments(String),
    Encode(String),
    MemoryLimit { limit: u64 },
    Setup(String),
}

impl From<Failure> for JoinErrorKind {
    fn from(failure: Failure) -> JoinErrorKind {
        match failure {
            Failure::Panicked(panic) => JoinErrorKind::Panicked(panic),
            Failure::Arguments(reason) => JoinErrorKind::Arguments(reason),
            Failure::Encode(reason) => JoinErrorKind::Encode(reason),
            Failure::MemoryLimit { limit } => JoinErrorKind::MemoryLimit { limit },
            Failure::Setup(reason) => JoinErrorKind::Setup(reason),
        }
    }
}

impl Report {
    /// The code that the child exits with after this report.
    pub(crate) fn exit_code(&self) -> i32 {
        match self {
            Report::Returned { failed: false, .. } => 0,
            Report::Failed(Failure::Setup(_)) => EXIT_SETUP_FAILED,
            _ => 1,
        }
    }

    /// The status that the child has after this report, if nothing happens to it while it exits.
    /// None if the report doesn't say: at the limit of its memory a child dies of one signal or
    /// another.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        match self {
            Report::Failed(Failure::MemoryLimit { .. }) | Report::Corrupt(_) => None,
            _ => Some(ExitStatus::new(End::Exited(self.exit_code()), None)),
        }
    }

    /// Sends the report. If the value can't be sent, sends that failure instead. Returns the report
    /// that was sent.
    pub(crate) fn send(self, socket: impl AsFd) -> Report {
        let sent = match &self {
            Report::Returned { value, failed } => {
                let kind = if *failed { kind::RETURNED_ERR } else { kind::RETURNED };
                packet::send_with(&socket, kind, &[], &[], value)
            }
            Report::Failed(failure) => send_failure(&socket, failure),
            Report::Corrupt(_) => Ok(()),
        };
        match sent {
            Ok(()) => self,
            // The parent is gone, or has closed its end with a message of this process unread.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected | io::ErrorKind::ConnectionReset
                ) =>
            {
                self
            }
            Err(error) => {
                let failure = Failure::Encode(error.to_string());
                let _ = send_failure(&socket, &failure);
                Report::Failed(failure)
            }
        }
    }

    /// Decodes the report in this packet; none if the packet is not a report.
    pub(crate) fn from_packet(packet: Packet) -> Option<Report> {
        match packet.kind {
            kind::RETURNED | kind::RETURNED_ERR => {
                Some(Report::Returned { value: packet.payload, failed: packet.kind == kind::RETURNED_ERR })
            }
            kind::FAILED => Some(match codec::unpack(packet.front()) {
                Ok(failure) => Report::Failed(failure),
                Err(error) => Report::Corrupt(error.to_string()),
            }),
            // The refusal or failure of a start without an answer that the parent waits for.
            kind::REFUSED => Some(Report::Failed(Failure::Setup(String::from_utf8_lossy(packet.front()).into()))),
            kind::NOT_STARTED => Some(match codec::unpack::<(String, i32)>(packet.front()) {
                Ok((what, errno)) => {
                    let reason = format!("{what}: {}", io::Error::from_raw_os_error(errno));
                    Report::Failed(Failure::Setup(reason))
                }
                Err(error) => Report::Corrupt(error.to_string()),
            }),
            _ => None,
        }
    }
}

fn send_failure(socket: impl AsFd, failure: &Failure) -> io::Result<()> {
    packet::send(socket, kind::FAILED, &[&codec::pack(failure)], &[])
}

/// Receives the report of a child that has ended; none if it left without one. An error if there is
/// a report that can't be received now.
pub(crate) fn receive_report(socket: impl AsFd) -> io::Result<Option<Report>> {
    loop {
        match packet::receive(&socket, false) {
            Ok(packet) => {
                // Messages before the report concern the start.
                if let Some(report) = Report::from_packet(packet) {
                    return Ok(Some(report));
                }
            }
            Err(PacketError::Empty | PacketError::Closed) => return Ok(None),
            Err(PacketError::Io(error)) => return Err(error),
            Err(error) => return Ok(Some(Report::Corrupt(error.to_string()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_gone_with_unread_messages() {
        let (ours, theirs) = multiproc_os::fd_passing::pair().unwrap();
        packet::send(&ours, kind::STARTED, &[], &[]).unwrap();
        drop(theirs);
        let report = Report::Returned { value: codec::encode(&[], &7).unwrap(), failed: false };
        assert!(matches!(report.send(&ours), Report::Returned { failed: false, .. }));
    }
    #[test]
    fn implied_status() {
        let of = |failure| Report::Failed(failure).status().map(|status| status.exit_code());
        assert_eq!(of(Failure::Arguments("garbage".into())), Some(Some(1)));
        assert_eq!(of(Failure::Setup("no such directory".into())), Some(Some(EXIT_SETUP_FAILED)));
        // It dies of one signal or another.
        assert_eq!(of(Failure::MemoryLimit { limit: 1 << 20 }), None);
        assert_eq!(Report::Corrupt("1 byte".into()).status().map(|status| status.exit_code()), None);
    }
}
