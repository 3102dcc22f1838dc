//! What a program does at Ctrl-C: one of many scenarios, chosen by name, and a shell to run it
//! under.

use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use multiproc::process::handle_ctrl_c;
use multiproc::{Child, Process, StartMethod, current_process};
use multiproc_programs::{say, sleep_long, start_method};

#[multiproc::main]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["shell", terminal, program @ ..] = &arguments[..] {
        return shell(terminal, program);
    }
    // Anything that continues after that doesn't do so because the grace period is over.
    multiproc::process::set_grace_period(Duration::from_secs(100_000));
    let [method, scenario @ ..] = &arguments[..] else { panic!("no method") };
    multiproc::set_start_method(start_method(method));
    match scenario {
        ["family"] => family(),
        ["orderly"] => orderly(),
        ["stubborn", grace] => stubborn(grace.parse().unwrap()),
        ["own-handler", when] => own_handler(when),
        ["tokio"] => tokio_signal(),
        ["off"] => off(),
        ["off-and-on"] => off_and_on(),
        ["outlive"] => outlive(),
        ["many", number] => many(number.parse().unwrap()),
        ["storm", number] => storm(number.parse().unwrap()),
        ["hail"] => hail(),
        ["at-the-end"] => at_the_end(),
        ["copy"] => copy(),
        other => panic!("no scenario {other:?}"),
    }
}

/// Runs a program as a shell with job control does: in a process group of its own, in the
/// foreground of the terminal. Prints how it ended, and stays until its stdin ends, so that the
/// terminal remains.
fn shell(terminal: &str, program: &[&str]) {
    // The first terminal that a session leader opens becomes its controlling terminal.
    let terminal = std::fs::File::options().read(true).write(true).open(terminal).unwrap();
    quieten(&terminal);
    let mut command = Command::new(std::env::current_exe().unwrap());
    let stdio = || terminal.try_clone().unwrap();
    command.args(program).process_group(0).stdin(stdio()).stdout(stdio()).stderr(stdio());
    let foreground = terminal.as_raw_fd();
    // The program makes itself the foreground group, before exec: if this process did that, the
    // program might read from the terminal before, and be stopped with its whole group. SAFETY: the
    // calls are async-signal-safe, and touch no memory but the set.
    unsafe {
        command.pre_exec(move || {
            // As a shell does: this process may run in the background of another shell, and so
            // ignore these signals.
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
                libc::signal(signal, libc::SIG_DFL);
            }
            // Without this, taking the terminal from the background would stop the process.
            let mut stops: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut stops, libc::SIGTTOU);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const stops, std::ptr::null_mut());
            let taken = libc::tcsetpgrp(foreground, libc::getpid());
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const stops, std::ptr::null_mut());
            if taken == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        })
    };
    let mut child = command.spawn().unwrap();
    say("running");
    let status = child.wait().unwrap();
    match status.signal() {
        Some(signal) => say(&format!("signal {signal}")),
        None => say(&format!("code {}", status.code().unwrap())),
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Makes the terminal show exactly what is printed. By default it also shows `^C`, before or after
/// what the program prints then, and discards recent output.
fn quieten(terminal: &std::fs::File) {
    // SAFETY: the structure is filled in before it is read, and is valid when all bytes are zero.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings), 0);
        settings.c_lflag &= !libc::ECHO;
        settings.c_lflag |= libc::NOFLSH;
        assert_eq!(libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const settings), 0);
    }
}

/// Prints this process's label and pid. The main process does so when it has started its children:
/// a child that is being started when Ctrl-C comes may be killed with its parent instead of being
/// ended by it.
fn report(who: &str) {
    say(&format!("{who} {}", current_process().pid()));
}

fn report_and_sleep(who: String) {
    report(&who);
    sleep_long();
}

fn sleeper(who: &str) -> Child<()> {
    Process::new(report_and_sleep, (who.to_owned(),)).start().unwrap()
}

type Handler = extern "C" fn(i32);

fn on(signal: i32, handler: Handler) {
    // SAFETY: the handlers below only call write(2) and _exit(2).
    unsafe { libc::signal(signal, handler as libc::sighandler_t) };
}

/// Children of every kind, with children of their own. If the main process were told of their end,
/// it would print that.
fn family() {
    fn compute() {
        report("compute");
        let mut number = 1_u64;
        while std::hint::black_box(number) != 0 {
            number = number.wrapping_mul(3);
        }
    }
    fn branch() {
        report("branch");
        for method in [StartMethod::ForkServer, StartMethod::Spawn] {
            let leaf = Process::new(report_and_sleep, ("leaf".to_owned(),)).start_method(method).start().unwrap();
            std::thread::spawn(move || leaf.join().unwrap());
        }
        sleep_long();
    }
    let daemon = Process::new(report_and_sleep, ("daemon".to_owned(),)).daemon(true).start().unwrap();
    let branch = Process::new(branch, ()).start().unwrap();
    let compute = Process::new(compute, ()).start().unwrap();
    std::thread::spawn(|| compute.join().unwrap());
    std::thread::spawn(|| {
        branch.join().unwrap();
        say("has gone on");
    });
    multiproc::process::at_exit(0, || say("a finalizer"));
    report("main");
    daemon.wait().unwrap();
    say("has gone on");
}

/// A child's SIGTERM handler gets to run.
fn orderly() {
    extern "C" fn leave(_: i32) {
        write("in order ");
        // SAFETY: touches no memory.
        unsafe { libc::_exit(0) };
    }
    let child = Process::new(
        || {
            on(libc::SIGTERM, leave);
            report("child");
            sleep_long();
        },
        (),
    );
    let child = child.start().unwrap();
    report("main");
    child.wait().unwrap();
}

/// Async-signal-safe.
fn write(text: &str) {
    // SAFETY: the pointer and length are those of the text.
    unsafe { libc::write(1, text.as_ptr().cast(), text.len()) };
}

/// A child that ignores SIGTERM, and one that doesn't.
fn stubborn(grace: u64) {
    multiproc::process::set_grace_period(Duration::from_millis(grace));
    let stubborn = Process::new(
        || {
            // SAFETY: no handler is installed or replaced.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
            report_and_sleep("stubborn".into());
        },
        (),
    );
    let stubborn = stubborn.start().unwrap();
    let _plain = sleeper("plain");
    report("main");
    stubborn.wait().unwrap();
}

/// The descriptor that the program's own handler writes to.
static HANDLED: AtomicI32 = AtomicI32::new(-1);

extern "C" fn own(_: i32) {
    // SAFETY: this writes one byte of a literal.
    unsafe { libc::write(HANDLED.load(SeqCst), b"x".as_ptr().cast(), 1) };
}

/// Installs the program's own handler, which writes a byte to the pipe each time it runs.
fn install_own() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    HANDLED.store(writer.as_raw_fd(), SeqCst);
    on(libc::SIGINT, own);
    (reader, writer)
}

/// A child that exits with code 7 at SIGUSR1, unless something has ended it before.
fn leaves_at_sigusr1() -> Child<()> {
    extern "C" fn leave(_: i32) {
        // SAFETY: touches no memory.
        unsafe { libc::_exit(7) };
    }
    let child = Process::new(
        || {
            on(libc::SIGUSR1, leave);
            report("child");
            sleep_long();
        },
        (),
    );
    child.start().unwrap()
}

/// Ends it that way, and returns its exit code.
fn code_at_sigusr1(child: &Child<()>) -> i32 {
    child.signal(libc::SIGUSR1).unwrap();
    child.wait().unwrap().exit_code().unwrap()
}

/// The server of this process: the only child that isn't among `known`.
fn server(known: &[&Child<()>]) -> Vec<i32> {
    let pid = current_process().pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let children = children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap());
    children.filter(|pid| !known.iter().any(|child| child.pid() == *pid)).collect()
}

/// The program has a handler of its own and so handles Ctrl-C itself: its children and the server
/// continue.
fn own_handler(when: &str) {
    // A child on standby has the server's name at first.
    multiproc::process::set_standby(false);
    let early = (when == "before").then(install_own);
    let children = [leaves_at_sigusr1(), leaves_at_sigusr1()];
    let server_before = server(&children.each_ref());
    let (mut reader, _writer) = early.unwrap_or_else(install_own);
    report("main");
    reader.read_exact(&mut [0]).unwrap();
    say(&format!("handled, same server: {}", server_before == server(&children.each_ref())));
    let sum = Process::new(|a: i32, b: i32| a + b, (1, 2)).start().unwrap().join().unwrap();
    say(&format!("{:?} {sum}", children.each_ref().map(code_at_sigusr1)));
}

/// tokio's handler calls the previous handler.
fn tokio_signal() {
    let child = leaves_at_sigusr1();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt()).unwrap();
        report("main");
        interrupt.recv().await.unwrap();
        say("handled");
    });
    say(&code_at_sigusr1(&child).to_string());
}

/// Handling is off before the first start: children are killed by Ctrl-C directly, and the program
/// handles it itself.
fn off() {
    handle_ctrl_c(false);
    let (mut reader, _writer) = install_own();
    let branch = Process::new(
        || {
            let leaf = leaves_at_sigusr1();
            say(&leaf.wait().unwrap().exit_code().unwrap().to_string());
        },
        (),
    );
    // Only the child of `branch` is interrupted before it has ended.
    let child = leaves_at_sigusr1();
    drop(branch);
    report("main");
    reader.read_exact(&mut [0]).unwrap();
    say(&format!("handled {}", child.wait().unwrap().exit_code().unwrap()));
}

/// Returns whether this process handles SIGINT, as the kernel reports it.
fn is_handled() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
    u64::from_str_radix(caught, 16).unwrap() & 1 << (libc::SIGINT - 1) != 0
}

/// What was installed is removed, and installed again.
fn off_and_on() {
    let in_child = || Process::new(is_handled, ()).start().unwrap().join().unwrap();
    let mut seen = vec![is_handled(), in_child(), is_handled()];
    handle_ctrl_c(false);
    seen.extend([is_handled(), in_child(), is_handled()]);
    handle_ctrl_c(true);
    seen.extend([is_handled(), in_child(), is_handled()]);
    say(&format!("{seen:?}"));

    let from_inside = Process::new(
        || {
            handle_ctrl_c(false);
            let off = (is_handled(), Process::new(is_handled, ()).start().unwrap().join().unwrap());
            handle_ctrl_c(true);
            (off, is_handled(), Process::new(is_handled, ()).start().unwrap().join().unwrap())
        },
        (),
    );
    say(&format!("{:?}", from_inside.start().unwrap().join().unwrap()));

    // The program's own handler must not be replaced.
    let _pipe = install_own();
    handle_ctrl_c(false);
    handle_ctrl_c(true);
    // SAFETY: this only queries.
    let now = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGINT, std::ptr::null(), &raw mut action);
        action.sa_sigaction
    };
    say(&format!("{}", now == own as Handler as usize));
    // SAFETY: this restores the default.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };

    let _with = sleeper("with");
    handle_ctrl_c(false);
    sleeper("without").wait().unwrap();
}

/// A child that outlives its parent, and one that doesn't.
fn outlive() {
    let free = Process::new(report_and_sleep, ("free".to_owned(),));
    free.outlive_parent(true).start().unwrap();
    let bound = sleeper("bound");
    report("main");
    bound.wait().unwrap();
}

fn many(number: u32) {
    let children: Vec<_> = (0..number).map(|_| sleeper("child")).collect();
    report("main");
    children[0].wait().unwrap();
}

/// Many threads start children at once, some of which stay. Reports after `number` starts, and
/// continues.
fn storm(number: usize) {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    for _ in 0..8 {
        std::thread::spawn(|| {
            for round in 0.. {
                if round % 4 == 0 && round < 80 {
                    Process::new(sleep_long, ()).start().unwrap();
                } else {
                    Process::new(|| (), ()).start().unwrap().join().unwrap();
                }
                STARTED.fetch_add(1, SeqCst);
            }
        });
    }
    while STARTED.load(SeqCst) < number {
        std::thread::yield_now();
    }
    report("main");
    sleep_long();
}

/// Signals arrive all the time, and no start fails because of them; the program handles them.
fn hail() {
    extern "C" fn nothing(_: i32) {}
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
        on(signal, nothing);
    }
    static DONE: AtomicBool = AtomicBool::new(false);
    let hail = std::thread::spawn(|| {
        while !DONE.load(SeqCst) {
            // SAFETY: touches no memory. The signal goes to the whole group, as from a terminal.
            unsafe { libc::kill(0, libc::SIGINT) };
            std::thread::yield_now();
        }
    });
    for number in 0..20 {
        // Each fork copy without exec creates a server.
        let branch = Process::new(
            |number: u32| Process::new(|number: u32| number * 2, (number,)).start().unwrap().join().unwrap(),
            (number,),
        );
        assert_eq!(branch.start().unwrap().join().unwrap(), number * 2);
    }
    DONE.store(true, SeqCst);
    hail.join().unwrap();
    say("all well");
}

/// `main` has ended, and the process waits for its child.
fn at_the_end() {
    let _child = sleeper("child");
    multiproc::process::at_exit(0, || report("end"));
}

/// A plain fork(2) copy of this process is interrupted: it is not the main process, and has none of
/// its children.
fn copy() {
    let child = leaves_at_sigusr1();
    // The test answers once it has read that the child is running.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    // SAFETY: the copy only waits for a signal.
    let copy = unsafe { libc::fork() };
    if copy == 0 {
        loop {
            // SAFETY: touches no memory.
            unsafe { libc::pause() };
        }
    }
    let mut status = 0;
    // SAFETY: it is a child of this process that has not been waited for.
    unsafe {
        libc::kill(copy, libc::SIGINT);
        libc::waitpid(copy, &raw mut status, 0);
    }
    assert!(libc::WIFSIGNALED(status));
    say(&format!("{} {}", libc::WTERMSIG(status), code_at_sigusr1(&child)));
}
