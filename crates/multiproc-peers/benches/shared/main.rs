//! What it costs to share memory: multiproc's, and its peers, side by side.
//!
//! Bytes, up to 1 GiB of them, that a worker is handed to sum them up and say what comes out, to write them anew, or to hand them back; the worker is there already, and the
//! bytes are made before the clock is started. What it takes to make them. And one number that processes change, in all the ways in which they can see to it that none of
//! it is lost.
//!
//! All who sum do it by the same code, [`bytes::sum`], which is quicker than memory comes; numpy in Python. "mapped" has the bytes in the worker before, so that nothing
//! travels but the word to begin; the others map them when they arrive, and let go of them before they answer. The kernel counts a page when the first process maps it and when
//! the last one lets go of it, so lenders have looked at their bytes before, and keep them mapped; but for those called "unseen". The two sides keep to a processor each,
//! and who works by himself to that of the workers.

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
use multiproc::{ReadOnlyMemory, SharedBytes, SharedMemory};
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

/// `SharedBytes`, mapped when they arrive, by a pipe.
const BYTES: &str = "multiproc-bytes";
/// The same, in the worker already.
const MAPPED: &str = "multiproc-bytes (mapped)";
/// `SharedMemory`, read under its lock.
const MEMORY: &str = "multiproc-memory";
const RAW: &str = "raw";
/// `SharedMemory` of which all is mapped ahead.
const PREFAULTED: &str = "multiproc-memory (prefault)";
/// Mapped ahead.
const ADVISED: &str = "raw (MADV_POPULATE_READ)";
/// Mapped so that it could be written too.
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
