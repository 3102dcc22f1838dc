//! Every type of the corpus by every way: queue, pipe, argument and result, inside other values, beside and inside much else.

#[path = "../../multiproc/tests/common/mod.rs"]
mod common;

use std::any::type_name;
use std::collections::HashMap;

use common::for_each_method;
use multiproc::{Process, Queue, StartMethod, one_way};
use multiproc_values::Rng;
use multiproc_values::oracle::{Value, by_cbor, by_json, compare};
use multiproc_values::types::*;
use serde::{Deserialize, Serialize};

/// A value inside others, beside as many bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Inside<T> {
    before: Vec<u8>,
    text: String,
    value: T,
    option: Option<T>,
    list: Vec<(u8, T)>,
    map: HashMap<String, Result<T, String>>,
    number: u32,
}

/// As many bytes as an item of a queue, or a message, has inside itself; and more.
const SIZES: [usize; 2] = [2 << 20, 10];

fn inside<T: Value>(value: &T, size: usize) -> Inside<T> {
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

fn check<T: Value>(sent: &T, size: usize, arrived: Inside<T>) -> Result<(), String> {
    let like = inside(sent, size);
    if (&arrived.before, &arrived.text, arrived.number) != (&like.before, &like.text, like.number) {
        return Err("what is beside it has changed".into());
    }
    compare(sent, arrived.value)?;
    compare(sent, arrived.option.ok_or("an option is gone")?)?;
    let [(1, one), (2, other)] = <[_; 2]>::try_from(arrived.list).map_err(|list| format!("{list:?}"))? else {
        return Err("the list has changed".into());
    };
    compare(sent, one)?;
    compare(sent, other)?;
    let mut map = arrived.map;
    match (map.remove("a"), map.remove("b")) {
        (Some(Ok(value)), Some(Err(text))) if text == "b" => compare(sent, value),
        other => Err(format!("{other:?}")),
    }
}

/// Random values of a type that JSON or CBOR can carry.
fn carried<T: Value>(rng: &mut Rng, many: usize) -> Vec<T> {
    let values = (0..200).map(|_| T::any(rng)).filter(|value| by_json(value).or_else(|_| by_cbor(value)).is_ok());
    values.take(many).collect()
}

fn by_queue_and_pipe<T: Value>(rng: &mut Rng) -> Result<(), String> {
    let queue = Queue::new().map_err(|error| error.to_string())?;
    let (sender, receiver) = one_way().map_err(|error| error.to_string())?;
    for value in carried::<T>(rng, 4) {
        for size in SIZES {
            queue.put(inside(&value, size)).map_err(|error| format!("{value:?}: {error}"))?;
            check(&value, size, queue.get().map_err(|error| format!("{value:?}: {error}"))?)?;
            sender.send(inside(&value, size)).map_err(|error| format!("{value:?}: {error}"))?;
            check(&value, size, receiver.recv().map_err(|error| format!("{value:?}: {error}"))?)?;
        }
    }
    Ok(())
}

fn echo<T>(value: Inside<T>) -> Inside<T> {
    value
}

fn by_process<T: Value>(rng: &mut Rng, method: StartMethod) -> Result<(), String> {
    for value in carried::<T>(rng, 1) {
        for size in SIZES {
            let process = Process::new(echo::<T>, (inside(&value, size),)).start_method(method);
            let child = process.start().map_err(|error| format!("{value:?}: {error}"))?;
            check(&value, size, child.join().map_err(|error| format!("{value:?}: {error}"))?)?;
        }
    }
    Ok(())
}

macro_rules! all {
    ($($type:ident)*) => {
        fn all_by_queue_and_pipe(rng: &mut Rng) -> Vec<(&'static str, Result<(), String>)> {
            vec![$((type_name::<$type>(), by_queue_and_pipe::<$type>(rng))),*]
        }

        fn all_by_process(rng: &mut Rng, method: StartMethod) -> Vec<(&'static str, Result<(), String>)> {
            vec![$((type_name::<$type>(), by_process::<$type>(rng, method))),*]
        }
    };
}

multiproc_values::for_each_type!(all);

fn none_fails(outcomes: Vec<(&'static str, Result<(), String>)>) {
    assert!(outcomes.len() > 120);
    let faults = outcomes.into_iter().filter_map(|(name, outcome)| Some(format!("{name}: {}\n", outcome.err()?)));
    let faults: String = faults.map(|fault| fault.chars().take(2000).collect::<String>()).collect();
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn large_first_and_small_then_by_queue_and_pipe() {
    none_fails(all_by_queue_and_pipe(&mut Rng::from_env()));
}

for_each_method! {
    fn as_arguments_and_results(method) {
        none_fails(all_by_process(&mut Rng::from_env(), method));
    }
}
