//! What a process runs: the trait [`Run`], which takes the role of a subclass of Python's
//! `Process`, and its implementation for a function with its arguments.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::builder::Process;
use super::child::Child;
use super::outcome::Outcome;
use crate::Result;
use crate::sendable::{Arguments, Sendable};
use crate::spec::target::{Carried, TRAVELS_AS, Travels};
use crate::transfer::codec::{self, CodecError, Refused};
use crate::transfer::payload::Payload;

/// A value that a process can run: it is sent to the process, [`run`](Run::run) is called there,
/// and the result is sent back.
///
/// This takes the role that a subclass of `Process` has in Python. The processes are named for the
/// type: `Worker-1`, `Worker-2`.
///
/// ```
/// use multiproc::{Run, current_process};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Worker {
///     numbers: Vec<u64>,
/// }
///
/// impl Run for Worker {
///     type Output = (String, u64);
///
///     fn run(self) -> (String, u64) {
///         (current_process().name().to_owned(), self.numbers.iter().sum())
///     }
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let child = Worker { numbers: vec![1, 2, 3] }.start()?;
/// assert_eq!(child.join()?, ("Worker-1".to_owned(), 6));
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be run in another process",
    note = "implement `multiproc::Run` for it, and derive `serde::Serialize` and `serde::Deserialize`, so that it can travel there"
)]
pub trait Run: Sendable {
    /// What [`run`](Run::run) returns: a serde type, or a `Result` with one of the error types that
    /// are sent as text (see [`Outcome`]).
    type Output;

    /// Does the work, in the new process.
    fn run(self) -> Self::Output;

    /// Returns the first part of the processes' names, which is also the type name in their
    /// `Display` output. The type's own name unless overridden.
    fn type_name() -> &'static str {
        let whole = std::any::type_name::<Self>();
        let without_generics = whole.split('<').next().unwrap_or(whole);
        without_generics.rsplit("::").next().unwrap_or(without_generics)
    }

    /// Encodes the value as bytes and descriptors, for another process.
    #[doc(hidden)]
    fn pack(&self, _: Private) -> std::result::Result<Payload, Refused> {
        codec::encode(&[], self)
    }

    /// Decodes the value, in the process that will run it.
    #[doc(hidden)]
    fn unpack(payload: Payload, _: Private) -> std::result::Result<Self, CodecError> {
        codec::decode(payload, 0)
    }

    /// Whether the value may contain references into its creator's memory.
    #[doc(hidden)]
    fn borrows(_: Private) -> bool {
        false
    }

    /// Makes a process that will run the value, to be given a name and other properties before it
    /// is started.
    fn process(self) -> Process<Self> {
        Process::from_run(self)
    }

    /// Starts a process that runs the value.
    ///
    /// # Errors
    /// As [`Process::start`].
    fn start<V, Via>(self) -> Result<Child<V>>
    where
        Self::Output: Outcome<Via, Value = V>,
    {
        self.process().start()
    }
}

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
target!(A);
target!(A B);
target!(A B C);
target!(A B C D);
target!(A B C D E);
target!(A B C D E G);
target!(A B C D E G H);
target!(A B C D E G H I);

/// A function and its arguments: what [`Process::new`] makes a process run.
#[derive(Debug)]
pub struct Call<F, A> {
    target: Carried<F>,
    args: A,
}

impl<F, A> Call<F, A> {
    pub(crate) fn new(target: F, args: A, captures_nothing: Travels<F>) -> Call<F, A> {
        Call { target: Carried::new(target, captures_nothing), args }
    }
}

impl<F, A> Run for Call<F, A>
where
    F: Target<A>,
    A: Arguments,
{
    type Output = F::Output;

    fn run(self) -> F::Output {
        self.target.into_inner().call(self.args)
    }

    fn type_name() -> &'static str {
        "Process"
    }

    /// The target's position, then the arguments.
    fn pack(&self, _: Private) -> std::result::Result<Payload, Refused> {
        let target = self.target.to_bytes().map_err(|error| CodecError::new::<F>("cannot send", error))?;
        codec::encode(&target, &self.args)
    }

    #[allow(unsafe_code)]
    fn unpack(payload: Payload, _: Private) -> std::result::Result<Call<F, A>, CodecError> {
        let cannot = |reason: String| CodecError::new::<F>("cannot receive", reason);
        let front = payload.bytes.open().map_err(|error| cannot(error.to_string()))?.first_chunk().copied();
        let target = front.ok_or_else(|| cannot("the message is too short".into()))?;
        // SAFETY: `Private` can't be made outside this crate, which calls this once in a child. The
        // bytes come from the child's parent, which is of the same build, has packed them for the
        // entry of this very type, and has then forgotten the value.
        let target = unsafe { Carried::from_bytes(target) }.map_err(|error| cannot(error.to_string()))?;
        Ok(Call { target, args: codec::decode(payload, TRAVELS_AS)? })
    }
}

/// A closure with what it has captured: what [`Process::fork`] makes a process run.
#[derive(Debug)]
pub struct Captured<F>(pub(crate) F);

impl<F, T> Run for Captured<F>
where
    F: FnOnce() -> T,
{
    type Output = T;

    fn run(self) -> T {
        (self.0)()
    }

    fn type_name() -> &'static str {
        "Process"
    }

    fn borrows(_: Private) -> bool {
        size_of::<F>() != 0
    }
}

/// Always an error: a closure can only exist in a copy of its process.
impl<F> Serialize for Captured<F> {
    fn serialize<S: Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(ONLY_BY_FORK))
    }
}

/// Always an error: a closure can only exist in a copy of its process.
impl<'de, F> Deserialize<'de> for Captured<F> {
    fn deserialize<D: Deserializer<'de>>(_: D) -> std::result::Result<Captured<F>, D::Error> {
        Err(serde::de::Error::custom(ONLY_BY_FORK))
    }
}

const ONLY_BY_FORK: &str =
    "a closure that captures something can only run in a copy of this process: use StartMethod::Fork";

/// Proves that this crate is the caller.
#[derive(Debug, Clone, Copy)]
#[doc(hidden)]
pub struct Private(pub(crate) ());

/// A call is sent in a format of its own. Deserializing one from anywhere else would let the sender
/// choose the code that is called.
const ONLY_BY_START: &str = "a call can only be sent by starting its process";

/// Always an error: a call is sent only by starting its process.
impl<F, A> Serialize for Call<F, A> {
    fn serialize<S: Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(ONLY_BY_START))
    }
}

/// Always an error: a call is sent only by starting its process.
impl<'de, F, A> Deserialize<'de> for Call<F, A> {
    fn deserialize<D: Deserializer<'de>>(_: D) -> std::result::Result<Call<F, A>, D::Error> {
        Err(serde::de::Error::custom(ONLY_BY_START))
    }
}
