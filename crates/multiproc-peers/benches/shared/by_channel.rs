//! Bytes that a channel carries: multiproc's, and ipc-channel's.

use std::marker::PhantomData;

use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use multiproc::connection::{Receiver, Sender, one_way};
use multiproc::queue::{Consumer, Producer};
use multiproc_benches::Outcome;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::bytes::Bytes;
use super::hand_over::{self, Task, Way};

/// The request to the worker; None if the worker has the bytes already.
type Order<B> = Option<B>;

/// The worker's answer.
#[derive(Serialize, Deserialize)]
pub(crate) enum Answer<B> {
    Sum(u64),
    Bytes(B),
}

pub(crate) trait Tx<T> {
    fn send(&self, message: T) -> Outcome<()>;
}

pub(crate) trait Rx<T> {
    fn recv(&self) -> Outcome<T>;
}

/// Where the bytes are before the clock starts.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Before {
    /// The lender has made them, and not read them since.
    Unseen,
    /// The lender has read them, so that they are mapped there.
    Seen,
    /// The worker has read them, and keeps them.
    Kept,
}

pub(crate) const UNSEEN: u8 = Before::Unseen as u8;
pub(crate) const SEEN: u8 = Before::Seen as u8;
pub(crate) const KEPT: u8 = Before::Kept as u8;

impl Before {
    const fn of(number: u8) -> Before {
        match number {
            UNSEEN => Before::Unseen,
            SEEN => Before::Seen,
            _ => Before::Kept,
        }
    }
}

/// Through a pipe of multiproc.
pub(crate) struct Pipe<B, const BEFORE: u8 = SEEN>(PhantomData<B>);

impl<B: Bytes + Serialize + DeserializeOwned, const BEFORE: u8> Way for Pipe<B, BEFORE> {
    type Lender = Lender<B, Sender<Order<B>>, Receiver<Answer<B>>>;
    type Worker = Worker<B, Sender<Answer<B>>, Receiver<Order<B>>>;

    fn pair() -> Outcome<(Self::Lender, Self::Worker)> {
        Ok(sides(one_way()?, one_way()?, Before::of(BEFORE)))
    }
}

/// Through a queue of multiproc.
pub(crate) struct Queue<B>(PhantomData<B>);

impl<B: Bytes + Serialize + DeserializeOwned> Way for Queue<B> {
    type Lender = Lender<B, Producer<Order<B>>, Consumer<Answer<B>>>;
    type Worker = Worker<B, Producer<Answer<B>>, Consumer<Order<B>>>;

    fn pair() -> Outcome<(Self::Lender, Self::Worker)> {
        let (there, back) = (multiproc::Queue::new()?, multiproc::Queue::new()?);
        Ok(sides((there.producer(), there.consumer()), (back.producer(), back.consumer()), Before::Seen))
    }
}

/// Through ipc-channel.
pub(crate) struct Ipc<B>(PhantomData<B>);

impl<B: Bytes + Serialize + DeserializeOwned> Way for Ipc<B> {
    type Lender = Lender<B, IpcSender<Order<B>>, IpcReceiver<Answer<B>>>;
    type Worker = Worker<B, IpcSender<Answer<B>>, IpcReceiver<Order<B>>>;

    fn pair() -> Outcome<(Self::Lender, Self::Worker)> {
        Ok(sides(ipc::channel()?, ipc::channel()?, Before::Seen))
    }
}

fn sides<B, T1, R1, T2, R2>(there: (T1, R1), back: (T2, R2), before: Before) -> (Lender<B, T1, R2>, Worker<B, T2, R1>) {
    let lender = Lender { tx: there.0, rx: back.1, before, bytes: None, next: None };
    (lender, Worker { tx: back.0, rx: there.1, before, bytes: None })
}

#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize, R: Serialize", deserialize = "T: Deserialize<'de>, R: Deserialize<'de>"))]
pub(crate) struct Lender<B, T, R> {
    tx: T,
    rx: R,
    before: Before,
    #[serde(skip)]
    bytes: Option<B>,
    /// The next request.
    #[serde(skip)]
    next: Order<B>,
}

impl<B: Bytes, T: Tx<Order<B>>, R: Rx<Answer<B>>> hand_over::Lender for Lender<B, T, R> {
    fn open(&mut self, size: usize) -> Outcome<()> {
        let bytes = self.bytes.insert(B::make(size)?);
        match self.before {
            Before::Unseen => Ok(()),
            Before::Seen => bytes.carry_out(Task::Sum).map(drop),
            Before::Kept => self.tx.send(Some(bytes.again()?)),
        }
    }

    fn renew(&mut self) -> Outcome<()> {
        if self.before != Before::Kept {
            self.next = self.bytes.as_ref().map(B::again).transpose()?;
        }
        Ok(())
    }

    fn ask(&mut self, task: Task) -> Outcome<u64> {
        self.tx.send(self.next.take())?;
        match self.rx.recv()? {
            Answer::Sum(sum) => Ok(sum),
            Answer::Bytes(bytes) => bytes.carry_out(task),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize, R: Serialize", deserialize = "T: Deserialize<'de>, R: Deserialize<'de>"))]
pub(crate) struct Worker<B, T, R> {
    tx: T,
    rx: R,
    before: Before,
    #[serde(skip)]
    bytes: Option<B>,
}

impl<B: Bytes, T: Tx<Answer<B>>, R: Rx<Order<B>>> hand_over::Worker for Worker<B, T, R> {
    fn open(&mut self) -> Outcome<()> {
        if self.before == Before::Kept {
            let bytes = self.bytes.insert(self.rx.recv()?.ok_or("no bytes have arrived")?);
            bytes.carry_out(Task::Sum)?;
        }
        Ok(())
    }

    fn serve(&mut self, task: Task) -> Outcome<()> {
        let arrived = self.rx.recv()?;
        let bytes = arrived.as_ref().or(self.bytes.as_ref()).ok_or("no bytes have arrived")?;
        let found = bytes.carry_out(task)?;
        match (task, arrived) {
            (Task::Return, Some(bytes)) => self.tx.send(Answer::Bytes(bytes)),
            (_, arrived) => {
                // As for a function with the bytes as its argument: they are dropped before the
                // result is sent.
                drop(arrived);
                self.tx.send(Answer::Sum(found))
            }
        }
    }
}

impl<T: Serialize + DeserializeOwned> Tx<T> for Sender<T> {
    fn send(&self, message: T) -> Outcome<()> {
        Ok(Sender::send(self, message).map_err(|error| error.to_string())?)
    }
}

impl<T: Serialize + DeserializeOwned> Rx<T> for Receiver<T> {
    fn recv(&self) -> Outcome<T> {
        Ok(Receiver::recv(self)?)
    }
}

impl<T: Serialize + DeserializeOwned> Tx<T> for Producer<T> {
    fn send(&self, message: T) -> Outcome<()> {
        Ok(self.put(message).map_err(|error| error.to_string())?)
    }
}

impl<T: Serialize + DeserializeOwned> Rx<T> for Consumer<T> {
    fn recv(&self) -> Outcome<T> {
        Ok(self.get()?)
    }
}

impl<T: Serialize> Tx<T> for IpcSender<T> {
    fn send(&self, message: T) -> Outcome<()> {
        Ok(IpcSender::send(self, message)?)
    }
}

impl<T: Serialize + DeserializeOwned> Rx<T> for IpcReceiver<T> {
    fn recv(&self) -> Outcome<T> {
        Ok(IpcReceiver::recv(self)?)
    }
}
