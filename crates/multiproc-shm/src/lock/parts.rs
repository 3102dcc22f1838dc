//! Locks for parts of what a readers-writer lock protects: a word for each part, owned by one
//! thread at a time, beside the turnstile and the slots of [`crate::lock::readers`]. See
//! `shared/PROTOCOL.md` of `multiproc`, "The lock of a region".
//!
//! A thread that locks a part takes its word, then checks the turnstile and the slots. A thread
//! that reads or writes the whole takes the turnstile or a slot, then checks the parts. So of two
//! that come at the same time, at least one sees the other; it gives way, and waits at the
//! turnstile.

use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;

use crate::lock::readers::{FIRST_PART, Readers, RwAcquireError, TURNSTILE};
use crate::lock::robust_word::{AcquireError, LockMapping, PoisonableWord};
use crate::loom::atomic::{AtomicU32, AtomicU64};
use crate::memory::layout::layout;
use crate::wait::deadline::Deadline;

/// The maximum number of parts.
pub const MAX_PARTS: usize = if cfg!(loom) { 2 } else { 4096 };

layout! {
    /// One part.
    pub struct Part {
        poisonable: PoisonableWord,
        /// Whether the owner has begun to use the part. Other threads take the word for a moment,
        /// to wait.
        begun: AtomicU32,
        _reserved: AtomicU32,
    }
}

layout! {
    /// How the data is divided into parts. Only the owner of the turnstile changes this, while
    /// there is no reader and no part has an owner.
    pub struct Division {
        /// Grows by one before and after each change, so it is odd during a change.
        version: AtomicU32,
        /// The number of parts.
        count: AtomicU32,
        /// The bytes of each part, except the last. 0: parts of equal length, give or take a unit.
        each: AtomicU64,
        /// The bytes of all parts together.
        all: AtomicU64,
        /// How many bytes must stay together in one part.
        unit: AtomicU64,
        /// How often a thread has taken a part without checking the turnstile and the slots, as it
        /// had another part.
        bypasses: AtomicU32,
        _reserved: AtomicU32,
    }
}

/// How to divide the data. All lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Number of parts.
    pub count: u32,
    /// Length of each part except the last; 0: parts of equal length, give or take a unit.
    pub each: u64,
    /// Length of the data.
    pub all: u64,
    /// Length of an element: parts begin at multiples of it.
    pub unit: u64,
}

impl Plan {
    /// Returns the byte range of part `index`.
    pub fn range(&self, index: u32) -> Range<usize> {
        let edge = |index: u32| {
            let [count, each, all, unit, index] =
                [self.count.into(), self.each, self.all, self.unit, index.into()].map(u128::from);
            let edge = match each {
                0 => all.checked_div(unit).unwrap_or(0) * index / count.max(1) * unit,
                each => each * index,
            };
            edge.min(all) as usize
        };
        edge(index)..edge(index.saturating_add(1))
    }
}

impl Division {
    /// Returns the present division, with its version, which differs from that of all others.
    /// `None` while it changes.
    pub fn plan(&self) -> Option<(u32, Plan)> {
        let version = self.version.load(SeqCst);
        let plan = Plan {
            count: self.count.load(SeqCst),
            each: self.each.load(SeqCst),
            all: self.all.load(SeqCst),
            unit: self.unit.load(SeqCst),
        };
        (version.is_multiple_of(2) && self.version.load(SeqCst) == version).then_some((version, plan))
    }

    /// Returns whether the present division has this version.
    pub fn is(&self, version: u32) -> bool {
        self.version.load(SeqCst) == version
    }

    /// Returns the number of parts that may be in use.
    #[inline]
    pub fn count(&self) -> usize {
        (self.count.load(SeqCst) as usize).min(MAX_PARTS)
    }

    /// Changes the division. The caller has the turnstile, and there is no reader and no owner of a
    /// part. A process that dies in the middle leaves an odd version.
    fn change(&self, plan: &Plan) -> u32 {
        let odd = self.version.fetch_add(1, SeqCst).wrapping_add(1);
        self.count.store(plan.count, SeqCst);
        self.each.store(plan.each, SeqCst);
        self.all.store(plan.all, SeqCst);
        self.unit.store(plan.unit, SeqCst);
        self.version.store(odd.wrapping_add(1), SeqCst);
        odd.wrapping_add(1)
    }

    /// Leaves the division as a process does that dies while it changes it.
    #[cfg(test)]
    pub(crate) fn begin_change(&self) {
        self.version.fetch_add(1, SeqCst);
        self.count.store(1000, SeqCst);
    }

    /// Repairs the division after a process has died while it changed it: there are no parts then.
    /// The caller has the turnstile.
    pub(crate) fn repair(&self) {
        let version = self.version.load(SeqCst);
        if version % 2 == 1 {
            self.count.store(0, SeqCst);
            self.version.store(version.wrapping_add(1), SeqCst);
        }
    }
}

impl<L: Readers, const N: usize> LockMapping<L, N> {
    /// The parts of the present division.
    #[inline]
    fn parts(&self) -> &[Part] {
        self.division().map_or(&[], |division| &self.all_parts()[..division.count()])
    }

    /// Returns the word of a part, which is poisoned by an owner that dies or panics.
    pub fn part(&self, index: usize) -> Option<&PoisonableWord> {
        self.all_parts().get(index).map(|part| &part.poisonable)
    }

    /// Whether no part has an owner, and none was taken during the check by a thread that didn't
    /// look at the turnstile and the slots.
    #[inline]
    pub(crate) fn parts_are_free(&self) -> bool {
        let Some(division) = self.division() else { return true };
        let bypasses = division.bypasses.load(SeqCst);
        self.parts().iter().all(|part| part.poisonable.word().is_free()) && division.bypasses.load(SeqCst) == bypasses
    }

    /// Waits until no part has an owner. The caller has the turnstile, so no thread takes a part,
    /// except one that has another part already.
    pub(crate) fn wait_for_parts(&self, deadline: Deadline) -> Result<(), AcquireError> {
        while !self.parts_are_free() {
            for (index, part) in self.parts().iter().enumerate() {
                if !part.poisonable.word().is_free() {
                    self.take_part(index, deadline)?;
                    self.give_up_part(index);
                }
            }
        }
        Ok(())
    }

    /// Whether the calling thread owns a part other than `this`.
    pub(crate) fn has_part_besides(&self, this: Option<usize>) -> bool {
        let mine = |(index, part): (usize, &Part)| Some(index) != this && part.poisonable.is_mine();
        self.parts().iter().enumerate().any(mine)
    }

    fn take_part(&self, index: usize, deadline: Deadline) -> Result<(), AcquireError> {
        let part = &self.all_parts()[index];
        part.poisonable.take(self, FIRST_PART + index, deadline, || part.begun.load(SeqCst) != 0)?;
        // The death of an owner has been recorded by now.
        part.begun.store(0, SeqCst);
        Ok(())
    }

    fn give_up_part(&self, index: usize) {
        self.all_parts()[index].poisonable.give_up(self, FIRST_PART + index);
    }

    /// Locks a part of the division with this version.
    pub fn lock_part(&self, index: usize, version: u32, deadline: Deadline) -> Result<(), RwAcquireError> {
        let division = self.division().ok_or(RwAcquireError::StalePart)?;
        let begin = || {
            // A thread that changes the division waits for all owners of parts, and has the
            // turnstile meanwhile.
            if !division.is(version) {
                self.give_up_part(index);
                return Err(RwAcquireError::StalePart);
            }
            self.all_parts()[index].begun.store(1, SeqCst);
            Ok(())
        };
        loop {
            // Every part that has ever existed has memory.
            if !division.is(version) || index >= self.parts().len() {
                return Err(RwAcquireError::StalePart);
            }
            self.take_part(index, deadline)?;
            // In this order: the others take the turnstile or a slot, then look at the parts.
            if self.turnstile().word().is_free() && self.readers() == 0 {
                return begin();
            }
            if self.has_part_besides(Some(index)) {
                // The owner of the turnstile waits for this very thread, and must notice that it
                // has to look again.
                division.bypasses.fetch_add(1, SeqCst);
                return begin();
            }
            self.give_up_part(index);
            if self.reads() {
                return Err(RwAcquireError::HeldForReading);
            }
            self.take_turnstile(deadline)?;
            // With the turnstile held, the part isn't waited for: others may want other parts.
            let result = match self.wait_for_readers(deadline).map(|()| self.take_part(index, Deadline::Now)) {
                Ok(Ok(())) => Some(begin()),
                Ok(Err(AcquireError::Timeout)) => None,
                Ok(Err(error)) | Err(error) => Some(Err(error.into())),
            };
            self.turnstile().give_up(self, TURNSTILE);
            if let Some(result) = result {
                return result;
            }
        }
    }

    /// Unlocks a part. Does nothing in a fork copy of the owner.
    pub fn end_part(&self, index: usize) {
        let Some(part) = self.all_parts().get(index) else { return };
        if part.poisonable.is_mine() {
            part.begun.store(0, SeqCst);
            self.give_up_part(index);
        }
    }

    /// Divides the data anew, unless it is divided like that already. Returns the version of the
    /// division. Waits until there is no reader, no writer and no owner of a part. `allocate` must
    /// allocate memory for the given number of parts.
    pub fn divide(
        &self,
        plan: &Plan,
        deadline: Deadline,
        allocate: impl FnOnce(usize) -> bool,
    ) -> Result<u32, RwAcquireError> {
        let division = self.division().ok_or(RwAcquireError::StalePart)?;
        if let Some((version, current)) = division.plan()
            && current == *plan
        {
            return Ok(version);
        }
        self.lock_exclusively(deadline)?;
        let result = match division.plan() {
            // Another thread did it first.
            Some((version, current)) if current == *plan => Ok(version),
            _ if plan.count as usize > MAX_PARTS || !allocate(plan.count as usize) => {
                Err(RwAcquireError::TooManyReaders)
            }
            _ => {
                // The poison of a part becomes that of the whole, as there will be other parts.
                for part in self.parts() {
                    if part.poisonable.poison().is_some() {
                        self.turnstile().inherit_from(&part.poisonable);
                        part.poisonable.clear_poison();
                    }
                }
                Ok(division.change(plan))
            }
        };
        self.turnstile().give_up(self, TURNSTILE);
        result
    }

    /// Returns a poisoned word: that of the whole, or of the given part, or of any part if none is
    /// given.
    pub fn poison_of(&self, part: Option<usize>) -> Option<&PoisonableWord> {
        let mut parts = match part {
            Some(index) => self.parts().get(index..=index),
            None => Some(self.parts()),
        }
        .unwrap_or_default()
        .iter();
        let whole = Some(self.turnstile()).filter(|turnstile| turnstile.poison().is_some());
        whole.or_else(|| {
            parts.find_map(|part| Some(&part.poisonable).filter(|poisonable| poisonable.poison().is_some()))
        })
    }

    /// Clears the poison: of everything, or of the given part.
    pub fn clear_poison(&self, part: Option<usize>) {
        match part {
            Some(index) => self.parts().get(index).into_iter().for_each(|part| part.poisonable.clear_poison()),
            None => {
                self.turnstile().clear_poison();
                self.parts().iter().for_each(|part| part.poisonable.clear_poison());
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all() {
        // Miri takes minutes for a thousand.
        const MANY: u32 = if cfg!(miri) { 20 } else { 1000 };
        for (all, unit) in [(0, 8), (8, 8), (80, 8), (1001, 1), (1 << 50, 4096)] {
            for count in [1, 2, 3, 7, MANY] {
                let plan = Plan { count, each: 0, all, unit };
                let ranges: Vec<_> = (0..count).map(|index| plan.range(index)).collect();
                assert_eq!((ranges[0].start, ranges[count as usize - 1].end), (0, all as usize));
                assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
                let lens = ranges.iter().map(|range| range.len() as u64 / unit);
                assert!(lens.clone().max().unwrap() - lens.min().unwrap() <= 1);
            }
            let each = 24 * unit;
            let count = all.div_ceil(each).min(MANY.into()) as u32;
            let plan = Plan { count, each, all, unit };
            let lens = (0..count).map(|index| plan.range(index).len() as u64);
            assert!(lens.clone().rev().skip(1).all(|len| len == each) && lens.clone().all(|len| len > 0));
        }
    }

    #[test]
    fn garbage_plan() {
        for each in [0, 1, u64::MAX] {
            for unit in [0, 1, u64::MAX] {
                for count in [0, 1, u32::MAX] {
                    for index in [0, 1, u32::MAX] {
                        let range = Plan { count, each, all: 100, unit }.range(index);
                        assert!(range.start <= range.end && range.end <= 100, "{range:?}");
                    }
                }
            }
        }
    }
}
