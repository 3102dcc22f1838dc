//! What it costs to share memory: multiproc's, and its peers, side by side.
//!
//! Measures handing bytes, up to 1 GiB, to a worker that sums them and answers with the sum,
//! overwrites them, or hands them back; the worker is running already, and the bytes are made
//! before the clock starts. Measures making such bytes. And measures one number that several
//! processes change, in all the ways that lose no change.
//!
//! All contestants sum by the same code, [`bytes::sum`], which is faster than the memory; Python
//! sums by numpy. In "mapped", the worker has the bytes beforehand, so that only the request
//! travels; all others map them on arrival, and unmap them before they answer. The kernel does
//! accounting for a page when the first process maps it and when the last one unmaps it, so lenders
//! have read their bytes before and keep them mapped, except in "unseen". The two sides are pinned
//! to a processor each, and a contestant that works by itself is pinned to that of the workers.

mod by_channel;
mod bytes;
mod event;
mod hand_over;
mod in_process;
mod make;
mod number;
mod numbers;
mod raw;
mod report;

use by_channel::{Ipc, KEPT, Pipe, Queue, UNSEEN};
use bytes::{Prefaulted, ViaArray};
use event::Event;
use ipc_channel::ipc::IpcSharedMemory;
use multiproc::shared_memory::ReadOnlyMemory;
use multiproc::{SharedBytes, SharedMemory};
use multiproc_benches::slices::{Bench, Contestant};
use multiproc_benches::{Outcome, is_quick};

#[multiproc::main]
fn main() -> Outcome<()> {
    multiproc_benches::slices::main(Bench {
        name: "shared",
        events: Event::all(is_quick()),
        contestants: contestants(),
        script: include_str!("python_peer.py"),
        packages: &[("python-pool", "numpy", "numpy"), ("python-shared-memory", "numpy", "numpy")],
        absent: &[],
        rounds: 3,
        print: report::print,
        ratios: report::ratios,
    })
}

/// `SharedBytes`, mapped on arrival, through a pipe.
const BYTES: &str = "multiproc-bytes";
/// The same, but mapped in the worker beforehand.
const MAPPED: &str = "multiproc-bytes (mapped)";
/// `SharedMemory`, read under its lock.
const MEMORY: &str = "multiproc-memory";
const RAW: &str = "raw";
/// `SharedMemory`, all of it mapped ahead.
const PREFAULTED: &str = "multiproc-memory (prefault)";
/// Mapped ahead.
const ADVISED: &str = "raw (MADV_POPULATE_READ)";
/// Mapped writable.
const WRITABLE: &str = "raw (writable)";
const IN_PROCESS: &str = "in-process";

fn contestants() -> Vec<Contestant<Event>> {
    use Contestant as C;
    use hand_over::{forked, started};
    let mut all = vec![
        C::ours(BYTES, Event::is_of_readers, started::<Pipe<SharedBytes>>),
        C::ours("multiproc-bytes (queue)", Event::is_of_readers, started::<Queue<SharedBytes>>),
        C::ours("multiproc-bytes (unseen)", Event::is_of_sums, started::<Pipe<SharedBytes, UNSEEN>>),
        C::ours("multiproc-bytes (prefault)", Event::is_of_readers, started::<Pipe<Prefaulted<SharedBytes>>>),
        C::ours(PREFAULTED, Event::is_of_all_bytes, started::<Pipe<Prefaulted<SharedMemory>>>),
        C::ours(MAPPED, Event::is_of_sums, started::<Pipe<SharedBytes, KEPT>>),
        C::ours(MEMORY, Event::is_of_bytes, started::<Pipe<SharedMemory>>),
        C::ours("multiproc-memory (read only)", Event::is_of_readers, started::<Pipe<ReadOnlyMemory>>),
        C::ours("multiproc-array", Event::is_of_bytes, started::<Pipe<ViaArray>>),
        C::ours("multiproc-vec", Event::is_of_sums, started::<Queue<Vec<u8>>>),
        C::peer(RAW, Event::is_of_bytes, started::<raw::OnTouch>),
        C::peer("raw (unseen)", Event::is_of_sums, started::<raw::Unseen>),
        C::peer(WRITABLE, Event::is_of_sums, started::<raw::Writable>),
        C::peer("raw (MAP_POPULATE)", Event::is_of_bytes, started::<raw::Populated>),
        C::peer(ADVISED, Event::is_of_bytes, started::<raw::Advised>),
        C::peer("raw (mapped)", Event::is_of_sums, started::<raw::Kept>),
        C::peer(IN_PROCESS, Event::is_of_all_bytes, started::<in_process::OfFile>),
        C::peer("in-process (Vec)", Event::is_of_all_bytes, started::<in_process::OfVec>),
        C::peer("ipc-channel", Event::is_of_readers, forked::<Ipc<IpcSharedMemory>>),
        C::python("python-pool", Event::is_for_pools),
        C::python("python-shared-memory", |event| event.is_of_readers() || event.is_of_making()),
        C::python("python-value", Event::is_of_increments),
        C::python("python-array", Event::is_of_elements),
    ];
    all.extend(numbers::contestants());
    all.extend(make::contestants());
    all
}
