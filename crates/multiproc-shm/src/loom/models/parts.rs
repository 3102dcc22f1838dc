//! `lock/parts.rs`: owners of parts exclude each other, and readers and writers of the whole; and
//! none uses a part of a division that has been changed.

use super::{Data, Kill, check, check_deaths, others_survive, start, start_each};
use crate::lock::parts::{Division, MAX_PARTS, Part, Plan};
use crate::lock::readers::{Entrance, FIRST_PART, MAX_READERS, Readers, RwAcquireError, Slot};
use crate::lock::robust_word::LockMapping;
use crate::loom::segment::Segment;
use crate::memory::layout::layout;
use crate::wait::deadline::Deadline;

layout! {
    struct Shared: "region", 0x7fff_0105 {
        entrance: Entrance,
        slots: [Slot; MAX_READERS],
        division: Division,
        parts: [Part; MAX_PARTS],
    }
}

impl Readers for Shared {
    fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    fn slots(&self) -> &[Slot; MAX_READERS] {
        &self.slots
    }

    fn division(&self) -> Option<&Division> {
        Some(&self.division)
    }

    fn all_parts(&self) -> &[Part] {
        &self.parts
    }
}

type Mapping = LockMapping<Shared, { FIRST_PART + MAX_PARTS }>;

const PLAN: Plan = Plan { count: 2, each: 0, all: 16, unit: 8 };

/// A region in two parts, with its version and the data of each part.
fn region() -> (Segment<Shared>, u32, [Data; 2]) {
    let shared = Segment::<Shared>::create().unwrap();
    let version = Mapping::new(shared.share()).divide(&PLAN, Deadline::Never, |_| true).unwrap();
    (shared, version, [Data::new(), Data::new()])
}

fn write_part(mapping: &Mapping, version: u32, index: usize, data: &[Data; 2]) {
    mapping.lock_part(index, version, Deadline::Never).unwrap();
    data[index].write();
    mapping.end_part(index);
}

fn write_all(mapping: &Mapping, data: &[Data; 2]) {
    mapping.write(Deadline::Never).unwrap();
    data.iter().for_each(Data::write);
    mapping.end_writing();
}

fn read_all(mapping: &Mapping, data: &[Data; 2]) {
    let slot = mapping.read(Deadline::Never).unwrap();
    data.iter().for_each(|data| _ = data.read());
    mapping.end_reading(slot);
}

/// Runs two processes on a region in two parts, of which the first is killed as `kill` says.
/// Returns whether it has survived, and the data.
fn two(kill: &Kill, main: fn(u32, &Mapping, u32, &[Data; 2])) -> (bool, [Data; 2]) {
    let (shared, version, data) = region();
    let share = || (Mapping::new(shared.share()), data.clone());
    let first =
        others_survive(start_each(2, kill, share, move |id, (mapping, data)| main(id, &mapping, version, &data)));
    (first.is_some(), data)
}

#[test]
fn two_owners_of_one_part_exclude_each_other() {
    check(|| {
        let (survived, data) = two(&Kill::never(), |_, mapping, version, data| write_part(mapping, version, 0, data));
        assert_eq!((survived, data[0].read()), (true, 2));
    });
}

#[test]
fn an_owner_of_a_part_and_a_writer_exclude_each_other() {
    check(|| {
        let (survived, data) = two(&Kill::never(), |id, mapping, version, data| match id {
            2 => write_part(mapping, version, 0, data),
            _ => write_all(mapping, data),
        });
        assert_eq!((survived, data[0].read()), (true, 2));
    });
}

#[test]
fn an_owner_of_a_part_and_a_reader_exclude_each_other() {
    check(|| {
        let (survived, data) = two(&Kill::never(), |id, mapping, version, data| match id {
            2 => write_part(mapping, version, 0, data),
            _ => read_all(mapping, data),
        });
        assert_eq!((survived, data[0].read()), (true, 1));
    });
}

/// The writer may have checked the parts when the owner of one takes another.
#[test]
fn an_owner_of_two_parts_and_a_writer_exclude_each_other() {
    check(|| {
        let (survived, data) = two(&Kill::never(), |id, mapping, version, data| match id {
            2 => {
                mapping.lock_part(1, version, Deadline::Never).unwrap();
                data[1].write();
                mapping.lock_part(0, version, Deadline::Never).unwrap();
                mapping.end_part(1);
                data[0].write();
                mapping.end_part(0);
            }
            _ => write_all(mapping, data),
        });
        assert_eq!((survived, data[0].read()), (true, 2));
    });
}

#[test]
fn a_part_of_a_division_that_was_changed_is_stale() {
    check(|| {
        let (shared, version, data) = region();
        let owner = {
            let (mapping, data) = (Mapping::new(shared.share()), data.clone());
            start(2, &Kill::never(), move || match mapping.lock_part(0, version, Deadline::Never) {
                Ok(()) => {
                    data[0].write();
                    mapping.end_part(0);
                    true
                }
                Err(RwAcquireError::StalePart) => false,
                Err(error) => panic!("{error:?}"),
            })
        };
        let mapping = Mapping::new(shared);
        mapping.divide(&Plan { count: 1, ..PLAN }, Deadline::Never, |_| true).unwrap();
        // What was done with the parts of before has been done by now.
        let written = data[0].read();
        assert_eq!(owner.join().unwrap(), Some(written == 1));
    });
}

#[test]
fn an_owner_of_a_part_that_dies_does_not_block_a_writer() {
    check_deaths(|kill| {
        two(kill, |id, mapping, version, data| match id {
            2 => write_part(mapping, version, 0, data),
            _ => write_all(mapping, data),
        });
    });
}
