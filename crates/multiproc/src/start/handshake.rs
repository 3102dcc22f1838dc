//! The first words between a parent and the copy of its program that it has exec'd: are you the same build, and what are you to be?
//!
//! See `PROTOCOL.md` for the messages and for what each side sees when the other dies.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use multiproc_os::{exec, fd_passing, pidfd};

use super::{kind, target};
use crate::process::status::ExitStatus;
use crate::transfer::packet::{self, Packet, PacketError};
use crate::{Error, Result};

/// The environment variable that makes a copy of the program a child or a server: the number of its socket.
pub(crate) const VARIABLE: &str = "MULTIPROC_ENTRY";

/// How long a parent waits for an answer from a process that is alive. No start takes this long on a machine that does anything at
/// all; without a limit, a stopped process would be waited for for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A copy of the program that has just been exec'd, and has been sent `HELLO`.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) socket: OwnedFd,
}

impl Copy {
    /// Execs the program once more, for the sake of the process `name`.
    pub(crate) fn exec(name: &str) -> Result<Copy> {
        let fail = |what| move |source| Error::Start { process: name.into(), what, source };
        let (socket, theirs) = fd_passing::pair().map_err(fail("no socket pair"))?;
        let variable = fd_number(theirs.as_fd());
        let pid = exec::this_program((VARIABLE, &variable), theirs.as_fd())
            .map_err(fail("the program could not be executed again"))?;
        drop(theirs);
        // It waits for HELLO, so it is there to be opened; unless somebody has killed it.
        let pidfd = pidfd::open(pid).inspect_err(|_| pidfd::kill_unopened_child(pid));
        let pidfd = pidfd.map_err(fail("its pidfd could not be opened"))?;
        let copy = Copy { pid, pidfd, socket };
        copy.send(name, kind::HELLO, &[&target::image().build_id], &[])?;
        Ok(copy)
    }

    /// Sends it a message.
    pub(crate) fn send(&self, name: &str, kind: u8, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<()> {
        packet::send(&self.socket, kind, parts, fds).map_err(|source| match source.kind() {
            // It has gone; what it said before that is more telling.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => match self.answer(name) {
                Err(error) => error,
                Ok(_) => self.lost(name, &"it closed its connection"),
            },
            _ => {
                self.end();
                Error::Start { process: name.into(), what: "its assignment could not be sent", source }
            }
        })
    }

    /// Waits for what it answers.
    pub(crate) fn answer(&self, name: &str) -> Result<Packet> {
        let deadline = Instant::now().checked_add(PATIENCE);
        let ready = pidfd::wait_any([&self.socket, &self.pidfd], deadline).map_err(|source| Error::Start {
            process: name.into(),
            what: "waiting for its answer failed",
            source,
        })?;
        if ready == [false, false] {
            return Err(self.lost(name, &format_args!("it did not answer within {} s", PATIENCE.as_secs())));
        }
        match packet::receive(&self.socket, false) {
            Ok(packet) if packet.kind == kind::REFUSED => {
                let reason = String::from_utf8_lossy(&packet.body).into_owned();
                self.bury();
                Err(Error::Handshake { process: name.into(), reason })
            }
            Ok(packet) => Ok(packet),
            Err(PacketError::Empty | PacketError::Closed) => Err(self.lost(name, &"it ended before it answered")),
            Err(error) => Err(self.lost(name, &error)),
        }
    }

    /// The error for a copy that is of no use, which is killed if it lives.
    pub(crate) fn lost(&self, name: &str, why: &dyn fmt::Display) -> Error {
        // What it did by itself tells more than what is done to it now: give it the moment between closing its socket and its end.
        let moment = Instant::now().checked_add(Duration::from_millis(100));
        let _ = pidfd::wait_any([&self.pidfd], moment);
        let _ = pidfd::send_signal(&self.pidfd, SIGKILL);
        let status = self.bury();
        let reason = format!(
            "the new process (pid {}) is not a child that multiproc can use: {why} ({status}). Its program must call \
             multiproc::init() first thing in main",
            self.pid
        );
        Error::Handshake { process: name.into(), reason }
    }

    /// Kills it, whatever it does, and reaps it.
    pub(crate) fn end(&self) {
        // A server that has more rights than this process has now can't be killed, but leaves by itself.
        let _ = fd_passing::hang_up(&self.socket);
        let _ = pidfd::send_signal(&self.pidfd, SIGKILL);
        self.bury();
    }

    /// Waits for its end, which must be near.
    fn bury(&self) -> ExitStatus {
        let deadline = Instant::now().checked_add(PATIENCE);
        let _ = pidfd::wait_any([&self.pidfd], deadline);
        match pidfd::reap(&self.pidfd) {
            Ok(Some((end, usage))) => ExitStatus::new(end, Some(usage)),
            _ => pidfd::end_of_reaped(&self.pidfd).map_or(ExitStatus::unknown(), |end| ExitStatus::new(end, None)),
        }
    }
}

const SIGKILL: i32 = crate::process::family::SIGKILL;

fn fd_number(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd().to_string()
}

/// What the exec'd copy is to be.
#[derive(Debug)]
pub(crate) enum Role {
    Server { slots: OwnedFd },
    Child { order: Packet },
}

/// The copy's side: takes `HELLO` and what comes after it. The error is for the parent to read, in whole sentences.
pub(crate) fn accept(socket: BorrowedFd<'_>) -> Result<Role, String> {
    let receive = || packet::receive(socket, true).map_err(|error| format!("the handshake failed: {error}"));
    let hello = receive()?;
    if hello.kind != kind::HELLO {
        return Err(format!("the handshake began with a message of kind {}", hello.kind));
    }
    if *hello.body != *target::image().build_id {
        return Err("the program that was executed is another build than the one that runs".into());
    }
    let mut role = receive()?;
    match role.kind {
        kind::SERVE => match role.fds.pop() {
            Some(slots) => Ok(Role::Server { slots }),
            None => Err("the handshake lacks a descriptor".into()),
        },
        kind::START => Ok(Role::Child { order: role }),
        other => Err(format!("the handshake went on with a message of kind {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(messages: &[(u8, &[u8])]) -> String {
        let (ours, theirs) = fd_passing::pair().unwrap();
        for (kind, body) in messages {
            packet::send(&ours, *kind, &[body], &[]).unwrap();
        }
        drop(ours);
        accept(theirs.as_fd()).unwrap_err()
    }

    #[test]
    fn another_build_is_refused() {
        assert!(talk(&[(kind::HELLO, b"something else"), (kind::START, b"")]).contains("another build"));
    }

    #[test]
    fn a_handshake_out_of_order_is_refused() {
        let build_id = &target::image().build_id;
        assert!(talk(&[(kind::START, b"")]).contains("kind 5"));
        assert!(talk(&[(kind::HELLO, build_id), (kind::HELLO, build_id)]).contains("kind 1"));
        assert!(talk(&[(kind::HELLO, build_id), (kind::SERVE, b"")]).contains("descriptor"));
    }

    #[test]
    fn a_parent_that_goes_away_is_noticed() {
        assert!(talk(&[]).contains("closed"));
        assert!(talk(&[(kind::HELLO, &target::image().build_id)]).contains("closed"));
    }

    #[test]
    fn garbage_is_refused() {
        let (ours, theirs) = fd_passing::pair().unwrap();
        fd_passing::send(&ours, &[b"GET / HTTP/1.1\r\n\r\n"], &[]).unwrap();
        assert!(accept(theirs.as_fd()).unwrap_err().contains("not a message of multiproc"));
    }
}
