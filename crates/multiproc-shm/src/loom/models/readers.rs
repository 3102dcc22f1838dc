//! `lock/readers.rs`: readers and writers exclude each other, wait for each other, and leave
//! nothing behind that blocks the others when they die.

use super::{Data, Kill, all_survive, check, check_deaths, start};
use crate::lock::readers::{Entrance, MOST, Readers, Slot};
use crate::lock::robust_word::LockMapping;
use crate::loom::segment::Segment;
use crate::memory::layout::layout;
use crate::wait::deadline::Deadline;

layout! {
    struct Shared: "lock", 0x7fff_0104 {
        entrance: Entrance,
        slots: [Slot; MOST],
    }
}

impl Readers for Shared {
    fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    fn slots(&self) -> &[Slot; MOST] {
        &self.slots
    }
}

type Mapping = LockMapping<Shared, { 1 + MOST }>;

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
    let processes: Vec<_> = (2..2 + readers + writers)
        .map(|id| {
            let (mapping, data) = (Mapping::new(shared.share()), data.clone());
            start(id, &Kill::never(), move || match id < 2 + readers {
                true => _ = read(&mapping, &data),
                false => write(&mapping, &data),
            })
        })
        .collect();
    all_survive(processes);
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

#[test]
fn a_reader_that_dies_does_not_block_a_writer() {
    check_deaths(|kill| {
        let (shared, data) = (Segment::<Shared>::create().unwrap(), Data::new());
        let processes = [2, 3].map(|id| {
            let (mapping, data) = (Mapping::new(shared.share()), data.clone());
            let kill = if id == 2 { kill.clone() } else { Kill::never() };
            start(id, &kill, move || match id {
                2 => _ = read(&mapping, &data),
                _ => write(&mapping, &data),
            })
        });
        let [_, writer] = processes.map(|process| process.join().unwrap());
        assert!(writer.is_some());
        let mapping = Mapping::new(shared);
        write(&mapping, &data);
        assert_eq!((data.read(), mapping.turnstile().poison()), (2, None));
    });
}

#[test]
fn a_writer_that_dies_does_not_block_a_reader() {
    check_deaths(|kill| {
        let (shared, data) = (Segment::<Shared>::create().unwrap(), Data::new());
        let processes = [2, 3].map(|id| {
            let (mapping, data) = (Mapping::new(shared.share()), data.clone());
            let kill = if id == 2 { kill.clone() } else { Kill::never() };
            start(id, &kill, move || match id {
                2 => write(&mapping, &data),
                _ => _ = read(&mapping, &data),
            })
        });
        let [_, reader] = processes.map(|process| process.join().unwrap());
        assert!(reader.is_some());
        let mapping = Mapping::new(shared);
        write(&mapping, &data);
        assert!((1..=2).contains(&data.read()));
    });
}
