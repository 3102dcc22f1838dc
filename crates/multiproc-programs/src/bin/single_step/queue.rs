//! The queues: an item that a killed process put is in the queue or not, an item that it took is
//! gone or not, and the counts are right either way.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::time::{Duration, Instant};

use multiproc::queue::{GetError, PutErrorKind};
use multiproc::{Handle, JoinableQueue, Queue};
use serde_bytes::ByteBuf;

use super::walk::{Run, Scenario, Step};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("put_small", |run| put(run, unlimited(), SMALL)),
    ("put_block", |run| put(run, unlimited(), LARGE)),
    ("put_bounded", |run| put(run, of_three(), SMALL)),
    ("put_block_bounded", |run| put(run, of_three(), LARGE)),
    ("put_bounded_in_bytes", |run| put(run, of_bytes(), SMALL)),
    ("put_growing", put_growing),
    ("put_shrinking", put_shrinking),
    ("put_asleep", put_asleep),
    ("put_handles", put_handles),
    ("put_joinable", |run| put_joinable(run, SMALL)),
    ("put_block_joinable", |run| put_joinable(run, LARGE)),
    ("get_small", |run| get(run, unlimited(), SMALL)),
    ("get_block", |run| get(run, unlimited(), LARGE)),
    ("get_bounded", |run| get(run, of_three(), SMALL)),
    ("get_block_bounded", |run| get(run, of_three(), LARGE)),
    ("get_bounded_in_bytes", |run| get(run, of_bytes(), SMALL)),
    ("get_asleep", |run| get_asleep(run, unlimited())),
    ("get_bounded_asleep", |run| get_asleep(run, of_three())),
    ("get_making_room", |run| get_making_room(run, SMALL)),
    ("get_block_making_room", |run| get_making_room(run, LARGE)),
    ("get_handles", get_handles),
    ("get_joinable", |run| get_joinable(run, SMALL)),
    ("get_block_joinable", |run| get_joinable(run, LARGE)),
    ("get_returned", get_returned),
    ("task_done", |run| task_done(run, SMALL)),
    ("task_done_block", |run| task_done(run, LARGE)),
    ("task_dropped", task_dropped),
    ("join_asleep", join_asleep),
    ("close", close),
    ("close_before_producer", close_before_producer),
    ("close_before_consumer", |run| close_before_consumer(run, unlimited())),
    ("close_bounded_before_consumer", |run| close_before_consumer(run, of_three())),
];

/// Sizes of items that lie in the ring, and in a block.
const SMALL: usize = 10;
const LARGE: usize = 10_000;

/// Longer than anything takes here.
const SOON: Duration = Duration::from_secs(120);

/// Not `Vec<u8>`, which would be serialized byte by byte: most of the instructions would be those.
type Items = Queue<ByteBuf>;

fn unlimited() -> Items {
    Queue::new().unwrap()
}

fn of_three() -> Items {
    Queue::with_capacity(3).unwrap()
}

/// Room for three small items: each has seven bytes in addition to its contents.
fn of_bytes() -> Items {
    Queue::with_limits(usize::MAX, 3 * (SMALL as u64 + 7)).unwrap()
}

/// An item filled with its number.
fn item(number: u8, size: usize) -> ByteBuf {
    ByteBuf::from(vec![number; size])
}

/// Returns an item's number, after checking that the item is whole.
fn number(item: &[u8], size: usize) -> u8 {
    assert!(item.len() == size && item.iter().all(|byte| *byte == item[0]), "a torn item");
    item[0]
}

/// Takes all items out.
fn drain(queue: &Items, size: usize) -> Vec<u8> {
    let len = queue.len();
    let mut numbers = Vec::new();
    loop {
        match queue.try_get() {
            Ok(item) => numbers.push(number(&item, size)),
            Err(GetError::Empty) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(numbers.len(), len, "{numbers:?}");
    numbers
}

/// Puts as many items as fit, but at most eight, and takes them out again. Returns how many.
fn room(queue: &Items, size: usize) -> usize {
    let count = (0..8).take_while(|_| queue.try_put(item(9, size)).is_ok()).count();
    assert_eq!(drain(queue, size).len(), count);
    count
}

/// Makes the library do its once-per-process work.
fn warm() {
    let (queue, tasks) = (unlimited(), JoinableQueue::new().unwrap());
    for size in [SMALL, LARGE] {
        queue.put(item(0, size)).unwrap();
        queue.get().unwrap();
        tasks.put(item(0, size)).unwrap();
        tasks.get().unwrap().task_done();
    }
}

/// A victim that takes one item.
fn get_one(step: Step<'_>, queue: &Items) {
    warm();
    step(&mut || drop(queue.get().unwrap()));
}

fn put(run: &mut Run, queue: Items, size: usize) -> &'static str {
    let before = room(&queue, size);
    queue.put(item(1, size)).unwrap();
    run.victim(
        |step| {
            warm();
            let mut second = Some(item(2, size));
            step(&mut || queue.put(second.take().unwrap()).unwrap());
        },
        |_| (),
        || panic!("the victim must not sleep"),
    );
    queue.try_put(item(3, size)).unwrap();
    let outcome = match drain(&queue, size)[..] {
        [1, 3] => "not_put",
        [1, 2, 3] => "put",
        ref other => panic!("{other:?}"),
    };
    assert_eq!(room(&queue, size), before);
    outcome
}

fn put_growing(run: &mut Run) -> &'static str {
    const SIZE: usize = 1000;
    let queue = unlimited();
    for number in 0..61 {
        queue.put(item(number, SIZE)).unwrap();
    }
    run.victim(
        |step| {
            warm();
            step(&mut || (61..65).for_each(|number| queue.put(item(number, SIZE)).unwrap()));
        },
        |_| (),
        || panic!("the victim must not sleep"),
    );
    queue.put(item(100, SIZE)).unwrap();
    let numbers = drain(&queue, SIZE);
    let count = numbers.len() - 62;
    assert!(numbers[..61 + count].iter().copied().eq(0..61 + count as u8) && numbers.ends_with(&[100]));
    ["put_0", "put_1", "put_2", "put_3", "put_4"][count]
}

fn put_shrinking(run: &mut Run) -> &'static str {
    const SIZE: usize = 1000;
    let queue = unlimited();
    for count in [70, 54] {
        for number in 0..count {
            queue.put(item(number, SIZE)).unwrap();
        }
        assert_eq!(drain(&queue, SIZE).len(), usize::from(count));
    }
    run.victim(
        |step| {
            warm();
            step(&mut || {
                for number in 0..6 {
                    queue.put(item(number, SIZE)).unwrap();
                    queue.get().unwrap();
                }
            });
        },
        |_| (),
        || panic!("the victim must not sleep"),
    );
    for number in 100..200 {
        queue.put(item(number, SIZE)).unwrap();
    }
    let mut numbers = drain(&queue, SIZE);
    let outcome = if numbers.len() == 100 { "empty" } else { "put" };
    let last = numbers.split_off(numbers.len() - 100);
    assert!(last.into_iter().eq(100..200) && numbers.len() <= 1);
    outcome
}

fn put_asleep(run: &mut Run) -> &'static str {
    let queue = of_three();
    let before = room(&queue, SMALL);
    (1..=3).for_each(|number| queue.put(item(number, SMALL)).unwrap());
    let mut taken = false;
    run.victim(
        |step| {
            warm();
            let mut more = Some(item(4, SMALL));
            step(&mut || queue.put(more.take().unwrap()).unwrap());
        },
        // Another process waits already; whichever of the two is woken, the other must not be
        // forgotten.
        |run| run.beside(|| queue.put(item(5, SMALL)).unwrap()),
        || {
            // Makes room for both.
            (1..=2).for_each(|next| assert_eq!(number(&queue.get().unwrap(), SMALL), next));
            taken = true;
        },
    );
    if !taken {
        assert_eq!(number(&queue.get().unwrap(), SMALL), 1);
    }
    run.settle();
    let numbers = drain(&queue, SMALL);
    let mut others = numbers.strip_prefix(if taken { &[3][..] } else { &[2, 3] }).expect("out of order").to_vec();
    others.sort();
    assert_eq!(room(&queue, SMALL), before);
    match others[..] {
        [5] => "not_put",
        [4, 5] => "put",
        ref other => panic!("{other:?}"),
    }
}

type Files = Queue<(u8, Handle<PipeWriter>)>;

/// Takes all items out, writes each item's number into its pipe, and returns what each of the pipes
/// delivers.
fn write_and_read<const N: usize>(queue: &Files, readers: [PipeReader; N]) -> [Vec<u8>; N] {
    loop {
        match queue.try_get() {
            Ok((number, mut writer)) => writer.write_all(&[number]).unwrap(),
            Err(GetError::Empty) => break,
            Err(error) => panic!("{error}"),
        }
    }
    // A pipe ends only when no process has its other end any more, and neither has the queue.
    readers.map(|mut reader| {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

fn put_handles(run: &mut Run) -> &'static str {
    let queue: Files = Queue::new().unwrap();
    let [(one, write_one), (two, write_two)] = [(); 2].map(|()| std::io::pipe().unwrap());
    run.victim(
        |step| {
            warm();
            let mut first = Some((1, Handle::new(write_one.try_clone().unwrap())));
            step(&mut || queue.put(first.take().unwrap()).unwrap());
        },
        |_| (),
        || panic!("the victim must not sleep"),
    );
    drop(write_one);
    queue.put((2, Handle::new(write_two))).unwrap();
    match write_and_read(&queue, [one, two]).each_ref().map(Vec::as_slice) {
        [[], [2]] => "not_put",
        [[1], [2]] => "put",
        other => panic!("{other:?}"),
    }
}

fn get_handles(run: &mut Run) -> &'static str {
    let queue: Files = Queue::new().unwrap();
    let [(one, write_one), (two, write_two)] = [(); 2].map(|()| std::io::pipe().unwrap());
    queue.put((1, Handle::new(write_one))).unwrap();
    queue.put((2, Handle::new(write_two))).unwrap();
    run.victim(
        |step| {
            warm();
            step(&mut || drop(queue.get().unwrap()));
        },
        |_| (),
        || panic!("the victim must not sleep"),
    );
    match write_and_read(&queue, [one, two]).each_ref().map(Vec::as_slice) {
        [[], [2]] => "taken",
        [[1], [2]] => "not_taken",
        other => panic!("{other:?}"),
    }
}

fn get(run: &mut Run, queue: Items, size: usize) -> &'static str {
    let before = room(&queue, size);
    (1..=3).for_each(|number| queue.put(item(number, size)).unwrap());
    run.victim(|step| get_one(step, &queue), |_| (), || panic!("the victim must not sleep"));
    let is_limited = before == 3;
    let put = queue.try_put(item(4, size)).is_ok();
    let outcome = match drain(&queue, size)[..] {
        [1, 2, 3] if is_limited && !put => "not_taken",
        [1, 2, 3, 4] if !is_limited && put => "not_taken",
        [2, 3, 4] if put => "taken",
        ref other => panic!("{other:?}, put: {put}"),
    };
    assert_eq!(room(&queue, size), before);
    outcome
}

fn get_asleep(run: &mut Run, queue: Items) -> &'static str {
    let before = room(&queue, SMALL);
    let mut put = false;
    let mut put_both = || {
        if !std::mem::replace(&mut put, true) {
            (1..=2).for_each(|number| queue.put(item(number, SMALL)).unwrap());
        }
    };
    let was_killed = run.victim(
        |step| get_one(step, &queue),
        // Another process waits already; whichever of the two is woken, the other must not be
        // forgotten.
        |run| run.beside(|| drop(queue.get().unwrap())),
        &mut put_both,
    );
    // There is an item for each of them, but the victim may have died before any was put.
    put_both();
    run.settle();
    let outcome = match drain(&queue, SMALL)[..] {
        [] => "taken",
        [_] if was_killed => "not_taken",
        ref other => panic!("{other:?}"),
    };
    assert_eq!(room(&queue, SMALL), before);
    outcome
}

fn get_making_room(run: &mut Run, size: usize) -> &'static str {
    let queue = of_three();
    let before = room(&queue, size);
    (1..=3).for_each(|number| queue.put(item(number, size)).unwrap());
    run.victim(
        |step| get_one(step, &queue),
        // Another process waits for room, without a timeout.
        |run| run.beside_at_the_door(|| queue.put(item(4, size)).unwrap()),
        || panic!("the victim must not sleep"),
    );
    // If there is room, only the victim could have notified it.
    let begun = Instant::now();
    let taken = loop {
        match (run.polls(), queue.is_full()) {
            (true, true) => break false,
            (_, is_full) if is_full && queue.len() == 3 && run.has_ended() => break true,
            _ => assert!(begun.elapsed() < SOON, "the producer that waits for room was not notified"),
        }
        std::thread::yield_now();
    };
    if !taken {
        assert_eq!(number(&queue.get().unwrap(), size), 1);
    }
    run.settle_soon();
    assert_eq!(drain(&queue, size), [2, 3, 4]);
    assert_eq!(room(&queue, size), before);
    if taken { "taken" } else { "not_taken" }
}

type Tasks = JoinableQueue<ByteBuf>;

/// Takes `count` items, which must be all, and finishes their tasks. Returns the items' numbers and
/// how often each was taken.
fn finish(tasks: &Tasks, count: usize, size: usize) -> Vec<(u8, u32)> {
    let one = |_| {
        let task = tasks.get_timeout(SOON).unwrap();
        let pair = (number(&task, size), task.deliveries());
        task.task_done();
        pair
    };
    let mut numbers: Vec<(u8, u32)> = (0..count).map(one).collect();
    numbers.sort();
    tasks.join_timeout(SOON).unwrap();
    assert!(tasks.unfinished() == 0 && tasks.is_empty());
    assert_eq!(tasks.len(), 0);
    assert!(matches!(tasks.try_get(), Err(GetError::Empty)));
    numbers
}

/// A new queue that has been used.
fn tasks(size: usize) -> Tasks {
    let tasks = JoinableQueue::new().unwrap();
    (0..2).for_each(|number| tasks.put(item(number, size)).unwrap());
    finish(&tasks, 2, size);
    tasks
}

fn put_joinable(run: &mut Run, size: usize) -> &'static str {
    let tasks = tasks(size);
    tasks.put(item(1, size)).unwrap();
    run.victim(
        |step| {
            warm();
            let mut second = Some(item(2, size));
            step(&mut || tasks.put(second.take().unwrap()).unwrap());
        },
        |_| (),
        || panic!("the victim must not sleep"),
    );
    tasks.put(item(3, size)).unwrap();
    let count = tasks.len();
    match finish(&tasks, count, size)[..] {
        [(1, 1), (3, 1)] => "not_put",
        [(1, 1), (2, 1), (3, 1)] => "put",
        ref other => panic!("{other:?}"),
    }
}

fn get_joinable(run: &mut Run, size: usize) -> &'static str {
    let tasks = tasks(size);
    (1..=2).for_each(|number| tasks.put(item(number, size)).unwrap());
    run.victim(
        |step| {
            warm();
            step(&mut || std::mem::forget(tasks.get().unwrap()));
        },
        |_| (),
        || panic!("the victim must not sleep"),
    );
    match finish(&tasks, 2, size)[..] {
        [(1, 1), (2, 1)] => "not_taken",
        [(1, 2), (2, 1)] => "returned",
        ref other => panic!("{other:?}"),
    }
}

fn get_returned(run: &mut Run) -> &'static str {
    let tasks = tasks(SMALL);
    tasks.put(item(1, SMALL)).unwrap();
    drop(tasks.get().unwrap());
    run.victim(
        |step| {
            warm();
            step(&mut || std::mem::forget(tasks.get().unwrap()));
        },
        |_| (),
        || panic!("the victim must not sleep"),
    );
    match finish(&tasks, 1, SMALL)[..] {
        [(1, 2)] => "not_taken",
        [(1, 3)] => "returned",
        ref other => panic!("{other:?}"),
    }
}

fn task_done(run: &mut Run, size: usize) -> &'static str {
    let tasks = tasks(size);
    tasks.put(item(1, size)).unwrap();
    run.victim(
        |step| {
            warm();
            let mut task = Some(tasks.get().unwrap());
            step(&mut || task.take().unwrap().task_done());
        },
        |_| (),
        || panic!("the victim must not sleep"),
    );
    let left = tasks.unfinished();
    match finish(&tasks, left, size)[..] {
        [] => "done",
        [(1, 2)] => "returned",
        ref other => panic!("{other:?}"),
    }
}

fn task_dropped(run: &mut Run) -> &'static str {
    let tasks = tasks(SMALL);
    tasks.put(item(1, SMALL)).unwrap();
    run.victim(
        |step| {
            warm();
            let mut task = Some(tasks.get().unwrap());
            step(&mut || drop(task.take()));
        },
        // The waiter is woken, whether the task is dropped or its owner dies.
        |run| {
            run.beside(|| {
                let task = tasks.get_timeout(SOON).unwrap();
                assert_eq!((number(&task, SMALL), task.deliveries()), (1, 2));
                task.task_done();
            });
        },
        || panic!("the victim must not sleep"),
    );
    run.settle();
    finish(&tasks, 0, SMALL);
    "returned"
}

fn join_asleep(run: &mut Run) -> &'static str {
    let tasks = tasks(SMALL);
    tasks.put(item(1, SMALL)).unwrap();
    let mut task = Some(tasks.get().unwrap());
    run.victim(
        |step| {
            warm();
            step(&mut || tasks.join().unwrap());
        },
        |run| run.beside(|| tasks.join_timeout(SOON).unwrap()),
        || task.take().unwrap().task_done(),
    );
    if let Some(task) = task {
        task.task_done();
    }
    run.settle();
    finish(&tasks, 0, SMALL);
    "done"
}

fn close(run: &mut Run) -> &'static str {
    let queue = unlimited();
    queue.put(item(1, SMALL)).unwrap();
    run.victim(
        |step| {
            warm();
            step(&mut || queue.close());
        },
        |_| (),
        || panic!("the victim must not sleep"),
    );
    let closed = queue.is_closed();
    assert_eq!(queue.put(item(2, SMALL)).is_err(), closed);
    assert_eq!(queue.get().unwrap(), item(1, SMALL));
    match closed {
        true => {
            assert!(matches!(queue.get(), Err(GetError::Closed)));
            "closed"
        }
        false => "open",
    }
}

fn close_before_producer(run: &mut Run) -> &'static str {
    let queue = of_three();
    (1..=3).for_each(|number| queue.put(item(number, SMALL)).unwrap());
    run.victim(
        |step| {
            warm();
            step(&mut || queue.close());
        },
        |run| {
            run.beside_at_the_door(|| {
                let error = queue.put(item(4, SMALL)).unwrap_err();
                assert!(matches!(error.kind(), PutErrorKind::Closed), "{error}");
            });
        },
        || panic!("the victim must not sleep"),
    );
    closed(run, &queue)
}

fn close_before_consumer(run: &mut Run, queue: Items) -> &'static str {
    run.victim(
        |step| {
            warm();
            step(&mut || queue.close());
        },
        |run| run.beside_at_the_door(|| assert!(matches!(queue.get(), Err(GetError::Closed)))),
        || panic!("the victim must not sleep"),
    );
    closed(run, &queue)
}

/// If the queue is closed, only the victim could have notified the waiter.
fn closed(run: &mut Run, queue: &Items) -> &'static str {
    let closed = queue.is_closed();
    if !closed {
        queue.close();
    }
    run.settle_soon();
    assert!(queue.is_closed() && queue.put(item(5, SMALL)).is_err());
    if closed { "closed" } else { "open" }
}
