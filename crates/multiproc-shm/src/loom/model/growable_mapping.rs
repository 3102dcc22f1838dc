//! A model of [`crate::memory::growable_mapping`], for a ring.

use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use super::atomic::AtomicU64;
use super::shared_memory::SharedFile;
use crate::memory::layout::Layout;

/// Stands for [`crate::memory::growable_mapping::GrowableMapping`].
#[derive(Debug)]
pub struct GrowableMapping {
    base: u64,
    first: u32,
    words: OnceLock<Arc<[AtomicU64]>>,
}

impl GrowableMapping {
    pub(crate) fn new(base: u64, first: u32) -> GrowableMapping {
        GrowableMapping { base, first, words: OnceLock::new() }
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn end_of_piece(&self, offset: u64) -> u64 {
        if offset >> self.first == 0 { 1 << self.first } else { 2 << offset.ilog2() }
    }

    pub(crate) fn extend(&self, file: &SharedFile, _: u64) -> io::Result<()> {
        file.words();
        Ok(())
    }

    pub(crate) fn words(&self, file: &SharedFile, offset: u64, count: usize) -> io::Result<&[AtomicU64]> {
        if offset + count as u64 * 8 > self.end_of_piece(offset) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let words = self.words.get_or_init(|| Arc::clone(file.words()));
        Ok(&words[(offset / 8) as usize..][..count])
    }

    /// No item of a model has a block.
    pub(crate) fn get<T: Layout>(&self, _: &SharedFile, _: u64) -> io::Result<&T> {
        Err(io::ErrorKind::InvalidData.into())
    }

    /// As [`get`](GrowableMapping::get).
    pub(crate) fn address(&self, _: &SharedFile, _: u64, _: u64) -> io::Result<NonNull<u8>> {
        Err(io::ErrorKind::InvalidData.into())
    }
}
