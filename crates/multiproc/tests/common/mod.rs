//! Helpers that several test files need.

#![allow(dead_code, unused_macros, unused_imports)]

use std::time::{Duration, Instant};

use multiproc::process::ProcessHandle;

/// No test waits longer than this; what takes longer never happens.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// Waits until the condition holds, and returns how long that took. A time in which the whole
/// machine stood still counts only as a moment.
pub(crate) fn time_until(is_so: impl Fn() -> bool) -> Duration {
    /// The interval between two checks, and the most that is counted for one interval.
    const LOOKS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(4)];
    let (begun, mut looked, mut counted) = (Instant::now(), Instant::now(), Duration::ZERO);
    while !is_so() {
        assert!(begun.elapsed() < LONG, "the condition never held");
        std::thread::sleep(LOOKS[0]);
        counted += looked.elapsed().min(LOOKS[1]);
        looked = Instant::now();
    }
    counted
}

/// Makes a test for each start method from a function with a method parameter: `name::forkserver`,
/// `name::spawn`, `name::fork`.
///
/// Fork is refused in a process with threads, as a test harness is, so that test runs in a process
/// of its own. `fn name(method) not_fork {` leaves it out, for tests that need threads themselves,
/// or are about what is sent.
macro_rules! for_each_method {
    ($($(#[$attribute:meta])* fn $name:ident($method:ident) $($not_fork:ident)? $body:block)*) => {
        $($(#[$attribute])* mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn check($method: multiproc::StartMethod) $body

            #[multiproc::test]
            fn forkserver() {
                check(multiproc::StartMethod::ForkServer)
            }

            #[multiproc::test]
            fn spawn() {
                check(multiproc::StartMethod::Spawn)
            }

            $crate::common::for_each_method!(@fork $($not_fork)?);
        })*
    };
    (@fork not_fork) => {};
    (@fork) => {
        #[multiproc::test]
        fn fork() {
            $crate::common::in_a_process_with_one_thread(|| check(multiproc::StartMethod::Fork))
        }
    };
}

/// Runs a test with this method in a process of its own, because its effects concern the whole
/// process: under `cargo test`, all tests of a binary run in one.
pub(crate) fn in_its_own_process(test: fn(multiproc::StartMethod), method: multiproc::StartMethod) {
    multiproc::Process::new(test, (method,)).name("harness").start().unwrap().join().unwrap()
}

/// Returns the number of a user that only the calling process is: limits count all processes of a
/// user, those of other tests and other runs included.
pub(crate) fn exclusive_user() -> u32 {
    60_200 + std::process::id() % 5000
}

/// Runs a test in a process with one thread, as the main process of a program would.
pub(crate) fn in_a_process_with_one_thread(test: fn()) {
    multiproc::Process::new(test, ()).name("harness").start().unwrap().join().unwrap()
}

pub(crate) use for_each_method;

/// The name by which the harness knows a test of a module: pass [`module_path`].
pub(crate) fn test_name(module: &str, test: &str) -> String {
    let (_, module) = module.split_once("::").expect("a module of the test binary");
    format!("{module}::{test}")
}

/// A process that ends when this is dropped, whatever happens in the test.
pub(crate) struct Ends<T>(pub(crate) multiproc::Child<T>);

impl<T> Drop for Ends<T> {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            let _ = self.0.wait_timeout(LONG);
        }
    }
}

impl<T> std::ops::Deref for Ends<T> {
    type Target = multiproc::Child<T>;

    fn deref(&self) -> &multiproc::Child<T> {
        &self.0
    }
}

/// Sleeps longer than any test takes.
pub(crate) fn sleep_long() {
    std::thread::sleep(Duration::from_secs(100_000));
}

/// A directory of its own for files in which processes leave messages, removed at the end of the
/// test.
pub(crate) struct Scratch(std::path::PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // A process that was killed in the middle of a test, and had the same id as this one, may
        // have left some of these names behind.
        loop {
            let name = format!("multiproc-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => return Scratch(path),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}"),
            }
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A named pipe: the test reads what a child writes to the path. For announcing that something has
/// happened.
pub(crate) fn fifo(scratch: &Scratch, name: &str) -> String {
    let path = scratch.path(name);
    let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    path
}

/// Whether a process with this id exists that is not a zombie.
pub(crate) fn exists(pid: i32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']),
        Err(_) => false,
    }
}

/// Waits until the process with this id, not a child of this one, is gone; returns how long it
/// took.
pub(crate) fn wait_gone(pid: i32) -> Duration {
    let start = Instant::now();
    if let Ok(pidfd) = multiproc_os::pidfd::open(pid) {
        let ended = multiproc_os::poll::wait_readable(&pidfd, Some(start + LONG)).unwrap();
        assert!(ended, "process {pid} is still there");
    }
    start.elapsed()
}

/// How often the threads of a process have been switched out, voluntarily or not, in total.
pub(crate) fn switches(pid: i32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.filter_map(|thread| Some(switches_at(thread.ok()?.path()))).sum()
}

/// The same, for the thread with this directory in `/proc`.
pub(crate) fn switches_at(task: impl AsRef<std::path::Path>) -> u64 {
    let status = std::fs::read_to_string(task.as_ref().join("status")).unwrap_or_default();
    let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
    lines.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum()
}

/// Waits for a `pause` in which the result of `counts` does not change.
pub(crate) fn until_nothing_wakes<C: PartialEq + std::fmt::Debug>(counts: impl Fn() -> C, pause: Duration) {
    let begun = Instant::now();
    loop {
        let before = counts();
        std::thread::sleep(pause);
        let after = counts();
        if before == after {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "they keep waking up: {before:?}, {after:?}");
    }
}

/// A value that can't be sent.
#[derive(Debug)]
pub(crate) struct Unwilling;

impl serde::Serialize for Unwilling {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not today"))
    }
}

impl<'de> serde::Deserialize<'de> for Unwilling {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Unwilling, D::Error> {
        Ok(Unwilling)
    }
}
