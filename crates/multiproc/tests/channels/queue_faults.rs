//! What a system may do to a queue: no memory, no descriptors, a consumer that is stopped while it
//! waits. And items that are larger than 2 GiB.
//!
//! Tested elsewhere: stops of a consumer that takes items, many processes, empty items, queues in
//! queues (`queue.rs`); kills (`chaos/queue.rs`).

use std::fs::File;
use std::time::Duration;

use crate::common::{Ends, LONG, for_each_method};
use multiproc::queue::{GetError, PutErrorKind};
use multiproc::{Handle, Process, Queue, StartMethod};

fn set_limit(resource: libc::__rlimit_resource_t, soft: u64) {
    // SAFETY: the pointers are to local structures.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(resource, &raw mut limit), 0);
        limit.rlim_cur = soft.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(resource, &raw const limit), 0);
    }
}

fn ends(method: StartMethod, queue: &Queue<Vec<u8>>, done: &Queue<usize>) -> Ends<()> {
    Ends(Process::new(lengths, (queue.clone(), done.clone())).start_method(method).start().unwrap())
}

fn lengths(queue: Queue<Vec<u8>>, done: Queue<usize>) {
    for item in queue.iter() {
        done.put(item.unwrap().len()).unwrap();
    }
}

fn without_memory(queue: Queue<Vec<u8>>) {
    // An existing block can be used again; the limit prevents the growth of the file.
    queue.put(vec![1; 10_000]).unwrap();
    // SAFETY: no handler is installed or replaced.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    set_limit(libc::RLIMIT_FSIZE, 1 << 20);
    let error = queue.put(vec![2; 5 << 20]).unwrap_err();
    assert!(matches!(error.kind(), PutErrorKind::Io { .. }), "{error}");
    assert!(error.to_string().contains("File too large"), "{error}");
    assert_eq!(error.into_inner(), vec![2; 5 << 20], "the item comes back");
    queue.put(vec![3; 100]).unwrap();
    // Until the ring would have to grow.
    let (mut put, error) = (0, loop_until_error(&queue));
    put += error.0;
    assert!(put > 10, "{put}");
    assert!(matches!(error.1, PutErrorKind::Io { .. }), "{}", error.1);
    assert!(Queue::<u8>::new().is_err(), "a new one needs memory, too");
    set_limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
    queue.put(vec![5; 5 << 20]).unwrap();
}

fn loop_until_error(queue: &Queue<Vec<u8>>) -> (usize, PutErrorKind) {
    for put in 0.. {
        if let Err(error) = queue.put(vec![4; 1000]) {
            assert!(error.to_string().contains("File too large"), "{error}");
            let (item, kind) = error.into_parts();
            assert_eq!(item, vec![4; 1000]);
            return (put, kind);
        }
    }
    unreachable!("it ends")
}

for_each_method! {
    fn out_of_memory(method) {
        let queue = Queue::new().unwrap();
        let child = Process::new(without_memory, (queue.clone(),)).start_method(method).start().unwrap();
        child.join().unwrap();
        // This process has no such limit.
        queue.put(vec![6; 3 << 20]).unwrap();
        let lengths: Vec<usize> = std::iter::from_fn(|| queue.try_get().ok()).map(|item| item.len()).collect();
        assert_eq!(lengths[..2], [10_000, 100]);
        assert_eq!(lengths[lengths.len() - 2..], [5 << 20, 3 << 20]);
        assert!(lengths[2..lengths.len() - 2].iter().all(|len| *len == 1000));
    }
}

fn without_descriptors() {
    let queue = Queue::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    queue.put(Some(Handle::new(reader))).unwrap();
    queue.put(None).unwrap();
    let mut files = Vec::new();
    set_limit(libc::RLIMIT_NOFILE, 64);
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    assert!(!files.is_empty());
    let error = Queue::<u8>::new().unwrap_err();
    assert!(error.to_string().contains("create a queue") && error.to_string().contains("open files"), "{error}");
    // Another handle of the same process needs no descriptor.
    let clone = queue.clone();
    for _ in 0..2 {
        match clone.get() {
            Err(GetError::Io { source, .. }) => assert_eq!(source.raw_os_error(), Some(libc::EMFILE)),
            other => panic!("{:?}", other.map(drop)),
        }
    }
    assert_eq!(queue.len(), 2, "the items stay queued");
    // Operations that need no descriptor still work.
    let error = Queue::<u8>::with_capacity(1).unwrap_err();
    assert!(error.to_string().contains("open files"), "{error}");
    clone.put(None).unwrap();
    files.truncate(files.len() - 1);
    drop(writer);
    let reader = queue.get().unwrap().expect("the file");
    use std::io::Read;
    assert_eq!(reader.into_inner().read(&mut [0]).unwrap(), 0);
    assert!(queue.get().unwrap().is_none() && queue.get().unwrap().is_none());
    files.truncate(files.len() / 2);
    let outer = Queue::new().unwrap();
    outer.put(Queue::<u8>::new().unwrap()).unwrap();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    assert!(matches!(outer.get(), Err(GetError::Io { .. })));
    files.clear();
    outer.get().unwrap().put(7).unwrap();
}

fn without_descriptors_for_many() {
    let queue = Queue::<Vec<Handle<File>>>::new().unwrap();
    let put = |count: usize| queue.put((0..count).map(|_| Handle::new(File::open("/dev/null").unwrap())).collect());
    for count in [20, 400, 1] {
        put(count).unwrap();
    }
    set_limit(libc::RLIMIT_NOFILE, 300);
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        files.push(file);
    }
    // Room for no descriptor, for the socket that carries the handles, and for some of the handles.
    for room in [0, 2, 15] {
        files.truncate(files.len() - room);
        match queue.get() {
            Err(GetError::Io { source, .. }) => assert_eq!(source.raw_os_error(), Some(libc::EMFILE)),
            other => panic!("room for {room}: {:?}", other.map(drop)),
        }
        assert_eq!(queue.len(), 3, "the items stay queued");
    }
    files.clear();
    assert_eq!(queue.get().unwrap().len(), 20);
    // It would block the items behind it for good.
    let error = queue.get().unwrap_err();
    assert!(matches!(error, GetError::Decode(_)) && error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    assert_eq!(queue.get().unwrap().len(), 1);
}

/// Waits until a process sleeps without a timeout: it doesn't wake up by itself for a while. Then
/// it holds no spin lock.
fn wait_until_asleep(pid: i32) {
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = |name| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        (line("State:"), line("voluntary_ctxt_switches:"), line("nonvoluntary_ctxt_switches:"))
    };
    let begin = std::time::Instant::now();
    loop {
        let before = switches();
        std::thread::sleep(Duration::from_millis(20));
        if before.0.contains("S (sleeping)") && switches() == before {
            return;
        }
        assert!(begin.elapsed() < LONG, "it doesn't sleep: {before:?}");
    }
}

for_each_method! {
    fn get_without_fds(method) {
        Process::new(without_descriptors, ()).start_method(method).start().unwrap().join().unwrap();
    }

    // Regression: the item was taken when there was room for the socket that carries many handles,
    // and lost when there was none for the handles.
    fn get_many_handles_without_fds(method) {
        Process::new(without_descriptors_for_many, ()).start_method(method).start().unwrap().join().unwrap();
    }

    fn stopped_consumer(method) {
        for capacity in [None, Some(100)] {
            let (queue, done) = (capacity.map_or_else(Queue::new, Queue::with_capacity).unwrap(), Queue::new().unwrap());
            let (stopped, other) = (ends(method, &queue, &done), ends(method, &queue, &done));
            for _ in 0..5 {
                wait_until_asleep(stopped.pid());
                stopped.signal(libc::SIGSTOP).unwrap();
                for len in 0..200 {
                    queue.put_timeout(vec![0; len], LONG).unwrap();
                }
                for _ in 0..200 {
                    done.get_timeout(LONG).unwrap();
                }
                stopped.signal(libc::SIGCONT).unwrap();
            }
            queue.close();
            assert!(stopped.wait_timeout(LONG).unwrap().expect("timed out").success());
            assert!(other.wait_timeout(LONG).unwrap().expect("timed out").success());
        }
    }
}

fn put_files(queue: Queue<Handle<File>>, outcome: Queue<String>) {
    loop {
        if let Err(error) = queue.put(Handle::new(File::open("/dev/null").unwrap())) {
            return outcome.put(error.to_string()).unwrap();
        }
    }
}

for_each_method! {
    fn handle_capacity_wakes_producer(method) {
        // More than there can be with handles.
        let queue = Queue::with_capacity(100_000).unwrap();
        let outcome = Queue::new().unwrap();
        let child = Process::new(put_files, (queue.clone(), outcome.clone())).start_method(method);
        let child = Ends(child.start().unwrap());
        wait_until_asleep(child.pid());
        let len = queue.len();
        assert!((10..100_000).contains(&len), "{len}");
        let error = queue.try_put(Handle::new(File::open("/dev/null").unwrap())).unwrap_err();
        assert!(matches!(error.kind(), PutErrorKind::Full), "{error}");
        for _ in 0..3 {
            queue.get().unwrap();
            // The producer has put another.
            let begin = std::time::Instant::now();
            while queue.len() < len {
                assert!(begin.elapsed() < LONG);
                std::thread::yield_now();
            }
        }
        wait_until_asleep(child.pid());
        drop(queue);
        let error = outcome.get_timeout(LONG).unwrap();
        assert!(error.contains("no process is left"), "{error}");
    }
}

/// Takes three times as much memory: runs only with `MULTIPROC_LARGE=1`, best in release.
#[multiproc::test]
fn item_over_two_gib() {
    if std::env::var_os("MULTIPROC_LARGE").is_none() {
        return;
    }
    const LEN: usize = (2 << 30) + 1;
    let queue = Queue::<()>::new().unwrap();
    let mut bytes = vec![1_u8; LEN];
    bytes[LEN - 1] = 2;
    let begin = std::time::Instant::now();
    queue.put_bytes(&bytes).unwrap();
    let message = queue.get_bytes().unwrap();
    println!("through a queue: {:?}", begin.elapsed());
    assert!(*message == *bytes);
    drop(message);
    let (one, mut other) = multiproc::pipe::<(), ()>().unwrap();
    other.set_max_message(u64::MAX);
    let begin = std::time::Instant::now();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| one.send_bytes(&bytes).unwrap());
        assert!(other.recv_bytes().unwrap() == bytes);
        sender.join().unwrap();
    });
    println!("through a pipe: {:?}", begin.elapsed());
}
