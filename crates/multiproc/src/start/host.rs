//! What starts need to know of the program that the library is part of: how it is executed again,
//! what must happen around a copy of one of its processes, and how it leaves.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

use multiproc_os::exec::Program;

/// How the processes of a program are executed, copied and left.
///
/// A Rust program needs none: it executes itself, and leaves by exit(3). A language runtime that
/// loads this library (an interpreter with a module written in Rust, say) is another program than
/// its user's code, has locks and threads to look after around a fork, and has its own way to exit.
/// It describes these here, and calls [`install`](Host::install) in every process before
/// [`init`](crate::init), the executed ones included.
///
/// What is set for each process stays there: whether it dies with its parent
/// ([`outlive_parent`](crate::Process::outlive_parent)), and whether the library handles Ctrl-C
/// ([`handle_ctrl_c`](crate::process::handle_ctrl_c)).
///
/// The executed program must call `init` too, and the library's code must come from the same file
/// (the same shared library) as in its parent; the handshake compares build ids.
///
/// ```
/// use multiproc::process::Host;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     Host::new()
///         .variable("RUNTIME_ROLE", "worker")
///         .after_copy_in_child(|| eprintln!("a copy of the fork server"))
///         .install()?;
///     multiproc::init();
///
///     let role = || std::env::var("RUNTIME_ROLE").ok();
///     let child = multiproc::Process::new(role, ()).start()?;
///     assert_eq!(child.join()?.as_deref(), None, "a child has the environment of its parent");
///     Ok(())
/// }
/// ```
#[derive(Clone, Default)]
#[must_use = "a host has no effect until it is installed"]
pub struct Host {
    program: Program,
    before_copy: Option<fn()>,
    after_copy_in_parent: Option<fn()>,
    after_copy_in_child: Option<fn()>,
    leave: Option<fn(i32) -> !>,
}

/// The error of [`Host::install`]: this process has a host already.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process has a host already: install it once, before the first start")]
pub struct HostInstalled;

static HOST: OnceLock<Host> = OnceLock::new();

impl Host {
    /// Makes the description of a Rust program, to be changed by the other methods.
    pub fn new() -> Host {
        Host::default()
    }

    /// Sets the file that is executed for the fork server, and for each child of
    /// [`Spawn`](crate::StartMethod::Spawn). The default is `/proc/self/exe`, the file that is
    /// running, even if it was replaced or deleted since.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Host {
        self.program.path = Some(path.into());
        self
    }

    /// Sets all arguments of an executed program, its name first. The default is the arguments of
    /// this process.
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Host {
        self.program.arguments = Some(arguments.into_iter().map(Into::into).collect());
        self
    }

    /// Sets an environment variable of executed programs, which they see until
    /// [`init`](crate::init) and in constructors. A child then has the environment that its parent
    /// has at the moment of the start.
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Host {
        self.program.variables.push((name.into(), value.into()));
        self
    }

    /// Sets a function that is called before a process is copied: in the fork server before it
    /// makes a child, and in a parent that starts a child by [`Fork`](crate::StartMethod::Fork).
    pub fn before_copy(mut self, function: fn()) -> Host {
        self.before_copy = Some(function);
        self
    }

    /// Sets a function that is called in the process that was copied, also if that has failed.
    pub fn after_copy_in_parent(mut self, function: fn()) -> Host {
        self.after_copy_in_parent = Some(function);
        self
    }

    /// Sets a function that is called first in a copy, which has one thread. It must return.
    pub fn after_copy_in_child(mut self, function: fn()) -> Host {
        self.after_copy_in_child = Some(function);
        self
    }

    /// Sets the function by which a child leaves with an exit code, after its report is sent and
    /// its finalizers have run. The default flushes Rust's and C's streams, runs the exit handlers
    /// (not in a fork copy), and ends the process.
    pub fn leave(mut self, function: fn(i32) -> !) -> Host {
        self.leave = Some(function);
        self
    }

    /// Makes this the host of this process. Copies of the process have the same one.
    ///
    /// # Errors
    /// [`HostInstalled`] if it has a host already.
    pub fn install(self) -> Result<(), HostInstalled> {
        HOST.set(self).map_err(|_| HostInstalled)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("program", &self.program).finish_non_exhaustive()
    }
}

/// Returns what is executed.
pub(super) fn program() -> &'static Program {
    static THIS: Program = Program { path: None, arguments: None, variables: Vec::new() };
    HOST.get().map_or(&THIS, |host| &host.program)
}

/// Called before this process is copied.
pub(super) fn before_copy() {
    call(|host| host.before_copy);
}

/// Called in the original after an attempt to copy it.
pub(super) fn after_copy_in_parent() {
    call(|host| host.after_copy_in_parent);
}

/// Called in a copy.
pub(super) fn after_copy_in_child() {
    call(|host| host.after_copy_in_child);
}

#[inline]
fn call(function: impl FnOnce(&Host) -> Option<fn()>) {
    if let Some(function) = HOST.get().and_then(function) {
        function();
    }
}

/// Returns the host's way to leave, if it has one.
pub(super) fn leave() -> Option<fn(i32) -> !> {
    HOST.get()?.leave
}
