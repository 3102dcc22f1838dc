//! Runs functions in child processes the way `std::thread` runs them in threads: Python's
//! `multiprocessing` for Rust, on Linux.
//!
//! ```
//! use multiproc::{Process, current_process};
//!
//! fn worker(num: u32) -> String {
//!     format!("{} works on {num}", current_process().name())
//! }
//!
//! #[multiproc::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let child = Process::new(worker, (7,)).start()?;
//!     assert_eq!(child.join()?, "Process-1 works on 7");
//!     Ok(()) // leaving main waits for children that are not daemons, and ends those that are
//! }
//! ```
//!
//! A child process runs the same program as its parent. It must reach its target before `main` does
//! anything else, so `main` carries [`#[multiproc::main]`](macro@main) or calls [`init`] first; a
//! test carries [`#[multiproc::test]`](macro@test) in place of `#[test]`.
//!
//! - [`Process`] builds a process: its name, whether it is a daemon, its start method, and, as with
//!   `Command`, its environment, directory, standard streams and limits. [`Process::start`] starts
//!   it and returns a [`Child`]: wait, join, terminate, kill, exit code.
//! - [`Run`] takes the role that subclassing `Process` has in Python.
//! - [`Queue`] connects any number of processes; [`JoinableQueue`] is for work that must not be
//!   lost.
//! - [`pipe`] and [`one_way`](connection::one_way) connect two processes;
//!   [`Listener`](connection::Listener) and [`connect`](connection::connect) connect any two
//!   programs, on one machine or over TCP, with a [`Key`](connection::Key). [`wait_any`] waits for
//!   several of all these.
//! - [`Handle`] sends an open file, a pipe end or a socket to another process, as an argument, as a
//!   result, or inside one.
//! - [`RemoteFn`] is a function that can be an argument or a queue item.
//! - [`Value`] and [`Array`] are in shared memory, with a lock, or without one as
//!   [`RawValue`](shared_memory::RawValue) and [`RawArray`](shared_memory::RawArray);
//!   [`SharedMemory`] holds bytes, with or without a name;
//!   [`ShareableList`](shared_memory::ShareableList) holds mixed values that several processes read
//!   and change in place; [`SharedBytes`] is for large data that is sent without a copy.
//! - [`sync`] has the locks and other synchronization primitives that processes share.
//! - [`current_process`], [`parent_process`], [`active_children`] and [`cpu_count`] return
//!   processes and the number of processors.
//! - [`wait_any`] and [`wait_all`] wait for one or all of several children. [`scope`] starts
//!   processes that end when a closure has returned.
//! - `child.await` joins a child in `async` code; with the feature `async`, queues, pipes,
//!   listeners, locks, semaphores and events have `async` methods too.
//! - [`at_exit`](process::at_exit), [`handle_ctrl_c`](process::handle_ctrl_c) and
//!   [`set_start_method`] configure the whole process.
//! - [`log_to_stderr`] logs what the library does; [`relay_logs`](log::relay_logs) sends the log
//!   records of all processes to the main process's own logger, and
//!   [`capture_output`](log::capture_output) their output.
//!
//! When something goes wrong: [`StartError`](process::StartError) if a process can't be started,
//! [`JoinError`] if a process ends without a value; all errors convert to [`Error`] by `?`. No call
//! waits for a dead process, and no process outlives its parent unless [told
//! to](Process::outlive_parent).
//!
//! Guides: [start here](guide::start_here), [coming from Python](guide::python),
//! [choosing between queue, pipe and shared memory](guide::choosing), [values](guide::values),
//! [async and tokio](guide::async_code), [logging](guide::logging),
//! [supervising workers](guide::supervising), [when a process dies](guide::death),
//! [confinement](guide::confinement), [performance](guide::performance).
//!
//! # Waiting
//!
//! A call that waits does so for as long as it takes, or until it can tell that it would wait for
//! ever. For most there are two others. `try_…` doesn't wait, and `…_timeout` waits for at most a
//! given time. What they return when the time is over:
//!
//! - queues, connections and listeners an error, `Empty`, `Full` or `Timeout`, as the channels of
//!   std do: an item that was to be put or sent is inside, and comes back;
//! - locks and semaphores `Ok(None)`, and waits for events, conditions and processes `Ok(None)` or
//!   `Ok(false)`: nothing has failed.
//!
//! Two differ, since something else has happened then: a [`Barrier`](sync::Barrier) is broken when
//! one of its parties gives up, which is an error for all of them, and [`Child::join_timeout`]
//! gives the child back.
//!
//! # Features
//!
//! None is enabled by default; they can be combined freely.
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `anyhow` | targets may return `anyhow::Result`; its errors arrive as their messages |
//! | `arrow` | [`SharedBytes`] turns into an Arrow `Buffer` without a copy; `bytes` too |
//! | `async` | methods for `async` code, on any executor: of queues (`put_async`, `get_async`), pipes (`send_async`, `recv_async`, `send_bytes_async`, `recv_bytes_async`), listeners (`accept_async`), locks (`lock_async`), semaphores (`acquire_async`) and events (`wait_async`); those of processes (`.await`, `terminate_async`, `kill_async`) need no feature |
//! | `bytes` | [`SharedBytes`] turns into `bytes::Bytes` without a copy |
//! | `ndarray` | the elements of a locked [`Array`] can be viewed as an `ndarray` |
//! | `tokio` | futures are woken by the tokio runtime they run in, not by a thread of this crate |
//! | `tracing` | [`relay_logs`](log::relay_logs) relays `tracing` events too, and gives records to its subscriber |

// Shows on docs.rs which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]
#![deny(unsafe_code)]

// Makes the paths in the attributes' output, which begin with `::multiproc`, resolve in this crate
// too.
#[allow(unused_extern_crates)]
extern crate self as multiproc;

mod channel;
pub mod connection;
mod create_error;
mod error;
mod error_debug;
#[cfg(test)]
mod floors;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod handle;
pub mod log;
pub mod process;
pub mod queue;
mod remote_fn;
mod runtime;
mod sendable;
mod shared;
pub mod shared_memory;
mod spec;
mod start;
pub mod sync;
mod transfer;

#[doc(hidden)]
pub mod __private;

#[doc(inline)]
pub use crate::channel::joinable::JoinableQueue;
#[doc(inline)]
pub use crate::channel::pipe::pipe;
#[doc(inline)]
pub use crate::channel::queue::Queue;
pub use crate::channel::wait::{Waitable, wait_any};
pub use crate::create_error::CreateError;
pub use crate::error::{Error, Result};
pub use crate::handle::Handle;
#[doc(inline)]
pub use crate::log::stderr::log_to_stderr;
#[doc(inline)]
pub use crate::process::active_children::active_children;
#[doc(inline)]
pub use crate::process::builder::Process;
#[doc(inline)]
pub use crate::process::child::Child;
#[doc(inline)]
pub use crate::process::init::init;
#[doc(inline)]
pub use crate::process::run::Run;
#[doc(inline)]
pub use crate::process::scope::scope;
#[doc(inline)]
pub use crate::process::wait::wait_all;
pub use crate::remote_fn::RemoteFn;
#[doc(inline)]
pub use crate::runtime::current::{cpu_count, current_process, parent_process};
pub use crate::sendable::Sendable;
#[doc(inline)]
pub use crate::shared::array::Array;
#[doc(inline)]
pub use crate::shared::memory::SharedMemory;
#[doc(inline)]
pub use crate::shared::shared_bytes::SharedBytes;
#[doc(inline)]
pub use crate::shared::value::Value;
#[doc(inline)]
pub use crate::spec::method::{StartMethod, set_start_method};
#[doc(inline)]
pub use crate::spec::status::JoinError;
pub use crate::transfer::codec::CodecError;
pub use multiproc_macros::{main, test};

/// Guides that are longer than an item's documentation.
#[cfg(any(doc, doctest))]
pub mod guide {
    #[doc = include_str!("../guide/async.md")]
    pub mod async_code {}
    #[doc = include_str!("../guide/choosing.md")]
    pub mod choosing {}
    #[doc = include_str!("../guide/confinement.md")]
    pub mod confinement {}
    #[doc = include_str!("../guide/death.md")]
    pub mod death {}
    #[doc = include_str!("../guide/logging.md")]
    pub mod logging {}
    #[doc = include_str!("../guide/performance.md")]
    pub mod performance {}
    #[doc = include_str!("../guide/python.md")]
    pub mod python {}
    #[doc = include_str!("../guide/start_here.md")]
    pub mod start_here {}
    #[doc = include_str!("../guide/supervising.md")]
    pub mod supervising {}
    #[doc = include_str!("../guide/values.md")]
    pub mod values {}
}

/// Compiles and runs the program in the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
