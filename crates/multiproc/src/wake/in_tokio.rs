//! Waiting with the tokio runtime that polls the future.
//!
//! A runtime whose builder was not told `enable_io` can't do it, and there is no way to ask: to
//! register a descriptor there panics. So this is tried once for each runtime, with the panic hook
//! silenced for this thread, and what came of it is remembered. In a program that is built with
//! `panic = "abort"` it can't be tried, and tokio is left alone.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, Id};

use super::Source;

/// A descriptor in a runtime's event loop.
pub(super) struct Registration {
    /// A copy: the loop takes a descriptor only once, and there may be other futures that wait for the same.
    fd: AsyncFd<OwnedFd>,
}

/// How many runtimes are remembered.
const REMEMBERED: usize = 64;

/// The runtimes that have been tried last, and whether they have I/O.
static TRIED: Mutex<VecDeque<(Id, bool)>> = Mutex::new(VecDeque::new());

impl Registration {
    /// None where there is no runtime, or it can't do it: no I/O, no descriptor left.
    pub(super) fn here(source: &impl Source) -> Option<Registration> {
        // The panic hook can't be touched by a thread that panics.
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
                let registered = in_silence(|| catch_unwind(AssertUnwindSafe(|| register(fd))));
                remember(runtime, registered.is_ok());
                registered.ok()?
            }
        };
        Some(Registration { fd: registered.ok()? })
    }

    /// Ready when something has happened since the last time.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.fd.poll_read_ready(context))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}

/// Whether a runtime has I/O, if that is known.
fn has_io(runtime: Id) -> Option<bool> {
    let tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
    tried.iter().find(|(id, _)| *id == runtime).map(|(_, has_io)| *has_io)
}

fn remember(runtime: Id, has_io: bool) {
    let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
    tried.truncate(REMEMBERED - 1);
    tried.push_front((runtime, has_io));
}

/// Calls `function`, and has a panic of this thread inside print nothing. Those of other threads go
/// to the panic hook of before.
fn in_silence<T>(function: impl FnOnce() -> T) -> T {
    static TURN: Mutex<()> = Mutex::new(());
    /// Tells when the hook has been dropped.
    struct InPlace(Arc<AtomicBool>);

    impl Drop for InPlace {
        fn drop(&mut self) {
            self.0.store(false, SeqCst);
        }
    }

    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let this = std::thread::current().id();
    let is_in_place = Arc::new(AtomicBool::new(true));
    let original = Arc::new(std::panic::take_hook());
    let hook = {
        let (original, in_place) = (original.clone(), InPlace(is_in_place.clone()));
        move |info: &std::panic::PanicHookInfo<'_>| {
            let _ = &in_place;
            if std::thread::current().id() != this {
                original(info);
            }
        }
    };
    std::panic::set_hook(Box::new(hook));
    let result = function();
    // Another thread may have set a hook of its own at this moment: it is the last, and stays.
    if is_in_place.load(SeqCst) {
        drop(std::panic::take_hook());
        if let Ok(original) = Arc::try_unwrap(original) {
            std::panic::set_hook(original);
        }
    }
    result
}

/// Deprecated in favour of an unsafe function, since what it takes might close its descriptor; an `OwnedFd` can't. So there is no need for
/// that, nor for the release of tokio that has it.
#[allow(deprecated)]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
