//! The method `Fork`: this process copies itself, and the copy runs what is in its memory already.
//!
//! The copy goes on from here, in the middle of its creator's stack, and never returns from it. It lets go of what its creator has of
//! multiproc (sockets of other children and of the server, finalizers), and leaves without the creator's exit handlers. What the
//! program itself has open stays open.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use multiproc_os::fork::{self, Side};
use multiproc_os::{fd_passing, lifeline, pidfd, signal, stdio, threads};

use super::child_spec::{ChildSpec, Started};
use super::entry::{self, REFUSED, StartAck};
use super::handshake;
use super::report::Report;
use super::{forkserver, standby};
use crate::process::stdio::{Ends, Streams};
use crate::process::{at_exit, children};
use crate::{Error, Result};

/// The process that is a forked copy, if this is one: a copy that the user makes of it by other means is none.
static COPY: AtomicI32 = AtomicI32::new(0);

/// Whether this process was made by this method.
pub(crate) fn is_copy() -> bool {
    COPY.load(Relaxed) == threads::getpid()
}

/// Starts a process that runs `task`. The ends of pipes, `ends`, are this process's alone, and given back.
pub(crate) fn start(
    spec: ChildSpec,
    streams: Streams,
    ends: Ends,
    task: impl FnOnce() -> Report,
) -> Result<(Started, Ends)> {
    let name = spec.identity.name.clone();
    let fail = |what: &'static str| {
        let name = name.clone();
        move |source| Error::Start { process: name, what: what.into(), source }
    };
    // Its keeper is a thread of ours.
    standby::dismiss();
    #[cfg(feature = "async")]
    crate::shm::waiters::dismiss();
    // A thread that has been joined is on the kernel's list a moment longer.
    let mut threads = threads::count().map_err(fail("its threads could not be counted"))?;
    for _ in 0..10 {
        if threads == 1 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
        threads = threads::count().map_err(fail("its threads could not be counted"))?;
    }
    if threads > 1 {
        let tasks = threads::list().unwrap_or_default();
        return Err(Error::MultiThreaded { process: name, threads, tasks });
    }
    let guarded = !spec.outlives_parent && lifeline::may_change_user_unseen();
    if guarded {
        forkserver::guard(&name, None);
    }
    let (ours, theirs) = fd_passing::pair().map_err(fail("no socket pair"))?;
    let by_main_thread = threads::is_main();
    // Read once, and not by each copy.
    let _ = entry::memory_ranges();
    // Lest both write what is in the buffer.
    let _ = std::io::stdout().flush();
    // SAFETY: there is one thread, as just counted; it is the calling one, so nobody makes another.
    match unsafe { fork::fork() }.map_err(fail("fork"))? {
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

/// The copy's life.
fn run_child(
    spec: ChildSpec,
    streams: Streams,
    socket: OwnedFd,
    by_main_thread: bool,
    task: impl FnOnce() -> Report,
) -> ! {
    COPY.store(threads::getpid(), Relaxed);
    // Nothing may unwind into the frames of the creator.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        if let Err(error) = signal::reset_to_defaults()
            .and_then(|()| stdio::replace_some(streams.0))
            .and_then(|()| stdio::ensure_open())
        {
            entry::refuse(socket, &format!("the new process could not set itself up: {error}"));
        }
        children::disown();
        if !spec.outlives_parent {
            forkserver::guard_this_copy();
        }
        forkserver::forget();
        lifeline::forget_risk();
        lifeline::set_made_by_main_thread(by_main_thread);
        at_exit::forget();
        // What there is to be given it has in its memory.
        entry::run_child(spec, std::iter::empty(), socket, StartAck::WithPidfd, None, AssertUnwindSafe(task))
    }));
    fork::leave(REFUSED)
}

/// The parent's side, once the copy is there: waits until it says that it has its own signal handling, and so can be ended.
fn started(name: &str, pid: i32, socket: OwnedFd) -> Result<Started> {
    let fail = |what: &'static str| move |source| Error::Start { process: name.into(), what: what.into(), source };
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
