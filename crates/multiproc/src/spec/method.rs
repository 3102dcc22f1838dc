//! The start methods, and the default one.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// How a new process is made.
///
/// With every method, the process has the environment, the current directory and descriptors 0 to 2
/// that its parent has at the moment of the start, and default signal handling except for
/// [Ctrl-C](crate::process::handle_ctrl_c). Except with `Fork`, it has no other descriptors.
///
/// # Confinement
///
/// A process never has more rights than the thread that calls `start` has at that moment: user and
/// group ids, capabilities, bounding set, securebits, `no_new_privs`, memory-deny-write-execute,
/// seccomp filters, the Landlock domain, the label of AppArmor or SELinux, control group,
/// namespaces, session and root directory. `Spawn` and `Fork` inherit them. `ForkServer` compares
/// them at each start; where they differ from those that the server was started with, the thread
/// executes another server, once, which takes as long as `Spawn`. If threads that are confined in
/// different ways start processes in turn, each start costs that much; `Spawn` is the better method
/// for them.
///
/// Umask, process group, niceness and scheduling policy, I/O priority, timer slack, personality,
/// `oom_score_adj`, processor affinity and resource limits are also those of the calling thread at
/// that moment, unless the builder sets them.
///
/// Landlock domains can't be read. But the kernel lets no thread inspect a process outside its own
/// domain, and each start tries to inspect the server. The result says nothing where the program's
/// memory can't be read: in a set-user-id program, or an executable file without read permission.
/// There, and where seccomp filters can't be counted (before Linux 5.9, or if `/proc` can't be
/// read), a process is made as with `Spawn` if the thread has `no_new_privs` or `CAP_SYS_ADMIN`;
/// without one of these, no restriction can have been added unseen.
///
/// Seccomp filters are compared by their number. If the calling thread has added filters, and the
/// server has equally many that another thread has added, the process is made as with `Spawn`.
///
/// Keyrings and the NUMA memory policy aren't compared. A program that changes one of these after
/// its first start must call [`end_fork_server`](crate::process::end_fork_server) afterwards: the next start
/// makes a server that has them. A process that has confined itself so far that it can't execute
/// its own program again (a seccomp filter without `execve`, a Landlock domain without the right to
/// execute the file) can start processes by `Fork` only; with the other methods, `start` returns an
/// error.
///
/// `/proc/PID/environ` of a process shows the environment that the process was started with,
/// without removed variables. With `Fork`, a removed variable is still in the process's memory,
/// since it was in its parent's.
///
/// # PID namespaces
///
/// After unshare(2) or setns(2) with `CLONE_NEWPID`, processes are started in the new namespace.
/// `ForkServer` then executes the program for each of them, as `Spawn` does, unless there is
/// already a server: that one makes its processes in its own namespace, so call
/// [`end_fork_server`](crate::process::end_fork_server) after unshare or setns. The first process in the
/// namespace is its init, pid 1 there: when it ends, the kernel ends all others in the namespace,
/// and each further start is an error that says so. It ends with its parent like any other child;
/// for that it has handlers of SIGTERM and of the real-time signal `SIGRTMAX-1`, and it exits with
/// code 143 when it is terminated.
///
/// # What a start needs
///
/// All methods except `Fork` need `/proc`: the program is executed as `/proc/self/exe`. `/dev/null`
/// is needed only for [`Stdio::null`](crate::process::Stdio::null). A program that was started through the
/// dynamic loader (`ld.so PROGRAM`) can't be executed this way, and can use `Fork` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StartMethod {
    /// The first start executes a clean copy of the program, the fork server, which makes each
    /// process by copying itself: clone(2). The fastest method, and safe whatever threads and locks
    /// the parent has.
    ///
    /// A process has the rights and the settings that the thread calling `start` has at that
    /// moment; see [Confinement](#confinement).
    ///
    /// The server is a child of the parent, as each of the processes is: code that waits for any
    /// child until there is none must call [`end_fork_server`](crate::process::end_fork_server) first.
    #[default]
    ForkServer,
    /// The program is executed for each process: a fresh image with its own address space layout.
    Spawn,
    /// The calling process is copied: fork(2). Nothing is serialised: arguments and the captured
    /// values of a closure ([`Process::fork`](crate::Process::fork)) are in the copy's memory, like
    /// everything else; pages are shared until one of the processes writes to them. Good for large
    /// data that exists already and is only read.
    ///
    /// Refused with [`StartError::MultiThreaded`](crate::process::StartError::MultiThreaded) while this
    /// process has other threads, and with [`StartError::Panicking`](crate::process::StartError::Panicking)
    /// while this thread panics. A closure can't capture references that a guard of shared memory
    /// has given out ([`StartError::Borrowed`](crate::process::StartError::Borrowed)). The copy has all
    /// descriptors that the program has opened, and exits without running the exit handlers of its
    /// parent, C's included. The larger the process, the longer this takes: some 25 ms for each
    /// GiB.
    Fork,
}

static DEFAULT: AtomicU8 = AtomicU8::new(0);

/// Sets the default start method, for this process and for processes started later.
/// [`Process::start_method`](crate::Process::start_method) overrides it for one process.
///
/// ```
/// use multiproc::StartMethod;
///
/// assert_eq!(multiproc::process::start_method(), StartMethod::ForkServer);
/// multiproc::set_start_method(StartMethod::Spawn);
/// assert_eq!(multiproc::process::start_method(), StartMethod::Spawn);
/// ```
pub fn set_start_method(method: StartMethod) {
    DEFAULT.store(method as u8, Relaxed);
}

/// Returns the default start method. See [`set_start_method`].
pub fn start_method() -> StartMethod {
    match DEFAULT.load(Relaxed) {
        method if method == StartMethod::Spawn as u8 => StartMethod::Spawn,
        method if method == StartMethod::Fork as u8 => StartMethod::Fork,
        _ => StartMethod::ForkServer,
    }
}
