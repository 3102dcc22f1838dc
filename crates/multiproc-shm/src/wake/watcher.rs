//! One thread that waits for descriptors on behalf of futures, whichever executor polls them:
//! epoll(7).
//!
//! The first future that has to wait starts the thread. It sleeps while nothing happens, blocks all
//! signals, and stays for later futures. User code (wakers, and with the last of them perhaps a
//! whole task) is called and dropped outside the lock.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use multiproc_os::epoll::{Epoll, Trigger};
use multiproc_os::fork_local::ForkLocal;
use multiproc_os::signal;

use super::Source;

/// One future's interest in a source.
pub(crate) struct Watch {
    source: Arc<dyn Source>,
    /// Distinguishes the future from others that wait for the same source.
    id: u64,
}

/// The state shared by the watcher thread and the futures.
struct Watcher {
    epoll: Arc<Epoll>,
    /// The members of the epoll set, by descriptor.
    watched: HashMap<i32, Watched>,
}

struct Watched {
    /// Keeps the descriptor open.
    source: Arc<dyn Source>,
    /// The wakers to be woken; at least one.
    wakers: Vec<(u64, Waker)>,
}

/// A copy made by fork(2) has no such thread, and must not touch the original's epoll set, nor the
/// objects behind its wakers.
static WATCHER: ForkLocal<Mutex<Option<Watcher>>> = ForkLocal::new();

impl Watch {
    pub(crate) fn new(source: Arc<dyn Source>) -> Watch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Watch { source, id: NEXT.fetch_add(1, Relaxed) }
    }

    /// Wakes `waker` once when the source is readable; at once if it is readable now. Replaces the
    /// waker given before.
    ///
    /// Wake-ups may be spurious.
    ///
    /// # Errors
    /// `EMFILE`, or `EAGAIN` at the limit of threads, if the watcher had to be started; `ENOSPC`
    /// when the user has too many descriptors in epoll sets.
    pub(crate) fn wake(&self, waker: &Waker) -> io::Result<()> {
        let waker = waker.clone();
        let replaced = {
            let mut current = lock();
            let watcher = match &mut *current {
                Some(watcher) => watcher,
                none => none.insert(Watcher::start()?),
            };
            watcher.watch(&self.source, self.id, waker)
        };
        replaced.map(drop)
    }
}

/// Removes the future's waker.
impl Drop for Watch {
    fn drop(&mut self) {
        let forgotten = match &mut *lock() {
            Some(watcher) => watcher.forget(&self.source, self.id),
            None => None,
        };
        drop(forgotten);
    }
}

fn lock() -> MutexGuard<'static, Option<Watcher>> {
    WATCHER.get().lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watcher {
    fn start() -> io::Result<Watcher> {
        let epoll = Arc::new(Epoll::new()?);
        let its = epoll.clone();
        signal::with_signals_blocked(|| {
            std::thread::Builder::new().name("multiproc-async".into()).spawn(move || serve(&its))
        })?;
        Ok(Watcher { epoll, watched: HashMap::new() })
    }

    /// Adds a waker, or replaces the previous one of this future and returns it.
    fn watch(&mut self, source: &Arc<dyn Source>, id: u64, waker: Waker) -> io::Result<Option<Waker>> {
        let key = key(source);
        if let Some(watched) = self.watched.get_mut(&key) {
            return Ok(match watched.wakers.iter_mut().find(|(other, _)| *other == id) {
                Some((_, before)) => Some(std::mem::replace(before, waker)),
                None => {
                    watched.wakers.push((id, waker));
                    None
                }
            });
        }
        self.epoll.add(source.fd(), key as u64, Trigger::Once)?;
        self.watched.insert(key, Watched { source: source.clone(), wakers: vec![(id, waker)] });
        Ok(None)
    }

    /// Removes a waker, and its source with the last of them.
    fn forget(&mut self, source: &Arc<dyn Source>, id: u64) -> Option<Waker> {
        let key = key(source);
        let wakers = &mut self.watched.get_mut(&key)?.wakers;
        let (_, waker) = wakers.swap_remove(wakers.iter().position(|(other, _)| *other == id)?);
        if wakers.is_empty() {
            self.take(key);
        }
        Some(waker)
    }

    /// Removes a source. By now its number may be that of another source, with futures that are
    /// then woken spuriously and wait again.
    fn take(&mut self, key: i32) -> Option<Watched> {
        let watched = self.watched.remove(&key)?;
        // It is a member of the set, so this can't fail.
        let _ = self.epoll.remove(watched.source.fd());
        Some(watched)
    }
}

/// The key of a source in the epoll set: no other source has this number while it is watched.
fn key(source: &Arc<dyn Source>) -> i32 {
    source.fd().as_raw_fd()
}

/// The loop of the watcher thread.
fn serve(epoll: &Arc<Epoll>) {
    loop {
        let Ok(keys) = epoll.wait() else {
            // The program has closed the epoll descriptor. The futures wait again, and start
            // another watcher.
            let gone = lock().take_if(|watcher| Arc::ptr_eq(&watcher.epoll, epoll));
            wake(gone.into_iter().flat_map(|watcher| watcher.watched.into_values()));
            return;
        };
        for key in keys {
            let ready = match &mut *lock() {
                Some(watcher) if Arc::ptr_eq(&watcher.epoll, epoll) => watcher.take(key as i32),
                _ => None,
            };
            wake(ready);
        }
    }
}

fn wake(ready: impl IntoIterator<Item = Watched>) {
    for (_, waker) in ready.into_iter().flat_map(|watched| watched.wakers) {
        // A panic in the executor of one future must not keep the others from being woken.
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}
