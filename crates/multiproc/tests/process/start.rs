//! Starting processes: from many threads at once, with the right environment, directory and
//! descriptors, and what happens when that fails.

use crate::common::{self, Ends, Unwilling, for_each_method, sleep_long};
use multiproc::process::StartError;
use multiproc::{Process, StartMethod};

fn open_descriptors() -> Vec<(i32, String)> {
    let mut list: Vec<(i32, String)> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = std::fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, target.to_string_lossy().into_owned()))
        })
        .collect();
    list.sort();
    list
}

fn change_environment(method: StartMethod) {
    let get = |name: &str| {
        let child = Process::new(|name: String| std::env::var(name).ok(), (name.to_string(),));
        child.start_method(method).start().unwrap().join().unwrap()
    };
    assert_eq!(get("MULTIPROC_TEST"), None);
    for value in ["one", "", "zwölf=12"] {
        // SAFETY: the other threads of this process are multiproc's, which access the environment
        // through the standard library.
        unsafe { std::env::set_var("MULTIPROC_TEST", value) };
        assert_eq!(get("MULTIPROC_TEST").as_deref(), Some(value));
    }
    // SAFETY: as above.
    unsafe { std::env::remove_var("MULTIPROC_TEST") };
    assert_eq!(get("MULTIPROC_TEST"), None);
    assert_eq!(get("MULTIPROC_ENTRY"), None);
    assert_eq!(get("PATH"), std::env::var("PATH").ok());
    // A child may change its own environment.
    let child = Process::new(
        || {
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var("MULTIPROC_TEST", "mine") };
            std::process::Command::new("sh").args(["-c", "echo $MULTIPROC_TEST"]).output().unwrap().stdout
        },
        (),
    );
    assert_eq!(child.start_method(method).start().unwrap().join().unwrap(), b"mine\n");
}

fn change_directory(method: StartMethod) {
    let before = std::env::current_dir().unwrap();
    let get =
        || Process::new(|| std::env::current_dir().ok(), ()).start_method(method).start().unwrap().join().unwrap();
    assert_eq!(get().as_ref(), Some(&before));
    let scratch = common::Scratch::new();
    let elsewhere = std::fs::canonicalize(scratch.path(".")).unwrap();
    std::env::set_current_dir(&elsewhere).unwrap();
    let seen = get();
    drop(scratch);
    // A deleted directory can still be the current one.
    let deleted = get();
    std::env::set_current_dir(&before).unwrap();
    assert_eq!(seen, Some(elsewhere));
    assert_eq!(deleted, None);
    assert_eq!(get(), Some(before));
}

fn leak_a_descriptor(method: StartMethod) {
    // Not close-on-exec: a plain fork and exec would pass it on.
    // SAFETY: a new descriptor, closed below.
    let leaky = unsafe { libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY) };
    let list = Process::new(open_descriptors, ()).start_method(method).start().unwrap().join().unwrap();
    // SAFETY: opened above.
    unsafe { libc::close(leaky) };
    let (stdio, others): (Vec<_>, Vec<_>) = list.into_iter().partition(|(fd, _)| *fd <= 2);
    assert_eq!(stdio.len(), 3);
    // The child's socket, and the directory that it is listing.
    assert_eq!(others.iter().filter(|(_, target)| !target.starts_with("/proc/")).count(), 1, "{others:?}");
    assert!(others.iter().any(|(_, target)| target.starts_with("socket:")), "{others:?}");
}

for_each_method! {
    fn many_threads(method) not_fork {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16_u32)
                .map(|thread| {
                    scope.spawn(move || {
                        for round in 0..4 {
                            let child = Process::new(|a: u32, b: u32| a * 100 + b, (thread, round));
                            let value = child.start_method(method).start().unwrap().join().unwrap();
                            assert_eq!(value, thread * 100 + round);
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }

    fn many_alive(method) {
        let children: Vec<_> =
            (0..64).map(|_| Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap())).collect();
        let mut pids: Vec<i32> = children.iter().map(|child| child.pid()).collect();
        pids.sort();
        pids.dedup();
        assert_eq!(pids.len(), 64);
        assert!(children.iter().all(|child| child.is_alive()));
    }

    fn current_environment(method) {
        common::in_its_own_process(change_environment, method);
    }

    fn current_directory(method) {
        common::in_its_own_process(change_directory, method);
    }

    fn command_line(method) {
        let child = Process::new(|| std::env::args().collect::<Vec<_>>(), ()).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), std::env::args().collect::<Vec<_>>());
    }

    fn no_leaked_fds(method) not_fork {
        common::in_its_own_process(leak_a_descriptor, method);
    }

    fn argument_encode_error(method) not_fork {
        let error = Process::new(|_: Unwilling| (), (Unwilling,)).name("p").start_method(method).start().unwrap_err();
        assert!(matches!(&error, StartError::Encode { process, .. } if process == "p"), "{error}");
        assert!(error.to_string().contains("not today"), "{error}");
    }

    fn target_in_shared_library(method) not_fork {
        // SAFETY: it is never called.
        let target = unsafe { std::mem::transmute::<*const (), fn() -> i32>(libc::getpid as *const ()) };
        let error = Process::new(target, ()).start_method(method).start().unwrap_err();
        assert!(error.to_string().contains("shared library"), "{error}");
    }

    fn nested(method) {
        fn depth(method: StartMethod, left: u32) -> u32 {
            if left == 0 {
                return 0;
            }
            1 + Process::new(depth, (method, left - 1)).start_method(method).start().unwrap().join().unwrap()
        }
        assert_eq!(depth(method, 4), 4);
    }
}

#[multiproc::test]
fn killed_server_is_replaced() {
    // In a process of its own, with the server as its only child.
    let outcome = Process::new(
        || {
            // A standby has the server's name for a moment.
            multiproc::process::set_standby(false);
            let me = std::process::id();
            let servers = || -> Vec<i32> {
                let list = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap();
                let is_server = |pid: &i32| {
                    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "multiproc-serve\n")
                };
                list.split_whitespace().map(|pid| pid.parse().unwrap()).filter(is_server).collect()
            };
            Process::new(|| (), ()).start().unwrap().join().unwrap();
            let first = servers();
            assert_eq!(first.len(), 1);
            let sleeper = Ends(Process::new(sleep_long, ()).start().unwrap());
            for round in 0..3 {
                // A process that was made a moment ago still has the server's name.
                let server = *servers().iter().find(|pid| **pid != sleeper.pid()).unwrap();
                let pidfd = multiproc_os::pidfd::open(server).unwrap();
                multiproc_os::pidfd::send_signal(&pidfd, libc::SIGKILL).unwrap();
                if round > 0 {
                    multiproc_os::poll::wait_readable(&pidfd, None).unwrap();
                }
                assert_eq!(Process::new(|| 7, ()).start().unwrap().join().unwrap(), 7);
            }
            assert!(sleeper.is_alive());
            sleeper.kill().unwrap();
            sleeper.wait().unwrap();
            (first, servers())
        },
        (),
    );
    let (first, last) = outcome.start().unwrap().join().unwrap();
    assert_eq!(last.len(), 1, "the dead ones have been reaped");
    assert_ne!(first, last);
}

#[multiproc::test]
fn open_file_limit() {
    /// Lowers the limit, tries to start, raises it again, starts.
    fn limited(method: StartMethod, resource: u32, limit: u64) -> (String, u32) {
        // With a standby, a start takes fewer descriptors.
        multiproc::process::set_standby(false);
        // The server exists already, as in the middle of a program.
        let before = Process::new(|| 1, ()).start_method(method).start().unwrap().join().unwrap();
        let set = |soft: u64| {
            // SAFETY: the pointers are to local structures.
            unsafe {
                let mut now: libc::rlimit = std::mem::zeroed();
                libc::getrlimit(resource, &raw mut now);
                let wanted = libc::rlimit { rlim_cur: soft.min(now.rlim_max), rlim_max: now.rlim_max };
                assert_eq!(libc::setrlimit(resource, &raw const wanted), 0);
            }
        };
        set(limit);
        let error = Process::new(|| (), ()).name("p").start_method(method).start().unwrap_err();
        set(u64::MAX);
        let after = Process::new(|| 2, ()).start_method(method).start().unwrap().join().unwrap();
        (error.to_string(), before + after)
    }
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let child = Process::new(limited, (method, libc::RLIMIT_NOFILE, 5)).start().unwrap();
        let (error, sum) = child.join().unwrap();
        assert!(error.starts_with("cannot start p: ") && error.contains("Too many open files"), "{error}");
        assert_eq!(sum, 3);
    }
}

#[multiproc::test]
fn open_file_limit_at_any_point() {
    fn sweep(method: StartMethod) -> (usize, usize, usize) {
        multiproc::process::set_standby(false);
        let me = std::process::id();
        let children = || {
            let list = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap();
            list.split_whitespace().count()
        };
        let set = |soft: u64| {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: 4096 };
            // SAFETY: the pointer is to a local structure.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
        };
        set(4096);
        // First without a server, then with one.
        let (mut failed, mut started) = (0, 0);
        for limit in (3..16).chain(3..16) {
            set(limit);
            let result = Process::new(|| 7, ()).start_method(method).start();
            set(4096);
            match result {
                Ok(child) => {
                    started += 1;
                    assert_eq!(child.join().unwrap(), 7);
                }
                Err(error) => {
                    failed += 1;
                    assert!(error.to_string().contains("open files"), "{error}");
                }
            }
        }
        assert_eq!(Process::new(|| 7, ()).start_method(method).start().unwrap().join().unwrap(), 7);
        (failed, started, children())
    }
    for (method, left) in [(StartMethod::ForkServer, 1), (StartMethod::Spawn, 0)] {
        let (failed, started, children) = Process::new(sweep, (method,)).start().unwrap().join().unwrap();
        assert!(failed > 4 && started > 4, "{failed} {started}");
        assert_eq!(children, left, "the server, if there is one");
    }
}

#[multiproc::test]
fn process_limit() {
    /// As an unprivileged user (the limit doesn't apply to others) that may have two processes:
    /// itself and the server.
    fn limited(method: StartMethod) -> Option<String> {
        let user = common::exclusive_user();
        // SAFETY: the calls access only the local structure.
        unsafe {
            let limit = libc::rlimit { rlim_cur: 2, rlim_max: 2 };
            if libc::setgid(user) != 0 || libc::setuid(user) != 0 {
                return None;
            }
            assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit), 0);
        }
        let sleeper = match method {
            StartMethod::Spawn => Some(Process::new(sleep_long, ()).start_method(method).daemon(true).start().unwrap()),
            _ => None,
        };
        let error = Process::new(|| (), ()).name("p").start_method(method).start().unwrap_err();
        drop(sleeper);
        Some(error.to_string())
    }
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let child = Process::new(limited, (method,)).start().unwrap();
        match child.join().unwrap() {
            Some(error) => {
                assert!(error.starts_with("cannot start p: ") && error.contains("temporarily unavailable"), "{error}");
            }
            None => eprintln!("skipped: this needs the right to become another user"),
        }
    }
}

for_each_method! {
    fn ignored_sigchld(method) {
        // In a process of its own: the disposition is process-wide.
        let child = Process::new(
            |method: StartMethod| {
                // SAFETY: no handler is installed or replaced.
                unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
                let mut codes = Vec::new();
                for round in 0..20 {
                    let child = Process::new(|code| if code != 0 { std::process::exit(code) }, (round,));
                    codes.push(child.start_method(method).start().unwrap().wait().unwrap().exit_code());
                }
                let sleeper = Process::new(sleep_long, ()).start_method(method).start().unwrap();
                assert!(sleeper.is_alive());
                sleeper.terminate().unwrap();
                codes.push(sleeper.wait().unwrap().exit_code());
                assert_eq!(Process::new(|| 7, ()).start_method(method).start().unwrap().join().unwrap(), 7);
                codes
            },
            (method,),
        );
        let codes = child.start().unwrap().join().unwrap();
        let expected: Vec<i32> = (0..20).chain([-15]).collect();
        for (code, expected) in codes.into_iter().zip(expected) {
            // Before Linux 6.15 the status is unknown; the wait ends all the same.
            assert!(code == Some(expected) || (code.is_none() && !status_is_kept()), "{code:?} is not {expected}");
        }
    }

    fn beside_waitpid_thread(method) not_fork {
        let child = Process::new(
            |method: StartMethod| {
                std::thread::spawn(|| {
                    loop {
                        // SAFETY: no status is requested.
                        if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } == -1 {
                            std::thread::yield_now();
                        }
                    }
                });
                for _ in 0..50 {
                    let child = Process::new(|| 7, ()).start_method(method).start().unwrap();
                    let code = child.wait().unwrap().exit_code();
                    assert!(code == Some(0) || (code.is_none() && !status_is_kept()), "{code:?}");
                    assert_eq!(child.join().unwrap(), 7);
                }
            },
            (method,),
        );
        child.start().unwrap().join().unwrap();
    }
}

/// Whether the kernel keeps the status of a process that was reaped elsewhere.
fn status_is_kept() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

#[multiproc::test]
fn closed_stdio_is_dev_null() {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        for closed in [vec![0], vec![1], vec![2], vec![0, 1, 2]] {
            let outer = Process::new(
                |method: StartMethod, closed: Vec<i32>| {
                    for fd in closed {
                        // SAFETY: the standard library works without these descriptors.
                        unsafe { libc::close(fd) };
                    }
                    let inner = Process::new(
                        || {
                            println!("not read");
                            eprintln!("not read either");
                            open_descriptors()
                        },
                        (),
                    );
                    inner.start_method(method).start().unwrap().join().unwrap()
                },
                (method, closed.clone()),
            );
            let list = outer.start().unwrap().join().unwrap();
            for fd in 0..3 {
                let target = &list.iter().find(|(number, _)| *number == fd).expect("0 to 2 are open").1;
                assert!(!closed.contains(&fd) || target == "/dev/null", "{method:?} {closed:?} {list:?}");
                assert!(!target.starts_with("socket:") || !closed.contains(&fd), "{list:?}");
            }
        }
    }
}

#[multiproc::test]
fn server_does_not_hold_stdout() {
    // The server must not keep what was stdout at an earlier start.
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let outer = Process::new(
            |method: StartMethod| {
                let (mut read, write) = std::io::pipe().unwrap();
                // SAFETY: all of them are open.
                unsafe {
                    let before = libc::dup(1);
                    libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&write), 1);
                    Process::new(|| println!("through the pipe"), ())
                        .start_method(method)
                        .start()
                        .unwrap()
                        .wait()
                        .unwrap();
                    libc::dup2(before, 1);
                }
                drop(write);
                let mut text = String::new();
                std::io::Read::read_to_string(&mut read, &mut text).unwrap();
                text
            },
            (method,),
        );
        assert_eq!(outer.start().unwrap().join().unwrap(), "through the pipe\n");
    }
}

#[multiproc::test]
fn inaccessible_directory() {
    // As an unprivileged user.
    let outer = Process::new(
        || {
            let scratch = common::Scratch::new();
            let path = scratch.path("closed");
            std::fs::create_dir(&path).unwrap();
            // SAFETY: the path is NUL-terminated, and outlives the call.
            if unsafe { libc::chown(std::ffi::CString::new(path.as_str()).unwrap().as_ptr(), 60_123, 60_123) } != 0 {
                return None;
            }
            // SAFETY: the calls take only numbers.
            unsafe {
                assert_eq!(libc::setgid(60_123), 0);
                assert_eq!(libc::setuid(60_123), 0);
            }
            let get = || {
                let child = Process::new(|| std::env::current_dir().unwrap(), ()).start()?;
                Ok::<_, StartError>(child.join().unwrap().to_str().unwrap().to_owned())
            };
            std::env::set_current_dir("/").unwrap();
            assert_eq!(get().unwrap(), "/");
            std::env::set_current_dir(&path).unwrap();
            let mode =
                |mode| std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            mode(0);
            let barred = (0..3).map(|_| get().unwrap()).collect::<Vec<_>>();
            mode(0o700);
            assert!(get().unwrap().ends_with("/closed"));
            Some(barred)
        },
        (),
    );
    match outer.start().unwrap().join().unwrap() {
        Some(barred) => assert!(barred.iter().all(|directory| directory.ends_with("/closed")), "{barred:?}"),
        None => eprintln!("skipped: this needs the right to become another user"),
    }
}

#[multiproc::test]
fn dropped_privileges() {
    fn privileges() -> String {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let shown = ["Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:", "NoNewPrivs:", "Seccomp:"];
        status.lines().filter(|line| shown.iter().any(|name| line.starts_with(name))).collect::<Vec<_>>().join("\n")
    }
    let outer = Process::new(
        || {
            let start = || Process::new(privileges, ()).start().unwrap().join().unwrap();
            let mut pairs = vec![(privileges(), start())];
            // SAFETY: the only memory accessed is the list of groups.
            unsafe {
                let groups = [60_124];
                libc::setgroups(1, groups.as_ptr());
                pairs.push((privileges(), start()));
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                pairs.push((privileges(), start()));
                libc::setresgid(60_123, 60_123, 60_123);
                libc::setresuid(60_123, 60_123, 60_123);
            }
            pairs.push((privileges(), start()));
            pairs
        },
        (),
    );
    for (own, childs) in outer.start().unwrap().join().unwrap() {
        assert_eq!(own, childs);
    }
}

#[multiproc::test]
fn redirected_stdout() {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let outer = Process::new(
            |method: StartMethod| {
                let quiet = Process::new(|| (), ()).start_method(method).start().unwrap();
                quiet.join().unwrap();
                let scratch = common::Scratch::new();
                let path = scratch.path("out");
                let file = std::fs::File::create(&path).unwrap();
                // SAFETY: both are open.
                unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&file), 1) };
                let child = Process::new(|| println!("to the file"), ()).start_method(method).start().unwrap();
                child.join().unwrap();
                std::fs::read_to_string(path).unwrap()
            },
            (method,),
        );
        assert_eq!(outer.start().unwrap().join().unwrap(), "to the file\n");
    }
}

#[multiproc::test]
fn kill_server_during_starts() {
    // In a process of its own, with the server as its only child besides those that it starts.
    let outer = Process::new(
        || {
            let me = std::process::id();
            // The current round; the last one tells the killer to stop.
            let current = std::sync::atomic::AtomicU32::new(0);
            let ordering = std::sync::atomic::Ordering::Relaxed;
            const ROUNDS: u32 = 300;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut killed_in = u32::MAX;
                    while current.load(ordering) < ROUNDS {
                        let round = current.load(ordering);
                        let list = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap();
                        // Kills once in a round. The server is recognized by its name, which new
                        // children have too until they get their own. A child that is killed by
                        // mistake is recognized below.
                        for pid in list.split_whitespace() {
                            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                            if killed_in != round
                                && comm == "multiproc-serve\n"
                                && let Ok(pidfd) = multiproc_os::pidfd::open(pid.parse().unwrap())
                            {
                                let _ = multiproc_os::pidfd::send_signal(&pidfd, libc::SIGKILL);
                                killed_in = round;
                            }
                        }
                        std::thread::yield_now();
                    }
                });
                let mut outcomes = std::collections::BTreeMap::new();
                for round in 0..ROUNDS {
                    current.store(round, ordering);
                    let outcome = match Process::new(|n: u32| n + 1, (round,)).start() {
                        Ok(child) => match child.join() {
                            Ok(value) => {
                                assert_eq!(value, round + 1);
                                "joined".to_string()
                            }
                            Err(error) if error.signal() == Some(libc::SIGKILL) => "hit itself".into(),
                            Err(error) => error.to_string(),
                        },
                        Err(error) if error.to_string().contains("times in a row") => "server died too often".into(),
                        Err(StartError::Handshake { .. }) => "server died in the handshake".into(),
                        Err(error) => error.to_string(),
                    };
                    *outcomes.entry(outcome).or_insert(0) += 1;
                }
                current.store(ROUNDS, ordering);
                outcomes
            })
        },
        (),
    );
    let outcomes = outer.start().unwrap().join().unwrap();
    let expected = ["joined", "hit itself", "server died too often", "server died in the handshake"];
    assert!(outcomes.keys().all(|outcome| expected.contains(&outcome.as_str())), "{outcomes:?}");
    assert!(outcomes["joined"] > 100, "{outcomes:?}");
    println!("{outcomes:?}");
}

#[multiproc::test]
fn kill_during_handshake() {
    let outer = Process::new(
        || {
            let me = std::process::id();
            let children = || {
                let list = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap();
                list.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()).collect::<Vec<_>>()
            };
            const ROUNDS: u32 = 60;
            let current = std::sync::atomic::AtomicU32::new(0);
            let ordering = std::sync::atomic::Ordering::Relaxed;
            let outcomes = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut delay = 0;
                    while current.load(ordering) < ROUNDS {
                        // Each kill is a little later than the one before: from before the child's
                        // first instruction to after its last.
                        for pid in children() {
                            std::thread::sleep(std::time::Duration::from_micros(delay % 20 * 150));
                            delay += 1;
                            if let Ok(pidfd) = multiproc_os::pidfd::open(pid) {
                                let _ = multiproc_os::pidfd::send_signal(&pidfd, libc::SIGKILL);
                            }
                        }
                        std::thread::yield_now();
                    }
                });
                let mut outcomes = std::collections::BTreeMap::new();
                for round in 0..ROUNDS {
                    current.store(round, ordering);
                    let process = Process::new(|n: u32| n + 1, (round,)).start_method(StartMethod::Spawn);
                    let outcome = match process.start() {
                        Ok(child) => match child.join() {
                            Ok(value) => {
                                assert_eq!(value, round + 1);
                                "joined".to_string()
                            }
                            Err(error) if error.signal() == Some(libc::SIGKILL) => "killed later".into(),
                            Err(error) => error.to_string(),
                        },
                        Err(StartError::Handshake { source, .. }) if source.to_string().contains("SIGKILL") => {
                            "killed in the handshake".into()
                        }
                        Err(error) => error.to_string(),
                    };
                    *outcomes.entry(outcome).or_insert(0) += 1;
                }
                current.store(ROUNDS, ordering);
                outcomes
            });
            (outcomes, children())
        },
        (),
    );
    let (outcomes, left) = outer.start().unwrap().join().unwrap();
    let expected = ["joined", "killed later", "killed in the handshake"];
    assert!(outcomes.keys().all(|outcome| expected.contains(&outcome.as_str())), "{outcomes:?}");
    assert!(outcomes.contains_key("killed in the handshake"), "{outcomes:?}");
    assert_eq!(left, [0_i32; 0], "{outcomes:?}");
    println!("{outcomes:?}");
}
