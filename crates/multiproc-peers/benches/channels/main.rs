//! What a message costs: multiproc's channels and their peers, side by side.
//!
//! Measures messages per second and round trips, in sizes from 64 bytes to 64 MiB, between two
//! processes and between four producers and four consumers; and a pool's worth of work that comes
//! through a channel, against the same work divided beforehand. Peers that only work between
//! threads are measured between threads. The two sides of a round trip are pinned to a processor
//! each.
//!
//! Contestants that send a list owned by the receiver (`Vec<u8>`) make a new one for each message,
//! as a program would; those that send "bytes" do so from a buffer that is reused, and look at them
//! where they arrive if the peer can do that. Bounded channels hold 1024 messages up to 1 KiB, 64
//! up to 64 KiB, and 4 beyond; unbounded ones are not measured beyond 64 KiB, where the figures
//! would be those of the backlog.

mod channel;
mod crossbeam;
mod event;
mod fds;
mod futex;
mod iceoryx;
mod ipc;
mod measure;
mod ours;
mod part;
mod report;

use event::Event;
use multiproc_benches::Outcome;
use multiproc_benches::slices::{Bench, Contestant};

#[multiproc::main]
fn main() -> Outcome<()> {
    multiproc_benches::slices::main(Bench {
        name: "channels",
        events: Event::all(),
        contestants: contestants(),
        script: include_str!("python_peer.py"),
        packages: &[("faster-fifo", "faster-fifo", "faster_fifo")],
        absent: &[("crossmist", "1.1.2 panics at its first spawn when built by rustc 1.95")],
        rounds: 5,
        print: report::print,
        ratios: report::ratios,
    })
}

fn contestants() -> Vec<Contestant<Event>> {
    use Contestant as C;
    let mut all = vec![
        C::peer("pipe", fds::can_pipe, measure::started::<fds::Pipe>),
        C::peer("seqpacket", fds::can_packet, measure::started::<fds::Packet>),
        C::peer("ipc-channel", Event::is_for_two, measure::forked::<ipc::Typed>),
        C::peer("ipc-channel-bytes", Event::is_for_two, measure::forked::<ipc::Bytes>),
        C::peer("iceoryx2-event", Event::is_for_two, measure::forked::<iceoryx::PubSub>),
        C::peer("crossbeam-bounded (threads)", Event::is_any, measure::threads::<crossbeam::Bounded>),
        C::peer("crossbeam-unbounded (threads)", Event::is_for_unbounded, measure::threads::<crossbeam::Unbounded>),
        C::peer("crossbeam-array (threads)", Event::is_for_arrays, measure::threads::<crossbeam::Array>),
        C::peer("futex", futex::can, measure::forked::<futex::Futex>),
        C::peer("static", Event::is_work, measure::divided),
        C::python("python-queue", Event::is_for_scripts),
        C::python("python-simple-queue", Event::is_for_scripts),
        C::python("python-pipe", |event| event.is_for_two() && event.is_for_scripts()),
        C::python("faster-fifo", Event::is_for_scripts),
    ];
    all.extend(ours::contestants());
    all
}
