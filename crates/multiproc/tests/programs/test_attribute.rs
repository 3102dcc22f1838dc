//! `#[multiproc::test]` ends what a test leaves behind.
//!
//! The tests that leave something behind do so only in a test binary that a test of this file runs:
//! this one, with `LEAVE` in its environment.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use crate::common::{LONG, exists, sleep_long, test_name, wait_gone};
use multiproc::process::set_grace_period;
use multiproc::{Child, Process, StartMethod};

/// What the binary left behind, or would have, and how it ended.
struct Run {
    code: Option<i32>,
    pids: Vec<i32>,
    text: String,
}

/// Runs these tests at once, in a binary of their own, to its end.
fn run(tests: &[&str], threads: usize) -> Run {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(tests.iter().map(|test| test_name(module_path!(), test))).args([
        "--exact",
        "--nocapture",
        &format!("--test-threads={threads}"),
    ]);
    command.env("LEAVE", "1").env("RUST_BACKTRACE", "0").env_remove("NEXTEST_EXECUTION_MODE");
    let mut binary = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pidfd = multiproc_os::pidfd::open(binary.id() as i32).unwrap();
    let hangs = !multiproc_os::poll::wait_readable(pidfd.as_fd(), Some(Instant::now() + LONG)).unwrap();
    if hangs {
        binary.kill().unwrap();
    }
    let output = binary.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!hangs, "the test binary does not end\n{text}");
    let pids: Vec<i32> = text
        .split("left pid ")
        .skip(1)
        .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap())
        .collect();
    Run { code: output.status.code(), pids, text }
}

impl Run {
    /// Checks that the binary ended with this code, and that this many processes were started in it
    /// and are gone.
    fn check(self, code: i32, processes: usize) {
        assert_eq!((self.code, self.pids.len()), (Some(code), processes), "{}", self.text);
        // They had been reaped before the binary ended, by the test or at the exit.
        assert!(self.pids.iter().all(|pid| !exists(*pid)), "{}", self.text);
    }
}

/// Whether this is the binary that leaves something behind.
fn leaves() -> bool {
    std::env::var_os("LEAVE").is_some()
}

fn start(method: StartMethod) -> Child<()> {
    let child = Process::new(sleep_long, ()).start_method(method).start().unwrap();
    println!("left pid {}", child.pid());
    child
}

/// Announces that it runs, and ignores SIGTERM.
fn stubborn(ready: multiproc::connection::Sender<()>) {
    // SAFETY: no handler is installed or replaced.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    ready.send(()).unwrap();
    sleep_long();
}

#[multiproc::test]
fn leave_and_panic() {
    if leaves() {
        let _child = start(StartMethod::ForkServer);
        let _other = start(StartMethod::Spawn);
        panic!("an assertion fails here");
    }
}

#[multiproc::test]
fn leave_and_return_error() -> Result<(), String> {
    if leaves() {
        let _child = start(StartMethod::ForkServer);
        return Err("no".into());
    }
    Ok(())
}

#[multiproc::test]
fn leave_and_pass() {
    if leaves() {
        start(StartMethod::ForkServer);
    }
}

#[multiproc::test]
#[tokio::test]
async fn leave_in_runtime() {
    if leaves() {
        let _child = start(StartMethod::ForkServer);
        tokio::time::sleep(Duration::from_millis(1)).await;
        panic!("an assertion fails here");
    }
}

#[multiproc::test]
fn leave_ignoring_sigterm() {
    if leaves() {
        set_grace_period(Duration::from_millis(50));
        let (sender, ready) = multiproc::connection::one_way().unwrap();
        let child = Process::new(stubborn, (sender,)).start().unwrap();
        println!("left pid {}", child.pid());
        ready.recv().unwrap();
        panic!("an assertion fails here");
    }
}

/// A thread of the test starts the child, and still waits for it.
#[multiproc::test]
fn leave_by_thread() {
    if leaves() {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let child = start(StartMethod::ForkServer);
            sender.send(()).unwrap();
            child.wait()
        });
        receiver.recv().unwrap();
    }
}

#[test]
fn leave_without_attribute() {
    if leaves() {
        start(StartMethod::ForkServer);
    }
}

#[multiproc::test]
#[should_panic = "as it should"]
fn leave_and_should_panic() {
    if leaves() {
        let _child = start(StartMethod::ForkServer);
    }
    panic!("as it should");
}

/// What the neighbouring tests tell each other: the pid of the process that ends first.
static FIRST: OnceLock<i32> = OnceLock::new();
/// Set once both have started their processes.
static BOTH: OnceLock<()> = OnceLock::new();

/// Ends, and with it its process, while the other test still runs.
#[multiproc::test]
fn first_of_two() {
    if leaves() {
        let child = start(StartMethod::ForkServer);
        BOTH.wait();
        FIRST.set(child.pid()).unwrap();
    }
}

#[multiproc::test]
fn second_of_two() {
    if leaves() {
        // The process has no handle left, but its test continues.
        let pid = start(StartMethod::ForkServer).pid();
        BOTH.set(()).unwrap();
        wait_gone(*FIRST.wait());
        assert!(exists(pid), "the end of one test has ended the process of another");
    }
}

/// Tests that share a process keep a handle to it in a static.
static FIXTURE: OnceLock<Child<()>> = OnceLock::new();

fn use_fixture() {
    if leaves() {
        assert!(FIXTURE.get_or_init(|| start(StartMethod::ForkServer)).is_alive());
    }
}

#[multiproc::test]
fn fixture_1() {
    use_fixture();
}

#[multiproc::test]
fn fixture_2() {
    use_fixture();
}

#[test]
fn failed_test_ends_its_processes() {
    for (test, processes) in
        [("leave_and_panic", 2), ("leave_and_return_error", 1), ("leave_in_runtime", 1), ("leave_ignoring_sigterm", 1)]
    {
        run(&[test], 1).check(101, processes);
    }
}

#[test]
fn passed_test_ends_its_processes() {
    run(&["leave_and_pass"], 1).check(0, 1);
    run(&["leave_and_should_panic"], 1).check(0, 1);
}

#[test]
fn binary_ends_the_rest() {
    run(&["leave_by_thread", "leave_without_attribute"], 2).check(0, 2);
}

#[test]
fn test_ends_only_its_own_processes() {
    run(&["first_of_two", "second_of_two"], 2).check(0, 2);
}

#[test]
fn shared_fixture() {
    run(&["fixture_1", "fixture_2"], 1).check(0, 1);
}

#[test]
fn concurrent_tests() {
    run(&["leave_and_panic", "leave_and_pass", "leave_and_return_error", "leave_by_thread"], 4).check(101, 5);
}
