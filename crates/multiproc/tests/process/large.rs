//! Large values: they arrive unchanged, in a reasonable time, and cause an error and no crash when
//! there is no room for them.

use crate::common::for_each_method;
use multiproc::Process;
use multiproc::process::{JoinErrorKind, StartError};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// As much as an optimised build handles easily.
const MANY: usize = if cfg!(debug_assertions) { 64 << 20 } else { 1 << 30 };

/// Bytes that depend on their position in the list.
fn bytes(len: usize) -> Vec<u8> {
    let block: Vec<u8> = (0..251).collect();
    let mut bytes = block.repeat(len / 251 + 1);
    bytes.truncate(len);
    bytes
}

#[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
struct Mixed {
    name: String,
    bytes: Vec<u8>,
    buffer: ByteBuf,
    numbers: Vec<f64>,
    list: Vec<(u16, Vec<i64>)>,
    text: String,
}

fn mixed(len: usize) -> Mixed {
    Mixed {
        name: "mixed".into(),
        bytes: bytes(len),
        buffer: ByteBuf::from(bytes(len + 1)),
        numbers: (0..len / 8).map(|number| number as f64).collect(),
        list: (0..8).map(|number| (number, vec![i64::from(number) - 4; len / 64])).collect(),
        text: "ß".repeat(len / 2),
    }
}

for_each_method! {
    fn sizes_around_thresholds(method) {
        // Around the limits for what goes in the message itself, what is gathered, and what is
        // checked completely.
        for around in [0_usize, 16 << 10, 32 << 10, 64 << 10, 256 << 10, 1 << 20, 3 << 20] {
            for len in [-40, -10, -9, -8, -1_isize, 0, 1].into_iter().filter_map(|less| around.checked_add_signed(less)) {
                let child = Process::new(|bytes: Vec<u8>, buffer: ByteBuf| (buffer, bytes), (bytes(len), ByteBuf::from(bytes(len / 2))));
                let (buffer, whole) = child.start_method(method).start().unwrap().join().unwrap();
                assert!(whole == bytes(len) && *buffer == bytes(len / 2), "{len} bytes");
            }
        }
    }

    fn round_trip(method) {
        let child = Process::new(
            |mut bytes: Vec<u8>| {
                bytes.push(7);
                bytes
            },
            (bytes(MANY),),
        );
        let start = std::time::Instant::now();
        let back = child.start_method(method).start().unwrap().join().unwrap();
        println!("{} MiB there and back by {method:?}: {:?}", MANY >> 20, start.elapsed());
        assert!(back.len() == MANY + 1 && back[..MANY] == bytes(MANY) && back[MANY] == 7);
    }

    fn large_fields(method) {
        for len in [1 << 10, 100 << 10, 2 << 20] {
            let value = mixed(len);
            let child = Process::new(|value: Mixed| Some(vec![value]), (value.clone(),));
            let back = child.start_method(method).start().unwrap().join().unwrap();
            assert!(back == Some(vec![value]));
        }
    }

    fn decode_error(method) not_fork {
        // For the first value of its type the call fails; for later ones the error comes at the
        // latest when the receiver has them.
        for len in [11, (10 << 20) + 1] {
            let error = Process::new(|_: Even| (), (Even(bytes(len)),)).start_method(method).start().unwrap_err();
            assert!(error.to_string().contains("an odd number"), "{error}");
        }
        Process::new(|_: Even| (), (Even(bytes(10)),)).start_method(method).start().unwrap().join().unwrap();
        let large = Process::new(|_: Even| (), (Even(bytes((10 << 20) + 1)),)).start_method(method).start().unwrap();
        let error = large.join().unwrap_err();
        assert!(matches!(error.kind(), JoinErrorKind::Arguments(why) if why.contains("an odd number")), "{error}");
    }

    fn non_empty_type(method) {
        // The first value of its type is checked with all its contents.
        let child = Process::new(|list: NotEmpty| list.0.len(), (NotEmpty(bytes(10 << 20)),));
        assert_eq!(child.start_method(method).start().unwrap().join().unwrap(), 10 << 20);
    }

    fn file_size_limit(method) not_fork {
        fn limited(method: multiproc::StartMethod) -> (String, String, usize) {
            Process::new(|| (), ()).start_method(method).start().unwrap().join().unwrap();
            let set = |size| {
                let limit = libc::rlimit { rlim_cur: size, rlim_max: libc::RLIM_INFINITY };
                // SAFETY: the pointer is to a local structure.
                assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
            };
            set(1 << 20);
            let start = |len: usize| {
                Process::new(|bytes: Vec<u8>| bytes.len(), (bytes(len),)).name("p").start_method(method).start()
            };
            let fits = start((1 << 20) - 100).unwrap().join().unwrap();
            let error = start(1 << 20).unwrap_err();
            assert!(matches!(error, StartError::Io { .. }), "{error}");
            // And in the child, which may have another limit than its parent.
            let child = Process::new(
                |len| {
                    let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: libc::RLIM_INFINITY };
                    // SAFETY: as above.
                    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
                    bytes(len)
                },
                (2 << 20,),
            );
            let join_error = child.name("q").start_method(method).start().unwrap().join().unwrap_err();
            assert!(matches!(join_error.kind(), JoinErrorKind::Encode(_)), "{join_error}");
            (error.to_string(), join_error.to_string(), fits)
        }
        let (error, join_error, fits) = Process::new(limited, (method,)).start().unwrap().join().unwrap();
        assert!(error.starts_with("cannot start p: ") && error.contains("File too large"), "{error}");
        assert!(join_error.starts_with("q has a result that can't be sent: ") && join_error.contains("File too large"), "{join_error}");
        assert_eq!(fits, (1 << 20) - 100);
    }
}

/// A list that is refused unless its length is even.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>")]
struct Even(Vec<u8>);

impl TryFrom<Vec<u8>> for Even {
    type Error = &'static str;

    fn try_from(list: Vec<u8>) -> Result<Even, &'static str> {
        if list.len().is_multiple_of(2) { Ok(Even(list)) } else { Err("an odd number of bytes") }
    }
}

/// A list that is refused if it is empty.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>")]
struct NotEmpty(Vec<u8>);

impl TryFrom<Vec<u8>> for NotEmpty {
    type Error = &'static str;

    fn try_from(list: Vec<u8>) -> Result<NotEmpty, &'static str> {
        if list.is_empty() { Err("nothing in it") } else { Ok(NotEmpty(list)) }
    }
}

#[multiproc::test]
fn large_environment() {
    // In a process of its own, as the environment is process-wide.
    let outer = Process::new(
        || {
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var("MULTIPROC_LARGE", "x".repeat(100_000)) };
            let child = Process::new(
                |list: Vec<u8>| (std::env::var("MULTIPROC_LARGE").unwrap().len(), list.len()),
                (bytes(1 << 20),),
            );
            child.start().unwrap().join().unwrap()
        },
        (),
    );
    assert_eq!(outer.start().unwrap().join().unwrap(), (100_000, 1 << 20));
}
