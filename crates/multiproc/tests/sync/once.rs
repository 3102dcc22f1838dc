//! Code that runs only once, in one of all processes.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::common::{self, for_each_method, sleep_long, time_until};
use crate::locks::{ends, start};
use crate::shared::{Numbers, kill, wait_asleep_in_futex};
use multiproc::sync::{Event, Lock, Misuse, Once, PoisonCause};
use multiproc::{Process, Queue, Run};
use serde::{Deserialize, Serialize};

/// In `numbers`: 0 is how often the code ran, 1 how often the call found it completed, 2 how often
/// `call_once` returned true, which means that the caller ran it.
fn call(once: Once, numbers: Numbers) {
    let by_me = once.call_once(|state| {
        assert!(!state.is_poisoned() && state.cause().is_none() && state.pid().is_none());
        std::thread::yield_now();
        numbers.at(0).fetch_add(1, SeqCst);
    });
    assert!(once.is_completed());
    assert_eq!(numbers.at(0).load(SeqCst), 1, "no caller returns before completion");
    numbers.at(if by_me.unwrap() { 2 } else { 1 }).fetch_add(1, SeqCst);
}

/// Begins, and is killed.
fn begin(once: Once, begun: Event) {
    once.call_once(|_| {
        begun.set();
        sleep_long();
    })
    .unwrap();
}

/// `None` if it was completed before; otherwise whether a process died in it (and did not panic),
/// and which process was the cause.
fn finish(once: Once) -> Option<(bool, Option<i32>)> {
    let mut found = None;
    let by_me = once.call_once(|state| found = Some((state.cause() == Some(PoisonCause::Died), state.pid()))).unwrap();
    assert_eq!(by_me, found.is_some());
    found
}

fn panic_in_it(once: Once) {
    let _ = once.call_once(|_| panic!("panic on purpose"));
}

#[derive(Serialize, Deserialize)]
struct Worker {
    once: Vec<Once>,
}

impl Run for Worker {
    type Output = Vec<Once>;

    fn run(self) -> Vec<Once> {
        assert!(self.once[0].call_once(|_| ()).unwrap());
        self.once
    }
}

for_each_method! {
    fn smoke(method) {
        for _ in 0..5 {
            let (once, numbers) = (Once::new().unwrap(), Numbers::new());
            let children: Vec<_> =
                (0..4).map(|_| start!(Process::new(call, (once.clone(), numbers.clone())), method)).collect();
            children.iter().for_each(|child| ends(child));
            assert_eq!([0, 1, 2].map(|index| numbers.at(index).load(SeqCst)), [1, 3, 1]);
        }
    }

    fn poison_on_death(method) {
        let (once, begun) = (Once::new().unwrap(), Event::new().unwrap());
        let first = start!(Process::new(begin, (once.clone(), begun.clone())), method);
        begun.wait().unwrap();
        let waiters: Vec<_> =
            (0..2).map(|_| Process::new(finish, (once.clone(),)).start_method(method).start().unwrap()).collect();
        waiters.iter().for_each(|waiter| wait_asleep_in_futex(waiter.pid()));
        kill(&first);
        let took = time_until(|| waiters.iter().all(|waiter| !waiter.is_alive()));
        assert!(took < Duration::from_millis(900), "{took:?}");
        let mut found: Vec<_> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
        found.sort();
        assert_eq!(found, [None, Some((true, Some(first.pid())))]);
        assert!(once.is_completed());
    }

    fn poison_on_panic(method) {
        let once = Once::new().unwrap();
        let child = Process::new(panic_in_it, (once.clone(),)).start_method(method).start().unwrap();
        let pid = child.pid();
        child.join().unwrap_err();
        assert!(!once.is_completed());
        assert_eq!(finish(once.clone()), Some((false, Some(pid))));
        assert_eq!(finish(once), None);
    }

    fn killed_waiter(method) {
        let once = Once::new().unwrap();
        once.call_once(|_| {
            let [killed, other] = [0; 2].map(|_| {
                let waiter = start!(Process::new(finish, (once.clone(),)), method);
                wait_asleep_in_futex(waiter.pid());
                waiter
            });
            kill(&killed);
            let _ = other.kill();
        })
        .unwrap();
        assert_eq!(finish(once), None);
    }

    fn send(method) {
        let once = Once::new().unwrap();
        let worker = Worker { once: vec![once.clone(), Once::new().unwrap()] };
        let back = worker.process().start_method(method).start().unwrap().join().unwrap();
        assert!(once.is_completed() && back[0].is_completed() && !back[1].is_completed());
        assert!(back[1].call_once(|_| ()).unwrap());
        let queue = Queue::new().unwrap();
        queue.put(back[1].clone()).unwrap();
        assert!(queue.get().unwrap().is_completed());
    }
}

#[multiproc::test]
fn recursive_call() {
    let once = Once::new().unwrap();
    once.call_once(|_| {
        assert!(matches!(once.call_once(|_| unreachable!()), Err(Misuse::HeldHere("once"))));
        assert!(!once.is_completed());
    })
    .unwrap();
    assert!(!once.call_once(|_| unreachable!()).unwrap());
    assert_eq!(format!("{once:?}"), "Once { completed: true }");
}

#[multiproc::test]
fn several_poisons() {
    let once = Once::new().unwrap();
    let panics = once.clone();
    std::thread::spawn(move || panic_in_it(panics)).join().unwrap_err();
    let dies = once.clone();
    let thread = std::thread::spawn(move || {
        // The guard is dropped by the panic, before the thread ends.
        let _ = dies.call_once(|state| {
            assert_eq!(state.cause(), Some(PoisonCause::Panicked));
            assert_eq!(state.pid(), Some(std::process::id() as i32));
            panic!("again");
        });
    });
    thread.join().unwrap_err();
    assert_eq!(finish(once.clone()), Some((false, Some(std::process::id() as i32))));
    assert!(once.is_completed());
}

#[multiproc::test]
fn garbage() {
    let lock = Lock::new().unwrap();
    /// Sends a lock, and decodes it as a `Once`.
    #[derive(Serialize)]
    #[serde(transparent)]
    struct Mistaken(Lock);
    impl<'de> Deserialize<'de> for Mistaken {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Mistaken, D::Error> {
            Once::deserialize(deserializer).map(|_| panic!("it was accepted"))
        }
    }
    let error = Process::new(|_: Mistaken| (), (Mistaken(lock),)).start().unwrap_err().to_string();
    assert!(error.contains("this is no once of this program: it is something else"), "{error}");
}

for_each_method! {
    fn call_once_timeout(method) {
        let (once, begun) = (Once::new().unwrap(), Event::new().unwrap());
        let child = start!(Process::new(begin, (once.clone(), begun.clone())), method);
        begun.wait().unwrap();
        let never = |_: &_| panic!("another is doing it");
        assert_eq!(once.try_call_once(never).unwrap(), None);
        assert_eq!(once.call_once_timeout(Duration::from_millis(10), never).unwrap(), None);
        assert!(!once.is_completed());
        kill(&child);
        let mut found = None;
        assert_eq!(once.call_once_timeout(common::LONG, |state| found = state.cause()).unwrap(), Some(true));
        assert_eq!(found, Some(PoisonCause::Died));
        assert_eq!(once.try_call_once(|_| panic!("it is done")).unwrap(), Some(false));
        once.try_call_once(|_| ()).unwrap();
        let other = Once::new().unwrap();
        other.call_once(|_| assert!(matches!(other.try_call_once(|_| ()), Err(Misuse::HeldHere(_))))).unwrap();
    }
}
