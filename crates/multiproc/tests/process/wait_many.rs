//! Waiting for several processes at once.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::common::{Ends, LONG, for_each_method, sleep_long};
use multiproc::process::{ProcessHandle, WaitAllError};
use multiproc::{Child, Process, StartMethod, Waitable, active_children, wait_all, wait_any};

fn sleeper(method: StartMethod) -> Child<()> {
    Process::new(sleep_long, ()).start_method(method).start().unwrap()
}

fn exits(method: StartMethod, code: i32) -> Child<()> {
    let target = |code| {
        if code >= 0 {
            std::process::exit(code)
        }
    };
    Process::new(target, (code,)).start_method(method).start().unwrap()
}

/// A child that has ended, with a status that has not been requested yet.
fn ended(method: StartMethod, code: i32) -> Child<()> {
    let child = exits(method, code);
    assert!(multiproc_os::poll::wait_readable(&child, Some(Instant::now() + LONG)).unwrap());
    child
}

/// References to the elements, for [`wait_any`].
fn list<W: Waitable>(all: &[W]) -> Vec<&dyn Waitable> {
    all.iter().map(|one| one as _).collect()
}

fn set_descriptor_limit(soft: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are to the local structure.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = soft;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0, "the hard limit is {}", limit.rlim_max);
    }
}

for_each_method! {
    fn wait_any_smoke(method) {
        let children: Vec<_> = (0..5).map(|_| Ends(sleeper(method))).collect();
        let handles: Vec<ProcessHandle> = children.iter().map(|child| child.handle()).collect();
        let ready = Barrier::new(2);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                ready.wait();
                wait_any(&list(&handles), None).unwrap()
            });
            ready.wait();
            children[3].signal(libc::SIGTERM).unwrap();
            assert_eq!(waiter.join().unwrap(), [3]);
            assert_eq!(handles[3].exit_code(), Some(-15));
        });
        // A finished child is returned again, while the others run.
        assert_eq!(wait_any(&list(&handles), LONG).unwrap(), [3]);
        assert_eq!(handles.iter().filter(|handle| handle.is_alive()).count(), 4);
    }

    fn wait_any_order(method) {
        let running = Ends(sleeper(method));
        let (fresh, reaped) = (ended(method, 1), ended(method, 2));
        assert_eq!(reaped.wait().unwrap().exit_code(), Some(2));
        let given = |children: &[&Child<()>]| {
            let ended = wait_any(&list(children), None).unwrap();
            ended.into_iter().map(|index| (index, children[index].exit_code().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(given(&[&running, &reaped]), [(1, 2)]);
        assert_eq!(given(&[&reaped, &fresh]), [(0, 2), (1, 1)]);
        assert_eq!(given(&[&running, &fresh, &reaped]), [(1, 1), (2, 2)]);
        assert_eq!(given(&[&running, &reaped, &fresh]), [(1, 2), (2, 1)]);
    }

    fn timeouts(method) {
        let running = [Ends(sleeper(method)), Ends(sleeper(method))];
        let running = [&*running[0], &*running[1]];
        for timeout in [Duration::ZERO, Duration::from_micros(1500), Duration::from_millis(30)] {
            let start = Instant::now();
            assert!(wait_any(&list(&running), timeout).unwrap().is_empty());
            assert!(start.elapsed() >= timeout, "{:?} is less than {timeout:?}", start.elapsed());
            let start = Instant::now();
            assert!(matches!(wait_all(running, Some(timeout)), Err(WaitAllError::Timeout { .. })));
            assert!(start.elapsed() >= timeout, "{:?} is less than {timeout:?}", start.elapsed());
        }
        running[1].kill().unwrap();
        assert_eq!(wait_any(&list(&running), Duration::MAX).unwrap(), [1]);
        running[0].kill().unwrap();
        assert_eq!(wait_all(running, Duration::MAX).unwrap().len(), 2);
    }

    fn wait_all_order(method) {
        let children: Vec<Child<()>> = [3, 0, 7, 255].into_iter().map(|code| exits(method, code)).collect();
        let codes: Vec<_> = wait_all(&children, LONG).unwrap().iter().map(|status| status.exit_code().unwrap()).collect();
        assert_eq!(codes, [3, 0, 7, 255]);
    }

    fn wait_all_names_running(method) {
        let start = |name: String| Ends(Process::new(sleep_long, ()).name(name).start_method(method).start().unwrap());
        let mut running: Vec<_> = (0..12).map(|n| start(format!("runner {n}"))).collect();
        let done = ended(method, 0);
        let all = || running.iter().map(|child| child.handle()).chain([done.handle()]);
        let error = wait_all(all(), Duration::from_millis(2)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("12 of 13 processes still run after 2ms: runner 0, runner 1, "), "{text}");
        assert!(text.ends_with("runner 9 and 2 more"), "{text}");
        let WaitAllError::Timeout { running: named, of: 13, .. } = error else { panic!("{error}") };
        assert!(named.iter().map(|handle| handle.pid()).eq(running.iter().map(|child| child.pid())));
        for child in &named {
            child.kill().unwrap();
        }
        assert_eq!(wait_all(all(), LONG).unwrap().len(), 13);
        running.clear();
    }

    fn duplicates(method) {
        let (running, done) = (Ends(sleeper(method)), ended(method, 4));
        let many: Vec<&Child<()>> = std::iter::repeat_n(&*running, 100).chain(std::iter::repeat_n(&done, 100)).collect();
        assert_eq!(wait_any(&list(&many), LONG).unwrap(), (100..200).collect::<Vec<_>>());
        assert_eq!(done.exit_code(), Some(4));
        let statuses = wait_all(std::iter::repeat_n(&done, 100), LONG).unwrap();
        assert!(statuses.len() == 100 && statuses.iter().all(|status| status.exit_code() == Some(4)));
    }

    fn mixed_types(method) {
        let number = Process::new(|| 5, ()).start_method(method).start().unwrap();
        let text = Process::new(|| "five".to_owned(), ()).start_method(method).start().unwrap();
        assert_eq!(wait_all([number.handle(), text.handle()], LONG).unwrap().len(), 2);
        assert_eq!(wait_all([number.as_ref(), text.as_ref()], LONG).unwrap().len(), 2);
        let dynamic: [&dyn AsRef<ProcessHandle>; 3] = [&number, &text, &number.handle()];
        assert_eq!(wait_all(dynamic, LONG).unwrap().len(), 3);
        assert_eq!(wait_any(&[&number, &text.handle(), &text], LONG).unwrap(), [0, 1, 2]);
        assert_eq!((number.join().unwrap(), text.join().unwrap()), (5, "five".to_owned()));
    }

    fn active(method) {
        // In a process of its own, as this one also has the children of other tests.
        let outer = Process::new(
            |method| {
                let children: Vec<_> = (0..3).map(|code| exits(method, code)).collect();
                wait_all(active_children(), LONG).unwrap();
                assert!(active_children().is_empty());
                children.iter().map(|child| child.exit_code().unwrap()).collect::<Vec<_>>()
            },
            (method,),
        );
        assert_eq!(outer.start().unwrap().join().unwrap(), [0, 1, 2]);
    }

    fn ignored_sigchld(method) {
        let outer = Process::new(
            |method| {
                // SAFETY: no handler is installed or replaced.
                unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
                let running = Ends(sleeper(method));
                let children = [sleeper(method), sleeper(method), sleeper(method)];
                children[1].signal(libc::SIGKILL).unwrap();
                assert_eq!(wait_any(&[&*running, &children[0], &children[1]], LONG).unwrap(), [2]);
                for child in &children {
                    child.signal(libc::SIGKILL).unwrap();
                }
                assert_eq!(wait_all(&children, LONG).unwrap().len(), 3);
                assert!(wait_any(&[&running.0], Duration::ZERO).unwrap().is_empty());
            },
            (method,),
        );
        outer.start().unwrap().join().unwrap();
    }

    fn reaped_elsewhere(method) {
        let (running, child) = (Ends(sleeper(method)), ended(method, 9));
        // SAFETY: no status is requested.
        assert_eq!(unsafe { libc::waitpid(child.pid(), std::ptr::null_mut(), libc::__WALL) }, child.pid());
        assert_eq!(wait_any(&[&*running, &child], LONG).unwrap(), [1]);
        assert_eq!(wait_all([&child], LONG).unwrap().len(), 1);
    }

    fn open_file_limit(method) {
        // Regression: when the limit was below their number, only the first was waited for, however
        // many others ended.
        let outer = Process::new(
            |method| {
                let children: Vec<_> = (0..8).map(|_| Ends(sleeper(method))).collect();
                let handles: Vec<ProcessHandle> = children.iter().map(|child| child.handle()).collect();
                set_descriptor_limit(4);
                assert!(wait_any(&list(&handles), Duration::from_millis(10)).unwrap().is_empty());
                handles[6].signal(libc::SIGKILL).unwrap();
                let first = wait_any(&list(&handles), LONG).unwrap();
                let first = first.into_iter().map(|index| (index, handles[index].exit_code())).collect::<Vec<_>>();
                for handle in &handles {
                    handle.signal(libc::SIGKILL).unwrap();
                }
                (first, wait_all(&handles, LONG).unwrap().len())
            },
            (method,),
        );
        assert_eq!(outer.start().unwrap().join().unwrap(), (vec![(6, Some(-9))], 8));
    }

    fn many_threads(method) {
        let children = [Ends(sleeper(method)), Ends(sleeper(method)), Ends(sleeper(method))];
        let handles: Vec<ProcessHandle> = children.iter().map(|child| child.handle()).collect();
        let ready = Barrier::new(9);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (handles, ready) = (&handles, &ready);
                scope.spawn(move || {
                    ready.wait();
                    match thread % 2 {
                        0 => assert_eq!(wait_all(handles, None).unwrap().len(), 3),
                        _ => assert!(!wait_any(&list(handles), None).unwrap().is_empty()),
                    }
                });
            }
            ready.wait();
            for handle in &handles {
                handle.terminate().unwrap();
            }
        });
    }
}

#[multiproc::test]
fn empty() {
    assert!(wait_any(&[], None).unwrap().is_empty());
    assert!(wait_all([] as [ProcessHandle; 0], None).unwrap().is_empty());
}

#[multiproc::test]
fn thousand() {
    let outer = Process::new(
        || {
            set_descriptor_limit(4096);
            let mut children: Vec<Child<()>> = (0..1000).map(|_| sleeper(StartMethod::ForkServer)).collect();
            for index in [999, 500, 0] {
                children[index].signal(libc::SIGKILL).unwrap();
                assert_eq!(wait_any(&list(&children), LONG).unwrap(), [index]);
                children.swap_remove(index);
            }
            for child in &children {
                child.signal(libc::SIGTERM).unwrap();
            }
            for _ in 0..100 {
                let first = wait_any(&list(&children), LONG).unwrap()[0];
                assert_eq!(children.swap_remove(first).exit_code(), Some(-15));
            }
            let statuses = wait_all(&children, LONG).unwrap();
            assert!(statuses.iter().all(|status| status.exit_code() == Some(-15)));
            statuses.len()
        },
        (),
    );
    assert_eq!(outer.start().unwrap().join().unwrap(), 897);
}
