//! With loom: models of what the core is built on.
//!
//! Each thread of a model stands for a process with one thread. It may be killed before any of its
//! *steps*: an access to shared memory, a system call, or a change of its robust list.

pub(crate) mod atomic;
pub(crate) mod futex;
pub(crate) mod growable_mapping;
pub(crate) mod notifier;
pub(crate) mod process;
pub(crate) mod robust;
pub(crate) mod segment;
pub(crate) mod shared_memory;

/// What `/proc` tells of threads: all exist, and all have the memory mapped, so nothing in a word
/// is taken for garbage.
pub(crate) mod threads {
    pub(crate) use multiproc_os::threads::Seen;

    pub(crate) fn seen(_: i32) -> Option<Seen> {
        None
    }

    pub(crate) fn exists(_: i32) -> bool {
        true
    }

    pub(crate) fn may_share(_: i32, _: *const u8) -> bool {
        true
    }
}
