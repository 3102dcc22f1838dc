//! [`RemoteFn`]: a function as a value that can be sent.
//!
//! It travels as a target does: as the place of its code relative to this program's image
//! (`start/target.rs`). A target's place is read once, in a child, from its own parent. These come
//! in messages of any kind, so what arrives may be anything, and safe code must not be able to have
//! it called. So the places are signed, and nothing is called that is not:
//!
//! - The key is made at random in the first process of a program and handed to each child in its
//!   assignment, so all its descendants have it, and nothing else has. They are all of one build,
//!   as the handshake has made sure, so a place means the same in all of them.
//! - What is signed is the places together with the type, arguments and result. Only
//!   [`RemoteFn::new`] makes a value, from a function of that type, so a signature says that there
//!   is such a function at that place. Garbage, the message of another program or of another run,
//!   and a `RemoteFn` of another type have none, but for one chance in 2^128.
//! - A valid one that comes twice, or late, is still a function of that type at that place: code
//!   doesn't change while a program runs. One whose code is in a library that can be unloaded is
//!   refused when it is sent.

use std::any::{TypeId, type_name};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;

use crate::process::run::{CapturesNothing, Target};
use crate::start::target::{Callable, Carried};

/// A function that can be sent to another process of this program: as an argument, a field, a
/// result, or an item of a queue.
///
/// It is made of what a [target](crate::Target) can be: a `fn` item, a `fn` pointer, or a closure
/// that captures nothing. `A` is the tuple of its 0 to 8 arguments and `R` what it returns; as it
/// is called where it arrives, neither has to be a serde type.
///
/// What travels is the place of its code, 32 bytes, signed with a key that the processes of one run
/// of a program share: whatever else arrives, garbage or a function of another type, is an error
/// when it is read, and never called. Between programs that [meet](crate::Listener), and by way of
/// a file, no function can travel.
///
/// ```
/// use multiproc::{Process, Queue, RemoteFn};
///
/// fn double(n: u32) -> u32 {
///     2 * n
/// }
///
/// fn map(function: RemoteFn<(u32,), u32>, list: Vec<u32>) -> Vec<u32> {
///     list.into_iter().map(|item| function.call((item,))).collect()
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let child = Process::new(map, (RemoteFn::new(double), vec![1, 2])).start()?;
/// assert_eq!(child.join()?, [2, 4]);
///
/// let tasks: Queue<(RemoteFn<(u32,), u32>, u32)> = Queue::new()?;
/// tasks.put((RemoteFn::new(|n| n + 1), 5))?;
/// # let (function, argument) = tasks.get()?;
/// # assert_eq!(function.call((argument,)), 6);
/// # Ok(())
/// # }
/// ```
pub struct RemoteFn<A, R> {
    callable: Callable<A, R>,
}

impl<A, R> RemoteFn<A, R> {
    /// Makes a value of a function. One that captures something does not compile, as with
    /// [`Process::new`](crate::Process::new).
    pub fn new<F>(function: F) -> RemoteFn<A, R>
    where
        F: Target<A, Output = R> + CapturesNothing,
    {
        let captures_nothing = const { Carried::<F>::CAPTURES_NOTHING };
        RemoteFn { callable: Callable::new(function, captures_nothing) }
    }

    /// Calls the function with the elements of the tuple.
    ///
    /// # Panics
    /// When the function does.
    pub fn call(&self, args: A) -> R {
        self.callable.call(args)
    }
}

impl<A, R> Clone for RemoteFn<A, R> {
    fn clone(&self) -> RemoteFn<A, R> {
        *self
    }
}

impl<A, R> Copy for RemoteFn<A, R> {}

/// Whether it is the same code. As with `fn` pointers, functions that do the same may be one, and
/// one function two.
impl<A, R> PartialEq for RemoteFn<A, R> {
    fn eq(&self, other: &RemoteFn<A, R>) -> bool {
        self.callable.addresses() == other.callable.addresses()
    }
}

impl<A, R> Eq for RemoteFn<A, R> {}

/// By the same code as `==`.
impl<A, R> Hash for RemoteFn<A, R> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.callable.addresses().hash(state);
    }
}

/// `RemoteFn<(u32,), u32>`.
impl<A, R> fmt::Debug for RemoteFn<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteFn<{}, {}>", type_name::<A>(), type_name::<R>())
    }
}

macro_rules! from_pointer {
    ($($arg:ident)*) => {
        impl<R: 'static, $($arg: 'static),*> From<fn($($arg),*) -> R> for RemoteFn<($($arg,)*), R> {
            fn from(function: fn($($arg),*) -> R) -> Self {
                RemoteFn::new(function)
            }
        }
    };
}

from_pointer!();
from_pointer!(A);
from_pointer!(A B);
from_pointer!(A B C);
from_pointer!(A B C D);
from_pointer!(A B C D E);
from_pointer!(A B C D E G);
from_pointer!(A B C D E G H);
from_pointer!(A B C D E G H I);

/// What travels.
#[derive(Serialize, Deserialize)]
#[serde(rename = "RemoteFn")]
struct Signed {
    places: [i64; 2],
    signature: [u64; 2],
}

/// # Errors
/// A function whose code is in a shared library: its place differs between processes.
impl<A: 'static, R: 'static> Serialize for RemoteFn<A, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let places = self.callable.places().map_err(serde::ser::Error::custom)?;
        Signed { places, signature: sign::<A, R>(Key::ours(), places) }.serialize(serializer)
    }
}

/// # Errors
/// What was not sent by a process of this run of this program, as a function of this type.
impl<'de, A: 'static, R: 'static> Deserialize<'de> for RemoteFn<A, R> {
    #[allow(unsafe_code)]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RemoteFn<A, R>, D::Error> {
        let Signed { places, signature } = Signed::deserialize(deserializer)?;
        if !is_same(sign::<A, R>(Key::ours(), places), signature) {
            return Err(serde::de::Error::custom(format_args!(
                "this is no function of the type RemoteFn<{}, {}> that a process of this run of the program has sent; between other \
                 programs, and by way of a file, functions can't travel",
                type_name::<A>(),
                type_name::<R>()
            )));
        }
        // SAFETY: the signature is right, so they are the places of a `Callable` of this type, in a
        // process of this build.
        let callable = unsafe { Callable::from_places(places) }.map_err(serde::de::Error::custom)?;
        Ok(RemoteFn { callable })
    }
}

/// The key that functions are signed with in this process and its relatives.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Key([u64; 2]);

static KEY: OnceLock<Key> = OnceLock::new();

impl Key {
    /// That of this process. The first process of a program makes one, before its first child.
    pub(crate) fn ours() -> Key {
        *KEY.get_or_init(|| {
            let mut bytes = [0; 16];
            // Where the kernel refuses random numbers, it is one that garbage doesn't have either.
            match multiproc_os::random::fill(&mut bytes) {
                Ok(()) => Key([0, 8].map(|at| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes")))),
                Err(_) => Key([multiproc_os::random::seed(), multiproc_os::random::seed()]),
            }
        })
    }

    /// In a child: its parent's becomes this process's own. A forked copy has it already.
    pub(crate) fn inherit(self) {
        let _ = KEY.set(self);
    }

    /// One that signs nothing: for a rehearsal, and for fuzzers.
    pub(crate) fn none() -> Key {
        Key([0; 2])
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// HMAC-SHA-256 (RFC 2104), cut to 128 bits, over the places and the type. A type's id is 128 bits
/// long, of which its hash has 64; the name makes up for the rest.
fn sign<A: 'static, R: 'static>(key: Key, places: [i64; 2]) -> [u64; 2] {
    let key: Vec<u8> = key.0.iter().flat_map(|part| part.to_ne_bytes()).collect();
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&key).expect("a key may have any length");
    mac.update(b"multiproc RemoteFn 1");
    places.iter().for_each(|place| mac.update(&place.to_ne_bytes()));
    let mut id = Bytes(Vec::new());
    TypeId::of::<fn(A) -> R>().hash(&mut id);
    mac.update(&(id.0.len() as u64).to_ne_bytes());
    mac.update(&id.0);
    mac.update(type_name::<fn(A) -> R>().as_bytes());
    let bytes = mac.finalize().into_bytes();
    [0, 8].map(|at| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes")))
}

/// Without telling by the time that it takes where they differ.
fn is_same(one: [u64; 2], other: [u64; 2]) -> bool {
    (one[0] ^ other[0]) | (one[1] ^ other[1]) == 0
}

/// Collects what is hashed.
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(n: u32) -> u32 {
        2 * n
    }

    fn bytes<A: 'static, R: 'static>(function: RemoteFn<A, R>) -> Vec<u8> {
        serde_json::to_vec(&function).unwrap()
    }

    fn signed(function: RemoteFn<(u32,), u32>) -> Signed {
        serde_json::from_slice(&bytes(function)).unwrap()
    }

    fn read(signed: &Signed) -> Result<RemoteFn<(u32,), u32>, serde_json::Error> {
        serde_json::from_slice(&serde_json::to_vec(signed).unwrap())
    }

    #[test]
    fn items_pointers_and_closures_come_back() {
        let pointer: fn(u32) -> u32 = double;
        for (function, result) in [
            (RemoteFn::new(double), 14),
            (RemoteFn::new(pointer), 14),
            (RemoteFn::from(pointer), 14),
            (RemoteFn::new(|n| n + 1), 8),
        ] {
            let back = read(&signed(function)).unwrap();
            assert_eq!((back, back.call((7,))), (function, result));
        }
        assert_ne!(RemoteFn::<(u32,), u32>::new(double), RemoteFn::new(|n| n + 1));
        assert_eq!(format!("{:?}", RemoteFn::new(double)), "RemoteFn<(u32,), u32>");
    }

    #[test]
    fn every_changed_bit_is_an_error() {
        for function in [RemoteFn::new(double), RemoteFn::from(double as fn(u32) -> u32)] {
            for bit in 0..256 {
                let mut signed = signed(function);
                match bit {
                    0..128 => signed.places[bit / 64] ^= 1 << (bit % 64),
                    _ => signed.signature[bit / 64 - 2] ^= 1 << (bit % 64),
                }
                let error = read(&signed).unwrap_err().to_string();
                assert!(error.contains("no function of the type RemoteFn<(u32,), u32>"), "{error}");
            }
        }
    }

    #[test]
    fn another_type_is_an_error() {
        let function = bytes(RemoteFn::new(double));
        assert!(serde_json::from_slice::<RemoteFn<(u32,), i32>>(&function).is_err());
        assert!(serde_json::from_slice::<RemoteFn<(i32,), u32>>(&function).is_err());
        assert!(serde_json::from_slice::<RemoteFn<(), u32>>(&function).is_err());
        assert!(serde_json::from_slice::<RemoteFn<(u32, u32), u32>>(&function).is_err());
    }

    /// Types of one name: those that are declared inside a function have no path that tells them
    /// apart.
    #[test]
    fn another_type_of_the_same_name_is_an_error() {
        fn of<T: 'static>(_: &T) -> RemoteFn<(T,), T> {
            RemoteFn::new(|it| it)
        }
        let first = {
            struct Local;
            (type_name::<Local>(), bytes(of(&Local)))
        };
        struct Other;
        {
            struct Local;
            assert_eq!(type_name::<Local>(), first.0);
            assert!(serde_json::from_slice::<RemoteFn<(Local,), Local>>(&first.1).is_err());
            assert!(serde_json::from_slice::<RemoteFn<(Other,), Other>>(&first.1).is_err());
        }
    }

    #[test]
    fn what_another_key_has_signed_is_an_error() {
        let mut signed = signed(RemoteFn::new(double));
        signed.signature = sign::<(u32,), u32>(Key([1, 2]), signed.places);
        assert!(read(&signed).is_err());
    }

    #[test]
    #[allow(unsafe_code)]
    fn code_of_a_shared_library_is_refused() {
        // SAFETY: it is never called.
        let getpid = unsafe { std::mem::transmute::<*const (), fn() -> i32>(libc::getpid as *const ()) };
        let error = serde_json::to_vec(&RemoteFn::from(getpid)).unwrap_err();
        assert!(error.to_string().contains("shared library"), "{error}");
    }
}
