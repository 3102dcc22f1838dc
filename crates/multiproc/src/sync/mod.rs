//! Locks that processes share: what users hold, thin skins over the words of `shm/owned.rs`.
//!
//! Each is one memory file, without a name, that travels to other processes as an argument, a result, a field of a [`Run`](crate::Run) value, or
//! inside any of them; a clone is another handle of the same. What happens when one of those who use it dies is in `PROTOCOL.md` beside this file.

mod error;
mod lock;

pub use error::{LockError, Misuse, PoisonCause, Poisoned};
pub use lock::{Lock, LockGuard};
