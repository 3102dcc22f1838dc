//! [`Process`]: the builder of a child process.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use multiproc_os::{lifeline, threads};

use super::arguments::Arguments;
use super::child::Child;
use super::outcome::Outcome;
use super::run::{self, Call, Captured, Private, Run};
use crate::log;
use crate::runtime::child::ChildRecord;
use crate::runtime::current::{self, current_process};
use crate::runtime::{at_exit, children, ctrl_c, out_of_memory};
use crate::spec::child_spec::{ChildSpec, Launch};
use crate::spec::key::SigningKey;
use crate::spec::method::{StartMethod, start_method};
use crate::spec::options::{Options, Resource, Variable};
use crate::spec::process_info::ProcessInfo;
use crate::spec::stdio::{ChildStdin, Stdio, StreamConfig};
use crate::spec::target::{CapturesNothing, Carried, Entry, Target};
use crate::start::error::{HandshakeErrorKind, StartError};
use crate::start::{entry, fork, forkserver, spawn, standby};
use crate::sync::guard_state;

/// A child process that has not been started yet: what it will run, and its properties.
/// [`start`](Process::start) starts it.
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
    seed: u64,
    name: Option<String>,
    daemon: Option<bool>,
    method: Option<StartMethod>,
    outlive_parent: bool,
    streams: StreamConfig,
    capture_output: Option<bool>,
    options: Options,
}

impl Process<()> {
    /// Makes a process that will call `target` with the elements of the tuple `args`.
    ///
    /// The target is a `fn` item, a `fn` pointer, or a closure that captures nothing. It takes 0 to
    /// 8 arguments; they and the target's result are serde types (see [`Outcome`] for errors,
    /// [`Handle`](crate::Handle) for open files and sockets). A closure that captures something
    /// does not compile: pass the value as an argument. (`cargo check` accepts a closure that has
    /// captured numbers or other `Copy` values by `move`; `cargo build` does not.)
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
    pub fn new<F, A, C>(target: F, args: A) -> Process<C>
    where
        F: Target<A> + CapturesNothing,
        A: Arguments<Call<F> = C>,
        C: Run,
    {
        let captures_nothing = const { Carried::<F>::CAPTURES_NOTHING };
        Process::from_run(A::into_call(Call::new(target, args, captures_nothing)))
    }
}

impl<F, T> Process<Captured<F>>
where
    F: FnOnce() -> T,
{
    /// Makes a process that will call `closure`, with everything that it has captured, owned or
    /// borrowed, in a copy of this process. The start method is [`StartMethod::Fork`]; see there
    /// for what that implies. Only the closure's result must be a serde type.
    ///
    /// Shared memory is not copied: capture the [`Mutex`](crate::sync::Mutex) or
    /// [`Array`](crate::Array) itself and lock it in the closure. A reference that a guard of this
    /// thread has given out can't be captured: while there is such a guard, the start is refused
    /// with [`StartError::Borrowed`].
    ///
    /// ```
    /// use multiproc::Process;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let table: Vec<u64> = (0..1_000_000).collect();
    /// let child = Process::fork(|| table.iter().sum::<u64>()).start()?; // nothing is copied or sent
    /// assert_eq!(child.join()?, 499_999_500_000);
    /// # Ok(())
    /// # }
    /// ```
    pub fn fork(closure: F) -> Process<Captured<F>> {
        Process::from_run(Captured(closure)).start_method(StartMethod::Fork)
    }
}

impl<R: Run> Process<R> {
    /// Makes a process that will run `run`. The same as [`Run::process`].
    pub fn from_run(run: R) -> Process<R> {
        let (numbers, seed) = current::next_numbers();
        Process {
            run,
            numbers,
            seed,
            name: None,
            daemon: None,
            method: None,
            outlive_parent: false,
            streams: StreamConfig::default(),
            capture_output: None,
            options: Options::default(),
        }
    }

    /// Sets the name. The default is `Process-1`, `Process-2`, … in the order in which the
    /// processes were made, and `Process-1:2` for the second process that `Process-1` makes. For a
    /// [`Run`] type, the type's name stands in place of `Process`.
    ///
    /// `ps` and `top` show the name: its first 15 bytes in place of the program's name, and all of
    /// it after the program in the command line, `target/debug/program [Process-1]`.
    pub fn name(mut self, name: impl Into<String>) -> Process<R> {
        self.name = Some(name.into());
        self
    }

    /// Sets whether the process is a daemon. When the parent ends, it ends its daemons (SIGTERM,
    /// and SIGKILL after the [`grace_period`](crate::process::grace_period)) and waits for its
    /// other children. By default a process is a daemon if its parent is one.
    pub fn daemon(mut self, daemon: bool) -> Process<R> {
        self.daemon = Some(daemon);
        self
    }

    /// As [`daemon`](Process::daemon), unless that has been called.
    pub(crate) fn daemon_if_unsaid(mut self, daemon: bool) -> Process<R> {
        self.daemon.get_or_insert(daemon);
        self
    }

    /// Sets the start method. The default is the program's
    /// ([`set_start_method`](crate::set_start_method)).
    pub fn start_method(mut self, method: StartMethod) -> Process<R> {
        self.method = Some(method);
        self
    }

    /// Sets whether the process goes on when its parent ends, in any way. By default it never
    /// does: when the parent exits, it waits for the process or terminates it, and if the parent is
    /// killed, the kernel kills the process too.
    ///
    /// This also holds for a process that changes its user: in a rootless container (a user
    /// namespace), where the kernel's signal doesn't reach such a process, the server of
    /// [`StartMethod::ForkServer`] kills it; there, the server also runs when another start method
    /// is used. Two kinds of process end only at their next call to this library: a process that
    /// has changed its user in such a container, with a server that was killed together with the
    /// parent; and a process that has done so and is the first of a PID namespace. A program that
    /// the process executes (exec) is not ended.
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

    /// Sets an environment variable of the process. The rest of its environment is the parent's at
    /// the moment of the start.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Process<R> {
        self.options.environment.push(Variable::set(name.into(), value.into()));
        self
    }

    /// Sets several environment variables of the process.
    pub fn envs<N: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Process<R> {
        for (name, value) in variables {
            self = self.env(name, value);
        }
        self
    }

    /// Removes a variable from the environment of the process.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Process<R> {
        self.options.environment.push(Variable::remove(name.into()));
        self
    }

    /// Starts the process with an empty environment, to which later calls of [`env`](Process::env)
    /// add.
    pub fn env_clear(mut self) -> Process<R> {
        self.options.environment.push(Variable::Clear);
        self
    }

    /// Sets the directory that the process starts in. A relative path is relative to the parent's
    /// current directory at the moment of the start.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Process<R> {
        self.options.set_directory(directory.into());
        self
    }

    /// Sets the standard input. See [`Stdio`].
    pub fn stdin(self, stdin: impl Into<Stdio>) -> Process<R> {
        self.stream(0, stdin.into())
    }

    /// Sets the standard output.
    ///
    /// ```
    /// use std::fs::File;
    ///
    /// use multiproc::process::Stdio;
    /// use multiproc::Process;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("multiproc-doc-{}", std::process::id()));
    /// let quiet = Process::new(|| println!("to the file"), ()).stdout(File::create(&path)?).stdin(Stdio::null());
    /// quiet.start()?.join()?;
    /// assert_eq!(std::fs::read_to_string(&path)?, "to the file\n");
    /// # std::fs::remove_file(path)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stdout(self, stdout: impl Into<Stdio>) -> Process<R> {
        self.stream(1, stdout.into())
    }

    /// Sets the standard error.
    pub fn stderr(self, stderr: impl Into<Stdio>) -> Process<R> {
        self.stream(2, stderr.into())
    }

    fn stream(mut self, number: usize, stdio: Stdio) -> Process<R> {
        self.streams.0[number] = Some(stdio);
        self
    }

    /// Sets the niceness, from -20, the most favoured, to 19; 0 is usual. A lower value than the
    /// parent's needs privileges. See nice(2).
    pub fn nice(mut self, niceness: i32) -> Process<R> {
        self.options.niceness = Some(niceness);
        self
    }

    /// Sets the processors that the process may run on, by number from 0. See sched_setaffinity(2).
    ///
    /// ```
    /// use multiproc::{Process, cpu_count};
    ///
    /// # #[multiproc::main]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pinned = Process::new(cpu_count, ()).cpu_affinity([0]);
    /// assert_eq!(pinned.start()?.join()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cpu_affinity(mut self, processors: impl IntoIterator<Item = usize>) -> Process<R> {
        self.options.affinity = Some(processors.into_iter().collect());
        self
    }

    /// Sets the process group that the process joins; 0 makes a new group with the process's pid as
    /// its id. See setpgid(2).
    pub fn process_group(mut self, group: i32) -> Process<R> {
        self.options.process_group = Some(group);
        self
    }

    /// Limits a resource: `soft` is the limit that is enforced, `hard` the value up to which the
    /// process may raise it. `u64::MAX` means no limit. See [`Resource`] for units.
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: u64) -> Process<R> {
        self.options.add_limit(resource, soft, hard);
        self
    }

    /// Sets the most memory that the process may have, in bytes. This counts writable private
    /// memory (`RLIMIT_DATA`): that of the heap and of thread stacks; code, files and shared memory
    /// don't count. A process has some 1 MB when it begins; with [`Fork`](StartMethod::Fork), what
    /// its parent has.
    ///
    /// If the process dies of the limit, as a Rust program does when an allocation fails,
    /// [`join`](Child::join) returns
    /// [`JoinErrorKind::MemoryLimit`](crate::process::JoinErrorKind::MemoryLimit). Other processes
    /// are not affected.
    ///
    /// ```
    /// use multiproc::process::JoinErrorKind;
    /// use multiproc::Process;
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// let greedy = Process::new(|len: usize| std::hint::black_box(vec![1_u8; len]).len(), (1 << 30,)).memory_limit(64 << 20);
    /// let error = greedy.start()?.join().unwrap_err();
    /// assert!(matches!(error.kind(), JoinErrorKind::MemoryLimit { limit: 67_108_864 }), "{error}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn memory_limit(mut self, bytes: u64) -> Process<R> {
        self.options.memory_limit = Some(bytes);
        self
    }

    /// Sets whether the output of the process goes to this process's stdout and stderr line by
    /// line, with the name of the process in front, as with
    /// [`capture_output`](crate::log::capture_output); `false` exempts the process where capturing
    /// is on for all. A stream that has been set by [`stdout`](Process::stdout) or
    /// [`stderr`](Process::stderr) is not captured.
    pub fn capture_output(mut self, capture: bool) -> Process<R> {
        self.capture_output = Some(capture);
        self
    }

    /// Returns the name that the process will have.
    pub fn get_name(&self) -> String {
        match &self.name {
            Some(name) => name.clone(),
            None => {
                let numbers: Vec<String> = self.numbers.iter().map(u32::to_string).collect();
                format!("{}-{}", R::type_name(), numbers.join(":"))
            }
        }
    }

    /// Returns false: the process has not been started. Ask the [`Child`] that
    /// [`start`](Process::start) returns.
    pub fn is_alive(&self) -> bool {
        false
    }

    /// Starts the process: the target runs in a process of its own, and this one goes on.
    ///
    /// Any thread may call this, and any number of threads at once. The process is not affected
    /// when the thread that started it ends.
    ///
    /// # Errors
    /// - [`StartError::NoEntry`] in a program that never calls [`init`](crate::init).
    /// - [`StartError::Encode`] for arguments that can't be sent.
    /// - [`StartError::Io`] when the system refuses: `EAGAIN` at the limit of processes, `EMFILE`
    ///   at the limit of open files; also when an option can't be applied, such as a directory that
    ///   doesn't exist.
    /// - [`StartError::MultiThreaded`] for [`StartMethod::Fork`] in a process with other threads.
    /// - [`StartError::Panicking`] for [`StartMethod::Fork`] in a thread that is panicking, as in a
    ///   destructor that runs because of a panic.
    /// - [`StartError::Borrowed`] for [`Process::fork`] while this thread has a guard that has
    ///   given out a reference to shared memory.
    /// - [`StartError::Exiting`] when this process is exiting and no longer starts processes.
    /// - [`StartError::Handshake`] when the new process dies or misbehaves before it is ready.
    pub fn start<V, Via>(self) -> Result<Child<V>, StartError>
    where
        R::Output: Outcome<Via, Value = V>,
    {
        let name = self.get_name();
        let method = self.method.unwrap_or(start_method());
        if method != StartMethod::Fork && !entry::exists() {
            return Err(StartError::NoEntry { process: name });
        }
        if method == StartMethod::Fork && std::thread::panicking() {
            return Err(StartError::Panicking { process: name });
        }
        if method == StartMethod::Fork && R::borrows(Private(())) && guard_state::borrowed() > 0 {
            return Err(StartError::Borrowed { process: name, guards: guard_state::borrowed() });
        }
        // Copies of this process made by fork(2) inherit the exit handler, so they end their own
        // children.
        at_exit::arrange().map_err(StartError::io(&name, "an exit handler could not be registered"))?;
        self.options.check().map_err(|not_set| StartError::io(&name, not_set.what)(not_set.source))?;
        let daemon = self.daemon.unwrap_or(current_process().daemon());
        let (mut streams, ends) =
            self.streams.open().map_err(StartError::io(&name, "its standard streams could not be opened"))?;
        let log = log::LogSetup::to(&name, self.capture_output, &mut streams)
            .map_err(StartError::io(&name, "pipes for its output could not be made"))?;
        let spec = |entry| ChildSpec {
            info: ProcessInfo {
                name: name.clone(),
                numbers: self.numbers,
                seed: self.seed,
                daemon,
                parent: Some((current_process().name().to_owned(), threads::getpid())),
            },
            entry,
            options: self.options,
            outlives_parent: self.outlive_parent,
            log: log.config(),
            start_method: start_method(),
            grace_period: children::grace_period(),
            handles_ctrl_c: ctrl_c::handles_ctrl_c(),
            standby: standby::is_wanted(),
            key: SigningKey::ours(),
        };
        out_of_memory::take_notice();
        // Before the start counts as in flight: this calls the user's code, which may call `exit`.
        let (run, payload) = match method {
            StartMethod::Fork => (Some(self.run), None),
            _ => (None, Some(self.run.pack(Private(())).map_err(|refused| StartError::refused(&name, refused))?)),
        };
        lifeline::check();
        let Some(in_flight) = at_exit::InFlight::begin() else { return Err(StartError::Exiting { process: name }) };
        ctrl_c::arm();
        children::sweep();
        let (started, ends) = if let Some(run) = run {
            fork::start(spec(None), streams, ends, || run::perform(|| Ok(run)))?
        } else {
            let entry = Entry::of(run::enter::<R, Via>)
                .map_err(|_| StartError::handshake(&name, HandshakeErrorKind::SharedLibrary))?;
            let payload = payload.expect("packed above");
            let spec = spec(Some(entry));
            let launch = Launch { spec: &spec, payload: &payload, streams: &streams, fds: &log.fds() };
            let started = match method {
                StartMethod::Spawn => spawn::start(&launch)?,
                _ => forkserver::start(&launch)?,
            };
            (started, ends)
        };
        let record = Arc::new(ChildRecord::new(
            (name, R::type_name()),
            (daemon, self.outlive_parent),
            log.captured,
            ends.stdin.as_ref().map(ChildStdin::closer),
            started,
        ));
        children::add(&record);
        drop(in_flight);
        Ok(Child::new(record, ends))
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
