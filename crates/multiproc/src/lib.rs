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
//! - [`pipe`] and [`one_way`] connect two processes; [`Listener`] and [`connect`] connect any two
//!   programs, on one machine or over TCP, with a [`Key`]. [`wait_any`] waits for several of
//!   all these.
//! - [`Handle`] sends an open file, a pipe end or a socket to another process, as an argument, as a
//!   result, or inside one.
//! - [`RemoteFn`] is a function that can be an argument or a queue item.
//! - [`Value`] and [`Array`] are in shared memory, with a lock, or without one as [`RawValue`] and
//!   [`RawArray`]; [`SharedMemory`] holds bytes, with or without a name; [`ShareableList`] holds
//!   mixed values that several processes read and change in place; [`SharedBytes`] is for large
//!   data that is sent without a copy.
//! - [`sync`] has the locks and other synchronization primitives that processes share.
//! - [`current_process`], [`parent_process`], [`active_children`] and [`cpu_count`] tell about
//!   processes and processors.
//! - [`wait_any`] and [`wait_all`] wait for one or all of several children. [`scope`] starts
//!   processes that end when a closure has returned.
//! - `child.await` joins a child in `async` code; with the feature `async`, queues, pipes,
//!   listeners, locks, semaphores and events have `async` methods too.
//! - [`at_exit`], [`handle_ctrl_c`] and [`set_start_method`] configure the whole process.
//! - [`log_to_stderr`] logs what the library does; [`relay_logs`] sends the log records of all
//!   processes to the main process's own logger, and [`capture_output`] their output.
//!
//! When something goes wrong: [`StartError`] if a process can't be started, [`JoinError`] if a
//! process ends without a value; all errors convert to [`Error`] by `?`. No call waits for a dead
//! process, and no process outlives its parent unless [told to](Process::outlive_parent).
//!
//! Guides: [start here](guide::start_here), [coming from Python](guide::python),
//! [choosing between queue, pipe and shared memory](guide::choosing), [values](guide::values),
//! [async and tokio](guide::async_code), [logging](guide::logging),
//! [supervising workers](guide::supervising), [when a process dies](guide::death),
//! [confinement](guide::confinement), [performance](guide::performance).
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
//! | `tracing` | [`relay_logs`] relays `tracing` events too, and gives records to its subscriber |

// Shows on docs.rs which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]
#![deny(unsafe_code)]

// Makes the paths in the attributes' output, which begin with `::multiproc`, resolve in this crate
// too.
#[allow(unused_extern_crates)]
extern crate self as multiproc;

mod channel;
mod create_error;
mod error;
mod error_debug;
#[cfg(test)]
mod floors;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod handle;
mod log;
pub mod process;
mod remote_fn;
mod runtime;
mod sendable;
mod shared;
mod shm;
mod spec;
mod start;
pub mod sync;
mod transfer;
use multiproc_shm::{units, wake};

#[doc(hidden)]
pub mod __private;

pub use crate::channel::address::{Address, Peer};
pub use crate::channel::auth::Key;
pub use crate::channel::connect::{connect, connect_timeout};
pub use crate::channel::connection::{Connection, IntoIter, Iter, Receiver, Sender};
pub use crate::channel::error::{RecvError, RecvErrorKind, SendError, SendErrorKind};
pub use crate::channel::joinable::{JoinableQueue, Task, Tasks};
pub use crate::channel::link_error::{
    ConnectError, ConnectErrorKind, ListenError, ListenErrorKind, Refusal, RefusalReason,
};
pub use crate::channel::listener::Listener;
pub use crate::channel::pipe::{one_way, pipe};
pub use crate::channel::queue::{Consumer, Items, Message, Producer, Queue, QueueHandle, role};
pub use crate::channel::queue_error::{GetError, PutError, PutErrorKind};
pub use crate::channel::wait::{Waitable, wait_any};
pub use crate::create_error::CreateError;
pub use crate::error::{Error, Result};
pub use crate::handle::Handle;
pub use crate::log::LevelFilter;
pub use crate::log::capture::{CapturedLine, OutputCapture, OutputStream, capture_output};
pub use crate::log::record::RelayedRecord;
pub use crate::log::relay::{LogRelay, relay_logs};
pub use crate::log::stderr::{Logger, get_logger, log_to_stderr};
pub use crate::process::active_children::active_children;
pub use crate::process::arguments::Arguments;
pub use crate::process::builder::Process;
pub use crate::process::child::{Child, ProcessHandle};
pub use crate::process::error::{ChildError, WaitAllError};
pub use crate::process::future::{JoinFuture, WaitFuture};
pub use crate::process::init::init;
pub use crate::process::outcome::{self, RemoteError};
pub use crate::process::run::{Call, Captured, Run};
pub use crate::process::scope::{Scope, ScopeError, scope};
pub use crate::process::wait::wait_all;
pub use crate::remote_fn::RemoteFn;
pub use crate::runtime::at_exit::{Finalizer, at_exit};
pub use crate::runtime::children::{grace_period, set_grace_period};
pub use crate::runtime::ctrl_c::{handle_ctrl_c, handles_ctrl_c};
pub use crate::runtime::current::{
    CurrentProcess, ParentProcess, cpu_count, current_process, parent_process, set_seed,
};
pub use crate::sendable::Sendable;
pub use crate::shared::array::Array;
pub use crate::shared::error::{FreezeError, MemoryError};
pub use crate::shared::guard::{ArrayGuard, ArrayReadGuard};
pub use crate::shared::memory::{HugePages, SharedMemory, SharedMemoryOptions};
pub use crate::shared::names::{NameError, NameRefusal};
pub use crate::shared::part::ArrayPart;
pub use crate::shared::raw::{Atomic, RawArray, RawValue};
pub use crate::shared::read_only::ReadOnlyMemory;
pub use crate::shared::shareable_list::{ShareableItem, ShareableItems, ShareableList, ShareableListError};
pub use crate::shared::shared_bytes::{SharedBytes, SharedBytesWriter};
pub use crate::shared::value::Value;
/// The values themselves are never serialised. A generic type that contains them and derives
/// serde's traits needs this bound:
///
/// ```
/// use multiproc::{Array, Plain, Process, Value};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// #[serde(bound = "")]
/// struct Job<T: Plain> {
///     samples: Array<T>,
///     largest: Value<T>,
/// }
///
/// #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
/// #[repr(C)]
/// struct Point {
///     x: f64,
///     y: f64,
/// }
///
/// fn count<T: Plain>(job: Job<T>) -> usize {
///     job.samples.len()
/// }
///
/// # #[multiproc::main]
/// # fn main() -> multiproc::Result<()> {
/// let job = Job { samples: Array::<Point>::new(100)?, largest: Value::new(Point { x: 0.0, y: 0.0 })? };
/// assert_eq!(Process::new(count, (job,)).start()?.join()?, 100);
/// # Ok(())
/// # }
/// ```
#[doc(inline)]
pub use crate::shm::cell::Plain;
pub use crate::spec::method::{StartMethod, set_start_method, start_method};
pub use crate::spec::options::Resource;
pub use crate::spec::status::{ExitStatus, JoinError, JoinErrorKind, Panic};
pub use crate::spec::stdio::{ChildStdin, Stdio};
pub use crate::spec::target::Target;
pub use crate::start::error::{HandshakeError, HandshakeErrorKind, StartError};
pub use crate::start::forkserver::end_fork_server;
pub use crate::start::standby::set_standby;
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
