//! How a region travels: by the descriptor of its control, and that of its memory if it has one of its own.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::handle;
use crate::shm::region::{Access, Region};

#[derive(Serialize)]
#[serde(rename = "SharedMemory")]
struct Outgoing<'a> {
    control: Control<'a>,
    memory: Option<Memory<'a>>,
}

struct Control<'a>(&'a Region);

impl Serialize for Control<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(&self.0.control(), serializer)
    }
}

struct Memory<'a>(std::os::fd::BorrowedFd<'a>);

impl Serialize for Memory<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(&self.0, serializer)
    }
}

#[derive(Deserialize)]
#[serde(rename = "SharedMemory")]
struct Incoming {
    #[serde(with = "crate::handle")]
    control: OwnedFd,
    memory: Option<handle::Handle<OwnedFd>>,
}

/// Sends it along.
pub(super) fn serialize<S: Serializer>(region: &Region, serializer: S) -> Result<S::Ok, S::Error> {
    Outgoing { control: Control(region), memory: region.memory().map(Memory) }.serialize(serializer)
}

/// Takes one that has been sent along.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Region, D::Error> {
    let Incoming { control, memory } = Incoming::deserialize(deserializer)?;
    Region::open(control, memory.map(handle::Handle::into_inner)).map_err(serde::de::Error::custom)
}

/// As [`deserialize`], of one that may be written.
pub(super) fn deserialize_to_write<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Region, D::Error> {
    let region = deserialize(deserializer)?;
    match region.access() {
        Access::Write => Ok(region),
        Access::ReadOnly => Err(serde::de::Error::custom("this memory can only be read")),
    }
}
