//! The contestants with a number: multiproc's, and the best possible ones.

use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use multiproc::shared_memory::{ArrayPart, RawValue};
use multiproc::{Array, Value, sync};
use multiproc_benches::Outcome;
use multiproc_benches::pthread::Mutex;
use multiproc_benches::slices::Contestant;
use multiproc_benches::sys::map_shared;
use serde::{Deserialize, Serialize};

use super::event::Event;
use super::number::{Number, forked, started};

pub(crate) const VALUE: &str = "multiproc-value";
pub(crate) const RAW_VALUE: &str = "multiproc-raw-value";
pub(crate) const ROBUST: &str = "pthread-robust";
pub(crate) const ATOMIC: &str = "atomic";

/// How many values the arrays have.
const LEN: usize = 1000;

/// How many parts they are split into.
const PARTS: usize = 4;

pub(crate) fn contestants() -> Vec<Contestant<Event>> {
    use Contestant as C;
    vec![
        C::ours(VALUE, Event::is_of_increments, started::<Value<u64>>),
        C::ours(RAW_VALUE, Event::is_of_increments, started::<RawValue<AtomicU64>>),
        C::ours("multiproc-array (lock)", Event::is_of_elements, started::<Whole>),
        C::ours("multiproc-array (read)", Event::is_of_elements, started::<Read>),
        C::ours("multiproc-array-part", Event::is_of_elements, started::<Parted>),
        C::ours("multiproc-lock", Event::is_of_elements, started::<Lock>),
        C::peer(ROBUST, Event::is_of_increments, forked::<Guarded>),
        C::peer(ATOMIC, Event::is_of_increments, forked::<Atomic>),
    ]
}

impl Number for Value<u64> {
    fn pair() -> Outcome<[Value<u64>; 2]> {
        let value = Value::new(0)?;
        Ok([value.clone(), value])
    }

    #[inline]
    fn step(&self) -> Outcome<()> {
        // The error holds the guard, and so may not outlive the value.
        *self.lock().map_err(|error| error.to_string())? += 1;
        Ok(())
    }

    fn value(&self) -> Outcome<u64> {
        Ok(self.get()?)
    }
}

impl Number for RawValue<AtomicU64> {
    fn pair() -> Outcome<[RawValue<AtomicU64>; 2]> {
        let value = RawValue::<AtomicU64>::new(0)?;
        Ok([value.clone(), value])
    }

    #[inline]
    fn step(&self) -> Outcome<()> {
        self.fetch_add(1, Relaxed);
        Ok(())
    }

    fn value(&self) -> Outcome<u64> {
        Ok(self.load(Relaxed))
    }
}

/// An atomic in memory that this process shares with its fork copies. It is never freed.
#[derive(Clone, Copy)]
struct Atomic(&'static AtomicU64);

impl Number for Atomic {
    fn pair() -> Outcome<[Atomic; 2]> {
        let start = map_shared(None, size_of::<AtomicU64>())?;
        // SAFETY: the page is zeroed, aligned and never unmapped, and it is accessed only through
        // atomics.
        Ok([Atomic(unsafe { start.cast::<AtomicU64>().as_ref() }); 2])
    }

    #[inline]
    fn step(&self) -> Outcome<()> {
        self.0.fetch_add(1, Relaxed);
        Ok(())
    }

    fn value(&self) -> Outcome<u64> {
        Ok(self.0.load(Relaxed))
    }
}

/// A number under the C library's robust mutex.
#[derive(Clone, Copy)]
struct Guarded {
    mutex: Mutex<true>,
    number: NonNull<u64>,
}

impl Number for Guarded {
    fn pair() -> Outcome<[Guarded; 2]> {
        let (mutex, number) = (Mutex::new()?, map_shared(None, size_of::<u64>())?.cast());
        Ok([Guarded { mutex, number }; 2])
    }

    #[inline]
    fn step(&self) -> Outcome<()> {
        let _guard = self.mutex.lock()?;
        // SAFETY: it is never unmapped, and it is accessed only with the mutex held.
        unsafe { *self.number.as_ptr() += 1 };
        Ok(())
    }

    fn value(&self) -> Outcome<u64> {
        let _guard = self.mutex.lock()?;
        // SAFETY: as above.
        Ok(unsafe { *self.number.as_ptr() })
    }
}

/// An array of which one value is changed.
#[derive(Serialize, Deserialize)]
struct Whole(Array<u64>);

impl Number for Whole {
    fn pair() -> Outcome<[Whole; 2]> {
        let array = Array::new(LEN)?;
        Ok([Whole(array.clone()), Whole(array)])
    }

    #[inline]
    fn step(&self) -> Outcome<()> {
        self.0.lock().map_err(|error| error.to_string())?[LEN / 2] = 0;
        Ok(())
    }

    fn value(&self) -> Outcome<u64> {
        Ok(self.0.get(LEN / 2)?.ok_or("there is no such value")?)
    }
}

/// An array of which one value is read.
#[derive(Serialize, Deserialize)]
struct Read(Array<u64>);

impl Number for Read {
    fn pair() -> Outcome<[Read; 2]> {
        let array = Array::new(LEN)?;
        Ok([Read(array.clone()), Read(array)])
    }

    #[inline]
    fn step(&self) -> Outcome<()> {
        black_box(self.0.read().map_err(|error| error.to_string())?[LEN / 2]);
        Ok(())
    }

    fn value(&self) -> Outcome<u64> {
        Ok(0)
    }
}

/// A part of an array, of which one value is changed.
#[derive(Serialize, Deserialize)]
struct Parted(ArrayPart<u64>);

impl Number for Parted {
    fn pair() -> Outcome<[Parted; 2]> {
        let part = Array::new(LEN)?.split(PARTS)?.swap_remove(1);
        Ok([Parted(part.clone()), Parted(part)])
    }

    #[inline]
    fn step(&self) -> Outcome<()> {
        self.0.lock().map_err(|error| error.to_string())?[LEN / PARTS / 2] = 0;
        Ok(())
    }

    fn value(&self) -> Outcome<u64> {
        Ok(0)
    }
}

/// A lock that protects nothing.
#[derive(Serialize, Deserialize)]
struct Lock(sync::Lock);

impl Number for Lock {
    fn pair() -> Outcome<[Lock; 2]> {
        let lock = sync::Lock::new()?;
        Ok([Lock(lock.clone()), Lock(lock)])
    }

    #[inline]
    fn step(&self) -> Outcome<()> {
        drop(self.0.lock().map_err(|error| error.to_string())?);
        Ok(())
    }

    fn value(&self) -> Outcome<u64> {
        Ok(0)
    }
}
