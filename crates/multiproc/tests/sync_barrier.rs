//! Barriers between processes.

mod common;
#[path = "common/shared.rs"]
mod shared;

use std::time::Duration;

use common::{Ends, LONG, for_each_method};
use multiproc::sync::{Barrier, BarrierError};
use multiproc::{Process, Queue};
use shared::wait_asleep;

/// Says before each round that it is there, and after it that all were.
fn rounds(barrier: Barrier, said: Queue<u32>) {
    for round in 0..100 {
        said.put(round).unwrap();
        barrier.wait().unwrap();
    }
}

for_each_method! {
    fn nobody_is_a_round_ahead(method) {
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
    fn one_who_wakes_late_is_not_forgotten(method) {
        let barrier = Barrier::new(3).unwrap();
        let twice = |barrier: Barrier| {
            barrier.wait().unwrap();
            barrier.wait().unwrap();
        };
        let start = || Ends(Process::new(twice, (barrier.clone(),)).start_method(method).start().unwrap());
        let children = [start(), start()];
        children.iter().for_each(|child| wait_asleep(child.pid()));
        children[0].signal(libc::SIGSTOP).unwrap();
        barrier.wait().unwrap();
        // The other one has come again, and sleeps in the next round.
        while barrier.n_waiting() == 0 {
            std::thread::yield_now();
        }
        wait_asleep(children[1].pid());
        children[0].signal(libc::SIGCONT).unwrap();
        barrier.wait_timeout(LONG).expect("it hangs");
        for child in &children {
            assert!(child.wait_timeout(LONG).unwrap().expect("it hangs").success());
        }
    }
}

fn wait(barrier: Barrier) -> Result<usize, String> {
    barrier.wait().map(|result| result.index()).map_err(|error| error.to_string())
}

for_each_method! {
    fn one_that_is_killed_while_it_waits_breaks_it(method) {
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
    fn who_waits_no_longer_breaks_it_and_it_can_be_mended(method) {
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
