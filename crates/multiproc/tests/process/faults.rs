//! What a system, a program or a target may do to multiproc: few descriptors, full file systems,
//! interruptions, stops, descriptors that are closed behind its back, processes that it knows
//! nothing of.
//!
//! Tested elsewhere: limits of processes, `SIGCHLD` ignored, foreign waits for any child, a server
//! that dies (`start.rs`); aborts, exits, stack overflows (`exit_status.rs`); kills
//! (`chaos/start.rs`, here and in multiproc-programs).

use std::ffi::CString;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::common::{Ends, LONG, Scratch, exists, fifo, for_each_method, in_its_own_process, sleep_long, wait_gone};
use crate::memory_group::MemoryGroup;
use multiproc::process::{JoinErrorKind, StartError};
use multiproc::{Process, SharedBytes, SharedMemory, StartMethod};

fn set_limit(resource: libc::__rlimit_resource_t, soft: u64) {
    // SAFETY: the pointers are to local structures.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(resource, &raw mut limit), 0);
        limit.rlim_cur = soft.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(resource, &raw const limit), 0);
    }
}

fn with_32_descriptors(method: StartMethod) {
    set_limit(libc::RLIMIT_NOFILE, 32);
    let start = || Process::new(sleep_long, ()).name("p").start_method(method).start().map(Ends);
    for _ in 0..3 {
        let mut alive = Vec::new();
        let error = loop {
            match start() {
                Ok(child) => alive.push(child),
                Err(error) => break error.to_string(),
            }
        };
        // Two each: the child's pidfd, and its socket. A start needs some more for a moment.
        assert!((8..=14).contains(&alive.len()), "{} {error}", alive.len());
        assert!(error.starts_with("cannot start p: ") && error.contains("open files"), "{error}");
        assert!(alive.iter().all(|child| child.is_alive()));
        // Descriptors that are freed can be used again.
        alive.truncate(alive.len() / 2);
        assert!(start().unwrap().is_alive());
    }
}

fn with_small_files(method: StartMethod) {
    let sum = |len: usize| {
        let process = Process::new(|list: Vec<u8>| list.len(), (vec![1; len],)).name("p").start_method(method);
        process.start().map(|child| child.join().unwrap())
    };
    assert_eq!(sum(1).unwrap(), 1);
    // SAFETY: no handler is installed or replaced.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    set_limit(libc::RLIMIT_FSIZE, 1 << 18);
    let error = sum(1 << 20).unwrap_err();
    assert!(matches!(&error, StartError::Io { process, .. } if process == "p"), "{error}");
    assert!(error.to_string().contains("File too large"), "{error}");
    assert_eq!(sum(1 << 17).unwrap(), 1 << 17);
    assert_eq!(sum(1).unwrap(), 1);
}

/// A full file system mounted at a path, in this process's own mount namespace.
struct Full(CString);

impl Full {
    /// `None` without the right to mount.
    fn mount(place: &str) -> Option<Full> {
        let place = CString::new(place).unwrap();
        let none = std::ptr::null();
        // SAFETY: all strings are NUL-terminated.
        let mounted = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
                && libc::mount(c"tmpfs".as_ptr(), place.as_ptr(), c"tmpfs".as_ptr(), 0, c"size=4k".as_ptr().cast()) == 0
        };
        let full = mounted.then_some(Full(place))?;
        let written = std::fs::write(Path::new(full.0.to_str().unwrap()).join("file"), vec![1; 1 << 16]);
        assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        Some(full)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        // SAFETY: the string is NUL-terminated.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}

fn with_full_file_systems(method: StartMethod) {
    let scratch = Scratch::new();
    let directory = scratch.path("full");
    std::fs::create_dir(&directory).unwrap();
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var("TMPDIR", &directory) };
    let (Some(_temporary), Some(_shared)) = (Full::mount(&directory), Full::mount("/dev/shm")) else {
        eprintln!("skipped: this needs the right to mount");
        return;
    };
    let child = Process::new(|list: Vec<u8>| list, (vec![1; 1 << 20],)).start_method(method).start().unwrap();
    assert_eq!(child.join().unwrap(), vec![1; 1 << 20]);
    // Shared memory is not affected either: it is in no file system that a user could fill.
    let memory = SharedMemory::new(1 << 20).unwrap();
    memory.lock().unwrap().fill(2);
    let child = Process::new(|memory: SharedMemory| memory.to_vec().unwrap(), (memory.clone(),));
    assert_eq!(child.start_method(method).start().unwrap().join().unwrap(), vec![2; 1 << 20]);
    assert_eq!(memory.freeze().unwrap(), &vec![2; 1 << 20]);
}

static INTERRUPTIONS: AtomicU64 = AtomicU64::new(0);

/// Interrupts this process at this interval, whatever it is doing.
fn interrupt_every(time: Duration) {
    extern "C" fn on_alarm(_: libc::c_int) {
        INTERRUPTIONS.fetch_add(1, Relaxed);
    }
    let time = libc::timeval { tv_sec: 0, tv_usec: time.as_micros() as i64 };
    // SAFETY: the handler adds to a number. It is installed without SA_RESTART, so system calls are
    // interrupted. The structures are filled in.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_alarm as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()), 0);
        let timer = libc::itimerval { it_interval: time, it_value: time };
        assert_eq!(libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0), 0);
    }
}

fn with_interruptions(method: StartMethod) {
    interrupt_every(Duration::from_micros(200));
    for number in 0..100 {
        let child = Process::new(|number: u32| number + 1, (number,)).start_method(method).start().unwrap();
        if number % 2 == 0 {
            assert_eq!(child.wait_timeout(LONG).unwrap().unwrap().exit_code(), Some(0));
        }
        assert_eq!(child.join().unwrap(), number + 1);
    }
    // So large that no interval is long enough to allocate memory for all of it.
    let large = "x".repeat(64 << 20);
    let child = Process::new(|text: String| text.len(), (large,)).start_method(method).start().unwrap();
    assert_eq!(child.join().unwrap(), 64 << 20);
    assert!(INTERRUPTIONS.load(Relaxed) > 100);
}

/// Starts children one after the other, while it is stopped and continued from outside.
fn starts_one_after_the_other(method: StartMethod, ready: String) -> u32 {
    std::fs::write(ready, "now").unwrap();
    let start = |number| Process::new(|number: u32| number, (number,)).start_method(method).start().unwrap();
    (0..200).map(|number| start(number).join().unwrap()).sum()
}

/// Starts a child that reports its pid, and sleeps as the child does.
fn has_a_sleeper(method: StartMethod, pid: String) {
    let sleeper = Process::new(
        |pid: String| {
            std::fs::write(pid, std::process::id().to_string()).unwrap();
            sleep_long();
        },
        (pid,),
    );
    sleeper.start_method(method).start().unwrap().wait().unwrap();
}

/// Stops the process, a child of this one, and waits until it has stopped. False if it has ended.
fn stop<T>(child: &multiproc::Child<T>) -> bool {
    child.signal(libc::SIGSTOP).unwrap();
    // SAFETY: all-zero bytes are a valid value of the structure, and the kernel fills it in.
    // WNOWAIT: an ended child is not reaped.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
        match libc::waitid(libc::P_PID, child.pid() as libc::id_t, &raw mut info, options) {
            0 => info.si_code == libc::CLD_STOPPED,
            // Another test has reaped it: `active_children` does so.
            _ => {
                assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ECHILD));
                false
            }
        }
    }
}

fn waits_for_all_children(method: StartMethod) {
    for _ in 0..3 {
        let start = |number| Process::new(|number: u32| number, (number,)).start_method(method).start().unwrap();
        let children: Vec<_> = (0..5).map(start).collect();
        multiproc::process::end_fork_server();
        // SAFETY: no status is requested.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 {}
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ECHILD));
        assert_eq!(children.into_iter().map(|child| child.join().unwrap()).sum::<u32>(), 10);
    }
}

for_each_method! {
    fn waitpid_for_all_children(method) {
        in_its_own_process(waits_for_all_children, method);
    }

    fn thirty_two_fds(method) {
        in_its_own_process(with_32_descriptors, method);
    }

    fn file_size_limit(method) not_fork {
        in_its_own_process(with_small_files, method);
    }

    fn full_file_systems(method) {
        in_its_own_process(with_full_file_systems, method);
    }

    fn interrupted_calls(method) {
        in_its_own_process(with_interruptions, method);
    }

    fn stopped_and_continued_parent(method) {
        let scratch = Scratch::new();
        let ready = fifo(&scratch, "ready");
        let parent = Ends(Process::new(starts_one_after_the_other, (method, ready.clone())).start().unwrap());
        assert_eq!(std::fs::read_to_string(ready).unwrap(), "now");
        let mut stops = 0;
        while stop(&parent) {
            stops += 1;
            parent.signal(libc::SIGCONT).unwrap();
            // Lets it make progress, by spinning for that time.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_micros(stops % 10 * 300) {
                std::hint::spin_loop();
            }
        }
        assert!(stops > 10, "{stops}");
        assert_eq!(parent.wait().unwrap().exit_code(), Some(0));
    }

    fn killed_while_stopped(method) {
        let scratch = Scratch::new();
        let pid = fifo(&scratch, "pid");
        let parent = Ends(Process::new(has_a_sleeper, (method, pid.clone())).start().unwrap());
        let sleeper: i32 = std::fs::read_to_string(pid).unwrap().parse().unwrap();
        assert!(stop(&parent));
        assert!(exists(sleeper));
        parent.kill().unwrap();
        wait_gone(sleeper);
    }

    fn close_all_fds(method) {
        let closes = Process::new(
            || {
                // SAFETY: closing every descriptor is what the test is about.
                unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
                7
            },
            (),
        );
        let child = closes.name("p").start_method(method).start().unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(1), "its value could not be sent");
        let error = child.join().unwrap_err();
        assert!(matches!(error.kind(), JoinErrorKind::Exited(1)), "{error}");

        // A process that continues for long afterwards is waited for all the same.
        let closes = Process::new(
            || {
                // SAFETY: as above.
                unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
                sleep_long();
            },
            (),
        );
        let child = Ends(closes.start_method(method).start().unwrap());
        assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
        child.terminate().unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(-15));
    }

    fn daemonize(method) {
        let scratch = Scratch::new();
        let path = fifo(&scratch, "pid");
        let daemonises = Process::new(
            |path: String| {
                // SAFETY: this process has one thread, and no memory is accessed.
                unsafe {
                    if libc::fork() > 0 {
                        libc::_exit(3);
                    }
                    libc::setsid();
                }
                std::fs::write(path, std::process::id().to_string()).unwrap();
                sleep_long();
            },
            (path.clone(),),
        );
        let child = daemonises.start_method(method).start().unwrap();
        let daemon: i32 = std::fs::read_to_string(path).unwrap().parse().unwrap();
        // The daemon has every descriptor that its parent had open, and delays no wait.
        assert!(matches!(child.join().unwrap_err().kind(), JoinErrorKind::Exited(3)));
        let pidfd = multiproc_os::pidfd::open(daemon).unwrap();
        multiproc_os::pidfd::send_signal(&pidfd, libc::SIGKILL).unwrap();
        assert!(multiproc_os::poll::wait_readable(&pidfd, Some(Instant::now() + LONG)).unwrap());
    }

    fn forked_copy_outlives_target(method) {
        let scratch = Scratch::new();
        let path = fifo(&scratch, "pid");
        let forks = Process::new(
            |path: String| {
                // SAFETY: this process has one thread.
                match unsafe { libc::fork() } {
                    0 => {
                        std::fs::write(path, std::process::id().to_string()).unwrap();
                        sleep_long();
                        0
                    }
                    copy => copy,
                }
            },
            (path.clone(),),
        );
        let child = forks.start_method(method).start().unwrap();
        let copy: i32 = std::fs::read_to_string(path).unwrap().parse().unwrap();
        assert_eq!(child.join().unwrap(), copy);
        assert!(exists(copy));
        let pidfd = multiproc_os::pidfd::open(copy).unwrap();
        multiproc_os::pidfd::send_signal(&pidfd, libc::SIGKILL).unwrap();
        assert!(multiproc_os::poll::wait_readable(&pidfd, Some(Instant::now() + LONG)).unwrap());
    }
}

#[multiproc::test]
fn oom_kill() {
    let Some(group) = MemoryGroup::new(64 << 20) else {
        eprintln!("skipped: this needs the right to make a control group");
        return;
    };
    // Parent and children join the group together: the process that reads the group's counters must
    // be in it too.
    let family = Process::new(
        |procs: String| {
            if std::fs::write(procs, "0").is_err() {
                return None;
            }
            let ends = |error: multiproc::JoinError| {
                (matches!(error.kind(), JoinErrorKind::OutOfMemory), error.signal(), error.to_string())
            };
            let greedy = Process::new(|bytes: usize| std::hint::black_box(vec![1_u8; bytes]).len(), (256 << 20,))
                .start()
                .unwrap();
            let status = greedy.wait().unwrap();
            let greedy = ends(greedy.join().unwrap_err());
            let killed = Process::new(sleep_long, ()).start().unwrap();
            let pidfd = multiproc_os::pidfd::open(killed.pid()).unwrap();
            multiproc_os::pidfd::send_signal(&pidfd, libc::SIGKILL).unwrap();
            Some((status.out_of_memory(), greedy, ends(killed.join().unwrap_err())))
        },
        (group.procs(),),
    );
    let Some((seen, greedy, killed)) = family.start().unwrap().join().unwrap() else {
        eprintln!("skipped: this needs the right to join a control group");
        return;
    };
    assert!(seen && greedy.0, "{greedy:?}");
    assert_eq!(greedy.1, Some(libc::SIGKILL));
    assert!(greedy.2.contains("no memory left"), "{greedy:?}");
    // A kill by another process from outside is reported as such.
    assert_eq!((killed.0, killed.1), (false, Some(libc::SIGKILL)), "{killed:?}");
}

/// Regression: the kernel would have granted the memory, and later killed a process for it.
#[multiproc::test]
fn shared_memory_beyond_control_group() {
    let Some(group) = MemoryGroup::new(256 << 20) else {
        eprintln!("skipped: this needs the right to make a control group");
        return;
    };
    let within = Process::new(
        |procs: String| {
            std::fs::write(procs, "0").ok()?;
            fn tell(error: impl std::fmt::Display) -> String {
                error.to_string()
            }
            let memory = SharedMemory::options().growable(1 << 30).create(70 << 20).map_err(tell);
            let grown = memory.as_ref().map(|memory| memory.grow(500 << 20).map_err(|error| error.to_string()));
            let (grown, len) = (grown.unwrap(), memory.as_ref().unwrap().len());
            let bytes = SharedBytes::with_len(400 << 20, |_| ()).map(drop).map_err(tell);
            let read = SharedBytes::from_reader(&mut std::io::repeat(1).take(400 << 20)).map(drop).map_err(tell);
            let all = [memory.map(drop), SharedMemory::new(300 << 20).map(drop).map_err(tell), grown, bytes, read];
            Some(all.map(|result| (result, len)))
        },
        (group.procs(),),
    );
    let Some(results) = within.start().unwrap().join().unwrap() else {
        eprintln!("skipped: this needs the right to join a control group");
        return;
    };
    assert_eq!(results[0], (Ok(()), 70 << 20));
    for (result, _) in &results[1..] {
        let error = result.as_ref().unwrap_err();
        assert!(error.contains("Cannot allocate memory"), "{error}");
    }
}
