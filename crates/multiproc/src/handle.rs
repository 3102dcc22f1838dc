//! Open files, pipe ends and sockets in arguments and results: [`Handle`], and this module for
//! `#[serde(with = "multiproc::handle")]`.
//!
//! A descriptor is valid only in its own process, so a duplicate is sent, which the kernel passes
//! to the other process (`SCM_RIGHTS`, unix(7)) along with the bytes of the value. Any type that
//! can be borrowed as a descriptor and made from one can be sent: `File`, `TcpStream`,
//! `TcpListener`, `UdpSocket`, `UnixStream`, `UnixListener`, `UnixDatagram`, `PipeReader`,
//! `PipeWriter`, `OwnedFd`, what `ChildStdin` and the like convert into, and types of other crates.
//!
//! In your own structs, the attribute makes the wrapper unnecessary:
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

/// An open file, pipe end or socket that can be sent to another process of this program: as an
/// argument or a result, or anywhere inside one (in a `Vec`, a `HashMap`, an `Option`, a field of a
/// struct or enum, a tuple).
///
/// It derefs to the value it holds. The sender keeps its own descriptor until it drops it; the
/// receiver gets a descriptor of its own, close-on-exec, for the same open file: the two share its
/// position and its locks. So the reader of a pipe sees the end of the stream only when *all*
/// processes that have been given the writer have dropped it, or died.
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
/// A value may contain any number of handles, as far as the limit of open files (`RLIMIT_NOFILE`)
/// allows: while a value is sent, its sender has two descriptors for each. Serialising a handle to
/// anything else, such as JSON, is an error.
///
/// Sending makes and closes duplicates in the sender, and closing any of them makes the kernel
/// release the process's traditional record locks on that file (`F_SETLK` of fcntl(2), which belong
/// to a process and not to a descriptor). Locks of `File::lock` are kept.
pub struct Handle<T>(T);

impl<T> Handle<T> {
    /// Makes a handle that holds `inner`. `From` does the same.
    pub fn new(inner: T) -> Handle<T> {
        Handle(inner)
    }

    /// Returns the value it holds.
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

/// The `Debug` output of the value it holds.
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

/// The encoded form of a handle: its index among the descriptors of the message. The field has a
/// name so that a self-describing format doesn't take it for a number.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Handle", deny_unknown_fields)]
struct HandleIndex {
    #[serde(rename = "multiproc::handle")]
    index: u32,
}

/// For `#[serde(with = "multiproc::handle")]`: sends a duplicate of the descriptor along, and
/// serialises its index.
///
/// # Errors
/// If the serializer is not multiproc's, or no descriptor is left for the duplicate (`EMFILE`).
pub fn serialize<T: AsFd, S: Serializer>(handle: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let index = fd_table::insert(handle.as_fd()).map_err(serde::ser::Error::custom)?;
    HandleIndex { index }.serialize(serializer)
}

/// Like [`serialize`], for a descriptor that `make` creates for sending.
pub(crate) fn serialize_made<S: Serializer>(
    make: impl FnOnce() -> std::io::Result<OwnedFd>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let index = fd_table::insert_with(make).map_err(serde::ser::Error::custom)?;
    HandleIndex { index }.serialize(serializer)
}

/// For `#[serde(with = "multiproc::handle")]`: takes the descriptor that was sent along.
///
/// # Errors
/// If the deserializer is not multiproc's.
pub fn deserialize<'de, T: From<OwnedFd>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let HandleIndex { index } = HandleIndex::deserialize(deserializer)?;
    fd_table::take(index).map(T::from).map_err(serde::de::Error::custom)
}
