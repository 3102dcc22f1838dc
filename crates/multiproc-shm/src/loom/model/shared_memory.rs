//! A model of a memory file: the words of a ring, all of which have memory.

use std::sync::{Arc, OnceLock};
use std::{fmt, io};

pub(crate) use multiproc_os::shared_memory::PAGE;

use super::atomic::AtomicU64;

/// The number of words: those of the largest ring.
const WORDS: usize = 32;

/// Stands for [`multiproc_os::shared_memory::SharedFile`].
pub struct SharedFile(OnceLock<Arc<[AtomicU64]>>);

impl SharedFile {
    pub(super) fn new() -> SharedFile {
        SharedFile(OnceLock::new())
    }

    /// The words, which are made by the first call: a model's main thread creates the ring.
    pub(super) fn words(&self) -> &Arc<[AtomicU64]> {
        self.0.get_or_init(|| (0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    pub(crate) fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn free(&self, _: u64, _: u64) {}
}

impl fmt::Debug for SharedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedFile")
    }
}
