//! Barriers between processes.

mod common;

use std::time::Duration;

use common::for_each_method;
use multiproc::sync::{Barrier, BarrierError};
use multiproc::{Process, Queue};

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
