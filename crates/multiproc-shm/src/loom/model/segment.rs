//! A model of the memory of a shared object: as long as any process of the model has it, all have
//! the same.

use std::ops::Deref;
use std::sync::Arc;
use std::{fmt, io};

use super::atomic::{AtomicU64, Zeroed};
use super::shared_memory::SharedFile;
use crate::memory::layout::Layout;

/// Stands for [`crate::memory::segment::Segment`].
pub struct Segment<L>(Arc<(L, SharedFile)>);

impl<L: Layout + Zeroed> Segment<L> {
    pub(crate) fn create() -> io::Result<Segment<L>> {
        Ok(Segment(Arc::new((L::zeroed(), SharedFile::new()))))
    }
}

impl<L: Layout> Segment<L> {
    /// The segment as another process has it.
    pub(crate) fn share(&self) -> Segment<L> {
        Segment(Arc::clone(&self.0))
    }

    pub(crate) fn holds<T: ?Sized>(&self, what: &T) -> bool {
        let offset = (&raw const *what).addr().wrapping_sub((&raw const self.0.0).addr());
        offset < size_of::<L>() && size_of_val(what) <= size_of::<L>() - offset
    }

    /// Does nothing: a model's main thread has the memory until all others have ended.
    pub(crate) fn leave_mapped(self) {}

    pub(crate) fn file(&self) -> &SharedFile {
        &self.0.1
    }

    /// No object of a model has more.
    pub(crate) fn more(&self) -> &[AtomicU64] {
        &[]
    }

    pub(crate) fn allocate_more(&self, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    pub(crate) fn allocate_for<T: ?Sized>(&self, part: &T) -> io::Result<()> {
        assert!(self.holds(part));
        Ok(())
    }
}

impl<L> Deref for Segment<L> {
    type Target = L;

    fn deref(&self) -> &L {
        &self.0.0
    }
}

impl<L> fmt::Debug for Segment<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Segment")
    }
}
