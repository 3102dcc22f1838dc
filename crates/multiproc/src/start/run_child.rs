//! A child's life, from its launch message up to its exit: the same for every start method.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::panic::UnwindSafe;
use std::sync::OnceLock;

use multiproc_os::errno::EINVAL;
use multiproc_os::{environment, lifeline, memory_watch, pidfd, stdio, threads, title};
use multiproc_shm::message::packet;
use multiproc_shm::message::payload::Payload;
use serde::{Deserialize, Serialize};

use super::confinement::{self, GoAhead};
use super::{entry, fork, host, panic_hook, standby};
use crate::log;
use crate::runtime::{at_exit, children, ctrl_c, current};
use crate::spec::child_spec::{self, ChildSpec};
use crate::spec::options::Options;
use crate::spec::report::{EXIT_SETUP_FAILED, Failure, Report};
use crate::spec::status::JoinErrorKind;
use crate::spec::target::Entry;
use crate::spec::{kind, method};
use crate::transfer::codec;

/// Tells the parent why this process can't be used, and ends this process.
pub(crate) fn refuse(socket: OwnedFd, reason: &str) -> ! {
    send_refusal(&socket, reason);
    // Before anything that may block, such as writing to stderr when that is a full pipe.
    drop(socket);
    exit_with_message(reason)
}

/// Sends the message `REFUSED`, which says why this process can't be used.
pub(crate) fn send_refusal(socket: &OwnedFd, reason: &str) {
    let _ = packet::send(socket, kind::REFUSED, &[reason.as_bytes()], &[]);
}

/// Prints the reason on stderr, and ends this process.
pub(super) fn exit_with_message(reason: &str) -> ! {
    stdio::write_message(&format!("multiproc (pid {}): {reason}\n", threads::getpid()));
    std::process::exit(EXIT_SETUP_FAILED)
}

/// The start acknowledgement: what a child itself sends to its parent before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StartAck {
    /// Nothing: the parent doesn't wait, or the server sends the acknowledgement.
    No,
    /// `STARTED`.
    Yes,
    /// `STARTED` with its pidfd: the parent may not be able to open one, once the kernel or another
    /// part of the program has reaped the child.
    WithPidfd,
}

/// Runs a child, from its launch message up to its exit. `fds` are the descriptors that come with
/// the spec, besides those of its context. `go` is the socket on which it receives `GO_AHEAD`, if
/// it must wait for that.
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
        Err(error) => refuse(socket, &format!("the child spec can't be decoded: {error}")),
    };
    let function = match spec.entry.map(Entry::function) {
        Some(Ok(function)) => function,
        Some(Err(error)) => refuse(socket, &error.to_string()),
        None => refuse(socket, "the child spec has no target"),
    };
    entry::set_exists();
    run_child(spec, fds, socket, ack, go, || function(payload))
}

/// Runs a child of any start method: sets it up, runs `task`, sends the report, exits.
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
            // The parent is already gone, or has killed this process through its lifeline.
            Ok(false) => lifeline::kill_self(),
            Err(_) => exit_with(EXIT_SETUP_FAILED),
        }
    }
    let pid = threads::getpid();
    let name = spec.info.name.clone();
    show_name(&name, Some(environment::place()).filter(|place| !place.is_empty()));
    current::become_child(spec.info);
    children::set_grace_period(spec.grace_period);
    method::set_start_method(spec.start_method);
    standby::set_wanted(spec.standby);
    spec.key.inherit();
    if let Err(error) = log::apply(spec.log, fds) {
        refuse(socket, &format!("the new process could not set up its logging: {error}"));
    }
    let _ = at_exit::arrange();
    panic_hook::install(&name, &socket);
    // As late as possible, because the parent is sending it meanwhile; and before any of the user's
    // code, and before options that override settings.
    match go.map_or(GoAhead::Proceed, confinement::wait_for_go_ahead) {
        GoAhead::Proceed => {}
        GoAhead::ProceedAndAck if ack == StartAck::No => ack = StartAck::Yes,
        GoAhead::ProceedAndAck => {}
        GoAhead::NotPermitted => not_permitted(socket),
        GoAhead::Exit => exit_with(EXIT_SETUP_FAILED),
    }
    let options = spec.options;
    // Only in an executed copy that has called `init` late. Without /proc there is no telling.
    if !options.environment.is_empty()
        && let Ok(threads @ 2..) = threads::count_running()
    {
        refuse(
            socket,
            &format!(
                "the new process can't change its environment, which its {threads} threads may be reading. {}",
                entry::CALL_INIT_FIRST
            ),
        );
    }
    // SAFETY: no other thread accesses the environment: there is none.
    if let Err(not_set) = unsafe { options.apply() } {
        fail(socket, &not_set.what, &not_set.source);
    }
    if !options.environment.is_empty() || fork::is_copy() {
        // Removed variables are still in the strings that the process was executed with, or was
        // sent.
        let environment = environment::snapshot().leak().as_ptr_range();
        show_name(&name, Some(environment.start as usize..environment.end as usize));
    }
    if ack != StartAck::No {
        let pidfd = if ack == StartAck::WithPidfd { pidfd::open(pid).ok() } else { None };
        send_started(&socket, pidfd);
    }
    if let Some(limit) = options.memory_limit {
        limit_memory(&options, limit, &socket);
    }

    log::event(log::Level::Info, format_args!("child process calling self.run()"));
    let report = task();
    if threads::getpid() != pid {
        // The target has forked, and this is the copy: only the original sends the result.
        exit_with(report.exit_code());
    }
    let report = report.send(&socket);
    if let Report::Failed(failure @ (Failure::Arguments(_) | Failure::Encode(_))) = &report {
        let reason = JoinErrorKind::from(failure.clone());
        stdio::write_message(&format!("Process {name}: {reason}\n"));
    }
    at_exit::run();
    log::event(log::Level::Info, format_args!("process exiting with exitcode {}", report.exit_code()));
    exit_with(report.exit_code())
}

/// Tells the parent that the child has started, and passes its pidfd: another part of the parent's
/// program may reap the child before the parent can open one.
pub(crate) fn send_started(socket: &OwnedFd, pidfd: Option<impl AsFd>) {
    let fds: Vec<BorrowedFd<'_>> = pidfd.iter().map(AsFd::as_fd).collect();
    if packet::send(socket, kind::STARTED, &[], &fds).is_err() && !fds.is_empty() {
        // The kernel's limit of descriptors in transit for this user is reached. The parent opens
        // the pidfd itself.
        let _ = packet::send(socket, kind::STARTED, &[], &[]);
    }
}

/// Ends this process, as the language runtime that has loaded the library ends it
/// ([`Host`](super::host::Host)); by default by `exit`. A fork copy then leaves without running the
/// exit handlers, which belong to its parent.
pub(crate) fn exit_with(code: i32) -> ! {
    if let Some(leave) = host::leave() {
        leave(code);
    }
    if fork::is_copy() {
        multiproc_os::fork::exit_without_handlers(code);
    }
    multiproc_os::at_exit::exit(code)
}

/// Sets the memory limit, and installs the handler that reports if the process dies of it.
fn limit_memory(options: &Options, limit: u64, socket: &OwnedFd) {
    let message = packet::encode(kind::FAILED, &codec::pack(&Failure::MemoryLimit { limit }));
    if let Err(error) = memory_watch::arm(socket.as_raw_fd(), message) {
        stdio::write_message(&format!("Process {}: {error}\n", current::current_process().name()));
    }
    // This can't fail: `Options::apply` has checked that the value is within the hard limit.
    let _ = options.limit_memory();
}

/// Tells the parent that the start has failed, and ends this process.
pub(crate) fn fail(socket: OwnedFd, what: &str, error: &std::io::Error) -> ! {
    let failure = (what, error.raw_os_error().unwrap_or(EINVAL));
    let _ = packet::send(&socket, kind::NOT_STARTED, &[&codec::pack(&failure)], &[]);
    drop(socket);
    exit_with(EXIT_SETUP_FAILED)
}

/// Tells the parent that this child of the server isn't allowed to apply one of its settings, and
/// ends this process.
pub(crate) fn not_permitted(socket: OwnedFd) -> ! {
    let _ = packet::send(&socket, kind::NOT_PERMITTED, &[], &[]);
    drop(socket);
    exit_with(EXIT_SETUP_FAILED)
}

/// Makes `ps` and `top` show the name: in place of the program's name, and after the program in the
/// command line. If `environment` is given, also makes `/proc/PID/environ` show the strings there;
/// they must stay in place.
pub(crate) fn show_name(name: &str, environment: Option<Range<usize>>) {
    threads::set_name(name);
    let mut arguments = std::env::args_os().map(OsStringExt::into_vec);
    let title: Vec<Vec<u8>> =
        arguments.next().into_iter().chain([format!("[{name}]").into_bytes()]).chain(arguments).collect();
    if let Some(ranges) = memory_ranges() {
        // Not every kernel supports this, and nothing depends on it.
        let _ = title::set(ranges, &title, environment);
    }
}

/// Returns where the kernel looks for arguments and environment. The server reads this once for all
/// its copies.
pub(crate) fn memory_ranges() -> Option<&'static title::Ranges> {
    static RANGES: OnceLock<Option<title::Ranges>> = OnceLock::new();
    RANGES.get_or_init(|| title::Ranges::current().ok()).as_ref()
}
