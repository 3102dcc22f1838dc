//! The front of the queue of bytes and descriptors, as a program uses it that has nothing else of
//! the library: processes are made by fork(2).

mod common;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use multiproc_shm::queue::{Consumer, Error, JoinableQueue, Producer, Queue};
use multiproc_shm::wait::deadline::Deadline;

use common::*;

/// More than fits into the ring.
const LARGE: usize = 100_000;

fn large(byte: u8) -> Vec<u8> {
    vec![byte; LARGE]
}

/// Whether the descriptor polls readable now.
fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, which is ours.
    match unsafe { libc::poll(&raw mut poll, 1, 0) } {
        -1 => panic!("poll: {}", io::Error::last_os_error()),
        ready => ready == 1,
    }
}

#[test]
fn smoke() {
    let queue = Queue::new().unwrap();
    assert!(queue.is_empty() && !queue.is_full() && queue.capacity().is_none());
    queue.put(&[b"one"], &[], Deadline::Never).unwrap();
    queue.put(&[], &[], Deadline::Never).unwrap();
    queue.put(&[&large(3)], &[], Deadline::Never).unwrap();
    assert_eq!(queue.len(), 3);
    let message = queue.get(long()).unwrap();
    assert_eq!((&*message, message.fd_count(), message.is_raw()), (&b"one"[..], 0, true));
    assert!(queue.get(long()).unwrap().is_empty());
    assert_eq!(queue.get(long()).unwrap().into_vec(), large(3));
    assert!(queue.is_empty());
}

#[test]
fn capacity() {
    let queue = Queue::with_capacity(2).unwrap();
    assert_eq!(queue.capacity(), Some(2));
    queue.try_put(&[b"1"], &[]).unwrap();
    queue.put(&[b"2"], &[], Deadline::Now).unwrap();
    assert!(queue.is_full());
    assert!(matches!(queue.try_put(&[b"3"], &[]), Err(Error::Full)));
    assert!(matches!(queue.put(&[b"3"], &[], Deadline::Now), Err(Error::Full)));
    assert_eq!(*queue.try_get().unwrap(), *b"1");
    queue.try_put(&[b"3"], &[]).unwrap();
    assert_eq!(*queue.try_get().unwrap(), *b"2");
    assert_eq!(*queue.try_get().unwrap(), *b"3");
}

#[test]
fn limit_in_bytes() {
    let queue = Queue::with_limits(1000, 10).unwrap();
    assert!(matches!(queue.put(&[b"123456", b"78901"], &[], long()), Err(Error::TooLarge)));
    queue.try_put(&[b"123456"], &[]).unwrap();
    assert!(matches!(queue.try_put(&[b"12345"], &[]), Err(Error::Full)));
    queue.try_put(&[b"1234"], &[]).unwrap();
    assert_eq!(queue.len(), 2);
}

#[test]
fn try_get() {
    let queue = Queue::new().unwrap();
    assert!(matches!(queue.try_get(), Err(Error::Empty)));
    assert!(matches!(queue.get(Deadline::Now), Err(Error::Empty)));
    assert!(matches!(queue.try_get_with(|_| (), |_| ()), Err(Error::Empty)));
    queue.try_put(&[b"x"], &[]).unwrap();
    assert_eq!(*queue.try_get().unwrap(), *b"x");
}

#[test]
fn get_timeout() {
    let queue = Queue::new().unwrap();
    // Copies of the process that other tests make might put, until they end.
    let _could_put = queue.clone();
    let begun = Instant::now();
    assert!(matches!(queue.get(soon()), Err(Error::Timeout)));
    assert!(begun.elapsed() >= Duration::from_millis(20));
}

#[test]
fn put_timeout() {
    let queue = Queue::with_capacity(1).unwrap();
    let _could_get = queue.clone();
    queue.put(&[b"1"], &[], long()).unwrap();
    let begun = Instant::now();
    assert!(matches!(queue.put(&[b"2"], &[], soon()), Err(Error::Timeout)));
    assert!(begun.elapsed() >= Duration::from_millis(20));
    assert_eq!(queue.len(), 1);
}

#[test]
fn put_waits_for_room() {
    let queue = Queue::with_capacity(1).unwrap();
    std::thread::scope(|scope| {
        let consumer = queue.consumer();
        scope.spawn(move || {
            for number in 0..1000_u32 {
                assert_eq!(*consumer.get(long()).unwrap(), number.to_ne_bytes());
            }
        });
        for number in 0..1000_u32 {
            queue.put(&[&number.to_ne_bytes()], &[], long()).unwrap();
        }
    });
}

#[test]
fn mpmc() {
    const MESSAGES: u64 = 5000;
    let queue = Queue::with_capacity(16).unwrap();
    let sum = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let producer = queue.producer();
            scope.spawn(move || {
                for number in 1..=MESSAGES {
                    producer.put(&[&number.to_ne_bytes()], &[], long()).unwrap();
                }
            });
            let (consumer, sum) = (queue.consumer(), &sum);
            scope.spawn(move || {
                loop {
                    let number = consumer.get_with(
                        long(),
                        |bytes| u64::from_ne_bytes(bytes.try_into().unwrap()),
                        |_| unreachable!("it is small"),
                    );
                    match number {
                        Ok(number) => sum.fetch_add(number, SeqCst),
                        Err(Error::Disconnected) => break,
                        Err(error) => panic!("{error}"),
                    };
                }
            });
        }
        // Dropped before the scope ends, so that the consumers are told.
        drop(queue);
    });
    assert_eq!(sum.into_inner(), 3 * MESSAGES * (MESSAGES + 1) / 2);
}

#[test]
fn vectored() {
    let queue = Queue::new().unwrap();
    // Around the size of what lies in the ring, and in pieces that cross it.
    for sizes in [&[0, 1, 0, 2][..], &[1000, 1000, 24], &[1000, 1000, 25], &[2025], &[5, LARGE, 7], &[LARGE, LARGE]] {
        let parts: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(at, size)| vec![at as u8 + 1; *size]).collect();
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        queue.put(&slices, &[], long()).unwrap();
        assert_eq!(*queue.get(long()).unwrap(), *parts.concat(), "{sizes:?}");
        queue.try_put(&slices, &[]).unwrap();
        assert_eq!(*queue.try_get().unwrap(), *parts.concat(), "{sizes:?}");
    }
}

#[test]
fn get_with() {
    let queue = Queue::new().unwrap();
    let (_reader, writer) = io::pipe().unwrap();
    queue.put(&[b"small"], &[], long()).unwrap();
    queue.put(&[&large(1)], &[], long()).unwrap();
    queue.put(&[b"small"], &[writer.as_fd()], long()).unwrap();
    let is_small = || queue.get_with(long(), |bytes| (bytes == b"small", 0), |message| (false, message.fd_count()));
    assert_eq!(is_small().unwrap(), (true, 0));
    assert_eq!(is_small().unwrap(), (false, 0));
    assert_eq!(is_small().unwrap(), (false, 1), "a small message with descriptors is passed as a message");
}

#[test]
fn fds() {
    let queue = Queue::new().unwrap();
    // Up to 16 go as they are, more are packed.
    for (count, len) in [(1, 0), (16, 10), (17, 10), (60, LARGE)] {
        let pipes: Vec<_> = (0..count).map(|_| io::pipe().unwrap()).collect();
        let writers: Vec<BorrowedFd<'_>> = pipes.iter().map(|(_, writer)| writer.as_fd()).collect();
        queue.put(&[&vec![7; len]], &writers, long()).unwrap();
        let mut message = queue.get(long()).unwrap();
        assert_eq!((message.len(), message.fd_count()), (len, count));
        let fds = message.take_fds().unwrap();
        assert!(message.take_fds().unwrap().is_empty(), "they have been taken");
        assert_eq!((fds.len(), message.len()), (count, len));
        for (at, (fd, (reader, writer))) in fds.into_iter().zip(pipes).enumerate() {
            assert!(fd.as_raw_fd() > 2);
            drop(writer);
            let (mut reader, text) = (reader, format!("pipe {at}"));
            File::from(fd).write_all(text.as_bytes()).unwrap();
            // All writers are closed: the message has kept none.
            let mut read = String::new();
            reader.read_to_string(&mut read).unwrap();
            assert_eq!(read, text);
        }
    }
}

/// The descriptors of a message are closed with it if they are not taken out.
#[test]
fn drops_fds() {
    let queue = Queue::new().unwrap();
    for count in [1, 17] {
        let (mut reader, writer) = io::pipe().unwrap();
        queue.put(&[b"x"], &vec![writer.as_fd(); count], long()).unwrap();
        drop(writer);
        drop(queue.get(long()).unwrap());
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the pipe is still open for writing");
    }
}

/// A queue with a limit of items says that it is full when the kernel takes no more descriptors.
#[test]
fn full_of_fds() {
    let queue = Queue::with_capacity(1_000_000).unwrap();
    let (_reader, writer) = io::pipe().unwrap();
    let mut count = 0;
    let error = loop {
        match queue.try_put(&[b"x"], &[writer.as_fd()]) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
        assert!(count < 1_000_000, "there is no limit");
    };
    assert!(matches!(error, Error::FdsFull) && error.is_full(), "{error}");
    assert!(count >= 100, "{count}");
    assert_eq!(queue.len(), count);
    queue.try_put(&[b"without"], &[]).unwrap();
    assert_eq!(queue.get(long()).unwrap().fd_count(), 1);
    queue.put(&[b"x"], &[writer.as_fd()], long()).unwrap();
}

#[test]
fn closed() {
    let queue = Queue::new().unwrap();
    queue.put(&[b"left"], &[], long()).unwrap();
    queue.close();
    assert!(queue.is_closed());
    assert!(matches!(queue.put(&[b"x"], &[], long()), Err(Error::Closed)));
    assert_eq!(*queue.get(long()).unwrap(), *b"left");
    assert!(matches!(queue.get(long()), Err(Error::Closed)));
    assert!(matches!(queue.try_get(), Err(error) if error.is_end()));
}

#[test]
fn close_wakes_waiters() {
    let (empty, full) = (Queue::new().unwrap(), Queue::with_capacity(1).unwrap());
    full.put(&[b"x"], &[], long()).unwrap();
    std::thread::scope(|scope| {
        let (consumer, producer) = (empty.consumer(), full.producer());
        let get = scope.spawn(move || consumer.get(long()));
        let put = scope.spawn(move || producer.put(&[b"y"], &[], long()));
        empty.close();
        full.close();
        assert!(matches!(get.join().unwrap(), Err(Error::Closed)));
        assert!(matches!(put.join().unwrap(), Err(Error::Closed)));
    });
}

#[test]
fn disconnect_wakes_consumer() {
    let queue = Queue::new().unwrap();
    let (producer, consumer) = (queue.producer(), queue.consumer());
    drop(queue);
    assert!(consumer.has_producers());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| consumer.get(long()).map(|message| message.into_vec()));
        producer.put(&[b"last"], &[], long()).unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), b"last");
        let waiter = scope.spawn(|| consumer.get(long()).map(|message| message.into_vec()));
        drop(producer);
        assert!(matches!(waiter.join().unwrap(), Err(Error::Disconnected)));
    });
    assert!(!consumer.has_producers());
    assert!(matches!(consumer.try_get(), Err(Error::Disconnected)));
}

#[test]
fn disconnect_wakes_producer() {
    let queue = Queue::with_capacity(1).unwrap();
    let (producer, consumer) = (queue.producer(), queue.consumer());
    drop(queue);
    producer.put(&[b"x"], &[], long()).unwrap();
    assert!(producer.has_consumers());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| producer.put(&[b"y"], &[], long()));
        drop(consumer);
        assert!(matches!(waiter.join().unwrap(), Err(Error::Disconnected)));
    });
    assert!(!producer.has_consumers());
}

/// The only producer is in a process that is killed while a consumer waits.
#[test]
fn killed_producer() {
    in_its_own_process(|| {
        let queue = Queue::new().unwrap();
        let consumer = queue.consumer();
        let producer = fork(|| {
            queue.put(&[b"last"], &[], long()).unwrap();
            sleep_for_ever()
        });
        drop(queue);
        assert_eq!(*consumer.get(long()).unwrap(), *b"last");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| consumer.get(long()).map(|message| message.into_vec()));
            kill(producer);
            assert!(matches!(waiter.join().unwrap(), Err(Error::Disconnected)));
        });
        status_of(producer);
    });
}

#[test]
fn from_fds_in_another_process() {
    in_its_own_process(|| {
        let (requests, replies) = (Queue::new().unwrap(), Queue::with_capacity(3).unwrap());
        let mut fds = Some((requests.consumer().into_fds().unwrap(), replies.producer().into_fds().unwrap()));
        let mut ends = Some((requests.producer(), replies.consumer()));
        drop((requests, replies));
        let child = fork(|| {
            // Only the descriptors are left.
            drop(ends.take());
            let (requests, replies) = fds.take().unwrap();
            let (requests, replies) = (Consumer::from_fds(requests).unwrap(), Producer::from_fds(replies).unwrap());
            loop {
                match requests.get(long()) {
                    Ok(message) => replies.put(&[b"re: ", &message], &[], long()).unwrap(),
                    Err(Error::Disconnected) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        drop(fds);
        let (requests, replies) = ends.take().unwrap();
        for size in [0, 10, 2024, LARGE] {
            requests.put(&[&vec![1; size]], &[], long()).unwrap();
            assert_eq!(*replies.get(long()).unwrap(), *[&b"re: "[..], &vec![1; size]].concat());
        }
        drop(requests);
        assert!(matches!(replies.get(long()), Err(Error::Disconnected)));
        succeeds(child);
    });
}

#[test]
fn from_wrong_fds() {
    let kind = |result: io::Result<Queue>| result.unwrap_err().kind();
    assert_eq!(kind(Queue::from_fds(JoinableQueue::new().unwrap().to_fds().unwrap())), io::ErrorKind::InvalidData);
    let joinable = JoinableQueue::from_fds(Queue::new().unwrap().to_fds().unwrap());
    assert_eq!(joinable.unwrap_err().kind(), io::ErrorKind::InvalidData);
    Queue::from_fds(Vec::new()).unwrap_err();
    let pipes = (0..4).map(|_| OwnedFd::from(io::pipe().unwrap().0)).collect();
    Queue::from_fds(pipes).unwrap_err();
}

/// The rights of the mapping that `address` is in, as /proc shows them.
fn rights_at(address: *const u8) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of = |line: &str| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        (number(start)..number(end)).contains(&(address as usize)).then(|| rest[..4].to_owned())
    };
    maps.lines().find_map(of).expect("the address is mapped")
}

#[test]
fn private_mapping() {
    let queue = Queue::new().unwrap();
    for round in 0..3 {
        queue.put(&[&large(round)], &[], long()).unwrap();
        let mut message = queue.get(long()).unwrap();
        assert_eq!(message.as_ptr() as usize % 64, 0);
        let bytes = message.bytes_mut().unwrap();
        assert_eq!((bytes.as_ptr() as usize % 64, bytes.len()), (0, LARGE));
        assert_eq!(rights_at(bytes.as_ptr()), "rw-p");
        assert_eq!(bytes, large(round));
        bytes[5] = 100;
        // A second call returns the same memory.
        message.bytes_mut().unwrap()[LARGE - 1] = 101;
        let mut expected = large(round);
        (expected[5], expected[LARGE - 1]) = (100, 101);
        // The memory of a later message isn't the block that is still being read.
        queue.put(&[&large(200)], &[], long()).unwrap();
        assert_eq!(*queue.get(long()).unwrap(), *large(200));
        assert_eq!(*message, *expected);
        assert_eq!(message.into_vec(), expected);
    }
}

#[test]
fn small_messages_are_writable() {
    let queue = Queue::new().unwrap();
    queue.put(&[b"small"], &[], long()).unwrap();
    let mut message = queue.get(long()).unwrap();
    message.bytes_mut().unwrap()[0] = b'S';
    assert_eq!(*message, *b"Small");
}

#[test]
fn interrupted() {
    in_its_own_process(|| {
        let _signals = Signals::to_this_thread();
        let queue = Queue::with_capacity(1).unwrap();
        // The signals don't end the wait of an ordinary handle.
        assert!(matches!(queue.get(soon()), Err(Error::Timeout)));
        let interruptible = queue.clone().interruptible();
        assert!(matches!(interruptible.get(long()), Err(Error::Interrupted)));
        queue.put(&[b"x"], &[], long()).unwrap();
        assert!(matches!(interruptible.put(&[b"y"], &[], long()), Err(Error::Interrupted)));
        // What needs no wait succeeds.
        assert_eq!(*interruptible.get(long()).unwrap(), *b"x");
        let work = JoinableQueue::new().unwrap().interruptible();
        work.put(&[b"work"], long()).unwrap();
        let _other = work.clone();
        assert!(matches!(work.join(long()), Err(Error::Interrupted)));
    });
}

/// Thread A waits in `get`, thread B of the same process puts through the same handle.
#[test]
fn open_by_process() {
    let queue = Queue::new().unwrap();
    drop(queue.clone());
    // The thread that waits could put through no other handle.
    assert!(matches!(queue.get(long()), Err(Error::Disconnected)));
    let queue = queue.keep_open();
    assert!(matches!(queue.get(soon()), Err(Error::Timeout)));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| queue.get(long()).map(|message| message.into_vec()));
        queue.put(&[b"from the other thread"], &[], long()).unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), b"from the other thread");
    });

    let full = Queue::with_capacity(1).unwrap().keep_open();
    drop(full.clone());
    full.put(&[b"1"], &[], long()).unwrap();
    assert!(matches!(full.put(&[b"2"], &[], soon()), Err(Error::Timeout)));
}

/// A process that has the queue open keeps the consumers of other processes waiting even while it
/// waits itself, until it drops the handle.
#[test]
fn open_by_another_process() {
    in_its_own_process(|| {
        let queue = Queue::new().unwrap();
        let tell = Queue::new().unwrap();
        let consumer = fork(|| {
            assert!(matches!(queue.get(Duration::from_millis(300)), Err(Error::Timeout)));
            tell.put(&[b"timed out"], &[], long()).unwrap();
            assert!(matches!(queue.get(long()), Err(Error::Disconnected)));
        });
        let queue = queue.keep_open();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.get(Duration::from_millis(600)).map(drop));
            assert_eq!(*tell.get(long()).unwrap(), *b"timed out");
            assert!(matches!(waiter.join().unwrap(), Err(Error::Timeout)));
        });
        drop(queue);
        succeeds(consumer);
    });
}

#[test]
fn as_fd_is_level_triggered() {
    let queue = Queue::new().unwrap();
    queue.put(&[b"1"], &[], long()).unwrap();
    let consumer = queue.consumer();
    assert!(is_readable(consumer.as_fd()), "at the first ask");
    assert!(is_readable(consumer.as_fd()), "as long as there is a message");
    assert_eq!(*consumer.try_get().unwrap(), *b"1");
    assert!(matches!(consumer.try_get(), Err(Error::Empty)));
    assert!(!is_readable(consumer.as_fd()));
    queue.put(&[b"2"], &[], long()).unwrap();
    queue.put(&[b"3"], &[], long()).unwrap();
    assert!(is_readable(consumer.as_fd()));
    consumer.try_get().unwrap();
    assert!(is_readable(consumer.as_fd()), "one message is left");
    consumer.try_get().unwrap();
    assert!(matches!(consumer.get(Deadline::Now), Err(Error::Empty)));
    assert!(!is_readable(consumer.as_fd()));
    // Added to an epoll set once, and not touched any more.
    // SAFETY: the descriptors are open, and the events are ours.
    unsafe {
        let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 1 };
        let fd = consumer.as_fd().as_raw_fd();
        assert_eq!(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event), 0);
        let mut wait = |timeout| libc::epoll_wait(epoll, &raw mut event, 1, timeout);
        assert_eq!(wait(0), 0);
        for _ in 0..3 {
            queue.put(&[b"4"], &[], long()).unwrap();
            assert_eq!((wait(10_000), wait(0)), (1, 1));
            consumer.try_get().unwrap();
            assert!(matches!(consumer.try_get(), Err(Error::Empty)));
            assert_eq!(wait(0), 0);
        }
        libc::close(epoll);
    }
}

/// Descriptors that were inherited aren't inherited once more.
#[test]
fn from_fds_sets_close_on_exec() {
    let flags = |fd: i32| {
        // SAFETY: fcntl(2) with numbers.
        unsafe { libc::fcntl(fd, libc::F_GETFD) }
    };
    let inherited = |fds: Vec<OwnedFd>| {
        for fd in &fds {
            assert_eq!(flags(fd.as_raw_fd()), libc::FD_CLOEXEC);
            // SAFETY: as above.
            assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }, 0);
        }
        (fds.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), fds)
    };
    let queue = Queue::with_capacity(3).unwrap();
    let (numbers, fds) = inherited(queue.to_fds().unwrap());
    let _queue = Queue::from_fds(fds).unwrap();
    assert!(numbers.iter().all(|fd| flags(*fd) == libc::FD_CLOEXEC));
    let (numbers, fds) = inherited(queue.producer().to_fds().unwrap());
    let _producer = Producer::from_fds(fds).unwrap();
    assert!(numbers.iter().all(|fd| flags(*fd) == libc::FD_CLOEXEC));
}

/// A `Producer`'s descriptors don't count as a consumer, so no consumer can be made of them.
#[test]
fn descriptors_of_another_role() {
    let invalid = |fds: Vec<OwnedFd>| {
        assert_eq!(Consumer::from_fds(fds).unwrap_err().kind(), io::ErrorKind::InvalidData);
    };
    let queue = Queue::new().unwrap();
    invalid(queue.producer().to_fds().unwrap());
    let mut too_many = queue.to_fds().unwrap();
    too_many.push(File::open("/dev/null").unwrap().into());
    invalid(too_many);
    let mut too_few = queue.to_fds().unwrap();
    too_few.pop();
    invalid(too_few);
    let consumer = Consumer::from_fds(queue.to_fds().unwrap()).unwrap();
    let producer = Producer::from_fds(queue.to_fds().unwrap()).unwrap();
    drop(queue);
    producer.put(&[b"x"], &[], long()).unwrap();
    assert_eq!(*consumer.get(long()).unwrap(), *b"x");
}

/// A large message that can't be put at once isn't copied into the queue's memory first.
#[test]
fn refused_before_it_is_copied() {
    let queue = Queue::with_limits(2, 1 << 20).unwrap();
    queue.put(&[b"1"], &[], long()).unwrap();
    let allocated = || queue.store().file().allocated().unwrap();
    let before = allocated();
    let huge = vec![1; 64 << 20];
    assert!(matches!(queue.put(&[&huge], &[], long()), Err(Error::TooLarge)));
    queue.put(&[b"2"], &[], long()).unwrap();
    for _ in 0..3 {
        assert!(matches!(queue.try_put(&[&huge[..1 << 19]], &[]), Err(Error::Full)));
    }
    assert_eq!(allocated(), before);
    queue.close();
    assert!(matches!(queue.try_put(&[&huge], &[]), Err(Error::Closed)));
}

/// A process is stopped in the middle of an operation.
#[test]
fn try_never_waits() {
    in_its_own_process(|| {
        let queue = Queue::with_capacity(8).unwrap();
        let operation = || {
            let _ = queue.try_put(&[&[1; 1000]], &[]);
            let _ = queue.try_get();
        };
        let busy = stop_inside(operation, || {
            let begun = Instant::now();
            let result = queue.try_put(&[b"x"], &[]);
            assert!(begun.elapsed() < Duration::from_secs(1));
            // So that the queue doesn't stay full.
            let _ = queue.try_get();
            matches!(result, Err(Error::Busy))
        });
        // With a deadline, even if that is now, the call looks for the cause.
        match queue.put(&[b"x"], &[], Deadline::Now) {
            Err(Error::Stalled(stalled)) => assert_eq!((stalled.pid, stalled.is_stopped), (busy, true)),
            result => panic!("{result:?}"),
        }
        kill(busy);
        status_of(busy);
        // What the process held is taken over.
        queue.close();
        while queue.get(long()).is_ok() {}
    });
}

/// fork(2) copies the process while its other threads are in the middle of operations on the queue.
#[test]
fn fork_in_threaded_program() {
    in_its_own_process(|| {
        let (queue, work) = (Queue::new().unwrap(), JoinableQueue::new().unwrap());
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let hammer = || {
                while !is_over.load(SeqCst) {
                    let clone = queue.clone();
                    clone.put(&[b"small"], &[], long()).unwrap();
                    clone.put(&[&large(1)], &[], long()).unwrap();
                    let _ = clone.get(Duration::from_micros(200));
                    let _ = clone.get(Duration::from_micros(200)).map(|mut message| message.bytes_mut().map(drop));
                    work.put(&[b"work"], long()).unwrap();
                    if let Ok(task) = work.get(Duration::from_millis(1)) {
                        task.task_done();
                    }
                }
            };
            let threads = [scope.spawn(hammer), scope.spawn(hammer)];
            for _ in 0..100 {
                succeeds(fork(|| {
                    let own = queue.clone();
                    own.put(&[b"from the copy"], &[], long()).unwrap();
                    own.put(&[&large(2)], &[], long()).unwrap();
                    is_readable(own.as_fd());
                    // Others may take messages meanwhile.
                    let _ = own.get(Duration::from_millis(1));
                    let _ = own.try_get();
                    drop(own);
                    work.put(&[b"more work"], long()).unwrap();
                    if let Ok(task) = work.get(Duration::from_millis(1)) {
                        task.task_done();
                    }
                }));
            }
            is_over.store(true, SeqCst);
            for thread in threads {
                thread.join().unwrap();
            }
        });
        while let Ok(message) = queue.try_get() {
            assert!([&b"small"[..], b"from the copy", &large(1), &large(2)].contains(&&*message), "{message:?}");
        }
        while let Ok(task) = work.try_get() {
            task.task_done();
        }
        work.join(long()).unwrap();
    });
}

#[test]
fn descriptors_of_a_queue() {
    in_its_own_process(|| {
        let before = descriptors();
        let added = || descriptors() - before;
        let queue = Queue::new().unwrap();
        assert_eq!(added(), 4);
        let _ends = (queue.clone(), queue.producer(), queue.consumer());
        queue.put(&[&large(1)], &[], long()).unwrap();
        assert_eq!(*queue.get(long()).unwrap(), *large(1));
        assert_eq!(added(), 4, "handles of one process share them");
        let limited = Queue::with_capacity(1).unwrap();
        assert_eq!(added(), 4 + 5);
        let work = JoinableQueue::new().unwrap();
        assert_eq!(added(), 4 + 5 + 5);
        let _ = queue.as_fd();
        assert_eq!(added(), 4 + 5 + 5 + 2);
        drop((limited, work));
        drop((queue, _ends));
        assert_eq!(added(), 0);
    });
}

#[cfg(feature = "async")]
#[test]
fn futures() {
    let queue = Queue::with_capacity(1).unwrap();
    let other = queue.clone();
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let put = async {
        for number in 0..50_u8 {
            queue.put_async(&[&[number], &large(number)], &[writer.as_fd()]).await.unwrap();
        }
    };
    let get = async {
        for number in 0..50_u8 {
            let message = other.get_async().await.unwrap();
            assert_eq!((message.len(), message[LARGE], message.fd_count()), (LARGE + 1, number, 1));
        }
    };
    futures::executor::block_on(async { futures::future::join(put, get).await });
}

mod joinable {
    use super::*;

    #[test]
    fn smoke() {
        let queue = JoinableQueue::with_limits(2, u64::MAX).unwrap();
        queue.put(&[b"1"], long()).unwrap();
        queue.try_put(&[&large(2)]).unwrap();
        assert!(queue.is_full() && matches!(queue.try_put(&[b"3"]), Err(Error::Full)));
        let first = queue.get(long()).unwrap();
        assert_eq!((&*first, first.deliveries(), queue.len(), queue.unfinished()), (&b"1"[..], 1, 1, 2));
        let second = queue.try_get().unwrap();
        assert_eq!((&*second, queue.unfinished()), (&*large(2), 2));
        assert!(matches!(queue.try_get(), Err(Error::Empty)));
        first.task_done();
        second.task_done();
        queue.join(Deadline::Now).unwrap();
    }

    #[test]
    fn dropped_task_is_delivered_again() {
        let queue = JoinableQueue::new().unwrap();
        for content in [b"small".to_vec(), large(1)] {
            queue.put(&[&content], long()).unwrap();
            for deliveries in 1..4 {
                let task = queue.get(long()).unwrap();
                assert_eq!((&*task, task.deliveries()), (&*content, deliveries));
            }
            queue.get(long()).unwrap().task_done();
        }
        queue.join(long()).unwrap();
    }

    #[test]
    fn killed_consumer() {
        in_its_own_process(|| {
            let (queue, taken) = (JoinableQueue::new().unwrap(), Queue::new().unwrap());
            queue.put(&[&large(1)], long()).unwrap();
            let worker = fork(|| {
                let _task = queue.get(long()).unwrap();
                taken.put(&[], &[], long()).unwrap();
                sleep_for_ever()
            });
            taken.get(long()).unwrap();
            assert!(matches!(queue.join(soon()), Err(Error::Timeout)));
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    let task = queue.get(long()).unwrap();
                    assert_eq!((task.len(), task.deliveries()), (LARGE, 2));
                    task.task_done();
                });
                kill(worker);
                waiter.join().unwrap();
            });
            status_of(worker);
            queue.join(long()).unwrap();
        });
    }

    #[test]
    fn join_without_workers() {
        let queue = JoinableQueue::new().unwrap();
        drop(queue.clone());
        queue.put(&[b"work"], long()).unwrap();
        assert!(matches!(queue.join(long()), Err(Error::Disconnected)));
        let queue = queue.keep_open();
        assert!(matches!(queue.join(soon()), Err(Error::Timeout)));
    }
}
