//! [`MemoryError`]: what can go wrong with shared memory, apart from its lock.

use std::io;

use multiproc_shm::memory::region::Usage;
use multiproc_shm::units::Size;

use super::memory::SharedMemory;
use super::names::NameError;
use crate::create_error::CreateError;
use crate::sync::{Misuse, Poisoned};

/// Why an operation on shared memory failed. Errors of its lock are a
/// [`LockError`](crate::sync::LockError).
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The memory has been used under its lock, or is an array, which has one; so it can't be used
    /// without.
    #[error("this memory is used under its lock, so it can't be used as atomics")]
    Locked,
    /// The memory has been used as atomics of another size.
    #[error("this memory is used as atomics of {size} bytes, so it can't be used as atomics of {asked}")]
    Atomics {
        /// The size in use, in bytes.
        size: usize,
        /// The size that was asked for, in bytes.
        asked: usize,
    },
    /// The memory can't be viewed as values of this type, since some bytes would be left over.
    #[error("{len} bytes is not a multiple of the element size, {size} bytes")]
    Length {
        /// How many bytes there are.
        len: usize,
        /// How many bytes a value has.
        size: usize,
    },
    /// The array is of another type.
    #[error("this is not an array of {asked}")]
    Type {
        /// The type that was asked for.
        asked: &'static str,
    },
    /// There can be 1 to 4096 parts, and a part has at least one value.
    #[error("{}", no_such_parts(*asked))]
    Parts {
        /// How many were asked for, or would have been needed for the length that was asked for; 0
        /// for parts of length 0.
        asked: usize,
    },
    /// The memory can't grow beyond its limit.
    #[error("the memory can't grow to {}: its limit, set at creation, is {}", Size::of(*asked), Size::of(*most))]
    Limit {
        /// How many bytes were asked for.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
    /// The memory is still mapped elsewhere, where it could be written: in another process, or by
    /// another handle in this one.
    #[error(
        "the memory can't be frozen: it is still mapped for writing by another process or handle. Drop those first"
    )]
    InUse,
    /// The operation on the name failed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The memory has no name, or this handle doesn't know it.
    #[error("the shared memory has no name, or this handle doesn't know it")]
    Nameless,
    /// A thread has died or panicked while holding the memory.
    #[error("the memory can't be frozen: {0}")]
    Poisoned(Poisoned<()>),
    /// The lock that the operation needs can't be held.
    #[error(transparent)]
    Lock(#[from] Misuse),
    /// The memory could not be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The system refused something: `ENOSPC`, `ENOMEM` without memory, `EMFILE` at the limit of
    /// open files.
    #[error("cannot {what}: {source}")]
    Io {
        /// The operation that failed.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl MemoryError {
    /// Returns whether the name is taken.
    ///
    /// ```
    /// use multiproc::SharedMemory;
    ///
    /// /// The memory with this name, created if there is none.
    /// fn whichever(name: &str) -> Result<SharedMemory, multiproc::shared_memory::MemoryError> {
    ///     loop {
    ///         match SharedMemory::open(name) {
    ///             Err(error) if error.is_not_found() => {}
    ///             opened => return opened,
    ///         }
    ///         match SharedMemory::create(name, 4096) {
    ///             Err(error) if error.is_taken() => {}
    ///             created => return created,
    ///         }
    ///     }
    /// }
    ///
    /// # #[multiproc::main]
    /// # fn main() -> multiproc::Result<()> {
    /// # let name = &format!("whichever-{}", std::process::id());
    /// let (first, second) = (whichever(name)?, whichever(name)?);
    /// first.lock()?[0] = 7;
    /// assert_eq!(second.read()?[0], 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_taken(&self) -> bool {
        matches!(self, MemoryError::Name(error) if error.is_taken())
    }

    /// Returns whether there is no memory with the name. See [`is_taken`](MemoryError::is_taken).
    pub fn is_not_found(&self) -> bool {
        matches!(self, MemoryError::Name(error) if error.is_not_found())
    }

    pub(super) fn io(what: &'static str) -> impl Fn(io::Error) -> MemoryError {
        move |source| MemoryError::Io { what, source }
    }

    /// The error for memory that is used as `usage` when atomics of `asked` bytes were asked for.
    pub(super) fn used_as(usage: Usage, asked: usize) -> MemoryError {
        match usage {
            Usage::Locked => MemoryError::Locked,
            Usage::Atomics(size) => MemoryError::Atomics { size, asked },
        }
    }
}

/// Shared memory that could not be frozen, and the reason.
#[derive(thiserror::Error)]
#[error("{error}")]
pub struct FreezeError {
    pub(super) memory: Option<SharedMemory>,
    pub(super) error: MemoryError,
}

impl FreezeError {
    /// Returns the memory and the reason. The memory is `None` if the system has no room to map it
    /// again.
    pub fn into_parts(self) -> (Option<SharedMemory>, MemoryError) {
        (self.memory, self.error)
    }
}

fn no_such_parts(asked: usize) -> String {
    match asked {
        0 => "an array can't be split into 0 parts, or into parts of length 0: there can be 1 to 4096, of at least 1 value"
            .into(),
        asked => format!("the array can't be split into {asked} parts: there can be 1 to 4096"),
    }
}
