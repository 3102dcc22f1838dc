//! Copies of this process that tests make by fork(2).

/// Calls `run` in a copy of this process, and returns the exit code that it gives. The copy must
/// not wait for what another thread of the test harness may hold.
pub(crate) fn exit_code_of(run: impl FnOnce() -> i32) -> i32 {
    // SAFETY: by the caller's word, the copy needs no lock of another thread; the C library makes
    // the allocator safe.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(101);
        // SAFETY: it ends the process.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: the status is a local variable.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "the copy ended with status {status:#x}");
    libc::WEXITSTATUS(status)
}
