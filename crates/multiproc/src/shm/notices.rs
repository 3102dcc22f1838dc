//! Who waits for a notice, and how many may go on: what a condition is made of, apart from its lock. `../sync/PROTOCOL.md`, "Condition".

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::gate::Through;
use super::latch::{Latch, Latched};
use super::lot::{Lot, Vain, Watched, Wish};
use super::object::Object;
use super::segment::layout;

/// So many notices are told apart by who waited when they were given.
const ROOM: usize = 8;

/// How often one who sleeps looks whether something has happened that nobody will tell.
const LOOK: Duration = Duration::from_millis(100);

layout! {
    /// The shared part; all zero, nobody waits.
    pub(crate) struct Notices: "condition", 0x31 {
        /// The number of the next one who waits.
        next: AtomicU64,
        /// How many wait: those who have died as well.
        waiting: AtomicU32,
        latch: Latch,
        /// Notices, the oldest first: how many of those whose number is below may go on.
        below: [AtomicU64; ROOM],
        counts: [AtomicU32; ROOM],
        lot: Lot,
    }
}

impl Notices {
    /// A new one.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOSPC`, `ENOMEM`.
    pub(crate) fn create() -> io::Result<Object<Notices>> {
        Object::create()
    }

    /// The oldest notice that is for the one with this number as well.
    fn place_for(&self, number: u64) -> Option<usize> {
        (0..ROOM).find(|place| self.counts[*place].load(SeqCst) > 0 && self.below[*place].load(SeqCst) > number)
    }

    /// How many may go on, in all.
    fn given(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(count.load(Relaxed))).sum()
    }

    /// Takes out notices that nobody has a use for, and closes the gaps.
    fn tidy(&self) {
        let mut too_many = self.given().saturating_sub(self.waiting.load(Relaxed).into());
        let mut to = 0;
        for from in 0..ROOM {
            let (below, count) = (self.below[from].load(Relaxed), self.counts[from].load(Relaxed));
            let less = too_many.min(count.into()) as u32;
            too_many -= u64::from(less);
            if count > less {
                self.below[to].store(below, SeqCst);
                self.counts[to].store(count - less, SeqCst);
                to += 1;
            }
        }
        self.counts[to..].iter().for_each(|count| count.store(0, SeqCst));
    }

    fn leave(&self) {
        self.waiting.store(self.waiting.load(Relaxed).saturating_sub(1), Relaxed);
        self.tidy();
    }
}

impl Object<Notices> {
    /// Takes the latch. If somebody has died who held it, nobody knows who was to go on: all may.
    fn latched(&self) -> Latched<'_> {
        let latched = self.latch.lock();
        if latched.inherited {
            self.lot.before_change(self.gate());
            let all = self.waiting.load(Relaxed).saturating_add(1);
            self.waiting.store(all, Relaxed);
            self.counts.iter().for_each(|count| count.store(0, SeqCst));
            self.below[0].store(self.next.load(Relaxed), SeqCst);
            self.counts[0].store(all, SeqCst);
        }
        latched
    }

    /// From now on the caller waits. Its number.
    pub(crate) fn enter(&self) -> u64 {
        let _latched = self.latched();
        let number = self.next.load(Relaxed);
        self.waiting.store(self.waiting.load(Relaxed).saturating_add(1), Relaxed);
        self.next.store(number.wrapping_add(1), Relaxed);
        number
    }

    /// Has up to `count` of those who wait go on; how many, at most.
    pub(crate) fn give(&self, count: u32) -> u32 {
        // Under the condition's lock, so nobody is about to enter.
        if self.waiting.load(SeqCst) == 0 {
            return 0;
        }
        let latched = self.latched();
        let more = u64::from(self.waiting.load(Relaxed)).saturating_sub(self.given()).min(count.into()) as u32;
        if more == 0 {
            return 0;
        }
        let next = self.next.load(Relaxed);
        let used = self.counts.iter().take_while(|count| count.load(Relaxed) > 0).count();
        self.lot.before_change(self.gate());
        match used {
            _ if used > 0 && self.below[used - 1].load(Relaxed) == next => {
                let count = &self.counts[used - 1];
                count.store(count.load(Relaxed).saturating_add(more), SeqCst);
            }
            ROOM => {
                // The two oldest become one, which is for all whom the later one is for.
                let both = self.counts[0].load(Relaxed).saturating_add(self.counts[1].load(Relaxed));
                self.counts[1].store(both, SeqCst);
                for place in 1..ROOM {
                    self.below[place - 1].store(self.below[place].load(Relaxed), SeqCst);
                    self.counts[place - 1].store(self.counts[place].load(Relaxed), SeqCst);
                }
                self.below[ROOM - 1].store(next, SeqCst);
                self.counts[ROOM - 1].store(more, SeqCst);
            }
            _ => {
                self.below[used].store(next, SeqCst);
                self.counts[used].store(more, SeqCst);
            }
        }
        drop(latched);
        self.lot.after_change(more);
        more
    }

    /// Waits until there is a notice for the one with this number, without taking it, or `alarm` says that there is no more sense in waiting.
    ///
    /// # Errors
    /// [`Vain`].
    pub(crate) fn wait(&self, number: u64, deadline: Option<Instant>, alarm: impl Fn() -> bool) -> Result<(), Vain> {
        self.lot.wait(self.gate(), deadline, &mut Notice { notices: self, number, alarm })
    }

    /// Takes a notice, and waits no longer. False if somebody else has been quicker.
    pub(crate) fn take(&self, number: u64) -> bool {
        let _latched = self.latched();
        let Some(place) = self.place_for(number) else { return false };
        self.counts[place].store(self.counts[place].load(Relaxed).saturating_sub(1), SeqCst);
        self.leave();
        true
    }

    /// Waits no longer, without one.
    pub(crate) fn give_up(&self) {
        let _latched = self.latched();
        self.leave();
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }
}

struct Notice<'a, A> {
    notices: &'a Object<Notices>,
    number: u64,
    alarm: A,
}

impl<A: Fn() -> bool> Wish for Notice<'_, A> {
    type Outcome = ();

    fn attempt(&mut self) -> Option<()> {
        (self.notices.place_for(self.number).is_some() || (self.alarm)()).then_some(())
    }

    fn look(&mut self, arm: &mut dyn FnMut()) -> bool {
        let _latched = self.notices.latched();
        if self.attempt().is_some() {
            return true;
        }
        arm();
        false
    }

    fn watch(&mut self) -> io::Result<Watched> {
        Ok(Watched { look_again: Some(LOOK), ..Watched::default() })
    }

    fn through(&self) -> Through<'_> {
        self.notices.through()
    }

    fn more(&mut self) -> bool {
        self.notices.given() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_notice_is_for_those_who_waited_when_it_was_given() {
        let notices = Notices::create().unwrap();
        assert_eq!(notices.give(1), 0);
        let (first, second) = (notices.enter(), notices.enter());
        assert_eq!(notices.give(1), 1);
        let late = notices.enter();
        assert!(!notices.take(late));
        assert!(notices.take(second) && !notices.take(first));
        assert_eq!(notices.give(u32::MAX), 2);
        assert!(notices.take(late) && notices.take(first));
        assert_eq!((notices.waiting(), notices.given()), (0, 0));
    }

    #[test]
    fn what_nobody_has_a_use_for_is_not_left_for_those_who_come() {
        let notices = Notices::create().unwrap();
        let (one, other) = (notices.enter(), notices.enter());
        notices.give(2);
        notices.give_up();
        assert!(notices.take(other) && !notices.take(one));
        assert!(!notices.take(notices.enter()));
    }

    #[test]
    fn when_somebody_has_died_in_the_middle_all_may_go_on() {
        let notices = Notices::create().unwrap();
        let numbers: Vec<u64> = (0..5).map(|_| notices.enter()).collect();
        notices.give(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::mem::forget(notices.latch.lock());
                notices.counts.iter().for_each(|count| count.store(0, SeqCst));
            });
        });
        for number in numbers {
            assert!(notices.take(number));
        }
        assert!(!notices.take(notices.enter()));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Enter,
        Give(u32),
        Take(prop::sample::Index),
        GiveUp(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Enter),
            (0..4_u32).prop_map(Step::Give),
            any::<prop::sample::Index>().prop_map(Step::Take),
            any::<prop::sample::Index>().prop_map(Step::GiveUp),
        ]
    }

    proptest! {
        /// Whoever takes one has waited when it was given, as long as there is room to tell them apart; and no notice is lost while one waits for whom it was.
        #[test]
        fn they_are_given_out_rightly(steps in prop::collection::vec(step(), 0..200)) {
            let notices = Notices::create().unwrap();
            let mut waiting: Vec<u64> = Vec::new();
            let mut given: Vec<(u64, u32)> = Vec::new();
            for step in steps {
                match step {
                    Step::Enter => waiting.push(notices.enter()),
                    Step::Give(count) => {
                        let more = notices.give(count);
                        let pending: u32 = given.iter().map(|(_, count)| count).sum();
                        prop_assert_eq!(more, count.min(waiting.len() as u32 - pending));
                        given.push((notices.next.load(SeqCst), more));
                    }
                    Step::Take(index) if !waiting.is_empty() => {
                        let place = index.index(waiting.len());
                        let found = given.iter_mut().find(|(below, count)| *count > 0 && *below > waiting[place]);
                        let taken = notices.take(waiting[place]);
                        match found {
                            Some((_, count)) => {
                                prop_assert!(taken);
                                *count -= 1;
                                waiting.remove(place);
                            }
                            // More than there is room for are not told apart.
                            None if taken => return Ok(()),
                            None => {}
                        }
                    }
                    Step::GiveUp(index) if !waiting.is_empty() => {
                        waiting.remove(index.index(waiting.len()));
                        notices.give_up();
                        let mut more: u32 = given.iter().map(|(_, count)| *count).sum::<u32>().saturating_sub(waiting.len() as u32);
                        for (_, count) in &mut given {
                            let less = more.min(*count);
                            (*count, more) = (*count - less, more - less);
                        }
                    }
                    Step::Take(_) | Step::GiveUp(_) => {}
                }
                given.retain(|(_, count)| *count > 0);
                prop_assert_eq!(notices.waiting() as usize, waiting.len());
                prop_assert_eq!(notices.given(), given.iter().map(|(_, count)| u64::from(*count)).sum::<u64>());
            }
        }
    }
}
