//! Queues while their users are killed: of eight producers and eight consumers, one is killed every
//! few milliseconds, at any point, and replaced. Every item that was put is seen once, or again
//! with a higher delivery count if the queue is joinable; none is invented, none is torn, and no
//! process hangs. `MULTIPROC_SEED` and `MULTIPROC_CHAOS_SECONDS` set the random seed and the
//! duration.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::time::{Duration, Instant};

use crate::chaos::{self, Random};
use crate::common::{self, Ends, LONG};
use multiproc::{Handle, JoinableQueue, Process, Queue, StartMethod};
use multiproc_os::shared_memory::{Mapping, PAGE, SharedFile};
use serde::{Deserialize, Serialize};

/// The number of producers, and of consumers, at a time.
const WORKERS: usize = 8;

/// The largest number of series of items, and of items in each.
const PRODUCERS: usize = 1 << 16;
const ITEMS: usize = 1 << 13;

/// What outlives every killed process, in shared memory: how many items of each series have been
/// put, and how often each item has been seen.
#[derive(Debug, Serialize, Deserialize)]
#[serde(from = "Handle<OwnedFd>", into = "Handle<OwnedFd>")]
struct Board {
    file: SharedFile,
    mapping: Mapping,
}

/// The layout: a few numbers, one number for each series, one byte for each item.
const NUMBERS: usize = PAGE;
const SEEN: usize = NUMBERS + PRODUCERS * 8;
const LEN: usize = SEEN + PRODUCERS * ITEMS;

impl Board {
    fn new() -> Board {
        Board::of(SharedFile::create("board", LEN as u64).unwrap())
    }

    fn of(file: SharedFile) -> Board {
        Board { mapping: Mapping::new(&file, 0, LEN).unwrap(), file }
    }

    fn number(&self, offset: usize) -> &AtomicU64 {
        assert!(offset < SEEN && offset.is_multiple_of(8));
        // SAFETY: within the mapping, aligned, and only used as atomics.
        unsafe { &*self.mapping.start().as_ptr().add(offset).cast() }
    }

    /// Set when the workers must stop.
    fn stop(&self) -> &AtomicU64 {
        self.number(0)
    }

    /// How many items have been seen in all.
    fn total(&self) -> &AtomicU64 {
        self.number(8)
    }

    /// How many series have been started.
    fn begun(&self) -> &AtomicU64 {
        self.number(16)
    }

    /// How many items of a series have certainly been put.
    fn put(&self, producer: usize) -> &AtomicU64 {
        self.number(NUMBERS + producer * 8)
    }

    fn seen(&self, producer: usize, item: usize) -> &AtomicU8 {
        assert!(producer < PRODUCERS && item < ITEMS);
        // SAFETY: within the mapping, and only used as atomics.
        unsafe { &*self.mapping.start().as_ptr().add(SEEN + producer * ITEMS + item).cast() }
    }

    fn see(&self, item: &[u8]) -> u8 {
        let (producer, number) = read(item);
        self.total().fetch_add(1, SeqCst);
        self.seen(producer, number).fetch_add(1, SeqCst)
    }
}

impl Clone for Board {
    fn clone(&self) -> Board {
        Board::of(SharedFile::from_fd(self.file.as_fd().try_clone_to_owned().unwrap()).unwrap())
    }
}

impl From<Board> for Handle<OwnedFd> {
    fn from(board: Board) -> Handle<OwnedFd> {
        Handle::new(board.file.as_fd().try_clone_to_owned().unwrap())
    }
}

impl From<Handle<OwnedFd>> for Board {
    fn from(handle: Handle<OwnedFd>) -> Board {
        Board::of(SharedFile::from_fd(handle.into_inner()).unwrap())
    }
}

/// An item of `len` bytes that names its origin, from which each of its bytes follows.
fn item(producer: usize, number: usize, len: usize) -> Vec<u8> {
    let mut item = vec![(producer * 31 + number * 7) as u8; len.max(16)];
    item[..8].copy_from_slice(&(producer as u64).to_ne_bytes());
    item[8..16].copy_from_slice(&(number as u64).to_ne_bytes());
    item
}

/// Returns the item's origin, and asserts that the item is whole.
fn read(item: &[u8]) -> (usize, usize) {
    let word = |at: usize| u64::from_ne_bytes(item[at..at + 8].try_into().unwrap()) as usize;
    let (producer, number) = (word(0), word(8));
    assert!(item[16..].iter().all(|byte| *byte == (producer * 31 + number * 7) as u8), "a torn item");
    (producer, number)
}

/// The kinds of queues.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Kind {
    Small,
    Bounded,
    Large,
    Joinable,
}

impl Kind {
    fn len(self, random: &mut Random) -> usize {
        match self {
            Kind::Small | Kind::Bounded => 16 + random.below(200) as usize,
            // Sometimes up to a MiB.
            Kind::Large if random.below(50) == 0 => 1 << (10 + random.below(11)),
            Kind::Large => 100 + random.below(8000) as usize,
            Kind::Joinable => 16 + random.below(3000) as usize,
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
enum Items {
    Plain(Queue<Vec<u8>>),
    Joinable(JoinableQueue<Vec<u8>>),
}

/// Puts one series of items after another.
fn produce(items: Items, board: Board, kind: Kind) {
    while board.stop().load(SeqCst) == 0 {
        let producer = board.begun().fetch_add(1, SeqCst) as usize;
        assert!(producer < PRODUCERS);
        produce_series(&items, &board, kind, producer);
    }
}

fn produce_series(items: &Items, board: &Board, kind: Kind, producer: usize) {
    let mut random = Random::of(producer as u64);
    for number in 0..ITEMS {
        if board.stop().load(SeqCst) != 0 {
            return;
        }
        let item = item(producer, number, kind.len(&mut random));
        match items {
            Items::Plain(queue) => queue.put(item).unwrap(),
            // Limits the backlog here, as a joinable queue has no limit.
            Items::Joinable(tasks) => {
                while tasks.unfinished() > 1000 && board.stop().load(SeqCst) == 0 {
                    std::thread::yield_now();
                }
                tasks.put(item).unwrap();
            }
        }
        board.put(producer).store(number as u64 + 1, SeqCst);
        // Keeps the memory that the queue takes within bounds.
        if kind == Kind::Small && number % 64 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn consume(items: Items, board: Board) {
    match items {
        Items::Plain(queue) => {
            for item in queue.iter() {
                let before = board.see(&item.unwrap());
                assert_eq!(before, 0, "an item comes twice");
            }
        }
        Items::Joinable(tasks) => loop {
            let task = match tasks.get() {
                Ok(task) => task,
                Err(error) if error.is_end() => return,
                Err(error) => panic!("{error}"),
            };
            let before = board.see(&task);
            assert!(before == 0 || task.deliveries() > 1, "a second delivery is not counted");
            task.task_done();
        },
    }
}

fn kill_users(method: StartMethod, kind: Kind, stops: bool) {
    multiproc::process::set_standby(false);
    let mut random = Random::seeded();
    let board = Board::new();
    let items = match kind {
        Kind::Small => Items::Plain(Queue::new().unwrap()),
        Kind::Bounded => Items::Plain(Queue::with_capacity(100).unwrap()),
        Kind::Large => Items::Plain(Queue::with_limits(1000, 8 << 20).unwrap()),
        Kind::Joinable => Items::Joinable(JoinableQueue::new().unwrap()),
    };
    let producer =
        || Ends(Process::new(produce, (items.clone(), board.clone(), kind)).start_method(method).start().unwrap());
    let consumer = || Ends(Process::new(consume, (items.clone(), board.clone())).start_method(method).start().unwrap());
    let mut producers: Vec<Ends<()>> = (0..WORKERS).map(|_| producer()).collect();
    let mut consumers: Vec<Ends<()>> = (0..WORKERS).map(|_| consumer()).collect();

    let (begin, mut kills) = (Instant::now(), [0_u64; 2]);
    while begin.elapsed() < chaos::duration() {
        std::thread::sleep(Duration::from_micros(random.below(6000)));
        let place = random.below(2 * WORKERS as u64) as usize;
        let (role, place) = (place / WORKERS, place % WORKERS);
        let victim = if role == 0 { &producers[place] } else { &consumers[place] };
        if stops && random.below(2) == 0 {
            victim.signal(libc::SIGSTOP).unwrap();
            std::thread::sleep(Duration::from_micros(random.below(5000)));
            victim.signal(libc::SIGCONT).unwrap();
            continue;
        }
        victim.kill().unwrap();
        // Asserts that the signal ended it, and not an earlier failure.
        assert_eq!(victim.wait().unwrap().signal(), Some(libc::SIGKILL), "it failed before the kill");
        match role {
            0 => producers[place] = producer(),
            _ => consumers[place] = consumer(),
        }
        kills[role] += 1;
        // The others make progress, whichever process has been killed.
        let (before, waited) = (board.total().load(SeqCst), Instant::now());
        while board.total().load(SeqCst) == before {
            assert!(waited.elapsed() < LONG, "no item is taken any more after {kills:?} kills");
            std::thread::yield_now();
        }
    }
    board.stop().store(1, SeqCst);
    for producer in &producers {
        assert!(producer.wait_timeout(LONG).unwrap().expect("a producer hangs").success());
    }
    match &items {
        Items::Plain(queue) => queue.close(),
        Items::Joinable(tasks) => {
            tasks.join_timeout(LONG).unwrap();
            assert!(tasks.unfinished() == 0 && tasks.is_empty());
            tasks.close();
        }
    }
    for consumer in &consumers {
        assert!(consumer.wait_timeout(LONG).unwrap().expect("a consumer hangs").success());
    }

    let (mut put, mut perhaps, mut unseen, mut again) = (0, 0, 0, 0);
    for producer in 0..board.begun().load(SeqCst) as usize {
        let certain = board.put(producer).load(SeqCst) as usize;
        put += certain;
        for number in 0..ITEMS {
            match board.seen(producer, number).load(SeqCst) {
                0 if number < certain => unseen += 1,
                0 => break,
                // The producer was killed before it could record the put.
                count => {
                    assert!(number <= certain, "item {number} of {producer} was never put");
                    perhaps += u64::from(number == certain);
                    again += u64::from(count > 1);
                }
            }
        }
    }
    println!("{kills:?} kills, {put} items, {perhaps} uncertain, {unseen} taken by the killed, {again} again");
    assert!(
        perhaps <= kills[0],
        "a killed producer leaves at most one item that was put, but that it has not recorded as put"
    );
    match kind {
        Kind::Joinable => assert!(unseen == 0 && again <= kills[1]),
        _ => assert!(unseen <= kills[1] && again == 0),
    }
}

macro_rules! chaos {
    ($($name:ident: $kind:ident, $stops:literal;)*) => {
        $(mod $name {
            use super::*;

            #[multiproc::test]
            fn forkserver() {
                common::in_a_process_with_one_thread(|| kill_users(StartMethod::ForkServer, Kind::$kind, $stops));
            }

            #[multiproc::test]
            fn fork() {
                common::in_a_process_with_one_thread(|| kill_users(StartMethod::Fork, Kind::$kind, $stops));
            }
        })*
    };
}

chaos! {
    small: Small, false;
    bounded: Bounded, false;
    large_with_byte_limit: Large, false;
    joinable: Joinable, false;
    small_with_stops: Small, true;
    bounded_with_stops: Bounded, true;
}
