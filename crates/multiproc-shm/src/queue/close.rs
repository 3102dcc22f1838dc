//! Closing a queue, in two halves, either of which a process may die after. See `QUEUE.md`,
//! "Close".

use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};

use crate::lock::spin_lock::RobustSpinGuard;
use crate::queue::error::Error;
use crate::queue::layout::{CLOSED, CLOSING, OPEN};
use crate::queue::store::Store;

impl Store {
    /// Whether the queue is closed to further items.
    #[inline]
    pub fn is_closed(&self) -> bool {
        match self.shared.config.closed.load(SeqCst) {
            OPEN => false,
            CLOSED => true,
            _ => {
                self.finish_closing(self.producers_endlessly());
                true
            }
        }
    }

    /// As [`is_closed`](Store::is_closed), within the thread's limit for lock waits.
    #[cold]
    pub(super) fn is_closed_in_time(&self) -> Result<bool, Error> {
        match self.shared.config.closed.load(SeqCst) {
            OPEN => Ok(false),
            CLOSED => Ok(true),
            _ => {
                self.finish_closing(self.producers()?);
                Ok(true)
            }
        }
    }

    /// As [`is_closed`](Store::is_closed), for a caller that holds a lock and so can't notify the
    /// waiters.
    pub(super) fn is_closing(&self) -> bool {
        self.shared.config.closed.load(SeqCst) != OPEN
    }

    /// Closes the queue: later puts fail, and all waiters are woken.
    pub fn close(&self) {
        // The waiters for room come first: if this process dies afterwards, they are awake, and the
        // first of them finishes the closing.
        if let Some(room) = &self.room {
            {
                let _consumers = self.consumers_endlessly();
                self.shared.room.0.before_change(room);
                let _ = self.shared.config.closed.compare_exchange(OPEN, CLOSING, SeqCst, Relaxed);
            }
            self.shared.room.0.after_change(u32::MAX);
        }
        self.finish_closing(self.producers_endlessly());
    }

    /// The second half of closing. The caller passes its guard of the producers' lock.
    #[cold]
    pub(super) fn finish_closing(&self, producers: RobustSpinGuard<'_>) {
        self.shared.items.0.before_change(&self.items);
        self.shared.config.closed.store(CLOSED, SeqCst);
        drop(producers);
        self.shared.items.0.after_change(u32::MAX);
    }
}
