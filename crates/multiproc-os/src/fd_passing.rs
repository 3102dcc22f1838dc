//! Messages that carry file descriptors: a `SOCK_SEQPACKET` socket pair and `SCM_RIGHTS`, see
//! unix(7).
//!
//! A sequenced-packet socket keeps message boundaries, so a reader never sees half a message, and
//! it reports that the other end is closed. This module avoids three pitfalls. Descriptors that
//! don't fit (`MSG_CTRUNC`): at the limit of open files the kernel silently drops them, so a
//! message is peeked at, descriptors included, before it is taken. Bytes that don't fit
//! (`MSG_TRUNC`). And `SIGPIPE` when the other end is closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};

/// Maximum number of descriptors in one message: the kernel's `SCM_MAX_FD`.
pub const MAX_FDS: usize = 253;

/// A received message.
#[derive(Debug)]
pub struct Received {
    /// The bytes of the message. If they and the descriptors are empty, the other end is closed.
    pub bytes: Vec<u8>,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Creates two connected sockets, close-on-exec. Neither has a number from 0 to 2, even if those
/// descriptors are closed in this process.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOBUFS`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((above_stdio(a)?, above_stdio(b)?))
}

/// Moves a descriptor away from the numbers 0 to 2, which other code is likely to write to or
/// close.
///
/// # Errors
/// `EMFILE`.
pub fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    if fd.as_raw_fd() > 2 { Ok(fd) } else { Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 3)?) }
}

/// Sends the concatenation of `parts` as one message, together with `fds`. Blocks while the
/// socket's buffer is full.
///
/// # Errors
/// `EPIPE` when the other end is closed; `EMSGSIZE` when the message is larger than the socket's
/// buffer; `InvalidInput` for more than [`MAX_FDS`] descriptors; `QuotaExceeded` (the kernel's
/// `ETOOMANYREFS`) when the user has too many descriptors in flight.
pub fn send(socket: impl AsFd, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, parts, fds, SendFlags::empty())
}

/// Does what [`send`] does, but doesn't block.
///
/// # Errors
/// `WouldBlock` when the socket's buffer has no room for the message; otherwise as [`send`].
pub fn try_send_with_fds(socket: impl AsFd, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, parts, fds, SendFlags::DONTWAIT)
}

fn send_with(socket: impl AsFd, parts: &[&[u8]], fds: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(fds));
        debug_assert!(fits, "the buffer is sized for MAX_FDS");
    }
    match rustix::io::retry_on_intr(|| sendmsg(&socket, &slices, &mut control, flags | SendFlags::NOSIGNAL)) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::TOOMANYREFS) => Err(io::Error::new(io::ErrorKind::QuotaExceeded, TOO_MANY_IN_FLIGHT)),
        Err(error) => Err(error.into()),
    }
}

/// Replaces the kernel's text for `ETOOMANYREFS` ("Too many references: cannot splice"), which
/// doesn't tell the cause; see unix(7).
pub const TOO_MANY_IN_FLIGHT: &str = "too many descriptors are in flight between processes: a user may have at \
                                     most as many sent and not yet received as one process may have open \
                                     (RLIMIT_NOFILE)";

/// Sends `bytes` as one message, without blocking.
///
/// # Errors
/// `WouldBlock` when the socket's buffer has no room for the message; otherwise as [`send`].
pub fn try_send(socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| rustix::net::send(&socket, bytes, flags))?;
    Ok(())
}

/// Does what [`try_send`] does, for a message in several parts.
///
/// # Errors
/// As [`try_send`].
pub fn try_send_parts<const N: usize>(socket: impl AsFd, parts: [&[u8]; N]) -> io::Result<()> {
    let slices = parts.map(IoSlice::new);
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| sendmsg(&socket, &slices, &mut SendAncillaryBuffer::default(), flags))?;
    Ok(())
}

/// Discards the next message and its descriptors. Does nothing if there is no message.
pub fn discard(socket: impl AsFd) {
    let _ = rustix::io::retry_on_intr(|| recv(&socket, &mut [0_u8; 1][..], RecvFlags::DONTWAIT | RecvFlags::TRUNC));
}

/// Peeks at the next message: copies its first bytes to `start`, and returns its total length. A
/// length of 0 means that the other end is closed. Blocks until there is a message only if `wait`
/// is set.
///
/// When the other end was closed before it had read all messages sent to it, the kernel reports
/// this once (`ECONNRESET`), before the messages that the other end had sent. Those are still
/// there: this function returns them first, and then the end.
///
/// # Errors
/// `WouldBlock` when there is no message and `wait` is not set. `EBADF`, `ENOTSOCK` and the like;
/// none is expected on a socket of [`pair`].
pub fn peek(socket: impl AsFd, start: &mut [u8], wait: bool) -> io::Result<usize> {
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC | if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    let mut look = || rustix::io::retry_on_intr(|| recv(&socket, &mut *start, flags));
    let (_, len) = match look() {
        Err(rustix::io::Errno::CONNRESET) => look()?,
        looked => looked?,
    };
    Ok(len)
}

/// Receives the next message, which must have `len` bytes, as [`peek`] returned, and which may have
/// descriptors if `with_fds` is set. (The length is needed because a buffer for the longest
/// possible message would touch all of its pages, and a process that forks pays for each of them.)
///
/// No received descriptor has a number from 0 to 2, even if those are closed in this process.
///
/// # Errors
/// `EMFILE` when this process has no room for all descriptors of the message, which then stays in
/// the socket; `InvalidData` when the message has descriptors and `with_fds` is not set, or when
/// another thread or process reads from this socket too; otherwise as [`peek`].
pub fn receive(socket: impl AsFd, len: usize, with_fds: bool) -> io::Result<Received> {
    let mut bytes = vec![0; len];
    let take = |bytes: &mut [u8], flags: RecvFlags| {
        // The message has been peeked at, so there is nothing to wait for.
        let flags = flags | RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control =
            if with_fds { RecvAncillaryBuffer::new(&mut space) } else { RecvAncillaryBuffer::new(&mut []) };
        let mut take =
            || rustix::io::retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(bytes)], &mut control, flags));
        let message = match take() {
            // `ECONNRESET` is reported once, as in `peek`: the other end may have been closed since
            // the message was peeked at.
            Err(rustix::io::Errno::CONNRESET) => take(),
            taken => taken,
        };
        let message = message.map_err(not_there_any_more)?;
        let mut fds = Vec::new();
        for received in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = received {
                fds.extend(rights);
            }
        }
        Ok::<_, io::Error>((message.bytes, message.flags, fds))
    };
    let (len, flags, fds) = if with_fds {
        // Peeking duplicates the descriptors. The originals stay with the message, which is taken
        // only once all duplicates have arrived.
        let (len, flags, fds) = take(&mut bytes, RecvFlags::PEEK)?;
        if flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let fds = fds.into_iter().map(above_stdio).collect::<io::Result<Vec<OwnedFd>>>()?;
        let take = || rustix::io::retry_on_intr(|| recv(&socket, &mut [0; 0][..], RecvFlags::DONTWAIT));
        let taken = match take() {
            Err(rustix::io::Errno::CONNRESET) => take(),
            taken => taken,
        };
        taken.map_err(not_there_any_more)?;
        (len, flags, fds)
    } else {
        take(&mut bytes, RecvFlags::empty())?
    };
    if !with_fds && flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the message has descriptors that it does not announce",
        ));
    }
    if flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, SOMEBODY_ELSE));
    }
    bytes.truncate(len);
    Ok(Received { bytes, fds })
}

const SOMEBODY_ELSE: &str = "another thread or process reads from this socket too";

/// The error for a message that was peeked at and then can't be taken.
fn not_there_any_more(error: rustix::io::Errno) -> io::Error {
    match error {
        rustix::io::Errno::AGAIN => io::Error::new(io::ErrorKind::InvalidData, SOMEBODY_ELSE),
        error => error.into(),
    }
}

/// The result of [`try_take`].
#[derive(Debug)]
pub struct Taken {
    /// The number of bytes written to the buffers. 0 means that the other end is closed.
    pub len: usize,
    /// Whether the message is longer than the buffers.
    pub cut: bool,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// Whether some of the descriptors didn't fit into this process.
    pub fds_cut: bool,
}

/// Whether [`try_take`] removes the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// The message is removed; the next call finds the one behind it.
    Away,
    /// The message stays in the socket. Its descriptors are duplicated.
    Look,
}

/// Receives the next message into `head` and then `body`, with one system call: of several callers
/// that do this at the same time, each gets a different message. No received descriptor has a
/// number from 0 to 2.
///
/// # Errors
/// `WouldBlock` when there is no message; otherwise as [`peek`].
pub fn try_take(socket: impl AsFd, head: &mut [u8], body: &mut [u8], take: Take) -> io::Result<Taken> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    if take == Take::Look {
        flags |= RecvFlags::PEEK;
    }
    let mut buffers = [IoSliceMut::new(head), IoSliceMut::new(body)];
    let message = rustix::io::retry_on_intr(|| recvmsg(&socket, &mut buffers, &mut control, flags))?;
    let mut fds = Vec::new();
    let mut fds_cut = message.flags.contains(ReturnFlags::CTRUNC);
    for received in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = received {
            for fd in rights {
                match above_stdio(fd) {
                    Ok(fd) => fds.push(fd),
                    Err(_) => fds_cut = true,
                }
            }
        }
    }
    Ok(Taken { len: message.bytes, cut: message.flags.contains(ReturnFlags::TRUNC), fds, fds_cut })
}

/// Marks `fd` to be closed when this process executes another program.
///
/// # Errors
/// None is expected on an open descriptor.
pub fn close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?)
}

/// Shuts the connection down in both directions: the peer reads the end, as if this end were
/// closed.
///
/// # Errors
/// `ENOTCONN`.
pub fn hang_up(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Both)?)
}

/// Returns whether `fd` is a sequenced-packet socket of the Unix domain, as the sockets of [`pair`]
/// are.
pub fn is_packet_socket(fd: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::SEQPACKET)
        && rustix::net::sockopt::socket_domain(fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recv_after_reset() {
        for wait in [false, true] {
            let (ours, theirs) = pair().unwrap();
            send(&ours, &[b"unread"], &[]).unwrap();
            send(&theirs, &[b"last words"], &[theirs.as_fd()]).unwrap();
            drop(theirs);
            let mut start = [0; 4];
            assert_eq!(peek(&ours, &mut start, wait).unwrap(), 10);
            let received = receive(&ours, 10, true).unwrap();
            assert_eq!((received.bytes.as_slice(), received.fds.len()), (&b"last words"[..], 1));
        }
        // The other end is closed after the peek and before the receipt.
        let (ours, theirs) = pair().unwrap();
        send(&theirs, &[b"last words"], &[]).unwrap();
        assert_eq!(peek(&ours, &mut [0; 4], false).unwrap(), 10);
        send(&ours, &[b"unread"], &[]).unwrap();
        drop(theirs);
        // A copy of the process that another test has made may still have it.
        assert!(crate::poll::wait_hung_up(&ours, None).unwrap());
        assert_eq!(receive(&ours, 10, false).unwrap().bytes, b"last words");
        assert_eq!(peek(&ours, &mut [0; 4], false).unwrap(), 0);
    }
    use crate::poll::wait_writable;
    use std::time::Instant;

    #[test]
    fn message_boundaries_and_fds() {
        let (a, b) = pair().unwrap();
        send(&a, &[b"one", b"-", b"two"], &[a.as_fd(), b.as_fd()]).unwrap();
        send(&a, &[b"next"], &[]).unwrap();
        let mut start = [0; 3];
        assert_eq!((peek(&b, &mut start, true).unwrap(), &start), (7, b"one"));
        let first = receive(&b, 7, true).unwrap();
        assert_eq!((&first.bytes[..], first.fds.len()), (&b"one-two"[..], 2));
        assert_eq!(peek(&b, &mut [], false).unwrap(), 4);
        assert_eq!(receive(&b, 4, false).unwrap().bytes, b"next");
        assert_eq!(peek(&b, &mut [], false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn closed_peer() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert_eq!(peek(&b, &mut [0; 8], true).unwrap(), 0);
        assert_eq!(send(&b, &[b"x"], &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn send_timeout() {
        let (a, b) = pair().unwrap();
        assert!(wait_writable(&a, Some(Instant::now())).unwrap());
        while let Ok(()) = try_send(&a, &[7; 1000]) {}
        assert_eq!(try_send(&a, &[7; 1000]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!wait_writable(&a, Some(Instant::now())).unwrap());
        while peek(&b, &mut [], false).is_ok() {
            discard(&b);
        }
        assert!(wait_writable(&a, None).unwrap());
        discard(&b);
        // `hang_up` and not a close: another test may fork this process at this moment, and its
        // copy would keep the socket open.
        hang_up(&b).unwrap();
        assert!(wait_writable(&a, None).unwrap(), "a hang-up ends the wait");
        assert_eq!(try_send(&a, b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn message_longer_than_peeked() {
        let (a, b) = pair().unwrap();
        send(&a, &[b"123456789"], &[]).unwrap();
        assert_eq!(receive(&b, 8, false).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    /// Regression: this call waited for another message.
    #[test]
    fn message_taken_by_another() {
        let (_a, b) = pair().unwrap();
        for with_fds in [false, true] {
            assert_eq!(receive(&b, 1, with_fds).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn peek_and_take() {
        let (a, b) = pair().unwrap();
        try_send_parts(&a, [b"head", b"and body"]).unwrap();
        send(&a, &[b"fds"], &[a.as_fd(), b.as_fd()]).unwrap();
        let (mut head, mut body) = ([0; 4], [0; 8]);
        for take in [Take::Look, Take::Away] {
            let taken = try_take(&b, &mut head, &mut body, take).unwrap();
            assert_eq!((taken.len, taken.cut, taken.fds.len()), (12, false, 0));
            assert_eq!((&head, &body), (b"head", b"and body"));
        }
        for take in [Take::Look, Take::Away] {
            let taken = try_take(&b, &mut head[..1], &mut [], take).unwrap();
            assert_eq!((taken.len, taken.cut, taken.fds.len(), taken.fds_cut), (1, true, 2, false));
        }
        assert_eq!(try_take(&b, &mut head, &mut body, Take::Away).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
