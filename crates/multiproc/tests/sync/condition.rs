//! Conditions between processes.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use crate::common::{self, Ends, LONG, for_each_method, sleep_long};
use crate::seccomp;
use crate::shared::{Numbers, kill, wait_asleep};
use multiproc::sync::{Condition, ConditionError, Event, Lock, LockError, Misuse};
use multiproc::{Child, Error, Process, Run, StartMethod};
use serde::{Deserialize, Serialize};

/// Waits for one notification, and counts itself.
fn wait_and_count(condition: Condition, numbers: Numbers) {
    let mut guard = condition.lock().unwrap();
    numbers.at(0).fetch_add(1, Relaxed);
    guard.wait().unwrap();
    numbers.at(1).fetch_add(1, Relaxed);
}

/// Starts `count` processes that wait, and returns once they do.
fn waiters(method: StartMethod, condition: &Condition, numbers: &Numbers, count: u64) -> Vec<Ends<()>> {
    let before = numbers.at(0).load(SeqCst);
    let start = |_| {
        Ends(Process::new(wait_and_count, (condition.clone(), numbers.clone())).start_method(method).start().unwrap())
    };
    let children: Vec<Ends<()>> = (0..count).map(start).collect();
    until("they wait", || {
        // While the lock is held here, every process that has counted itself is waiting.
        let _guard = condition.lock().unwrap();
        numbers.at(0).load(SeqCst) == before + count
    });
    children
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "never: {what}");
        std::thread::yield_now();
    }
}

fn ends_well<T>(child: &Child<T>) {
    assert!(child.wait_timeout(LONG).unwrap().expect("timed out").success());
}

#[derive(Serialize, Deserialize)]
struct Waits {
    conditions: Vec<Option<Condition>>,
}

impl Run for Waits {
    type Output = Vec<Option<Condition>>;

    fn run(self) -> Self::Output {
        for condition in self.conditions.iter().flatten() {
            condition.lock().unwrap().notify_all();
        }
        self.conditions
    }
}

for_each_method! {
    fn smoke(method) {
        let (condition, numbers) = (Condition::new().unwrap(), Numbers::new());
        let target = |condition: Condition, numbers: Numbers| {
            let mut guard = condition.lock().unwrap();
            guard.wait_for(|| numbers.at(0).load(Relaxed) == 1).unwrap();
            numbers.at(0).store(2, Relaxed);
            guard.notify_one();
        };
        let child = Process::new(target, (condition.clone(), numbers.clone())).start_method(method).start().unwrap();
        let mut guard = condition.lock().unwrap();
        numbers.at(0).store(1, Relaxed);
        guard.notify_all();
        guard.wait_for(|| numbers.at(0).load(Relaxed) == 2).unwrap();
        drop(guard);
        child.join().unwrap();
    }

    fn notify_count(method) {
        let (condition, numbers) = (Condition::new().unwrap(), Numbers::new());
        let children = waiters(method, &condition, &numbers, 5);
        children.iter().for_each(|child| wait_asleep(child.pid()));
        assert_eq!(condition.lock().unwrap().notify(2), 2);
        until("two go on", || numbers.at(1).load(SeqCst) == 2);
        assert_eq!(condition.lock().unwrap().notify_one(), 1);
        until("one goes on", || numbers.at(1).load(SeqCst) == 3);
        until("three end", || children.iter().filter(|child| !child.is_alive()).count() == 3);
        assert_eq!(condition.lock().unwrap().notify_all(), 2);
        children.iter().for_each(|child| ends_well(child));
        assert_eq!(condition.lock().unwrap().notify_all(), 0);
        assert_eq!(numbers.at(1).load(SeqCst), 5);
    }

    fn notify_reaches_earlier_waiters(method) {
        let (condition, numbers) = (Condition::new().unwrap(), Numbers::new());
        let early = waiters(method, &condition, &numbers, 1);
        // Not while it holds a lock of the condition, in which `notify_one` would wait for it.
        wait_asleep(early[0].pid());
        early[0].signal(libc::SIGSTOP).unwrap();
        assert_eq!(condition.lock().unwrap().notify_one(), 1);
        let late = waiters(method, &condition, &numbers, 1);
        wait_asleep(late[0].pid());
        assert_eq!(numbers.at(1).load(SeqCst), 0);
        early[0].signal(libc::SIGCONT).unwrap();
        ends_well(&early[0]);
        assert!(late[0].is_alive() && numbers.at(1).load(SeqCst) == 1);
        condition.lock().unwrap().notify_one();
        ends_well(&late[0]);
    }

    fn killed_and_stopped_waiters(method) {
        let (condition, numbers) = (Condition::new().unwrap(), Numbers::new());
        for asleep in [true, false] {
            numbers.at(1).store(0, SeqCst);
            let children = waiters(method, &condition, &numbers, 4);
            if asleep {
                children.iter().for_each(|child| wait_asleep(child.pid()));
            }
            kill(&children[0]);
            wait_asleep(children[1].pid());
            children[1].signal(libc::SIGSTOP).unwrap();
            for number in 1..=2 {
                condition.lock().unwrap().notify_one();
                until("one goes on", || numbers.at(1).load(SeqCst) == number);
            }
            children[1].signal(libc::SIGCONT).unwrap();
            condition.lock().unwrap().notify_one();
            children[1..].iter().for_each(|child| ends_well(child));
        }
    }

    fn killed_notifier(method) {
        let (condition, numbers, ready) = (Condition::new().unwrap(), Numbers::new(), Event::new().unwrap());
        let children = waiters(method, &condition, &numbers, 2);
        children.iter().for_each(|child| wait_asleep(child.pid()));
        let target = |condition: Condition, ready: Event| {
            let guard = condition.lock().unwrap();
            guard.notify_all();
            drop(guard);
            ready.set();
            sleep_long();
        };
        let notifier = Process::new(target, (condition.clone(), ready.clone())).start_method(method).start().unwrap();
        let notifier = Ends(notifier);
        ready.wait().unwrap();
        kill(&notifier);
        children.iter().for_each(|child| ends_well(child));
    }

    fn poison_on_death(method) {
        let (condition, ready) = (Condition::new().unwrap(), Event::new().unwrap());
        let holder = |condition: Condition, ready: Event| {
            let _guard = condition.lock().unwrap();
            ready.set();
            sleep_long();
        };
        let waiter = |condition: Condition| {
            let mut guard = condition.lock().unwrap();
            let error = guard.wait().unwrap_err();
            let ConditionError::Poisoned(poisoned) = &error else { panic!("{error}") };
            poisoned.pid().expect("it is known")
        };
        let start = || Process::new(waiter, (condition.clone(),)).start_method(method).start().unwrap();
        let waiters = [start(), start(), start()];
        waiters.iter().for_each(|waiter| wait_asleep(waiter.pid()));
        let holder = Process::new(holder, (condition.clone(), ready.clone())).start_method(method).start().unwrap();
        let holder = Ends(holder);
        ready.wait().unwrap();
        let start = Instant::now();
        kill(&holder);
        for waiter in waiters {
            ends_well(&waiter);
            assert_eq!(waiter.join().unwrap(), holder.pid());
        }
        println!("{:?} from the kill to the end of the waiters", start.elapsed());
        let error = condition.lock().unwrap_err();
        assert!(matches!(&error, LockError::Poisoned(poisoned) if poisoned.pid() == Some(holder.pid())), "{error}");
        error.into_guard().unwrap().clear_poison();
        assert!(!condition.lock().unwrap().wait_timeout(Duration::ZERO).unwrap());
    }

    fn disconnect_wakes_waiters(method) {
        let (condition, numbers) = (Condition::new().unwrap(), Numbers::new());
        let target = |condition: Condition, numbers: Numbers| {
            let mut guard = condition.lock().unwrap();
            numbers.at(0).fetch_add(1, Relaxed);
            let error = guard.wait().unwrap_err();
            assert!(error.is_disconnected());
            assert_eq!(error.to_string(), "cannot wait for a condition: no process is left that could notify");
        };
        let start = || Process::new(target, (condition.clone(), numbers.clone())).start_method(method).start().unwrap();
        let children = [Ends(start()), Ends(start())];
        until("they wait", || numbers.at(0).load(SeqCst) == 2);
        drop(condition);
        // A fork copy of this process has a copy of each of its handles.
        if method != StartMethod::Fork {
            children.iter().for_each(|child| ends_well(child));
        }
    }

    fn send(method) {
        let (condition, numbers) = (Condition::new().unwrap(), Numbers::new());
        let children = waiters(method, &condition, &numbers, 2);
        let value = Waits { conditions: vec![None, Some(condition)] };
        let child = Process::from_run(value).start_method(method).start().unwrap();
        let back = child.join().unwrap();
        children.iter().for_each(|child| ends_well(child));
        let condition = back[1].as_ref().unwrap();
        assert_eq!(condition.lock().unwrap().notify_all(), 0);
    }

    fn shared_lock(method) {
        let lock = Lock::new().unwrap();
        let [full, empty] = [(); 2].map(|()| Condition::with_lock(lock.clone()).unwrap());
        let numbers = Numbers::new();
        let target = |full: Condition, empty: Condition, numbers: Numbers| {
            for _ in 0..200 {
                let mut guard = full.lock().unwrap();
                guard.wait_for(|| numbers.at(0).load(Relaxed) == 1).unwrap();
                numbers.at(0).store(0, Relaxed);
                drop(guard);
                empty.lock().unwrap().notify_one();
            }
        };
        let child = Process::new(target, (full.clone(), empty.clone(), numbers.clone()));
        let child = child.start_method(method).start().unwrap();
        for _ in 0..200 {
            let mut guard = empty.lock().unwrap();
            guard.wait_for(|| numbers.at(0).load(Relaxed) == 0).unwrap();
            numbers.at(0).store(1, Relaxed);
            assert!(lock.try_lock().is_err(), "this thread holds it");
            drop(guard);
            full.lock().unwrap().notify_one();
        }
        child.join().unwrap();
    }
}

/// Has only the lock of a condition: takes it when `go` is set, records that, and then panics or is
/// killed with it.
fn come_to_grief(lock: Lock, numbers: Numbers, go: Event, panics: bool) {
    go.wait().unwrap();
    let _guard = lock.lock().unwrap();
    assert!(!panics, "on purpose");
    numbers.at(1).store(1, SeqCst);
    sleep_long();
}

/// Waits for a notification that doesn't come, and is told that the lock is poisoned, long before
/// it would have checked for itself, which is every 20 s.
fn wait_for_grief(condition: Condition) {
    let mut guard = condition.lock().unwrap();
    let begun = Instant::now();
    let result = guard.wait_timeout(LONG);
    assert!(matches!(result, Err(ConditionError::Poisoned(_))), "{result:?}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// A process that waits for poison, and sleeps in poll(2), as after a long wait.
fn sleeper(method: StartMethod, condition: &Condition) -> Ends<()> {
    let child = Ends(Process::new(wait_for_grief, (condition.clone(),)).start_method(method).start().unwrap());
    wait_asleep(child.pid());
    child
}

/// Waits until it sleeps for as long as it takes: it watches the lock's file.
fn wait_watching(sleeper: &Child<()>) {
    let is_instance = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| std::fs::read_link(entry.path()).is_ok_and(|path| path.ends_with("anon_inode:inotify")))
    };
    let directory = format!("/proc/{}/fd", sleeper.pid());
    until("it watches the file", || std::fs::read_dir(&directory).is_ok_and(|mut fds| fds.any(is_instance)));
    wait_asleep(sleeper.pid());
}

for_each_method! {
    fn shared_lock_poison_on_death(method) {
        let (lock, numbers, go) = (Lock::new().unwrap(), Numbers::new(), Event::new().unwrap());
        // It has its handle from before there is a condition.
        let target = (lock.clone(), numbers.clone(), go.clone(), false);
        let stranger = Ends(Process::new(come_to_grief, target).start_method(method).start().unwrap());
        let conditions = [(); 2].map(|()| Condition::with_lock(lock.clone()).unwrap());
        let sleepers = conditions.each_ref().map(|condition| sleeper(method, condition));
        sleepers.iter().for_each(|sleeper| wait_watching(sleeper));
        go.set();
        until("it has the lock", || numbers.at(1).load(SeqCst) == 1);
        kill(&stranger);
        sleepers.iter().for_each(|sleeper| ends_well(sleeper));
    }

    fn shared_lock_poison_on_panic(method) {
        let (lock, numbers, go) = (Lock::new().unwrap(), Numbers::new(), Event::new().unwrap());
        let target = (lock.clone(), numbers.clone(), go.clone(), true);
        let stranger = Ends(Process::new(come_to_grief, target).start_method(method).start().unwrap());
        let conditions = [(); 2].map(|()| Condition::with_lock(lock.clone()).unwrap());
        let sleepers = conditions.each_ref().map(|condition| sleeper(method, condition));
        sleepers.iter().for_each(|sleeper| wait_watching(sleeper));
        go.set();
        sleepers.iter().for_each(|sleeper| ends_well(sleeper));
        assert!(!stranger.wait_timeout(LONG).unwrap().unwrap().success());
    }

    fn lock_by_handle_wakes_waiter(method) {
        let (condition, numbers, go) = (Condition::new().unwrap(), Numbers::new(), Event::new().unwrap());
        let sleeping = sleeper(method, &condition);
        let lock = condition.as_lock().clone();
        let target = (lock, numbers.clone(), go.clone(), false);
        let stranger = Ends(Process::new(come_to_grief, target).start_method(method).start().unwrap());
        wait_watching(&sleeping);
        go.set();
        until("it has the lock", || numbers.at(1).load(SeqCst) == 1);
        wait_asleep(sleeping.pid());
        kill(&stranger);
        ends_well(&sleeping);
    }
}

#[multiproc::test]
fn without_notification() {
    let (lock, numbers, go) = (Lock::new().unwrap(), Numbers::new(), Event::new().unwrap());
    let target = (lock.clone(), numbers.clone(), go.clone(), false);
    let stranger = Ends(Process::new(come_to_grief, target).start().unwrap());
    let condition = Condition::with_lock(lock).unwrap();
    let waits = |condition: Condition| {
        seccomp::forbid(libc::SYS_inotify_init1).unwrap();
        wait_for_grief(condition);
    };
    let sleeping = Ends(Process::new(waits, (condition.clone(),)).start().unwrap());
    wait_asleep(sleeping.pid());
    go.set();
    until("it has the lock", || numbers.at(1).load(SeqCst) == 1);
    kill(&stranger);
    ends_well(&sleeping);
}

#[multiproc::test]
fn process_without_proc() {
    let (condition, numbers) = (Condition::new().unwrap(), Numbers::new());
    let sleeping = sleeper(StartMethod::ForkServer, &condition);
    // Such a process doesn't know its own identity, so it can't be watched by that.
    let target = |condition: Condition, numbers: Numbers, root: String| {
        let root = std::ffi::CString::new(root).unwrap();
        // SAFETY: the path is a C string.
        if unsafe { libc::chroot(root.as_ptr()) } != 0 {
            eprintln!("skipped: chroot is refused");
        }
        let _guard = condition.lock().unwrap();
        numbers.at(1).store(1, SeqCst);
        sleep_long();
    };
    let root = common::Scratch::new();
    let target = Process::new(target, (condition.clone(), numbers.clone(), root.path("")));
    let holder = Ends(target.start().unwrap());
    until("it has the lock", || numbers.at(1).load(SeqCst) == 1);
    wait_asleep(sleeping.pid());
    kill(&holder);
    ends_well(&sleeping);
}

#[multiproc::test]
fn wait_timeout() {
    let condition = Condition::new().unwrap();
    let mut guard = condition.lock().unwrap();
    assert!(!guard.wait_timeout(Duration::ZERO).unwrap());
    let start = Instant::now();
    assert!(!guard.wait_timeout(Duration::from_millis(20)).unwrap());
    let mut looks = 0;
    let never = || {
        looks += 1;
        false
    };
    assert!(!guard.wait_for_timeout(never, Duration::from_millis(20)).unwrap());
    assert!(start.elapsed() >= Duration::from_millis(40) && looks >= 2);
    assert!(guard.wait_for_timeout(|| true, Duration::ZERO).unwrap());
    drop(guard);
    assert!(condition.try_lock().unwrap().is_some());
    assert!(condition.lock_timeout(Duration::ZERO).unwrap().is_some());
}

#[multiproc::test]
fn disconnected_when_alone() {
    let condition = Condition::new().unwrap();
    let other = condition.clone();
    drop(other);
    let result = common_thread(move || condition.lock().unwrap().wait());
    assert!(result.unwrap_err().is_disconnected());
}

/// Runs in a thread, while this one does nothing: threads that have a handle of it might notify.
fn common_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(run).join().unwrap()
}

#[multiproc::test]
fn threads() {
    let (condition, numbers) = (Condition::new().unwrap(), Numbers::new());
    std::thread::scope(|scope| {
        for turn in 0..4 {
            let (condition, numbers) = (condition.clone(), numbers.clone());
            scope.spawn(move || {
                for round in 0..200 {
                    let mut guard = condition.lock().unwrap();
                    guard.wait_for(|| numbers.at(0).load(Relaxed) == round * 4 + turn).unwrap();
                    numbers.at(0).store(round * 4 + turn + 1, Relaxed);
                    guard.notify_all();
                }
            });
        }
    });
    assert_eq!(numbers.at(0).load(SeqCst), 800);
}

#[multiproc::test]
fn poison_on_panic() {
    let condition = Condition::new().unwrap();
    let other = condition.clone();
    let panicked = std::thread::spawn(move || {
        let mut guard = other.lock().unwrap();
        guard.wait_for(|| panic!("in the user's code")).unwrap();
    });
    assert!(panicked.join().is_err());
    let mut guard = condition.lock().unwrap_err().into_guard().unwrap();
    let error = guard.wait_timeout(Duration::ZERO).unwrap_err();
    assert!(error.is_poisoned() && error.to_string().contains("has panicked while holding the condition"), "{error}");
    assert!(matches!(Error::from(error), Error::Lock { .. }));
    guard.clear_poison();
    assert!(!guard.wait_timeout(Duration::ZERO).unwrap());
}

#[multiproc::test]
fn forked_guard() {
    fn check() {
        let condition = Condition::new().unwrap();
        let mut guard = condition.lock().unwrap();
        let child = Process::fork(|| match guard.wait() {
            Err(ConditionError::Misuse(Misuse::NotHeld(_))) => 3,
            _ => 0,
        });
        assert_eq!(child.start().unwrap().join().unwrap(), 3);
        assert!(matches!(condition.lock(), Err(LockError::Misuse(Misuse::HeldHere(_)))));
    }
    common::in_a_process_with_one_thread(check);
}

#[multiproc::test]
fn garbage() {
    #[derive(Serialize)]
    #[serde(rename = "Condition")]
    struct Forged {
        lock: Lock,
        tickets: Event,
    }
    impl<'de> Deserialize<'de> for Forged {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Forged, D::Error> {
            Condition::deserialize(deserializer)?;
            panic!("an event is no condition");
        }
    }
    let forged = Forged { lock: Lock::new().unwrap(), tickets: Event::new().unwrap() };
    let child = Process::new(|forged: Forged| drop((forged.lock, forged.tickets)), (forged,));
    let error = child.start().unwrap_err().to_string();
    assert!(error.contains("invalid condition"), "{error}");
}

/// Dies with the lock.
fn hold(condition: Condition, held: Event) {
    let _guard = condition.lock().unwrap();
    held.set();
    sleep_long();
}

fn wait_or_say(condition: Condition) -> Result<(), String> {
    condition.lock().map_err(|error| error.to_string())?.wait().map_err(|error| error.to_string())
}

for_each_method! {
    fn death_is_reported_after_clear_poison(method) {
        for _ in 0..5 {
            let (condition, held) = (Condition::new().unwrap(), Event::new().unwrap());
            let waits = Process::new(wait_or_say, (condition.clone(),)).start_method(method).start().unwrap();
            wait_asleep(waits.pid());
            let holds = Process::new(hold, (condition.clone(), held.clone())).start_method(method).start().unwrap();
            held.wait().unwrap();
            kill(&holds);
            // At once, so that no other process finds the lock poisoned.
            match condition.lock() {
                Err(LockError::Poisoned(poisoned)) => poisoned.into_guard().clear_poison(),
                // The waiter has been quicker.
                other => drop(other.unwrap()),
            }
            assert!(waits.wait_timeout(LONG).unwrap().is_some(), "timed out");
            let _ = waits.join().unwrap();
        }
    }
}
