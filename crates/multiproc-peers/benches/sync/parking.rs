//! parking_lot's mutex, between threads.

use std::sync::Arc;

use multiproc_benches::Outcome;
use parking_lot::MutexGuard;

use super::lock::Lock;

pub(crate) struct Mutex(Arc<parking_lot::Mutex<()>>);

impl Lock for Mutex {
    type Guard<'a> = MutexGuard<'a, ()>;

    fn pair() -> Outcome<[Mutex; 2]> {
        let mutex = Arc::new(parking_lot::Mutex::new(()));
        Ok([Mutex(Arc::clone(&mutex)), Mutex(mutex)])
    }

    #[inline]
    fn lock(&self) -> Outcome<MutexGuard<'_, ()>> {
        Ok(self.0.lock())
    }
}
