//! The messages between logging processes and the relay: packets (`transfer/packet.rs`) on a socket
//! pair with a writing end that all processes share.
//!
//! A record is one message. A record that is too large is sent in pieces: a memory file would take
//! a descriptor at both ends, and at the limit of open files nothing could be logged, just when it
//! matters. Each piece has the thread id of its sender. A process killed half-way leaves an
//! unfinished record; it is dropped when the thread id is used again, or when there are many of
//! them and the process is gone.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use multiproc_os::errno::ESRCH;
use multiproc_os::{pidfd, threads};
use multiproc_shm::message::packet::{self, INLINE, Packet};

use super::record::{Content, RelayedRecord};
use crate::transfer::codec;

/// A record.
const RECORD: u8 = 1;
/// A part of a record: [`PieceHead`], bytes.
const PIECE: u8 = 2;
/// A mark that the relaying process sends to itself: its number. See `barrier`.
const MARK: u8 = 3;

/// Sends a record; blocks while there is no room.
pub(crate) fn send(socket: impl AsFd, content: &Content<'_>) -> io::Result<()> {
    let bytes = codec::pack(content);
    if bytes.len() <= INLINE {
        return packet::send(&socket, RECORD, &[&bytes], &[]);
    }
    let (pid, thread, total) = (content.pid, threads::gettid(), bytes.len() as u64);
    let mut at = 0;
    for piece in bytes.chunks(INLINE - PieceHead::BYTES) {
        let head = PieceHead { pid, thread, at, total }.to_bytes();
        packet::send(&socket, PIECE, &[&head, piece], &[])?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Sends a short record if there is room now.
pub(crate) fn try_send(socket: impl AsFd, content: &Content<'_>) -> io::Result<()> {
    packet::try_send(socket, RECORD, &codec::pack(content))
}

/// Sends a mark if there is room now.
pub(crate) fn try_send_mark(socket: impl AsFd, mark: u64) -> io::Result<()> {
    packet::try_send(socket, MARK, &mark.to_le_bytes())
}

/// The header of a piece: the record that it belongs to, and its position in it.
#[derive(Debug, Clone, Copy)]
struct PieceHead {
    pid: i32,
    thread: i32,
    /// The number of bytes of the record before this piece.
    at: u64,
    /// The number of bytes of the record in all.
    total: u64,
}

impl PieceHead {
    const BYTES: usize = 24;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.pid.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.thread.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.at.to_le_bytes());
        bytes[16..].copy_from_slice(&self.total.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::BYTES]) -> PieceHead {
        let four = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let eight = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        PieceHead { pid: four(0), thread: four(4), at: eight(8), total: eight(16) }
    }
}

/// A complete message.
#[derive(Debug)]
pub(crate) enum Arrived {
    Record(Box<RelayedRecord>),
    Mark(u64),
}

/// Assembles records from messages.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// The unfinished records, by the thread that sends them.
    begun: BTreeMap<i32, Begun>,
}

#[derive(Debug)]
struct Begun {
    pid: i32,
    total: u64,
    bytes: Vec<u8>,
}

/// The number of unfinished records at which those of ended processes are dropped.
const MAX_UNFINISHED: usize = 16;

impl Inbox {
    /// Takes a message, which is untrusted. Returns None if its record isn't complete yet; an error
    /// describes what is wrong with the message.
    pub(crate) fn take(&mut self, packet: &Packet) -> Result<Option<Arrived>, String> {
        let body = packet.front();
        match packet.kind {
            RECORD => record(body).map(Some),
            PIECE => self.take_piece(body),
            MARK => match <[u8; 8]>::try_from(body) {
                Ok(mark) => Ok(Some(Arrived::Mark(u64::from_le_bytes(mark)))),
                Err(_) => Err(format!("a mark of {} bytes", body.len())),
            },
            other => Err(format!("a message of kind {other}")),
        }
    }

    fn take_piece(&mut self, body: &[u8]) -> Result<Option<Arrived>, String> {
        let (head, bytes) = body.split_first_chunk().ok_or("a piece that is too short")?;
        let head = PieceHead::from_bytes(head);
        if head.at == 0 {
            if self.begun.len() >= MAX_UNFINISHED {
                self.begun.retain(|_, begun| exists(begun.pid));
            }
            self.begun.insert(head.thread, Begun { pid: head.pid, total: head.total, bytes: Vec::new() });
        }
        let begun = self.begun.get_mut(&head.thread).ok_or("a piece of a record that hasn't begun")?;
        let fits = begun.pid == head.pid && begun.total == head.total && begun.bytes.len() as u64 == head.at;
        let len = head.at.saturating_add(bytes.len() as u64);
        if !fits || bytes.is_empty() || len > head.total {
            self.begun.remove(&head.thread);
            return Err("a piece that doesn't follow the one before".into());
        }
        begun.bytes.extend_from_slice(bytes);
        if len < head.total {
            return Ok(None);
        }
        let whole = self.begun.remove(&head.thread).expect("the record was found above");
        record(&whole.bytes).map(Some)
    }
}

/// Whether there is such a process, as far as can be determined.
fn exists(pid: i32) -> bool {
    match pidfd::open(pid) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() != Some(ESRCH),
    }
}

fn record(bytes: &[u8]) -> Result<Arrived, String> {
    let content = codec::unpack(bytes).map_err(|error| error.to_string())?;
    let record = RelayedRecord::new(content).ok_or("a record with an invalid level")?;
    Ok(Arrived::Record(Box::new(record)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::record::Datum;
    use multiproc_os::fd_passing;
    use multiproc_shm::message::payload::{Bytes, Payload};
    use std::time::Duration;

    fn content(message: &str) -> Content<'_> {
        Content {
            process: "Process-1".into(),
            pid: threads::getpid(),
            thread: Some("main".into()),
            time: Duration::new(1, 2),
            level: 3,
            target: "target".into(),
            module_path: None,
            file: Some("file.rs".into()),
            line: Some(7),
            message: message.into(),
            pairs: vec![("key".into(), Datum::Float(0.5)), ("none".into(), Datum::Null)],
            spans: None,
        }
    }

    fn packet(kind: u8, front: Vec<u8>) -> Packet {
        Packet { kind, front: Bytes::Inline(front), payload: Payload::default(), fds: vec![] }
    }

    /// Returns a record with a message of this length, and the packets by which it is sent.
    fn packets(len: usize) -> (String, Vec<Packet>) {
        let message: String = (0..len).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
        let (ours, theirs) = fd_passing::pair().unwrap();
        let sender = message.clone();
        let thread = std::thread::spawn(move || send(ours, &content(&sender)).unwrap());
        let mut packets = Vec::new();
        while let Ok(packet) = packet::receive(&theirs, true) {
            packets.push(packet);
        }
        thread.join().unwrap();
        (message, packets)
    }

    #[test]
    fn record_sizes() {
        for len in [0, 1, INLINE - 200, INLINE, INLINE + 1, 2 * INLINE, 1_000_000] {
            let (message, packets) = packets(len);
            assert!(packets.iter().all(|packet| packet.fds.is_empty() && packet.front().len() <= INLINE));
            let mut inbox = Inbox::default();
            let (last, before) = packets.split_last().unwrap();
            assert_eq!(before.is_empty(), len < INLINE - 199, "{len} bytes");
            for packet in before {
                assert!(inbox.take(packet).unwrap().is_none());
            }
            let Ok(Some(Arrived::Record(record))) = inbox.take(last) else { panic!("no record of {len} bytes") };
            assert_eq!(record.message(), message);
            assert_eq!((record.process(), record.level(), record.line()), ("Process-1", ::log::Level::Info, Some(7)));
            assert_eq!(record.key_values().next().unwrap().1.to_f64(), Some(0.5));
            assert!(inbox.begun.is_empty());
        }
    }

    #[test]
    fn unfinished_records_are_dropped() {
        let (_, packets) = packets(3 * INLINE);
        let mut inbox = Inbox::default();
        let gone = std::process::Command::new("true").spawn().unwrap();
        let pid = gone.id() as i32;
        { gone }.wait().unwrap();
        for thread in 0..10 * MAX_UNFINISHED as i32 {
            let head = PieceHead { pid, thread, at: 0, total: 2 };
            let body = [&head.to_bytes()[..], b"x"].concat();
            inbox.take(&packet(PIECE, body)).unwrap();
            assert!(inbox.begun.len() <= MAX_UNFINISHED);
        }
        // A record that begins anew replaces its unfinished predecessor, and a record of a living
        // process is kept.
        for packet in packets[..2].iter().chain(&packets[..packets.len() - 1]) {
            assert!(inbox.take(packet).unwrap().is_none());
        }
        assert!(matches!(inbox.take(packets.last().unwrap()), Ok(Some(Arrived::Record(_)))));
    }

    #[test]
    fn garbage() {
        let (_, good) = packets(2 * INLINE);
        let single = packets(10).1.pop().unwrap();
        let mut inbox = Inbox::default();
        // A simple generator of numbers (Marsaglia's xorshift), so that failures can be reproduced.
        let mut random = 0x2545_F491_4F6C_DD1D_u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below.max(1) as u64) as usize
        };
        let mut failed = 0;
        for round in 0..20_000 {
            let original = if round % 2 == 0 { &single } else { &good[next(good.len())] };
            let mut body = original.front().to_vec();
            // The pieces are long, but only their beginning matters.
            body.truncate(next(200));
            for _ in 0..next(4) {
                let at = next(body.len());
                if let Some(byte) = body.get_mut(at) {
                    *byte = next(256) as u8;
                }
            }
            let packet = packet(next(5) as u8, body);
            failed += u32::from(inbox.take(&packet).is_err());
        }
        assert!(failed > 10_000, "{failed}");
    }
}
