//! A copy of this process that is its sibling: clone(2) with `CLONE_PARENT`.
//!
//! A plain fork(2) makes the copy a child of the caller, so a fork server would have to wait for it
//! and relay its exit status. With `CLONE_PARENT` the copy is a child of the caller's parent, which
//! waits for it as for any other of its children.
//!
//! clone3(2) returns a pidfd of the copy from the same call, before any process can have reaped the
//! copy. Seccomp profiles of containers usually refuse clone3(2), since a seccomp filter can't read
//! flags that are passed in memory. Then clone(2) is used. It has a single argument for both the
//! pidfd and the pid; it is used for the pid here, and the copy opens a pidfd of itself.
//!
//! The system call bypasses the C library, which keeps the thread's id in its thread descriptor and
//! has registered the thread's robust-futex list with the kernel. This module updates both, as the
//! C library's own `fork` does.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};

/// The process in which [`clone_sibling`] returned.
#[derive(Debug)]
pub enum Side {
    /// The caller.
    Original {
        /// The sibling's pid.
        pid: i32,
        /// The sibling's pidfd, close-on-exec, if the kernel returned one.
        pidfd: Option<OwnedFd>,
    },
    /// The new process.
    Copy {
        /// Whether the caller has a pidfd of this process.
        is_open: bool,
    },
}

/// Version 0 of `struct clone_args` of clone3(2).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// Whether clone3(2) was refused in this process or in the process that it was forked from.
static WITHOUT_CLONE3: AtomicBool = AtomicBool::new(false);

/// The state that the C library keeps about the calling thread, and that a copy must restore.
#[derive(Debug, Clone, Copy)]
pub struct ThreadState {
    /// The word of the thread descriptor that holds the thread's id; null when it can't be found.
    tid: *mut i32,
    robust_head: *mut libc::c_void,
    robust_len: usize,
}

impl ThreadState {
    /// Reads the state of the calling thread, with two system calls. It stays valid for the
    /// thread's lifetime.
    pub fn of_this_thread() -> ThreadState {
        const PR_GET_TID_ADDRESS: libc::c_int = 40;
        let mut tid: *mut i32 = std::ptr::null_mut();
        // SAFETY: the kernel writes one pointer to the address given.
        let found = unsafe { libc::prctl(PR_GET_TID_ADDRESS, &raw mut tid) } == 0 && !tid.is_null();
        // glibc registers the `tid` field of its thread descriptor with set_tid_address(2). Another
        // C library may register another word, which must not be overwritten.
        // SAFETY: the C library registered the address as one to which the kernel writes an int, so
        // it is mapped and aligned.
        if !found || unsafe { tid.read() } != rustix::thread::gettid().as_raw_nonzero().get() {
            tid = std::ptr::null_mut();
        }
        let (mut robust_head, mut robust_len) = (std::ptr::null_mut::<libc::c_void>(), 0_usize);
        // SAFETY: the kernel writes one pointer and one size to the addresses given; pid 0 is the
        // calling thread.
        let got = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut robust_head, &raw mut robust_len) };
        if got != 0 {
            robust_head = std::ptr::null_mut();
        }
        ThreadState { tid, robust_head, robust_len }
    }
}

/// Makes a copy of the calling process, as a child of this process's parent.
///
/// The kernel writes the copy's pid to `pid_slot` before the copy runs and before this call
/// returns. So a process that shares the memory of `pid_slot` learns of the copy even if the caller
/// is killed inside the call.
///
/// # Errors
/// As fork(2): `EAGAIN` at the limit of processes, `ENOMEM`.
///
/// # Safety
/// The process must have a single thread, the calling one, and `thread` must be its state. In the
/// copy of a process with more threads, locks that those threads held are never released.
pub unsafe fn clone_sibling(thread: &ThreadState, pid_slot: &AtomicI32) -> io::Result<Side> {
    let mut flags = libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID;
    if !thread.tid.is_null() {
        flags |= libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    }
    // CLONE_PARENT gives the copy the caller's exit signal, so none is passed.
    let mut pidfd = -1_i32;
    let mut result = Err(io::Error::from_raw_os_error(libc::ENOSYS));
    let mut is_open = !WITHOUT_CLONE3.load(Relaxed);
    if is_open {
        let args = CloneArgs {
            flags: flags as u64 | libc::CLONE_PIDFD as u64,
            pidfd: (&raw mut pidfd).expose_provenance() as u64,
            child_tid: thread.tid.expose_provenance() as u64,
            parent_tid: pid_slot.as_ptr().expose_provenance() as u64,
            ..CloneArgs::default()
        };
        // SAFETY: without CLONE_VM the copy has its own memory and continues on its own copy of
        // this stack, as after fork(2). The caller vouches for the single thread. `child_tid` is
        // null or the word that the C library registered with the kernel for this purpose;
        // `parent_tid` is an atomic that the kernel may write at any time; `pidfd` is a local
        // variable, and the structure has the size that is passed.
        result = crate::cvt_long(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) });
        match result.as_ref().map_err(io::Error::raw_os_error) {
            // A seccomp(2) filter returns EPERM instead of ENOSYS if its author didn't know about
            // clone3(2).
            Err(Some(libc::ENOSYS | libc::EPERM)) => {
                WITHOUT_CLONE3.store(true, Relaxed);
                is_open = false;
            }
            // At the limit of descriptors, the copy may still be able to open one.
            Err(Some(libc::EMFILE | libc::ENFILE)) => is_open = false,
            _ => {}
        }
    }
    if !is_open {
        let flags = libc::c_long::from(flags);
        let (parent_tid, child_tid, stack, tls) = (pid_slot.as_ptr(), thread.tid, 0_usize, 0_usize);
        // SAFETY: as above.
        result = crate::cvt_long(unsafe {
            // Some architectures swap the last two arguments.
            #[cfg(target_arch = "x86_64")]
            let result = libc::syscall(libc::SYS_clone, flags, stack, parent_tid, child_tid, tls);
            #[cfg(not(target_arch = "x86_64"))]
            let result = libc::syscall(libc::SYS_clone, flags, stack, parent_tid, tls, child_tid);
            result
        });
    }
    let pid = result? as i32;
    if pid != 0 {
        // SAFETY: the kernel opened the descriptor for this call.
        return Ok(Side::Original { pid, pidfd: is_open.then(|| unsafe { OwnedFd::from_raw_fd(pidfd) }) });
    }
    if !thread.robust_head.is_null() {
        // SAFETY: the C library registered this list head for this thread; in the copy it is at the
        // same address.
        unsafe { libc::syscall(libc::SYS_set_robust_list, thread.robust_head, thread.robust_len) };
    }
    crate::close_on_fork::close_all();
    // SAFETY: as above, or null.
    unsafe { crate::robust::copy_was_made(thread.robust_head) };
    Ok(Side::Copy { is_open })
}
