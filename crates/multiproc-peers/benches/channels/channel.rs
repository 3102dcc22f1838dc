//! The traits that a contestant implements.

use multiproc_benches::Outcome;

/// A kind of channel.
pub(crate) trait Channel: Sized {
    type Tx: Tx;
    type Rx: Rx;

    /// A new channel for messages of `size` bytes, with an end for each producer and one for each
    /// consumer.
    fn line(size: usize, producers: usize, consumers: usize) -> Outcome<Ends<Self>>;
}

/// The ends of the producers and of the consumers.
pub(crate) type Ends<C> = (Vec<<C as Channel>::Tx>, Vec<<C as Channel>::Rx>);

/// A producer's end.
pub(crate) trait Tx {
    /// Sets up what can only be set up in the process that uses the end. Both ends of a channel are
    /// open before anything is sent.
    fn open(&mut self) -> Outcome<()> {
        Ok(())
    }

    fn send(&mut self, message: &[u8]) -> Outcome<()>;
}

/// A consumer's end.
pub(crate) trait Rx {
    /// As [`Tx::open`].
    fn open(&mut self) -> Outcome<()> {
        Ok(())
    }

    /// Waits for the next message and passes it to `look`.
    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T>;
}

/// How many messages a bounded channel holds.
pub(crate) fn depth(size: usize) -> usize {
    if size <= 1 << 10 {
        1024
    } else if size <= 64 << 10 {
        64
    } else {
        4
    }
}
