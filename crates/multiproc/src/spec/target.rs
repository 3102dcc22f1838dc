//! The position of a function's code: its distance from a static of this crate. It is the same in
//! every process of this program, wherever the kernel has loaded the image.
//!
//! This needs no registry and no annotation: the child executes the same file (the handshake
//! compares build ids), so the distance between two addresses in it is the same. An address is
//! called only after a check that it lies in the program's code.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

use multiproc_os::image::Image;
use multiproc_shm::message::payload::Payload;
use serde::{Deserialize, Serialize};

use super::report::Report;

/// A function that can be called in another process: a `fn` item, generic or not, an associated
/// function, a `fn` pointer, or a closure that captures nothing.
///
/// What is sent is the position of the function's code, never the function itself, so captured
/// values can't be sent along: pass them as arguments.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the target of a process with the arguments `{Args}`",
    label = "not a function that takes these arguments",
    note = "a target takes the elements of the tuple as its arguments, by value: `Process::new(target, (first, second))`; \
            one argument is `(first,)`, none is `()`, eight are the most"
)]
pub trait Target<Args> {
    /// What the function returns.
    type Output;

    /// Calls the function.
    #[doc(hidden)]
    fn call(self, args: Args) -> Self::Output;
}

/// A function that is identified by its type alone, or a `fn` pointer.
///
/// `Copy` excludes closures that own something, `'static` excludes those that borrow a function's
/// variables. No trait tells a closure that has captured a number from one that has not; that is
/// checked when code is generated: see `Carried::CAPTURES_NOTHING`.
#[diagnostic::on_unimplemented(
    message = "the target `{Self}` captures a variable, which can't travel to another process",
    label = "captures a variable",
    note = "pass the value as an argument: `Process::new(|value: T| .., (value,))`",
    note = "for a closure with what it has captured there is `Process::fork`"
)]
#[doc(hidden)]
pub trait CapturesNothing: Copy + 'static {}

#[diagnostic::do_not_recommend]
impl<F: Copy + 'static> CapturesNothing for F {}

/// Calls a macro with the names of 1, 2, … type parameters, for each number of arguments that a
/// target may have but none.
macro_rules! for_each_arity {
    ($each:ident) => {
        $each!(A);
        $each!(A B);
        $each!(A B C);
        $each!(A B C D);
        $each!(A B C D E);
        $each!(A B C D E G);
        $each!(A B C D E G H);
        $each!(A B C D E G H I);
    };
}

pub(crate) use for_each_arity;

macro_rules! target {
    ($($arg:ident)*) => {
        impl<F, R, $($arg),*> Target<($($arg,)*)> for F
        where
            F: FnOnce($($arg),*) -> R + Send,
        {
            type Output = R;

            #[allow(non_snake_case)]
            fn call(self, ($($arg,)*): ($($arg,)*)) -> R {
                self($($arg),*)
            }
        }
    };
}

target!();
for_each_arity!(target);

/// The address from which distances are measured.
static ANCHOR: u8 = 0;

fn anchor() -> usize {
    &raw const ANCHOR as usize
}

/// Why an address can't be sent, or a received one can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    #[error(
        "the target's code is in a shared library, not in the program's own file; its address differs between processes"
    )]
    Foreign,
    #[error("the target's address {0:#x} is not in the program's code")]
    NotCode(i64),
}

/// The file that contains this crate's code.
pub(crate) fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| Image::containing(anchor()).expect("a static lies in a loaded file"))
}

/// Returns the distance of `address` from the anchor.
fn offset(address: usize) -> Result<i64, TargetError> {
    if image().is_code(address) { Ok(address.wrapping_sub(anchor()) as i64) } else { Err(TargetError::Foreign) }
}

/// Returns the address at this distance from the anchor; always in the program's code.
fn resolve(offset: i64) -> Result<usize, TargetError> {
    let address = anchor().wrapping_add(offset as usize);
    if image().is_code(address) { Ok(address) } else { Err(TargetError::NotCode(offset)) }
}

/// The function that a child calls first, with its payload: `process::run::enter` for the payload's
/// type.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Entry(i64);

/// The type of the function at an [`Entry`].
pub(crate) type EntryFn = fn(Payload) -> Report;

impl Entry {
    pub(crate) fn of(function: EntryFn) -> Result<Entry, TargetError> {
        offset(function as usize).map(Entry)
    }

    /// Returns the function in this process.
    ///
    /// The sender is a process of the same build; the handshake has verified that.
    pub(crate) fn function(self) -> Result<EntryFn, TargetError> {
        let address = resolve(self.0)?;
        // SAFETY: an `Entry` is made only by `of`, which takes an `EntryFn`. A received one was
        // made by the same build, in which the same distance leads to the same function, and it
        // lies in the code of this image.
        Ok(unsafe { std::mem::transmute::<usize, EntryFn>(address) })
    }
}

/// The number of bytes as which a function is sent.
pub(crate) const TRAVELS_AS: usize = size_of::<i64>();

/// A function on its way to another process: no data at all if its type identifies it, the distance
/// of its code if it is a pointer.
#[derive(Debug)]
pub(crate) struct Carried<F>(F);

/// Proof that a function can be sent; made only by [`Carried::CAPTURES_NOTHING`].
pub(crate) struct Travels<F>(PhantomData<fn() -> F>);

impl<F> Carried<F> {
    /// Does not compile for a closure that captures something. It is meant for the public function
    /// that takes `F`, so that the compiler names that function's caller.
    pub(crate) const CAPTURES_NOTHING: Travels<F> = {
        assert!(
            Self::IS_NOTHING || Self::MAY_BE_POINTER,
            "the target is a closure that captures a variable, which can't travel to another process; pass the value as an \
             argument instead: `Process::new(|value: T| .., (value,))`"
        );
        let _ = &Self::THE_TARGET_CAPTURES_A_REFERENCE_PASS_A_VALUE_AS_AN_ARGUMENT_INSTEAD;
        Travels(PhantomData)
    };

    /// A type without size or destructor: its value is known from the type alone.
    const IS_NOTHING: bool = size_of::<F>() == 0 && !std::mem::needs_drop::<F>();

    /// A type with a pointer's size and alignment, and never null.
    const MAY_BE_POINTER: bool = size_of::<F>() == size_of::<fn()>()
        && align_of::<F>() == align_of::<fn()>()
        && size_of::<Option<F>>() == size_of::<fn()>()
        && !std::mem::needs_drop::<F>();

    /// Fails to compile for a closure that captures a `&'static T` or a `NonZero<usize>`. (Users
    /// read the constant's name in the compiler's message.)
    ///
    /// Of the types of this size, only function pointers are allowed. No trait tells a pointer from
    /// a closure of that size, so the compiler's own check of constants must: is a value with the
    /// address of a function, and nothing else, a valid `F`? For a captured number or reference it
    /// isn't. Besides function pointers, the check accepts a closure that captures one function
    /// pointer, which can be sent just as well.
    const THE_TARGET_CAPTURES_A_REFERENCE_PASS_A_VALUE_AS_AN_ARGUMENT_INSTEAD: Option<ManuallyDrop<F>> = {
        if Self::MAY_BE_POINTER {
            // SAFETY: of the same size, by MAY_BE_POINTER. If it is not a valid value of `F`, the
            // compiler rejects it here.
            Some(unsafe { std::mem::transmute_copy::<fn(), ManuallyDrop<F>>(&(nothing as fn())) })
        } else {
            None
        }
    };

    pub(crate) fn new(function: F, _: Travels<F>) -> Carried<F> {
        Carried(function)
    }

    pub(crate) fn into_inner(self) -> F {
        self.0
    }
}

fn nothing() {}

impl<F> Carried<F> {
    /// Returns the bytes to send.
    pub(crate) fn to_bytes(&self) -> Result<[u8; TRAVELS_AS], TargetError> {
        if size_of::<F>() == 0 {
            return Ok([0; TRAVELS_AS]);
        }
        // SAFETY: `new` guarantees that an `F` that has a size is a function's address and nothing
        // else.
        let address = unsafe { std::mem::transmute_copy::<F, usize>(&self.0) };
        Ok(offset(address)?.to_le_bytes())
    }

    /// Returns the function that was sent as `bytes`.
    ///
    /// # Safety
    /// The bytes must come from [`to_bytes`](Carried::to_bytes) of the same type, in a process of
    /// the same build, and they must be used only once, so that one value of `F` becomes one value
    /// of `F`.
    pub(crate) unsafe fn from_bytes(bytes: [u8; TRAVELS_AS]) -> Result<Carried<F>, TargetError> {
        if size_of::<F>() == 0 {
            // SAFETY: a value without size has no invalid bytes, and a value of `F` did exist, as
            // the caller guarantees.
            return Ok(Carried(unsafe { std::mem::transmute_copy::<(), F>(&()) }));
        }
        let address = resolve(i64::from_le_bytes(bytes))?;
        // SAFETY: `new` guarantees that an `F` that has a size is a function's address; this one
        // came from an `F`, as the caller guarantees, and lies in the program's code.
        Ok(Carried(unsafe { std::mem::transmute_copy::<usize, F>(&address) }))
    }
}

/// A function that can be called any number of times; with an address if its type alone doesn't
/// identify it.
pub(crate) struct Callable<A, R> {
    invoke: fn(usize, A) -> R,
    address: usize,
}

impl<A, R> Clone for Callable<A, R> {
    fn clone(&self) -> Callable<A, R> {
        *self
    }
}

impl<A, R> Copy for Callable<A, R> {}

impl<A, R> Callable<A, R> {
    pub(crate) fn new<F>(function: F, _: Travels<F>) -> Callable<A, R>
    where
        F: Target<A, Output = R> + Copy,
    {
        if size_of::<F>() == 0 {
            return Callable { invoke: by_type::<F, A, R>, address: 0 };
        }
        // SAFETY: `Travels` guarantees that an `F` that has a size is a function's address and
        // nothing else.
        let address = unsafe { std::mem::transmute_copy::<F, usize>(&function) };
        Callable { invoke: by_address::<F, A, R>, address }
    }

    pub(crate) fn call(&self, args: A) -> R {
        (self.invoke)(self.address, args)
    }

    /// Returns the addresses of its code in this process.
    pub(crate) fn addresses(&self) -> [usize; 2] {
        [self.invoke as usize, self.address]
    }

    /// Returns the distances to send; 0 for no address, since the anchor is not code.
    pub(crate) fn offsets(&self) -> Result<[i64; 2], TargetError> {
        Ok([offset(self.invoke as usize)?, if self.address == 0 { 0 } else { offset(self.address)? }])
    }

    /// Returns the function that was sent.
    ///
    /// # Safety
    /// The offsets must come from [`offsets`](Callable::offsets) of a value of this very type, in a
    /// process of the same build.
    pub(crate) unsafe fn from_offsets([invoke, address]: [i64; 2]) -> Result<Callable<A, R>, TargetError> {
        let invoke = resolve(invoke)?;
        let address = if address == 0 { 0 } else { resolve(address)? };
        // SAFETY: the same distance leads to the same function in the same build, and the caller
        // guarantees that it had this type; it lies in the program's code.
        let invoke = unsafe { std::mem::transmute::<usize, fn(usize, A) -> R>(invoke) };
        Ok(Callable { invoke, address })
    }
}

/// Calls the function that `F` identifies. The address of `by_type` occurs only in a [`Callable`],
/// which is made from an `F`.
fn by_type<F: Target<A, Output = R> + Copy, A, R>(_: usize, args: A) -> R {
    // SAFETY: a value without size has no invalid bytes; an `F` did exist, and this is a copy of
    // it.
    unsafe { std::mem::transmute_copy::<(), F>(&()) }.call(args)
}

/// Calls the function at `address`. The address of `by_address` occurs only in a [`Callable`],
/// beside an address that is an `F`.
fn by_address<F: Target<A, Output = R> + Copy, A, R>(address: usize, args: A) -> R {
    // SAFETY: `new` has taken the address from an `F`; this is a copy of it.
    unsafe { std::mem::transmute_copy::<usize, F>(&address) }.call(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(n: u32) -> u32 {
        2 * n
    }

    fn carry<F>(function: F) -> F {
        let bytes = Carried::new(function, const { Carried::<F>::CAPTURES_NOTHING }).to_bytes().unwrap();
        // SAFETY: from the line above.
        unsafe { Carried::from_bytes(bytes) }.unwrap().into_inner()
    }

    #[test]
    fn round_trip() {
        assert_eq!(carry(double)(4), 8);
        assert_eq!(carry(|n: u32| n + 1)(4), 5);
        assert_eq!(carry(double as fn(u32) -> u32)(4), 8);
        let pointer = double as fn(u32) -> u32;
        assert_eq!(carry(move |n: u32| pointer(n) + 1)(4), 9);
        assert_eq!(carry(u32::max)(4, 5), 5);
    }

    #[test]
    fn shared_library() {
        // SAFETY: it is never called.
        let getpid = unsafe { std::mem::transmute::<*const (), fn() -> i32>(libc::getpid as *const ()) };
        assert!(matches!(
            Carried::new(getpid, Carried::<fn() -> i32>::CAPTURES_NOTHING).to_bytes(),
            Err(TargetError::Foreign)
        ));
        // SAFETY: the type is `fn() -> i32`, as required; and the bytes are rejected.
        let outside = unsafe { Carried::<fn() -> i32>::from_bytes([0; 8]) };
        assert!(matches!(outside, Err(TargetError::NotCode(0))));
    }

    #[test]
    fn address_outside_code() {
        for offset in [0, i64::MAX, i64::MIN, -1] {
            assert!(matches!(Entry(offset).function(), Err(TargetError::NotCode(_))), "{offset}");
        }
    }
}
