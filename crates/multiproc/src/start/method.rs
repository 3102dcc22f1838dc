//! The ways in which a child comes to life, and which of them is used unless a process says otherwise.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// How a new process is made.
///
/// Whichever it is, the process sees the environment, the current directory and descriptors 0 to 2 that its creator has at the
/// moment of the start, default signal handling but for [Ctrl-C](crate::handle_ctrl_c), and, but for `Fork`, no other descriptor.
///
/// # PID namespaces
///
/// After unshare(2) or setns(2) with `CLONE_NEWPID`, processes are started in the new namespace. `ForkServer` executes the program for each of
/// them, as `Spawn` does, unless it has a server already: that makes its processes where it is itself, so call
/// [`end_fork_server`](crate::end_fork_server) after the call. The first process in the namespace is its init, pid 1 there: when it has ended, the
/// kernel ends all others in the namespace, and each further start is an error that says so. It is ended with its parent as any other; for
/// that it has handlers of SIGTERM and of the real-time signal `SIGRTMAX-1`, and leaves with code 143 when it is terminated.
///
/// # What a start needs
///
/// `/proc`, but for `Fork`: the program is executed as `/proc/self/exe`. Not `/dev/null`, unless [`Stdio::null`](crate::Stdio::null) asks for it.
/// A program that was started by way of the dynamic loader (`ld.so PROGRAM`) can't be executed so, and starts by `Fork` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StartMethod {
    /// A clean copy of the program is exec'd at the first start, and makes each process by copying itself: clone(2). The fastest,
    /// and safe whatever threads and locks the creator has.
    ///
    /// Resource limits, umask, niceness, processor affinity, namespaces and session are those of the first start, not of the moment; with
    /// `Spawn` they are of the moment. When the process has changed its user, groups, capabilities, `no_new_privs`, root directory, or has
    /// gone under seccomp, that is noticed, and a new server is exec'd, which has no more rights than the process has then.
    ///
    /// The server is a child of the creator, as each of the processes is: code that waits for any child until there is none is to call
    /// [`end_fork_server`](crate::end_fork_server) first.
    #[default]
    ForkServer,
    /// The program is exec'd for each process: a fresh image with addresses of its own.
    Spawn,
    /// This very process is copied: fork(2). Nothing is serialised: arguments and what a closure has captured
    /// ([`Process::fork`](crate::Process::fork)) are in the copy's memory, and so is everything else, shared until somebody writes to it. Good for
    /// big data that is there already, to be read.
    ///
    /// Refused with [`Error::MultiThreaded`](crate::Error::MultiThreaded) while this process has other threads, with
    /// [`Error::Panicking`](crate::Error::Panicking) while this thread panics; what a closure captures can't be lent by a guard of
    /// shared memory ([`Error::Lent`](crate::Error::Lent)). The copy has all descriptors that
    /// the program has opened, and leaves without the exit handlers of its creator, C's included. The larger the process, the longer it takes:
    /// some 25 ms for each GiB.
    Fork,
}

static DEFAULT: AtomicU8 = AtomicU8::new(0);

/// Has processes made by `method` from now on, here and in the processes started later, unless they say otherwise with
/// [`Process::start_method`](crate::Process::start_method).
///
/// ```
/// use multiproc::StartMethod;
///
/// assert_eq!(multiproc::start_method(), StartMethod::ForkServer);
/// multiproc::set_start_method(StartMethod::Spawn);
/// assert_eq!(multiproc::start_method(), StartMethod::Spawn);
/// ```
pub fn set_start_method(method: StartMethod) {
    DEFAULT.store(method as u8, Relaxed);
}

/// The method that is used unless a process says otherwise. See [`set_start_method`].
pub fn start_method() -> StartMethod {
    match DEFAULT.load(Relaxed) {
        method if method == StartMethod::Spawn as u8 => StartMethod::Spawn,
        method if method == StartMethod::Fork as u8 => StartMethod::Fork,
        _ => StartMethod::ForkServer,
    }
}
