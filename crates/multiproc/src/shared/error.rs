//! What can go wrong with shared memory, apart from its lock: [`MemoryError`].

use std::io;

use super::memory::SharedMemory;
use super::names::NameError;
use crate::error::Error;
use crate::shm::region::Usage;
use crate::sync::Misuse;
use crate::units::Size;

/// Why something can't be done with shared memory. What its lock says is a [`LockError`](crate::sync::LockError).
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// It has been used under its lock, or is an array that has one, and so can't be used without.
    #[error("this memory is used under its lock, and so not as atomics")]
    Locked,
    /// It has been used as atomics of another size.
    #[error("this memory is used as atomics of {size} bytes, and so not of {asked}")]
    Atomics {
        /// That size.
        size: usize,
        /// The one that was asked for.
        asked: usize,
    },
    /// It can't be taken for values of this type, since some bytes would be left over.
    #[error("{len} bytes are no whole number of values of {size} bytes")]
    Length {
        /// How many bytes there are.
        len: usize,
        /// How many a value has.
        size: usize,
    },
    /// It is of another type.
    #[error("this is no array of {asked}")]
    Type {
        /// The type that was asked for.
        asked: &'static str,
    },
    /// There can be 1 to 4096 parts, and a part has at least one value.
    #[error("{}", no_such_parts(*asked))]
    Parts {
        /// How many were asked for, or would have been needed for the length that was; 0 for parts
        /// of length 0.
        asked: usize,
    },
    /// It can't be so long.
    #[error("it can't have {}: {} is the most that was agreed on when it was made", Size::of(*asked), Size::of(*most))]
    Limit {
        /// How many bytes were asked for.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
    /// It is mapped elsewhere still, where it could be written: in another process, or by another handle in this.
    #[error("it can't be frozen: it is still mapped elsewhere, where it could be written")]
    InUse,
    /// Its name can't be had, or nobody has it.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It has no name, or it isn't known to this handle.
    #[error("this handle of shared memory knows no name of it")]
    Nameless,
    /// Somebody has died or panicked while holding it.
    #[error("it can't be frozen: {0}")]
    Poisoned(String),
    /// It can't be held as that would need.
    #[error(transparent)]
    Lock(#[from] Misuse),
    /// The system refused something: `ENOSPC`, `ENOMEM` without memory, `EMFILE` at the limit of open files.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl MemoryError {
    /// Whether somebody has the name.
    ///
    /// ```
    /// use multiproc::SharedMemory;
    ///
    /// /// The memory of this name, whoever is the first to want it.
    /// fn whichever(name: &str) -> multiproc::Result<SharedMemory> {
    ///     loop {
    ///         match SharedMemory::open(name) {
    ///             Err(error) if error.is_not_found() => {}
    ///             opened => return Ok(opened?),
    ///         }
    ///         match SharedMemory::create(name, 4096) {
    ///             Err(multiproc::Error::Memory(error)) if error.is_taken() => {}
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

    /// Whether nobody has the name. See [`is_taken`](MemoryError::is_taken).
    pub fn is_not_found(&self) -> bool {
        matches!(self, MemoryError::Name(error) if error.is_not_found())
    }

    pub(super) fn io(what: &'static str) -> impl Fn(io::Error) -> MemoryError {
        move |source| MemoryError::Io { what, source }
    }

    /// That of memory that is used as `usage`, and should be as atomics of `asked` bytes.
    pub(super) fn used_as(usage: Usage, asked: usize) -> MemoryError {
        match usage {
            Usage::Locked => MemoryError::Locked,
            Usage::Atomics(size) => MemoryError::Atomics { size, asked },
        }
    }
}

/// Shared memory that could not be frozen, and why.
#[derive(thiserror::Error)]
#[error("{error}")]
pub struct FreezeError {
    pub(super) memory: Option<SharedMemory>,
    pub(super) error: MemoryError,
}

impl FreezeError {
    /// The memory, and what was wrong. There is none if the system has no room to map it any more.
    pub fn into_parts(self) -> (Option<SharedMemory>, MemoryError) {
        (self.memory, self.error)
    }
}

impl From<FreezeError> for Error {
    fn from(error: FreezeError) -> Error {
        Error::Memory(error.error)
    }
}

fn no_such_parts(asked: usize) -> String {
    match asked {
        0 => "it can't be divided into 0 parts, or into parts of length 0: there can be 1 to 4096, of at least 1 value"
            .into(),
        asked => format!("it can't be divided into {asked} parts: there can be 1 to 4096"),
    }
}
