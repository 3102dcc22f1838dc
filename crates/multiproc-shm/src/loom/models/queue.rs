//! `queue/`: small items of queues with and without a limit, in a ring of 64 bytes that grows to
//! 128 or 256 and shrinks again. Each item is taken once, whole and in order, while others put,
//! take, grow the ring, close the queue or die.

use std::sync::Arc;

use ::loom::thread::JoinHandle;

use super::{Kill, all_survive, check, check_deaths, start};
use crate::loom::futex::be_impatient_if;
use crate::memory::scratch::Scratch;
use crate::queue::store::{Body, Error, Item, Limits, Store};
use crate::wait::notifier::ViaHandle;

const ONE: Limits = Limits { items: 1, bytes: u64::MAX };

/// A queue with these items. Two fill its ring, if it has no limit.
fn queue(limits: Limits, items: u64) -> Store {
    let store = Store::create(limits, false).unwrap();
    (0..items).for_each(|item| store.try_put(&Item { body: Body::Inline(&bytes(item)), ..EMPTY }).unwrap());
    store
}

const EMPTY: Item<'static> = Item { body: Body::Inline(&[]), raw: true, fds: &[], handles: 0 };

/// An item of two words, of which one says what the other is.
fn bytes(item: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&item.to_ne_bytes());
    bytes[8..].copy_from_slice(&(!item).to_ne_bytes());
    bytes
}

fn item_in(scratch: &Scratch) -> u64 {
    let item = u64::from_ne_bytes(scratch.bytes()[..8].try_into().unwrap());
    assert_eq!(scratch.bytes(), bytes(item));
    item
}

fn try_put(store: &Store, item: u64) -> Result<(), Error> {
    store.try_put(&Item { body: Body::Inline(&bytes(item)), ..EMPTY })
}

fn put(store: &Store, item: u64) -> Result<(), Error> {
    store.put(&Item { body: Body::Inline(&bytes(item)), ..EMPTY }, None, ViaHandle::Own)
}

fn try_take(store: &Store) -> Option<u64> {
    let mut scratch = Scratch::new();
    store.try_take(&mut scratch).unwrap().map(|_| item_in(&scratch))
}

/// The next item; `None` if the queue is closed.
fn take(store: &Store) -> Option<u64> {
    let mut scratch = Scratch::new();
    match store.take(&mut scratch, None, ViaHandle::Own) {
        Ok(_) => Some(item_in(&scratch)),
        Err(Error::Closed) => None,
        Err(error) => panic!("{error:?}"),
    }
}

fn take_all(store: &Store) -> Vec<u64> {
    std::iter::from_fn(|| try_take(store)).collect()
}

/// Starts a process that has the queue too.
fn on<R: 'static>(
    id: u32,
    kill: &Kill,
    store: &Store,
    main: impl FnOnce(&Store) -> R + 'static,
) -> JoinHandle<Option<R>> {
    let store = store.share();
    start(id, kill, move || main(&store))
}

/// Starts a process that takes `count` items, as far as there are any.
fn taker(id: u32, store: &Store, count: usize) -> JoinHandle<Option<Vec<u64>>> {
    on(id, &Kill::never(), store, move |store| std::iter::from_fn(|| try_take(store)).take(count).collect())
}

/// The items of takers are in order, and with those left in the queue they are `wanted`.
fn all_are(taken: Vec<Vec<u64>>, store: &Store, wanted: impl Iterator<Item = u64>) {
    assert!(taken.iter().all(|items| items.is_sorted()));
    let mut all = [taken.concat(), take_all(store)].concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(wanted));
}

/// The producer writes over the first record if that was taken, and makes the ring grow if not.
#[test]
fn takers_race_for_an_item_that_is_overwritten() {
    check(|| {
        let store = queue(Limits::NONE, 2);
        let takers = [2, 3].map(|id| taker(id, &store, 1));
        try_put(&store, 2).unwrap();
        all_are(takers.map(|taker| taker.join().unwrap().unwrap()).into(), &store, 0..3);
    });
}

#[test]
fn an_item_is_taken_while_the_ring_grows() {
    check(|| {
        let store = queue(Limits::NONE, 2);
        let taker = taker(2, &store, 2);
        try_put(&store, 2).unwrap();
        try_put(&store, 3).unwrap();
        all_are(vec![taker.join().unwrap().unwrap()], &store, 0..4);
    });
}

/// The next record goes to where the first one was before the ring grew, and the head hasn't moved.
#[test]
fn an_item_is_taken_while_the_larger_ring_reuses_its_place() {
    check(|| {
        let store = queue(Limits::NONE, 2);
        assert_eq!([(); 2].map(|()| try_take(&store)), [Some(0), Some(1)]);
        try_put(&store, 2).unwrap();
        try_put(&store, 3).unwrap();
        let taker = taker(2, &store, 1);
        try_put(&store, 4).unwrap();
        all_are(vec![taker.join().unwrap().unwrap()], &store, 2..5);
    });
}

#[test]
fn an_item_is_taken_while_the_ring_shrinks() {
    check(|| {
        let store = queue(Limits::NONE, 4);
        assert_eq!([(); 3].map(|()| try_take(&store)), [Some(0), Some(1), Some(2)]);
        let taker = taker(2, &store, 2);
        try_put(&store, 4).unwrap();
        try_put(&store, 5).unwrap();
        all_are(vec![taker.join().unwrap().unwrap()], &store, 3..6);
    });
}

#[test]
fn two_producers_put_one_after_the_other() {
    check(|| {
        let store = queue(Limits::NONE, 1);
        let producer = on(2, &Kill::never(), &store, |store| try_put(store, 1).unwrap());
        try_put(&store, 2).unwrap();
        all_survive([producer]);
        all_are(Vec::new(), &store, 0..3);
    });
}

/// They share what they have seen of the tail.
fn threads_of_one_process(items: u64) {
    check(move || {
        let store = queue(Limits::NONE, items);
        let process = Arc::new(store.share());
        let takers = [2, 3].map(|id| {
            let store = Arc::clone(&process);
            start(id, &Kill::never(), move || Vec::from_iter(try_take(&store)))
        });
        try_put(&store, items).unwrap();
        all_are(takers.map(|taker| taker.join().unwrap().unwrap()).into(), &store, 0..=items);
    });
}

#[test]
fn threads_of_one_process_take() {
    threads_of_one_process(1);
}

#[test]
fn threads_of_one_process_take_the_first_item() {
    threads_of_one_process(0);
}

fn a_taker_waits(impatient: bool) {
    check(move || {
        let store = queue(Limits::NONE, 0);
        let taker = on(2, &Kill::never(), &store, move |store| {
            be_impatient_if(impatient);
            take(store)
        });
        try_put(&store, 0).unwrap();
        assert_eq!(taker.join().unwrap(), Some(Some(0)));
    });
}

#[test]
fn a_taker_is_woken_on_the_futex() {
    a_taker_waits(false);
}

#[test]
fn a_taker_is_woken_on_the_pipe() {
    a_taker_waits(true);
}

fn a_producer_waits(impatient: bool) {
    check(move || {
        let store = queue(ONE, 1);
        let producer = on(2, &Kill::never(), &store, move |store| {
            be_impatient_if(impatient);
            put(store, 1).unwrap();
        });
        assert_eq!(try_take(&store), Some(0));
        all_survive([producer]);
        assert_eq!(store.len(), 1);
        all_are(Vec::new(), &store, 1..2);
    });
}

#[test]
fn a_producer_is_woken_on_the_futex() {
    a_producer_waits(false);
}

#[test]
fn a_producer_is_woken_on_the_pipe() {
    a_producer_waits(true);
}

#[test]
fn a_limit_holds_for_two_producers() {
    check(|| {
        let store = queue(ONE, 1);
        let producers =
            [2, 3].map(|id| on(id, &Kill::never(), &store, move |store| try_put(store, u64::from(id)).is_ok()));
        let first = try_take(&store);
        let put = producers.map(|producer| producer.join().unwrap().unwrap());
        assert_eq!((first, put.iter().filter(|put| **put).count() as u64), (Some(0), store.len()));
        assert!(store.len() <= 1);
    });
}

fn a_close_ends_waits(limits: Limits, impatient: bool) {
    check(move || {
        let store = queue(limits, 0);
        let taker = on(2, &Kill::never(), &store, move |store| {
            be_impatient_if(impatient);
            (take(store), take(store))
        });
        try_put(&store, 0).unwrap();
        store.close();
        assert!(matches!(try_put(&store, 1), Err(Error::Closed)));
        assert_eq!(taker.join().unwrap(), Some((Some(0), None)));
    });
}

#[test]
fn a_close_wakes_a_taker_on_the_futex() {
    a_close_ends_waits(Limits::NONE, false);
}

#[test]
fn a_close_wakes_a_taker_on_the_pipe() {
    a_close_ends_waits(Limits::NONE, true);
}

/// An item that was put before the close, by another process, is taken.
#[test]
fn a_close_comes_after_the_items() {
    check(|| {
        let store = queue(Limits::NONE, 0);
        let taker = on(2, &Kill::never(), &store, |store| (take(store), take(store)));
        let closing = on(3, &Kill::never(), &store, |store| store.close());
        let put = try_put(&store, 0);
        all_survive([closing]);
        assert_eq!(taker.join().unwrap(), Some((put.ok().map(|()| 0), None)));
    });
}

fn a_close_wakes_a_producer(impatient: bool) {
    check(move || {
        let store = queue(ONE, 1);
        let producer = on(2, &Kill::never(), &store, move |store| {
            be_impatient_if(impatient);
            assert!(matches!(put(store, 1), Err(Error::Closed)));
        });
        store.close();
        all_survive([producer]);
    });
}

#[test]
fn a_close_wakes_a_producer_on_the_futex() {
    a_close_wakes_a_producer(false);
}

#[test]
fn a_close_wakes_a_producer_on_the_pipe() {
    a_close_wakes_a_producer(true);
}

/// The ring is full, so the producers make it grow.
#[test]
fn a_producer_that_dies_has_put_its_item_or_nothing() {
    check_deaths(|kill| {
        let store = queue(Limits::NONE, 2);
        let producer = on(2, kill, &store, |store| try_put(store, 2).unwrap());
        try_put(&store, 3).unwrap();
        producer.join().unwrap();
        // The number of items may be one too low until the lock is inherited.
        try_put(&store, 4).unwrap();
        let len = store.len();
        let mut all = take_all(&store);
        assert_eq!(all.len() as u64, len);
        all.sort_unstable();
        assert!(all == [0, 1, 2, 3, 4] || all == [0, 1, 3, 4], "{all:?}");
    });
}

/// As above, with a limit: what counts against it is right, too.
#[test]
fn a_producer_that_dies_does_not_use_up_the_limit() {
    check_deaths(|kill| {
        let store = queue(Limits { items: 2, bytes: u64::MAX }, 0);
        let producer = on(2, kill, &store, |store| try_put(store, 0).unwrap());
        try_put(&store, 1).unwrap();
        producer.join().unwrap();
        let has_room = try_put(&store, 2).is_ok();
        let items = take_all(&store);
        assert_eq!((items.len(), items.contains(&0)), (2, !has_room));
        try_put(&store, 3).unwrap();
        try_put(&store, 4).unwrap();
        assert!(matches!(try_put(&store, 5), Err(Error::Full)));
    });
}

#[test]
fn a_taker_that_dies_takes_its_item_along_or_nothing() {
    check_deaths(|kill| {
        let store = queue(Limits::NONE, 2);
        let killed = on(2, kill, &store, |store| try_take(store));
        let taker = taker(3, &store, 1);
        let taken = [taker.join().unwrap().unwrap(), killed.join().unwrap().into_iter().flatten().collect()].concat();
        let mut all = [taken, take_all(&store)].concat();
        all.sort_unstable();
        assert!([&[0, 1][..], &[0], &[1]].contains(&&all[..]), "{all:?}");
    });
}

/// The only item is put by a process that is killed, at the latest when it has put it.
#[test]
fn a_producer_that_dies_after_the_put_has_told_the_taker() {
    check_deaths(|kill| {
        let store = queue(Limits::NONE, 0);
        let taker = on(2, &Kill::never(), &store, |store| {
            be_impatient_if(true);
            take(store)
        });
        let producer = on(3, kill, &store, |store| try_put(store, 0).unwrap());
        producer.join().unwrap();
        if !store.has_had_items() {
            try_put(&store, 0).unwrap();
        }
        assert_eq!(taker.join().unwrap(), Some(Some(0)));
    });
}

/// The closing process is killed, and no other one does anything that a waiter for room hears of.
#[test]
fn a_process_that_dies_after_the_close_has_told_the_producer() {
    check_deaths(|kill| {
        let store = queue(ONE, 1);
        let producer = on(2, &Kill::never(), &store, |store| {
            be_impatient_if(true);
            assert!(matches!(put(store, 1), Err(Error::Closed)));
        });
        let closing = on(3, kill, &store, |store| store.close());
        closing.join().unwrap();
        // If the process died before it began.
        if !store.is_closed() {
            store.close();
        }
        all_survive([producer]);
    });
}

/// The closing process is killed; a taker is told all the same.
#[test]
fn a_close_that_was_begun_is_finished() {
    check_deaths(|kill| {
        let store = queue(ONE, 1);
        let closing = on(2, kill, &store, |store| store.close());
        let taker = on(3, &Kill::never(), &store, |store| {
            be_impatient_if(true);
            (take(store), take(store))
        });
        closing.join().unwrap();
        // If the process died before it began.
        if try_put(&store, 1).is_ok() {
            assert_eq!(taker.join().unwrap(), Some((Some(0), Some(1))));
            return;
        }
        store.close();
        assert_eq!(taker.join().unwrap(), Some((Some(0), None)));
    });
}
