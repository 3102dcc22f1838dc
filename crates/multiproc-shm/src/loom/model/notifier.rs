//! A model of the wake pipe, and of a process's side of it: tokens, without hang-ups.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use ::loom::sync::{Condvar, Mutex};
use multiproc_os::wake_pipe::WakeReason;

use super::process::step;
use crate::wait::backoff::SpinHistory;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    Consumed,
    Broadcast,
}

#[derive(Default)]
struct Pipe {
    /// How many tokens have been written, and how many of them are still there.
    written: usize,
    left: usize,
}

/// Stands for [`crate::wait::notifier::Notifier`]. A clone is another process's side.
#[derive(Debug, Clone)]
pub struct Notifier {
    tokens: Tokens,
    pipe: Arc<(Mutex<Pipe>, Condvar)>,
    pub(crate) spin_history: Arc<SpinHistory>,
}

#[derive(Debug, Clone, Copy)]
pub enum ViaHandle<'a> {
    Own,
    Handle(&'a AtomicUsize),
    Other,
}

#[derive(Debug)]
pub enum Subscription {
    Polled,
    /// How many tokens had been written when it was made.
    Epoll(usize),
    Periodic,
}

pub struct Waiting<'a> {
    notifier: &'a Notifier,
    subscription: &'a Subscription,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} tokens", self.left, self.written)
    }
}

impl Notifier {
    pub(crate) fn new(tokens: Tokens) -> io::Result<Notifier> {
        let pipe = Arc::new((Mutex::new(Pipe::default()), Condvar::new()));
        Ok(Notifier { tokens, pipe, spin_history: Arc::default() })
    }

    pub(crate) fn is_deserted(&self) -> bool {
        false
    }

    pub(crate) fn notify(&self) -> bool {
        if step() {
            let mut pipe = self.pipe.0.lock().unwrap();
            pipe.written += 1;
            pipe.left += 1;
            self.pipe.1.notify_all();
        }
        true
    }

    pub(crate) fn clear(&self) {
        if self.tokens == Tokens::Consumed && step() {
            self.pipe.0.lock().unwrap().left = 0;
        }
    }

    pub(crate) fn listen(&self) -> io::Result<Subscription> {
        Ok(match self.tokens {
            Tokens::Broadcast if step() => Subscription::Epoll(self.pipe.0.lock().unwrap().written),
            _ => Subscription::Polled,
        })
    }

    pub(crate) fn waiting<'a>(&'a self, subscription: &'a Subscription, _: ViaHandle<'a>) -> Waiting<'a> {
        Waiting { notifier: self, subscription }
    }

    pub(crate) fn has_others(&self) -> bool {
        false
    }

    pub(crate) fn other_threads() -> Option<Vec<std::os::fd::OwnedFd>> {
        None
    }

    pub(crate) fn sleep_open(
        &self,
        subscription: &Subscription,
        others: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<WakeReason> {
        Waiting { notifier: self, subscription }.sleep(others, deadline)
    }
}

impl Waiting<'_> {
    /// Sleeps until there is a token, whatever the deadline.
    pub(crate) fn sleep(&self, _: &[BorrowedFd<'_>], _: Option<Instant>) -> io::Result<WakeReason> {
        if step() {
            let mut pipe = self.notifier.pipe.0.lock().unwrap();
            while match self.subscription {
                Subscription::Polled => pipe.left == 0,
                Subscription::Epoll(before) => pipe.written == *before,
                Subscription::Periodic => unreachable!("there is always a subscription"),
            } {
                pipe = self.notifier.pipe.1.wait(pipe).unwrap();
            }
        }
        Ok(WakeReason::Token)
    }
}
