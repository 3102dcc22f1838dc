//! Waiting with the tokio runtime that polls the future.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use super::Source;

/// A descriptor in a runtime's event loop.
pub(super) struct Registration {
    /// A copy: the loop takes a descriptor only once, and there may be other futures that wait for the same.
    fd: AsyncFd<OwnedFd>,
}

/// Whether a runtime without I/O has been seen.
static WITHOUT_IO: AtomicBool = AtomicBool::new(false);

impl Registration {
    /// None where there is no runtime, or it can't do it: no I/O, no descriptor left.
    pub(super) fn here(source: &impl Source) -> Option<Registration> {
        if WITHOUT_IO.load(Relaxed) || Handle::try_current().is_err() {
            return None;
        }
        let fd = source.fd().try_clone_to_owned().ok()?;
        // In a runtime whose builder was not told `enable_io` this panics, and there is no way to ask before. Its message is seen once.
        match catch_unwind(|| register(fd)) {
            Ok(registered) => Some(Registration { fd: registered.ok()? }),
            Err(_) => {
                WITHOUT_IO.store(true, Relaxed);
                None
            }
        }
    }

    /// Ready when something has happened since the last time.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.fd.poll_read_ready(context))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}

/// Deprecated in favour of an unsafe function, since what it takes might close its descriptor; an `OwnedFd` can't. So there is no need for
/// that, nor for the release of tokio that has it.
#[allow(deprecated)]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
