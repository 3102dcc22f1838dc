//! `ShareableList`: when a process dies, each item has its old value or its new one.

use std::time::Instant;

use multiproc::shared_memory::{ShareableItem, ShareableList};

use super::locks::SOON;
use super::walk::{Run, Scenario};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("shareable_set", set),
    ("shareable_replace", replace),
    ("shareable_compare_exchange", compare_exchange),
    ("shareable_get", get),
    ("shareable_to_vec", to_vec),
];

const OLD: &str = "what was there before";
const NEW: &str = "what is to be there, longer";

/// A new list on which each operation has been called.
fn new_list() -> ShareableList {
    let list = ShareableList::with_room([OLD, "another"], 40).unwrap();
    list.set(1, 1).unwrap();
    assert_eq!(list.replace(1, OLD).unwrap(), 1.into());
    assert_eq!(list.compare_exchange(1, OLD, 1).unwrap(), Ok(()));
    assert_eq!(list.to_vec(), [OLD.into(), 1.into()]);
    list
}

/// Checks that the list can be read and written immediately, and returns which value it has.
fn works(list: &ShareableList) -> &'static str {
    let begun = Instant::now();
    let outcome = match list.get(0).unwrap() {
        Some(item) if item == OLD.into() => "old",
        Some(item) if item == NEW.into() => "new",
        other => panic!("{other:?}"),
    };
    assert_eq!(list.get(1).unwrap(), Some(1.into()));
    for (index, item) in [(0, ShareableItem::from(1.5)), (1, "b".into()), (0, "a".into())] {
        list.set(index, &item).unwrap();
        assert_eq!(list.get(index).unwrap(), Some(item));
    }
    assert_eq!(list.replace(0, ()).unwrap(), "a".into());
    assert_eq!(list.to_vec(), [ShareableItem::None, "b".into()]);
    assert!(begun.elapsed() < SOON, "waited for a dead process");
    outcome
}

fn never() {
    panic!("the victim must not sleep");
}

/// Lets the victim make the call on a list that it has used before, because some of the work is
/// done once per process.
fn call(run: &mut Run, call: impl Fn(&ShareableList)) -> &'static str {
    let list = new_list();
    run.victim(
        |step| {
            list.set(1, 1).unwrap();
            step(&mut || call(&list));
        },
        |_| (),
        never,
    );
    works(&list)
}

fn set(run: &mut Run) -> &'static str {
    call(run, |list| list.set(0, NEW).unwrap())
}

fn replace(run: &mut Run) -> &'static str {
    call(run, |list| assert_eq!(list.replace(0, NEW).unwrap(), OLD.into()))
}

fn compare_exchange(run: &mut Run) -> &'static str {
    call(run, |list| assert_eq!(list.compare_exchange(0, OLD, NEW).unwrap(), Ok(())))
}

fn get(run: &mut Run) -> &'static str {
    call(run, |list| assert_eq!(list.get(0).unwrap(), Some(OLD.into())))
}

fn to_vec(run: &mut Run) -> &'static str {
    call(run, |list| assert_eq!(list.to_vec()[0], OLD.into()))
}
