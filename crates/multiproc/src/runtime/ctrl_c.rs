//! Ctrl-C handling: children leave it to the main process, which ends its children and then itself.
//!
//! This module decides which of the handlers in `multiproc_os::interrupt` is installed when. See
//! "Ctrl-C" in `start/PROTOCOL.md`.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};

use multiproc_os::{interrupt, threads};

use super::children;
use super::current::parent_process;

static HANDLED: AtomicBool = AtomicBool::new(true);

/// The process that has installed the parent's handler. A process installs it only once: if it is
/// gone later, the program has replaced it on purpose.
static ARMED: AtomicI32 = AtomicI32::new(0);

/// Sets whether this library handles Ctrl-C, so that it ends this process and its children in an
/// orderly way and without messages from them. It does by default; processes started later inherit
/// the setting.
///
/// A terminal sends Ctrl-C, the signal SIGINT, to all processes of the program at once. So:
///
/// - *Children*, and their children, leave it to the main process: it has no effect on them.
///   [`interrupt`](crate::process::ProcessHandle::interrupt) and SIGTERM still do, and programs that
///   children execute handle SIGINT in their own way.
/// - The *main process* sends SIGTERM to its children, gives them the
///   [`grace_period`](crate::process::grace_period) and kills those that still run with SIGKILL; their own
///   children are killed with them, at once. Then it dies of SIGINT, so that the shell sees that.
///   Finalizers and destructors do not run, as in any program that SIGINT kills. Meanwhile, none of
///   its threads learns that a child has ended, or starts another child.
/// - A *second* Ctrl-C during that time kills all remaining children and the main process at once.
/// - Processes that [outlive their parent](crate::Process::outlive_parent) go on.
///
/// The main process does this from its first [`start`](crate::Process::start) on, and only if
/// SIGINT has its default action then. If the program has installed a SIGINT handler before or
/// installs one afterwards, that handler takes effect in the main process; children still leave
/// SIGINT to it. In a child, a handler that its target installs takes effect.
///
/// With `false`, this library leaves Ctrl-C alone: it removes the handler that it has installed in
/// this process, and processes started from now on die of SIGINT, each on its own, as by default.
/// `true` restores the handling. Processes that already run are not affected.
///
/// ```
/// # #[multiproc::main]
/// # fn main() {
/// assert!(multiproc::process::handles_ctrl_c());
/// multiproc::process::handle_ctrl_c(false);
/// assert!(!multiproc::process::handles_ctrl_c());
/// # }
/// ```
pub fn handle_ctrl_c(handle: bool) {
    let before = HANDLED.swap(handle, SeqCst);
    match handle {
        false => interrupt::take_back(),
        true if before => {}
        true if parent_process().is_some() => interrupt::leave_to_parent_again(),
        true if ARMED.load(SeqCst) == threads::getpid() => install(),
        // The first start installs it.
        true => {}
    }
}

/// Returns whether this library handles Ctrl-C. See [`handle_ctrl_c`].
pub fn handles_ctrl_c() -> bool {
    HANDLED.load(SeqCst)
}

/// Installs the parent's handler in a process that is about to start another one. A child leaves
/// Ctrl-C to its parent.
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
        // Another thread has called `handle_ctrl_c(false)` meanwhile.
        interrupt::take_back();
    }
}

/// In a child, before any of the user's code runs: leaves Ctrl-C to the parent, or restores the
/// default. Either way, undoes what the child has inherited of its parent's or its server's
/// handling, whatever the start method.
pub(crate) fn become_child(handles_ctrl_c: bool) {
    HANDLED.store(handles_ctrl_c, SeqCst);
    interrupt::forget_registered();
    match handles_ctrl_c {
        true => interrupt::leave_to_parent(),
        false => interrupt::reset(),
    }
    interrupt::unblock();
}
