//! [`RemoteFn`]: a function as a value that can be sent.
//!
//! It is sent in the form of a target: as the offset of its code in this program's image
//! (`spec/target.rs`). The offset of a target is read only once, by a child, from its own parent.
//! A `RemoteFn`, however, may be in any message, so the received bytes may be anything, and safe
//! code must not be able to make them a call to an arbitrary address. So the offsets are signed,
//! and only a function with a valid signature is accepted:
//!
//! - The key is made at random in the first process of a program and handed to each child in its
//!   `ChildSpec`. So all descendants have it, and no other process. They all run the same build, as
//!   the handshake at their start has checked, so an offset means the same in all of them.
//! - The signature covers the offsets together with the type, that is arguments and result. Only
//!   [`RemoteFn::new`] makes a value, from a function of that type, so a signature says that there
//!   is such a function at that offset. Garbage, a message of another program or another run, and a
//!   `RemoteFn` of another type have no valid signature, except by a chance of 1 in 2^128.
//! - A valid `RemoteFn` that is received twice, or late, is still a function of that type at that
//!   offset: code doesn't change while a program runs. Sending a function of a library that can be
//!   unloaded is an error.

use std::any::{TypeId, type_name};
use std::fmt;
use std::hash::{Hash, Hasher};

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;

use crate::spec::key::SigningKey;
use crate::spec::target::{Callable, CapturesNothing, Carried, Target, for_each_arity};

/// A function that can be sent to another process of this program: as an argument, a field, a
/// result, or an item of a queue.
///
/// It is made from anything that can be a [target](crate::process::Target): a `fn` item, a `fn`
/// pointer, or a closure that captures nothing. `A` is the tuple of its 0 to 8 arguments and `R`
/// its result. The function is called in the process that receives it, so neither has to be a serde
/// type.
///
/// What is sent is the offset of its code in the program, signed with a key that the processes of
/// one run of a program share, 32 bytes in all. Anything else that is received, such as garbage or
/// a function of another type, is an error when it is decoded, and is never called. Functions can't
/// be sent to other programs, through [connections](crate::connection::Listener), or through files.
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
    /// Makes a value of a function. A closure that captures something does not compile, as with
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
    /// If the function panics.
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

/// Compares the code's addresses. As for `fn` pointers, the compiler may give different functions
/// with the same code one address, or one function two.
impl<A, R> PartialEq for RemoteFn<A, R> {
    fn eq(&self, other: &RemoteFn<A, R>) -> bool {
        self.callable.addresses() == other.callable.addresses()
    }
}

impl<A, R> Eq for RemoteFn<A, R> {}

/// Hashes the same addresses as `==` compares.
impl<A, R> Hash for RemoteFn<A, R> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.callable.addresses().hash(state);
    }
}

/// Shows `RemoteFn<(u32,), u32>`.
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
for_each_arity!(from_pointer);

/// The encoded form of a function.
#[derive(Serialize, Deserialize)]
#[serde(rename = "RemoteFn")]
struct Signed {
    #[serde(rename = "places")]
    offsets: [i64; 2],
    signature: [u64; 2],
}

/// # Errors
/// For a function with its code in a shared library: the library's address differs between
/// processes.
impl<A: 'static, R: 'static> Serialize for RemoteFn<A, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let offsets = self.callable.offsets().map_err(serde::ser::Error::custom)?;
        Signed { offsets, signature: sign::<A, R>(SigningKey::ours(), offsets) }.serialize(serializer)
    }
}

/// # Errors
/// For anything but a function of this type that was sent by a process of this run of this program.
impl<'de, A: 'static, R: 'static> Deserialize<'de> for RemoteFn<A, R> {
    #[allow(unsafe_code)]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RemoteFn<A, R>, D::Error> {
        let Signed { offsets, signature } = Signed::deserialize(deserializer)?;
        if !is_same(sign::<A, R>(SigningKey::ours(), offsets), signature) {
            return Err(serde::de::Error::custom(format_args!(
                "this is not a function of the type RemoteFn<{}, {}> that a process of this run of the program has sent; functions \
                 can't be sent to other programs or through files",
                type_name::<A>(),
                type_name::<R>()
            )));
        }
        // SAFETY: the signature is right, so they are the offsets of a `Callable` of this type, in
        // a process of this build.
        let callable = unsafe { Callable::from_offsets(offsets) }.map_err(serde::de::Error::custom)?;
        Ok(RemoteFn { callable })
    }
}

/// HMAC-SHA-256 (RFC 2104), cut to 128 bits, over the offsets and the type. A `TypeId` is 128 bits
/// long, but only 64 of them go into its hash; the type's name makes up for the rest.
fn sign<A: 'static, R: 'static>(key: SigningKey, offsets: [i64; 2]) -> [u64; 2] {
    let key: Vec<u8> = key.0.iter().flat_map(|part| part.to_ne_bytes()).collect();
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&key).expect("an HMAC key may have any length");
    mac.update(b"multiproc RemoteFn 1");
    offsets.iter().for_each(|offset| mac.update(&offset.to_ne_bytes()));
    let mut id = Bytes(Vec::new());
    TypeId::of::<fn(A) -> R>().hash(&mut id);
    mac.update(&(id.0.len() as u64).to_ne_bytes());
    mac.update(&id.0);
    mac.update(type_name::<fn(A) -> R>().as_bytes());
    let bytes = mac.finalize().into_bytes();
    [0, 8].map(|at| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes")))
}

/// Compares in a time that doesn't depend on where the two differ.
fn is_same(one: [u64; 2], other: [u64; 2]) -> bool {
    (one[0] ^ other[0]) | (one[1] ^ other[1]) == 0
}

/// A hasher that collects the bytes to be hashed.
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
    fn round_trip() {
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
    fn flipped_bits() {
        for function in [RemoteFn::new(double), RemoteFn::from(double as fn(u32) -> u32)] {
            for bit in 0..256 {
                let mut signed = signed(function);
                match bit {
                    0..128 => signed.offsets[bit / 64] ^= 1 << (bit % 64),
                    _ => signed.signature[bit / 64 - 2] ^= 1 << (bit % 64),
                }
                let error = read(&signed).unwrap_err().to_string();
                assert!(error.contains("not a function of the type RemoteFn<(u32,), u32>"), "{error}");
            }
        }
    }

    #[test]
    fn wrong_type() {
        let function = bytes(RemoteFn::new(double));
        assert!(serde_json::from_slice::<RemoteFn<(u32,), i32>>(&function).is_err());
        assert!(serde_json::from_slice::<RemoteFn<(i32,), u32>>(&function).is_err());
        assert!(serde_json::from_slice::<RemoteFn<(), u32>>(&function).is_err());
        assert!(serde_json::from_slice::<RemoteFn<(u32, u32), u32>>(&function).is_err());
    }

    /// Types with the same name: types declared inside a function have no path that distinguishes
    /// them.
    #[test]
    fn wrong_type_of_same_name() {
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
    fn wrong_key() {
        let mut signed = signed(RemoteFn::new(double));
        signed.signature = sign::<(u32,), u32>(crate::spec::key::SigningKey([1, 2]), signed.offsets);
        assert!(read(&signed).is_err());
    }

    #[test]
    #[allow(unsafe_code)]
    fn shared_library() {
        // SAFETY: it is never called.
        let getpid = unsafe { std::mem::transmute::<*const (), fn() -> i32>(libc::getpid as *const ()) };
        let error = serde_json::to_vec(&RemoteFn::from(getpid)).unwrap_err();
        assert!(error.to_string().contains("shared library"), "{error}");
    }
}
