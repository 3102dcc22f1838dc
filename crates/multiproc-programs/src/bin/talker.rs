//! Processes that log and print, by scenario: what their main process does with that, for a test to
//! observe from outside.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use log::kv::{Key, Value, VisitSource};
use multiproc::log::{LevelFilter, LogRelay, OutputCapture};
use multiproc::sync::Event;
use multiproc::{Process, StartMethod, current_process};
use multiproc_os::{fd_passing, pidfd, poll};
use multiproc_programs::{say, sleep_long, start_method};

#[multiproc::main]
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(method) = arguments.get(2) {
        multiproc::set_start_method(start_method(method));
    }
    match arguments.get(1).map(String::as_str) {
        Some("killed") => killed(),
        Some("family") => family(),
        Some("threads") => threads(),
        Some("failures") => failures(false),
        Some("failures-on-stderr") => failures(true),
        Some("own-lines") => own_lines(),
        Some("large") => large(),
        Some("levels") => levels(),
        Some("on-stderr") => on_stderr(),
        Some("without-wait") => without_wait(),
        Some("slow-reader") => slow_reader(),
        Some("logger-that-needs-us") => logger_that_needs_us(),
        Some("handler-that-waits") => handler_that_waits(),
        Some("handler-that-panics") => handler_that_panics(),
        Some("orphan") => orphan(),
        Some("garbage") => garbage(),
        Some("signals") => signals(),
        Some("nearest") => nearest(),
        Some("few-descriptors") => few_descriptors(),
        Some("partial-lines") => partial_lines(),
        Some("everything-printed") => everything_printed(),
        Some("binary") => binary(),
        Some("held-open") => held_open(),
        Some("lines") => lines(),
        other => panic!("no scenario {other:?}"),
    }
}

/// The main process's own logger: `LEVEL target message {key=value}`.
struct Own;

impl log::Log for Own {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        struct Pairs(Vec<String>);

        impl<'kvs> VisitSource<'kvs> for Pairs {
            fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
                // Left out, because it differs from run to run.
                if key.as_str() != "pid" {
                    self.0.push(format!("{key}={value}"));
                }
                Ok(())
            }
        }

        let mut pairs = Pairs(Vec::new());
        record.key_values().visit(&mut pairs).unwrap();
        say(&format!("{} {} {} {{{}}}", record.level(), record.target(), record.args(), pairs.0.join(" ")));
    }

    fn flush(&self) {}
}

fn relay() {
    log::set_logger(&Own).unwrap();
    log::set_max_level(LevelFilter::Info);
    multiproc::log::relay_logs().unwrap();
}

/// Starts a relay that prints records as they are.
fn relay_plainly() {
    LogRelay::new().level(LevelFilter::Warn).handler(|record| say(&record.to_string())).start().unwrap();
}

fn kill_self() {
    let this = pidfd::open(current_process().pid()).unwrap();
    pidfd::send_signal(this, libc::SIGKILL).unwrap();
    sleep_long();
}

/// A child that is killed right after it has logged.
fn killed() {
    relay();
    let child = Process::new(
        || {
            for number in 0..1000 {
                log::warn!(target: "child", "{number}");
            }
            kill_self();
        },
        (),
    );
    let child = child.start().unwrap();
    say(&format!("pid {}", child.pid()));
    child.wait().unwrap();
    say("waited");
}

/// Descendants in several generations, by all methods; key-values; and the main process's own
/// records.
fn family() {
    relay();
    log::info!(target: "main", "its own");
    let child = Process::new(
        || {
            log::info!(target: "child", number = 7, half = 0.5, text = "a b", yes = true, debug:? = Some(1); "hello");
            for method in [StartMethod::ForkServer, StartMethod::Spawn, StartMethod::Fork] {
                let grandchild = Process::new(
                    || {
                        log::info!(target: "grandchild", "{:?}", log::set_logger(&Own).is_err());
                        let last = Process::new(|| log::warn!(target: "its child", "hello"), ());
                        last.start().unwrap().wait().unwrap();
                    },
                    (),
                );
                grandchild.start_method(method).start().unwrap().wait().unwrap();
            }
        },
        (),
    );
    child.name("child").start().unwrap().wait().unwrap();
    say("waited");
    // The relay has a thread.
    say(&Process::fork(|| ()).name("fork").start().unwrap_err().to_string());
    LogRelay::new().prefix(false).start().unwrap();
    Process::new(|| log::info!(target: "child", "no prefix"), ()).name("plain").start().unwrap().wait().unwrap();
}

/// A child with several threads that log at the same time.
fn threads() {
    relay_plainly();
    let child = Process::new(
        || {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    std::thread::spawn(move || {
                        for number in 0..500 {
                            // Some are too large for one message.
                            let filling = "x".repeat(if number % 100 == 0 { 100_000 } else { 10 });
                            log::warn!("{thread} {number} {filling}");
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        },
        (),
    );
    child.start().unwrap().wait().unwrap();
    say("waited");
}

/// Records of all sizes, and a child that is killed after the largest.
fn large() {
    LogRelay::new()
        .level(LevelFilter::Warn)
        .handler(|record| {
            if record.target() == "multiproc" {
                return;
            }
            let sum: u64 = record.message().bytes().map(u64::from).sum();
            say(&format!("{} {sum}", record.message().len()));
        })
        .start()
        .unwrap();
    let child = Process::new(
        || {
            for len in [0, 10, 32_000, 33_000, 70_000, 5_000_000] {
                log::warn!("{}", "a".repeat(len));
            }
            kill_self();
        },
        (),
    );
    child.start().unwrap().wait().unwrap();
    say("waited");
}

/// A message that must not be formatted.
struct Untouchable;

impl std::fmt::Display for Untouchable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        say("formatted in vain");
        f.write_str("touched")
    }
}

/// A child inherits the log level at the time of its start, and so does its own child.
fn levels() {
    fn child() {
        log::error!(target: "x", "error");
        log::warn!(target: "x", "warn");
        log::info!(target: "x", "{}", Untouchable);
        if multiproc::parent_process().unwrap().name() == "MainProcess" {
            Process::new(child, ()).start().unwrap().wait().unwrap();
        }
    }
    relay();
    log::set_max_level(LevelFilter::Warn);
    let warns = Process::new(child, ()).start().unwrap();
    log::set_max_level(LevelFilter::Error);
    // A record below this process's present level is dropped here, whenever its sender was started.
    warns.wait().unwrap();
    say("waited");
    log::set_max_level(LevelFilter::Off);
    Process::new(child, ()).start().unwrap().wait().unwrap();
    LogRelay::new().level(LevelFilter::Warn).start().unwrap();
    log::set_max_level(LevelFilter::Trace);
    Process::new(child, ()).start().unwrap().wait().unwrap();
}

/// Processes that fail in each way, and some that end as requested.
fn failures(on_stderr: bool) {
    if on_stderr {
        multiproc::log_to_stderr(LevelFilter::Warn);
        multiproc::log::relay_logs().unwrap();
    } else {
        relay();
    }
    let run = |name: &str, target: fn()| {
        let child = Process::new(target, ()).name(name).memory_limit(64 << 20).start().unwrap();
        child.wait().unwrap();
        // Each failure is logged once, however often the exit status is queried.
        child.wait().unwrap();
        let _ = child.join();
        say(&format!("waited for {name}"));
    };
    run("panics", || panic!("boom"));
    run("thread", || {
        let _ = std::thread::Builder::new().name("helper".into()).spawn(|| panic!("in a thread")).unwrap().join();
    });
    run("aborts", || std::process::abort());
    run("killed", kill_self);
    run("greedy", || drop(std::hint::black_box(vec![1_u8; 1 << 30])));
    run("exits", || std::process::exit(3));
    run("parent", || {
        let _ = Process::new(|| std::process::abort(), ()).name("grandchild").start().unwrap().wait();
    });
    let child = Process::new(sleep_long, ()).name("told").start().unwrap();
    child.terminate().unwrap();
    child.wait().unwrap();
    // Only the end of `main` waits for this child.
    Process::new(|| std::process::abort(), ()).name("unwatched").start().unwrap();
}

/// The library's own records, for a logger that takes all levels and prints them.
fn own_lines() {
    log::set_logger(&Own).unwrap();
    log::set_max_level(LevelFilter::Trace);
    multiproc::log::relay_logs().unwrap();
    Process::new(|| log::info!(target: "child", "hello"), ()).start().unwrap().wait().unwrap();
    Process::new(sleep_long, ()).daemon(true).start().unwrap();
}

/// The library's own logger, with a relay: each record is printed once.
fn on_stderr() {
    multiproc::log_to_stderr(LevelFilter::Info);
    multiproc::log::relay_logs().unwrap();
    let worker = Process::new(
        || {
            log::info!("from a child");
            log::debug!("not shown");
            Process::new(|| log::warn!("from its child"), ()).start().unwrap().wait().unwrap();
        },
        (),
    );
    worker.name("worker").start().unwrap().wait().unwrap();
}

/// Only the end of main waits for the child, and no record is handled before the child has ended.
fn without_wait() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    LogRelay::new()
        .level(LevelFilter::Warn)
        .handler(move |record| {
            // From the second time on this fails, because the sender is dropped.
            let _ = released.lock().unwrap().recv();
            say(&record.to_string());
        })
        .start()
        .unwrap();
    multiproc::log::capture_output().unwrap();
    multiproc::process::at_exit(-1, move || drop(release));
    let child = Process::new(
        || {
            for number in 0..200 {
                log::warn!("{number}");
            }
            print!("no line feed");
        },
        (),
    );
    child.start().unwrap();
}

/// The handler blocks until the child has logged more than fits into the buffers.
fn slow_reader() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let count = Arc::new(AtomicUsize::new(0));
    let counts = count.clone();
    LogRelay::new()
        .level(LevelFilter::Warn)
        .handler(move |_| {
            if counts.fetch_add(1, SeqCst) == 0 {
                released.lock().unwrap().recv().unwrap();
            }
        })
        .start()
        .unwrap();
    let child = Process::new(
        || {
            for _ in 0..5000 {
                log::warn!("{}", "x".repeat(1000));
            }
        },
        (),
    );
    let child = child.start().unwrap();
    // However long this takes: five megabytes don't fit.
    say(&format!("{:?}", child.wait_timeout(Duration::from_millis(50)).unwrap()));
    release.send(()).unwrap();
    child.wait().unwrap();
    say(&count.load(SeqCst).to_string());
}

/// The handler needs a lock that is held while the child is waited for.
fn logger_that_needs_us() {
    let lock = Arc::new(Mutex::new(()));
    let its = lock.clone();
    LogRelay::new()
        .level(LevelFilter::Warn)
        .handler(move |record| {
            let _held = its.lock().unwrap();
            say(record.message());
        })
        .start()
        .unwrap();
    let held = lock.lock().unwrap();
    let child = Process::new(|| log::warn!("logged"), ()).start().unwrap();
    // With a deadline, and without one.
    while child.wait_timeout(Duration::from_millis(20)).unwrap().is_none() {}
    say("waited with a deadline");
    child.wait().unwrap();
    say("waited without");
    // A handler that is stuck is not waited for a second time.
    Process::new(|| (), ()).start().unwrap().wait().unwrap();
    drop(held);
}

/// The handler starts a process of its own and waits for it.
fn handler_that_waits() {
    LogRelay::new()
        .level(LevelFilter::Warn)
        .handler(|record| {
            say(record.message());
            if record.process() == "Process-1" {
                let child = Process::new(|| log::warn!("from the handler's child"), ()).start().unwrap();
                child.wait().unwrap();
            }
        })
        .start()
        .unwrap();
    Process::new(|| log::warn!("from a child"), ()).start().unwrap().wait().unwrap();
}

fn handler_that_panics() {
    LogRelay::new()
        .level(LevelFilter::Warn)
        .handler(|record| match record.message() {
            "bad" => panic!("as it should"),
            other => say(other),
        })
        .start()
        .unwrap();
    let child = Process::new(|| ["one", "bad", "two"].map(|word| log::warn!("{word}")), ()).start().unwrap();
    child.wait().unwrap();
    say("waited");
}

/// A child that continues after the main process has been killed.
fn orphan() {
    relay_plainly();
    let child = Process::new(
        || {
            let parent = pidfd::open(multiproc::parent_process().unwrap().pid()).unwrap();
            say("ready");
            poll::wait_readable(&parent, None).unwrap();
            for _ in 0..10_000 {
                log::warn!("nobody listens");
            }
            say("survived");
        },
        (),
    );
    child.outlive_parent(true).start().unwrap();
    sleep_long();
}

/// A child that writes nonsense to all of its sockets.
fn garbage() {
    relay();
    let started = Event::new().unwrap();
    let child = Process::new(
        |started: Event| {
            // One of the sockets is that to the parent, which waits for an answer there until then.
            started.wait().unwrap();
            let sockets: Vec<i32> = (3..100).filter(|number| is_socket(*number)).collect();
            let messages: [&[u8]; 4] = [
                b"GET / HTTP/1.1\r\n\r\n",
                b"mpkt\x02\x00\x01\x00\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0ab",
                b"mpkt\x02\x00\x63\x00\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                b"mpkt\x02\x00\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ];
            for number in sockets {
                // SAFETY: it is open, and nothing closes it.
                let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
                for message in messages {
                    fd_passing::send(socket, &[message], &[]).unwrap();
                }
                fd_passing::send(socket, &[&[7; 100_000]], &[]).unwrap();
            }
            log::warn!(target: "child", "after it all");
        },
        (started.clone(),),
    );
    let child = child.start().unwrap();
    started.set();
    child.wait().unwrap();
    say("waited");
}

fn is_socket(number: i32) -> bool {
    // SAFETY: the number is not -1; the kernel is only asked what it refers to, if anything.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    fd_passing::is_packet_socket(fd)
}

/// Prints which of the process's threads would take a SIGTERM.
fn signals() {
    // With standby, its thread would exist or not, depending on timing.
    multiproc::process::set_standby(false);
    multiproc::log::relay_logs().unwrap();
    multiproc::log::capture_output().unwrap();
    // The relay's and the capture's threads have both begun once a child has been waited for.
    Process::new(|| (), ()).start().unwrap().wait().unwrap();
    let mut takers: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
            let blocked = u64::from_str_radix(&field("SigBlk:"), 16).unwrap();
            let takes = blocked & 1 << (libc::SIGTERM - 1) == 0;
            format!("{} {takes}", field("Name:"))
        })
        .collect();
    takers.sort();
    say(&takers.join(", "));
}

/// A child that handles the records of its own descendants.
fn nearest() {
    relay();
    let child = Process::new(
        || {
            // This has no effect: they are relayed already.
            multiproc::log::relay_logs().unwrap();
            Process::new(|| log::info!(target: "x", "to the top"), ()).start().unwrap().wait().unwrap();
            LogRelay::new()
                .level(LevelFilter::Info)
                .handler(|record| log::info!(target: "x", "{} said {}", record.process(), record.message()))
                .start()
                .unwrap();
            let below = Process::new(|| log::info!(target: "y", "to the next"), ());
            below.name("below").start().unwrap().wait().unwrap();
        },
        (),
    );
    child.name("middle").start().unwrap().wait().unwrap();
}

/// Neither side has a descriptor left while records of all sizes are sent.
fn few_descriptors() {
    LogRelay::new()
        .level(LevelFilter::Warn)
        .handler(|record| say(&format!("{}", record.message().len())))
        .start()
        .unwrap();
    multiproc::log::capture_output().unwrap();
    let child = Process::new(
        || {
            // The line is written when the parent has no descriptor left either.
            std::io::stdin().read_line(&mut String::new()).unwrap();
            use_up_descriptors();
            log::warn!("{}", "x".repeat(10));
            log::warn!("{}", "x".repeat(100_000));
            println!("printed");
        },
        (),
    );
    let child = child.start().unwrap();
    use_up_descriptors();
    say("go on");
    child.wait().unwrap();
    say("waited");
}

fn use_up_descriptors() {
    let limit = libc::rlimit { rlim_cur: 3, rlim_max: 3 };
    // SAFETY: the structure is a local variable.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    assert!(std::fs::File::open("/dev/null").is_err());
}

/// Writes to a stream without any buffers.
fn write_raw(number: i32, bytes: &[u8]) {
    // SAFETY: the pointer and length are those of the slice.
    let written = unsafe { libc::write(number, bytes.as_ptr().cast(), bytes.len()) };
    assert_eq!(written, bytes.len() as isize);
}

/// Children that print their lines in small pieces, all at the same time.
fn partial_lines() {
    multiproc::log::capture_output().unwrap();
    let children: Vec<_> = (0..3)
        .map(|_| {
            let child = Process::new(
                || {
                    for line in 0..300 {
                        for piece in 0..10 {
                            write_raw(1 + line % 2, format!("{line}.{piece} ").as_bytes());
                        }
                        write_raw(1 + line % 2, b"\n");
                    }
                },
                (),
            );
            child.start().unwrap()
        })
        .collect();
    for child in children {
        child.wait().unwrap();
    }
    say("waited");
}

/// Everything that can write to a process's streams, up to the moment when the process is killed.
fn everything_printed() {
    let talks = || {
        println!("a line");
        eprintln!("an error");
        let status = std::process::Command::new("sh").args(["-c", "echo a program; echo its error >&2"]).status();
        assert!(status.unwrap().success());
        print!("no line feed");
        std::io::stdout().flush().unwrap();
        kill_self();
    };
    let captured = Process::new(talks, ()).name("captured").capture_output(true).start().unwrap();
    captured.wait().unwrap();
    say("waited");
    Process::new(|| println!("as it is"), ()).start().unwrap().wait().unwrap();
    multiproc::log::capture_output().unwrap();
    Process::new(|| println!("as it is too"), ()).capture_output(false).start().unwrap().wait().unwrap();
    let null = Process::new(|| println!("nowhere"), ())
        .stdout(multiproc::process::Stdio::null())
        .stderr(multiproc::process::Stdio::null());
    null.start().unwrap().wait().unwrap();
    let one = || {
        println!("nowhere");
        eprintln!("captured");
    };
    Process::new(one, ()).name("one").stdout(multiproc::process::Stdio::null()).start().unwrap().wait().unwrap();
    let panics = Process::new(
        || {
            Process::new(|| println!("a grandchild"), ()).start().unwrap().wait().unwrap();
            if current_process().pid() > 0 {
                panic!("this is why")
            }
        },
        (),
    );
    panics.name("panics").start().unwrap().wait().unwrap();
}

/// Bytes of every value, and a line that exceeds the limit for a line.
fn binary() {
    multiproc::log::capture_output().unwrap();
    let child = Process::new(
        || {
            let every: Vec<u8> = (0..=255).collect();
            write_raw(1, &every);
            write_raw(1, b"\n");
            std::io::stdout().write_all(&vec![b'x'; 200_000]).unwrap();
            println!();
        },
        (),
    );
    child.name("b").start().unwrap().wait().unwrap();
}

/// A program that outlives the child holds its pipes open; it is never waited for.
#[allow(clippy::zombie_processes)]
fn held_open() {
    multiproc::log::capture_output().unwrap();
    let child = Process::new(
        || {
            print!("begun ");
            std::io::stdout().flush().unwrap();
            std::process::Command::new("cat").spawn().unwrap();
        },
        (),
    );
    child.start().unwrap().wait().unwrap();
    say("waited");
}

/// Lines passed to a function.
fn lines() {
    let (sender, lines) = mpsc::channel();
    OutputCapture::new()
        .handler(move |line| {
            sender.send(format!("{line} {:?} {:?}", line.stream(), line.bytes())).unwrap();
            assert_ne!(line.text(), "2", "as it should");
        })
        .start()
        .unwrap();
    Process::new(|| println!("1\n2\n3"), ()).start().unwrap().wait().unwrap();
    Process::new(|| eprint!("4"), ()).start().unwrap().wait().unwrap();
    for line in lines.try_iter() {
        say(&line);
    }
}
