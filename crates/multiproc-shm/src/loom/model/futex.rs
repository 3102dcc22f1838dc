//! A model of futex(2).

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Instant;

use ::loom::sync::{Condvar, Mutex};
pub(crate) use multiproc_os::futex::Woken;

use super::atomic::AtomicU32;
use super::process::{local, step};

/// A word as the kernel accesses it, which is no step of the calling process.
pub(crate) trait Futex {
    fn address(&self) -> usize;
    fn value(&self) -> u32;
    fn replace(&self, from: u32, to: u32) -> bool;
}

impl Futex for AtomicU32 {
    fn address(&self) -> usize {
        self.as_ptr().addr()
    }

    fn value(&self) -> u32 {
        self.in_kernel().load(Relaxed)
    }

    fn replace(&self, from: u32, to: u32) -> bool {
        self.in_kernel().compare_exchange(from, to, SeqCst, Relaxed).is_ok()
    }
}

struct Sleeper {
    address: usize,
    condvar: Arc<Condvar>,
    woken: Option<Woken>,
}

::loom::lazy_static! {
    /// The kernel's hash bucket, in the order in which the threads have gone to sleep.
    static ref SLEEPERS: Mutex<Vec<Sleeper>> = Mutex::new(Vec::new());
}

/// Sleeps on the word until a wake-up, whatever the deadline: so a wake-up that is lost is a
/// deadlock, which loom reports. The exceptions are [`be_impatient_if`] and [`expire`].
#[track_caller]
pub(crate) fn wait(word: &(impl Futex + ?Sized), expected: u32, deadline: Option<Instant>) -> Woken {
    if !step() {
        return Woken::Perhaps;
    }
    if deadline.is_some() && local(|local| local.impatient.get()) && Location::caller().file().ends_with(BY_WAIT_QUEUE)
    {
        return Woken::Timeout;
    }
    let mut sleepers = SLEEPERS.lock().unwrap();
    // `futex_hb_waiters_inc` is a full barrier.
    ::loom::sync::atomic::fence(SeqCst);
    if word.value() != expected {
        return Woken::Perhaps;
    }
    let condvar = Arc::new(Condvar::new());
    sleepers.push(Sleeper { address: word.address(), condvar: Arc::clone(&condvar), woken: None });
    loop {
        sleepers = condvar.wait(sleepers).unwrap();
        let place = sleepers.iter().position(|sleeper| Arc::ptr_eq(&sleeper.condvar, &condvar)).unwrap();
        if let Some(woken) = sleepers[place].woken {
            sleepers.remove(place);
            return woken;
        }
    }
}

/// With `impatient`, makes the few milliseconds that the calling process sleeps in the futex of a
/// wait queue pass at once, so that it waits on the wake pipe.
pub(crate) fn be_impatient_if(impatient: bool) {
    local(|local| local.impatient.set(impatient));
}

const BY_WAIT_QUEUE: &str = "wait_queue.rs";

/// Makes a second pass for all that sleep now, after which they look at their word.
pub(crate) fn expire() {
    for sleeper in SLEEPERS.lock().unwrap().iter_mut().filter(|sleeper| sleeper.woken.is_none()) {
        sleeper.woken = Some(Woken::Timeout);
        sleeper.condvar.notify_one();
    }
}

pub(crate) fn wake(word: &(impl Futex + ?Sized), count: u32) -> usize {
    if step() { wake_in_kernel(word, count) } else { 0 }
}

pub(super) fn wake_in_kernel(word: &(impl Futex + ?Sized), count: u32) -> usize {
    // `futex_hb_waiters_pending` is a full barrier.
    ::loom::sync::atomic::fence(SeqCst);
    let mut sleepers = SLEEPERS.lock().unwrap();
    let mut woken = 0;
    for sleeper in sleepers.iter_mut().filter(|sleeper| sleeper.address == word.address() && sleeper.woken.is_none()) {
        if woken == count as usize {
            break;
        }
        sleeper.woken = Some(Woken::Perhaps);
        sleeper.condvar.notify_one();
        woken += 1;
    }
    woken
}
