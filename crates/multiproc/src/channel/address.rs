//! Where a listener is, and who is at the other end.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use multiproc_os::random;
use multiproc_os::socket::Place;
use serde::{Deserialize, Serialize};

/// Where a [`Listener`](crate::Listener) is, and others [`connect`](crate::connect) to.
///
/// It can be sent to other processes. A path, as `&str`, `&Path` or `PathBuf`, and a [`SocketAddr`] (or the pair that is one) turn into one. A text is a path, whatever it looks like; what
/// may be any of them, as from a command line, is [parsed](str::parse).
///
/// ```
/// use multiproc::Address;
///
/// assert_eq!(Address::from("/run/my.socket").to_string(), "/run/my.socket");
/// let address: std::net::SocketAddr = "127.0.0.1:5000".parse().unwrap();
/// assert_eq!(Address::from(address), Address::Tcp(address));
/// assert_eq!(Address::from(([127, 0, 0, 1], 5000)), Address::Tcp(address));
///
/// assert_eq!("127.0.0.1:5000".parse(), Ok(Address::Tcp(address)));
/// assert_eq!("@name".parse(), Ok(Address::Abstract(b"name".to_vec())));
/// assert_eq!("/run/my.socket".parse(), Ok(Address::Unix("/run/my.socket".into())));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Address {
    /// A Unix socket at this file. Only who may write to the file can connect; a listener makes it with mode 0600. The fastest, with the one
    /// below: once connected, the two are as the ends of a [`pipe`](crate::pipe).
    Unix(PathBuf),
    /// A Unix socket at this abstract name (see unix(7)): no file, so nothing is left of it, and no permissions. Anybody on the machine, or in the
    /// same network namespace, can connect; without a key, only processes of the same user or of root are accepted.
    Abstract(Vec<u8>),
    /// A TCP socket. Port 0 lets the system choose one: [`Listener::local_address`](crate::Listener::local_address) says which.
    Tcp(SocketAddr),
}

/// The room in `sockaddr_un`, less the zero in front.
const LONGEST_NAME: usize = 107;

impl Address {
    /// An abstract name that nobody else has.
    pub fn unique() -> Address {
        Address::Abstract(format!("multiproc-{:016x}{:016x}", random::seed(), random::seed()).into_bytes())
    }

    /// Says what is wrong with an address at which no process can ever listen, where the system's
    /// own words wouldn't.
    ///
    /// # Errors
    /// `InvalidInput`, `InvalidFilename`.
    pub(crate) fn check(&self) -> io::Result<()> {
        let (kind, what) = match self {
            Address::Unix(path) if path.as_os_str().is_empty() => (io::ErrorKind::InvalidInput, "the path is empty"),
            Address::Unix(path) if path.as_os_str().as_bytes().contains(&0) => {
                (io::ErrorKind::InvalidInput, "the path has a zero byte in it")
            }
            Address::Abstract(name) if name.is_empty() => (io::ErrorKind::InvalidInput, "the abstract name is empty"),
            Address::Abstract(name) if name.len() > LONGEST_NAME => {
                (io::ErrorKind::InvalidFilename, "an abstract name has at most 107 bytes")
            }
            _ => return Ok(()),
        };
        Err(io::Error::new(kind, what))
    }

    pub(crate) fn place(&self) -> Place<'_> {
        match self {
            Address::Unix(path) => Place::File(path),
            Address::Abstract(name) => Place::Abstract(name),
            Address::Tcp(address) => Place::Internet(*address),
        }
    }
}

/// A path; an abstract name with an @ in front, as tools write it; address and port.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => path.display().fmt(f),
            Address::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
            Address::Tcp(address) => address.fmt(f),
        }
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Address {
        Address::Unix(path)
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Address {
        Address::Unix(path.to_owned())
    }
}

impl From<&str> for Address {
    fn from(path: &str) -> Address {
        Address::Unix(path.into())
    }
}

impl From<String> for Address {
    fn from(path: String) -> Address {
        Address::Unix(path.into())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Address {
    fn from(address: (I, u16)) -> Address {
        Address::Tcp(address.into())
    }
}

/// What [`Display`](fmt::Display) writes: an IP address with a port; an abstract name with an @ in front; or else a path.
impl FromStr for Address {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Address, Infallible> {
        Ok(match (text.parse(), text.strip_prefix('@')) {
            (Ok(address), _) => Address::Tcp(address),
            (_, Some(name)) => Address::Abstract(name.into()),
            _ => Address::Unix(text.into()),
        })
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Address {
        address.clone()
    }
}

/// Who has made the other end of a connection, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Peer {
    /// Whoever has been given the other end of a pipe.
    Pipe,
    /// The process of this id has connected or accepted.
    Process(i32),
    /// Somebody at this address.
    Address(SocketAddr),
    /// A process of this machine that this one can't see: it is in another namespace.
    Hidden,
}

impl Peer {
    /// The one of this process id, which is 0 for one that can't be seen.
    pub(crate) fn process(pid: i32) -> Peer {
        if pid == 0 { Peer::Hidden } else { Peer::Process(pid) }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Pipe => f.write_str("the other end of a pipe"),
            Peer::Process(pid) => write!(f, "process {pid}"),
            Peer::Address(address) => address.fmt(f),
            Peer::Hidden => f.write_str("a process of another namespace"),
        }
    }
}
