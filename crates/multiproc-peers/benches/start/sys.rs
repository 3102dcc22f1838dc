//! The system calls that the standard library doesn't wrap.

use std::ffi::{CStr, c_char};
use std::io;
use std::sync::atomic::AtomicU64;

use multiproc_benches::sys::{cvt, map_shared};

/// A word that this process shares with all copies that are made of it from now on. It is never
/// freed.
pub(crate) fn shared_word() -> io::Result<&'static AtomicU64> {
    let start = map_shared(None, size_of::<AtomicU64>())?;
    // SAFETY: the page is zeroed, aligned and never unmapped, and it is accessed only through
    // atomics.
    Ok(unsafe { start.cast::<AtomicU64>().as_ref() })
}

/// fork(2): returns the child's pid in the parent, 0 in the child.
///
/// # Safety
/// The child must do nothing that needs a lock which another thread of this process may hold.
pub(crate) unsafe fn fork() -> io::Result<i32> {
    // SAFETY: the caller vouches for what the child does.
    cvt(unsafe { libc::fork() })
}

/// clone3(2) with CLONE_PARENT: the copy is a child of this process's parent. Returns its pid in
/// the caller, 0 in the copy.
///
/// # Safety
/// As for [`fork`]; and the copy, of which the C library knows nothing, must do little but exit.
pub(crate) unsafe fn clone_sibling() -> io::Result<i32> {
    /// `struct clone_args`, version 0 (Linux 5.3): the flags, and seven words that stay 0. One of
    /// them is the exit signal, which CLONE_PARENT takes from the caller.
    #[repr(C)]
    struct CloneArgs {
        flags: u64,
        rest: [u64; 7],
    }
    let arguments = CloneArgs { flags: libc::CLONE_PARENT as u64, rest: [0; 7] };
    // SAFETY: without CLONE_VM the copy has memory of its own and continues on its own copy of this
    // stack. The caller vouches for what it does.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) };
    cvt(pid as i32)
}

/// posix_spawn(3) of this program with one argument.
pub(crate) fn spawn_self(argument: &CStr) -> io::Result<i32> {
    unsafe extern "C" {
        static environ: *const *mut c_char;
    }
    let argv = [c"start".as_ptr().cast_mut(), argument.as_ptr().cast_mut(), std::ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: path and arguments outlive the call, and the arguments end with a null pointer.
    // Nothing in this program changes the environment.
    let error = unsafe {
        let (path, actions, attributes) = (c"/proc/self/exe".as_ptr(), std::ptr::null(), std::ptr::null());
        libc::posix_spawn(&raw mut pid, path, actions, attributes, argv.as_ptr(), environ)
    };
    if error == 0 { Ok(pid) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Waits for a child, regardless of its exit signal, and returns the status word of waitpid(2).
pub(crate) fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: the kernel writes one int to the given address.
    cvt(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) })?;
    Ok(status)
}

/// Waits for a child that should exit with 0.
pub(crate) fn wait_success(pid: i32) -> io::Result<()> {
    match wait(pid)? {
        0 => Ok(()),
        status => Err(io::Error::other(format!("process {pid} ended with the status {status:#x}"))),
    }
}

/// Kills a child, and waits for it.
pub(crate) fn end(pid: i32) -> io::Result<()> {
    // SAFETY: no memory is touched, and a child that has not been waited for keeps its pid.
    cvt(unsafe { libc::kill(pid, libc::SIGKILL) })?;
    wait(pid).map(drop)
}

/// Ends this process immediately: no destructors, no exit handlers.
pub(crate) fn exit_now() -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(0) }
}

/// Sleeps forever.
pub(crate) fn sleep() -> ! {
    loop {
        // SAFETY: pause(2) has no preconditions.
        unsafe { libc::pause() };
    }
}
