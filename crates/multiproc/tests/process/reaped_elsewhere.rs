//! Children with a status that is taken elsewhere: by another part of the program that waits for
//! any child, by the kernel, or by a debugger. How they ended is known all the same where the
//! kernel keeps it, and no wait exceeds its timeout.

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use crate::common::{self, LONG, for_each_method, sleep_long};
use futures::executor::block_on;
use multiproc::{Process, StartMethod, wait_all, wait_any};

/// Whether the kernel keeps the status of a process that was reaped elsewhere.
fn status_is_kept() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

#[track_caller]
fn is_code(code: Option<i32>, expected: i32) {
    assert!(code == Some(expected) || (code.is_none() && !status_is_kept()), "{code:?} is not {expected}");
}

fn leave(code: i32) {
    std::process::exit(code)
}

/// Starts children that end at once, and queries in every way how they ended.
fn ask_in_every_way(method: StartMethod) {
    let start = |code: i32| Process::new(leave, (code,)).start_method(method).start().unwrap();
    for code in (0..60).step_by(6) {
        is_code(start(code).wait().unwrap().exit_code(), code);
        is_code(start(code + 1).wait_timeout(LONG).unwrap().unwrap().exit_code(), code + 1);
        let child = start(code + 2);
        assert_eq!(wait_any(&[&child], None).unwrap(), [0]);
        is_code(child.exit_code(), code + 2);
        let children = [start(code), start(code + 3)];
        is_code(wait_all(&children, None).unwrap()[1].exit_code(), code + 3);
        is_code(block_on(start(code + 4).handle().into_future()).unwrap().exit_code(), code + 4);
        // With an option, the child itself confirms its start.
        let child = Process::new(leave, (code + 5,)).start_method(method).nice(1).start().unwrap();
        is_code(child.wait().unwrap().exit_code(), code + 5);
        let error = start(code + 1).join().unwrap_err();
        assert!(!status_is_kept() || error.to_string().contains(&format!("exited with code {}", code + 1)), "{error}");
        let failed = multiproc::scope(|scope| -> Result<(), multiproc::process::ScopeError> {
            scope.start(Process::new(leave, (code + 1,)).start_method(method)).unwrap();
            Ok(())
        });
        assert!(!status_is_kept() || failed.unwrap_err().to_string().contains(&format!("code {}", code + 1)));
    }
    // A child that was a standby, and one that is killed.
    std::thread::sleep(Duration::from_millis(20));
    let sleeper = Process::new(sleep_long, ()).start_method(method).start().unwrap();
    sleeper.kill().unwrap();
    is_code(sleeper.wait().unwrap().exit_code(), -9);
}

/// Makes clone3(2) fail in this thread and in what it starts from now on, as the usual seccomp
/// profile of containers does.
fn refuse_clone3() {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_clone3 as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program is valid, and read before the call returns.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

/// Reaps whatever child there is.
fn wait_for_any_child() {
    loop {
        // SAFETY: no status is requested.
        if unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) } == -1 {
            std::thread::yield_now();
        }
    }
}

#[multiproc::test]
fn without_clone3() {
    let child = Process::new(
        || {
            std::thread::spawn(wait_for_any_child);
            refuse_clone3();
            ask_in_every_way(StartMethod::ForkServer);
            std::process::exit(0)
        },
        (),
    );
    assert_eq!(child.start().unwrap().wait().unwrap().exit_code(), Some(0));
}

for_each_method! {
    fn beside_waitpid_thread(method) not_fork {
        let child = Process::new(
            |method: StartMethod| {
                for _ in 0..2 {
                    std::thread::spawn(wait_for_any_child);
                }
                ask_in_every_way(method);
                // Not by the target's return, which also waits for any child.
                std::process::exit(0)
            },
            (method,),
        );
        assert_eq!(child.start().unwrap().wait().unwrap().exit_code(), Some(0));
    }

    fn beside_sigchld_handler(method) {
        extern "C" fn reap(_: i32) {
            // SAFETY: async-signal-safe; errno is restored.
            unsafe {
                let errno = *libc::__errno_location();
                while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
                *libc::__errno_location() = errno;
            }
        }
        let child = Process::new(
            |method: StartMethod| {
                // SAFETY: the handler is async-signal-safe.
                unsafe { libc::signal(libc::SIGCHLD, reap as *const () as libc::sighandler_t) };
                let start = |code: i32| Process::new(leave, (code,)).start_method(method).start().unwrap();
                for code in 0..40 {
                    is_code(start(code).wait().unwrap().exit_code(), code);
                    let error = start(code).join().unwrap_err();
                    assert!(!status_is_kept() || error.to_string().contains(&format!("code {code} ")), "{error}");
                }
            },
            (method,),
        );
        child.start().unwrap().join().unwrap();
    }

    fn traced_zombie(method) not_fork {
        let child = Process::new(
            || {
                // Where only ancestors may trace, as with Yama.
                // SAFETY: the call accesses no memory.
                unsafe { libc::prctl(libc::PR_SET_PTRACER, -1_i64 as libc::c_ulong) };
                sleep_long()
            },
            (),
        );
        let (to, from) = multiproc::connection::one_way::<bool>().unwrap();
        let child = child.start_method(method).start().unwrap();
        let debugger = Process::new(
            |pid: i32, to: multiproc::connection::Sender<bool>| {
                const PTRACE_SEIZE: libc::c_uint = 0x4206;
                let begun = Instant::now();
                // The child may not have allowed it yet.
                let is_traced = loop {
                    // SAFETY: attaches to another process, and accesses no memory of this one.
                    if unsafe { libc::ptrace(PTRACE_SEIZE as _, pid, 0, 0) } == 0 {
                        break true;
                    }
                    if begun.elapsed() > Duration::from_secs(5) {
                        break false;
                    }
                    std::thread::yield_now();
                };
                to.send(is_traced).unwrap();
                sleep_long()
            },
            (child.pid(), to),
        );
        let debugger = debugger.start().unwrap();
        if from.recv().unwrap() {
            child.signal(libc::SIGKILL).unwrap();
            let begun = Instant::now();
            while common::exists(child.pid()) {
                std::thread::yield_now();
            }
            assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
            assert!(wait_any(&[&child], Duration::from_millis(50)).unwrap().is_empty());
            assert!(wait_all([&child], Duration::from_millis(50)).is_err());
            assert_eq!(child.try_wait().unwrap(), None);
            assert!(begun.elapsed() < LONG);
        } else {
            eprintln!("skipped: this needs the right to trace a process");
        }
        debugger.kill().unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().exit_code(), Some(-9));
        assert_eq!(wait_any(&[&child], None).unwrap(), [0]);
    }
}
