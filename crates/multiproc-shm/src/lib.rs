//! Queues, locks and memory that processes share, as bytes and file descriptors.
//!
//! This is the layer under the crate `multiproc`, for other fronts: a language runtime with its own
//! serialisation, a transport between machines. It knows no serialisation and starts no processes.
//!
//! ```
//! use multiproc_shm::queue::{Consumer, Queue};
//! use multiproc_shm::sync::ProcessLock;
//! use multiproc_shm::wait::deadline::Deadline;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (queue, lock) = (Queue::new()?, ProcessLock::create()?);
//! queue.put(&[b"head ", b"body"], &[], Deadline::Never)?;
//!
//! // In another process, with descriptors that have come by sendmsg(2) or are inherited:
//! let consumer = Consumer::from_fds(queue.to_fds()?)?;
//! let lock = ProcessLock::from_fds(lock.to_fds()?)?;
//! assert!(lock.acquire(Deadline::Never).is_ok());
//! assert_eq!(*consumer.get(Deadline::Never)?, *b"head body");
//! lock.release()?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | what it has |
//! | --- | --- |
//! | [`queue`] | queues of bytes with descriptors, and their ends |
//! | [`sync`] | locks, semaphores, events, conditions and barriers, without guards |
//! | [`memory`] | the memory of objects: [`slab`](memory::slab) for many small ones, [`region`](memory::region) for any number of bytes with a lock, [`layout`](memory::layout) to define an object |
//! | [`slot_table`] | values of several types, read and changed in place |
//! | [`message`] | messages of bytes and descriptors over sockets |
//! | [`lock`], [`wait`], [`wake`] | what the objects are made of: locks that survive their owner, deadlines, wait queues, wake-ups of futures |
//!
//! # What all objects have in common
//!
//! - **Descriptors.** An object is created by `new` or `create`, and opened in another process by
//!   `from_fds`, with the descriptors of `to_fds`, in their order. They are closed on exec: for a
//!   program that inherits them, the child clears `FD_CLOEXEC` between fork(2) and exec(2), and
//!   `from_fds` sets it again. An object of another kind, or of another version of this crate, is an
//!   error.
//! - **Deadlines.** A call that waits takes a [`Deadline`](wait::deadline::Deadline); those of queues
//!   also take a `Duration` from now. A `try_` call waits for nothing, not even for the short
//!   operation of another process; it returns `Busy` then. Calls without a deadline, such as
//!   `release`, wait for such an operation for as long as it takes, also if the process is stopped.
//! - **Signals.** A wait continues after a signal handler, unless its handle is `interruptible`.
//! - **Deaths.** A process may be killed at any instruction. What it held is released or inherited,
//!   and a wait that no process could end any more returns `Disconnected`. `PROTOCOL.md`,
//!   `queue/QUEUE.md` and `sync/PROTOCOL.md` in the sources say how.
//! - **fork(2).** The copy may use all objects, also if the process has other threads; what the
//!   original holds is not held by the copy.
//! - **Trust.** Processes that share an object trust each other not to change its memory by other
//!   means. Contents that can't be are errors, and no access goes beyond the mapping.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![warn(missing_docs)]
// The models run the core, and need nothing else.
#![cfg_attr(loom, allow(dead_code, unused_imports, unreachable_pub))]

pub mod lock;
#[cfg_attr(loom, allow(unsafe_code))]
mod loom;
pub mod memory;
#[cfg(not(loom))]
pub mod message;
pub mod queue;
#[cfg(not(loom))]
pub mod slot_table;
pub mod sync;
#[cfg(not(loom))]
pub mod units;
pub mod wait;
#[cfg(not(loom))]
pub mod wake;
