//! What arrives is what was sent: every type of the corpus through a queue, compared with what a
//! self-describing format gives back.
//!
//! `MULTIPROC_VALUES` is the number of values that each of the queue tests sends in all,
//! `MULTIPROC_SEED` determines which.

use std::any::type_name;
use std::collections::HashMap;

use multiproc::Queue;
use multiproc_values::Rng;
use multiproc_values::oracle::{Value, judge};
use multiproc_values::types::*;

/// The faults of a run, one of each kind.
#[derive(Default)]
struct Faults(HashMap<&'static str, (String, usize)>);

impl Faults {
    fn add(&mut self, name: &'static str, fault: String) {
        self.0.entry(name).or_insert((fault, 0)).1 += 1;
    }

    fn check(self) {
        let mut all: Vec<_> = self.0.into_iter().collect();
        all.sort();
        let text: String =
            all.iter().map(|(name, (fault, count))| format!("{name}, {count} times: {fault}\n")).collect();
        assert!(all.is_empty(), "{} types:\n{text}", all.len());
    }
}

fn number_of_values(types: usize) -> usize {
    let all = std::env::var("MULTIPROC_VALUES").ok().map(|number| number.parse().expect("not a number"));
    all.unwrap_or(300 * types)
}

/// Puts a value and gets it; returns whether it was sent at all.
fn by_queue<T: Value>(queue: &Queue<T>, value: &T) -> Result<bool, String> {
    let sent = queue.put(value.clone()).map_err(|error| error.to_string());
    judge(value, sent, || queue.try_get().map_err(|error| error.to_string()))
}

/// Sends values of one type through a queue of that type.
type Lane = Box<dyn FnMut(&mut Rng) -> Result<bool, String> + Send>;

fn lane<T: Value>() -> (&'static str, Lane) {
    let queue = Queue::<T>::new().unwrap();
    (type_name::<T>(), Box::new(move |rng| by_queue(&queue, &T::any(rng))))
}

macro_rules! lanes {
    ($($type:ident)*) => {
        fn lanes() -> Vec<(&'static str, Lane)> {
            vec![$(lane::<$type>()),*]
        }
    };
}

multiproc_values::for_each_type!(lanes);

#[test]
fn corpus_size() {
    let mut rng = Rng::from_env();
    let mut lanes = lanes();
    assert!(lanes.len() > 120, "{}", lanes.len());
    for (name, lane) in &mut lanes {
        let travelled = (0..100).filter(|_| lane(&mut rng) == Ok(true)).count();
        let few = ["SkipVariant", "Rename", "Alias", "Deny", "Other", "WithoutDefault", "NotBorrowed", "Even"];
        assert!(travelled > 20 || few.iter().any(|few| name.contains(few)), "{name}: {travelled} of 100");
    }
}

/// Each thread remembers what has been tried, so new threads start afresh.
#[test]
fn each_type() {
    let mut rng = Rng::from_env();
    let mut lanes = lanes();
    let each = number_of_values(lanes.len()).div_ceil(lanes.len());
    let mut faults = Faults::default();
    for (name, lane) in &mut lanes {
        let mut left = each;
        while left > 0 {
            let many = (1 + rng.below(60)).min(left);
            left -= many;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..many {
                        if let Err(fault) = lane(&mut rng) {
                            faults.add(name, fault);
                        }
                    }
                });
            });
        }
    }
    faults.check();
}

#[test]
fn alternating_types() {
    let mut rng = Rng::from_env();
    let mut lanes = lanes();
    let mut faults = Faults::default();
    for _ in 0..number_of_values(lanes.len()) {
        let chosen = rng.below(lanes.len());
        let (name, lane) = &mut lanes[chosen];
        if let Err(fault) = lane(&mut rng) {
            faults.add(name, fault);
        }
    }
    faults.check();
}
