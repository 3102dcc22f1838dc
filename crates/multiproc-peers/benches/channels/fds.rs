//! The kernel's channels: a pipe, and a pair of SOCK_SEQPACKET sockets.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};

use multiproc::Handle;
use multiproc_benches::{Outcome, sys};
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Ends, Rx, Tx};
use super::event::Event;

/// The most that a pipe takes atomically, so that it isn't interleaved with what others write:
/// `PIPE_BUF` of pipe(7).
const PIPE_ATOMIC: usize = 4096;

/// Well below a socket's default buffer size.
const PACKET: usize = 64 << 10;

/// Whether messages stay whole.
pub(crate) fn can_pipe(event: Event) -> bool {
    event.is_for_two() || event.size() <= PIPE_ATOMIC
}

/// As [`can_pipe`].
pub(crate) fn can_packet(event: Event) -> bool {
    event.is_for_two() || event.size() <= PACKET
}

pub(crate) struct Pipe;

impl Channel for Pipe {
    type Tx = Writer<Handle<PipeWriter>>;
    type Rx = Reader<Handle<PipeReader>>;

    fn line(size: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>> {
        let (reader, writer) = std::io::pipe()?;
        let writers = (0..producers).map(|_| Ok(Writer { to: writer.try_clone()?.into(), most: size }));
        let readers = (0..consumers).map(|_| Ok(Reader::new(reader.try_clone()?.into(), size, size)));
        Ok((writers.collect::<Outcome<_>>()?, readers.collect::<Outcome<_>>()?))
    }
}

pub(crate) struct Packet;

impl Channel for Packet {
    type Tx = Writer<Handle<File>>;
    type Rx = Reader<Handle<File>>;

    fn line(size: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>> {
        let [one, other] = sys::packet_pair()?.map(File::from);
        let writers = (0..producers).map(|_| Ok(Writer { to: one.try_clone()?.into(), most: PACKET }));
        let readers = (0..consumers).map(|_| Ok(Reader::new(other.try_clone()?.into(), size, PACKET)));
        Ok((writers.collect::<Outcome<_>>()?, readers.collect::<Outcome<_>>()?))
    }
}

/// Writes a message in pieces.
#[derive(Serialize, Deserialize)]
pub(crate) struct Writer<W> {
    to: W,
    most: usize,
}

impl<W, H> Tx for Writer<H>
where
    W: Write,
    H: std::ops::DerefMut<Target = W>,
{
    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        Ok(message.chunks(self.most).try_for_each(|piece| self.to.write_all(piece))?)
    }
}

/// Reads a message of known length in pieces.
#[derive(Serialize, Deserialize)]
pub(crate) struct Reader<R> {
    from: R,
    size: usize,
    most: usize,
    #[serde(skip)]
    message: Vec<u8>,
}

impl<R> Reader<R> {
    fn new(from: R, size: usize, most: usize) -> Reader<R> {
        Reader { from, size, most, message: Vec::new() }
    }
}

impl<R, H> Rx for Reader<H>
where
    R: Read,
    H: std::ops::DerefMut<Target = R>,
{
    fn open(&mut self) -> Outcome<()> {
        self.message = vec![0; self.size];
        Ok(())
    }

    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        self.message.chunks_mut(self.most).try_for_each(|piece| self.from.read_exact(piece))?;
        Ok(look(&self.message))
    }
}
