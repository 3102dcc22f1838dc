//! The method `ForkServer`: a clean copy of the program makes each child by copying itself.
//!
//! The first half of this file is the parent's side, the second half the server's. `PROTOCOL.md`
//! describes the messages, and what each side sees when the other dies.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use multiproc_os::clone::{self, Side, ThreadState};
use multiproc_os::pid_slots::{PidSlots, SLOTS};
use multiproc_os::{directory, environment, fd_passing, lifeline, namespace, pidfd, poll, threads};
use multiproc_shm::message::packet::{self, PacketError};
use multiproc_shm::message::payload::Payload;
use serde::{Deserialize, Serialize};

use super::confinement::{CallerRights, RightsMatch, ServerRights};
use super::context::{self, Context, SentContext};
use super::entry::WarmUp;
use super::error::{HandshakeErrorKind, StartError};
use super::guard::{self, OrphanGuard};
use super::handshake::{self, ANSWER_TIMEOUT, Answer, ExecutedProcess};
use super::host;
use super::run_child::{self, StartAck};
use super::standby::Standby;
use super::{spawn, standby};
use crate::runtime::{at_exit, children};
use crate::spec::child_spec::{self, Launch, Started};
use crate::spec::kind;
use crate::spec::report::Report;
use crate::spec::target;
use crate::transfer::codec;

/// The part of a request to the server before the child spec.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The slot to which the kernel writes the child's pid.
    slot: u16,
    /// What the child itself acknowledges. If nothing, the server sends `STARTED`.
    ack: StartAck,
    /// Whether the server must end the child if it outlives its parent. See `guard`.
    guarded: bool,
    context: Context,
}

impl Request {
    /// A request to a standby, which exists already.
    pub(crate) fn to_standby(ack: StartAck, context: Context) -> Request {
        Request { slot: 0, ack, guarded: false, context }
    }
}

/// A running server, as far as its parent knows.
struct Server {
    process: Arc<ServerProcess>,
    /// Slots that no start in flight uses.
    free: Vec<u16>,
    /// The parts of the parent's context that it has.
    sent: SentContext,
    /// Whether it gets the pids of the children that must end with this process. See `guard`.
    guards: bool,
}

/// The part of a server that starts in flight share. When the last reference is dropped, the server
/// is killed and reaped.
pub(crate) struct ServerProcess {
    copy: ExecutedProcess,
    slots: PidSlots,
    /// The rights of the thread that executed the server. A thread that has given up some of them
    /// must not start children from it.
    server_rights: ServerRights,
}

static SERVER: Mutex<Option<Server>> = Mutex::new(None);

/// While this exists, no thread is in the middle of a request to the server.
pub(crate) struct Pause(#[allow(dead_code)] std::sync::MutexGuard<'static, Option<Server>>);

/// None if a thread is in the middle of a request for too long.
pub(crate) fn pause() -> Option<Pause> {
    standby::lock_briefly(&SERVER).map(Pause)
}

/// How long the keeper waits for a standby. Short, since the end of the process waits for the
/// keeper.
const STANDBY_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a start is tried if the server dies each time.
const ATTEMPTS: u32 = 3;

/// Starts the process that `launch` describes.
pub(crate) fn start(launch: &Launch<'_>) -> Result<Started, StartError> {
    let here = match directory::id() {
        // The server could not change to this directory; an exec'd copy inherits it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return spawn::start(launch),
        here => here.ok(),
    };
    let rights = CallerRights::default();
    let mut attempt = 1;
    let mut refusal_reason = None;
    loop {
        match try_start(launch, here, &mut refusal_reason, &rights)? {
            Some(started) => return Ok(started),
            None if attempt == ATTEMPTS => {
                let died = HandshakeErrorKind::ServerDied { attempts: ATTEMPTS };
                let kind = refusal_reason.map_or(died, HandshakeErrorKind::Refused);
                return Err(StartError::handshake(launch.name(), kind));
            }
            None => attempt += 1,
        }
    }
}

/// Ends this process's server, if it has one. (The server would also end by itself after this
/// process, but then another process must reap it, which not every init process of a container
/// does.)
pub(crate) fn end() {
    standby::dismiss();
    // The server may have rights that this process lacks: it ends the remaining children when this
    // process has ended.
    if children::has_given_up() {
        return;
    }
    let server = SERVER.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(server);
}

/// In a copy of this process that has just been forked: drops the server, which belongs to the
/// original.
pub(crate) fn forget() {
    let server = SERVER.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(server);
}

/// Makes the server end the process `pid` if that outlives this process. Without a `pid`, prepares
/// this for a process to come. Launches a server if there is none. If that fails, only the lifeline
/// is left.
pub(crate) fn guard(name: &str, pid: Option<i32>) {
    let mut current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..2 {
        // A server that was started before this process gave up rights can end children that have
        // kept them.
        if current.as_ref().is_none_or(|server| !server.process.copy.is_ours()) {
            *current = None;
            if namespace::children_are_elsewhere() {
                return;
            }
            *current = Server::launch(name, &CallerRights::default()).ok();
        }
        let (Some(server), Some(pid)) = (&*current, pid) else { return };
        match server.guard(pid) {
            Err(error) if handshake::is_gone(&error) => *current = None,
            _ => return,
        }
    }
}

/// Makes the server end the process `pid`, a child that the server has made, if that outlives this
/// process. Does nothing where the lifeline alone is sufficient.
pub(crate) fn guard_if_it_does(pid: i32) {
    let current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = current.as_ref().filter(|server| server.guards) {
        let _ = server.guard(pid);
    }
}

/// In a copy of this process that has just been forked: announces the copy to its parent's server.
pub(crate) fn guard_this_copy() {
    guard_if_it_does(threads::getpid());
}

/// Makes the server create a standby. None if there is no server, or if that fails for any reason.
pub(crate) fn make_standby() -> Option<Standby> {
    let (ours, theirs) = fd_passing::pair().ok()?;
    let (launch, its_order) = fd_passing::pair().ok()?;
    let (process, slot, sent) = {
        let mut current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        let server = current.as_mut().filter(|server| server.process.copy.is_ours())?;
        let slot = server.free.pop()?;
        match server.request(kind::STAND_BY, slot, StartAck::No, None, [theirs.as_fd(), its_order.as_fd()]) {
            Ok(sent) => (server.process.clone(), slot, sent),
            Err(_) => {
                server.free.push(slot);
                return None;
            }
        }
    };
    drop((theirs, its_order));
    let outcome = process.await_child("a standby process", ours, slot, STANDBY_TIMEOUT);
    process.finish_request(slot, &outcome);
    let started = outcome.ok().flatten().filter(|started| started.pidfd.is_some())?;
    Some(Standby { started, launch, server: Arc::downgrade(&process), sent })
}

/// Ends the fork server of [`StartMethod::ForkServer`](crate::StartMethod::ForkServer), if this
/// process has one, and reaps it, once the starts in flight in other threads are over. Children are
/// not affected, and the next start makes another server.
///
/// A program must call this when it has given up something that can't be compared with what the
/// server has; see [Confinement](crate::StartMethod#confinement).
///
/// Code that waits for *any* child of this process until there is none left (`waitpid(-1)`) must
/// also call it first: the server is a child like others, since the kernel can't hide an executed
/// child, and ends only when this process does, so such code would wait forever. A program that
/// uses other start methods also has a server where it may change its user in a container: the
/// server ends children that the kernel's own lifeline could lose there (see
/// [`Process::outlive_parent`](crate::Process::outlive_parent)).
///
/// ```
/// use multiproc::Process;
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let child = Process::new(|| 7, ()).start()?;
/// multiproc::process::end_fork_server();
/// // SAFETY: no status is asked for.
/// while unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 {}
/// // The value is there even if another part of the program has reaped it.
/// assert_eq!(child.join()?, 7);
/// # Ok(())
/// # }
/// ```
pub fn end_fork_server() {
    end();
}

/// Makes one attempt. None if the server died before it made the process, or made one that can't
/// have the calling thread's rights or settings. Then `refusal_reason` is the reason that the
/// server has sent, if any.
fn try_start(
    launch: &Launch<'_>,
    here: Option<directory::Id>,
    refusal_reason: &mut Option<String>,
    rights: &CallerRights,
) -> Result<Option<Started>, StartError> {
    let name = launch.name();
    let fail = |what: &'static str| StartError::io(name, what);

    let standby = {
        let mut current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|server| !server.process.copy.is_ours()) {
            *current = None;
        }
        if let Some(server) = &*current
            && server.process.server_rights.may_differ_unseen()
            && server.process.compare(rights) == RightsMatch::Unknown
        {
            // An exec'd process has this thread's rights.
            return spawn::start(launch).map(Some);
        }
        // Drops a server that is known to have other rights, if this is not the first attempt.
        current.take_if(|server| rights.is_known() && server.process.compare(rights) == RightsMatch::Different);
        current.as_ref().and_then(|server| standby::take(&Arc::downgrade(&server.process)))
    };
    if let Some(standby) = standby
        && let Some(started) = standby.begin(launch, here, rights)?
    {
        standby::started(false);
        return Ok(Some(started));
    }

    let (ours, theirs) = fd_passing::pair().map_err(fail("a socket pair could not be made"))?;
    let (go, its_go) = fd_passing::pair().map_err(fail("a socket pair could not be made"))?;
    let ack;
    let (process, slot) = {
        let mut current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        // As above: the failed standby has shown it, or another thread has launched this server.
        current.take_if(|server| rights.is_known() && server.process.compare(rights) == RightsMatch::Different);
        let server = match &mut *current {
            Some(server) => server,
            // A server there would be the first process of that namespace, which can't make
            // siblings, or would report pids of that namespace.
            None if namespace::children_are_elsewhere() => {
                drop(current);
                return spawn::start(launch).map(Some);
            }
            none => none.insert(Server::launch(name, rights)?),
        };
        let Some(slot) = server.free.pop() else {
            let source = io::Error::from(io::ErrorKind::QuotaExceeded);
            return Err(fail("too many starts are in flight")(source));
        };
        // The child acknowledges what can fail in it.
        ack = match launch.spec.options.is_empty() {
            true => StartAck::No,
            false => StartAck::WithPidfd,
        };
        match server.request(kind::START, slot, ack, Some(launch), [theirs.as_fd(), its_go.as_fd()]) {
            Ok(_) => (server.process.clone(), slot),
            Err(source) if handshake::is_gone(&source) => {
                *refusal_reason = server.process.copy.refusal_reason();
                *current = None;
                return Ok(None);
            }
            Err(source) => {
                server.free.push(slot);
                return Err(fail("the request to its server could not be sent")(source));
            }
        }
    };
    drop((theirs, its_go));
    // Compared while the server makes the child.
    let matches = process.compare(rights);
    let said = match matches {
        RightsMatch::Same => process.server_rights.go_ahead(rights, &go),
        // The child reads the end of the socket instead of `GO_AHEAD`, and leaves.
        RightsMatch::Different | RightsMatch::Unknown => fd_passing::hang_up(&go).map(|()| false),
    };
    let outcome = process.await_child(name, ours, slot, ANSWER_TIMEOUT);
    if matches!(outcome, Ok(None)) {
        *refusal_reason = process.copy.refusal_reason();
    }
    process.finish_request(slot, &outcome);
    let Some(mut started) = outcome? else { return Ok(None) };
    match matches {
        RightsMatch::Same => {}
        RightsMatch::Different => {
            standby::end(&started, &go);
            process.replace();
            return Ok(None);
        }
        RightsMatch::Unknown => {
            standby::end(&started, &go);
            return spawn::start(launch).map(Some);
        }
    }
    let told = match said {
        Ok(told) => told,
        // The child has died already.
        Err(error) if handshake::is_gone(&error) => false,
        Err(error) => {
            standby::end(&started, &go);
            return Err(fail("its go-ahead could not be sent")(error));
        }
    };
    // Otherwise the child has already acknowledged it.
    if told && ack == StartAck::No && started.early.is_none() {
        let answer = handshake::answer_of_child(name, &started.socket).inspect_err(|_| standby::end(&started, &go))?;
        if answer.not_permitted {
            standby::end(&started, &go);
            process.replace();
            return Ok(None);
        }
        started.early = answer.early;
    }
    standby::started(true);
    Ok(Some(started))
}

impl Server {
    /// Executes a server, for the start of the process `name`.
    fn launch(name: &str, rights: &CallerRights) -> Result<Server, StartError> {
        let (slots, fd) =
            PidSlots::create().map_err(StartError::io(name, "memory for its fork server could not be allocated"))?;
        rights.read();
        let copy = ExecutedProcess::exec(name)?;
        copy.send(name, kind::SERVE, &[], &[fd.as_fd()])?;
        match copy.answer(name)?.kind {
            kind::READY => {}
            other => return Err(copy.fail(name, HandshakeErrorKind::unexpected(other))),
        }
        let server_rights = ServerRights::new(rights, copy.pid);
        let server = Server {
            process: Arc::new(ServerProcess { copy, slots, server_rights }),
            free: (0..SLOTS as u16).rev().collect(),
            sent: SentContext::default(),
            guards: lifeline::may_change_user_unseen(),
        };
        at_exit::last(end);
        if server.guards {
            // Children that an earlier server was told of.
            for pid in children::bound_to_this_process() {
                let _ = server.guard(pid);
            }
        }
        Ok(server)
    }

    fn guard(&self, pid: i32) -> io::Result<()> {
        packet::send(self.process.copy.socket(), kind::GUARD, &[&guard::front(pid)], &[])
    }

    /// Requests a child that gets these sockets. Returns what the child will know of the context.
    fn request<const N: usize>(
        &mut self,
        kind: u8,
        slot: u16,
        ack: StartAck,
        launch: Option<&Launch<'_>>,
        sockets: [BorrowedFd<'_>; N],
    ) -> io::Result<SentContext> {
        let guarded = self.guards && launch.is_some_and(|launch| !launch.spec.outlives_parent);
        let front = launch.map_or(vec![], |launch| child_spec::join(launch.spec));
        let none = Payload::default();
        let (payload, others) = launch.map_or((&none, &[][..]), |launch| (launch.payload, launch.fds));
        self.process.slot(slot).store(0, SeqCst);
        let outgoing = context::send(&self.sent, None, launch.map(|launch| launch.streams), |context, outgoing| {
            let head = child_spec::join(&Request { slot, ack, guarded, context });
            let fds: Vec<BorrowedFd<'_>> =
                sockets.iter().copied().chain(outgoing.fds()).chain(others.iter().copied()).collect();
            packet::send_with(self.process.copy.socket(), kind, &[&head, &front], &fds, payload)
        })?;
        Ok(self.sent.record(outgoing))
    }
}

impl ServerProcess {
    /// Whether the calling thread, with these rights, can use the server.
    pub(crate) fn compare(&self, rights: &CallerRights) -> RightsMatch {
        self.server_rights.compare(rights, self.copy.pid)
    }

    /// Returns the rights and settings that the server was made with.
    pub(crate) fn server_rights(&self) -> &ServerRights {
        &self.server_rights
    }

    /// Makes the next start launch another server.
    fn replace(self: &Arc<ServerProcess>) {
        let mut current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        current.take_if(|server| Arc::ptr_eq(&server.process, self));
    }

    fn slot(&self, slot: u16) -> &AtomicI32 {
        self.slots.get(slot.into()).expect("a slot in range")
    }

    /// Returns the pid of the child that was made for this slot: the kernel writes it inside the
    /// call that makes the child. 0 if no child was made.
    fn pid(&self, slot: u16) -> i32 {
        self.slot(slot).load(SeqCst)
    }

    /// Waits for the acknowledgement. None if the server died before it made the child.
    fn await_child(
        &self,
        name: &str,
        socket: OwnedFd,
        slot: u16,
        patience: Duration,
    ) -> Result<Option<Started>, StartError> {
        let fail = |what: &'static str| StartError::io(name, what);
        let deadline = Instant::now().checked_add(patience);
        let mut early = None;
        loop {
            let [answered, server_died] = poll::wait_any([&socket, self.copy.pidfd()], deadline)
                .map_err(fail("waiting for its server failed"))?;
            if !answered && !server_died {
                return Err(self.copy.fail(name, HandshakeErrorKind::Timeout(patience)));
            }
            match packet::receive(&socket, false) {
                Ok(mut packet) if packet.kind == kind::STARTED => {
                    return started(name, self.pid(slot), packet.fds.pop(), socket, early).map(Some);
                }
                // The child has not run any of the user's code, and ends. A server that this thread
                // executes has what the child lacks.
                Ok(packet) if packet.kind == kind::NOT_PERMITTED => {
                    pidfd::kill_unopened_child(self.pid(slot));
                    return Ok(None);
                }
                Ok(packet) => {
                    let corrupt = |kind| self.copy.fail(name, HandshakeErrorKind::unexpected(kind));
                    early = Answer::of(name, packet, corrupt)?.early;
                }
                // A dead server makes no more children, so the slot is final. (Its sockets may stay
                // open for a moment.)
                Err(PacketError::Empty | PacketError::Closed) if server_died => {
                    return match self.pid(slot) {
                        0 => Ok(None),
                        pid => started(name, pid, None, socket, early).map(Some),
                    };
                }
                // No process has the other end any more: the child was made and is gone, or the
                // server has dropped the request, or the server is dying.
                Err(PacketError::Closed) => {
                    return match self.pid(slot) {
                        0 if self.is_dying() => Ok(None),
                        0 => Err(self.corrupt(name, "it dropped the request".into())),
                        pid => started(name, pid, None, socket, early).map(Some),
                    };
                }
                Err(PacketError::Empty) => {}
                Err(PacketError::Io(source)) => return Err(fail("its answer could not be read")(source)),
                Err(error) => return Err(self.corrupt(name, error.to_string())),
            }
        }
    }

    /// Finishes a request: frees its slot, or drops a server that can't be used any more.
    fn finish_request(self: &Arc<ServerProcess>, slot: u16, outcome: &Result<Option<Started>, StartError>) {
        if outcome.is_err() {
            // If the child was made nevertheless, it is not needed.
            pidfd::kill_unopened_child(self.pid(slot));
        }
        let mut current = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = current.as_mut().filter(|server| Arc::ptr_eq(&server.process, self)) {
            match outcome {
                // The server is dead or doesn't answer: the next start launches another.
                Ok(None) | Err(StartError::Handshake { .. }) => *current = None,
                Ok(Some(_)) | Err(_) => server.free.push(slot),
            }
        }
    }

    /// Whether the server, which seems to have closed its sockets, ends within a moment.
    fn is_dying(&self) -> bool {
        let deadline = Instant::now().checked_add(Duration::from_millis(100));
        poll::wait_readable(self.copy.pidfd(), deadline).is_ok_and(|ended| ended)
    }

    fn corrupt(&self, name: &str, what: String) -> StartError {
        self.copy.fail(name, HandshakeErrorKind::Corrupt(what))
    }
}

/// The result for the process `pid`, a child that was just made.
fn started(
    name: &str,
    pid: i32,
    pidfd: Option<OwnedFd>,
    socket: OwnedFd,
    early: Option<Report>,
) -> Result<Started, StartError> {
    let pidfd = match pidfd {
        Some(pidfd) => Some(pidfd),
        None => pidfd::open_child(pid).map_err(StartError::io(name, "its pidfd could not be opened"))?,
    };
    Ok(Started { pid, pidfd, socket, early })
}

/// Runs the server: makes children until its parent is gone. This never returns, not even in a
/// child, which runs its target and exits.
///
/// `parent` is the pid of the parent.
pub(crate) fn serve(control: OwnedFd, slots: PidSlots, parent: i32, warm_up: WarmUp) -> ! {
    threads::set_name("multiproc-serve");
    let thread = ThreadState::of_this_thread();
    // Computed here once; every child finds the results in its copy of the memory.
    let _ = (run_child::memory_ranges(), target::image(), lifeline::might_be_lost(), std::thread::current());
    at_exit::arrange_for_copies();
    // A request says what the environment of its child is, if it differs from the last one.
    if let Some(ranges) = run_child::memory_ranges() {
        // SAFETY: this process has one thread, and none of the user's code that could access the
        // environment has run.
        unsafe { environment::wipe(ranges.environment()) };
    }
    let mut orphans = OrphanGuard::of(parent);
    if let Err(error) = context::detach() {
        run_child::refuse(control, &format!("the server could not set itself up: {error}"));
    }
    loop {
        let mut packet = match packet::receive(&control, true) {
            Ok(packet) if matches!(packet.kind, kind::START | kind::STAND_BY) => packet,
            Ok(packet) if packet.kind == kind::GUARD => {
                guard::pid(packet.front()).into_iter().for_each(|pid| orphans.add(pid));
                continue;
            }
            Err(PacketError::Closed) => {
                orphans.end();
                std::process::exit(0)
            }
            Ok(packet) => {
                run_child::refuse(control, &format!("the server got an unexpected message of kind {}", packet.kind))
            }
            // For example, the server had no room for the message's descriptors. The sender sees
            // that the socket is closed, and that the server ends.
            Err(error) => run_child::refuse(control, &format!("the server could not take a request: {error}")),
        };
        let mut fds = std::mem::take(&mut packet.fds).into_iter();
        let Some(socket) = fds.next() else { run_child::refuse(control, "the server got a request without a socket") };
        let Some(go) = fds.next() else { run_child::refuse(control, "the server got a request with only one socket") };
        let made = (|| {
            let (request, launch) = child_spec::split::<Request>(packet.front()).map_err(|what| (what, 0))?;
            let slot = slots.get(request.slot.into()).ok_or_else(|| ("there is no such slot".to_string(), 0))?;
            // SAFETY: this process has one thread: `entry` has counted, and no thread is created
            // here. None of its code keeps pointers into the environment.
            let received_context =
                unsafe { request.context.receive(&mut fds) }.map_err(|error| no("the environment", &error))?;
            let (ack, guarded) = (request.ack, request.guarded);
            received_context.change_directory().map_err(|error| no("the current directory", &error))?;
            host::before_copy();
            // SAFETY: as above, and `thread` is the state of this thread.
            let side = unsafe { clone::clone_sibling(&thread, slot) };
            match &side {
                Ok(Side::Copy { is_open }) => {
                    host::after_copy_in_child();
                    if ack == StartAck::No && !is_open {
                        run_child::send_started(&socket, pidfd::open(threads::getpid()).ok());
                    }
                    return Ok(Some((launch.to_vec(), received_context, ack)));
                }
                Ok(Side::Original { pid, pidfd }) => {
                    if guarded {
                        orphans.add(*pid);
                    }
                    // A queue counts the processes that have it open, and this one must not count
                    // when `start` returns.
                    fds.by_ref().for_each(drop);
                    if let (StartAck::No, Some(pidfd)) = (ack, pidfd) {
                        run_child::send_started(&socket, Some(pidfd));
                    }
                }
                Err(_) => {}
            }
            host::after_copy_in_parent();
            context::enter_root().map_err(|error| no("the root directory", &error))?;
            side.map(|_| None).map_err(|error| no("clone", &error))
        })();
        match made {
            Ok(Some((launch, received_context, ack))) => {
                if packet.kind == kind::STAND_BY {
                    drop((control, received_context, fds));
                    standby::stand_by(go, socket, warm_up);
                }
                drop(control);
                if let Err(error) = received_context.install_streams() {
                    run_child::refuse(socket, &format!("the new process could not set up its stdio: {error}"));
                }
                run_child::begin(&launch, packet.payload, fds, socket, ack, Some(go))
            }
            Ok(None) => {}
            // The parent may have stopped waiting for this start; an error of sending is ignored.
            Err(failure) => drop(packet::send(&socket, kind::NOT_STARTED, &[&codec::pack(&failure)], &[])),
        }
    }
}

/// In a standby: applies the context of the request, then runs the child.
pub(crate) fn become_child(
    request: Request,
    mut fds: impl Iterator<Item = OwnedFd>,
    socket: OwnedFd,
    go: OwnedFd,
    launch: &[u8],
    payload: Payload,
) -> ! {
    // SAFETY: this process is a copy of the server, and has one thread as the server has.
    let received_context = unsafe { request.context.receive(&mut fds) };
    let result = received_context.and_then(|received_context| {
        received_context.change_directory()?;
        received_context.install_streams()
    });
    if let Err(error) = result {
        run_child::fail(socket, "its environment, directory or standard streams could not be set", &error);
    }
    run_child::begin(launch, payload, fds, socket, request.ack, Some(go))
}

/// For fuzzers: the head of a request as the server should receive it, with or without the
/// environment.
#[cfg(any(test, fuzzing))]
pub(crate) fn sample_request(with_environment: bool) -> Vec<u8> {
    let mut sent = SentContext::default();
    let streams = crate::spec::stdio::Streams::default();
    let room = "there is room for a descriptor";
    let (mut context, told) = context::current(&sent, None, Some(&streams)).expect(room);
    if !with_environment {
        sent.record(told);
        context = context::current(&sent, None, Some(&streams)).expect(room).0;
    }
    child_spec::join(&Request { slot: 7, ack: StartAck::No, guarded: false, context })
}

/// For fuzzers: whether the server accepts this as a request.
#[cfg(any(test, fuzzing))]
pub(crate) fn reads_request(body: &[u8]) -> bool {
    let Ok((_, launch)) = child_spec::split::<Request>(body) else { return false };
    assert!(body.ends_with(launch));
    true
}

/// What failed, and the errno.
type Failure = (String, i32);

fn no(what: &str, error: &io::Error) -> Failure {
    (format!("its server could not create it: {what}"), error.raw_os_error().unwrap_or(0))
}
