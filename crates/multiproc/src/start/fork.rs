//! The method `Fork`: this process copies itself, and the copy runs what is already in its memory.
//!
//! The copy goes on in the middle of its parent's stack and never returns from it. It releases the
//! parent's multiproc resources (sockets of other children and of the server, finalizers), and
//! leaves without running the parent's exit handlers. The program's own open descriptors stay open.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use multiproc_os::fork::{self, Side};
use multiproc_os::{fd_passing, lifeline, pidfd, signal, stdio, threads};

use super::error::StartError;
use super::run_child::{self, StartAck};
use super::{forkserver, standby};
use super::{handshake, host};
use crate::runtime::{at_exit, children};
use crate::spec::child_spec::{ChildSpec, Started};
use crate::spec::report::EXIT_SETUP_FAILED;
use crate::spec::report::Report;
use crate::spec::stdio::{Ends, Streams};

/// The pid of this process if it was made by this method. Copies made by the user's own fork(2)
/// don't count.
static COPY: AtomicI32 = AtomicI32::new(0);

/// Whether this process was made by this method.
pub(crate) fn is_copy() -> bool {
    COPY.load(Relaxed) == threads::getpid()
}

/// Starts a process that runs `task`. `ends` are the parent's ends of pipes: the copy drops them,
/// the parent gets them back.
pub(crate) fn start(
    spec: ChildSpec,
    streams: Streams,
    ends: Ends,
    task: impl FnOnce() -> Report,
) -> Result<(Started, Ends), StartError> {
    let name = spec.info.name.clone();
    let fail = |what: &'static str| StartError::io(&name, what);
    // The keeper is a thread of this process.
    standby::dismiss();
    #[cfg(feature = "async")]
    multiproc_shm::wait::waiters::dismiss();
    let threads = threads::count_running().map_err(fail("the threads of this process could not be counted"))?;
    if threads > 1 {
        let tasks = threads::list().unwrap_or_default();
        return Err(StartError::MultiThreaded { process: name, threads, tasks });
    }
    let guarded = !spec.outlives_parent && lifeline::may_change_user_unseen();
    if guarded {
        forkserver::guard(&name, None);
    }
    let (ours, theirs) = fd_passing::pair().map_err(fail("a socket pair could not be made"))?;
    let by_main_thread = threads::is_main();
    // Read once here instead of in each copy.
    let _ = run_child::memory_ranges();
    // Otherwise both processes would write what is in the buffer.
    let _ = std::io::stdout().flush();
    host::before_copy();
    // SAFETY: this is the only thread that runs, as just counted, so no other can be created.
    let side = unsafe { fork::fork() };
    match &side {
        Ok(Side::Copy) => host::after_copy_in_child(),
        Ok(Side::Original(_)) | Err(_) => host::after_copy_in_parent(),
    }
    match side.map_err(fail("fork failed"))? {
        Side::Copy => {
            drop((ours, ends));
            run_child(spec, streams, theirs, by_main_thread, task)
        }
        Side::Original(pid) => {
            if guarded {
                forkserver::guard(&name, Some(pid));
            }
            drop((theirs, streams));
            Ok((started(&name, pid, ours)?, ends))
        }
    }
}

/// Runs the copy.
fn run_child(
    spec: ChildSpec,
    streams: Streams,
    socket: OwnedFd,
    by_main_thread: bool,
    task: impl FnOnce() -> Report,
) -> ! {
    COPY.store(threads::getpid(), Relaxed);
    // A panic must not unwind into the parent's frames.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if let Err(error) = signal::reset_to_defaults()
            .and_then(|()| stdio::replace_some(streams.0))
            .and_then(|()| stdio::ensure_open())
        {
            run_child::refuse(socket, &format!("the new process could not set itself up: {error}"));
        }
        children::detach();
        if !spec.outlives_parent {
            forkserver::guard_this_copy();
        }
        forkserver::forget();
        lifeline::forget_risk();
        lifeline::set_made_by_main_thread(by_main_thread);
        at_exit::forget();
        // The copy needs no descriptors: everything is in its memory.
        run_child::run_child(spec, std::iter::empty(), socket, StartAck::WithPidfd, None, AssertUnwindSafe(task))
    }));
    fork::exit_without_handlers(EXIT_SETUP_FAILED)
}

/// The parent's side after the fork: waits until the child says that it has its own signal
/// handling, and can therefore be terminated.
fn started(name: &str, pid: i32, socket: OwnedFd) -> Result<Started, StartError> {
    let fail = |what: &'static str| StartError::io(name, what);
    let answer = handshake::answer_of_child(name, &socket).and_then(|answer| match answer.pidfd {
        Some(pidfd) => Ok((Some(pidfd), answer.early)),
        None => {
            let pidfd = pidfd::open_child(pid).map_err(fail("its pidfd could not be opened"))?;
            Ok((pidfd, answer.early))
        }
    });
    let (pidfd, early) = answer.inspect_err(|_| pidfd::kill_unopened_child(pid))?;
    Ok(Started { pid, pidfd, socket, early })
}
