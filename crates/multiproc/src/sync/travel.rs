//! Serialization of objects: an object with a wake pipe travels as two descriptors, one that is
//! made of robust words only as one.

use std::os::fd::OwnedFd;

use multiproc_shm::lock::robust_word::LockMapping;
use multiproc_shm::memory::object::Object;
use multiproc_shm::memory::segment::{Layout, Segment};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::handle;

#[derive(Serialize)]
#[serde(rename = "Shared", bound = "")]
struct Outgoing<'a, L: Layout> {
    memory: Memory<'a, L>,
    wake_pipe: WakePipe<'a, L>,
}

struct Memory<'a, L>(&'a Object<L>);

impl<L: Layout> Serialize for Memory<'_, L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize(&self.0.memory(), serializer)
    }
}

struct WakePipe<'a, L>(&'a Object<L>);

impl<L: Layout> Serialize for WakePipe<'_, L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        handle::serialize_made(|| self.0.wake_pipe(), serializer)
    }
}

#[derive(Deserialize)]
#[serde(rename = "Shared")]
struct Incoming {
    #[serde(with = "crate::handle")]
    memory: OwnedFd,
    #[serde(with = "crate::handle")]
    wake_pipe: OwnedFd,
}

/// Serializes another handle of `object`, to be sent with a message.
pub(super) fn serialize<L: Layout, S: Serializer>(object: &Object<L>, serializer: S) -> Result<S::Ok, S::Error> {
    Outgoing { memory: Memory(object), wake_pipe: WakePipe(object) }.serialize(serializer)
}

/// Receives a handle that was sent with a message.
pub(super) fn deserialize<'de, L: Layout, D: Deserializer<'de>>(deserializer: D) -> Result<Object<L>, D::Error> {
    let Incoming { memory, wake_pipe } = Incoming::deserialize(deserializer)?;
    Object::open(memory, wake_pipe).map_err(serde::de::Error::custom)
}

/// Receives an object that is a memory file only, without a wake pipe.
pub(super) fn deserialize_kept<'de, L: Layout, const N: usize, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<LockMapping<L, N>, D::Error> {
    let memory: OwnedFd = handle::deserialize(deserializer)?;
    Segment::open(memory).map(LockMapping::new).map_err(serde::de::Error::custom)
}

/// Implements serialization for a lock type: its field `inner` derefs to a value that is
/// [`AsFd`](std::os::fd::AsFd), the descriptor of its memory, and `$of` makes the type from the
/// mapping that was opened.
macro_rules! travels {
    ($name:ident $(<$parameter:ident: $bound:ident>)?, |$mapping:ident $(: $type:ty)?| $of:expr) => {
        impl $(<$parameter: $bound>)? serde::Serialize for $name $(<$parameter>)? {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                $crate::handle::serialize(&*self.inner, serializer)
            }
        }

        impl<'de $(, $parameter: $bound)?> serde::Deserialize<'de> for $name $(<$parameter>)? {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                let $mapping $(: $type)? = $crate::sync::travel::deserialize_kept(deserializer)?;
                $of
            }
        }
    };
}

pub(super) use travels;
