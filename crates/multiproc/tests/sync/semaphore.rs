//! Semaphores between processes.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crate::common::{self, Ends, LONG, for_each_method, sleep_long, time_until};
use crate::shared::{Numbers, kill, wait_asleep};
use multiproc::sync::{BoundedSemaphore, Event, ReleaseError, Semaphore, WaitError};
use multiproc::{Error, Handle, Process, Run};
use serde::{Deserialize, Serialize};

/// Acquires and releases a permit, and counts the holders: 0 is the current number, 1 the largest
/// so far, 2 how often a permit was acquired.
fn go_in_and_out(semaphore: Semaphore, numbers: Numbers, times: u32) {
    for _ in 0..times {
        let permit = semaphore.acquire().unwrap();
        let inside = numbers.at(0).fetch_add(1, SeqCst) + 1;
        numbers.at(1).fetch_max(inside, SeqCst);
        numbers.at(2).fetch_add(1, SeqCst);
        if inside.is_multiple_of(3) {
            std::thread::yield_now();
        }
        numbers.at(0).fetch_sub(1, SeqCst);
        drop(permit);
    }
}

/// Takes a permit for good, says so, and lives until it is killed.
fn forget_one(semaphore: Semaphore, event: Event) {
    semaphore.acquire().unwrap().forget();
    event.set();
    sleep_long();
}

/// Has a permit until it is killed.
fn hold(semaphore: Semaphore, holds: Event) {
    let _permit = semaphore.acquire().unwrap();
    holds.set();
    sleep_long();
}

/// Has three permits until it is killed.
fn hold_three(semaphore: Semaphore, holds: Event) {
    let _permits = [0; 3].map(|_| semaphore.acquire().unwrap());
    holds.set();
    sleep_long();
}

fn acquire_and_drop(semaphore: Semaphore) -> Result<(), String> {
    semaphore.acquire().map(drop).map_err(|error| error.to_string())
}

#[derive(Serialize, Deserialize)]
struct Worker {
    semaphore: BoundedSemaphore,
    list: Vec<Semaphore>,
}

impl Run for Worker {
    type Output = (BoundedSemaphore, Vec<Semaphore>);

    fn run(self) -> Self::Output {
        self.semaphore.acquire().unwrap().forget();
        self.list.iter().for_each(|semaphore| semaphore.release().unwrap());
        (self.semaphore, self.list)
    }
}

for_each_method! {
    fn smoke(method) {
        let (semaphore, numbers) = (Semaphore::new(2).unwrap(), Numbers::new());
        let children: Vec<_> = (0..4)
            .map(|_| Process::new(go_in_and_out, (semaphore.clone(), numbers.clone(), 2000)))
            .map(|process| Ends(process.start_method(method).start().unwrap()))
            .collect();
        for child in &children {
            assert!(child.wait_timeout(LONG).unwrap().expect("timed out").success());
        }
        assert_eq!((numbers.at(0).load(SeqCst), numbers.at(2).load(SeqCst)), (0, 8000));
        assert!((1..=2).contains(&numbers.at(1).load(SeqCst)));
        assert_eq!(semaphore.available(), 2);
    }

    fn killed_holder_wakes_waiter(method) {
        let (semaphore, holds) = (Semaphore::new(3).unwrap(), Event::new().unwrap());
        let holder = Process::new(hold_three, (semaphore.clone(), holds.clone()));
        let holder = Ends(holder.start_method(method).start().unwrap());
        holds.wait().unwrap();
        assert_eq!(semaphore.available(), 0);
        let waiters: Vec<_> = (0..2)
            .map(|_| Ends(Process::new(acquire_and_drop, (semaphore.clone(),)).start_method(method).start().unwrap()))
            .collect();
        waiters.iter().for_each(|waiter| wait_asleep(waiter.pid()));
        holder.kill().unwrap();
        let took = time_until(|| waiters.iter().all(|waiter| !waiter.is_alive()));
        println!("{took:?} from the kill to the end of the waiters");
        assert!(took < Duration::from_secs(2));
        for waiter in waiters {
            assert!(waiter.wait().unwrap().success());
        }
        assert_eq!(semaphore.available(), 3);
    }

    fn killed_holder_returns_permit(method) {
        let (semaphore, holds) = (Semaphore::new(1).unwrap(), Event::new().unwrap());
        for number in 0..4 {
            let holder = Process::new(hold, (semaphore.clone(), holds.clone()));
            let holder = Ends(holder.start_method(method).start().unwrap());
            holds.wait().unwrap();
            holds.clear();
            assert!(semaphore.try_acquire().unwrap().is_none());
            kill(&holder);
            match number {
                0 => drop(semaphore.try_acquire().unwrap().expect("no permit")),
                1 => drop(semaphore.acquire().unwrap()),
                2 => drop(semaphore.acquire_timeout(Duration::from_micros(1)).unwrap().expect("no permit")),
                _ => assert_eq!(semaphore.available(), 1),
            }
        }
        assert_eq!(semaphore.available(), 1);
    }

    fn killed_waiter(method) {
        let semaphore = Semaphore::new(1).unwrap();
        let permit = semaphore.acquire().unwrap();
        let waiter = || Ends(Process::new(acquire_and_drop, (semaphore.clone(),)).start_method(method).start().unwrap());
        let (killed, other) = (waiter(), waiter());
        wait_asleep(killed.pid());
        wait_asleep(other.pid());
        kill(&killed);
        drop(permit);
        assert!(other.wait_timeout(LONG).unwrap().expect("timed out").success());
        assert_eq!(semaphore.available(), 1);
    }

    fn stopped_waiter(method) {
        let semaphore = Semaphore::new(1).unwrap();
        let permit = semaphore.acquire().unwrap();
        let waiter = || Ends(Process::new(acquire_and_drop, (semaphore.clone(),)).start_method(method).start().unwrap());
        let (stopped, other) = (waiter(), waiter());
        wait_asleep(stopped.pid());
        wait_asleep(other.pid());
        stopped.signal(libc::SIGSTOP).unwrap();
        drop(permit);
        assert!(other.wait_timeout(LONG).unwrap().expect("timed out").success());
        stopped.signal(libc::SIGCONT).unwrap();
        assert!(stopped.wait_timeout(LONG).unwrap().expect("timed out").success());
        assert_eq!(semaphore.available(), 1);
    }

    fn release_by_other_process(method) {
        // As between a producer and a consumer.
        let (full, done) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
        let consumer = |full: Semaphore, done: Semaphore| {
            for _ in 0..1000 {
                full.acquire().unwrap().forget();
                done.release().unwrap();
            }
        };
        let child = Ends(Process::new(consumer, (full.clone(), done.clone())).start_method(method).start().unwrap());
        for number in 0..1000 {
            match number % 4 {
                0 => full.release_many(2).unwrap(),
                1 => full.release_many(0).unwrap(),
                _ => full.release().unwrap(),
            }
            done.acquire().unwrap().forget();
        }
        assert!(child.wait_timeout(LONG).unwrap().expect("timed out").success());
        assert_eq!((full.available(), done.available()), (0, 0));
    }

    fn forget(method) {
        let semaphore = Semaphore::new(2).unwrap();
        let target = |semaphore: Semaphore| semaphore.acquire().unwrap().forget();
        Process::new(target, (semaphore.clone(),)).start_method(method).start().unwrap().join().unwrap();
        assert_eq!(semaphore.available(), 1);
        semaphore.release().unwrap();
        assert_eq!(semaphore.available(), 2);
    }

    fn disconnect_wakes_waiters(method) {
        let (semaphore, other) = (Semaphore::new(1).unwrap(), Event::new().unwrap());
        // The child forgets the last permit and dies. The other one waits for a permit until no
        // process is left that could release one.
        let child = Process::new(forget_one, (semaphore.clone(), other.clone())).start_method(method);
        let child = Ends(child.start().unwrap());
        other.wait().unwrap();
        let target = |semaphore: Semaphore| assert!(semaphore.acquire().unwrap_err().is_disconnected());
        let waiter = Ends(Process::new(target, (semaphore.clone(),)).start_method(method).start().unwrap());
        wait_asleep(waiter.pid());
        assert!(semaphore.acquire_timeout(Duration::from_millis(10)).unwrap().is_none());
        drop(semaphore);
        kill(&child);
        let waiter = waiter.wait_timeout(LONG).unwrap().expect("timed out");
        assert!(waiter.success());
    }

    fn disconnected_when_alone(method) {
        let (semaphore, holds) = (Semaphore::new(1).unwrap(), Event::new().unwrap());
        let child = Process::new(forget_one, (semaphore.clone(), holds.clone())).start_method(method);
        let child = Ends(child.start().unwrap());
        holds.wait().unwrap();
        kill(&child);
        let error = semaphore.acquire().unwrap_err();
        assert!(error.is_disconnected());
        assert_eq!(
            error.to_string(),
            "cannot acquire a permit of a semaphore: no process is left that could release one"
        );
        assert!(holds.is_set());
    }

    fn send(method) {
        let worker = Worker {
            semaphore: BoundedSemaphore::new(2).unwrap(),
            list: (0..3).map(|_| Semaphore::new(0).unwrap()).collect(),
        };
        let (bounded, list) = (worker.semaphore.clone(), worker.list.clone());
        let child = worker.process().start_method(method).start().unwrap();
        let (back, back_list) = child.join().unwrap();
        assert_eq!(bounded.available(), 1);
        back.release().unwrap();
        assert_eq!(bounded.available(), 2);
        assert!(matches!(bounded.release(), Err(ReleaseError::Bound { count: 1, bound: 2 })));
        for (one, two) in list.iter().zip(back_list) {
            assert_eq!((one.available(), two.available()), (1, 1));
            drop(one.acquire().unwrap());
            two.acquire().unwrap().forget();
            assert_eq!(one.available(), 0);
        }
    }

    fn hundred_killed_holders(method) {
        const HOLDERS: usize = 100;
        let (semaphore, ready) = (Semaphore::new(HOLDERS).unwrap(), Semaphore::new(0).unwrap());
        let target = |semaphore: Semaphore, ready: Semaphore| {
            let _permit = semaphore.acquire().unwrap();
            ready.release().unwrap();
            sleep_long();
        };
        let holders: Vec<_> = (0..HOLDERS)
            .map(|_| Process::new(target, (semaphore.clone(), ready.clone())).start_method(method).start().unwrap())
            .map(Ends)
            .collect();
        for _ in 0..HOLDERS {
            ready.acquire().unwrap().forget();
        }
        assert_eq!(semaphore.available(), 0);
        let waiter = Ends(Process::new(acquire_and_drop, (semaphore.clone(),)).start_method(method).start().unwrap());
        wait_asleep(waiter.pid());
        drop(holders);
        assert!(waiter.wait_timeout(LONG).unwrap().expect("timed out").success());
        let start = Instant::now();
        while semaphore.available() < HOLDERS {
            assert!(start.elapsed() < LONG, "{} are back", semaphore.available());
        }
    }
}

#[multiproc::test]
fn forked_permit() {
    common::in_a_process_with_one_thread(|| {
        let semaphore = Semaphore::new(2).unwrap();
        let permit = semaphore.acquire().unwrap();
        let other = semaphore.acquire().unwrap();
        let copy = semaphore.clone();
        // SAFETY: this process has one thread.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            drop(permit);
            other.forget();
            let code = i32::from(copy.available() != 0);
            // SAFETY: the call ends the process.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: the pointer is to a local variable.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0);
        assert_eq!(semaphore.available(), 0);
        drop((permit, other));
        assert_eq!(semaphore.available(), 2);
    });
}

#[multiproc::test]
fn misuse_errors() {
    let semaphore = Semaphore::new(1).unwrap();
    assert!(matches!(semaphore.release_many(Semaphore::MAX_PERMITS), Err(ReleaseError::Overflow { .. })));
    assert!(matches!(semaphore.release_many(usize::MAX), Err(ReleaseError::Overflow { count: usize::MAX })));
    assert_eq!(semaphore.available(), 1);
    semaphore.release_many(Semaphore::MAX_PERMITS - 1).unwrap();
    assert_eq!(semaphore.available(), Semaphore::MAX_PERMITS);
    assert!(semaphore.release().is_err());

    let error = Semaphore::new(Semaphore::MAX_PERMITS + 1).unwrap_err();
    assert!(error.to_string().starts_with("cannot create a semaphore: "), "{error}");

    let bounded = BoundedSemaphore::new(2).unwrap();
    let permit = bounded.acquire().unwrap();
    // The acquired permit comes back when it is dropped.
    assert!(matches!(bounded.release(), Err(ReleaseError::Bound { count: 1, bound: 2 })));
    permit.forget();
    assert!(matches!(bounded.release_many(2), Err(ReleaseError::Bound { count: 2, bound: 2 })));
    bounded.release().unwrap();
    let error: Error = bounded.release().unwrap_err().into();
    assert_eq!(error.to_string(), "cannot release 1 permits of a bounded semaphore: there would be more than 2");
}

#[multiproc::test]
fn threads_of_one_handle() {
    let semaphore = Semaphore::new(1).unwrap();
    let permit = semaphore.acquire().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| semaphore.acquire().map(drop));
        assert!(semaphore.acquire_timeout(Duration::from_millis(20)).unwrap().is_none());
        drop(permit);
        waiter.join().unwrap().unwrap();
    });
    // The same applies after other handles existed, as long as one of the threads has a permit.
    drop(semaphore.clone());
    let permit = semaphore.acquire().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| semaphore.acquire().map(drop));
        assert!(semaphore.acquire_timeout(Duration::from_millis(20)).unwrap().is_none());
        drop(permit);
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(semaphore.available(), 1);
}

#[multiproc::test]
fn disconnected_thread_alone() {
    Process::new(
        || {
            // Never shared, and one thread.
            let error = Semaphore::new(0).unwrap().acquire().unwrap_err();
            assert!(matches!(error, WaitError::Disconnected { .. }));
            // Waits for the permit that it holds itself.
            let semaphore = Semaphore::new(1).unwrap();
            drop(semaphore.clone());
            let _permit = semaphore.acquire().unwrap();
            assert!(semaphore.acquire().unwrap_err().is_disconnected());
        },
        (),
    )
    .start()
    .unwrap()
    .join()
    .unwrap();
}

/// A forged semaphore, as it is sent.
#[derive(Serialize)]
#[serde(rename = "Shared")]
struct Garbage {
    memory: Handle<OwnedFd>,
    wake_pipe: Handle<OwnedFd>,
}

impl<'de> Deserialize<'de> for Garbage {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Garbage, D::Error> {
        Semaphore::deserialize(deserializer).map(|_| unreachable!())
    }
}

#[multiproc::test]
fn garbage() {
    // In a process of its own, which has no other objects' memory files.
    common::in_a_process_with_one_thread(check_garbage);
}

fn check_garbage() {
    let semaphore = Semaphore::new(1).unwrap();
    let pipe = || OwnedFd::from(std::io::pipe().unwrap().0);
    let file = || OwnedFd::from(std::fs::File::open("/proc/self/maps").unwrap());
    for (memory, wake_pipe, text) in [
        (pipe(), pipe(), "not a memory file"),
        (file(), pipe(), "not a memory file"),
        (memory_of("event"), pipe(), "it is too short"),
        (memory_of("semaphore"), file(), "its wake pipe: not a pipe"),
        (memory_of("semaphore"), pipe(), "its wake pipe: not a pipe"),
        (memory_of("semaphore"), memory_of("semaphore"), "its wake pipe: not a pipe"),
    ] {
        let garbage = Garbage { memory: memory.into(), wake_pipe: wake_pipe.into() };
        let error = Process::new(|_: Garbage| (), (garbage,)).start().unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("invalid semaphore"), "{error}");
    }
    let error = serde_json::to_string(&semaphore).unwrap_err().to_string();
    assert!(error.contains("not multiproc's"), "{error}");
}

/// The memory file of an object of this kind.
fn memory_of(name: &str) -> OwnedFd {
    let _semaphore = Semaphore::new(1).unwrap();
    let _event = Event::new().unwrap();
    let is_it = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().contains(&format!("memfd:multiproc-{name}")))
    };
    let path = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path()).find(is_it).unwrap();
    std::fs::File::options().read(true).write(true).open(path).unwrap().into()
}

#[multiproc::test]
fn drops() {
    // In a process of its own, as other tests open descriptors meanwhile.
    let target = || {
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = count();
        let semaphore = Semaphore::new(1).unwrap();
        let copy = semaphore.clone();
        assert_eq!(count(), before + 2);
        let _permit = copy.acquire().unwrap();
        assert!(semaphore.acquire_timeout(Duration::from_millis(20)).unwrap().is_none());
        assert_eq!(count(), before + 2);
        drop(_permit);
        drop((semaphore, copy));
        assert_eq!(count(), before);
    };
    Process::new(target, ()).start().unwrap().join().unwrap();
}

#[multiproc::test]
fn open_file_limit() {
    let target = || {
        let semaphore = Semaphore::new(1).unwrap();
        let other = semaphore.clone();
        let permit = semaphore.acquire().unwrap();
        let mut files = Vec::new();
        // SAFETY: the pointer is to a local structure.
        unsafe {
            let limit = libc::rlimit { rlim_cur: 40, rlim_max: 40 };
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        }
        while let Ok(file) = std::fs::File::open("/dev/null") {
            files.push(file);
        }
        assert!(Semaphore::new(1).unwrap_err().to_string().contains("Too many open files"));
        assert!(other.try_acquire().unwrap().is_none());
        assert!(other.acquire_timeout(Duration::from_millis(20)).unwrap().is_none());
        let waiter = std::thread::spawn(move || other.acquire().map(drop));
        drop(permit);
        waiter.join().unwrap().unwrap();
    };
    Process::new(target, ()).start().unwrap().join().unwrap();
}
