//! Ctrl-C, pressed at a real terminal: what is printed there, and which processes are left.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use multiproc_os::{pidfd, poll};

const METHODS: [&str; 3] = ["forkserver", "spawn", "fork"];

/// The methods that a process with threads can use.
const WITH_THREADS: [&str; 2] = ["forkserver", "spawn"];

/// The longest that a test waits for anything: after that, the event is considered lost.
const LONG: Duration = Duration::from_secs(300);

/// A terminal, and a program in its foreground.
struct Terminal {
    /// The keyboard and the screen.
    master: File,
    /// The leader of the session: see `shell` in the program.
    shell: Child,
    says: BufReader<ChildStdout>,
    /// Output on the screen that has not been consumed yet.
    screen: Vec<u8>,
}

impl Terminal {
    fn run(program: &[&str]) -> Terminal {
        // SAFETY: this is a new descriptor, which nothing else owns.
        let master = unsafe {
            let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
            assert!(master >= 0);
            File::from_raw_fd(master)
        };
        let mut name = [0_u8; 64];
        // SAFETY: the name is written within its bounds, and null-terminated.
        unsafe {
            assert_eq!(libc::grantpt(master.as_raw_fd()), 0);
            assert_eq!(libc::unlockpt(master.as_raw_fd()), 0);
            assert_eq!(libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr().cast(), name.len()), 0);
        }
        let name = std::ffi::CStr::from_bytes_until_nul(&name).unwrap().to_str().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ctrl_c"));
        command.args(["shell", name]).args(program).env("RUST_BACKTRACE", "0").env_remove("MULTIPROC_ENTRY");
        // SAFETY: setsid is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            })
        };
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let says = BufReader::new(shell.stdout.take().unwrap());
        let mut terminal = Terminal { master, shell, says, screen: Vec::new() };
        assert_eq!(terminal.shell_says(), "running");
        terminal
    }

    /// Reads what has come to the screen. Returns false at its end, when no process has the
    /// terminal open any more.
    fn read(&mut self) -> bool {
        let ready = poll::wait_readable(&self.master, Some(Instant::now() + LONG)).unwrap();
        assert!(ready, "no more output after {:?}", String::from_utf8_lossy(&self.screen));
        let mut buffer = [0; 4096];
        match self.master.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.screen.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if error.raw_os_error() == Some(libc::EIO) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.screen.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.screen.drain(..end + 2).collect();
                return String::from_utf8(line).unwrap().trim_end().to_owned();
            }
            assert!(self.read(), "end of output after {:?}", String::from_utf8_lossy(&self.screen));
        }
    }

    /// Reads the next lines, `name pid` each, in any order: the processes that are running.
    fn processes(&mut self, number: usize) -> Vec<Known> {
        (0..number)
            .map(|_| {
                let line = self.line();
                let (name, pid) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
                Known::new(name, pid.parse().unwrap_or_else(|_| panic!("{line}")))
            })
            .collect()
    }

    fn press_ctrl_c(&mut self) {
        self.master.write_all(b"\x03").unwrap();
    }

    /// Returns how the program has ended.
    fn status(&mut self) -> String {
        self.shell_says()
    }

    fn shell_says(&mut self) -> String {
        // Two lines may have arrived at once.
        if self.says.buffer().is_empty() {
            let ready = poll::wait_readable(self.says.get_ref(), Some(Instant::now() + LONG)).unwrap();
            assert!(ready, "the shell prints nothing");
        }
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits until none of the session's processes is left, and returns what is on the screen.
    fn rest(mut self) -> String {
        for pid in self.members() {
            Known::new("a process of the session", pid).wait_gone();
        }
        // Processes that are gone can't have started new ones.
        assert_eq!(self.members(), []);
        drop(self.shell.stdin.take());
        while self.read() {}
        String::from_utf8(std::mem::take(&mut self.screen)).unwrap()
    }

    /// The processes of the session, except zombies and the shell.
    fn members(&self) -> Vec<i32> {
        let session = self.shell.id() as i32;
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| *pid != session)
            .filter(|pid| {
                let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
                let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
                fields[3] == session.to_string() && fields[0] != "Z" && fields[0] != "X"
            })
            .collect()
    }
}

/// A failed test must not leave processes behind either.
impl Drop for Terminal {
    fn drop(&mut self) {
        for pid in self.members() {
            if let Ok(pidfd) = pidfd::open(pid) {
                let _ = pidfd::send_signal(&pidfd, libc::SIGKILL);
            }
        }
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A process of the program.
struct Known {
    name: String,
    /// None if it is gone already.
    pidfd: Option<std::os::fd::OwnedFd>,
}

impl Known {
    fn new(name: &str, pid: i32) -> Known {
        Known { name: name.to_owned(), pidfd: pidfd::open(pid).ok() }
    }

    fn is_gone(&self) -> bool {
        self.ends_before(Instant::now())
    }

    fn wait_gone(&self) {
        assert!(self.ends_before(Instant::now() + LONG), "{} is still running", self.name);
    }

    fn ends_before(&self, deadline: Instant) -> bool {
        self.pidfd.as_ref().is_none_or(|pidfd| poll::wait_readable(pidfd, Some(deadline)).unwrap())
    }
}

fn names(processes: &[Known]) -> Vec<&str> {
    let mut names: Vec<&str> = processes.iter().map(|process| process.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn ends_all_processes_silently() {
    for method in WITH_THREADS {
        let mut terminal = Terminal::run(&[method, "family"]);
        let processes = terminal.processes(6);
        assert_eq!(names(&processes), ["branch", "compute", "daemon", "leaf", "leaf", "main"]);
        terminal.press_ctrl_c();
        assert_eq!(terminal.status(), "signal 2");
        // The children, but not the grandchildren, have ended before their parent, because it waits
        // for them.
        for process in processes.iter().filter(|process| process.name != "leaf") {
            assert!(process.is_gone(), "{}", process.name);
        }
        assert_eq!(terminal.rest(), "");
    }
}

#[test]
fn children_exit_in_order() {
    for method in METHODS {
        let mut terminal = Terminal::run(&[method, "orderly"]);
        terminal.processes(2);
        terminal.press_ctrl_c();
        assert_eq!(terminal.status(), "signal 2");
        assert_eq!(terminal.rest(), "in order ");
    }
}

#[test]
fn sigterm_ignored_is_killed_after_grace_period() {
    for method in METHODS {
        let mut terminal = Terminal::run(&[method, "stubborn", "300"]);
        let processes = terminal.processes(3);
        let start = Instant::now();
        terminal.press_ctrl_c();
        assert_eq!(terminal.status(), "signal 2");
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(300), "{method} {took:?}");
        assert!(processes.iter().all(Known::is_gone));
        assert_eq!(terminal.rest(), "");
    }
}

#[test]
fn second_ctrl_c_kills() {
    for method in METHODS {
        let mut terminal = Terminal::run(&[method, "stubborn", "100000000"]);
        let mut processes = terminal.processes(3);
        processes.sort_by_key(|process| process.name.clone());
        assert_eq!(names(&processes), ["main", "plain", "stubborn"]);
        terminal.press_ctrl_c();
        processes[1].wait_gone();
        assert!(!processes[2].is_gone());
        terminal.press_ctrl_c();
        assert_eq!(terminal.status(), "signal 2");
        assert!(processes[2].is_gone());
        assert_eq!(terminal.rest(), "");
    }
}

#[test]
fn own_handler() {
    for method in METHODS {
        for when in ["before", "after"] {
            let mut terminal = Terminal::run(&[method, "own-handler", when]);
            terminal.processes(3);
            terminal.press_ctrl_c();
            assert_eq!(terminal.line(), "handled, same server: true", "{when}");
            assert_eq!(terminal.line(), "[7, 7] 3");
            assert_eq!(terminal.status(), "code 0");
            assert_eq!(terminal.rest(), "");
        }
    }
}

#[test]
fn chained_handler() {
    for method in WITH_THREADS {
        let mut terminal = Terminal::run(&[method, "tokio"]);
        terminal.processes(2);
        terminal.press_ctrl_c();
        assert_eq!(terminal.line(), "handled");
        assert_eq!(terminal.line(), "7");
        assert_eq!(terminal.status(), "code 0");
        assert_eq!(terminal.rest(), "");
    }
}

#[test]
fn disabled() {
    for method in METHODS {
        let mut terminal = Terminal::run(&[method, "off"]);
        terminal.processes(2);
        terminal.press_ctrl_c();
        assert_eq!(terminal.line(), "handled -2");
        assert_eq!(terminal.status(), "code 0");
        assert_eq!(terminal.rest(), "");
    }
}

#[test]
fn toggle() {
    for method in METHODS {
        let mut terminal = Terminal::run(&[method, "off-and-on"]);
        assert_eq!(terminal.line(), "[false, true, true, false, false, false, true, true, true]");
        assert_eq!(terminal.line(), "((false, false), true, true)");
        assert_eq!(terminal.line(), "true", "the program's own handler is left alone");
        let processes = terminal.processes(2);
        assert_eq!(names(&processes), ["with", "without"]);
        terminal.press_ctrl_c();
        assert_eq!(terminal.status(), "signal 2");
        // They end because of the main process's end, or by themselves.
        processes.iter().for_each(Known::wait_gone);
        assert_eq!(terminal.rest(), "");
    }
}

#[test]
fn outlive_parent() {
    for method in METHODS {
        let mut terminal = Terminal::run(&[method, "outlive"]);
        let mut processes = terminal.processes(3);
        processes.sort_by_key(|process| process.name.clone());
        assert_eq!(names(&processes), ["bound", "free", "main"]);
        terminal.press_ctrl_c();
        assert_eq!(terminal.status(), "signal 2");
        assert!(processes[0].is_gone());
        let free = processes[1].pidfd.as_ref().unwrap();
        // If it was sent a SIGINT, that is delivered before this signal: lower numbers are
        // delivered first.
        pidfd::send_signal(free, libc::SIGTERM).unwrap();
        processes[1].wait_gone();
        assert_eq!(
            pidfd::end_of_reaped(free, Duration::from_millis(100)).map_or(libc::SIGTERM, signal_of),
            libc::SIGTERM
        );
        assert_eq!(terminal.rest(), "");
    }
}

fn signal_of(end: pidfd::End) -> i32 {
    match end {
        pidfd::End::Signalled { signal, .. } => signal,
        pidfd::End::Exited(code) => panic!("exited with {code}"),
    }
}

#[test]
fn two_hundred_children() {
    for method in METHODS {
        let mut terminal = Terminal::run(&[method, "many", "200"]);
        let processes = terminal.processes(201);
        terminal.press_ctrl_c();
        assert_eq!(terminal.status(), "signal 2");
        assert!(processes.iter().all(Known::is_gone));
        assert_eq!(terminal.rest(), "");
    }
}

#[test]
fn during_starts() {
    for round in 0..25 {
        for method in WITH_THREADS {
            let starts = (round * 7 + 1).to_string();
            let mut terminal = Terminal::run(&[method, "storm", &starts]);
            terminal.processes(1);
            terminal.press_ctrl_c();
            assert_eq!(terminal.status(), "signal 2");
            assert_eq!(terminal.rest(), "", "{method} {starts}");
        }
    }
}

#[test]
fn start_survives_group_signal() {
    for method in WITH_THREADS {
        let mut terminal = Terminal::run(&[method, "hail"]);
        assert_eq!(terminal.line(), "all well");
        assert_eq!(terminal.status(), "code 0");
        assert_eq!(terminal.rest(), "");
    }
}

#[test]
fn while_main_waits_for_children() {
    for method in METHODS {
        let mut terminal = Terminal::run(&[method, "at-the-end"]);
        assert_eq!(names(&terminal.processes(2)), ["child", "end"]);
        terminal.press_ctrl_c();
        assert_eq!(terminal.status(), "signal 2");
        assert_eq!(terminal.rest(), "");
    }
}

#[test]
fn forked_copy_keeps_children() {
    for method in METHODS {
        let mut terminal = Terminal::run(&[method, "copy"]);
        terminal.processes(1);
        terminal.master.write_all(b"\n").unwrap();
        assert_eq!(terminal.line(), "2 7");
        assert_eq!(terminal.status(), "code 0");
        assert_eq!(terminal.rest(), "");
    }
}
