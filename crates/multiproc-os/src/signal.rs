//! Signals: their names, their dispositions, and blocking them in a thread.

use std::io;

pub use libc::{SIGINT, SIGKILL, SIGTERM};

use crate::interrupt;

/// The names of the standard signals, by number.
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

/// The signal's name, `SIGTERM` for 15; None for real-time signals and numbers that aren't signals.
pub fn name(signal: i32) -> Option<&'static str> {
    NAMES.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name)
}

/// The number of a real-time signal, counted from `SIGRTMIN`; None for other signals. See
/// signal(7): the C library reserves the first few of the kernel's for itself.
pub fn real_time(signal: i32) -> Option<i32> {
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal).then(|| signal - libc::SIGRTMIN())
}

/// Makes this process ignore `SIGPIPE`, as the Rust runtime does at the start of `main`.
///
/// # Errors
/// None is expected.
pub fn ignore_sigpipe() -> io::Result<()> {
    // SAFETY: SIG_IGN is a valid disposition, and it replaces no handler of ours.
    match unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Blocks all signals in the calling thread, and in threads that it makes, until dropped.
#[derive(Debug)]
pub struct Blocked {
    before: libc::sigset_t,
    /// Not `Send`: the mask belongs to this thread.
    thread: std::marker::PhantomData<*const ()>,
}

impl Blocked {
    /// Blocks all signals.
    pub fn all() -> Blocked {
        Blocked::all_but(&[])
    }

    fn all_but(signals: &[libc::c_int]) -> Blocked {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the first set is filled in before it is read, the second by the call; all-zero
        // bytes are a value of the type.
        let before = unsafe {
            libc::sigfillset(set.as_mut_ptr());
            for signal in signals {
                libc::sigdelset(set.as_mut_ptr(), *signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
            before.assume_init()
        };
        Blocked { before, thread: std::marker::PhantomData }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set is one that the kernel returned.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

/// Resets every signal in this process to its disposition in a new process: the default, but
/// `SIGPIPE` ignored as the Rust runtime does. Unblocks all signals but those by which a terminal
/// ends its foreground group, which stay blocked until [`unblock`](crate::interrupt::unblock). The
/// handlers of `SIGSEGV` and `SIGBUS` stay: one of them is the runtime's, which reports stack
/// overflows.
///
/// # Errors
/// None is expected.
pub fn reset_to_defaults() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP | libc::SIGSEGV | libc::SIGBUS | libc::SIGPIPE) {
            continue;
        }
        // The C library reserves a few real-time signals for itself, and refuses them.
        // SAFETY: SIG_DFL is a valid disposition; a handler that it replaces is not called any
        // more.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    ignore_sigpipe()?;
    let blocked = interrupt::from_terminal();
    // SAFETY: the set is initialised.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, blocked.as_ptr(), std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Calls `function` with all signals blocked in this thread, except those that report an error of
/// the thread itself. A thread made inside inherits the mask from its first instruction on, so no
/// signal sent to the process is delivered to it. See pthread_sigmask(3).
pub fn with_signals_blocked<T>(function: impl FnOnce() -> T) -> T {
    use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    let _blocked = Blocked::all_but(&[SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS]);
    function()
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
        let real_time = [libc::SIGRTMIN() - 1, libc::SIGRTMIN(), libc::SIGRTMAX(), libc::SIGRTMAX() + 1].map(real_time);
        assert_eq!(real_time, [None, Some(0), Some(libc::SIGRTMAX() - libc::SIGRTMIN()), None]);
    }

    #[test]
    fn blocked_in_new_thread() {
        fn blocked() -> u64 {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap()
        }
        let has = |mask: u64, signal: i32| mask & 1 << (signal - 1) != 0;
        let before = blocked();
        let thread = with_signals_blocked(|| std::thread::spawn(blocked));
        assert_eq!(blocked(), before);
        let inside = thread.join().unwrap();
        assert!(has(inside, libc::SIGTERM) && has(inside, libc::SIGCHLD) && has(inside, libc::SIGUSR1));
        assert!(!has(inside, libc::SIGSEGV) && !has(inside, libc::SIGABRT));
    }
}
