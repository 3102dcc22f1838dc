//! Putting and getting in `async` code: on tokio, which with the feature `tokio` wakes the futures
//! itself, and on another executor.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use crate::common::{Ends, LONG, for_each_method, sleep_long};
use futures::executor::block_on;
use futures::future::{join, join_all};
use multiproc::queue::{Consumer, GetError, Producer, PutErrorKind};
use multiproc::{JoinableQueue, Process, Queue};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs the test on both executors. If it hangs, the harness ends it.
fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    block_on(test());
    runtime().block_on(async { tokio::time::timeout(LONG, test()).await.expect("timed out") });
}

fn double(numbers: Consumer<u64>, doubles: Producer<u64>) {
    for number in numbers.iter() {
        doubles.put(number.unwrap() * 2).unwrap();
    }
}

fn put_each(queue: Producer<u64>, from: u64, count: u64) {
    for number in from..from + count {
        block_on(queue.put_async(number)).unwrap();
    }
}

fn hold<T>(_it: T) {
    sleep_long();
}

fn take_and_hold(tasks: JoinableQueue<u64>, taken: Queue<u64>) {
    let task = tasks.get().unwrap();
    taken.put(*task).unwrap();
    sleep_long();
}

/// Counts how often it has been woken.
#[derive(Default)]
struct WakeCounter(AtomicUsize);

impl Wake for WakeCounter {
    fn wake(self: Arc<WakeCounter>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Polls once, and asserts that the future is pending.
macro_rules! poll_pending {
    ($future:expr) => {
        assert!($future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending())
    };
}

for_each_method! {
    fn smoke(method) not_fork {
        on_both(|| async {
            let (there, back) = (Queue::with_capacity(2).unwrap(), Queue::with_capacity(2).unwrap());
            let child = Process::new(double, (there.consumer(), back.producer())).start_method(method).start().unwrap();
            let (_child, numbers, doubles) = (Ends(child), there.producer(), back.consumer());
            drop((there, back));
            let putting = async {
                for number in 0..500 {
                    numbers.put_async(number).await.unwrap();
                }
                numbers.close();
            };
            let getting = async {
                for number in 0..500 {
                    assert_eq!(doubles.get_async().await.unwrap(), number * 2);
                }
                // The child has ended.
                assert!(matches!(doubles.get_async().await, Err(GetError::Disconnected)));
            };
            join(putting, getting).await;
        });
    }

    fn mpmc(method) not_fork {
        on_both(|| async {
            let queue = Queue::new().unwrap();
            let consumers: Vec<Consumer<u64>> = (0..8).map(|_| queue.consumer()).collect();
            let children: Vec<Ends<()>> = (0..3)
                .map(|child| Process::new(put_each, (queue.producer(), child * 1000, 300)).start_method(method))
                .map(|process| Ends(process.start().unwrap()))
                .collect();
            drop(queue);
            let all = consumers.iter().map(|consumer| async {
                let mut items = Vec::new();
                loop {
                    match consumer.get_async().await {
                        Ok(item) => items.push(item),
                        Err(error) if error.is_end() => return items,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
            let mut items = join_all(all).await.concat();
            items.sort_unstable();
            let expected: Vec<u64> = (0..3).flat_map(|child| child * 1000..child * 1000 + 300).collect();
            assert_eq!(items, expected);
            drop(children);
        });
    }

    fn killed_producer_wakes_consumer(method) not_fork {
        on_both(|| async {
            let queue = Queue::<u64>::new().unwrap();
            let child = Process::new(hold::<Producer<u64>>, (queue.producer(),)).start_method(method).start().unwrap();
            let (child, consumer) = (Ends(child), queue.consumer());
            drop(queue);
            let mut getting = pin!(consumer.get_async());
            poll_pending!(getting);
            child.kill().unwrap();
            assert!(matches!(getting.await, Err(GetError::Disconnected)));
        });
    }

    fn killed_consumer_wakes_producer(method) not_fork {
        on_both(|| async {
            let queue = Queue::with_capacity(1).unwrap();
            let child = Process::new(hold::<Consumer<u64>>, (queue.consumer(),)).start_method(method).start().unwrap();
            let (child, producer) = (Ends(child), queue.producer());
            drop(queue);
            producer.put_async(1).await.unwrap();
            let mut putting = pin!(producer.put_async(2));
            poll_pending!(putting);
            child.kill().unwrap();
            let (item, kind) = putting.await.unwrap_err().into_parts();
            assert!(item == 2 && matches!(kind, PutErrorKind::Disconnected), "{kind:?}");
        });
    }

    fn dropped_future(method) not_fork {
        on_both(|| async {
            let queue = Queue::with_capacity(2).unwrap();
            for _ in 0..20 {
                let mut getting = Box::pin(queue.get_async());
                poll_pending!(getting);
                drop(getting);
            }
            let child = Ends(Process::new(put_each, (queue.producer(), 1, 2)).start_method(method).start().unwrap());
            assert!(child.wait().unwrap().success());
            let other = queue.clone();
            let mut putting = Box::pin(queue.put_async(3));
            poll_pending!(putting);
            drop(putting);
            assert_eq!((queue.try_get().unwrap(), queue.try_get().unwrap()), (1, 2));
            assert!(matches!(queue.try_get(), Err(GetError::Empty)));
            // This process counts as one that may put.
            let mut getting = pin!(other.get_async());
            poll_pending!(getting);
            queue.put(4).unwrap();
            assert_eq!(getting.await.unwrap(), 4);
        });
    }

    fn killed_consumer_redelivers(method) not_fork {
        on_both(|| async {
            let (tasks, taken) = (JoinableQueue::new().unwrap(), Queue::new().unwrap());
            let arguments = (tasks.clone(), taken.clone());
            let child = Ends(Process::new(take_and_hold, arguments).start_method(method).start().unwrap());
            tasks.put_async(7).await.unwrap();
            assert_eq!(taken.get_async().await.unwrap(), 7);
            let mut getting = pin!(tasks.get_async());
            poll_pending!(getting);
            child.kill().unwrap();
            let task = getting.await.unwrap();
            assert_eq!((*task, task.deliveries()), (7, 2));
            task.task_done();
            tasks.join().unwrap();
        });
    }

    fn close_wakes_waiters(method) not_fork {
        on_both(|| async {
            let queue = Queue::<u64>::new().unwrap();
            let getting = join_all((0..4).map(|_| queue.get_async()));
            let closing = async {
                let close = |queue: Queue<u64>| queue.close();
                let child = Process::new(close, (queue.clone(),)).start_method(method).start().unwrap();
                (&child).await.unwrap();
            };
            let (results, ()) = join(getting, closing).await;
            assert!(results.iter().all(|result| matches!(result, Err(GetError::Closed))));
        });
    }
}

/// One thread, one handle that no other process has ever had.
#[multiproc::test]
fn one_thread() {
    on_both(|| async {
        let queue = Queue::new().unwrap();
        let (got, put) = join(queue.get_async(), async { queue.put_async(5).await }).await;
        put.unwrap();
        assert_eq!(got.unwrap(), 5);
    });
}

#[multiproc::test]
fn moved_between_threads() {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let queue = Queue::with_capacity(3).unwrap();
        let putting: Vec<_> = (0..4)
            .map(|_| {
                let producer = queue.producer();
                tokio::spawn(async move {
                    for number in 0..200_u64 {
                        producer.put_async(number).await.unwrap();
                    }
                })
            })
            .collect();
        let consumer = queue.consumer();
        drop(queue);
        let sum = tokio::spawn(async move {
            let mut sum = 0;
            for _ in 0..800 {
                sum += consumer.get_async().await.unwrap();
            }
            sum
        });
        for task in putting {
            task.await.unwrap();
        }
        assert_eq!(sum.await.unwrap(), 4 * (199 * 200 / 2));
    });
}

/// It isn't woken again and again while nothing happens.
#[multiproc::test]
fn waiting_future_is_not_polled() {
    let (queue, counter) = (Queue::<u64>::new().unwrap(), Arc::new(WakeCounter::default()));
    let other = queue.clone();
    let waker = Waker::from(counter.clone());
    let mut getting = pin!(queue.get_async());
    let poll = |future: std::pin::Pin<&mut _>| Future::poll(future, &mut Context::from_waker(&waker));
    assert!(poll(getting.as_mut()).is_pending());
    // Nothing is put, so there has been no wake-up by the time that the waking thread has handled
    // another event.
    block_on(async {
        let child = Process::new(|| (), ()).start().unwrap();
        (&child).await.unwrap();
    });
    assert_eq!(counter.0.load(SeqCst), 0);
    other.put(1).unwrap();
    while counter.0.load(SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert!(matches!(poll(getting.as_mut()), Poll::Ready(Ok(1))));
}

#[multiproc::test]
fn hundreds_of_futures() {
    // In a process of its own, as each future takes one or two descriptors.
    let child = Process::new(
        || {
            block_on(async {
                let (items, room) = (Queue::<u64>::new().unwrap(), Queue::<u64>::with_capacity(1).unwrap());
                room.put(0).unwrap();
                let getting = join_all((0..520).map(|_| items.get_async()));
                let putting = join_all((1..520).map(|number| room.put_async(number)));
                let helping = async {
                    for number in 0..520 {
                        items.put_async(number).await.unwrap();
                        room.get_async().await.unwrap();
                    }
                };
                let (got, (put, ())) = join(getting, join(putting, helping)).await;
                let mut got: Vec<u64> = got.into_iter().map(Result::unwrap).collect();
                got.sort_unstable();
                assert!(got.into_iter().eq(0..520));
                assert!(put.iter().all(Result::is_ok), "{:?}", put.iter().find(|put| put.is_err()));
            });
        },
        (),
    );
    let child = Ends(child.rlimit(multiproc::process::Resource::OpenFiles, 20_000, 20_000).start().unwrap());
    assert!(child.wait_timeout(LONG).unwrap().expect("timed out").success());
}
