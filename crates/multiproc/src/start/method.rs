//! The ways in which a child comes to life, and which of them is used unless a process says otherwise.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// How a new process is made.
///
/// Whichever it is, the process sees the environment, the current directory and descriptors 0 to 2 that its creator has at the
/// moment of the start, default signal handling, and no other descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StartMethod {
    /// A clean copy of the program is exec'd at the first start, and makes each process by copying itself: clone3(2). The fastest,
    /// and safe whatever threads and locks the creator has.
    ///
    /// What else a process hands down (resource limits, umask, niceness, processor affinity, seccomp filters, namespaces) is that of the
    /// first start, not of the moment; it is of the moment with `Spawn`. A change of user or group is noticed, and brings a new server.
    #[default]
    ForkServer,
    /// The program is exec'd for each process: a fresh image with addresses of its own.
    Spawn,
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
        _ => StartMethod::ForkServer,
    }
}
