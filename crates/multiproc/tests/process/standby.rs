//! Standby children, which are made ahead of time: when one exists, which start uses it, and that
//! it is gone when it is not needed.

use std::time::{Duration, Instant};

use crate::common::{LONG, Scratch, in_a_process_with_one_thread, wait_gone};
use multiproc::process::set_standby;
use multiproc::{Process, StartMethod};

/// The ids of the children of this process with this name.
fn children(name: &str) -> Vec<i32> {
    let me = std::process::id();
    let mut list = Vec::new();
    // A child is listed by the thread that made it, or that made its server.
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let id = task.unwrap().file_name().into_string().unwrap();
        let pids = std::fs::read_to_string(format!("/proc/{me}/task/{id}/children")).unwrap_or_default();
        list.extend(pids.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
    }
    let is = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    list.retain(is);
    list
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Waits until the condition holds, by polling.
fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts a process, and waits for the standby for the next start.
fn standby() -> i32 {
    // The standby ends by itself when no process has been started for a second.
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        Process::new(|| (), ()).start().unwrap().join().unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(500) {
            std::thread::sleep(Duration::from_millis(1));
            let Some(pid) = children("multiproc-ready").first().copied() else { continue };
            if !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") S ") {
                continue;
            }
            // It is listed a moment before the keeper thread knows of it.
            std::thread::sleep(Duration::from_millis(5));
            if children("multiproc-ready").first() == Some(&pid) {
                return pid;
            }
        }
    }
    panic!("there never is a standby");
}

#[multiproc::test]
fn next_start_takes_it() {
    in_a_process_with_one_thread(|| {
        // If this process is delayed by a second, the standby is gone; but not every time.
        let taken = (0..20).any(|_| {
            let pid = standby();
            let child = Process::new(|| std::process::id() as i32, ()).start().unwrap();
            let same = child.pid() == pid;
            assert_eq!(child.pid(), child.join().unwrap());
            same
        });
        assert!(taken);
    });
}

#[multiproc::test]
fn ends_when_idle() {
    in_a_process_with_one_thread(|| {
        let pid = standby();
        wait_gone(pid);
        until("one thread", || threads() == 1);
        // Reaped too: a process that is no longer a child can't be listed.
        assert_eq!(children("multiproc-ready"), [0_i32; 0]);
        until("one server", || children("multiproc-serve").len() == 1);
        // A later start makes a new one.
        standby();
    });
}

#[multiproc::test]
fn killed_is_replaced() {
    in_a_process_with_one_thread(|| {
        for _ in 0..10 {
            let pid = standby();
            if let Ok(pidfd) = multiproc_os::pidfd::open(pid) {
                multiproc_os::pidfd::send_signal(&pidfd, libc::SIGKILL).unwrap();
            }
            // Whether the standby is dead by now or not: this child was started afterwards, and may
            // have been started in it.
            let child = Process::new(|| 7, ()).start().unwrap();
            let same = child.pid() == pid;
            match child.join() {
                Ok(value) => assert_eq!(value, 7),
                Err(error) => assert!(same && error.signal() == Some(libc::SIGKILL), "{error}"),
            }
            until("it has been reaped", || !children("multiproc-ready").contains(&pid));
        }
    });
}

#[multiproc::test]
fn killed_costs_no_start() {
    in_a_process_with_one_thread(|| {
        for _ in 0..10 {
            let pid = standby();
            if let Ok(pidfd) = multiproc_os::pidfd::open(pid) {
                multiproc_os::pidfd::send_signal(&pidfd, libc::SIGKILL).unwrap();
                multiproc_os::poll::wait_readable(&pidfd, None).unwrap();
            }
            assert_eq!(Process::new(|| 7, ()).start().unwrap().join().unwrap(), 7);
        }
    });
}

#[multiproc::test]
fn current_environment_and_directory() {
    in_a_process_with_one_thread(|| {
        let scratch = Scratch::new();
        let directory = std::fs::canonicalize(scratch.path(".")).unwrap();
        let see = || (std::env::var("MULTIPROC_TEST").ok(), std::env::current_dir().unwrap());
        let home = see().1;
        for round in 0..5 {
            standby();
            // SAFETY: no other code accesses the environment.
            unsafe { std::env::set_var("MULTIPROC_TEST", round.to_string()) };
            std::env::set_current_dir(if round % 2 == 0 { &directory } else { &home }).unwrap();
            assert_eq!(Process::new(see, ()).start().unwrap().join().unwrap(), see());
        }
        standby();
        let error = Process::new(|| (), ()).current_dir("/nowhere").start().unwrap_err();
        assert!(error.to_string().contains("/nowhere"), "{error}");
        std::env::set_current_dir(home).unwrap();
    });
}

#[multiproc::test]
fn killed_server() {
    in_a_process_with_one_thread(|| {
        for _ in 0..5 {
            standby();
            let server = children("multiproc-serve")[0];
            multiproc_os::pidfd::send_signal(multiproc_os::pidfd::open(server).unwrap(), libc::SIGKILL).unwrap();
            for value in 0..3 {
                assert_eq!(Process::new(|n: i32| n, (value,)).start().unwrap().join().unwrap(), value);
            }
        }
        // A child that is about to become a standby has the server's name for a moment.
        until("one server", || children("multiproc-serve").len() == 1);
    });
}

#[multiproc::test]
fn fork() {
    in_a_process_with_one_thread(|| {
        for _ in 0..10 {
            standby();
            let child =
                Process::fork(|| (threads(), children("multiproc-ready").len(), children("multiproc-serve").len()));
            assert_eq!(child.start().unwrap().join().unwrap(), (1, 0, 0));
            let child = Process::fork(|| Process::new(|| 7, ()).start().unwrap().join().unwrap());
            assert_eq!(child.start().unwrap().join().unwrap(), 7);
        }
    });
}

#[multiproc::test]
fn disabled() {
    in_a_process_with_one_thread(|| {
        standby();
        set_standby(false);
        // The kernel lists a thread for a moment after it has been joined.
        until("one thread", || threads() == 1);
        assert_eq!(children("multiproc-ready"), [0_i32; 0]);
        Process::new(|| (), ()).start().unwrap().join().unwrap();
        assert_eq!(threads(), 1);
        // Children inherit the setting.
        let child = Process::new(
            || {
                Process::new(|| (), ()).start().unwrap().join().unwrap();
                threads()
            },
            (),
        );
        assert_eq!(child.start().unwrap().join().unwrap(), 1);
        set_standby(true);
        standby();
    });
}

#[multiproc::test]
fn forked_copy_has_none() {
    in_a_process_with_one_thread(|| {
        standby();
        // SAFETY: the keeper, the only other thread, sleeps, and holds no lock that the fork copy
        // needs.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let value = Process::new(|| 7, ()).start().unwrap().join().unwrap();
            // SAFETY: the call ends the fork copy.
            unsafe { libc::_exit(value) }
        }
        let mut status = 0;
        // SAFETY: the pointer is to a local variable.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(libc::WEXITSTATUS(status), 7);
        // The standby still belongs to this process.
        assert_eq!(Process::new(|| 8, ()).start().unwrap().join().unwrap(), 8);
    });
}

#[multiproc::test]
fn bursts_from_many_threads() {
    let methods = [StartMethod::ForkServer, StartMethod::Spawn];
    for _ in 0..5 {
        std::thread::scope(|scope| {
            for thread in 0..8_u32 {
                scope.spawn(move || {
                    for round in 0..5 {
                        let child = Process::new(|a: u32, b: u32| (a, b), (thread, round));
                        let method = methods[usize::from(round == 4)];
                        assert_eq!(child.start_method(method).start().unwrap().join().unwrap(), (thread, round));
                    }
                });
            }
        });
        // Long enough for a standby to be made, or to be about to be.
        std::thread::sleep(Duration::from_millis(3));
    }
}

#[multiproc::test]
fn terminal_signals_are_not_kept() {
    in_a_process_with_one_thread(|| {
        for signal in [libc::SIGHUP, libc::SIGQUIT, libc::SIGINT, libc::SIGTSTP] {
            for _ in 0..3 {
                let pid = standby();
                if let Ok(pidfd) = multiproc_os::pidfd::open(pid) {
                    multiproc_os::pidfd::send_signal(&pidfd, signal).unwrap();
                }
                // The standby discards them when it is scheduled.
                until("nothing is pending", || {
                    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
                    pending.is_none_or(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() == 0)
                });
                assert_eq!(Process::new(|| 7, ()).start().unwrap().join().unwrap(), 7, "{signal}");
            }
        }
    });
}

#[multiproc::test]
fn fork_at_any_moment() {
    in_a_process_with_one_thread(|| {
        for round in 0..150_u64 {
            Process::new(|| (), ()).start().unwrap().join().unwrap();
            // About when the keeper requests the next standby.
            let moment = Instant::now() + Duration::from_micros(400 + round * 4);
            while Instant::now() < moment {
                std::hint::spin_loop();
            }
            // SAFETY: the keeper is the only other thread, and holds no lock that the fork copy
            // needs: that is what is tested.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: the call takes a number. The default action of SIGALRM ends the fork
                // copy, should it hang.
                unsafe { libc::alarm(60) };
                let value = Process::new(|| 7, ()).start().unwrap().join().unwrap();
                // SAFETY: the call ends the fork copy.
                unsafe { libc::_exit(value) }
            }
            let mut status = 0;
            // SAFETY: the pointer is to a local variable.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!((libc::WTERMSIG(status), libc::WEXITSTATUS(status)), (0, 7), "round {round}");
        }
    });
}
