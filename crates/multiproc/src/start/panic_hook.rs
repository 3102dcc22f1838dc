//! Panics in a child: what the child prints, and what it reports to its parent.

use std::any::Any;
use std::cell::RefCell;
use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::spec::report::{Failure, Report};
use crate::spec::status::Panic;

thread_local! {
    /// The last panic that the hook has seen in this thread.
    static LAST: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// How many times a hook has been installed, in this process and in those that it is a copy of.
static INSTALLED: AtomicUsize = AtomicUsize::new(0);

/// In a program built with `panic = "abort"`: the socket on which this process reports a panic.
static SOCKET: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Installs a panic hook in this process, the child `name`, that prints `Process NAME:` and calls
/// the hook that was installed before. Unless the program has set another, that is the standard
/// library's: it prints the thread, the location and the message, and with `RUST_BACKTRACE=1` the
/// stack up to [`__rust_begin_short_backtrace`].
///
/// In a program built with `panic = "abort"`, a panic can't be caught. There the hook itself
/// reports a panic of the target on `socket`, and ends the process with code 1, as in other
/// programs.
pub(crate) fn install(name: &str, socket: &OwnedFd) {
    let name = name.to_owned();
    let target_thread = thread::current().id();
    let pid = multiproc_os::threads::getpid();
    if cfg!(panic = "abort") {
        *SOCKET.lock().unwrap_or_else(PoisonError::into_inner) = socket.try_clone().ok();
    }
    let number = INSTALLED.fetch_add(1, Relaxed) + 1;
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if INSTALLED.load(Relaxed) != number {
            // This process is a copy of the child `name`, and has a hook of its own that has called
            // this one.
            return previous(info);
        }
        multiproc_os::stdio::write_message(&format!("Process {name}:\n"));
        previous(info);
        let panic =
            Panic { message: message(info.payload()), location: info.location().map(|location| location.to_string()) };
        crate::log::failure::panicked(&panic, info.location());
        if cfg!(panic = "abort")
            && thread::current().id() == target_thread
            && pid == multiproc_os::threads::getpid()
            && let Some(socket) = &*SOCKET.lock().unwrap_or_else(PoisonError::into_inner)
        {
            Report::Failed(Failure::Panicked(panic)).send(socket.as_fd());
            crate::runtime::at_exit::run();
            super::run_child::leave_with(1);
        }
        LAST.with_borrow_mut(|last| *last = Some(panic));
    }));
}

/// Calls `function`, which calls code of the user. The standard library leaves the frames from here
/// on out of the backtrace of a panic, since the name of this function contains
/// `__rust_begin_short_backtrace`.
#[inline(never)]
fn __rust_begin_short_backtrace<T>(function: impl FnOnce() -> T) -> T {
    let result = function();
    // Prevents a tail call, which would remove this frame.
    black_box(());
    result
}

/// Calls `function`; a panic in it becomes the error.
pub(crate) fn catch<T>(function: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(|| __rust_begin_short_backtrace(function))).map_err(|payload| {
        let panic = Panic { message: message(&*payload), location: None };
        // Leaked, since dropping a payload may panic.
        std::mem::forget(payload);
        // If the target has installed its own hook, the panic that this module's hook has seen last
        // may be another one.
        let seen = LAST.take().filter(|seen| seen.message == panic.message);
        seen.unwrap_or(panic)
    })
}

fn message(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "Box<dyn Any>".to_owned(),
    }
}
