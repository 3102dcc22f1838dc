//! Open files, pipe ends and sockets in arguments and results: [`Handle`], and this module for `#[serde(with = "multiproc::handle")]`.
//!
//! A descriptor means something in its own process only, so what travels is a duplicate, which the kernel gives to the other process
//! (`SCM_RIGHTS`, unix(7)) beside the bytes of the value. Anything that can be borrowed as a descriptor and made from one can go: `File`,
//! `TcpStream`, `TcpListener`, `UdpSocket`, `UnixStream`, `UnixListener`, `UnixDatagram`, `PipeReader`, `PipeWriter`, `OwnedFd`, what
//! `ChildStdin` and the like turn into, and types of other crates.
//!
//! In a struct of one's own, the attribute spares the wrapper:
//!
//! ```
//! use std::fs::File;
//! use std::io::Read;
//!
//! use multiproc::Run;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Count {
//!     what: u8,
//!     #[serde(with = "multiproc::handle")]
//!     file: File,
//! }
//!
//! impl Run for Count {
//!     type Output = std::io::Result<usize>;
//!
//!     fn run(mut self) -> std::io::Result<usize> {
//!         let mut bytes = Vec::new();
//!         self.file.read_to_end(&mut bytes)?;
//!         Ok(bytes.into_iter().filter(|byte| *byte == self.what).count())
//!     }
//! }
//!
//! # #[multiproc::main]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let child = Count { what: b'\n', file: File::open("/proc/version")? }.start()?;
//! assert_eq!(child.join()??, 1);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::transfer::fd_table;

/// An open file, pipe end or socket that can travel to another process of this program: as an argument or a result, or anywhere inside one
/// (in a `Vec`, a `HashMap`, an `Option`, a field of a struct or enum, a tuple).
///
/// It derefs to what it holds. The sender keeps its own until it drops it; the receiver gets a descriptor of its own, close-on-exec, for the
/// same open file: the two share its position, its locks and its end. So the reader of a pipe comes to the end when *all* who have been
/// given the writer have dropped it, or died.
///
/// ```
/// use std::io::{PipeWriter, Read, Write};
///
/// use multiproc::{Handle, Process};
///
/// fn speak(mut pipe: Handle<PipeWriter>) -> std::io::Result<()> {
///     pipe.write_all(b"hello")
/// }
///
/// # #[multiproc::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (mut reader, writer) = std::io::pipe()?;
/// let child = Process::new(speak, (writer.into(),)).start()?; // the parent's writer is dropped here
/// let mut text = String::new();
/// reader.read_to_string(&mut text)?; // to the end: the child has gone
/// assert_eq!(text, "hello");
/// child.join()??;
/// # Ok(())
/// # }
/// ```
///
/// There may be any number of them in a value, as far as the limit of open files (`RLIMIT_NOFILE`) allows: while a value is sent, its sender
/// has two of each. Serialising one to anywhere else, to JSON say, is an error.
///
/// Sending makes and closes duplicates in the sender, and with any of them the kernel lets go of record locks of the old kind (`F_SETLK` of
/// fcntl(2), which belong to a process and not to a descriptor). Those of `File::lock` stay.
pub struct Handle<T>(T);

impl<T> Handle<T> {
    /// A handle that holds `inner`. `From` does the same.
    pub fn new(inner: T) -> Handle<T> {
        Handle(inner)
    }

    /// What it holds.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> From<T> for Handle<T> {
    fn from(inner: T) -> Handle<T> {
        Handle(inner)
    }
}

impl<T> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Handle<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: AsFd> AsFd for Handle<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// As that of what it holds.
impl<T: fmt::Debug> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: AsFd> Serialize for Handle<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de, T: From<OwnedFd>> Deserialize<'de> for Handle<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Handle<T>, D::Error> {
        deserialize(deserializer).map(Handle)
    }
}

/// What stands in the bytes for a handle. It has a name, lest a self-describing format take it for a number.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Handle", deny_unknown_fields)]
struct Place {
    #[serde(rename = "multiproc::handle")]
    place: u32,
}

/// For `#[serde(with = "multiproc::handle")]`: sends a duplicate along, and writes down which it is.
///
/// # Errors
/// When the serializer is none of multiproc's, or no descriptor is left for the duplicate (`EMFILE`).
pub fn serialize<T: AsFd, S: Serializer>(handle: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let place = fd_table::insert(handle.as_fd()).map_err(serde::ser::Error::custom)?;
    Place { place }.serialize(serializer)
}

/// As [`serialize`], of a descriptor that is made to be sent.
pub(crate) fn serialize_made<S: Serializer>(
    make: impl FnOnce() -> std::io::Result<OwnedFd>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let place = fd_table::insert_with(make).map_err(serde::ser::Error::custom)?;
    Place { place }.serialize(serializer)
}

/// For `#[serde(with = "multiproc::handle")]`: takes what has been sent along.
///
/// # Errors
/// When the deserializer is none of multiproc's.
pub fn deserialize<'de, T: From<OwnedFd>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let Place { place } = Place::deserialize(deserializer)?;
    fd_table::take(place).map(T::from).map_err(serde::de::Error::custom)
}
