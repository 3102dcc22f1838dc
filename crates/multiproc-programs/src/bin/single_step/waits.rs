//! The other objects that processes wait with: `Semaphore`, `Event`, `Barrier`.

use std::time::Duration;

use multiproc::sync::{Barrier, BarrierError, BrokenBy, Event, Semaphore};

use super::locks::SOON;
use super::walk::{Run, Scenario};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("acquire", acquire),
    ("acquire_asleep", acquire_asleep),
    ("release", release),
    ("drop_permit_with_waiters", drop_permit_with_waiters),
    ("event_set", event_set),
    ("event_clear", event_clear),
    ("event_wait_asleep", event_wait_asleep),
    ("barrier_first", barrier_first),
    ("barrier_last", barrier_last),
];

/// A new semaphore, after the once-per-process work has been done.
fn new_semaphore(permits: usize) -> Semaphore {
    let other = Semaphore::new(1).unwrap();
    other.clone().acquire().unwrap().forget();
    // No other process has it, and a waiter finds that out sooner or later.
    assert!(!matches!(other.acquire_timeout(Duration::from_millis(5)), Ok(Some(_))));
    let semaphore = Semaphore::new(permits).unwrap();
    drop(semaphore.clone());
    semaphore
}

/// Checks that exactly `count` permits are available immediately.
fn has(semaphore: &Semaphore, count: usize) {
    let permits: Vec<_> = (0..count).map(|_| semaphore.acquire_timeout(SOON).unwrap().expect("one is lost")).collect();
    assert!(semaphore.try_acquire().unwrap().is_none(), "there is one permit too many");
    drop(permits);
    assert_eq!(semaphore.available(), count);
}

fn never() {
    panic!("the victim must not sleep");
}

fn acquire(run: &mut Run) -> &'static str {
    let semaphore = new_semaphore(2);
    run.victim(
        |step| {
            drop(semaphore.acquire().unwrap());
            let mut permit = None;
            step(&mut || permit = Some(semaphore.acquire().unwrap()));
        },
        |_| (),
        never,
    );
    has(&semaphore, 2);
    "there"
}

fn acquire_asleep(run: &mut Run) -> &'static str {
    let semaphore = new_semaphore(1);
    let mut permit = Some(semaphore.acquire().unwrap());
    run.victim(
        |step| {
            let mut taken = None;
            step(&mut || taken = Some(semaphore.acquire().unwrap()));
        },
        |run| run.beside(|| drop(semaphore.acquire().unwrap())),
        || drop(permit.take()),
    );
    drop(permit);
    run.settle_soon();
    has(&semaphore, 1);
    "there"
}

/// A permit that no process has held: it is available afterwards, or not.
fn release(run: &mut Run) -> &'static str {
    let semaphore = new_semaphore(1);
    let permit = semaphore.acquire().unwrap();
    run.victim(
        |step| step(&mut || semaphore.release().unwrap()),
        |run| run.beside(|| semaphore.acquire().unwrap().forget()),
        never,
    );
    // The waiter takes this permit, or has taken the other one.
    drop(permit);
    run.settle_soon();
    let outcome = if semaphore.available() == 1 { "released" } else { "not released" };
    has(&semaphore, semaphore.available().min(1));
    outcome
}

/// The victim's permit is available afterwards, whether it got to release it or not.
fn drop_permit_with_waiters(run: &mut Run) -> &'static str {
    let semaphore = new_semaphore(1);
    run.victim(
        |step| {
            let mut permit = Some(semaphore.acquire().unwrap());
            step(&mut || drop(permit.take()));
        },
        |run| (0..2).for_each(|_| run.beside(|| drop(semaphore.acquire().unwrap()))),
        never,
    );
    run.settle_soon();
    has(&semaphore, 1);
    "there"
}

/// A new event, after the once-per-process work has been done.
fn new_event() -> Event {
    let event = Event::new().unwrap();
    drop(event.clone());
    event.set();
    event.wait().unwrap();
    event.clear();
    let other = Event::new().unwrap();
    assert!(!other.wait_timeout(Duration::from_millis(5)).unwrap_or(false));
    event
}

/// Checks that it can be set, cleared, and waited for.
fn works(event: &Event) {
    event.set();
    assert!(event.is_set() && event.wait_timeout(SOON).unwrap());
    event.clear();
    assert!(!event.is_set() && !event.wait_timeout(Duration::ZERO).unwrap());
}

fn event_set(run: &mut Run) -> &'static str {
    let event = new_event();
    run.victim(
        |step| step(&mut || event.set()),
        |run| (0..2).for_each(|_| run.beside(|| event.wait().unwrap())),
        never,
    );
    let outcome = if event.is_set() { "set" } else { "not set" };
    if outcome == "not set" {
        event.set();
    }
    run.settle_soon();
    works(&event);
    outcome
}

fn event_clear(run: &mut Run) -> &'static str {
    let event = new_event();
    event.set();
    run.victim(|step| step(&mut || event.clear()), |_| (), never);
    let outcome = if event.is_set() { "set" } else { "not set" };
    works(&event);
    outcome
}

fn event_wait_asleep(run: &mut Run) -> &'static str {
    let event = new_event();
    run.victim(|step| step(&mut || event.wait().unwrap()), |run| run.beside(|| event.wait().unwrap()), || event.set());
    event.set();
    run.settle_soon();
    works(&event);
    "works"
}

fn new_barrier() -> Barrier {
    let one = Barrier::new(1).unwrap();
    one.wait().unwrap();
    let barrier = Barrier::new(2).unwrap();
    assert!(barrier.wait_timeout(Duration::from_millis(5)).is_err());
    barrier.reset();
    drop(barrier.clone());
    barrier
}

/// What a process is told that arrives after the victim is gone. Never a timeout: that would mean a
/// wait for a process that can't arrive.
fn come(barrier: &Barrier) -> &'static str {
    match barrier.wait_timeout(SOON) {
        Ok(_) => "passed",
        Err(BarrierError::Broken(BrokenBy::Death { .. })) => "death",
        Err(BarrierError::Broken(BrokenBy::Disconnected)) => "alone",
        Err(error) => panic!("{error}"),
    }
}

/// Checks that two processes can pass after a reset.
fn works_for_two(run: &mut Run, barrier: &Barrier) {
    barrier.reset();
    run.beside(|| _ = barrier.wait().unwrap());
    barrier.wait_timeout(SOON).unwrap();
    run.settle_soon();
}

fn barrier_first(run: &mut Run) -> &'static str {
    let barrier = new_barrier();
    run.victim(|step| step(&mut || _ = barrier.wait().unwrap()), |_| (), || _ = barrier.wait_timeout(SOON).unwrap());
    let outcome = come(&barrier);
    works_for_two(run, &barrier);
    outcome
}

fn barrier_last(run: &mut Run) -> &'static str {
    let barrier = new_barrier();
    run.victim(
        |step| step(&mut || _ = barrier.wait().unwrap()),
        |run| {
            run.beside(|| match barrier.wait() {
                Ok(_) | Err(BarrierError::Broken(BrokenBy::Death { .. })) => {}
                Err(error) => panic!("{error}"),
            });
        },
        never,
    );
    // This passes with the process that is waiting already, if the victim had not arrived;
    // otherwise that process is gone.
    let outcome = come(&barrier);
    run.settle_soon();
    works_for_two(run, &barrier);
    outcome
}
