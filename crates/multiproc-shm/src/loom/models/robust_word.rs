//! `lock/robust_word.rs`: exclusion, order, wake-ups, when `WAITERS` is cleared, and what an owner
//! or waiter leaves that dies.

use super::{Data, Kill, all_survive, check, check_deaths, others_survive, start, start_each};
use crate::lock::robust_word::{AcquireError, Holder, LockMapping, Poison, PoisonableWord};
use crate::loom::segment::Segment;
use crate::memory::layout::layout;
use crate::wait::deadline::Deadline;

layout! {
    struct Shared: "lock", 0x7fff_0102 {
        poisonable: PoisonableWord,
    }
}

type Mapping = LockMapping<Shared, 1>;

fn take(mapping: &Mapping, deadline: Deadline) -> Result<(), AcquireError> {
    mapping.poisonable.take(mapping, 0, deadline, || true)
}

fn exclusion(processes: u32, rounds: u32) {
    let (shared, data) = (Segment::<Shared>::create().unwrap(), Data::new());
    let share = || (Mapping::new(shared.share()), data.clone());
    all_survive(start_each(processes, &Kill::never(), share, move |_, (mapping, data)| {
        for _ in 0..rounds {
            take(&mapping, Deadline::Never).unwrap();
            data.write();
            assert!(mapping.poisonable.give_up(&mapping, 0));
        }
    }));
    let mapping = Mapping::new(shared);
    take(&mapping, Deadline::Now).unwrap();
    assert_eq!((data.read(), mapping.poisonable.poison()), (processes * rounds, None));
}

#[test]
fn two_exclude_each_other() {
    check(|| exclusion(2, 1));
}

#[test]
fn three_exclude_each_other() {
    check(|| exclusion(3, 1));
}

#[test]
fn two_exclude_each_other_again_and_again() {
    check(|| exclusion(2, 2));
}

#[test]
fn waiting_for_the_end_of_an_owner_does_not_take_the_word() {
    check(|| {
        let (shared, data) = (Segment::<Shared>::create().unwrap(), Data::new());
        let (owner, owned) = (Mapping::new(shared.share()), data.clone());
        take(&Mapping::new(shared.share()), Deadline::Now).unwrap();
        let mapping = Mapping::new(shared.share());
        assert!(mapping.poisonable.is_mine());
        let outwaiting = start(2, &Kill::never(), move || {
            owner.poisonable.word().wait_until_free(Deadline::Never).unwrap();
            assert_eq!(owned.read(), 1);
        });
        data.write();
        assert!(mapping.poisonable.give_up(&mapping, 0));
        outwaiting.join().unwrap();
        assert!(mapping.poisonable.word().is_free());
    });
}

#[test]
fn a_death_poisons_and_loses_no_wake_up() {
    check_deaths(|kill| {
        let (shared, data) = (Segment::<Shared>::create().unwrap(), Data::new());
        others_survive(start_each(
            3,
            kill,
            || (Mapping::new(shared.share()), data.clone()),
            |_, (mapping, data)| {
                take(&mapping, Deadline::Never).unwrap();
                data.write();
                assert!(mapping.poisonable.give_up(&mapping, 0));
            },
        ));
        let mapping = Mapping::new(shared);
        take(&mapping, Deadline::Now).unwrap();
        assert!((2..=3).contains(&data.read()));
        // The holder isn't known if it died before it had recorded itself, or after it had begun to
        // give the word up.
        let dead = Some(Holder { pid: 2, tid: 2 });
        assert!(match mapping.poisonable.poison() {
            None => true,
            Some((poison, holder)) => poison == Poison::Died && (holder.is_none() || holder == dead),
        });
    });
}
