//! Signals: their names, and what a process would do with one.

use std::io;

/// The names of the signals that have one, by number.
const NAMES: &[(i32, &str)] = &[
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGSTKFLT, "SIGSTKFLT"),
    (libc::SIGCHLD, "SIGCHLD"),
    (libc::SIGCONT, "SIGCONT"),
    (libc::SIGSTOP, "SIGSTOP"),
    (libc::SIGTSTP, "SIGTSTP"),
    (libc::SIGTTIN, "SIGTTIN"),
    (libc::SIGTTOU, "SIGTTOU"),
    (libc::SIGURG, "SIGURG"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGWINCH, "SIGWINCH"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSYS, "SIGSYS"),
];

/// The signal's name, `SIGTERM` for 15; none for real-time signals and numbers that are no signal.
pub fn name(signal: i32) -> Option<&'static str> {
    NAMES.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name)
}

/// Has this process ignore `SIGPIPE`, as the Rust runtime does at the start of `main`.
///
/// # Errors
/// None is expected.
pub fn ignore_sigpipe() -> io::Result<()> {
    // SAFETY: SIG_IGN is a valid disposition, and no handler of ours is replaced by it.
    match unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// All signals are blocked for the calling thread, and for threads that it makes, until this is dropped.
#[derive(Debug)]
pub struct Blocked {
    before: libc::sigset_t,
    /// It belongs to this thread.
    thread: std::marker::PhantomData<*const ()>,
}

impl Blocked {
    /// Blocks them.
    pub fn all() -> Blocked {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the first set is filled in before it is read, the second by the call; all-zero bytes are a value of it.
        let before = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            before.assume_init()
        };
        Blocked { before, thread: std::marker::PhantomData }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set is one that the kernel gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

/// Has every signal do in this process what it does in a fresh one, and be blocked no more: the default, `SIGPIPE` ignored as the Rust runtime
/// does. The handlers of `SIGSEGV` and `SIGBUS` stay: one of them is the runtime's, which tells of stack overflows.
///
/// # Errors
/// None is expected.
pub fn reset_to_defaults() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP | libc::SIGSEGV | libc::SIGBUS | libc::SIGPIPE) {
            continue;
        }
        // The C library keeps a few real-time signals for itself, and refuses.
        // SAFETY: SIG_DFL is a valid disposition; handlers that it replaces are not called any more.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    ignore_sigpipe()?;
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is filled in before it is read.
    let result = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Whether a status that a child leaves behind is lost at once: `SIGCHLD` ignored, or `SA_NOCLDWAIT`.
pub fn children_are_reaped_by_the_kernel() -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only the current disposition is asked for; all-zero bytes are a value of the structure.
    let action = unsafe {
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0
}

/// Whether `signal`, just sent to the process `pid`, will end it for certain: it neither handles, ignores nor blocks it, and it is
/// not stopped. False also when the process can't be looked at any more. See `/proc/pid/status` in proc(5).
pub fn is_fatal_for(pid: i32, signal: i32) -> bool {
    if signal == libc::SIGKILL {
        return true;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let survives = |name| {
        let mask = field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(u64::MAX);
        mask & 1 << (signal - 1) != 0
    };
    let stopped = field("State:").is_none_or(|state| state.starts_with(['T', 't']));
    let fatal_by_default =
        matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT | libc::SIGABRT);
    fatal_by_default && !stopped && !survives("SigBlk:") && !survives("SigIgn:") && !survives("SigCgt:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(name(15), Some("SIGTERM"));
        assert_eq!(name(9), Some("SIGKILL"));
        assert_eq!(name(0), None);
        assert_eq!(name(40), None);
    }

    #[test]
    fn what_a_process_would_do_with_a_signal() {
        let mut plain = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(is_fatal_for(plain.id() as i32, libc::SIGTERM));
        assert!(!is_fatal_for(plain.id() as i32, libc::SIGUSR1), "only the usual ways to end a process are looked at");
        plain.kill().unwrap();
        plain.wait().unwrap();
        // Rust's runtime ignores SIGPIPE, and the harness does nothing about SIGTERM.
        assert!(!is_fatal_for(i32::MAX, libc::SIGTERM), "no such process");
    }
}
