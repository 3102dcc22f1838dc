//! What can be a target, and which values can be sent to it and back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::common::for_each_method;
use multiproc::{Process, Run};
use serde::{Deserialize, Serialize};

fn add(a: u32, b: u32) -> u32 {
    a + b
}

fn largest<T: Ord>(list: Vec<T>) -> Option<T> {
    list.into_iter().max()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Point {
    x: f64,
    label: Option<String>,
}

impl Point {
    fn moved(self, by: f64) -> Point {
        Point { x: self.x + by, ..self }
    }

    fn origin() -> Point {
        Point { x: 0.0, label: None }
    }
}

trait Shape {
    fn corners(self) -> u32;
}

#[derive(Serialize, Deserialize)]
struct Square;

impl Shape for Square {
    fn corners(self) -> u32 {
        4
    }
}

for_each_method! {
    fn fn_items(method) {
        let child = Process::new(add, (2, 3)).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), 5);
    }

    fn generic_functions(method) {
        let numbers = Process::new(largest::<u8>, (vec![1, 9, 4],)).start_method(method).start().unwrap();
        let texts = Process::new(largest, (vec!["a".to_string(), "b".to_string()],)).start_method(method).start().unwrap();
        assert_eq!(numbers.join().unwrap(), Some(9));
        assert_eq!(texts.join().unwrap(), Some("b".to_string()));
    }

    fn associated_functions(method) {
        let point = Point { x: 1.0, label: Some("p".into()) };
        let moved = Process::new(Point::moved, (point.clone(), 0.5)).start_method(method).start().unwrap();
        let origin = Process::new(Point::origin, ()).start_method(method).start().unwrap();
        let corners = Process::new(<Square as Shape>::corners, (Square,)).start_method(method).start().unwrap();
        assert_eq!(moved.join().unwrap(), Point { x: 1.5, ..point });
        assert_eq!(origin.join().unwrap().x, 0.0);
        assert_eq!(corners.join().unwrap(), 4);
    }

    fn closures(method) {
        let child = Process::new(|a: i64, b: i64| a * b, (-2, 21)).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), -42);
    }

    fn fn_pointers(method) {
        let list: [fn(u32, u32) -> u32; 4] = [add, u32::min, |a, b| a * b, u32::pow];
        let children: Vec<_> =
            list.iter().map(|target| Process::new(*target, (3, 4)).start_method(method).start().unwrap()).collect();
        let values: Vec<u32> = children.into_iter().map(|child| child.join().unwrap()).collect();
        assert_eq!(values, [7, 3, 12, 81]);
    }

    fn other_crates(method) {
        let ours = Process::new(multiproc_elsewhere::sum, (vec![1, 2, 3],)).start_method(method).start().unwrap();
        let std = Process::new(std::char::from_digit, (11, 16)).start_method(method).start().unwrap();
        assert_eq!(ours.join().unwrap(), 6);
        assert_eq!(std.join().unwrap(), Some('b'));
    }

    fn arities(method) {
        macro_rules! sum_of {
            ($($arg:ident)*) => {{
                #[allow(clippy::too_many_arguments)]
                fn sum($($arg: u64),*) -> u64 { 0 $(+ $arg)* }
                let mut next = 0;
                let args = ($({ let $arg = { next += 1; next }; $arg },)*);
                let child = Process::new(sum, args).start_method(method).start().unwrap();
                assert_eq!(child.join().unwrap(), (1..=next).sum::<u64>());
            }};
        }
        sum_of!(a);
        sum_of!(a b);
        sum_of!(a b c);
        sum_of!(a b c d);
        sum_of!(a b c d e);
        sum_of!(a b c d e f);
        sum_of!(a b c d e f g);
        sum_of!(a b c d e f g h);
        assert_eq!(Process::new(|| 0, ()).start_method(method).start().unwrap().join().unwrap(), 0);
    }

    fn serde_types(method) {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        enum Kind {
            Unit,
            Tuple(u8, Box<Kind>),
            Struct { map: BTreeMap<String, Vec<Option<u8>>> },
        }
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(untagged)]
        enum Untagged {
            Number(i64),
            Text(String),
        }
        type All = (Vec<Kind>, HashMap<u32, char>, Untagged, serde_json::Value, Duration, Result<(), String>);
        fn echo(all: All) -> All {
            all
        }
        let all: All = (
            vec![
                Kind::Unit,
                Kind::Tuple(1, Box::new(Kind::Unit)),
                Kind::Struct { map: BTreeMap::from([("k".into(), vec![Some(1), None])]) },
            ],
            HashMap::from([(7, 'x')]),
            Untagged::Text("t".into()),
            serde_json::json!({"list": [1, "two", null]}),
            Duration::from_nanos(1),
            Err("e".into()),
        );
        let child = Process::new(echo, (all.clone(),)).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), all);
    }

    fn nested_options(method) {
        type Options = Vec<Option<Option<()>>>;
        let options: Options = vec![None, Some(None), Some(Some(()))];
        let child = Process::new(|options: Options| options, (options.clone(),)).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), options);
    }

    fn sizes(method) {
        for len in [0, 1, 32_000, 33_000, 200_000, 20_000_000] {
            let bytes = vec![0xA5_u8; len];
            let child = Process::new(|mut bytes: Vec<u8>| { bytes.push(1); bytes }, (bytes,))
                .start_method(method)
                .start()
                .unwrap();
            // Waiting first must not hang, however large the result is.
            assert_eq!(child.wait().unwrap().exit_code(), Some(0));
            let back = child.join().unwrap();
            assert_eq!((back.len(), back.last()), (len + 1, Some(&1)));
        }
    }

    fn run_trait(method) {
        #[derive(Serialize, Deserialize)]
        struct Sum<T> {
            numbers: Vec<T>,
        }
        impl Run for Sum<u64> {
            type Output = (String, u64);

            fn run(self) -> (String, u64) {
                (multiproc::current_process().name().to_owned(), self.numbers.iter().sum())
            }
        }
        let process = Sum { numbers: vec![1, 2, 3] }.process().start_method(method);
        let name = process.get_name();
        assert!(name.starts_with("Sum-"), "{name}");
        assert_eq!(process.to_string(), format!("<Sum({name}, initial)>"));
        let child = process.start().unwrap();
        assert!(child.to_string().starts_with(&format!("<Sum({name}, st")));
        assert_eq!(child.join().unwrap(), (name, 6));
    }
}

#[multiproc::test]
fn alternating_formats() {
    fn count(values: Vec<serde_json::Value>) -> usize {
        values.len()
    }
    assert_eq!(Process::new(count, (vec![],)).start().unwrap().join().unwrap(), 0);
    let many = vec![serde_json::json!({"a": [1, null]}); 2000];
    assert_eq!(Process::new(count, (many,)).start().unwrap().join().unwrap(), 2000);
}

#[test]
fn call_is_not_deserializable() {
    type Endless = multiproc::process::Call<fn(), ()>;
    assert!(serde_json::from_str::<Endless>("[4096, []]").unwrap_err().to_string().contains("starting its process"));
    assert!(serde_json::from_str::<multiproc::process::Call<std::convert::Infallible, ()>>("[null, []]").is_err());
}
