//! What a process does when it ends: it runs finalizers, ends or waits for its children, then runs
//! the remaining finalizers.
//!
//! The end begins when `main` returns or panics (`#[multiproc::main]` puts a guard there), when a
//! child's target has returned, and at `std::process::exit` (atexit(3)). The first of these does
//! the work; later ones do what has been added since.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use multiproc_os::{interrupt, lifeline, threads};

use super::{children, current};
use crate::log;

type Function = Box<dyn FnOnce() + Send>;

/// Priority and id: the greatest runs first.
type Key = (i32, u64);

struct Finalizers {
    /// Finalizers that have been registered and are not due yet.
    registered: BTreeMap<Key, Function>,
    /// Finalizers of the current round.
    round: BTreeMap<Key, Function>,
}

static FINALIZERS: Mutex<Finalizers> = Mutex::new(Finalizers { registered: BTreeMap::new(), round: BTreeMap::new() });
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// A function that will run at the end of this process. Dropping this value changes nothing; see
/// [`cancel`](Finalizer::cancel).
#[derive(Debug)]
pub struct Finalizer {
    key: Key,
}

impl Finalizer {
    /// Unregisters the function. Returns false if it has run or is running.
    pub fn cancel(self) -> bool {
        let mut finalizers = lock();
        let function = finalizers.registered.remove(&self.key).or_else(|| finalizers.round.remove(&self.key));
        // Dropping the function's captured values runs the user's code, which may register
        // finalizers.
        drop(finalizers);
        function.is_some()
    }
}

/// Registers `function` to be called when this process ends: at the end of `main`, or of a child's
/// target; after a panic there; and at `std::process::exit`. It is not called after `abort` or a
/// fatal signal.
///
/// Finalizers of priority 0 and above run before this process's children are ended or waited for,
/// the others after; higher priorities run first, and within one priority the later registered. A
/// panic in one finalizer doesn't keep the others from running.
///
/// A finalizer may start processes, and register further finalizers. A finalizer that is registered
/// during the end runs after those that were registered before the end, whatever its priority. The
/// number of such rounds is fixed, so a finalizer that registers itself again doesn't keep the
/// process from ending. Finalizers that are left after the last round are neither called nor
/// dropped, and a warning is logged.
///
/// ```
/// # #[multiproc::main]
/// # fn main() {
/// multiproc::process::at_exit(10, || println!("first"));
/// multiproc::process::at_exit(0, || println!("then children end, and then"));
/// multiproc::process::at_exit(-1, || println!("last"));
/// # }
/// ```
pub fn at_exit(priority: i32, function: impl FnOnce() + Send + 'static) -> Finalizer {
    // If atexit(3) fails, which happens only without memory, the guards of main and of the targets
    // still run it.
    let _ = arrange();
    let key = (priority, NEXT_ID.fetch_add(1, Relaxed));
    lock().registered.insert(key, Box::new(function));
    Finalizer { key }
}

fn lock() -> MutexGuard<'static, Finalizers> {
    FINALIZERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process that has registered `on_exit` with atexit(3). Copies of it, made by fork(2)
/// elsewhere, inherit the registration.
static ARRANGED: AtomicI32 = AtomicI32::new(0);

/// Whether `exit` has begun. From then on no start may begin.
static EXITING: AtomicBool = AtomicBool::new(false);

/// Makes sure that `std::process::exit` runs the exit steps of this module.
pub(crate) fn arrange() -> io::Result<()> {
    let this = threads::getpid();
    match ARRANGED.swap(this, Relaxed) {
        0 => multiproc_os::at_exit::register(on_exit),
        before => {
            if before != this {
                // The threads that were starting something don't exist in this copy.
                *lock_in_flight() = 0;
            }
            Ok(())
        }
    }
}

/// In a process that does nothing but make copies of itself: registers the exit handler once, so
/// that the copies inherit it and needn't register their own.
pub(crate) fn arrange_for_copies() {
    if multiproc_os::at_exit::register(on_exit).is_ok() {
        ARRANGED.store(-1, Relaxed);
    }
}

/// In a copy of this process that has just been forked: forgets the finalizers, which belong to the
/// original. They are not dropped: what they have captured, such as a temporary file, may still be
/// in use there.
pub(crate) fn forget() {
    let mut finalizers = lock();
    std::mem::forget((std::mem::take(&mut finalizers.registered), std::mem::take(&mut finalizers.round)));
}

/// The function that runs after all other exit steps.
static LAST: OnceLock<fn()> = OnceLock::new();

/// Makes `function` run at the end of this process, after the finalizers and after the ends of the
/// children. There can be one such function; later calls change nothing. It may run twice.
pub(crate) fn last(function: fn()) {
    let _ = LAST.set(function);
}

fn run_last() {
    if let Some(function) = LAST.get() {
        function();
    }
}

/// How long a start takes at most: the time for which a parent waits for an answer.
pub(crate) const LONGEST_START: Duration = Duration::from_secs(30);

/// The number of starts in flight.
static IN_FLIGHT: Mutex<usize> = Mutex::new(0);

/// Notified when a start in flight is over and the process is exiting.
static LANDED: Condvar = Condvar::new();

fn lock_in_flight() -> MutexGuard<'static, usize> {
    IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A start in flight. The end of the process waits for it, because it may already have made a
/// process that is not registered as a child yet. None of the user's code runs meanwhile.
pub(crate) struct InFlight(());

impl InFlight {
    /// None if it is too late to start anything.
    pub(crate) fn begin() -> Option<InFlight> {
        interrupt::hold();
        let mut in_flight = lock_in_flight();
        (!EXITING.load(Relaxed)).then(|| {
            *in_flight += 1;
            InFlight(())
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // If a Ctrl-C is ending this process, its effects on the start must not be reported to the
        // caller.
        interrupt::hold();
        let mut in_flight = lock_in_flight();
        *in_flight -= 1;
        // `begin_exit` sets the flag under the same lock, so it can't miss this notification.
        if EXITING.load(Relaxed) {
            LANDED.notify_all();
        }
    }
}

/// Refuses further starts, and waits for those in flight.
fn begin_exit() {
    let in_flight = lock_in_flight();
    EXITING.store(true, Relaxed);
    if *in_flight > 0 {
        // Children that other threads have started meanwhile are
        // waited for too.
        drop(LANDED.wait_timeout_while(in_flight, LONGEST_START, |in_flight| *in_flight > 0));
    }
}

extern "C" fn on_exit() {
    // A copy made by fork(2) that hasn't used multiproc has nothing to end, and any lock may be
    // held in it for ever.
    if ARRANGED.load(Relaxed) == threads::getpid() {
        // A panic must not unwind into the C library.
        let _ = catch_unwind(|| {
            children::close_inputs();
            run();
            tell_of_the_rest();
            begin_exit();
            children::end();
            log::flush(false);
            run_last();
        });
    }
}

/// Runs all exit steps; the caller only has to exit.
pub(crate) fn run() {
    interrupt::hold();
    lifeline::check();
    /// The process that has begun its end. A copy made by fork(2) elsewhere has its own end to
    /// come.
    static ENDING: AtomicI32 = AtomicI32::new(0);
    let first = ENDING.swap(threads::getpid(), Relaxed) != threads::getpid();
    let say = |level, text: &str| {
        if first {
            log::event(level, format_args!("{text}"));
        }
    };
    say(log::Level::Info, "process shutting down");
    say(log::Level::Debug, "running all \"atexit\" finalizers with priority >= 0");
    run_finalizers(0);
    children::end();
    say(log::Level::Debug, "running the remaining \"atexit\" finalizers");
    run_finalizers(i32::MIN);
    // The last finalizers may have started children.
    children::end();
    log::flush(first);
    run_last();
}

/// Runs the finalizers of at least this priority, in order; then those that have been registered
/// meanwhile. There are no further rounds, since finalizers and other threads could always register
/// more.
fn run_finalizers(lowest: i32) {
    for _ in 0..2 {
        begin_round(lowest);
        while let Some((priority, function)) = take_next(lowest) {
            run_finalizer(priority, function);
        }
    }
}

/// Makes all finalizers of at least this priority that are registered now due.
fn begin_round(lowest: i32) {
    let mut finalizers = lock();
    let mut due = finalizers.registered.split_off(&(lowest, 0));
    // Some are left from before if a finalizer has called `exit`.
    finalizers.round.append(&mut due);
}

/// Takes the next finalizer that is due.
fn take_next(lowest: i32) -> Option<(i32, Function)> {
    let mut finalizers = lock();
    let first = finalizers.round.last_entry().filter(|entry| entry.key().0 >= lowest)?;
    let ((priority, _), function) = first.remove_entry();
    Some((priority, function))
}

fn run_finalizer(priority: i32, function: Function) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(function)) else { return };
    // The panic's payload is the user's, and may panic when it is dropped.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
    let process = current::current_process();
    log::event(log::Level::Warn, format_args!("a finalizer of priority {priority} panicked in {}", process.name()));
}

/// Logs how many finalizers will not run.
fn tell_of_the_rest() {
    let left = lock().registered.len();
    if left > 0 {
        let (process, them) = (current::current_process(), if left == 1 { "it was" } else { "they were" });
        log::event(
            log::Level::Warn,
            format_args!(
                "{left} finalizers of {} will not run: {them} registered after the last round had begun",
                process.name()
            ),
        );
    }
}
