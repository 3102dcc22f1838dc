//! A copy of this process that is its sibling: clone(2) with `CLONE_PARENT`.
//!
//! A plain `fork` makes the copy a child of the caller, so a server would have to wait for it and relay its status. With
//! `CLONE_PARENT` the copy is the child of the caller's parent, which waits for it as for any child of its own.
//!
//! clone3(2) gives a pidfd of the copy from the same call, so that there is one before anything can
//! reap the copy. The usual seccomp profile of containers refuses clone3, since a filter can't look
//! at its flags; then it is clone(2), whose one argument for both a pidfd and the pid is needed for
//! the pid, and the copy opens itself.
//!
//! The system call goes round the C library, which keeps the thread's id in its thread descriptor and the robust-futex list registered
//! with the kernel; both are put right here, as the library's own `fork` does.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};

/// Where [`clone_sibling`] returned.
#[derive(Debug)]
pub enum Side {
    /// In the caller.
    Original {
        /// The sibling's pid.
        pid: i32,
        /// Its pidfd, close-on-exec, if the kernel gives one.
        pidfd: Option<OwnedFd>,
    },
    /// In the new process.
    Copy {
        /// Whether the caller has its pidfd.
        is_open: bool,
    },
}

/// `struct clone_args` of clone3(2), as far as version 0 goes.
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

/// Whether clone3(2) has been refused in this process, or in the one that it is a copy of.
static WITHOUT_CLONE3: AtomicBool = AtomicBool::new(false);

/// What the C library wants to have kept true about the calling thread in a copy of it.
#[derive(Debug, Clone, Copy)]
pub struct ThreadState {
    /// The word of the thread descriptor that holds the thread's id; null when it can't be found.
    tid: *mut i32,
    robust_head: *mut libc::c_void,
    robust_len: usize,
}

impl ThreadState {
    /// Reads it for the calling thread. Costs two system calls, and holds for as long as the thread lives.
    pub fn of_this_thread() -> ThreadState {
        const PR_GET_TID_ADDRESS: libc::c_int = 40;
        let mut tid: *mut i32 = std::ptr::null_mut();
        // SAFETY: the kernel writes one pointer to the address given.
        let found = unsafe { libc::prctl(PR_GET_TID_ADDRESS, &raw mut tid) } == 0 && !tid.is_null();
        // glibc registers its descriptor's `tid` with set_tid_address(2); another C library may register some other word,
        // which must not be overwritten.
        // SAFETY: the address was registered by the C library for the kernel to write an int to, so it is mapped and aligned.
        if !found || unsafe { tid.read() } != rustix::thread::gettid().as_raw_nonzero().get() {
            tid = std::ptr::null_mut();
        }
        let (mut robust_head, mut robust_len) = (std::ptr::null_mut::<libc::c_void>(), 0_usize);
        // SAFETY: the kernel writes one pointer and one size to the addresses given; pid 0 is the calling thread.
        let got = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut robust_head, &raw mut robust_len) };
        if got != 0 {
            robust_head = std::ptr::null_mut();
        }
        ThreadState { tid, robust_head, robust_len }
    }
}

/// Makes a copy of the calling process, as the child of this process's parent.
///
/// The kernel writes the copy's pid to `pid_slot` before the copy runs and before this call returns, so whoever shares the
/// memory of `pid_slot` knows of the copy even if the caller is killed inside the call.
///
/// # Errors
/// As fork(2): `EAGAIN` at the limit of processes, `ENOMEM`.
///
/// # Safety
/// The process must have one thread, the calling one, and `thread` must be its state: a copy of a process with more threads
/// has locks that nobody will ever release.
pub unsafe fn clone_sibling(thread: &ThreadState, pid_slot: &AtomicI32) -> io::Result<Side> {
    let mut flags = libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID;
    if !thread.tid.is_null() {
        flags |= libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    }
    // The exit signal is that of the caller, which CLONE_PARENT takes.
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
        // SAFETY: without CLONE_VM the copy has its own memory and goes on with its own copy of
        // this stack, as after fork(2). The caller vouches for the single thread. `child_tid` is
        // null or the word that the C library gave the kernel for this; `parent_tid` is an atomic
        // that the kernel may write at any time; `pidfd` is ours, and the structure is as large as
        // is said.
        result = crate::cvt_long(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) });
        match result.as_ref().map_err(io::Error::raw_os_error) {
            // A filter of seccomp(2) says EPERM in place of ENOSYS if its author has not thought of
            // this.
            Err(Some(libc::ENOSYS | libc::EPERM)) => {
                WITHOUT_CLONE3.store(true, Relaxed);
                is_open = false;
            }
            // There may be room in the copy.
            Err(Some(libc::EMFILE | libc::ENFILE)) => is_open = false,
            _ => {}
        }
    }
    if !is_open {
        let flags = libc::c_long::from(flags);
        let (parent_tid, child_tid, stack, tls) = (pid_slot.as_ptr(), thread.tid, 0_usize, 0_usize);
        // SAFETY: as above.
        result = crate::cvt_long(unsafe {
            // The last two have changed places on some architectures.
            #[cfg(target_arch = "x86_64")]
            let result = libc::syscall(libc::SYS_clone, flags, stack, parent_tid, child_tid, tls);
            #[cfg(not(target_arch = "x86_64"))]
            let result = libc::syscall(libc::SYS_clone, flags, stack, parent_tid, tls, child_tid);
            result
        });
    }
    let pid = result? as i32;
    if pid != 0 {
        // SAFETY: the kernel has opened it for this call.
        return Ok(Side::Original { pid, pidfd: is_open.then(|| unsafe { OwnedFd::from_raw_fd(pidfd) }) });
    }
    if !thread.robust_head.is_null() {
        // SAFETY: the list head is the one that the C library registered for this thread, at the same address in the copy.
        unsafe { libc::syscall(libc::SYS_set_robust_list, thread.robust_head, thread.robust_len) };
    }
    crate::close_on_fork::close_all();
    // SAFETY: as above, or null.
    unsafe { crate::robust::copy_was_made(thread.robust_head) };
    Ok(Side::Copy { is_open })
}
