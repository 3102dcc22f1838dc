//! Serialization of a region: the descriptor of its control, and that of its memory if that has a
//! file of its own.

use std::os::fd::{BorrowedFd, OwnedFd};

use multiproc_shm::memory::region::{Access, Region};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::handle::Handle;

#[derive(Serialize)]
#[serde(rename = "SharedMemory")]
struct Outgoing<'a> {
    #[serde(with = "crate::handle")]
    control: BorrowedFd<'a>,
    memory: Option<Handle<BorrowedFd<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename = "SharedMemory")]
struct Incoming {
    #[serde(with = "crate::handle")]
    control: OwnedFd,
    memory: Option<Handle<OwnedFd>>,
}

/// Serializes the descriptors of the region, to be sent with a message.
pub(super) fn serialize<S: Serializer>(region: &Region, serializer: S) -> Result<S::Ok, S::Error> {
    Outgoing { control: region.control(), memory: region.memory().map(Handle::new) }.serialize(serializer)
}

/// Receives a region that was sent with a message.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Region, D::Error> {
    let Incoming { control, memory } = Incoming::deserialize(deserializer)?;
    Region::open(control, memory.map(Handle::into_inner)).map_err(serde::de::Error::custom)
}

/// Receives a region for writing, as [`deserialize`] does.
pub(super) fn deserialize_to_write<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Region, D::Error> {
    let region = deserialize(deserializer)?;
    match region.access() {
        Access::Write => Ok(region),
        Access::ReadOnly => Err(serde::de::Error::custom("this memory is read-only")),
    }
}
