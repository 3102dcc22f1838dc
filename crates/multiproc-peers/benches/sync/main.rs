//! What waiting for another process costs: multiproc's locks and signals, and their peers, side by
//! side.
//!
//! Measures a lock without contention; a lock that two processes want all the time; a lock that two
//! processes hand to each other; and the time from setting a signal until a process that slept for
//! it runs. Where there are two processes, each is pinned to a processor of its own.

mod event;
mod lock;
mod ours;
mod parking;
mod pthread;
mod report;
mod signal;
mod word;

use event::Event;
use multiproc_benches::Outcome;
use multiproc_benches::pthread::Mutex;
use multiproc_benches::slices::{Bench, Contestant};

#[multiproc::main]
fn main() -> Outcome<()> {
    multiproc_benches::slices::main(Bench {
        name: "sync",
        events: Event::ALL.to_vec(),
        contestants: contestants(),
        script: include_str!("python_peer.py"),
        packages: &[],
        absent: &[],
        rounds: 10,
        print: report::print,
        ratios: report::ratios,
    })
}

fn contestants() -> Vec<Contestant<Event>> {
    use Contestant as C;
    let mut all = vec![
        C::peer("pthread", Event::is_of_locks, lock::forked::<Mutex<false>>),
        C::peer("pthread-robust", Event::is_of_locks, lock::forked::<Mutex<true>>),
        C::peer("parking_lot (threads)", Event::is_of_locks, lock::threads::<parking::Mutex>),
        C::peer("eventfd-semaphore", Event::is_of_locks, lock::started::<word::Permit>),
        C::peer("futex", Event::is_of_signals, signal::forked::<word::Futex>),
        C::peer("eventfd", Event::is_of_signals, signal::started::<word::EventFd>),
        C::python("python-lock", Event::is_of_locks),
        C::python("python-event", Event::is_of_signals),
        C::python("python-condition", Event::is_of_signals),
    ];
    all.extend(ours::contestants());
    all
}
