//! The handshake between a parent and the copy of its program that it has executed: it verifies
//! that both are the same build, and tells the copy what it must become.
//!
//! See `PROTOCOL.md` for the messages, and for what each side sees when the other dies.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use multiproc_os::credentials::{Capabilities, Ids};
use multiproc_os::errno::ESRCH;
use multiproc_os::interrupt::{self, Registered};
use multiproc_os::signal::SIGKILL;
use multiproc_os::{exec, fd_passing, pidfd, poll, threads};
use multiproc_shm::message::packet::{self, Packet, PacketError};
use multiproc_shm::message::payload::Payload;

use super::error::{HandshakeError, HandshakeErrorKind, StartError};
use super::host;
use crate::runtime::at_exit::MAX_START_TIME;
use crate::spec::kind;
use crate::spec::report::Report;
use crate::spec::status::ExitStatus;
use crate::spec::target;
use crate::transfer::codec;

/// The environment variable that makes a copy of the program a child or a server; its value is the
/// number of the copy's socket.
pub(crate) const VARIABLE: &str = "MULTIPROC_ENTRY";

/// How long a parent waits for an answer from a live process. No start takes this long on a machine
/// that makes any progress; without a limit, a parent would wait for a stopped process forever.
pub(crate) const ANSWER_TIMEOUT: Duration = MAX_START_TIME;

/// A copy of the program that has been executed and has been sent `HELLO`. It is killed and reaped
/// when this is dropped.
#[derive(Debug)]
pub(crate) struct ExecutedProcess {
    pub(crate) pid: i32,
    /// Its entry in the list of processes that a Ctrl-C ends. Declared before the pidfd, so that
    /// the entry is dropped first.
    registered: Registered,
    /// Its socket and its pidfd; none once they have been released.
    ends: Option<(OwnedFd, OwnedFd)>,
    /// The pid of its parent. In a copy of the parent, made by fork(2) elsewhere, it is not a
    /// child.
    parent: i32,
}

impl ExecutedProcess {
    /// Executes the program again, for the start of the process `name`.
    pub(crate) fn exec(name: &str) -> Result<ExecutedProcess, StartError> {
        interrupt::hold();
        let fail = |what: &'static str| StartError::io(name, what);
        let (socket, theirs) = fd_passing::pair().map_err(fail("a socket pair could not be made"))?;
        let pid = exec::program(host::program(), VARIABLE, theirs.as_fd())
            .map_err(fail("the program could not be executed again"))?;
        drop(theirs);
        // The copy waits for HELLO, so its pidfd can be opened, unless it was killed and another
        // part of the program reaped it.
        let pidfd = pidfd::open_child(pid).inspect_err(|_| pidfd::kill_unopened_child(pid));
        let Some(pidfd) = pidfd.map_err(fail("its pidfd could not be opened"))? else {
            return Err(fail("it has already ended and been reaped")(io::Error::from_raw_os_error(ESRCH)));
        };
        let registered = Registered::new(&pidfd);
        let copy = ExecutedProcess { pid, registered, ends: Some((socket, pidfd)), parent: threads::getpid() };
        copy.send(name, kind::HELLO, &[&hello()], &[])?;
        Ok(copy)
    }

    fn ends(&self) -> &(OwnedFd, OwnedFd) {
        self.ends.as_ref().expect("there until it is dropped or released")
    }

    /// Returns the parent's end of its socket.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.ends().0
    }

    /// Readable once it has ended.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.ends().1
    }

    /// Returns its socket and its pidfd; from now on the caller is responsible for its end.
    pub(crate) fn release(mut self) -> (OwnedFd, OwnedFd) {
        self.registered.withdraw();
        self.ends.take().expect("there until it is dropped or released")
    }

    /// Whether it is a child of this process.
    pub(crate) fn is_ours(&self) -> bool {
        self.parent == threads::getpid()
    }

    /// Sends it a message.
    pub(crate) fn send(&self, name: &str, kind: u8, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> Result<(), StartError> {
        self.send_with(name, kind, parts, fds, &Payload::default())
    }

    /// Sends it a message with a payload.
    pub(crate) fn send_with(
        &self,
        name: &str,
        kind: u8,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        payload: &Payload,
    ) -> Result<(), StartError> {
        packet::send_with(self.socket(), kind, parts, fds, payload).map_err(|source| match is_gone(&source) {
            // A message that it has sent before says more.
            true => match self.answer(name) {
                Err(error) => error,
                Ok(_) => self.fail(name, HandshakeErrorKind::Disconnected),
            },
            false => StartError::io(name, "its launch message could not be sent")(source),
        })
    }

    /// Waits for its answer.
    pub(crate) fn answer(&self, name: &str) -> Result<Packet, StartError> {
        self.wait(name, [self.socket(), self.pidfd()])?;
        self.take_answer(name, self.socket())
    }

    /// Waits for its answer on `socket`, its own socket as a child, or on the handshake's socket if
    /// it fails before that.
    pub(crate) fn answer_on(&self, name: &str, socket: &OwnedFd) -> Result<Packet, StartError> {
        let [answered, handshake, _] = self.wait(name, [socket, self.socket(), self.pidfd()])?;
        if !answered && handshake {
            match packet::receive(self.socket(), false) {
                // It has received its launch message, and has closed the handshake's socket.
                Err(PacketError::Closed) => drop(self.wait(name, [socket, self.pidfd()])?),
                Ok(packet) if packet.kind == kind::REFUSED => return Err(refused(name, &packet)),
                Ok(packet) => return Err(self.fail(name, HandshakeErrorKind::unexpected(packet.kind))),
                Err(error) => return Err(self.fail(name, HandshakeErrorKind::Corrupt(error.to_string()))),
            }
        }
        self.take_answer(name, socket)
    }

    /// Waits until a descriptor is ready, for at most [`ANSWER_TIMEOUT`].
    fn wait<const N: usize>(&self, name: &str, fds: [&dyn AsFd; N]) -> Result<[bool; N], StartError> {
        let deadline = Instant::now().checked_add(ANSWER_TIMEOUT);
        let ready = poll::wait_any(fds, deadline).map_err(StartError::io(name, "waiting for its answer failed"))?;
        if ready == [false; N] {
            return Err(self.fail(name, HandshakeErrorKind::Timeout(ANSWER_TIMEOUT)));
        }
        Ok(ready)
    }

    fn take_answer(&self, name: &str, socket: &OwnedFd) -> Result<Packet, StartError> {
        match packet::receive(socket, false) {
            Ok(packet) if packet.kind == kind::REFUSED => Err(refused(name, &packet)),
            Ok(packet) => Ok(packet),
            Err(PacketError::Empty | PacketError::Closed) => Err(self.fail(name, HandshakeErrorKind::Disconnected)),
            Err(error) => Err(self.fail(name, HandshakeErrorKind::Corrupt(error.to_string()))),
        }
    }

    /// Returns the reason that the copy sent for ending after its answer, if it sent one.
    pub(crate) fn refusal_reason(&self) -> Option<String> {
        let packet = packet::receive(self.socket(), false).ok().filter(|packet| packet.kind == kind::REFUSED)?;
        Some(String::from_utf8_lossy(packet.front()).into_owned())
    }

    /// Ends a copy that can't be used, and returns the error for it.
    pub(crate) fn fail(&self, name: &str, kind: HandshakeErrorKind) -> StartError {
        // If it ends by itself, its status says more than that of a kill. It gets a moment between
        // the close of its socket and its end.
        let moment = Instant::now().checked_add(Duration::from_millis(100));
        let _ = poll::wait_readable(self.pidfd(), moment);
        let status = self.end();
        StartError::Handshake { process: name.into(), source: HandshakeError::ended(kind, self.pid, status) }
    }

    /// Kills it, whatever it does, and reaps it.
    pub(crate) fn end(&self) -> ExitStatus {
        let (socket, pidfd) = self.ends();
        // A server that has more rights than this process has now can't be killed, but leaves by
        // itself.
        let _ = fd_passing::hang_up(socket);
        let _ = pidfd::send_signal(pidfd, SIGKILL);
        let reaped = match poll::wait_readable(pidfd, Instant::now().checked_add(ANSWER_TIMEOUT)) {
            Ok(true) => pidfd::reap_ended(pidfd),
            _ => pidfd::reap(pidfd),
        };
        match reaped {
            Ok(Some((end, usage))) => ExitStatus::new(end, Some(usage)),
            _ => pidfd::end_of_reaped(pidfd, Duration::from_millis(100))
                .map_or(ExitStatus::unknown(), |end| ExitStatus::new(end, None)),
        }
    }
}

impl Drop for ExecutedProcess {
    fn drop(&mut self) {
        if self.ends.is_some() && self.is_ours() {
            self.end();
        }
    }
}

/// The error with the text that the other side has sent.
fn refused(name: &str, packet: &Packet) -> StartError {
    let reason = String::from_utf8_lossy(packet.front()).into_owned();
    StartError::handshake(name, HandshakeErrorKind::Refused(reason))
}

/// Whether this is the error of sending to a process that is gone.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// The start acknowledgement of a child that sends its own. Empty if the child died first: then it
/// counts as started, and its status says the rest.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Its pidfd, if that was requested.
    pub(crate) pidfd: Option<OwnedFd>,
    /// Its report, if that came instead of an acknowledgement.
    pub(crate) early: Option<Report>,
    /// Whether it isn't permitted to apply the settings that it was sent. It ends then.
    pub(crate) not_permitted: bool,
}

impl Answer {
    /// Decodes a message; `unexpected` makes the error for a message of another kind.
    pub(crate) fn of(
        name: &str,
        mut packet: Packet,
        unexpected: impl FnOnce(u8) -> StartError,
    ) -> Result<Answer, StartError> {
        match packet.kind {
            kind::STARTED => Ok(Answer { pidfd: packet.fds.pop(), ..Answer::default() }),
            kind::NOT_PERMITTED => Ok(Answer { not_permitted: true, ..Answer::default() }),
            kind::NOT_STARTED => Err(not_started(name, &packet)),
            kind::REFUSED => Err(refused(name, &packet)),
            other => match Report::from_packet(packet) {
                Some(report) => Ok(Answer { early: Some(report), ..Answer::default() }),
                None => Err(unexpected(other)),
            },
        }
    }
}

/// Waits for the acknowledgement of a child that exists.
pub(crate) fn answer_of_child(name: &str, socket: &OwnedFd) -> Result<Answer, StartError> {
    let handshake = |kind| StartError::handshake(name, kind);
    let deadline = Instant::now().checked_add(ANSWER_TIMEOUT);
    poll::wait_readable(socket, deadline).map_err(StartError::io(name, "waiting for its answer failed"))?;
    match packet::receive(socket, false) {
        Ok(packet) => Answer::of(name, packet, |kind| handshake(HandshakeErrorKind::unexpected(kind))),
        Err(PacketError::Closed) => Ok(Answer::default()),
        Err(PacketError::Empty) => Err(handshake(HandshakeErrorKind::Timeout(ANSWER_TIMEOUT))),
        Err(error) => Err(handshake(HandshakeErrorKind::Corrupt(error.to_string()))),
    }
}

/// The error for a start that failed on the other side: what failed, and the errno.
fn not_started(name: &str, packet: &Packet) -> StartError {
    match codec::unpack::<(String, i32)>(packet.front()) {
        Ok((reason, 0)) => StartError::handshake(name, HandshakeErrorKind::Refused(reason)),
        Ok((what, errno)) => StartError::io(name, what)(io::Error::from_raw_os_error(errno)),
        Err(error) => StartError::handshake(name, HandshakeErrorKind::Corrupt(error.to_string())),
    }
}

/// The role of an executed copy.
#[derive(Debug)]
pub(crate) enum Role {
    Server { slots: OwnedFd },
    Child { launch: Packet },
}

/// Why an executed copy can't be used.
#[derive(Debug)]
pub(crate) enum AcceptError {
    /// The parent was gone, or gave up, before it sent the copy's role. There is no process to
    /// report to.
    Disconnected,
    /// A reason for the parent to report, in full sentences.
    Refused(String),
}

impl From<String> for AcceptError {
    fn from(reason: String) -> AcceptError {
        AcceptError::Refused(reason)
    }
}

impl From<&str> for AcceptError {
    fn from(reason: &str) -> AcceptError {
        AcceptError::Refused(reason.to_owned())
    }
}

/// The body of `HELLO`: user and group ids, capabilities, the build id.
pub(crate) fn hello() -> Vec<u8> {
    let (ids, capabilities) = (Ids::current().to_bytes(), Capabilities::current().to_bytes());
    [&ids[..], &capabilities, &target::image().build_id].concat()
}

/// Decodes the body of `HELLO`; none if it is too short.
fn split_hello(front: &[u8]) -> Option<(Ids, Capabilities, &[u8])> {
    let (ids, rest) = front.split_first_chunk()?;
    let (capabilities, build_id) = rest.split_first_chunk()?;
    Some((Ids::from_bytes(ids), Capabilities::from_bytes(capabilities), build_id))
}

/// The copy's side: receives `HELLO` and the message that follows it.
pub(crate) fn accept(socket: BorrowedFd<'_>) -> Result<Role, AcceptError> {
    let receive = || match packet::receive(socket, true) {
        Err(PacketError::Closed) => Err(AcceptError::Disconnected),
        result => result.map_err(|error| format!("the handshake failed: {error}").into()),
    };
    let hello = receive()?;
    if hello.kind != kind::HELLO {
        return Err(format!("the handshake began with a message of kind {}", hello.kind).into());
    }
    match split_hello(hello.front()) {
        // An exec restores ids that a set-user-id program has given up, and capabilities that root
        // has given up. Its children must not have them, nor must a process that pretends to be the
        // parent.
        Some((ids, capabilities, build_id)) if *build_id == *target::image().build_id => {
            ids.assume_for(socket).map_err(|error| {
                format!("the new process has other user and group ids, and can't give them up: {error}")
            })?;
            capabilities
                .reduce_to()
                .map_err(|error| format!("the new process can't give up its capabilities: {error}"))?;
        }
        _ => return Err("the executed program is another build than the running one".into()),
    }
    let mut role = receive()?;
    match role.kind {
        kind::SERVE => match role.fds.pop() {
            Some(slots) => Ok(Role::Server { slots }),
            None => Err("the handshake lacks a descriptor".into()),
        },
        kind::START => Ok(Role::Child { launch: role }),
        other => Err(format!("the handshake went on with a message of kind {other}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::run_child;
    use super::*;

    fn talk(messages: &[(u8, &[u8])]) -> AcceptError {
        let (ours, theirs) = fd_passing::pair().unwrap();
        for (kind, body) in messages {
            packet::send(&ours, *kind, &[body], &[]).unwrap();
        }
        drop(ours);
        accept(theirs.as_fd()).unwrap_err()
    }

    impl AcceptError {
        fn contains(&self, text: &str) -> bool {
            matches!(self, AcceptError::Refused(reason) if reason.contains(text))
        }
    }

    #[test]
    fn wrong_build() {
        for other in [&b""[..], b"something else", &hello()[..Ids::BYTES], &[&hello()[..], b"x"].concat()] {
            assert!(talk(&[(kind::HELLO, other), (kind::START, b"")]).contains("another build"));
        }
    }

    #[test]
    fn out_of_order() {
        assert!(talk(&[(kind::START, b"")]).contains("kind 5"));
        assert!(talk(&[(kind::HELLO, &hello()), (kind::HELLO, &hello())]).contains("kind 1"));
        assert!(talk(&[(kind::HELLO, &hello()), (kind::SERVE, b"")]).contains("descriptor"));
    }

    #[test]
    fn reason_survives_unread_messages() {
        let (ours, theirs) = fd_passing::pair().unwrap();
        for _ in 0..3 {
            packet::send(&ours, kind::START, &[b"unread"], &[]).unwrap();
        }
        run_child::send_refusal(&theirs, "not today");
        drop(theirs);
        for wait in [false, true] {
            let (ours, theirs) = fd_passing::pair().unwrap();
            packet::send(&ours, kind::START, &[b"unread"], &[]).unwrap();
            run_child::send_refusal(&theirs, "nor tomorrow");
            drop(theirs);
            assert_eq!(packet::receive(&ours, wait).unwrap().front(), b"nor tomorrow");
            // A process that another test has made at this moment may still have `theirs`.
            assert!(multiproc_os::poll::wait_readable(&ours, None).unwrap());
            assert!(matches!(packet::receive(&ours, wait), Err(PacketError::Closed)));
        }
        assert_eq!(packet::receive(&ours, false).unwrap().front(), b"not today");
        assert!(multiproc_os::poll::wait_readable(&ours, None).unwrap());
        assert!(matches!(packet::receive(&ours, false), Err(PacketError::Closed)));
    }

    #[test]
    fn parent_disconnects() {
        assert!(matches!(talk(&[]), AcceptError::Disconnected));
        assert!(matches!(talk(&[(kind::HELLO, &hello())]), AcceptError::Disconnected));
    }

    #[test]
    fn unexpected() {
        let (ours, theirs) = fd_passing::pair().unwrap();
        fd_passing::send(&ours, &[b"GET / HTTP/1.1\r\n\r\n"], &[]).unwrap();
        assert!(accept(theirs.as_fd()).unwrap_err().contains("not a message of multiproc"));
    }
}
