//! An item to put, and an item that was taken.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::queue::block::Block;
use crate::queue::store::Store;

/// An item to put.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// Its bytes.
    pub body: Body<'a>,
    /// It is plain bytes, not an encoded value.
    pub raw: bool,
    /// The descriptors that go with it.
    pub fds: &'a [BorrowedFd<'a>],
    /// The number of handles that the descriptors stand for.
    pub handles: u32,
}

/// The bytes of an item to put.
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
    /// Where its bytes are.
    pub place: Place,
    /// It is plain bytes, not an encoded value.
    pub raw: bool,
    /// Its descriptors.
    pub fds: Vec<OwnedFd>,
    /// The number of handles that they stand for.
    pub handles: u32,
    /// How often the item has been taken, including this time.
    pub deliveries: u32,
}

impl Taken {
    /// Whether it is a small item of a queue that is not joinable, without descriptors: all there
    /// is of it is in the scratch.
    #[inline]
    pub(super) fn is_small(&self) -> bool {
        matches!(self.place, Place::Scratch) && self.handles == 0
    }

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
