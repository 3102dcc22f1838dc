//! What a process does at its end: finalizers, then its children, then the remaining finalizers.
//!
//! The end comes when `main` returns or panics (the guard that `#[multiproc::main]` puts there), when a child's target has returned,
//! and at `std::process::exit` (atexit(3)). Whichever comes first does the work; what is added later is done by those that follow.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use multiproc_os::{interrupt, lifeline, threads};

use super::{children, current};
use crate::start::forkserver;
use crate::start::handshake::PATIENCE;
use crate::{Error, Result, log};

type Function = Box<dyn FnOnce() + Send>;

/// Priority and id: the greatest runs first.
type Key = (i32, u64);

struct Finalizers {
    /// Those that have been registered and are not due yet.
    registered: BTreeMap<Key, Function>,
    /// Those of the round that is under way.
    round: BTreeMap<Key, Function>,
}

static FINALIZERS: Mutex<Finalizers> = Mutex::new(Finalizers { registered: BTreeMap::new(), round: BTreeMap::new() });
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// A function that will run at the end of this process. Dropping this changes nothing; see [`cancel`](Finalizer::cancel).
#[derive(Debug)]
pub struct Finalizer {
    key: Key,
}

impl Finalizer {
    /// Takes the function back. False when it has run, or is running.
    pub fn cancel(self) -> bool {
        let mut finalizers = lock();
        let function = finalizers.registered.remove(&self.key).or_else(|| finalizers.round.remove(&self.key));
        // What the function has captured is the user's, and may register finalizers when it is
        // dropped.
        drop(finalizers);
        function.is_some()
    }
}

/// Has `function` called when this process ends: at the end of `main`, or of the target of a child; at a panic there; and at
/// `std::process::exit`. Not after `abort` or a signal.
///
/// Those of priority 0 and above run before this process's children are ended or waited for, the others after; the higher priority
/// first, and of the same priority the later registered. A panic in one doesn't keep the others from running.
///
/// A finalizer may start processes, and register further finalizers. A finalizer that is registered
/// during the end runs after those that were registered before the end, whatever its priority, and
/// there is a fixed number of such rounds: a finalizer that registers itself again doesn't keep the
/// process from ending. Finalizers that are left after the last round are neither called nor
/// dropped, and a warning is logged.
///
/// ```
/// # #[multiproc::main]
/// # fn main() {
/// multiproc::at_exit(10, || println!("first"));
/// multiproc::at_exit(0, || println!("then children end, and then"));
/// multiproc::at_exit(-1, || println!("last"));
/// # }
/// ```
pub fn at_exit(priority: i32, function: impl FnOnce() + Send + 'static) -> Finalizer {
    // Without a place at exit(3), which is a matter of memory, the guards of main and of the targets still run it.
    let _ = arrange();
    let key = (priority, NEXT_ID.fetch_add(1, Relaxed));
    lock().registered.insert(key, Box::new(function));
    Finalizer { key }
}

fn lock() -> MutexGuard<'static, Finalizers> {
    FINALIZERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process that has arranged for `std::process::exit` to come by here. Copies of it, made by fork(2) elsewhere, inherit the arrangement.
static ARRANGED: AtomicI32 = AtomicI32::new(0);

/// Whether `exit` has begun, and waits for nobody any more.
static EXITING: AtomicBool = AtomicBool::new(false);

/// Makes sure that `std::process::exit` comes by here.
pub(crate) fn arrange() -> Result<()> {
    let this = threads::getpid();
    match ARRANGED.swap(this, Relaxed) {
        0 => multiproc_os::at_exit::register(on_exit)
            .map_err(|source| Error::Setup { what: "arrange for the end of the process", source }),
        before => {
            if before != this {
                // The threads that were starting something are not in this copy.
                *lock_in_flight() = 0;
            }
            Ok(())
        }
    }
}

/// In a process that does nothing but make copies of itself: spares each of them the place at
/// exit(3), which they inherit.
pub(crate) fn arrange_for_copies() {
    if multiproc_os::at_exit::register(on_exit).is_ok() {
        ARRANGED.store(-1, Relaxed);
    }
}

/// In a copy of this process that has just been forked: the finalizers are its creator's. They are not dropped either: what they have
/// captured may be somebody's temporary file.
pub(crate) fn forget() {
    let mut finalizers = lock();
    std::mem::forget((std::mem::take(&mut finalizers.registered), std::mem::take(&mut finalizers.round)));
}

/// How many starts are under way.
static IN_FLIGHT: Mutex<usize> = Mutex::new(0);

/// Told when one has come to its end.
static LANDED: Condvar = Condvar::new();

fn lock_in_flight() -> MutexGuard<'static, usize> {
    IN_FLIGHT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A start that is under way, which the end of the process waits for: it may already have made a process that is nobody's child yet. No code
/// of the user's runs meanwhile.
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
        // What a Ctrl-C has done to the start, its caller must not learn any more.
        interrupt::hold();
        let mut in_flight = lock_in_flight();
        *in_flight -= 1;
        // The exit says under the same lock that it waits.
        if EXITING.load(Relaxed) {
            LANDED.notify_all();
        }
    }
}

/// Lets no start begin any more, and waits for those that are under way.
fn begin_exit() {
    let in_flight = lock_in_flight();
    EXITING.store(true, Relaxed);
    if *in_flight > 0 {
        // No start takes longer than its patience; and what other threads have started in between
        // is waited for too.
        drop(LANDED.wait_timeout_while(in_flight, PATIENCE, |in_flight| *in_flight > 0));
    }
}

extern "C" fn on_exit() {
    // A copy that has had nothing to do with multiproc has nothing to end; and any lock may be held in it for ever.
    if ARRANGED.load(Relaxed) == threads::getpid() {
        // Nothing may unwind into the C library.
        let _ = catch_unwind(|| {
            children::close_inputs();
            run();
            tell_of_the_rest();
            begin_exit();
            children::end();
            log::flush(false);
            forkserver::end();
        });
    }
}

/// Ends this process's part of the world; what is left to its caller is to exit.
pub(crate) fn run() {
    interrupt::hold();
    lifeline::look();
    /// The process that has begun its end. A copy made by fork(2) elsewhere has its own to come.
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
    // For those that the last finalizers have started.
    children::end();
    log::flush(first);
    forkserver::end();
}

/// Runs those of at least this priority, in order; then those that have been registered meanwhile.
/// No more than that: they may always register others, and so may other threads.
fn run_finalizers(lowest: i32) {
    for _ in 0..2 {
        begin_round(lowest);
        while let Some((priority, function)) = take_next(lowest) {
            run_finalizer(priority, function);
        }
    }
}

/// From now on those of at least this priority are due that are there now.
fn begin_round(lowest: i32) {
    let mut finalizers = lock();
    let mut due = finalizers.registered.split_off(&(lowest, 0));
    // There are some already if one of them has called `exit`.
    finalizers.round.append(&mut due);
}

/// The next one in order of those that are due.
fn take_next(lowest: i32) -> Option<(i32, Function)> {
    let mut finalizers = lock();
    let first = finalizers.round.last_entry().filter(|entry| entry.key().0 >= lowest)?;
    let ((priority, _), function) = first.remove_entry();
    Some((priority, function))
}

fn run_finalizer(priority: i32, function: Function) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(function)) else { return };
    // It is the user's, and may panic when it is dropped.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
    let process = current::current_process();
    log::event(log::Level::Warn, format_args!("a finalizer of priority {priority} panicked in {}", process.name()));
}

/// Says how many finalizers there are that will not run.
fn tell_of_the_rest() {
    let left = lock().registered.len();
    if left > 0 {
        let (process, them) = (current::current_process(), if left == 1 { "it was" } else { "they were" });
        log::event(
            log::Level::Warn,
            format_args!(
                "{left} finalizers of {} do not run: {them} registered by finalizers that finalizers had registered",
                process.name()
            ),
        );
    }
}
