//! Models of the memory-ordering core. Run by
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p multiproc-shm --lib --release --target-dir target/loom
//! ```
//!
//! Each runs the real code of one file, in two or three processes that share memory. loom tries all
//! interleavings with at most two preemptions. `LOOM_MAX_PREEMPTIONS=3` searches further;
//! `LOOM_MAX_DURATION=3600` ends the search of each model after that number of seconds. Sleeps have
//! no timeout unless the model says so, so a wake-up that is lost is a deadlock. A process is
//! killed before each of its steps in turn ([`Kill`]).
//!
//! loom runs one access after the other: no load returns what is stored later in the same
//! execution, which C++20 allows for relaxed accesses.
//!
//! Not modelled: time (limits of spin locks, deadlines, looks at words after a second), fork
//! copies, garbage in shared memory, hang-ups of the wake pipe, futures; and of queues, blocks,
//! descriptors, leases, rings of several sizes in memory (a model's has 64 to 256 bytes), and freed
//! memory.

mod parts;
mod queue;
mod readers;
mod robust_word;
mod spin_lock;
mod wait_queue;

use std::sync::Arc;

use ::loom::cell::UnsafeCell;
use ::loom::thread::JoinHandle;

pub(super) use super::process::{Kill, start, was_overtaken};

/// Runs a model.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(2);
    builder.max_branches = 100_000;
    builder.check(model);
}

/// Runs a model of a process that is killed before each of its steps.
fn check_deaths(model: impl Fn(&Kill) + Clone + Send + Sync + 'static) {
    Kill::at_each_step(move |kill| {
        let model = model.clone();
        check(move || model(&kill));
    });
}

/// Starts processes 2, 3, … of which each has a `share`, and calls `main` with its id and share.
/// The first one is killed as `kill` says.
fn start_each<S: 'static, R: 'static>(
    count: u32,
    kill: &Kill,
    share: impl Fn() -> S,
    main: impl Fn(u32, S) -> R + Clone + 'static,
) -> Vec<JoinHandle<Option<R>>> {
    let start_one = |id| {
        let (share, main) = (share(), main.clone());
        let kill = if id == 2 { kill.clone() } else { Kill::never() };
        start(id, &kill, move || main(id, share))
    };
    (2..2 + count).map(start_one).collect()
}

/// Waits for the end of processes of which at most the first is killed. Returns its result.
fn others_survive<R>(processes: Vec<JoinHandle<Option<R>>>) -> Option<R> {
    let mut results = processes.into_iter().map(|process| process.join().unwrap());
    let first = results.next().unwrap();
    results.for_each(|result| assert!(result.is_some()));
    first
}

/// Waits for the end of processes of which none is killed.
fn all_survive<R>(processes: impl IntoIterator<Item = JoinHandle<Option<R>>>) {
    for process in processes {
        assert!(process.join().unwrap().is_some());
    }
}

/// Data that a lock protects. loom reports two accesses that don't happen one after the other.
#[derive(Clone)]
struct Data(Arc<UnsafeCell<u32>>);

impl Data {
    fn new() -> Data {
        Data(Arc::new(UnsafeCell::new(0)))
    }

    fn write(&self) {
        // SAFETY: loom checks that there is no other access.
        self.0.with_mut(|data| unsafe { *data += 1 });
    }

    fn read(&self) -> u32 {
        // SAFETY: loom checks that there is no write.
        self.0.with(|data| unsafe { *data })
    }
}
