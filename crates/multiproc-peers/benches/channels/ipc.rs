//! The crate ipc-channel: sockets, with additional sockets for large messages.

use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcReceiver, IpcSender};
use multiproc_benches::Outcome;

use super::channel::{Channel, Ends, Rx, Tx};

/// Messages serialized by serde.
pub(crate) struct Typed;

impl Channel for Typed {
    type Tx = IpcSender<Vec<u8>>;
    type Rx = IpcReceiver<Vec<u8>>;

    fn line(_: usize, _: usize, _: usize) -> Outcome<Ends<Self>> {
        let (tx, rx) = ipc::channel()?;
        Ok((vec![tx], vec![rx]))
    }
}

impl Tx for IpcSender<Vec<u8>> {
    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        Ok(IpcSender::send(self, message.to_vec())?)
    }
}

impl Rx for IpcReceiver<Vec<u8>> {
    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        Ok(look(&IpcReceiver::recv(self)?))
    }
}

/// Messages as raw bytes.
pub(crate) struct Bytes;

impl Channel for Bytes {
    type Tx = IpcBytesSender;
    type Rx = IpcBytesReceiver;

    fn line(_: usize, _: usize, _: usize) -> Outcome<Ends<Self>> {
        let (tx, rx) = ipc::bytes_channel()?;
        Ok((vec![tx], vec![rx]))
    }
}

impl Tx for IpcBytesSender {
    fn send(&mut self, message: &[u8]) -> Outcome<()> {
        Ok(IpcBytesSender::send(self, message)?)
    }
}

impl Rx for IpcBytesReceiver {
    fn recv<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        Ok(look(&IpcBytesReceiver::recv(self)?))
    }
}
