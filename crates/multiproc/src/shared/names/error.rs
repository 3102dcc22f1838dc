//! [`NameError`]: what can go wrong with a name.

use std::io;

use super::{LIMIT, wire};

/// Why shared memory can't be created, opened or unlinked by its name.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name is taken.
    #[error("the name {name:?} is taken by {}", of(*owner))]
    Taken {
        /// The name.
        name: String,
        /// The pid of the owner, if it is visible in this PID namespace.
        owner: Option<i32>,
    },
    /// No process owns the name, or its owner has ended meanwhile.
    #[error("there is no shared memory with the name {name:?}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// A name must have at least one byte.
    #[error("the name \"\" is empty")]
    Empty,
    /// A name can have at most 79 bytes.
    #[error("the name {name:?} has {len} bytes; the limit is {LIMIT}")]
    TooLong {
        /// The name.
        name: String,
        /// How many bytes it has.
        len: usize,
    },
    /// A name can't contain a zero byte.
    #[error("the name {name:?} contains a zero byte")]
    Invalid {
        /// The name.
        name: String,
    },
    /// The owner belongs to another user, or refuses to hand over the memory.
    #[error("cannot get the shared memory {name:?} from {}: {why}", of(*owner))]
    Refused {
        /// The name.
        name: String,
        /// The owner's pid, if it is visible in this PID namespace.
        owner: Option<i32>,
        /// The reason.
        why: NameRefusal,
    },
    /// The owner failed to hand over the memory.
    #[error("the owner of the shared memory {name:?}, {}, can't hand it over: {source}", of(*owner))]
    Owner {
        /// The name.
        name: String,
        /// The owner's pid, if it is visible in this PID namespace.
        owner: Option<i32>,
        /// The system's error in the owner: `EMFILE`, for example.
        source: io::Error,
    },
    /// The owner has not answered in time: it is stopped, or very busy.
    #[error("the owner of the shared memory {name:?}, {}, has not answered in time", of(*owner))]
    Timeout {
        /// The name.
        name: String,
        /// The owner's pid, if it is visible in this PID namespace.
        owner: Option<i32>,
    },
    /// The owner uses another release of multiproc.
    #[error(
        "the owner of the shared memory {name:?}, {}, speaks version {theirs} of the protocol; this program speaks \
         version {ours}", of(*owner), ours = wire::VERSION
    )]
    OtherVersion {
        /// The name.
        name: String,
        /// The owner's pid, if it is visible in this PID namespace.
        owner: Option<i32>,
        /// The version of the protocol that it uses.
        theirs: u8,
    },
    /// The name belongs to a program that doesn't share memory.
    #[error("the name {name:?} belongs to {}, which does not answer as an owner of shared memory does", of(*owner))]
    OtherProtocol {
        /// The name.
        name: String,
        /// The pid of that process, if it is visible in this PID namespace.
        owner: Option<i32>,
    },
    /// The system refused something: `EMFILE`, for example.
    #[error("the shared memory {name:?}: {source}")]
    Io {
        /// The name.
        name: String,
        /// The system's error.
        source: io::Error,
    },
}

impl NameError {
    /// Returns whether the name is taken.
    pub fn is_taken(&self) -> bool {
        matches!(self, NameError::Taken { .. })
    }

    /// Returns whether no process owns the name.
    pub fn is_not_found(&self) -> bool {
        matches!(self, NameError::NotFound { .. })
    }
}

/// Why the owner of a name doesn't serve this process, or isn't trusted by it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum NameRefusal {
    /// This process doesn't trust the owner, which belongs to another user.
    #[error("it belongs to user {0}, which is neither this process's user nor root")]
    OtherUser(u32),
    /// The owner serves only its own user and root, and its user is another one by now.
    #[error("it serves only its own user and root")]
    NotServed,
    /// The owner has refused with this error.
    #[error("{0}")]
    Denied(io::Error),
}

fn of(owner: Option<i32>) -> String {
    match owner {
        Some(pid) => format!("process {pid}"),
        None => "a process that is not visible from here".into(),
    }
}
