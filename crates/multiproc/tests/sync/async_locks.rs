//! Locks, mutexes, semaphores and events in `async` code: on tokio, with and without I/O and on
//! several threads, and on another executor.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::common::{self, Ends, LONG, for_each_method, switches, switches_at, time_until, until_nothing_wakes};
use crate::locks::{self, ends, start};
use crate::shared::{Numbers, kill, wait_asleep_in_futex};
use futures::executor::block_on;
use futures::future::{join, join_all};
use multiproc::sync::{
    BoundedSemaphore, Event, Lock, LockError, LockGuard, Misuse, Mutex, PoisonCause, Poisoned, Semaphore, WaitError,
};
use multiproc::{Process, Queue};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

/// The runtimes: on one thread and on two, with I/O and without.
fn runtimes() -> [Runtime; 4] {
    [
        Builder::new_current_thread().enable_all().build().unwrap(),
        Builder::new_current_thread().enable_time().build().unwrap(),
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
        Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap(),
    ]
}

/// Runs the test on each executor.
fn on_each<F: Future<Output = ()>>(test: impl Fn() -> F) {
    block_on(test());
    for runtime in runtimes() {
        runtime.block_on(async { tokio::time::timeout(LONG, test()).await.expect("timed out") });
    }
}

/// Polls the future once, and asserts that it is pending.
async fn poll_pending<F: Future>(mut future: Pin<&mut F>) {
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| match std::mem::replace(&mut has_yielded, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Counts how often it has been woken.
struct WakeCounter(AtomicUsize);

impl WakeCounter {
    fn new() -> Arc<WakeCounter> {
        Arc::new(WakeCounter(AtomicUsize::new(0)))
    }

    fn times(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Wake for WakeCounter {
    fn wake(self: Arc<WakeCounter>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// The number of threads of this process with this name.
fn threads(name: &str) -> usize {
    let names = std::fs::read_dir("/proc/self/task").unwrap();
    let names = names.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// How often the threads of this process have been switched out, voluntarily or not, except the
/// calling one.
fn switches_of_others() -> u64 {
    let this = multiproc_os::threads::gettid().to_string();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap());
    tasks.filter(|task| task.file_name() != *this).map(|task| switches_at(task.path())).sum()
}

/// Holds locks in another thread, which sets the first event when it has them all, until the second
/// is set.
fn hold_in_a_thread(locks: Vec<Lock>) -> (std::thread::JoinHandle<()>, Event, Event) {
    let (held, go) = (Event::new().unwrap(), Event::new().unwrap());
    let (say, wait) = (held.clone(), go.clone());
    let thread = std::thread::spawn(move || {
        let _guards: Vec<_> = locks.iter().map(|lock| lock.lock().unwrap()).collect();
        say.set();
        wait.wait().unwrap();
    });
    (thread, held, go)
}

/// How a process takes a lock, and how often.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Way {
    Blocking,
    Bare,
    Tokio,
    TokioThreads,
}

fn count_alone(lock: &Lock, numbers: &Numbers, turn: u32) {
    let _guard = lock.lock().unwrap();
    locks::count(numbers, turn);
}

async fn count_in_turn(lock: Lock, numbers: Numbers, times: u32) {
    for turn in 0..times {
        let guard = lock.lock_async().await.unwrap();
        locks::count(&numbers, turn);
        drop(guard);
    }
}

const TASKS: u32 = 4;
const TIMES: u32 = 500;

fn count_by(way: Way, lock: Lock, numbers: Numbers) {
    let tasks = || (0..TASKS).map(|_| count_in_turn(lock.clone(), numbers.clone(), TIMES));
    match way {
        Way::Blocking => (0..TASKS * TIMES).for_each(|turn| count_alone(&lock, &numbers, turn)),
        Way::Bare => drop(block_on(join_all(tasks()))),
        Way::Tokio => {
            let runtime = Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(join_all(tasks()));
        }
        Way::TokioThreads => {
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let tasks: Vec<_> = tasks().map(|task| runtime.spawn(task)).collect();
            runtime.block_on(async {
                for task in tasks {
                    task.await.unwrap();
                }
            });
        }
    }
}

fn hold(lock: Lock, holds: Event) {
    let _guard = block_on(lock.lock_async()).unwrap();
    holds.set();
    common::sleep_long();
}

fn poisoned<G>(result: Result<G, LockError<G>>) -> Poisoned<G> {
    match result {
        Err(LockError::Poisoned(poisoned)) => poisoned,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("no poison error"),
    }
}

/// Waits for the lock in this way, and returns the process that has died with it.
fn look(way: Way, lock: Lock, waits: Event) -> Option<i32> {
    let wait = async {
        let mut locking = pin!(lock.lock_async());
        poll_pending(locking.as_mut()).await;
        waits.set();
        let poisoned = poisoned(locking.await);
        assert_eq!(poisoned.cause(), PoisonCause::Died);
        poisoned.pid()
    };
    match way {
        Way::Blocking => unreachable!(),
        Way::Bare => block_on(wait),
        Way::Tokio => Builder::new_current_thread().build().unwrap().block_on(wait),
        Way::TokioThreads => Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(wait),
    }
}

fn hold_a_permit(semaphore: Semaphore, holds: Event) {
    let _permit = block_on(semaphore.acquire_async()).unwrap();
    holds.set();
    common::sleep_long();
}

fn acquire_and_say(semaphore: Semaphore, waits: Event) {
    block_on(async {
        let mut acquiring = pin!(semaphore.acquire_async());
        poll_pending(acquiring.as_mut()).await;
        waits.set();
        drop(acquiring.await.unwrap());
    });
}

fn answer(asked: Event, answered: Event) {
    block_on(async {
        asked.wait_async().await.unwrap();
        answered.set();
    });
}

for_each_method! {
    fn mutual_exclusion(method) {
        let (lock, numbers) = (Lock::new().unwrap(), Numbers::new());
        let ways = [Way::Blocking, Way::Bare, Way::Tokio, Way::TokioThreads];
        let children = ways.map(|way| start!(Process::new(count_by, (way, lock.clone(), numbers.clone())), method));
        children.iter().for_each(|child| ends(child));
        assert_eq!([0, 1].map(|index| numbers.at(index).load(SeqCst)), [u64::from(4 * TASKS * TIMES); 2]);
        assert!(!lock.is_locked() && !lock.is_poisoned());
    }

    fn poison_on_death(method) {
        let (lock, holds) = (Lock::new().unwrap(), Event::new().unwrap());
        let holder = start!(Process::new(hold, (lock.clone(), holds.clone())), method);
        holds.wait().unwrap();
        let waiters = [Way::Bare, Way::Tokio, Way::TokioThreads].map(|way| {
            let waits = Event::new().unwrap();
            let waiter = Process::new(look, (way, lock.clone(), waits.clone())).start_method(method).start().unwrap();
            waits.wait().unwrap();
            waiter
        });
        holder.kill().unwrap();
        let took = time_until(|| waiters.iter().all(|waiter| !waiter.is_alive()));
        println!("{took:?} from the kill to the end of the waiters");
        // Without a wake-up, the sleepers would check for themselves after a second.
        assert!(took < Duration::from_millis(900));
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Some(holder.pid()));
        }
        assert!(lock.is_poisoned() && !lock.is_locked());
    }

    fn killed_permit_holder(method) {
        let (semaphore, holds, waits) = (Semaphore::new(1).unwrap(), Event::new().unwrap(), Event::new().unwrap());
        let holder = start!(Process::new(hold_a_permit, (semaphore.clone(), holds.clone())), method);
        holds.wait().unwrap();
        let waiter = start!(Process::new(acquire_and_say, (semaphore.clone(), waits.clone())), method);
        waits.wait().unwrap();
        kill(&holder);
        ends(&waiter);
        assert_eq!(semaphore.available(), 1);
    }

    fn event(method) {
        let (asked, answered) = (Event::new().unwrap(), Event::new().unwrap());
        let child = start!(Process::new(answer, (asked.clone(), answered.clone())), method);
        let (others_asked, others_answer) = (Event::new().unwrap(), Event::new().unwrap());
        let other = start!(Process::new(answer, (others_asked.clone(), others_answer.clone())), method);
        asked.set();
        block_on(answered.wait_async()).unwrap();
        ends(&child);
        // No process is left that could set it.
        other.kill().unwrap();
        assert!(block_on(others_answer.wait_async()).unwrap_err().is_disconnected());
    }
}

fn take_and_say(lock: Lock, taken: Event) {
    drop(lock.lock().or_else(LockError::into_guard).unwrap());
    taken.set();
}

for_each_method! {
    // A wake-up goes on to the next waiter if it was meant for a future that is never polled again,
    // or for a process that is killed first.
    fn unused_wake_up_is_passed_on(method) {
        let lock = Lock::new().unwrap();
        for round in 0..10 {
            let guard = lock.lock().unwrap();
            let waits = Event::new().unwrap();
            let other = Process::new(hold_on, (lock.clone(), waits.clone(), round % 2 == 0));
            let other = start!(other, method);
            waits.wait().unwrap();
            let taken = Event::new().unwrap();
            let waiter = start!(Process::new(take_and_say, (lock.clone(), taken.clone())), method);
            wait_asleep_in_futex(waiter.pid());
            drop(guard);
            if round % 2 == 0 {
                // At any moment between the wake-up and the end.
                other.kill().unwrap();
            }
            let took = time_until(|| taken.is_set());
            assert!(took < Duration::from_millis(900), "the wake-up was lost: {took:?}");
            ends(&waiter);
            other.kill().unwrap();
            other.wait().unwrap();
            lock.clear_poison();
        }
    }
}

/// Waits by a future that is polled once, or polled again when it is woken.
fn hold_on(lock: Lock, waits: Event, again: bool) {
    let mut locking = pin!(lock.lock_async());
    let counter = WakeCounter::new();
    let waker = Waker::from(counter.clone());
    assert!(locking.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    // Its waiter thread sleeps on the futex word before anything else does.
    time_until(is_asleep_on_the_word);
    waits.set();
    if again {
        while counter.times() == 0 {
            std::thread::yield_now();
        }
        drop(block_on(locking));
    }
    common::sleep_long();
}

fn is_asleep_on_the_word() -> bool {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let calls =
        tasks.filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "multiproc-lock\n"));
    let calls: Vec<_> = calls.map(|task| std::fs::read_to_string(task.join("syscall")).unwrap_or_default()).collect();
    calls.iter().any(|call| {
        [libc::SYS_futex, libc::SYS_futex_waitv].iter().any(|number| call.starts_with(&format!("{number} ")))
    })
}

#[multiproc::test]
fn smoke() {
    on_each(|| async {
        let (lock, mutex) = (Lock::new().unwrap(), Mutex::new(7_u32).unwrap());
        drop(lock.lock_async().await.unwrap());
        *mutex.lock_async().await.unwrap() += 1;
        let guard = lock.lock().unwrap();
        let other = lock.clone();
        let waits = std::thread::spawn(move || block_on(async { drop(other.lock_async().await.unwrap()) }));
        let others = mutex.clone();
        let adds = std::thread::spawn(move || block_on(async { *others.lock_async().await.unwrap() += 1 }));
        adds.join().unwrap();
        drop(guard);
        waits.join().unwrap();
        assert_eq!(mutex.get().unwrap(), 9);
        assert!(!lock.is_locked());
    });
}

#[multiproc::test]
fn tasks_of_one_thread() {
    on_each(|| async {
        let (lock, inside, turns) = (Lock::new().unwrap(), AtomicUsize::new(0), AtomicUsize::new(0));
        let tasks = (0..20).map(|_| async {
            for _ in 0..20 {
                let guard = lock.lock_async().await.unwrap();
                assert_eq!(inside.fetch_add(1, SeqCst), 0);
                yield_now().await;
                inside.fetch_sub(1, SeqCst);
                turns.fetch_add(1, SeqCst);
                drop(guard);
                yield_now().await;
            }
        });
        join_all(tasks).await;
        assert_eq!(turns.into_inner(), 400);
    });
}

#[multiproc::test]
fn relock_by_thread() {
    on_each(|| async {
        let lock = Lock::new().unwrap();
        let guard = lock.lock().unwrap();
        let error = lock.lock_async().await.map(drop).unwrap_err();
        assert!(matches!(error, LockError::Misuse(Misuse::HeldHere("lock"))), "{error}");
        drop(guard);
        // And in the opposite order.
        let guard = lock.lock_async().await.unwrap();
        assert!(matches!(lock.lock(), Err(LockError::Misuse(Misuse::HeldHere("lock")))));
        drop(guard);
        drop(lock.lock().unwrap());
    });
}

#[multiproc::test]
fn poison_on_panic() {
    let lock = Lock::new().unwrap();
    let other = lock.clone();
    std::thread::spawn(move || {
        block_on(async {
            let _guard = other.lock_async().await.unwrap();
            panic!("panic on purpose");
        })
    })
    .join()
    .unwrap_err();
    on_each(|| async {
        let poisoned = poisoned(lock.lock_async().await);
        assert_eq!((poisoned.cause(), poisoned.pid()), (PoisonCause::Panicked, Some(std::process::id() as i32)));
        drop(poisoned.into_guard());
    });
    lock.clear_poison();
    on_each(|| async { drop(lock.lock_async().await.unwrap()) });
}

#[multiproc::test]
fn forgotten_guard() {
    on_each(|| async {
        let lock = Lock::new().unwrap();
        let (taken, go) = (Event::new().unwrap(), Event::new().unwrap());
        let (other, say, wait) = (lock.clone(), taken.clone(), go.clone());
        let thread = std::thread::spawn(move || {
            std::mem::forget(block_on(other.lock_async()));
            say.set();
            wait.wait().unwrap();
        });
        taken.wait_async().await.unwrap();
        let mut locking = pin!(lock.lock_async());
        poll_pending(locking.as_mut()).await;
        go.set();
        assert_eq!(poisoned(locking.await).cause(), PoisonCause::Died);
        thread.join().unwrap();
    });
}

#[multiproc::test]
fn send_and_sync() {
    fn goes_anywhere<T: Send>(_: &T) {}
    let (lock, mutex) = (Lock::new().unwrap(), Mutex::new(0_u8).unwrap());
    let (semaphore, event) = (Semaphore::new(1).unwrap(), Event::new().unwrap());
    goes_anywhere(&lock.lock_async());
    goes_anywhere(&mutex.lock_async());
    goes_anywhere(&semaphore.acquire_async());
    goes_anywhere(&event.wait_async());

    // For a `Send` type the call is ambiguous, and doesn't compile.
    trait IsNotSend<A> {
        fn check() {}
    }
    impl<T: ?Sized> IsNotSend<()> for T {}
    impl<T: ?Sized + Send> IsNotSend<u8> for T {}
    <LockGuard<'_> as IsNotSend<_>>::check();
    <multiproc::sync::MutexGuard<'_, u8> as IsNotSend<_>>::check();
}

#[multiproc::test]
fn future_moved_to_thread() {
    let lock = Lock::new().unwrap();
    let mut locking = Box::pin(lock.lock_async());
    let guard = lock.lock().unwrap();
    let counter = WakeCounter::new();
    // This thread has the lock, so another thread makes the first poll.
    std::thread::scope(|scope| {
        let waker = Waker::from(counter.clone());
        let locking = &mut locking;
        scope.spawn(move || assert!(locking.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()));
    });
    drop(guard);
    while counter.times() == 0 {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        let locking = &mut locking;
        scope.spawn(move || {
            let guard = block_on(locking).unwrap();
            drop(guard);
        });
    });
    assert!(!lock.is_locked() && !lock.is_poisoned());
}

#[multiproc::test]
fn dropped_future_passes_wake_up_on() {
    // Of many futures in one process, some are dropped: before they are woken, when they have been
    // woken, or at once.
    on_each(|| async {
        let lock = Lock::new().unwrap();
        let mut turns = 0;
        for round in 0..100 {
            let (holder, held, go) = hold_in_a_thread(vec![lock.clone()]);
            held.wait_async().await.unwrap();
            let counter = [0; 3].map(|_| WakeCounter::new());
            let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(lock.lock_async())).collect();
            for (future, counter) in waiting.iter_mut().zip(&counter) {
                let waker = Waker::from(counter.clone());
                assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            }
            if round % 3 == 0 {
                drop(waiting.remove(0));
            }
            go.set();
            if round % 3 == 1 {
                // The first is woken, and then dropped.
                while counter[0].times() == 0 {
                    std::thread::yield_now();
                }
                drop(waiting.remove(0));
            }
            for future in waiting {
                drop(future.await.unwrap());
                turns += 1;
            }
            holder.join().unwrap();
        }
        assert!(turns >= 200);
        // The waiter thread may take it once more, and finds no future to take it for.
        time_until(|| !lock.is_locked());
    });
}

fn take_many(lock: Lock, numbers: Numbers, times: u32) {
    (0..times).for_each(|turn| count_alone(&lock, &numbers, turn));
}

/// Takes the lock `times` times, and gives up waiting for it as often, at every moment.
async fn take_and_cancel(lock: Lock, numbers: Numbers, times: u32) {
    let mut limit = 0;
    for turn in 0..times {
        loop {
            let mut locking = pin!(lock.lock_async());
            limit = (limit + 1) % 7;
            let mut polls = 0;
            let taken = poll_fn(|context| match locking.as_mut().poll(context) {
                Poll::Ready(guard) => Poll::Ready(Some(guard)),
                Poll::Pending if polls == limit => Poll::Ready(None),
                Poll::Pending => {
                    polls += 1;
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            });
            let taken = taken.await;
            if let Some(guard) = taken {
                let guard = guard.unwrap();
                locks::count(&numbers, turn);
                drop(guard);
                break;
            }
            yield_now().await;
        }
    }
}

for_each_method! {
    fn cancelled_waits(method) not_fork {
        let (lock, numbers) = (Lock::new().unwrap(), Numbers::new());
        let children = [0; 2].map(|_| start!(Process::new(take_many, (lock.clone(), numbers.clone(), 4000)), method));
        let tasks = || {
            let cancelled = (0..4).map(|_| take_and_cancel(lock.clone(), numbers.clone(), 300));
            let patient = (0..4).map(|_| count_in_turn(lock.clone(), numbers.clone(), 300));
            join(join_all(cancelled), join_all(patient))
        };
        on_each(|| async { drop(tasks().await) });
        children.iter().for_each(|child| ends(child));
        assert_eq!(numbers.at(1).load(SeqCst), 2 * 4000 + 5 * 8 * 300);
        // The waiter thread may take it once more, and finds no future to take it for.
        time_until(|| !lock.is_locked());
    }
}

/// Takes the lock again and again, in several tasks, whatever has happened to other processes.
fn take_for_ever(lock: Lock) {
    block_on(join_all((0..3).map(|_| async {
        loop {
            drop(lock.lock_async().await.or_else(LockError::into_guard).unwrap());
            yield_now().await;
        }
    })));
}

for_each_method! {
    // At whatever moment a process is killed, its wake-up is not lost.
    fn killed_waiter(method) not_fork {
        let lock = Lock::new().unwrap();
        let start = || start!(Process::new(take_for_ever, (lock.clone(),)), method);
        let mut children = [start(), start()];
        let mut slow = 0;
        for round in 0..40 {
            for _ in 0..20 {
                drop(lock.lock().or_else(LockError::into_guard).unwrap());
            }
            // So that they wait, and one is woken about when it is killed.
            let guard = lock.lock().or_else(LockError::into_guard).unwrap();
            std::thread::sleep(Duration::from_millis(round % 4));
            drop(guard);
            kill(&children[round as usize % 2]);
            let took = std::time::Instant::now();
            drop(lock.lock().or_else(LockError::into_guard).unwrap());
            slow += u32::from(took.elapsed() > Duration::from_millis(900));
            children[round as usize % 2] = start();
        }
        assert!(slow < 10, "wake-ups were lost {slow} times");
        drop(children);
        drop(block_on(lock.lock_async()).or_else(LockError::into_guard).unwrap());
    }
}

/// Takes the lock again as soon as it has released it.
fn hold_again_and_again(lock: Lock) {
    loop {
        let _guard = lock.lock().or_else(LockError::into_guard).unwrap();
        std::thread::sleep(Duration::from_micros(500));
    }
}

for_each_method! {
    fn fairness(method) {
        let lock = Lock::new().unwrap();
        let _others = [0; 2].map(|_| start!(Process::new(hold_again_and_again, (lock.clone(),)), method));
        time_until(|| lock.is_locked());
        for way in [Way::Bare, Way::TokioThreads] {
            let child = start!(Process::new(take_some, (way, lock.clone())), method);
            ends(&child);
        }
    }
}

fn take_some(way: Way, lock: Lock) {
    let some = async {
        for _ in 0..5 {
            drop(lock.lock_async().await.unwrap());
        }
    };
    match way {
        Way::Bare => block_on(some),
        _ => Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(some),
    }
}

/// Has a permit, and waits for another one.
fn hold_a_permit_and_wait(semaphore: Semaphore, ready: Queue<u32>, go: Event) {
    block_on(async {
        let _permit = semaphore.acquire_async().await.unwrap();
        ready.put(1).unwrap();
        go.wait_async().await.unwrap();
        drop(semaphore.acquire_async().await.unwrap());
    });
}

for_each_method! {
    fn wait_for_death_is_idle(method) {
        let (semaphore, ready, go) = (Semaphore::new(3).unwrap(), Queue::new().unwrap(), Event::new().unwrap());
        let permit = semaphore.acquire().unwrap();
        let children = [0; 2].map(|_| {
            start!(Process::new(hold_a_permit_and_wait, (semaphore.clone(), ready.clone(), go.clone())), method)
        });
        for _ in 0..2 {
            assert_eq!(ready.get_timeout(LONG).unwrap(), 1);
        }
        go.set();
        let counts = || children.iter().map(|child| switches(child.pid())).collect::<Vec<_>>();
        until_nothing_wakes(counts, Duration::from_millis(500));
        permit.forget();
        drop(semaphore);
        until_nothing_wakes(counts, Duration::from_secs(3));
        kill(&children[0]);
        ends(&children[1]);
    }
}

#[multiproc::test]
fn lock_timeout() {
    common::in_a_process_with_one_thread(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (lock, semaphore, event) = (Lock::new().unwrap(), Semaphore::new(0).unwrap(), Event::new().unwrap());
        let _other_hands = (semaphore.clone(), event.clone());
        let (held, wait) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
        let other = lock.clone();
        let holder = std::thread::spawn(move || {
            let _guard = other.lock().unwrap();
            held.0.send(()).unwrap();
            let _ = wait.1.recv();
        });
        held.1.recv().unwrap();
        let wait_and_time_out = || {
            runtime.block_on(async {
                let short = Duration::from_millis(5);
                assert!(tokio::time::timeout(short, lock.lock_async()).await.is_err());
                assert!(tokio::time::timeout(short, semaphore.acquire_async()).await.is_err());
                assert!(tokio::time::timeout(short, event.wait_async()).await.is_err());
                tokio::select! {
                    _ = lock.lock_async() => panic!("it is held"),
                    () = tokio::time::sleep(short) => {}
                }
            });
        };
        wait_and_time_out();
        let before = descriptors();
        (0..10).for_each(|_| wait_and_time_out());
        assert_eq!(descriptors(), before);
        // Nor a thread.
        time_until(|| threads("multiproc-lock") == 0);
        drop(wait.0);
        holder.join().unwrap();
        drop(lock.try_lock().unwrap().unwrap());
        semaphore.release().unwrap();
        runtime.block_on(async { drop(semaphore.acquire_async().await.unwrap()) });
    });
}

#[multiproc::test]
fn event_set_and_clear() {
    on_each(|| async {
        let (event, other) = (Event::new().unwrap(), Event::new().unwrap());
        event.set();
        event.wait_async().await.unwrap();
        event.clear();
        let setter = event.clone();
        let mut waiting = pin!(event.wait_async());
        poll_pending(waiting.as_mut()).await;
        setter.set();
        waiting.await.unwrap();
        setter.clear();
        // An event that was set in between counts.
        let mut waiting = pin!(event.wait_async());
        poll_pending(waiting.as_mut()).await;
        setter.set();
        setter.clear();
        waiting.await.unwrap();
        let mut waiting = pin!(event.wait_async());
        poll_pending(waiting.as_mut()).await;
        // Set by a thread, which then waits for the other event itself.
        let (clone, ready) = (setter.clone(), other.clone());
        let thread = std::thread::spawn(move || {
            clone.set();
            ready.wait().unwrap();
        });
        waiting.await.unwrap();
        other.set();
        thread.join().unwrap();
        // No handle is left that could set it.
        drop(setter);
        event.clear();
        assert!(matches!(event.wait_async().await, Err(WaitError::Disconnected { .. })));
    });
}

#[multiproc::test]
fn release_wakes_task() {
    // Through one handle, while others exist as well.
    on_each(|| async {
        let (semaphore, bounded) = (Semaphore::new(2).unwrap(), BoundedSemaphore::new(1).unwrap());
        drop(semaphore.clone());
        drop(bounded.clone());
        let tasks = (0..10).map(|_| async {
            for _ in 0..10 {
                let permit = semaphore.acquire_async().await.unwrap();
                yield_now().await;
                let other = bounded.acquire_async().await.unwrap();
                yield_now().await;
                drop((permit, other));
            }
        });
        join_all(tasks).await;
        assert_eq!((semaphore.available(), bounded.available()), (2, 1));
        // A permit that is forgotten must be released by another process.
        semaphore.acquire_async().await.unwrap().forget();
        semaphore.acquire_async().await.unwrap().forget();
        assert!(matches!(semaphore.acquire_async().await, Err(WaitError::Disconnected { .. })));
        let other = semaphore.clone();
        let mut acquiring = pin!(semaphore.acquire_async());
        poll_pending(acquiring.as_mut()).await;
        other.release().unwrap();
        drop(acquiring.await.unwrap());
    });
}

#[multiproc::test]
fn cancelled_acquires() {
    on_each(|| async {
        let semaphore = Semaphore::new(1).unwrap();
        for _ in 0..50 {
            let permit = semaphore.acquire_async().await.unwrap();
            let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(semaphore.acquire_async())).collect();
            for future in &mut waiting {
                poll_pending(future.as_mut()).await;
            }
            drop(permit);
            waiting.truncate(2);
            for future in waiting {
                drop(future.await.unwrap());
            }
            assert_eq!(semaphore.available(), 1);
        }
    });
}

#[multiproc::test]
fn two_hundred_waiters() {
    // Each in its own process, with the usual limit of descriptors.
    for kind in 0..3 {
        let child = Process::new(two_hundred, (kind,))
            .rlimit(multiproc::process::Resource::OpenFiles, 1024, 1024)
            .start()
            .unwrap();
        ends(&Ends(child));
    }
}

fn two_hundred(kind: u32) {
    on_each(|| async {
        let (lock, semaphore, event) = (Lock::new().unwrap(), Semaphore::new(1).unwrap(), Event::new().unwrap());
        let done = AtomicUsize::new(0);
        let setter = event.clone();
        let permit = semaphore.acquire().unwrap();
        let (holder, held, go) = hold_in_a_thread(vec![lock.clone()]);
        held.wait_async().await.unwrap();
        let mut waiting: Vec<_> = (0..200)
            .map(|_| {
                Box::pin(async {
                    match kind {
                        0 => drop(lock.lock_async().await.unwrap()),
                        1 => drop(semaphore.acquire_async().await.unwrap()),
                        _ => event.wait_async().await.unwrap(),
                    }
                    done.fetch_add(1, SeqCst);
                })
            })
            .collect();
        for future in &mut waiting {
            poll_pending(future.as_mut()).await;
        }
        // A thread of the previous round may still linger.
        time_until(|| threads("multiproc-lock") <= 1);
        drop(permit);
        setter.set();
        go.set();
        join_all(waiting).await;
        assert_eq!(done.load(SeqCst), 200);
        holder.join().unwrap();
    });
}

#[multiproc::test]
fn many_locks() {
    on_each(|| async {
        let locks: Vec<_> = (0..50).map(|_| Lock::new().unwrap()).collect();
        let (holder, held, go) = hold_in_a_thread(locks.clone());
        held.wait_async().await.unwrap();
        let mut all = Box::pin(join_all(locks.iter().map(|lock| async { drop(lock.lock_async().await.unwrap()) })));
        poll_pending(all.as_mut()).await;
        go.set();
        all.await;
        holder.join().unwrap();
    });
}

#[derive(Clone, Serialize, Deserialize)]
struct Things {
    lock: Lock,
    mutex: Mutex<u64>,
    semaphore: Semaphore,
    event: Event,
    ready: Queue<u32>,
}

/// Waits for events that don't come, and returns how often other threads of this process have run
/// meanwhile.
fn wait_idly(things: Things, tokio: bool) {
    let Things { lock, mutex, semaphore, event, ready } = things;
    let waits = std::thread::spawn(move || {
        let all = async {
            futures::join!(
                async { drop(lock.lock_async().await) },
                async { drop(lock.lock_async().await) },
                async { drop(mutex.lock_async().await) },
                async { drop(semaphore.acquire_async().await) },
                async { drop(event.wait_async().await) },
            )
        };
        match tokio {
            true => drop(Builder::new_current_thread().enable_all().build().unwrap().block_on(all)),
            false => drop(block_on(all)),
        }
    });
    // They all fall asleep eventually. Repeated wake-ups would come several times a second.
    let begun = std::time::Instant::now();
    loop {
        let before = switches_of_others();
        std::thread::sleep(Duration::from_secs(3));
        if before == switches_of_others() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "they keep waking up");
    }
    assert!(!waits.is_finished());
    ready.put(1).unwrap();
    common::sleep_long();
}

for_each_method! {
    fn waiters_are_idle(method) {
        let things = Things {
            lock: Lock::new().unwrap(),
            mutex: Mutex::new(0).unwrap(),
            semaphore: Semaphore::new(0).unwrap(),
            event: Event::new().unwrap(),
            ready: Queue::new().unwrap(),
        };
        let _guards = (things.lock.lock().unwrap(), things.mutex.lock().unwrap());
        let _children =
            [false, true].map(|tokio| start!(Process::new(wait_idly, (things.clone(), tokio)), method));
        for _ in 0..2 {
            things.ready.get_timeout(LONG).unwrap();
        }
    }
}

/// A fork copy of the process lacks the waiter thread, and waits with one of its own.
#[multiproc::test]
fn forked_copy() {
    common::in_a_process_with_one_thread(|| {
        let lock = Lock::new().unwrap();
        let (holder, held, go) = hold_in_a_thread(vec![lock.clone()]);
        held.wait().unwrap();
        let mut locking = pin!(lock.lock_async());
        let counter = WakeCounter::new();
        assert!(locking.as_mut().poll(&mut Context::from_waker(&Waker::from(counter.clone()))).is_pending());
        // SAFETY: the fork copy uses only what this thread alone has used, and exits.
        let copy = unsafe { libc::fork() };
        if copy == 0 {
            // A future that has begun to wait in the original completes too.
            let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| block_on(locking).is_ok()));
            // SAFETY: the call ends the fork copy.
            unsafe { libc::_exit(if matches!(taken, Ok(true)) { 0 } else { 1 }) };
        }
        let status = || std::fs::read_to_string(format!("/proc/{copy}/task")).ok();
        let _ = status();
        time_until(|| std::fs::read_dir(format!("/proc/{copy}/task")).is_ok_and(|tasks| tasks.count() == 2));
        go.set();
        let mut status = 0;
        // SAFETY: the pointer is to a local variable.
        assert_eq!(unsafe { libc::waitpid(copy, &raw mut status, 0) }, copy);
        assert_eq!(status, 0);
        holder.join().unwrap();
        while counter.times() == 0 {
            std::thread::yield_now();
        }
        // The fork copy has died with the lock, or released it: either way, this process gets it.
        drop(block_on(locking).or_else(LockError::into_guard).unwrap());
    });
}

/// A process that has waited in async code has no thread that prevents a fork.
#[multiproc::test]
fn start_by_fork_after_waiting() {
    common::in_a_process_with_one_thread(|| {
        let lock = Lock::new().unwrap();
        for _ in 0..3 {
            let (taken, wait) = std::sync::mpsc::channel();
            let other = lock.clone();
            let holder = std::thread::spawn(move || {
                let guard = other.lock().unwrap();
                taken.send(()).unwrap();
                let begun = std::time::Instant::now();
                while threads("multiproc-lock") == 0 && begun.elapsed() < LONG {
                    std::thread::yield_now();
                }
                drop(guard);
            });
            wait.recv().unwrap();
            drop(block_on(lock.lock_async()).unwrap());
            holder.join().unwrap();
            let child = Process::fork(|| drop(block_on(lock.lock_async()).unwrap())).start().unwrap();
            child.join().unwrap();
        }
    });
}
