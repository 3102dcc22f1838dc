//! Main processes in environments where a start or a lifeline could fail. A test that needs an
//! environment that this system doesn't allow says so on stderr, and is skipped.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use multiproc_os::{pidfd, poll};

use crate::scratch::Scratch;

const LIFELINE: &str = env!("CARGO_BIN_EXE_lifeline");
const EARLY_FILE: &str = env!("CARGO_BIN_EXE_early_file");
const METHODS: [&str; 3] = ["forkserver", "spawn", "fork"];

/// The longest that a test waits for anything: after that, the event is considered lost.
const LONG: Duration = Duration::from_secs(300);

fn lifeline(arguments: &[&str]) -> Command {
    let mut command = Command::new(LIFELINE);
    command.args(arguments).env("RUST_BACKTRACE", "0").env_remove("MULTIPROC_ENTRY").stdin(Stdio::null());
    command
}

/// Runs a scenario to its end, and returns its lines. Returns None, with a message on stderr, if
/// the system has refused it.
fn run(arguments: &[&str]) -> Option<Vec<String>> {
    lines_of(arguments, lifeline(arguments).output().unwrap())
}

fn lines_of(arguments: &[&str], output: Output) -> Option<Vec<String>> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text == "refused\n" {
        eprintln!("not shown: this system doesn't let the test do {arguments:?}");
        return None;
    }
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Some(text.lines().map(str::to_owned).collect())
}

/// A scenario that runs until it is killed.
struct Running {
    main: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(arguments: &[&str]) -> Running {
        let mut main = lifeline(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(main.stdout.take().unwrap()).lines();
        Running { main, lines }
    }

    /// The pid after this word on the next line; None if the scenario was refused.
    fn pid(&mut self, word: &str) -> Option<i32> {
        let line = self.lines.next().expect("the program ended its output too early").unwrap();
        if line == "refused" {
            eprintln!("not shown: this system doesn't let the test do that");
            return None;
        }
        Some(line.strip_prefix(word).unwrap_or_else(|| panic!("{line}")).trim().parse().unwrap())
    }

    fn pid_of_main(&self) -> i32 {
        self.main.id() as i32
    }

    fn kill(&mut self) {
        self.main.kill().unwrap();
        self.main.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.main.kill();
        let _ = self.main.wait();
    }
}

/// A process that is killed when this is dropped, so that a failed test leaves none behind.
struct Watched(std::os::fd::OwnedFd);

impl Watched {
    fn new(pid: i32) -> Watched {
        Watched(pidfd::open(pid).unwrap())
    }

    fn is_alive(&self) -> bool {
        !poll::wait_readable(&self.0, Some(Instant::now())).unwrap()
    }

    fn wait_gone(&self) {
        let ended = poll::wait_readable(&self.0, Instant::now().checked_add(LONG)).unwrap();
        assert!(ended, "the process is still running");
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = pidfd::send_signal(&self.0, libc::SIGKILL);
    }
}

/// The children of the process `parent`, by pid and name.
fn children(parent: i32) -> Vec<(i32, String)> {
    let read = |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let stat = read(pid, "stat")?;
        let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(1);
        (fields.next()? == parent.to_string()).then(|| Some((pid, read(pid, "comm")?.trim().to_owned())))?
    })
    .collect()
}

#[test]
fn changed_user_in_container() {
    for method in METHODS {
        let mut main = Running::start(&["changes-user", method]);
        let Some(first) = main.pid("child ") else { return };
        let rest = [main.pid("child ").unwrap(), main.pid("child ").unwrap()];
        let watched: Vec<_> = [first].into_iter().chain(rest).map(Watched::new).collect();
        assert_eq!(main.lines.next().unwrap().unwrap(), "ready");
        let others: Vec<_> = children(main.pid_of_main()).into_iter().map(|(pid, _)| Watched::new(pid)).collect();
        assert!(watched.iter().all(Watched::is_alive));
        main.kill();
        watched.iter().chain(&others).for_each(Watched::wait_gone);
    }
}

#[test]
fn orphan_ends_at_next_call() {
    for method in METHODS {
        let mut main = Running::start(&["changes-user-unguarded", method]);
        let Some(child) = main.pid("child ") else { return };
        let child = Watched::new(child);
        let begun = Instant::now();
        // The server sets its name after it has reported that it is ready.
        let server = loop {
            let found = children(main.pid_of_main()).into_iter().find(|(_, name)| name == "multiproc-serve");
            if let Some((pid, _)) = found {
                break Watched::new(pid);
            }
            assert!(begun.elapsed() < LONG, "{method}: there is no server");
            std::thread::sleep(Duration::from_millis(1));
        };
        pidfd::send_signal(&server.0, libc::SIGKILL).unwrap();
        server.wait_gone();
        assert!(child.is_alive());
        main.kill();
        child.wait_gone();
    }
}

#[test]
fn pid_namespace_init_ends_with_main() {
    for method in METHODS {
        for blocks in ["", "blocks"] {
            let mut main = Running::start(&["first-of-namespace", method, blocks]);
            let Some(child) = main.pid("child ") else { return };
            let child = Watched::new(child);
            assert!(main.pid("grandchild ").unwrap() > 1);
            assert!(child.is_alive());
            main.kill();
            child.wait_gone();
        }
    }
}

#[test]
fn terminate_pid_namespace_init() {
    for method in METHODS {
        let Some(lines) = run(&["first-of-namespace-terminated", method]) else { return };
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(lines[0], "stopped[143]", "{method}");
        assert!(lines[1].contains("unshare(CLONE_NEWPID)") && lines[1].contains("has ended"), "{}", lines[1]);
    }
}

#[test]
fn start_in_pid_namespace() {
    for method in METHODS {
        let Some(lines) = run(&["namespace-with-init", method]) else { return };
        assert_eq!(lines[..3], ["(7, true)"; 3], "{method}");
        assert!(lines[3].contains("unshare(CLONE_NEWPID)") && lines[3].contains("has ended"), "{}", lines[3]);
    }
}

#[test]
fn main_without_root_ends_beside_root_daemon() {
    for method in METHODS {
        let Some(lines) = run(&["gave-up-root", method]) else { return };
        let daemon: i32 = lines[0].strip_prefix("daemon ").unwrap().parse().unwrap();
        assert!(!Path::new(&format!("/proc/{daemon}")).exists(), "{method}: the daemon is still there");
        let Some(lines) = run(&["gave-up-root-scope", method]) else { return };
        assert_eq!(lines, ["the scope has ended", "and another one"], "{method}");
    }
}

#[test]
fn server_ends_unkillable_daemon() {
    for method in METHODS {
        let mut main = Running::start(&["both-change-user", method]);
        let Some(daemon) = main.pid("daemon ") else { return };
        let daemon = Watched::new(daemon);
        let error = main.lines.next().unwrap().unwrap();
        assert!(error.contains("cannot kill") && error.contains("next call"), "{error}");
        assert!(main.main.wait().unwrap().success());
        daemon.wait_gone();
    }
}

#[test]
fn kill_without_permission_to_signal() {
    for method in METHODS {
        let Some(lines) = run(&["gave-up-root-kill", method]) else { return };
        let _free = Watched::new(lines[0].strip_prefix("free ").unwrap().parse().unwrap());
        assert!(lines[1].contains("cannot terminate") && lines[1].contains("kill()"), "{}", lines[1]);
        assert_eq!(lines[2], "stopped[SIGKILL]");
        assert!(lines[3].contains("cannot kill") && lines[3].contains("another user"), "{}", lines[3]);
    }
}

#[test]
fn sandboxed_calls() {
    for method in METHODS {
        for name in ["close_range", "unshare", "none"] {
            let Some(lines) = run(&["refused-call", method, name]) else { return };
            assert_eq!(lines, ["value Ok(7)"], "{method} without {name}");
        }
        let Some(lines) = run(&["refused-call", method, "pidfd_open"]) else { return };
        assert!(lines[0].contains("pidfd_open(2) is refused"), "{method}: {}", lines[0]);
    }
    let Some(lines) = run(&["refused-call", "fork", "clone"]) else { return };
    assert!(lines[0].contains("refuses clone(2)"), "{}", lines[0]);
    let Some(lines) = run(&["refused-call", "spawn", "memfd_create"]) else { return };
    assert_eq!(lines, ["value Ok(7)"]);
    let Some(lines) = run(&["refused-call", "forkserver", "memfd_create"]) else { return };
    assert!(lines[0].contains("memfd_create(2) is refused"), "{}", lines[0]);
}

#[test]
fn root_without_dev_or_proc() {
    for method in METHODS {
        let root = Scratch::new(&format!("bare-root-{method}"));
        let directory = root.0.to_str().unwrap();
        let Some(lines) = run(&["bare-root", method, directory, "proc"]) else { return };
        assert_eq!(lines[0], "value Ok(7)", "{method}");
        assert!(lines[1].contains("/dev/null"), "{method}: {}", lines[1]);
        assert_eq!(lines[2], "value Ok(7)", "{method}, without stdin");
        let Some(lines) = run(&["bare-root", method, directory, "no-proc"]) else { return };
        match method {
            "fork" => assert_eq!(lines[0], "value Ok(7)"),
            _ => assert!(lines[0].contains("/proc is not mounted") && lines[0].contains("mount"), "{}", lines[0]),
        }
    }
}

#[test]
fn closed_stream_number_is_reused() {
    // A program with threads can't be forked.
    for method in ["forkserver", "spawn"] {
        assert_eq!(run(&["number-in-use", method]).unwrap(), ["started"], "{method}");
    }
}

#[test]
fn close_on_exec_stdio() {
    for method in METHODS {
        assert_eq!(run(&["close-on-exec", method]).unwrap(), ["as here"], "{method}");
    }
}

#[test]
fn file_opened_before_init_stays_open() {
    let scratch = Scratch::new("early-file");
    let path = scratch.0.join("file");
    let output = Command::new(EARLY_FILE).arg(&path).env_remove("MULTIPROC_ENTRY").output().unwrap();
    assert_eq!(lines_of(&["early_file"], output).unwrap(), ["done"]);
    let text = std::fs::read_to_string(&path).unwrap();
    for (line, count) in [("child of ForkServer", 6), ("child of Spawn", 6), ("child of Fork", 6), ("parent", 3)] {
        assert_eq!(text.lines().filter(|found| *found == line).count(), count, "{text}");
    }
    assert_eq!(text.lines().count(), 21);
}

#[test]
fn run_through_loader() {
    let loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let Some(loader) = loaders.iter().find(|path| Path::new(path).exists()) else {
        eprintln!("not shown: this system has none of {loaders:?}");
        return;
    };
    let scratch = Scratch::new("loader");
    let trace = scratch.0.join("executed");
    for method in METHODS {
        let mut command = Command::new(loader);
        // The loader would take the first argument for its program.
        command.args([LIFELINE, "one", method]).env_remove("MULTIPROC_ENTRY").current_dir(&scratch.0);
        std::fs::write(scratch.0.join("one"), "#!/bin/sh\ntouch executed\n").unwrap();
        let lines = lines_of(&["one", method], command.output().unwrap()).unwrap();
        match method {
            "fork" => assert_eq!(lines, ["value Ok(7)"]),
            _ => assert!(lines[0].contains("dynamic loader") && lines[0].contains("Fork"), "{method}: {}", lines[0]),
        }
        assert!(!trace.exists());
    }
}
