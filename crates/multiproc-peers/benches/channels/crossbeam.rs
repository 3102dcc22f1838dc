//! crossbeam-channel, between threads: only the vector's address is copied, and the receiving
//! thread frees what the sending thread allocated.

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use multiproc_benches::Outcome;

use super::channel::{Channel, Ends, Rx, Tx, depth};

pub(crate) struct Bounded;

impl Channel for Bounded {
    type Tx = Sender<Vec<u8>>;
    type Rx = Receiver<Vec<u8>>;

    fn line(size: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>> {
        Ok(ends(bounded(depth(size)), producers, consumers))
    }
}

pub(crate) struct Unbounded;

impl Channel for Unbounded {
    type Tx = Sender<Vec<u8>>;
    type Rx = Receiver<Vec<u8>>;

    fn line(_: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>> {
        Ok(ends(unbounded(), producers, consumers))
    }
}

/// Sends arrays of 64 bytes, which lie in the channel itself, in place of vectors. Bounded.
pub(crate) struct Array;

impl Channel for Array {
    type Tx = Sender<[u8; 64]>;
    type Rx = Receiver<[u8; 64]>;

    fn line(size: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>> {
        let (tx, rx) = bounded(depth(size));
        Ok((vec![tx; producers], vec![rx; consumers]))
    }
}

impl Tx for Sender<[u8; 64]> {
    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        Ok(Sender::send(self, message.try_into()?)?)
    }
}

impl Rx for Receiver<[u8; 64]> {
    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        Ok(look(&Receiver::recv(self)?))
    }
}

type Pair = (Sender<Vec<u8>>, Receiver<Vec<u8>>);

fn ends((tx, rx): Pair, producers: usize, consumers: usize) -> Ends<Bounded> {
    (vec![tx; producers], vec![rx; consumers])
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
