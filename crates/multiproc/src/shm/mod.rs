//! Objects in shared memory: the modules of `multiproc-shm`.

pub(crate) use multiproc_shm::lock::parts;
pub(crate) use multiproc_shm::lock::readers;
pub(crate) use multiproc_shm::lock::robust_word;
pub(crate) use multiproc_shm::lock::spin_lock;
pub(crate) use multiproc_shm::memory::cell;
pub(crate) use multiproc_shm::memory::object;
pub(crate) use multiproc_shm::memory::region;
pub(crate) use multiproc_shm::memory::scratch;
pub(crate) use multiproc_shm::memory::segment;
pub(crate) use multiproc_shm::slot_table;
pub(crate) use multiproc_shm::sync::condition as tickets;
pub(crate) use multiproc_shm::wait::change_rate;
#[cfg(feature = "async")]
pub(crate) use multiproc_shm::wait::waiters;
