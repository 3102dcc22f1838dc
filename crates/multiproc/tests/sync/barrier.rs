//! Barriers between processes.

use std::time::Duration;

use crate::common::{self, Ends, LONG, for_each_method};
use crate::shared::wait_asleep;
use multiproc::sync::{Barrier, BarrierError};
use multiproc::{Process, Queue};

/// Announces each round, and then waits at the barrier.
fn rounds(barrier: Barrier, said: Queue<u32>) {
    for round in 0..100 {
        said.put(round).unwrap();
        barrier.wait().unwrap();
    }
}

for_each_method! {
    fn smoke(method) {
        const PARTIES: usize = 4;
        let (barrier, said) = (Barrier::new(PARTIES).unwrap(), Queue::new().unwrap());
        for _ in 0..PARTIES {
            Process::new(rounds, (barrier.clone(), said.clone())).start_method(method).start().unwrap();
        }
        let said: Vec<u32> = said.iter().map(Result::unwrap).collect();
        assert_eq!(said.len(), 100 * PARTIES);
        assert!(said.is_sorted());
    }
}

for_each_method! {
    fn stopped_waiter(method) {
        let barrier = Barrier::new(3).unwrap();
        let twice = |barrier: Barrier| {
            barrier.wait().unwrap();
            barrier.wait().unwrap();
        };
        let start = || Ends(Process::new(twice, (barrier.clone(),)).start_method(method).start().unwrap());
        let children = [start(), start()];
        // `children[0]` last: the arrival of the other child wakes it for a moment, in which it
        // takes the barrier's lock.
        children.iter().rev().for_each(|child| wait_asleep(child.pid()));
        children[0].signal(libc::SIGSTOP).unwrap();
        barrier.wait().unwrap();
        // The other one has arrived again, and sleeps in the next round.
        while barrier.n_waiting() == 0 {
            std::thread::yield_now();
        }
        wait_asleep(children[1].pid());
        children[0].signal(libc::SIGCONT).unwrap();
        barrier.wait_timeout(LONG).expect("timed out");
        for child in &children {
            assert!(child.wait_timeout(LONG).unwrap().expect("timed out").success());
        }
    }
}

fn wait(barrier: Barrier) -> Result<usize, String> {
    barrier.wait().map(|result| result.index()).map_err(|error| error.to_string())
}

for_each_method! {
    fn killed_waiter_breaks(method) {
        let barrier = Barrier::new(3).unwrap();
        let start = || Process::new(wait, (barrier.clone(),)).start_method(method).start().unwrap();
        let (killed, other) = (start(), start());
        while barrier.n_waiting() < 2 {
            std::thread::yield_now();
        }
        killed.kill().unwrap();
        killed.wait().unwrap();
        let error = other.join().map(|result| result.map_err(|error| error.to_string()));
        assert!(!matches!(error, Ok(Ok(_))), "{error:?}");
        assert!(barrier.is_broken());
        assert!(matches!(barrier.wait(), Err(BarrierError::Broken(_))));
    }
}

for_each_method! {
    fn wait_timeout_breaks_and_reset(method) {
        let barrier = Barrier::new(2).unwrap();
        let child = Process::new(wait, (barrier.clone(),)).start_method(method).start().unwrap();
        assert!(barrier.wait().unwrap().index() < 2);
        child.join().unwrap().unwrap();
        assert!(barrier.wait_timeout(Duration::from_millis(20)).is_err());
        assert!(barrier.is_broken());
        barrier.reset();
        assert!(!barrier.is_broken());
    }
}

/// Blocks in the action for good.
fn act_for_ever(barrier: Barrier, acting: Queue<()>) {
    let _ = barrier.wait_with(|| {
        acting.put(()).unwrap();
        common::sleep_long();
    });
}

for_each_method! {
    /// Regression: waiters that slept already didn't notice the death of a process that arrived
    /// later.
    fn killed_in_action_breaks(method) {
        let (barrier, acting) = (Barrier::new(2).unwrap(), Queue::new().unwrap());
        let waits = Process::new(wait, (barrier.clone(),)).start_method(method).start().unwrap();
        wait_asleep(waits.pid());
        let acts = Process::new(act_for_ever, (barrier.clone(), acting.clone())).start_method(method).start().unwrap();
        acting.get_timeout(LONG).unwrap();
        wait_asleep(waits.pid());
        acts.kill().unwrap();
        acts.wait().unwrap();
        assert!(waits.wait_timeout(LONG).unwrap().is_some(), "timed out");
        let error = waits.join().unwrap().unwrap_err();
        assert!(error.contains(&format!("process {} has died", acts.pid())), "{error}");
    }

    fn killed_new_waiter_breaks(method) {
        let barrier = Barrier::new(3).unwrap();
        let start = || Process::new(wait, (barrier.clone(),)).start_method(method).start().unwrap();
        let waits = start();
        wait_asleep(waits.pid());
        let comes = start();
        while barrier.n_waiting() < 2 {
            std::thread::yield_now();
        }
        comes.kill().unwrap();
        comes.wait().unwrap();
        assert!(waits.wait_timeout(LONG).unwrap().is_some(), "timed out");
        let error = waits.join().unwrap().unwrap_err();
        assert!(error.contains(&format!("process {} has died", comes.pid())), "{error}");
    }
}

/// Threads that wait through one handle are not all participants: another handle can still bring
/// the third.
#[multiproc::test]
fn threads_of_one_handle() {
    let barrier = Barrier::new(3).unwrap();
    let third = barrier.clone();
    std::thread::scope(|scope| {
        let (say, said) = std::sync::mpsc::channel();
        let waiting = [(); 2].map(|()| {
            let (say, barrier) = (say.clone(), &barrier);
            scope.spawn(move || {
                // SAFETY: the call accesses no memory.
                say.send(unsafe { libc::gettid() }).unwrap();
                barrier.wait().map(|result| result.index())
            })
        });
        said.iter().take(2).for_each(wait_asleep);
        assert!(!barrier.is_broken());
        assert_eq!(third.wait().unwrap().index(), 2);
        let mut indices = waiting.map(|waiting| waiting.join().unwrap().unwrap());
        indices.sort_unstable();
        assert_eq!(indices, [0, 1]);
    });
}

fn fork_in_the_action(barrier: Barrier) {
    // SAFETY: the fork copy returns from the barrier, and ends; it is waited for.
    unsafe {
        let this = libc::getpid();
        let result = barrier.wait_with(|| {
            let copy = libc::fork();
            if copy != 0 {
                let mut status = 1;
                assert_eq!(libc::waitpid(copy, &raw mut status, 0), copy);
                assert_eq!((status, barrier.n_waiting()), (0, 2), "the round is not over");
            }
        });
        if libc::getpid() != this {
            libc::_exit(i32::from(result.is_err()));
        }
        result.unwrap();
    }
}

#[multiproc::test]
fn fork_in_action() {
    let barrier = Barrier::new(2).unwrap();
    let waits = Process::new(wait, (barrier.clone(),)).start().unwrap();
    while barrier.n_waiting() == 0 {
        std::thread::yield_now();
    }
    let acts = Ends(Process::new(fork_in_the_action, (barrier.clone(),)).start().unwrap());
    assert!(acts.wait_timeout(LONG).unwrap().expect("timed out").success());
    assert_eq!(waits.join().unwrap(), Ok(0));
    assert!(!barrier.is_broken());
}
