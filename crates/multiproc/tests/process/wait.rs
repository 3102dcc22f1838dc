//! Waiting for a process, and for no other.

// A test needs a grandchild that no process waits for.
#![allow(clippy::zombie_processes)]

use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::common::{self, Ends, LONG, Scratch, for_each_method, sleep_long, wait_gone};
use multiproc::Process;

for_each_method! {
    fn repeated_wait(method) {
        let child = Process::new(|| (), ()).start_method(method).start().unwrap();
        for _ in 0..3 {
            assert!(child.wait().unwrap().success());
            assert_eq!(child.exit_code(), Some(0));
            assert!(!child.is_alive());
            assert!(child.try_wait().unwrap().is_some());
            assert!(child.wait_timeout(Duration::ZERO).unwrap().is_some());
        }
        child.join().unwrap();
    }

    fn wait_timeout(method) {
        let child = Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap());
        assert_eq!(child.try_wait().unwrap(), None);
        assert_eq!(child.exit_code(), None);
        for timeout in [Duration::ZERO, Duration::from_millis(30), Duration::from_micros(1500)] {
            let start = Instant::now();
            assert_eq!(child.wait_timeout(timeout).unwrap(), None);
            assert!(start.elapsed() >= timeout, "{:?} is less than {timeout:?}", start.elapsed());
        }
        assert!(child.is_alive());
        child.kill().unwrap();
        assert_eq!(child.wait_timeout(Duration::MAX).unwrap().unwrap().exit_code(), Some(-9));
    }

    fn join_timeout_returns_child(method) {
        let scratch = Scratch::new();
        let fifo = common::fifo(&scratch, "go");
        let child = Process::new(|fifo: String| std::fs::read_to_string(fifo).unwrap(), (fifo.clone(),));
        let child = child.start_method(method).start().unwrap();
        let child = child.join_timeout(Duration::ZERO).unwrap_err();
        child.signal(libc::SIGSTOP).unwrap();
        let start = Instant::now();
        let child = child.join_timeout(Duration::from_millis(20)).unwrap_err();
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert!(child.is_alive());
        child.signal(libc::SIGCONT).unwrap();
        std::fs::write(fifo, "the value").unwrap();
        assert_eq!(child.join_timeout(LONG).unwrap().unwrap(), "the value");

        let child = Process::new(|| std::process::exit(3), ()).name("p").start_method(method).start().unwrap();
        let error = child.join_timeout(Duration::MAX).unwrap().unwrap_err();
        assert_eq!(error.to_string(), "p exited with code 3 and no value");
    }

    fn many_threads(method) {
        let child = Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap());
        let ready = Barrier::new(9);
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..8)
                .map(|i| {
                    let (child, ready) = (&child, &ready);
                    scope.spawn(move || {
                        ready.wait();
                        if i % 2 == 0 { child.wait().unwrap() } else { child.wait_timeout(LONG).unwrap().unwrap() }
                    })
                })
                .collect();
            ready.wait();
            child.terminate().unwrap();
            for waiter in waiters {
                assert_eq!(waiter.join().unwrap().exit_code(), Some(-15));
            }
        });
    }

    fn readable_fd(method) {
        let child = Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap());
        let fd = child.as_fd();
        assert!(!multiproc_os::poll::wait_readable(fd, Some(Instant::now())).unwrap());
        child.kill().unwrap();
        assert!(multiproc_os::poll::wait_readable(child.as_fd(), Some(Instant::now() + LONG)).unwrap());
    }

    fn grandchild_outlives_child(method) {
        let child = Process::new(
            || {
                // The grandchild inherits every descriptor that the child has open, and outlives
                // it.
                let grandchild = Command::new("sleep").arg("100000").spawn().unwrap();
                grandchild.id() as i32
            },
            (),
        );
        let child = child.start_method(method).start().unwrap();
        let status = child.wait_timeout(LONG).unwrap().expect("no other process is waited for");
        assert!(status.success());
        let grandchild = child.join().unwrap();
        assert!(common::exists(grandchild));
        let pidfd = multiproc_os::pidfd::open(grandchild).unwrap();
        multiproc_os::pidfd::send_signal(&pidfd, 9).unwrap();
        wait_gone(grandchild);
    }

    fn forked_grandchild_outlives_child(method) {
        // As above, but by fork(2) without an exec: the grandchild shares every descriptor.
        let child = Process::new(
            || {
                // SAFETY: the fork copy calls nothing but async-signal-safe functions.
                match unsafe { libc::fork() } {
                    0 => loop {
                        // SAFETY: the call accesses no memory.
                        unsafe { libc::pause() };
                    },
                    pid => pid,
                }
            },
            (),
        );
        let child = child.start_method(method).start().unwrap();
        assert!(child.wait_timeout(LONG).unwrap().expect("no other process is waited for").success());
        let grandchild = child.join().unwrap();
        let pidfd = multiproc_os::pidfd::open(grandchild).unwrap();
        multiproc_os::pidfd::send_signal(&pidfd, 9).unwrap();
        wait_gone(grandchild);
    }

    fn forked_copy_of_parent(method) {
        let child = Process::new(|| 5, ()).start_method(method).start().unwrap();
        // SAFETY: the call accesses no memory.
        let copy = unsafe { libc::fork() };
        if copy == 0 {
            let seen = multiproc_os::poll::wait_readable(&child, None).is_ok() && !child.is_alive();
            // SAFETY: the call ends the process.
            unsafe { libc::_exit(if seen { 3 } else { 4 }) };
        }
        let mut status = 0;
        // SAFETY: the pointer is to a local variable.
        unsafe { libc::waitpid(copy, &raw mut status, 0) };
        assert_eq!(libc::WEXITSTATUS(status), 3);
        assert_eq!(child.join().unwrap(), 5);
    }

    fn handle_outlives_child(method) {
        let child = Process::new(|| 5, ()).start_method(method).start().unwrap();
        let handle = child.handle();
        assert_eq!(child.join().unwrap(), 5);
        assert_eq!(handle.exit_code(), Some(0));
        assert_eq!(handle.wait().unwrap().max_rss().map(|bytes| bytes > 100_000), Some(true));
    }

    fn starting_thread_ends(method) not_fork {
        let scratch = Scratch::new();
        let fifo = common::fifo(&scratch, "go");
        let started = std::thread::spawn({
            let fifo = fifo.clone();
            move || Process::new(|fifo: String| std::fs::read_to_string(fifo).unwrap(), (fifo,)).start_method(method).start().unwrap()
        });
        let child = started.join().unwrap();
        // Any effect of that thread's end has had its time by now.
        assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
        std::fs::write(fifo, "still here").unwrap();
        assert_eq!(child.join().unwrap(), "still here");
    }
}
