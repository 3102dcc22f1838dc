//! The end of a process as a future: `child.await?` gives the target's value, `(&child).await?` the status.
//!
//! A future is woken by the pidfd. Who waits for that: in a tokio runtime, with the feature `tokio`, the runtime itself; everywhere else
//! the [watcher](super::watcher), a thread that all futures of a program share.

use std::fmt;
use std::future::IntoFuture;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use serde::de::DeserializeOwned;

use super::child::{Child, ProcessHandle, Shared};
use super::status::{ExitStatus, JoinError, JoinErrorKind};
use super::watcher::Watch;
use crate::Result;

/// Waits for the process and gives what its target returned, as [`Child::join`] does, in `async` code on any executor.
///
/// ```
/// use multiproc::Process;
///
/// # #[multiproc::main]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let child = Process::new(|a: u64, b: u64| a * b, (6, 7)).start()?;
/// assert_eq!(child.await?, 42);
/// # Ok(())
/// # }
/// ```
impl<T: DeserializeOwned> IntoFuture for Child<T> {
    type Output = Result<T, JoinError>;
    type IntoFuture = JoinFuture<T>;

    fn into_future(mut self) -> JoinFuture<T> {
        self.stdin = None;
        JoinFuture { waiting: Waiting::new(self.as_ref()), child: Some(self) }
    }
}

/// Waits for the process and gives its status, as [`wait`](ProcessHandle::wait) does, in `async` code on any executor.
///
/// ```
/// use std::time::Duration;
/// use multiproc::Process;
///
/// # #[multiproc::main]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let child = Process::new(std::thread::sleep, (Duration::from_secs(1000),)).start()?;
/// if tokio::time::timeout(Duration::from_millis(20), &child).await.is_err() {
///     child.kill()?;
/// }
/// assert_eq!((&child).await?.exit_code(), Some(-9));
/// # Ok(())
/// # }
/// ```
impl<T> IntoFuture for &Child<T> {
    type Output = Result<ExitStatus>;
    type IntoFuture = WaitFuture;

    fn into_future(self) -> WaitFuture {
        self.as_ref().into_future()
    }
}

/// As for a reference to a [`Child`].
impl IntoFuture for &ProcessHandle {
    type Output = Result<ExitStatus>;
    type IntoFuture = WaitFuture;

    fn into_future(self) -> WaitFuture {
        WaitFuture { waiting: Waiting::new(self) }
    }
}

/// As for a reference.
impl IntoFuture for ProcessHandle {
    type Output = Result<ExitStatus>;
    type IntoFuture = WaitFuture;

    fn into_future(self) -> WaitFuture {
        (&self).into_future()
    }
}

/// The value that a process's target will return: what a [`Child`] is when it is awaited. If the process's standard input is a pipe of ours,
/// that is closed first.
///
/// Dropping it before it is done is dropping the `Child`: nothing happens to the process, and its value is nobody's any more. Where a
/// timeout or `select!` may drop it, await `&child`, and `child` once that is done. A large value is decoded by the poll that completes
/// the future.
///
/// On an executor that is not tokio's, or without the feature `tokio`, the first future that has to wait starts a thread that waits for the
/// ends of processes, and stays: one for the whole program. ([`StartMethod::Fork`](crate::StartMethod::Fork) is refused from then on.)
///
/// With the feature, tokio's own event loop does it, so the runtime's thread must not be blocked meanwhile. A runtime without I/O is told by a
/// panic of tokio's, which is caught, and seen once on stderr: in a program that is built with `panic = "abort"`, have the builder
/// `enable_io`, or leave the feature off.
///
/// # Errors
/// As [`Child::join`]; also when the thread that would wait can't be started.
#[must_use = "futures do nothing unless they are awaited"]
pub struct JoinFuture<T> {
    waiting: Waiting,
    /// None once it is done.
    child: Option<Child<T>>,
}

/// The status that a process will have: what a reference to a [`Child`] or [`ProcessHandle`] is when it is awaited.
///
/// Any number may wait for the same process. Dropping one does nothing to the process and loses nothing. Who waits for the process is said
/// at [`JoinFuture`].
///
/// # Errors
/// As [`ProcessHandle::wait`]; also when the thread that would wait can't be started.
#[must_use = "futures do nothing unless they are awaited"]
pub struct WaitFuture {
    waiting: Waiting,
}

impl<T: DeserializeOwned> Future for JoinFuture<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    /// When it is polled again after it was done, as `async` blocks do.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let status = ready!(self.waiting.poll(context));
        let child = self.child.take().expect("a future must not be polled again after it was done");
        Poll::Ready(match status {
            Ok(status) => self.waiting.handle.shared().value(status),
            Err(error) => Err(JoinError::new(child.name(), JoinErrorKind::Wait(error))),
        })
    }
}

impl Future for WaitFuture {
    type Output = Result<ExitStatus>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let status = ready!(self.waiting.poll(context));
        Poll::Ready(status.map_err(|source| self.waiting.handle.error("wait for", source)))
    }
}

impl<T> fmt::Debug for JoinFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinFuture").field(&self.waiting.handle).finish()
    }
}

impl fmt::Debug for WaitFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WaitFuture").field(&self.waiting.handle).finish()
    }
}

/// What both futures do: wait for the end.
struct Waiting {
    handle: ProcessHandle,
    by: By,
}

/// Who wakes the future.
enum By {
    /// Nobody: it has not had to wait yet, or is done.
    Nobody,
    Watcher(Watch),
    #[cfg(feature = "tokio")]
    Tokio(tokio::Registration),
}

impl Waiting {
    fn new(handle: &ProcessHandle) -> Waiting {
        Waiting { handle: handle.clone(), by: By::Nobody }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<ExitStatus>> {
        let process = self.handle.shared();
        loop {
            // In this order: once somebody is to wake us, no end is missed.
            if let Some(status) = process.reap()? {
                self.by = By::Nobody;
                return Poll::Ready(Ok(status));
            }
            match &mut self.by {
                By::Nobody => self.by = By::here(process),
                By::Watcher(watch) => {
                    watch.wake(context.waker())?;
                    return Poll::Pending;
                }
                #[cfg(feature = "tokio")]
                By::Tokio(registration) => match ready!(registration.poll(context)) {
                    Ok(()) => {}
                    // The runtime is shutting down; the future may well live on in another.
                    Err(_) => self.by = By::Watcher(Watch::new(process.clone())),
                },
            }
        }
    }
}

impl By {
    /// Whoever is there to do it where the future is polled first.
    fn here(process: &Arc<Shared>) -> By {
        #[cfg(feature = "tokio")]
        if let Some(registration) = tokio::Registration::here(process) {
            return By::Tokio(registration);
        }
        By::Watcher(Watch::new(process.clone()))
    }
}

/// Waiting with the runtime that polls the future.
#[cfg(feature = "tokio")]
mod tokio {
    use std::os::fd::OwnedFd;
    use std::panic::catch_unwind;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::task::ready;

    use ::tokio::io::Interest;
    use ::tokio::io::unix::AsyncFd;
    use ::tokio::runtime::Handle;

    use super::{Context, Poll, Shared, io};

    /// A pidfd in a runtime's event loop.
    pub(super) struct Registration {
        /// A copy: the loop takes a descriptor only once, and there may be other futures of the same process.
        pidfd: AsyncFd<OwnedFd>,
    }

    /// Whether a runtime without I/O has been seen.
    static WITHOUT_IO: AtomicBool = AtomicBool::new(false);

    impl Registration {
        /// None where there is no runtime, or it can't do it: no I/O, no descriptor left.
        pub(super) fn here(process: &Shared) -> Option<Registration> {
            if WITHOUT_IO.load(Relaxed) || Handle::try_current().is_err() {
                return None;
            }
            let pidfd = process.exit_fd().try_clone_to_owned().ok()?;
            // In a runtime whose builder was not told `enable_io` this panics, and there is no way to ask before. Its message is seen once.
            match catch_unwind(|| register(pidfd)) {
                Ok(registered) => Some(Registration { pidfd: registered.ok()? }),
                Err(_) => {
                    WITHOUT_IO.store(true, Relaxed);
                    None
                }
            }
        }

        /// Ready when something has happened since the last time.
        pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            ready!(self.pidfd.poll_read_ready(context))?.clear_ready();
            Poll::Ready(Ok(()))
        }
    }
    /// Deprecated in favour of an unsafe function, since what it takes might close its descriptor; an `OwnedFd` can't. So there is no need for
    /// that, nor for the release of tokio that has it.
    #[allow(deprecated)]
    fn register(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
        AsyncFd::with_interest(pidfd, Interest::READABLE)
    }
}
