//! What an executed copy of the program becomes: a child, or the fork server.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use multiproc_os::pid_slots::PidSlots;
use multiproc_os::{fd_passing, signal, stdio, threads};
use multiproc_shm::message::packet;
use multiproc_shm::message::payload::Payload;

use super::handshake::{self, AcceptError, Role, VARIABLE};
use super::run_child::{exit_with_message, refuse};
use super::{forkserver, spawn};
use crate::runtime::at_exit;
use crate::spec::kind;
use crate::spec::report::EXIT_SETUP_FAILED;
use crate::spec::target::Entry;

/// Whether `init` has run here, so that a child of this process would reach its target.
static HAS_ENTRY: AtomicBool = AtomicBool::new(false);

/// Returns an entry and a payload that do nothing, with which a standby warms up.
pub(crate) type WarmUp = fn() -> Option<(Entry, Payload)>;

/// Does what [`init`](crate::init) does. With `is_first`, no code of the program but constructors
/// can have run before, and a child of the fork server ends sooner.
pub(crate) fn begin_program(is_first: bool, warm_up: WarmUp) {
    if HAS_ENTRY.load(Relaxed) {
        return;
    }
    multiproc_os::confinement::note_start();
    match std::env::var_os(VARIABLE) {
        None => {
            HAS_ENTRY.store(true, Relaxed);
            // Without it, the kernel would end the children when this process calls `exit`.
            let _ = at_exit::arrange();
        }
        Some(value) => dispatch(&value.to_string_lossy(), is_first, warm_up),
    }
}

/// What to do about threads that run before [`init`](crate::init).
pub(super) const CALL_INIT_FIRST: &str =
    "multiproc::init() must run before anything that starts a thread: call it as the first statement of main";

/// In a child: records that a child of this process would reach its target.
pub(super) fn set_exists() {
    HAS_ENTRY.store(true, Relaxed);
}

/// Whether a child of this process would reach its target.
pub(crate) fn exists() -> bool {
    // If the variable is still set, this is an exec'd copy that has not called `init`.
    HAS_ENTRY.load(Relaxed) && std::env::var_os(VARIABLE).is_none()
}

/// In an exec'd copy: becomes a child or a server, as the parent says.
fn dispatch(variable: &str, is_first: bool, warm_up: WarmUp) -> ! {
    let socket = match variable.parse::<RawFd>() {
        // SAFETY: the parent has passed this descriptor to this process alone. If it is not open or
        // is something else, the next check says so, and the process ends.
        Ok(fd) if fd > 2 => unsafe { OwnedFd::from_raw_fd(fd) },
        _ => exit_with_message(&format!(
            "the environment has {VARIABLE}={variable}, which is not a descriptor that multiproc has passed"
        )),
    };
    if !fd_passing::is_packet_socket(socket.as_fd()) {
        std::mem::forget(socket);
        exit_with_message(&format!(
            "the environment has {VARIABLE}={variable}, but that descriptor is not a multiproc socket"
        ));
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
                Ok(()) => forkserver::serve(socket, slots, parent, warm_up),
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(EXIT_SETUP_FAILED),
                Err(error) => refuse(socket, &format!("the server could not answer: {error}")),
            },
            (Ok(_), Ok(threads)) => refuse(
                socket,
                &format!(
                    "the fork server has {threads} threads already. {CALL_INIT_FIRST}. If that is impossible, use \
                     StartMethod::Spawn"
                ),
            ),
            (Err(error), _) | (_, Err(error)) => {
                refuse(socket, &format!("the server could not set itself up: {error}"));
            }
        },
        Err(AcceptError::Refused(reason)) => refuse(socket, &reason),
        // Silently: a parent that ends during a start, for example by Ctrl-C, is not an error.
        Err(AcceptError::Disconnected) => std::process::exit(EXIT_SETUP_FAILED),
    }
}

/// Removes all traces of how an exec'd copy was started. Apart from the socket and descriptors 0 to
/// 2, it inherits no descriptors; others are open only if its own code has opened them before
/// `init`.
fn sanitize(socket: BorrowedFd<'_>) -> std::io::Result<()> {
    // SAFETY: none of the program's code has run yet, unless `init` is called late. Code that reads
    // the environment through `std` at this moment waits for the change, or it for the code.
    unsafe { std::env::remove_var(VARIABLE) };
    fd_passing::close_on_exec(socket)?;
    stdio::ensure_open()?;
    signal::ignore_sigpipe()
}
