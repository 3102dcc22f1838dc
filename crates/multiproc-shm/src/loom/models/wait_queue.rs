//! `wait/wait_queue.rs`, on a counter of items: no wake-up is lost, be the waiter on the futex or
//! on the wake pipe.

use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use ::loom::thread::JoinHandle;

use super::{Data, Kill, all_survive, check, check_deaths, start, was_overtaken};
use crate::lock::spin_lock::{RobustSpinLock, Stalled};
use crate::loom::atomic::{AtomicU32, AtomicU64};
use crate::loom::futex::{be_impatient_if, expire};
use crate::loom::notifier::{Notifier, Tokens};
use crate::loom::segment::Segment;
use crate::memory::layout::layout;
use crate::wait::wait_queue::{WaitOp, WaitQueue};

layout! {
    struct Shared: "counter", 0x7fff_0103 {
        spin_lock: RobustSpinLock,
        _unused: AtomicU32,
        wait_queue: WaitQueue,
        /// The numbers of items put and taken.
        tail: AtomicU64,
        head: AtomicU64,
    }
}

impl Shared {
    /// Puts an item as the queue does: a release store, then the release of the spin lock.
    fn put(&self, notifier: &Notifier) {
        let guard = self.spin_lock.lock_endlessly();
        self.wait_queue.before_change(notifier);
        self.tail.store(self.tail.load(Relaxed) + 1, Release);
        drop(guard);
        self.wait_queue.after_change(1);
    }

    fn try_take(&self) -> Option<u64> {
        loop {
            let head = self.head.load(SeqCst);
            if head == self.tail.load(SeqCst) {
                return None;
            }
            if self.head.compare_exchange(head, head + 1, SeqCst, Relaxed).is_ok() {
                return Some(head);
            }
        }
    }

    fn take(&self, notifier: &Notifier) -> u64 {
        self.wait_queue.wait(notifier, None, &mut Take(self)).unwrap()
    }
}

struct Take<'a>(&'a Shared);

impl WaitOp for Take<'_> {
    type Outcome = u64;

    fn attempt(&mut self) -> Option<u64> {
        self.0.try_take()
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let _guard = self.0.spin_lock.lock_endlessly();
        let is_empty = self.0.head.load(SeqCst) == self.0.tail.load(SeqCst);
        if is_empty {
            arm();
        }
        Ok(!is_empty)
    }

    fn more(&mut self) -> bool {
        self.0.head.load(SeqCst) != self.0.tail.load(SeqCst)
    }
}

/// Starts a process that has the counter too.
fn on<R: 'static>(
    id: u32,
    kill: &Kill,
    (shared, notifier): (&Segment<Shared>, &Notifier),
    main: impl FnOnce(&Shared, &Notifier) -> R + 'static,
) -> JoinHandle<Option<R>> {
    let (shared, notifier) = (shared.share(), notifier.clone());
    start(id, kill, move || main(&shared, &notifier))
}

/// Starts a process that takes an item, waiting on the wake pipe if it is `impatient`.
fn consumer(id: u32, counter: (&Segment<Shared>, &Notifier), impatient: bool) -> JoinHandle<Option<u64>> {
    on(id, &Kill::never(), counter, move |shared, notifier| {
        be_impatient_if(impatient);
        shared.take(notifier)
    })
}

/// Starts a process that puts an item.
fn producer(id: u32, kill: &Kill, counter: (&Segment<Shared>, &Notifier)) -> JoinHandle<Option<()>> {
    on(id, kill, counter, |shared, notifier| shared.put(notifier))
}

#[test]
fn a_sleeper_on_the_futex_is_woken() {
    check(|| {
        let (shared, notifier, data) =
            (Segment::<Shared>::create().unwrap(), Notifier::new(Tokens::Broadcast).unwrap(), Data::new());
        let seen = data.clone();
        let consumer = on(2, &Kill::never(), (&shared, &notifier), move |shared, notifier| {
            shared.take(notifier);
            seen.read()
        });
        data.write();
        shared.put(&notifier);
        assert_eq!(consumer.join().unwrap(), Some(1));
    });
}

#[test]
fn a_sleeper_on_the_futex_is_woken_although_another_consumer_was_quicker() {
    check(|| {
        let (shared, notifier) = (Segment::<Shared>::create().unwrap(), Notifier::new(Tokens::Broadcast).unwrap());
        let consumer = consumer(2, (&shared, &notifier), false);
        let quick = on(3, &Kill::never(), (&shared, &notifier), |shared, _| shared.try_take());
        shared.put(&notifier);
        shared.put(&notifier);
        assert!(consumer.join().unwrap().is_some());
        quick.join().unwrap();
    });
}

#[test]
fn a_sleeper_on_the_futex_wakes_the_next() {
    check(|| {
        let (shared, notifier) = (Segment::<Shared>::create().unwrap(), Notifier::new(Tokens::Broadcast).unwrap());
        let consumers = [2, 3].map(|id| consumer(id, (&shared, &notifier), false));
        shared.put(&notifier);
        shared.put(&notifier);
        all_survive(consumers);
    });
}

fn on_the_pipe(tokens: Tokens, consumers: u32) {
    let (shared, notifier) = (Segment::<Shared>::create().unwrap(), Notifier::new(tokens).unwrap());
    let consumers: Vec<_> = (2..2 + consumers).map(|id| consumer(id, (&shared, &notifier), true)).collect();
    for _ in 0..consumers.len() {
        shared.put(&notifier);
    }
    all_survive(consumers);
}

#[test]
fn a_sleeper_on_the_pipe_is_woken() {
    check(|| on_the_pipe(Tokens::Broadcast, 1));
}

#[test]
fn two_sleepers_on_the_pipe_are_woken() {
    check(|| on_the_pipe(Tokens::Broadcast, 2));
}

#[test]
fn a_sleeper_is_woken_by_a_token_that_is_taken() {
    check(|| on_the_pipe(Tokens::Consumed, 1));
}

#[test]
fn two_sleepers_are_woken_by_tokens_that_are_taken() {
    check(|| on_the_pipe(Tokens::Consumed, 2));
}

/// A producer is killed, then another one puts an item.
fn after_a_death(kill: &Kill, tokens: Tokens) {
    let (shared, notifier) = (Segment::<Shared>::create().unwrap(), Notifier::new(tokens).unwrap());
    let consumer = consumer(2, (&shared, &notifier), true);
    let killed = producer(3, kill, (&shared, &notifier));
    // Without waiting for the death.
    let producer = producer(4, &Kill::never(), (&shared, &notifier));
    killed.join().unwrap();
    // The spin lock's lost wake-up: see `models/spin_lock.rs`.
    if was_overtaken() {
        expire();
    }
    assert_eq!(consumer.join().unwrap(), Some(0));
    all_survive([producer]);
}

#[test]
fn the_death_of_a_producer_loses_no_token() {
    check_deaths(|kill| after_a_death(kill, Tokens::Broadcast));
}

#[test]
fn the_death_of_a_producer_loses_no_token_that_is_taken() {
    check_deaths(|kill| after_a_death(kill, Tokens::Consumed));
}

/// The only item is put by a process that is killed afterwards, at the latest when it has put it.
#[test]
fn a_producer_that_dies_after_the_put_has_written_a_token() {
    check_deaths(|kill| {
        let (shared, notifier) = (Segment::<Shared>::create().unwrap(), Notifier::new(Tokens::Broadcast).unwrap());
        let consumer = consumer(2, (&shared, &notifier), true);
        let killed = producer(3, kill, (&shared, &notifier));
        killed.join().unwrap();
        if shared.tail.load(SeqCst) == 0 {
            shared.put(&notifier);
        }
        assert_eq!(consumer.join().unwrap(), Some(0));
    });
}
