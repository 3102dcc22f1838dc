//! What applies to all locks that one thread holds at a time, whatever else they can do: tests for
//! any of them.

#![allow(dead_code, unused_macros, unused_imports)]

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use multiproc::sync::{Event, LockError, Misuse, PoisonCause};
use multiproc::{Handle, Process, Queue, Run, StartMethod};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::common::{LONG, sleep_long, time_until};
use crate::shared::{Numbers, kill, wait_asleep_in_futex};

/// The result of an attempt; `None` if another thread has the lock.
pub(crate) type Taken<G> = Result<Option<G>, LockError<G>>;

/// The common interface of the locks.
pub(crate) trait AnyLock:
    Clone + Serialize + DeserializeOwned + Send + Sync + std::fmt::Debug + 'static
{
    /// The name of the memory file in `/proc/self/fd`.
    const NAME: &'static str;
    /// How many descriptors and mappings it takes, and how many of the latter stay with a forgotten
    /// guard.
    const COSTS: [usize; 3] = [1, 1, 1];
    type Guard<'a>;
    fn make() -> Result<Self, multiproc::CreateError>;
    fn take(&self) -> Result<Self::Guard<'_>, LockError<Self::Guard<'_>>>;
    fn try_take(&self) -> Taken<Self::Guard<'_>>;
    fn take_within(&self, timeout: Duration) -> Taken<Self::Guard<'_>>;
    fn is_taken(&self) -> bool;
    fn was_poisoned(&self) -> bool;
    fn clear(&self);
}

macro_rules! any_lock {
    ($type:ty, $name:expr, $guard:ident $(<$value:ty>)?, $new:expr, $take:ident, $try_take:ident, $within:ident, $taken:ident $(, $costs:expr)?) => {
        impl $crate::locks::AnyLock for $type {
            const NAME: &'static str = $name;
            $(const COSTS: [usize; 3] = $costs;)?
            type Guard<'a> = $guard<'a $(, $value)?>;
            fn make() -> Result<Self, multiproc::CreateError> {
                $new
            }
            fn take(&self) -> Result<Self::Guard<'_>, multiproc::sync::LockError<Self::Guard<'_>>> {
                self.$take()
            }
            fn try_take(&self) -> $crate::locks::Taken<Self::Guard<'_>> {
                self.$try_take()
            }
            fn take_within(&self, timeout: std::time::Duration) -> $crate::locks::Taken<Self::Guard<'_>> {
                self.$within(timeout)
            }
            fn is_taken(&self) -> bool {
                self.$taken()
            }
            fn was_poisoned(&self) -> bool {
                self.is_poisoned()
            }
            fn clear(&self) {
                self.clear_poison();
            }
        }
    };
}

pub(crate) use any_lock;

/// The tests below, for this lock, in a module of their own.
macro_rules! lock_tests {
    ($type:ty) => {
        $crate::locks::holding_tests!($type);

        #[multiproc::test]
        fn garbage() {
            $crate::locks::garbage::<$type>();
        }
    };
}

/// The same without the test of garbage, which is for locks that are sent as one descriptor.
macro_rules! holding_tests {
    ($type:ty) => {
        mod any_lock {
            use super::*;

            $crate::common::for_each_method! {
                fn mutual_exclusion(method) {
                    $crate::locks::mutual_exclusion::<$type>(method)
                }
                fn poison_on_death(method) {
                    $crate::locks::poison_on_death::<$type>(method)
                }
                fn poison_on_panic(method) {
                    $crate::locks::poison_on_panic::<$type>(method)
                }
                fn killed_waiter(method) {
                    $crate::locks::killed_waiter::<$type>(method)
                }
                fn stopped_waiter(method) {
                    $crate::locks::stopped_waiter::<$type>(method)
                }
                fn send(method) {
                    $crate::locks::send::<$type>(method)
                }
            }

            #[multiproc::test]
            fn try_lock_and_timeout() {
                $crate::locks::try_lock_and_timeout::<$type>();
            }

            #[multiproc::test]
            fn unlock_in_any_order() {
                $crate::locks::unlock_in_any_order::<$type>();
            }

            #[multiproc::test]
            fn locks_per_thread() {
                $crate::locks::locks_per_thread::<$type>();
            }

            #[multiproc::test]
            fn forgotten_guard() {
                $crate::locks::forgotten_guard::<$type>();
            }

            #[multiproc::test]
            fn forgotten_guard_keeps_memory() {
                $crate::common::in_a_process_with_one_thread($crate::locks::forgotten_guard_keeps_memory::<$type>);
            }

            #[multiproc::test]
            fn clear_poison() {
                $crate::locks::clear_poison::<$type>();
            }

            #[multiproc::test]
            fn lock_during_panic() {
                $crate::locks::lock_during_panic::<$type>();
            }

            #[multiproc::test]
            fn forked_guard() {
                $crate::common::in_a_process_with_one_thread($crate::locks::forked_guard::<$type>);
            }

            #[multiproc::test]
            fn drops() {
                $crate::common::in_a_process_with_one_thread($crate::locks::drops::<$type>);
            }

            #[multiproc::test]
            fn open_file_limit() {
                $crate::common::in_a_process_with_one_thread($crate::locks::open_file_limit::<$type>);
            }
        }
    };
}

pub(crate) use {holding_tests, lock_tests};

/// A process by this method that ends with the test.
macro_rules! start {
    ($process:expr, $method:expr) => {
        $crate::common::Ends($process.start_method($method).start().unwrap())
    };
}

pub(crate) use start;

/// Waits until the child has ended successfully.
pub(crate) fn ends<T>(child: &multiproc::Child<T>) {
    let status = child.wait_timeout(LONG).unwrap().expect("timed out");
    assert!(status.success(), "{status}");
}

/// Adds one to two numbers, in more than one step.
pub(crate) fn count(numbers: &Numbers, turn: u32) {
    let one = numbers.at(0).load(Relaxed);
    numbers.at(0).store(one + 1, Relaxed);
    if turn.is_multiple_of(64) {
        std::thread::yield_now();
    }
    numbers.at(1).store(one + 1, Relaxed);
}

fn lock_and_count<L: AnyLock>(lock: L, numbers: Numbers, times: u32) {
    for turn in 0..times {
        let _guard = lock.take().unwrap();
        assert_eq!(numbers.at(0).load(Relaxed), numbers.at(1).load(Relaxed));
        count(&numbers, turn);
    }
}

pub(crate) fn mutual_exclusion<L: AnyLock>(method: StartMethod) {
    let (lock, numbers) = (L::make().unwrap(), Numbers::new());
    let children: Vec<_> = (0..4)
        .map(|_| start!(Process::new(lock_and_count::<L>, (lock.clone(), numbers.clone(), 4000)), method))
        .collect();
    children.iter().for_each(|child| ends(child));
    assert_eq!([0, 1].map(|index| numbers.at(index).load(SeqCst)), [16_000; 2]);
    assert!(!lock.is_taken() && !lock.was_poisoned());
}

/// Holds the lock until it is killed.
pub(crate) fn hold<L: AnyLock>(lock: L, holds: Event) {
    let _guard = lock.take().unwrap();
    holds.set();
    sleep_long();
}

/// What the next taker of the lock finds: `None`, or whether the previous holder died (and did not
/// panic), and its process.
pub(crate) type Found = Option<(bool, Option<i32>)>;

pub(crate) fn look<L: AnyLock>(lock: L) -> Found {
    match lock.take() {
        Ok(_guard) => None,
        Err(LockError::Poisoned(poisoned)) => {
            assert!(lock.is_taken() && lock.was_poisoned());
            Some((poisoned.cause() == PoisonCause::Died, poisoned.pid()))
        }
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn poison_on_death<L: AnyLock>(method: StartMethod) {
    let (lock, holds) = (L::make().unwrap(), Event::new().unwrap());
    let holder = start!(Process::new(hold::<L>, (lock.clone(), holds.clone())), method);
    holds.wait().unwrap();
    assert!(lock.is_taken() && lock.try_take().unwrap().is_none());
    let waiters: Vec<_> =
        (0..2).map(|_| Process::new(look::<L>, (lock.clone(),)).start_method(method).start().unwrap()).collect();
    waiters.iter().for_each(|waiter| wait_asleep_in_futex(waiter.pid()));
    holder.kill().unwrap();
    let took = time_until(|| waiters.iter().all(|waiter| !waiter.is_alive()));
    println!("{took:?} from the kill to the end of the waiters");
    // Without a wake-up, the sleepers would check for themselves after a second.
    assert!(took < Duration::from_millis(900));
    let died = Some((true, Some(holder.pid())));
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), died);
    }
    assert_eq!(look(lock.clone()), died, "until it is cleared");
    lock.clear();
    assert_eq!(look(lock.clone()), None);

    // And when no thread waits.
    holds.clear();
    let holder = start!(Process::new(hold::<L>, (lock.clone(), holds.clone())), method);
    holds.wait().unwrap();
    kill(&holder);
    let Err(LockError::Poisoned(poisoned)) = lock.try_take() else { panic!("no poison error") };
    let text = format!("process {} has died while holding the {}, and what", holder.pid(), L::NAME);
    assert!(poisoned.to_string().starts_with(&text), "{poisoned}");
    assert_eq!(poisoned.tid(), Some(holder.pid()));
    drop(poisoned.into_guard());
    assert!(!lock.is_taken() && lock.was_poisoned());
}

fn panic_with_it<L: AnyLock>(lock: L) {
    let _guard = lock.take().unwrap();
    panic!("panic on purpose");
}

pub(crate) fn poison_on_panic<L: AnyLock>(method: StartMethod) {
    let lock = L::make().unwrap();
    let child = start!(Process::new(panic_with_it::<L>, (lock.clone(),)), method);
    assert!(!child.wait_timeout(LONG).unwrap().expect("timed out").success());
    assert_eq!(look(lock), Some((false, Some(child.pid()))));
}

fn take_and_drop<L: AnyLock>(lock: L) {
    drop(lock.take().unwrap());
}

pub(crate) fn killed_waiter<L: AnyLock>(method: StartMethod) {
    let lock = L::make().unwrap();
    let guard = lock.take().unwrap();
    let [killed, other] = [0; 2].map(|_| {
        let waiter = start!(Process::new(take_and_drop::<L>, (lock.clone(),)), method);
        wait_asleep_in_futex(waiter.pid());
        waiter
    });
    kill(&killed);
    assert!(lock.is_taken());
    drop(guard);
    ends(&other);
    assert!(!lock.is_taken() && !lock.was_poisoned());
}

pub(crate) fn stopped_waiter<L: AnyLock>(method: StartMethod) {
    let lock = L::make().unwrap();
    let guard = lock.take().unwrap();
    let [stopped, other] = [0; 2].map(|_| {
        let waiter = start!(Process::new(take_and_drop::<L>, (lock.clone(),)), method);
        wait_asleep_in_futex(waiter.pid());
        waiter
    });
    stopped.signal(libc::SIGSTOP).unwrap();
    drop(guard);
    ends(&other);
    stopped.signal(libc::SIGCONT).unwrap();
    ends(&stopped);
    assert!(!lock.is_taken() && !lock.was_poisoned());
}

#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct Worker<L: AnyLock> {
    lock: L,
    list: Vec<Option<L>>,
}

impl<L: AnyLock> Run for Worker<L> {
    type Output = (L, Vec<Option<L>>);

    fn run(self) -> Self::Output {
        assert!(self.lock.try_take().unwrap().is_none(), "the parent has it");
        self.list.iter().flatten().for_each(|lock| drop(lock.take().unwrap()));
        (self.lock, self.list)
    }
}

pub(crate) fn send<L: AnyLock>(method: StartMethod) {
    let (lock, other) = (L::make().unwrap(), L::make().unwrap());
    let guard = lock.take().unwrap();
    let worker = Worker { lock: lock.clone(), list: vec![Some(other.clone()), None, Some(other.clone())] };
    let child = worker.process().start_method(method).start().unwrap();
    let (back, list) = child.join().unwrap();
    assert!(back.is_taken(), "it is the same lock");
    drop(guard);
    let guard = back.take().unwrap();
    assert!(std::thread::scope(|scope| scope.spawn(|| lock.try_take().unwrap().is_none()).join().unwrap()));
    drop(guard);
    drop(lock);
    drop(back.take().unwrap());
    drop(list[2].as_ref().unwrap().take().unwrap());

    let queue = Queue::new().unwrap();
    queue.put(other.clone()).unwrap();
    let received: L = queue.get().unwrap();
    let guard = received.take().unwrap();
    assert!(other.is_taken());
    drop(guard);
}

pub(crate) fn try_lock_and_timeout<L: AnyLock>() {
    let lock = L::make().unwrap();
    let guard = lock.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(lock.try_take().unwrap().is_none());
            assert!(lock.take_within(Duration::ZERO).unwrap().is_none());
            let begun = Instant::now();
            assert!(lock.take_within(Duration::from_millis(20)).unwrap().is_none());
            assert!(begun.elapsed() >= Duration::from_millis(20));
        });
    });
    drop(guard);
    for timeout in [Duration::ZERO, Duration::from_millis(1), Duration::MAX] {
        assert!(lock.take_within(timeout).unwrap().is_some());
    }
    assert!(lock.try_take().unwrap().is_some());
    assert!(!lock.is_taken());
}

pub(crate) fn unlock_in_any_order<L: AnyLock>() {
    let locks: Vec<L> = (0..200).map(|_| L::make().unwrap()).collect();
    for step in [1, 199, 7, 73] {
        let mut guards: Vec<_> = locks.iter().map(|lock| Some(lock.take().unwrap())).collect();
        assert!(locks.iter().all(L::is_taken));
        for index in 0..200 {
            let index = index * step % 200;
            guards[index] = None;
            assert!(!locks[index].is_taken());
        }
    }
    assert!(locks.iter().all(|lock| !lock.was_poisoned() && lock.try_take().unwrap().is_some()));
}

pub(crate) fn locks_per_thread<L: AnyLock>() {
    Process::new(
        || {
            // SAFETY: the pointer is to a local structure.
            unsafe {
                let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
                limit.rlim_cur = limit.rlim_max.min(4096);
                assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
            }
            let locks: Vec<L> = (0..1025).map(|_| L::make().unwrap()).collect();
            let mut guards: Vec<_> = locks[..1024].iter().map(|lock| lock.take().unwrap()).collect();
            let error = locks[1024].take().map(drop).unwrap_err();
            assert!(matches!(&error, LockError::Misuse(Misuse::TooMany(_))), "{error}");
            assert!(locks[1024].try_take().is_err() && !locks[1024].is_taken());
            guards.swap_remove(500);
            drop(locks[1024].take().unwrap());
            // Another thread has a limit of its own.
            std::thread::scope(|scope| scope.spawn(|| drop(locks[1024].take().unwrap())).join().unwrap());
        },
        (),
    )
    .start()
    .unwrap()
    .join()
    .unwrap();
}

pub(crate) fn forgotten_guard<L: AnyLock>() {
    let lock = L::make().unwrap();
    let other = lock.clone();
    // SAFETY: the call accesses no memory.
    let thread = std::thread::spawn(move || (std::mem::forget(other.take().unwrap()), unsafe { libc::gettid() }).1);
    let tid = thread.join().unwrap();
    // The thread may not have ended completely yet.
    let Err(LockError::Poisoned(poisoned)) = lock.take_within(LONG) else { panic!("no poison error") };
    assert_eq!((poisoned.pid(), poisoned.tid()), (Some(std::process::id() as i32), Some(tid)));
    assert_eq!(poisoned.cause(), PoisonCause::Died);
    assert!(poisoned.to_string().starts_with(&format!("thread {tid} of process ")), "{poisoned}");
    drop(poisoned);
    lock.clear();
    drop(lock.take().unwrap());
}

pub(crate) fn forgotten_guard_keeps_memory<L: AnyLock>() {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (forgotten, last) = (L::make().unwrap(), L::make().unwrap());
    let (opened, mapped) = (count(), mapped());
    let other = last.clone();
    let thread = std::thread::spawn(move || {
        std::mem::forget(forgotten.take().unwrap());
        drop(forgotten);
        // The kernel, and this thread itself, skip it in the thread's robust list.
        drop(other.take().unwrap());
        std::mem::forget(other.take().unwrap());
    });
    thread.join().unwrap();
    let [descriptors, mappings, stay] = L::COSTS;
    assert_eq!((count(), self::mapped()), (opened - descriptors, mapped - mappings + stay));
    let Err(LockError::Poisoned(_)) = last.take_within(LONG) else { panic!("no poison error") };
}

/// The number of objects that are mapped.
fn mapped() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:multiproc-").count()
}

pub(crate) fn clear_poison<L: AnyLock>() {
    let lock = L::make().unwrap();
    let other = lock.clone();
    std::thread::spawn(move || panic_with_it(other)).join().unwrap_err();
    assert!(lock.was_poisoned() && !lock.is_taken());
    for _ in 0..2 {
        let Err(LockError::Poisoned(mut poisoned)) = lock.take() else { panic!("no poison error") };
        assert_eq!(poisoned.cause(), PoisonCause::Panicked);
        assert_eq!(poisoned.pid(), Some(std::process::id() as i32));
        let _: &L::Guard<'_> = poisoned.guard();
        let _: &mut L::Guard<'_> = poisoned.guard_mut();
        assert!(lock.is_taken());
    }
    let error: multiproc::Error = lock.try_take().map(drop).unwrap_err().into();
    let text = format!("has panicked while holding the {}", L::NAME);
    assert!(error.to_string().contains(&text) && matches!(error, multiproc::Error::Lock { .. }), "{error}");
    assert!(format!("{lock:?}").contains("poisoned: true"), "{lock:?}");
    let guard = lock.take().or_else(LockError::into_guard).unwrap();
    lock.clear();
    drop(guard);
    drop(lock.take().unwrap());
    assert!(format!("{lock:?}").contains("poisoned: false"), "{lock:?}");
}

pub(crate) fn lock_during_panic<L: AnyLock>() {
    struct LocksInDrop<L: AnyLock>(L);
    impl<L: AnyLock> Drop for LocksInDrop<L> {
        fn drop(&mut self) {
            drop(self.0.take().unwrap());
        }
    }
    let lock = L::make().unwrap();
    let other = lock.clone();
    let thread = std::thread::spawn(move || {
        let _locks = LocksInDrop(other);
        panic!("panic on purpose");
    });
    thread.join().unwrap_err();
    assert!(!lock.was_poisoned());
    drop(lock.take().unwrap());
}

pub(crate) fn forked_guard<L: AnyLock>() {
    let lock = L::make().unwrap();
    let guard = lock.take().unwrap();
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(guard);
        let held = lock.is_taken() && lock.try_take().is_ok_and(|taken| taken.is_none());
        // SAFETY: the call ends the process.
        unsafe { libc::_exit(i32::from(!held)) }
    }
    let mut status = 0;
    // SAFETY: the pointer is to a local variable.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0);
    assert!(lock.is_taken() && !lock.was_poisoned());
    drop(guard);
    // A fork copy that ends with a guard of its own poisons the lock like any other holder.
    // SAFETY: this process has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        std::mem::forget(lock.take());
        // SAFETY: the call ends the process.
        unsafe { libc::_exit(0) }
    }
    // SAFETY: the pointer is to a local variable.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    let Err(LockError::Poisoned(poisoned)) = lock.take() else { panic!("no poison error") };
    assert_eq!(poisoned.pid(), Some(pid));
}

/// A forged lock, as it is sent.
#[derive(Serialize)]
#[serde(transparent, bound = "")]
struct Garbage<L>(Handle<OwnedFd>, #[serde(skip)] std::marker::PhantomData<fn() -> L>);

impl<'de, L: AnyLock> Deserialize<'de> for Garbage<L> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Garbage<L>, D::Error> {
        L::deserialize(deserializer).map(|_| unreachable!())
    }
}

pub(crate) fn garbage<L: AnyLock>() {
    // SAFETY: the name is NUL-terminated, and the descriptor is new.
    let memory = |length: u64| unsafe {
        let file: std::fs::File =
            std::os::fd::FromRawFd::from_raw_fd(libc::memfd_create(c"x".as_ptr(), libc::MFD_ALLOW_SEALING));
        file.set_len(length).unwrap();
        assert_eq!(libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK), 0);
        OwnedFd::from(file)
    };
    for (garbage, text) in [
        (OwnedFd::from(std::io::pipe().unwrap().0), "not a memory file"),
        (std::fs::File::open("/proc/self/maps").unwrap().into(), "not a memory file"),
        (memory(0), "it is "),
        (memory(100), "it is "),
        (memory(1 << 20), "it is "),
    ] {
        let garbage = Garbage::<L>(garbage.into(), std::marker::PhantomData);
        let error = Process::new(|_: Garbage<L>| (), (garbage,)).start().unwrap_err().to_string();
        assert!(error.contains(text) && error.contains(&format!("invalid {}", L::NAME)), "{error}");
    }
    let error = serde_json::to_string(&L::make().unwrap()).unwrap_err().to_string();
    assert!(error.contains("not multiproc's"), "{error}");
}

pub(crate) fn drops<L: AnyLock>() {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (opened, mapped) = (count(), mapped());
    let [descriptors, mappings, _] = L::COSTS;
    for _ in 0..3 {
        let lock = L::make().unwrap();
        let copy = lock.clone();
        assert_eq!((count(), self::mapped()), (opened + descriptors, mapped + mappings));
        let guard = copy.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(lock.take_within(Duration::from_millis(20)).unwrap().is_none()));
        });
        assert_eq!(count(), opened + descriptors);
        drop(guard);
        drop((lock, copy));
        assert_eq!((count(), self::mapped()), (opened, mapped));
    }
}

pub(crate) fn open_file_limit<L: AnyLock>() {
    let lock = L::make().unwrap();
    // SAFETY: the pointer is to a local structure.
    unsafe {
        let limit = libc::rlimit { rlim_cur: 40, rlim_max: 40 };
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    let error = L::make().unwrap_err().to_string();
    assert!(
        error.starts_with("cannot create ")
            && error.contains(&format!("{}: ", L::NAME))
            && error.contains("Too many open files"),
        "{error}"
    );
    // The existing lock can be used.
    let guard = lock.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(lock.take_within(Duration::from_millis(1)).unwrap().is_none()));
    });
    drop(guard);
}
