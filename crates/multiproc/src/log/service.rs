//! A thread of ours that serves this process, as the relay and the capture each have one: found by all, started once, and not taken for there
//! in a copy of the process that somebody makes by fork(2), which has no such thread.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use multiproc_os::{signal, threads};

/// The place of one such service.
pub(super) struct Service<T> {
    /// The process that it is of; 0 before there is one. To be looked at without a lock by those who mostly find none.
    process: AtomicI32,
    /// What the thread shares with those who want something of it.
    shared: Mutex<Option<Arc<T>>>,
}

impl<T: Send + Sync + 'static> Service<T> {
    pub(super) const fn new() -> Service<T> {
        Service { process: AtomicI32::new(0), shared: Mutex::new(None) }
    }

    /// The service whose thread is in this process.
    pub(super) fn here(&self) -> Option<Arc<T>> {
        match self.process.load(Relaxed) {
            0 => None,
            process if process != threads::getpid() => None,
            _ => self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// The same; if there is none, one is launched: `make` makes what is shared, and a thread of this name, which takes no signals, does
    /// `serve` for as long as the process lives.
    ///
    /// # Errors
    /// Those of `make`; `EAGAIN` at the limit of threads.
    pub(super) fn here_or_launch(
        &self,
        name: &str,
        make: impl FnOnce() -> io::Result<T>,
        serve: fn(&T),
    ) -> io::Result<Arc<T>> {
        let mut current = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let this = threads::getpid();
        if self.process.load(Relaxed) == this
            && let Some(shared) = &*current
        {
            return Ok(shared.clone());
        }
        let shared = Arc::new(make()?);
        let its = shared.clone();
        signal::with_signals_blocked(|| std::thread::Builder::new().name(name.into()).spawn(move || serve(&its)))?;
        *current = Some(shared.clone());
        self.process.store(this, Relaxed);
        Ok(shared)
    }
}
