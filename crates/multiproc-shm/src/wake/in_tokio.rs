//! Waiting in the tokio runtime that polls the future.
//!
//! A runtime built without `enable_io` can't wait for descriptors, and there is no way to ask:
//! registering a descriptor there panics. So one registration is tried in each runtime, with the
//! panic hook silenced for this thread, and the outcome is remembered. A program built with
//! `panic = "abort"` can't try, so tokio isn't used there.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use multiproc_os::fork_local::ForkLocal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, Id};

use super::Source;

/// A descriptor registered with a runtime's event loop.
pub(crate) struct Registration {
    /// A duplicate: the event loop takes a descriptor only once, and other futures may wait for the
    /// same one.
    fd: AsyncFd<OwnedFd>,
}

/// The number of runtimes that are remembered.
const MAX_RUNTIMES: usize = 64;

/// The runtimes tried most recently, and whether they have I/O.
static RUNTIMES: ForkLocal<Mutex<VecDeque<(Id, bool)>>> = ForkLocal::new();

impl Registration {
    /// Registers the source with the current runtime. None if there is no runtime, it has no I/O,
    /// or there is no descriptor left.
    pub(crate) fn here(source: &impl Source) -> Option<Registration> {
        // A panicking thread can't change the panic hook.
        if cfg!(panic = "abort") || std::thread::panicking() {
            return None;
        }
        let runtime = Handle::try_current().ok()?.id();
        let fd = || source.fd().try_clone_to_owned().ok();
        let registered = match has_io(runtime) {
            Some(false) => return None,
            Some(true) => register(fd()?),
            None => {
                let fd = fd()?;
                let registered = with_silent_panics(|| catch_unwind(AssertUnwindSafe(|| register(fd))));
                remember(runtime, registered.is_ok());
                registered.ok()?
            }
        };
        Some(Registration { fd: registered.ok()? })
    }

    /// Ready when something has happened since the last call.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.fd.poll_read_ready(context))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}

/// Whether a runtime has I/O, if that is known.
fn has_io(runtime: Id) -> Option<bool> {
    let tried = RUNTIMES.get().lock().unwrap_or_else(PoisonError::into_inner);
    tried.iter().find(|(id, _)| *id == runtime).map(|(_, has_io)| *has_io)
}

fn remember(runtime: Id, has_io: bool) {
    let mut tried = RUNTIMES.get().lock().unwrap_or_else(PoisonError::into_inner);
    tried.truncate(MAX_RUNTIMES - 1);
    tried.push_front((runtime, has_io));
}

/// Calls `function`, and silences a panic of this thread inside it. Panics of other threads still
/// go to the previous panic hook.
fn with_silent_panics<T>(function: impl FnOnce() -> T) -> T {
    static TURN: ForkLocal<Mutex<()>> = ForkLocal::new();
    /// Records when the hook has been dropped.
    struct HookGuard(Arc<AtomicBool>);

    impl Drop for HookGuard {
        fn drop(&mut self) {
            self.0.store(false, SeqCst);
        }
    }

    let _turn = TURN.get().lock().unwrap_or_else(PoisonError::into_inner);
    let this = std::thread::current().id();
    let is_in_place = Arc::new(AtomicBool::new(true));
    let original = Arc::new(std::panic::take_hook());
    let hook = {
        let (original, in_place) = (original.clone(), HookGuard(is_in_place.clone()));
        move |info: &std::panic::PanicHookInfo<'_>| {
            let _ = &in_place;
            if std::thread::current().id() != this {
                original(info);
            }
        }
    };
    std::panic::set_hook(Box::new(hook));
    let result = function();
    // Another thread may have set a hook of its own at this moment: that one is the latest, and
    // stays.
    if is_in_place.load(SeqCst) {
        drop(std::panic::take_hook());
        if let Ok(original) = Arc::try_unwrap(original) {
            std::panic::set_hook(original);
        }
    }
    result
}

/// Calls the constructor that tokio has deprecated in favour of an unsafe one, since its argument
/// might close its descriptor. An `OwnedFd` can't, so neither the unsafe function nor the tokio
/// release that has it is needed.
#[allow(deprecated)]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
