//! Memory that several processes read and write, as what users hold: skins over [`shm::region`](crate::shm::region).
//!
//! [`array`] has the lock and the views; [`memory`] is bytes, with all that can be wished of them besides; [`raw`] is for those who want no lock; [`shared_bytes`] is what
//! nobody changes any more; [`shareable_list`] has values of several types, each changed at once; [`names`] are how programs find memory that are no relatives. `PROTOCOL.md` beside this file.

#[allow(unsafe_code)]
pub(crate) mod array;
pub(crate) mod error;
#[allow(unsafe_code)]
pub(crate) mod guard;
#[allow(unsafe_code)]
pub(crate) mod memory;
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
