//! Words that threads own for as long as they like, which locks are made of: [`RobustWord`], the
//! word; [`LockMapping`], the mapped memory that it is in; and [`PoisonableWord`], a word that
//! records its holder, and whether a holder has died or panicked with it.
//!
//! An owned word is on its thread's list of robust futexes (`multiproc_os::robust`), so that the
//! kernel tells the next owner when this one has died. Taking a free word is one compare-and-swap
//! and some private stores, and giving it up is likewise. See `../PROTOCOL.md`, "The robust word".

use std::mem::ManuallyDrop;
use std::ops::Deref;
#[cfg(not(loom))]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use multiproc_os::poll;

use crate::loom::atomic::{AtomicU32, AtomicU64};
use crate::loom::futex::{self, Woken};
use crate::loom::robust::{OWNER, OWNER_DIED, Thread, WAITERS, WORD_SHIFT, Word, copy_number};
use crate::loom::threads;
use crate::memory::layout::{AnyBytes, Layout, layout};
use crate::memory::segment::Segment;
use crate::wait::backoff::Backoff;
use crate::wait::deadline::Deadline;
#[cfg(feature = "async")]
use crate::wait::waiters::Waiters;

/// The time after which a sleeper checks the word for the first time: another waiter may have been
/// stopped just after it was woken, or the word may be corrupt. Each later interval is
/// [`RECHECK_FACTOR`] times as long.
pub(crate) const FIRST_RECHECK: Duration = Duration::from_secs(1);
const RECHECK_FACTOR: u32 = 60;

/// Why a word can't be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcquireError {
    /// Another thread owned it until the deadline.
    Timeout,
    /// The calling thread owns it.
    AlreadyHeld,
    /// The calling thread owns the maximum number of words.
    TooManyLocks,
    /// A signal handler ran in the calling thread, which is in
    /// [`interruptible`](multiproc_os::poll::interruptible).
    Interrupted,
}

/// A word that a thread can own; all zero, it is free.
#[derive(Debug)]
#[repr(C)]
pub struct RobustWord(Word);

// SAFETY: it is made of atomic integers.
unsafe impl AnyBytes for RobustWord {}

#[cfg(loom)]
impl crate::loom::atomic::Zeroed for RobustWord {
    fn zeroed() -> RobustWord {
        RobustWord(Word::zeroed())
    }
}

/// A word and its turn, as read at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pair(u64);

impl Pair {
    fn word(self) -> u32 {
        (self.0 >> WORD_SHIFT) as u32
    }

    fn owner(self) -> u32 {
        self.word() & OWNER
    }

    /// The next turn, with this word.
    fn next(self, word: u32) -> Pair {
        let turn = ((self.0 >> (32 - WORD_SHIFT)) as u32).wrapping_add(1);
        Pair(in_pair(word) | u64::from(turn) << (32 - WORD_SHIFT))
    }
}

/// The bits of a pair that hold this word.
#[inline]
const fn in_pair(word: u32) -> u64 {
    (word as u64) << WORD_SHIFT
}

impl RobustWord {
    /// Takes the word. Returns whether the previous owner has died. The caller announces the word
    /// before, and puts it on its list afterwards.
    #[inline]
    fn take(&self, thread: Thread, deadline: Deadline) -> Result<bool, AcquireError> {
        let found = self.0.pair().load(Relaxed);
        let taken = found | in_pair(thread.id());
        if found & in_pair(u32::MAX) == 0 && self.change(Pair(found), Pair(taken)) {
            return Ok(false);
        }
        self.take_slowly(thread, deadline)
    }

    #[inline]
    fn change(&self, from: Pair, to: Pair) -> bool {
        self.0.pair().compare_exchange(from.0, to.0, SeqCst, Relaxed).is_ok()
    }

    #[cold]
    fn take_slowly(&self, thread: Thread, deadline: Deadline) -> Result<bool, AcquireError> {
        let (mut backoff, mut look) = (Backoff::new(), FIRST_RECHECK);
        loop {
            let found = Pair(self.0.pair().load(SeqCst));
            if found.owner() == 0 {
                if self.change(found, found.next(thread.id() | found.word() & WAITERS)) {
                    return Ok(found.word() & OWNER_DIED != 0);
                }
                continue;
            }
            if found.owner() == thread.id() {
                return Err(AcquireError::AlreadyHeld);
            }
            if deadline.has_passed() {
                // A caller that only tries doesn't pay for this check. An id that no thread has is
                // garbage, or that of a thread that has changed its id by execve(2).
                if deadline != Deadline::Now && !threads::exists(found.owner() as i32) {
                    self.orphan(found);
                    continue;
                }
                return Err(AcquireError::Timeout);
            }
            if !backoff.wait() {
                // A sleep that a signal ends hasn't used up a wake-up.
                look = self.sleep(found, deadline, look)?;
            }
        }
    }

    /// Sleeps while the word has an owner, for `after` at most. The caller has announced the word;
    /// whether it was woken or not, it takes the word next if it is free. Returns how long to sleep
    /// the next time.
    fn sleep(&self, found: Pair, deadline: Deadline, after: Duration) -> Result<Duration, AcquireError> {
        let mut is_interrupted = false;
        let look = self.sleep_by(found, deadline, after, |value, until| {
            let woken = futex::wait(self.0.word(), value, Some(until));
            is_interrupted = woken == Woken::Interrupted && poll::is_interruptible();
            woken
        });
        if is_interrupted { Err(AcquireError::Interrupted) } else { Ok(look) }
    }

    /// As [`sleep`](RobustWord::sleep), but sleeps by calling `sleep` with the word's value and the
    /// time until which to sleep at most.
    fn sleep_by(
        &self,
        mut found: Pair,
        deadline: Deadline,
        after: Duration,
        sleep: impl FnOnce(u32, Instant) -> Woken,
    ) -> Duration {
        if found.word() & WAITERS == 0 {
            let marked = found.next(found.word() | WAITERS);
            if !self.change(found, marked) {
                return FIRST_RECHECK;
            }
            found = marked;
        }
        let look = Instant::now() + after;
        let end = match deadline {
            Deadline::At(deadline) => deadline.min(look),
            _ => look,
        };
        let woken = sleep(found.word(), end);
        if woken != Woken::Timeout || end != look {
            return FIRST_RECHECK;
        }
        if !threads::may_share(found.owner() as i32, self.0.word().as_ptr().cast()) {
            self.orphan(found);
        }
        after.saturating_mul(RECHECK_FACTOR).min(Duration::from_secs(3600))
    }

    /// As [`sleep_by`](RobustWord::sleep_by) without a deadline, if the word has an owner. For a
    /// thread that has announced the word and won't take it.
    #[cfg(feature = "async")]
    pub(crate) fn sleep_while_owned(&self, after: Duration, sleep: impl FnOnce(u32, Instant) -> Woken) -> Duration {
        let found = Pair(self.0.pair().load(SeqCst));
        match found.owner() {
            0 => FIRST_RECHECK,
            _ => self.sleep_by(found, Deadline::Never, after, sleep),
        }
    }

    /// Takes the word if it has no owner, without putting it on the list: for a thread that has
    /// announced it, and keeps it announced until the word is [given
    /// up](RobustWord::give_up_announced) or [adopted](LockMapping::adopt). Returns whether the
    /// previous owner has died; `None` if the word has an owner.
    #[cfg(feature = "async")]
    pub(crate) fn take_announced(&self, thread: Thread) -> Option<bool> {
        self.pass(0, thread.id()).map(|found| found.word() & OWNER_DIED != 0)
    }

    /// Replaces the owner `from` (0: no owner) by `to`, an owner or [`OWNER_DIED`]. Returns what
    /// was there before; `None`, with nothing changed, if the word has another owner than `from`.
    #[cfg(feature = "async")]
    fn pass(&self, from: u32, to: u32) -> Option<Pair> {
        loop {
            let found = Pair(self.0.pair().load(SeqCst));
            if found.owner() != from {
                return None;
            }
            if self.change(found, found.next(to | found.word() & WAITERS)) {
                return Some(found);
            }
        }
    }

    /// Gives up a word that was [taken](RobustWord::take_announced) without being on the list. If
    /// it was `inherited`, the next taker inherits as well, since the death hasn't been recorded
    /// yet.
    #[cfg(feature = "async")]
    pub(crate) fn give_up_announced(&self, thread: Thread, inherited: bool) {
        if !inherited {
            return self.give_up(thread);
        }
        if self.pass(thread.id(), OWNER_DIED).is_some_and(|found| found.word() & WAITERS != 0) {
            futex::wake(self.0.word(), 1);
        }
    }

    /// Wakes one sleeping waiter if the word has no owner. For a thread that may have been woken in
    /// place of another.
    #[cfg(feature = "async")]
    pub(crate) fn wake_next(&self) {
        let found = Pair(self.0.pair().load(SeqCst));
        if found.owner() == 0 && found.word() & WAITERS != 0 {
            self.wake(found);
        }
    }

    #[cfg(feature = "async")]
    pub(crate) fn announce(&self, thread: Thread) {
        thread.announce(self.0.word());
    }

    /// The futex that waiters sleep on.
    #[cfg(feature = "async")]
    pub(crate) fn futex(&self) -> &AtomicU32 {
        self.0.word()
    }

    /// Treats an owner that doesn't exist as one that has died.
    fn orphan(&self, found: Pair) {
        self.change(found, found.next(OWNER_DIED | found.word() & WAITERS));
    }

    /// Waits until the owner has given the word up or died, without taking it. Only for a word on
    /// which no thread sleeps that wants to take it, and for one caller at a time.
    ///
    /// # Errors
    /// [`AcquireError::Timeout`] when the deadline has passed; [`AcquireError::Interrupted`].
    pub fn wait_until_free(&self, deadline: Deadline) -> Result<(), AcquireError> {
        let (mut backoff, mut look) = (Backoff::new(), FIRST_RECHECK);
        loop {
            let found = Pair(self.0.pair().load(SeqCst));
            if found.owner() == 0 {
                if found.word() & WAITERS != 0 {
                    self.change(found, found.next(found.word() & !WAITERS));
                }
                return Ok(());
            }
            if deadline.has_passed() {
                return Err(AcquireError::Timeout);
            }
            if !backoff.wait() {
                look = self.sleep(found, deadline, look)?;
            }
        }
    }

    /// Gives the word up. The caller has announced it, and has taken it off its list.
    #[inline]
    fn give_up(&self, thread: Thread) {
        let mine = in_pair(thread.id());
        let left = self.0.pair().fetch_sub(mine, SeqCst).wrapping_sub(mine);
        if left & in_pair(WAITERS) != 0 {
            self.wake(Pair(left));
        }
    }

    #[cold]
    fn wake(&self, left: Pair) {
        if futex::wake(self.0.word(), 1) == 0 {
            self.change(left, Pair(left.0 & !in_pair(WAITERS)));
        }
    }

    /// Returns the thread id of the present owner.
    #[inline]
    pub fn owner(&self) -> Option<u32> {
        match Pair(self.0.pair().load(SeqCst)).owner() {
            0 => None,
            owner => Some(owner),
        }
    }

    /// Returns whether the owner has died, and no thread has taken the word since.
    #[inline]
    pub fn is_orphaned(&self) -> bool {
        Pair(self.0.pair().load(SeqCst)).word() & OWNER_DIED != 0
    }

    /// Returns whether the word has no owner, living or dead.
    #[inline]
    pub fn is_free(&self) -> bool {
        Pair(self.0.pair().load(SeqCst)).word() & !WAITERS == 0
    }
}

/// The state of a word as its [`LockMapping`] records it.
mod mark {
    /// Not taken through this handle.
    pub(crate) const NONE: u8 = 0;
    /// Taken through this handle, and not given up yet.
    pub(crate) const TAKEN: u8 = 1;
    /// It is unknown on which thread's list the word is.
    pub(crate) const LOST: u8 = 2;
    /// As [`TAKEN`], by a future.
    #[cfg(feature = "async")]
    pub(crate) const TAKEN_IN_FUTURE: u8 = 3;
}

/// A mapped segment, with `N` words that this process takes through this handle. If one of them is
/// still owned when the handle is dropped, the segment stays mapped.
#[derive(Debug)]
pub struct LockMapping<L: Layout, const N: usize = 1> {
    segment: ManuallyDrop<Segment<L>>,
    /// Indexed by the `index` with which a word is taken.
    marks: [AtomicU8; N],
    /// The fork copy that has recorded itself among the users of the lock; 0: none.
    recorded_in: AtomicU32,
    #[cfg(feature = "async")]
    waiters: Waiters,
}

impl<L: Layout, const N: usize> LockMapping<L, N> {
    /// Makes it of a mapped segment.
    pub fn new(segment: Segment<L>) -> LockMapping<L, N> {
        LockMapping {
            segment: ManuallyDrop::new(segment),
            marks: [const { AtomicU8::new(mark::NONE) }; N],
            recorded_in: AtomicU32::new(0),
            #[cfg(feature = "async")]
            waiters: Waiters::default(),
        }
    }

    /// Returns whether this process has recorded itself among the users of the lock through this
    /// handle.
    #[inline]
    pub fn is_recorded(&self) -> bool {
        self.recorded_in.load(Relaxed) == copy_number()
    }

    /// Notes that this process has recorded itself.
    pub fn note_recorded(&self) {
        // So that fork copies have other numbers.
        Thread::current();
        self.recorded_in.store(copy_number(), Relaxed);
    }

    /// Takes a word of this segment; `index` is that of its mark. Returns whether
    /// the previous owner has died.
    #[inline]
    pub fn take(&self, word: &RobustWord, index: usize, deadline: Deadline) -> Result<bool, AcquireError> {
        let thread = Thread::current();
        if !thread.has_room() {
            return Err(self.no_room_error(word, thread));
        }
        assert!(self.segment.holds(word), "the word lies in another segment");
        thread.announce(word.0.word());
        let taken = word.take(thread, deadline);
        if let Ok(inherited) = taken {
            // SAFETY: the word is in the segment, which is unmapped only in Drop, and not even
            // there while the word is marked; there is room on the list.
            unsafe { thread.own(&word.0) };
            let mark = &self.marks[index];
            // A marked word was taken through this handle and not given up, so it can't be free
            // unless garbage was written there. Another thread's list may still hold it then.
            let lost = !inherited && mark.load(Relaxed) != mark::NONE;
            mark.store(if lost { mark::LOST } else { mark::TAKEN }, Relaxed);
        }
        thread.done();
        taken
    }

    #[cold]
    fn no_room_error(&self, word: &RobustWord, thread: Thread) -> AcquireError {
        if word.owner() == Some(thread.id()) { AcquireError::AlreadyHeld } else { AcquireError::TooManyLocks }
    }

    /// Returns whether the calling thread has taken this word through this handle. It may also have
    /// another handle, which maps the same memory at another address.
    #[inline]
    pub fn has(&self, word: &RobustWord) -> bool {
        let thread = Thread::current();
        word.owner() == Some(thread.id()) && thread.owns(&word.0)
    }

    /// Gives up a word that the calling thread has taken by this handle. Returns false, and does
    /// nothing, if the thread doesn't own it, as in a fork copy of the owner.
    #[inline]
    pub fn give_up(&self, word: &RobustWord, index: usize) -> bool {
        let thread = Thread::current();
        if word.owner() != Some(thread.id()) {
            return false;
        }
        thread.announce(word.0.word());
        thread.let_go(&word.0);
        // Before another thread can take it.
        if self.marks[index].load(Relaxed) != mark::LOST {
            self.marks[index].store(mark::NONE, Relaxed);
        }
        word.give_up(thread);
        thread.done();
        true
    }
}

#[cfg(feature = "async")]
impl<L: Layout> LockMapping<L> {
    /// The futures that wait for the word through this handle.
    pub(crate) fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// Makes the calling thread the owner of the word, in place of the thread `from` of this
    /// process, which has [taken](RobustWord::take_announced) it for this one. Returns false if
    /// `from` doesn't own it, or if the calling thread's list has no room.
    pub(crate) fn adopt(&self, word: &RobustWord, from: u32, inherited: bool) -> bool {
        let thread = Thread::current();
        if !thread.has_room() {
            return false;
        }
        assert!(self.segment.holds(word), "the word lies in another segment");
        thread.announce(word.0.word());
        let is_owner = word.pass(from, thread.id()).is_some();
        if is_owner {
            // SAFETY: as in `take`; and the word is on no other list, as `from` has only announced
            // it.
            unsafe { thread.own(&word.0) };
            let lost = !inherited && self.marks[0].load(Relaxed) != mark::NONE;
            self.marks[0].store(if lost { mark::LOST } else { mark::TAKEN }, Relaxed);
        }
        thread.done();
        is_owner
    }

    /// Marks the word, which the calling thread has just taken, as taken by a future.
    pub(crate) fn mark_taken_in_future(&self) {
        let _ = self.marks[0].compare_exchange(mark::TAKEN, mark::TAKEN_IN_FUTURE, Relaxed, Relaxed);
    }

    /// Whether the word, which the calling thread owns, was taken through this handle by a future.
    pub(crate) fn is_taken_in_future(&self) -> bool {
        self.marks[0].load(Relaxed) == mark::TAKEN_IN_FUTURE
    }
}

impl<L: Layout, const N: usize> Deref for LockMapping<L, N> {
    type Target = Segment<L>;

    #[inline]
    fn deref(&self) -> &Segment<L> {
        &self.segment
    }
}

#[cfg(not(loom))]
impl<L: Layout, const N: usize> AsFd for LockMapping<L, N> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

impl<L: Layout, const N: usize> Drop for LockMapping<L, N> {
    fn drop(&mut self) {
        let is_owned = self.marks.iter().any(|mark| mark.load(Relaxed) != mark::NONE);
        // SAFETY: the field isn't used again.
        let segment = unsafe { ManuallyDrop::take(&mut self.segment) };
        if is_owned {
            segment.leave_mapped();
        }
    }
}

/// The cause of a word's poisoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// The holder's process or thread has ended.
    Died,
    /// The holder's thread has panicked.
    Panicked,
}

/// A process and one of its threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Id of the process.
    pub pid: i32,
    /// Id of the thread.
    pub tid: i32,
}

impl Holder {
    #[inline]
    fn bits(thread: Thread) -> u64 {
        u64::from(thread.process()) << 32 | u64::from(thread.id())
    }

    fn from_bits(bits: u64) -> Option<Holder> {
        (bits != 0).then_some(Holder { pid: (bits >> 32) as i32, tid: bits as u32 as i32 })
    }
}

layout! {
    /// A [`RobustWord`] that records its holder, and the last poisoning.
    pub struct PoisonableWord {
        word: RobustWord,
        /// The present [`Holder`]. 0: none, or not known, as it has only just taken the word.
        holder: AtomicU64,
        /// The [`Holder`] that poisoned the word. 0: not known.
        poisoned_by: AtomicU64,
        /// How it did so. 0: the word isn't poisoned, or the poison has been cleared.
        poison: AtomicU32,
        /// How often the word has been poisoned, in all.
        poison_count: AtomicU32,
    }
}

const DIED: u32 = 1;
const PANICKED: u32 = 2;

impl PoisonableWord {
    /// Takes the word, with this index among the words of `mapping`, which must contain it. If
    /// the previous owner has died and `counts` returns true, the word is poisoned until that is
    /// [cleared](PoisonableWord::clear_poison).
    #[inline]
    pub fn take<L: Layout, const N: usize>(
        &self,
        mapping: &LockMapping<L, N>,
        index: usize,
        deadline: Deadline,
        counts: impl FnOnce() -> bool,
    ) -> Result<(), AcquireError> {
        if mapping.take(&self.word, index, deadline)? && counts() {
            self.poison_after_death();
        }
        self.holder.store(Holder::bits(Thread::current()), Relaxed);
        Ok(())
    }

    /// Takes the word over from another thread of this process, as [`LockMapping::adopt`] does.
    /// `inherited`: that thread took it after an owner that died.
    #[cfg(feature = "async")]
    pub(crate) fn adopt<L: Layout>(&self, mapping: &LockMapping<L>, from: u32, inherited: bool) -> bool {
        let is_owner = mapping.adopt(&self.word, from, inherited);
        if is_owner {
            if inherited {
                self.poison_after_death();
            }
            self.holder.store(Holder::bits(Thread::current()), Relaxed);
        }
        is_owner
    }

    /// Poisons the lock after the calling thread has acquired it from an owner that died.
    #[cold]
    fn poison_after_death(&self) {
        // `holder` is still the dead one. If this thread dies before it has recorded that, the next
        // owner inherits, and does the same again.
        self.poison_by(self.holder.load(Relaxed), DIED);
    }

    /// Gives the word up if the calling thread owns it. Returns whether it did.
    #[inline]
    pub fn give_up<L: Layout, const N: usize>(&self, mapping: &LockMapping<L, N>, index: usize) -> bool {
        if !self.is_mine() {
            return false;
        }
        self.holder.store(0, Relaxed);
        mapping.give_up(&self.word, index)
    }

    /// Returns whether the calling thread owns the word.
    #[inline]
    pub fn is_mine(&self) -> bool {
        self.word.owner() == Some(Thread::current().id())
    }

    /// Returns the robust word itself.
    #[inline]
    pub fn word(&self) -> &RobustWord {
        &self.word
    }

    /// Poisons the word, as the calling thread has panicked.
    #[cold]
    pub fn set_poisoned(&self) {
        self.poison_by(Holder::bits(Thread::current()), PANICKED);
    }

    fn poison_by(&self, poisoned_by: u64, poison: u32) {
        self.poisoned_by.store(poisoned_by, Relaxed);
        self.poison.store(poison, SeqCst);
        self.poison_count.fetch_add(1, SeqCst);
    }

    /// Changes whenever the word is poisoned, and isn't reset when the poison is cleared.
    #[inline]
    pub fn poison_count(&self) -> u32 {
        self.poison_count.load(SeqCst)
    }

    /// What the word is poisoned by, with the holder that did it if that is known. `None` if it
    /// isn't poisoned, or the poison has been cleared.
    #[inline]
    pub fn poison(&self) -> Option<(Poison, Option<Holder>)> {
        match self.poison.load(SeqCst) {
            0 => None,
            poison => {
                let poison = if poison == PANICKED { Poison::Panicked } else { Poison::Died };
                Some((poison, Holder::from_bits(self.poisoned_by.load(Relaxed))))
            }
        }
    }

    /// Copies the poison of `other`, if there is any.
    pub fn inherit_from(&self, other: &PoisonableWord) {
        let poison = other.poison.load(SeqCst);
        if poison != 0 {
            self.poison_by(other.poisoned_by.load(Relaxed), poison);
        }
    }

    /// Clears the poison.
    pub fn clear_poison(&self) {
        self.poison.store(0, SeqCst);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    layout! {
        struct Words: "words", 0x7fff_0001 {
            poisonable: PoisonableWord,
            more: [RobustWord; 8],
            count: AtomicU64,
        }
    }

    fn words() -> LockMapping<Words, 9> {
        LockMapping::new(Segment::create().unwrap())
    }

    fn take(mapping: &LockMapping<Words, 9>, index: usize) -> Result<bool, AcquireError> {
        mapping.take(&mapping.more[index], 1 + index, Deadline::Never)
    }

    fn leave(mapping: &LockMapping<Words, 9>, index: usize) {
        assert!(mapping.give_up(&mapping.more[index], 1 + index));
    }

    #[test]
    fn mutual_exclusion() {
        let mapping = words();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        assert_eq!(take(&mapping, 0), Ok(false));
                        // Not one atomic operation, so that a second holder would be noticed.
                        mapping.count.store(mapping.count.load(Relaxed) + 1, Relaxed);
                        leave(&mapping, 0);
                    }
                });
            }
        });
        assert_eq!(mapping.count.load(SeqCst), 80_000);
        assert!(mapping.more[0].is_free());
        // No thread sleeps, and the word says so.
        assert_eq!(Pair(mapping.more[0].0.pair().load(SeqCst)).word(), 0);
    }

    #[test]
    fn unlock_in_any_order() {
        let mapping = words();
        let thread = Thread::current();
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            (0..4).for_each(|index| assert_eq!(take(&mapping, index), Ok(false)));
            order.iter().for_each(|index| leave(&mapping, *index));
            assert!((0..4).all(|index| mapping.more[index].is_free()));
        }
        assert_eq!(thread.count(), 0);
        assert!(!mapping.give_up(&mapping.more[0], 1), "it isn't held");
    }

    #[test]
    fn dead_owner_wakes_waiters() {
        for _ in 0..50 {
            let mapping = words();
            let (taken, go) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    take(&mapping, 0).unwrap();
                    taken.send(()).unwrap();
                    while mapping.more[0].0.word().load(SeqCst) & WAITERS == 0 {
                        std::thread::yield_now();
                    }
                });
                go.recv().unwrap();
                let one = || {
                    let inherited = take(&mapping, 0).unwrap();
                    leave(&mapping, 0);
                    inherited
                };
                let sleepers: Vec<_> = (0..3).map(|_| scope.spawn(one)).collect();
                let inherited = sleepers.into_iter().map(|sleeper| sleeper.join().unwrap());
                assert_eq!(inherited.filter(|inherited| *inherited).count(), 1);
            });
        }
    }

    /// A mistake of the first version, and of the C library: sleeping waiters were forgotten when
    /// another thread took the word before one of them.
    #[test]
    fn waiters_bit_survives_barging() {
        let mapping = words();
        let thread = Thread::current();
        let word = &mapping.more[0];
        word.0.pair().store(in_pair(thread.id() | WAITERS), SeqCst);
        // Gives the word up, but wakes no waiter, as if the owner were killed at this point.
        word.0.pair().fetch_sub(in_pair(thread.id()), SeqCst);
        assert_eq!(take(&mapping, 0), Ok(false));
        assert_eq!(word.0.word().load(SeqCst), thread.id() | WAITERS, "so that it will wake one");
        leave(&mapping, 0);
        assert_eq!(word.0.word().load(SeqCst), 0, "there was no waiter");
        // But not if another thread has owned the word since, as a waiter may have gone to sleep
        // meanwhile.
        let left = Pair(word.0.pair().load(SeqCst)).next(WAITERS);
        word.0.pair().store(left.0, SeqCst);
        assert_eq!(take(&mapping, 0), Ok(false));
        assert!(!word.change(left, Pair(0)));
        leave(&mapping, 0);
    }

    #[test]
    fn lock_timeout() {
        let mapping = words();
        take(&mapping, 0).unwrap();
        let try_it = |deadline| mapping.take(&mapping.more[0], 1, deadline);
        assert_eq!(try_it(Deadline::Never), Err(AcquireError::AlreadyHeld));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(try_it(Deadline::Now), Err(AcquireError::Timeout));
                let begun = Instant::now();
                assert_eq!(try_it(Deadline::after(Duration::from_millis(20))), Err(AcquireError::Timeout));
                assert!(begun.elapsed() >= Duration::from_millis(20));
                assert_eq!(
                    mapping.more[0].wait_until_free(Deadline::after(Duration::from_millis(1))),
                    Err(AcquireError::Timeout)
                );
                assert_eq!(Thread::current().count(), 0);
            });
        });
        leave(&mapping, 0);
        assert_eq!(mapping.more[0].wait_until_free(Deadline::Now), Ok(()));
        assert!(try_it(Deadline::Now).is_ok());
        leave(&mapping, 0);
        assert_eq!(Deadline::after(Duration::MAX), Deadline::Never);
    }

    #[test]
    fn garbage() {
        let mapping = words();
        mapping.more[0].0.pair().store(u64::MAX, SeqCst);
        assert_eq!(take(&mapping, 0), Ok(true));
        leave(&mapping, 0);
    }

    #[test]
    fn owned_word_stays_mapped() {
        // The file that is mapped there. Another test may map its own at the same address.
        let mapped = |start: usize| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let line = maps.lines().find(|line| line.starts_with(&format!("{start:x}-")))?;
            line.split_whitespace().nth(4).filter(|_| line.contains("words")).map(str::to_owned)
        };
        std::thread::spawn(move || {
            let mapping = words();
            let start = &raw const *mapping.poisonable.word.0.word() as usize & !4095;
            take(&mapping, 1).unwrap();
            leave(&mapping, 1);
            let file = mapped(start);
            assert!(file.is_some());
            drop(mapping);
            assert_ne!(mapped(start), file);

            let mapping = words();
            let start = &raw const *mapping.poisonable.word.0.word() as usize & !4095;
            take(&mapping, 1).unwrap();
            let file = mapped(start);
            drop(mapping);
            assert!(file.is_some() && mapped(start) == file, "it is on this thread's list");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn poison_names_its_process() {
        let mapping = words();
        let poisonable = &mapping.poisonable;
        let take = |counts: bool| poisonable.take(&mapping, 0, Deadline::Never, || counts).unwrap();
        let die =
            || std::thread::scope(|scope| scope.spawn(|| (take(false), Thread::current().id()).1).join().unwrap());
        die();
        take(false);
        assert_eq!(poisonable.poison(), None);
        assert!(poisonable.is_mine());
        poisonable.give_up(&mapping, 0);
        let (pid, tid) = (std::process::id() as i32, die() as i32);
        take(true);
        assert_eq!(poisonable.poison(), Some((Poison::Died, Some(Holder { pid, tid }))));
        poisonable.clear_poison();
        assert_eq!(poisonable.poison(), None);
        poisonable.set_poisoned();
        assert_eq!(poisonable.poison().unwrap().0, Poison::Panicked);
        assert!(poisonable.give_up(&mapping, 0) && !poisonable.give_up(&mapping, 0));
    }
}
