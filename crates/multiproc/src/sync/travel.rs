//! How an object with a gate travels: as two descriptors.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::handle;
use crate::shm::object::Object;
use crate::shm::segment::Layout;

#[derive(Serialize)]
#[serde(rename = "Shared", bound = "")]
struct Outgoing<'a, L: Layout> {
    memory: Memory<'a, L>,
    door: Door<'a, L>,
}

struct Memory<'a, L>(&'a Object<L>);

impl<L: Layout> Serialize for Memory<'_, L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(&self.0.memory(), serializer)
    }
}

struct Door<'a, L>(&'a Object<L>);

impl<L: Layout> Serialize for Door<'_, L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize_made(|| self.0.door(), serializer)
    }
}

#[derive(Deserialize)]
#[serde(rename = "Shared")]
struct Incoming {
    #[serde(with = "crate::handle")]
    memory: OwnedFd,
    #[serde(with = "crate::handle")]
    door: OwnedFd,
}

/// Sends another handle of it along.
pub(super) fn serialize<L: Layout, S: Serializer>(object: &Object<L>, serializer: S) -> Result<S::Ok, S::Error> {
    Outgoing { memory: Memory(object), door: Door(object) }.serialize(serializer)
}

/// Takes one that has been sent along.
pub(super) fn deserialize<'de, L: Layout, D: Deserializer<'de>>(deserializer: D) -> Result<Object<L>, D::Error> {
    let Incoming { memory, door } = Incoming::deserialize(deserializer)?;
    Object::open(memory, door).map_err(serde::de::Error::custom)
}
