//! [`Queue`]: items that one process puts and another gets.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use crate::common::{self, Ends, LONG, for_each_method};
use crate::shared::wait_asleep;
use multiproc::queue::{Consumer, GetError, Producer, PutErrorKind};
use multiproc::{Handle, JoinableQueue, Process, Queue, Run};
use serde::{Deserialize, Serialize};

/// Long enough for anything that is going to happen.
const GENEROUS: Duration = Duration::from_secs(300);

fn number(queue: Queue<u64>, number: u64) {
    queue.put(number).unwrap();
}

for_each_method! {
    fn smoke(method) {
        let queue = Queue::new().unwrap();
        let child = Process::new(number, (queue.clone(), 7)).start_method(method).start().unwrap();
        assert_eq!(queue.get().unwrap(), 7);
        child.join().unwrap();
        assert!(queue.is_empty());
        assert_eq!(queue.len(), 0);
    }
}

fn echo(requests: Consumer<Vec<u8>>, answers: Producer<Vec<u8>>) {
    for item in requests.iter() {
        answers.put(item.unwrap()).unwrap();
    }
}

for_each_method! {
    fn item_sizes(method) {
        let (requests, answers) = (Queue::new().unwrap(), Queue::new().unwrap());
        let child = Process::new(echo, (requests.consumer(), answers.producer())).start_method(method).start().unwrap();
        let sizes = [0, 1, 7, 8, 2000, 2019, 2020, 2021, 2022, 2023, 2024, 2025, 2048, 4095, 4096, 65_536, 1 << 20, 10 << 20];
        let item = |size: usize| (0..size).map(|i| (i * 31 + size) as u8).collect::<Vec<u8>>();
        for size in sizes {
            requests.put(item(size)).unwrap();
        }
        for size in sizes {
            assert!(answers.get().unwrap() == item(size), "{size} bytes");
        }
        drop(requests);
        child.join().unwrap();
    }
}

for_each_method! {
    fn disconnect_wakes_consumer(method) {
        let queue = Queue::new().unwrap();
        for item in 0..3 {
            Process::new(number, (queue.clone(), item)).start_method(method).start().unwrap();
        }
        let mut items: Vec<u64> = queue.iter().map(Result::unwrap).collect();
        items.sort();
        assert_eq!(items, [0, 1, 2]);
    }
}

fn wait_for_ever(queue: Queue<u64>) {
    queue.put(0).unwrap();
    loop {
        std::thread::park();
    }
}

for_each_method! {
    fn killed_producer_wakes_consumer(method) not_fork {
        let queue = Queue::new().unwrap();
        let child = Process::new(wait_for_ever, (queue.clone(),)).start_method(method).start().unwrap();
        assert_eq!(queue.get().unwrap(), 0);
        let killer = std::thread::spawn(move || {
            // The parent may sleep by then, or not: it doesn't matter.
            std::thread::sleep(Duration::from_millis(20));
            child.kill().unwrap();
        });
        assert!(matches!(queue.get(), Err(GetError::Disconnected)));
        killer.join().unwrap();
    }
}

fn sum(numbers: Queue<u64>, sums: Queue<u64>) {
    sums.put(numbers.iter().map(Result::unwrap).sum()).unwrap();
}

for_each_method! {
    fn waiting_consumers_are_disconnected(method) {
        let (numbers, sums) = (Queue::new().unwrap(), Queue::new().unwrap());
        let children: Vec<_> = (0..3)
            .map(|_| Process::new(sum, (numbers.clone(), sums.clone())).start_method(method).start().unwrap())
            .collect();
        for number in 0..1000 {
            numbers.put(number).unwrap();
        }
        drop(numbers);
        assert_eq!((0..3).map(|_| sums.get().unwrap()).sum::<u64>(), 499_500);
        for child in children {
            child.join().unwrap();
        }
    }
}

#[multiproc::test]
fn try_put_try_get() {
    let queue = Queue::with_capacity(2).unwrap();
    assert_eq!(queue.capacity(), Some(2));
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
    queue.put(1).unwrap();
    assert!(!queue.is_full());
    queue.put(2).unwrap();
    assert!(queue.is_full());
    assert_eq!(queue.len(), 2);
    let error = queue.try_put(3).unwrap_err();
    assert!(error.is_full() && error.into_inner() == 3);
    let error = queue.put_timeout(3, Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error.kind(), PutErrorKind::Timeout));
    assert_eq!(queue.get().unwrap(), 1);
    queue.put(3).unwrap();
    assert_eq!((queue.get().unwrap(), queue.get().unwrap()), (2, 3));
    assert!(matches!(queue.get_timeout(Duration::from_millis(20)), Err(GetError::Timeout)));
}

#[multiproc::test]
fn byte_capacity() {
    let queue = Queue::<Vec<u8>>::with_limits(usize::MAX, 10_000).unwrap();
    assert!(matches!(queue.put(vec![0; 10_001]).unwrap_err().kind(), PutErrorKind::TooLarge));
    queue.put(vec![1; 9_000]).unwrap();
    assert!(queue.try_put(vec![2; 2_000]).unwrap_err().is_full());
    queue.put(vec![3; 500]).unwrap();
    assert_eq!(queue.get().unwrap().len(), 9_000);
    queue.try_put(vec![2; 2_000]).unwrap();
    assert_eq!((queue.get().unwrap().len(), queue.get().unwrap().len()), (500, 2_000));
}

fn slow_consumer(queue: Queue<u64>) {
    for expected in 0..200 {
        assert_eq!(queue.get().unwrap(), expected);
    }
}

for_each_method! {
    fn capacity_one(method) {
        let queue = Queue::with_capacity(1).unwrap();
        let child = Process::new(slow_consumer, (queue.clone(),)).start_method(method).start().unwrap();
        for item in 0..200 {
            queue.put(item).unwrap();
        }
        child.join().unwrap();
    }
}

fn leave_it(queue: Queue<u64>) {
    queue.get().unwrap();
}

for_each_method! {
    fn disconnect_wakes_producer(method) {
        let queue = Queue::with_capacity(1).unwrap();
        let child = Process::new(leave_it, (queue.clone(),)).start_method(method).start().unwrap();
        let mut put = 0;
        let error = loop {
            match queue.put(0) {
                Ok(()) => put += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error.kind(), PutErrorKind::Disconnected), "{error}");
        assert_eq!(put, 2);
        child.join().unwrap();
    }
}

#[multiproc::test]
fn zero_sized() {
    let queue = Queue::new().unwrap();
    for _ in 0..100_000 {
        queue.put(()).unwrap();
    }
    assert_eq!(queue.len(), 100_000);
    for _ in 0..100_000 {
        queue.get().unwrap();
    }
    assert!(queue.is_empty());
}

#[multiproc::test]
fn close_drains() {
    let queue = Queue::new().unwrap();
    queue.put(1).unwrap();
    queue.close();
    assert!(queue.is_closed());
    assert!(matches!(queue.put(2).unwrap_err().kind(), PutErrorKind::Closed));
    assert_eq!(queue.get().unwrap(), 1);
    assert!(matches!(queue.get(), Err(GetError::Closed)));
    assert!(matches!(queue.try_get(), Err(GetError::Closed)));
}

for_each_method! {
    fn close_wakes_waiters(method) {
        let (numbers, sums) = (Queue::new().unwrap(), Queue::new().unwrap());
        let child = Process::new(sum, (numbers.clone(), sums.clone())).start_method(method).start().unwrap();
        numbers.put(5).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        numbers.close();
        assert_eq!(sums.get().unwrap(), 5);
        child.join().unwrap();
    }
}

fn pass_on(queues: Queue<Queue<String>>) {
    let inner = queues.get().unwrap();
    inner.put("through a queue through a queue".into()).unwrap();
}

for_each_method! {
    fn queue_through_queue(method) {
        let (outer, inner) = (Queue::new().unwrap(), Queue::new().unwrap());
        let child = Process::new(pass_on, (outer.clone(),)).start_method(method).start().unwrap();
        outer.put(inner.clone()).unwrap();
        assert_eq!(inner.get().unwrap(), "through a queue through a queue");
        assert!(matches!(inner.get(), Err(GetError::Disconnected)));
        child.join().unwrap();
    }
}

#[multiproc::test]
fn handle_in_flight() {
    let (outer, inner) = (Queue::new().unwrap(), Queue::<u8>::new().unwrap());
    outer.put(inner.clone()).unwrap();
    assert!(matches!(inner.get_timeout(Duration::from_millis(50)), Err(GetError::Timeout)));
    drop(outer);
    assert!(matches!(inner.get(), Err(GetError::Disconnected)));
}

#[multiproc::test]
fn handles_in_items() {
    let queue = Queue::new().unwrap();
    let mut readers = Vec::new();
    for number in 0..100_u8 {
        let (reader, writer) = std::io::pipe().unwrap();
        // Small ones and large ones, with handles and without.
        queue
            .put((number, vec![number; usize::from(number) * 100], (number % 3 != 0).then(|| Handle::new(writer))))
            .unwrap();
        readers.push(reader);
    }
    for (number, mut reader) in (0..100_u8).zip(readers) {
        let (got, bytes, writer) = queue.get().unwrap();
        assert_eq!((got, bytes.len(), writer.is_some()), (number, usize::from(number) * 100, number % 3 != 0));
        if let Some(mut writer) = writer {
            use std::io::{Read, Write};
            writer.write_all(&[number]).unwrap();
            drop(writer);
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, [number]);
        }
    }
}

#[multiproc::test]
fn too_many_handles() {
    let queue = Queue::new().unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut put = 0;
    let error = loop {
        match queue.put(Handle::new(reader.try_clone().unwrap())) {
            Ok(()) => put += 1,
            Err(error) => break error,
        }
    };
    assert!(put > 100, "{put}");
    assert!(error.to_string().contains("handles"), "{error}");
    for _ in 0..put {
        drop(queue.get().unwrap());
    }
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
}

#[derive(Serialize, Deserialize)]
struct Square {
    numbers: Consumer<u64>,
    squares: Producer<u64>,
}

impl Run for Square {
    type Output = Queue<u64>;

    fn run(self) -> Queue<u64> {
        for number in self.numbers.iter() {
            let number = number.unwrap();
            self.squares.put(number * number).unwrap();
        }
        let own = Queue::new().unwrap();
        own.put(1000).unwrap();
        own
    }
}

for_each_method! {
    fn fields_and_results(method) {
        let (numbers, squares) = (Queue::new().unwrap(), Queue::new().unwrap());
        let run = Square { numbers: numbers.consumer(), squares: squares.producer() };
        let child = run.process().start_method(method).start().unwrap();
        for number in 0..10 {
            numbers.put(number).unwrap();
        }
        drop(numbers);
        let got: Vec<u64> = squares.iter().map(Result::unwrap).collect();
        assert_eq!(got, (0..10).map(|number| number * number).collect::<Vec<u64>>());
        let queue = child.join().unwrap();
        assert_eq!(queue.get().unwrap(), 1000);
        assert!(matches!(queue.get(), Err(GetError::Disconnected)));
    }
}

#[multiproc::test]
fn get_bytes() {
    let queue = Queue::<()>::new().unwrap();
    for size in [0, 1, 2000, 2048, 100_000, 3 << 20] {
        queue.put_bytes(&vec![7; size]).unwrap();
        let message = queue.get_bytes().unwrap();
        assert!(message.len() == size && message.iter().all(|byte| *byte == 7), "{size}");
    }
    queue.put(()).unwrap();
    queue.put_bytes(b"raw").unwrap();
    queue.put(()).unwrap();
    queue.get().unwrap();
    let error = queue.get().unwrap_err();
    assert!(matches!(error, GetError::Decode(_)) && error.to_string().contains("bytes"), "{error}");
    queue.get().unwrap();
}

#[derive(Debug)]
struct Unwilling;

impl Serialize for Unwilling {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not today"))
    }
}

impl<'de> Deserialize<'de> for Unwilling {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Unwilling, D::Error> {
        Ok(Unwilling)
    }
}

#[multiproc::test]
fn encode_error() {
    let queue = Queue::new().unwrap();
    let error = queue.put(Unwilling).unwrap_err();
    assert!(matches!(error.kind(), PutErrorKind::Encode(_)) && error.to_string().contains("not today"), "{error}");
    assert!(queue.is_empty());
}

#[multiproc::test]
fn self_describing_types() {
    let queue = Queue::new().unwrap();
    for value in [serde_json::json!({"a": [1, 2.5, null]}), serde_json::json!("text"), serde_json::json!(null)] {
        for _ in 0..3 {
            queue.put(value.clone()).unwrap();
            assert_eq!(queue.get().unwrap(), value);
        }
    }
}

#[multiproc::test]
fn readable_fd() {
    let queue = Queue::new().unwrap();
    let readable = |millis: i32| {
        let mut fds = [libc::pollfd { fd: queue.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        // SAFETY: the array has one element, as stated.
        unsafe { libc::poll(fds.as_mut_ptr(), 1, millis) == 1 }
    };
    assert!(!readable(0));
    for round in 0..3 {
        queue.put(round).unwrap();
        queue.put(round).unwrap();
        assert!(readable(-1));
        assert_eq!(queue.try_get().unwrap(), round);
        assert!(readable(-1));
        assert_eq!(queue.try_get().unwrap(), round);
        assert!(matches!(queue.try_get(), Err(GetError::Empty)));
        assert!(!readable(0));
    }
}

fn hold(producer: Producer<u8>, ready: Queue<()>) {
    ready.put(()).unwrap();
    common::sleep_long();
    producer.put(1).unwrap();
}

for_each_method! {
    fn every_get_reports_disconnect(method) {
        let (queue, ready) = (Queue::new().unwrap(), Queue::new().unwrap());
        let child = Process::new(hold, (queue.producer(), ready.clone())).start_method(method).start().unwrap();
        let child = Ends(child);
        let consumer = queue.consumer();
        queue.put(7).unwrap();
        drop(queue);
        ready.get_timeout(LONG).unwrap();
        let soon = Duration::from_millis(1);
        assert_eq!(consumer.try_get().unwrap(), 7);
        assert!(consumer.try_get().unwrap_err().is_empty());
        assert!(matches!(consumer.get_timeout(soon), Err(GetError::Timeout)));
        assert!(multiproc::wait_any(&[&consumer], soon).unwrap().is_empty());
        child.kill().unwrap();
        // The end is detected by the queue handles that the child held, not by the child's end.
        let begin = std::time::Instant::now();
        assert_eq!(multiproc::wait_any(&[&consumer], LONG).unwrap(), [0]);
        assert_eq!(multiproc::wait_any(&[&consumer, &*child], None).unwrap()[0], 0);
        assert!(begin.elapsed() < LONG);
        assert!(matches!(consumer.try_get(), Err(GetError::Disconnected)));
        assert!(matches!(consumer.get_timeout(soon), Err(GetError::Disconnected)));
        assert!(matches!(consumer.get_timeout(Duration::ZERO), Err(GetError::Disconnected)));
        assert!(matches!(consumer.get(), Err(GetError::Disconnected)));
    }
}

#[multiproc::test]
fn every_put_reports_disconnect() {
    let queue = Queue::with_capacity(1).unwrap();
    let (producer, consumer) = (queue.producer(), queue.consumer());
    drop(queue);
    producer.put(1).unwrap();
    assert!(producer.try_put(2).unwrap_err().is_full());
    drop(consumer);
    // A process that another test has made at this moment may still have its descriptors.
    common::time_until(|| !producer.has_consumers());
    let error = producer.try_put(2).unwrap_err();
    assert!(error.is_end() && matches!(error.kind(), PutErrorKind::Disconnected), "{error}");
    let error = producer.put_timeout(2, Duration::from_millis(1)).unwrap_err();
    assert!(matches!(error.kind(), PutErrorKind::Disconnected), "{error}");
}

/// The descriptor stays the same, whatever waits, comes and goes meanwhile.
#[multiproc::test]
fn epoll() {
    let queue = Queue::new().unwrap();
    let (producer, consumer) = (queue.producer(), queue.consumer());
    // SAFETY: the pointers are to the local event and list.
    let (set, is_ready) = unsafe {
        let set = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 1 };
        assert_eq!(libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, consumer.as_fd().as_raw_fd(), &raw mut event), 0);
        let is_ready = move |millis| {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            libc::epoll_wait(set, &raw mut event, 1, millis) == 1
        };
        (set, is_ready)
    };
    assert!(!is_ready(0));
    // This process drops its last producer, and receives one again.
    drop((queue, producer.clone()));
    let other = Queue::new().unwrap();
    other.put(producer).unwrap();
    for number in 0..3 {
        let producer: Producer<u8> = other.get().unwrap();
        producer.put(number).unwrap();
        assert!(is_ready(-1));
        assert_eq!(consumer.try_get().unwrap(), number);
        assert!(matches!(consumer.try_get(), Err(GetError::Empty)) && !is_ready(0));
        other.put(producer).unwrap();
    }
    drop(other);
    assert!(is_ready(-1));
    assert!(matches!(consumer.try_get(), Err(GetError::Disconnected)));
    // SAFETY: the descriptor is owned here, and not used any more.
    unsafe { libc::close(set) };
}

#[multiproc::test]
fn iter() {
    let queue = Queue::with_capacity(5).unwrap();
    (1..=3).for_each(|number| queue.put(number).unwrap());
    queue.close();
    let mut sum = 0;
    for number in &queue {
        sum += number.unwrap();
    }
    assert_eq!(sum, 6);
    let tasks = JoinableQueue::with_limits(5, 100).unwrap();
    assert_eq!(tasks.capacity(), Some(5));
    (1..=3).for_each(|number| tasks.put(number).unwrap());
    tasks.close();
    assert_eq!(tasks.iter().map(|task| task.unwrap().into_inner()).sum::<i32>(), 6);
    assert_eq!(tasks.unfinished(), 0);
    let error = JoinableQueue::with_limits(5, 3).unwrap().put(vec![0_u8; 100]).unwrap_err();
    assert!(matches!(error.kind(), PutErrorKind::TooLarge));
}

/// In a process without other queues, so that only this queue's memory is counted.
#[multiproc::test]
fn grow_wrap_shrink() {
    Process::new(grow_wrap_and_give_back, ()).start().unwrap().join().unwrap();
}

fn grow_wrap_and_give_back() {
    let queue = Queue::<Vec<u8>>::new().unwrap();
    let memory = || -> u64 {
        // The memory that the queue's own memory file takes.
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| entry.ok())
            .filter(|entry| {
                std::fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().contains("multiproc-queue"))
            })
            .map(|entry| std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(entry.path()).unwrap()) * 512)
            .sum()
    };
    let mut put = 0_u32;
    let mut got = 0_u32;
    let item = |number: u32| number.to_le_bytes().repeat(1 + number as usize % 300);
    // Fills it further each time and empties it again, several times over.
    for backlog in [10, 100, 1000, 10_000, 50_000] {
        for _ in 0..3 {
            while put - got < backlog {
                queue.put(item(put)).unwrap();
                put += 1;
            }
            assert_eq!(queue.len() as u32, backlog);
            while got < put - backlog / 2 {
                assert!(queue.get().unwrap() == item(got), "item {got}");
                got += 1;
            }
        }
        while got < put {
            assert!(queue.get().unwrap() == item(got), "item {got}");
            got += 1;
        }
    }
    assert!(memory() < 6 << 20, "{} bytes are kept", memory());
    for _ in 0..50 {
        queue.put(vec![1; 3 << 20]).unwrap();
    }
    assert!(memory() > 150 << 20);
    for _ in 0..50 {
        assert_eq!(queue.get().unwrap().len(), 3 << 20);
    }
    assert!(memory() < 16 << 20, "{} bytes are kept", memory());
}

for_each_method! {
    fn wait_with_child(method) {
        let queue = Queue::new().unwrap();
        let child = Process::new(number, (queue.clone(), 7)).start_method(method).start().unwrap();
        let mut got = Vec::new();
        loop {
            let ready = multiproc::wait_any(&[&queue, &child], None).unwrap();
            got.extend(queue.try_get());
            if ready.contains(&1) {
                break;
            }
        }
        assert_eq!(got, [7]);
        assert!(multiproc::wait_any(&[&queue], Duration::ZERO).unwrap().is_empty());
    }
}

fn many(queue: Queue<(u32, u32)>, process: u32, count: u32) {
    for number in 0..count {
        queue.put((process, number)).unwrap();
    }
}

for_each_method! {
    fn two_hundred_processes(method) {
        const PROCESSES: u32 = 200;
        const COUNT: u32 = 50;
        let queue = Queue::new().unwrap();
        let children: Vec<_> = (0..PROCESSES)
            .map(|process| Process::new(many, (queue.clone(), process, COUNT)).start_method(method).start().unwrap())
            .collect();
        let mut next = vec![0; PROCESSES as usize];
        for item in queue.iter() {
            let (process, number) = item.unwrap();
            assert_eq!(next[process as usize], number, "in order");
            next[process as usize] += 1;
        }
        assert!(next.iter().all(|count| *count == COUNT));
        for child in children {
            child.join().unwrap();
        }
    }
}

fn stopped(queue: Queue<u64>) {
    while queue.get().is_ok() {}
}

for_each_method! {
    fn stopped_consumer(method) {
        let queue = Queue::new().unwrap();
        let child = Process::new(stopped, (queue.clone(),)).start_method(method).start().unwrap();
        queue.put(0).unwrap();
        while !queue.is_empty() {
            std::thread::yield_now();
        }
        for _ in 0..20 {
            // Not while it holds a lock of the queue, in which `put` would wait for it.
            wait_asleep(child.pid());
            child.signal(libc::SIGSTOP).unwrap();
            for number in 0..1000 {
                queue.put(number).unwrap();
            }
            for _ in 0..900 {
                queue.get_timeout(GENEROUS).unwrap();
            }
            child.signal(libc::SIGCONT).unwrap();
            while !queue.is_empty() {
                std::thread::yield_now();
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn put_bytes(queue: Queue<Vec<u8>>, len: usize) {
    queue.put(vec![1; len]).unwrap();
}

for_each_method! {
    fn late_producer(method) {
        let queue = Queue::with_limits(usize::MAX, 1000).unwrap();
        let producer = |len: usize| {
            let child = Ends(Process::new(put_bytes, (queue.clone(), len)).start_method(method).start().unwrap());
            wait_asleep(child.pid());
            child
        };
        queue.put(vec![0; 900]).unwrap();
        let small = producer(200);
        small.signal(libc::SIGSTOP).unwrap();
        queue.get().unwrap();
        queue.put(vec![0; 700]).unwrap();
        // This one doesn't fit, and goes to sleep before the other one has woken up.
        let large = producer(500);
        small.signal(libc::SIGCONT).unwrap();
        assert!(small.wait_timeout(LONG).unwrap().expect("timed out").success());
        assert!(large.is_alive());
        assert_eq!((queue.get().unwrap().len(), queue.get().unwrap().len()), (700, 200));
        assert!(large.wait_timeout(LONG).unwrap().expect("timed out").success());
    }
}

#[multiproc::test]
fn waiters_of_one_handle() {
    let queue = Queue::new().unwrap();
    let (producer, consumer) = (queue.producer(), queue.consumer());
    drop(queue);
    std::thread::scope(|scope| {
        let (say, said) = std::sync::mpsc::channel();
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (say, consumer) = (say.clone(), &consumer);
                scope.spawn(move || {
                    say.send(multiproc_os::threads::gettid()).unwrap();
                    consumer.get()
                })
            })
            .collect();
        for thread in said.iter().take(3) {
            wait_asleep(thread);
        }
        for item in 0..3 {
            producer.put(item).unwrap();
        }
        let mut items: Vec<i32> = threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect();
        items.sort();
        assert_eq!(items, [0, 1, 2]);
    });
    drop(producer);
    assert!(matches!(consumer.get(), Err(GetError::Disconnected)));
}

fn die_with_it(tasks: JoinableQueue<u64>) {
    let _task = tasks.get().unwrap();
    std::process::abort();
}

fn work(tasks: JoinableQueue<u64>, done: Queue<(u64, u32)>) {
    while let Ok(task) = tasks.get() {
        done.put((*task, task.deliveries())).unwrap();
        task.task_done();
    }
}

for_each_method! {
    fn killed_consumer_redelivers(method) {
        let (tasks, done) = (JoinableQueue::new().unwrap(), Queue::new().unwrap());
        let worker = Process::new(work, (tasks.clone(), done.clone())).start_method(method).start().unwrap();
        tasks.put(1).unwrap();
        assert_eq!(done.get().unwrap(), (1, 1));
        // Now the worker sleeps. Either the worker takes the item, or the dying process does, and
        // then the worker.
        for round in 2..5 {
            let child = Process::new(die_with_it, (tasks.clone(),)).start_method(method).start().unwrap();
            let mut item = round * 100;
            while child.is_alive() {
                tasks.put(item).unwrap();
                item += 1;
                std::thread::yield_now();
            }
            tasks.join().unwrap();
            let mut again = 0;
            let mut seen: Vec<u64> = (round * 100..item)
                .map(|_| {
                    let (number, deliveries) = done.get().unwrap();
                    again += u32::from(deliveries > 1);
                    number
                })
                .collect();
            seen.sort();
            assert_eq!(seen, (round * 100..item).collect::<Vec<u64>>());
            assert_eq!(again, 1, "exactly one was delivered again");
        }
        tasks.close();
        worker.join().unwrap();
    }
}

#[multiproc::test]
fn dropped_task_redelivers() {
    let tasks = JoinableQueue::new().unwrap();
    tasks.put("work".to_owned()).unwrap();
    tasks.put("x".repeat(100_000)).unwrap();
    for expected in 1..4 {
        let task = tasks.get().unwrap();
        assert_eq!((&**task, task.deliveries()), ("work", expected));
        assert_eq!(tasks.unfinished(), 2);
        drop(task);
    }
    tasks.get().unwrap().task_done();
    assert_eq!(tasks.unfinished(), 1);
    assert!(matches!(tasks.join_timeout(Duration::from_millis(20)), Err(GetError::Timeout)));
    drop(tasks.get().unwrap());
    assert_eq!(tasks.get().unwrap().into_inner().len(), 100_000);
    tasks.join().unwrap();
    assert!(matches!(tasks.try_get(), Err(GetError::Empty)));
    assert!(tasks.put(String::new()).is_ok());
}

for_each_method! {
    fn join_without_consumers(method) {
        let tasks = JoinableQueue::new().unwrap();
        tasks.put(7).unwrap();
        let child = Process::new(die_with_it, (tasks.clone(),)).start_method(method).start().unwrap();
        assert!(matches!(tasks.join(), Err(GetError::Disconnected)));
        child.wait().unwrap();
        let task = tasks.get().unwrap();
        assert_eq!((*task, task.deliveries()), (7, 2));
        task.task_done();
        tasks.join().unwrap();
    }
}
