//! Events between processes.

use std::time::{Duration, Instant};

use crate::common::{Ends, LONG, for_each_method, sleep_long};
use crate::shared::{kill, wait_asleep};
use multiproc::sync::{Event, WaitError};
use multiproc::{Error, Process, Run};
use serde::{Deserialize, Serialize};

fn wait(event: Event) {
    event.wait().unwrap();
}

fn set_and_sleep(event: Event, ready: Event) {
    ready.set();
    event.set();
    sleep_long();
}

#[derive(Serialize, Deserialize)]
struct Sets {
    event: Event,
    list: Vec<Option<Event>>,
}

impl Run for Sets {
    type Output = Event;

    fn run(self) -> Event {
        self.event.set();
        self.list.into_iter().flatten().for_each(|event| event.set());
        self.event
    }
}

for_each_method! {
    fn smoke(method) {
        let event = Event::new().unwrap();
        assert!(!event.is_set() && !event.wait_timeout(Duration::ZERO).unwrap());
        let child = Process::new(|event: Event| event.set(), (event.clone(),)).start_method(method).start().unwrap();
        event.wait().unwrap();
        assert!(event.is_set() && event.wait_timeout(Duration::ZERO).unwrap());
        child.join().unwrap();
        event.clear();
        assert!(!event.is_set());
    }

    fn set_wakes_all(method) {
        let event = Event::new().unwrap();
        let children: Vec<_> = (0..5)
            .map(|_| Ends(Process::new(wait, (event.clone(),)).start_method(method).start().unwrap()))
            .collect();
        children.iter().for_each(|child| wait_asleep(child.pid()));
        // Even a short set counts.
        event.set();
        event.clear();
        for child in &children {
            assert!(child.wait_timeout(LONG).unwrap().expect("timed out").success());
        }
        assert!(!event.is_set());
    }

    fn ping_pong(method) {
        let (ping, pong) = (Event::new().unwrap(), Event::new().unwrap());
        let target = |ping: Event, pong: Event| {
            for _ in 0..500 {
                ping.wait().unwrap();
                ping.clear();
                pong.set();
            }
        };
        let child = Ends(Process::new(target, (ping.clone(), pong.clone())).start_method(method).start().unwrap());
        for _ in 0..500 {
            ping.set();
            assert!(pong.wait_timeout(LONG).unwrap(), "timed out");
            pong.clear();
        }
        assert!(child.wait_timeout(LONG).unwrap().expect("timed out").success());
    }

    fn killed_and_stopped_waiters(method) {
        let event = Event::new().unwrap();
        let waiter = || Ends(Process::new(wait, (event.clone(),)).start_method(method).start().unwrap());
        let (killed, stopped, other) = (waiter(), waiter(), waiter());
        [&killed, &stopped, &other].iter().for_each(|child| wait_asleep(child.pid()));
        stopped.signal(libc::SIGSTOP).unwrap();
        kill(&killed);
        event.set();
        assert!(other.wait_timeout(LONG).unwrap().expect("timed out").success());
        stopped.signal(libc::SIGCONT).unwrap();
        assert!(stopped.wait_timeout(LONG).unwrap().expect("timed out").success());
    }

    fn late_waiter(method) {
        let event = Event::new().unwrap();
        let waiter = || Ends(Process::new(wait, (event.clone(),)).start_method(method).start().unwrap());
        let slow = waiter();
        wait_asleep(slow.pid());
        slow.signal(libc::SIGSTOP).unwrap();
        event.set();
        event.clear();
        // Waits for the next set, and goes to sleep before the other one has woken up.
        let late = waiter();
        wait_asleep(late.pid());
        slow.signal(libc::SIGCONT).unwrap();
        assert!(slow.wait_timeout(LONG).unwrap().expect("timed out").success());
        assert!(late.is_alive());
        event.set();
        assert!(late.wait_timeout(LONG).unwrap().expect("timed out").success());
    }

    fn killed_setter(method) {
        let (event, ready) = (Event::new().unwrap(), Event::new().unwrap());
        let waiter = Ends(Process::new(wait, (event.clone(),)).start_method(method).start().unwrap());
        wait_asleep(waiter.pid());
        let setter = Process::new(set_and_sleep, (event.clone(), ready.clone())).start_method(method);
        let setter = Ends(setter.start().unwrap());
        ready.wait().unwrap();
        assert!(waiter.wait_timeout(LONG).unwrap().expect("timed out").success());
        kill(&setter);
        assert!(event.is_set());
        event.wait().unwrap();
    }

    fn disconnect_wakes_waiters(method) {
        let (event, ready) = (Event::new().unwrap(), Event::new().unwrap());
        let target = |event: Event| {
            let error = event.wait().unwrap_err();
            assert!(error.is_disconnected());
            assert_eq!(error.to_string(), "cannot wait for an event: no process is left that could set it");
        };
        let waiters: Vec<_> = (0..3)
            .map(|_| Ends(Process::new(target, (event.clone(),)).start_method(method).start().unwrap()))
            .collect();
        let holder = |event: Event, ready: Event| {
            ready.set();
            sleep_long();
            drop(event);
        };
        let holder = Process::new(holder, (event.clone(), ready.clone())).start_method(method).start().unwrap();
        let holder = Ends(holder);
        ready.wait().unwrap();
        waiters.iter().for_each(|waiter| wait_asleep(waiter.pid()));
        drop(event);
        assert!(waiters.iter().all(|waiter| waiter.is_alive()));
        let start = Instant::now();
        kill(&holder);
        for waiter in &waiters {
            assert!(waiter.wait_timeout(LONG).unwrap().expect("timed out").success());
        }
        println!("{:?} from the kill to the end of the waiters", start.elapsed());
    }

    fn killed_child_disconnects(method) {
        let ready = Event::new().unwrap();
        let target = |_ready: Event| -> () { std::process::exit(3) };
        let child = Process::new(target, (ready.clone(),)).start_method(method).start().unwrap();
        let error: Error = ready.wait().unwrap_err().into();
        assert!(matches!(error, Error::Wait(WaitError::Disconnected { .. })), "{error}");
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }

    fn send(method) {
        let list: Vec<_> = (0..3).map(|number| (number != 1).then(|| Event::new().unwrap())).collect();
        let sets = Sets { event: Event::new().unwrap(), list };
        let (event, list) = (sets.event.clone(), sets.list.clone());
        let back = sets.process().start_method(method).start().unwrap().join().unwrap();
        assert!(list.iter().flatten().all(|event| event.wait().is_ok()));
        back.clear();
        assert!(!event.is_set());
        event.set();
        back.wait().unwrap();
    }
}

#[multiproc::test]
fn threads_with_clones() {
    let event = Event::new().unwrap();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..3)
            .map(|_| event.clone())
            .map(|event| scope.spawn(move || event.wait().is_err_and(|error| error.is_disconnected())))
            .collect();
        drop(event);
        assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
    });
}

#[multiproc::test]
fn threads_of_one_handle() {
    let event = Event::new().unwrap();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..3).map(|_| scope.spawn(|| event.wait())).collect();
        assert!(!event.wait_timeout(Duration::from_millis(20)).unwrap());
        event.set();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap().unwrap());
    });
}

#[multiproc::test]
fn wait_timeout() {
    let event = Event::new().unwrap();
    for millis in [0, 1, 3, 30] {
        let (start, timeout) = (Instant::now(), Duration::from_millis(millis));
        assert!(!event.wait_timeout(timeout).unwrap());
        assert!(start.elapsed() >= timeout && start.elapsed() < timeout + LONG / 10);
    }
    let other = event.clone();
    let setter = std::thread::spawn(move || other.set());
    assert!(event.wait_timeout(Duration::MAX).unwrap());
    setter.join().unwrap();
}

#[multiproc::test]
fn debug() {
    let event = Event::new().unwrap();
    assert_eq!(format!("{event:?}"), "Event { set: false, .. }");
}
