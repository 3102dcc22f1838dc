//! Messages with file descriptors in them: a `SOCK_SEQPACKET` pair and `SCM_RIGHTS`, see unix(7).
//!
//! A sequenced-packet socket keeps the borders of messages, so a reader never sees half of one, and says when the other end is
//! gone. Three traps are closed here: descriptors that didn't fit (`MSG_CTRUNC`: at the limit of open files they are dropped
//! without a word, so a message is looked at, descriptors and all, before it is taken), bytes that didn't fit (`MSG_TRUNC`), and a
//! `SIGPIPE` when the other end is gone.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};

/// How many descriptors one message may hold: `SCM_MAX_FD` of the kernel.
pub const MAX_FDS: usize = 253;

/// What came with one message.
#[derive(Debug)]
pub struct Received {
    /// Its bytes; none, and no descriptors, is the end: the other side is closed.
    pub bytes: Vec<u8>,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Two connected sockets, close-on-exec, neither of them numbered 0 to 2 even if those are closed in this process.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOBUFS`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((above_stdio(a)?, above_stdio(b)?))
}

/// Moves a descriptor away from the numbers 0 to 2, which somebody will sooner or later write to or close.
///
/// # Errors
/// `EMFILE`.
pub fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    if fd.as_raw_fd() > 2 { Ok(fd) } else { Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 3)?) }
}

/// Sends `parts`, one after the other, as one message together with `fds`. Blocks while the socket's buffer is full.
///
/// # Errors
/// `EPIPE` when the other end is closed; `EMSGSIZE` when the message is larger than the socket's buffer; `InvalidInput` for
/// more than [`MAX_FDS`] descriptors; `QuotaExceeded` (the kernel's `ETOOMANYREFS`) when more descriptors are on their way than may be.
pub fn send(socket: impl AsFd, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, parts, fds, SendFlags::empty())
}

/// As [`send`], if the socket's buffer has room for it now.
///
/// # Errors
/// `WouldBlock` when it has not; otherwise as [`send`].
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
        Err(rustix::io::Errno::TOOMANYREFS) => Err(io::Error::new(io::ErrorKind::QuotaExceeded, TOO_MANY_ON_THEIR_WAY)),
        Err(error) => Err(error.into()),
    }
}

/// See `ETOOMANYREFS` in unix(7). What the kernel's own word for it says ("cannot splice") helps nobody.
pub const TOO_MANY_ON_THEIR_WAY: &str = "too many descriptors are on their way between processes: all those of a user that were sent and not yet \
                                     received may be as many as one process may have open (RLIMIT_NOFILE)";

/// Sends `bytes` as one message if the socket's buffer has room for it now.
///
/// # Errors
/// `WouldBlock` when it has not; otherwise as [`send`].
pub fn try_send(socket: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| rustix::net::send(&socket, bytes, flags))?;
    Ok(())
}

/// As [`try_send`], of several parts that lie in different places.
///
/// # Errors
/// As [`try_send`].
pub fn try_send_parts<const N: usize>(socket: impl AsFd, parts: [&[u8]; N]) -> io::Result<()> {
    let slices = parts.map(IoSlice::new);
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| sendmsg(&socket, &slices, &mut SendAncillaryBuffer::default(), flags))?;
    Ok(())
}

/// Throws the next message away, with what came beside it. Without one, nothing happens.
pub fn discard(socket: impl AsFd) {
    let _ = rustix::io::retry_on_intr(|| recv(&socket, &mut [0_u8; 1][..], RecvFlags::DONTWAIT | RecvFlags::TRUNC));
}

/// Looks at the next message: its first bytes, and how long it is in all. Without `wait`, `WouldBlock` when there is none. A length of 0 is
/// the end: the other side is closed.
///
/// When the other end was closed with messages of ours unread, the kernel says so once
/// (`ECONNRESET`), before the messages that it has sent. Those are there all the same, and come
/// first here; then the end.
///
/// # Errors
/// `EBADF`, `ENOTSOCK` and the like: none is expected on a socket of [`pair`].
pub fn peek(socket: impl AsFd, start: &mut [u8], wait: bool) -> io::Result<usize> {
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC | if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    let mut look = || rustix::io::retry_on_intr(|| recv(&socket, &mut *start, flags));
    let (_, len) = match look() {
        Err(rustix::io::Errno::CONNRESET) => look()?,
        looked => looked?,
    };
    Ok(len)
}

/// Receives the next message, which has `len` bytes, as [`peek`] has told, and descriptors if `with_fds` says so. (A buffer for the longest
/// possible message would touch that many pages, and a process that copies itself pays for each of them.)
///
/// None of the descriptors is numbered 0 to 2, even if those are closed in this process.
///
/// # Errors
/// `EMFILE` when this process can't take all descriptors that come with it, in which case the message stays where it is; `InvalidData` when
/// there are descriptors and should be none, or somebody else reads from this socket too; otherwise as [`peek`].
pub fn receive(socket: impl AsFd, len: usize, with_fds: bool) -> io::Result<Received> {
    let mut bytes = vec![0; len];
    let take = |bytes: &mut [u8], flags: RecvFlags| {
        // The message has been seen, so there is nothing to wait for.
        let flags = flags | RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control =
            if with_fds { RecvAncillaryBuffer::new(&mut space) } else { RecvAncillaryBuffer::new(&mut []) };
        let mut take =
            || rustix::io::retry_on_intr(|| recvmsg(&socket, &mut [IoSliceMut::new(bytes)], &mut control, flags));
        let message = match take() {
            // Said once, as in `peek`: the other end may have been closed since the message was
            // looked at.
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
        // The descriptors are copies, and the originals go with the message, which is taken when all copies are here.
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
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it came with descriptors that it does not tell of"));
    }
    if flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, SOMEBODY_ELSE));
    }
    bytes.truncate(len);
    Ok(Received { bytes, fds })
}

const SOMEBODY_ELSE: &str = "somebody else reads from this socket";

/// What is said when a message that has been seen can't be taken.
fn not_there_any_more(error: rustix::io::Errno) -> io::Error {
    match error {
        rustix::io::Errno::AGAIN => io::Error::new(io::ErrorKind::InvalidData, SOMEBODY_ELSE),
        error => error.into(),
    }
}

/// What [`try_take`] has found.
#[derive(Debug)]
pub struct Taken {
    /// How many bytes of the buffers it has filled. 0 is the end: the other side is closed.
    pub len: usize,
    /// Whether the message is longer than the buffers.
    pub cut: bool,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// Whether there was no room for some of the descriptors.
    pub fds_cut: bool,
}

/// Whether a message is taken or looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Taken: the next in line is the one behind it.
    Away,
    /// Looked at: it stays where it is. Its descriptors are duplicated.
    Look,
}

/// Fills `head` and then `body` with the next message, in one system call: of several who do this at once, each gets a message of its own.
/// None of the descriptors is numbered 0 to 2.
///
/// # Errors
/// `WouldBlock` when there is no message. Otherwise as [`peek`].
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

/// Has `fd` closed when this process executes another program.
///
/// # Errors
/// None is expected on an open descriptor.
pub fn close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?)
}

/// Ends the conversation: the other side reads the end, as if this one were closed.
///
/// # Errors
/// `ENOTCONN`.
pub fn hang_up(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Both)?)
}

/// Whether `fd` is a sequenced-packet socket of the Unix family, that is, one that [`pair`] could have made.
pub fn is_packet_socket(fd: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::SEQPACKET)
        && rustix::net::sockopt::socket_domain(fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_received_though_the_connection_was_reset() {
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
        // Closed between the look at a message and the receipt of it.
        let (ours, theirs) = pair().unwrap();
        send(&theirs, &[b"last words"], &[]).unwrap();
        assert_eq!(peek(&ours, &mut [0; 4], false).unwrap(), 10);
        send(&ours, &[b"unread"], &[]).unwrap();
        drop(theirs);
        assert_eq!(receive(&ours, 10, false).unwrap().bytes, b"last words");
        assert_eq!(peek(&ours, &mut [0; 4], false).unwrap(), 0);
    }
    use crate::poll::wait_for_room;
    use std::time::Instant;

    #[test]
    fn a_message_keeps_its_borders_and_its_descriptors() {
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
    fn a_closed_end_is_an_end_for_the_reader_and_an_error_for_the_writer() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert_eq!(peek(&b, &mut [0; 8], true).unwrap(), 0);
        assert_eq!(send(&b, &[b"x"], &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_full_socket_is_waited_for_no_longer_than_told() {
        let (a, b) = pair().unwrap();
        assert!(wait_for_room(&a, Some(Instant::now())).unwrap());
        while let Ok(()) = try_send(&a, &[7; 1000]) {}
        assert_eq!(try_send(&a, &[7; 1000]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!wait_for_room(&a, Some(Instant::now())).unwrap());
        while peek(&b, &mut [], false).is_ok() {
            discard(&b);
        }
        assert!(wait_for_room(&a, None).unwrap());
        discard(&b);
        // Not by closing it, which a copy of this process, made by another test at that moment, would put off.
        hang_up(&b).unwrap();
        assert!(wait_for_room(&a, None).unwrap(), "there is no more use in waiting");
        assert_eq!(try_send(&a, b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_message_that_is_longer_than_it_was_is_an_error() {
        let (a, b) = pair().unwrap();
        send(&a, &[b"123456789"], &[]).unwrap();
        assert_eq!(receive(&b, 8, false).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    /// Regression: it was waited for.
    #[test]
    fn a_message_that_another_has_taken_is_an_error() {
        let (_a, b) = pair().unwrap();
        for with_fds in [false, true] {
            assert_eq!(receive(&b, 1, with_fds).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn what_is_looked_at_stays_and_what_is_taken_is_gone() {
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
