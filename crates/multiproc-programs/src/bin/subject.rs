//! One of many scenarios, chosen by name: what a main process does, for a test to observe from
//! outside.

use std::time::{Duration, Instant};

use multiproc::log::LevelFilter;
use multiproc::sync::Event;
use multiproc::{Process, StartMethod, current_process};
use multiproc_programs::{say, sleep_long, start_method};

#[multiproc::main]
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(method) = arguments.get(2) {
        multiproc::set_start_method(start_method(method));
    }
    match arguments.get(1).map(String::as_str) {
        Some("basics") => basics(),
        Some("end") => family("end"),
        Some("panic") => {
            family("panic");
            panic!("main has had enough");
        }
        Some("exit") => {
            family("exit");
            std::process::exit(3);
        }
        Some("exit-in-thread") => {
            family("exit");
            std::thread::spawn(|| std::process::exit(4)).join().unwrap();
        }
        Some("stubborn") => stubborn(),
        Some("tree") => tree(),
        Some("wait-for-word") => wait_for_word(),
        Some("finalizers") => finalizers(),
        Some("log") => log(),
        Some("exit-in-child") => exit_in_child(),
        Some("one-child") => one_child(),
        Some("child-panics") => child_panics(),
        Some("child-fails") => child_fails(),
        Some("abandon") => abandon(),
        Some("few-descriptors") => few_descriptors(),
        Some("ids") => ids(),
        Some("attack") => attack(&arguments[3]),
        Some("confines-itself") => confines_itself(),
        Some("forked-copy-exits") => forked_copy_exits(),
        other => panic!("no scenario {other:?}"),
    }
}

fn basics() {
    let sum = Process::new(|a: u32, b: u32| a + b, (1, 2)).start().unwrap();
    let pointer: fn(String) -> usize = |text| text.len();
    let pointer = Process::new(pointer, ("four".to_string(),)).start().unwrap();
    let panics = Process::new(
        || {
            if true {
                panic!("as it should")
            }
        },
        (),
    )
    .name("panics")
    .start()
    .unwrap();
    say(&format!("{} {}", sum.join().unwrap(), pointer.join().unwrap()));
    let status = panics.wait().unwrap();
    say(&format!("{} {}", status.exit_code().unwrap(), panics.join().unwrap_err()));
}

/// A daemon that would run forever, and a child that takes a moment.
fn family(name: &str) {
    let daemon = Process::new(sleep_long, ()).daemon(true).start().unwrap();
    say(&format!("daemon {}", daemon.pid()));
    let worker = Process::new(
        |name: String| {
            std::thread::sleep(Duration::from_millis(100));
            say(&format!("worker of {name} is done"));
        },
        (name.to_owned(),),
    );
    worker.start().unwrap();
}

/// A daemon that ignores SIGTERM.
fn stubborn() {
    multiproc::process::set_grace_period(Duration::from_millis(100));
    let daemon = Process::new(
        || {
            // SAFETY: no handler is installed or replaced.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
            say("stubborn");
            sleep_long();
        },
        (),
    );
    let daemon = daemon.daemon(true).start().unwrap();
    say(&format!("daemon {}", daemon.pid()));
    // The test answers once it has read that the daemon ignores SIGTERM.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Children of every kind with children of their own, all of which sleep; then waits to be killed.
fn tree() {
    fn branch(label: String) {
        say(&format!("{label} {}", current_process().pid()));
        for method in [StartMethod::ForkServer, StartMethod::Spawn] {
            let leaf = Process::new(
                |label: String| {
                    say(&format!("{label} {}", current_process().pid()));
                    sleep_long();
                },
                (format!("{label}/{method:?}"),),
            );
            leaf.start_method(method).start().unwrap();
        }
        sleep_long();
    }
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        for daemon in [false, true] {
            let process = Process::new(branch, (format!("{method:?}/{daemon}"),));
            process.start_method(method).daemon(daemon).start().unwrap();
        }
    }
    let free = Process::new(
        || {
            say(&format!("free {}", current_process().pid()));
            sleep_long();
        },
        (),
    );
    free.outlive_parent(true).start().unwrap();
    sleep_long();
}

/// Starts a child for each input line.
fn wait_for_word() {
    say("ready");
    let mut line = String::new();
    while std::io::stdin().read_line(&mut line).unwrap() > 0 {
        let child = Process::new(|word: String| say(&format!("heard {}", word.trim())), (line.clone(),));
        match child.start() {
            Ok(child) => child.join().unwrap(),
            Err(error) => say(&error.to_string()),
        }
        line.clear();
    }
}

fn finalizers() {
    fn register(owner: &'static str) {
        multiproc::process::at_exit(-1, move || say(&format!("{owner} -1")));
        multiproc::process::at_exit(0, move || say(&format!("{owner} 0")));
        multiproc::process::at_exit(10, move || say(&format!("{owner} 10, the earlier")));
        multiproc::process::at_exit(10, move || say(&format!("{owner} 10, the later")));
        multiproc::process::at_exit(7, || panic!("one that fails"));
        let cancelled = multiproc::process::at_exit(5, move || say(&format!("{owner} cancelled")));
        assert!(cancelled.cancel());
    }
    let child = Process::new(
        || {
            register("child");
            say("child runs");
        },
        (),
    );
    child.start().unwrap().wait().unwrap();
    // The last one that is called before the children are waited for: the first that was registered
    // of those with priority 0.
    let has_printed = Event::new().unwrap();
    let set = has_printed.clone();
    multiproc::process::at_exit(0, move || set.set());
    register("main");
    Process::new(
        |has_printed: Event| {
            has_printed.wait().unwrap();
            say("a child that is waited for");
        },
        (has_printed,),
    )
    .start()
    .unwrap();
}

fn log() {
    multiproc::log_to_stderr(LevelFilter::Info);
    log::info!("from main");
    log::debug!("not shown");
    let worker = Process::new(
        || {
            log::info!("from a child");
            log::debug!("not shown either");
            let grandchild = Process::new(|| log::warn!("from its child"), ());
            grandchild.start().unwrap().wait().unwrap();
        },
        (),
    );
    worker.name("worker").start().unwrap().wait().unwrap();
    multiproc::log::get_logger().set_level(LevelFilter::Off);
    Process::new(|| log::error!("silence"), ()).start().unwrap().wait().unwrap();
    multiproc::log::get_logger().set_level(LevelFilter::Debug);
    Process::new(sleep_long, ()).name("service").daemon(true).start().unwrap();
}

/// A child that ends by `exit` ends its own children first.
fn exit_in_child() {
    let child = Process::new(
        || {
            family("child");
            multiproc::process::at_exit(0, || say("finalizer of child"));
            if current_process().pid() > 0 {
                std::process::exit(5);
            }
        },
        (),
    );
    say(&format!("{:?}", child.start().unwrap().wait().unwrap().exit_code()));
}

fn one_child() {
    Process::new(|| say("child"), ()).start().unwrap();
}

fn child_panics() {
    #[inline(never)]
    fn boom() {
        panic!("There was an error!");
    }
    Process::new(boom, ()).name("raises").start().unwrap();
}

fn child_fails() {
    fn read(path: String) -> Result<String, Box<dyn std::error::Error>> {
        Ok(std::fs::read_to_string(path).map_err(|error| Failed { what: "no configuration".into(), error })?)
    }
    #[derive(Debug)]
    struct Failed {
        what: String,
        error: std::io::Error,
    }
    impl std::fmt::Display for Failed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&self.what)
        }
    }
    impl std::error::Error for Failed {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.error)
        }
    }
    let child = Process::new(read, ("/no/such/file".to_string(),)).name("reader").start().unwrap();
    say(&format!("{:?}", child.wait().unwrap().exit_code()));
    let error = child.join().unwrap().unwrap_err();
    say(&format!("{error} <- {}", std::error::Error::source(&error).unwrap()));
}

/// Drops its handles immediately, and shows that no zombies accumulate.
fn abandon() {
    for _ in 0..20 {
        drop(Process::new(|| (), ()).start().unwrap());
    }
    let begun = Instant::now();
    loop {
        // A start reaps children that have ended by then.
        let last = Process::new(|| (), ()).start().unwrap();
        last.wait().unwrap();
        let zombies = zombies();
        if zombies == 0 || begun.elapsed() > Duration::from_secs(60) {
            return say(&format!("{zombies} zombies"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The number of children of this process that have ended and have not been reaped.
fn zombies() -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .filter(|stat| {
            let rest = stat.rsplit(')').next().unwrap();
            let mut fields = rest.split_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(&std::process::id().to_string())
        })
        .count()
}

/// At the end of main there are more children than descriptors may be open.
fn few_descriptors() {
    for number in 0..20 {
        let child = Process::new(
            |number: u32| {
                std::thread::sleep(Duration::from_millis(100));
                say(&format!("{number} is done"));
            },
            (number,),
        );
        child.start().unwrap();
    }
    let limit = libc::rlimit { rlim_cur: 10, rlim_max: 10 };
    // SAFETY: the structure is ours.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

/// A set-user-id program that has given up the privileges gained by it.
fn ids() {
    fn get() -> [u32; 3] {
        let mut ids = [0; 3];
        let [real, effective, saved] = &mut ids;
        // SAFETY: the kernel writes an id to each.
        unsafe { libc::getresuid(real, effective, saved) };
        ids
    }
    // SAFETY: no memory is touched.
    unsafe {
        let real = libc::getuid();
        assert_eq!(libc::setresuid(real, real, real), 0);
    }
    say(&format!("{:?} {:?}", get(), Process::new(get, ()).start().unwrap().join().unwrap()));
}

/// While other threads start processes, fork copies of this process are made that have no use for
/// them, and exit.
fn forked_copy_exits() {
    for _ in 0..2 {
        std::thread::spawn(|| {
            loop {
                let _ = Process::new(|| (), ()).start().map(|child| child.wait());
            }
        });
    }
    for _ in 0..100 {
        // SAFETY: the copy runs only exit handlers.
        let copy = unsafe { libc::fork() };
        if copy == 0 {
            // SAFETY: as above.
            unsafe { libc::exit(0) };
        }
        // SAFETY: no status is requested.
        unsafe { libc::waitpid(copy, std::ptr::null_mut(), 0) };
    }
    say("all have exited");
}

/// Executes a set-user-id copy of this program as if it were a child, and asks to be root in it.
fn attack(program: &str) {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let (ours, theirs) = multiproc_os::fd_passing::pair().unwrap();
    let number = theirs.as_raw_fd();
    let mut command = std::process::Command::new(program);
    command.env("MULTIPROC_ENTRY", number.to_string());
    // SAFETY: fcntl is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::fcntl(number, libc::F_SETFD, 0);
            Ok(())
        })
    };
    let mut child = command.spawn().unwrap();
    let build_id = multiproc_os::image::Image::containing(attack as fn(&str) as usize).unwrap().build_id;
    // And no capabilities.
    let ids = [0; multiproc_os::credentials::Ids::BYTES + multiproc_os::credentials::Capabilities::BYTES];
    let len = ((ids.len() + build_id.len()) as u64).to_le_bytes();
    multiproc_os::fd_passing::send(&ours, &[b"mpkt\x02\x00\x01\x00", &len, &[0; 16], &ids, &build_id], &[]).unwrap();
    // After handling that, it waits for its spec; the next message has an unknown kind.
    multiproc_os::fd_passing::send(&ours, &[b"mpkt\x02\x00\x63\x00", &[0; 24]], &[]).unwrap();
    multiproc_os::poll::wait_readable(&ours, None).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    say(&uids.split_whitespace().collect::<Vec<_>>().join(" "));
    say(&child.wait().unwrap().code().unwrap().to_string());
}

/// Prints whether a child may create a directory, before and after this process has given up that
/// right by Landlock. Nothing else changes: `no_new_privs` is set from the start.
fn confines_itself() {
    let may_make = || {
        let directory = std::env::temp_dir().join(format!("multiproc-confined-{}", std::process::id()));
        let made = std::fs::create_dir(&directory).is_ok();
        let _ = std::fs::remove_dir(&directory);
        made
    };
    let tell = || say(&Process::new(may_make, ()).start().unwrap().join().unwrap().to_string());
    let make_dir: u64 = 1 << 7;
    // SAFETY: the attributes have the given size; nothing else is a pointer.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        tell();
        tell();
        let ruleset = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const make_dir, 8, 0);
        if ruleset < 0 || libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) != 0 {
            return say("no Landlock");
        }
    }
    tell();
    tell();
}
