//! The ways in which a child comes to life, and which of them is used unless a process says otherwise.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// How a new process is made.
///
/// Whichever it is, the process sees the environment, the current directory and descriptors 0 to 2 that its creator has at the
/// moment of the start, default signal handling but for [Ctrl-C](crate::handle_ctrl_c), and, but for `Fork`, no other descriptor.
///
/// # Confinement
///
/// A process never has more rights than the thread that calls `start` has at that moment: user and
/// group ids, capabilities, bounding set, securebits, `no_new_privs`, memory-deny-write-execute,
/// seccomp filters, the Landlock domain, the label of AppArmor or SELinux, control group,
/// namespaces, session and root directory. `Spawn` and `Fork` inherit them. With `ForkServer` they
/// are compared at each start; where they differ from what the server was started with, the thread
/// executes another server, once, which takes as long as `Spawn`. Threads that are confined in
/// different ways and start processes in turn pay for that each time; `Spawn` is the better method
/// for them.
///
/// Umask, process group, niceness and scheduling policy, I/O priority, timer slack, personality,
/// `oom_score_adj`, processor affinity and resource limits are those of the calling thread at that
/// moment, too, unless the builder sets them.
///
/// Landlock domains can't be read. The kernel lets no thread look into a process outside its own
/// domain, and each start tries to look into the server. That tells nothing where the memory of the
/// program can't be read: a set-user-id program, or an executable file without read
/// permission. There, and where the filters of seccomp can't be counted (before Linux 5.9, or if
/// `/proc` can't be read), a process is made as with `Spawn` if the thread has `no_new_privs` or
/// `CAP_SYS_ADMIN`, without which nothing can have been added unseen.
///
/// Filters of seccomp are compared by their number. Where a thread has added filters, and the
/// server has as many that another thread has added, a process is made as with `Spawn`.
///
/// What isn't compared: keyrings and the NUMA memory policy. A program that changes one of these
/// after its first start calls [`end_fork_server`](crate::end_fork_server) afterwards: the next
/// start brings a server that has them. A process that has been confined so far that it can't
/// execute its own program again (a filter without `execve`, a Landlock domain without the right to
/// execute the file) can start processes by `Fork` only; otherwise `start` is an error.
///
/// `/proc/PID/environ` of a process shows the environment that it has been started with, nothing
/// that was removed before. The memory of a `Fork` still has what its creator's has.
///
/// # PID namespaces
///
/// After unshare(2) or setns(2) with `CLONE_NEWPID`, processes are started in the new namespace.
/// `ForkServer` executes the program for each of them, as `Spawn` does, unless it has a server
/// already: that makes its processes where it is itself, so call
/// [`end_fork_server`](crate::end_fork_server) after the call. The first process in the namespace
/// is its init, pid 1 there: when it has ended, the kernel ends all others in the namespace, and
/// each further start is an error that says so. It is ended with its parent as any other; for that
/// it has handlers of SIGTERM and of the real-time signal `SIGRTMAX-1`, and leaves with code 143
/// when it is terminated.
///
/// # What a start needs
///
/// `/proc`, but for `Fork`: the program is executed as `/proc/self/exe`. Not `/dev/null`, unless
/// [`Stdio::null`](crate::Stdio::null) asks for it. A program that was started by way of the
/// dynamic loader (`ld.so PROGRAM`) can't be executed so, and starts by `Fork` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StartMethod {
    /// A clean copy of the program is exec'd at the first start, and makes each process by copying itself: clone(2). The fastest,
    /// and safe whatever threads and locks the creator has.
    ///
    /// A process has the rights and the settings that the thread calling `start` has at that
    /// moment; see
    /// [Confinement](#confinement).
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
    /// Refused with [`Error::MultiThreaded`](crate::Error::MultiThreaded) while this process has
    /// other threads, with [`Error::Panicking`](crate::Error::Panicking) while this thread panics;
    /// what a closure captures can't be lent by a guard of shared memory
    /// ([`Error::Lent`](crate::Error::Lent)). The copy has all descriptors that the program has
    /// opened, and leaves without the exit handlers of its creator, C's included. The larger the
    /// process, the longer it takes: some 25 ms for each GiB.
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
