//! How a region travels: by the descriptor of its control, and that of its memory if it has one of its own.

use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::handle::Handle;
use crate::shm::region::{Access, Region};

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

/// Sends it along.
pub(super) fn serialize<S: Serializer>(region: &Region, serializer: S) -> Result<S::Ok, S::Error> {
    Outgoing { control: region.control(), memory: region.memory().map(Handle::new) }.serialize(serializer)
}

/// Takes one that has been sent along.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Region, D::Error> {
    let Incoming { control, memory } = Incoming::deserialize(deserializer)?;
    Region::open(control, memory.map(Handle::into_inner)).map_err(serde::de::Error::custom)
}

/// As [`deserialize`], of one that may be written.
pub(super) fn deserialize_to_write<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Region, D::Error> {
    let region = deserialize(deserializer)?;
    match region.access() {
        Access::Write => Ok(region),
        Access::ReadOnly => Err(serde::de::Error::custom("this memory can only be read")),
    }
}
