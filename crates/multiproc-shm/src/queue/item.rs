//! An item to put, an item that was taken, and why neither was possible.

use std::io;
use std::os::fd::OwnedFd;

use crate::lock::spin_lock::Stalled;
use crate::queue::block::Block;
use crate::queue::store::Store;
use crate::wait::wait_queue::WaitFailure;

/// Why an item can't be put or taken.
#[derive(Debug)]
pub enum Refusal {
    /// The queue has reached its limit.
    Full,
    /// There is no room for the item's handles now.
    Crowded,
    /// The item exceeds the queue's limit of bytes, so it will never fit.
    TooLarge,
    Closed,
    /// A system call failed, for lack of memory or of descriptors, say.
    System(&'static str, io::Error),
    /// The shared memory contains garbage.
    Corrupt(&'static str),
    /// No process is left that could change the state that is waited for.
    Alone,
    Late,
}

impl Refusal {
    pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Refusal {
        move |error| match error.kind() {
            io::ErrorKind::InvalidData => Refusal::Corrupt(what),
            _ => Refusal::System(what, error),
        }
    }
}

impl Refusal {
    /// The owner of the lock, if the cause is a lock that could not be acquired in time.
    pub fn stalled(&self) -> Option<Stalled> {
        match self {
            Refusal::System(_, error) => Stalled::of(error),
            _ => None,
        }
    }
}

impl From<Stalled> for Refusal {
    fn from(stalled: Stalled) -> Refusal {
        Refusal::System("its lock", stalled.into())
    }
}

impl From<WaitFailure> for Refusal {
    fn from(vain: WaitFailure) -> Refusal {
        match vain {
            WaitFailure::Timeout => Refusal::Late,
            WaitFailure::Disconnected => Refusal::Alone,
            WaitFailure::Interrupted => Refusal::System("wait", io::ErrorKind::Interrupted.into()),
            WaitFailure::Io(error) => Refusal::System("wait", error),
        }
    }
}

/// An item to put.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub body: Body<'a>,
    /// It is plain bytes, not an encoded value.
    pub raw: bool,
    /// The descriptors that go with it, and the number of handles that they stand for.
    pub fds: &'a [OwnedFd],
    pub handles: u32,
}

#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// At most [`INLINE`](super::layout::INLINE) bytes.
    Inline(&'a [u8]),
    /// The first bytes, as many as the second field says, of a block that this process owns.
    Block(u32, u64),
}

impl Body<'_> {
    /// The number of bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        match self {
            Body::Inline(bytes) => bytes.len() as u64,
            Body::Block(_, len) => *len,
        }
    }
}

/// An item that has been taken.
#[derive(Debug)]
pub struct Taken {
    pub place: Place,
    pub raw: bool,
    pub fds: Vec<OwnedFd>,
    pub handles: u32,
    /// How often the item has been taken, including this time.
    pub deliveries: u32,
}

impl Taken {
    /// The item's block, if it is in one that is not a lease. `store` is called only in that case.
    pub fn block<S: std::ops::Deref<Target = Store>>(&self, store: impl FnOnce() -> S) -> Option<Block<S>> {
        let Place::Block(index, len) = self.place else { return None };
        let store = store();
        (!store.is_joinable()).then(|| Block::taken(store, index, len))
    }
}

/// Where the bytes of a taken item are.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// In the scratch.
    Scratch,
    /// In the scratch, and in a block that is a lease.
    Lease(u32),
    /// In a block, which must be given back or is a lease.
    Block(u32, u64),
}
