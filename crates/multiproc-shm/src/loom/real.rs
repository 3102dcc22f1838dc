//! Without loom: the real things.

pub(crate) use multiproc_os::{futex, robust, shared_memory, threads};

pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, fence};
}
