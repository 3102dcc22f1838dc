//! Awaiting processes, on tokio and on other executors. With the feature `tokio` other code runs,
//! and must give the same results.

use std::future::IntoFuture;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::common::{self, Ends, LONG, Scratch, fifo, for_each_method, sleep_long};
use futures::executor::block_on;
use futures::future::{Either, join_all, select};
use futures::stream::{FuturesUnordered, StreamExt};
use multiproc::process::{JoinFuture, Stdio, WaitFuture};
use multiproc::{Process, StartMethod};
use tokio::runtime::{Builder, Runtime};

fn sleeper(method: StartMethod) -> Ends<()> {
    Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap())
}

/// Awaits processes in tasks of the runtime.
fn await_in(runtime: Runtime, method: StartMethod) {
    runtime.block_on(async {
        let child = Process::new(|a: u32| a + 1, (1,)).start_method(method).start().unwrap();
        let status = (&child).await.unwrap();
        assert!(status.success() && status.max_rss().is_some());
        let value = tokio::spawn(child.into_future());
        let slow = sleeper(method);
        let ended = tokio::spawn((&slow.0).into_future());
        assert_eq!(value.await.unwrap().unwrap(), 2);
        slow.signal(libc::SIGKILL).unwrap();
        assert_eq!(ended.await.unwrap().unwrap().exit_code(), Some(-9));
    });
}

/// Polls once and expects `Pending`: from now on the future waits for the process.
fn poll_pending<F: Future + Unpin>(future: &mut F, waker: &Waker) {
    assert!(pin!(future).poll(&mut Context::from_waker(waker)).is_pending());
}

/// Counts how often it has been woken, and sends a message each time.
struct WakeCounter {
    times: AtomicUsize,
    sender: mpsc::Sender<()>,
}

impl WakeCounter {
    fn new() -> (Arc<WakeCounter>, mpsc::Receiver<()>) {
        let (sender, receiver) = mpsc::channel();
        (Arc::new(WakeCounter { times: AtomicUsize::new(0), sender }), receiver)
    }
}

impl Wake for WakeCounter {
    fn wake(self: Arc<WakeCounter>) {
        self.times.fetch_add(1, SeqCst);
        let _ = self.sender.send(());
    }
}

/// The signal masks of the threads of this process that wait on behalf of futures.
fn watchers() -> Vec<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok());
    let watchers = statuses.filter(|status| status.starts_with("Name:\tmultiproc-async\n"));
    watchers
        .map(|status| {
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap()
        })
        .collect()
}

for_each_method! {
    fn smoke(method) not_fork {
        let test = async {
            let child = Process::new(|a: u64, b: u64| a * b, (6, 7)).start_method(method).start().unwrap();
            assert_eq!(child.await.unwrap(), 42);
            let child = Process::new(|| vec![1_u8; 300_000], ()).start_method(method).start().unwrap();
            assert_eq!(child.await.unwrap().len(), 300_000);
            // As with `join`, the child's input ends.
            let lines = Process::new(|| std::io::stdin().lines().count(), ()).stdin(Stdio::piped());
            assert_eq!(lines.start_method(method).start().unwrap().await.unwrap(), 0);
            let child = Process::new(|| if true { panic!("no") }, ()).name("p").start_method(method).start().unwrap();
            let error = child.await.unwrap_err();
            assert!(error.is_panic() && error.process() == "p", "{error}");
        };
        block_on(test);
    }

    fn tokio_runtimes(method) not_fork {
        await_in(Builder::new_current_thread().enable_all().build().unwrap(), method);
        await_in(Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(), method);
    }

    fn tokio_runtimes_without_io(method) not_fork {
        // In a process of its own: once a runtime without I/O has been seen, no runtime is tried
        // again.
        let outer = Process::new(
            |method| {
                await_in(Builder::new_current_thread().enable_time().build().unwrap(), method);
                await_in(Builder::new_multi_thread().worker_threads(2).build().unwrap(), method);
                await_in(Builder::new_current_thread().enable_all().build().unwrap(), method);
            },
            (method,),
        );
        outer.start().unwrap().join().unwrap();
    }

    fn many_waiters(method) {
        let child = sleeper(method);
        let handle = child.handle();
        let futures: Vec<WaitFuture> = (0..8).map(|_| (&handle).into_future()).collect();
        let (counter, _) = WakeCounter::new();
        let waker = Waker::from(counter);
        let mut dropped: Vec<WaitFuture> = (0..8).map(|_| handle.clone().into_future()).collect();
        dropped.iter_mut().for_each(|future| poll_pending(future, &waker));
        let kill = async { drop(dropped); child.signal(libc::SIGKILL).unwrap() };
        let (statuses, ()) = block_on(async { futures::join!(join_all(futures), kill) });
        assert!(statuses.into_iter().all(|status| status.unwrap().exit_code() == Some(-9)));
    }

    fn dropped_future(method) not_fork {
        let scratch = Scratch::new();
        let fifo = fifo(&scratch, "go");
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let reads = |fifo: String| std::fs::read_to_string(fifo).unwrap();
            let child = Process::new(reads, (fifo.clone(),)).start_method(method).start().unwrap();
            for _ in 0..3 {
                assert!(tokio::time::timeout(Duration::from_millis(5), &child).await.is_err());
            }
            match select((&child).into_future(), pin!(tokio::time::sleep(Duration::from_millis(5)))).await {
                Either::Left((status, _)) => panic!("the child ended early: {status:?}"),
                Either::Right(((), waiting)) => {
                    std::fs::write(&fifo, "still here").unwrap();
                    assert!(waiting.await.unwrap().success());
                }
            }
            assert_eq!(child.await.unwrap(), "still here");
            // Dropping the future of a child by value is like dropping the child: the process
            // continues.
            let other = Process::new(sleep_long, ()).start_method(method).start().unwrap();
            let handle = other.handle();
            let mut join = other.into_future();
            poll_pending(&mut join, Waker::noop());
            drop(join);
            assert!(handle.is_alive());
            handle.kill().unwrap();
        });
    }

    fn last_waker_is_woken(method) {
        let child = sleeper(method);
        let ((first, _), (second, woken)) = (WakeCounter::new(), WakeCounter::new());
        let mut future = (&child.0).into_future();
        poll_pending(&mut future, &first.clone().into());
        let second = Waker::from(second);
        poll_pending(&mut future, &second);
        child.signal(libc::SIGKILL).unwrap();
        // It is woken; sometimes without need.
        let status = loop {
            woken.recv_timeout(LONG).unwrap();
            if let Poll::Ready(status) = pin!(&mut future).poll(&mut Context::from_waker(&second)) {
                break status.unwrap();
            }
        };
        assert_eq!(status.exit_code(), Some(-9));
        assert_eq!(first.times.load(SeqCst), 0, "it has been replaced");
    }

    fn ended_is_ready(method) {
        let child = Process::new(|| 5, ()).start_method(method).start().unwrap();
        child.wait().unwrap();
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!((&child).into_future()).poll(&mut context).is_ready());
        assert!(pin!(child.handle().into_future()).poll(&mut context).is_ready());
        assert!(matches!(pin!(child.into_future()).poll(&mut context), Poll::Ready(Ok(5))));
    }

    fn ignored_sigchld(method) {
        let outer = Process::new(
            |method| {
                // SAFETY: no handler is installed or replaced.
                unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
                let (child, value) = (sleeper(method), Process::new(|| 5, ()).start_method(method).start().unwrap());
                let mut future = (&child.0).into_future();
                poll_pending(&mut future, Waker::noop());
                child.signal(libc::SIGKILL).unwrap();
                block_on(future).unwrap();
                block_on(value.into_future()).unwrap()
            },
            (method,),
        );
        assert_eq!(outer.start().unwrap().join().unwrap(), 5);
    }
}

#[multiproc::test]
fn send_and_sync() {
    fn check<T: Send + Unpin + std::fmt::Debug + 'static>() {}
    check::<WaitFuture>();
    // Regardless of the value's type: the value is created only at the end.
    check::<JoinFuture<std::rc::Rc<u8>>>();
}

#[multiproc::test]
fn futures_unordered() {
    // Each completes on its own, in the order of the ends, not of the starts.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let children: Vec<_> = (0..100).map(|_| sleeper(StartMethod::ForkServer)).collect();
        let mut futures: FuturesUnordered<_> = children
            .iter()
            .enumerate()
            .map(|(index, child)| async move { ((&child.0).await.unwrap().exit_code(), index) })
            .collect();
        for index in [99, 0, 50, 7] {
            assert!(matches!(futures::poll!(futures.next()), Poll::Pending));
            children[index].signal(libc::SIGTERM).unwrap();
            assert_eq!(futures.next().await, Some((Some(-15), index)));
        }
        children.iter().for_each(|child| child.signal(libc::SIGKILL).unwrap());
        assert_eq!(futures.count().await, 96);
    });
}

#[multiproc::test]
fn outlives_runtime() {
    let child = sleeper(StartMethod::ForkServer);
    let mut future = (&child.0).into_future();
    let first = Builder::new_current_thread().enable_all().build().unwrap();
    first.block_on(async { assert!(matches!(futures::poll!(&mut future), Poll::Pending)) });
    drop(first);
    poll_pending(&mut future, Waker::noop());
    child.signal(libc::SIGKILL).unwrap();
    assert_eq!(block_on(future).unwrap().exit_code(), Some(-9));
}

#[multiproc::test]
fn one_watcher_thread() {
    let outer = Process::new(
        || {
            assert_eq!(watchers().len(), 0);
            let wait = || async {
                for _ in 0..3 {
                    let children: Vec<_> = (0..10).map(|_| sleeper(StartMethod::ForkServer)).collect();
                    let mut all = join_all(children.iter().map(|child| (&child.0).into_future()));
                    assert!(matches!(futures::poll!(&mut all), Poll::Pending));
                    children.iter().for_each(|child| child.signal(libc::SIGKILL).unwrap());
                    all.await;
                }
            };
            Builder::new_current_thread().enable_io().build().unwrap().block_on(wait());
            let on_tokio = watchers().len();
            block_on(wait());
            (on_tokio, watchers())
        },
        (),
    );
    let (on_tokio, watchers) = outer.start().unwrap().join().unwrap();
    assert_eq!(on_tokio, if cfg!(feature = "tokio") { 0 } else { 1 });
    assert_eq!(watchers.len(), 1);
    // These can be blocked, and are not the C library's own.
    let wanted = [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD, libc::SIGUSR1].map(|signal| 1_u64 << (signal - 1));
    assert!(wanted.iter().all(|bit| watchers[0] & bit != 0), "{:x}", watchers[0]);
}

#[multiproc::test]
fn open_file_limit() {
    let outer = Process::new(
        || {
            let child = sleeper(StartMethod::ForkServer);
            let value = Process::new(sleep_long, ()).start().unwrap();
            let handle = value.handle();
            let set = |soft: u64| {
                let limit = libc::rlimit { rlim_cur: soft, rlim_max: 4096 };
                // SAFETY: the pointer is to a local structure.
                assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
            };
            set(3);
            let errors = [
                block_on((&child.0).into_future()).unwrap_err().to_string(),
                block_on(value.into_future()).unwrap_err().to_string(),
            ];
            set(4096);
            handle.kill().unwrap();
            let mut future = (&child.0).into_future();
            poll_pending(&mut future, Waker::noop());
            child.signal(libc::SIGKILL).unwrap();
            (errors, block_on(future).unwrap().exit_code())
        },
        (),
    );
    let (errors, code) = outer.start().unwrap().join().unwrap();
    assert!(errors.iter().all(|error| error.contains("Too many open files")), "{errors:?}");
    assert_eq!(code, Some(-9));
}

#[multiproc::test]
fn drops() {
    let outer = Process::new(
        || {
            // A standby has descriptors in this process, and comes and goes.
            multiproc::process::set_standby(false);
            let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let round = async |waker: &Waker| {
                let child = sleeper(StartMethod::ForkServer);
                let mut futures = [(&child.0).into_future(), (&child.0).into_future()];
                futures.iter_mut().for_each(|future| poll_pending(future, waker));
                let [first, second] = futures;
                drop(first);
                child.signal(libc::SIGKILL).unwrap();
                second.await.unwrap();
            };
            let rounds = async |waker: &Waker| {
                for _ in 0..20 {
                    round(waker).await;
                }
            };
            let (counter, _) = WakeCounter::new();
            let waker = Waker::from(counter.clone());
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(round(&waker));
            block_on(round(&waker));
            let before = descriptors();
            runtime.block_on(rounds(&waker));
            block_on(rounds(&waker));
            // The watcher thread may still have what it has been woken for.
            common::time_until(|| descriptors() <= before);
            drop(runtime);
            drop(waker);
            common::time_until(|| Arc::strong_count(&counter) == 1);
        },
        (),
    );
    outer.start().unwrap().join().unwrap();
}

#[multiproc::test]
fn panicking_waker() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Panics>) {
            panic!("an executor's own fault");
        }
    }
    let outer = Process::new(
        || {
            std::panic::set_hook(Box::new(|_| ()));
            let children = [sleeper(StartMethod::ForkServer), sleeper(StartMethod::ForkServer)];
            let mut futures = [(); 2].map(|()| (&children[0].0).into_future());
            futures.iter_mut().for_each(|future| poll_pending(future, &Arc::new(Panics).into()));
            for child in &children {
                let (counter, woken) = WakeCounter::new();
                let mut future = (&child.0).into_future();
                poll_pending(&mut future, &counter.into());
                child.signal(libc::SIGKILL).unwrap();
                woken.recv_timeout(LONG).unwrap();
            }
        },
        (),
    );
    outer.start().unwrap().join().unwrap();
}

/// epoll_wait(2), which only some processors have.
#[cfg(target_arch = "x86_64")]
const EPOLL_WAIT: libc::c_long = libc::SYS_epoll_wait;
#[cfg(not(target_arch = "x86_64"))]
const EPOLL_WAIT: libc::c_long = libc::SYS_epoll_pwait;

#[multiproc::test]
fn forked_copy() {
    let outer = Process::new(
        || {
            multiproc::process::set_standby(false);
            let child = sleeper(StartMethod::ForkServer);
            let handle = child.handle();
            let mut before = (&handle).into_future();
            poll_pending(&mut before, Waker::noop());
            // A thread that begins holds a lock of `std` for a moment.
            common::time_until(|| {
                std::fs::read_dir("/proc/self/task").unwrap().any(|task| {
                    let read =
                        |file| std::fs::read_to_string(task.as_ref().unwrap().path().join(file)).unwrap_or_default();
                    let waits = [libc::SYS_epoll_pwait, EPOLL_WAIT].map(|call| format!("{call} "));
                    read("comm").trim_end() == "multiproc-async"
                        && waits.iter().any(|call| read("syscall").starts_with(call))
                })
            });
            let (mut reader, writer) = std::io::pipe().unwrap();
            // SAFETY: the only other thread of this process sleeps, and holds no lock.
            let copy = unsafe { libc::fork() };
            if copy == 0 {
                let mut after = (&handle).into_future();
                poll_pending(&mut before, Waker::noop());
                poll_pending(&mut after, Waker::noop());
                std::io::Write::write_all(&mut &writer, b"x").unwrap();
                let ended = block_on(before).is_ok() && block_on(after).is_ok();
                // SAFETY: the call ends the process.
                unsafe { libc::_exit(if ended { 3 } else { 4 }) };
            }
            drop(writer);
            std::io::Read::read_exact(&mut reader, &mut [0]).unwrap();
            child.signal(libc::SIGKILL).unwrap();
            block_on(before).unwrap();
            let mut status = 0;
            // SAFETY: the pointer is to a local variable.
            unsafe { libc::waitpid(copy, &raw mut status, 0) };
            assert_eq!(libc::WEXITSTATUS(status), 3);
        },
        (),
    );
    let outer = Ends(outer.start().unwrap());
    let status = outer.wait_timeout(LONG).unwrap().expect("the fork copy hangs");
    assert_eq!(status.exit_code(), Some(0));
}

/// With the feature `tokio`, such a runtime reports by a panic that it has no I/O.
#[multiproc::test]
fn runtime_without_io() {
    fn wait_in_all_kinds() -> (bool, u32) {
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        std::panic::set_hook(Box::new(|_| {
            SEEN.fetch_add(1, SeqCst);
        }));
        let kinds: [fn(&mut Builder) -> &mut Builder; 5] =
            [|it| it, Builder::enable_all, |it| it, Builder::enable_time, Builder::enable_io];
        let mut sum = 0;
        for kind in kinds {
            for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
                let wait = async || {
                    let child = Process::new(
                        || {
                            std::thread::sleep(Duration::from_millis(5));
                            1
                        },
                        (),
                    )
                    .start()
                    .unwrap();
                    (&child).await.unwrap();
                    child.await.unwrap()
                };
                sum += kind(&mut builder).build().unwrap().block_on(async { wait().await + wait().await });
            }
        }
        // The panic hook is the previous one again.
        let quiet = SEEN.load(SeqCst) == 0;
        let _ = std::panic::catch_unwind(|| panic!("one that is seen"));
        (quiet && SEEN.load(SeqCst) == 1, sum)
    }
    let child = Process::new(wait_in_all_kinds, ()).stdout(Stdio::piped()).stderr(Stdio::piped()).start().unwrap();
    let (result, stdout, stderr) = child.join_with_output();
    assert_eq!(result.unwrap(), (true, 20));
    assert_eq!(
        (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap()),
        (String::new(), String::new())
    );
}
