//! Objects made of bytes in shared memory, which outlive any of their users. No serde, no process handling.
//!
//! [`segment`] is the memory of an object, with a header that tells what it is. [`latch`] lets one in at a time, for a moment; [`lot`] is
//! where those wait for whom it isn't the moment yet; [`owned`] is what a thread holds for as long as it likes. How these, and the kernel, see to it
//! that nobody hangs because somebody died is in `PROTOCOL.md` beside this file.

pub(crate) mod arena;
pub(crate) mod backoff;
mod bell;
#[allow(unsafe_code)]
pub(crate) mod block;
#[allow(unsafe_code)]
pub(crate) mod cell;
pub(crate) mod census;
#[allow(unsafe_code)]
pub(crate) mod expanse;
pub(crate) mod flag;
pub(crate) mod gate;
pub(crate) mod latch;
pub(crate) mod leases;
pub(crate) mod ledger;
pub(crate) mod lot;
pub(crate) mod notices;
pub(crate) mod object;
#[allow(unsafe_code)]
pub(crate) mod owned;
pub(crate) mod parts;
pub(crate) mod permits;
pub(crate) mod readers;
#[allow(unsafe_code)]
pub(crate) mod region;
pub(crate) mod roster;
pub(crate) mod rounds;
#[allow(unsafe_code)]
pub(crate) mod scratch;
#[allow(unsafe_code)]
pub(crate) mod segment;
pub(crate) mod store;
pub(crate) mod users;
#[cfg(feature = "async")]
mod vigil;
#[cfg(feature = "async")]
pub(crate) mod waiters;
