//! What a user reads of an error that ends a program: the help text, not a struct.

use std::fmt;

use crate::common;
use multiproc::connection::{Address, Listener, connect, one_way};
use multiproc::queue::PutErrorKind;
use multiproc::shared_memory::ShareableList;
use multiproc::sync::{BoundedSemaphore, Lock};
use multiproc::{Error, Process, Queue, SharedMemory, StartMethod, scope};

/// `unwrap`, and a `main` that returns the error, print its message before anything else.
fn message<E: std::error::Error>(error: E) -> String {
    let (debug, pretty) = (format!("{error:?}"), format!("{error:#?}"));
    assert!(debug.starts_with(&error.to_string()), "{debug}\n{error}");
    assert!(pretty.starts_with(&error.to_string()), "{pretty}\n{error}");
    debug
}

/// A value without `Debug`.
struct Opaque;

impl serde::Serialize for Opaque {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it stays here"))
    }
}

impl<'de> serde::Deserialize<'de> for Opaque {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Opaque, D::Error> {
        Ok(Opaque)
    }
}

fn boom(n: u32) -> u32 {
    panic!("boom {n}")
}

/// Returns the error, for results that are not `Debug`.
fn failure<T, E>(result: Result<T, E>) -> E {
    result.err().expect("it is an error")
}

common::for_each_method! {
    fn processes(method) {
        let start = |n| Process::new(boom, (n,)).start_method(method).start();
        message(Process::new(boom, (1,)).start_method(method).current_dir("/nowhere").start().unwrap_err());
        if method != StartMethod::Fork {
            let text = message(Process::new(|_: Opaque| (), (Opaque,)).start_method(method).start().unwrap_err());
            assert!(text.contains("it stays here"), "{text}");
        }
        let text = message(start(2).unwrap().join().unwrap_err());
        assert!(text.contains("panicked: boom 2"), "{text}");
        message(Error::from(start(3).unwrap().join().unwrap_err()));
        let child = Process::new(std::process::abort as fn() -> !, ()).start_method(method).start().unwrap();
        assert!(message(child.join().unwrap_err()).contains("was killed by SIGABRT"));
        let child = Process::new(|| std::fs::read("/nonexistent"), ()).start_method(method).start().unwrap();
        let text = message(child.join().unwrap().unwrap_err());
        assert!(text.starts_with("No such file"), "{text}");
        let result = scope(|s| -> multiproc::Result<()> {
            s.start(Process::new(boom, (4,)).start_method(method))?;
            Ok(())
        });
        assert!(message(result.unwrap_err()).contains("boom 4"));
    }
}

#[multiproc::test]
fn objects() {
    let queue = Queue::<u32>::new().unwrap();
    assert_eq!(message(queue.try_get().unwrap_err()), "the queue is empty");
    let full = Queue::<Vec<u8>>::with_capacity(1).unwrap();
    full.put(vec![]).unwrap();
    let error = full.try_put(vec![]).unwrap_err();
    message(error.into_parts().1);
    message(Error::from(full.try_put(vec![1]).unwrap_err()));
    let opaque = Queue::<Opaque>::new().unwrap();
    let error = opaque.put(Opaque).err().unwrap();
    assert!(matches!(error.kind(), PutErrorKind::Encode(_)));
    assert!(message(error).contains("it stays here"));

    let (sender, receiver) = one_way::<Opaque>().unwrap();
    assert!(message(sender.send(Opaque).err().unwrap()).contains("it stays here"));
    message(receiver.try_recv().err().unwrap());
    drop(sender);
    message(receiver.recv().err().unwrap());

    let nowhere = Address::from(std::path::PathBuf::from("/nowhere/at/all"));
    message(connect::<u32, u32>(&nowhere, None).unwrap_err());
    message(Listener::bind(&nowhere, None).unwrap_err());

    let lock = Lock::new().unwrap();
    let _guard = lock.lock().unwrap();
    message(failure(lock.lock()));
    let semaphore = BoundedSemaphore::new(1).unwrap();
    message(semaphore.release().unwrap_err());
    message(SharedMemory::open("no such name at all").unwrap_err());
    message(ShareableList::new([1]).unwrap().set(1, 2).unwrap_err());
}

/// An error of the program's own that wraps one of multiproc's, as `derive` prints it.
#[multiproc::test]
fn in_own_error_type() {
    #[derive(Debug)]
    #[allow(dead_code)]
    enum Mine {
        Get(multiproc::queue::GetError),
    }
    impl fmt::Display for Mine {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("mine")
        }
    }
    let error = Mine::Get(Queue::<u32>::new().unwrap().try_get().unwrap_err());
    assert_eq!(format!("{error:?}"), "Get(the queue is empty)");
}
