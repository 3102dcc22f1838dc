//! A queue of file descriptors in the kernel: a Unix datagram socket that is connected to itself,
//! see unix(7).
//!
//! Several processes share the same open socket. Each of them can add an entry, inspect the oldest
//! entry and remove it. The kernel keeps the entries, and closes their descriptors when the last
//! descriptor of the socket is closed. The socket has an abstract name that the kernel chose; other
//! processes can't send to it, since it is connected.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socket_with, sockopt,
};

use crate::fd_passing::MAX_FDS;
use crate::fd_passing::close_on_exec;

/// Requested buffer size in bytes: enough for several hundred entries, if the system allows it.
const BUFFER: usize = 4 << 20;

/// A queue of file descriptors; see the [module](self).
#[derive(Debug)]
pub struct FdQueue {
    socket: OwnedFd,
}

impl FdQueue {
    /// Creates an empty queue.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOBUFS`.
    pub fn new() -> io::Result<FdQueue> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = crate::fd_passing::above_stdio(socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?)?;
        // The system may grant less, or refuse.
        let _ = sockopt::set_socket_send_buffer_size(&socket, BUFFER);
        bind_to_any_name(&socket)?;
        let name = rustix::net::getsockname(&socket)?;
        rustix::net::connect(&socket, &name)?;
        Ok(FdQueue { socket })
    }

    /// Wraps the socket of a queue that came from another process.
    ///
    /// # Errors
    /// `InvalidData` when it isn't the socket of a queue.
    pub fn from_fd(socket: OwnedFd) -> io::Result<FdQueue> {
        let own = rustix::net::getsockname(&socket);
        let is_one = sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::DGRAM)
            && sockopt::socket_domain(&socket).is_ok_and(|domain| domain == AddressFamily::UNIX)
            && matches!((own, rustix::net::getpeername(&socket)), (Ok(own), Ok(Some(peer))) if own == peer);
        match is_one {
            true => {
                // It may have been inherited.
                close_on_exec(socket.as_fd())?;
                Ok(FdQueue { socket })
            }
            false => Err(io::Error::new(io::ErrorKind::InvalidData, "not a socket that is connected to itself")),
        }
    }

    /// Appends an entry: `fds`, labelled with `number`.
    ///
    /// # Errors
    /// `WouldBlock` when the queue is full; `QuotaExceeded` (the kernel's `ETOOMANYREFS`) when the
    /// user has too many descriptors in flight; `InvalidInput` for more than [`MAX_FDS`].
    pub fn put(&self, number: u64, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if fds.len() > MAX_FDS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(fds).size()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(fds));
        let bytes = number.to_ne_bytes();
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::io::retry_on_intr(|| sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags))?;
        Ok(())
    }

    /// Returns the number of the oldest entry; `None` if the queue is empty.
    ///
    /// # Errors
    /// None is expected.
    pub fn number(&self) -> io::Result<Option<u64>> {
        let mut bytes = [0_u8; 8];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| recv(&self.socket, &mut bytes[..], flags)) {
            Ok(_) => Ok(Some(u64::from_ne_bytes(bytes))),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns duplicates of the oldest entry's descriptors. The entry stays in the queue.
    ///
    /// # Errors
    /// `WouldBlock` if the queue is empty; `EMFILE` when this process has no room for all
    /// descriptors.
    pub fn peek(&self) -> io::Result<Vec<OwnedFd>> {
        let mut bytes = [0_u8; 8];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
        })?;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        fds.into_iter().map(crate::fd_passing::above_stdio).collect()
    }

    /// Removes the oldest entry, if there is one.
    pub fn discard(&self) {
        let mut bytes = [0_u8; 8];
        let _ = rustix::io::retry_on_intr(|| recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT));
    }
}

impl AsFd for FdQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Binds the socket to an abstract name that the kernel chooses: "Autobind feature" in unix(7).
fn bind_to_any_name(socket: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let family = libc::AF_UNIX as libc::sa_family_t;
    // SAFETY: the address consists of the address family only, and its size is passed.
    let result = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const family).cast(), size_of::<libc::sa_family_t>() as libc::socklen_t)
    };
    crate::cvt(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifo_and_discard() {
        let queue = FdQueue::new().unwrap();
        let other = FdQueue::from_fd(queue.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(other.number().unwrap(), None);
        let (reader, writer) = crate::pipe::pair().unwrap();
        queue.put(7, &[writer.as_fd(), reader.as_fd()]).unwrap();
        queue.put(8, &[reader.as_fd()]).unwrap();
        for _ in 0..2 {
            assert_eq!(other.number().unwrap(), Some(7));
            assert_eq!(other.peek().unwrap().len(), 2);
        }
        let fds = other.peek().unwrap();
        rustix::io::write(&fds[0], b"x").unwrap();
        assert_eq!(crate::pipe::available(&reader).unwrap(), 1);
        other.discard();
        assert_eq!(queue.number().unwrap(), Some(8));
        queue.discard();
        assert_eq!(queue.peek().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn hundreds_of_entries() {
        let queue = FdQueue::new().unwrap();
        let entries = (0..1_000_000).take_while(|number| queue.put(*number, &[queue.as_fd()]).is_ok()).count();
        assert!((200..1_000_000).contains(&entries), "{entries}");
    }

    #[test]
    fn wrong_socket() {
        let (socket, _) = crate::fd_passing::pair().unwrap();
        assert_eq!(FdQueue::from_fd(socket).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(FdQueue::from_fd(crate::pipe::pair().unwrap().0).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
