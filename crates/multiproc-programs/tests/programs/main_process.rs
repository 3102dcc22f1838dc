//! What a main process does, observed from outside.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use multiproc_os::{pidfd, poll};

const SUBJECT: &str = env!("CARGO_BIN_EXE_subject");
const METHODS: [&str; 2] = ["forkserver", "spawn"];

/// The longest that a test waits for anything: after that, the event is considered lost.
const LONG: Duration = Duration::from_secs(300);

/// Runs a program to its end, in a session of its own, and checks that no process of it is left.
fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("RUST_BACKTRACE", "0").env_remove("MULTIPROC_ENTRY");
    run_command(command)
}

fn run_command(mut command: Command) -> Output {
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        })
    };
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let session = child.id() as i32;
    // This reads to the end of stdout and stderr, so a process left behind would make it hang;
    // nextest and CI kill such a test.
    let output = child.wait_with_output().unwrap();
    assert_eq!(members(session), Vec::<i32>::new(), "left behind by {command:?}");
    output
}

/// The processes of a session, except zombies.
fn members(session: i32) -> Vec<i32> {
    let stat = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let Some(stat) = stat(*pid) else { return false };
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
            fields[3] == session.to_string() && fields[0] != "Z" && fields[0] != "X"
        })
        .collect()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lines(output: &Output) -> Vec<String> {
    stdout(output).lines().map(str::to_owned).collect()
}

/// Copies the subject there. Another process does it: if this process had the file open for
/// writing, a child that another test starts at that moment would inherit it, and the file could
/// not be executed yet ("text file busy").
fn copy_subject(to: &std::path::Path) {
    assert!(Command::new("cp").arg(SUBJECT).arg(to).status().unwrap().success());
}

/// Waits until the process is gone; returns how long that took.
fn wait_gone(pid: i32) -> Duration {
    let start = Instant::now();
    if let Ok(pidfd) = pidfd::open(pid) {
        assert!(poll::wait_readable(&pidfd, Some(start + LONG)).unwrap(), "process {pid} is still running");
    }
    start.elapsed()
}

/// A program that the test communicates with while it runs.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("the program ended its output too early").unwrap()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn subject(arguments: &[&str]) -> Command {
    let mut command = Command::new(SUBJECT);
    command.args(arguments);
    command
}

#[test]
fn main_waits_for_children_and_ends_daemons() {
    for method in METHODS {
        for (scenario, code) in [("end", 0), ("panic", 101), ("exit", 3), ("exit-in-thread", 4)] {
            let output = run(SUBJECT, &[scenario, method]);
            assert_eq!(output.status.code(), Some(code), "{scenario} {method}: {}", stderr(&output));
            let text = stdout(&output);
            assert!(text.contains("is done\n"), "{scenario} {method}: {text}");
        }
    }
}

#[test]
fn sigterm_ignored_is_killed_after_grace_period() {
    for method in METHODS {
        let mut running = Running::start(subject(&["stubborn", method]));
        let (first, second) = (running.line(), running.line());
        let (daemon, said) = if first == "stubborn" { (second, first) } else { (first, second) };
        assert_eq!(said, "stubborn");
        let pid = daemon.strip_prefix("daemon ").unwrap().parse().unwrap();
        running.say("go on");
        assert_eq!(running.child.wait().unwrap().code(), Some(0));
        wait_gone(pid);
    }
}

#[test]
fn killed_main_ends_descendants() {
    let mut running = Running::start(subject(&["tree"]));
    let (mut pids, mut free) = (Vec::new(), None);
    // Two methods, daemon or not, each with two children; and one that outlives its parent.
    for _ in 0..13 {
        let line = running.line();
        let (name, pid) = line.rsplit_once(' ').unwrap();
        let pid: i32 = pid.parse().unwrap();
        if name == "free" { free = Some(pid) } else { pids.push(pid) }
    }
    let free = free.unwrap();
    let main = running.child.id();
    // The servers too: these are all other processes in the tree.
    let mut servers = Vec::new();
    for parent in pids.iter().copied().chain([main as i32]) {
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children = std::fs::read_to_string(path).unwrap();
        servers.extend(children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
    }
    servers.retain(|pid| *pid != free && !pids.contains(pid));
    // And those on standby.
    assert!(servers.len() >= 5, "one for main, and one for each of the four processes with children");
    running.child.kill().unwrap();
    for pid in pids.iter().chain(&servers) {
        wait_gone(*pid);
    }
    let pidfd = pidfd::open(free).unwrap();
    assert!(!poll::wait_readable(&pidfd, Some(Instant::now() + Duration::from_millis(100))).unwrap());
    pidfd::send_signal(&pidfd, libc::SIGKILL).unwrap();
    wait_gone(free);
}

#[test]
fn finalizers_run_in_order() {
    for method in METHODS {
        let output = run(SUBJECT, &["finalizers", method]);
        let expected = [
            "child runs",
            "child 10, the later",
            "child 10, the earlier",
            "child 0",
            "child -1",
            "main 10, the later",
            "main 10, the earlier",
            "main 0",
            "a child that is waited for",
            "main -1",
        ];
        assert_eq!(lines(&output), expected, "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn exit_in_child_ends_its_children() {
    for method in METHODS {
        let output = run(SUBJECT, &["exit-in-child", method]);
        let lines = lines(&output);
        assert_eq!(lines.last().map(String::as_str), Some("Some(5)"), "{lines:?}");
        for line in ["finalizer of child", "worker of child is done"] {
            assert!(lines.iter().any(|other| other == line), "{lines:?}");
        }
    }
}

#[test]
fn child_panic_message() {
    for method in METHODS {
        let mut command = subject(&["child-panics", method]);
        command.env("RUST_BACKTRACE", "1");
        let text = stderr(&run_command(command));
        let mut lines = text.lines().filter(|line| !line.is_empty());
        assert_eq!(lines.next(), Some("Process raises:"), "{text}");
        let place = lines.next().unwrap();
        assert!(place.starts_with("thread 'main' ") && place.contains(" panicked at "), "{text}");
        assert!(place.contains("subject.rs:"), "{text}");
        assert_eq!(lines.next(), Some("There was an error!"));
        assert_eq!(lines.next(), Some("stack backtrace:"));
        let trace: Vec<&str> = lines.collect();
        let of_the_user = trace.iter().position(|line| line.contains("subject::child_panics::boom"));
        assert!(of_the_user.is_some_and(|place| place < 6), "{text}");
        // The frames above the target's call are left out.
        assert!(!trace.iter().any(|line| line.contains("catch_unwind") || line.contains("run_child")), "{text}");

        let quiet = stderr(&run(SUBJECT, &["child-panics", method]));
        assert!(quiet.contains("There was an error!") && !quiet.contains("stack backtrace:"), "{quiet}");
    }
}

#[test]
fn child_error_message() {
    for method in METHODS {
        let output = run(SUBJECT, &["child-fails", method]);
        let expected = ["Some(1)", "no configuration <- No such file or directory (os error 2)"];
        assert_eq!(lines(&output), expected);
        let text = stderr(&output);
        let expected =
            "Process reader:\nError: no configuration\n  caused by: No such file or directory (os error 2)\n";
        assert_eq!(text, expected);
    }
}

#[test]
fn log_has_process_names() {
    for method in METHODS {
        let text = stderr(&run(SUBJECT, &["log", method]));
        let expected = [
            "[INFO/MainProcess] from main",
            "[INFO/worker] child process calling self.run()",
            "[INFO/worker] from a child",
            "[INFO/Process-1:1] child process calling self.run()",
            "[WARN/Process-1:1] from its child",
            "[INFO/Process-1:1] process shutting down",
            "[INFO/Process-1:1] process exiting with exitcode 0",
            "[INFO/worker] process shutting down",
            "[INFO/worker] process exiting with exitcode 0",
        ];
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..expected.len()], expected, "{text}");
        let expected = [
            "[INFO/MainProcess] process shutting down",
            "[DEBUG/MainProcess] running all \"atexit\" finalizers with priority >= 0",
            "[INFO/MainProcess] calling terminate() for daemon service",
            "[INFO/MainProcess] calling join() for process service",
            "[DEBUG/MainProcess] running the remaining \"atexit\" finalizers",
        ];
        let main: Vec<&str> = lines.into_iter().skip(9).filter(|line| line.contains("/MainProcess]")).collect();
        assert_eq!(main, expected, "{text}");
        assert!(!text.contains("silence"));
    }
}

#[test]
fn own_logger() {
    let output = run(env!("CARGO_BIN_EXE_own_logger"), &[]);
    // It takes level `Info`, and the library's own records are `Debug` for it; `log_to_stderr`
    // prints them nevertheless.
    assert_eq!(lines(&output), ["own: program hello"]);
    let text = stderr(&output);
    assert!(text.contains("[INFO/Process-1] in the child\n"), "{text}");
    assert!(text.ends_with("[INFO/MainProcess] process shutting down\n"), "{text}");
    assert!(!text.contains("hello"), "{text}");
}

#[test]
fn dropped_handles_leave_no_zombies() {
    for method in METHODS {
        assert_eq!(lines(&run(SUBJECT, &["abandon", method])), ["0 zombies"]);
    }
}

#[test]
fn wait_with_few_descriptors() {
    for method in METHODS {
        let output = run(SUBJECT, &["few-descriptors", method]);
        assert_eq!(lines(&output).len(), 20, "{}", stderr(&output));
    }
}

#[test]
fn set_user_id_program() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let directory = std::env::temp_dir().join(format!("multiproc-suid-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let program = directory.join("subject");
    copy_subject(&program);
    let plain = directory.join("plain");
    copy_subject(&plain);
    if chown(&program, Some(0), Some(0)).is_ok() {
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
        for method in METHODS {
            let mut command = Command::new(&program);
            command.args(["ids", method]).uid(60_123).gid(60_123).current_dir("/");
            let output = run_command(command);
            assert_eq!(lines(&output), ["[60123, 60123, 60123] [60123, 60123, 60123]"], "{}", stderr(&output));

            // Nor does a user that executes it gain its privileges.
            let mut command = Command::new(&plain);
            command.args(["attack", method]).arg(&program).uid(60_123).gid(60_123).current_dir("/");
            let output = run_command(command);
            assert_eq!(lines(&output), ["Uid: 60123 60123 60123 60123", "70"], "{}", stderr(&output));
        }
    } else {
        eprintln!("not shown: this needs the right to give a file to root");
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn unreadable_program_is_confined() {
    use std::os::unix::fs::PermissionsExt;
    let directory = std::env::temp_dir().join(format!("multiproc-unreadable-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
    let program = directory.join("subject");
    copy_subject(&program);
    // SAFETY: geteuid(2) has no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    // A file with the second mode can't be inspected by another user that executes it, so that
    // Landlock can't be detected that way.
    for mode in [0o755, 0o711] {
        std::fs::set_permissions(&program, PermissionsExt::from_mode(mode)).unwrap();
        for method in METHODS {
            let mut command = Command::new(&program);
            command.args(["confines-itself", method]).current_dir("/");
            if is_root {
                command.uid(60_123).gid(60_123);
            } else if mode == 0o711 {
                eprintln!("not shown: a file that may not be read, for want of another user");
                continue;
            }
            let output = run_command(command);
            match &lines(&output)[..] {
                [first, second, no] if no == "no Landlock" => assert_eq!([first, second], ["true", "true"]),
                lines => {
                    let expected = ["true", "true", "false", "false"];
                    assert_eq!(lines, expected, "{mode:o}, {method}, {}", stderr(&output));
                }
            }
        }
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn forked_copies_exit() {
    for method in METHODS {
        assert_eq!(lines(&run(SUBJECT, &["forked-copy-exits", method])), ["all have exited"]);
    }
}

#[test]
fn missing_entry() {
    let output = run(env!("CARGO_BIN_EXE_no_entry"), &[]);
    let lines = lines(&output);
    // Nothing has run twice: neither main nor a target.
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0], "main runs");
    for line in &lines[1..] {
        assert!(line.contains("#[multiproc::main]") && line.contains("multiproc::init()"), "{line}");
    }
    // Regression: `main`, or an `unwrap`, ended with `Error: NoEntry { process: "Process-1" }`.
    for way in ["result", "boxed", "unwrap"] {
        let output = run(env!("CARGO_BIN_EXE_no_entry"), &[way]);
        let text = stderr(&output);
        assert!(!output.status.success(), "{way}: {text}");
        for help in ["cannot start Process-1: ", "#[multiproc::main]", "multiproc::init()", "#[multiproc::test]"] {
            assert!(text.contains(help), "{way}: {text}");
        }
        assert!(!text.contains("NoEntry"), "{way}: {text}");
    }
}

#[test]
fn late_entry() {
    let output = run(env!("CARGO_BIN_EXE_late_entry"), &[]);
    let lines = lines(&output);
    assert!(lines[0].contains("2 threads already") && lines[0].contains("multiproc::init()"), "{lines:?}");
    assert_eq!(lines[1], "7");
    assert!(lines[2].contains("2 threads") && lines[2].contains("environment"), "{lines:?}");

    for method in METHODS {
        let output = run(env!("CARGO_BIN_EXE_missed_entry"), &[method]);
        let text = stdout(&output);
        assert!(!text.contains("the target runs"), "{text}");
        let last = text.lines().last().unwrap();
        assert!(last.contains("multiproc::init()") && last.contains("Process-1"), "{text}");
    }
}

/// The lines that the program `exit_handlers` prints.
fn exit_handlers(case: &str, method: &str, library: &str) -> Vec<String> {
    let output = run(env!("CARGO_BIN_EXE_exit_handlers"), &[case, method, library]);
    assert!(output.status.success(), "{case} by {method}: {}", stderr(&output));
    lines(&output)
}

#[test]
fn short_exit() {
    for method in METHODS {
        assert_eq!(exit_handlers("nothing", method, ""), ["short", "Some(0)"], "{method}");
    }
}

#[test]
fn child_exit_handlers() {
    for (case, code) in [("handlers", 0), ("exit", 7)] {
        for method in METHODS {
            let mut told = exit_handlers(case, method, "");
            let all = told.join("\n");
            assert!(told.remove(0).starts_with("buffered by Rust, "), "{case} by {method}: {all}");
            for line in ["thread-local", "handler", "finalizer", "buffered by C"] {
                assert_eq!(all.matches(line).count(), 1, "{line}, {case} by {method}: {all}");
            }
            assert!(all.ends_with(&format!("Some({code})")), "{case} by {method}: {all}");
        }
    }
}

#[test]
fn exit_with_locked_c_stream() {
    for method in METHODS {
        assert_eq!(exit_handlers("thread", method, ""), ["whole", "Some(0)"], "{method}");
        assert_eq!(exit_handlers("thread that has ended", method, "").last().unwrap(), "Some(0)", "{method}");
    }
}

#[test]
fn library_destructors() {
    let directory = std::env::temp_dir().join(format!("multiproc-library-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (source, library) = (directory.join("says.c"), directory.join("says.so"));
    let code = "#include <unistd.h>\n\
        __attribute__((destructor)) static void end(void) { (void)!write(1, \"destructor\\n\", 11); }\n";
    std::fs::write(&source, code).unwrap();
    // The linker of Rust's toolchain.
    let cc = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(cc.success());
    let library = library.to_str().unwrap();
    for method in METHODS {
        assert_eq!(exit_handlers("library", method, library), ["whole", "destructor", "Some(0)"], "{method}");
        let unloaded = exit_handlers("library that is unloaded", method, library);
        assert_eq!(unloaded, ["destructor", "unloaded", "short", "Some(0)"], "{method}");
    }
    // Loaded with the program.
    let mut command = Command::new(env!("CARGO_BIN_EXE_exit_handlers"));
    command.args(["nothing", "forkserver"]).env("LD_PRELOAD", library);
    let output = run_command(command);
    assert_eq!(lines(&output), ["whole", "destructor", "Some(0)", "destructor"], "{}", stderr(&output));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn exit_handlers_from_before_main() {
    let output = run(env!("CARGO_BIN_EXE_exit_constructor"), &[]);
    assert_eq!(lines(&output), ["target", "handler", "destructor"], "{}", stderr(&output));
    let output = run(env!("CARGO_BIN_EXE_early_handler"), &[]);
    assert_eq!(lines(&output), ["target", "handler"], "{}", stderr(&output));
}

#[test]
fn nothing_runs_before_main() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_before_main"));
    command.env("MULTIPROC_ENTRY", "99");
    let output = run_command(command);
    assert_eq!(lines(&output), ["main runs"]);
    assert_eq!(output.status.code(), Some(70));
    assert!(stderr(&output).contains("MULTIPROC_ENTRY=99"), "{}", stderr(&output));
}

#[test]
fn stray_entry_in_environment() {
    for value in ["", "x", "-1", "0", "2", "3", "99999999999", "3 "] {
        let mut command = Command::new(SUBJECT);
        command.arg("basics").env("MULTIPROC_ENTRY", value);
        let output = run_command(command);
        assert_eq!((stdout(&output).as_str(), output.status.code()), ("", Some(70)), "{value:?}");
        assert!(stderr(&output).contains("MULTIPROC_ENTRY"), "{}", stderr(&output));
    }
}

#[test]
fn garbage_handshake() {
    use std::os::fd::{AsFd, AsRawFd};
    let messages: [&[&[u8]]; 6] = [
        &[],
        &[b"\0"],
        &[b"GET / HTTP/1.1\r\n\r\n"],
        &[b"mpkt\x07\x00\x01\x00\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"],
        &[b"mpkt\x02\x00\x01\x00\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0ab"],
        &[b"mpkt\x02\x00\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"],
    ];
    for message in messages {
        let (ours, theirs) = multiproc_os::fd_passing::pair().unwrap();
        for part in message {
            multiproc_os::fd_passing::send(ours.as_fd(), &[part], &[]).unwrap();
        }
        let number = theirs.as_raw_fd();
        let mut command = Command::new(SUBJECT);
        command.arg("basics").env("MULTIPROC_ENTRY", number.to_string());
        // SAFETY: fcntl is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                libc::fcntl(number, libc::F_SETFD, 0);
                Ok(())
            })
        };
        // The other end is closed once the messages are sent, so that a program that waits for more
        // sees the end.
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((ours, theirs));
        let output = {
            let _ = child.stdin.take();
            child.wait_with_output().unwrap()
        };
        assert_eq!((stdout(&output).as_str(), output.status.code()), ("", Some(70)), "{message:?}");
        let text = stderr(&output);
        match message {
            [] => assert_eq!(text, "", "a parent may end before the handshake"),
            _ => assert!(text.contains("handshake") || text.contains("another build"), "{message:?}: {text}"),
        }
    }
}

#[test]
fn tokio() {
    for program in [env!("CARGO_BIN_EXE_tokio_inside"), env!("CARGO_BIN_EXE_tokio_outside")] {
        let output = run(program, &[]);
        assert_eq!(lines(&output), ["2"], "{}", stderr(&output));
    }
}

#[test]
fn replaced_executable() {
    for method in METHODS {
        for replace in [true, false] {
            let directory =
                std::env::temp_dir().join(format!("multiproc-replaced-{}-{method}-{replace}", std::process::id()));
            std::fs::create_dir(&directory).unwrap();
            let program = directory.join("subject");
            copy_subject(&program);
            let mut command = Command::new(&program);
            command.args(["wait-for-word", method]);
            let mut running = Running::start(command);
            assert_eq!(running.line(), "ready");
            std::fs::remove_file(&program).unwrap();
            if replace {
                std::fs::write(&program, "#!/bin/sh\necho the wrong program\n").unwrap();
            }
            running.say("one");
            assert_eq!(running.line(), "heard one");
            running.say("two");
            assert_eq!(running.line(), "heard two");
            drop(running);
            std::fs::remove_dir_all(directory).unwrap();
        }
    }
}

#[test]
fn closed_stdio() {
    for method in METHODS {
        for closed in 0..3 {
            let mut command = subject(&["one-child", method]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            // SAFETY: close is async-signal-safe.
            unsafe {
                command.pre_exec(move || {
                    libc::close(closed);
                    Ok(())
                })
            };
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{closed}: {}", stderr(&output));
            assert_eq!(stdout(&output), if closed == 1 { "" } else { "child\n" });
        }
    }
}
