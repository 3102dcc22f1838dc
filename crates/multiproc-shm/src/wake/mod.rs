//! Futures that wait for a descriptor to become readable, on any executor.
//!
//! In a tokio runtime, with the feature `tokio`, the runtime itself waits for the descriptor;
//! everywhere else the [watcher] does, a thread that all futures of a program share.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

#[cfg(feature = "tokio")]
mod in_tokio;
mod watcher;

/// Something with a descriptor that becomes readable when the future should be polled again.
pub trait Source: Send + Sync + 'static {
    /// Returns the descriptor.
    fn fd(&self) -> BorrowedFd<'_>;
}

/// Yields to other tasks of the runtime now and then, for futures that are always ready at once.
#[cfg(feature = "async")]
pub async fn take_turns() {
    #[cfg(feature = "tokio")]
    tokio::task::coop::consume_budget().await;
}

/// What wakes a future when its descriptor becomes readable.
#[derive(Default)]
pub struct Wakeup(By);

#[derive(Default)]
enum By {
    /// Not chosen yet: the future has not had to wait.
    #[default]
    Nobody,
    Watcher(watcher::Watch),
    #[cfg(feature = "tokio")]
    Tokio(in_tokio::Registration),
}

impl Wakeup {
    /// Waits for `source`. A future calls this, always with the same source, after it has found
    /// that there is nothing to do yet. Ready: the caller must check again. Pending: the waker is
    /// woken when `source` is readable, perhaps spuriously; at once if it has become readable since
    /// the last check.
    ///
    /// # Errors
    /// `EMFILE`, or `EAGAIN` at the limit of threads, if the watcher had to be started; `ENOSPC`
    /// when the user has too many descriptors in epoll sets.
    pub fn poll<S: Source>(&mut self, source: &Arc<S>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.0 {
                By::Nobody => self.0 = By::here(source),
                By::Watcher(watch) => {
                    watch.wake(context.waker())?;
                    return Poll::Pending;
                }
                #[cfg(feature = "tokio")]
                By::Tokio(registration) => match std::task::ready!(registration.poll(context)) {
                    Ok(()) => return Poll::Ready(Ok(())),
                    // The runtime is shutting down; the future may go on in another one.
                    Err(_) => self.0 = By::Watcher(watcher::Watch::new(source.clone())),
                },
            }
        }
    }
}

impl By {
    /// Chooses the runtime that polls the future first, or else the watcher.
    fn here<S: Source>(source: &Arc<S>) -> By {
        #[cfg(feature = "tokio")]
        if let Some(registration) = in_tokio::Registration::here(&**source) {
            return By::Tokio(registration);
        }
        By::Watcher(watcher::Watch::new(source.clone()))
    }
}
