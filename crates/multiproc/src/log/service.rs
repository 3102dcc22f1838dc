//! A background thread that serves this process, such as that of the relay or the capture: started
//! once, found by all callers, and not found in a fork copy of the process, which has no such
//! thread.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use multiproc_os::{signal, threads};

/// A service, running or not.
pub(super) struct Service<T> {
    /// The process of the running thread; 0 before there is one. Read without the lock, since most
    /// callers find none.
    process: AtomicI32,
    /// The state that the thread shares with its callers.
    shared: Mutex<Option<Arc<T>>>,
}

impl<T: Send + Sync + 'static> Service<T> {
    pub(super) const fn new() -> Service<T> {
        Service { process: AtomicI32::new(0), shared: Mutex::new(None) }
    }

    /// The service, if its thread is in this process.
    pub(super) fn here(&self) -> Option<Arc<T>> {
        match self.process.load(Relaxed) {
            0 => None,
            process if process != threads::getpid() => None,
            _ => self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// The service; if there is none, starts one: `make` makes the shared state, and a thread of
    /// this name, which takes no signals, runs `serve` for as long as the process lives.
    ///
    /// # Errors
    /// The errors of `make`; `EAGAIN` at the limit of threads.
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
