//! The kernel kills this process when the other end of a socket is closed: `O_ASYNC` with `F_SETSIG(SIGKILL)`, see fcntl(2).
//!
//! A process that must not outlive another holds one end of a socket pair, and the other process the other end. When that
//! process is gone, however it went, its end is closed, and the kernel sends the signal: no thread watches, and nothing can be
//! blocked or ignored.
//!
//! Why not `PR_SET_PDEATHSIG`: it fires when the *thread* that made the child ends, though its process lives on, and it is lost
//! if the parent dies before the call.
//!
//! The signal comes with whatever makes the socket readable, so nothing may ever be sent to a socket that is to be armed. Not before it is armed
//! either: the kernel first wakes the receiver and then looks whether it wants a signal (`sock_def_readable`), and a receiver that is quick
//! has armed by then, and is killed by the message that it has just received. (Seen, once in some ten thousand times.) Messages in the other
//! direction are safe.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cvt;

/// `F_SETSIG` of fcntl(2), the same on every architecture.
const F_SETSIG: libc::c_int = 10;

/// Arms `socket`: from now on this process is killed when the other end is closed. Returns false if it was closed already,
/// in which case the caller should leave at once.
///
/// # Errors
/// As fcntl(2); none is expected on a socket.
pub fn arm(socket: impl AsFd) -> io::Result<bool> {
    let fd = socket.as_fd();
    let raw = fd.as_raw_fd();
    // SAFETY: fcntl with these commands takes ints and touches no memory of ours.
    unsafe {
        cvt(libc::fcntl(raw, libc::F_SETOWN, crate::threads::getpid()))?;
        cvt(libc::fcntl(raw, F_SETSIG, libc::SIGKILL))?;
        let flags = cvt(libc::fcntl(raw, libc::F_GETFL))?;
        cvt(libc::fcntl(raw, libc::F_SETFL, flags | libc::O_ASYNC))?;
    }
    // A close that came before O_ASYNC was set sent no signal.
    let mut fds = [PollFd::new(&fd, PollFlags::empty())];
    // Even a poll that doesn't wait is interrupted by a signal that has a handler.
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })))?;
    Ok(!fds[0].revents().contains(PollFlags::HUP))
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
}
