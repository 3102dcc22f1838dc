//! Processes, signals and descriptors of tests: processes are made by fork(2).

// Not every test binary needs all.
#![allow(dead_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use multiproc_os::{pidfd, poll};
use multiproc_shm::wait::deadline::Deadline;

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(300);

pub(crate) fn long() -> Deadline {
    Deadline::after(LONG)
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(20))
}

/// Runs `child` in a fork copy, and returns its pid.
pub(crate) fn fork(child: impl FnOnce()) -> i32 {
    // SAFETY: the copy calls only this crate, which is made for fork copies of programs with other
    // threads, and the allocator, which the C library makes safe.
    match unsafe { libc::fork() } {
        0 => {
            // The thread of a test that fails ends, and nothing is left behind.
            // SAFETY: prctl(2) with a number.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let status = catch_unwind(AssertUnwindSafe(child)).map_or(101, |()| 0);
            // SAFETY: ends the process, without the test harness's exit handlers.
            unsafe { libc::_exit(status) }
        }
        pid => {
            assert!(pid > 0, "fork: {}", std::io::Error::last_os_error());
            pid
        }
    }
}

/// Runs `operation` in a fork copy again and again, and stops the copy after each instruction,
/// until `is_inside` says that this is in the middle of the operation. Returns its pid; it stays
/// stopped.
pub(crate) fn stop_inside(operation: impl Fn(), mut is_inside: impl FnMut() -> bool) -> i32 {
    let pid = fork(|| {
        // SAFETY: the parent traces this process, which has no other thread.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0), 0);
            libc::raise(libc::SIGSTOP);
        }
        loop {
            operation();
        }
    });
    let wait_stopped = || {
        let mut status = 0;
        // SAFETY: the status is ours.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
    };
    wait_stopped();
    for _ in 0..1_000_000 {
        // SAFETY: the process is traced, and stopped.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, pid, 0, 0) }, 0);
        wait_stopped();
        if is_inside() {
            return pid;
        }
    }
    panic!("no instruction is in the middle of the operation");
}

/// Waits until the process has ended, and returns its status as waitpid(2) does. Kills it if it
/// takes too long.
pub(crate) fn status_of(pid: i32) -> i32 {
    let pidfd = pidfd::open(pid).unwrap();
    if !poll::wait_readable(&pidfd, Some(Instant::now() + LONG)).unwrap() {
        kill(pid);
        panic!("the child hangs");
    }
    let mut status = 0;
    // SAFETY: the status is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

pub(crate) fn succeeds(pid: i32) {
    assert_eq!(status_of(pid), 0, "the child has panicked");
}

pub(crate) fn signal(pid: i32, signal: i32) {
    // SAFETY: a child of this process, which hasn't been waited for, or this process.
    unsafe { libc::kill(pid, signal) };
}

pub(crate) fn kill(pid: i32) {
    signal(pid, libc::SIGKILL);
}

/// Sleeps until a signal kills the process.
pub(crate) fn sleep_for_ever() -> ! {
    loop {
        // SAFETY: no memory is touched.
        unsafe { libc::pause() };
    }
}

pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs the test in a fork copy: other tests of this binary open descriptors and create processes
/// at the same time.
pub(crate) fn in_its_own_process(test: impl FnOnce()) {
    succeeds(fork(test));
}

/// Sends SIGUSR1, with a handler that does nothing, to one thread every millisecond until it is
/// dropped.
pub(crate) struct Signals {
    is_over: Arc<AtomicBool>,
    sender: Option<std::thread::JoinHandle<()>>,
}

impl Signals {
    pub(crate) fn to_this_thread() -> Signals {
        extern "C" fn nothing(_: i32) {}
        // SAFETY: the handler does nothing; the action is ours, and all zero is valid.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
        }
        // SAFETY: no memory is touched.
        let (pid, thread) = unsafe { (libc::getpid(), libc::syscall(libc::SYS_gettid)) };
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = is_over.clone();
        let sender = std::thread::spawn(move || {
            while !seen.load(SeqCst) {
                // SAFETY: no memory is touched; the thread waits for this one when it ends.
                unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, libc::SIGUSR1) };
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Signals { is_over, sender: Some(sender) }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
        self.sender.take().unwrap().join().unwrap();
    }
}
