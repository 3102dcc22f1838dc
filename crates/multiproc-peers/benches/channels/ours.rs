//! multiproc's own channels.

use multiproc::connection::{Receiver, Sender, one_way};
use multiproc::queue::{Consumer, Producer};
use multiproc::{JoinableQueue, Queue};
use multiproc_benches::Outcome;
use multiproc_benches::slices::Contestant;
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Ends, Rx, Tx, depth};
use super::event::Event;
use super::measure::started;

/// `Queue<Vec<u8>>`, unbounded.
pub(crate) const QUEUE: &str = "multiproc-queue";
/// `Queue<Vec<u8>>` with a capacity.
pub(crate) const BOUNDED: &str = "multiproc-queue-bounded";
/// Raw messages of a bounded queue, looked at in place.
pub(crate) const BYTES: &str = "multiproc-queue-bytes";
/// `JoinableQueue<Vec<u8>>`: each message is acknowledged.
const JOINABLE: &str = "multiproc-joinable";
/// `one_way::<Vec<u8>>()`.
const PIPE: &str = "multiproc-pipe";
/// Raw messages of a pipe.
const PIPE_BYTES: &str = "multiproc-pipe-bytes";

pub(crate) fn contestants() -> Vec<Contestant<Event>> {
    use Contestant as C;
    vec![
        C::ours(QUEUE, Event::is_for_unbounded, started::<Unbounded>),
        C::ours(BOUNDED, Event::is_any, started::<Bounded>),
        C::ours(BYTES, Event::is_any, started::<Bytes>),
        C::ours(JOINABLE, Event::is_for_unbounded, started::<Joinable>),
        C::ours(PIPE, Event::is_any, started::<Pipe>),
        C::ours(PIPE_BYTES, Event::is_any, started::<PipeBytes>),
    ]
}

struct Unbounded;

impl Channel for Unbounded {
    type Tx = Producer<Vec<u8>>;
    type Rx = Consumer<Vec<u8>>;

    fn line(_: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>> {
        Ok(ends(&Queue::new()?, producers, consumers))
    }
}

struct Bounded;

impl Channel for Bounded {
    type Tx = Producer<Vec<u8>>;
    type Rx = Consumer<Vec<u8>>;

    fn line(size: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>> {
        Ok(ends(&Queue::with_capacity(depth(size))?, producers, consumers))
    }
}

fn ends(queue: &Queue<Vec<u8>>, producers: usize, consumers: usize) -> Ends<Bounded> {
    ((0..producers).map(|_| queue.producer()).collect(), (0..consumers).map(|_| queue.consumer()).collect())
}

impl Tx for Producer<Vec<u8>> {
    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        Ok(self.put(message.to_vec())?)
    }
}

impl Rx for Consumer<Vec<u8>> {
    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        Ok(look(&self.get()?))
    }
}

struct Bytes;

#[derive(Serialize, Deserialize)]
struct BytesTx(Producer<()>);

#[derive(Serialize, Deserialize)]
struct BytesRx(Consumer<()>);

impl Channel for Bytes {
    type Tx = BytesTx;
    type Rx = BytesRx;

    fn line(size: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>> {
        let queue = Queue::with_capacity(depth(size))?;
        let txs = (0..producers).map(|_| BytesTx(queue.producer())).collect();
        Ok((txs, (0..consumers).map(|_| BytesRx(queue.consumer())).collect()))
    }
}

impl Tx for BytesTx {
    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        Ok(self.0.put_bytes(message)?)
    }
}

impl Rx for BytesRx {
    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        Ok(look(&self.0.get_bytes()?))
    }
}

struct Joinable;

impl Channel for Joinable {
    type Tx = JoinableQueue<Vec<u8>>;
    type Rx = JoinableQueue<Vec<u8>>;

    fn line(_: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>> {
        let queue = JoinableQueue::new()?;
        Ok((vec![queue.clone(); producers], vec![queue; consumers]))
    }
}

impl Tx for JoinableQueue<Vec<u8>> {
    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        Ok(self.put(message.to_vec())?)
    }
}

impl Rx for JoinableQueue<Vec<u8>> {
    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        let task = self.get()?;
        let seen = look(&task);
        task.task_done();
        Ok(seen)
    }
}

struct Pipe;

impl Channel for Pipe {
    type Tx = Sender<Vec<u8>>;
    type Rx = Receiver<Vec<u8>>;

    fn line(_: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>> {
        let (tx, rx) = one_way()?;
        Ok((vec![tx; producers], vec![rx; consumers]))
    }
}

impl Tx for Sender<Vec<u8>> {
    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        Ok(Sender::send(self, message.to_vec())?)
    }
}

impl Rx for Receiver<Vec<u8>> {
    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        Ok(look(&Receiver::recv(self)?))
    }
}

struct PipeBytes;

#[derive(Serialize, Deserialize)]
struct PipeTx(Sender<()>);

/// The consumer's end, with a buffer that is reused.
#[derive(Serialize, Deserialize)]
struct PipeRx(Receiver<()>, #[serde(skip)] Vec<u8>);

impl Channel for PipeBytes {
    type Tx = PipeTx;
    type Rx = PipeRx;

    fn line(_: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>> {
        let (tx, rx) = one_way()?;
        let txs = (0..producers).map(|_| PipeTx(tx.clone())).collect();
        Ok((txs, (0..consumers).map(|_| PipeRx(rx.clone(), Vec::new())).collect()))
    }
}

impl Tx for PipeTx {
    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        Ok(self.0.send_bytes(message)?)
    }
}

impl Rx for PipeRx {
    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        self.0.recv_bytes_into(&mut self.1)?;
        Ok(look(&self.1))
    }
}
