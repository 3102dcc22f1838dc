//! A fixed number of slots, each with room for some bytes, that any process may read and replace.
//! The bytes have no meaning here; beside them a slot has a number, their kind. The basis of
//! `ShareableList`.
//!
//! A writer holds a lock; a reader holds none, and checks afterwards whether the slot has been
//! written meanwhile. This is a sequence lock in which each slot has two buffers, so that a process
//! that dies while it writes leaves the previous content. See "Can Seqlocks Get Along With
//! Programming Language Memory Models?" by Hans-J. Boehm, and `shared/PROTOCOL.md` of `multiproc`,
//! "ShareableList".

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use crate::lock::spin_lock::RobustSpinLock;
use crate::memory::scratch::copy_in;
use crate::memory::segment::{Layout, Segment, layout};
use crate::units::Size;

/// The maximum number of words: 128 MiB.
const MAX_WORDS: usize = 1 << 24;

/// Words that a slot takes beside twice its room: its directory entry, its version, and the heads
/// of its two buffers.
const OVERHEAD: u64 = 4;

/// How often a reader tries before it acquires the lock.
const MAX_TRIES: u32 = 16;

layout! {
    /// The table in shared memory. The words after this header are the directory, with one entry
    /// for each slot, and then the slots: see [`Slot`].
    struct TableHeader: "shareable list", 0x40, ..MAX_WORDS {
        /// Held by writers. If a writer dies, all it can leave is a half-written buffer that isn't
        /// the current one.
        spin_lock: RobustSpinLock,
        /// Number of slots. Written only once, as are `used` and the directory.
        slots: AtomicU64,
        /// Number of words in use.
        used: AtomicU64,
    }
}

/// A process's view of a slot table; see the module.
#[derive(Debug)]
pub struct SlotTable {
    segment: Segment<TableHeader>,
    /// Number of slots, and of the words that they take; checked to have memory.
    slots: usize,
    used: usize,
}

/// The content of a slot: its kind, and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content<'a> {
    /// What the bytes stand for, as the caller has chosen it.
    pub kind: u8,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// A copy of the content of a slot.
#[derive(Debug, Clone, Default)]
pub struct OwnedContent {
    /// As in [`Content`].
    pub kind: u8,
    len: usize,
    /// Holds at most eight bytes, so that numbers need no allocation.
    short: [u8; 8],
    long: Vec<u8>,
}

impl OwnedContent {
    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        self.short.get(..self.len).unwrap_or(&self.long)
    }

    /// Returns the bytes as a `Vec`.
    pub fn into_bytes(self) -> Vec<u8> {
        match self.short.get(..self.len) {
            Some(short) => short.to_vec(),
            None => self.long,
        }
    }

    /// Returns kind and bytes.
    pub fn content(&self) -> Content<'_> {
        Content { kind: self.kind, bytes: self.bytes() }
    }

    /// Allocates memory for anything that the slot can contain, so that copying it allocates none.
    fn reserve(&mut self, slot: &Slot<'_>) {
        self.long.clear();
        self.long.reserve_exact(slot.room());
    }

    /// Copies what these words contain, which may change meanwhile.
    fn copy(&mut self, head: u64, words: &[AtomicU64]) {
        self.kind = head as u8;
        self.len = ((head >> 8) as usize).min(words.len() * 8);
        if self.len <= 8 {
            self.short = words.first().map_or(0, |word| word.load(Relaxed)).to_ne_bytes();
            return;
        }
        let words = &words[..self.len.div_ceil(8)];
        self.long.resize(words.len() * 8, 0);
        for (chunk, word) in self.long.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        self.long.truncate(self.len);
    }
}

/// Why a slot can't be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotError {
    /// There is no slot with this index.
    NoSlot,
    /// The content is longer than the slot, which has room for this many bytes.
    TooLong(usize),
    /// The slot's directory entry is garbage.
    Corrupt,
}

/// A slot in memory: a version and two buffers.
struct Slot<'a> {
    /// How often the slot was written. The lowest bit says which buffer is the current one.
    version: &'a AtomicU64,
    /// Each buffer has a head with the kind and the number of bytes, and then the bytes.
    buffers: [&'a [AtomicU64]; 2],
}

impl<'a> Slot<'a> {
    /// The directory entry for a slot at word `at` with `room` words for bytes.
    fn entry(at: u64, room: u64) -> u64 {
        room << 32 | at
    }

    /// The slot of a directory entry. None if it doesn't lie within these words.
    fn of(entry: u64, words: &'a [AtomicU64]) -> Option<Slot<'a>> {
        let (at, room) = ((entry & u64::from(u32::MAX)) as usize, (entry >> 32) as usize);
        let words = words.get(at..)?.get(..room.checked_mul(2)?.checked_add(3)?)?;
        let (version, buffers) = words.split_first()?;
        let (first, second) = buffers.split_at(1 + room);
        Some(Slot { version, buffers: [first, second] })
    }

    /// The room, in bytes.
    fn room(&self) -> usize {
        (self.buffers[0].len() - 1) * 8
    }

    fn buffer(&self, version: u64) -> (&'a AtomicU64, &'a [AtomicU64]) {
        self.buffers[(version & 1) as usize].split_first().expect("it has a head")
    }

    /// Copies the content. Returns its version, or none if the slot has been written meanwhile.
    #[inline]
    fn copy(&self, found: &mut OwnedContent) -> Option<u64> {
        // All that was written before this version was published is visible.
        let version = self.version.load(Acquire);
        let (head, words) = self.buffer(version);
        found.copy(head.load(Relaxed), words);
        // If one of these words was written for the version after the next, that happened after the
        // next version was published, and the check below sees that. This fence pairs with the one
        // in `write`.
        fence(Acquire);
        (self.version.load(Relaxed) == version).then_some(version)
    }

    /// Writes the content, and then makes it the current one. The caller holds the lock, and has
    /// checked that there is room.
    #[inline]
    fn write(&self, content: Content<'_>) {
        // The version that the previous writer published, whether or not it lived to unlock.
        let next = self.version.load(Acquire).wrapping_add(1);
        let (head, words) = self.buffer(next);
        // No word is written before that version is visible to all: some readers may still read
        // this buffer. See `copy`.
        fence(Release);
        head.store((content.bytes.len() as u64) << 8 | u64::from(content.kind), Relaxed);
        copy_in(words, content.bytes);
        self.version.store(next, Release);
    }
}

impl SlotTable {
    /// Creates a table of slots with these contents. Each has room for at least as many bytes as
    /// given and for its content.
    ///
    /// # Errors
    /// `FileTooLarge` if the slots need more than the maximum; `EMFILE`, `ENFILE`, `ENOSPC`,
    /// `ENOMEM`.
    pub fn create<'a>(slots: impl Iterator<Item = (Content<'a>, usize)> + Clone) -> io::Result<SlotTable> {
        let words = |(content, room): &(Content<'a>, usize)| (*room).max(content.bytes.len()).div_ceil(8) as u64;
        let sizes = slots.clone().map(|slot| words(&slot).saturating_mul(2).saturating_add(OVERHEAD));
        let used = sizes.fold(0, u64::saturating_add);
        if used > MAX_WORDS as u64 {
            let (bytes, most) = (used.saturating_mul(8), MAX_WORDS * 8);
            let text = format!("its items would take {} of memory, and may take {}", Size(bytes), Size::of(most));
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        let segment: Segment<TableHeader> = Segment::create_for(used as usize)?;
        segment.file().allocate(Segment::<TableHeader>::LEN as u64, used * 8)?;
        let count = slots.clone().count();
        segment.slots.store(count as u64, Relaxed);
        segment.used.store(used, Relaxed);
        let slot_table = SlotTable { segment, slots: count, used: used as usize };
        let mut at = count as u64;
        for (index, slot) in slots.enumerate() {
            let room = words(&slot);
            slot_table.segment.more()[index].store(Slot::entry(at, room), Relaxed);
            at += 2 * room + OVERHEAD - 1;
            // No other process has the table yet.
            slot_table.slot(index).expect("it has just been made").write(slot.0);
        }
        Ok(slot_table)
    }

    /// Opens a table that has come from another process.
    ///
    /// # Errors
    /// `InvalidData` if it is something else; `ENOSPC`, `ENOMEM`.
    pub fn open(fd: OwnedFd) -> io::Result<SlotTable> {
        let segment: Segment<TableHeader> = Segment::open(fd)?;
        let (slots, used) = (segment.slots.load(Relaxed), segment.used.load(Relaxed));
        if used > segment.more().len() as u64 || slots > used / OVERHEAD {
            let text = format!("invalid {}: its size is out of range", TableHeader::NAME);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // As the segment does for its own memory: touching memory that another process has freed
        // would allocate it in a page fault, and kill this process with SIGBUS if there is none
        // left.
        segment.file().allocate(Segment::<TableHeader>::LEN as u64, used * 8)?;
        Ok(SlotTable { segment, slots: slots as usize, used: used as usize })
    }

    /// Returns the number of slots.
    pub fn len(&self) -> usize {
        self.slots
    }

    /// Returns whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the room of a slot, in bytes. None if there is no such slot.
    pub fn room(&self, index: usize) -> Option<usize> {
        match self.slot(index) {
            Ok(slot) => Some(slot.room()),
            Err(SlotError::Corrupt) => Some(0),
            Err(_) => None,
        }
    }

    fn slot(&self, index: usize) -> Result<Slot<'_>, SlotError> {
        if index >= self.slots {
            return Err(SlotError::NoSlot);
        }
        let words = &self.segment.more()[..self.used];
        Slot::of(words[index].load(Relaxed), words).ok_or(SlotError::Corrupt)
    }

    /// Returns the slot if it has room for the content.
    fn slot_for(&self, index: usize, content: Content<'_>) -> Result<Slot<'_>, SlotError> {
        let slot = self.slot(index)?;
        match content.bytes.len() <= slot.room() {
            true => Ok(slot),
            false => Err(SlotError::TooLong(slot.room())),
        }
    }

    /// Reads the content of a slot.
    ///
    /// # Errors
    /// There is no such slot, or its entry is garbage.
    #[inline]
    pub fn read(&self, index: usize) -> Result<OwnedContent, SlotError> {
        let mut found = OwnedContent::default();
        self.read_version(&self.slot(index)?, &mut found);
        Ok(found)
    }

    /// Reads the content of a slot, and returns its version.
    #[inline]
    fn read_version(&self, slot: &Slot<'_>, found: &mut OwnedContent) -> u64 {
        for _ in 0..MAX_TRIES {
            if let Some(version) = slot.copy(found) {
                return version;
            }
            std::hint::spin_loop();
        }
        self.read_slowly(slot, found)
    }

    /// Reads a slot under the lock, so that no process can write it meanwhile.
    #[cold]
    fn read_slowly(&self, slot: &Slot<'_>, found: &mut OwnedContent) -> u64 {
        found.reserve(slot);
        let _guard = self.segment.spin_lock.lock_endlessly();
        // Copying fails only if a process writes there without the lock; then there is nothing
        // better to return.
        slot.copy(found).unwrap_or_else(|| slot.version.load(Relaxed))
    }

    /// Replaces the content of a slot.
    ///
    /// # Errors
    /// There is no such slot, or not enough room in it, or its entry is garbage.
    #[inline]
    pub fn write(&self, index: usize, content: Content<'_>) -> Result<(), SlotError> {
        let slot = self.slot_for(index, content)?;
        let _guard = self.segment.spin_lock.lock_endlessly();
        slot.write(content);
        Ok(())
    }

    /// Replaces the content of a slot, and returns the previous one.
    ///
    /// # Errors
    /// As [`write`](SlotTable::write).
    pub fn replace(&self, index: usize, content: Content<'_>) -> Result<OwnedContent, SlotError> {
        let slot = self.slot_for(index, content)?;
        Ok(self.write_if(&slot, content, |_| true).expect("whatever is there is replaced"))
    }

    /// Replaces the content of a slot if it is `current`, and returns the previous one; otherwise
    /// returns the actual content as an error.
    ///
    /// # Errors
    /// As [`write`](SlotTable::write), regardless of the present content.
    pub fn compare_exchange(
        &self,
        index: usize,
        current: Content<'_>,
        content: Content<'_>,
    ) -> Result<Result<OwnedContent, OwnedContent>, SlotError> {
        let slot = self.slot_for(index, content)?;
        Ok(self.write_if(&slot, content, |found| found.content() == current))
    }

    /// Writes a slot if its content is `expected`. Returns the previous or the actual content.
    fn write_if(
        &self,
        slot: &Slot<'_>,
        content: Content<'_>,
        expected: impl Fn(&OwnedContent) -> bool,
    ) -> Result<OwnedContent, OwnedContent> {
        let mut found = OwnedContent::default();
        // The content is copied, for which memory is allocated, before the lock is acquired.
        for _ in 0..MAX_TRIES {
            let version = self.read_version(slot, &mut found);
            if !expected(&found) {
                return Err(found);
            }
            let _guard = self.segment.spin_lock.lock_endlessly();
            if slot.version.load(Relaxed) == version {
                slot.write(content);
                return Ok(found);
            }
        }
        self.write_if_slowly(slot, content, expected, found)
    }

    /// As [`write_if`](SlotTable::write_if), under the lock from the start, as other writers have
    /// been faster each time. The memory of `found` is reused.
    #[cold]
    fn write_if_slowly(
        &self,
        slot: &Slot<'_>,
        content: Content<'_>,
        expected: impl Fn(&OwnedContent) -> bool,
        mut found: OwnedContent,
    ) -> Result<OwnedContent, OwnedContent> {
        found.reserve(slot);
        let _guard = self.segment.spin_lock.lock_endlessly();
        slot.copy(&mut found);
        if !expected(&found) {
            return Err(found);
        }
        slot.write(content);
        Ok(found)
    }

    /// Returns the contents of all slots at one moment. A slot with an invalid entry is empty.
    pub fn snapshot(&self) -> Vec<OwnedContent> {
        let slots = || (0..self.slots).map(|index| self.slot(index).ok());
        let mut all: Vec<(u64, OwnedContent)> = Vec::with_capacity(self.slots);
        all.extend(slots().map(|slot| {
            let mut found = OwnedContent::default();
            (slot.map_or(0, |slot| self.read_version(&slot, &mut found)), found)
        }));
        for _ in 0..MAX_TRIES {
            // If all versions are now what they were when the slots were read, one after the other,
            // then all these contents were current together, before this check. Relaxed loads can't
            // miss a version: if a copy contains the write of one process that came after the write
            // of another, then acquiring its version made all visible that the other had published.
            let mut same = true;
            for (slot, (version, found)) in slots().zip(&mut all) {
                if let Some(slot) = slot
                    && slot.version.load(Relaxed) != *version
                {
                    *version = self.read_version(&slot, found);
                    same = false;
                }
            }
            if same {
                return all.into_iter().map(|(_, found)| found).collect();
            }
        }
        self.snapshot_slowly(all)
    }

    /// As [`snapshot`](SlotTable::snapshot), under the lock. Of the slots in `all`, reads again
    /// those that have changed.
    #[cold]
    fn snapshot_slowly(&self, mut all: Vec<(u64, OwnedContent)>) -> Vec<OwnedContent> {
        let mut spare: Vec<OwnedContent> = vec![OwnedContent::default(); all.len()];
        for (index, found) in spare.iter_mut().enumerate() {
            if let Ok(slot) = self.slot(index) {
                found.reserve(&slot);
            }
        }
        let guard = self.segment.spin_lock.lock_endlessly();
        for (index, ((version, found), spare)) in all.iter_mut().zip(&mut spare).enumerate() {
            if let Ok(slot) = self.slot(index)
                && slot.version.load(Relaxed) != *version
            {
                slot.copy(spare);
                std::mem::swap(found, spare);
            }
        }
        drop(guard);
        all.into_iter().map(|(_, found)| found).collect()
    }
}

impl AsFd for SlotTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn content(kind: u8, bytes: &[u8]) -> Content<'_> {
        Content { kind, bytes }
    }

    /// Empty slots with this much room each, in bytes.
    fn slot_table(rooms: &[usize]) -> SlotTable {
        SlotTable::create(rooms.iter().map(|room| (content(0, b""), *room))).unwrap()
    }

    fn again(slot_table: &SlotTable) -> SlotTable {
        SlotTable::open(slot_table.as_fd().try_clone_to_owned().unwrap()).unwrap()
    }

    /// Pseudorandom numbers: splitmix64.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    #[test]
    fn smoke() {
        let bytes: Vec<u8> = (1..=100).collect();
        let first = [(content(7, b"first"), 0), (content(8, &bytes), 0), (content(9, b""), 100)];
        let one = SlotTable::create(first.into_iter()).unwrap();
        let two = again(&one);
        assert_eq!((two.len(), two.room(0), two.room(1), two.room(2)), (3, Some(8), Some(104), Some(104)));
        assert!(first.iter().zip(two.snapshot()).all(|((content, _), found)| found.content() == *content));
        for len in 0..=100 {
            one.write(1, content(len as u8, &bytes[..len])).unwrap();
            let found = two.read(1).unwrap();
            assert_eq!(found.content(), content(len as u8, &bytes[..len]));
            assert_eq!(found.into_bytes(), &bytes[..len]);
        }
        assert_eq!(two.read(0).unwrap().bytes(), b"first");
        assert_eq!(two.read(2).unwrap().bytes(), b"");
    }

    #[test]
    fn too_large() {
        let slot_table = slot_table(&[8, 0, 17]);
        assert_eq!([0, 1, 2, 3].map(|index| slot_table.room(index)), [Some(8), Some(0), Some(24), None]);
        for (index, len, error) in [
            (0, 9, SlotError::TooLong(8)),
            (1, 1, SlotError::TooLong(0)),
            (3, 0, SlotError::NoSlot),
            (usize::MAX, 0, SlotError::NoSlot),
        ] {
            let new = content(1, &[7; 9][..len]);
            assert_eq!(slot_table.write(index, new), Err(error));
            assert_eq!(slot_table.replace(index, new).map(drop), Err(error));
            assert_eq!(slot_table.compare_exchange(index, new, new).map(drop), Err(error));
        }
        assert_eq!(slot_table.read(3).map(drop), Err(SlotError::NoSlot));
        assert!(slot_table.snapshot().iter().all(|found| found.content() == content(0, b"")));
        for rooms in [&[64 << 20][..], &[usize::MAX], &[usize::MAX, usize::MAX], &[40 << 20, 40 << 20]] {
            let error = SlotTable::create(rooms.iter().map(|room| (content(0, b""), *room))).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert!(error.to_string().contains("and may take 128 MiB"), "{error}");
        }
    }

    #[test]
    fn max_size() {
        let most = (MAX_WORDS - OVERHEAD as usize) / 2 * 8;
        let one = slot_table(&[most]);
        let bytes: Vec<u8> = (0..most).map(|index| (index % 251) as u8).collect();
        (0..2).for_each(|kind| one.write(0, content(kind, &bytes)).unwrap());
        assert_eq!(again(&one).read(0).unwrap().content(), content(1, &bytes));
        assert!(SlotTable::create([(content(0, b""), most + 1)].into_iter()).is_err());
        // A table without slots works too.
        assert_eq!(again(&slot_table(&[])).snapshot().len(), 0);
    }

    /// A lack of memory is an error of creating or opening a table, not a SIGBUS later.
    #[test]
    fn memory_is_allocated() {
        let one = slot_table(&[100_000, 8]);
        let file = one.segment.file();
        let allocated = file.allocated().unwrap();
        assert!(allocated >= one.used as u64 * 8 && allocated < 300_000, "{allocated}");
        file.free(Segment::<TableHeader>::LEN as u64, 300_000);
        assert!(file.allocated().unwrap() < allocated);
        drop(again(&one));
        assert_eq!(file.allocated().unwrap(), allocated);
    }

    #[test]
    fn replace_and_compare_exchange() {
        let slot_table = slot_table(&[16]);
        assert_eq!(slot_table.replace(0, content(1, b"one")).unwrap().content(), content(0, b""));
        assert_eq!(slot_table.replace(0, content(2, b"more than eight")).unwrap().content(), content(1, b"one"));
        let current = content(2, b"more than eight");
        for other in [content(3, b"more than eight"), content(2, b"more than seven"), content(2, b"")] {
            let found = slot_table.compare_exchange(0, other, content(4, b"")).unwrap().unwrap_err();
            assert_eq!(found.content(), current);
        }
        assert_eq!(slot_table.compare_exchange(0, current, content(4, b"")).unwrap().unwrap().content(), current);
        assert_eq!(slot_table.read(0).unwrap().content(), content(4, b""));
        // Also when other writers are faster each time.
        let (slot, new) = (slot_table.slot(0).unwrap(), content(5, b"more than eight"));
        let slowly =
            |expected: bool, new| slot_table.write_if_slowly(&slot, new, |_| expected, OwnedContent::default());
        assert_eq!(slowly(true, new).unwrap().content(), content(4, b""));
        assert_eq!(slowly(false, content(6, b"")).unwrap_err().content(), new);
        assert_eq!(slowly(true, content(6, b"")).unwrap().content(), new);
        assert_eq!(slot_table.read(0).unwrap().content(), content(6, b""));
        assert!(!slot_table.segment.spin_lock.is_held());
    }

    /// However much a writer has written when it dies with the lock, the previous content remains.
    #[test]
    fn killed_writer() {
        let slot_table = slot_table(&[24, 24]);
        slot_table.write(0, content(1, b"what was there before")).unwrap();
        for written in 0..=4 {
            std::mem::forget(slot_table.segment.spin_lock.lock_endlessly());
            let slot = slot_table.slot(0).unwrap();
            let (head, words) = slot.buffer(slot.version.load(Relaxed) + 1);
            let all = std::iter::once(head).chain(words);
            all.take(written).for_each(|word| word.store(u64::from_ne_bytes([b'x'; 8]), Relaxed));
            slot_table.segment.spin_lock.orphan();
            assert_eq!(slot_table.read(0).unwrap().content(), content(1, b"what was there before"));
            // The lock is inherited, by each kind of caller.
            match written % 3 {
                0 => slot_table.write(1, content(2, b"works")).unwrap(),
                1 => drop(slot_table.replace(0, content(1, b"what was there before")).unwrap()),
                _ => drop(slot_table.read_slowly(&slot, &mut OwnedContent::default())),
            }
            assert!(!slot_table.segment.spin_lock.is_held());
            assert_eq!(slot_table.read(0).unwrap().content(), content(1, b"what was there before"));
        }
    }

    /// No reader waits for a sleeping owner of the lock.
    #[test]
    fn stopped_writer() {
        let slot_table = slot_table(&[24, 8]);
        slot_table.write(0, content(1, b"what was there before")).unwrap();
        let _guard = slot_table.segment.spin_lock.lock_endlessly();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| (slot_table.read(0).unwrap(), slot_table.snapshot()));
            let (found, all) = reader.join().unwrap();
            assert_eq!(found.bytes(), b"what was there before");
            assert_eq!(all[0].content(), found.content());
        });
    }

    /// Whether the content is one that `with_bytes` writes.
    fn is_whole(found: &OwnedContent) -> bool {
        let bytes = found.bytes();
        bytes.iter().all(|byte| *byte == found.kind) && bytes.len() == usize::from(found.kind) * 3
    }

    /// Writes a random number of bytes that all have the value from which that number follows.
    fn with_bytes<T>(state: &mut u64, write: impl FnOnce(Content<'_>) -> T) -> T {
        let kind = random(state) as u8;
        write(content(kind, &vec![kind; usize::from(kind) * 3]))
    }

    #[test]
    fn no_torn_reads() {
        let (one, ended) = (slot_table(&[255 * 3, 255 * 3]), AtomicBool::new(false));
        let two = again(&one);
        std::thread::scope(|scope| {
            for seed in 0..2 {
                let (slot_table, ended, mut state) = ([&one, &two][seed], &ended, seed as u64);
                scope.spawn(move || {
                    for index in 0..20_000 {
                        match index % 5 {
                            0 => assert!(is_whole(
                                &with_bytes(&mut state, |new| slot_table.replace(index & 1, new)).unwrap()
                            )),
                            1 => {
                                let found = slot_table.read(index & 1).unwrap();
                                let changed = with_bytes(&mut state, |new| {
                                    slot_table.compare_exchange(index & 1, found.content(), new).unwrap()
                                });
                                assert!(is_whole(&changed.unwrap_or_else(|other| other)));
                            }
                            2 => {
                                let slot = slot_table.slot(index & 1).unwrap();
                                let found = with_bytes(&mut state, |new| {
                                    slot_table.write_if_slowly(&slot, new, |_| true, OwnedContent::default())
                                });
                                assert!(is_whole(&found.unwrap()));
                            }
                            _ => with_bytes(&mut state, |new| slot_table.write(index & 1, new)).unwrap(),
                        }
                    }
                    ended.store(true, Relaxed);
                });
            }
            while !ended.load(Relaxed) {
                assert!(is_whole(&one.read(0).unwrap()));
                assert!(two.snapshot().iter().all(is_whole));
                let mut found = OwnedContent::default();
                two.read_slowly(&two.slot(1).unwrap(), &mut found);
                assert!(is_whole(&found));
            }
        });
    }

    /// One thread writes ever larger numbers to one slot after the other: at each moment they are
    /// in order, and no two differ by more than one.
    #[test]
    fn snapshot_is_atomic() {
        const SLOTS: usize = 10;
        let (one, ended) = (slot_table(&[16; SLOTS]), AtomicBool::new(false));
        let two = again(&one);
        // A text as long as the slot has room for, so that it is allocated.
        let text = |number: usize| format!("{number:016}");
        (0..SLOTS).for_each(|index| one.write(index, content(0, text(0).as_bytes())).unwrap());
        let check = |all: Vec<OwnedContent>| {
            let number = |found: &OwnedContent| str::from_utf8(found.bytes()).unwrap().parse::<u64>().unwrap();
            let numbers: Vec<u64> = all.iter().map(number).collect();
            assert!(
                numbers.is_sorted_by(|one, other| one >= other) && numbers[0] - numbers[SLOTS - 1] <= 1,
                "{numbers:?}"
            );
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..5000 {
                    (0..SLOTS).for_each(|index| two.write(index, content(0, text(number).as_bytes())).unwrap());
                }
                ended.store(true, Relaxed);
            });
            while !ended.load(Relaxed) {
                check(one.snapshot());
                // All contents that were read before are out of date by now.
                let old = (0..SLOTS).map(|index| {
                    let mut found = OwnedContent::default();
                    (one.read_version(&one.slot(index).unwrap(), &mut found), found)
                });
                check(one.snapshot_slowly(old.collect()));
            }
        });
    }

    #[test]
    fn wrong_object() {
        let error = SlotTable::open(std::io::pipe().unwrap().0.into()).unwrap_err();
        assert!(error.to_string().contains("invalid shareable list: not a memory file"), "{error}");
        for (slots, used) in [(1, 0), (0, MAX_WORDS as u64 + 1), (u64::MAX, u64::MAX), (100, 399)] {
            let slot_table = slot_table(&[8]);
            slot_table.segment.slots.store(slots, Relaxed);
            slot_table.segment.used.store(used, Relaxed);
            let error = SlotTable::open(slot_table.as_fd().try_clone_to_owned().unwrap()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("its size is out of range"), "{error}");
        }
    }

    /// Another process writes garbage all over the table. Nothing panics or hangs, and no foreign
    /// memory is touched.
    #[test]
    fn garbage() {
        let mut state = 0x6c69_7374;
        for _ in 0..300 {
            let one = slot_table(&[8, 30, 0, 100]);
            let two = again(&one);
            for _ in 0..20 {
                let at = random(&mut state) as usize % one.used;
                let value = match random(&mut state) % 5 {
                    0 => random(&mut state),
                    1 => random(&mut state) % 64,
                    2 => Slot::entry(random(&mut state) % 64, random(&mut state) % 16),
                    3 => u64::MAX - random(&mut state) % 3,
                    _ => random(&mut state) << (random(&mut state) % 64),
                };
                two.segment.more()[if random(&mut state).is_multiple_of(2) { at % 4 } else { at }]
                    .store(value, Relaxed);
                let index = random(&mut state) as usize % 5;
                let bytes = vec![7; random(&mut state) as usize % 64];
                for slot_table in [&one, &two] {
                    let room = slot_table.room(index).unwrap_or(0);
                    assert_eq!(slot_table.snapshot().len(), 4);
                    match slot_table.read(index) {
                        Ok(found) => assert!(found.bytes().len() <= room),
                        Err(error) => assert_eq!(error == SlotError::NoSlot, index == 4),
                    }
                    let written = slot_table.write(index, content(3, &bytes));
                    assert!(written.is_err() || bytes.len() <= room);
                    let _ = slot_table.replace(index, content(4, &bytes));
                    let _ = slot_table.compare_exchange(index, content(4, &bytes), content(5, b""));
                    let old = (0..4).map(|_| (random(&mut state), OwnedContent::default())).collect();
                    assert_eq!(slot_table.snapshot_slowly(old).len(), 4);
                }
            }
        }
    }
}
