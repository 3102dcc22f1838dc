//! Lists of mixed values that several processes read and change in place.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crate::chaos::{self, Random};
use crate::common::{self, Ends, LONG, for_each_method};
use crate::shared::{Numbers, kill};
use multiproc::shared_memory::{ShareableItem, ShareableList, ShareableListError};
use multiproc::sync::{Event, Lock};
use multiproc::{Handle, Process, Queue, Run, StartMethod};
use serde::{Deserialize, Serialize};

/// The list in the documentation of Python's `ShareableList`.
fn howdy() -> [ShareableItem; 7] {
    ["howdy".into(), b"HoWdY".into(), (-273.154).into(), 100.into(), ().into(), true.into(), 42.into()]
}

fn change(list: ShareableList) -> Vec<ShareableItem> {
    let before = list.to_vec();
    list.set(0, "ϑ=1.5 rad").unwrap_err();
    list.set(0, "ϑ=1.5").unwrap();
    list.set(2, b"12345678").unwrap();
    list.set(3, -100.5).unwrap();
    list.set(4, i64::MIN).unwrap();
    list.set(6, ()).unwrap();
    before
}

/// Adds to the number at this index.
fn add(list: &ShareableList, index: usize, what: i64) {
    let mut found = list.get(index).unwrap().unwrap();
    while let Err(other) = list.compare_exchange(index, &found, found.as_int().unwrap() + what).unwrap() {
        found = other;
    }
}

/// A string of random length, made of one letter.
fn monotone(random: &mut Random) -> String {
    let letter = char::from(b'a' + random.below(26) as u8);
    std::iter::repeat_n(letter, random.below(1 + ROOM) as usize).collect()
}

/// The room for one such string.
const ROOM: u64 = 400;

fn is_monotone(item: &ShareableItem) -> bool {
    let text = item.as_str().unwrap_or_else(|| panic!("not a string: {item:?}"));
    text.bytes().all(|letter| letter == text.as_bytes()[0])
}

fn write_and_read(list: ShareableList, seed: u64, go: Event) {
    go.wait().unwrap();
    let mut random = Random::of(seed);
    for _ in 0..3000 {
        let index = random.below(2) as usize;
        list.set(index, monotone(&mut random)).unwrap();
        assert!(is_monotone(&list.get(1 - index).unwrap().unwrap()));
        assert!(is_monotone(&list.replace(index, monotone(&mut random)).unwrap()));
        assert!(list.to_vec()[..2].iter().all(is_monotone));
        add(&list, 2, 1);
    }
}

/// Replaces each item, one after the other, with the one before it.
fn rotate(list: ShareableList, go: Event) {
    go.wait().unwrap();
    let mut item = ShareableItem::None;
    for index in 0..6000 {
        item = list.replace(index % list.len(), item).unwrap();
    }
    // Stores the item that it holds in the end at an empty index.
    while !item.is_none() {
        let index = list.position(()).unwrap();
        if list.compare_exchange(index, (), &item).unwrap().is_ok() {
            return;
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Worker {
    lists: Vec<Option<ShareableList>>,
}

impl Run for Worker {
    type Output = Vec<Option<ShareableList>>;

    fn run(self) -> Self::Output {
        self.lists[0].as_ref().unwrap().set(0, "seen").unwrap();
        self.lists
    }
}

for_each_method! {
    fn smoke(method) {
        let list = ShareableList::new(howdy()).unwrap();
        let child = Process::new(change, (list.clone(),)).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), howdy());
        let changed = list.to_vec();
        assert_eq!(changed[..4], ["ϑ=1.5".into(), b"HoWdY".into(), b"12345678".into(), (-100.5).into()]);
        assert_eq!(changed[4..], [i64::MIN.into(), true.into(), ().into()]);
        assert!(list.iter().map(Result::unwrap).eq(changed) && list.len() == 7);
    }

    fn send(method) {
        let (one, other) = (ShareableList::new(["here"]).unwrap(), ShareableList::new([1]).unwrap());
        let lists = vec![Some(one.clone()), None, Some(other.clone()), Some(one.clone())];
        let lists = Worker { lists }.process().start_method(method).start().unwrap().join().unwrap();
        assert_eq!(lists[3].as_ref().unwrap().get(0).unwrap(), Some("seen".into()));
        drop(one);
        lists[0].as_ref().unwrap().set(0, "again").unwrap();
        assert_eq!(lists[3].as_ref().unwrap().get(0).unwrap(), Some("again".into()));

        let queue = Queue::new().unwrap();
        queue.put(other.clone()).unwrap();
        let received: ShareableList = queue.get().unwrap();
        received.set(0, 2).unwrap();
        assert_eq!(other.get(0).unwrap(), Some(2.into()));
        // As a value it is sent as its items, not as a list.
        let items = Queue::new().unwrap();
        items.put(lists[0].as_ref().unwrap().to_vec()).unwrap();
        assert_eq!(items.get().unwrap(), vec![ShareableItem::from("again")]);
    }

    fn concurrent_writers(method) {
        let items: [ShareableItem; 3] = ["".into(), "".into(), 0.into()];
        let (list, go) = (ShareableList::with_room(items, ROOM as usize).unwrap(), Event::new().unwrap());
        let start = |seed| Process::new(write_and_read, (list.clone(), seed, go.clone())).start_method(method).start();
        let children: Vec<_> = (0..4).map(|seed| Ends(start(seed).unwrap())).collect();
        go.set();
        for child in &children {
            assert!(child.wait_timeout(LONG).unwrap().expect("timed out").success());
        }
        assert_eq!(list.get(2).unwrap(), Some((4 * 3000).into()));
    }

    fn replace(method) {
        // As many items as there are values, and processes that hold one.
        let values = (1..=20).map(|number| (number <= 16).then(|| format!("the value of number {number}")));
        let (list, go) = (ShareableList::with_room(values.clone(), 32).unwrap(), Event::new().unwrap());
        let start = || Process::new(rotate, (list.clone(), go.clone())).start_method(method).start();
        let children: Vec<_> = (0..4).map(|_| Ends(start().unwrap())).collect();
        go.set();
        for child in &children {
            assert!(child.wait_timeout(LONG).unwrap().expect("timed out").success());
        }
        let sorted = |items: Vec<ShareableItem>| {
            let mut texts: Vec<String> = items.iter().map(ShareableItem::to_string).collect();
            texts.sort();
            texts
        };
        assert_eq!(sorted(list.to_vec()), sorted(values.map(ShareableItem::from).collect()));
    }

    fn kill_writers(method) {
        common::in_its_own_process(kill_users, method);
    }
}

/// Indexes into the shared numbers. Set when the workers must stop:
const STOP: usize = 0;
/// From here on, for each process, how often it has added one.
const DONE: usize = 1;

const WORKERS: usize = 6;

fn work(list: ShareableList, numbers: Numbers, place: usize) {
    let mut random = Random::of(std::process::id().into());
    while numbers.at(STOP).load(SeqCst) == 0 {
        match random.below(4) {
            0 => list.set(random.below(2) as usize, monotone(&mut random)).unwrap(),
            1 => assert!(is_monotone(&list.replace(random.below(2) as usize, monotone(&mut random)).unwrap())),
            2 => assert!(list.to_vec()[..2].iter().all(is_monotone)),
            _ => assert!(is_monotone(&list.get(random.below(2) as usize).unwrap().unwrap())),
        }
        add(&list, 2, 1);
        numbers.at(DONE + place).fetch_add(1, SeqCst);
    }
}

/// Some processes use a list, of which one is killed every few milliseconds, at any point, and
/// replaced.
fn kill_users(method: StartMethod) {
    multiproc::process::set_standby(false);
    let mut random = Random::seeded();
    let items: [ShareableItem; 3] = ["".into(), "".into(), 0.into()];
    let (list, numbers) = (ShareableList::with_room(items, ROOM as usize).unwrap(), Numbers::new());
    let start = |place| {
        let process = Process::new(work, (list.clone(), numbers.clone(), place)).start_method(method);
        Ends(process.start().unwrap())
    };
    let mut workers: Vec<Ends<()>> = (0..WORKERS).map(start).collect();
    let done = || (0..WORKERS).map(|place| numbers.at(DONE + place).load(SeqCst)).sum::<u64>();
    let kill_one = |place: usize| {
        // Asserts that the signal ended it, and not an earlier failure.
        kill(&workers[place]);
        workers[place] = start(place);
        assert!(list.to_vec()[..2].iter().all(is_monotone));
    };
    let kills = chaos::kill_repeatedly(&mut random, WORKERS, kill_one, done, || true, &list);
    numbers.at(STOP).store(1, SeqCst);
    for worker in &workers {
        let status = worker.wait_timeout(LONG).unwrap().unwrap_or_else(|| panic!("timed out: {list:?}"));
        assert!(status.success(), "{status}");
    }
    let (done, added) = (done(), list.get(2).unwrap().unwrap().as_int().unwrap() as u64);
    println!("{kills} kills, {done} times done");
    // A killed process may have added one without recording it.
    assert!((done..=done + kills).contains(&added), "{done} times done, {added} times added, {kills} kills");
}

/// Writes until it is killed.
fn write_on(list: ShareableList, begun: Event) {
    let mut random = Random::of(1);
    while list.set(0, monotone(&mut random)).is_ok() {
        begun.set();
    }
}

/// The killed process writes all the time; a later reader finds a whole value.
#[multiproc::test]
fn killed_writer() {
    let (list, begun) = (ShareableList::with_room([""], ROOM as usize).unwrap(), Event::new().unwrap());
    for _ in 0..20 {
        let child = Ends(Process::new(write_on, (list.clone(), begun.clone())).start().unwrap());
        assert!(begun.wait_timeout(LONG).unwrap());
        kill(&child);
        begun.clear();
        let waited = Instant::now();
        let item = list.get(0).unwrap().unwrap();
        assert!(is_monotone(&item));
        assert_eq!(list.replace(0, "x").unwrap(), item);
        assert!(waited.elapsed() < Duration::from_millis(900), "the spin lock of the dead was waited for");
    }
}

#[multiproc::test]
fn room() {
    let list = ShareableList::new(["".into(), "8 bytes.".into(), b"9 bytes..".into(), 1.5.into(), ShareableItem::None])
        .unwrap();
    assert_eq!(
        (0..6).map(|index| list.room(index)).collect::<Vec<_>>(),
        [Some(8), Some(8), Some(16), Some(8), Some(8), None]
    );
    list.set(2, "16 bytes of room").unwrap();
    let before = list.to_vec();
    let too_long = ShareableListError::TooLong { index: 4, len: 9, room: 8 };
    assert_eq!(list.set(4, "too long."), Err(too_long));
    assert_eq!(list.replace(4, b"too long."), Err(too_long));
    assert_eq!(list.compare_exchange(4, (), "too long."), Err(too_long));
    assert_eq!(too_long.to_string(), "9 bytes don't fit into item 4, which has room for 8");
    // Bytes are counted, not characters.
    assert_eq!(list.set(0, "äöüß€"), Err(ShareableListError::TooLong { index: 0, len: 11, room: 8 }));
    assert_eq!(list.to_vec(), before, "nothing has changed");
    // An item can be made shorter, and longer again up to its room.
    list.set(2, ()).unwrap();
    list.set(2, "16 bytes of room").unwrap();

    let list = ShareableList::with_room(["", "more than there is to be for each"], 17).unwrap();
    assert_eq!((list.room(0), list.room(1)), (Some(24), Some(40)));
    let list = ShareableList::with_room([1], 0).unwrap();
    assert_eq!(list.room(0), Some(8));
}

#[multiproc::test]
fn too_large() {
    for room in [65 << 20, usize::MAX - 6, usize::MAX] {
        let error = ShareableList::with_room([()], room).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("cannot create a shareable list: its items would take "), "{text}");
        assert_eq!(error.what, "shareable list");
    }
    let list = ShareableList::with_room([(), ()], 31 << 20).unwrap();
    list.set(1, vec![7; 31 << 20]).unwrap();
    assert!(list.get(1).unwrap().unwrap().as_bytes().unwrap().iter().all(|byte| *byte == 7));
}

#[multiproc::test]
fn invalid_index() {
    let list = ShareableList::new([1, 2, 3]).unwrap();
    for index in [3, 1000, usize::MAX] {
        assert_eq!((list.get(index).unwrap(), list.room(index)), (None, None));
        let error = ShareableListError::IndexOutOfRange { index, len: 3 };
        assert_eq!(list.set(index, 1), Err(error));
        assert_eq!(list.replace(index, 1), Err(error));
        assert_eq!(list.compare_exchange(index, 1, "longer than there is room"), Err(error));
        assert_eq!(error.to_string(), format!("there is no item {index} in a list of 3 items"));
        assert_eq!(multiproc::Error::from(error).to_string(), error.to_string());
    }
}

#[multiproc::test]
fn empty() {
    let list = ShareableList::new([0; 0]).unwrap();
    assert!(
        list.is_empty() && list.to_vec().is_empty() && list.iter().next().is_none() && list.get(0).unwrap().is_none()
    );
    assert_eq!((list.len(), list.count(()), list.position(())), (0, 0, None));
    let child = Process::new(|list: ShareableList| list.len(), (list.clone(),)).start().unwrap();
    assert_eq!(child.join().unwrap(), 0);
    assert_eq!(format!("{list:?}"), "ShareableList([])");
}

#[multiproc::test]
fn iterators() {
    let list = ShareableList::new([1, 2, 3, 2, 1]).unwrap();
    assert_eq!((&list).into_iter().map(|item| item.unwrap().as_int().unwrap()).sum::<i64>(), 9);
    let mut iter = list.iter();
    assert_eq!((iter.len(), iter.nth(1), iter.next_back(), iter.len()), (5, Some(Ok(2.into())), Some(Ok(1.into())), 2));
    // The iterator is no snapshot.
    list.set(2, "new").unwrap();
    assert_eq!(
        (iter.next(), iter.next(), iter.next(), iter.next()),
        (Some(Ok("new".into())), Some(Ok(2.into())), None, None)
    );
    assert_eq!(
        (list.count(2), list.position(2), list.position("new"), list.position("old")),
        (2, Some(1), Some(2), None)
    );
    assert_eq!(format!("{list:?}"), r#"ShareableList([Int(1), Int(2), Str("new"), Int(2), Int(1)])"#);
}

/// As with the numbers of the standard library: an exchange compares what is in memory.
#[multiproc::test]
fn number_equality() {
    let list = ShareableList::new([f64::NAN, 0.0]).unwrap();
    assert!(list.get(0).unwrap().unwrap().as_float().unwrap().is_nan());
    assert_eq!((list.count(f64::NAN), list.position(f64::NAN), list.position(-0.0)), (0, None, Some(1)));
    assert_eq!(list.compare_exchange(1, -0.0, 1).unwrap(), Err(0.0.into()));
    assert_eq!(list.compare_exchange(0, f64::NAN, 1).unwrap(), Ok(()));
    for other in [ShareableItem::from(1.0), true.into(), "\u{1}\0\0\0\0\0\0\0".into(), b"\x01".into(), ().into()] {
        assert_eq!(list.compare_exchange(0, &other, 2).unwrap(), Err(1.into()), "kinds are never confused");
    }
}

#[multiproc::test]
fn items() {
    let text: ShareableItem = String::from("text").into();
    assert_eq!((text.as_str(), text.as_bytes(), text.as_bool(), text.is_none()), (Some("text"), None, None, false));
    let bytes: ShareableItem = [1_u8, 2].into();
    assert_eq!((bytes.as_bytes(), bytes.as_str()), (Some(&[1, 2][..]), None));
    let number: ShareableItem = Some(u32::MAX).into();
    assert_eq!((number.as_int(), number.as_float()), (Some(4_294_967_295), None));
    assert_eq!(ShareableItem::from(0.5_f32).as_float(), Some(0.5));
    assert_eq!(ShareableItem::from(true).as_bool(), Some(true));
    assert_eq!(ShareableItem::from(None::<String>), ().into());
    assert_eq!(ShareableItem::try_from(u64::MAX).ok(), None);
    assert_eq!(ShareableItem::try_from(7_usize), Ok(ShareableItem::Int(7)));
    let shown = howdy().map(|item| item.to_string()).join(" ");
    assert_eq!(shown, "howdy HoWdY -273.154 100 None true 42");
    assert_eq!(ShareableItem::from(b"\xff\0x").to_string(), r"\xff\x00x");
    assert_eq!(format!("{:>6}|{:06.2}", ShareableItem::from("ab"), ShareableItem::from(1.5)), "    ab|001.50");
    // In JSON, for example: an item is plain data.
    let json = serde_json::to_string(&howdy()[..2]).unwrap();
    let [first, second]: [ShareableItem; 2] = serde_json::from_str(&json).unwrap();
    assert_eq!([first, second], howdy()[..2]);
}

#[multiproc::test]
fn drops() {
    common::in_a_process_with_one_thread(|| {
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mapped =
            || std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:multiproc-shareable").count();
        let opened = count();
        let list = ShareableList::new(howdy()).unwrap();
        let copy = list.clone();
        assert_eq!((count(), mapped()), (opened + 1, 1));
        copy.set(0, "x").unwrap();
        drop((list, copy));
        assert_eq!((count(), mapped()), (opened, 0));
    });
}

/// A forged list, as it is sent.
#[derive(Serialize)]
#[serde(transparent)]
struct Foreign(Handle<OwnedFd>);

impl<'de> Deserialize<'de> for Foreign {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Foreign, D::Error> {
        ShareableList::deserialize(deserializer).map(|_| unreachable!())
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Other(Lock);

impl<'de> Deserialize<'de> for Other {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Other, D::Error> {
        ShareableList::deserialize(deserializer).map(|_| unreachable!())
    }
}

#[multiproc::test]
fn garbage() {
    let pipe = OwnedFd::from(std::io::pipe().unwrap().0);
    let error = Process::new(|_: Foreign| (), (Foreign(pipe.into()),)).start().unwrap_err().to_string();
    assert!(error.contains("invalid shareable list: not a memory file"), "{error}");
    let error = Process::new(|_: Other| (), (Other(Lock::new().unwrap()),)).start().unwrap_err().to_string();
    assert!(error.contains("invalid shareable list: it is an object of another kind"), "{error}");
    let error = serde_json::to_string(&ShareableList::new([1]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("not multiproc's"), "{error}");
}

#[multiproc::test]
fn outlives_creator() {
    let make = || ShareableList::new(["made by a child"]).unwrap();
    let list = Process::new(make, ()).start().unwrap().join().unwrap();
    assert_eq!(list.get(0).unwrap(), Some("made by a child".into()));
}
