//! The list of this process's children, and what happens to them when the process ends.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use multiproc_os::signal::{SIGKILL, SIGTERM};
use multiproc_os::{interrupt, poll, threads};

use super::child::ChildRecord;
use super::test_binary;
use crate::log;

/// The children that have not been reaped, as far as this process knows.
struct Children {
    /// The process that started these children. A copy of it made by fork(2) elsewhere has none of
    /// them.
    parent: i32,
    members: Vec<Arc<ChildRecord>>,
}

static CHILDREN: Mutex<Children> = Mutex::new(Children { parent: 0, members: Vec::new() });

/// In milliseconds.
pub(super) static GRACE: AtomicU64 = AtomicU64::new(5_000);

/// Sets the grace period: how long this process, when it ends, gives its daemons between SIGTERM
/// and SIGKILL; after a Ctrl-C, how long it gives each child. 5 seconds by default. Processes
/// started later inherit it.
///
/// ```
/// # #[multiproc::main]
/// # fn main() {
/// multiproc::process::set_grace_period(std::time::Duration::from_millis(500));
/// # }
/// ```
pub fn set_grace_period(period: Duration) {
    GRACE.store(u64::try_from(period.as_millis()).unwrap_or(u64::MAX), Relaxed);
}

/// Returns the grace period. See [`set_grace_period`].
pub fn grace_period() -> Duration {
    Duration::from_millis(GRACE.load(Relaxed))
}

fn lock() -> MutexGuard<'static, Children> {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    let this = threads::getpid();
    if children.parent != this {
        children.parent = this;
        children.members.clear();
        interrupt::forget_registered();
    }
    children
}

/// Returns the pids of the children that end with this process.
pub(crate) fn bound_to_this_process() -> Vec<i32> {
    lock().members.iter().filter(|member| !member.outlives_parent).map(|member| member.pid).collect()
}

/// Whether this process, at its end, has left a child running because it may not signal it.
pub(crate) fn has_given_up() -> bool {
    lock().members.iter().any(|member| member.given_up.load(Relaxed))
}

/// In a copy of this process that has just been forked: closes its copies of the children's
/// sockets, which would otherwise keep the children alive after their parent's death.
pub(crate) fn disown() {
    let members = std::mem::take(&mut CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).members);
    for child in members {
        child.disown();
    }
}

/// At `exit`, which drops nothing: closes the children's standard inputs, since a child may be
/// reading until its input ends.
pub(crate) fn close_inputs() {
    let members = lock().members.clone();
    members.iter().for_each(|child| child.close_stdin());
}

/// Registers a child. Skips one that is already reaped, since nothing would unregister it.
pub(crate) fn add(child: &Arc<ChildRecord>) {
    if !child.is_reaped() {
        lock().members.push(child.clone());
    }
}

/// The function that is called when a child has been reaped.
static ON_REAPED: OnceLock<fn()> = OnceLock::new();

/// Makes `function` be called whenever a child of this process has been reaped. There can be one
/// such function; later calls change nothing.
pub(crate) fn on_reaped(function: fn()) {
    let _ = ON_REAPED.set(function);
}

/// Unregisters a child that has been reaped.
pub(super) fn reaped(child: &ChildRecord) {
    lock().members.retain(|member| !std::ptr::eq(&**member, child));
    if let Some(function) = ON_REAPED.get() {
        function();
    }
}

/// Reaps children that have ended and to which no handle is left.
pub(crate) fn sweep() {
    let abandoned: Vec<_> = lock().members.iter().filter(|member| Arc::strong_count(member) == 1).cloned().collect();
    for child in abandoned {
        let _ = child.has_ended();
    }
}

/// Returns the children that have not ended. Reaps the others.
pub(crate) fn active() -> Vec<Arc<ChildRecord>> {
    let members = lock().members.clone();
    members.into_iter().filter(|member| !member.has_ended()).collect()
}

/// Returns the running children that a test has started and to which no handle is left. A child
/// with a handle is spared: the handle may be in a static, for tests that share a process, or in a
/// thread that still waits for the child.
pub(crate) fn abandoned_by(test: u64) -> Vec<Arc<ChildRecord>> {
    let abandoned: Vec<_> = {
        let children = lock();
        let of_the_test = children.members.iter().filter(|member| member.test == test && !member.outlives_parent);
        of_the_test.filter(|member| Arc::strong_count(member) == 1).cloned().collect()
    };
    abandoned.into_iter().filter(|member| !member.has_ended()).collect()
}

/// At the end of the process: ends the daemons and waits for all other children. In a test binary,
/// ends all children.
pub(crate) fn end() {
    let is_ended = |child: &&Arc<ChildRecord>| child.daemon || test_binary::is_this();
    let mut deadline = None;
    let mut signalled: Vec<Arc<ChildRecord>> = Vec::new();
    // Children that have ended and with a status that a debugger holds. They are no longer waited
    // for; the init process will reap them.
    let mut held: Vec<Arc<ChildRecord>> = Vec::new();
    loop {
        // Read anew each time: a finalizer or another thread may have started more children.
        let waited_for: Vec<Arc<ChildRecord>> =
            lock().members.iter().filter(|member| !member.outlives_parent).cloned().collect();
        let known =
            |member: &Arc<ChildRecord>, list: &[Arc<ChildRecord>]| list.iter().any(|other| Arc::ptr_eq(member, other));
        let waited_for = waited_for.into_iter().filter(|member| !member.given_up.load(Relaxed));
        let alive: Vec<Arc<ChildRecord>> =
            waited_for.filter(|member| !known(member, &held) && !member.has_ended()).collect();
        if alive.is_empty() {
            return;
        }
        let fresh: Vec<_> = alive.iter().filter(|member| !known(member, &signalled)).cloned().collect();
        for child in fresh.iter().filter(is_ended) {
            log::event(log::Level::Info, format_args!("calling terminate() for daemon {}", child.name));
            let _ = child.send_signal(SIGTERM);
            deadline.get_or_insert_with(|| Instant::now().checked_add(grace_period()));
        }
        for child in &fresh {
            log::event(log::Level::Info, format_args!("calling join() for process {}", child.name));
        }
        signalled.extend(fresh);
        let fds: Vec<_> = alive.iter().map(|child| child.exit_fd()).collect();
        let ended = poll::wait_any_in(&fds, deadline.flatten());
        if matches!(&ended, Ok(ended) if ended.is_empty()) {
            for child in alive.iter().filter(is_ended) {
                log::event(log::Level::Info, format_args!("calling kill() for daemon {}", child.name));
                if let Err(error) = child.send_signal(SIGKILL) {
                    log::event(log::Level::Warn, format_args!("daemon {} can't be ended: {error}", child.name));
                    child.given_up.store(true, Relaxed);
                }
            }
            // No deadline any more: waiting is all that is left after SIGKILL. Daemons that are
            // added now get a grace period of their own.
            deadline = None;
        }
        match ended {
            Ok(ended) => {
                held.extend(ended.into_iter().map(|index| &alive[index]).filter(|child| !child.has_ended()).cloned())
            }
            Err(_) => return,
        }
    }
}
