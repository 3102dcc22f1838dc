//! What a process runs: the trait [`Run`], which takes the role of a subclass of Python's
//! `Process`, and its implementation for a function with its arguments.

use multiproc_shm::message::payload::Payload;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::arguments::Arguments;
use super::builder::Process;
use super::child::Child;
use super::outcome::Outcome;
use crate::runtime::current::current_process;
use crate::sendable::Sendable;
use crate::spec::report::{Failure, Report};
use crate::spec::target::{Carried, Entry, TRAVELS_AS, Target, Travels};
use crate::start::error::StartError;
use crate::start::panic_hook;
use crate::transfer::codec::{self, CodecError, Refused};

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
    fn pack(&self, _: Private) -> Result<Payload, Refused> {
        codec::encode(&[], self)
    }

    /// Decodes the value, in the process that will run it.
    #[doc(hidden)]
    fn unpack(payload: Payload, _: Private) -> Result<Self, CodecError> {
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
    fn start<V, Via>(self) -> Result<Child<V>, StartError>
    where
        Self::Output: Outcome<Via, Value = V>,
    {
        self.process().start()
    }
}

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
    fn pack(&self, _: Private) -> Result<Payload, Refused> {
        let target = self.target.to_bytes().map_err(|error| CodecError::new::<F>("cannot send", error))?;
        codec::encode(&target, &self.args)
    }

    #[allow(unsafe_code)]
    fn unpack(payload: Payload, _: Private) -> Result<Call<F, A>, CodecError> {
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
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(ONLY_BY_FORK))
    }
}

/// Always an error: a closure can only exist in a copy of its process.
impl<'de, F> Deserialize<'de> for Captured<F> {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Captured<F>, D::Error> {
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
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(ONLY_BY_START))
    }
}

/// Always an error: a call is sent only by starting its process.
impl<'de, F, A> Deserialize<'de> for Call<F, A> {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Call<F, A>, D::Error> {
        Err(serde::de::Error::custom(ONLY_BY_START))
    }
}

/// Decodes the payload as a [`Run`] value and runs it. This is instantiated for each type; an
/// [`Entry`] is the position of one instance.
///
/// All of the user's code is called inside, so that no panic gets out.
pub(crate) fn enter<R, Via>(payload: Payload) -> Report
where
    R: Run,
    R::Output: Outcome<Via>,
{
    perform(|| R::unpack(payload, Private(())))
}

/// Runs a value, and returns the report.
pub(crate) fn perform<R, Via>(run: impl FnOnce() -> Result<R, CodecError>) -> Report
where
    R: Run,
    R::Output: Outcome<Via>,
{
    let perform = || {
        let run = match codec::let_panics_pass(run) {
            Ok(run) => run,
            Err(error) => return Report::Failed(Failure::Arguments(error.to_string())),
        };
        let (value, failure) = run.run().into_parts();
        if let Some(failure) = &failure {
            multiproc_os::stdio::write_message(&format!("Process {}:\nError: {failure}\n", current_process().name()));
        }
        match codec::let_panics_pass(|| codec::encode(&[], &value)) {
            Ok(value) => Report::Returned { value, failed: failure.is_some() },
            Err(error) => Report::Failed(Failure::Encode(error.to_string())),
        }
    };
    panic_hook::catch(perform).unwrap_or_else(|panic| Report::Failed(Failure::Panicked(panic)))
}

/// Returns an entry and a payload that do nothing, with which a standby warms up.
pub(crate) fn warm_up_call() -> Option<(Entry, Payload)> {
    let entry = Entry::of(enter::<Call<fn(), ()>, _>).ok()?;
    let call = Call::<fn(), ()>::new(|| {}, (), Carried::<fn()>::CAPTURES_NOTHING);
    Some((entry, call.pack(Private(())).ok()?))
}
