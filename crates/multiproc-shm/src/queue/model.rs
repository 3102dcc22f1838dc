//! The store beside a plain list: whatever is put and taken, in whatever order, the two agree.
//!
//! Two views of the store take turns, as two processes would. Sizes are chosen around the edges: of
//! what lies in the ring, of a block, and of what is left up to the end of the ring or of one of
//! its pieces.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use std::os::fd::OwnedFd;
use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};

use super::block::Block;
use super::error::Error;
use super::store::{Body, INLINE, Item, Limits, Place, Store};
use crate::memory::scratch::Scratch;

#[derive(Debug, Clone)]
enum Step {
    /// By which view, and how many bytes.
    Put(bool, Size, bool),
    /// With an open file.
    PutFile(bool, usize),
    /// Several of one size, so that the ring grows and wraps.
    PutMany(bool, usize, usize),
    Take(bool),
    TakeMany(bool, usize),
    /// Takes, and gives it up again, if it is a lease.
    GiveUp(bool),
    Close,
}

#[derive(Debug, Clone)]
enum Size {
    Bytes(usize),
    /// So many more than would fill the ring up to its end.
    UpToTheEnd(i64),
    /// So many more than the limit leaves.
    UpToTheLimit(i64),
}

fn sizes() -> impl Strategy<Value = Size> {
    prop_oneof![
        4 => (0..200_usize).prop_map(Size::Bytes),
        4 => (0..INLINE + 40).prop_map(Size::Bytes),
        2 => prop::sample::select(vec![INLINE - 1, INLINE, INLINE + 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 300_000])
            .prop_map(Size::Bytes),
        3 => (-24..25_i64).prop_map(Size::UpToTheEnd),
        1 => (-2..3_i64).prop_map(Size::UpToTheLimit),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => (any::<bool>(), sizes(), any::<bool>()).prop_map(|(view, size, raw)| Step::Put(view, size, raw)),
        2 => (any::<bool>(), 0..3000_usize).prop_map(|(view, len)| Step::PutFile(view, len)),
        3 => (any::<bool>(), 0..INLINE, 1..200_usize).prop_map(|(view, len, count)| Step::PutMany(view, len, count)),
        8 => any::<bool>().prop_map(Step::Take),
        3 => (any::<bool>(), 1..200_usize).prop_map(|(view, count)| Step::TakeMany(view, count)),
        2 => any::<bool>().prop_map(Step::GiveUp),
    ];
    (vec(step, 1..80), prop::bool::weighted(0.3)).prop_map(|(mut steps, close)| {
        if close {
            steps.insert(steps.len() * 2 / 3, Step::Close);
        }
        steps
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let (items, bytes) =
        (prop::sample::select(vec![1, 2, 7, 100]), prop::sample::select(vec![0, 1, 100, 5000, 100_000]));
    prop_oneof![
        3 => Just(Limits::NONE),
        1 => items.clone().prop_map(|items| Limits { items, bytes: u64::MAX }),
        1 => bytes.clone().prop_map(|bytes| Limits { items: u64::MAX, bytes }),
        1 => (items, bytes).prop_map(|(items, bytes)| Limits { items, bytes }),
    ]
}

struct Expected {
    bytes: Vec<u8>,
    raw: bool,
    /// The open file that goes with it.
    file: Option<u64>,
    /// How often it has been taken.
    taken: u32,
}

/// The store, by two views, and what it should be.
struct Both {
    views: [Arc<Store>; 2],
    limits: Limits,
    items: VecDeque<Expected>,
    /// One that was given up, which comes first.
    given_up: Option<Expected>,
    closed: bool,
    count: usize,
}

impl Both {
    fn new(limits: Limits, joinable: bool) -> Both {
        let one = Store::create(limits, joinable).unwrap();
        let other = Store::open(one.to_send(true).unwrap()).unwrap();
        Both {
            views: [one.into(), other.into()],
            limits,
            items: VecDeque::new(),
            given_up: None,
            closed: false,
            count: 0,
        }
    }

    fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes.len() as u64).sum()
    }

    fn len_of(&self, size: &Size) -> usize {
        let (most, by) = match size {
            Size::Bytes(len) => return *len,
            Size::UpToTheEnd(by) => {
                let store = &self.views[0];
                let (_, mask) = store.geometry();
                let offset = store.shared.tail.0.load(SeqCst) & mask;
                (store.ring.end_of_piece(offset).min(mask + 1) - offset, by - store.header_len() as i64)
            }
            Size::UpToTheLimit(by) => (self.limits.bytes.saturating_sub(self.bytes()), *by),
        };
        (most.min(200_000) as i64 + by).max(0) as usize
    }

    fn put(&mut self, view: bool, len: usize, raw: bool, with_file: bool) {
        self.count += 1;
        let bytes: Vec<u8> = (0..len).map(|at| (at.wrapping_mul(31) ^ self.count) as u8).collect();
        let fds: Vec<OwnedFd> = if with_file { vec![std::io::pipe().unwrap().0.into()] } else { vec![] };
        let file = fds.first().map(|fd| File::from(fd.try_clone().unwrap()).metadata().unwrap().ino());
        let store = &*self.views[usize::from(view)].clone();
        let block = (len > INLINE).then(|| {
            let mut block = Block::new(store, len as u64).unwrap();
            block.fill(&bytes).unwrap();
            block
        });
        let body = block.as_ref().map_or(Body::Inline(&bytes), |block| Body::Block(block.index(), block.len()));
        let borrowed: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
        let put = store.try_put(&Item { body, raw, fds: &borrowed, handles: fds.len() as u32 });
        match put {
            _ if self.closed => assert!(matches!(put, Err(Error::Closed)), "{put:?}"),
            _ if len as u64 > self.limits.bytes => assert!(
                matches!(put, Err(Error::TooLarge))
                    || self.items.len() as u64 >= self.limits.items && matches!(put, Err(Error::Full)),
                "{put:?}"
            ),
            _ if self.items.len() as u64 >= self.limits.items || self.bytes() + len as u64 > self.limits.bytes => {
                assert!(matches!(put, Err(Error::Full)), "{put:?}");
            }
            _ => {
                put.unwrap();
                if let Some(block) = block {
                    block.leave();
                }
                self.items.push_back(Expected { bytes, raw, file, taken: 0 });
            }
        }
    }

    fn take(&mut self, view: bool, give_up: bool) {
        let mut scratch = Scratch::new();
        let store = &*self.views[usize::from(view)].clone();
        let taken = store.take_any(&mut scratch);
        let Some(mut expected) = self.given_up.take().or_else(|| self.items.pop_front()) else {
            match self.closed {
                true => assert!(matches!(taken, Err(Error::Closed)), "{taken:?}"),
                false => assert!(taken.unwrap().is_none()),
            }
            return;
        };
        let taken = taken.unwrap().expect("there is one");
        expected.taken += 1;
        assert_eq!((taken.raw, taken.deliveries), (expected.raw, expected.taken));
        let file = taken.fds.first().map(|fd| File::from(fd.try_clone().unwrap()).metadata().unwrap().ino());
        assert_eq!((file, taken.fds.len()), (expected.file, usize::from(expected.file.is_some())));
        match taken.place {
            Place::Block(index, len) if store.is_joinable() => {
                store.with_lease(index, len, |bytes| assert!(bytes == expected.bytes)).unwrap();
            }
            Place::Block(..) => {
                assert!(taken.block(|| store).unwrap().bytes().unwrap() == expected.bytes);
            }
            Place::Scratch | Place::Lease(_) => assert!(scratch.bytes() == expected.bytes),
        }
        if let Place::Lease(index) | Place::Block(index, _) = taken.place
            && store.is_joinable()
        {
            assert_eq!(store.unfinished(), self.items.len() as u64 + 1);
            match give_up {
                true => {
                    store.return_lease(index);
                    self.given_up = Some(expected);
                }
                false => store.finish(index).unwrap(),
            }
        }
    }

    fn compare(&self) {
        let len = self.items.len() + usize::from(self.given_up.is_some());
        for store in &self.views {
            assert_eq!((store.len(), store.is_empty(), store.is_closed()), (len as u64, len == 0, self.closed));
            if store.is_joinable() {
                assert_eq!(store.unfinished(), len as u64);
            }
            let fits = self.bytes() + 1.min(self.limits.bytes) <= self.limits.bytes;
            assert_eq!(store.is_full(), self.items.len() as u64 >= self.limits.items || !fits);
        }
    }
}

#[test]
fn matches_a_list() {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(0x6d70_6b74);
    }
    let result = TestRunner::new(config).run(&(limits(), any::<bool>(), steps()), |(limits, joinable, steps)| {
        let mut both = Both::new(limits, joinable);
        for step in steps {
            match step {
                Step::Put(view, size, raw) => both.put(view, both.len_of(&size), raw, false),
                // In a joinable queue there are none.
                Step::PutFile(view, len) => both.put(view, len, false, !joinable),
                Step::PutMany(view, len, count) => (0..count).for_each(|_| both.put(view, len, true, false)),
                Step::Take(view) => both.take(view, false),
                Step::TakeMany(view, count) => (0..count).for_each(|_| both.take(view, false)),
                Step::GiveUp(view) => both.take(view, true),
                Step::Close => {
                    both.views[0].close();
                    both.closed = true;
                }
            }
            both.compare();
        }
        while both.given_up.is_some() || !both.items.is_empty() {
            both.take(false, false);
        }
        both.compare();
        Ok(())
    });
    result.unwrap();
}

/// A producer that is slow to count what it has put, or dies before that, doesn't make an empty
/// queue seem full: a producer that took it for full would sleep, and no process would wake it.
#[test]
fn uncounted_put() {
    let store = Store::create(Limits { items: 1, bytes: 100 }, false).unwrap();
    store.try_put(&Item { body: Body::Inline(&[7; 10]), raw: true, fds: &[], handles: 0 }).unwrap();
    assert!(store.take_any(&mut Scratch::new()).unwrap().is_some());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let own = &store.shared.producers;
            for number in (1..).take_while(|_| !done.load(Relaxed)) {
                own.number.store(number, SeqCst);
                own.bytes.store(number * 10, SeqCst);
            }
        });
        for _ in 0..100_000 {
            let full = store.arm_for_room(95, None, &mut || ()).unwrap() || store.seems_within_limits(95).is_err();
            done.fetch_or(full, Relaxed);
            assert!(!full);
        }
        done.store(true, Relaxed);
    });
}
