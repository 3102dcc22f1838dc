//! `RemoteFn`: functions as arguments, fields, results, and items of queues and pipes.

use std::collections::BTreeMap;

use crate::common::{self, for_each_method};
use multiproc::connection::one_way;
use multiproc::{Process, Queue, RemoteFn, pipe};
use serde::{Deserialize, Serialize};

type Binary = RemoteFn<(u32, u32), u32>;

fn add(a: u32, b: u32) -> u32 {
    a + b
}

fn apply(function: Binary, a: u32, b: u32) -> u32 {
    function.call((a, b))
}

/// A value of a type that can't be sent: it is made where the function is called.
struct Local(Vec<u32>);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Job {
    name: String,
    steps: Vec<Binary>,
    fallback: Option<RemoteFn<(), String>>,
}

fn run(job: Job) -> (String, Vec<u32>, String) {
    let results = job.steps.iter().map(|step| step.call((6, 3))).collect();
    (job.name, results, job.fallback.map_or("none".into(), |fallback| fallback.call(())))
}

for_each_method! {
    fn arguments(method) {
        let pointer: fn(u32, u32) -> u32 = u32::pow;
        for (function, result) in [
            (RemoteFn::new(add), 5),
            (RemoteFn::from(pointer), 8),
            (RemoteFn::new(pointer), 8),
            (RemoteFn::new(|a, b| a * b), 6),
            (RemoteFn::new(largest), 3),
        ] {
            let child = Process::new(apply, (function, 2, 3)).start_method(method).start().unwrap();
            assert_eq!(child.join().unwrap(), result);
        }
    }

    fn fields(method) {
        let steps = vec![RemoteFn::new(add), RemoteFn::new(u32::min), RemoteFn::new(|a, b| a - b)];
        let job = Job { name: "j".into(), steps, fallback: Some(RemoteFn::new(|| "fallback".to_owned())) };
        let child = Process::new(run, (job,)).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), ("j".into(), vec![9, 3, 3], "fallback".into()));
    }

    /// Created in the child, with the key that it shares with this process.
    fn results(method) {
        fn choose(name: String) -> Option<Binary> {
            let functions = BTreeMap::from([("add", RemoteFn::new(add)), ("xor", RemoteFn::new(|a, b| a ^ b))]);
            functions.get(name.as_str()).copied()
        }
        for (name, result) in [("add", Some(5)), ("xor", Some(1)), ("other", None)] {
            let child = Process::new(choose, (name.to_owned(),)).start_method(method).start().unwrap();
            assert_eq!(child.join().unwrap().map(|function| function.call((2, 3))), result);
        }
    }

    fn queue_and_pipe(method) {
        fn serve(tasks: Queue<(Binary, u32)>, results: multiproc::connection::Sender<(Binary, u32)>) {
            while let Ok((function, number)) = tasks.get() {
                results.send((function, function.call((number, number)))).unwrap();
            }
        }
        let tasks = Queue::new().unwrap();
        let (sender, results) = one_way().unwrap();
        let child = Process::new(serve, (tasks.clone(), sender)).start_method(method).start().unwrap();
        let functions: [Binary; 3] = [RemoteFn::new(add), RemoteFn::new(|a, b| a * b), RemoteFn::new(u32::pow)];
        for number in 0..5 {
            functions.iter().for_each(|function| tasks.put((*function, number)).unwrap());
        }
        tasks.close();
        for number in 0..5 {
            for function in functions {
                assert_eq!(results.recv().unwrap(), (function, function.call((number, number))));
            }
        }
        child.join().unwrap();
    }

    /// Neither arguments nor results are sent, so they need not be serde types.
    fn function_types(method) {
        fn sum(make: RemoteFn<(u32,), Local>, sum: RemoteFn<(Local,), u32>) -> u32 {
            sum.call((make.call((4,)),))
        }
        let make = RemoteFn::new(|len| Local((0..len).collect()));
        let child = Process::new(sum, (make, RemoteFn::new(|local: Local| local.0.into_iter().sum())))
            .start_method(method)
            .start()
            .unwrap();
        assert_eq!(child.join().unwrap(), 6);
    }

    /// A grandchild has the key too, whatever the start methods in between.
    fn grandchildren(method) {
        fn hand_on(function: Binary, depth: u32) -> Binary {
            match depth {
                0 => {
                    assert_eq!(function.call((1, 2)), 3);
                    RemoteFn::new(|a, b| a * 10 + b)
                }
                depth => Process::new(hand_on, (function, depth - 1)).start().unwrap().join().unwrap(),
            }
        }
        let child = Process::new(hand_on, (RemoteFn::new(add), 2)).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap().call((4, 2)), 42);
    }
}

fn largest(a: u32, b: u32) -> u32 {
    a.max(b)
}

/// When bytes of another type arrive in place of a function, reading them is an error, and the next
/// item can be read.
#[multiproc::test]
fn wrong_type_is_never_called() {
    let (ours, theirs) = pipe::<Vec<u8>, Vec<u8>>().unwrap();
    fn reader(bytes: multiproc::connection::Connection<Vec<u8>, Vec<u8>>) {
        for message in bytes.receiver().iter() {
            let read = serde_json::from_slice::<RemoteFn<(), u32>>(&message.unwrap());
            let text = match read {
                Ok(function) => function.call(()).to_string(),
                Err(error) => error.to_string(),
            };
            bytes.send(text.into_bytes()).unwrap();
        }
    }
    let child = Process::new(reader, (theirs,)).start().unwrap();
    let ask = |value: serde_json::Value| {
        ours.send(serde_json::to_vec(&value).unwrap()).unwrap();
        String::from_utf8(ours.recv().unwrap()).unwrap()
    };
    let good = serde_json::to_value(RemoteFn::new(|| 7_u32)).unwrap();
    assert_eq!(ask(good.clone()), "7");
    for (field, at, value) in [("places", 0, 1), ("places", 1, 4096), ("signature", 0, 0), ("signature", 1, 1)] {
        let mut bad = good.clone();
        bad[field][at] = value.into();
        assert!(ask(bad).contains("not a function of the type RemoteFn<(), u32>"), "{field}");
    }
    let other_type = serde_json::to_value(RemoteFn::new(|| 7_i32)).unwrap();
    assert!(ask(other_type).contains("not a function of the type RemoteFn<(), u32>"));
    assert_eq!(ask(good), "7");
    drop(ours);
    child.join().unwrap();
}

/// The key differs in each run.
#[multiproc::test]
fn other_run_has_other_key() {
    const NAME: &str = "other_run_has_other_key";
    let ours = serde_json::to_string(&RemoteFn::new(add)).unwrap();
    if std::env::var_os("ANOTHER_RUN").is_some() {
        println!("function {ours}");
        return;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command
        .args([&*common::test_name(module_path!(), NAME), "--exact", "--nocapture"])
        .env("ANOTHER_RUN", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let theirs = text.lines().find_map(|line| line.split_once("function ")).unwrap_or_else(|| panic!("{text}")).1;
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(value(theirs)["places"], value(&ours)["places"]);
    assert!(serde_json::from_str::<Binary>(theirs).is_err());
    assert!(serde_json::from_str::<Binary>(&ours).is_ok());
}
