//! What a queue reports of its other side: that no consumer is left, by its descriptor that there
//! is an item, and how returned tasks are delivered again.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::common::{self, Ends, LONG, for_each_method, time_until};
use multiproc::queue::{Consumer, GetError, Producer, PutErrorKind};
use multiproc::{JoinableQueue, Process, Queue};

fn consume(consumer: Consumer<u32>) {
    while consumer.get().is_ok() {}
}

fn pass_on(consumers: Queue<Consumer<u32>>) {
    let consumer = consumers.get().unwrap();
    assert_eq!(consumer.get().unwrap(), 1);
}

fn put_until_refused(producer: Producer<u32>, ready: Queue<u32>) -> String {
    ready.put(0).unwrap();
    (0..).find_map(|item| producer.put(item).err()).unwrap().to_string()
}

fn is_disconnected(kind: &PutErrorKind) -> bool {
    matches!(kind, PutErrorKind::Disconnected)
}

for_each_method! {
    // Regression: 100,000 puts were `Ok`.
    fn killed_consumer_wakes_producer(method) {
        for (queue, limited) in [(Queue::new().unwrap(), false), (Queue::with_capacity(1_000_000).unwrap(), true)] {
            let producer = queue.producer();
            let child = Process::new(consume, (queue.consumer(),)).start_method(method).start().unwrap();
            drop(queue);
            producer.put(1).unwrap();
            assert!(producer.has_consumers());
            child.kill().unwrap();
            child.wait().unwrap();
            // The fork server may still have to close its copies of the descriptors.
            let begun = Instant::now();
            let error = loop {
                match producer.put(2) {
                    Err(error) => break error,
                    Ok(()) => assert!(begun.elapsed() < LONG, "limited: {limited}"),
                }
            };
            assert!(is_disconnected(error.kind()), "limited: {limited}");
            assert!(is_disconnected(producer.try_put(2).unwrap_err().kind()));
            assert!(is_disconnected(producer.put_timeout(2, LONG).unwrap_err().kind()));
            assert!(is_disconnected(&producer.put_bytes(b"2").unwrap_err()));
            let error = producer.clone().put(2).unwrap_err();
            assert!(error.is_end() && !producer.has_consumers());
            assert_eq!(error.into_inner(), 2);
            producer.close();
            assert!(matches!(producer.put(3).unwrap_err().kind(), PutErrorKind::Closed));
        }
    }

    fn killed_consumer_wakes_other_process(method) {
        let (queue, ready) = (Queue::new().unwrap(), Queue::new().unwrap());
        let child = Process::new(put_until_refused, (queue.producer(), ready.clone()));
        let child = child.start_method(method).start().unwrap();
        assert_eq!(ready.get_timeout(LONG).unwrap(), 0);
        assert_eq!(queue.get_timeout(LONG).unwrap(), 0);
        drop(queue);
        let text = child.join().unwrap();
        assert!(text.contains("no process is left that could take"), "{text}");
    }

    fn consumer_in_flight(method) {
        let (queue, consumers) = (Queue::new().unwrap(), Queue::new().unwrap());
        let producer = queue.producer();
        consumers.put(queue.consumer()).unwrap();
        drop(queue);
        assert!(producer.has_consumers());
        producer.put(1).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        producer.put(2).unwrap();
        let child = Process::new(pass_on, (consumers.clone(),)).start_method(method).start().unwrap();
        child.join().unwrap();
        drop(consumers);
        time_until(|| !producer.has_consumers());
        assert!(is_disconnected(producer.put(3).unwrap_err().kind()));
    }
}

#[multiproc::test]
fn producer_in_flight() {
    let (queue, producers) = (Queue::<u32>::new().unwrap(), Queue::new().unwrap());
    let producer = queue.producer();
    producers.put(queue.producer()).unwrap();
    let consumer = queue.consumer();
    drop(queue);
    producer.put(1).unwrap();
    assert!(producer.has_consumers() && consumer.has_producers());
    drop(consumer);
    // Where tests share a process, a program that another test executes has copies of all
    // descriptors for a moment.
    time_until(|| !producer.has_consumers());
    assert!(is_disconnected(producer.put(2).unwrap_err().kind()));
    let other: Producer<u32> = producers.get().unwrap();
    time_until(|| !other.has_consumers());
    assert!(is_disconnected(other.put(2).unwrap_err().kind()));
}

#[multiproc::test]
fn own_handle_is_a_consumer() {
    let queue = Queue::new().unwrap();
    let producer = queue.producer();
    for item in 0..1000 {
        queue.put(item).unwrap();
        producer.put(item).unwrap();
    }
    let consumer = queue.consumer();
    drop(queue);
    producer.put(0).unwrap();
    drop(producer);
    time_until(|| !consumer.has_producers());
    assert_eq!(consumer.iter().count(), 2001);
}

fn readable(fd: impl AsFd) -> bool {
    multiproc_os::poll::wait_readable(fd, Some(Instant::now() + Duration::from_millis(10))).unwrap()
}

fn take_one(consumer: Consumer<u32>) {
    consumer.get().unwrap();
}

for_each_method! {
    // Regression: the descriptor was never readable if it was requested after the first put.
    fn readable_fd(method) {
        for early in [false, true] {
            let queue = Queue::new().unwrap();
            let (consumer, other) = (queue.consumer(), queue.clone());
            if early {
                assert!(!readable(queue.as_fd()));
            }
            queue.put(1).unwrap();
            queue.put(2).unwrap();
            queue.put(3).unwrap();
            let number = std::os::fd::AsRawFd::as_raw_fd(&queue.as_fd());
            assert!(readable(queue.as_fd()) && readable(consumer.as_fd()) && readable(queue.as_fd()));
            other.get().unwrap();
            assert!(readable(queue.as_fd()), "there is more");
            let child = Process::new(take_one, (queue.consumer(),)).start_method(method).start().unwrap();
            child.join().unwrap();
            assert!(readable(queue.as_fd()), "there is more");
            assert_eq!(other.get().unwrap(), 3);
            // Whichever handle finds out.
            assert!(matches!(other.try_get(), Err(GetError::Empty)));
            assert!(!readable(queue.as_fd()));
            queue.put(4).unwrap();
            assert!(readable(queue.as_fd()));
            // What another process has taken is still reported until this process has looked.
            let child = Process::new(take_one, (queue.consumer(),)).start_method(method).start().unwrap();
            child.join().unwrap();
            assert!(matches!(consumer.get_timeout(Duration::ZERO), Err(GetError::Timeout)));
            assert!(!readable(queue.as_fd()));
            assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&queue.as_fd()), number);
            queue.close();
            assert!(readable(queue.as_fd()));
        }
    }
}

fn tell_when_readable(consumer: Consumer<u32>, ready: Queue<u32>) -> u32 {
    let set = multiproc_os::epoll::Epoll::new().unwrap();
    set.add(consumer.as_fd(), 7, multiproc_os::epoll::Trigger::Level).unwrap();
    ready.put(0).unwrap();
    loop {
        assert_eq!(set.wait().unwrap(), [7]);
        match consumer.try_get() {
            Ok(item) => break item,
            Err(GetError::Empty) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

for_each_method! {
    fn readable_fd_of_several_processes(method) {
        let (queue, ready) = (Queue::new().unwrap(), Queue::new().unwrap());
        let children: Vec<_> = (0..3)
            .map(|_| {
                let child = Process::new(tell_when_readable, (queue.consumer(), ready.clone()));
                child.start_method(method).start().unwrap()
            })
            .collect();
        for _ in &children {
            ready.get_timeout(LONG).unwrap();
        }
        assert!(!readable(queue.as_fd()));
        for item in 1..=3 {
            queue.put(item).unwrap();
        }
        let mut items: Vec<u32> = children.into_iter().map(|child| child.join().unwrap()).collect();
        items.sort_unstable();
        assert_eq!(items, [1, 2, 3]);
        assert!(matches!(queue.try_get(), Err(GetError::Empty)));
        assert!(!readable(queue.as_fd()));
    }
}

#[multiproc::test]
fn readable_fd_after_redelivery() {
    let tasks = JoinableQueue::new().unwrap();
    tasks.put(1).unwrap();
    let task = tasks.get().unwrap();
    assert!(!readable(tasks.as_fd()));
    drop(task);
    assert!(readable(tasks.as_fd()));
    tasks.try_get().unwrap().task_done();
    assert!(matches!(tasks.try_get(), Err(GetError::Empty)));
    assert!(!readable(tasks.as_fd()));
}

fn hold_all(tasks: JoinableQueue<u32>, ready: Queue<u32>) {
    let all: Vec<_> = (0..2000).map(|_| tasks.get().unwrap()).collect();
    ready.put(all.len() as u32).unwrap();
    common::sleep_long();
}

for_each_method! {
    // Regression: it took quadratic time, 16 s for 10,000.
    fn redelivery_keeps_order(method) {
        let (tasks, ready) = (JoinableQueue::new().unwrap(), Queue::new().unwrap());
        (0..2000).for_each(|number| tasks.put(number).unwrap());
        let held: Vec<_> = (0..2000).map(|_| tasks.get().unwrap()).collect();
        assert!(matches!(tasks.try_get(), Err(GetError::Empty)));
        drop(held);
        assert_eq!((tasks.len(), tasks.unfinished()), (2000, 2000));
        let child = Ends(Process::new(hold_all, (tasks.clone(), ready.clone())).start_method(method).start().unwrap());
        assert_eq!(ready.get_timeout(LONG).unwrap(), 2000);
        child.kill().unwrap();
        child.wait().unwrap();
        for number in 0..2000 {
            let task = tasks.get_timeout(LONG).unwrap();
            assert_eq!((*task, task.deliveries()), (number, 3));
            task.task_done();
        }
        tasks.join().unwrap();
    }
}

/// Regression: it took quadratic time, which is minutes for this number.
#[multiproc::test]
fn many_redeliveries() {
    const MANY: u32 = 32_000;
    let tasks = JoinableQueue::new().unwrap();
    (0..MANY).for_each(|number| tasks.put(number).unwrap());
    let held: Vec<_> = (0..MANY).map(|_| tasks.get().unwrap()).collect();
    drop(held);
    let begun = Instant::now();
    for number in 0..MANY {
        let task = tasks.get().unwrap();
        assert_eq!(*task, number);
        task.task_done();
        assert!(begun.elapsed() < LONG, "{number} of {MANY} in {:?}", begun.elapsed());
    }
}
