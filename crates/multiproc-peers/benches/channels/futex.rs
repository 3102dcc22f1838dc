//! The lower limit of a round trip to a sleeping process: a word in shared memory, and futex(2).
//! There is no message.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};

use multiproc_benches::Outcome;
use multiproc_benches::sys::{futex_wait, futex_wake, map_shared};

use super::channel::{Channel, Ends, Rx, Tx};
use super::event::Event;

/// The word holds one message; the sender doesn't check whether there is one already.
pub(crate) fn can(event: Event) -> bool {
    matches!(event, Event::RoundTrip { size: 64, .. })
}

pub(crate) struct Futex;

impl Channel for Futex {
    type Tx = Setter;
    type Rx = Waiter;

    fn line(size: usize, _: usize, _: usize) -> Outcome<Ends<Self>> {
        let start = map_shared(None, size_of::<AtomicU32>())?;
        // SAFETY: the page is zeroed, aligned and never unmapped, and it is accessed only through
        // atomics.
        let word = unsafe { start.cast::<AtomicU32>().as_ref() };
        Ok((vec![Setter { word }], vec![Waiter { word, size, shown: Vec::new() }]))
    }
}

pub(crate) struct Setter {
    word: &'static AtomicU32,
}

impl Tx for Setter {
    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        // The message's first byte stands for all of it.
        self.word.store(message[0].into(), Release);
        futex_wake(self.word, 1);
        Ok(())
    }
}

pub(crate) struct Waiter {
    word: &'static AtomicU32,
    size: usize,
    shown: Vec<u8>,
}

impl Rx for Waiter {
    fn open(&mut self) -> Outcome<()> {
        self.shown = vec![super::part::LAST; self.size];
        Ok(())
    }

    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        let first = loop {
            match self.word.load(Acquire) {
                0 => futex_wait(self.word, 0),
                first => break first,
            }
        };
        self.word.store(0, Release);
        self.shown[0] = first as u8;
        Ok(look(&self.shown))
    }
}
