//! What a Ctrl-C does: children leave it to the process that started them all, and that one ends them, then itself.
//!
//! How, is in `multiproc_os::interrupt`; here is when which of its handlers is installed. `start/PROTOCOL.md` has a section on it.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};

use multiproc_os::{interrupt, threads};

use super::children;
use super::current::parent_process;

static HANDLED: AtomicBool = AtomicBool::new(true);

/// The process that has installed the parent's handler. Only once: if it is gone afterwards, somebody wants it so.
static ARMED: AtomicI32 = AtomicI32::new(0);

/// Whether this process sees to it that a Ctrl-C ends it and its children in order, without a message from any of them. It does, unless told
/// otherwise; processes started later inherit it.
///
/// A terminal sends Ctrl-C, the signal SIGINT, to all processes of the program at once. So:
///
/// - *Children*, and theirs, leave it to the main process: it does nothing to them. [`interrupt`](crate::ProcessHandle::interrupt) still does,
///   and SIGTERM, and programs that they execute have their own way with it.
/// - The *main process* sends SIGTERM to its children, gives them the [`grace_period`](crate::grace_period) and kills those that are left, with
///   SIGKILL; their own children go with them, at once. Then it dies of SIGINT, so that the shell knows. Finalizers and destructors do not
///   run, as in any program that SIGINT kills. No thread of it is told of the end of a child, or starts another one, while that goes on.
/// - A *second* Ctrl-C, meanwhile, kills all that are left and the main process at once.
/// - Those that are to [outlive their parent](crate::Process::outlive_parent) go on.
///
/// The main process does so from the first [`start`](crate::Process::start) on, and only if nobody has installed a SIGINT handler or ignores
/// the signal. A handler that the program has installed before, or installs afterwards, is what counts in the main process; children leave
/// SIGINT to it all the same. In a child, a handler that its target installs is what counts there.
///
/// With `false` Ctrl-C is none of this library's business: what has been installed in this process is taken back, and processes that are
/// started from now on die of SIGINT, each for itself, as by default. With `true` it is so again as it was. Processes that run are not changed.
///
/// ```
/// # #[multiproc::main]
/// # fn main() {
/// assert!(multiproc::handles_ctrl_c());
/// multiproc::handle_ctrl_c(false);
/// assert!(!multiproc::handles_ctrl_c());
/// # }
/// ```
pub fn handle_ctrl_c(handle: bool) {
    let before = HANDLED.swap(handle, SeqCst);
    match handle {
        false => interrupt::take_back(),
        true if before => {}
        true if parent_process().is_some() => interrupt::leave_to_parent_again(),
        true if ARMED.load(SeqCst) == threads::getpid() => install(),
        // The first start does it.
        true => {}
    }
}

/// See [`handle_ctrl_c`].
pub fn handles_ctrl_c() -> bool {
    HANDLED.load(SeqCst)
}

/// In a process that is about to start another one: sees to it that a Ctrl-C ends that. A child leaves that to its parent.
pub(crate) fn arm() {
    let this = threads::getpid();
    if handles_ctrl_c() && ARMED.load(SeqCst) != this && parent_process().is_none() {
        ARMED.store(this, SeqCst);
        install();
    }
}

fn install() {
    interrupt::end_children(&children::GRACE);
    if !handles_ctrl_c() {
        // Another thread has changed its mind meanwhile.
        interrupt::take_back();
    }
}

/// In a child, before anything of the user's runs: leaves Ctrl-C to its parent, or does as by default. What it has inherited of its parent's
/// handling or its server's, by whichever method, is undone.
pub(crate) fn become_child(handles_ctrl_c: bool) {
    HANDLED.store(handles_ctrl_c, SeqCst);
    interrupt::forget_registered();
    match handles_ctrl_c {
        true => interrupt::leave_to_parent(),
        false => interrupt::reset(),
    }
    interrupt::unblock();
}
