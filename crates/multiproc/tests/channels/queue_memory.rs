//! The memory of a queue: what it gives back after a burst, and the error when there is none.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::memory_group::MemoryGroup;
use multiproc::queue::{GetError, PutErrorKind};
use multiproc::{Process, Queue, wait_any};

/// How much memory the memory files take that this process has open.
fn allocated() -> u64 {
    let mut seen = std::collections::BTreeSet::new();
    let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter(|entry| {
        std::fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd"))
    });
    let files = files.filter_map(|entry| std::fs::metadata(entry.path()).ok());
    files.filter(|file| seen.insert(file.ino())).map(|file| file.blocks() * 512).sum()
}

fn until_it_is_given_back(mut look: impl FnMut()) {
    let begun = Instant::now();
    while allocated() > 16 << 20 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} bytes are kept", allocated());
        look();
    }
}

// Regression: 205 MB were kept unless a consumer slept in `get`. Runs in a process of its own, as
// other tests of this file have memory too.
fn burst(how: u32) {
    let queue = Queue::new().unwrap();
    let other = queue.clone();
    (0..20).for_each(|_| queue.put(vec![7_u8; 10 << 20]).unwrap());
    assert!(allocated() > 200 << 20);
    (0..20).for_each(|_| drop(queue.get().unwrap()));
    assert!(allocated() < 64 << 20, "most is given back at once: {}", allocated());
    let soon = Duration::from_millis(250);
    match how {
        0 => until_it_is_given_back(|| {
            std::thread::sleep(Duration::from_millis(10));
            assert!(matches!(queue.try_get(), Err(GetError::Empty)));
        }),
        1 => until_it_is_given_back(|| assert!(wait_any(&[&queue], soon).unwrap().is_empty())),
        2 => until_it_is_given_back(|| assert!(matches!(queue.get_timeout(soon), Err(GetError::Timeout)))),
        3 => until_it_is_given_back(|| {
            // The descriptor becomes readable when it is time.
            use std::os::fd::AsFd;
            let _ = multiproc_os::poll::wait_readable(queue.as_fd(), None);
            assert!(matches!(queue.try_get(), Err(GetError::Empty)));
        }),
        // A producer goes on, and no process takes anything.
        4 => until_it_is_given_back(|| other.put(vec![1]).unwrap()),
        _ => drop(queue),
    }
    if how == 5 {
        until_it_is_given_back(|| panic!("the handle is dropped"));
    }
}

#[multiproc::test]
fn memory_returns_after_burst() {
    for how in 0..=5 {
        Process::new(burst, (how,)).start().unwrap().join().unwrap();
    }
}

const LIMIT: u64 = 96 << 20;

/// Fills a queue in the control group that `procs` belongs to.
fn fill(procs: String, size: usize) -> Option<(usize, String)> {
    std::fs::write(procs, "0").ok()?;
    let queue = Queue::new().unwrap();
    let mut count = 0;
    let error = loop {
        match queue.put(vec![count as u8; size]) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error.kind(), PutErrorKind::Io { .. }), "{error}");
    let text = error.to_string();
    drop(error);
    // Nothing is lost, and the queue goes on when there is room.
    let half = count / 2;
    for number in 0..half {
        assert_eq!(queue.get().unwrap(), vec![number as u8; size]);
    }
    for number in count..count + half / 4 {
        queue.put(vec![number as u8; size]).unwrap();
    }
    for number in half..count + half / 4 {
        assert_eq!(queue.get().unwrap(), vec![number as u8; size]);
    }
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
    Some((count, text))
}

// Regression: the kernel killed the process, as a memory shortage was only checked for from 64 MiB
// on.
#[multiproc::test]
fn control_group_limit() {
    for size in [20, 5000, 3 << 20] {
        let Some(group) = MemoryGroup::new(LIMIT) else {
            println!("skipped: this process can't make a control group");
            return;
        };
        match Process::new(fill, (group.procs(), size)).start().unwrap().join().unwrap() {
            Some((count, text)) => {
                println!("{count} items of {size} bytes: {text}");
                assert!(count as u64 * size as u64 > LIMIT / 5, "{count} items of {size} bytes");
                assert!(text.contains("memory"), "{text}");
            }
            None => println!("skipped: this process can't join a control group"),
        }
    }
}
