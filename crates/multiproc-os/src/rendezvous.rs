//! A named rendezvous socket, to which another process sends a descriptor: a Unix datagram socket
//! with an abstract name, see unix(7).
//!
//! A datagram arrives whole, with its descriptor, or not at all. Any process in the same network
//! namespace may send to the name, so the receiver must be able to recognise what it expects. The
//! name disappears with the last copy of the socket's descriptor.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind,
    sendmsg_addr, socket_with,
};

use crate::fd_passing::above_stdio;

/// Makes the receiving socket of this name, close-on-exec.
/// [`try_read_with_fds`](crate::socket::try_read_with_fds) reads what was sent to it.
///
/// # Errors
/// `EADDRINUSE`; `EMFILE`, `ENFILE`.
pub fn open(name: &[u8]) -> io::Result<OwnedFd> {
    let socket = above_stdio(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)?;
    bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    Ok(socket)
}

/// Sends `bytes` and a copy of `fd` to the socket of this name. Does not block.
///
/// # Errors
/// `ECONNREFUSED` when there is no such socket; `WouldBlock` when its queue is full; `EMFILE`,
/// `ENFILE`.
pub fn send(name: &[u8], bytes: &[u8], fd: impl AsFd) -> io::Result<()> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let address = SocketAddrUnix::new_abstract_name(name)?;
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = control.push(SendAncillaryMessage::ScmRights(&fds));
    debug_assert!(fits, "the buffer has room for one descriptor");
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| sendmsg_addr(&socket, &address, &[IoSlice::new(bytes)], &mut control, flags))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::try_read_with_fds;

    #[test]
    fn smoke() {
        let name = format!("multiproc-test-{}", crate::random::seed());
        let name = name.as_bytes();
        let (ours, theirs) = crate::fd_passing::pair().unwrap();
        assert_eq!(send(name, b"x", &ours).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let place = open(name).unwrap();
        assert_eq!(open(name).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        send(name, b"with", &ours).unwrap();
        drop(ours);
        let (mut buffer, mut fds) = ([0; 8], vec![]);
        assert_eq!(try_read_with_fds(&place, &mut buffer, &mut fds).unwrap(), 4);
        crate::fd_passing::send(&fds[0], &[b"through it"], &[]).unwrap();
        assert_eq!(crate::fd_passing::peek(&theirs, &mut [], false).unwrap(), 10);
        assert_eq!(try_read_with_fds(&place, &mut buffer, &mut fds).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let full = loop {
            if let Err(error) = send(name, b"x", &theirs) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
