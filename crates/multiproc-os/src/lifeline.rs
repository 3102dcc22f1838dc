//! The kernel kills this process when the other end of a socket is closed: `O_ASYNC` with `F_SETSIG(SIGKILL)`, see fcntl(2).
//!
//! A process that must not outlive another holds one end of a socket pair, and the other process the other end. When that
//! process is gone, however it went, its end is closed, and the kernel sends the signal: no thread watches, and nothing can be
//! blocked or ignored.
//!
//! Why not `PR_SET_PDEATHSIG`: it fires when the *thread* that made the child ends, though its
//! process lives on; it is lost if the parent dies before the call, and when the child changes its
//! user; and it needs the parent's right to signal the child.
//!
//! The signal comes with whatever makes the socket readable, so nothing may ever be sent to a socket that is to be armed. Not before it is armed
//! either: the kernel first wakes the receiver and then looks whether it wants a signal (`sock_def_readable`), and a receiver that is quick
//! has armed by then, and is killed by the message that it has just received. (Seen, once in some ten thousand times.) Messages in the other
//! direction are safe.
//!
//! # Where it does not hold
//!
//! The kernel compares the user that called `F_SETOWN` with the user that the process is when the
//! signal comes (`sigio_perm` of the kernel's `fs/fcntl.c`): the signal is sent if the former was
//! root of the initial user namespace, or one of its ids is one of the latter's. So a process loses
//! its lifeline by a change of its user only if it may take any user, by `CAP_SETUID`, without
//! being that root: in a rootless container, say. [`look`] sees to such a process.
//!
//! The first process of a PID namespace is not killed by this signal, as it does not come from
//! another process. There, a signal with a handler does the work, and `PR_SET_PDEATHSIG` besides,
//! whose signal comes from the parent, that is, from outside of the namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::{credentials, cvt, namespace, threads};

/// `F_SETSIG` of fcntl(2), the same on every architecture.
const F_SETSIG: libc::c_int = 10;

/// The socket that was armed, and its inode: the program may close any descriptor, and then another
/// file has the number.
static SOCKET: AtomicI32 = AtomicI32::new(-1);
static INODE: AtomicU64 = AtomicU64::new(0);

/// The process that has armed it. A copy of it, made by fork(2) elsewhere, has no lifeline.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// Whether this process might lose its lifeline: one of the constants below.
static RISK: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NONE: u8 = 1;
const SOME: u8 = 2;

/// See [`set_made_by_main_thread`].
static MADE_BY_MAIN_THREAD: AtomicBool = AtomicBool::new(false);

/// Whether this process was made by its parent's main thread, which ends no sooner than the parent:
/// then the signal of `PR_SET_PDEATHSIG`, where one is needed, can be SIGKILL.
pub fn set_made_by_main_thread(by_main_thread: bool) {
    MADE_BY_MAIN_THREAD.store(by_main_thread, Relaxed);
}

/// Arms `socket`: from now on this process is killed when the other end is closed, or [`cut`].
/// Returns false if it was already, in which case the caller should [end](end()) at once.
///
/// # Errors
/// As fcntl(2); none is expected on a socket.
pub fn arm(socket: impl AsFd) -> io::Result<bool> {
    let raw = socket.as_fd().as_raw_fd();
    let pid = threads::getpid();
    let mut signal = libc::SIGKILL;
    if might_be_lost() || pid == 1 {
        INODE.store(rustix::fs::fstat(&socket)?.st_ino, Relaxed);
        SOCKET.store(raw, Relaxed);
        OWNER.store(pid, Relaxed);
        RISK.store(SOME, Relaxed);
    }
    if pid == 1 {
        signal = signal_of_first_process();
        handle(signal, on_signal);
        // Its default does nothing there either.
        handle(libc::SIGTERM, on_terminate);
        let death = if MADE_BY_MAIN_THREAD.load(Relaxed) { libc::SIGKILL } else { signal };
        // SAFETY: this option takes a number.
        cvt(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, death as libc::c_ulong) })?;
    }
    // SAFETY: fcntl with these commands takes ints and touches no memory of ours.
    unsafe {
        cvt(libc::fcntl(raw, libc::F_SETOWN, pid))?;
        cvt(libc::fcntl(raw, F_SETSIG, signal))?;
        let flags = cvt(libc::fcntl(raw, libc::F_GETFL))?;
        cvt(libc::fcntl(raw, libc::F_SETFL, flags | libc::O_ASYNC))?;
    }
    // A close that came before O_ASYNC was set sent no signal.
    Ok(!is_cut(raw))
}

/// Ends the process that has armed the other end, as a close would. What it has sent can still be
/// received. Needs no right to signal that process.
///
/// # Errors
/// `ENOTCONN` when the other end is closed.
pub fn cut(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Write)?)
}

/// Whether a child of this process might lose its lifeline by a change of its user. Asked once;
/// copies inherit the answer until they
/// [forget](forget_risk) it.
pub fn might_be_lost() -> bool {
    if RISK.load(Relaxed) == UNKNOWN {
        RISK.store(if may_change_user_unseen() { SOME } else { NONE }, Relaxed);
    }
    RISK.load(Relaxed) == SOME
}

/// Whether this process, now, may take any user without being root of the initial user namespace.
pub fn may_change_user_unseen() -> bool {
    credentials::may_set_user() && !(rustix::process::geteuid().is_root() && namespace::of_users_is_initial())
}

/// In a copy of a process: what [`might_be_lost`] says is to be found out anew, and the original's
/// lifeline is not its own.
pub fn forget_risk() {
    RISK.store(UNKNOWN, Relaxed);
    OWNER.store(0, Relaxed);
}

/// Ends this process if its lifeline has been cut and it was not told, and otherwise arms it anew
/// with the user that it is now. Costs nothing in a process whose lifeline can't be lost. To be
/// called where the process is about to wait, or to make another one.
#[inline]
pub fn look() {
    if RISK.load(Relaxed) == SOME {
        look_closely();
    }
}

/// Async-signal-safe.
#[cold]
fn look_closely() {
    let (raw, pid) = (SOCKET.load(Relaxed), threads::getpid());
    if OWNER.load(Relaxed) != pid || !is_the_socket(raw) {
        return;
    }
    // SAFETY: it takes an int and touches no memory. In this order: a close that comes after the
    // call sends the signal.
    unsafe { libc::fcntl(raw, libc::F_SETOWN, pid) };
    if is_cut(raw) {
        end();
    }
}

/// Ends this process as the kernel does when its lifeline is cut. Async-signal-safe.
pub fn end() -> ! {
    // SAFETY: neither touches memory. The first process of a PID namespace can't kill itself.
    unsafe {
        libc::kill(threads::getpid(), libc::SIGKILL);
        libc::_exit(128 + libc::SIGKILL)
    }
}

fn is_the_socket(raw: RawFd) -> bool {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the structure is ours, and all-zero bytes are a value of it. The kernel looks whether
    // there is such a descriptor.
    unsafe { libc::fstat(raw, stat.as_mut_ptr()) == 0 && stat.assume_init().st_ino == INODE.load(Relaxed) }
}

/// Whether the other end is closed or cut.
fn is_cut(raw: RawFd) -> bool {
    let mut polled = libc::pollfd { fd: raw, events: libc::POLLRDHUP, revents: 0 };
    // Even a poll that doesn't wait is interrupted by a signal that has a handler.
    // SAFETY: the structure is ours, and one.
    while unsafe { libc::poll(&raw mut polled, 1, 0) } < 0 {
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return false;
        }
    }
    polled.revents & (libc::POLLHUP | libc::POLLRDHUP) != 0
}

/// The last real-time signal but one: programs and libraries that use some count from either end.
fn signal_of_first_process() -> i32 {
    libc::SIGRTMAX() - 1
}

/// In the first process of a PID namespace: its lifeline may have been cut, or the thread that made
/// it has ended.
extern "C" fn on_signal(_: libc::c_int) {
    look_closely();
}

/// In the first process of a PID namespace: ends it, as SIGTERM ends others.
extern "C" fn on_terminate(_: libc::c_int) {
    // SAFETY: it ends the process, and touches no memory.
    unsafe { libc::_exit(128 + libc::SIGTERM) }
}

/// Has `handler`, which is async-signal-safe, called at `signal`, and lets it in.
fn handle(signal: i32, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: all-zero bytes are a value of the structure; the sets are filled in before they are
    // read.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_other_end_is_reported() {
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        drop(theirs);
        // Armed after the close, so no signal comes; this test would not survive one.
        assert!(!arm(&ours).unwrap());
    }

    #[test]
    fn a_cut_other_end_is_reported_and_what_was_sent_is_still_there() {
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        crate::fd_passing::send(&ours, &[b"report"], &[]).unwrap();
        cut(&theirs).unwrap();
        assert!(!arm(&ours).unwrap());
        let mut start = [0; 6];
        assert_eq!(crate::fd_passing::peek(&theirs, &mut start, false).unwrap(), 6);
        assert_eq!(&start, b"report");
        // First: it is armed.
        drop(ours);
    }

    #[test]
    fn another_file_under_the_number_is_not_taken_for_the_socket() {
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        INODE.store(rustix::fs::fstat(&ours).unwrap().st_ino, Relaxed);
        assert!(is_the_socket(ours.as_raw_fd()) && !is_the_socket(theirs.as_raw_fd()) && !is_the_socket(-1));
    }
}
