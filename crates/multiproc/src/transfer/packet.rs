//! Bytes and file descriptors from one process to another, as one message on a sequenced-packet socket.
//!
//! A message is a header of 16 bytes and a body:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | `b"mpkt"` |
//! | 4..6 | version of this format, little-endian: 1 |
//! | 6 | kind, the affair of those who talk |
//! | 7 | 1 if the body is in a sealed memory file, the last of the descriptors; else 0 |
//! | 8..16 | length of the body, little-endian |
//!
//! A body of more than [`INLINE`] bytes goes by memory file, so a message never fills a socket's buffer: sending blocks nobody, and
//! there is no limit to the size of a body. Whatever doesn't look like this is a [`PacketError`].

use std::borrow::Cow;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multiproc_os::fd_passing;
use multiproc_os::memfd::{self, Sealed};

/// Bodies up to this many bytes lie in the message itself.
pub(crate) const INLINE: usize = 32 * 1024;

const MAGIC: [u8; 4] = *b"mpkt";
const VERSION: u16 = 1;
const HEADER: usize = 16;

/// What is wrong with a message, or with the way it came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PacketError {
    #[error("the other side has closed the connection")]
    Closed,
    #[error("there is no message yet")]
    Empty,
    #[error("not a message of multiproc: {0}")]
    Garbage(Cow<'static, str>),
    #[error("a message of version {0}; this program speaks version {VERSION}")]
    Version(u16),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The bytes of a message, wherever they lie.
#[derive(Debug)]
pub(crate) enum Body {
    Inline(Vec<u8>),
    Mapped(Sealed),
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Body::Inline(bytes) => bytes,
            Body::Mapped(bytes) => bytes,
        }
    }
}

/// One message, as it was received.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) kind: u8,
    pub(crate) body: Body,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Sends `parts`, one after the other, as the body of one message, together with `fds`.
pub(crate) fn send(socket: impl AsFd, kind: u8, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut header = header(kind, len);
    if len <= INLINE {
        let mut whole = Vec::with_capacity(1 + parts.len());
        whole.push(&header[..]);
        whole.extend_from_slice(parts);
        match fd_passing::send(&socket, &whole, fds) {
            // Somebody made the socket buffers of this system smaller than a message.
            Err(error) if error.raw_os_error() == Some(EMSGSIZE) => {}
            result => return result,
        }
    }
    header[7] = 1;
    let memory = memfd::sealed("multiproc-message", parts)?;
    let mut fds = fds.to_vec();
    fds.push(memory.as_fd());
    fd_passing::send(&socket, &[&header], &fds)
}

/// Sends a short message, without descriptors, if the socket has room for it now; `WouldBlock` if it has not.
pub(crate) fn try_send(socket: impl AsFd, kind: u8, body: &[u8]) -> io::Result<()> {
    fd_passing::try_send(socket, &encode(kind, body))
}

fn header(kind: u8, len: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&VERSION.to_le_bytes());
    header[6] = kind;
    header[8..].copy_from_slice(&(len as u64).to_le_bytes());
    header
}

/// A message without descriptors and with a short body, for somebody who can't call [`send`]: a signal handler, say.
pub(crate) fn encode(kind: u8, body: &[u8]) -> Vec<u8> {
    debug_assert!(body.len() <= INLINE, "it lies in the message itself");
    [&header(kind, body.len())[..], body].concat()
}

/// `EMSGSIZE`, the same number on every architecture that Linux has but MIPS and the like.
const EMSGSIZE: i32 = 90;

/// Receives one message. Without `wait`, [`PacketError::Empty`] when there is none.
///
/// A message whose body is in a memory file stays where it is if this process has no descriptor left to take it: `EMFILE`.
pub(crate) fn receive(socket: impl AsFd, wait: bool) -> Result<Packet, PacketError> {
    let mut start = [0; HEADER];
    let len = match fd_passing::peek(&socket, &mut start, wait) {
        Ok(0) => return Err(PacketError::Closed),
        Ok(len) if len > HEADER + INLINE => {
            // Gone, as other garbage is: what comes behind it may be good.
            fd_passing::discard(&socket);
            return Err(PacketError::Garbage(format!("{len} bytes are more than there may be").into()));
        }
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(PacketError::Empty),
        // The other end was closed while something of ours lay unread in it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(PacketError::Closed),
        Err(error) => return Err(error.into()),
    };
    if start[7] == 1 {
        fd_passing::has_room(&socket)?;
    }
    match fd_passing::receive(&socket, len) {
        Ok(received) => parse(received.bytes, received.fds),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(PacketError::Garbage(error.to_string().into())),
        Err(error) => Err(error.into()),
    }
}

/// A message from its bytes and descriptors, none of which are to be trusted.
pub(crate) fn parse(mut bytes: Vec<u8>, mut fds: Vec<OwnedFd>) -> Result<Packet, PacketError> {
    let Some((header, inline)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(PacketError::Garbage(format!("{} bytes are too short", bytes.len()).into()));
    };
    if header[..4] != MAGIC {
        return Err(PacketError::Garbage("it starts differently".into()));
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if version != VERSION {
        return Err(PacketError::Version(version));
    }
    let kind = header[6];
    let len = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
    let body = match header[7] {
        0 if inline.len() as u64 == len => {
            bytes.drain(..HEADER);
            Body::Inline(bytes)
        }
        1 if inline.is_empty() => {
            let memory = fds.pop().ok_or(PacketError::Garbage("its body is missing".into()))?;
            match Sealed::map(memory, len) {
                Ok(mapped) => Body::Mapped(mapped),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(PacketError::Garbage(format!("its body is {error}").into()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        0 | 1 => return Err(PacketError::Garbage("its length is wrong".into())),
        other => return Err(PacketError::Garbage(format!("unknown flag {other}").into())),
    };
    Ok(Packet { kind, body, fds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_every_size() {
        for len in [0, 1, INLINE - 1, INLINE, INLINE + 1, 3_000_000] {
            let (a, b) = fd_passing::pair().unwrap();
            let body: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (left, right) = body.split_at(len / 3);
            send(&a, 9, &[left, right], &[a.as_fd()]).unwrap();
            let packet = receive(&b, true).unwrap();
            assert_eq!((packet.kind, packet.fds.len()), (9, 1));
            assert!(*packet.body == body, "{len} bytes");
        }
    }

    #[test]
    fn garbage_makes_way_for_what_comes_behind_it() {
        let (a, b) = fd_passing::pair().unwrap();
        fd_passing::send(&a, &[&[7; HEADER + INLINE + 1]], &[]).unwrap();
        fd_passing::send(&a, &[b"short"], &[]).unwrap();
        try_send(&a, 4, b"good").unwrap();
        for _ in 0..2 {
            assert!(matches!(receive(&b, true), Err(PacketError::Garbage(_))));
        }
        let packet = receive(&b, true).unwrap();
        assert_eq!((packet.kind, &*packet.body), (4, &b"good"[..]));
    }

    #[test]
    fn empty_and_closed_are_told_apart() {
        let (a, b) = fd_passing::pair().unwrap();
        assert!(matches!(receive(&b, false), Err(PacketError::Empty)));
        drop(a);
        assert!(matches!(receive(&b, false), Err(PacketError::Closed)));
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = 7;
        let error = parse(bytes, vec![]).unwrap_err();
        assert!(matches!(error, PacketError::Version(7)));
        assert!(error.to_string().contains("version 7"));
    }

    #[test]
    fn garbage_is_an_error() {
        let (a, b) = fd_passing::pair().unwrap();
        send(&a, 1, &[b"body"], &[]).unwrap();
        let good = fd_passing::receive(&b, HEADER + 4).unwrap().bytes;
        assert!(parse(good.clone(), vec![]).is_ok());
        for cut in 0..good.len() {
            assert!(parse(good[..cut].to_vec(), vec![]).is_err(), "cut at {cut}");
        }
        for at in (0..6).chain(7..HEADER) {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            assert!(parse(bad, vec![]).is_err(), "byte {at}");
        }
        let mut no_memory = good[..HEADER].to_vec();
        no_memory[7] = 1;
        assert!(matches!(parse(no_memory.clone(), vec![]), Err(PacketError::Garbage(_))));
        assert!(matches!(parse(no_memory, vec![a]), Err(PacketError::Garbage(_))));
    }
}
