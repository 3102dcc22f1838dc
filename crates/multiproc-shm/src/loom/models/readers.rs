//! `lock/readers.rs`: readers and writers exclude each other, wait for each other, and leave
//! nothing behind that blocks the others when they die.

use super::{Data, Kill, all_survive, check, check_deaths, others_survive, start_each};
use crate::lock::readers::{Entrance, MAX_READERS, Readers, Slot};
use crate::lock::robust_word::LockMapping;
use crate::loom::segment::Segment;
use crate::memory::layout::layout;
use crate::wait::deadline::Deadline;

layout! {
    struct Shared: "lock", 0x7fff_0104 {
        entrance: Entrance,
        slots: [Slot; MAX_READERS],
    }
}

impl Readers for Shared {
    fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    fn slots(&self) -> &[Slot; MAX_READERS] {
        &self.slots
    }
}

type Mapping = LockMapping<Shared, { 1 + MAX_READERS }>;

fn read(mapping: &Mapping, data: &Data) -> u32 {
    let slot = mapping.read(Deadline::Never).unwrap();
    let seen = data.read();
    mapping.end_reading(slot);
    seen
}

fn write(mapping: &Mapping, data: &Data) {
    mapping.write(Deadline::Never).unwrap();
    data.write();
    mapping.end_writing();
}

fn exclusion(readers: u32, writers: u32) {
    let (shared, data) = (Segment::<Shared>::create().unwrap(), Data::new());
    let share = || (Mapping::new(shared.share()), data.clone());
    all_survive(start_each(readers + writers, &Kill::never(), share, move |id, (mapping, data)| {
        match id < 2 + readers {
            true => _ = read(&mapping, &data),
            false => write(&mapping, &data),
        }
    }));
    assert_eq!(read(&Mapping::new(shared), &data), writers);
}

#[test]
fn a_reader_and_a_writer_exclude_each_other() {
    check(|| exclusion(1, 1));
}

#[test]
fn two_readers_and_a_writer_exclude_each_other() {
    check(|| exclusion(2, 1));
}

#[test]
fn a_reader_and_two_writers_exclude_each_other() {
    check(|| exclusion(1, 2));
}

/// Runs two processes, of which the first is killed.
fn after_a_death(kill: &Kill, main: fn(u32, &Mapping, &Data)) -> (Mapping, Data) {
    let (shared, data) = (Segment::<Shared>::create().unwrap(), Data::new());
    let share = || (Mapping::new(shared.share()), data.clone());
    others_survive(start_each(2, kill, share, move |id, (mapping, data)| main(id, &mapping, &data)));
    (Mapping::new(shared), data)
}

#[test]
fn a_reader_that_dies_does_not_block_a_writer() {
    check_deaths(|kill| {
        let (mapping, data) = after_a_death(kill, |id, mapping, data| match id {
            2 => _ = read(mapping, data),
            _ => write(mapping, data),
        });
        write(&mapping, &data);
        assert_eq!((data.read(), mapping.turnstile().poison()), (2, None));
    });
}

#[test]
fn a_writer_that_dies_does_not_block_a_reader() {
    check_deaths(|kill| {
        let (mapping, data) = after_a_death(kill, |id, mapping, data| match id {
            2 => write(mapping, data),
            _ => _ = read(mapping, data),
        });
        write(&mapping, &data);
        assert!((1..=2).contains(&data.read()));
    });
}
