//! Memory that several processes read and write: the public types on top of
//! [`shm::region`](multiproc_shm::memory::region).
//!
//! [`array`] is values with a lock and views of them; [`memory`] is bytes with more ways to use
//! them, names and huge pages; [`raw`] is atomics without a lock; [`shared_bytes`] is immutable
//! bytes; [`shareable_list`] is a list of values of several types, each replaced atomically;
//! [`names`] lets unrelated programs find memory by a name. `PROTOCOL.md` beside this file
//! specifies the layouts and what happens when a process dies.

#[allow(unsafe_code)]
pub(crate) mod array;
pub(crate) mod error;
#[allow(unsafe_code)]
pub(crate) mod guard;
#[allow(unsafe_code)]
pub(crate) mod memory;
mod name;
pub(crate) mod names;
#[cfg(feature = "ndarray")]
mod ndarray;
pub(crate) mod part;
#[allow(unsafe_code)]
pub(crate) mod raw;
pub(crate) mod read_only;
pub(crate) mod shareable_list;
#[allow(unsafe_code)]
pub(crate) mod shared_bytes;
mod travel;
pub(crate) mod value;
