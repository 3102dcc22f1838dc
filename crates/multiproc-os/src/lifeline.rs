//! The lifeline: the kernel kills this process when the other end of a socket is closed. `O_ASYNC`
//! with `F_SETSIG(SIGKILL)`, see fcntl(2).
//!
//! A process that must not outlive another holds one end of a socket pair, and the other process
//! holds the other end. When that process ends, for whatever reason, its end is closed, and the
//! kernel sends the signal. No thread has to watch, and the signal can't be blocked or ignored.
//!
//! Why not `PR_SET_PDEATHSIG`: it fires when the *thread* that made the child ends, though its
//! process may live on; it is lost if the parent dies before the call, and when the child changes
//! its user; and the parent needs permission to signal the child.
//!
//! The signal is sent whenever the socket becomes readable, so nothing may ever be sent to a socket
//! that will be armed, not even before it is armed: the kernel first wakes the receiver and then
//! checks whether the receiver wants a signal (`sock_def_readable`). A fast receiver has armed the
//! socket by then, and is killed by the message that it has just received. (This was observed,
//! about once in ten thousand times.) Messages in the other direction are safe.
//!
//! # Limitations
//!
//! The kernel compares the user that called `F_SETOWN` with the process's user at the time of the
//! signal (`sigio_perm` in the kernel's `fs/fcntl.c`): it sends the signal if the former was root
//! of the initial user namespace, or if one of its ids is one of the latter's. So a change of user
//! makes a process lose its lifeline only if it may change to any user, by `CAP_SETUID`, without
//! being that root: in a rootless container, for example. Such a process must call [`check`].
//!
//! The first process of a PID namespace is not killed by this signal, since it doesn't come from
//! another process. There, a signal with a handler is used instead, and in addition
//! `PR_SET_PDEATHSIG`, with a signal that comes from the parent, that is, from outside the
//! namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::poll::poll_raw;
use crate::{credentials, cvt, namespace, threads};

/// `F_SETSIG` of fcntl(2), the same on all architectures.
const F_SETSIG: libc::c_int = 10;

/// The armed socket and its inode: the program may close any descriptor, and then another file may
/// have the number.
static SOCKET: AtomicI32 = AtomicI32::new(-1);
static INODE: AtomicU64 = AtomicU64::new(0);

/// The pid of the process that armed the socket. A copy of it that other code makes with fork(2)
/// has no lifeline.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// Whether this process might lose its lifeline: one of the constants below.
static RISK: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NONE: u8 = 1;
const SOME: u8 = 2;

/// See [`set_made_by_main_thread`].
static MADE_BY_MAIN_THREAD: AtomicBool = AtomicBool::new(false);

/// Sets whether this process was made by its parent's main thread, which doesn't end before the
/// parent does. If so, the signal of `PR_SET_PDEATHSIG`, where it is used, can be SIGKILL.
pub fn set_made_by_main_thread(by_main_thread: bool) {
    MADE_BY_MAIN_THREAD.store(by_main_thread, Relaxed);
}

/// Arms `socket`: from now on this process is killed when the other end is closed, or [`cut`].
/// Returns false if that has already happened; the caller should then [kill itself](kill_self()) at
/// once.
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
        // SIGTERM by default has no effect on the first process of a PID namespace either.
        handle(libc::SIGTERM, on_terminate);
        let death = if MADE_BY_MAIN_THREAD.load(Relaxed) { libc::SIGKILL } else { signal };
        // SAFETY: this option takes a number.
        cvt(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, death as libc::c_ulong) })?;
    }
    // SAFETY: fcntl with these commands takes ints and touches no memory of this process.
    unsafe {
        cvt(libc::fcntl(raw, libc::F_SETOWN, pid))?;
        cvt(libc::fcntl(raw, F_SETSIG, signal))?;
        let flags = cvt(libc::fcntl(raw, libc::F_GETFL))?;
        cvt(libc::fcntl(raw, libc::F_SETFL, flags | libc::O_ASYNC))?;
    }
    // A close before O_ASYNC was set sent no signal.
    Ok(!is_cut(raw))
}

/// Ends the process that has armed the other end, as a close would. What that process has sent can
/// still be received. Needs no permission to signal that process.
///
/// # Errors
/// `ENOTCONN` when the other end is closed.
pub fn cut(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Write)?)
}

/// Returns whether a child of this process might lose its lifeline by a change of its user.
/// Determined once; copies made by fork(2) inherit the answer until they [forget](forget_risk) it.
pub fn might_be_lost() -> bool {
    if RISK.load(Relaxed) == UNKNOWN {
        RISK.store(if may_change_user_unseen() { SOME } else { NONE }, Relaxed);
    }
    RISK.load(Relaxed) == SOME
}

/// Returns whether this process may currently change to any user without being root of the initial
/// user namespace.
pub fn may_change_user_unseen() -> bool {
    credentials::may_set_user() && !(rustix::process::geteuid().is_root() && namespace::of_users_is_initial())
}

/// Resets this module in a copy made by fork(2): the answer of [`might_be_lost`] must be determined
/// again, and the original's lifeline doesn't belong to the copy.
pub fn forget_risk() {
    RISK.store(UNKNOWN, Relaxed);
    OWNER.store(0, Relaxed);
}

/// Ends this process if its lifeline was cut and the signal was not sent. Otherwise arms it again
/// with the process's current user. Costs almost nothing in a process that can't lose its lifeline.
/// Must be called before the process waits or creates another process.
#[inline]
pub fn check() {
    if RISK.load(Relaxed) == SOME {
        check_closely();
    }
}

/// The slow path of [`check`]. Async-signal-safe.
#[cold]
fn check_closely() {
    let (raw, pid) = (SOCKET.load(Relaxed), threads::getpid());
    if OWNER.load(Relaxed) != pid || !is_the_socket(raw) {
        return;
    }
    // SAFETY: it takes an int and touches no memory. `F_SETOWN` comes before the check: a close
    // after it sends the signal.
    unsafe { libc::fcntl(raw, libc::F_SETOWN, pid) };
    if is_cut(raw) {
        kill_self();
    }
}

/// Ends this process as the kernel does when its lifeline is cut. Async-signal-safe.
pub fn kill_self() -> ! {
    // SAFETY: neither call touches memory. The second one is for the first process of a PID
    // namespace, which can't kill itself.
    unsafe {
        libc::kill(threads::getpid(), libc::SIGKILL);
        libc::_exit(128 + libc::SIGKILL)
    }
}

fn is_the_socket(raw: RawFd) -> bool {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the structure is a local variable, and all-zero bytes are a valid value of it. The
    // kernel checks whether there is such a descriptor.
    unsafe { libc::fstat(raw, stat.as_mut_ptr()) == 0 && stat.assume_init().st_ino == INODE.load(Relaxed) }
}

/// Returns whether the other end is closed or cut.
fn is_cut(raw: RawFd) -> bool {
    let mut polled = [libc::pollfd { fd: raw, events: libc::POLLRDHUP, revents: 0 }];
    // A signal with a handler interrupts even a poll(2) that doesn't wait.
    while let Err(error) = poll_raw(&mut polled, 0) {
        if error.kind() != io::ErrorKind::Interrupted {
            return false;
        }
    }
    polled[0].revents & (libc::POLLHUP | libc::POLLRDHUP) != 0
}

/// Returns the second last real-time signal: programs and libraries that use some allocate them
/// from either end.
fn signal_of_first_process() -> i32 {
    libc::SIGRTMAX() - 1
}

/// Handler in the first process of a PID namespace, for the lifeline's signal and for the end of
/// the thread that made the process.
extern "C" fn on_signal(_: libc::c_int) {
    check_closely();
}

/// Handler in the first process of a PID namespace: ends it, as SIGTERM ends other processes.
extern "C" fn on_terminate(_: libc::c_int) {
    // SAFETY: it ends the process, and touches no memory.
    unsafe { libc::_exit(128 + libc::SIGTERM) }
}

/// Installs `handler`, which must be async-signal-safe, for `signal`, and unblocks the signal.
fn handle(signal: i32, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: all-zero bytes are a valid value of the structure; the sets are filled in before they
    // are read.
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
    fn closed_peer() {
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        drop(theirs);
        // A copy of the process that another test has made may still have it.
        assert!(crate::poll::wait_hung_up(&ours, None).unwrap());
        // Armed after the close, so no signal is sent; the test would not survive one.
        assert!(!arm(&ours).unwrap());
    }

    #[test]
    fn shutdown_peer_keeps_sent_data() {
        // In a copy, whose descriptors no copy that another test makes has: one would close the
        // other end first.
        let code = crate::copy::exit_code_of(|| {
            let (ours, theirs) = crate::fd_passing::pair().unwrap();
            crate::fd_passing::send(&ours, &[b"report"], &[]).unwrap();
            cut(&theirs).unwrap();
            assert!(!arm(&ours).unwrap());
            let mut start = [0; 6];
            assert_eq!(crate::fd_passing::peek(&theirs, &mut start, false).unwrap(), 6);
            assert_eq!(&start, b"report");
            // Closed first, while the other end is open: this end is armed.
            drop(ours);
            0
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn reused_fd_number() {
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        INODE.store(rustix::fs::fstat(&ours).unwrap().st_ino, Relaxed);
        assert!(is_the_socket(ours.as_raw_fd()) && !is_the_socket(theirs.as_raw_fd()) && !is_the_socket(-1));
    }
}
