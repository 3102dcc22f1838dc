//! Bytes and file descriptors from one process to another, as one message on a sequenced-packet
//! socket (`SOCK_SEQPACKET`, unix(7)).
//!
//! A message is a header of 32 bytes; a front, which says what the message is about; and a payload,
//! the value that it carries, if there is one.
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..4 | `b"mpkt"` |
//! | 4..6 | version of this format, little-endian like all numbers: 2 |
//! | 6 | kind of the message, which only its sender and receiver interpret |
//! | 7 | 1 if the front is in a sealed memory file, plus 2 if the payload is in one |
//! | 8..16 | length of the front |
//! | 16..24 | length of the payload |
//! | 24..28 | number of the payload's handles |
//! | 28..30 | number of the payload's descriptors (many handles are packed, see `fd_bundle.rs`) |
//! | 30..32 | number of all descriptors: the message's own, the payload's, the memory files |
//!
//! A front or payload of more than [`INLINE`] bytes goes in a memory file. So a message never fills
//! a socket's buffer, and there is no limit to the size of a body. A message in any other format is
//! a [`PacketError`].

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use multiproc_os::errno::EMSGSIZE;
use multiproc_os::fd_passing;
use multiproc_os::memfd::{self, Sealed};

use crate::message::fd_bundle::FdBundle;
pub use crate::message::payload::INLINE;
use crate::message::payload::{Bytes, Payload};

const MAGIC: [u8; 4] = *b"mpkt";
const VERSION: u16 = 2;
/// Length of a message's header, in bytes.
pub const HEADER: usize = 32;

/// Bodies of at most this many bytes are copied behind the header by [`try_send_body`].
const SMALL: usize = 480;

/// Flags in byte 7 of the header.
const FRONT_IN_FILE: u8 = 1;
const PAYLOAD_IN_FILE: u8 = 2;

/// Why no message could be received.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The peer has closed the connection.
    #[error("the peer has closed the connection")]
    Closed,
    /// No message has come yet; only from calls that don't wait.
    #[error("there is no message yet")]
    Empty,
    /// What came is not a message, or a broken one: the reason.
    #[error("not a message of multiproc: {0}")]
    Corrupt(Cow<'static, str>),
    /// The message has this version of the format, which this program doesn't know.
    #[error("a message of version {0}; this program speaks version {VERSION}")]
    Version(u16),
    /// The kernel could not deliver the descriptors of a message, as the process has too many.
    #[error("a message was lost: there was no room for the descriptors that came with it")]
    Lost,
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A received message.
#[derive(Debug)]
pub struct Packet {
    /// The kind of message, as its sender has set it.
    pub kind: u8,
    /// The bytes before the payload.
    pub front: Bytes,
    /// The payload, with its handles.
    pub payload: Payload,
    /// The message's own descriptors.
    pub fds: Vec<OwnedFd>,
}

impl Packet {
    /// Returns the front: what the message is about.
    pub fn front(&self) -> &[u8] {
        match &self.front {
            Bytes::Inline(bytes) => bytes,
            Bytes::Mapped(bytes) => bytes,
            Bytes::File { .. } => unreachable!("what was received has been mapped"),
        }
    }
}

/// Sends `parts`, one after the other, as the front of a message without payload, together with
/// `fds`.
pub fn send(socket: impl AsFd, kind: u8, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket, kind, parts, fds, &Payload::default())
}

/// As [`send`], with a payload.
pub fn send_with(
    socket: impl AsFd,
    kind: u8,
    parts: &[&[u8]],
    fds: &[BorrowedFd<'_>],
    payload: &Payload,
) -> io::Result<()> {
    send_by(parts, kind, fds, payload, |whole, fds| fd_passing::send(&socket, whole, fds))
}

/// As [`send_with`], if the socket has room for the message now; otherwise fails with `WouldBlock`.
pub fn try_send_with(socket: impl AsFd, kind: u8, front: &[u8], payload: &Payload) -> io::Result<()> {
    send_by(&[front], kind, &[], payload, |whole, fds| fd_passing::try_send_with_fds(&socket, whole, fds))
}

/// Sends `body`, of at most [`INLINE`] bytes, as the payload of a message without front and
/// descriptors, if the socket has room for it now; otherwise fails with `WouldBlock`. The fastest
/// way to send small messages: nothing is allocated.
pub fn try_send_body(socket: impl AsFd, kind: u8, body: &[u8]) -> io::Result<()> {
    debug_assert!(body.len() <= INLINE, "it lies in the message itself");
    let mut header = header(kind, 0);
    header[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    // Copying so few bytes costs less than a vector of two buffers costs the kernel.
    let mut whole = [0; HEADER + SMALL];
    let sent = if body.len() <= SMALL {
        whole[..HEADER].copy_from_slice(&header);
        whole[HEADER..][..body.len()].copy_from_slice(body);
        fd_passing::try_send(&socket, &whole[..HEADER + body.len()])
    } else {
        fd_passing::try_send_parts(&socket, [&header, body])
    };
    match sent {
        // The socket buffers are too small for a whole message: see `send_by`.
        Err(error) if error.raw_os_error() == Some(EMSGSIZE) => try_send_with(
            socket,
            kind,
            &[],
            &Payload { bytes: Bytes::Inline(body.to_vec()), handles: FdBundle::default() },
        ),
        result => result,
    }
}

fn send_by(
    parts: &[&[u8]],
    kind: u8,
    fds: &[BorrowedFd<'_>],
    payload: &Payload,
    send: impl Fn(&[&[u8]], &[BorrowedFd<'_>]) -> io::Result<()>,
) -> io::Result<()> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let handles = payload.handles.parts();
    let mut header = header(kind, len);
    header[16..24].copy_from_slice(&payload.bytes.len().to_le_bytes());
    header[24..28].copy_from_slice(&payload.handles.count().to_le_bytes());
    header[28..30].copy_from_slice(&small(handles.len())?.to_le_bytes());
    let fds: Vec<BorrowedFd<'_>> = fds.iter().copied().chain(handles.iter().map(AsFd::as_fd)).collect();
    let mut transmit = |in_files: u8| {
        let front = if in_files & FRONT_IN_FILE == 0 { None } else { Some(memfd::sealed("multiproc-message", parts)?) };
        let made = match &payload.bytes {
            Bytes::Inline(bytes) if in_files & PAYLOAD_IN_FILE != 0 => {
                Some(memfd::sealed("multiproc-value", &[bytes])?)
            }
            // A received payload is sent on. Its mapping has no descriptor any more.
            Bytes::Mapped(bytes) => Some(memfd::sealed("multiproc-value", &[bytes])?),
            Bytes::Inline(_) | Bytes::File { .. } => None,
        };
        let mut whole = vec![];
        let file = match &payload.bytes {
            Bytes::File { file, .. } => Some(file),
            _ => made.as_ref(),
        };
        let mut fds = fds.clone();
        fds.extend(front.iter().chain(file).map(AsFd::as_fd));
        header[7] = front.as_ref().map_or(0, |_| FRONT_IN_FILE) | file.map_or(0, |_| PAYLOAD_IN_FILE);
        header[30..].copy_from_slice(&small(fds.len())?.to_le_bytes());
        whole.push(&header[..]);
        if front.is_none() {
            whole.extend_from_slice(parts);
        }
        if file.is_none()
            && let Bytes::Inline(bytes) = &payload.bytes
        {
            whole.push(bytes);
        }
        send(&whole, &fds)
    };
    let in_files = if len > INLINE { FRONT_IN_FILE } else { 0 };
    match transmit(in_files) {
        // This system's socket buffers have been configured to be smaller than a message.
        Err(error) if error.raw_os_error() == Some(EMSGSIZE) => transmit(FRONT_IN_FILE | PAYLOAD_IN_FILE),
        result => result,
    }
}

fn small(number: usize) -> io::Result<u16> {
    u16::try_from(number)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"))
}

/// Sends a short message, without payload and descriptors, if the socket has room for it now;
/// otherwise fails with `WouldBlock`.
pub fn try_send(socket: impl AsFd, kind: u8, front: &[u8]) -> io::Result<()> {
    fd_passing::try_send(socket, &encode(kind, front))
}

fn header(kind: u8, len: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&VERSION.to_le_bytes());
    header[6] = kind;
    header[8..16].copy_from_slice(&(len as u64).to_le_bytes());
    header
}

/// Encodes a message with a short front and without payload and descriptors, for callers that can't
/// call [`send`]: a signal handler, say.
pub fn encode(kind: u8, front: &[u8]) -> Vec<u8> {
    debug_assert!(front.len() <= INLINE, "it lies in the message itself");
    [&header(kind, front.len())[..], front].concat()
}

/// Receives one message. Without `wait`, [`PacketError::Empty`] if there is none.
///
/// A message with descriptors, including those of memory files, stays in the socket if this process
/// has no room for all of them: `EMFILE`.
pub fn receive(socket: impl AsFd, wait: bool) -> Result<Packet, PacketError> {
    let mut start = [0; HEADER];
    let len = match fd_passing::peek(&socket, &mut start, wait) {
        Ok(0) => return Err(PacketError::Closed),
        Ok(len) if len > HEADER + 2 * INLINE => {
            // Discarded, like other malformed messages: the next one may be good.
            fd_passing::discard(&socket);
            return Err(PacketError::Corrupt(format!("{len} bytes are too many").into()));
        }
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(PacketError::Empty),
        // The other end was closed before it had read everything from this end.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(PacketError::Closed),
        Err(error) => return Err(error.into()),
    };
    let with_fds = start[30..] != [0, 0];
    match fd_passing::receive(&socket, len, with_fds) {
        Ok(received) => parse(received.bytes, received.fds),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(PacketError::Corrupt(error.to_string().into())),
        Err(error) => Err(error.into()),
    }
}

/// A message's header. None of it is to be trusted.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// The kind of message.
    pub kind: u8,
    in_files: u8,
    front_len: u64,
    payload_len: u64,
    /// The number of the payload's handles.
    pub handles: u32,
    /// The number of the payload's descriptors.
    parts: u16,
    /// The number of all descriptors of the message.
    pub fds: u16,
}

impl Head {
    /// Parses a header.
    ///
    /// # Errors
    /// [`PacketError::Corrupt`], [`PacketError::Version`].
    pub fn read(header: &[u8; HEADER]) -> Result<Head, PacketError> {
        if header[..4] != MAGIC {
            return Err(PacketError::Corrupt("it has a wrong magic number".into()));
        }
        let short = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        if short(4) != VERSION {
            return Err(PacketError::Version(short(4)));
        }
        Ok(Head {
            kind: header[6],
            in_files: header[7],
            front_len: long(8),
            payload_len: long(16),
            handles: u32::from_le_bytes(header[24..28].try_into().expect("four bytes")),
            parts: short(28),
            fds: short(30),
        })
    }

    /// Returns the payload's descriptors among `fds`, those of the message; fewer if the header
    /// announces more than there are.
    pub fn parts<'a>(&self, fds: &'a [OwnedFd]) -> &'a [OwnedFd] {
        let files = (self.in_files & (FRONT_IN_FILE | PAYLOAD_IN_FILE)).count_ones() as usize;
        let end = fds.len().saturating_sub(files);
        &fds[end.saturating_sub(self.parts.into())..end]
    }

    /// Returns whether a message with `len` bytes after its header consists of nothing but an
    /// inline payload.
    pub fn is_plain(&self, len: usize) -> bool {
        let nothing_else =
            self.in_files == 0 && self.front_len == 0 && (self.handles, self.parts, self.fds) == (0, 0, 0);
        nothing_else && self.payload_len == len as u64
    }
}

/// Parses a message from its bytes and descriptors, neither of which is to be trusted.
pub fn parse(mut bytes: Vec<u8>, mut fds: Vec<OwnedFd>) -> Result<Packet, PacketError> {
    let garbage = |what: &'static str| PacketError::Corrupt(what.into());
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(PacketError::Corrupt(format!("{} bytes are too few", bytes.len()).into()));
    };
    let Head { kind, in_files, front_len, payload_len, handles, parts, fds: count } = Head::read(header)?;
    if usize::from(count) != fds.len() {
        return Err(garbage("some of its descriptors are missing"));
    }
    if in_files & !(FRONT_IN_FILE | PAYLOAD_IN_FILE) != 0 {
        return Err(PacketError::Corrupt(format!("unknown flags {in_files}").into()));
    }
    let inline = |flag: u8, len: u64| if in_files & flag == 0 { len } else { 0 };
    let (front_inline, payload_inline) = (inline(FRONT_IN_FILE, front_len), inline(PAYLOAD_IN_FILE, payload_len));
    if front_inline.checked_add(payload_inline) != Some(rest.len() as u64) {
        return Err(garbage("its length is wrong"));
    }
    let mut mapped = |flag: u8, len: u64| match in_files & flag {
        0 => Ok(None),
        _ => match Sealed::map(fds.pop().ok_or_else(|| garbage("its body is missing"))?, len) {
            Ok(mapped) => Ok(Some(Bytes::Mapped(mapped))),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(PacketError::Corrupt(format!("its body is {error}").into()))
            }
            Err(error) => Err(error.into()),
        },
    };
    // The payload's file comes last, so it is popped first.
    let payload = mapped(PAYLOAD_IN_FILE, payload_len)?;
    let front = mapped(FRONT_IN_FILE, front_len)?;
    let payload = payload.unwrap_or_else(|| Bytes::Inline(bytes.split_off(HEADER + front_inline as usize)));
    let front = front.unwrap_or_else(|| Bytes::Inline(bytes.split_off(HEADER)));
    let parts = match fds.len().checked_sub(usize::from(parts)) {
        Some(own) => fds.split_off(own),
        None => return Err(garbage("its handles are missing")),
    };
    let handles = FdBundle::received(parts, handles).ok_or_else(|| garbage("the number of its handles is wrong"))?;
    Ok(Packet { kind, front, payload: Payload { bytes: payload, handles }, fds })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 6] = [0, 1, INLINE - 1, INLINE, INLINE + 1, 3_000_000];

    fn some_bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    fn payload(len: usize, handles: usize) -> Payload {
        let mut sink = crate::message::payload::Sink::new();
        sink.extend(&some_bytes(len)).unwrap();
        let fds = (0..handles).map(|_| io::pipe().unwrap().0.into()).collect();
        Payload { bytes: sink.finish().unwrap(), handles: FdBundle::pack(fds).unwrap() }
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets that carry descriptors")]
    fn payload_sizes() {
        for (front_len, payload_len) in SIZES.into_iter().flat_map(|front| SIZES.map(|payload| (front, payload))) {
            for handles in [0, 1, 100] {
                let (a, b) = fd_passing::pair().unwrap();
                let front = some_bytes(front_len);
                let (left, right) = front.split_at(front_len / 3);
                let sent = payload(payload_len, handles);
                // Twice: a payload can be sent again.
                for _ in 0..2 {
                    send_with(&a, 9, &[left, right], &[a.as_fd()], &sent).unwrap();
                }
                let packet = receive(&b, true).unwrap();
                assert_eq!((packet.kind, packet.fds.len()), (9, 1));
                assert!(packet.front() == front, "{front_len} bytes");
                assert!(*packet.payload.bytes.open().unwrap() == some_bytes(payload_len), "{payload_len} bytes");
                assert_eq!(packet.payload.handles.unpack().unwrap().len(), handles);
                // A received payload can be sent on.
                let packet = receive(&b, true).unwrap();
                send_with(&a, 9, &[], &[], &packet.payload).unwrap();
                let packet = receive(&b, true).unwrap();
                assert!(*packet.payload.bytes.open().unwrap() == some_bytes(payload_len), "{payload_len} bytes");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets that carry descriptors")]
    fn garbage_does_not_block() {
        let (a, b) = fd_passing::pair().unwrap();
        fd_passing::send(&a, &[&[7; HEADER + 2 * INLINE + 1]], &[]).unwrap();
        fd_passing::send(&a, &[b"short"], &[]).unwrap();
        try_send(&a, 4, b"good").unwrap();
        for _ in 0..2 {
            assert!(matches!(receive(&b, true), Err(PacketError::Corrupt(_))));
        }
        let packet = receive(&b, true).unwrap();
        assert_eq!((packet.kind, packet.front()), (4, &b"good"[..]));
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets that carry descriptors")]
    fn empty_and_closed() {
        let (a, b) = fd_passing::pair().unwrap();
        assert!(matches!(receive(&b, false), Err(PacketError::Empty)));
        // Not closed: a copy of the process that another test has made may still have it.
        fd_passing::hang_up(&a).unwrap();
        assert!(matches!(receive(&b, false), Err(PacketError::Closed)));
    }

    #[test]
    fn wrong_version() {
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = 7;
        let error = parse(bytes, vec![]).unwrap_err();
        assert!(matches!(error, PacketError::Version(7)));
        assert!(error.to_string().contains("version 7"));
    }

    #[test]
    fn any_changed_header_bit() {
        let mut good = header(9, 0).to_vec();
        good[8] = 3;
        good.extend(b"abc");
        let packet = parse(good.clone(), vec![]).unwrap();
        assert_eq!((packet.kind, packet.front()), (9, &b"abc"[..]));
        for (at, bit) in (0..HEADER).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut changed = good.clone();
            changed[at] ^= 1 << bit;
            // Any kind is one.
            assert_eq!(parse(changed, vec![]).is_ok(), at == 6, "bit {bit} of byte {at}");
        }
        for cut in 0..good.len() {
            assert!(parse(good[..cut].to_vec(), vec![]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets that carry descriptors")]
    fn garbage() {
        let (a, b) = fd_passing::pair().unwrap();
        send(&a, 1, &[b"body"], &[]).unwrap();
        let good = fd_passing::receive(&b, HEADER + 4, false).unwrap().bytes;
        assert!(parse(good.clone(), vec![]).is_ok());
        assert!(matches!(parse(good.clone(), vec![b]), Err(PacketError::Corrupt(_))));
        for cut in 0..good.len() {
            assert!(parse(good[..cut].to_vec(), vec![]).is_err(), "cut at {cut}");
        }
        for at in (0..6).chain(7..HEADER) {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            assert!(parse(bad, vec![]).is_err(), "byte {at}");
        }
        for in_file in [FRONT_IN_FILE, PAYLOAD_IN_FILE] {
            let mut no_memory = good[..HEADER].to_vec();
            (no_memory[7], no_memory[8]) = (in_file, if in_file == FRONT_IN_FILE { 4 } else { 0 });
            assert!(matches!(parse(no_memory.clone(), vec![]), Err(PacketError::Corrupt(_))));
            no_memory[30] = 1;
            let file = a.try_clone().unwrap();
            assert!(matches!(parse(no_memory, vec![file]), Err(PacketError::Corrupt(_))));
        }
    }
}
