//! Scoped processes, which end together with a block of code.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::common::{Scratch, Unwilling, fifo, for_each_method, sleep_long};
use multiproc::process::{JoinErrorKind, ProcessHandle, Scope, ScopeError, StartError};
use multiproc::{Process, StartMethod, current_process, scope};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn exits(code: i32) {
    if code >= 0 {
        std::process::exit(code);
    }
}

fn sleeper(s: &Scope, method: StartMethod) -> multiproc::Result<ProcessHandle> {
    Ok(s.start(Process::new(sleep_long, ()).start_method(method))?.handle())
}

/// The failures' messages, sorted.
fn failures(result: Outcome) -> Vec<String> {
    let error = result.unwrap_err().downcast::<ScopeError>().unwrap();
    let mut failures: Vec<String> = error.failures().iter().map(|failure| failure.to_string()).collect();
    failures.sort();
    failures
}

for_each_method! {
    fn smoke(method) {
        let sum = scope(|s| -> Outcome<u32> {
            let a = s.start(Process::new(|a: u32| a * 2, (4,)).start_method(method))?;
            let b = s.start(Process::new(|b: u32| b * 3, (5,)).start_method(method))?;
            Ok(a.join()? + b.join()?)
        });
        assert_eq!(sum.unwrap(), 23);
    }

    fn waits_for_unjoined(method) {
        let scratch = Scratch::new();
        let (go, done) = (fifo(&scratch, "go"), scratch.path("done"));
        let mut handles = Vec::new();
        scope(|s| -> Outcome {
            let waits = |go: String, done: String| std::fs::write(done, std::fs::read(go).unwrap()).unwrap();
            let late = Process::new(waits, (go.clone(), done.clone())).outlive_parent(true);
            handles.push(s.start(late.start_method(method))?.handle());
            handles.push(s.start(Process::new(|go: String| std::fs::write(go, "go").unwrap(), (go.clone(),)).start_method(method))?.handle());
            Ok(())
        }).unwrap();
        assert!(handles.iter().all(|handle| !handle.is_alive()));
        assert_eq!(std::fs::read_to_string(done).unwrap(), "go");
    }

    fn error_ends_others(method) {
        let mut handles = Vec::new();
        let error = scope(|s| -> Outcome {
            handles.extend([sleeper(s, method)?, sleeper(s, method)?]);
            s.start(Process::new(exits, (3,)).start_method(method))?.join()?;
            unreachable!("it has no value");
        });
        assert!(error.unwrap_err().to_string().ends_with("exited with code 3 and no value"));
        assert!(handles.iter().all(|handle| handle.exit_code() == Some(-15)), "{handles:?}");
        // An error in a start does the same.
        let error = scope(|s| -> multiproc::Result<()> {
            handles.push(sleeper(s, method)?);
            Ok(s.spawn(|_: Unwilling| (), (Unwilling,)).map(drop)?)
        });
        assert!(matches!(error, Err(multiproc::Error::Start(StartError::Encode { .. }))), "{error:?}");
        assert_eq!(handles[2].exit_code(), Some(-15));
    }

    fn panic_ends_others(method) {
        let mut handles = Vec::new();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            scope(|s| -> Outcome {
                handles.extend([sleeper(s, method)?, sleeper(s, method)?]);
                std::panic::resume_unwind(Box::new("the body's own"));
            })
        }));
        assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"the body's own"));
        assert!(handles.iter().all(|handle| handle.exit_code() == Some(-15)), "{handles:?}");
    }

    fn kills_after_grace_period(method) {
        // In a process of its own, as the grace period is process-wide.
        let outer = Process::new(
            |method: StartMethod| {
                let scratch = Scratch::new();
                let ready = fifo(&scratch, "ready");
                // Enough for the other one to end, which may have to begin first.
                multiproc::process::set_grace_period(Duration::from_secs(1));
                let ignores = |ready: String| {
                    // SAFETY: no handler is installed or replaced.
                    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
                    std::fs::write(ready, "now").unwrap();
                    sleep_long();
                };
                let mut handles = Vec::new();
                let result = scope(|s| -> multiproc::Result<()> {
                    handles.push(s.start(Process::new(ignores, (ready.clone(),)).start_method(method))?.handle());
                    handles.push(sleeper(s, method)?);
                    std::fs::read(&ready).unwrap();
                    Err(StartError::Exiting { process: "p".into() }.into())
                });
                assert!(matches!(result, Err(multiproc::Error::Start(StartError::Exiting { .. }))));
                handles.iter().map(|handle| handle.exit_code().unwrap()).collect::<Vec<_>>()
            },
            (method,),
        );
        assert_eq!(outer.start().unwrap().join().unwrap(), [-9, -15]);
    }

    fn unseen_failures_are_reported(method) {
        let result = scope(|s| -> Outcome {
            s.start(Process::new(|| panic!("went wrong"), ()).name("a").start_method(method))?;
            s.start(Process::new(exits, (3,)).name("b").start_method(method))?;
            s.start(Process::new(std::process::abort, ()).name("c").start_method(method))?;
            s.start(Process::new(|| "x".parse::<u8>(), ()).name("d").start_method(method))?;
            s.start(Process::new(|| Unwilling, ()).name("e").start_method(method))?;
            // Not these: they succeeded, or their errors were seen.
            s.start(Process::new(exits, (0,)).start_method(method))?;
            s.start(Process::new(|| Ok::<u8, String>(1), ()).start_method(method))?;
            let seen = s.start(Process::new(|| panic!("seen"), ()).start_method(method))?;
            assert!(seen.join().is_err());
            let seen = s.start(Process::new(|| Err::<(), _>("seen".to_owned()), ()).start_method(method))?;
            assert_eq!(seen.join()?, Err("seen".to_owned()));
            Ok(())
        });
        let failures = failures(result);
        assert_eq!(failures.len(), 5, "{failures:?}");
        let expected = [
            "a panicked: went wrong",
            "b exited with code 3 and no value",
            "c was killed by SIGABRT",
            "d returned an error and was not joined",
            "e has a result that can't be sent: ",
        ];
        for (failure, expected) in failures.iter().zip(expected) {
            assert!(failure.starts_with(expected), "{failure}");
        }
    }

    fn requested_ends_are_no_failures(method) {
        let mut handles = Vec::new();
        scope(|s| -> Outcome {
            handles.extend([sleeper(s, method)?, sleeper(s, method)?, sleeper(s, method)?]);
            handles[0].kill()?;
            handles[1].terminate()?;
            handles[2].signal(libc::SIGUSR1)?;
            Ok(())
        })
        .unwrap();
        let result = scope(|s| -> Outcome {
            let child = sleeper(s, method)?;
            // SAFETY: the process is a child that has not been reaped.
            assert_eq!(unsafe { libc::kill(child.pid(), libc::SIGKILL) }, 0);
            Ok(())
        });
        assert!(failures(result)[0].ends_with("was killed by SIGKILL"));
    }

    fn daemons_end_last(method) {
        let scratch = Scratch::new();
        let (ask, done) = (fifo(&scratch, "ask"), scratch.path("done"));
        let mut daemon = None;
        scope(|s| -> Outcome {
            let helper = |ask: String| {
                std::fs::read(ask).unwrap();
                sleep_long();
            };
            let worker = |ask: String, done: String| {
                std::fs::write(ask, "help").unwrap();
                std::fs::write(done, "done").unwrap();
            };
            daemon = Some(s.start(Process::new(helper, (ask.clone(),)).daemon(true).start_method(method))?.handle());
            s.start(Process::new(worker, (ask.clone(), done.clone())).start_method(method))?;
            Ok(())
        })
        .unwrap();
        assert_eq!(daemon.unwrap().exit_code(), Some(-15));
        assert_eq!(std::fs::read_to_string(done).unwrap(), "done", "the worker had its helper");
    }

    fn in_a_daemon(method) {
        let daemon = Process::new(
            |method| {
                let mut child = None;
                let result = scope(|s| -> multiproc::Result<()> {
                    child = Some(s.start(Process::new(|| assert!(!current_process().daemon()), ()).start_method(method))?);
                    Ok(())
                });
                assert!(current_process().daemon());
                (result.is_ok(), child.unwrap().exit_code())
            },
            (method,),
        );
        assert_eq!(daemon.daemon(true).start().unwrap().join().unwrap(), (true, Some(0)));
    }

    fn children_outlive_the_scope(method) {
        let children = scope(|s| -> Outcome<Vec<_>> {
            Ok((0..4_u32).map(|n| s.start(Process::new(|n: u32| n * n, (n,)).start_method(method))).collect::<Result<_, _>>()?)
        });
        let children = children.unwrap();
        assert!(children.iter().all(|child| !child.is_alive()));
        let values: Vec<u32> = children.into_iter().map(|child| child.join().unwrap()).collect();
        assert_eq!(values, [0, 1, 4, 9]);
    }

    fn nested(method) {
        fn tree(depth: u32, method: StartMethod) -> u32 {
            let below = scope(|s| -> Outcome<u32> {
                if depth == 0 {
                    return Ok(0);
                }
                let left = s.start(Process::new(tree, (depth - 1, method)).start_method(method))?;
                let right = scope(|s| -> Outcome<u32> {
                    Ok(s.start(Process::new(tree, (depth - 1, method)).start_method(method))?.join()?)
                })?;
                Ok(left.join()? + right)
            });
            below.unwrap() + 1
        }
        assert_eq!(tree(2, method), 7);
    }

    fn threads(method) not_fork {
        let children = scope(|s| -> Outcome<Vec<_>> {
            Ok(std::thread::scope(|threads| {
                let start = |n: u32| threads.spawn(move || s.start(Process::new(|n: u32| n, (n,)).start_method(method)).unwrap());
                let threads: Vec<_> = (0..8).map(start).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            }))
        });
        let values: Vec<u32> = children.unwrap().into_iter().map(|child| child.join().unwrap()).collect();
        assert_eq!(values, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    fn many(method) {
        // Handles of processes that ended long ago must not use up the descriptors, and their
        // outcomes must be kept.
        let outer = Process::new(
            |method| {
                let limit = libc::rlimit { rlim_cur: 80, rlim_max: 80 };
                // SAFETY: the pointer is to a local structure.
                assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
                let mut kept = Vec::new();
                let result = scope(|s| -> Outcome {
                    for n in 0..200 {
                        let code = if n % 50 == 7 { 9 } else { 0 };
                        let child = s.start(Process::new(exits, (code,)).name(n.to_string()).start_method(method))?;
                        child.wait()?;
                        if n == 57 {
                            kept.push(child);
                        }
                    }
                    // It can still be joined, however many others have come since.
                    assert!(kept.remove(0).join().is_err());
                    Ok(())
                });
                failures(result)
            },
            (method,),
        );
        let failed = ["107", "157", "7"].map(|name| format!("{name} exited with code 9 and no value"));
        assert_eq!(outer.start().unwrap().join().unwrap(), failed);
    }

    fn forked_copy(method) {
        let outer = Process::new(
            |method| {
                scope(|s| -> Outcome<(i32, bool)> {
                    let child = sleeper(s, method)?;
                    // SAFETY: this process has one thread.
                    let copy = unsafe { libc::fork() };
                    if copy == 0 {
                        return Err("the copy leaves early".into());
                    }
                    let mut status = 0;
                    // SAFETY: the pointer is to a local variable.
                    unsafe { libc::waitpid(copy, &raw mut status, 0) };
                    let alive = child.is_alive();
                    child.kill()?;
                    Ok((libc::WEXITSTATUS(status), alive))
                })
                .unwrap_or_else(|_| {
                    // SAFETY: the call ends the process.
                    unsafe { libc::_exit(5) }
                })
            },
            (method,),
        );
        assert_eq!(outer.start().unwrap().join().unwrap(), (5, true));
    }
}

#[multiproc::test]
fn spawn() {
    fn largest<T: Ord>(list: Vec<T>) -> Option<T> {
        list.into_iter().max()
    }
    let result = scope(|s| -> Outcome<_> {
        let (a, b) = (s.spawn(largest::<u32>, (vec![3, 5, 4],))?, s.spawn(|| "b".parse::<char>(), ())?);
        Ok((a.join()?, b.join()??))
    });
    assert_eq!(result.unwrap(), (Some(5), 'b'));
}

#[multiproc::test]
fn error_conversion() {
    let result = scope(|s| -> multiproc::Result<()> {
        s.start(Process::new(exits, (2,)).name("p"))?;
        Ok(())
    });
    let error = result.unwrap_err();
    assert_eq!(error.to_string(), "a process of the scope failed: p exited with code 2 and no value");
    let multiproc::Error::Scope(error) = error else { panic!("{error}") };
    assert!(matches!(error.into_failures()[0].kind(), JoinErrorKind::Exited(2)));
    assert_eq!(scope(|_| Ok::<_, ScopeError>(5)).unwrap(), 5);
}
