//! Every type of the corpus in every way: through a queue and a pipe, as argument and result,
//! inside other values and beside large ones.
//!
//! The types are variants of one enum, so that queues, pipes and processes are compiled for one
//! type rather than a hundred. Each is sent by a thread of its own, because what the sender
//! remembers of a type, it remembers by thread.

use std::collections::HashMap;

use crate::common::for_each_method;
use multiproc::connection::one_way;
use multiproc::{Process, Queue, StartMethod};
use multiproc_values::oracle::{by_json, compare};
use multiproc_values::types::*;
use multiproc_values::{Any, Rng};
use serde::{Deserialize, Serialize};

macro_rules! every {
    ($($type:ident)*) => {
        /// A value of any type of the corpus.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        enum Every {
            $($type(Box<$type>),)*
        }

        /// The types, and a function that makes a value of each from a seed.
        const TYPES: &[(&str, fn(u64) -> Every)] =
            &[$((stringify!($type), |seed| Every::$type(Box::new(Any::any(&mut Rng::new(seed)))))),*];

        impl Every {
            /// Whether JSON can represent it.
            fn is_for_json(&self) -> bool {
                match self {
                    $(Every::$type(value) => by_json(&**value).is_ok(),)*
                }
            }

            /// Compares `arrived` with this value.
            fn compare(&self, arrived: Every) -> Result<(), String> {
                match (self, arrived) {
                    $((Every::$type(sent), Every::$type(arrived)) => compare(&**sent, *arrived),)*
                    (sent, arrived) => Err(format!("{sent:?} arrived as {arrived:?}")),
                }
            }
        }
    };
}

multiproc_values::for_each_type!(every);

/// A value inside others, beside `before`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Inside {
    before: Vec<u8>,
    text: String,
    value: Every,
    option: Option<Every>,
    list: Vec<(u8, Every)>,
    map: HashMap<String, Result<Every, String>>,
    number: u32,
}

/// More bytes than are sent within a message, and fewer.
const SIZES: [usize; 2] = [2 << 20, 10];

fn inside(value: &Every, size: usize) -> Inside {
    Inside {
        before: vec![7; size],
        text: "ß".repeat(size / 4),
        value: value.clone(),
        option: Some(value.clone()),
        list: vec![(1, value.clone()), (2, value.clone())],
        map: HashMap::from([("a".into(), Ok(value.clone())), ("b".into(), Err("b".into()))]),
        number: 4_000_000_000,
    }
}

fn check(sent: &Every, size: usize, arrived: Inside) -> Result<(), String> {
    if arrived.before != vec![7; size] || arrived.text != "ß".repeat(size / 4) || arrived.number != 4_000_000_000 {
        return Err("a neighbouring value has changed".into());
    }
    sent.compare(arrived.value)?;
    sent.compare(arrived.option.ok_or("an option is gone")?)?;
    let [(1, one), (2, other)] = <[_; 2]>::try_from(arrived.list).map_err(|list| format!("{list:?}"))? else {
        return Err("the list has changed".into());
    };
    sent.compare(one)?;
    sent.compare(other)?;
    let mut map = arrived.map;
    match (map.remove("a"), map.remove("b")) {
        (Some(Ok(value)), Some(Err(text))) if text == "b" => sent.compare(value),
        other => Err(format!("{other:?}")),
    }
}

/// Random values of a type that can be sent, with their seeds.
fn carried(make: fn(u64) -> Every, rng: &mut Rng, many: usize) -> Vec<(u64, Every)> {
    let queue = Queue::new().unwrap();
    let values = (0..200).map(|_| rng.number()).map(|seed| (seed, make(seed)));
    values.filter(|(_, value)| value.is_for_json() || queue.put(value.clone()).is_ok()).take(many).collect()
}

fn by_queue_and_pipe(values: &[(u64, Every)]) -> Result<(), String> {
    let queue = Queue::new().map_err(|error| error.to_string())?;
    let (sender, receiver) = one_way().map_err(|error| error.to_string())?;
    for (_, value) in values {
        for size in SIZES {
            queue.put(inside(value, size)).map_err(|error| format!("{value:?}: {error}"))?;
            check(value, size, queue.get().map_err(|error| format!("{value:?}: {error}"))?)?;
            sender.send(inside(value, size)).map_err(|error| format!("{value:?}: {error}"))?;
            check(value, size, receiver.recv().map_err(|error| format!("{value:?}: {error}"))?)?;
        }
    }
    Ok(())
}

/// Checks the argument, and returns the value made from the seed.
fn target(argument: Inside, (place, seed, size): (usize, u64, usize)) -> (Result<(), String>, Inside) {
    let value = TYPES[place].1(seed);
    (check(&value, size, argument), inside(&value, size))
}

fn by_process(place: usize, values: &[(u64, Every)], method: StartMethod) -> Result<(), String> {
    for (seed, value) in values {
        for size in SIZES {
            let process = Process::new(target, (inside(value, size), (place, *seed, size))).start_method(method);
            let child = process.start().map_err(|error| format!("{value:?}: {error}"))?;
            let (argument, result) = child.join().map_err(|error| format!("{value:?}: {error}"))?;
            argument?;
            check(value, size, result)?;
        }
    }
    Ok(())
}

/// Calls `send` with values of each type.
fn none_fails(many: usize, send: impl Fn(usize, &[(u64, Every)]) -> Result<(), String>) {
    assert!(TYPES.len() > 120);
    let mut rng = Rng::from_env();
    let mut faults = String::new();
    for (place, (name, make)) in TYPES.iter().enumerate() {
        let values = carried(*make, &mut rng, many);
        if let Err(fault) = send(place, &values) {
            faults.extend(format!("{name}: {fault}\n").chars().take(2000));
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn queue_and_pipe() {
    none_fails(4, |place, values| {
        // Some values can't be shared with another thread, so they are made again.
        let seeds: Vec<u64> = values.iter().map(|(seed, _)| *seed).collect();
        let values = move || seeds.iter().map(|seed| (*seed, TYPES[place].1(*seed))).collect::<Vec<_>>();
        std::thread::spawn(move || by_queue_and_pipe(&values())).join().expect("the thread panicked")
    });
}

for_each_method! {
    fn arguments_and_results(method) {
        none_fails(1, |place, values| by_process(place, values, method));
    }
}
