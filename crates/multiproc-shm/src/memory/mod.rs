//! The memory of shared objects.

#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod cell;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod growable_mapping;
#[cfg(loom)]
pub(crate) use crate::loom::growable_mapping;
#[allow(unsafe_code)]
pub mod layout;
#[cfg(not(loom))]
pub mod object;
#[allow(unsafe_code)]
pub mod once_box;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod region;
#[allow(unsafe_code)]
pub mod scratch;
#[cfg(not(loom))]
#[allow(unsafe_code)]
pub mod segment;
#[cfg(loom)]
pub(crate) use crate::loom::segment;
#[cfg(not(loom))]
pub mod slab;
