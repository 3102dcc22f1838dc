//! Messages from a socket from which other threads and processes receive at the same time.
//!
//! [`packet::receive`] peeks at a message and then receives it; on a shared socket the second call
//! may get another message. Here a message is received by one system call, with a buffer for
//! the longest possible one. Descriptors need one thing more, as those for which this process has
//! no room would be lost with the message: so a message with descriptors is peeked at, descriptors
//! included, before it is received; if there is no room for them, it stays in the socket. The
//! sender puts a random number in front of such a message, from which the receiver sees that it got
//! the message it had peeked at.

use std::cell::Cell;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};

use multiproc_os::errno::EMFILE;
use multiproc_os::fd_budget;
use multiproc_os::fd_passing::{self, Take};
use multiproc_os::memfd::Sealed;
use multiproc_os::random;

use crate::message::fd_bundle::{FdBundle, MAX_UNPACKED};
use crate::message::packet::{self, HEADER, Head, INLINE, PacketError};
use crate::message::payload::{Bytes, Payload};

/// The bytes of a received payload: borrowed, owned, or mapped.
#[derive(Debug)]
pub enum Body<'a> {
    /// In the receiver's buffer.
    Borrowed(&'a [u8]),
    /// In memory of their own.
    Owned(Vec<u8>),
    /// In a mapping of a memory file.
    Mapped(Sealed),
}

impl Deref for Body<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Body::Borrowed(bytes) => bytes,
            Body::Owned(bytes) => bytes,
            Body::Mapped(bytes) => bytes,
        }
    }
}

impl Body<'_> {
    /// Returns the bytes as a `Vec`. Copies them unless they are in memory of their own.
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Body::Owned(bytes) => bytes,
            other => other.to_vec(),
        }
    }
}

/// Sends a payload for [`try_take`], if the socket has room for it now; otherwise fails with
/// `WouldBlock`.
pub fn try_send(socket: impl AsFd, kind: u8, payload: &Payload) -> io::Result<()> {
    match &payload.bytes {
        Bytes::Inline(bytes) if payload.handles.count() == 0 => packet::try_send_body(socket, kind, bytes),
        _ => packet::try_send_with(socket, kind, &random::seed().to_le_bytes(), payload),
    }
}

/// Length of the number in front of a message with descriptors, in bytes.
const NUMBER_LEN: usize = 8;

/// The maximum number of a message's descriptors: the handles, or the sockets into which they are
/// packed, and two memory files.
const MAX_DESCRIPTORS: usize = MAX_UNPACKED + 2;

/// Length of the longest message without its header, in bytes.
const MAX_LEN: usize = NUMBER_LEN + INLINE;

thread_local! {
    /// A buffer of [`MAX_LEN`] bytes. Taken out while it is in use, since a deserializer may
    /// receive messages meanwhile.
    static BUFFER: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Receives the next message and calls `consume` with its kind, its payload's bytes and its
/// handles. [`PacketError::Empty`] if there is none.
///
/// A message with descriptors stays in the socket if this process has no room for all of them now,
/// but could have: `EMFILE`.
pub fn try_take<R>(socket: impl AsFd, consume: impl FnOnce(u8, Body<'_>, FdBundle) -> R) -> Result<R, PacketError> {
    // A thread that is being destroyed has no buffer any more. A new one costs little, as the
    // kernel zeroes its pages only when they are touched.
    let buffer = BUFFER.try_with(Cell::take).ok().flatten();
    let mut buffer = buffer.unwrap_or_else(|| vec![0; MAX_LEN].into_boxed_slice());
    let result = take_with(socket.as_fd(), &mut buffer, consume);
    let _ = BUFFER.try_with(|cell| cell.set(Some(buffer)));
    result
}

fn take_with<R>(
    socket: impl AsFd,
    buffer: &mut [u8],
    consume: impl FnOnce(u8, Body<'_>, FdBundle) -> R,
) -> Result<R, PacketError> {
    let mut head = [0; HEADER];
    loop {
        match fd_passing::peek(&socket, &mut head, false) {
            Ok(0) => return Err(PacketError::Closed),
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Err(PacketError::Empty),
                // Reported once, if the other end was closed before it had read everything from
                // this end. What it has sent is still here.
                io::ErrorKind::ConnectionReset => continue,
                _ => return Err(error.into()),
            },
        }
        let looked_at = match Head::read(&head) {
            Ok(expected) if expected.fds > 0 => match look(&socket, buffer)? {
                Some(looked_at) => Some(looked_at),
                None => continue,
            },
            _ => None,
        };
        let taken = match fd_passing::try_take(&socket, &mut head, buffer, Take::Away) {
            Ok(taken) if taken.len == 0 => return Err(PacketError::Closed),
            Ok(taken) => taken,
            // Another thread or process has received the message.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionReset) => {
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let len = taken.len.saturating_sub(HEADER);
        if taken.len >= HEADER && !taken.cut && taken.fds.is_empty() && !taken.fds_cut {
            let head = Head::read(&head)?;
            if head.is_plain(len) {
                return Ok(consume(head.kind, Body::Borrowed(&buffer[..len]), FdBundle::default()));
            }
        }
        if taken.cut {
            return Err(PacketError::Corrupt(format!("it is longer than {MAX_LEN} bytes").into()));
        }
        let bytes = [&head[..taken.len.min(HEADER)], &buffer[..len]].concat();
        let fds = match looked_at {
            looked_at if !taken.fds_cut => {
                // Duplicates, which would take up descriptors that are needed to unpack the
                // handles.
                drop(looked_at);
                taken.fds
            }
            Some((looked_at, fds)) if looked_at == bytes => fds,
            // The message that was peeked at went to another receiver, and this one came with more
            // descriptors than there was room for.
            _ => return Err(PacketError::Lost),
        };
        let packet = packet::parse(bytes, fds)?;
        let body = match packet.payload.bytes {
            Bytes::Inline(bytes) => Body::Owned(bytes),
            Bytes::Mapped(bytes) => Body::Mapped(bytes),
            Bytes::File { .. } => unreachable!("what was received has been mapped"),
        };
        return Ok(consume(packet.kind, body, packet.payload.handles));
    }
}

/// A message that is still in the socket, with duplicates of its descriptors.
type Peeked = (Vec<u8>, Vec<OwnedFd>);

fn look(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<Peeked>, PacketError> {
    let mut head = [0; HEADER];
    let looked_at = match fd_passing::try_take(&socket, &mut head, buffer, Take::Look) {
        Ok(looked_at) => looked_at,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionReset) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let len = looked_at.len.saturating_sub(HEADER);
    let bytes = [&head[..looked_at.len.min(HEADER)], &buffer[..len]].concat();
    // A malformed message is received, and recognised as such then.
    let Ok(head) = Head::read(&head) else { return Ok(Some((bytes, Vec::new()))) };
    let told = usize::from(head.fds);
    if looked_at.fds_cut {
        return match told > MAX_DESCRIPTORS || looked_at.fds.len() >= told {
            true => Ok(Some((bytes, Vec::new()))),
            false => Err(io::Error::from_raw_os_error(EMFILE).into()),
        };
    }
    // Handles that are packed into sockets need their room later, when it is too late to leave the
    // message in the socket.
    if head.handles as usize > MAX_UNPACKED {
        fd_budget::check_now(head.parts(&looked_at.fds), head.handles)?;
    }
    Ok(Some((bytes, looked_at.fds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::payload::Sink;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    fn payload(bytes: &[u8], handles: usize) -> Payload {
        let mut sink = Sink::new();
        sink.extend(bytes).unwrap();
        let fds = (0..handles).map(|_| io::pipe().unwrap().0.into()).collect();
        Payload { bytes: sink.finish().unwrap(), handles: FdBundle::pack(fds).unwrap() }
    }

    fn take(socket: &OwnedFd) -> Result<(u8, Vec<u8>, usize), PacketError> {
        try_take(socket, |kind, body, handles| (kind, body.into_vec(), handles.unpack().unwrap().len()))
    }

    #[test]
    fn payload_sizes() {
        let (a, b) = fd_passing::pair().unwrap();
        for len in [0, 1, INLINE - 1, INLINE, INLINE + 1, 1_000_000] {
            for handles in [0, 1, MAX_UNPACKED, MAX_UNPACKED + 1, 300] {
                let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
                try_send(&a, 7, &payload(&bytes, handles)).unwrap();
                let taken = take(&b).unwrap();
                assert!(taken == (7, bytes, handles), "{len} bytes, {handles} handles");
            }
        }
        assert!(matches!(take(&b), Err(PacketError::Empty)));
        // Not closed: a copy of the process that another test has made may still have it.
        fd_passing::hang_up(&a).unwrap();
        assert!(matches!(take(&b), Err(PacketError::Closed)));
    }

    #[test]
    fn garbage_does_not_block() {
        let (a, b) = fd_passing::pair().unwrap();
        let too_long = vec![7; HEADER + MAX_LEN + 1];
        let mut good = [0; HEADER];
        for garbage in [&b"short"[..], &[7; HEADER], &[7; 5000], &too_long] {
            fd_passing::send(&a, &[garbage], &[]).unwrap();
            // With descriptors that the header doesn't announce.
            fd_passing::send(&a, &[garbage], &[a.as_fd(), b.as_fd()]).unwrap();
            packet::try_send_body(&a, 1, b"x").unwrap();
            fd_passing::peek(&b, &mut [], false).unwrap();
            for _ in 0..2 {
                assert!(matches!(take(&b), Err(PacketError::Corrupt(_))), "{} bytes", garbage.len());
            }
            fd_passing::peek(&b, &mut good, false).unwrap();
            assert_eq!(take(&b).unwrap(), (1, b"x".to_vec(), 0));
        }
        // With more descriptors announced than there are.
        good[30] = 2;
        fd_passing::send(&a, &[&good, b"x"], &[a.as_fd()]).unwrap();
        assert!(matches!(take(&b), Err(PacketError::Corrupt(_))));
        assert!(matches!(take(&b), Err(PacketError::Empty)));
    }

    /// Sends a message that announces this many handles, with `fds` as parts.
    fn send_forged(socket: &OwnedFd, handles: u32, told: u16, fds: &[std::os::fd::BorrowedFd<'_>]) {
        let (a, b) = fd_passing::pair().unwrap();
        packet::try_send_body(&a, 1, b"x").unwrap();
        let mut bytes = fd_passing::receive(&b, HEADER + 1, false).unwrap().bytes;
        bytes[24..28].copy_from_slice(&handles.to_le_bytes());
        bytes[28..30].copy_from_slice(&told.to_le_bytes());
        bytes[30..32].copy_from_slice(&told.to_le_bytes());
        fd_passing::send(socket, &[&bytes], fds).unwrap();
    }

    /// Regression: the receiver looked for room for as many handles as a message announced. There
    /// wasn't any, so the message stayed in the socket for good.
    #[test]
    fn missing_handles_do_not_block() {
        let (a, b) = fd_passing::pair().unwrap();
        let untied = || {
            try_take(&b, |_, _, handles| handles.unpack().map_err(|error| error.kind()))
                .map_err(|error| panic!("it is a message: {error}"))
                .unwrap()
        };
        let (into, part) = fd_passing::pair().unwrap();
        let pipe = OwnedFd::from(io::pipe().unwrap().0);
        for part in [&part, &pipe] {
            send_forged(&a, u32::MAX, 1, &[part.as_fd()]);
            assert_eq!(untied().unwrap_err(), io::ErrorKind::InvalidData);
        }
        // That many could exist, but not in one process.
        fd_passing::send(&into, &[&[0; 30_000]], &[]).unwrap();
        let (limit, _) = multiproc_os::limits::get(multiproc_os::limits::Resource::OpenFiles).unwrap();
        if limit < 7_000_000 {
            send_forged(&a, 7_000_000, 1, &[part.as_fd()]);
            assert_eq!(untied().unwrap_err(), io::ErrorKind::QuotaExceeded);
        }
        packet::try_send_body(&a, 1, b"x").unwrap();
        assert_eq!(take(&b).unwrap(), (1, b"x".to_vec(), 0));
    }

    #[test]
    fn mpmc() {
        const MESSAGES: usize = 4000;
        let (a, b) = fd_passing::pair().unwrap();
        let taken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        match take(&b) {
                            Ok((kind, bytes, handles)) => {
                                assert_eq!((usize::from(kind), bytes.len()), (handles, bytes[0].into()));
                                taken.fetch_add(1, Relaxed);
                            }
                            Err(PacketError::Empty) => drop(multiproc_os::poll::wait_readable(&b, None).unwrap()),
                            Err(PacketError::Closed) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            for number in 0..MESSAGES {
                // Of different lengths, with and without descriptors.
                let (len, handles) = (1 + number % 200, if number % 3 == 0 { number % 5 } else { 0 });
                let payload = payload(&vec![len as u8; len], handles);
                while let Err(error) = try_send(&a, handles as u8, &payload) {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    multiproc_os::poll::wait_writable(&a, None).unwrap();
                }
            }
            fd_passing::hang_up(&a).unwrap();
        });
        assert_eq!(taken.into_inner(), MESSAGES);
    }
}
