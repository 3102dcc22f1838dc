//! multiproc's own locks and signals.

use multiproc::sync::{self, LockGuard, Permit};
use multiproc_benches::Outcome;
use multiproc_benches::slices::Contestant;
use serde::{Deserialize, Serialize};

use super::event::Event;
use super::lock::{self, Lock};
use super::signal::{self, Signal};

pub(crate) const LOCK: &str = "multiproc-lock";
pub(crate) const EVENT: &str = "multiproc-event";

pub(crate) fn contestants() -> Vec<Contestant<Event>> {
    use Contestant as C;
    vec![
        C::ours(LOCK, Event::is_of_locks, lock::started::<Plain>),
        C::ours("multiproc-semaphore", Event::is_of_locks, lock::started::<Semaphore>),
        C::ours(EVENT, Event::is_of_signals, signal::started::<Set>),
    ]
}

#[derive(Serialize, Deserialize)]
struct Plain(sync::Lock);

impl Lock for Plain {
    type Guard<'a> = LockGuard<'a>;

    fn pair() -> Outcome<[Plain; 2]> {
        let lock = sync::Lock::new()?;
        Ok([Plain(lock.clone()), Plain(lock)])
    }

    #[inline]
    fn lock(&self) -> Outcome<LockGuard<'_>> {
        // The error holds the guard, and so may not outlive the lock.
        self.0.lock().map_err(|error| error.to_string().into())
    }
}

/// Of one permit.
#[derive(Serialize, Deserialize)]
struct Semaphore(sync::Semaphore);

impl Lock for Semaphore {
    type Guard<'a> = Permit<'a>;

    fn pair() -> Outcome<[Semaphore; 2]> {
        let semaphore = sync::Semaphore::new(1)?;
        Ok([Semaphore(semaphore.clone()), Semaphore(semaphore)])
    }

    #[inline]
    fn lock(&self) -> Outcome<Permit<'_>> {
        Ok(self.0.acquire()?)
    }
}

#[derive(Serialize, Deserialize)]
struct Set(sync::Event);

impl Signal for Set {
    fn pair() -> Outcome<[Set; 2]> {
        let event = sync::Event::new()?;
        Ok([Set(event.clone()), Set(event)])
    }

    fn set(&self) -> Outcome<()> {
        self.0.set();
        Ok(())
    }

    fn wait(&self) -> Outcome<()> {
        Ok(self.0.wait()?)
    }

    fn clear(&self) -> Outcome<()> {
        self.0.clear();
        Ok(())
    }
}
