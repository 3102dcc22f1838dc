//! [`Address`] of a listener, and [`Peer`]: which process or address is at the other end of a
//! connection.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use multiproc_os::random;
use multiproc_os::socket::SocketAddress;
use serde::{Deserialize, Serialize};

/// The address of a [`Listener`](crate::connection::Listener), to which clients
/// [`connect`](crate::connection::connect).
///
/// An address can be sent to other processes. Paths (`&str`, `&Path`, `PathBuf`) and
/// [`SocketAddr`]s (or pairs of an IP address and a port) convert into one. Converting a string
/// always makes a path, whatever it looks like; [parse](str::parse) a string that may be any kind
/// of address, such as a command-line argument.
///
/// ```
/// use multiproc::connection::Address;
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
    /// A Unix socket at this path. Only processes that may write to the file can connect; a
    /// listener creates it with mode 0600. Together with `Abstract` the fastest kind: the two sides
    /// are then connected like the ends of a [`pipe`](crate::pipe).
    Unix(PathBuf),
    /// A Unix socket at this abstract name (see unix(7)). There is no file, so nothing is left
    /// behind, and no permissions: any process on the machine, in the same network namespace, can
    /// connect. Without a key, only processes of the same user or of root are accepted.
    Abstract(Vec<u8>),
    /// A TCP socket. With port 0 the system chooses the port:
    /// [`Listener::local_address`](crate::connection::Listener::local_address) returns it.
    Tcp(SocketAddr),
}

/// The size of the name in `sockaddr_un`, less the zero byte that makes it abstract.
const MAX_NAME_LEN: usize = 107;

impl Address {
    /// Returns a random abstract name, which no other listener has.
    pub fn unique() -> Address {
        Address::Abstract(format!("multiproc-{:016x}{:016x}", random::seed(), random::seed()).into_bytes())
    }

    /// Returns an error for an address at which no process can ever listen, if the system's own
    /// error would not say why.
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
            Address::Abstract(name) if name.len() > MAX_NAME_LEN => {
                (io::ErrorKind::InvalidFilename, "an abstract name has at most 107 bytes")
            }
            _ => return Ok(()),
        };
        Err(io::Error::new(kind, what))
    }

    pub(crate) fn socket_address(&self) -> SocketAddress<'_> {
        match self {
            Address::Unix(path) => SocketAddress::File(path),
            Address::Abstract(name) => SocketAddress::Abstract(name),
            Address::Tcp(address) => SocketAddress::Internet(*address),
        }
    }
}

/// Writes a path; an abstract name with an @ in front, as other tools do; or an IP address and
/// port.
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

/// Reads what [`Display`](fmt::Display) writes: an IP address with a port; an abstract name with an
/// @ in front; anything else is a path.
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

/// The other end of a connection, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Peer {
    /// The other end of a pipe, in whatever process it is.
    Pipe,
    /// The process with this id has connected or accepted.
    Process(i32),
    /// The other end has this address.
    Address(SocketAddr),
    /// A process of this machine that this one can't see, because it is in another PID namespace.
    Hidden,
}

impl Peer {
    /// The peer with this process id; 0 stands for a process that this one can't see.
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
