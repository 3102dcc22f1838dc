//! What a process runs: [`Run`], the trait in place of subclassing, and a function with its arguments as one implementer of it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::builder::Process;
use super::child::Child;
use super::outcome::Outcome;
use crate::Result;
use crate::start::target::Carried;

/// Something that a process can run: its fields travel there, [`run`](Run::run) is called there, and what it returns travels back.
///
/// This is what a subclass of `Process` is in Python. The processes are named for the type: `Worker-1`, `Worker-2`.
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
pub trait Run: Serialize + DeserializeOwned {
    /// What [`run`](Run::run) returns: a serde type, or a `Result` whose error is one of those that travel as text (see
    /// [`Outcome`]).
    type Output;

    /// Does the work, in the new process.
    fn run(self) -> Self::Output;

    /// The first part of the names of its processes, and the type that they print as; the type's own name unless overridden.
    fn type_name() -> &'static str {
        let whole = std::any::type_name::<Self>();
        let without_generics = whole.split('<').next().unwrap_or(whole);
        without_generics.rsplit("::").next().unwrap_or(without_generics)
    }

    /// A process that will run it, to be given a name and other properties before it is started.
    fn process(self) -> Process<Self> {
        Process::from_run(self)
    }

    /// Starts a process that runs it.
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

/// A function that can be called in another process: a `fn` item, generic or not, an associated function, a `fn` pointer, or a
/// closure that captures nothing.
///
/// What travels is where the function's code is, never the function itself, so there is nothing that a captured value could
/// travel in: pass it as an argument.
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

/// A function and its arguments: what [`Process::new`] has a process run.
#[derive(Debug)]
pub struct Call<F, A> {
    target: Carried<F>,
    args: A,
}

impl<F, A> Call<F, A> {
    pub(crate) fn new(target: F, args: A) -> Call<F, A> {
        Call { target: Carried::new(target), args }
    }
}

impl<F, A> Run for Call<F, A>
where
    F: Target<A>,
    A: Serialize + DeserializeOwned,
{
    type Output = F::Output;

    fn run(self) -> F::Output {
        self.target.into_inner().call(self.args)
    }

    fn type_name() -> &'static str {
        "Process"
    }
}

impl<F, A: Serialize> Serialize for Call<F, A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        (&self.target, &self.args).serialize(serializer)
    }
}

impl<'de, F, A: Deserialize<'de>> Deserialize<'de> for Call<F, A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Call<F, A>, D::Error> {
        let (target, args) = <(Carried<F>, A)>::deserialize(deserializer)?;
        Ok(Call { target, args })
    }
}
