//! The Linux mechanisms that `multiproc` is built on, one per module.
//!
//! Safe functions over [rustix], and over libc where rustix has no binding. The crate has no
//! policy, no serialisation and no process model: each function does what its man page says, and
//! takes care of the pitfalls that the page mentions. The library makes all its system
//! calls here.
//!
//! It is published because `multiproc` depends on it, and promises no stability of its own.
//!
//! [rustix]: https://docs.rs/rustix

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("multiproc runs on 64-bit Linux only");

// On other platforms, the error above is the only one.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[path = "."]
mod linux {
    pub mod at_exit;
    pub mod at_fork;
    pub mod clock;
    pub mod clone;
    pub mod close_on_fork;
    pub mod confinement;
    pub(crate) mod control_group;
    #[cfg(test)]
    pub(crate) mod copy;
    pub mod credentials;
    pub mod directory;
    pub mod environment;
    pub mod epoll;
    pub mod errno;
    pub mod exec;
    pub mod fd_budget;
    pub mod fd_passing;
    pub mod fd_queue;
    pub mod fork;
    pub mod fork_local;
    pub(crate) mod free_memory;
    pub mod futex;
    pub mod identity;
    pub mod image;
    pub mod inotify;
    pub mod interrupt;
    pub mod lifeline;
    pub mod limits;
    pub mod memfd;
    pub mod memory_watch;
    pub mod namespace;
    pub mod numeric_slice;
    pub mod oom;
    pub mod pid_slots;
    pub mod pidfd;
    pub(crate) mod pidfd_list;
    pub mod pipe;
    pub mod poll;
    pub mod prefault;
    pub mod prefetch;
    pub mod random;
    pub mod record_lock;
    pub mod rendezvous;
    pub mod robust;
    pub mod settings;
    pub mod shared_memory;
    pub mod signal;
    pub mod socket;
    pub mod socket_file;
    pub mod stdio;
    pub mod threads;
    pub mod timer;
    pub mod title;
    pub mod wake_pipe;

    use std::io;

    /// Converts the `-1` of a C function into the error in `errno`.
    pub(crate) fn cvt(result: libc::c_int) -> io::Result<libc::c_int> {
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }

    /// Does what [`cvt`] does for the result of `libc::syscall`.
    pub(crate) fn cvt_long(result: libc::c_long) -> io::Result<libc::c_long> {
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }
}
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use linux::*;
