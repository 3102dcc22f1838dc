//! multiproc's own locks and signals.

use multiproc::sync::{self, LockGuard, MutexGuard, Permit, RLockGuard, RwLockReadGuard, RwLockWriteGuard};
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
        C::ours("multiproc-rlock", Event::is_of_locks, lock::started::<Recursive>),
        C::ours("multiproc-mutex", Event::is_of_locks, lock::started::<Mutex>),
        C::ours("multiproc-rwlock (write)", Event::is_of_locks, lock::started::<Write>),
        C::ours("multiproc-rwlock (read)", Event::is_of_readers, lock::started::<Read>),
        C::ours("multiproc-semaphore", Event::is_of_locks, lock::started::<Semaphore>),
        C::ours(EVENT, Event::is_of_signals, signal::started::<Set>),
        C::ours("multiproc-condition", Event::is_of_signals, signal::started::<Condition>),
    ]
}

/// Declares a lock that is acquired by one call.
macro_rules! lock {
    ($name:ident($of:ty), $life:lifetime $guard:ty, $new:expr, $take:ident $(, exclusive: $exclusive:literal)?) => {
        #[derive(Serialize, Deserialize)]
        struct $name($of);

        impl Lock for $name {
            type Guard<$life> = $guard;

            $(const EXCLUSIVE: bool = $exclusive;)?

            fn pair() -> Outcome<[$name; 2]> {
                let lock = $new?;
                Ok([$name(lock.clone()), $name(lock)])
            }

            #[inline]
            fn lock<$life>(&$life self) -> Outcome<$guard> {
                // The error holds the guard, and so may not outlive the lock.
                self.0.$take().map_err(|error| error.to_string().into())
            }
        }
    };
}

lock!(Plain(sync::Lock), 'a LockGuard<'a>, sync::Lock::new(), lock);
lock!(Recursive(sync::RLock), 'a RLockGuard<'a>, sync::RLock::new(), lock);
lock!(Mutex(sync::Mutex<u64>), 'a MutexGuard<'a, u64>, sync::Mutex::new(0), lock);
lock!(Write(sync::RwLock<u64>), 'a RwLockWriteGuard<'a, u64>, sync::RwLock::new(0), write);
lock!(Read(sync::RwLock<u64>), 'a RwLockReadGuard<'a, u64>, sync::RwLock::new(0), read, exclusive: false);

/// A semaphore with one permit.
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

/// A condition variable, and the mutex with the state that is waited for.
#[derive(Serialize, Deserialize)]
struct Condition(sync::Condition, sync::Mutex<u32>);

impl Condition {
    fn is_so(&self) -> bool {
        self.1.lock().is_ok_and(|value| *value != 0)
    }

    fn make(&self, value: u32) -> Outcome<()> {
        *self.1.lock().map_err(|error| error.to_string())? = value;
        Ok(())
    }
}

impl Signal for Condition {
    fn pair() -> Outcome<[Condition; 2]> {
        let (condition, value) = (sync::Condition::new()?, sync::Mutex::new(0)?);
        Ok([Condition(condition.clone(), value.clone()), Condition(condition, value)])
    }

    fn set(&self) -> Outcome<()> {
        let guard = self.0.lock().map_err(|error| error.to_string())?;
        self.make(1)?;
        guard.notify_all();
        Ok(())
    }

    fn wait(&self) -> Outcome<()> {
        let mut guard = self.0.lock().map_err(|error| error.to_string())?;
        guard.wait_for(|| self.is_so()).map_err(|error| error.to_string().into())
    }

    fn clear(&self) -> Outcome<()> {
        self.make(0)
    }
}
