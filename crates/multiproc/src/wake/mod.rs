//! Futures that wait for a descriptor to become readable, on any executor.
//!
//! Who waits for that: in a tokio runtime, with the feature `tokio`, the runtime itself; everywhere else the [watcher], a thread that all futures of a
//! program share.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

#[cfg(feature = "tokio")]
mod in_tokio;
mod watcher;

/// Something with a descriptor that becomes readable when the time has come.
pub(crate) trait Source: Send + Sync + 'static {
    fn fd(&self) -> BorrowedFd<'_>;
}

/// Leaves the runtime's thread to other tasks now and then, where everything that is waited for is
/// there at once.
#[cfg(feature = "async")]
pub(crate) async fn take_turns() {
    #[cfg(feature = "tokio")]
    tokio::task::coop::consume_budget().await;
}

/// What wakes one future.
#[derive(Default)]
pub(crate) struct Wakeup(By);

#[derive(Default)]
enum By {
    /// Nobody: it has not had to wait yet.
    #[default]
    Nobody,
    Watcher(watcher::Watch),
    #[cfg(feature = "tokio")]
    Tokio(in_tokio::Registration),
}

impl Wakeup {
    /// To be called, always with the same source, when it has been seen that there is nothing yet. Ready: look again. Pending: the waker is woken when `source` is
    /// readable, perhaps without need; if it has become so since the last look, at once.
    ///
    /// # Errors
    /// `EMFILE`, or `EAGAIN` at the limit of threads, if the watcher had to be started; `ENOSPC` when the user watches too much.
    pub(crate) fn poll<S: Source>(&mut self, source: &Arc<S>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
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
                    // The runtime is shutting down; the future may well live on in another.
                    Err(_) => self.0 = By::Watcher(watcher::Watch::new(source.clone())),
                },
            }
        }
    }
}

impl By {
    /// Whoever is there to do it where the future is polled first.
    fn here<S: Source>(source: &Arc<S>) -> By {
        #[cfg(feature = "tokio")]
        if let Some(registration) = in_tokio::Registration::here(&**source) {
            return By::Tokio(registration);
        }
        By::Watcher(watcher::Watch::new(source.clone()))
    }
}
