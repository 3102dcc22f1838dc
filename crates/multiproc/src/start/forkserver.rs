//! The method `ForkServer`: a clean copy of the program makes each child by copying itself.
//!
//! The upper half is the parent's side, the lower half the server's. `PROTOCOL.md` has the messages, and what each side sees when the
//! other dies.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use multiproc_os::clone::{self, Side, ThreadState};
use multiproc_os::credentials::Credentials;
use multiproc_os::pid_slots::{PidSlots, SLOTS};
use multiproc_os::{fd_passing, pidfd, signal, threads};
use serde::{Deserialize, Serialize};

use super::assignment::{self, Order, Started};
use super::handshake::{Copy, PATIENCE};
use super::report::Report;
use super::surroundings::{Change, Surroundings};
use super::{entry, kind, target};
use crate::transfer::codec;
use crate::transfer::packet::{self, PacketError};
use crate::{Error, Result};

/// What comes before the assignment in a request to the server.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// Where the kernel writes the child's pid.
    slot: u16,
    /// Whether the child's pidfd is to come with the answer.
    want_pidfd: bool,
    change: Change,
}

/// A server that runs, as far as its parent knows.
struct Server {
    process: Arc<ServerProcess>,
    /// Slots that no start in flight uses.
    free: Vec<u16>,
    /// What the server has been told last; none if nothing yet.
    known: Option<Surroundings>,
    /// Who its parent was when it started the server. Children of one that has dropped its privileges must not have them.
    credentials: Credentials,
}

/// The part of a server that starts in flight share.
struct ServerProcess {
    copy: Copy,
    slots: PidSlots,
    /// Whose server it is. A copy of that process, made by fork(2) elsewhere, would get siblings for children.
    parent: i32,
}

/// The last who had to do with a server, be it alive or dead, reaps it.
impl Drop for ServerProcess {
    fn drop(&mut self) {
        if self.parent == threads::getpid() {
            self.copy.end();
        }
    }
}

static SERVER: Mutex<Option<Server>> = Mutex::new(None);

/// How often a start is tried again after the server has died under it.
const ATTEMPTS: u32 = 3;

/// Starts the process that `order` describes.
pub(crate) fn start(order: &Order<'_>) -> Result<Started> {
    let mut attempt = 1;
    loop {
        match try_start(order)? {
            Some(started) => return Ok(started),
            None if attempt == ATTEMPTS => {
                let reason = format!("its server died {ATTEMPTS} times in a row");
                return Err(Error::Handshake { process: order.name().into(), reason });
            }
            None => attempt += 1,
        }
    }
}

/// Ends this process's server, if it has one: nobody will need it any more. (It would end by itself; but then somebody else has to
/// reap it, and not every first process of a container does.)
pub(crate) fn end() {
    let server = SERVER.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(server);
}

/// One attempt; none if the server died before it made the process.
fn try_start(order: &Order<'_>) -> Result<Option<Started>> {
    let name = order.name();
    let fail = |what| move |source| Error::Start { process: name.into(), what, source };
    let front = assignment::join(order.assignment);
    let (ours, theirs) = fd_passing::pair().map_err(fail("no socket pair"))?;

    let (process, slot) = {
        let mut current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|server| !server.is_mine()) {
            *current = None;
        }
        let server = match &mut *current {
            Some(server) => server,
            none => none.insert(Server::launch(name)?),
        };
        let Some(slot) = server.free.pop() else {
            let source = io::Error::from(io::ErrorKind::QuotaExceeded);
            return Err(fail("more starts at once than the server has room for")(source));
        };
        match server.request(slot, &front, order.payload, theirs.as_fd()) {
            Ok(()) => (server.process.clone(), slot),
            Err(source) if matches!(source.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                *current = None;
                return Ok(None);
            }
            Err(source) => {
                server.free.push(slot);
                return Err(fail("the request to its server could not be sent")(source));
            }
        }
    };
    drop(theirs);

    let outcome = process.await_child(name, ours, slot);
    if outcome.is_err() {
        // Should it have been made all the same, it is of no use to anybody.
        pidfd::kill_unopened_child(process.slots.get(slot.into()).expect("a slot in range").load(SeqCst));
    }
    let mut current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = current.as_mut().filter(|server| Arc::ptr_eq(&server.process, &process)) {
        match &outcome {
            // A dead server, or one that doesn't answer: the next start brings another.
            Ok(None) | Err(Error::Handshake { .. }) => *current = None,
            Ok(Some(_)) => server.free.push(slot),
            Err(_) => {
                server.free.push(slot);
                // It may have made some of its surroundings like ours, and failed at the rest.
                server.known = None;
            }
        }
    }
    outcome
}

impl Server {
    /// Execs a server, for the sake of the process `name`.
    fn launch(name: &str) -> Result<Server> {
        let (slots, fd) = PidSlots::create().map_err(|source| Error::Start {
            process: name.into(),
            what: "no memory for its server",
            source,
        })?;
        let credentials = Credentials::current();
        let copy = Copy::exec(name)?;
        copy.send(name, kind::SERVE, &[], &[fd.as_fd()])?;
        match copy.answer(name)?.kind {
            kind::READY => {}
            other => {
                return Err(copy.lost(name, &format_args!("it answered with a message of kind {other}")));
            }
        }
        Ok(Server {
            process: Arc::new(ServerProcess { copy, slots, parent: threads::getpid() }),
            free: (0..SLOTS as u16).rev().collect(),
            known: None,
            credentials,
        })
    }

    fn is_mine(&self) -> bool {
        self.process.parent == threads::getpid() && self.credentials == Credentials::current()
    }

    /// Asks for a child.
    fn request(&mut self, slot: u16, front: &[u8], payload: &[u8], socket: BorrowedFd<'_>) -> io::Result<()> {
        let now = Surroundings::current();
        let (change, extra) = now.change_since(self.known.as_ref())?;
        let request = Request { slot, want_pidfd: signal::children_are_reaped_by_the_kernel(), change };
        let head = assignment::join(&request);
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(socket).chain(extra.iter().map(AsFd::as_fd)).collect();
        self.process.slots.get(slot.into()).expect("a slot in range").store(0, SeqCst);
        packet::send(&self.process.copy.socket, kind::START, &[&head, front, payload], &fds)?;
        self.known = Some(now);
        Ok(())
    }
}

impl ServerProcess {
    /// Waits for the answer to a request on the child's socket. None if the server died before it made the child.
    fn await_child(&self, name: &str, socket: OwnedFd, slot: u16) -> Result<Option<Started>> {
        let fail = |what| move |source| Error::Start { process: name.into(), what, source };
        let deadline = Instant::now().checked_add(PATIENCE);
        let mut early = None;
        loop {
            let [_, server_died] = pidfd::wait_any([&socket, &self.copy.pidfd], deadline)
                .map_err(fail("waiting for its server failed"))?;
            // After a dead server's last message there is no other, so what is there is looked at first.
            match packet::receive(&socket, false) {
                Ok(mut packet) if packet.kind == kind::STARTED => {
                    let pid: i32 = codec::decode(&packet.body).map_err(|error| self.garbage(name, &error))?;
                    return started(name, pid, packet.fds.pop(), socket, early).map(Some);
                }
                Ok(packet) if packet.kind == kind::NOT_STARTED => {
                    let (what, errno) =
                        codec::decode::<(String, i32)>(&packet.body).map_err(|error| self.garbage(name, &error))?;
                    return Err(match errno {
                        0 => Error::Handshake { process: name.into(), reason: what },
                        errno => fail("its server could not make it")(io::Error::from_raw_os_error(errno)),
                    });
                }
                Ok(packet) => {
                    let kind = packet.kind;
                    early = Some(Report::from_packet(packet).ok_or_else(|| {
                        self.garbage(name, &format_args!("a message of kind {kind} in place of an answer"))
                    })?);
                }
                Err(PacketError::Empty | PacketError::Closed) if server_died => {
                    // The kernel writes the pid inside the call that makes the child.
                    return match self.slots.get(slot.into()).expect("a slot in range").load(SeqCst) {
                        0 => Ok(None),
                        pid => started(name, pid, None, socket, early).map(Some),
                    };
                }
                Err(PacketError::Empty) => {
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Err(self.copy.lost(name, &"it did not make the child in time"));
                    }
                }
                // Server and child have closed it: both are gone, or nearly so. The server's end tells.
                Err(PacketError::Closed) => {
                    pidfd::wait_any([&self.copy.pidfd], deadline).map_err(fail("waiting for its server failed"))?;
                }
                Err(PacketError::Io(source)) => {
                    return Err(fail("its server's answer could not be read")(source));
                }
                Err(error) => return Err(self.garbage(name, &error)),
            }
        }
    }

    fn garbage(&self, name: &str, what: &dyn std::fmt::Display) -> Error {
        self.copy.lost(name, &format_args!("it said something else: {what}"))
    }
}

/// The process `pid`, a child of ours that was made a moment ago.
fn started(name: &str, pid: i32, pidfd: Option<OwnedFd>, socket: OwnedFd, early: Option<Report>) -> Result<Started> {
    let pidfd = match pidfd {
        Some(pidfd) => Some(pidfd),
        None => match pidfd::open(pid) {
            // If somebody else in this program has reaped it meanwhile, its id may be another's by now.
            Ok(pidfd) => Some(pidfd).filter(|pidfd| pidfd::is_child(pidfd)),
            Err(error) if error.raw_os_error() == Some(ESRCH) => None,
            Err(source) => {
                return Err(Error::Start { process: name.into(), what: "its pidfd could not be opened", source });
            }
        },
    };
    Ok(Started { pid, pidfd, socket, early })
}

const ESRCH: i32 = 3;

/// The server's life: makes children until its parent is gone. Never returns in the server; in a child it returns never either, because
/// the child runs its target and exits.
pub(crate) fn serve(control: OwnedFd, slots: PidSlots) -> ! {
    threads::set_name("multiproc-serve");
    let thread = ThreadState::of_this_thread();
    // What every child needs, and finds in its copy.
    let _ = (entry::memory_ranges(), target::image());
    loop {
        let packet = match packet::receive(&control, true) {
            Ok(packet) if packet.kind == kind::START => packet,
            Err(PacketError::Closed) => std::process::exit(0),
            Ok(packet) => entry::refuse(control.as_fd(), &format!("the server got a message of kind {}", packet.kind)),
            // The request's descriptors did not fit. Its sender sees its socket closed, and this server's end.
            Err(error) => entry::refuse(control.as_fd(), &format!("the server could not take a request: {error}")),
        };
        let mut fds = packet.fds.into_iter();
        let Some(socket) = fds.next() else { entry::refuse(control.as_fd(), "a request without a socket") };
        let answer = (|| {
            let (request, rest) = assignment::split::<Request>(&packet.body).map_err(|what| (what, 0))?;
            let slot = slots.get(request.slot.into()).ok_or(("there is no such slot".to_string(), 0))?;
            // SAFETY: this process has one thread: `entry` has counted, and none is made here.
            unsafe { request.change.apply(&mut fds) }
                .map_err(|error| ("its surroundings".to_string(), error.raw_os_error().unwrap_or(0)))?;
            // SAFETY: as above, and `thread` is the state of this one.
            match unsafe { clone::clone_sibling(&thread, slot, request.want_pidfd) } {
                Ok(Side::Copy) => Ok((None, rest)),
                Ok(Side::Original(pid, pidfd)) => Ok((Some((pid, pidfd)), rest)),
                Err(error) => Err(("clone".to_string(), error.raw_os_error().unwrap_or(0))),
            }
        })();
        let sent = match answer {
            Ok((None, rest)) => {
                drop(control);
                entry::begin(rest, socket, false)
            }
            Ok((Some((pid, pidfd)), _)) => {
                let fds: Vec<BorrowedFd<'_>> = pidfd.iter().map(AsFd::as_fd).collect();
                let body = codec::pack(&pid);
                packet::send(&socket, kind::STARTED, &[&body], &fds)
            }
            Err(failure) => {
                let body = codec::pack(&failure);
                packet::send(&socket, kind::NOT_STARTED, &[&body], &[])
            }
        };
        // A start that nobody waits for any more is no concern of the server's.
        drop(sent);
    }
}
