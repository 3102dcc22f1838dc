//! Putting an item: reserve room, write the record, post the descriptors, publish. The store to the
//! tail, in the last step, is the put. See `QUEUE.md`, "Put".

use std::io;
use std::sync::atomic::{Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};
use std::time::Instant;

use multiproc_os::prefetch;

use crate::lock::spin_lock::{Limit, Stalled, within};
use crate::loom::atomic::AtomicU64;
use crate::memory::scratch::copy_in;
use crate::queue::arena::State;
use crate::queue::block::QUIET;
use crate::queue::error::Error;
use crate::queue::item::{Body, Item};
use crate::queue::layout::{BLOCK, HANDLES, LIMITED, PAD, RAW, SPECIAL, header};
use crate::queue::store::Store;
use crate::wait::notifier::ViaHandle;
use crate::wait::wait_queue::WaitOp;

/// The number of puts after which a producer checks whether cached block memory has been idle for
/// [`QUIET`].
const PUTS_BETWEEN_CHECKS: u64 = 64;

/// Approximate length of a cache line, in bytes.
pub(super) const LINE: usize = 64;

impl Store {
    /// Puts an item; waits while there is no room for it.
    #[inline]
    pub fn put(&self, item: &Item<'_>, deadline: Option<Instant>, through: ViaHandle<'_>) -> Result<(), Error> {
        match self.try_put(item) {
            Ok(()) => Ok(()),
            Err(error) => self.put_after(error, item, deadline, through),
        }
    }

    /// As [`put`](Store::put), after the first attempt has failed for `error`.
    pub(super) fn put_after(
        &self,
        error: Error,
        item: &Item<'_>,
        deadline: Option<Instant>,
        through: ViaHandle<'_>,
    ) -> Result<(), Error> {
        match (error, &self.room) {
            (Error::Full | Error::FdsFull, Some(room)) => {
                self.shared.room.0.wait(room, deadline, &mut Put { store: self, item, fd_room: FdRoom::No, through })?
            }
            (error, _) => Err(error),
        }
    }

    /// As [`put`](Store::put), as a future.
    #[cfg(feature = "async")]
    pub async fn put_async(&self, item: &Item<'_>, through: ViaHandle<'_>) -> Result<(), Error> {
        match (self.try_put(item), &self.room) {
            (Err(Error::Full | Error::FdsFull), Some(room)) => {
                self.shared
                    .room
                    .0
                    .wait_async(room, &mut Put { store: self, item, fd_room: FdRoom::No, through })
                    .await?
            }
            (result, _) => result,
        }
    }

    /// Puts an item, if there is room for it.
    ///
    /// The four steps run under the producers' lock. A process that is killed before the store to
    /// the tail, in the last step, has put nothing.
    #[inline]
    pub fn try_put(&self, item: &Item<'_>) -> Result<(), Error> {
        let size = item.body.len();
        // Checked first without the lock, so that producers that wait for room don't delay the
        // others.
        if self.flags & LIMITED != 0 {
            self.seems_within_limits(size)?;
        }
        let guard = self.producers()?;
        if self.is_closing() {
            drop(guard);
            // The waiters for items may not have been notified yet.
            self.is_closed_in_time()?;
            return Err(Error::Closed);
        }
        let record = self.reserve(item, size)?;
        self.write(item, &record)?;
        self.post_descriptors(item, &record)?;
        self.publish(item, &record);
        drop(guard);
        self.shared.items.0.after_change(1);
        if record.number.is_multiple_of(PUTS_BETWEEN_CHECKS)
            && self.blocks().has_kept_more()
            && self.blocks().is_quiet(QUIET)
        {
            // Consumers may not call again for a long time.
            let _ = within(Limit::GracePeriod, || self.blocks().free_kept());
        }
        // The next item will lie after this one, in memory that consumers have read before. An
        // address beyond the ring makes this a useless hint, but does no harm.
        let behind = record.words.as_ptr_range().end;
        prefetch::for_write(behind.wrapping_byte_add(LINE - 1));
        prefetch::for_write(behind.wrapping_byte_add(2 * LINE - 1));
        Ok(())
    }

    /// The first step of a put: checks the limits and finds room in the ring. The caller holds the
    /// producers' lock until the last step.
    ///
    /// Nothing that is reserved is marked as such: the room is everything beyond the tail, which
    /// only the owner of the lock uses. The words of the producers are read relaxed, since they
    /// are written under the same lock, whose acquisition makes them visible.
    #[inline(always)]
    fn reserve(&self, item: &Item<'_>, size: u64) -> Result<Reserved<'_>, Error> {
        let payload = match item.body {
            Body::Inline(bytes) if item.fds.is_empty() => bytes.len(),
            Body::Inline(bytes) => SPECIAL + bytes.len(),
            Body::Block(..) => SPECIAL,
        };
        let need = self.header_len() + payload.next_multiple_of(8) as u64;
        if self.flags & LIMITED != 0 {
            self.within_limits(size)?;
        }
        let tail = self.shared.tail.0.load(Relaxed);
        let (at, mask) = self.make_room(tail, need)?;
        let words =
            self.ring.words(self.shared.file(), at & mask, (need / 8) as usize).map_err(Error::io("the ring"))?;
        let own = &self.shared.producers;
        let (number, bytes) = (own.number.load(Relaxed), own.bytes.load(Relaxed));
        let entry = own.entries.load(Relaxed);
        Ok(Reserved { tail, at, end: at + need, mask, words, payload, size, number, bytes, entry })
    }

    /// The second step of a put: writes the record, and a padding record before it if it doesn't
    /// follow the last one. The bytes of an item in a block were written before (`block.rs`); its
    /// record has only the block's index.
    ///
    /// All stores are relaxed and in any order: no consumer reads beyond the tail, and the release
    /// store to the tail comes after them. A consumer that still reads an *earlier* record at this
    /// place of the ring may see a mixture; it discards that, since the head has moved on.
    #[inline(always)]
    fn write(&self, item: &Item<'_>, record: &Reserved<'_>) -> Result<(), Error> {
        let (words, size) = (record.words, record.size);
        let mut flags = if item.raw { RAW } else { 0 };
        let content = &words[self.header_len() as usize / 8..];
        match item.body {
            Body::Inline(bytes) if item.fds.is_empty() => copy_in(content, bytes),
            Body::Inline(bytes) => {
                flags |= HANDLES;
                content[0].store(u64::from(item.handles) << 32, Relaxed);
                content[1].store(size, Relaxed);
                content[2].store(record.entry, Relaxed);
                copy_in(&content[SPECIAL / 8..], bytes);
            }
            Body::Block(index, _) => {
                flags |= BLOCK | if item.fds.is_empty() { 0 } else { HANDLES };
                content[0].store(u64::from(item.handles) << 32 | u64::from(index), Relaxed);
                content[1].store(size, Relaxed);
                content[2].store(record.entry, Relaxed);
                let descriptor = self.blocks().descriptor(index).map_err(Error::io("a block"))?;
                descriptor.len.store(size, Relaxed);
                descriptor.flags.store(u32::from(flags), Relaxed);
                descriptor.position.store(record.at, SeqCst);
            }
        }
        words[1].store(record.number, Relaxed);
        if self.flags & LIMITED != 0 {
            words[2].store(record.bytes, Relaxed);
        }
        words[0].store(header(record.at, flags, record.payload), Relaxed);
        if record.at != record.tail {
            let offset = record.tail & record.mask;
            let pad = self.ring.words(self.shared.file(), offset, 1).map_err(Error::io("the ring"))?;
            pad[0].store(header(record.tail, PAD, (record.at - record.tail) as usize), Relaxed);
        }
        Ok(())
    }

    /// The third step of a put: adds the item's descriptors to the fd queue, as the entry whose
    /// number is in the record. Does nothing for an item without descriptors.
    ///
    /// The number of entries is stored before the entry is added, so that no other entry gets the
    /// same number, even if this process dies before the item can be taken. The entry precedes the
    /// store to the tail: a consumer that sees the record finds the descriptors. An entry without
    /// an item is discarded by the next consumer that finds one with a higher number behind it.
    #[inline(always)]
    fn post_descriptors(&self, item: &Item<'_>, record: &Reserved<'_>) -> Result<(), Error> {
        if item.fds.is_empty() {
            return Ok(());
        }
        self.shared.producers.entries.store(record.entry.wrapping_add(1), SeqCst);
        self.fd_queue.put(record.entry, item.fds).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock if self.flags & LIMITED != 0 => Error::FdsFull,
            _ => Error::Io { what: "it contains too many items with handles", source: error },
        })
    }

    /// The last step of a put: the item can be taken.
    ///
    /// The order is: the block is marked as queued, since a consumer checks that; `next_*`, the
    /// tail first; a token for sleeping consumers; the tail; the counts. Until `next_tail` equals
    /// the actual tail, the other two have no effect. So a process that inherits the lock finds
    /// either a tail that differs, and no item has been put; or one that is equal, and completes
    /// the counts from `next_*`.
    #[inline(always)]
    fn publish(&self, item: &Item<'_>, record: &Reserved<'_>) {
        let own = &self.shared.producers;
        if let Body::Block(index, _) = item.body
            && let Ok(descriptor) = self.blocks().descriptor(index)
        {
            descriptor.set(State::Queued);
        }
        own.next_tail.store(record.end, Relaxed);
        own.next_number.store(record.number.wrapping_add(1), Release);
        let bytes = record.bytes.wrapping_add(record.size);
        own.next_bytes.store(bytes, Release);
        self.shared.items.0.before_change(&self.items);
        // A release store is enough, since unlocking is sequentially consistent.
        self.shared.tail.0.store(record.end, Release);
        own.number.store(record.number.wrapping_add(1), Release);
        own.bytes.store(bytes, Release);
    }
}

/// Room in the ring for one record, and what the record will say.
struct Reserved<'a> {
    /// The position after the last record.
    tail: u64,
    /// The position of the record, after the padding if there is any.
    at: u64,
    /// The position after the record.
    end: u64,
    /// The mask of positions.
    mask: u64,
    /// The record's memory.
    words: &'a [AtomicU64],
    /// Bytes of the record after its header.
    payload: usize,
    /// Bytes of the item.
    size: u64,
    /// Number of items put before, and of their bytes.
    number: u64,
    bytes: u64,
    /// The number of the next fd queue entry.
    entry: u64,
}

struct Put<'a> {
    store: &'a Store,
    item: &'a Item<'a>,
    fd_room: FdRoom,
    through: ViaHandle<'a>,
}

/// Whether the last attempt to put failed for lack of room for the item's handles.
#[derive(Clone, Copy)]
enum FdRoom {
    No,
    /// It did; the oldest fd queue entry before the attempt is not known.
    Unseen,
    /// It did, and the oldest fd queue entry before the attempt had this number.
    Behind(Option<u64>),
}

impl WaitOp for Put<'_> {
    type Outcome = Result<(), Error>;

    fn attempt(&mut self) -> Option<Result<(), Error>> {
        // Read before the attempt: an entry that is discarded after that makes room.
        let fd_room = match self.fd_room {
            FdRoom::No => FdRoom::Unseen,
            FdRoom::Unseen | FdRoom::Behind(_) => FdRoom::Behind(self.store.oldest_entry()),
        };
        match self.store.try_put(self.item) {
            Err(Error::Full) => {
                self.fd_room = FdRoom::No;
                None
            }
            Err(Error::FdsFull) => {
                self.fd_room = fd_room;
                None
            }
            result => Some(result),
        }
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> Result<bool, Stalled> {
        let behind = match self.fd_room {
            FdRoom::No => None,
            // Make another attempt, before which the oldest entry is read.
            FdRoom::Unseen => return Ok(true),
            FdRoom::Behind(oldest) => Some(oldest),
        };
        Ok(!self.store.arm_for_room(self.item.body.len(), behind, arm)?)
    }

    fn has_stalled(outcome: &Result<(), Error>) -> bool {
        outcome.as_ref().is_err_and(Error::has_stalled)
    }

    fn through(&self) -> ViaHandle<'_> {
        self.through
    }

    fn more(&mut self) -> bool {
        !self.store.is_full()
    }

    fn came_with_more(&mut self) -> bool {
        self.store.seems_within_limits(1).is_ok()
    }
}
