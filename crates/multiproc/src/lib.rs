//! Processes used the way threads are used: a target function and its arguments run in another process. Python's `multiprocessing`,
//! in the shape that Rust gives it, on Linux.
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
//! A child is a process of the same program. It must find its way to the target before `main` does anything, so `main` carries
//! [`#[multiproc::main]`](macro@main) or calls [`init`] first; a test carries [`#[multiproc::test]`](macro@test) in place of `#[test]`.
//!
//! - [`Process`] is a process to be: name, daemon, start method, and as with `Command` environment, directory, streams, limits.
//!   [`Process::start`] makes a [`Child`] of it: wait, join, terminate, kill, exit code.
//! - [`Run`] is what subclassing `Process` is in Python.
//! - [`Queue`] between any number of processes; [`JoinableQueue`] for work that must not be lost.
//! - [`pipe`] between two processes, [`one_way`] too; [`Listener`] and [`connect`] between any two programs, here or over TCP, with a [`Key`].
//!   [`wait`](wait()) for several of all these.
//! - [`Handle`] takes an open file, a pipe end or a socket along, as an argument or a result or inside one.
//! - [`RemoteFn`] is a function as an argument or an item of a queue.
//! - [`ShareableList`]: mixed values that several processes read and change in place.
//! - [`Value`] and [`Array`] in shared memory, with their lock, or without as [`RawValue`] and [`RawArray`]; [`SharedMemory`] for bytes, with or without a name;
//!   [`ShareableList`]; [`SharedBytes`] for big data that travels without a copy.
//! - [`sync`] has locks that processes share, and what else they wait for each other with.
//! - [`current_process`], [`parent_process`], [`active_children`], [`cpu_count`].
//! - [`wait_any`], [`wait_all`]: several children at once, with a timeout. [`scope`]: processes that end with a piece of code.
//! - `child.await` in `async` code; with the feature `async`, queues, pipes, listeners, locks,
//!   semaphores and events too.
//! - [`at_exit`], [`handle_ctrl_c`], [`set_start_method`].
//! - [`log_to_stderr`]; [`relay_logs`] brings what all processes log to the main process's own logger, [`capture_output`] what they print.
//!
//! What to expect when something goes wrong: [`Error`] if a process can't be started, [`JoinError`] if it gives no value. Nobody waits
//! for a dead process, and no process outlives the one that started it, unless [told to](Process::outlive_parent).
//!
//! Longer pages: [which values travel, and how](guide::values); [what a child may do, and when it
//! ends](guide::confinement).
//!
//! # Features
//!
//! None is on unless asked for; all of them work together.
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `anyhow` | targets may return `anyhow::Result`; its errors arrive as their messages |
//! | `arrow` | [`SharedBytes`] turns into an Arrow `Buffer` without a copy; `bytes` too |
//! | `async` | methods for `async` code, on any executor: of queues (`put_async`, `get_async`), pipes (`send_async`, `recv_async`, `send_bytes_async`, `recv_bytes_async`), listeners (`accept_async`), locks (`lock_async`), semaphores (`acquire_async`) and events (`wait_async`); those of processes (`.await`, `terminate_async`, `kill_async`) are always there |
//! | `bytes` | [`SharedBytes`] turns into `bytes::Bytes` without a copy |
//! | `ndarray` | what is held of an [`Array`] can be looked at as an `ndarray` |
//! | `tokio` | futures are woken by the tokio runtime that they run in, without a thread of this crate's own |
//! | `tracing` | [`relay_logs`] takes events of `tracing` too, and gives records to its subscriber |

// Shows on docs.rs which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]
#![deny(unsafe_code)]

// So that the attributes, which write `::multiproc`, work in this crate too.
#[allow(unused_extern_crates)]
extern crate self as multiproc;

mod channel;
mod error;
mod error_debug;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod handle;
mod log;
mod process;
mod remote_fn;
mod sendable;
mod shared;
mod shm;
mod start;
pub mod sync;
mod transfer;
mod units;
mod wake;

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
pub use crate::channel::queue::{Consumer, Items, Message, Producer, Queue};
pub use crate::channel::queue_error::{GetError, PutError, PutErrorKind};
pub use crate::channel::wait::{Waitable, wait};
pub use crate::error::{Error, Result};
pub use crate::handle::Handle;
pub use crate::log::LevelFilter;
pub use crate::log::capture::{CapturedLine, OutputCapture, OutputStream, capture_output};
pub use crate::log::record::RelayedRecord;
pub use crate::log::relay::{LogRelay, relay_logs};
pub use crate::log::stderr::{Logger, get_logger, log_to_stderr};
pub use crate::process::at_exit::{Finalizer, at_exit};
pub use crate::process::builder::Process;
pub use crate::process::child::{Child, ProcessHandle};
pub use crate::process::children::{active_children, grace_period, set_grace_period};
pub use crate::process::ctrl_c::{handle_ctrl_c, handles_ctrl_c};
pub use crate::process::current::{
    CurrentProcess, ParentProcess, cpu_count, current_process, parent_process, set_seed,
};
pub use crate::process::future::{JoinFuture, WaitFuture};
pub use crate::process::options::Resource;
pub use crate::process::outcome::{self, RemoteError};
pub use crate::process::run::{Call, Captured, Run, Target};
pub use crate::process::scope::{Scope, ScopeError, scope};
pub use crate::process::status::{ExitStatus, JoinError, JoinErrorKind, Panic};
pub use crate::process::stdio::{ChildStdin, Stdio};
pub use crate::process::wait::{wait_all, wait_any};
pub use crate::remote_fn::RemoteFn;
pub use crate::sendable::{Arguments, Sendable};
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
pub use crate::shm::cell::Plain;
pub use crate::start::entry::init;
pub use crate::start::forkserver::end_fork_server;
pub use crate::start::method::{StartMethod, set_start_method, start_method};
pub use crate::start::standby::set_standby;
pub use crate::transfer::codec::CodecError;
pub use multiproc_macros::{main, test};

/// Longer pages than an item has.
#[cfg(any(doc, doctest))]
pub mod guide {
    #[doc = include_str!("../guide/confinement.md")]
    pub mod confinement {}
    #[doc = include_str!("../guide/values.md")]
    pub mod values {}
}

/// The README's program runs as written.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
