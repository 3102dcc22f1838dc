//! [`Process`]: a process that has not been started yet.

use std::fmt;
use std::sync::Arc;

use multiproc_os::threads;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::child::{Child, Shared};
use super::current::{self, Identity, current_process};
use super::outcome::Outcome;
use super::run::{Call, Private, Run, Target};
use super::{at_exit, family};
use crate::start::assignment::{Assignment, Order};
use crate::start::method::{StartMethod, start_method};
use crate::start::target::{Carried, Entry};
use crate::start::{entry, forkserver, spawn};
use crate::{Error, Result, log};

/// A process to be: what it will run, and its properties. [`start`](Process::start) brings it to life.
///
/// ```
/// use multiproc::Process;
///
/// fn worker(num: u32) {
///     println!("Worker: {num}");
/// }
///
/// #[multiproc::main]
/// fn main() -> multiproc::Result<()> {
///     for num in 0..5 {
///         Process::new(worker, (num,)).start()?;
///     }
///     Ok(()) // the end of main waits for the five
/// }
/// ```
#[must_use = "a process does nothing until it is started"]
pub struct Process<R> {
    run: R,
    numbers: Vec<u32>,
    name: Option<String>,
    daemon: Option<bool>,
    method: Option<StartMethod>,
    outlive_parent: bool,
}

impl<F, A> Process<Call<F, A>>
where
    F: Target<A>,
    A: Serialize + DeserializeOwned,
{
    /// A process that will call `target` with the elements of the tuple `args`.
    ///
    /// The target is a `fn` item, a `fn` pointer, or a closure that captures nothing; the arguments, 0 to 8 of them, and what the target
    /// returns are serde types (see [`Outcome`] for errors). A closure that captures something does not compile: pass the value as an
    /// argument.
    ///
    /// ```
    /// use multiproc::Process;
    ///
    /// fn largest<T: Ord>(list: Vec<T>) -> Option<T> {
    ///     list.into_iter().max()
    /// }
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let item = Process::new(largest::<u32>, (vec![3, 5, 4],)).start()?;
    /// let closure = Process::new(|text: String, times: usize| text.repeat(times), ("ab".into(), 3)).start()?;
    /// let pointer: fn(f64) -> f64 = f64::sqrt;
    /// let pointer = Process::new(pointer, (2.25,)).start()?;
    /// assert_eq!((item.join()?, closure.join()?, pointer.join()?), (Some(5), "ababab".to_string(), 1.5));
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(target: F, args: A) -> Process<Call<F, A>> {
        const { Carried::<F>::CAPTURES_NOTHING };
        Process::from_run(Call::new(target, args))
    }
}

impl<R: Run> Process<R> {
    /// A process that will run `run`. [`Run::process`] is the same.
    pub fn from_run(run: R) -> Process<R> {
        let numbers = current::next_numbers();
        Process { run, numbers, name: None, daemon: None, method: None, outlive_parent: false }
    }

    /// Gives it a name. Unless given one it is `Process-1`, `Process-2`, …, in the order in which they were made, and `Process-1:2` if
    /// `Process-1` makes it; for a [`Run`] type its own name stands in place of `Process`.
    ///
    /// `ps` and `top` show it: its first 15 bytes in place of the program's name, and the whole of it behind the program in the command
    /// line, `target/debug/program [Process-1]`.
    pub fn name(mut self, name: impl Into<String>) -> Process<R> {
        self.name = Some(name.into());
        self
    }

    /// Whether it is a daemon: at the end of the process that starts it, a daemon is ended (SIGTERM, and SIGKILL after the
    /// [`grace_period`](crate::grace_period)), while others are waited for. Unless said it is what its creator is.
    pub fn daemon(mut self, daemon: bool) -> Process<R> {
        self.daemon = Some(daemon);
        self
    }

    /// How it is made, if not by the program's default ([`set_start_method`](crate::set_start_method)).
    pub fn start_method(mut self, method: StartMethod) -> Process<R> {
        self.method = Some(method);
        self
    }

    /// Whether it goes on when the process that starts it ends, in whatever way. Otherwise it never does: at an orderly end it is waited
    /// for or terminated, and if that process is killed, the kernel kills it too.
    ///
    /// ```no_run
    /// # use multiproc::Process;
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// Process::new(|| { /* serves for years */ }, ()).outlive_parent(true).start()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn outlive_parent(mut self, outlive_parent: bool) -> Process<R> {
        self.outlive_parent = outlive_parent;
        self
    }

    /// The name that it will have.
    pub fn get_name(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => {
                let numbers: Vec<String> = self.numbers.iter().map(u32::to_string).collect();
                format!("{}-{}", R::type_name(), numbers.join(":"))
            }
        }
    }

    /// False: it has not been started. The one that has is a [`Child`].
    pub fn is_alive(&self) -> bool {
        false
    }

    /// Brings it to life: the target runs in a process of its own, and this one goes on.
    ///
    /// Any thread may do so, any number at once, and end afterwards without harm to the process.
    ///
    /// # Errors
    /// - [`Error::NoEntry`] in a program that never calls [`init`](crate::init).
    /// - [`Error::Arguments`] for arguments that can't be sent.
    /// - [`Error::Start`] when the system refuses: `EAGAIN` at the limit of processes, `EMFILE` at that of open files.
    /// - [`Error::Exiting`] when this process is past its end.
    /// - [`Error::Handshake`] when the new process dies or misbehaves before it is ready.
    pub fn start<V, Via>(self) -> Result<Child<V>>
    where
        R::Output: Outcome<Via, Value = V>,
    {
        let name = self.get_name();
        if !entry::exists() {
            return Err(Error::NoEntry { process: name });
        }
        // So that a copy of a process that has done so, made by fork(2) elsewhere, ends its children too.
        at_exit::arrange()?;
        let daemon = self.daemon.unwrap_or(current_process().daemon());
        let method = self.method.unwrap_or(start_method());
        let entry = Entry::of(entry::enter::<R, Via>)
            .map_err(|error| Error::Handshake { process: name.clone(), reason: error.to_string() })?;
        let payload =
            self.run.pack(Private(())).map_err(|source| Error::Arguments { process: name.clone(), source })?;
        let assignment = Assignment {
            identity: Identity {
                name: name.clone(),
                numbers: self.numbers,
                daemon,
                parent: Some((current_process().name().to_owned(), threads::getpid())),
            },
            entry,
            outlives_parent: self.outlive_parent,
            log_level: log::bequest(),
            start_method: start_method(),
            grace_period: family::grace_period(),
        };
        let Some(in_flight) = at_exit::InFlight::begin() else { return Err(Error::Exiting { process: name }) };
        family::sweep();
        let order = Order { assignment: &assignment, payload: &payload };
        let started = match method {
            StartMethod::ForkServer => forkserver::start(&order)?,
            StartMethod::Spawn => spawn::start(&order)?,
        };
        let shared = Arc::new(Shared::new(
            (name, R::type_name(), started.pid),
            (daemon, self.outlive_parent),
            started.socket,
            started.pidfd,
            started.early,
        ));
        family::add(&shared);
        drop(in_flight);
        Ok(Child::new(shared))
    }
}

/// `<Process(Process-1, initial)>`.
impl<R: Run> fmt::Display for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let daemon = if self.daemon.unwrap_or(current_process().daemon()) { " daemon" } else { "" };
        write!(f, "<{}({}, initial{daemon})>", R::type_name(), self.get_name())
    }
}

/// As [`Display`](fmt::Display).
impl<R: Run> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
