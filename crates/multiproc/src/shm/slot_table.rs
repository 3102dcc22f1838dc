//! A fixed number of cells, each with room for some bytes, that anybody reads and replaces. What the bytes mean isn't known here, but for a number beside them.
//!
//! Who writes holds the latch; who reads takes none, and looks afterwards whether somebody has written meanwhile: a sequence lock, of which each cell has two
//! buffers, so that whoever dies in the middle of writing leaves what was there. See "Can Seqlocks Get Along With Programming Language Memory Models?" by
//! Hans-J. Boehm, and `shared/PROTOCOL.md`, "ShareableList".

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use super::scratch::copy_in;
use super::segment::{Layout, Segment, layout};
use super::spin_lock::RobustSpinLock;
use crate::units::Size;

/// So many numbers there may be: 128 MiB.
const MORE: usize = 1 << 24;

/// What a cell takes beside its room, twice: its entry, its version, and the heads of its buffers.
const OVERHEAD: u64 = 4;

/// So many times a reader tries without the latch.
const TRIES: u32 = 16;

layout! {
    /// What lies in shared memory. In the numbers behind it is the directory, one entry for each cell, and behind that are the cells: see [`Slot`].
    struct TableHeader: "shareable list", 0x40, ..MORE {
        /// Who holds it writes. All that somebody can leave who dies with it is a buffer that isn't the current one, half written.
        spin_lock: RobustSpinLock,
        /// How many cells there are. Written once, as are the next one and the directory.
        cells: AtomicU64,
        /// How many numbers are in use.
        used: AtomicU64,
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SlotTable {
    segment: Segment<TableHeader>,
    /// How many cells there are, and in how many numbers: no more than have memory.
    cells: usize,
    used: usize,
}

/// What is in a cell, or is to be: a number that tells what it is, and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content<'a> {
    pub(crate) kind: u8,
    pub(crate) bytes: &'a [u8],
}

/// What was in a cell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub(crate) kind: u8,
    len: usize,
    /// Up to so many bytes are here: nothing is allocated for a number.
    short: [u8; 8],
    long: Vec<u8>,
}

impl Found {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.short.get(..self.len).unwrap_or(&self.long)
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match self.short.get(..self.len) {
            Some(short) => short.to_vec(),
            None => self.long,
        }
    }

    pub(crate) fn content(&self) -> Content<'_> {
        Content { kind: self.kind, bytes: self.bytes() }
    }

    /// Has memory for whatever can be in that cell, so that copying it allocates nothing.
    fn reserve(&mut self, cell: &Slot<'_>) {
        self.long.clear();
        self.long.reserve_exact(cell.room());
    }

    /// Takes what these words say, which may change meanwhile.
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

/// Why nothing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such cell.
    NoCell,
    /// There is room for so many bytes only.
    NoRoom(usize),
    /// The cell's entry in the directory is garbage.
    Corrupt,
}

/// A cell as it lies in memory: the version, and two buffers.
struct Slot<'a> {
    /// How often it was written. The lowest bit says which buffer is the current one.
    version: &'a AtomicU64,
    /// Each: what it is and how many bytes it has, then the bytes.
    buffers: [&'a [AtomicU64]; 2],
}

impl<'a> Slot<'a> {
    /// What stands in the directory.
    fn entry(at: u64, room: u64) -> u64 {
        room << 32 | at
    }

    /// The one of that entry. None if that is no place among these words.
    fn of(entry: u64, words: &'a [AtomicU64]) -> Option<Slot<'a>> {
        let (at, room) = ((entry & u64::from(u32::MAX)) as usize, (entry >> 32) as usize);
        let words = words.get(at..)?.get(..room.checked_mul(2)?.checked_add(3)?)?;
        let (version, buffers) = words.split_first()?;
        let (first, second) = buffers.split_at(1 + room);
        Some(Slot { version, buffers: [first, second] })
    }

    /// In bytes.
    fn room(&self) -> usize {
        (self.buffers[0].len() - 1) * 8
    }

    fn buffer(&self, version: u64) -> (&'a AtomicU64, &'a [AtomicU64]) {
        self.buffers[(version & 1) as usize].split_first().expect("it has a head")
    }

    /// Copies what is there; gives the version that it is, if nobody has written meanwhile.
    #[inline]
    fn copy(&self, found: &mut Found) -> Option<u64> {
        // Whatever was written before this version was published is seen.
        let version = self.version.load(Acquire);
        let (head, words) = self.buffer(version);
        found.copy(head.load(Relaxed), words);
        // If any of these words were written for the version after the next, that came after the next one was published, which then is seen below: this fence
        // belongs to the one in `write`.
        fence(Acquire);
        (self.version.load(Relaxed) == version).then_some(version)
    }

    /// Writes it, and then has it be what is there. The caller holds the latch, and has seen that there is room.
    #[inline]
    fn write(&self, content: Content<'_>) {
        // What the one before has published, whether or not it lived to open the latch.
        let next = self.version.load(Acquire).wrapping_add(1);
        let (head, words) = self.buffer(next);
        // Nothing is written before that version was there for all to see: some may still read this buffer. See `copy`.
        fence(Release);
        head.store((content.bytes.len() as u64) << 8 | u64::from(content.kind), Relaxed);
        copy_in(words, content.bytes);
        self.version.store(next, Release);
    }
}

impl SlotTable {
    /// A new one, of cells with these contents, each with room for so many bytes and for what is in it.
    ///
    /// # Errors
    /// `FileTooLarge` if there is more than there may be; `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub(crate) fn create<'a>(cells: impl Iterator<Item = (Content<'a>, usize)> + Clone) -> io::Result<SlotTable> {
        let words = |(content, room): &(Content<'a>, usize)| (*room).max(content.bytes.len()).div_ceil(8) as u64;
        let sizes = cells.clone().map(|cell| words(&cell).saturating_mul(2).saturating_add(OVERHEAD));
        let used = sizes.fold(0, u64::saturating_add);
        if used > MORE as u64 {
            let (bytes, most) = (used.saturating_mul(8), MORE * 8);
            let text = format!("its items would take {} of memory, and may take {}", Size(bytes), Size::of(most));
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        let segment: Segment<TableHeader> = Segment::create_for(used as usize)?;
        segment.file().allocate(Segment::<TableHeader>::LEN as u64, used * 8)?;
        let count = cells.clone().count();
        segment.cells.store(count as u64, Relaxed);
        segment.used.store(used, Relaxed);
        let slot_table = SlotTable { segment, cells: count, used: used as usize };
        let mut at = count as u64;
        for (index, cell) in cells.enumerate() {
            let room = words(&cell);
            slot_table.segment.more()[index].store(Slot::entry(at, room), Relaxed);
            at += 2 * room + OVERHEAD - 1;
            // Nobody else has it yet.
            slot_table.cell(index).expect("it has just been made").write(cell.0);
        }
        Ok(slot_table)
    }

    /// One that has come from another process.
    ///
    /// # Errors
    /// `InvalidData` when it is something else; `ENOSPC`, `ENOMEM`.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<SlotTable> {
        let segment: Segment<TableHeader> = Segment::open(fd)?;
        let (cells, used) = (segment.cells.load(Relaxed), segment.used.load(Relaxed));
        if used > segment.more().len() as u64 || cells > used / OVERHEAD {
            let text = format!("this is no {} of this program: its size is garbage", TableHeader::NAME);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // As the segment does with its own: what somebody has given back without being asked would be a fault of this process.
        segment.file().allocate(Segment::<TableHeader>::LEN as u64, used * 8)?;
        Ok(SlotTable { segment, cells: cells as usize, used: used as usize })
    }

    /// How many cells there are.
    pub(crate) fn len(&self) -> usize {
        self.cells
    }

    /// For how many bytes there is room in that cell. None if there is no such cell.
    pub(crate) fn room(&self, index: usize) -> Option<usize> {
        match self.cell(index) {
            Ok(cell) => Some(cell.room()),
            Err(Refusal::Corrupt) => Some(0),
            Err(_) => None,
        }
    }

    fn cell(&self, index: usize) -> Result<Slot<'_>, Refusal> {
        if index >= self.cells {
            return Err(Refusal::NoCell);
        }
        let words = &self.segment.more()[..self.used];
        Slot::of(words[index].load(Relaxed), words).ok_or(Refusal::Corrupt)
    }

    /// The same, with room for what is to be written.
    fn cell_for(&self, index: usize, content: Content<'_>) -> Result<Slot<'_>, Refusal> {
        let cell = self.cell(index)?;
        match content.bytes.len() <= cell.room() {
            true => Ok(cell),
            false => Err(Refusal::NoRoom(cell.room())),
        }
    }

    /// What is in that cell.
    ///
    /// # Errors
    /// There is no such cell, or its entry is garbage.
    #[inline]
    pub(crate) fn read(&self, index: usize) -> Result<Found, Refusal> {
        let mut found = Found::default();
        self.read_version(&self.cell(index)?, &mut found);
        Ok(found)
    }

    /// Reads it, and says which version it is.
    #[inline]
    fn read_version(&self, cell: &Slot<'_>, found: &mut Found) -> u64 {
        for _ in 0..TRIES {
            if let Some(version) = cell.copy(found) {
                return version;
            }
            std::hint::spin_loop();
        }
        self.read_slowly(cell, found)
    }

    /// The same, while nobody can write.
    #[cold]
    fn read_slowly(&self, cell: &Slot<'_>, found: &mut Found) -> u64 {
        found.reserve(cell);
        let _guard = self.segment.spin_lock.lock_endlessly();
        // It fails only if somebody scribbles there without the latch; there is nothing better to be had then.
        cell.copy(found).unwrap_or_else(|| cell.version.load(Relaxed))
    }

    /// Has this be what is in that cell.
    ///
    /// # Errors
    /// There is no such cell, or not enough room in it, or its entry is garbage.
    #[inline]
    pub(crate) fn write(&self, index: usize, content: Content<'_>) -> Result<(), Refusal> {
        let cell = self.cell_for(index, content)?;
        let _guard = self.segment.spin_lock.lock_endlessly();
        cell.write(content);
        Ok(())
    }

    /// The same, and gives what was there before.
    ///
    /// # Errors
    /// As [`write`](SlotTable::write).
    pub(crate) fn replace(&self, index: usize, content: Content<'_>) -> Result<Found, Refusal> {
        let cell = self.cell_for(index, content)?;
        Ok(self.write_if(&cell, content, |_| true).expect("whatever is there is replaced"))
    }

    /// The same, if what is there is `current`; gives what is there if it isn't.
    ///
    /// # Errors
    /// As [`write`](SlotTable::write), whatever is there.
    pub(crate) fn compare_exchange(
        &self,
        index: usize,
        current: Content<'_>,
        content: Content<'_>,
    ) -> Result<Result<Found, Found>, Refusal> {
        let cell = self.cell_for(index, content)?;
        Ok(self.write_if(&cell, content, |found| found.content() == current))
    }

    /// Writes to it if what is there is `expected`. Gives what is or was there.
    fn write_if(
        &self,
        cell: &Slot<'_>,
        content: Content<'_>,
        expected: impl Fn(&Found) -> bool,
    ) -> Result<Found, Found> {
        let mut found = Found::default();
        // What is there is copied, for which memory is allocated, before the latch is taken.
        for _ in 0..TRIES {
            let version = self.read_version(cell, &mut found);
            if !expected(&found) {
                return Err(found);
            }
            let _guard = self.segment.spin_lock.lock_endlessly();
            if cell.version.load(Relaxed) == version {
                cell.write(content);
                return Ok(found);
            }
        }
        self.write_if_slowly(cell, content, expected, found)
    }

    /// The same, while nobody else can write: others have come first each time. `found` is memory to be used again.
    #[cold]
    fn write_if_slowly(
        &self,
        cell: &Slot<'_>,
        content: Content<'_>,
        expected: impl Fn(&Found) -> bool,
        mut found: Found,
    ) -> Result<Found, Found> {
        found.reserve(cell);
        let _guard = self.segment.spin_lock.lock_endlessly();
        cell.copy(&mut found);
        if !expected(&found) {
            return Err(found);
        }
        cell.write(content);
        Ok(found)
    }

    /// What was in all cells at one moment. An entry that is garbage is an empty cell.
    pub(crate) fn snapshot(&self) -> Vec<Found> {
        let cells = || (0..self.cells).map(|index| self.cell(index).ok());
        let mut all: Vec<(u64, Found)> = Vec::with_capacity(self.cells);
        all.extend(cells().map(|cell| {
            let mut found = Found::default();
            (cell.map_or(0, |cell| self.read_version(&cell, &mut found)), found)
        }));
        for _ in 0..TRIES {
            // If all are now what they were when they were read, one after the other, they were so all together before this. Nothing older is taken for now: if the
            // copy has something of one who came after another, in a cell that was read, then that version brought along all that the other has published.
            let mut same = true;
            for (cell, (version, found)) in cells().zip(&mut all) {
                if let Some(cell) = cell
                    && cell.version.load(Relaxed) != *version
                {
                    *version = self.read_version(&cell, found);
                    same = false;
                }
            }
            if same {
                return all.into_iter().map(|(_, found)| found).collect();
            }
        }
        self.snapshot_slowly(all)
    }

    /// The same, while nobody can write: of what was read already, those are read again that have changed.
    #[cold]
    fn snapshot_slowly(&self, mut all: Vec<(u64, Found)>) -> Vec<Found> {
        let mut spare: Vec<Found> = vec![Found::default(); all.len()];
        for (index, found) in spare.iter_mut().enumerate() {
            if let Ok(cell) = self.cell(index) {
                found.reserve(&cell);
            }
        }
        let guard = self.segment.spin_lock.lock_endlessly();
        for (index, ((version, found), spare)) in all.iter_mut().zip(&mut spare).enumerate() {
            if let Ok(cell) = self.cell(index)
                && cell.version.load(Relaxed) != *version
            {
                cell.copy(spare);
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

    /// Cells with so much room each, in bytes; empty.
    fn slot_table(rooms: &[usize]) -> SlotTable {
        SlotTable::create(rooms.iter().map(|room| (content(0, b""), *room))).unwrap()
    }

    fn again(slot_table: &SlotTable) -> SlotTable {
        SlotTable::open(slot_table.as_fd().try_clone_to_owned().unwrap()).unwrap()
    }

    /// Numbers that look random: splitmix64.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    #[test]
    fn what_one_writes_the_other_reads() {
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
    fn what_does_not_fit_is_refused() {
        let slot_table = slot_table(&[8, 0, 17]);
        assert_eq!([0, 1, 2, 3].map(|index| slot_table.room(index)), [Some(8), Some(0), Some(24), None]);
        for (index, len, refusal) in [
            (0, 9, Refusal::NoRoom(8)),
            (1, 1, Refusal::NoRoom(0)),
            (3, 0, Refusal::NoCell),
            (usize::MAX, 0, Refusal::NoCell),
        ] {
            let new = content(1, &[7; 9][..len]);
            assert_eq!(slot_table.write(index, new), Err(refusal));
            assert_eq!(slot_table.replace(index, new).map(drop), Err(refusal));
            assert_eq!(slot_table.compare_exchange(index, new, new).map(drop), Err(refusal));
        }
        assert_eq!(slot_table.read(3).map(drop), Err(Refusal::NoCell));
        assert!(slot_table.snapshot().iter().all(|found| found.content() == content(0, b"")));
        for rooms in [&[64 << 20][..], &[usize::MAX], &[usize::MAX, usize::MAX], &[40 << 20, 40 << 20]] {
            let error = SlotTable::create(rooms.iter().map(|room| (content(0, b""), *room))).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert!(error.to_string().contains("and may take 128 MiB"), "{error}");
        }
    }

    #[test]
    fn as_much_as_there_may_be() {
        let most = (MORE - OVERHEAD as usize) / 2 * 8;
        let one = slot_table(&[most]);
        let bytes: Vec<u8> = (0..most).map(|index| (index % 251) as u8).collect();
        (0..2).for_each(|kind| one.write(0, content(kind, &bytes)).unwrap());
        assert_eq!(again(&one).read(0).unwrap().content(), content(1, &bytes));
        assert!(SlotTable::create([(content(0, b""), most + 1)].into_iter()).is_err());
        // And of none.
        assert_eq!(again(&slot_table(&[])).snapshot().len(), 0);
    }

    /// A lack of memory is an error of making or opening it, not a SIGBUS later.
    #[test]
    fn there_is_memory_for_all_of_it() {
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
        // And when others have come first each time.
        let (cell, new) = (slot_table.cell(0).unwrap(), content(5, b"more than eight"));
        let slowly = |expected: bool, new| slot_table.write_if_slowly(&cell, new, |_| expected, Found::default());
        assert_eq!(slowly(true, new).unwrap().content(), content(4, b""));
        assert_eq!(slowly(false, content(6, b"")).unwrap_err().content(), new);
        assert_eq!(slowly(true, content(6, b"")).unwrap().content(), new);
        assert_eq!(slot_table.read(0).unwrap().content(), content(6, b""));
        assert!(!slot_table.segment.spin_lock.is_held());
    }

    /// Whatever part of writing has been done by one who then dies with the latch, what was there is there.
    #[test]
    fn who_dies_while_writing_leaves_what_was_there() {
        let slot_table = slot_table(&[24, 24]);
        slot_table.write(0, content(1, b"what was there before")).unwrap();
        for written in 0..=4 {
            std::mem::forget(slot_table.segment.spin_lock.lock_endlessly());
            let cell = slot_table.cell(0).unwrap();
            let (head, words) = cell.buffer(cell.version.load(Relaxed) + 1);
            let all = std::iter::once(head).chain(words);
            all.take(written).for_each(|word| word.store(u64::from_ne_bytes([b'x'; 8]), Relaxed));
            slot_table.segment.spin_lock.orphan();
            assert_eq!(slot_table.read(0).unwrap().content(), content(1, b"what was there before"));
            // It is inherited in one way or another.
            match written % 3 {
                0 => slot_table.write(1, content(2, b"works")).unwrap(),
                1 => drop(slot_table.replace(0, content(1, b"what was there before")).unwrap()),
                _ => drop(slot_table.read_slowly(&cell, &mut Found::default())),
            }
            assert!(!slot_table.segment.spin_lock.is_held());
            assert_eq!(slot_table.read(0).unwrap().content(), content(1, b"what was there before"));
        }
    }

    /// Nobody who reads waits for one who has the latch and sleeps.
    #[test]
    fn who_is_stopped_while_writing_stops_no_reader() {
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

    /// Whether these are as `write_bytes` writes them.
    fn is_whole(found: &Found) -> bool {
        let bytes = found.bytes();
        bytes.iter().all(|byte| *byte == found.kind) && bytes.len() == usize::from(found.kind) * 3
    }

    /// Writes some bytes, all of them the same, and so many as that says.
    fn with_bytes<T>(state: &mut u64, write: impl FnOnce(Content<'_>) -> T) -> T {
        let kind = random(state) as u8;
        write(content(kind, &vec![kind; usize::from(kind) * 3]))
    }

    #[test]
    fn nothing_is_torn() {
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
                                let cell = slot_table.cell(index & 1).unwrap();
                                let found = with_bytes(&mut state, |new| {
                                    slot_table.write_if_slowly(&cell, new, |_| true, Found::default())
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
                let mut found = Found::default();
                two.read_slowly(&two.cell(1).unwrap(), &mut found);
                assert!(is_whole(&found));
            }
        });
    }

    /// One writes ever larger numbers to one cell after the other: at each moment they are in order, and none is two behind another.
    #[test]
    fn a_snapshot_is_of_one_moment() {
        const SLOTS: usize = 10;
        let (one, ended) = (slot_table(&[16; SLOTS]), AtomicBool::new(false));
        let two = again(&one);
        // As long a text as the cell has room for, so that it is allocated.
        let text = |number: usize| format!("{number:016}");
        (0..SLOTS).for_each(|index| one.write(index, content(0, text(0).as_bytes())).unwrap());
        let check = |all: Vec<Found>| {
            let number = |found: &Found| str::from_utf8(found.bytes()).unwrap().parse::<u64>().unwrap();
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
                // What has been read before, and anything else of it is old by now.
                let old = (0..SLOTS).map(|index| {
                    let mut found = Found::default();
                    (one.read_version(&one.cell(index).unwrap(), &mut found), found)
                });
                check(one.snapshot_slowly(old.collect()));
            }
        });
    }

    #[test]
    fn what_is_no_roster_is_an_error() {
        let error = SlotTable::open(std::io::pipe().unwrap().0.into()).unwrap_err();
        assert!(
            error.to_string().contains("this is no shareable list of this program: it is no memory file"),
            "{error}"
        );
        for (cells, used) in [(1, 0), (0, MORE as u64 + 1), (u64::MAX, u64::MAX), (100, 399)] {
            let slot_table = slot_table(&[8]);
            slot_table.segment.cells.store(cells, Relaxed);
            slot_table.segment.used.store(used, Relaxed);
            let error = SlotTable::open(slot_table.as_fd().try_clone_to_owned().unwrap()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("its size is garbage"), "{error}");
        }
    }

    /// Somebody scribbles over all of it. Nothing panics or hangs, nor is anything touched that isn't its own.
    #[test]
    fn garbage_leads_nobody_astray() {
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
                        Err(refusal) => assert_eq!(refusal == Refusal::NoCell, index == 4),
                    }
                    let written = slot_table.write(index, content(3, &bytes));
                    assert!(written.is_err() || bytes.len() <= room);
                    let _ = slot_table.replace(index, content(4, &bytes));
                    let _ = slot_table.compare_exchange(index, content(4, &bytes), content(5, b""));
                    let old = (0..4).map(|_| (random(&mut state), Found::default())).collect();
                    assert_eq!(slot_table.snapshot_slowly(old).len(), 4);
                }
            }
        }
    }
}
