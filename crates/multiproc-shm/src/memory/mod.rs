//! The memory of shared objects.

#[allow(unsafe_code)]
pub mod cell;
#[allow(unsafe_code)]
pub mod growable_mapping;
pub mod object;
#[allow(unsafe_code)]
pub mod once_box;
#[allow(unsafe_code)]
pub mod region;
#[allow(unsafe_code)]
pub mod scratch;
#[allow(unsafe_code)]
pub mod segment;
pub mod slab;
