//! Stream sockets that somebody listens at and others connect to: unix(7), tcp(7). Sequenced-packet sockets too, at abstract names.
//!
//! Nothing here raises `SIGPIPE`, and what is said to try does not wait, whatever the descriptor's flags.

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

/// Where somebody listens.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// At a file.
    File(&'a Path),
    /// At an abstract name.
    Abstract(&'a [u8]),
    /// At an address of the internet protocols.
    Internet(SocketAddr),
}

/// How many may stand in line to be accepted. The kernel has a limit of its own (`/proc/sys/net/core/somaxconn`).
const BACKLOG: i32 = 4096;

/// A socket that listens at `place`, close-on-exec; accepting from it never waits. A file must not be there yet, and is made with mode 0600.
///
/// # Errors
/// `EADDRINUSE`; for a file also what mknod(2) says; `EMFILE`, `ENFILE`.
pub fn listen(place: Place<'_>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let new = |family| above_stdio(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?);
    let socket = match place {
        Place::File(path) => {
            let socket = new(AddressFamily::UNIX)?;
            // The file gets the mode that the socket has, so nobody finds it with another.
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            let (address, _directory) = new_address(path)?;
            rustix::net::bind(&socket, &address)?;
            socket
        }
        Place::Abstract(name) => {
            let socket = new(AddressFamily::UNIX)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
            socket
        }
        Place::Internet(address) => {
            let socket = new(family_of(&address))?;
            // Connections of the last one who listened there may linger on.
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

/// The address of a file that is to be made, and what must stay open while it is used. The kernel
/// takes 108 bytes; a longer path goes by its directory.
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

/// The address of a file that is there, and what must stay open while it is used. A longer path
/// goes by a descriptor of the file.
fn present_address(path: &Path) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    match SocketAddrUnix::new(path) {
        Err(Errno::NAMETOOLONG) => {
            let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            Ok((SocketAddrUnix::new(by_descriptor(&file)?)?, Some(file)))
        }
        address => Ok((address?, None)),
    }
}

/// A short path to what a descriptor is of, see proc(5).
fn by_descriptor(fd: &OwnedFd) -> io::Result<PathBuf> {
    let path = Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string());
    match rustix::fs::statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
        Ok(_) => Ok(path),
        Err(_) => {
            let what = "a path of more than 108 bytes is reached by way of /proc, which is not mounted here";
            Err(io::Error::new(io::ErrorKind::InvalidFilename, what))
        }
    }
}

/// The internet address that a socket has, with the port that the kernel chose. None for another kind of socket.
///
/// # Errors
/// None is expected.
pub fn local_address(socket: impl AsFd) -> io::Result<Option<SocketAddr>> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(socket)?).ok())
}

/// Accepts one who has connected, with his internet address if he has one; none when nobody stands in line. The socket is close-on-exec.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`, in which case he stays in line.
pub fn try_accept(listening: impl AsFd) -> io::Result<Option<(OwnedFd, Option<SocketAddr>)>> {
    loop {
        match rustix::net::acceptfrom_with(&listening, SocketFlags::CLOEXEC) {
            Ok((socket, address)) => {
                let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                return Ok(Some((above_stdio(socket)?, address)));
            }
            Err(Errno::AGAIN) => return Ok(None),
            // He has gone again, or the network has failed him: see "Error handling" in accept(2).
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

/// A sequenced-packet socket of the Unix family, close-on-exec, for [`listen_for_packets`]. It has no name yet.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOBUFS`.
pub fn packet_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    above_stdio(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Has a [`packet_socket`] listen at the abstract name `name`: another than a stream socket of the same name. Accepting from it never waits, and
/// what is accepted is as one end of [`pair`](crate::fd_passing::pair).
///
/// # Errors
/// `EADDRINUSE`; `EINVAL` when it has a name already.
pub fn listen_for_packets(socket: impl AsFd, name: &[u8]) -> io::Result<()> {
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    Ok(rustix::net::listen(&socket, BACKLOG)?)
}

/// As [`connect`], to who listens at the abstract name `name` [for packets](listen_for_packets).
///
/// # Errors
/// As [`connect`].
pub fn connect_for_packets(name: &[u8], deadline: Option<Instant>) -> io::Result<OwnedFd> {
    connect_with(SocketType::SEQPACKET, Place::Abstract(name), deadline)
}

/// Connects to who listens at `place`, and waits for that until `deadline`; tries it once if that is over. The socket is close-on-exec.
///
/// # Errors
/// `TimedOut`; `ECONNREFUSED` and `ENOENT` when nobody listens there; `EMFILE`, `ENFILE`.
pub fn connect(place: Place<'_>, deadline: Option<Instant>) -> io::Result<OwnedFd> {
    connect_with(SocketType::STREAM, place, deadline)
}

fn connect_with(kind: SocketType, place: Place<'_>, deadline: Option<Instant>) -> io::Result<OwnedFd> {
    let family = match &place {
        Place::File(_) | Place::Abstract(_) => AddressFamily::UNIX,
        Place::Internet(address) => family_of(address),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let socket = above_stdio(socket)?;
    let mut tried = false;
    loop {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            // Once in any case: what is said at once needs no time, and this thread may have slept till now.
            if left.is_zero() && tried {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // It holds for connect(2) too. Zero would be no limit.
            sockopt::set_socket_timeout(&socket, Timeout::Send, Some(left.max(Duration::from_micros(1))))?;
        }
        tried = true;
        let result = match place {
            Place::File(path) => {
                let (address, _file) = present_address(path)?;
                rustix::net::connect(&socket, &address)
            }
            Place::Abstract(name) => rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name)?),
            Place::Internet(address) => rustix::net::connect(&socket, &address),
        };
        match (result, place) {
            (Ok(()), _) => break,
            // A signal. Over the internet it goes on by itself.
            (Err(Errno::INTR), Place::Internet(_)) => {
                if !crate::poll::wait_for_room(&socket, deadline)? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                sockopt::socket_error(&socket)??;
                break;
            }
            (Err(Errno::INTR), _) => {}
            // The kernel counts in ticks, and may be some milliseconds early.
            (Err(Errno::AGAIN), Place::File(_) | Place::Abstract(_)) if deadline.is_some() => {}
            (Err(Errno::AGAIN | Errno::INPROGRESS), _) => return Err(io::ErrorKind::TimedOut.into()),
            (Err(error), _) => return Err(error.into()),
        }
    }
    if deadline.is_some() {
        sockopt::set_socket_timeout(&socket, Timeout::Send, None)?;
    }
    Ok(socket)
}

/// Has small messages go at once, and asks after the other host when it has been silent for a minute: one that has lost its power or its
/// network counts as gone after another minute; and so does one that has not acknowledged for two minutes what was sent to it.
///
/// # Errors
/// None is expected on a TCP socket.
pub fn prepare_tcp(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(&socket, 6)?;
    // In milliseconds. Without it, it is a matter of the system how often something is sent again: about a quarter of an hour.
    sockopt::set_tcp_user_timeout(&socket, 120_000)?;
    Ok(())
}

/// Process id and user id of who made the other end of a Unix socket, or listens there. The id is 0 if it is a process that this one can't
/// see, in another namespace.
///
/// # Errors
/// None is expected on a Unix socket.
pub fn peer_process(socket: impl AsFd) -> io::Result<(i32, u32)> {
    let length = size_of::<libc::ucred>();
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut filled = length as libc::socklen_t;
    // By hand: rustix has no way to say that the id is 0.
    // SAFETY: the structure is ours, and as large as is said.
    crate::cvt(unsafe {
        let place = (&raw mut peer).cast();
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, place, &raw mut filled)
    })?;
    Ok((peer.pid, peer.uid))
}

/// The effective user id of this process.
pub fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether `socket` is a stream socket of the internet protocols.
pub fn is_internet_stream(socket: impl AsFd) -> bool {
    sockopt::socket_type(&socket).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_domain(&socket)
            .is_ok_and(|domain| matches!(domain, AddressFamily::INET | AddressFamily::INET6))
}

/// A number that no other socket of this machine has, or will have until it is started anew. All descriptors of a socket have the same.
///
/// # Errors
/// None is expected.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(socket)?)
}

/// Leaves a mark on a TCP socket, or takes it away: one that all its descriptors share, and that outlives the process. It is `TCP_CORK`, see
/// tcp(7): with it the end of what is written stays here for up to 200 ms, and goes when the mark has been taken away; so whoever has received that
/// finds none. Other sockets have no marks.
///
/// # Errors
/// None is expected.
pub fn set_mark(socket: impl AsFd, mark: bool) -> io::Result<()> {
    match sockopt::set_tcp_cork(socket, mark) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        set => Ok(set?),
    }
}

/// Whether [`set_mark`] has left a mark.
///
/// # Errors
/// None is expected.
pub fn is_marked(socket: impl AsFd) -> io::Result<bool> {
    match sockopt::tcp_cork(socket) {
        Err(Errno::OPNOTSUPP) => Ok(false),
        mark => Ok(mark?),
    }
}

/// Ends a connection for all who have it, here and at its other end, whatever copies of the descriptor there are.
pub fn shut_down(socket: impl AsFd) {
    // It may have ended already.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

/// Whether somebody listens by `socket`.
pub fn is_listening(socket: impl AsFd) -> bool {
    sockopt::socket_acceptconn(socket).unwrap_or(false)
}

/// Reads what there is into `buffer`. 0 is the end, unless the buffer is empty.
///
/// # Errors
/// `WouldBlock` when there is nothing now; `ECONNRESET` and the like when the connection is lost.
pub fn try_read(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (len, _) = rustix::io::retry_on_intr(|| recv(&socket, &mut *buffer, RecvFlags::DONTWAIT))?;
    Ok(len)
}

/// Appends up to `most` bytes of what there is to `bytes`. 0 is the end.
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
    // SAFETY: the kernel has filled so many bytes of the spare capacity.
    unsafe { bytes.set_len(start + len) };
    Ok(len)
}

/// Whether there is something to be read; none at the end, which a peer that has closed its end makes.
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

/// Writes as much of `parts`, one after the other, as there is room for.
///
/// # Errors
/// `WouldBlock` when there is no room now; `EPIPE` and `ECONNRESET` when the other end is gone.
pub fn try_write<const N: usize>(socket: impl AsFd, parts: [&[u8]; N]) -> io::Result<usize> {
    let slices = parts.map(IoSlice::new);
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::io::retry_on_intr(|| sendmsg(&socket, &slices, &mut SendAncillaryBuffer::default(), flags))?)
}

/// Reads up to the length of `buffer`, and takes the descriptors that come with it: no more than `fds`, into that.
///
/// # Errors
/// As [`try_read`]; `EMFILE` when this process has no room for them, in which case they are lost.
pub fn try_read_with_fds(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    match try_read_some_with_fds(socket, buffer, fds)? {
        (len, true) => Ok(len),
        (_, false) => Err(io::Error::from_raw_os_error(libc::EMFILE)),
    }
}

/// As [`try_read_with_fds`], but takes as many descriptors as there is room for, in this process and here, for four at least. Says whether these
/// are all.
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
    use crate::poll::wait_for_input;

    fn accept(listening: &OwnedFd) -> (OwnedFd, Option<SocketAddr>) {
        assert!(wait_for_input(listening, None).unwrap());
        try_accept(listening).unwrap().unwrap()
    }

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn who_connects_is_accepted_and_known() {
        let name = format!("multiproc-test-{}", crate::random::seed());
        let listening = listen(Place::Abstract(name.as_bytes())).unwrap();
        assert!(try_accept(&listening).unwrap().is_none());
        assert!(is_listening(&listening) && !is_listening(crate::fd_passing::pair().unwrap().0));
        let client = connect(Place::Abstract(name.as_bytes()), None).unwrap();
        let (server, address) = accept(&listening);
        assert!(address.is_none() && local_address(&server).unwrap().is_none());
        let this = (std::process::id() as i32, own_user());
        assert_eq!((peer_process(&client).unwrap(), peer_process(&server).unwrap()), (this, this));

        let listening = listen(Place::Internet(loopback())).unwrap();
        let address = local_address(&listening).unwrap().unwrap();
        let client = connect(Place::Internet(address), Some(Instant::now() + Duration::from_secs(60))).unwrap();
        let (server, peer) = accept(&listening);
        assert_eq!(peer, local_address(&client).unwrap());
        prepare_tcp(&server).unwrap();
        assert!(is_internet_stream(&server) && !is_internet_stream(crate::fd_passing::pair().unwrap().0));
    }

    #[test]
    fn packets_at_a_name() {
        let name = format!("multiproc-test-{}", crate::random::seed());
        let name = name.as_bytes();
        let refused = connect_for_packets(name, None).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // Other tests make copies of this process.
        let listening = crate::close_on_fork::CloseOnFork::make(packet_socket).unwrap();
        listen_for_packets(&listening, name).unwrap();
        let taken = listen_for_packets(packet_socket().unwrap(), name).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let client = connect_for_packets(name, None).unwrap();
        assert!(wait_for_input(&listening, None).unwrap());
        let (server, _) = try_accept(&listening).unwrap().unwrap();
        crate::fd_passing::send(&client, &[b"one"], &[]).unwrap();
        crate::fd_passing::send(&client, &[b"another"], &[]).unwrap();
        assert_eq!(crate::fd_passing::peek(&server, &mut [], true).unwrap(), 3);
        assert!(crate::fd_passing::is_packet_socket(server.as_fd()));
        // Streams have names of their own.
        let _streams = listen(Place::Abstract(name)).unwrap();
        // The name goes with the listening socket, whoever is connected.
        drop(listening);
        listen_for_packets(packet_socket().unwrap(), name).unwrap();
    }

    #[test]
    fn bytes_and_the_end() {
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
        assert_eq!(has_input(&b).unwrap(), None);
        assert_eq!((try_append(&b, &mut bytes, 9).unwrap(), try_read(&b, &mut [0; 4]).unwrap()), (0, 0));
        assert_eq!(try_write(&b, [b"x"]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_mark_belongs_to_the_socket() {
        let listening = listen(Place::Internet(loopback())).unwrap();
        let address = local_address(&listening).unwrap().unwrap();
        let client = connect(Place::Internet(address), None).unwrap();
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
        assert!(wait_for_input(&server, None).unwrap());
        assert_eq!(has_input(&server).unwrap(), None);
    }

    #[test]
    fn descriptors_come_with_the_bytes() {
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
    fn nobody_waits_for_longer_than_told() {
        assert_eq!(
            connect(Place::Abstract(b"multiproc-nobody"), None).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        // With nobody to accept, and nobody more to stand in line.
        let name = format!("multiproc-test-{}", crate::random::seed());
        let listening = listen(Place::Abstract(name.as_bytes())).unwrap();
        rustix::net::listen(&listening, 0).unwrap();
        let _first = connect(Place::Abstract(name.as_bytes()), None).unwrap();
        let soon = Instant::now() + Duration::from_millis(20);
        let error = connect(Place::Abstract(name.as_bytes()), Some(soon)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(Instant::now() >= soon);
    }

    /// One that has slept till its deadline learns all the same what is said at once.
    #[test]
    fn it_is_tried_once_however_late_it_is() {
        let name = format!("multiproc-test-{}", crate::random::seed());
        let place = Place::Abstract(name.as_bytes());
        let past = Some(Instant::now());
        assert_eq!(connect(place, past).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let listening = listen(place).unwrap();
        connect(place, past).unwrap();
        rustix::net::listen(&listening, 0).unwrap();
        assert_eq!(connect(place, past).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_path_may_be_longer_than_the_kernel_takes() {
        let directory = std::env::temp_dir().join(format!("multiproc-{}-{}", std::process::id(), "x".repeat(150)));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("socket");
        let listening = listen(Place::File(&path)).unwrap();
        let _client = connect(Place::File(&path), None).unwrap();
        accept(&listening);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
