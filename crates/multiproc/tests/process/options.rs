//! What a process is given beyond what it inherits from its creator, as with `Command`.

use std::fs::File;
use std::io::{Read, Write};

use crate::common::{self, Ends, Scratch, for_each_method, sleep_long};
use multiproc::process::{JoinErrorKind, Resource, StartError, Stdio};
use multiproc::{Process, StartMethod};

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn set_seeds(method: StartMethod) {
    multiproc::process::set_seed(7);
    let seeds = || {
        // A process tree of its own, whatever this test's process has started before.
        let parent = Process::new(
            |method: StartMethod| {
                multiproc::process::set_seed(7);
                let seed = || multiproc::current_process().seed();
                [(); 3].map(|()| Process::new(seed, ()).start_method(method).start().unwrap().join().unwrap())
            },
            (method,),
        );
        parent.start().unwrap().join().unwrap()
    };
    let first = seeds();
    assert_eq!(seeds(), first);
    assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
}

for_each_method! {
    fn environment(method) {
        let own = std::env::vars_os().count();
        let child = Process::new(
            || {
                let shell = std::process::Command::new("sh").args(["-c", "echo $MULTIPROC_A"]).output().unwrap();
                (var("MULTIPROC_A"), var("MULTIPROC_B"), var("PATH").is_some(), shell.stdout, std::env::vars_os().count())
            },
            (),
        );
        let child = child.env("MULTIPROC_A", "one=1").envs([("MULTIPROC_B", "")]).env_remove("MULTIPROC_C");
        let (a, b, path, shell, count) = child.start_method(method).start().unwrap().join().unwrap();
        assert_eq!((a.as_deref(), b.as_deref(), path, &shell[..]), (Some("one=1"), Some(""), true, &b"one=1\n"[..]));
        assert_eq!(count, own + 2);

        let list = || std::env::vars().collect::<Vec<_>>();
        let cleared = Process::new(list, ()).env("LOST", "1").env_clear().env("KEPT", "2").start_method(method);
        assert_eq!(cleared.start().unwrap().join().unwrap(), [("KEPT".to_string(), "2".to_string())]);
        let removed = Process::new(|| var("PATH"), ()).env_remove("PATH").start_method(method);
        assert_eq!(removed.start().unwrap().join().unwrap(), None);
        // No other process has it.
        assert_eq!(Process::new(|| var("MULTIPROC_A"), ()).start_method(method).start().unwrap().join().unwrap(), None);
        assert_eq!(var("MULTIPROC_A"), None);
    }

    fn invalid_variable(method) {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A", "x\0y"), ("A\0", "")] {
            let error = Process::new(|| (), ()).name("p").env(name, value).start_method(method).start().unwrap_err();
            assert!(matches!(&error, StartError::Io { process, .. } if process == "p"), "{error}");
            assert!(error.to_string().contains("environment variable"), "{error}");
        }
    }

    fn current_directory(method) {
        let scratch = Scratch::new();
        let here = || std::env::current_dir().unwrap();
        let directory = std::fs::canonicalize(scratch.path(".")).unwrap();
        let child = Process::new(here, ()).current_dir(&directory).start_method(method);
        assert_eq!(child.start().unwrap().join().unwrap(), directory);
        let error = Process::new(here, ()).name("p").current_dir(scratch.path("none")).start_method(method).start();
        let error = error.unwrap_err();
        assert!(matches!(&error, StartError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound));
        assert!(error.to_string().starts_with("cannot start p: the current directory"), "{error}");
        assert!(error.to_string().contains("none"), "{error}");
    }

    fn stdio_files(method) {
        let scratch = Scratch::new();
        let [input, output, errors] = ["input", "output", "errors"].map(|name| scratch.path(name));
        std::fs::write(&input, "text in").unwrap();
        let child = Process::new(
            || {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).unwrap();
                println!("out: {text}");
                eprintln!("err: {text}");
                std::process::Command::new("echo").arg("grandchild").status().unwrap();
            },
            (),
        );
        let child = child
            .stdin(File::open(&input).unwrap())
            .stdout(File::create(&output).unwrap())
            .stderr(File::create(&errors).unwrap());
        child.start_method(method).start().unwrap().join().unwrap();
        assert_eq!(std::fs::read_to_string(output).unwrap(), "out: text in\ngrandchild\n");
        assert_eq!(std::fs::read_to_string(errors).unwrap(), "err: text in\n");
    }

    fn stdio_pipes(method) {
        let child = Process::new(
            || {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).unwrap();
                print!("{}", text.to_uppercase());
                text.len()
            },
            (),
        );
        let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).start_method(method);
        let mut child = child.start().unwrap();
        assert!(child.stderr.is_none());
        child.stdin.take().unwrap().write_all(b"shout").unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), child.join().unwrap()), ("SHOUT", 5));
    }

    fn stdio_closed(method) {
        let child = Process::new(
            || {
                println!("not read");
                std::io::stdin().read_to_string(&mut String::new()).unwrap()
            },
            (),
        );
        let child = child.stdin(Stdio::null()).stdout(Stdio::null()).start_method(method);
        assert_eq!(child.start().unwrap().join().unwrap(), 0);
    }

    fn join_with_output(method) {
        let child = Process::new(
            || {
                std::io::stdin().read_to_string(&mut String::new()).unwrap();
                std::io::stdout().write_all(&[b'o'; 300_000]).unwrap();
                std::io::stderr().write_all(&[b'e'; 300_000]).unwrap();
                "done".to_string()
            },
            (),
        );
        let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).start_method(method);
        let (value, out, err) = child.start().unwrap().join_with_output();
        assert_eq!((value.unwrap().as_str(), out.len(), err.len()), ("done", 300_000, 300_000));
        assert!(out.iter().all(|byte| *byte == b'o') && err.iter().all(|byte| *byte == b'e'));
    }

    fn scheduling(method) {
        let child = Process::new(
            || {
                // SAFETY: the calls take only numbers.
                let (niceness, group) = unsafe { (libc::getpriority(libc::PRIO_PROCESS, 0), libc::getpgid(0)) };
                (niceness, group == std::process::id() as i32, multiproc::cpu_count())
            },
            (),
        );
        let child = child.nice(7).process_group(0).cpu_affinity([0]).start_method(method);
        assert_eq!(child.start().unwrap().join().unwrap(), (7, true, 1));

        let error = Process::new(|| (), ()).cpu_affinity([1000]).start_method(method).start().unwrap_err();
        assert!(error.to_string().contains("affinity"), "{error}");
        let error = Process::new(|| (), ()).process_group(i32::MAX).start_method(method).start().unwrap_err();
        assert!(error.to_string().contains("process group"), "{error}");
    }

    fn process_group(method) {
        let child = Ends(Process::new(sleep_long, ()).process_group(0).start_method(method).start().unwrap());
        // SAFETY: the call takes only numbers.
        assert_eq!(unsafe { libc::getpgid(child.pid()) }, child.pid());
        let joiner = Process::new(|| (), ()).process_group(child.pid()).start_method(method);
        joiner.start().unwrap().join().unwrap();
    }

    fn resource_limits(method) {
        let child = Process::new(
            || {
                // SAFETY: the pointer is to a local structure.
                let limit = unsafe {
                    let mut limit: libc::rlimit = std::mem::zeroed();
                    libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
                    limit
                };
                let files: Vec<_> = (0..100).map_while(|_| File::open("/dev/null").ok()).collect();
                (limit.rlim_cur, limit.rlim_max, files.len() < 20)
            },
            (),
        );
        let child = child.rlimit(Resource::OpenFiles, 20, 30).rlimit(Resource::CoreFile, 0, 0);
        assert_eq!(child.start_method(method).start().unwrap().join().unwrap(), (20, 30, true));

        let error = Process::new(|| (), ()).rlimit(Resource::OpenFiles, 30, 20).start_method(method).start().unwrap_err();
        assert!(error.to_string().contains("limit OpenFiles"), "{error}");
    }

    fn cpu_time_limit(method) {
        let child = Process::new(
            || {
                let mut n = 0_u64;
                while std::hint::black_box(n) < u64::MAX {
                    n += 1;
                }
            },
            (),
        );
        let child = child.rlimit(Resource::CpuTime, 1, 2).start_method(method).start().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGXCPU));
    }

    fn memory_limit(method) {
        const LIMIT: u64 = 256 << 20;
        let greedy = |bytes: usize| std::hint::black_box(vec![1_u8; bytes]).iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let enough = Process::new(greedy, (32 << 20,)).memory_limit(LIMIT).start_method(method).start().unwrap();
        assert_eq!(enough.join().unwrap(), 32 << 20);

        let child = Process::new(greedy, (1 << 30,)).name("greedy").memory_limit(LIMIT).start_method(method).start().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGABRT));
        let error = child.join().unwrap_err();
        assert!(matches!(error.kind(), JoinErrorKind::MemoryLimit { limit: LIMIT }), "{error}");
        assert_eq!(error.to_string(), "greedy needed more memory than its limit of 256 MiB");
    }

    fn memory_limit_with_thread(method) {
        let child = Process::new(
            || {
                let thread = std::thread::spawn(|| {
                    let mut list = std::collections::LinkedList::new();
                    loop {
                        list.push_back([1_u8; 1000]);
                    }
                });
                thread.join().unwrap()
            },
            (),
        );
        let child = child.memory_limit(128 << 20).start_method(method).start().unwrap();
        let error = child.join().unwrap_err();
        assert!(matches!(error.kind(), JoinErrorKind::MemoryLimit { .. }), "{error}");
    }

    fn memory_limit_in_c_code(method) {
        let child = Process::new(
            || {
                // SAFETY: none: the unsound write is what is tested.
                unsafe {
                    let memory = std::hint::black_box(libc::malloc(1 << 30)).cast::<u8>();
                    memory.write_volatile(1);
                }
            },
            (),
        );
        let child = child.memory_limit(128 << 20).start_method(method).start().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGSEGV));
        let error = child.join().unwrap_err();
        assert!(matches!(error.kind(), JoinErrorKind::MemoryLimit { .. }), "{error}");
    }

    fn other_deaths_under_memory_limit(method) {
        let ways: [fn(); 3] = [
            || std::process::abort(),
            || {
                // SAFETY: none: the write through a null pointer is intended to crash.
                unsafe { std::hint::black_box(std::ptr::null_mut::<u8>()).write_volatile(1) }
            },
            || {
                // The allocation is refused, and the program handles that.
                assert!(Vec::<u8>::new().try_reserve(1 << 40).is_err());
            },
        ];
        let signals = ways.map(|way| {
            let child = Process::new(way, ()).memory_limit(128 << 20).start_method(method).start().unwrap();
            match child.join() {
                Ok(()) => 0,
                Err(error) => error.signal().unwrap_or_else(|| panic!("{error}")),
            }
        });
        assert_eq!(signals, [libc::SIGABRT, libc::SIGSEGV, 0]);
    }

    fn exit_closes_piped_stdin(method) {
        let parent = Process::new(
            |method: StartMethod| {
                let reader = Process::new(|| drop(std::io::stdin().read_to_string(&mut String::new())), ());
                let _child = reader.stdin(Stdio::piped()).start_method(method).start().unwrap();
                // Nothing is dropped.
                std::process::exit(5)
            },
            (method,),
        );
        let parent = Ends(parent.start().unwrap());
        assert_eq!(parent.wait_timeout(common::LONG).unwrap().expect("timed out").exit_code(), Some(5));
    }

    fn signal_under_memory_limit(method) {
        let child = Ends(Process::new(sleep_long, ()).memory_limit(256 << 20).start_method(method).start().unwrap());
        child.signal(libc::SIGABRT).unwrap();
        let status = child.wait_timeout(common::LONG).unwrap().expect("timed out");
        assert_eq!(status.signal(), Some(libc::SIGABRT));
    }

    fn forked_copy_under_memory_limit(method) {
        let child = Process::new(
            || {
                // SAFETY: the fork copy has one thread, and aborts.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    std::hint::black_box(vec![1_u8; 1 << 30]);
                }
                let mut status = 0;
                // SAFETY: the pointer is to a local variable.
                unsafe { libc::waitpid(pid, &raw mut status, 0) };
                libc::WTERMSIG(status)
            },
            (),
        );
        let child = child.memory_limit(256 << 20).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), libc::SIGABRT);
    }

    fn memory_limit_above_hard_limit(method) {
        // In a process with a hard limit itself.
        let limited = Process::new(
            |method: StartMethod| {
                let child = Process::new(|| (), ()).memory_limit(2 << 30).start_method(method);
                child.start().unwrap_err().to_string()
            },
            (method,),
        );
        let error = limited.rlimit(Resource::Data, 1 << 30, 1 << 30).start().unwrap().join().unwrap();
        assert!(error.contains("there is a lower limit"), "{error}");
    }

    fn not_inherited_by_siblings(method) {
        let scratch = Scratch::new();
        let all = Process::new(|| (), ()).env("MULTIPROC_A", "1").current_dir(scratch.path(".")).nice(3);
        all.cpu_affinity([0]).stdout(Stdio::null()).start_method(method).start().unwrap().join().unwrap();
        let seen = || {
            // SAFETY: the call takes only numbers.
            let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            (var("MULTIPROC_A"), std::env::current_dir().unwrap(), niceness, std::fs::read_link("/proc/self/fd/1").unwrap())
        };
        let next = Process::new(seen, ()).start_method(method).start().unwrap().join().unwrap();
        assert_eq!(next, seen());
    }

    fn seeds(method) {
        common::in_its_own_process(set_seeds, method);
    }
}

#[multiproc::test]
fn stdio_without_parent_streams() {
    let child = Process::new(
        || {
            // SAFETY: descriptors 0 to 2 of a process that uses none of them.
            (0..3).for_each(|fd| assert_eq!(unsafe { libc::close(fd) }, 0));
            [StartMethod::ForkServer, StartMethod::Spawn, StartMethod::Fork].map(|method| {
                let child = Process::new(|| println!("hello"), ()).stdout(Stdio::piped()).start_method(method);
                let (value, output, _) = child.start().unwrap().join_with_output();
                value.map(|()| output).map_err(|error| error.to_string())
            })
        },
        (),
    );
    assert_eq!(
        child.start().unwrap().join().unwrap(),
        [const { Ok::<_, String>(()) }; 3].map(|_| Ok(b"hello\n".to_vec()))
    );
}
