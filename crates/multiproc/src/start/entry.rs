//! The child's first steps, the same for every method; and `init`, where a copy of the program turns off to become one.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::panic::UnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use multiproc_os::errno::EINVAL;
use multiproc_os::pid_slots::PidSlots;
use multiproc_os::{environment, fd_passing, lifeline, memory_watch, pidfd, signal, stdio, threads, title};
use serde::{Deserialize, Serialize};

use super::child_spec::{self, ChildSpec};
use super::confinement::{self, Word};
use super::handshake::{self, Role, Unfit, VARIABLE};
use super::panic_hook;
use super::report::{Failure, Report};
use super::target::Entry;
use super::{fork, forkserver, kind, method, spawn, standby};
use crate::log;
use crate::process::options::Options;
use crate::process::outcome::Outcome;
use crate::process::run::{Private, Run};
use crate::process::{at_exit, children, ctrl_c, current};
use crate::transfer::codec::{self, CodecError};
use crate::transfer::packet;
use crate::transfer::payload::Payload;

/// The code with which a copy of the program leaves that can't be what it was exec'd for: `EX_SOFTWARE` of sysexits.h.
pub(crate) const REFUSED: i32 = 70;

/// Whether a child of this process would find its way: `init` has run here.
static HAS_ENTRY: AtomicBool = AtomicBool::new(false);

/// Where a child process turns off to its target. Call it first thing in `main`, or have `#[multiproc::main]` do so.
///
/// In a process that a user has started it does next to nothing, and returns. In a process that multiproc has started it never
/// returns: the target runs, and the process exits. So whatever stands before it in `main` runs in every child again.
///
/// `#[multiproc::main]` is the same, and children end a little sooner with it (some 30 µs): as
/// nothing stands before it, no exit handler can have been registered that a child would have to
/// call.
///
/// ```
/// fn main() -> multiproc::Result<()> {
///     multiproc::init();
///
///     multiproc::Process::new(|| println!("in a child"), ()).start()?;
///     Ok(())
/// }
/// ```
pub fn init() {
    begin_program(false);
}

/// As [`init`]. If nothing of the program's own can have run yet but constructors, `is_first`, a
/// child of the fork server ends sooner.
pub(crate) fn begin_program(is_first: bool) {
    if HAS_ENTRY.load(Relaxed) {
        return;
    }
    multiproc_os::confinement::note_start();
    match std::env::var_os(VARIABLE) {
        None => {
            HAS_ENTRY.store(true, Relaxed);
            // Without it, `exit` would not end the children; they'd be ended by the kernel.
            let _ = at_exit::arrange();
        }
        Some(value) => dispatch(&value.to_string_lossy(), is_first),
    }
}

/// Whether a child of this process would find its way.
pub(crate) fn exists() -> bool {
    // With the variable still set, this is a copy that has not come by `init`.
    HAS_ENTRY.load(Relaxed) && std::env::var_os(VARIABLE).is_none()
}

/// In an exec'd copy: becomes what the parent says.
fn dispatch(variable: &str, is_first: bool) -> ! {
    let socket = match variable.parse::<RawFd>() {
        // SAFETY: the parent has handed this descriptor down for us alone; if it is not open, or is something else, the next check
        // says so, and the process ends.
        Ok(fd) if fd > 2 => unsafe { OwnedFd::from_raw_fd(fd) },
        _ => leave(&format!("the environment has {VARIABLE}={variable}, which is no descriptor of multiproc's")),
    };
    if !fd_passing::is_packet_socket(socket.as_fd()) {
        std::mem::forget(socket);
        leave(&format!("the environment has {VARIABLE}={variable}, but that descriptor is no socket of multiproc's"));
    }
    if let Err(error) = sanitize(socket.as_fd()) {
        refuse(socket, &format!("the new process could not set itself up: {error}"));
    }
    if is_first {
        multiproc_os::at_exit::prepare();
    }
    let parent = threads::getppid();
    match handshake::accept(socket.as_fd()) {
        Ok(Role::Child { launch }) => spawn::begin(launch, socket),
        Ok(Role::Server { slots }) => match (PidSlots::map(slots), threads::count()) {
            (Ok(slots), Ok(1)) => match packet::send(&socket, kind::READY, &[], &[]) {
                Ok(()) => forkserver::serve(socket, slots, parent),
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(REFUSED),
                Err(error) => refuse(socket, &format!("the server could not answer: {error}")),
            },
            (Ok(_), Ok(threads)) => refuse(
                socket,
                &format!(
                    "the server that makes processes has {threads} threads already. multiproc::init() must come before anything \
                     that starts a thread: call it first thing in main. If that can't be helped, use StartMethod::Spawn"
                ),
            ),
            (Err(error), _) | (_, Err(error)) => {
                refuse(socket, &format!("the server could not set itself up: {error}"));
            }
        },
        Err(Unfit::Because(reason)) => refuse(socket, &reason),
        // Silently: a parent that ends while it starts something, of a Ctrl-C for example, is no news.
        Err(Unfit::Alone) => std::process::exit(REFUSED),
    }
}

/// Makes an exec'd copy a clean process: no trace of how it came to be. What is open beside the
/// socket and descriptors 0 to 2 it has opened itself, before it came by here: nothing else is
/// inherited.
fn sanitize(socket: BorrowedFd<'_>) -> std::io::Result<()> {
    // SAFETY: nothing of the program has run yet, so there is one thread, or those of libraries that were loaded with it.
    unsafe { std::env::remove_var(VARIABLE) };
    fd_passing::close_on_exec(socket)?;
    stdio::ensure_open()?;
    signal::ignore_sigpipe()
}

/// Tells the parent why this process is of no use, and ends it.
pub(crate) fn refuse(socket: OwnedFd, reason: &str) -> ! {
    say_why(&socket, reason);
    // Before anything that may block, such as a full pipe for stderr.
    drop(socket);
    leave(reason)
}

/// The message by which a process says why it is of no use.
pub(crate) fn say_why(socket: &OwnedFd, reason: &str) {
    let _ = packet::send(socket, kind::REFUSED, &[reason.as_bytes()], &[]);
}

fn leave(reason: &str) -> ! {
    stdio::tell(&format!("multiproc (pid {}): {reason}\n", threads::getpid()));
    std::process::exit(REFUSED)
}

/// What a child itself says to its parent before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StartAck {
    /// Nothing: it is known, or the server says it.
    No,
    /// That it has started.
    Yes,
    /// The same, with its pidfd: the parent may not be able to open it, once the kernel or another
    /// part of the program has reaped it.
    WithPidfd,
}

/// The life of a child that was sent its order, up to its exit. `fds` are the descriptors that it
/// is given beside its surroundings; on `go` it is given the go-ahead, if it needs one.
pub(crate) fn begin(
    launch: &[u8],
    payload: Payload,
    fds: impl Iterator<Item = OwnedFd>,
    socket: OwnedFd,
    ack: StartAck,
    go: Option<OwnedFd>,
) -> ! {
    let spec = match child_spec::split::<ChildSpec>(launch) {
        Ok((spec, _)) => spec,
        Err(error) => refuse(socket, &format!("the assignment is garbage: {error}")),
    };
    let entry = match spec.entry.map(Entry::function) {
        Some(Ok(entry)) => entry,
        Some(Err(error)) => refuse(socket, &error.to_string()),
        None => refuse(socket, "the assignment lacks a target"),
    };
    HAS_ENTRY.store(true, Relaxed);
    run_child(spec, fds, socket, ack, go, || entry(payload))
}

/// A child's life, whichever way it has come: sets itself up, does the task, reports, exits.
pub(crate) fn run_child(
    spec: ChildSpec,
    fds: impl Iterator<Item = OwnedFd>,
    socket: OwnedFd,
    mut ack: StartAck,
    go: Option<OwnedFd>,
    task: impl FnOnce() -> Report + UnwindSafe,
) -> ! {
    ctrl_c::become_child(spec.handles_ctrl_c);
    if !spec.outlives_parent {
        match lifeline::arm(&socket) {
            Ok(true) => {}
            // The parent is gone already, or has killed this process by way of its lifeline.
            Ok(false) => lifeline::end(),
            Err(_) => leave_with(REFUSED),
        }
    }
    let pid = threads::getpid();
    let name = spec.identity.name.clone();
    show_name(&name, Some(environment::place()).filter(|place| !place.is_empty()));
    current::become_child(spec.identity);
    children::set_grace_period(spec.grace_period);
    method::set_start_method(spec.start_method);
    standby::set_wanted(spec.standby);
    spec.key.inherit();
    if let Err(error) = spec.log.take(fds) {
        refuse(socket, &format!("the new process could not set up its logging: {error}"));
    }
    let _ = at_exit::arrange();
    panic_hook::install(&name, &socket);
    // As late as can be, since it is on its way meanwhile; and before anything of the user's, or
    // what overrides it.
    match go.map_or(Word::Go, confinement::await_word) {
        Word::Go => {}
        Word::GoAndTell if ack == StartAck::No => ack = StartAck::Yes,
        Word::GoAndTell => {}
        Word::Unfit => unfit(socket),
        Word::Leave => leave_with(REFUSED),
    }
    let options = spec.options;
    // SAFETY: nothing of the program runs in this process yet, so nobody looks at the environment.
    if let Err(not_set) = unsafe { options.apply() } {
        fail(socket, &not_set.what, &not_set.source);
    }
    if !options.environment.is_empty() || fork::is_copy() {
        // What was removed is in the strings that the program was executed with, or was told of.
        let environment = environment::snapshot().leak().as_ptr_range();
        show_name(&name, Some(environment.start as usize..environment.end as usize));
    }
    if ack != StartAck::No {
        let pidfd = if ack == StartAck::WithPidfd { pidfd::open(pid).ok() } else { None };
        say_started(&socket, pidfd);
    }
    if let Some(limit) = options.memory_limit {
        limit_memory(&options, limit, &socket);
    }

    log::event(log::Level::Info, format_args!("child process calling self.run()"));
    let report = task();
    if threads::getpid() != pid {
        // The target has forked, and this is the copy: the result is its original's to send.
        leave_with(report.exit_code());
    }
    let report = report.send(&socket);
    if let Report::Failed(failure @ (Failure::Arguments(_) | Failure::NotSent(_))) = &report {
        let reason = crate::process::status::JoinErrorKind::from(failure.clone());
        stdio::tell(&format!("Process {name}: {reason}\n"));
    }
    at_exit::run();
    log::event(log::Level::Info, format_args!("process exiting with exitcode {}", report.exit_code()));
    leave_with(report.exit_code())
}

/// Tells the parent that the child is there, and what its pidfd is: by the time that the parent
/// could open it, another part of the parent's program may have reaped it.
pub(crate) fn say_started(socket: &OwnedFd, pidfd: Option<impl AsFd>) {
    let fds: Vec<BorrowedFd<'_>> = pidfd.iter().map(AsFd::as_fd).collect();
    if packet::send(socket, kind::STARTED, &[], &fds).is_err() && !fds.is_empty() {
        // Too many descriptors of this user are on their way. The parent opens it.
        let _ = packet::send(socket, kind::STARTED, &[], &[]);
    }
}

/// Ends this process in the way that is right for how it was made: by `exit`, unless it is a forked copy of its creator, whose exit handlers
/// are not its own.
pub(crate) fn leave_with(code: i32) -> ! {
    if fork::is_copy() {
        multiproc_os::fork::leave(code);
    }
    multiproc_os::at_exit::exit(code)
}

/// Limits this process's memory, and has it tell if that is what it dies of.
fn limit_memory(options: &Options, limit: u64, socket: &OwnedFd) {
    let message = packet::encode(kind::FAILED, &codec::pack(&Failure::MemoryLimit { limit }));
    if let Err(error) = memory_watch::arm(socket.as_raw_fd(), message) {
        stdio::tell(&format!("Process {}: {error}\n", current::current_process().name()));
    }
    // The limit of a resource that is within the hard limit, as `Options::apply` has seen, can be set.
    let _ = options.limit_memory();
}

/// Tells the parent that the start has failed, and ends this process.
pub(crate) fn fail(socket: OwnedFd, what: &str, error: &std::io::Error) -> ! {
    let failure = (what, error.raw_os_error().unwrap_or(EINVAL));
    let _ = packet::send(&socket, kind::NOT_STARTED, &[&codec::pack(&failure)], &[]);
    drop(socket);
    leave_with(REFUSED)
}

/// Tells the parent that this child of the server can't have a setting of its own, because it isn't
/// allowed to take it on, and ends this process.
pub(crate) fn unfit(socket: OwnedFd) -> ! {
    let _ = packet::send(&socket, kind::UNFIT, &[], &[]);
    drop(socket);
    leave_with(REFUSED)
}

/// Has `ps` and `top` show the name: in place of the program's where they show that, and behind it
/// where they show the command line. And has `/proc/PID/environ` show the strings at `environment`,
/// if that is given; they stay there.
pub(crate) fn show_name(name: &str, environment: Option<Range<usize>>) {
    threads::set_name(name);
    let mut arguments = std::env::args_os().map(OsStringExt::into_vec);
    let title: Vec<Vec<u8>> =
        arguments.next().into_iter().chain([format!("[{name}]").into_bytes()]).chain(arguments).collect();
    if let Some(ranges) = memory_ranges() {
        // Not every kernel can do it, and nothing depends on it.
        let _ = title::set(ranges, &title, environment);
    }
}

/// Read once, by the server for all its copies.
pub(crate) fn memory_ranges() -> Option<&'static title::Ranges> {
    static RANGES: OnceLock<Option<title::Ranges>> = OnceLock::new();
    RANGES.get_or_init(|| title::Ranges::current().ok()).as_ref()
}

/// Makes a [`Run`] value of the payload and runs it. One of these for each type; an [`Entry`] is the place of one.
///
/// All code of the user's is called inside: no panic gets out.
pub(crate) fn enter<R, Via>(payload: Payload) -> Report
where
    R: Run,
    R::Output: Outcome<Via>,
{
    perform(|| R::unpack(payload, Private(())))
}

/// Runs a value, and makes a report of what comes of it.
pub(crate) fn perform<R, Via>(run: impl FnOnce() -> Result<R, CodecError>) -> Report
where
    R: Run,
    R::Output: Outcome<Via>,
{
    let perform = || {
        let run = match codec::let_panics_pass(run) {
            Ok(run) => run,
            Err(error) => return Report::Failed(Failure::Arguments(error.to_string())),
        };
        let (value, failure) = run.run().settle();
        if let Some(failure) = &failure {
            stdio::tell(&format!("Process {}:\nError: {failure}\n", current::current_process().name()));
        }
        match codec::let_panics_pass(|| codec::encode(&[], &value)) {
            Ok(value) => Report::Returned { value, failed: failure.is_some() },
            Err(error) => Report::Failed(Failure::NotSent(error.to_string())),
        }
    };
    panic_hook::catch(perform).unwrap_or_else(|panic| Report::Failed(Failure::Panicked(panic)))
}
