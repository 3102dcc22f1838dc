//! The end of a process as a future: `child.await?` gives the target's value, `(&child).await?` the
//! status.
//!
//! A future is woken by the pidfd; the module [`wake`](crate::wake) says which thread waits for
//! that.

use std::fmt;
use std::future::IntoFuture;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use multiproc_os::signal::{SIGKILL, SIGTERM};
use multiproc_shm::wake::{Source, Wakeup};
use serde::de::DeserializeOwned;

use super::child::{Child, ProcessHandle};
use super::error::ChildError;
use crate::runtime::child::ChildRecord;
use crate::spec::status::{ExitStatus, JoinError, JoinErrorKind};

/// Joins the process like [`Child::join`], in `async` code on any executor.
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

/// Waits for the process like [`wait`](ProcessHandle::wait), in `async` code on any executor.
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
    type Output = Result<ExitStatus, ChildError>;
    type IntoFuture = WaitFuture;

    fn into_future(self) -> WaitFuture {
        self.as_ref().into_future()
    }
}

impl ProcessHandle {
    /// Sends SIGKILL and waits until the process has ended, in `async` code on any executor. Unlike
    /// [`kill`](ProcessHandle::kill), it doesn't block the thread.
    ///
    /// ```
    /// use std::time::Duration;
    /// use multiproc::Process;
    ///
    /// # #[multiproc::main]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let child = Process::new(std::thread::sleep, (Duration::from_secs(1000),)).start()?;
    /// if tokio::time::timeout(Duration::from_secs(5), child.terminate_async()).await.is_err() {
    ///     child.kill_async().await?; // it does not care for SIGTERM
    /// }
    /// assert_eq!(child.exit_code(), Some(-15));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The first poll sends the signal. If the future is dropped after that, the process still
    /// ends.
    ///
    /// # Errors
    /// [`ChildError`](crate::process::ChildError) as for [`kill`](ProcessHandle::kill), and as for
    /// [`WaitFuture`].
    pub async fn kill_async(&self) -> Result<ExitStatus, ChildError> {
        self.signal(SIGKILL)?;
        self.await
    }

    /// Sends SIGTERM and waits until the process has ended; forever, if it ignores the signal. See
    /// [`kill_async`](ProcessHandle::kill_async).
    ///
    /// # Errors
    /// As [`kill_async`](ProcessHandle::kill_async).
    pub async fn terminate_async(&self) -> Result<ExitStatus, ChildError> {
        self.signal(SIGTERM)?;
        self.await
    }
}

impl<T> Child<T> {
    /// Sends SIGKILL and waits until the process has ended, in `async` code on any executor. See
    /// [`ProcessHandle::kill_async`].
    ///
    /// # Errors
    /// As [`ProcessHandle::kill_async`].
    pub async fn kill_async(&self) -> Result<ExitStatus, ChildError> {
        self.as_ref().kill_async().await
    }

    /// Sends SIGTERM and waits until the process has ended; forever, if it ignores the signal. See
    /// [`ProcessHandle::kill_async`].
    ///
    /// # Errors
    /// As [`ProcessHandle::kill_async`].
    pub async fn terminate_async(&self) -> Result<ExitStatus, ChildError> {
        self.as_ref().terminate_async().await
    }
}

/// Waits for the process, as a reference to a [`Child`] does.
impl IntoFuture for &ProcessHandle {
    type Output = Result<ExitStatus, ChildError>;
    type IntoFuture = WaitFuture;

    fn into_future(self) -> WaitFuture {
        WaitFuture { waiting: Waiting::new(self) }
    }
}

/// Waits for the process, as a reference does.
impl IntoFuture for ProcessHandle {
    type Output = Result<ExitStatus, ChildError>;
    type IntoFuture = WaitFuture;

    fn into_future(self) -> WaitFuture {
        (&self).into_future()
    }
}

/// The future of a target's value: what awaiting a [`Child`] creates. If the process's standard
/// input is a pipe of this process, it is closed first.
///
/// Dropping the future before it is ready drops the `Child`: nothing happens to the process, but
/// its value can't be received any more. Where a timeout or `select!` may drop it, await `&child`,
/// and then `child`. A large value is decoded by the poll that completes the future.
///
/// On an executor other than tokio's, or without the feature `tokio`, the first future that must
/// wait starts a thread that waits for the ends of processes. The thread stays; the whole program
/// has one. ([`StartMethod::Fork`](crate::StartMethod::Fork) is refused from then on.)
///
/// With the feature, tokio's own event loop waits, so the runtime's thread must not be blocked
/// meanwhile. The thread of this library is still used where a runtime has no I/O (its builder was
/// not told `enable_io`), and in programs that are built with `panic = "abort"`: tokio reports
/// missing I/O only by a panic. That panic is caught, and the program's panic hook doesn't see it.
///
/// # Errors
/// As [`Child::join`]; also if the waiting thread can't be started.
#[must_use = "futures do nothing unless they are awaited"]
pub struct JoinFuture<T> {
    waiting: Waiting,
    /// None once the future is ready.
    child: Option<Child<T>>,
}

/// The future of a process's status: what awaiting a reference to a [`Child`] or [`ProcessHandle`]
/// creates.
///
/// Any number of futures may wait for the same process. Dropping one does nothing to the process
/// and loses nothing. [`JoinFuture`] says which thread waits.
///
/// # Errors
/// As [`ProcessHandle::wait`]; also if the waiting thread can't be started.
#[must_use = "futures do nothing unless they are awaited"]
pub struct WaitFuture {
    waiting: Waiting,
}

impl<T: DeserializeOwned> Future for JoinFuture<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    /// When it is polled again after it was ready, as `async` blocks do.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let status = ready!(self.waiting.poll(context));
        let child = self.child.take().expect("the future was polled again after it was ready");
        Poll::Ready(match status {
            Ok(status) => self.waiting.handle.record().value(status),
            Err(error) => Err(JoinError::new(child.name(), JoinErrorKind::Wait(error))),
        })
    }
}

impl Future for WaitFuture {
    type Output = Result<ExitStatus, ChildError>;

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

/// The part that both futures share: waiting for the end.
struct Waiting {
    handle: ProcessHandle,
    wakeup: Wakeup,
}

impl Waiting {
    fn new(handle: &ProcessHandle) -> Waiting {
        Waiting { handle: handle.clone(), wakeup: Wakeup::default() }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<ExitStatus>> {
        let process = self.handle.record();
        loop {
            if let Some(status) = process.reap()? {
                self.wakeup = Wakeup::default();
                return Poll::Ready(Ok(status));
            }
            ready!(self.wakeup.poll(process, context))?;
        }
    }
}

impl Source for ChildRecord {
    fn fd(&self) -> BorrowedFd<'_> {
        self.exit_fd()
    }
}
