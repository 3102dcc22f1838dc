//! [`connect`]: the client's side of the handshake with a
//! [`Listener`](crate::connection::Listener). [CONNECTION.md](CONNECTION.md) has the protocol.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use multiproc_os::{fd_passing, poll, socket};
use multiproc_shm::wait::deadline::Deadline;

use super::address::{Address, Peer};
use super::auth::{self, HeaderError, Key, NAME, Role, Transcript};
use super::connection::{Connection, Ends, Link};
use super::link_error::{ConnectError, ConnectErrorKind, is_absent};
use super::listener::MAX_MESSAGE;

/// The timeout of [`connect`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// The first and the longest pause before another attempt, when the listener had too many clients.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// The maximum number of attempts at which the connection is lost during the handshake. The
/// listener may have refused the client for lack of room; see [`is_reset`].
const MAX_RESETS: u32 = 10;

/// Connects to a [`Listener`](crate::connection::Listener) at `address` that has the same key, in
/// any process of this or another program. Python's `multiprocessing.connection.Client`.
///
/// The types mirror those of the other side: what this end sends, the other end receives. Waits
/// until the listener accepts, for up to 20 seconds; see [`connect_timeout`]. If the listener has
/// no room for another client at the moment, this tries again within that time.
///
/// See [`Listener`](crate::connection::Listener) for an example, and for what a key protects
/// against.
///
/// # Errors
/// [`ConnectError`], with the reason: no process listens there, the keys differ, the peer speaks
/// another protocol, the time was not enough.
pub fn connect<S, R>(
    address: impl Into<Address>,
    key: impl Into<Option<Key>>,
) -> Result<Connection<S, R>, ConnectError> {
    connect_timeout(address, key, CONNECT_TIMEOUT)
}

/// Like [`connect`], but waits for at most `timeout` (`None`: for as long as it takes).
///
/// ```
/// use std::time::Duration;
///
/// use multiproc::connection::{Address, Listener, connect_timeout};
///
/// let address = Address::unique();
/// let timeout = Duration::from_millis(10);
/// assert!(connect_timeout::<u8, u8>(&address, None, timeout).unwrap_err().is_absent());
/// let listener = Listener::bind(&address, None)?; // which does not accept
/// let error = connect_timeout::<u8, u8>(&address, None, timeout).unwrap_err();
/// assert!(error.to_string().ends_with("timed out"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The errors of [`connect`].
pub fn connect_timeout<S, R>(
    address: impl Into<Address>,
    key: impl Into<Option<Key>>,
    timeout: impl Into<Option<Duration>>,
) -> Result<Connection<S, R>, ConnectError> {
    let (address, key) = (address.into(), key.into());
    let deadline = Deadline::from_now(timeout).instant();
    let (mut pause, mut resets) = (FIRST_PAUSE, 0);
    loop {
        let kind = match link(&address, key.as_ref(), deadline) {
            Ok(link) => return Ok(Connection::of(link, MAX_MESSAGE)),
            Err(kind) => kind,
        };
        let (kind, is_retried) = match kind {
            ConnectErrorKind::TooManyClients => (kind, true),
            ConnectErrorKind::Io(error) if is_reset(&error) => {
                resets += 1;
                (ConnectErrorKind::Disconnected, resets < MAX_RESETS)
            }
            // The listener existed at the previous try, so it has closed rather than never been
            // there.
            ConnectErrorKind::Io(error) if resets > 0 && is_absent(&error) => (ConnectErrorKind::Disconnected, false),
            other => (other, false),
        };
        let now = Instant::now();
        let is_over = deadline.is_some_and(|deadline| deadline.saturating_duration_since(now) <= pause);
        if !is_retried || is_over {
            return Err(ConnectError { address, kind });
        }
        // No event tells when there is room again. Random pauses keep clients that were refused
        // together from coming back together.
        std::thread::sleep(pause.mul_f64(0.5 + (multiproc_os::random::seed() % 1024) as f64 / 2048.0));
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

fn link(address: &Address, key: Option<&Key>, deadline: Option<Instant>) -> Result<Link, ConnectErrorKind> {
    if key.is_some_and(|key| key.as_bytes().is_empty()) {
        return Err(ConnectErrorKind::Io(io::Error::new(io::ErrorKind::InvalidInput, "the key is empty")));
    }
    address.check().map_err(ConnectErrorKind::Io)?;
    let keyed = key.is_some();
    let dial = || {
        let socket = socket::connect(address.socket_address(), deadline).map_err(system)?;
        if let Address::Tcp(_) = address {
            socket::prepare_tcp(&socket).map_err(system)?;
        }
        Ok::<_, ConnectErrorKind>(HandshakeSocket { socket, deadline, keyed })
    };
    let connection = dial()?;
    let peer = match address {
        Address::Tcp(address) => Peer::Address(*address),
        Address::Unix(_) | Address::Abstract(_) => {
            let (pid, user) = socket::peer_process(&connection.socket).map_err(ConnectErrorKind::Io)?;
            let is_ours = user == socket::own_user() || user == 0;
            // Any process may take an abstract name. At a path, the permissions of the directory
            // decide which users can create the socket.
            if matches!(address, Address::Abstract(_)) && !keyed && !is_ours {
                return Err(ConnectErrorKind::OtherUser);
            }
            Peer::process(pid)
        }
    };

    let client = auth::random().map_err(ConnectErrorKind::Io)?;
    connection.send(&auth::hello(keyed, &client))?;
    let listener = connection.receive(&mut Vec::new())?;
    let transcript = Transcript { client, listener };
    connection.send(&transcript.prove(key, Role::Client, &[0; NAME]))?;

    let mut fds = Vec::new();
    let rest: [u8; auth::WELCOME - auth::HEADER] = connection.receive(&mut fds)?;
    let (name, proof) = rest.split_first_chunk::<NAME>().expect("a welcome is longer than a name");
    if !transcript.is_proof(key, Role::Listener, name, proof) {
        return Err(ConnectErrorKind::WrongKey);
    }
    if let Address::Tcp(_) = address {
        // The other direction is a TCP connection of its own, see `CONNECTION.md`.
        let second = dial()?;
        second.send(&auth::second(keyed, name, &transcript.prove(key, Role::SecondHalf, name)))?;
        second.receive::<0>(&mut Vec::new()).map_err(|kind| match kind {
            // The listener had no descriptor for this connection, and could only say so on the
            // first one.
            ConnectErrorKind::Disconnected => ConnectErrorKind::Io(io::ErrorKind::ConnectionReset.into()),
            other => other,
        })?;
        return Ok(Link { peer, ends: Ends::Tcp { to: connection.socket, from: second.socket } });
    }
    match <[OwnedFd; 2]>::try_from(fds) {
        Ok([to, from]) if [&to, &from].iter().all(|fd| fd_passing::is_packet_socket(std::os::fd::AsFd::as_fd(fd))) => {
            Ok(Link { peer, ends: Ends::Local { to, from } })
        }
        _ => Err(ConnectErrorKind::OtherProtocol("it did not send two sockets")),
    }
}

/// Translates an error of the system: a timeout has a kind of its own.
fn system(error: io::Error) -> ConnectErrorKind {
    use io::ErrorKind::*;
    match error.kind() {
        TimedOut => ConnectErrorKind::Timeout,
        _ => ConnectErrorKind::Io(error),
    }
}

/// Whether the connection was lost, possibly with the listener's last message: over TCP, data sent
/// to a peer that has closed its socket is answered by a reset, which discards what has arrived but
/// has not been read yet.
fn is_reset(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// A connection during the handshake.
struct HandshakeSocket {
    socket: OwnedFd,
    deadline: Option<Instant>,
    keyed: bool,
}

impl HandshakeSocket {
    /// Sends all of `bytes`. If the peer is gone, that is not an error here: the next read tells,
    /// after what the peer may have sent last.
    fn send(&self, bytes: &[u8]) -> Result<(), ConnectErrorKind> {
        let mut gone = 0;
        while gone < bytes.len() {
            match socket::try_write(&self.socket, [&bytes[gone..]]) {
                Ok(written) => gone += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !poll::wait_writable(&self.socket, self.deadline).map_err(ConnectErrorKind::Io)? {
                        return Err(ConnectErrorKind::Timeout);
                    }
                }
                Err(error) if is_reset(&error) => return Ok(()),
                Err(error) => return Err(system(error)),
            }
        }
        Ok(())
    }

    /// Reads a header, checks it, and returns the `N` bytes after it, with the descriptors.
    fn receive<const N: usize>(&self, fds: &mut Vec<OwnedFd>) -> Result<[u8; N], ConnectErrorKind> {
        let mut header = [0; auth::HEADER];
        self.read(&mut header, fds)?;
        auth::read_status(&header, self.keyed).map_err(|error| match error {
            HeaderError::Client => ConnectErrorKind::OtherProtocol("it is a client itself"),
            HeaderError::OtherProtocol => ConnectErrorKind::OtherProtocol("it speaks another protocol"),
            HeaderError::Version(version) => ConnectErrorKind::OtherVersion(version),
            HeaderError::Refused(auth::REFUSED_VERSION) => ConnectErrorKind::OtherVersion(header[4]),
            HeaderError::Refused(auth::REFUSED_KEY_MISSING) => ConnectErrorKind::KeyMissing,
            HeaderError::Refused(auth::REFUSED_KEY_UNKNOWN) => ConnectErrorKind::KeyUnknown,
            HeaderError::Refused(auth::REFUSED_KEY_WRONG) => ConnectErrorKind::WrongKey,
            HeaderError::Refused(auth::REFUSED_USER) => ConnectErrorKind::OtherUser,
            HeaderError::Refused(auth::REFUSED_NO_DESCRIPTORS | auth::REFUSED_TOO_MANY) => {
                ConnectErrorKind::TooManyClients
            }
            HeaderError::Refused(_) => ConnectErrorKind::OtherProtocol("it refused for an unknown reason"),
        })?;
        let mut rest = [0; N];
        self.read(&mut rest, fds)?;
        Ok(rest)
    }

    fn read(&self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<(), ConnectErrorKind> {
        let mut got = 0;
        while got < buffer.len() {
            match socket::try_read_with_fds(&self.socket, &mut buffer[got..], fds) {
                Ok(0) => return Err(ConnectErrorKind::Disconnected),
                Ok(read) => got += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !poll::wait_readable(&self.socket, self.deadline).map_err(ConnectErrorKind::Io)? {
                        return Err(ConnectErrorKind::Timeout);
                    }
                }
                Err(error) => return Err(system(error)),
            }
        }
        Ok(())
    }
}

/// For fuzzers: whether a client accepts these bytes from a listener.
#[cfg(any(test, fuzzing))]
pub(crate) fn hears(bytes: &[u8], keyed: bool) -> bool {
    let (socket, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    io::Write::write_all(&mut &theirs, bytes).expect("there is room for a few bytes");
    drop(theirs);
    let connection = HandshakeSocket { socket: socket.into(), deadline: None, keyed };
    connection.receive::<{ auth::ANSWER - auth::HEADER }>(&mut Vec::new()).is_ok()
        && connection.receive::<{ auth::WELCOME - auth::HEADER }>(&mut Vec::new()).is_ok()
}
