//! Values shared between processes, each with its lock.

use crate::common::{self, Ends, LONG, for_each_method, sleep_long};
use crate::locks::{self, any_lock, lock_tests, start};
use crate::shared::kill;
use bytemuck::{Pod, Zeroable};
use multiproc::Process;
use multiproc::sync::{Event, LockError, Misuse, Mutex, MutexGuard};
use serde::{Deserialize, Deserializer, Serialize};

any_lock!(Mutex<u64>, "mutex", MutexGuard<u64>, Mutex::new(7), lock, try_lock, lock_timeout, is_locked);
lock_tests!(Mutex<u64>);

#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Account {
    balance: i64,
    interest: f64,
    history: [u16; 12],
}

const ACCOUNT: Account = Account { balance: -3, interest: 0.5, history: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] };

fn add(account: Mutex<Account>, times: i64) {
    for _ in 0..times {
        let mut account = account.lock().unwrap();
        account.balance += 1;
        account.history.rotate_left(1);
    }
}

/// Begins to change the value, and is killed.
fn write_half(pair: Mutex<[u64; 2]>, wrote: Event) {
    let mut pair = pair.lock().unwrap();
    pair[0] += 1;
    wrote.set();
    sleep_long();
    pair[1] += 1;
}

for_each_method! {
    fn smoke(method) {
        let account = Mutex::new(ACCOUNT).unwrap();
        let children: Vec<_> = (0..4).map(|_| start!(Process::new(add, (account.clone(), 3000)), method)).collect();
        children.iter().for_each(|child| locks::ends(child));
        assert_eq!(account.get().unwrap(), Account { balance: 11_997, ..ACCOUNT });
    }

    fn into_inner_of_poisoned(method) {
        let (pair, wrote) = (Mutex::new([5, 5]).unwrap(), Event::new().unwrap());
        let child = Ends(Process::new(write_half, (pair.clone(), wrote.clone())).start_method(method).start().unwrap());
        assert!(wrote.wait_timeout(LONG).unwrap());
        kill(&child);
        assert!(pair.get().unwrap_err().to_string().contains("may have been left half done"));
        assert!(pair.set([0, 0]).is_err());
        assert_eq!(format!("{pair:?}"), "Mutex { value: [6, 5], poisoned: true }");
        let Err(LockError::Poisoned(mut poisoned)) = pair.lock() else { panic!("no poison error") };
        assert_eq!((**poisoned.guard(), poisoned.pid()), ([6, 5], Some(child.pid())));
        poisoned.guard_mut()[1] = 6;
        let guard = poisoned.into_guard();
        guard.clear_poison();
        drop(guard);
        assert_eq!(pair.get().unwrap(), [6, 6]);
    }

    fn large_values(method) {
        // Larger than a stack.
        let table = Mutex::<[u32; 4_000_000]>::zeroed().unwrap();
        let fill = |table: Mutex<[u32; 4_000_000]>| {
            let mut table = table.lock().unwrap();
            (0..).zip(table.iter_mut()).for_each(|(number, place)| *place = number);
        };
        Process::new(fill, (table.clone(),)).start_method(method).start().unwrap().join().unwrap();
        assert!((0..).zip(table.lock().unwrap().iter()).all(|(number, place)| *place == number));
    }
}

#[multiproc::test]
fn get_and_set() {
    let mutex = Mutex::new(2.5_f32).unwrap();
    assert_eq!(mutex.set(3.5).unwrap(), 2.5);
    assert_eq!(mutex.get().unwrap(), 3.5);
    let guard = mutex.lock().unwrap();
    assert_eq!((format!("{guard}"), format!("{guard:?}")), ("3.5".into(), "3.5".into()));
    assert_eq!(format!("{mutex:?}"), "Mutex { locked: true, poisoned: false }");
    let error = mutex.lock().map(drop).unwrap_err();
    assert!(matches!(error, LockError::Misuse(Misuse::HeldHere("mutex"))), "{error}");
    assert!(mutex.get().is_err() && mutex.set(1.0).is_err());
    drop(guard);
    assert_eq!(format!("{mutex:?}"), "Mutex { value: 3.5, poisoned: false }");
    // Without a value, and with the largest alignment that is allowed.
    drop(Mutex::new(()).unwrap().lock().unwrap());
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C, align(64))]
    struct Line([u8; 64]);
    let line = Mutex::new(Line([9; 64])).unwrap();
    assert!((&raw const line.lock().unwrap().0 as usize).is_multiple_of(64));
    assert_eq!(line.lock().unwrap().0, [9; 64]);
}

/// Sends a mutex of one type, and decodes it as another.
struct Mistaken<A: multiproc::sync::Plain, B: multiproc::sync::Plain>(Mutex<A>, std::marker::PhantomData<fn() -> B>);

impl<A: multiproc::sync::Plain, B: multiproc::sync::Plain> Serialize for Mistaken<A, B> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, A: multiproc::sync::Plain, B: multiproc::sync::Plain> Deserialize<'de> for Mistaken<A, B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Mutex::<B>::deserialize(deserializer).map(|_| panic!("it was accepted"))
    }
}

fn mistake<A: multiproc::sync::Plain, B: multiproc::sync::Plain>(value: A) -> String {
    let mistaken = Mistaken::<A, B>(Mutex::new(value).unwrap(), std::marker::PhantomData);
    Process::new(|_: Mistaken<A, B>| (), (mistaken,)).start().unwrap_err().to_string()
}

#[multiproc::test]
fn wrong_type() {
    for error in [mistake::<u64, i64>(1), mistake::<u64, f64>(1), mistake::<[u32; 2], u64>([1; 2])] {
        assert!(error.contains("its type is not ") && error.contains("64"), "{error}");
    }
    let error = mistake::<[u8; 10_000], u64>([1; 10_000]);
    assert!(error.contains("this is no mutex of this program: it is of another build"), "{error}");
    let error = mistake::<u8, [u8; 100_000]>(1);
    assert!(error.contains("it is too short"), "{error}");
}

/// The fork copy must not access the value of a guard that it has copied.
#[multiproc::test]
fn forked_guard() {
    common::in_a_process_with_one_thread(|| {
        let mutex = Mutex::new(1).unwrap();
        let mut guard = mutex.lock().unwrap();
        let error = Process::fork(|| *guard += 1).start().unwrap().join().unwrap_err();
        assert!(error.to_string().contains("this guard was copied by fork"), "{error}");
        assert_eq!(*guard, 1);
        drop(guard);
        assert!(!mutex.is_poisoned());
    });
}
