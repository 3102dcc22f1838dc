//! Listening and connected stream sockets: unix(7), tcp(7); also Unix sequenced-packet sockets with
//! abstract names.
//!
//! No function here raises `SIGPIPE`, and the functions named `try_…` don't block, whatever the
//! flags of the descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, recv, sendmsg,
};

use crate::fd_passing::above_stdio;

/// The address of a listening socket.
#[derive(Debug, Clone, Copy)]
pub enum SocketAddress<'a> {
    /// A Unix socket with a file.
    File(&'a Path),
    /// A Unix socket with an abstract name.
    Abstract(&'a [u8]),
    /// A TCP socket.
    Internet(SocketAddr),
}

/// The length of the queue of connections waiting to be accepted. The kernel has a limit of its own
/// (`/proc/sys/net/core/somaxconn`).
const BACKLOG: i32 = 4096;

/// Makes a socket that listens at `address`, close-on-exec; accepting from it never blocks. A file
/// must not exist yet, and is made with mode 0600.
///
/// # Errors
/// `EADDRINUSE`; for a file also those of mknod(2); `EMFILE`, `ENFILE`.
pub fn listen(address: SocketAddress<'_>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let new = |family| above_stdio(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?);
    let socket = match address {
        SocketAddress::File(path) => {
            let socket = new(AddressFamily::UNIX)?;
            // The file gets the mode of the socket, so it never exists with another mode.
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            let (address, _directory) = new_address(path)?;
            rustix::net::bind(&socket, &address)?;
            socket
        }
        SocketAddress::Abstract(name) => {
            let socket = new(AddressFamily::UNIX)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
            socket
        }
        SocketAddress::Internet(address) => {
            let socket = new(family_of(&address))?;
            // Connections of the previous listener may linger.
            sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &address)?;
            socket
        }
    };
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn family_of(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// The address of a file to be made, and a descriptor that must stay open while the address is
/// used. The kernel accepts at most 108 bytes; a longer path goes through a descriptor of its
/// directory.
fn new_address(path: &Path) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    match SocketAddrUnix::new(path) {
        Err(Errno::NAMETOOLONG) => {
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(Errno::NAMETOOLONG.into());
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(directory, flags, Mode::empty())?;
            Ok((SocketAddrUnix::new(by_descriptor(&directory)?.join(name))?, Some(directory)))
        }
        address => Ok((address?, None)),
    }
}

/// The address of an existing file, and a descriptor that must stay open while the address is used.
/// A path that is too long goes through a descriptor of the file.
fn present_address(path: &Path) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    match SocketAddrUnix::new(path) {
        Err(Errno::NAMETOOLONG) => {
            let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            Ok((SocketAddrUnix::new(by_descriptor(&file)?)?, Some(file)))
        }
        address => Ok((address?, None)),
    }
}

/// A short path to the file behind a descriptor, see proc(5).
fn by_descriptor(fd: &OwnedFd) -> io::Result<PathBuf> {
    let path = Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string());
    match rustix::fs::statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Ok(_) => Ok(path),
        Err(_) => {
            let what = "a path of more than 108 bytes is reached through /proc, which is not mounted here";
            Err(io::Error::new(io::ErrorKind::InvalidFilename, what))
        }
    }
}

/// The socket's own internet address, with the port that the kernel chose. None for other kinds of
/// socket.
///
/// # Errors
/// None is expected.
pub fn local_address(socket: impl AsFd) -> io::Result<Option<SocketAddr>> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(socket)?).ok())
}

/// Accepts a connection, with the internet address of the client if it has one; None when no
/// connection is waiting. The socket is close-on-exec.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`; the connection stays in the queue then.
pub fn try_accept(listening: impl AsFd) -> io::Result<Option<(OwnedFd, Option<SocketAddr>)>> {
    loop {
        match rustix::net::acceptfrom_with(&listening, SocketFlags::CLOEXEC) {
            Ok((socket, address)) => {
                let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                return Ok(Some((above_stdio(socket)?, address)));
            }
            Err(Errno::AGAIN) => return Ok(None),
            // The client has disconnected, or the network failed: see "Error handling" in
            // accept(2).
            Err(
                Errno::INTR
                | Errno::CONNABORTED
                | Errno::NETDOWN
                | Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH,
            ) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes a Unix sequenced-packet socket, close-on-exec, for [`listen_for_packets`]. It has no name
/// yet.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOBUFS`.
pub fn packet_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    above_stdio(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Makes a [`packet_socket`] listen at the abstract name `name`; stream sockets have a separate set
/// of names. Accepting from it never blocks, and an accepted socket works like one end of
/// [`pair`](crate::fd_passing::pair).
///
/// # Errors
/// `EADDRINUSE`; `EINVAL` when the socket has a name already.
pub fn listen_for_packets(socket: impl AsFd, name: &[u8]) -> io::Result<()> {
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    Ok(rustix::net::listen(&socket, BACKLOG)?)
}

/// As [`connect`], to the socket that [listens for packets](listen_for_packets) at the abstract
/// name `name`.
///
/// # Errors
/// As [`connect`].
pub fn connect_for_packets(name: &[u8], deadline: Option<Instant>) -> io::Result<OwnedFd> {
    connect_with(SocketType::SEQPACKET, SocketAddress::Abstract(name), deadline)
}

/// Connects to the socket that listens at `address`, waiting until `deadline` at most; tries once
/// if the deadline has passed already. The socket is close-on-exec.
///
/// # Errors
/// `TimedOut`; `ECONNREFUSED` and `ENOENT` when no process listens there; `EMFILE`, `ENFILE`.
pub fn connect(address: SocketAddress<'_>, deadline: Option<Instant>) -> io::Result<OwnedFd> {
    connect_with(SocketType::STREAM, address, deadline)
}

fn connect_with(kind: SocketType, address: SocketAddress<'_>, deadline: Option<Instant>) -> io::Result<OwnedFd> {
    let family = match &address {
        SocketAddress::File(_) | SocketAddress::Abstract(_) => AddressFamily::UNIX,
        SocketAddress::Internet(address) => family_of(address),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let socket = above_stdio(socket)?;
    let mut tried = false;
    loop {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            // It is tried at least once: an immediate result needs no time, and this thread may
            // have slept until now.
            if left.is_zero() && tried {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // The timeout applies to connect(2) too. Zero would mean no limit.
            sockopt::set_socket_timeout(&socket, Timeout::Send, Some(left.max(Duration::from_micros(1))))?;
        }
        tried = true;
        let result = match address {
            SocketAddress::File(path) => {
                let (address, _file) = present_address(path)?;
                rustix::net::connect(&socket, &address)
            }
            SocketAddress::Abstract(name) => rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name)?),
            SocketAddress::Internet(address) => rustix::net::connect(&socket, &address),
        };
        match (result, address) {
            (Ok(()), _) => break,
            // A signal. A TCP connection goes on being established.
            (Err(Errno::INTR), SocketAddress::Internet(_)) => {
                if !crate::poll::wait_writable(&socket, deadline)? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                sockopt::socket_error(&socket)??;
                break;
            }
            (Err(Errno::INTR), _) => {}
            // The kernel counts in ticks, and may return some milliseconds early.
            (Err(Errno::AGAIN), SocketAddress::File(_) | SocketAddress::Abstract(_)) if deadline.is_some() => {}
            (Err(Errno::AGAIN | Errno::INPROGRESS), _) => return Err(io::ErrorKind::TimedOut.into()),
            (Err(error), _) => return Err(error.into()),
        }
    }
    if deadline.is_some() {
        sockopt::set_socket_timeout(&socket, Timeout::Send, None)?;
    }
    Ok(socket)
}

/// Configures a TCP socket: small messages are sent at once, and keepalive probes start after a
/// minute of silence. A peer host that has lost its power or its network counts as gone after
/// another minute, and one that hasn't acknowledged sent data for two minutes does as well.
///
/// # Errors
/// None is expected on a TCP socket.
pub fn prepare_tcp(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(&socket, 6)?;
    // In milliseconds. Otherwise the system's number of retransmissions decides: about a quarter of
    // an hour.
    sockopt::set_tcp_user_timeout(&socket, 120_000)?;
    Ok(())
}

/// The process id and user id of the process that made the other end of a Unix socket, or listens
/// there. The process id is 0 if that process isn't visible to this one because it is in another
/// namespace.
///
/// # Errors
/// None is expected on a Unix socket.
pub fn peer_process(socket: impl AsFd) -> io::Result<(i32, u32)> {
    let length = size_of::<libc::ucred>();
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut filled = length as libc::socklen_t;
    // A direct system call, since rustix can't represent a pid of 0.
    // SAFETY: the structure is ours, and has the size passed.
    crate::cvt(unsafe {
        let value = (&raw mut peer).cast();
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut filled)
    })?;
    Ok((peer.pid, peer.uid))
}

/// The effective user id of this process.
pub fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether `socket` is a TCP stream socket.
pub fn is_internet_stream(socket: impl AsFd) -> bool {
    sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_domain(&socket)
            .is_ok_and(|domain| matches!(domain, AddressFamily::INET | AddressFamily::INET6))
}

/// A number that no other socket of this machine has, or will have until the machine is rebooted.
/// All descriptors of a socket have the same.
///
/// # Errors
/// None is expected.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(socket)?)
}

/// Sets or removes a mark on a TCP socket. All descriptors of the socket share it, and it outlives
/// the process. The mark is `TCP_CORK`, see tcp(7): while it is set, the kernel holds back the end
/// of the data written for up to 200 ms, and removing the mark sends that data; so by the time the
/// peer has received all of it, the mark is gone. Other sockets have no marks.
///
/// # Errors
/// None is expected.
pub fn set_mark(socket: impl AsFd, mark: bool) -> io::Result<()> {
    match sockopt::set_tcp_cork(socket, mark) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        set => Ok(set?),
    }
}

/// Whether the socket has the mark that [`set_mark`] sets.
///
/// # Errors
/// None is expected.
pub fn is_marked(socket: impl AsFd) -> io::Result<bool> {
    match sockopt::tcp_cork(socket) {
        Err(Errno::OPNOTSUPP) => Ok(false),
        mark => Ok(mark?),
    }
}

/// Ends a connection at both ends, whatever other descriptors of it exist.
pub fn shut_down(socket: impl AsFd) {
    // It may have ended already.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

/// Whether `socket` is a listening socket.
pub fn is_listening(socket: impl AsFd) -> bool {
    sockopt::socket_acceptconn(socket).unwrap_or(false)
}

/// Reads the available bytes into `buffer`. Returns 0 at the end, or if the buffer is empty.
///
/// # Errors
/// `WouldBlock` when no bytes are available; `ECONNRESET` and the like when the connection is lost.
pub fn try_read(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (len, _) = rustix::io::retry_on_intr(|| recv(&socket, &mut *buffer, RecvFlags::DONTWAIT))?;
    Ok(len)
}

/// Appends at most `most` of the available bytes to `bytes`. Returns 0 at the end.
///
/// # Errors
/// As [`try_read`].
pub fn try_append(socket: impl AsFd, bytes: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    bytes.reserve(most);
    let start = bytes.len();
    let (_, len) = rustix::io::retry_on_intr(|| {
        let (read, _) = recv(&socket, &mut bytes.spare_capacity_mut()[..most], RecvFlags::DONTWAIT)?;
        Ok((0, read.0.len()))
    })?;
    // SAFETY: the kernel has filled `len` bytes of the spare capacity.
    unsafe { bytes.set_len(start + len) };
    Ok(len)
}

/// Whether bytes are available; None at the end, after the peer has closed its end.
///
/// # Errors
/// As [`try_read`].
pub fn has_input(socket: impl AsFd) -> io::Result<Option<bool>> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    match rustix::io::retry_on_intr(|| recv(&socket, &mut [0_u8; 1][..], flags)) {
        Ok((0, _)) => Ok(None),
        Ok(_) => Ok(Some(true)),
        Err(Errno::AGAIN) => Ok(Some(false)),
        Err(error) => Err(error.into()),
    }
}

/// Writes as much of `parts`, in order, as there is room for.
///
/// # Errors
/// `WouldBlock` when there is no room; `EPIPE` and `ECONNRESET` when the other end is gone.
pub fn try_write<const N: usize>(socket: impl AsFd, parts: [&[u8]; N]) -> io::Result<usize> {
    let slices = parts.map(IoSlice::new);
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::io::retry_on_intr(|| sendmsg(&socket, &slices, &mut SendAncillaryBuffer::default(), flags))?)
}

/// Reads at most the length of `buffer`, and appends the descriptors that come with the bytes to
/// `fds`.
///
/// # Errors
/// As [`try_read`]; `EMFILE` when not all of the descriptors could be received: the others are
/// lost.
pub fn try_read_with_fds(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    match try_read_some_with_fds(socket, buffer, fds)? {
        (len, true) => Ok(len),
        (_, false) => Err(io::Error::from_raw_os_error(libc::EMFILE)),
    }
}

/// As [`try_read_with_fds`], but not an error when some of the descriptors can't be received.
/// Receives as many as this process and a buffer, which holds at least four, have room for; returns
/// the number of bytes, and whether these descriptors are all.
///
/// # Errors
/// As [`try_read`].
pub fn try_read_some_with_fds(
    socket: impl AsFd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<(usize, bool)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)
    })?;
    let mut all = !message.flags.contains(rustix::net::ReturnFlags::CTRUNC);
    for received in control.drain() {
        if let rustix::net::RecvAncillaryMessage::ScmRights(rights) = received {
            for fd in rights {
                match above_stdio(fd) {
                    Ok(fd) => fds.push(fd),
                    Err(_) => all = false,
                }
            }
        }
    }
    Ok((message.bytes, all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::wait_readable;

    fn accept(listening: &OwnedFd) -> (OwnedFd, Option<SocketAddr>) {
        assert!(wait_readable(listening, None).unwrap());
        try_accept(listening).unwrap().unwrap()
    }

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn accept_and_credentials() {
        let name = format!("multiproc-test-{}", crate::random::seed());
        let listening = listen(SocketAddress::Abstract(name.as_bytes())).unwrap();
        assert!(try_accept(&listening).unwrap().is_none());
        assert!(is_listening(&listening) && !is_listening(crate::fd_passing::pair().unwrap().0));
        let client = connect(SocketAddress::Abstract(name.as_bytes()), None).unwrap();
        let (server, address) = accept(&listening);
        assert!(address.is_none() && local_address(&server).unwrap().is_none());
        let this = (std::process::id() as i32, own_user());
        assert_eq!((peer_process(&client).unwrap(), peer_process(&server).unwrap()), (this, this));

        let listening = listen(SocketAddress::Internet(loopback())).unwrap();
        let address = local_address(&listening).unwrap().unwrap();
        let client = connect(SocketAddress::Internet(address), Some(Instant::now() + Duration::from_secs(60))).unwrap();
        let (server, peer) = accept(&listening);
        assert_eq!(peer, local_address(&client).unwrap());
        prepare_tcp(&server).unwrap();
        assert!(is_internet_stream(&server) && !is_internet_stream(crate::fd_passing::pair().unwrap().0));
    }

    #[test]
    fn packets_at_abstract_name() {
        let name = format!("multiproc-test-{}", crate::random::seed());
        let name = name.as_bytes();
        let refused = connect_for_packets(name, None).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // Other tests fork this process.
        let listening = crate::close_on_fork::CloseOnFork::make(packet_socket).unwrap();
        listen_for_packets(&listening, name).unwrap();
        let taken = listen_for_packets(packet_socket().unwrap(), name).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let client = connect_for_packets(name, None).unwrap();
        assert!(wait_readable(&listening, None).unwrap());
        let (server, _) = try_accept(&listening).unwrap().unwrap();
        crate::fd_passing::send(&client, &[b"one"], &[]).unwrap();
        crate::fd_passing::send(&client, &[b"another"], &[]).unwrap();
        assert_eq!(crate::fd_passing::peek(&server, &mut [], true).unwrap(), 3);
        assert!(crate::fd_passing::is_packet_socket(server.as_fd()));
        // Stream sockets have names of their own.
        let _streams = listen(SocketAddress::Abstract(name)).unwrap();
        // The name goes with the listening socket, despite open connections.
        drop(listening);
        // Unless a copy of the process that another test has made has the socket for a moment more.
        while let Err(error) = listen_for_packets(packet_socket().unwrap(), name) {
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            std::thread::yield_now();
        }
    }

    #[test]
    fn bytes_and_eof() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(has_input(&b).unwrap(), Some(false));
        assert_eq!(try_read(&b, &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(try_write(&a, [b"one", b"", b"two"]).unwrap(), 6);
        assert_eq!(has_input(&b).unwrap(), Some(true));
        let mut bytes = b"<".to_vec();
        assert_eq!(try_append(&b, &mut bytes, 4).unwrap(), 4);
        assert_eq!(try_append(&b, &mut bytes, 100).unwrap(), 2);
        assert_eq!(bytes, b"<onetwo");
        drop(a);
        // A copy of the process that another test has made may still have it.
        assert!(wait_readable(&b, None).unwrap());
        assert_eq!(has_input(&b).unwrap(), None);
        assert_eq!((try_append(&b, &mut bytes, 9).unwrap(), try_read(&b, &mut [0; 4]).unwrap()), (0, 0));
        assert_eq!(try_write(&b, [b"x"]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn mark() {
        let listening = listen(SocketAddress::Internet(loopback())).unwrap();
        let address = local_address(&listening).unwrap().unwrap();
        let client = connect(SocketAddress::Internet(address), None).unwrap();
        let (server, _) = accept(&listening);
        let copy = client.try_clone().unwrap();
        set_mark(&copy, true).unwrap();
        assert_eq!(cookie(&client).unwrap(), cookie(&copy).unwrap());
        assert_ne!(cookie(&client).unwrap(), cookie(&server).unwrap());
        drop(copy);
        assert!(is_marked(&client).unwrap() && !is_marked(&server).unwrap());
        set_mark(&client, false).unwrap();
        assert!(!is_marked(&client).unwrap());
        shut_down(client.try_clone().unwrap());
        assert!(wait_readable(&server, None).unwrap());
        assert_eq!(has_input(&server).unwrap(), None);
    }

    #[test]
    fn fds_with_bytes() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        crate::fd_passing::send(&a, &[b"two"], &[a.as_fd(), b.as_fd()]).unwrap();
        let (mut buffer, mut fds) = ([0; 8], vec![]);
        assert_eq!(try_read_with_fds(&b, &mut buffer, &mut fds).unwrap(), 3);
        assert_eq!(fds.len(), 2);
        crate::fd_passing::send(&a, &[b"many"], &[a.as_fd(); 50]).unwrap();
        fds.clear();
        assert_eq!(try_read_some_with_fds(&b, &mut buffer, &mut fds).unwrap(), (4, false));
        assert!((4..50).contains(&fds.len()));
    }

    #[test]
    fn timeouts() {
        assert_eq!(
            connect(SocketAddress::Abstract(b"multiproc-absent"), None).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        // No process accepts, and the queue has no room.
        let name = format!("multiproc-test-{}", crate::random::seed());
        let listening = listen(SocketAddress::Abstract(name.as_bytes())).unwrap();
        rustix::net::listen(&listening, 0).unwrap();
        let _first = connect(SocketAddress::Abstract(name.as_bytes()), None).unwrap();
        let soon = Instant::now() + Duration::from_millis(20);
        let error = connect(SocketAddress::Abstract(name.as_bytes()), Some(soon)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(Instant::now() >= soon);
    }

    /// A caller that has slept past its deadline still gets an immediate result.
    #[test]
    fn one_attempt_after_deadline() {
        let name = format!("multiproc-test-{}", crate::random::seed());
        let address = SocketAddress::Abstract(name.as_bytes());
        let past = Some(Instant::now());
        assert_eq!(connect(address, past).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let listening = listen(address).unwrap();
        connect(address, past).unwrap();
        rustix::net::listen(&listening, 0).unwrap();
        assert_eq!(connect(address, past).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn long_path() {
        let directory = std::env::temp_dir().join(format!("multiproc-{}-{}", std::process::id(), "x".repeat(150)));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("socket");
        let listening = listen(SocketAddress::File(&path)).unwrap();
        let _client = connect(SocketAddress::File(&path), None).unwrap();
        accept(&listening);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
