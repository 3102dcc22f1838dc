//! How to wait for what another process is about to do anyway: pause a little, let others run a few times, and then go to sleep.
//!
//! A wake-up across processors takes tens of microseconds, and what is waited for often less than one. But with more processes than processors,
//! who pauses keeps the one from running that is waited for. So it is a few microseconds at most, and next to none where there is one processor.

use std::sync::OnceLock;

/// Rounds of pauses, each twice as long as the one before.
const PAUSES: u32 = 7;
/// Rounds of letting others run.
const YIELDS: u32 = 4;

/// How far one has got with that.
#[derive(Debug)]
pub(crate) struct Backoff(u32);

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff(if alone() { PAUSES } else { 0 })
    }

    /// Waits a little. False, at once, when it is time to go to sleep.
    pub(crate) fn wait(&mut self) -> bool {
        match self.0 {
            round if round < PAUSES => (0..1_u32 << round).for_each(|_| std::hint::spin_loop()),
            round if round < PAUSES + YIELDS => std::thread::yield_now(),
            _ => return false,
        }
        self.0 += 1;
        true
    }
}

/// Whether there is one processor for this process, as it was when this was asked first.
fn alone() -> bool {
    static ALONE: OnceLock<bool> = OnceLock::new();
    *ALONE.get_or_init(|| std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1))
}
